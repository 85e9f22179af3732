#!/bin/sh
# Makes a release from the last commit into dist/: deploy/release/release.sh [--once]
# Everything is made twice, one after the other, from two copies of the tree in different places, with different homes of Cargo and nothing kept
# from earlier: unless both are equal to the last byte, there is no release. `--once` is for trying: one build, what Cargo has kept is used again, nothing is compared,
# and dist/ says so.
set -eu
cd "$(dirname "$0")/../.."
root=$(pwd)

once=no
case "${1-}" in
    '') ;;
    --once) once=yes ;;
    *) echo "usage: deploy/release/release.sh [--once]" >&2; exit 2 ;;
esac
if [ -n "$(git status --porcelain)" ]; then
    echo "note: what is not committed is no part of it:" >&2
    git status --short >&2
    [ $once = yes ] || exit 1
fi

SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
PAF_REVISION=$(git rev-parse --short=12 HEAD)
export SOURCE_DATE_EPOCH PAF_REVISION

make_one() { # a place
    mkdir -p "$1/source" "$1/cargo/registry"
    # Times as of now, as Cargo tells by them what has changed since.
    git archive HEAD | tar --extract --touch --directory "$1/source"
    # A home of its own, in which the crates are unpacked anew; only what was downloaded is shared.
    for part in index cache; do ln -sfn "${CARGO_HOME:-$HOME/.cargo}/registry/$part" "$1/cargo/registry/$part"; done
    rm -rf "$1/built" "$1/out"
    CARGO_HOME="$1/cargo" deploy/release/build.sh "$1/source" "$1/target" "$1/built" sbom dynamic static
    CARGO_HOME="$1/cargo" sh -c 'cd "$1/source" && python3 deploy/release/notices.py "$1/built/pulumi-audit-forwarder.cdx.json"' - "$1" > "$1/built/notices"
    "$1/source/deploy/packages/build.sh" "$1/built/pulumi-audit-forwarder" "$1/built/notices" "$1/out"
    cp "$1/built/pulumi-audit-forwarder-static" "$1/built/pulumi-audit-forwarder.cdx.json" "$1/out/"
    (cd "$1/out" && sha256sum -- * > ../SHA256SUMS && mv ../SHA256SUMS .)
}

first=$root/target/release-made/one
second=$root/target/release-made/the-other/in/another/place
[ $once = yes ] || rm -rf target/release-made
# Cargo downloads into the home that both share.
cargo fetch --quiet --locked
make_one "$first"
python3 deploy/release/check.py "$first/built" "$first/out" "$root" "${CARGO_HOME:-$HOME/.cargo}"
if [ $once = no ]; then
    make_one "$second"
    if ! diff --recursive "$first/out" "$second/out"; then
        echo "two builds of the same commit differ: this is no release. Both are kept below target/release-made" >&2
        exit 1
    fi
    echo "two builds in different places are equal to the last byte"
fi
rm -rf dist
cp -a "$first/out" dist
# The image is made of what was just compared.
sh deploy/container/build.sh prebuilt
(cd dist && sha256sum -- pulumi-audit-forwarder* > SHA256SUMS)
if [ $once = yes ]; then echo "built once and compared with nothing" > dist/NOT-A-RELEASE; fi
(cd dist && cat SHA256SUMS)
