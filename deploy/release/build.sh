#!/bin/sh
# Builds the binaries of a release and their list of components from one source tree:
#   deploy/release/build.sh SOURCE TARGET OUT [dynamic] [static] [sbom]
# TARGET is Cargo's target directory. Nothing of where all this lies, and no clock, gets into what is built: that is what makes two
# builds equal. The paths are given to the compilers here and not by Cargo's configuration, as no other build needs it.
# SOURCE_DATE_EPOCH and PAF_REVISION say what is built; both come from the caller.
set -eu

[ $# -ge 4 ] || { sed -n 's/^#   /usage: /p' "$0" >&2; exit 2; }
mkdir -p "$2" "$3"
source=$(cd "$1" && pwd)
target=$(cd "$2" && pwd)
out=$(cd "$3" && pwd)
shift 3
tools=$(cd "$(dirname "$0")/../.." && pwd)/.tools/bin
home=${CARGO_HOME:-$HOME/.cargo}
: "${SOURCE_DATE_EPOCH:?}" "${PAF_REVISION:?}"
export SOURCE_DATE_EPOCH PAF_REVISION CARGO_INCREMENTAL=0 CARGO_TERM_PROGRESS_WHEN=never

# The last one that fits counts, and the other two may lie below the source.
rust='' c=''
for place in "$source=/source" "$home=/cargo" "$target=/target"; do
    rust="$rust --remap-path-prefix=$place"
    c="$c -ffile-prefix-map=$place"
done
name=pulumi-audit-forwarder
triple=$(rustc -vV | sed -n 's/^host: //p')

cd "$source"
# cargo-auditable writes into the binary which crates it is made of. `-C target-feature` is for our own crate alone, so the others are built once for both.
build() { # then more for the compiler
    RUSTFLAGS="${rust# }" CFLAGS="${c# }" "$tools/cargo-auditable" auditable rustc --quiet --release --locked --target-dir "$target" --bin $name -- "$@"
}
for what in "$@"; do
    case $what in
        dynamic) build; install -m 755 "$target/release/$name" "$out/$name" ;;
        # The C library warns that the names of users and hosts may want more of it at run time; the daemon asks for hosts only, by file and by DNS.
        static) build -C target-feature=+crt-static 2>&1; install -m 755 "$target/release/$name" "$out/$name-static" ;;
        sbom)
            "$tools/cargo-cyclonedx" cyclonedx --quiet --format json --spec-version 1.5 --no-build-deps --target "$triple" --override-filename sbom
            sed "s|path+file://$source#|path+file:///source#|" sbom.json > "$out/$name.cdx.json"
            rm sbom.json
            ;;
        *) echo "what is $what? dynamic, static or sbom" >&2; exit 2 ;;
    esac
done
