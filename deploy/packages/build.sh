#!/bin/sh
# Packs a binary that was built before: the tarball, the .deb and the .rpm.
#   deploy/packages/build.sh BINARY NOTICES OUT
# NOTICES is the text with the licences of all crates. The same input gives the same bytes: times are SOURCE_DATE_EPOCH (else the last
# commit's), owners are root, names are sorted. VERSION replaces the manifest's. LEVEL is how hard it compresses: 1 for a trial.
#
# Why dpkg-deb and rpmbuild: they are the formats' own programs and in Debian. cargo-deb and cargo-generate-rpm compile for two minutes
# and each want the list of files in a shape of their own; nfpm reads one list, but only a stranger's copy of it can be installed here.
set -eu

[ $# -eq 3 ] || { sed -n 's/^#   /usage: /p' "$0" >&2; exit 2; }
binary=$(readlink -f "$1")
notices=$(readlink -f "$2")
mkdir -p "$3"
out=$(cd "$3" && pwd)
cd "$(dirname "$0")/../.."

name=pulumi-audit-forwarder
version=${VERSION:-$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)}
# A pre-release sorts before its release, and neither format takes a hyphen there.
package_version=$(echo "$version" | tr - '~')
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export SOURCE_DATE_EPOCH LC_ALL=C TZ=UTC0
level=${LEVEL:-9}
machine=$(uname -m)
case $machine in
    x86_64) debian_machine=amd64 ;;
    aarch64) debian_machine=arm64 ;;
    *) echo "no name is known for packages on $machine" >&2; exit 1 ;;
esac
# The newest C library that one of its functions came with.
glibc=$(objdump -T "$binary" | grep -o 'GLIBC_[0-9.]*' | sort -uV | tail -n 1)
glibc=${glibc#GLIBC_}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
umask 022

put() { # source, place below $work, mode
    install -D -m "${3:-644}" "$1" "$work/$2"
}
settle() { # a tree: its times, and no modes of this machine
    find "$work/$1" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +
}

# What the binary writes about itself.
"$binary" man > "$work/$name.1"
for shell in bash zsh fish; do "$binary" completions $shell > "$work/completion.$shell"; done
gzip -9n < "$work/$name.1" > "$work/$name.1.gz"
gzip -9n < CHANGELOG.md > "$work/changelog.gz"

### The tarball

flat=$name-$version-linux-$machine
put "$binary" "$flat/$name" 755
put "$work/$name.1" "$flat/$name.1"
for shell in bash zsh fish; do put "$work/completion.$shell" "$flat/completions/$name.$shell"; done
put deploy/systemd/$name.service "$flat/systemd/$name.service"
put deploy/systemd/$name.sysusers "$flat/systemd/$name.sysusers"
put config/forwarder.toml "$flat/config/forwarder.toml"
put config/orgs/example-org.toml.example "$flat/config/orgs/example-org.toml.example"
put deploy/prometheus/$name.rules.yml "$flat/prometheus/$name.rules.yml"
for file in README.md CHANGELOG.md LICENSE; do put $file "$flat/$file"; done
put "$notices" "$flat/THIRD-PARTY-LICENSES"
settle "$flat"
tar --create --sort=name --format=gnu --owner=0 --group=0 --numeric-owner --directory "$work" "$flat" | gzip "-${level}n" > "$out/$flat.tar.gz"

### What both packages install

put "$binary" both/usr/bin/$name 755
put deploy/systemd/$name.service both/usr/lib/systemd/system/$name.service
put deploy/systemd/$name.sysusers both/usr/lib/sysusers.d/$name.conf
put "$work/$name.1.gz" both/usr/share/man/man1/$name.1.gz
put "$work/completion.bash" both/usr/share/bash-completion/completions/$name
put "$work/completion.fish" both/usr/share/fish/vendor_completions.d/$name.fish
put config/forwarder.toml both/etc/$name/forwarder.toml
# Its name does not end in .toml where it lies either: an example is never an organization.
put config/orgs/example-org.toml.example both/usr/share/doc/$name/examples/example-org.toml.example
put deploy/prometheus/$name.rules.yml both/usr/share/doc/$name/examples/$name.rules.yml
install -d "$work/both/etc/$name/orgs" "$work/both/etc/$name/credentials" "$work/both/var/lib/$name"

filled() { # a template: what stands between @ and @, and the next steps in their line
    sed -e "s/@VERSION@/$package_version/" -e "s/@ARCHITECTURE@/$debian_machine/" -e "s/@GLIBC@/$glibc/" -e "s/@SIZE@/${size-}/" \
        -e '/^@NEXT@$/{' -e 'r deploy/packages/next-steps' -e 'd' -e '}' "$1"
}

### The .deb

cp -a "$work/both" "$work/deb"
put "$work/completion.zsh" deb/usr/share/zsh/vendor-completions/_$name
put deploy/packages/debian/copyright deb/usr/share/doc/$name/copyright
gzip -9n < "$notices" > "$work/deb/usr/share/doc/$name/THIRD-PARTY-LICENSES.gz"
put "$work/changelog.gz" deb/usr/share/doc/$name/changelog.gz
maintainer=$(sed -n 's/^Maintainer: //p' deploy/packages/debian/control)
printf '%s (%s-1) unstable; urgency=medium\n\n  * What changes for whoever runs it stands in changelog.gz.\n\n -- %s  %s\n' \
    $name "$package_version" "$maintainer" "$(date --date="@$SOURCE_DATE_EPOCH" --rfc-email)" \
    | gzip -9n > "$work/deb/usr/share/doc/$name/changelog.Debian.gz"
size=$(find "$work/deb" -type f -printf '%s\n' | awk '{ sum += int(($1 + 1023) / 1024) } END { print sum }')
mkdir "$work/deb/DEBIAN"
filled deploy/packages/debian/control > "$work/deb/DEBIAN/control"
for script in postinst prerm postrm; do
    filled deploy/packages/debian/$script > "$work/deb/DEBIAN/$script"
    chmod 755 "$work/deb/DEBIAN/$script"
done
echo "/etc/$name/forwarder.toml" > "$work/deb/DEBIAN/conffiles"
(cd "$work/deb" && find usr -type f | sort | xargs md5sum > DEBIAN/md5sums)
settle deb
# Several threads cut the data elsewhere than one.
dpkg-deb --root-owner-group --threads-max=1 -Zxz "-z$level" --build "$work/deb" "$out/${name}_$package_version-1_$debian_machine.deb" > /dev/null

### The .rpm

cp -a "$work/both" "$work/rpm"
put "$work/completion.zsh" rpm/usr/share/zsh/site-functions/_$name
put LICENSE rpm/usr/share/licenses/$name/LICENSE
put "$notices" rpm/usr/share/licenses/$name/THIRD-PARTY-LICENSES
put CHANGELOG.md rpm/usr/share/doc/$name/CHANGELOG.md
settle rpm
filled deploy/packages/rpm.spec > "$work/rpm.spec"
rpmbuild -bb --quiet --target "$machine-linux" --buildroot "$work/buildroot" \
    --define "_topdir $work/rpmbuild" --define "_rpmdir $out" --define "_rpmfilename %{NAME}-%{VERSION}-%{RELEASE}.%{ARCH}.rpm" \
    --define "staged $work/rpm" --define "_binary_payload w$level.zstdio" \
    --define "_buildhost reproducible" --define "use_source_date_epoch_as_buildtime 1" --define "clamp_mtime_to_source_date_epoch 1" \
    "$work/rpm.spec" > "$work/log" 2>&1 || { cat "$work/log" >&2; exit 1; }
