# Runs a command in a root file system as if it were a container's: its own mounts, processes and
# network, an overlay over the root, /dev with FUSE. Sourced by evidence that installs things.
# shellcheck shell=bash

# enter_root ROOT FILES COMMAND...: FILES is shown as /files, read-only. All that it made is gone when
# it ends. The command's standard input, output and exit status are its own.
enter_root() {
    local root=$1 files=$2 here
    shift 2
    here=$(mktemp -d)
    CONTAINER_ROOT=$root CONTAINER_FILES=$files CONTAINER_HERE=$here \
        unshare --mount --pid --fork --kill-child --uts --ipc --net --cgroup \
        bash -c "$(declare -f prepare_root); prepare_root \"\$@\"" prepare_root "$@"
    local status=$?
    rmdir "$here"
    return "$status"
}

# Inside the namespaces: makes the root and becomes the command.
prepare_root() {
    set -e
    mount --make-rprivate /
    busybox ip link set lo up
    mount -t tmpfs tmpfs "$CONTAINER_HERE"
    mkdir "$CONTAINER_HERE"/upper "$CONTAINER_HERE"/work "$CONTAINER_HERE"/root
    mount -t overlay overlay -o "lowerdir=$CONTAINER_ROOT,upperdir=$CONTAINER_HERE/upper,workdir=$CONTAINER_HERE/work" "$CONTAINER_HERE/root"
    cd "$CONTAINER_HERE/root"
    mount -t proc proc proc
    mount -t sysfs -o ro sysfs sys
    mount -t cgroup2 cgroup2 sys/fs/cgroup
    mount -t tmpfs -o mode=755 tmpfs run
    mount -t tmpfs -o mode=755 tmpfs dev
    local device
    for device in null zero full random urandom tty fuse; do
        touch "dev/$device"
        mount --bind "/dev/$device" "dev/$device"
    done
    mkdir dev/pts dev/shm files outside
    ln -s pts/ptmx dev/ptmx
    ln -s /proc/self/fd dev/fd
    mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
    mount -t tmpfs -o mode=1777 tmpfs dev/shm
    mount --bind "$CONTAINER_FILES" files
    mount -o remount,bind,ro files
    hostname tokenfs
    pivot_root . outside
    cd /
    umount -l /outside
    rmdir /outside
    exec env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        HOME=/root LC_ALL=C.UTF-8 container=tokenfs "$@"
}
