#!/bin/sh
# Builds the fuzz binary with the stable toolchain: what cargo-fuzz passes on, without a sanitizer (there is no `unsafe` in our code).
set -eu
cd "$(dirname "$0")"
RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares" \
    cargo build --locked --target "$(rustc -vV | sed -n 's/^host: //p')" --target-dir ../target/fuzz
