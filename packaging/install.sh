#!/usr/bin/env bash
# Turns a bare Debian or Ubuntu machine into a working LLM server: what is missing from apt, an environment of our own
# in /opt/llmsvc, then `llmsvc install`. Where systemd does not run, the same in a throwaway machine.
set -euo pipefail
# shellcheck source=packaging/common.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

usage() {
    cat <<'T'
usage: sudo packaging/install.sh [--wheelhouse DIR] [--sandbox] [OPTION OF llmsvc install]...

Installs llmsvc on this machine and ends with an API key and a curl line that works. Run it again at any time: it
changes only what is not as it should be.

  --wheelhouse DIR   take every package and model from DIR, made by packaging/wheelhouse; no network is used
  --sandbox          set it all up in a throwaway machine (packaging/sandbox), its port on this host's loopback;
                     the default where systemd is not PID 1
  -h, --help         this text

These go to `llmsvc install`:

  --model WHAT       first model: a name of the catalogue (smollm2, tinyllama, mistral, ...), a .gguf file,
                     or REPO/FILE.gguf on Hugging Face; default smollm2 (98 MB)
  --listen ADDR:PORT where clients connect; default 127.0.0.1:8001
  --key-file FILE    write the first user's key to FILE (mode 0600) too
T
}

wheelhouse=''
sandbox=''
model=''
key_file=''
options=()

# What cannot work is refused here, before anything is changed
read_options() {
    while [ $# -gt 0 ]; do
        case $1 in
        --wheelhouse | --model | --key-file | --listen)
            [ $# -gt 1 ] || die "$1 needs a value" "packaging/install.sh --help"
            set -- "$1=$2" "${@:3}"
            continue
            ;;
        -h | --help) usage && exit 0 ;;
        --sandbox) sandbox=yes ;;
        --wheelhouse=*) wheelhouse=${1#*=} ;;
        --model=*) model=${1#*=} ;;
        --key-file=*) key_file=${1#*=} ;;
        --listen=* | --yes | --json) options+=("$1") ;;
        *) die "unknown option: $1" "packaging/install.sh --help" ;;
        esac
        shift
    done
    [ "$(id -u)" = 0 ] || die "this needs root" "sudo packaging/install.sh"
    if [[ -n $model && $model != */* && $model != *.gguf && ! -e $root/models/${model%%:*}.toml ]]; then
        die "there is no model $model in the catalogue" "it has: $(cd "$root/models" && echo *.toml | sed 's/\.toml//g')"
    fi
    if [[ $model == *.gguf && ! -f $model && ! $model =~ ^[^/]+/[^/]+/.+ ]]; then
        die "there is no file $model" "--model takes a name of the catalogue, a .gguf file, or OWNER/REPO/FILE.gguf"
    fi
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
        find_python || die "/usr/bin/python3 is older than 3.10: this release of the distribution is too old"
        return
    fi
    find_python || missing+=("Python 3.10 or later at /usr/bin/python3")
    [ ${#missing[@]} -gt 0 ] || "$python" -c 'import ensurepip' 2>/dev/null || missing+=("Python's venv module")
    command -v psql >/dev/null || missing+=("a running PostgreSQL with psql")
    command -v pkaction >/dev/null || missing+=(polkit)
    [ -n "$wheelhouse" ] || command -v c++ >/dev/null || missing+=("a C++ compiler")
    if [ ${#missing[@]} -gt 0 ]; then
        list=$(printf ', %s' "${missing[@]}")
        die "this distribution (${distribution% }) is not known; missing: ${list:2}" \
            "install these by hand and run this again; nothing was changed"
    fi
}

# name==version of every package of the lock file; the wheelhouse has checked the hashes
pinned() { sed -n 's/^\([A-Za-z0-9][^\\]*\).*/\1/p' "$root/packaging/requirements.lock"; }

# make_environment WHEELHOUSE: sets $release. A release is named by what it is made of: an unchanged one is not made again.
make_environment() {
    local from=$1 version content pip
    version=$(sed -n 's/^__version__ = "\(.*\)"/\1/p' "$root/llmsvc/__init__.py")
    content=$({ cat "$from/COMPLETE" && cd "$root" &&
        find llmsvc installer units templates models docs pyproject.toml README.md -type f ! -name '*.pyc' -print0 |
        LC_ALL=C sort -z | xargs -0 sha256sum; } | sha256sum | cut -c1-8)
    release=/opt/llmsvc/releases/$version-$content
    [ ! -e "$release/COMPLETE" ] || return 0
    step "making the environment $release"
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
    quietly "$work/log" pip wheel --no-index --no-build-isolation --no-deps -w "$work/wheel" "$work/source"
    "$python" -m venv --without-pip "$release"
    { pinned && echo llmsvc; } >"$work/names.txt"
    quietly "$work/log" pip --python "$release/bin/python" install --no-index --no-deps --no-compile \
        --find-links "$from" --find-links "$work/wheel" -r "$work/names.txt"
    "$release/bin/python" -m compileall -q -j 0 "$release/lib"
    : >"$release/COMPLETE"
}

# link TARGET LINK: replaces a link in one step, so that it always leads somewhere
link() {
    [ "$(readlink "$2")" != "$1" ] || return 0
    ln -sfn -- "$1" "$2.new"
    mv -fT -- "$2.new" "$2"
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
    install_packages
    local from=$wheelhouse release
    if [ -z "$from" ]; then
        from=$cache/wheelhouse/$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
        "$root/packaging/wheelhouse" --no-models "$from"
    elif [[ $(cat "$from/COMPLETE") != @($(wheelhouse_key)|$(wheelhouse_key smollm2 gemma3)) ]]; then
        die "$from was made for another release of llmsvc, or for another Python than $("$python" -V)" \
            "make a new one there: packaging/wheelhouse DIR"
    fi
    make_environment "$from"
    link "$release" /opt/llmsvc/venv
    link /opt/llmsvc/venv/bin/llmsvc /usr/local/bin/llmsvc
    [ -z "$wheelhouse" ] || options+=(--wheelhouse "$wheelhouse")
    [ -z "$model" ] || options+=(--model "$model")
    [ -z "$key_file" ] || options+=(--key-file "$key_file")
    /opt/llmsvc/venv/bin/llmsvc install "${options[@]}"
    # The release before this one stays, for whoever must go back; older ones go.
    find /opt/llmsvc/releases -mindepth 1 -maxdepth 1 ! -path "$release" -printf '%T@ %p\n' | sort -rn | tail -n +2 |
        cut -d ' ' -f 2- | xargs -r -d '\n' rm -rf --
}

# In one line, read as a whole: a checkout that is updated meanwhile does not change what runs
main "$@"; exit
