#!/usr/bin/env python3
"""Mutates the decision core and says how many of the mutants its tests kill (`make mutants`).

The core is laid out in `target/mutation` as a package of its own, because the whole crate takes half a minute to build for each of hundreds
of mutants, and the core a second. Its modules and their tests are the product's, its dependencies are the lines of the product's manifest and
the versions of its lock file; `core.rs` is all that is written for it.

    core.py [FILE…]    only the mutants of these files, say src/retry.rs
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TREE = ROOT / "target" / "mutation" / "tree"
CONFIG = ROOT / ".cargo" / "mutants.toml"
# Of those that can be built at all, in each file.
KILLED_LEAST = 0.9

# What is mutated, and the tests that see it. Those of other modules are left out: they would only take time.
CORE = {
    "src/chunk.rs": ["chunk::"],
    "src/clock.rs": ["clock::", "coverage::", "collect::plan::"],
    "src/collect/difference.rs": ["collect::difference::"],
    "src/collect/known_time.rs": ["collect::known_time::"],
    "src/collect/plan.rs": ["collect::plan::"],
    "src/collect/sweep.rs": ["collect::sweep::"],
    "src/collect/tally.rs": ["collect::tally::"],
    "src/coverage.rs": ["coverage::", "collect::plan::"],
    "src/destination/archive.rs": ["destination::"],
    "src/event.rs": ["event::", "chunk::tests::a_", "pulumi::wire::"],
    "src/pulumi/budget.rs": ["pulumi::budget::"],
    "src/retry.rs": ["retry::"],
}
# Modules that the core does not need, by the file that names them.
LEFT_OUT = {
    "src/destination.rs": ["file", "s3", "sentinel"],
    "src/journal.rs": ["contract", "handover", "measured", "sqlite"],
}
DEPENDENCIES = """async-trait backon base64 bytes flate2 httpdate percent-encoding serde serde_json sha2 thiserror time tokio""".split()
DEV_DEPENDENCIES = ["proptest", "tempfile", "tokio"]
# Nobody looks at it in a debugger; the libraries are compiled once and run hundreds of times.
PROFILE = """
[workspace]

[profile.dev]
debug = false

[profile.dev.package."*"]
opt-level = 1
"""
# Seconds after which a test hangs: they take one, on a very busy machine ten.
TIMEOUT = "60"


def lines_of(section, wanted):
    """Lines of a section of the product's manifest."""
    text = (ROOT / "Cargo.toml").read_text().split(f"\n[{section}]\n")[1].split("\n[")[0]
    lines = {line.split(" ")[0]: line for line in text.splitlines() if " = " in line}
    return "\n".join(lines[name] for name in wanted) + "\n"


def lay_out():
    shutil.rmtree(TREE, ignore_errors=True)
    shutil.copytree(ROOT / "src", TREE / "src", ignore=shutil.ignore_patterns("main.rs"))
    shutil.copy(ROOT / "tests" / "mutation" / "core.rs", TREE / "src" / "lib.rs")
    for name in ["Cargo.lock", ".cargo/mutants.toml", "docs/formats.md"]:
        (TREE / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, TREE / name)
    (TREE / "Cargo.toml").write_text(
        '[package]\nname = "decision-core"\nversion = "0.0.0"\nedition = "2024"\n\n[features]\ndesign-mutants = []\n\n'
        f"[dependencies]\n{lines_of('dependencies', DEPENDENCIES)}\n"
        f"[dev-dependencies]\n{lines_of('dev-dependencies', DEV_DEPENDENCIES)}{PROFILE}"
    )
    for name, modules in LEFT_OUT.items():
        text = (TREE / name).read_text()
        for module in modules:
            text, found = re.subn(rf"(?m)^(#\[cfg\(test\)\]\n)?(pub )?mod {module};\n", "", text)
            if found != 1:
                sys.exit(f"{name} does not name module `{module}` once: correct LEFT_OUT in {__file__}")
        (TREE / name).write_text(text)


def mutate(file):
    """Runs cargo-mutants over one file; returns what became of each mutant."""
    output = TREE / "outcomes" / file
    output.mkdir(parents=True)
    command = ["cargo", "mutants", "--in-place", "--timeout", TIMEOUT, "--output", str(output), f"--file={file}", "--", "--", *CORE[file]]
    environment = os.environ | {
        "PATH": f"{ROOT / '.tools' / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "CARGO_TARGET_DIR": str(TREE.parent / "build"),
        # The same cases for every mutant and in every run, none kept from an earlier mutant, and no time spent on shrinking.
        "PROPTEST_RNG_SEED": "1",
        "PROPTEST_DISABLE_FAILURE_PERSISTENCE": "1",
        "PROPTEST_MAX_SHRINK_ITERS": "0",
    }
    code = subprocess.run(command, cwd=TREE, env=environment).returncode
    # 2: some mutants survived, 3: some hung. Anything else means that nothing was measured.
    if code not in (0, 2, 3):
        sys.exit(f"cargo-mutants ended with {code}: see {output}")
    outcomes = json.loads((output / "mutants.out" / "outcomes.json").read_text())["outcomes"]
    return [outcome for outcome in outcomes if outcome["scenario"] != "Baseline"]


def main():
    files = [os.path.relpath(Path(file).resolve(), ROOT) for file in sys.argv[1:]] or list(CORE)
    for file in files:
        if file not in CORE:
            sys.exit(f"{file} is not of the decision core: {', '.join(CORE)}")
    lay_out()
    begun = time.monotonic()
    table, survivors = [], []
    kinds = ["CaughtMutant", "Timeout", "MissedMutant", "Unviable"]
    for file in files:
        since = time.monotonic()
        outcomes = mutate(file)
        counts = [sum(outcome["summary"] == kind for outcome in outcomes) for kind in kinds]
        if sum(counts) != len(outcomes):
            sys.exit(f"cargo-mutants knows outcomes that this script does not: see {TREE / 'outcomes' / file}")
        table.append((file, counts, time.monotonic() - since))
        survivors += [outcome["scenario"]["Mutant"]["name"] for outcome in outcomes if outcome["summary"] == "MissedMutant"]

    print(f"\n{'file':28} killed  hung  survived  unviable  seconds")
    total = [sum(counts[n] for _, counts, _ in table) for n in range(len(kinds))]
    for file, counts, seconds in [*table, ("", total, time.monotonic() - begun)]:
        print(f"{file:28} {counts[0]:6} {counts[1]:5} {counts[2]:9} {counts[3]:9} {seconds:8.0f}")
    for name in survivors:
        print(f"survived: {name}")
    killed, viable = total[0] + total[1], sum(total[:3])
    if viable == 0:
        sys.exit("no mutant was viable: nothing was measured")
    print(f"{killed} of {viable} viable mutants killed: {killed / viable:.1%}, in {(time.monotonic() - begun) / 60:.0f} minutes")
    few = [file for file, counts, _ in table if counts[0] + counts[1] < KILLED_LEAST * sum(counts[:3])]
    if few:
        sys.exit(f"less than {KILLED_LEAST:.0%} in {', '.join(few)}")


main()
