#!/usr/bin/env python3
"""Runs what the documents show, so that no command in them can go false.

A fenced block's first line says what becomes of it:

    ```sh ci           run in the repository, by bash, ends at the first failure
    ```sh ci scratch   run in a scratch directory, the binary that earlier blocks installed on its PATH
    ```sh ci usage     needs services or never ends: each line runs with --help added, so its words and options must exist
    ```sh ci make      takes long: each line is a call of make, which says what it would do
    ```sh cloud        needs a cloud, a cluster or a machine of its own: bash reads it and runs nothing
    ```toml file=PATH  written to PATH in the scratch directory
    ```python ci       run by Python

Every `sh` block must carry one of these marks. Lines named by --done ran already and are passed over.
"""

import argparse
import os
import pathlib
import re
import subprocess
import sys
import tempfile

BLOCK = re.compile(r"^```(?P<mark>[^\n`]+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
# Obvious test values for what a person would have in the environment.
SECRETS = {"PULUMI_ACCESS_TOKEN": "pul-documented", "AZURE_CLIENT_SECRET": "documented", "AWS_SECRET_ACCESS_KEY": "documented"}


def commands(text):
    """The lines of a shell block without comments, continued lines joined."""
    lines = text.replace("\\\n", " ").splitlines()
    return [line for line in (re.sub(r"\s+#.*", "", line).strip() for line in lines) if line and not line.startswith("#")]


def shell(lines, directory, environment):
    for line in lines:
        print(f"$ {line}", flush=True)
    script = "\n".join(["set -euo pipefail", *lines])
    return subprocess.run(["bash", "-c", script], cwd=directory, env=environment, check=False).returncode


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--done", action="append", default=[])
    parser.add_argument("documents", nargs="+", type=pathlib.Path)
    arguments = parser.parse_args()
    failures = []
    with tempfile.TemporaryDirectory() as home:
        scratch = pathlib.Path(home, "scratch")
        scratch.mkdir()
        environment = os.environ | SECRETS | {"CARGO_INSTALL_ROOT": home}
        environment["PATH"] = f"{home}/bin:{environment['PATH']}"
        for document in arguments.documents:
            for block in BLOCK.finditer(document.read_text()):
                mark, text = block["mark"].split(), block["text"]
                place = f"{document}:{document.read_text()[: block.start()].count(chr(10)) + 1}"
                lines = [line for line in commands(text) if line not in arguments.done]
                if mark[0] == "toml" and mark[1:2] and mark[1].startswith("file="):
                    file = scratch / mark[1].removeprefix("file=")
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_text(text)
                    code = 0
                elif mark == ["sh", "ci"]:
                    code = shell(lines, None, environment)
                elif mark == ["sh", "ci", "scratch"]:
                    code = shell(lines, scratch, environment)
                elif mark == ["sh", "ci", "usage"]:
                    code = shell([f"{line} --help > /dev/null" for line in lines], scratch, environment)
                elif mark == ["sh", "ci", "make"]:
                    code = shell([f"{line} --dry-run > /dev/null" for line in lines], None, environment)
                elif mark == ["sh", "cloud"]:
                    code = subprocess.run(["bash", "-n", "-c", text], check=False).returncode
                elif mark == ["python", "ci"]:
                    code = subprocess.run([sys.executable, "-c", text], check=False).returncode
                elif mark[0] in ("sh", "bash", "shell", "console"):
                    print(f"{place}: say what becomes of this block: `sh ci`, `sh ci scratch`, `sh ci usage`, `sh ci make` or `sh cloud`", file=sys.stderr)
                    code = 2
                else:
                    code = 0
                if code:
                    failures.append(f"{place}: exit code {code}")
    for failure in failures:
        print(failure, file=sys.stderr)
    sys.exit(1 if failures else 0)


main()
