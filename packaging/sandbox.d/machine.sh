# shellcheck shell=bash
# One machine: its directory on disk, the process that keeps it, and the way into it.
#
# $machines/NAME holds: settings, arguments (of systemd-nspawn, one a line), upper + work (the overlay: what the machine
# wrote) or only root (a copy, where overlays are not possible), console (its output), supervisor.pid, nspawn.pid.

machines=/var/lib/llmsvc-sandbox

check_name() {
    [[ ${1:-} =~ ^[a-z0-9][a-z0-9-]{0,40}$ ]] || die "'${1:-}' is no name for a machine" "small letters, digits and dashes"
}

not_running() {
    [ -d "$machines/$1" ] || die "there is no machine $1" "packaging/sandbox up $1"
    die "the machine $1 does not run" "packaging/sandbox reboot $1"
}

# create_machine NAME SUITE KIND NETWORK BIND...: its directory, ready to boot
create_machine() {
    local name=$1 suite=$2 kind=$3 network=$4 place=$machines/$1 tree=$machines/$1/upper base options bind
    base=$(image "$suite" "$kind")
    mkdir -p "$machines" "$cache"
    chmod 0700 "$machines"
    mkdir "$place" 2>/dev/null || die "there is a machine $name already" "packaging/sandbox down $name"
    unfinished=$name
    trap abandon EXIT
    mkdir -p "$tree/etc" "$place/work" "$place/root"
    printf 'suite=%s\nkind=%s\nnetwork=%s\nimage=%s\n' "$suite" "$kind" "$network" "$base" >"$place/settings"

    options=(--boot "--machine=$name" --console=pipe "--bind-ro=$root:/src" "--bind=$cache:/var/cache/llmsvc")
    for bind; do case $bind in /*:/*) options+=("--bind=$bind") ;; esac done
    if [ -n "$network" ]; then share_network "$tree"; else options+=(--private-network) && : >"$tree/etc/environment"; fi
    [ -e "$tree/etc/hosts" ] || printf '127.0.0.1 localhost\n::1 localhost\n' >"$tree/etc/hosts"
    echo "127.0.1.1 $name" >>"$tree/etc/hosts"
    echo "$name" >"$tree/etc/hostname"
    tr -d - </proc/sys/kernel/random/uuid >"$tree/etc/machine-id"
    prepare_tree "$place" "$base" "${options[@]}"
}

# prepare_tree PLACE IMAGE OPTION...: decides between overlay and copy, and writes down the arguments
prepare_tree() {
    local place=$1 base=$2
    shift 2
    # shellcheck disable=SC2016  # for the inner shell
    if ! unshare --mount sh -c 'mount -t overlay o -o "lowerdir=$2,upperdir=$1/upper,workdir=$1/work" "$1/root"' sh "$place" "$base" 2>/dev/null; then
        step "no overlay is possible on this file system: copying the image"
        cp -a -- "$base/." "$place/root/"
        cp -a -- "$place/upper/." "$place/root/"
        rm -rf -- "$place/upper" "$place/work"
    fi
    echo "$base" >"$place/image"
    printf '%s\n' --quiet "--directory=$place/root" --register=no --keep-unit --settings=no --link-journal=no \
        --resolv-conf=off --timezone=off "$@" >"$place/arguments"
}

abandon() {
    [ -z "$unfinished" ] || remove_machine "$unfinished"
    rm -rf -- "$work"
}

# start_machine NAME: returns when it has booted
start_machine() {
    local name=$1 place=$machines/$1
    if [ -d /run/systemd/system ]; then
        systemd-run --quiet --collect --unit="llmsvc-sandbox-$name" --property=Delegate=yes --property=KillMode=mixed \
            --property="StandardOutput=append:$place/console" --property="StandardError=append:$place/console" \
            --setenv=LLMSVC_CACHE="$cache" -- unshare --mount "$root/packaging/sandbox" supervise "$place"
    else
        setsid unshare --mount "$root/packaging/sandbox" supervise "$place" </dev/null >"$place/console" 2>&1 &
    fi
    await_boot "$name" ""
    unfinished=
}

# await_boot NAME OLD: until it runs with another PID 1 than OLD
await_boot() {
    local name=$1 before=$2 pid state failed waited=0
    until pid=$(leader "$name") && [ "$pid" != "$before" ] &&
        state=$(in_machine "$name" systemctl is-system-running 2>/dev/null </dev/null || true) && [[ $state =~ ^(running|degraded)$ ]]; do
        sleep 0.1
        waited=$((waited + 1))
        if [ $waited -gt 900 ] || { [ $waited -gt 20 ] && ! supervisor "$name" >/dev/null; }; then
            tail -n 15 "$machines/$name/console" >&2
            die "the machine $name did not boot"
        fi
    done
    [ "$state" = running ] || {
        failed=$(in_machine "$name" systemctl list-units --failed --plain --no-legend </dev/null | awk '{ print $1 }' | paste -sd' ')
        step "booted, but these units failed: $failed"
    }
}

# supervise PLACE: boots the machine, and boots it again when it reboots; ends when it powers off
supervise() {
    local place=$1 name arguments bases base controller nspawn status round=0 stop='' fd
    for fd in /proc/"$$"/fd/*; do # a lock or a pipe of the caller must not stay open as long as the machine lives
        fd=${fd##*/}
        [ "$fd" -le 2 ] || [ "$fd" = 255 ] || eval "exec $fd>&-"
    done
    rm -rf -- "$work" # it lives long, and may be killed
    name=$(basename -- "$place")
    mapfile -t arguments <"$place/arguments"
    echo $$ >"$place/supervisor.pid"
    [ ! -d "$place/upper" ] || mount -t overlay llmsvc-sandbox \
        -o "lowerdir=$(cat "$place/image"),upperdir=$place/upper,workdir=$place/work" "$place/root"
    # nspawn cleans up below here only on a tmpfs, which /run of a container may not be
    mkdir -p /run/systemd/nspawn
    mount -t tmpfs tmpfs /run/systemd/nspawn
    mapfile -t bases < <(cgroup_bases "$name")
    for base in "${bases[@]}"; do
        mkdir -p "$base/keeper" # in a group that has controllers and children there may be no process
        echo $$ >"$base/keeper/cgroup.procs"
        [ ! -e "$base/cgroup.controllers" ] || tr ' ' '\n' <"$base/cgroup.controllers" | while read -r controller; do
            echo "+$controller" >"$base/cgroup.subtree_control" 2>/dev/null || true
        done
    done
    trap 'stop=yes; kill -TERM "$nspawn" 2>/dev/null' TERM INT HUP
    while :; do
        round=$((round + 1))
        for base in "${bases[@]}"; do mkdir -p "$base/boot$round"; done
        (
            trap - EXIT
            for base in "${bases[@]}"; do echo "$BASHPID" >"$base/boot$round/cgroup.procs"; done
            exec systemd-nspawn "${arguments[@]}"
        ) <&0 &
        nspawn=$!
        echo $nspawn >"$place/nspawn.pid"
        status=0
        while kill -0 $nspawn 2>/dev/null; do
            wait $nspawn && status=0 || status=$?
        done
        for base in "${bases[@]}"; do remove_cgroup "$base/boot$round"; done
        # 133: systemd-nspawn asks to be started again
        if [ $status != 133 ] || [ -n "$stop" ]; then break; fi
    done
    exit $status
}

remove_cgroup() {
    [ ! -d "$1" ] || find "$1" -depth -type d -exec rmdir {} + 2>/dev/null || true
}

# remove_cgroups NAME: all of a machine that has ended; a systemd of the host does it itself
remove_cgroups() {
    local base
    [ -d /run/systemd/system ] || while read -r base; do remove_cgroup "$base"; done < <(cgroup_bases "$1")
}

# supervisor NAME, leader NAME: the process that keeps the machine; PID 1 of the machine as the host counts. Status 1: none.
supervisor() { alive "$machines/$1/supervisor.pid" "supervise $machines/$1"; }
leader() {
    local nspawn
    nspawn=$(alive "$machines/$1/nspawn.pid" "--directory=$machines/$1/root") || return 1
    { cat /proc/[0-9]*/status 2>/dev/null || true; } | awk -v parent="$nspawn" '
        /^Pid:/ { pid = $2 } /^PPid:/ { of = $2 }
        /^NSpid:/ && of == parent && NF > 2 && $NF == 1 { print pid; found = 1 }
        END { exit !found }'
}

# alive FILE TEXT: the process in a pid file, if its command line still has TEXT
alive() {
    local pid
    pid=$(cat "$1" 2>/dev/null) && tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" | grep -qF -- "$2 " && echo "$pid"
}

# in_machine NAME COMMAND...: runs it in the machine as root; the status is the command's. Signals are passed on instead
# of replacing this process: a killed nsenter would leave its child to the host's init, and where that never reaps, the
# dead child keeps the machine from ending.
in_machine() {
    local pid child name environment status signalled interrupted='' command=("${@:2}")
    pid=$(leader "$1") || not_running "$1"
    mapfile -t environment <"/proc/$pid/root/etc/environment"
    if [ -t 0 ] && [ -t 1 ] && [ -t 2 ]; then # a terminal of the machine's own, or its shells have no job control
        command=(script --quiet --return --flush --command "$(printf '%q ' "${command[@]}")" /dev/null)
    fi
    # a shell starts its background commands with INT and QUIT ignored
    # exported rather than arguments of env: everybody can read those, and a proxy's address may hold a password
    (
        while read -r name; do [ "$name" = TERM ] || export -n "${name?}"; done < <(compgen -e)
        export HOME=/root USER=root LOGNAME=root SHELL=/bin/bash LANG=C.UTF-8 TERM="${TERM:-dumb}" "${environment[@]}" \
            PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
        exec nsenter --target "$pid" --all env --default-signal=INT,QUIT -C /root "${command[@]}"
    ) <&0 &
    child=$!
    trap 'signalled=yes; pass_on TERM $child' TERM
    trap 'signalled=yes; pass_on HUP $child' HUP
    trap 'signalled=yes interrupted=yes; [ -t 0 ] || pass_on INT $child' INT # a terminal has sent it to the command too
    while :; do
        signalled=
        { wait $child; } 2>/dev/null && status=0 || status=$?
        [ -n "$signalled" ] || break
    done
    # nsenter, which ignores INT, cannot die of it as the command did
    if [ -n "$interrupted" ] && [ $status = 1 ]; then status=130; fi
    trap - TERM HUP INT
    return $status
}

# pass_on SIGNAL NSENTER: to the command itself
pass_on() {
    local pid
    pid=$(awk -v parent="$2" '/^Pid:/ { pid = $2 } /^PPid:/ && $2 == parent { print pid }' /proc/[0-9]*/status 2>/dev/null) || true
    kill -"$1" "${pid:-$2}" 2>/dev/null || true
}

# remove_machine NAME: ends it, in an orderly way if it can, and leaves no process, mount, control group or file
remove_machine() {
    local name=$1 place=$machines/$1 keeper pid waited=0
    if keeper=$(supervisor "$name"); then
        kill -TERM "$keeper"
        while [ -d "/proc/$keeper" ] && [ $waited -lt 200 ]; do
            sleep 0.1
            waited=$((waited + 1))
        done
    fi
    # PID 1 first: it outlives a killed systemd-nspawn
    for pid in $(leader "$name") $(alive "$place/nspawn.pid" "--directory=$place/root") $(supervisor "$name"); do
        kill -KILL "$pid" 2>/dev/null || true
        while [ -d "/proc/$pid" ]; do sleep 0.05; done
    done
    remove_cgroups "$name"
    rm -rf --one-file-system -- "$place"
}
