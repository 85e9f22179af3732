#!/bin/sh
# Fuzzes one property (`TARGET`) or all of them in turn, for SECONDS seconds each, with the stable toolchain and no sanitizer: there is no
# `unsafe` in this code, and what is looked for is a panic, a hang, or too much memory. What is found is left in target/fuzz/found.
set -eu

cd "$(dirname "$0")"
seconds="${SECONDS_EACH:-60}"
host="$(rustc -vV | sed -n 's/^host: //p')"

# What cargo-fuzz passes on. With a host named, build scripts are left alone.
RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares" \
    cargo build --quiet --locked --target "$host" --target-dir ../target/fuzz

for target in ${TARGET:-$(ls corpus)}; do
    [ -d "corpus/$target" ] || { echo "no such target: $target; there are:" $(ls corpus) >&2; exit 2; }
    mkdir -p "../target/fuzz/corpus/$target" ../target/fuzz/found
    printf '%-18s' "$target"
    # New inputs go into the first folder; the seeds are only read.
    if FUZZ_TARGET="$target" "../target/fuzz/$host/debug/property" "../target/fuzz/corpus/$target" "corpus/$target" \
        -max_total_time="$seconds" -max_len=65536 -timeout=10 -rss_limit_mb=512 -print_final_stats=1 \
        -artifact_prefix="../target/fuzz/found/$target-" >../target/fuzz/log 2>&1; then
        sed -n 's/^stat::number_of_executed_units: *\(.*\)/\1 executions/p; s/^stat::peak_rss_mb: *\(.*\)/, at most \1 MiB/p' ../target/fuzz/log | tr -d '\n'
        echo
    else
        echo "does not hold:"
        tail -n 30 ../target/fuzz/log
        exit 1
    fi
done
