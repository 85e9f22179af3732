#!/bin/sh
# Lays out what goes into the image: layout.sh PROGRAM AUTHORITIES SBOM DIRECTORY. DIRECTORY is made anew: below `root` all that is
# root's, below `state` the one directory that is not.
set -eu
umask 022
program=$1 authorities=$2 sbom=$3 root=$4/root state=$4/state

rm -rf "$4"
mkdir -p "$root/usr/bin" "$root/etc/ssl/certs" "$root/etc/pulumi-audit-forwarder/orgs" \
    "$root/usr/share/doc/pulumi-audit-forwarder" "$root/var/lib" "$root/tmp" "$state/pulumi-audit-forwarder"
install -m 0755 "$program" "$root/usr/bin/pulumi-audit-forwarder"
install -m 0644 "$authorities" "$root/etc/ssl/certs/ca-certificates.crt"
install -m 0644 "$sbom" "$root/usr/share/doc/pulumi-audit-forwarder/sbom.cdx.json"
install -m 0644 "$(dirname "$0")/../../LICENSE" "$root/usr/share/doc/pulumi-audit-forwarder/LICENSE"
# Both users are known by name, for `ps` and for whatever asks for a home.
printf '%s\n' 'root:x:0:0:root:/:/sbin/nologin' \
    'pulumi-audit-forwarder:x:65532:65532::/var/lib/pulumi-audit-forwarder:/sbin/nologin' > "$root/etc/passwd"
printf '%s\n' 'root:x:0:' 'pulumi-audit-forwarder:x:65532:' > "$root/etc/group"
# Names are looked up in the hosts file, then in DNS; without this file the C library would ask for more.
printf '%s\n' 'hosts: files dns' > "$root/etc/nsswitch.conf"
chmod 0700 "$state/pulumi-audit-forwarder"
chmod 1777 "$root/tmp"
