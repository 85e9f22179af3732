"""Reads YAML documents from standard input; writes each as JSON with what Kubernetes would say against it.

Core objects are held against the schemas of the oldest version of Kubernetes that the chart names and of the newest there is, unknown fields refused. Those of others are only counted.
"""

import json
import sys

import kubernetes_validate
import yaml

VERSIONS = ("1.29", "1.37")
OTHERS = {"monitoring.coreos.com/v1", "secrets-store.csi.x-k8s.io/v1"}


def problem(thing):
    if thing["apiVersion"] in OTHERS:
        return None
    for version in VERSIONS:
        try:
            kubernetes_validate.validate(thing, version, strict=True)
        except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
            return f"{thing['kind']} in {version}: {error}"
    return None


documents = [thing for thing in yaml.safe_load_all(sys.stdin) if thing is not None]
json.dump([{"object": thing, "problem": problem(thing)} for thing in documents], sys.stdout)
