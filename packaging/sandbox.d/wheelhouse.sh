# shellcheck shell=bash
# The wheels that machines without a network install from, made in a throwaway tree of their suite: they must fit its
# Python and its C library.

# make_wheelhouse SUITE: makes or completes $cache/wheelhouse/SUITE
make_wheelhouse() {
    local suite=$1 house=$cache/wheelhouse/$1 key lock
    key=$({ image "$suite" full && cat "$root"/packaging/{wheelhouse,wheelhouse.d/*,common.sh,*.lock} "$root"/models/{smollm2,gemma3}.toml; } | sha256sum)
    [ ! -e "$house/COMPLETE" ] || [ "$(cat "$house.key" 2>/dev/null)" != "$key" ] || return 0
    make_image "$suite" full
    mkdir -p "$house" "$machines"
    exec {lock}>"$cache/wheelhouse/.lock"
    flock -n $lock || { step "waiting for another process that makes a wheelhouse" && flock $lock; }
    if [ ! -e "$house/COMPLETE" ] || [ "$(cat "$house.key" 2>/dev/null)" != "$key" ]; then
        step "the wheelhouse of $suite"
        in_tree "wheelhouse-$suite" "$suite" full "--bind=$cache:/var/cache/llmsvc" -- \
            /src/packaging/wheelhouse "/var/cache/llmsvc/wheelhouse/$suite" || die "the wheelhouse of $suite could not be made"
        printf '%s\n' "$key" >"$house.key"
    fi
    exec {lock}>&-
}
