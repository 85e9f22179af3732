"""Deploys deploy/aws/cloudformation.yaml on a server that plays AWS (moto), and tries what its role may do there.

    deployed.py deploy URL    makes the stack and a user who may take its role; prints what an operator would get. From then on the server looks at
                              signatures and permissions.
    deployed.py try URL FILE  FILE holds what `deploy` printed: tries with the role's session what must be possible, and what must not; and what the
                              owner of the account may not do to an object that is locked.

moto's CloudFormation makes the roles, keys and outputs, and the bucket with its encryption only. The bucket's other properties are taken from the template
as meaning.py evaluates it and set through the interface of S3, whose definition by AWS (in botocore) refuses what it does not know.
"""

import datetime
import fnmatch
import json
import pathlib
import sys
import urllib.request

import boto3
import botocore.config
import botocore.exceptions

import meaning

ADMIN = ("AKIAADMINADMINADMIN0", "admin")
DAYS = 30


def service(name, url, key=ADMIN, token=None):
    style = botocore.config.Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1})
    return boto3.client(
        name, endpoint_url=url, region_name=meaning.HERE["region"], aws_access_key_id=key[0], aws_secret_access_key=key[1], aws_session_token=token, config=style
    )


def set_properties(s3, properties):
    """What moto leaves out of a stack's bucket."""
    bucket = {"Bucket": properties["BucketName"]}
    left = dict(properties)
    assert left.pop("ObjectLockEnabled") is True
    del left["BucketName"], left["BucketEncryption"]
    s3.put_bucket_versioning(**bucket, VersioningConfiguration=left.pop("VersioningConfiguration"))
    lock = left.pop("ObjectLockConfiguration")
    lock["Rule"]["DefaultRetention"]["Days"] = int(lock["Rule"]["DefaultRetention"]["Days"])
    s3.put_object_lock_configuration(**bucket, ObjectLockConfiguration=lock)
    s3.put_public_access_block(**bucket, PublicAccessBlockConfiguration=left.pop("PublicAccessBlockConfiguration"))
    s3.put_bucket_ownership_controls(**bucket, OwnershipControls=left.pop("OwnershipControls"))
    rules = []
    for rule in left.pop("LifecycleConfiguration")["Rules"]:
        one = {"ID": rule.pop("Id"), "Status": rule.pop("Status"), "Filter": {"Prefix": rule.pop("Prefix", "")}}
        if "ExpirationInDays" in rule:
            one["Expiration"] = {"Days": int(rule.pop("ExpirationInDays"))}
        if "ExpiredObjectDeleteMarker" in rule:
            one["Expiration"] = {"ExpiredObjectDeleteMarker": rule.pop("ExpiredObjectDeleteMarker")}
        for name in ("AbortIncompleteMultipartUpload", "NoncurrentVersionExpiration"):
            if name in rule:
                one[name] = {key: int(value) for key, value in rule.pop(name).items()}
        if "Transitions" in rule:
            one["Transitions"] = [{"Days": int(move["TransitionInDays"]), "StorageClass": move["StorageClass"]} for move in rule.pop("Transitions")]
        assert not rule, f"not set: {rule}"
        rules.append(one)
    s3.put_bucket_lifecycle_configuration(**bucket, LifecycleConfiguration={"Rules": rules})
    assert not left, f"not set: {left}"


def deploy(url):
    iam, s3, stacks = service("iam", url), service("s3", url), service("cloudformation", url)
    user = iam.create_user(UserName="forwarder")["User"]["Arn"]
    key = iam.create_access_key(UserName="forwarder")["AccessKey"]
    assume = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "sts:AssumeRole", "Resource": "*"}]}
    iam.put_user_policy(UserName="forwarder", PolicyName="assume", PolicyDocument=json.dumps(assume))
    chosen = {
        "BucketName": "acme-audit",
        "ObjectLockMode": "COMPLIANCE",
        "ObjectLockDays": str(DAYS),
        "Encryption": "aws:kms",
        "TransitionDays": "90",
        "NoncurrentDays": "3650",
        "Trust": "principal",
        "TrustedPrincipalArn": user,
        "ExternalId": "acme:7",
    }
    parameters = [{"ParameterKey": name, "ParameterValue": value} for name, value in chosen.items()]
    body = (meaning.DEPLOY / "cloudformation.yaml").read_text()
    stacks.validate_template(TemplateBody=body)
    stacks.create_stack(StackName="audit", TemplateBody=body, Parameters=parameters, Capabilities=["CAPABILITY_NAMED_IAM"])
    [stack] = stacks.describe_stacks(StackName="audit")["Stacks"]
    assert stack["StackStatus"] == "CREATE_COMPLETE", stack
    outputs = {one["OutputKey"]: one["OutputValue"] for one in stack["Outputs"]}

    # What CloudFormation made of the template is what we make of it: two evaluations that share no code.
    ours = meaning.Stack(chosen, key_arn=outputs["KmsKeyArn"])
    assert outputs == ours.outputs(), (outputs, ours.outputs())
    role = iam.get_role(RoleName="pulumi-audit-forwarder")["Role"]
    assert meaning.policy(role["AssumeRolePolicyDocument"]) == ours.meaning()["trust_policy"]
    names = iam.list_role_policies(RoleName="pulumi-audit-forwarder")["PolicyNames"]
    assert set(names) == set(ours.role_policies()), names
    for name, document in ours.role_policies().items():
        stored = iam.get_role_policy(RoleName="pulumi-audit-forwarder", PolicyName=name)["PolicyDocument"]
        assert meaning.policy(stored) == meaning.policy(document), stored

    set_properties(s3, ours.properties("Bucket"))
    s3.put_bucket_policy(Bucket="acme-audit", Policy=json.dumps(ours.properties("BucketPolicy")["PolicyDocument"]))
    look_at(s3, ours)
    # This server refuses by a statement whose condition it cannot judge, so to it our policy denies TLS as well. Plain HTTP, which this is, it refuses
    # rightly; then the policy goes; `try` judges it.
    assert refused(s3.put_object, Bucket="acme-audit", Key="pulumi/x", Body=b""), "plain HTTP is refused"
    s3.delete_bucket_policy(Bucket="acme-audit")

    request = urllib.request.Request(f"{url}/moto-api/reset-auth", data=b"0", headers={"Content-Type": "text/plain"}, method="POST")
    urllib.request.urlopen(request, timeout=10).close()
    print(json.dumps(outputs | {"KeyId": key["AccessKeyId"], "Secret": key["SecretAccessKey"]}))


def look_at(s3, ours):
    """The bucket as its owner sees it."""
    bucket = {"Bucket": "acme-audit"}
    assert s3.get_bucket_versioning(**bucket)["Status"] == "Enabled"
    lock = s3.get_object_lock_configuration(**bucket)["ObjectLockConfiguration"]
    retention = lock["Rule"]["DefaultRetention"]
    assert (lock["ObjectLockEnabled"], retention["Mode"], retention["Days"]) == ("Enabled", "COMPLIANCE", DAYS), lock
    [rule] = s3.get_bucket_encryption(**bucket)["ServerSideEncryptionConfiguration"]["Rules"]
    assert rule["ApplyServerSideEncryptionByDefault"] == {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": ours.outputs()["KmsKeyArn"]}, rule
    assert set(s3.get_public_access_block(**bucket)["PublicAccessBlockConfiguration"].values()) == {True}
    assert s3.get_bucket_ownership_controls(**bucket)["OwnershipControls"]["Rules"] == [{"ObjectOwnership": "BucketOwnerEnforced"}]
    policy = json.loads(s3.get_bucket_policy(**bucket)["Policy"])
    assert meaning.policy(policy) == ours.meaning()["bucket_policy"], policy
    rules = s3.get_bucket_lifecycle_configuration(**bucket)["Rules"]
    assert len(rules) == 5, rules
    for rule in rules:
        prefix = rule.get("Filter", {}).get("Prefix", rule.get("Prefix", ""))
        if "Expiration" in rule or rule.get("NoncurrentVersionExpiration", {}).get("NoncurrentDays", 9999) < 3650:
            assert prefix == "pulumi/_heartbeat/", f"this ends something else than heartbeats: {rule}"
        if "Transitions" in rule:
            assert prefix == "pulumi/org=", f"this moves something else than objects with events: {rule}"


def refused(call, **arguments):
    try:
        call(**arguments)
    except botocore.exceptions.ClientError as error:
        return error.response["ResponseMetadata"]["HTTPStatusCode"] == 403
    return False


def attempt(url, told):
    sts = service("sts", url, (told["KeyId"], told["Secret"]))
    session = sts.assume_role(RoleArn=told["RoleArn"], RoleSessionName="tests", ExternalId="acme:7")["Credentials"]
    assert refused(sts.assume_role, RoleArn=told["RoleArn"], RoleSessionName="tests", ExternalId="other"), "the external id is asked for"
    s3 = service("s3", url, (session["AccessKeyId"], session["SecretAccessKey"]), session["SessionToken"])
    bucket = {"Bucket": "acme-audit"}

    listed = s3.list_objects_v2(**bucket, Prefix="pulumi/")["Contents"]
    keys = [one["Key"] for one in listed]
    assert any("/_chain/" in key for key in keys) and any("/date=" in key for key in keys), keys
    soon = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=DAYS)
    for key in keys:
        head = s3.head_object(**bucket, Key=key)
        assert head["ObjectLockMode"] == "COMPLIANCE", key
        assert abs(head["ObjectLockRetainUntilDate"] - soon) < datetime.timedelta(hours=1), key
        assert (head["ServerSideEncryption"], head["SSEKMSKeyId"]) == ("aws:kms", told["KmsKeyArn"]), key
    [one, *_] = keys
    version = s3.head_object(**bucket, Key=one)["VersionId"]
    forbidden = [
        (s3.delete_object, {"Key": one}),
        (s3.delete_object, {"Key": one, "VersionId": version}),
        (s3.put_object, {"Key": "other/x", "Body": b""}),
        (s3.put_object, {"Key": "pulumi-other/x", "Body": b""}),
        (s3.put_bucket_versioning, {"VersioningConfiguration": {"Status": "Suspended"}}),
        (s3.put_bucket_policy, {"Policy": "{}"}),
        (s3.delete_bucket_policy, {}),
        (s3.put_object_lock_configuration, {"ObjectLockConfiguration": {"ObjectLockEnabled": "Enabled"}}),
        (s3.delete_bucket, {}),
    ]
    for call, arguments in forbidden:
        assert refused(call, **bucket, **arguments), f"{call.__name__} {arguments} is possible"

    # The server takes conditions as fulfilled, and does not tell every action from its neighbours, so the policy is judged here as well.
    ours = meaning.Stack({"BucketName": told["Bucket"], "Encryption": "aws:kms", "KmsKeyArn": told["KmsKeyArn"]}).meaning()
    policy = ours["role_policy"]
    prefix = lambda value: {"s3:prefix": value}
    via = {"kms:ViaService": "s3.eu-west-1.amazonaws.com"}
    archive = "arn:aws:s3:::acme-audit"
    table = [
        (True, "s3:PutObject", f"{archive}/pulumi/org=acme/date=2026-11-22/00000000000000000000.jsonl.gz", {}),
        (True, "s3:GetObject", f"{archive}/pulumi/_chain/org=acme/00000000000000000000.json", {}),
        (True, "s3:ListBucket", archive, prefix("pulumi/_chain/org=acme/")),
        (False, "s3:ListBucket", archive, prefix("")),
        (False, "s3:ListBucket", archive, prefix("pulumi")),
        (False, "s3:ListBucket", archive, prefix("other/")),
        (False, "s3:ListBucket", archive, {}),
        (False, "s3:ListBucketVersions", archive, prefix("pulumi/")),
        (False, "s3:GetObject", f"{archive}/other/x", {}),
        (False, "s3:GetObject", "arn:aws:s3:::acme-audit-2/pulumi/x", {}),
        (False, "s3:DeleteObject", f"{archive}/pulumi/x", {}),
        (False, "s3:DeleteObjectVersion", f"{archive}/pulumi/x", {}),
        (False, "s3:PutObjectRetention", f"{archive}/pulumi/x", {}),
        (False, "s3:BypassGovernanceRetention", f"{archive}/pulumi/x", {}),
        (False, "s3:PutObjectAcl", f"{archive}/pulumi/x", {}),
        (False, "s3:GetBucketObjectLockConfiguration", archive, {}),
        (False, "s3:PutBucketPolicy", archive, {}),
        (False, "s3:PutLifecycleConfiguration", archive, {}),
        (True, "kms:GenerateDataKey", told["KmsKeyArn"], via),
        (True, "kms:Decrypt", told["KmsKeyArn"], via),
        (False, "kms:Decrypt", told["KmsKeyArn"], {}),
        (False, "kms:Decrypt", meaning.MADE_KEY, via),
        (False, "kms:ScheduleKeyDeletion", told["KmsKeyArn"], via),
    ]
    for allowed, action, resource, context in table:
        assert allows(policy, action, resource, context) == allowed, f"{action} on {resource} with {context}: {not allowed}"
    [denies] = ours["bucket_policy"]
    assert (denies["effect"], denies["principal"], denies["actions"]) == ("Deny", "*", ["s3:*"]), denies
    assert denies["resources"] == [archive, f"{archive}/*"] and denies["conditions"] == {"Bool": {"aws:SecureTransport": ["false"]}}, denies
    print(json.dumps({"objects": len(keys), "refused": len(forbidden), "judged": len(table)}))


def allows(statements, action, resource, context):
    """IAM's rule for statements that allow: one whose action, resource and every condition fit."""

    def fits(patterns, value):
        return any(fnmatch.fnmatchcase(value, pattern.replace("[", "[[]")) for pattern in patterns)

    def fulfilled(conditions):
        for operator, keys in conditions.items():
            for key, values in keys.items():
                if key not in context:
                    return False
                exact = {"StringEquals": True, "StringLike": False}[operator]
                if not (context[key] in values if exact else fits(values, context[key])):
                    return False
        return True

    assert all(statement["effect"] == "Allow" for statement in statements)
    return any(fits(one["actions"], action) and fits(one["resources"], resource) and fulfilled(one["conditions"]) for one in statements)


if sys.argv[1] == "deploy":
    deploy(sys.argv[2])
else:
    attempt(sys.argv[2], json.loads(pathlib.Path(sys.argv[3]).read_text()))
