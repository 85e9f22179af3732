#!/usr/bin/env python3
"""Writes an archive of an image as `docker load` takes it so that the same image is the same bytes: archive.py FROM TO

buildah notes in the configuration which container it was made in, and that container's name as the host's: both are chance, mean nothing to
whoever runs the image, and are left out here. The layers stay as they are.
"""

import hashlib
import io
import json
import sys
import tarfile


def main():
    source, target = sys.argv[1:]
    with tarfile.open(source) as archive:
        read = lambda name: archive.extractfile(name).read()
        (manifest,) = json.loads(read("manifest.json"))
        config = json.loads(read(manifest["Config"]))
        layers = {name: read(name) for name in manifest["Layers"]}
    for key in ("container", "container_config"):
        config.pop(key, None)
    config["config"].pop("Hostname", None)
    text = json.dumps(config, sort_keys=True, separators=(",", ":")).encode()
    manifest["Config"] = f"{hashlib.sha256(text).hexdigest()}.json"
    files = {"manifest.json": json.dumps([manifest], sort_keys=True).encode(), manifest["Config"]: text} | layers
    with tarfile.open(target, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in sorted(files.items()):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), 0o444
            archive.addfile(entry, io.BytesIO(data))


main()
