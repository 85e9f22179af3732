"""Reads YAML documents from standard input; writes each as JSON with what Kubernetes would say against it.

Core objects are held against the schemas of one version of Kubernetes, unknown fields refused. Those of others are only counted.
"""

import json
import sys

import kubernetes_validate
import yaml

VERSION = "1.35"
OTHERS = {"monitoring.coreos.com/v1", "secrets-store.csi.x-k8s.io/v1"}


def problem(thing):
    if thing["apiVersion"] in OTHERS:
        return None
    try:
        kubernetes_validate.validate(thing, VERSION, strict=True)
    except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
        return f"{thing['kind']}: {error}"
    return None


documents = [thing for thing in yaml.safe_load_all(sys.stdin) if thing is not None]
json.dump([{"object": thing, "problem": problem(thing)} for thing in documents], sys.stdout)
