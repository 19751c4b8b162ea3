# shellcheck shell=bash
# What install.sh and wheelhouse share. Sourced, never run.

# The services, which are no root, must be able to read what we make.
umask 022
# `su` leaves out what dpkg needs
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
unset CDPATH

# pip fails in a directory that is gone
[ -d "$PWD" ] || cd /
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
    local message hint
    if [ -n "${json:-}" ]; then
        message=${1//\\/\\\\} hint=${2-}
        hint=${hint//\\/\\\\}
        [ -z "$hint" ] && hint=null || hint=\"${hint//\"/\\\"}\"
        printf '{"error": {"type": "Error", "message": "%s", "hint": %s, "exit_code": 1}}\n' "${message//\"/\\\"}" "$hint"
        exit 1
    fi
    printf 'llmsvc: %s\n' "$1" >&2
    [ $# -lt 2 ] || printf 'hint: %s\n' "$2" >&2
    exit 1
}

# apt_get LOG ARGUMENT...: waits where another apt is at work, as on a machine that was just made; update does not itself
apt_get() {
    local log=$1 until=$((SECONDS + 300)) told=''
    shift
    while ! LC_ALL=C apt-get "${apt_options[@]}" -o DPkg::Lock::Timeout=300 "$@" </dev/null >"$log" 2>&1 9>&-; do
        grep -qE 'Could not get lock|Unable to lock' "$log" && [ $SECONDS -lt $until ] || return 1
        [ -n "$told" ] || step "waiting for another apt to end"
        told=yes
        sleep 5
    done
}

# where apt_install takes packages from, if not from where this machine does
apt_options=()

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
        apt_get "$work/apt.log" update -q || {
            tail -n 5 "$work/apt.log" >&2
            die "apt-get update failed" "is the network up? --wheelhouse DIR needs none: packaging/wheelhouse --suite makes one with all packages"
        }
        apt_updated=yes
    fi
    apt_get "$work/apt.log" install -q -y --no-install-recommends "${missing[@]}" || {
        tail -n 15 "$work/apt.log" >&2
        if [ ${#apt_options[@]} -gt 0 ]; then
            die "apt-get could not install ${missing[*]} from the wheelhouse" \
                "if this machine has newer packages than the wheelhouse, make that again: packaging/wheelhouse --suite"
        fi
        die "apt-get could not install ${missing[*]}" "is the network up? packaging/wheelhouse --suite makes a wheelhouse that holds them"
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

# find_python: the distribution's own, for the services must survive whatever a user has in PATH
find_python() {
    python=/usr/bin/python3
    [ -x "$python" ] && "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null
}
