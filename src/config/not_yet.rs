//! Keys and values that the interface promises and this version does not know.
//!
//! They are refused by name rather than ignored: a bucket without the encryption somebody asked for is worse than a daemon that does
//! not start.

const IDENTITY: &str =
    "not supported by this version: use { kind = \"client_secret\", tenant_id, client_id, secret }";
const PROFILE: &str = "not supported by this version: remove it, and give the role or profile through the AWS SDK's own \
                       environment (AWS_PROFILE and ~/.aws/config)";
const REMOVE: &str = "not supported by this version: remove it, and let the bucket's own defaults say it";

const KEYS: [(&str, &str, &str); 15] = [
    ("sentinel.identity", "certificate", IDENTITY),
    ("sentinel.identity", "object_id", IDENTITY),
    ("sentinel.identity", "resource_id", IDENTITY),
    ("s3", "profile", PROFILE),
    ("s3", "role_arn", PROFILE),
    ("s3", "external_id", PROFILE),
    ("s3", "session_name", PROFILE),
    ("s3", "sse", REMOVE),
    ("s3", "kms_key_id", REMOVE),
    ("s3", "object_lock", REMOVE),
    ("s3", "storage_class", REMOVE),
    ("s3", "expected_bucket_owner", "not supported by this version: remove it"),
    ("s3", "fips", "not supported by this version: remove it, and give the FIPS endpoint as endpoint_url"),
    (
        "s3",
        "dual_stack",
        "not supported by this version: remove it, and give the dual-stack endpoint as endpoint_url",
    ),
    ("s3", "checksums", "not supported by this version: remove it; a SHA-256 checksum is always sent"),
];

const VALUES: [(&str, &str, &str); 5] = [
    ("sentinel.identity.kind", "workload_identity", IDENTITY),
    ("sentinel.identity.kind", "managed_identity", IDENTITY),
    ("sentinel.identity.kind", "client_certificate", IDENTITY),
    ("sentinel.identity.kind", "azure_cli", IDENTITY),
    ("sentinel.identity.kind", "default", IDENTITY),
];

/// The remedy for a key that a later version will know.
pub(super) fn key(path: &[String]) -> Option<String> {
    let (name, table) = path.split_last()?;
    let table = table.join(".");
    KEYS.iter().find(|(at, key, _)| *at == table && key == name).map(|(_, _, remedy)| (*remedy).to_owned())
}

/// The remedy for a value that a later version will know.
pub(super) fn value(path: &[String], given: &str) -> Option<String> {
    let path = path.join(".");
    VALUES
        .iter()
        .find(|(at, value, _)| *at == path && *value == given)
        .map(|(_, _, remedy)| (*remedy).to_owned())
}
