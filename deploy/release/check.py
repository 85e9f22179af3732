#!/usr/bin/env python3
"""Looks into what was built, before it becomes a release: check.py BUILT OUT PATH…

BUILT holds both binaries and the list of components, OUT what is handed out. The PATHs are those of the machine that built it: nothing may name them.
"""

import hashlib
import json
import pathlib
import re
import subprocess
import sys
import zlib

NAME = "pulumi-audit-forwarder"
# RHEL 9 and its relatives have this one, Debian 12 and Ubuntu 22.04 newer ones.
GLIBC_MAX = (2, 34)

mistakes = []


def demand(true, mistake):
    if not true:
        mistakes.append(mistake)


def ran(*words):
    return subprocess.run(words, check=True, stdout=subprocess.PIPE).stdout


def written_inside(binary):
    """The crates that cargo-auditable wrote into a binary: those that run, and with them those that only its build ran."""
    section = pathlib.Path(f"{binary}.dep-v0")
    ran("objcopy", "--dump-section", f".dep-v0={section}", binary, "/dev/null")
    packages = json.loads(zlib.decompress(section.read_bytes()))["packages"]
    section.unlink()
    named = [(package["name"], package["version"], package.get("kind", "runtime")) for package in packages]
    return {(name, version) for name, version, kind in named if kind == "runtime"}, {(name, version) for name, version, _ in named}


built, out = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
places = [str(pathlib.Path(place).resolve()) for place in sys.argv[3:]]
dynamic, static = built / NAME, built / f"{NAME}-static"

# Which crates it is made of: three programs that do not know each other say the same.
components = json.loads((built / f"{NAME}.cdx.json").read_text())["components"]
listed = {(component["name"], component["version"]) for component in components}
lock = set(re.findall(r'name = "(.+)"\nversion = "(.+)"', pathlib.Path("Cargo.lock").read_text()))
for binary in (dynamic, static):
    inside, with_build = written_inside(binary)
    own = {package for package in inside if package[0] == NAME}
    demand(len(own) == 1, f"{binary.name} does not say what it is")
    demand(len(inside) > 100, f"{binary.name} says that it is made of {len(inside)} crates: so few cannot be all")
    demand(with_build <= lock, f"{binary.name} names what is not in Cargo.lock: {sorted(with_build - lock)}")
    # The list has the macros too, which only the build runs.
    demand(inside - own <= listed, f"the list of components lacks what {binary.name} is made of: {sorted(inside - own - listed)}")
    demand(listed <= with_build, f"the list of components has what {binary.name} is not made of: {sorted(listed - with_build)}")

# What it needs of a system.
versions = {tuple(map(int, version.split("."))) for version in re.findall(r"GLIBC_([0-9.]+)", ran("objdump", "-T", dynamic).decode())}
demand(versions and max(versions) <= GLIBC_MAX, f"{dynamic.name} needs glibc {max(versions, default='?')}, and RHEL 9 has {GLIBC_MAX}")
demand("NEEDED" not in ran("readelf", "-d", static).decode(), f"{static.name} is not static")
demand("INTERP" not in ran("readelf", "-lW", static).decode(), f"{static.name} wants an interpreter")
said = {binary: ran(binary, "--version") for binary in (dynamic, static)}
demand(len(set(said.values())) == 1, f"the binaries say different things of themselves: {said}")

# Where it was built is nobody's business, and would be different elsewhere.
for file in sorted(built.iterdir()):
    for place in places:
        demand(place.encode() not in file.read_bytes(), f"{file.name} names {place}")

# What is packed is what was looked at.
digest = hashlib.sha256(dynamic.read_bytes()).hexdigest()
(tarball,), (deb,), (rpm,) = (list(out.glob(f"*.{ending}")) for ending in ("tar.gz", "deb", "rpm"))
folder = tarball.name.removesuffix(".tar.gz")
demand(hashlib.sha256(ran("tar", "-xOf", tarball, f"{folder}/{NAME}")).hexdigest() == digest, f"{tarball.name} holds another binary")
files = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", deb], stdout=subprocess.PIPE)
packed = subprocess.run(["tar", "-xO", f"./usr/bin/{NAME}"], stdin=files.stdout, check=True, stdout=subprocess.PIPE).stdout
demand(files.wait() == 0 and hashlib.sha256(packed).hexdigest() == digest, f"{deb.name} holds another binary")
demand(f"/usr/bin/{NAME}" in (line := next(line for line in ran("rpm", "-qp", "--dump", rpm).decode().splitlines() if line.startswith("/usr/bin/"))) and digest in line, f"{rpm.name} holds another binary")
sums = dict(reversed(line.split("  ")) for line in (out / "SHA256SUMS").read_text().splitlines())
demand(sums == {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in out.iterdir() if file.name != "SHA256SUMS"}, "SHA256SUMS are of other files")

for file in (dynamic, static, tarball, deb, rpm):
    print(f"{file.stat().st_size / 1e6:7.1f} MB  {file.name}")
print(f"{len(listed)} crates, glibc {'.'.join(map(str, max(versions)))}, {said[dynamic].decode().strip()}")
for mistake in mistakes:
    print(f"release: {mistake}", file=sys.stderr)
sys.exit(1 if mistakes else 0)
