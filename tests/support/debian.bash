# Systems of Debian in target/, made of packages from the mirror of this machine, and programs that run in them.

# Builds the programs and a test of them, static as packages have them, and prints the path of the test: build_test containers
build_test() {
    export RUSTC_WRAPPER=$PWD/packaging/rustc
    cargo build --quiet --locked --bins --example stand-in &&
        cargo test --quiet --locked --no-run --test "$1" --message-format json |
        jq --raw-output "select(.reason == \"compiler-artifact\" and .target.name == \"$1\").executable"
}

# The packages of each system: engines, and what tests need from a system. No compiler. Docker's client is a package of its own in Debian 13.
debian_packages() {
    echo busybox-static ca-certificates catatonit conmon containerd crun docker.io iproute2 jq mount podman python3-grpcio runc runsc strace \
        systemd-standalone-sysusers uidmap util-linux
    [ "$1" = bookworm ] || echo docker-cli podman-compose rpm
}

# The mirror of Debian that this machine uses.
debian_mirror() {
    local mirrors
    mirrors=$(cat /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list 2>/dev/null | sed -nE 's/^(URIs:|deb( \[.*\])?) +([^ ]+).*/\3/p') || true
    grep -q '^ID=debian' /etc/os-release || mirrors=http://deb.debian.org/debian
    echo "${mirrors%%$'\n'*}"
}

# Makes the system of a release, unless it exists, and prints its directory: make_debian bookworm|trixie|sid
make_debian() {
    local release=$1 tree=$PWD/target/debian-$1 packages
    packages=$(debian_packages "$release" | tr '\n' ' ')
    echo "$tree"
    [ "$(cat "$tree.packages" 2>/dev/null)" != "$packages" ] || return 0
    echo "making ${tree#"$PWD/"}" >&2
    rm -rf --one-file-system "$tree" "$tree.packages"
    # The lists of sid expire within days, and a mirror may be behind. They are signed in any case.
    mmdebstrap --quiet --variant=apt --aptopt='Acquire::Check-Valid-Until "false"' --include="$packages" "$release" "$tree" "$(debian_mirror)" >&2
    echo "$packages" >"$tree.packages"
}

# Runs a command with a directory as its root directory, in a mount namespace of its own: in_debian TREE [--with DIRECTORY]... COMMAND...
#
# The command finds these sources and the directories where they are, the host's kernel, devices and network, and a /run and a /tmp of its
# own.
in_debian() {
    # shellcheck disable=SC2016 # Another shell expands it.
    unshare --mount --propagation private bash -euc "$(declare -f enter_debian)"'; enter_debian "$@"' bash "$@"
}

# The same, and what the command changes in the system is in memory, and lost afterwards: in_copy_of_debian TREE [--with DIRECTORY]... COMMAND...
in_copy_of_debian() {
    # shellcheck disable=SC2016 # Another shell expands it.
    unshare --mount --propagation private bash -euc "$(declare -f enter_debian)"'
        mount -t tmpfs tmpfs /mnt
        mkdir /mnt/{changes,work,root}
        mount -t overlay -o "lowerdir=$1,upperdir=/mnt/changes,workdir=/mnt/work" overlay /mnt/root
        shift
        enter_debian /mnt/root "$@"' bash "$@"
}

# Makes a directory this process's root directory. It has to be a mount, as runtimes pivot away from it: chroot alone would not do.
enter_debian() {
    local tree=$1 sources=$PWD shared=("$PWD") directory
    shift
    while [ "$1" = --with ]; do shared+=("$2") && shift 2; done
    mountpoint --quiet "$tree" || mount --bind "$tree" "$tree"
    for directory in proc dev sys; do mount --rbind "/$directory" "$tree/$directory"; done
    for directory in run tmp; do mount -t tmpfs -o mode=1777 tmpfs "$tree/$directory"; done
    for directory in "${shared[@]}"; do
        mkdir -p "$tree$directory"
        mount --bind "$directory" "$tree$directory"
    done
    cd "$tree" || exit
    mkdir -p mnt
    pivot_root . mnt
    umount --lazy /mnt
    cd "$sources" || exit
    # As a child: it may move on to mounts of its own, and programs that were started from these would no longer know their paths.
    "$@"
}
