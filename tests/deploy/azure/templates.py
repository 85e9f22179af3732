"""The two templates of deploy/azure: that they mean the same, and what a deployment of one would send.

`templates.py compare MAIN.bicep AZUREDEPLOY.json` prints what is wrong, as a list, and how many deployments were compared.
`templates.py deploy AZUREDEPLOY.json` reads `{"parameters", "cloud"?, "runtime"?}` from standard input and prints resources and outputs.
"""

import itertools
import json
import pathlib
import sys

import bicep
from expressions import Problem, deploy, of_json

RESOURCE_KEYS = {"condition", "type", "apiVersion", "name", "scope", "location", "kind", "properties", "dependsOn"}
REQUIRED = {"workspaceName": "siem", "principalId": "22222222-2222-2222-2222-22222222bbbb"}
# Values of each parameter that make a difference; what stands here for none would be compared by its default alone.
CHOICES = {
    "location": [None, "northeurope"],
    "columns": ["extended", "official", "connector"],
    "ruleName": [None, "other"],
    "plan": ["Analytics", "Basic"],
    "retentionInDays": [None, 90],
    "totalRetentionInDays": [None, 4383],
    "privateLink": [False, True],
    "heartbeat": [False, True],
    "analyticRules": [False, True],
    "diagnosticWorkspaceId": [None, "/subscriptions/x/resourceGroups/y/providers/Microsoft.OperationalInsights/workspaces/z"],
}


def arm(path):
    """The ARM template in the form that `deploy` takes."""
    read = json.loads(pathlib.Path(path).read_text())
    if unknown := read.keys() - {"$schema", "contentVersion", "metadata", "parameters", "variables", "resources", "outputs"}:
        raise Problem(f"unknown in the template: {sorted(unknown)}")
    parameters = {}
    for name, parameter in read["parameters"].items():
        known = {"type", "defaultValue", "allowedValues", "minValue", "maxValue", "metadata"}
        if unknown := parameter.keys() - known:
            raise Problem(f"unknown in parameter {name}: {sorted(unknown)}")
        parameters[name] = {
            "type": parameter["type"],
            "default": of_json(parameter["defaultValue"]) if "defaultValue" in parameter else None,
            "allowed": parameter.get("allowedValues"),
            "min": parameter.get("minValue"),
            "max": parameter.get("maxValue"),
            "description": parameter["metadata"]["description"],
        }
    resources = []
    for resource in read["resources"]:
        if unknown := resource.keys() - RESOURCE_KEYS:
            raise Problem(f"unknown in a resource: {sorted(unknown)}")
        made = {key: of_json(value) for key, value in resource.items() if key not in ("type", "apiVersion", "dependsOn")}
        made["condition"] = of_json(resource.get("condition", True))
        made |= {"type": resource["type"], "apiVersion": resource["apiVersion"]}
        made["dependsOn"] = [of_json(needed) for needed in resource.get("dependsOn", [])]
        resources.append(made)
    return {
        "parameters": parameters,
        "variables": {name: of_json(value) for name, value in read["variables"].items()},
        "resources": resources,
        "outputs": {
            name: {"type": output["type"], "value": of_json(output["value"]), "description": output["metadata"]["description"]}
            for name, output in read["outputs"].items()
        },
    }


def texts(value):
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from texts(key)
            yield from texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from texts(inner)
    elif isinstance(value, str):
        yield value


def wants(resources):
    """Pairs of ids: what a resource needs to be there before it, from what it says, not from what it declares."""
    by_id = {resource["id"]: resource for resource in resources if resource["deployed"]}
    tables = {id.rsplit("/", 1)[1]: id for id, resource in by_id.items() if resource["type"].endswith("/tables")}
    for id, resource in by_id.items():
        said = list(texts(resource.get("properties"))) + [resource.get("scope", "")]
        for other in by_id.keys() - {id}:
            if other in said:
                yield id, other
        if resource["type"].endswith("/tables"):
            continue
        for name, table in tables.items():
            if any(name in word for word in said):
                yield id, table


def before(resources, id):
    by_id = {resource["id"]: resource for resource in resources}
    found, new = set(), {id}
    while new:
        new = {needed for one in new for needed in by_id[one]["dependsOn"]} - found
        found |= new
    return found


def flows(resources):
    """What is wrong with the streams, destinations and tables that the rule names."""
    tables = {resource["properties"]["schema"]["name"] for resource in resources if resource["type"].endswith("/tables")}
    for rule in resources:
        if rule["type"] != "Microsoft.Insights/dataCollectionRules":
            continue
        properties = rule["properties"]
        destinations = {place["name"] for place in properties["destinations"]["logAnalytics"]}
        sent = [stream for flow in properties["dataFlows"] for stream in flow["streams"]]
        if sorted(sent) != sorted(properties["streamDeclarations"]):
            yield f"streams {sent} flow, {sorted(properties['streamDeclarations'])} are declared"
        for flow in properties["dataFlows"]:
            if len(flow["streams"]) != 1:
                yield f"a flow with a transform takes one stream: {flow['streams']}"
            if set(flow["destinations"]) - destinations:
                yield f"an unknown destination: {flow['destinations']}"
            if flow["outputStream"].removeprefix("Custom-") not in tables:
                yield f"no table for {flow['outputStream']}"
            if len(flow["transformKql"]) > 15_360:
                yield "a transform is too long"


def compare(bicep_path, arm_path):
    # A third of a second, which deployments need not wait for.
    import pycep

    problems = []
    source = pathlib.Path(bicep_path).read_text()
    one, other = bicep.read(source), arm(arm_path)
    # Somebody else's reader of Bicep sees the same declarations.
    parsed = pycep.BicepParser().parse(text=source)
    for kind, ours in (("parameters", one["parameters"]), ("variables", one["variables"]), ("outputs", one["outputs"])):
        if set(parsed[kind]) != set(ours):
            problems.append(f"pycep reads other {kind}: {sorted(set(parsed[kind]) ^ set(ours))}")
    theirs = sorted((item["type"], item["api_version"]) for item in parsed["resources"].values() if not item["existing"])
    if theirs != sorted((item["type"], item["apiVersion"]) for item in one["resources"]):
        problems.append(f"pycep reads other resources: {theirs}")

    for name in sorted(one["parameters"].keys() | other["parameters"].keys()):
        pair = [template["parameters"].get(name) for template in (one, other)]
        if pair[0] != pair[1]:
            problems.append(f"parameter {name} differs: {pair}")
    for name in sorted(one["outputs"].keys() | other["outputs"].keys()):
        pair = [{**template["outputs"].get(name, {}), "value": None} for template in (one, other)]
        if pair[0] != pair[1]:
            problems.append(f"output {name} differs: {pair}")
    if undecided := one["parameters"].keys() - REQUIRED.keys() - CHOICES.keys():
        problems.append(f"no values to compare by: {sorted(undecided)}")

    count, used = 0, {"bicep": set(), "arm": set()}
    # Every choice of what decides, each with the others' defaults and with none of them.
    free = {name for name, values in CHOICES.items() if None in values}
    for values in itertools.product(*(CHOICES[name] for name in CHOICES if name not in free)):
        decided = dict(zip((name for name in CHOICES if name not in free), values))
        for others in ({}, {name: CHOICES[name][1] for name in free}):
            for cloud in ("AzureCloud", "AzureUSGovernment"):
                count += 1
                given = REQUIRED | decided | others
                made = {}
                for which, template in (("bicep", one), ("arm", other)):
                    made[which], seen = deploy(template, given, cloud)
                    used[which] |= seen
                problems += differences(given, *made.values())
                deployed = [resource for resource in made["arm"]["resources"] if resource["deployed"]]
                problems += flows(deployed)
                for id, needed in wants(deployed):
                    if needed not in before(made["arm"]["resources"], id):
                        problems.append(f"{id} is not deployed after {needed}")
    for which, template in (("bicep", one), ("arm", other)):
        declared = {("parameter", name) for name in template["parameters"]} | {("variable", name) for name in template["variables"]}
        if unused := declared - used[which]:
            problems.append(f"never used in {which}: {sorted(unused)}")
    return {"deployments": count, "problems": sorted(set(problems))}


def differences(given, one, other):
    by_id = [{resource["id"]: resource for resource in made["resources"]} for made in (one, other)]
    for id in sorted(by_id[0].keys() | by_id[1].keys()):
        pair = [side.get(id) for side in by_id]
        if None in pair:
            yield f"only one of the two has {id}"
            continue
        for key in sorted(pair[0].keys() | pair[1].keys()):
            if pair[0].get(key) != pair[1].get(key):
                yield f"{key} of {id} differs: {pair[0].get(key)!r} and {pair[1].get(key)!r}"
    if one["outputs"] != other["outputs"]:
        yield f"with {given} the outputs differ: {one['outputs']} and {other['outputs']}"


def main():
    match sys.argv[1:]:
        case ["compare", bicep_path, arm_path]:
            answer = compare(bicep_path, arm_path)
        case ["deploy", path]:
            asked = json.load(sys.stdin)
            answer, _ = deploy(arm(path), asked["parameters"], asked.get("cloud", "AzureCloud"), asked.get("runtime"))
        case _:
            sys.exit(__doc__)
    print(json.dumps(answer))


try:
    main()
except Problem as problem:
    sys.exit(f"template: {problem}")
