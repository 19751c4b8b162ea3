# shellcheck shell=bash
# What a machine on the host's network takes over from the host: certificates, proxies, name resolution, and the
# settings of pip and apt, as a company's network needs them.

# share_network TREE: writes all that into TREE, and adds the --bind-ro options that go with it to the array `options`
share_network() {
    local tree=$1 place file
    for place in /etc/ssl/certs /usr/local/share/ca-certificates /usr/share/ca-certificates; do
        [ -d $place ] && mkdir -p "$tree$place" && cp -a $place/. "$tree$place/"
    done
    copy_in "$tree" /etc/resolv.conf
    copy_in "$tree" /etc/hosts

    mkdir -p "$tree/etc/apt/apt.conf.d" "$tree/etc/apt/auth.conf.d"
    apt_settings >"$tree/etc/apt/apt.conf.d/90host"
    for file in /etc/apt/auth.conf /etc/apt/auth.conf.d/*; do copy_in "$tree" "$file"; done
    while read -r file; do copy_in "$tree" "$file"; done < <(sed -n 's/.*"\(\/.*\)";$/\1/p' "$tree/etc/apt/apt.conf.d/90host")

    install -d -m 0700 "$tree/root"
    copy_in "$tree" /etc/pip.conf
    copy_in "$tree" "$HOME/.pip/pip.conf" /root/.pip/pip.conf
    copy_in "$tree" "$HOME/.config/pip/pip.conf" /root/.config/pip/pip.conf
    [ -z "${PIP_CONFIG_FILE:-}" ] || copy_in "$tree" "$PIP_CONFIG_FILE" /root/.config/pip/pip.conf
    while read -r place; do options+=("--bind-ro=$place"); done < <(pip_directories)

    (umask 077 && network_environment >"$tree/etc/environment")
    while read -r file; do copy_in "$tree" "$file"; done < <(sed -n 's/^[^=]*=\(\/.*\)/\1/p' "$tree/etc/environment")
}

# copy_in TREE FILE [PLACE]: a file of the host, if there is one, with its mode
copy_in() {
    [ -f "$2" ] || return 0
    mkdir -p "$1$(dirname -- "${3:-$2}")"
    cp -pL -- "$2" "$1${3:-$2}"
}

# apt_settings: proxies, certificates and checks of the host's apt, in apt.conf syntax
apt_settings() {
    command -v apt-config >/dev/null || return 0
    apt-config dump | grep -E '^Acquire::(https?|ftp|Check-[A-Za-z-]*|Retries)(::| )' | grep -v ' "";$' || true
}

# pip_directories: local directories in which the host's pip looks for packages
pip_directories() {
    local word
    {
        cat /etc/pip.conf "$HOME/.pip/pip.conf" "$HOME/.config/pip/pip.conf" "${PIP_CONFIG_FILE:-/dev/null}" 2>/dev/null || true
        printf '%s\n' "${PIP_FIND_LINKS:-}" "${PIP_INDEX_URL:-}" "${PIP_EXTRA_INDEX_URL:-}"
    } | tr -s ' =\t' '\n' | sed -n 's|^file://||; /^\//p' | while read -r word; do
        # the pages of an index link to files beside it
        [ "$(basename -- "$word")" != simple ] || word=$(dirname -- "$word")
        [ ! -d "$word" ] || echo "$word"
    done | sort -u
}

# network_environment: proxy, certificate and pip variables of the caller, one NAME=VALUE a line
network_environment() {
    local name
    for name in $(compgen -e); do
        case $name in
        PIP_CONFIG_FILE) continue ;;
        [a-z]*_proxy | [A-Z]*_PROXY | PIP_* | SSL_CERT_* | REQUESTS_CA_BUNDLE | CURL_CA_BUNDLE) ;;
        *) continue ;;
        esac
        [[ ${!name} == *$'\n'* ]] || printf '%s=%s\n' "$name" "${!name}"
    done
}
