# shellcheck shell=bash
# The images that machines start from: one directory per suite and kind, made once by mmdebstrap, never written again.
# bare is what a minimal Debian server has; full has also what packaging/install.sh takes from apt.

images=$cache/images
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
bare_packages=(
    apt bash-completion ca-certificates curl dbus iproute2 kmod less libpam-systemd login netbase passwd procps sudo
    systemd systemd-sysv udev
)

check_suite() {
    case $1 in bookworm | trixie) ;; *) die "unknown suite '$1'" "--suite bookworm or --suite trixie" ;; esac
}

# image SUITE KIND: its directory; the name holds a hash of all that decides what is in it
image() {
    local key
    key=$({ echo "$1 $2" && image_packages "$2" && cat "$root/packaging/sandbox.d/image.sh"; } | sha256sum | cut -c1-12)
    echo "$images/$1-$2-$key"
}

image_packages() {
    printf '%s\n' "${bare_packages[@]}"
    [ "$1" = bare ] || sed 's/#.*//; s/[[:space:]]//g; /^$/d' "$root/packaging/apt-packages"
}

# make_image SUITE KIND: makes it unless it is there
make_image() {
    local suite=$1 kind=$2 target lock
    target=$(image "$suite" "$kind")
    [ ! -d "$target" ] || return 0
    mkdir -p "$images"
    exec {lock}>"$images/.lock"
    flock -n $lock || { step "waiting for another process that makes an image" && flock $lock; }
    if [ ! -d "$target" ]; then
        step "making the $kind image of $suite, once"
        rm -rf --one-file-system -- "$images"/*.new
        debootstrap_image "$suite" "$kind" "$target.new"
        mv -- "$target.new" "$target"
        remove_old_images "$suite-$kind" "$target"
    fi
    exec {lock}>&-
}

debootstrap_image() {
    local suite=$1 kind=$2 target=$3 signed="[signed-by=$keyring]" archive security packages
    if [ "$suite" = trixie ] && [ ! -e /usr/share/keyrings/debian-archive-trixie-stable.gpg ]; then
        quietly "$work/apt.log" apt-get update -q
        quietly "$work/apt.log" apt-get install -q -y debian-archive-keyring
    fi
    archive=$(mirror '') security=$(mirror -security)
    apt_settings >"$work/apt.conf"
    packages=$(image_packages "$kind" | paste -sd,)
    # createcluster.d before the packages: PostgreSQL makes its cluster as it is installed. The host's 5432 may be taken.
    # shellcheck disable=SC2016  # $1 is for mmdebstrap's shell
    mmdebstrap --mode=root --variant=minbase --include="$packages" --aptopt="$work/apt.conf" \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' \
        --setup-hook='mkdir -p "$1/etc/postgresql-common/createcluster.d" "$1/etc/apt/auth.conf.d"' \
        --setup-hook='echo "listen_addresses = '\'\''" >"$1/etc/postgresql-common/createcluster.d/sandbox.conf"' \
        --setup-hook='cp -p /etc/apt/auth.conf.d/* "$1/etc/apt/auth.conf.d/" 2>/dev/null || true' \
        --setup-hook='cp -p /etc/apt/auth.conf "$1/etc/apt/" 2>/dev/null || true' \
        --customize-hook='rm -rf "$1"/etc/apt/auth.conf "$1"/etc/apt/auth.conf.d/*' \
        --customize-hook='rm -f "$1/etc/apt/apt.conf.d/99mmdebstrap"' \
        --customize-hook='chroot "$1" systemctl -q disable apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer' \
        "$suite" "$target" \
        "deb $signed $archive $suite main" "deb $signed $archive $suite-updates main" \
        "deb $signed $security $suite-security main" >"$work/mmdebstrap.log" 2>&1 </dev/null || {
        tail -n 15 "$work/mmdebstrap.log" >&2
        rm -rf --one-file-system -- "$target"
        die "the image could not be made" "is the network up?"
    }
}

# mirror SUFFIX: where this host takes its Debian packages from ('' or -security)
mirror() {
    local codename found=
    # shellcheck source=/dev/null
    codename=$(. /etc/os-release && [ "$ID" = debian ] && echo "$VERSION_CODENAME") || codename=
    if [ -n "$codename" ]; then
        # shellcheck disable=SC2016  # apt's own variables
        found=$(apt-get indextargets --format '$(RELEASE) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' |
            awk -v release="$codename$1" '$1 == release && $2 == "main" { print $3; exit }')
    fi
    echo "${found:-http://deb.debian.org/debian$1}"
}

# remove_old_images PREFIX KEEP: those of an older recipe on which no machine stands
remove_old_images() {
    local old
    for old in "$images/$1"-*; do
        [ "$old" = "$2" ] || grep -qsxF "image=$old" "$machines"/*/settings || rm -rf --one-file-system -- "$old"
    done
}
