"""Holds the two templates for AWS against each other, for every choice that they offer; prints how many cases were compared.

Usage: templates.py SCRATCH
"""

import json
import pathlib
import shutil
import sys

import meaning

PROVIDER = "arn:aws:iam::123456789012:oidc-provider/oidc.eks.eu-west-1.amazonaws.com/id/EXAMPLE"
KEY = "arn:aws:kms:eu-west-1:123456789012:key/00000000-0000-0000-0000-000000000000"
CASES = [
    {},
    {"ObjectLockMode": "COMPLIANCE", "ObjectLockDays": 2555, "WriterLocks": "true"},
    {"ObjectLockMode": "NONE", "WriterLocks": "true"},
    {"Encryption": "aws:kms"},
    {"Encryption": "aws:kms", "KmsKeyArn": KEY},
    {"Prefix": "audit/pulumi", "TransitionDays": 90, "TransitionStorageClass": "GLACIER", "NoncurrentDays": 3650, "HeartbeatDays": 7},
    {"AccessLogBucket": "acme-access-logs", "Trust": "ecs"},
    {"Trust": "irsa", "OidcProviderArn": PROVIDER, "Namespace": "siem", "ServiceAccount": "forwarder"},
    {"Trust": "pod_identity"},
    {"Trust": "principal", "TrustedPrincipalArn": "arn:aws:iam::210987654321:role/elsewhere"},
    {"Trust": "principal", "TrustedPrincipalArn": "arn:aws:iam::210987654321:user/forwarder", "ExternalId": "acme:7"},
    {"Trust": "roles_anywhere", "TrustAnchorArn": "arn:aws:rolesanywhere:eu-west-1:123456789012:trust-anchor/1", "CertificateName": "forwarder-1"},
    {"Encryption": "aws:kms", "WriterLocks": "true", "Trust": "principal", "TrustedPrincipalArn": "arn:aws:iam::210987654321:role/a", "ExternalId": "acme:7"},
]


def main():
    scratch = pathlib.Path(sys.argv[1])
    stack = meaning.template()
    cases = [{"BucketName": "acme-audit"} | case for case in CASES]

    declared = {meaning.variable(name): one for name, one in stack["Parameters"].items()}
    used = {name for case in cases for name in case}
    assert used | {"RoleName"} == set(stack["Parameters"]), f"no case chooses {set(stack['Parameters']) - used}"
    trusts = {case.get("Trust", "ec2") for case in cases}
    assert trusts == set(stack["Parameters"]["Trust"]["AllowedValues"]), trusts

    offered = meaning.variables()
    assert set(offered) == set(declared), set(offered) ^ set(declared)
    for name, one in offered.items():
        default = declared[name].get("Default")
        assert one.get("default") == (default if not isinstance(one.get("default"), bool) else default == "true"), f"{name}: {one} {default}"

    files = scratch / "files"
    shutil.copytree(meaning.DEPLOY / "terraform", files)
    meaning.terraform(files, "fmt", "-check", "-diff")
    (files / "main.tf").write_text((files / "main.tf").read_text().replace("  bucket = ", "  bucket =   "))
    assert meaning.fails(files, "fmt", "-check"), "Terraform finds a file that is not as it writes one"

    wanted = [meaning.Stack(case).meaning() for case in cases]
    found = meaning.of_terraform(cases, scratch / "terraform")
    for case, one, other in zip(cases, wanted, found, strict=True):
        assert one.keys() == other.keys()
        for part in one:
            assert one[part] == other[part], f"{case}: {part}\nCloudFormation: {one[part]}\nTerraform:      {other[part]}"
    print(json.dumps({"cases": len(cases), "sections": [one["org_file"] for one in wanted], "roles": [one["role_policy"] for one in wanted]}))


main()
