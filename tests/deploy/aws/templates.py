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


def same_settings(made):
    """The resources that no policy is about: what the one template says in words, the other says too, and each is given what was compared below."""
    bucket, terraform = made["Bucket"]["Properties"], meaning.resources()
    kinds = {
        "aws_s3_bucket", "aws_s3_bucket_versioning", "aws_s3_bucket_object_lock_configuration", "aws_s3_bucket_server_side_encryption_configuration",
        "aws_s3_bucket_public_access_block", "aws_s3_bucket_ownership_controls", "aws_s3_bucket_logging", "aws_s3_bucket_lifecycle_configuration",
        "aws_s3_bucket_policy", "aws_kms_key", "aws_iam_role", "aws_iam_role_policy", "aws_iam_instance_profile",
    }  # fmt: skip
    assert set(terraform) == kinds, set(terraform) ^ kinds

    def says(kind, *path):
        body = terraform[kind]
        for name in path:
            body = body[name][0] if isinstance(body[name], list) else body[name]
        return body.strip('"') if isinstance(body, str) else body

    block = bucket["PublicAccessBlockConfiguration"]
    assert set(block.values()) == {True} and len(block) == 4
    pairs = [(("aws_s3_bucket_public_access_block", meaning.variable(name)), value) for name, value in block.items()]
    chosen = {name: f"${{var.{meaning.variable(name)}}}" for name in meaning.template()["Parameters"]}
    retention = bucket["ObjectLockConfiguration"]["Rule"]["Fn::If"]
    assert retention[0] == "Locks" and retention[1]["DefaultRetention"] == {"Mode": {"Ref": "ObjectLockMode"}, "Days": {"Ref": "ObjectLockDays"}}
    encryption = bucket["BucketEncryption"]["ServerSideEncryptionConfiguration"][0]
    assert encryption["ServerSideEncryptionByDefault"]["SSEAlgorithm"] == {"Ref": "Encryption"}
    assert encryption["BucketKeyEnabled"]["Fn::If"][:2] == ["Kms", True]
    pairs += [
        (("aws_s3_bucket", "bucket"), chosen["BucketName"]),
        (("aws_s3_bucket", "object_lock_enabled"), bucket["ObjectLockEnabled"]),
        (("aws_s3_bucket", "lifecycle", "prevent_destroy"), made["Bucket"]["DeletionPolicy"] == "Retain"),
        (("aws_kms_key", "lifecycle", "prevent_destroy"), made["Key"]["DeletionPolicy"] == "Retain"),
        (("aws_s3_bucket_versioning", "versioning_configuration", "status"), bucket["VersioningConfiguration"]["Status"]),
        (("aws_s3_bucket_object_lock_configuration", "count"), "${local.locks ? 1 : 0}"),
        (("aws_s3_bucket_object_lock_configuration", "rule", "default_retention", "mode"), chosen["ObjectLockMode"]),
        (("aws_s3_bucket_object_lock_configuration", "rule", "default_retention", "days"), chosen["ObjectLockDays"]),
        (("aws_s3_bucket_server_side_encryption_configuration", "rule", "apply_server_side_encryption_by_default", "sse_algorithm"), chosen["Encryption"]),
        (("aws_s3_bucket_server_side_encryption_configuration", "rule", "bucket_key_enabled"), "${local.kms ? true : null}"),
        (("aws_s3_bucket_ownership_controls", "rule", "object_ownership"), bucket["OwnershipControls"]["Rules"][0]["ObjectOwnership"]),
        (("aws_s3_bucket_logging", "target_bucket"), chosen["AccessLogBucket"]),
        (("aws_s3_bucket_policy", "policy"), "${jsonencode(local.bucket_policy)}"),
        (("aws_kms_key", "policy"), "${jsonencode(local.key_policy)}"),
        (("aws_kms_key", "enable_key_rotation"), made["Key"]["Properties"]["EnableKeyRotation"]),
        (("aws_kms_key", "count"), "${local.makes_key ? 1 : 0}"),
        (("aws_iam_role", "name"), chosen["RoleName"]),
        (("aws_iam_role", "assume_role_policy"), "${local.trust_policy_json}"),
        (("aws_iam_role_policy", "policy"), "${local.role_policy_json}"),
        (("aws_iam_instance_profile", "count"), '${var.trust == "ec2" ? 1 : 0}'),
    ]
    for path, value in pairs:
        assert says(*path) == value, f"{path}: {says(*path)!r}, not {value!r}"
    # Every field of a rule reaches its block.
    rules = json.dumps(terraform["aws_s3_bucket_lifecycle_configuration"])
    for field in ("id", "prefix", "abort_days", "expire_days", "markers", "move_days", "noncurrent_days"):
        assert f"rule.value.{field}" in rules, field
    assert f'"storage_class": "{chosen["TransitionStorageClass"]}"' in rules


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

    same_settings(stack["Resources"])

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
