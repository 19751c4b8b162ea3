# shellcheck shell=bash
# Wheelhouses for machines without a network, made in a throwaway tree of their suite: they must fit its Python and its C
# library, and hold what its packages need.

# make_wheelhouse SUITE: makes or completes $cache/wheelhouse/SUITE, for machines of the full image
make_wheelhouse() {
    local suite=$1 house=$cache/wheelhouse/$1 key lock
    key=$({ image "$suite" full && cat "$root"/packaging/{wheelhouse,common.sh,*.lock} "$root"/models/{smollm2,gemma3}.toml; } | sha256sum)
    [ ! -e "$house/COMPLETE" ] || [ "$(cat "$house.key" 2>/dev/null)" != "$key" ] || return 0
    make_image "$suite" full
    mkdir -p "$house" "$machines"
    exec {lock}>"$cache/wheelhouse/.lock"
    flock -n $lock || { step "waiting for another process that makes a wheelhouse" && flock $lock; }
    if [ ! -e "$house/COMPLETE" ] || [ "$(cat "$house.key" 2>/dev/null)" != "$key" ]; then
        step "the wheelhouse of $suite"
        in_tree "$suite" full "$house" /src/packaging/wheelhouse "/var/cache/llmsvc/wheelhouse/$suite"
        printf '%s\n' "$key" >"$house.key"
    fi
    exec {lock}>&-
}

# fill_wheelhouse SUITE DIR OPTION...: makes DIR complete for a bare machine of that suite: .debs, wheels, models
fill_wheelhouse() {
    local suite=$1 house=$2 packages
    shift 2
    make_image "$suite" bare
    make_image "$suite" full
    mkdir -p "$machines"
    if [ ! -e "$house/COMPLETE" ] || [ "$(cat "$house/debs/SUITE" 2>/dev/null)" != "$suite" ]; then
        step "the packages of $suite that a bare machine lacks"
        rm -rf -- "$house/COMPLETE" "$house/debs"
        : >"$house/UNFINISHED"
        mkdir -p "$house/debs/partial"
        packages=$(sed 's/#.*//; s/[[:space:]]//g; /^$/d' "$root/packaging/apt-packages" | paste -sd' ')
        # shellcheck disable=SC2016,SC2086  # $@ is for the shell in there; a list of words
        in_tree "$suite" bare "$house" /bin/bash -euc 'apt-get update -q >/dev/null
            apt-get install -q -y --download-only --no-install-recommends -o APT::Sandbox::User=root \
                -o Dir::Cache::archives=/run/wheelhouse/debs "$@" >/dev/null' bash $packages
        rm -rf -- "$house/debs/partial" "$house/debs/lock"
        echo "$suite" >"$house/debs/SUITE"
    fi
    in_tree "$suite" full "$house" /src/packaging/wheelhouse "$@" /run/wheelhouse
}

# in_tree SUITE KIND WHEELHOUSE COMMAND...: runs a command in a throwaway tree, with the host's network and the directory
# WHEELHOUSE at /run/wheelhouse
in_tree() {
    local suite=$1 kind=$2 house=$3 place=$machines/.wheelhouse-$1 options scope=()
    shift 3
    rm -rf --one-file-system -- "$place"
    mkdir -p "$place/upper/etc" "$place/work" "$place/root"
    options=("--machine=wheelhouse-$suite" --as-pid2 --console=pipe "--bind-ro=$root:/src" "--bind=$cache:/var/cache/llmsvc"
        "--bind=$house:/run/wheelhouse")
    share_network "$place/upper"
    # read in there rather than by --setenv=: everybody can read arguments, and a proxy's address may hold a password
    # shellcheck disable=SC2016  # for the shell in there
    options+=(/bin/bash -c 'while IFS= read -r line; do export "$line"; done </etc/environment; exec "$@"' bash)
    options+=("$@")
    prepare_tree "$place" "$(image "$suite" "$kind")" "${options[@]}"
    [ ! -d /run/systemd/system ] || scope=(systemd-run --quiet --scope --property=Delegate=yes)
    "${scope[@]}" unshare --mount "$root/packaging/sandbox" supervise "$place" </dev/null ||
        die "the wheelhouse of $suite could not be made"
    remove_cgroups ".wheelhouse-$suite"
    rm -rf --one-file-system -- "$place"
}
