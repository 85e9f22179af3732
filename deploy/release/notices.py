#!/usr/bin/env python3
"""Writes the licences of every crate in the program, as their authors wrote them: what the licences ask of whoever hands out the binary.

The list of components (CycloneDX) says which crates these are; their files are where Cargo has unpacked them. A text that several crates share stands there once.
"""

import json
import pathlib
import re
import subprocess
import sys

LICENCE = re.compile(r"(licen[cs]e|copying|notice|copyright|unlicense)", re.IGNORECASE)


def texts(crate):
    """The licence files of a crate: at its top, or in a folder that is called so."""
    files = [file for file in crate.iterdir() if file.is_file() and LICENCE.match(file.name)]
    for folder in crate.iterdir():
        if folder.is_dir() and LICENCE.match(folder.name):
            files += [file for file in folder.iterdir() if file.is_file()]
    return [file.read_text(errors="replace").replace("\r\n", "\n").strip() for file in sorted(files)]


def main():
    components = json.loads(pathlib.Path(sys.argv[1]).read_text())["components"]
    metadata = json.loads(subprocess.check_output(["cargo", "metadata", "--format-version", "1", "--locked"]))
    crates = {(package["name"], package["version"]): package for package in metadata["packages"]}
    shared, bare = {}, []
    for component in components:
        package = crates[component["name"], component["version"]]
        name = f"{package['name']} {package['version']} ({package['license'] or 'see its text'})"
        found = texts(pathlib.Path(package["manifest_path"]).parent)
        for text in found:
            shared.setdefault(text, []).append(name)
        if not found:
            bare.append((name, ", ".join(package["authors"]) or package["repository"]))
    print("pulumi-audit-forwarder is made of the crates named here, besides its own code (Apache-2.0). Their licences, as their authors wrote them:")
    for text, names in sorted(shared.items(), key=lambda item: item[1]):
        print(f"\n{'=' * 100}\n\n" + "\n".join(names) + f"\n\n{text}")
    if bare:
        print(f"\n{'=' * 100}\n\nThese name their licence and come without its text; by whom:\n")
        print("\n".join(f"{name}: {whose}" for name, whose in bare))


main()
