# shellcheck shell=bash
# The wheels that machines without a network install from, made in a throwaway tree of their suite: they must fit its
# Python and its C library.

# make_wheelhouse SUITE: makes or completes $cache/wheelhouse/SUITE
make_wheelhouse() {
    local suite=$1 house=$cache/wheelhouse/$1 place=$machines/.wheelhouse-$1 key lock options scope=()
    key=$({ image "$suite" full && cat "$root"/packaging/{wheelhouse,common.sh,*.lock} "$root"/models/{smollm2,gemma3}.toml; } | sha256sum)
    [ ! -e "$house/COMPLETE" ] || [ "$(cat "$house.key" 2>/dev/null)" != "$key" ] || return 0
    make_image "$suite" full
    mkdir -p "$house" "$machines"
    exec {lock}>"$cache/wheelhouse/.lock"
    flock -n $lock || { step "waiting for another process that makes a wheelhouse" && flock $lock; }
    if [ ! -e "$house/COMPLETE" ] || [ "$(cat "$house.key" 2>/dev/null)" != "$key" ]; then
        step "the wheelhouse of $suite"
        rm -rf --one-file-system -- "$place"
        mkdir -p "$place/upper/etc" "$place/work" "$place/root"
        options=("--machine=wheelhouse-$suite" --as-pid2 --console=pipe "--bind-ro=$root:/src" "--bind=$cache:/var/cache/llmsvc")
        share_network "$place/upper"
        # read in there rather than by --setenv=: everybody can read arguments, and a proxy's address may hold a password
        # shellcheck disable=SC2016  # for the shell in there
        options+=(/bin/bash -c 'while IFS= read -r line; do export "$line"; done </etc/environment; exec "$@"' bash)
        options+=(/src/packaging/wheelhouse "/var/cache/llmsvc/wheelhouse/$suite")
        prepare_tree "$place" "$(image "$suite" full)" "${options[@]}"
        [ ! -d /run/systemd/system ] || scope=(systemd-run --quiet --scope --property=Delegate=yes)
        "${scope[@]}" unshare --mount "$root/packaging/sandbox" supervise "$place" </dev/null ||
            die "the wheelhouse of $suite could not be made"
        remove_cgroups ".wheelhouse-$suite"
        rm -rf --one-file-system -- "$place"
        printf '%s\n' "$key" >"$house.key"
    fi
    exec {lock}>&-
}
