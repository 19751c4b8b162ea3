# shellcheck shell=bash
# One command in a throwaway tree of a suite, with the host's network: what builds packages and wheels there.

# in_tree NAME SUITE KIND OPTION... -- COMMAND...: what the command writes outside of the directories that these options
# of systemd-nspawn bind is thrown away. Its output goes to stderr. Status 1: it failed.
in_tree() {
    local name=$1 suite=$2 kind=$3 place=$machines/.$1 options scope=() failed=''
    shift 3
    rm -rf --one-file-system -- "$place"
    mkdir -p "$place/upper/etc" "$place/work" "$place/root"
    # shellcheck disable=SC2064  # the place of now
    trap "rm -rf --one-file-system -- '$place' '$work'" EXIT
    options=("--machine=$name" --as-pid2 --console=pipe "--bind-ro=$root:/src")
    while [ "$1" != -- ]; do options+=("$1") && shift; done
    shift
    share_network "$place/upper"
    # read in there rather than by --setenv=: everybody can read arguments, and a proxy's address may hold a password
    # shellcheck disable=SC2016  # for the shell in there
    options+=(/bin/bash -c 'while IFS= read -r line; do export "$line"; done </etc/environment; exec "$@"' bash "$@")
    prepare_tree "$place" "$(image "$suite" "$kind")" "${options[@]}"
    [ ! -d /run/systemd/system ] || scope=(systemd-run --quiet --scope --property=Delegate=yes)
    "${scope[@]}" unshare --mount "$root/packaging/sandbox" supervise "$place" </dev/null >&2 || failed=yes
    remove_cgroups ".$name"
    rm -rf --one-file-system -- "$place"
    trap 'rm -rf -- "$work"' EXIT
    [ -z "$failed" ]
}

# lock_archives SUITE: $cache/apt/SUITE, which keeps what apt has fetched, is ours until we end; apt itself fails where
# another process uses it
lock_archives() {
    local lock
    mkdir -p "$cache/apt/$1/partial"
    exec {lock}>"$cache/apt/.$1.lock"
    flock -n "$lock" || { step "waiting for another process that takes packages of $1 from apt" && flock "$lock"; }
}
