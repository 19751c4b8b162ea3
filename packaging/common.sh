# shellcheck shell=bash
# What install.sh and wheelhouse share. Sourced, never run.

# The services, which are no root, must be able to read what we make.
umask 022
# `su` leaves out what dpkg needs
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
unset CDPATH

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck disable=SC2034  # used by those who source this
cache=${LLMSVC_CACHE:-/var/cache/llmsvc}
started=$SECONDS
# on disk: /tmp may be a small tmpfs
work=$(mktemp -d "${TMPDIR:-/var/tmp}/llmsvc.XXXXXX")
trap 'rm -rf -- "$work"' EXIT

# step TEXT: one line of progress, with the seconds since the start
step() { printf '[%4ds] %s\n' $((SECONDS - started)) "$*" >&2; }

# die MESSAGE [HINT]
die() {
    printf 'llmsvc: %s\n' "$1" >&2
    [ $# -lt 2 ] || printf 'hint: %s\n' "$2" >&2
    exit 1
}

# apt_install PACKAGE...: installs those that are missing
apt_install() {
    local missing=() package
    for package; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    if [ -n "${dry_run:-}" ]; then
        step "to be installed from apt: ${missing[*]}"
        return
    fi
    step "installing from apt: ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    # An old list names files that the mirror no longer has; one update per run is enough.
    if [ -z "${apt_updated:-}" ]; then
        apt-get update -q >"$work/apt.log" 2>&1 || {
            tail -n 5 "$work/apt.log" >&2
            die "apt-get update failed" "is the network up? --wheelhouse DIR needs none, with these packages installed: $*"
        }
        apt_updated=yes
    fi
    apt-get -o DPkg::Lock::Timeout=300 install -q -y --no-install-recommends "${missing[@]}" </dev/null >"$work/apt.log" 2>&1 || {
        tail -n 15 "$work/apt.log" >&2
        die "apt-get could not install ${missing[*]}" "without a network these must be installed before, --wheelhouse does not hold them"
    }
}

# quietly LOG COMMAND...: runs a command whose output only matters when it fails
quietly() {
    local log=$1
    shift
    "$@" >"$log" 2>&1 </dev/null || {
        tail -n 25 "$log" >&2
        die "$(basename -- "$1") failed"
    }
}

# wheelhouse_key ACCEL [MODEL...]: names what a wheelhouse is made of; needs $python
wheelhouse_key() {
    local kind=${1#cpu}
    shift
    { "$python" -V && printf '%s' "$kind" && cat "$root"/packaging/*.lock && for model; do cat "$root/models/$model.toml"; done; } | sha256sum | cut -c1-16
}

# find_python: the distribution's own, for the services must survive whatever a user has in PATH
find_python() {
    python=/usr/bin/python3
    [ -x "$python" ] && "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null
}
