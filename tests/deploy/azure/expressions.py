"""Expressions of deployment templates: read, and evaluated as Azure Resource Manager does, as far as deploy/azure uses them.

An expression is a tuple: ("value", v), ("call", name, arguments), ("member", base, key), ("array", items), ("object", pairs).
What is not known here is an error: so is a function, a property or a resource that does not exist.
"""

import hashlib
import re
import uuid

SUBSCRIPTION = "00000000-0000-0000-0000-00000000aaaa"
GROUP = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/audit"

TOKEN = re.compile(r"\s*('(?:[^']|'')*'|-?\d+|[A-Za-z_]\w*|[()\[\].,])")


class Problem(Exception):
    pass


def call(name, *arguments):
    return ("call", name, list(arguments))


def text(value):
    return ("value", value)


def of_json(value):
    """An expression of a value of the template: texts in brackets are expressions themselves."""
    if isinstance(value, dict):
        return ("object", [(key, of_json(inner)) for key, inner in value.items()])
    if isinstance(value, list):
        return ("array", [of_json(inner) for inner in value])
    if isinstance(value, str) and value.startswith("[[") and value.endswith("]"):
        return text(value[1:])
    if isinstance(value, str) and value.startswith("[") and value.endswith("]"):
        return parse(value[1:-1])
    return text(value)


def parse(source):
    tokens, at = [], 0
    while source[at:].strip():
        match = TOKEN.match(source, at)
        if not match:
            raise Problem(f"not an expression: {source[at:]!r}")
        tokens.append(match[1])
        at = match.end()
    tokens.append(None)
    place = 0

    def take(wanted=None):
        nonlocal place
        token = tokens[place]
        if token is None or wanted not in (None, token):
            raise Problem(f"expected {wanted or 'more'}, found {token!r} in {source!r}")
        place += 1
        return token

    def one():
        token = take()
        if token.startswith("'"):
            found = text(token[1:-1].replace("''", "'"))
        elif token.lstrip("-").isdigit():
            found = text(int(token))
        elif token in ("true", "false"):
            found = text(token == "true")
        else:
            take("(")
            arguments = []
            while tokens[place] != ")":
                if arguments:
                    take(",")
                arguments.append(one())
            take(")")
            found = call(token, *arguments)
        while tokens[place] in (".", "["):
            if take() == ".":
                found = ("member", found, text(take()))
            else:
                found = ("member", found, one())
                take("]")
        return found

    whole = one()
    if tokens[place] is not None:
        raise Problem(f"more than one expression: {source!r}")
    return whole


def resource_id(base, kind, names):
    provider, *types = kind.split("/")
    if len(types) != len(names):
        raise Problem(f"{kind} has {len(types)} names, not {names}")
    return f"{base}/providers/{provider}" + "".join(f"/{type}/{name}" for type, name in zip(types, names))


class Scope:
    """One deployment: values of the parameters, and what has been asked for."""

    def __init__(self, template, given, cloud="AzureCloud", runtime=None):
        self.template, self.cloud, self.runtime = template, cloud, runtime or {}
        self.used, self.referable = set(), None
        self.parameters = {name: self.parameter(name, given) for name in template["parameters"]}
        if unknown := set(given) - set(template["parameters"]):
            raise Problem(f"unknown parameters: {sorted(unknown)}")

    def parameter(self, name, given):
        declared = self.template["parameters"][name]
        if name in given:
            value = given[name]
        elif declared["default"] is None:
            raise Problem(f"parameter {name} has no value")
        else:
            value = self.evaluate(declared["default"])
        kinds = {"string": str, "int": int, "bool": bool}
        if type(value) is not kinds[declared["type"]]:
            raise Problem(f"parameter {name} is no {declared['type']}: {value!r}")
        if declared["allowed"] is not None and value not in declared["allowed"]:
            raise Problem(f"parameter {name} may not be {value!r}")
        if declared["min"] is not None and not declared["min"] <= value <= declared["max"]:
            raise Problem(f"parameter {name} may not be {value!r}")
        return value

    def evaluate(self, expression):
        match expression:
            case ("value", value):
                return value
            case ("array", items):
                return [self.evaluate(item) for item in items]
            case ("object", pairs):
                return {key: self.evaluate(value) for key, value in pairs}
            case ("member", base, key):
                base, key = self.evaluate(base), self.evaluate(key)
                try:
                    return base[key]
                except (KeyError, IndexError, TypeError):
                    raise Problem(f"there is no {key!r} in {base!r}") from None
            case ("call", "if", [condition, yes, no]):
                # Only the branch that counts is looked at, as by Resource Manager.
                return self.evaluate(yes if self.truth(condition) else no)
            case ("call", "and", conditions):
                return all(self.truth(condition) for condition in conditions)
            case ("call", "parameters", [("value", name)]):
                self.used.add(("parameter", name))
                if name not in self.parameters:
                    raise Problem(f"there is no parameter {name}")
                return self.parameters[name]
            case ("call", "variables", [("value", name)]):
                self.used.add(("variable", name))
                if name not in self.template["variables"]:
                    raise Problem(f"there is no variable {name}")
                return self.evaluate(self.template["variables"][name])
            case ("call", name, arguments):
                known = getattr(self, f"call_{name}", None)
                if known is None:
                    raise Problem(f"there is no function {name} here")
                return known(*(self.evaluate(argument) for argument in arguments))
        raise Problem(f"not an expression: {expression!r}")

    def truth(self, condition):
        value = self.evaluate(condition)
        if type(value) is not bool:
            raise Problem(f"a condition is {value!r}")
        return value

    def call_null(self):
        return None

    def call_equals(self, one, other):
        return one == other

    def call_empty(self, value):
        return not value

    def call_createArray(self, *items):
        return list(items)

    def call_createObject(self, *pairs):
        if len(pairs) % 2:
            raise Problem("createObject takes pairs")
        return dict(zip(pairs[::2], pairs[1::2]))

    def call_concat(self, *parts):
        if all(isinstance(part, list) for part in parts):
            return sum(parts, [])
        if all(isinstance(part, str) for part in parts):
            return "".join(parts)
        raise Problem(f"concat of {parts!r}")

    def call_union(self, *parts):
        if not all(isinstance(part, dict) for part in parts):
            raise Problem(f"union of {parts!r}")
        return {key: value for part in parts for key, value in part.items()}

    def call_join(self, parts, between):
        if not all(isinstance(part, str) for part in parts):
            raise Problem(f"join of {parts!r}")
        return between.join(parts)

    def call_format(self, pattern, *values):
        if not all(isinstance(value, str) for value in values):
            raise Problem(f"format of {values!r}")
        made = pattern.format(*values)
        places = set(re.findall(r"\{(\d+)\}", pattern.replace("{{", "").replace("}}", "")))
        if places != {str(number) for number in range(len(values))}:
            raise Problem(f"format {pattern!r} of {len(values)} values")
        return made

    def call_guid(self, *parts):
        return str(uuid.uuid5(uuid.NAMESPACE_URL, "\n".join(parts)))

    def call_resourceId(self, kind, *names):
        return resource_id(GROUP, kind, names)

    def call_subscriptionResourceId(self, kind, *names):
        return resource_id(f"/subscriptions/{SUBSCRIPTION}", kind, names)

    def call_resourceGroup(self):
        return {"name": "audit", "id": GROUP, "location": "westeurope"}

    def call_environment(self):
        return {"name": self.cloud}

    def call_reference(self, id, version):
        if self.referable is None or id not in self.referable:
            raise Problem(f"{id} is referred to and not deployed")
        resource = self.referable[id]
        if version != resource["apiVersion"]:
            raise Problem(f"{id} is deployed with {resource['apiVersion']} and read with {version}")
        return self.state(resource)

    def state(self, resource):
        """What Azure adds to a resource that was deployed."""
        url = self.runtime.get("endpoint", f"https://{resource['name']}-x1y2.{resource['location']}-1.ingest.monitor.azure.com")
        rule = self.runtime.get("immutableId", "dcr-" + hashlib.md5(resource["name"].encode()).hexdigest())
        match resource["type"]:
            case "Microsoft.Insights/dataCollectionEndpoints":
                return {"logsIngestion": {"endpoint": url}}
            case "Microsoft.Insights/dataCollectionRules":
                # Only a rule of this kind has an endpoint of its own.
                own = {"endpoints": {"logsIngestion": url}} if resource.get("kind") == "Direct" else {}
                return {"immutableId": rule} | own
        raise Problem(f"nothing is known of {resource['type']}")


def without_nulls(value):
    """A property that is null counts as absent."""
    if isinstance(value, dict):
        return {key: without_nulls(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [without_nulls(inner) for inner in value]
    return value


def deploy(template, given, cloud="AzureCloud", runtime=None):
    """What a deployment would send, resource by resource, and what it would put out."""
    scope = Scope(template, given, cloud, runtime)
    resources, all_ids = [], set()
    for resource in template["resources"]:
        made = {"type": resource["type"], "apiVersion": resource["apiVersion"]}
        made |= {key: scope.evaluate(resource[key]) for key in ("name", "location", "kind", "properties") if key in resource}
        base = GROUP
        if "scope" in resource:
            base = scope.evaluate(resource["scope"])
            made["scope"] = base = base if base.startswith("/") else f"{GROUP}/providers/{base}"
        made["id"] = resource_id(base, resource["type"], made["name"].split("/"))
        if made["id"] in all_ids:
            raise Problem(f"{made['id']} is there twice")
        all_ids.add(made["id"])
        made["dependsOn"] = sorted(scope.evaluate(needed) for needed in resource["dependsOn"])
        made["deployed"] = scope.truth(resource["condition"])
        resources.append(without_nulls(made))
    for resource in resources:
        if missing := set(resource["dependsOn"]) - all_ids:
            raise Problem(f"{resource['id']} depends on what is not there: {missing}")
    scope.referable = {resource["id"]: resource for resource in resources if resource["deployed"]}
    outputs = {name: scope.evaluate(output["value"]) for name, output in template["outputs"].items()}
    return {"resources": resources, "outputs": outputs}, scope.used
