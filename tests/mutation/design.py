#!/usr/bin/env python3
"""Runs the simulator over each design mutant (`src/mutant.rs`) until it notices, at most 1,000 seeds (`make design-mutants`).

Fails when a mutant survives all seeds, and when the build without a mistake does not: then what it says of the others is worth nothing.

    design.py [MUTANT…]    only these, say no-overlap
"""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SEEDS = 1_000
# A mutant that hangs the simulator has not been caught by it.
SECONDS_MAX = 1_800
BUILD = ["cargo", "test", "--release", "--locked", "--features", "design-mutants", "--test", "simulate", "--no-run", "--message-format", "json-render-diagnostics"]


def names():
    found = re.findall(r'Mutant::\w+ => "([a-z0-9-]+)"', (ROOT / "src" / "mutant.rs").read_text())
    if not found:
        sys.exit("src/mutant.rs names no mutant")
    return found


def simulator():
    built = subprocess.run(BUILD, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if built.returncode != 0:
        sys.exit("the simulator cannot be built with the feature `design-mutants`")
    messages = [json.loads(line) for line in built.stdout.splitlines() if line.startswith("{")]
    executables = [message["executable"] for message in messages if message.get("executable") and message["target"]["name"] == "simulate"]
    if len(executables) != 1:
        sys.exit(f"one simulator was to be built, and there are {len(executables)}")
    return executables[0]


def run(program, mutant):
    """Exit code, or `None` when it did not end; what it printed; seconds."""
    environment = os.environ | {"PAF_MUTANT": mutant}
    command = [program, "--seeds", str(SEEDS), "--until-failure", "--no-shrink"]
    begun = time.monotonic()
    try:
        done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, timeout=SECONDS_MAX)
    except subprocess.TimeoutExpired:
        return None, "", time.monotonic() - begun
    return done.returncode, done.stdout, time.monotonic() - begun


def main():
    known = names()
    wanted = sys.argv[1:] or known
    for name in wanted:
        if name not in known:
            sys.exit(f"{name} is none of {', '.join(known)}")
    program = simulator()
    code, said, seconds = run(program, "")
    if code != 0:
        sys.exit(f"{said}\nthe build without a mistake fails: nothing can be said of the mutants")
    print(f"{'mutant':28} {'seed':>6} {'seconds':>8}  what was noticed", flush=True)
    print(f"{'(none)':28} {'-':>6} {seconds:8.1f}  nothing in {SEEDS} seeds", flush=True)
    survived = []
    for name in wanted:
        code, said, seconds = run(program, name)
        found = re.search(r"^first failure: seed (\d+)", said, re.MULTILINE)
        if code == 0 or not found:
            survived.append(name)
            what = "did not end" if code is None else f"survived {SEEDS} seeds" if code == 0 else f"ended with {code} and named no seed"
            print(f"{name:28} {'-':>6} {seconds:8.1f}  {what.upper()}", flush=True)
            continue
        # The first objection below the seed's own line.
        noticed = re.search(r"^make simulate .*\n +(.*)$", said, re.MULTILINE)
        print(f"{name:28} {found[1]:>6} {seconds:8.1f}  {noticed[1][:110] if noticed else ''}", flush=True)
    if survived:
        sys.exit(f"not caught: {', '.join(survived)}")


main()
