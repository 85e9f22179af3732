"""Holds resources against the models of Azure's own Python clients: an unknown or misspelt field, one that is only read, a value of the
wrong kind or outside an enumeration, a required field that is missing.

Reads a list of resources from standard input and prints what is wrong with those whose types it knows, and which these are.
"""

import enum
import inspect
import json
import re
import sys

from azure.mgmt.authorization.v2022_04_01 import models as authorization
from azure.mgmt.loganalytics import models as loganalytics
from azure.mgmt.monitor import models as monitor

MODELS = {
    "Microsoft.Insights/dataCollectionEndpoints": (monitor, monitor.DataCollectionEndpointResource),
    "Microsoft.Insights/dataCollectionRules": (monitor, monitor.DataCollectionRuleResource),
    "Microsoft.OperationalInsights/workspaces/tables": (loganalytics, loganalytics.Table),
    "Microsoft.Authorization/roleAssignments": (authorization, authorization.RoleAssignmentCreateParameters),
}
# What a template says of every resource, and no model of a body knows.
COMMON = {"id", "type", "apiVersion", "name", "scope", "dependsOn", "deployed"}
# The client lists two kinds; the documentation of data collection rules has this one (and Azure answers with endpoints for it alone).
# Nor does it list streams of one's own.
UNLISTED = {"DataCollectionRuleResource.kind": r"Direct", "DataFlow.streams": r"Custom-\w+"}
PLAIN = {"str": str, "int": int, "bool": bool, "float": float}


def fields(models, model):
    """Of a model: each field's path, its type, whether it may be written, whether it must be, and the values it may have."""
    if hasattr(model, "_attribute_map"):
        signature = inspect.signature(model.__init__).parameters
        for name, described in model._attribute_map.items():
            rules = model._validation.get(name, {})
            said = str(signature[name].annotation) if name in signature else ""
            path = described["key"].replace("\\.", "\0").split(".")
            yield [part.replace("\0", ".") for part in path], described["type"], rules, enumeration(models, said)
    else:
        for name, field in model()._attr_to_rest_field.items():
            said = str(annotation(model, name))
            inner = re.search(r"_models\.(\w+)", said)
            kind = inner[1] if inner and enumeration(models, said) is None else next((plain for plain in PLAIN if plain in said.replace("_models", "")), "str")
            kind = f"[{kind}]" if "List[" in said or "list[" in said else kind
            yield [field._rest_name], kind, {"readonly": field._visibility == ["read"]}, enumeration(models, said)


def annotation(model, name):
    return next(kind.__annotations__[name] for kind in model.__mro__ if name in getattr(kind, "__annotations__", {}))


def enumeration(models, said):
    for name in re.findall(r"_models\.(\w+)", said):
        found = getattr(models, name)
        if isinstance(found, type) and issubclass(found, enum.Enum):
            return {item.value for item in found}
    return None


def walk(models, kind, value, where, values=None, unlisted="(?!)"):
    """What is wrong with a value of a type in the clients' notation."""
    if kind.startswith("["):
        if not isinstance(value, list):
            yield f"{where} is no list"
            return
        for number, item in enumerate(value):
            yield from walk(models, kind[1:-1], item, f"{where}[{number}]", values, unlisted)
    elif kind.startswith("{"):
        if not isinstance(value, dict):
            yield f"{where} is no object"
            return
        for key, item in value.items():
            yield from walk(models, kind[1:-1], item, f"{where}.{key}", values, unlisted)
    elif kind in PLAIN:
        if type(value) is not PLAIN[kind]:
            yield f"{where} is no {kind}: {value!r}"
        elif values is not None and value not in values and not re.fullmatch(unlisted, value):
            yield f"{where} is {value!r}, not one of {sorted(values)}"
    else:
        yield from body(models, getattr(models, kind), value, where)


def body(models, model, value, where, common=frozenset()):
    if not isinstance(value, dict):
        yield f"{where} is no object"
        return
    known = {tuple(path): (kind, rules, values) for path, kind, rules, values in fields(models, model)}
    # Paths of several steps are fields of objects that have no model of their own.
    inner = {path[:1] for path in known if len(path) > 1}

    def step(value, above):
        for key, item in value.items():
            path = (*above, key)
            place = ".".join([where, *path])
            if not above and key in common:
                continue
            if path in known:
                kind, rules, values = known[path]
                if rules.get("readonly"):
                    yield f"{place} can only be read"
                else:
                    yield from walk(models, kind, item, place, values, UNLISTED.get(f"{model.__name__}.{'.'.join(path)}", "(?!)"))
            elif path in inner:
                yield from step(item, path)
            else:
                yield f"{place} is unknown to {model.__name__}"

    yield from step(value, ())
    for path, (_, rules, _) in known.items():
        if rules.get("required") and (path[0] not in value or len(path) > 1 and path[1] not in value[path[0]]):
            yield f"{where}.{'.'.join(path)} is missing"


def main():
    problems, judged = [], []
    for resource in json.load(sys.stdin):
        if resource["type"] in MODELS:
            judged.append(resource["id"])
            problems += body(*MODELS[resource["type"]], resource, resource["type"], COMMON)
    print(json.dumps({"problems": problems, "judged": judged}))


main()
