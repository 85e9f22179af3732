#!/bin/sh
# Builds the image with buildah and writes it to dist/ as `docker load` takes it, the same bytes for the same commit:
#   build.sh prebuilt   of dist/pulumi-audit-forwarder-static and its list of components (`make static sbom`)
#   build.sh source     compiled in the build stage, without the network: base image made here, toolchain and crates of this machine
# Fails where the image is larger than 30 MB. SOURCE_DATE_EPOCH and PAF_REVISION come from the caller.
set -eu
cd "$(dirname "$0")/../.."
: "${SOURCE_DATE_EPOCH:?}" "${PAF_REVISION:?}"
largest=30000000
kind=$1
name=pulumi-audit-forwarder
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
if ! command -v buildah >/dev/null 2>&1; then sh tests/tools.sh release; fi

# A store of its own, which goes when the build does, except for the base image.
work=$(pwd)/target/container
mkdir -p "$work" dist
cat > "$work/storage.conf" <<EOF
[storage]
driver = "vfs"
graphroot = "$work/storage"
runroot = "$work/run"
EOF
export CONTAINERS_STORAGE_CONF="$work/storage.conf" BUILDAH_ISOLATION=chroot

case $kind in
    prebuilt)
        sh deploy/container/layout.sh dist/$name-static /etc/ssl/certs/ca-certificates.crt dist/$name.cdx.json "$work/image"
        set --
        ;;
    source)
        base=localhost/rust-of-this-machine
        if ! buildah inspect --type image $base >/dev/null 2>&1; then sh deploy/container/base.sh $base; fi
        make .tools/bin/cargo-auditable .tools/bin/cargo-cyclonedx
        cargo fetch --quiet --locked
        set -- --build-arg "RUST_IMAGE=$base" --build-arg OFFLINE=true \
            --volume "$(rustc --print sysroot):/usr/local/rust:ro" \
            --volume "${CARGO_HOME:-$HOME/.cargo}/registry:/usr/local/cargo/registry" \
            --volume "$(pwd)/.tools/bin:/src/.tools/bin:ro"
        ;;
    *) sed -n 's/^#   \(build.sh\)/usage: \1/p' "$0" >&2; exit 2 ;;
esac

# Docker's format, as an OCI image has no health check.
buildah build --quiet --pull=never --format docker --file deploy/container/Containerfile --ignorefile deploy/container/Containerfile.dockerignore \
    --identity-label=false --timestamp "$SOURCE_DATE_EPOCH" --build-arg "PROGRAM=$kind" --build-arg "VERSION=$version" --build-arg "REVISION=$PAF_REVISION" \
    --build-arg "SOURCE_DATE_EPOCH=$SOURCE_DATE_EPOCH" \
    --build-arg "CREATED=$(date --utc --date "@$SOURCE_DATE_EPOCH" +%Y-%m-%dT%H:%M:%SZ)" "$@" --tag "$name:$version" . >/dev/null
archive=dist/$name-$version-$(uname -m).docker.tar
rm -f "$work/pushed.tar"
buildah push --quiet "$name:$version" "docker-archive:$work/pushed.tar:$name:$version"
python3 deploy/container/archive.py "$work/pushed.tar" "$archive"
rm "$work/pushed.tar"
# What is written can be loaded, and still knows its health check.
buildah rmi --force "$name:$version" >/dev/null
buildah pull --quiet "docker-archive:$archive" >/dev/null
buildah inspect --type image "$name:$version" | grep --quiet -- --healthcheck || { echo "$archive has no health check" >&2; exit 1; }
size=$(stat -c %s "$archive")
echo "$archive: $size bytes, $(gzip -c "$archive" | wc -c) compressed"
[ "$size" -le $largest ] || { echo "larger than $largest bytes" >&2; exit 1; }
