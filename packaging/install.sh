#!/usr/bin/env bash
# Turns a bare Debian or Ubuntu machine into a working LLM server: what is missing from apt, an environment of our own
# in /opt/llmsvc, then `llmsvc install`. Where systemd does not run, the same in a throwaway machine.
set -euo pipefail
# shellcheck source=packaging/common.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
# shellcheck source=packaging/accel.sh
. "$root/packaging/accel.sh"
# shellcheck source=packaging/wheelhouse.d/engine.sh
. "$root/packaging/wheelhouse.d/engine.sh"
# shellcheck source=packaging/wheelhouse.d/contents.sh
. "$root/packaging/wheelhouse.d/contents.sh"

usage() {
    cat <<'T'
usage: sudo packaging/install.sh [--wheelhouse DIR] [--sandbox] [OPTION OF llmsvc install]...

Installs llmsvc on this machine and ends with an API key and a curl line that works. Run it again at any time: it
changes only what is not as it should be.

  --wheelhouse DIR   take every package and model from DIR, made by packaging/wheelhouse; no network is used (made with
                     --suite, it also holds what is missing from apt)
  --sandbox          set it all up in a throwaway machine (packaging/sandbox), its port on this host's loopback;
                     the default where systemd is not PID 1
  --accel WHAT       the engine for a GPU: cuda, rocm, vulkan, cpu, or auto (the default): for the GPU that is found, after
                     asking where it must be compiled
  --dry-run          change nothing; print every change in the order of execution; exit status 0: nothing to do, 2: some
  -h, --help         this text

These go to `llmsvc install`:

  --model WHAT       first model: a name of the catalogue (smollm2, tinyllama, mistral, ...), a .gguf file,
                     or REPO/FILE.gguf on Hugging Face; default smollm2 (98 MB)
  --listen PLACE     where clients connect; default 127.0.0.1:8001; may be repeated
  --no-proxy         single-key mode: no proxy and no database, one key for all; --proxy: back from it
  --database URL     PostgreSQL elsewhere, or on another port: see llmsvc install --help
  --database-password-file FILE
  --engine ENGINE    what runs the models: llama-cpp-python (the default; compiled for this processor, about 6 minutes),
                     or native: llama.cpp's own server, several requests at once, nothing to compile
  --key-file FILE    write the first user's key to FILE (mode 0600) too
T
}

wheelhouse=''
sandbox=''
model=''
key_file=''
dry_run=''
accel=auto
yes=''
made=''
engine=''
options=()

# What cannot work is refused here, before anything is changed
read_options() {
    while [ $# -gt 0 ]; do
        case $1 in
        --wheelhouse | --accel | --model | --key-file | --listen | --engine | --database | --database-password-file)
            [ $# -gt 1 ] || die "$1 needs a value" "packaging/install.sh --help"
            set -- "$1=$2" "${@:3}"
            continue
            ;;
        -h | --help) usage && exit 0 ;;
        --sandbox) sandbox=yes ;;
        --wheelhouse=*) wheelhouse=${1#*=} ;;
        --model=*) model=${1#*=} ;;
        --key-file=*) key_file=${1#*=} ;;
        --dry-run) dry_run=yes ;;
        --accel=*) accel=${1#*=} ;;
        --json) export json=yes && options+=(--json) ;;
        --listen=* | --database=* | --database-password-file=* | --no-proxy | --proxy) options+=("$1") ;;
        --yes) yes=yes options+=(--yes) ;;
        --engine=*) engine=${1#*=} ;;
        *) die "unknown option: $1" "packaging/install.sh --help" ;;
        esac
        shift
    done
    [ "$(id -u)" = 0 ] || die "this needs root" "sudo packaging/install.sh"
    case $accel in
    auto | cpu | cuda | rocm | vulkan) ;;
    *) die "unknown --accel $accel" "auto, cpu, cuda, rocm or vulkan" ;;
    esac
    if [[ -n $model && $model != */* && $model != *.gguf && ! -e $root/models/${model%%:*}.toml ]]; then
        die "there is no model $model in the catalogue" "it has: $(cd "$root/models" && echo *.toml | sed 's/\.toml//g')"
    fi
    if [[ $model == *.gguf && ! -f $model && ! $model =~ ^[^/]+/[^/]+/.+ ]]; then
        die "there is no file $model" "--model takes a name of the catalogue, a .gguf file, or OWNER/REPO/FILE.gguf"
    fi
    [[ $engine == @(|llama-cpp-python|native) ]] || die "--engine is llama-cpp-python or native, not '$engine'"
    [ -z "$engine" ] || options+=("--engine=$engine")
    if [ -n "$wheelhouse" ]; then
        [ -e "$wheelhouse/COMPLETE" ] || die "$wheelhouse is not a complete wheelhouse" "make one: packaging/wheelhouse DIR"
        wheelhouse=$(cd -- "$wheelhouse" && pwd)
    fi
}

# The same in a throwaway machine that shares this host's network
install_in_sandbox() {
    local machine=llmsvc binds=() inside=''
    in_machine() { "$root/packaging/sandbox" exec $machine -- "$@"; }
    if ! in_machine true 2>/dev/null; then
        [ -z "$wheelhouse" ] || binds=(--bind "$wheelhouse:/run/wheelhouse")
        if [ -e "/var/lib/llmsvc-sandbox/$machine" ]; then
            "$root/packaging/sandbox" reboot $machine
        else
            "$root/packaging/sandbox" up $machine --bare --network "${binds[@]}"
        fi
    fi
    # files are named as this host has them: bring them in, and the key out
    if [ -n "$wheelhouse" ]; then
        in_machine test -e /run/wheelhouse/COMPLETE ||
            die "the machine $machine was made without this wheelhouse" "packaging/sandbox down $machine, then again"
        options+=(--wheelhouse /run/wheelhouse)
    fi
    if [ -f "$model" ]; then
        inside=/root/$(basename -- "$model")
        in_machine tee "$inside" <"$model" >/dev/null
        options+=(--model "$inside")
    elif [ -n "$model" ]; then
        options+=(--model "$model")
    fi
    [ -z "$key_file" ] || options+=(--key-file /root/llmsvc.key)
    # the machine has no device nodes of a GPU
    options+=(--accel "${accel/auto/cpu}")
    in_machine /src/packaging/install.sh "${options[@]}" </dev/null
    [ -z "$inside" ] || in_machine rm -f -- "$inside"
    if [ -n "$key_file" ] && in_machine test -s /root/llmsvc.key; then
        (umask 077 && in_machine cat /root/llmsvc.key </dev/null >"$work/key" && mv -fT -- "$work/key" "$key_file")
    fi
    cat <<T

It runs in a throwaway machine that shares this host's network:
  packaging/sandbox exec $machine -- llmsvc status      any command in it
  packaging/sandbox down $machine                       removes it and everything in it
T
}

# What the distribution has; sets $python
install_packages() {
    local packages distribution missing=() list
    distribution=$(sed -n 's/^ID\(_LIKE\)\?=//p' /etc/os-release | tr -d "\"'" | tr '\n' ' ')
    if [[ " $distribution" =~ \ (debian|ubuntu)\  ]] && command -v apt-get >/dev/null; then
        mapfile -t packages < <(sed 's/#.*//; s/[[:space:]]//g; /^$/d' "$root/packaging/apt-packages")
        if grep -qE '^VERSION_CODENAME=(bullseye|focal|jammy)$' /etc/os-release; then
            packages=("${packages[@]/#polkitd/policykit-1}") # its name there
        fi
        [ ! -x /usr/bin/python3 ] || find_python || die "/usr/bin/python3 is older than 3.10: this release is too old"
        apt_install "${packages[@]}"
        find_python || [ -z "$dry_run" ] || not_all_known
        find_python || die "/usr/bin/python3 is older than 3.10: this release of the distribution is too old"
        return
    fi
    find_python || missing+=("Python 3.10 or later at /usr/bin/python3")
    [ ${#missing[@]} -gt 0 ] || "$python" -c 'import ensurepip' 2>/dev/null || missing+=("Python's venv module")
    command -v psql >/dev/null || missing+=("a running PostgreSQL with psql")
    command -v pkaction >/dev/null || missing+=(polkit)
    [ -n "$wheelhouse" ] || [ "$engine" = native ] || command -v c++ >/dev/null ||
        missing+=("a C++ compiler, or --engine native")
    if [ ${#missing[@]} -gt 0 ]; then
        list=$(printf ', %s' "${missing[@]}")
        die "this distribution (${distribution% }) is not known; missing: ${list:2}" \
            "install these by hand and run this again; nothing was changed"
    fi
}

# Two at once would remove each other's environment
alone() {
    [ -d /run/llmsvc-install ] || mkdir -m 0700 /run/llmsvc-install # not where others could lock it
    exec 9>/run/llmsvc-install/packaging
    flock -n 9 || { step "waiting for another packaging/install.sh to end" && flock 9; }
}

# What is asked for in vain is told before minutes go by; by the system's Python, as nothing else may be there
check_early() {
    local asked=("${options[@]}")
    [ -z "$model" ] || asked+=(--model "$model")
    [ -z "$key_file" ] || asked+=(--key-file "$key_file")
    PYTHONPATH=$root PYTHONDONTWRITEBYTECODE=1 "$python" -S -c \
        'import sys; from llmsvc.cli.main import main; sys.exit(main(sys.argv[1:]))' install --early "${asked[@]}" || exit $?
}

# name==version of every package of the lock file; the wheelhouse has checked the hashes
pinned() {
    sed -n 's/^\([A-Za-z0-9][^\\]*\).*/\1/p' "$root/packaging/requirements.lock" |
        if [ "$engine" = native ]; then grep -v '^llama-cpp-python=='; else cat; fi
}

# name_release WHEELHOUSE: sets $release. It is named by what it is made of: an unchanged one is not made again.
name_release() {
    local from=$1 version content
    version=$(sed -n 's/^__version__ = "\(.*\)"/\1/p' "$root/llmsvc/__init__.py")
    content=$({ grep -E '^(release|python|accel|engine|instructions)=' "$from/WHEELHOUSE" && echo "$engine" && cd "$root" &&
        find llmsvc installer units templates models docs packaging/grafana pyproject.toml README.md -type f ! -name '*.pyc' -print0 |
        LC_ALL=C sort -z | xargs -0 sha256sum; } | sha256sum | cut -c1-8)
    release=/opt/llmsvc/releases/$version-$content
}

# make_environment WHEELHOUSE PLACE
make_environment() {
    local from=$1 release=$2 pip
    rm -rf -- "$release"
    # pip runs from its own wheel here: venv would install Debian's first, which takes longer than all the rest
    "$python" -m venv --without-pip "$work/build"
    pip=$(echo "$from"/pip-*.whl)
    quietly "$work/log" "$python" "$pip/pip" --python "$work/build/bin/python" install --no-index \
        --no-compile --find-links "$from" pip hatchling
    PATH=$work/build/bin:$PATH
    # built from a copy: the checkout may be read-only, and stays as it is
    mkdir "$work/source"
    cp -R -- "$root"/{llmsvc,installer,units,templates,models,docs,pyproject.toml,README.md,LICENSE} "$work/source/"
    mkdir "$work/source/packaging"
    cp -R -- "$root/packaging/grafana" "$work/source/packaging/"
    quietly "$work/log" pip wheel --no-index --no-build-isolation --no-deps -w "$work/wheel" "$work/source"
    # by its version's name: an upgrade of the distribution gives the short one to another, and this one stays
    "$(readlink -f -- "$python")" -m venv --without-pip "$release"
    { pinned && echo llmsvc; } >"$work/names.txt"
    quietly "$work/log" pip --python "$release/bin/python" install --no-index --no-deps --no-compile \
        --find-links "$from" --find-links "$work/wheel" -r "$work/names.txt"
    "$release/bin/python" -m compileall -q -j 0 "$release/lib"
    : >"$release/COMPLETE"
}

# remove_unused: the environment that was made in vain
# shellcheck disable=SC2317  # called by a trap
remove_unused() {
    if [ -n "$made" ] && [ "$(readlink /opt/llmsvc/venv)" != "$made" ]; then
        rm -rf -- "$made"
        rmdir --ignore-fail-on-non-empty /opt/llmsvc/releases /opt/llmsvc || :
    fi
    rm -rf -- "$work"
}

# show_plan WHEELHOUSE: what would be done, from an environment that is thrown away if there is none yet
show_plan() {
    local place=$release status=0
    if [ ! -e "$release/COMPLETE" ]; then
        place=$work/release
        make_environment "$1" "$place"
        echo "$release" >"$place/PLANNED"
    fi
    "$place/bin/llmsvc" install --dry-run --source "$root" "${options[@]}" || status=$?
    exit $status
}

# not_all_known: before the packages are there, nobody can tell what else is to be done
not_all_known() {
    step "then: make the wheelhouse $cache/wheelhouse (downloads; compiles llama-cpp-python) and the environment in /opt/llmsvc"
    step "nothing was changed; once these are there, --dry-run tells every file, user, SQL and unit"
    exit 2
}

main() {
    read_options "$@"
    if [ -z "$sandbox" ] && [ ! -d /run/systemd/system ]; then
        step "systemd is not PID 1 here: setting llmsvc up in a throwaway machine instead (packaging/sandbox)"
        sandbox=yes
    fi
    if [ -n "$sandbox" ]; then
        install_in_sandbox
        return
    fi
    export TMPDIR=$work # for what pip unpacks and builds
    # what this machine has already stays as it is
    if [ -z "$engine" ] && grep -qs '^LLAMA_ENGINE="\?native' /etc/llmsvc/config.env; then engine=native; fi
    engine=${engine:-llama-cpp-python}
    if [ -n "$wheelhouse" ]; then
        check_wheelhouse "$wheelhouse"
        use_debs "$wheelhouse"
    fi
    local from=$wheelhouse release kind early=checked
    [ -n "$dry_run" ] || alone
    # a bare machine has no Python yet
    if find_python; then check_early; else early=''; fi
    choose_accel
    install_packages
    [ -n "$early" ] || check_early
    if [ -z "$from" ]; then
        kind=$accel
        [ "$kind" != cpu ] || kind=this-machine
        from=$cache/wheelhouse/python$(python_version)-$kind
        [ -z "$dry_run" ] || is_complete "$from" "$(contents this "$accel" '' "$(python_version)")" || not_all_known
        kind=--accel=$accel
        [ "$engine" != native ] || kind=--engine=native
        "$root/packaging/wheelhouse" --no-models --this-machine "$kind" ${yes:+--yes} "$from"
    elif [ "$(told "$from" python)" != "$(python_version)" ]; then
        # where there was no Python when it was checked
        die "$from is for Python $(told "$from" python), and $python is $(python_version)" "make one there, or with --suite"
    fi
    name_release "$from"
    [ -z "$wheelhouse" ] || options+=(--wheelhouse "$wheelhouse")
    [ -z "$model" ] || options+=(--model "$model")
    [ -z "$key_file" ] || options+=(--key-file "$key_file")
    if [ -n "$dry_run" ]; then
        show_plan "$from"
    fi
    # after an upgrade of the distribution the Python of an old environment may be gone; another one than the
    # distribution's may work for root, and be hidden from the services
    if [ ! -e "$release/COMPLETE" ] || ! "$release/bin/llmsvc" --version >/dev/null 2>&1 ||
        [ "$(readlink -f -- "$release/bin/python")" != "$(readlink -f -- "$python")" ]; then
        trap remove_unused EXIT
        step "making the environment $release"
        made=$release
        make_environment "$from" "$release"
    fi
    # not by /opt/llmsvc/venv: what runs now is to go on until all else is done, and to be there if that fails
    "$release/bin/llmsvc" install --source "$root" "${options[@]}"
    # The release before this one stays, for whoever must go back; older ones go.
    find /opt/llmsvc/releases -mindepth 1 -maxdepth 1 ! -path "$release" -printf '%T@ %p\n' | sort -rn | tail -n +2 |
        cut -d ' ' -f 2- | xargs -r -d '\n' rm -rf --
}

# In one line, read as a whole: a checkout that is updated meanwhile does not change what runs
main "$@"; exit
