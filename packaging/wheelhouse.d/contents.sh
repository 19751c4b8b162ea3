# shellcheck shell=bash
# What is in a wheelhouse, and whether it is whole and for this machine. Sourced, never run.
#
#   WHEELHOUSE   what it was made for, one NAME=VALUE a line
#   SHA256SUMS   every other file but COMPLETE
#   COMPLETE     written last
#   *.whl        packages, the engine, and models in wheels
#   debs/        packages of the distribution with what they need, and their index; made with --suite

# contents FOR ACCEL SUITE PYTHON MODEL...: the text of WHEELHOUSE
contents() {
    local processor=$1 accel=$2 suite=$3 version=$4 model
    shift 4
    cat <<T
release=$(locked)
machine=$(uname -m)
python=$version
accel=$accel
engine=$(engine_options "$processor" | sha256sum | cut -c1-6)
instructions=$(instructions "$processor" "$accel")
suite=$suite
models=$(for model; do echo "$model-$(sha256sum <"$root/models/$model.toml" | cut -c1-12)"; done | paste -sd ' ')
T
}

# locked: names the versions of all packages that this checkout wants
locked() { cat "$root"/packaging/*.lock | sha256sum | cut -c1-16; }

# python_version: 3.11; needs $python
python_version() { "$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])'; }

# told DIR NAME: a value of its WHEELHOUSE
told() { sed -n "s/^$2=//p" "$1/WHEELHOUSE" 2>/dev/null; }

# is_complete DIR TEXT: whether it is there, and is what TEXT says
is_complete() { [ -e "$1/COMPLETE" ] && [ "$(cat "$1/WHEELHOUSE" 2>/dev/null)" = "$2" ]; }

# complete DIR TEXT: the last step of making one
complete() {
    printf '%s\n' "$2" >"$1/WHEELHOUSE"
    (cd -- "$1" && members | xargs -0 sha256sum >SHA256SUMS)
    list_id "$1" >"$1/COMPLETE"
    rm -f -- "$1/UNFINISHED"
}

# list_id DIR: names its contents; the same for the same ones
list_id() { sha256sum <"$1/SHA256SUMS" | cut -c1-16; }

# members: every file of the current directory that SHA256SUMS lists, each with a NUL
members() {
    find . -type f ! -path ./SHA256SUMS ! -path ./COMPLETE ! -path ./UNFINISHED -printf '%P\0' | LC_ALL=C sort -z
}

# check_wheelhouse DIR: ends with one line if it is not whole or not for this machine
check_wheelhouse() {
    local place=$1 wrong name lacks='' again="copy it once more, or make a new one: packaging/wheelhouse"
    if [ ! -e "$place/COMPLETE" ] || [ ! -e "$place/SHA256SUMS" ] || [ ! -e "$place/WHEELHOUSE" ]; then
        die "$place is not a complete wheelhouse" "make one: packaging/wheelhouse DIR"
    fi
    step "checking the wheelhouse $place"
    [ "$(list_id "$place")" = "$(cat "$place/COMPLETE")" ] ||
        die "$place is damaged: SHA256SUMS is not the list that was made with it" "$again"
    (cd -- "$place" && members | tr '\0' '\n') >"$work/there"
    sed 's/^[0-9a-f]* [ *]//' "$place/SHA256SUMS" | LC_ALL=C sort >"$work/listed"
    wrong=$(LC_ALL=C comm -13 "$work/there" "$work/listed" | head -n 1)
    [ -z "$wrong" ] || die "$place is not whole: $wrong is missing" "$again"
    wrong=$(LC_ALL=C comm -23 "$work/there" "$work/listed" | head -n 1)
    [ -z "$wrong" ] || die "$place is not as it was made: $wrong was put there later" "remove that file; or $again"
    (cd -- "$place" && sha256sum --check --strict --quiet SHA256SUMS) >"$work/wrong" 2>/dev/null || true
    [ ! -s "$work/wrong" ] || die "$place is damaged: $(sed -n '1s/: [A-Z].*//p' "$work/wrong") is not what was put there" "$again"

    [ "$(told "$place" machine)" = "$(uname -m)" ] || die "$place is for $(told "$place" machine), and this machine is $(uname -m)" \
        "make one on a machine of the same kind: packaging/wheelhouse DIR"
    name=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
    case $(told "$place" suite) in
    '' | "$name") ;;
    *)
        die "$place was made for $(told "$place" suite), and this machine is ${name:-of no release with a name}" \
            "make one for it: packaging/wheelhouse --suite ${name:-SUITE} DIR"
        ;;
    esac
    [ "$(told "$place" release)" = "$(locked)" ] ||
        die "$place was made for another release of llmsvc" "make a new one with this checkout: packaging/wheelhouse DIR"
    if find_python; then
        name=$(python_version)
        [ "$(told "$place" python)" = "$name" ] || die "$place is for Python $(told "$place" python), and /usr/bin/python3 is $name" \
            "make one on a machine like this, or with --suite: packaging/wheelhouse --help"
    fi
    for name in $(told "$place" instructions); do
        grep -qE "^(flags|Features)[[:space:]]*:(.* )?$name( |\$)" /proc/cpuinfo || lacks=${lacks:+$lacks, }$name
    done
    [ -z "$lacks" ] || die "the engine in $place was compiled for another processor; this one lacks $lacks" \
        "one that is made without --this-machine and --engine native runs on any processor"
}

# use_debs DIR: from now on apt_install takes packages from there and from nowhere else; the machine's own settings of
# apt are neither used nor changed
use_debs() {
    [ -d "$1/debs" ] || return 0
    mkdir "$work/apt" "$work/apt/lists"
    ln -s "$1/debs" "$work/apt/debs" # its name may have what sources.list does not take
    echo "deb [trusted=yes] file:$work/apt/debs ./" >"$work/apt/sources.list" # SHA256SUMS was checked
    # shellcheck disable=SC2034  # for apt_install
    apt_options=(
        -o "Dir::Etc::SourceList=$work/apt/sources.list" -o Dir::Etc::SourceParts=/dev/null
        -o "Dir::State::Lists=$work/apt/lists" -o "Dir::Cache=$work/apt" -o Acquire::Languages=none -o APT::Sandbox::User=root
    )
}
