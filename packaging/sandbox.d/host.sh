# shellcheck shell=bash
# What the host must allow and have before a machine can be booted on it.

# check_host: dies with one line where mounts, namespaces or control groups are not ours to use
check_host() {
    local way="a privileged container, a virtual machine or a real one is needed"
    unshare --mount --pid --net --ipc --uts --fork --mount-proc mount -t tmpfs none /mnt 2>/dev/null ||
        die "mounts and namespaces are not permitted here, so no machine can be booted" "$way"
    local probe
    [ -d /run/systemd/system ] || {
        cgroup_bases "probe-$$" >"$work/cgroups"
        [ -s "$work/cgroups" ] || die "there are no control groups here, so no machine can be booted" "$way"
        while read -r probe; do
            mkdir "$probe" 2>/dev/null || die "$(dirname -- "$probe") is read-only, so no machine can be booted" "$way"
            rmdir "$probe"
        done <"$work/cgroups"
    }
}

# cgroup_bases NAME: the directory of this machine in each hierarchy that systemd uses. Two machines under one
# directory would share their payload's group and kill each other's processes.
cgroup_bases() {
    local mount group
    for mount in /sys/fs/cgroup/systemd /sys/fs/cgroup/unified /sys/fs/cgroup; do
        grep -qE "^[^ ]+ $mount cgroup2? " /proc/mounts || continue
        if [ -d /run/systemd/system ]; then # the group that our own unit was given
            case $mount in */systemd) group=name=systemd ;; *) group='' ;; esac
            group=$(sed -n "s/^[0-9]*:$group:\/*//p" /proc/self/cgroup)
            echo "$mount${group:+/$group}"
        else
            echo "$mount/llmsvc-sandbox-$1"
        fi
    done
}

# host_packages: what boots machines and makes their images, from apt where it is missing
host_packages() {
    command -v systemd-nspawn >/dev/null && command -v mmdebstrap >/dev/null && [ -e "$keyring" ] && return
    command -v apt-get >/dev/null || die "systemd-nspawn and mmdebstrap are needed here, and there is no apt-get to get them"
    apt_install systemd-container mmdebstrap debian-archive-keyring
}

# check_port PORT: dies if something listens on it
check_port() {
    local who=
    grep -qE "^ *[0-9]+: [0-9A-F]+:$(printf '%04X' "$1") [0-9A-F:]+ 0A " /proc/net/tcp /proc/net/tcp6 2>/dev/null || return 0
    if command -v ss >/dev/null; then
        who=$(ss -Hltnp "sport = :$1" | sed -n 's/.*users:(("\([^"]*\)",pid=\([0-9]*\).*/ by \1 (process \2)/p' | head -n 1)
    fi
    die "port $1 is taken on this host$who; a machine with the host's network needs it" "packaging/sandbox list"
}
