#!/bin/sh
# A machine for a test: this one's files, with a memory of its own for what is changed, and systemd as its first process. It shares the network with
# the test, and nothing else: processes, mounts, control groups and names are its own, and everything ends with it.
#   machine.sh DIRECTORY
set -eu

case "${2-}" in
    '')
        # Killed with whoever started it; without what reaches the kernel beyond any namespace.
        exec setpriv --pdeathsig KILL --bounding-set=-sys_module,-sys_time,-sys_rawio,-syslog,-mac_admin,-audit_control \
            unshare --mount --pid --uts --ipc --cgroup --fork --kill-child "$0" "$1" inside
        ;;
esac

mount --make-rprivate /
# What is mounted over something else cannot be below it: hence memory, and not a folder.
mount -t tmpfs -o mode=755 machine "$1"
root=$1/root
mkdir "$1/changed" "$1/work" "$root"
mount -t overlay machine -o "lowerdir=/,upperdir=$1/changed,workdir=$1/work" "$root"
mount -t proc proc "$root/proc"
mount -o bind /proc/sys "$root/proc/sys"
mount -o remount,bind,ro "$root/proc/sys"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=755 run "$root/run"
mount -t tmpfs -o mode=1777 tmp "$root/tmp"
mount -t tmpfs -o mode=755 dev "$root/dev"
for device in null zero full random urandom tty; do
    touch "$root/dev/$device"
    mount -o bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/shm" "$root/dev/pts"
mount -t tmpfs -o mode=1777 shm "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
: > "$root/etc/fstab"
rm -f "$root/etc/machine-id"
: > "$root/etc/machine-id"
# Where this runs in somebody's container, that may forbid packages to start and stop anything.
rm -f "$root/usr/sbin/policy-rc.d"
# With every package, it would read all manual pages of this machine again.
rm -f "$root/usr/bin/mandb"
hostname machine
cd "$root"
mkdir -p run/before
pivot_root . run/before
umount -l /run/before
# As systemd finds it on a real machine, and leaves to whoever starts it elsewhere: what it mounts for a service is seen by that service.
mount --make-rshared /
exec env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin container=test /lib/systemd/systemd --unit=sysinit.target --show-status=no
