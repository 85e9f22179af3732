#!/usr/bin/env python3
"""Compares the tables of docs/dependencies.md with the manifest: every direct dependency stands there with its reason, and no other."""

import json
import pathlib
import re
import subprocess
import sys

PAGE = pathlib.Path("docs/dependencies.md")

metadata = json.loads(subprocess.check_output(["cargo", "metadata", "--no-deps", "--format-version", "1", "--locked"]))
declared = {dependency["name"] for package in metadata["packages"] for dependency in package["dependencies"]}
# A row's first cell names one crate, or several that were decided together.
cells = re.findall(r"^\| (`[^|]*`) \|", PAGE.read_text(), re.MULTILINE)
written = {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}

for name in sorted(declared - written):
    print(f"{PAGE}: add a row for `{name}`: what it is for, and why it and not another", file=sys.stderr)
for name in sorted(written - declared):
    print(f"{PAGE}: `{name}` is no dependency any more: remove its row", file=sys.stderr)
sys.exit(declared != written)
