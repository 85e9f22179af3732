//! How pieces are kept: encryption, lock and storage class, as the settings ask for them, and whether the store has done so.
//!
//! Pure: it adds to requests and reads answers; [`super::Bucket`] sends them.
//!
//! *Why an answer is looked at:* a store that does not know a header leaves it out of account and answers with success. A lock that
//! somebody relies on and that is not there is worse than a lane that waits.

use std::time::Duration;

use aws_sdk_s3::operation::put_object::builders::PutObjectFluentBuilder;
use aws_sdk_s3::primitives::DateTime;
use aws_sdk_s3::types::{
    ChecksumAlgorithm, ObjectLockMode, ObjectLockRetention, ObjectLockRetentionMode, ServerSideEncryption,
};

use crate::clock::{Second, whole_seconds};
use crate::config::settings::{S3Checksums, S3Encryption, S3LockMode, S3ObjectLock, S3Settings};
use crate::destination::archive::Piece;

/// How long the piece of a write probe is locked: long enough to be seen.
const PROBE_RETAIN: Duration = Duration::from_secs(60);

/// A lock as it is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lock {
    pub(super) mode: S3LockMode,
    pub(super) until: Second,
}

impl Lock {
    /// The lock of a piece that is uploaded now.
    pub(super) fn of(lock: &S3ObjectLock, piece: Piece<'_>, now: Second) -> Lock {
        let retain = if matches!(piece, Piece::Probe) { PROBE_RETAIN } else { lock.retain };
        Lock { mode: lock.mode, until: now.saturating_add(whole_seconds(retain)) }
    }

    pub(super) fn retention(self) -> ObjectLockRetention {
        let mode = match self.mode {
            S3LockMode::Governance => ObjectLockRetentionMode::Governance,
            S3LockMode::Compliance => ObjectLockRetentionMode::Compliance,
        };
        ObjectLockRetention::builder().mode(mode).retain_until_date(DateTime::from_secs(self.until.0)).build()
    }

    /// Whether a piece that was uploaded with this lock has it. More is no less.
    pub(super) fn is_met(self, found: Option<&ObjectLockRetention>) -> bool {
        let until = found.and_then(ObjectLockRetention::retain_until_date);
        is_of(self.mode, found) && until.is_some_and(|until| until.secs() >= self.until.0)
    }
}

/// Whether there is a lock of this mode, or of a stricter one. Until when was decided at the upload.
pub(super) fn is_of(mode: S3LockMode, found: Option<&ObjectLockRetention>) -> bool {
    match found.and_then(ObjectLockRetention::mode) {
        Some(ObjectLockRetentionMode::Compliance) => true,
        Some(ObjectLockRetentionMode::Governance) => mode == S3LockMode::Governance,
        _ => false,
    }
}

/// A lock as a person reads it.
pub(super) fn said(found: Option<&ObjectLockRetention>) -> String {
    let Some(found) = found else { return "no lock".into() };
    let mode = found.mode().map_or("no mode", |mode| mode.as_str());
    match found.retain_until_date() {
        Some(until) => format!("{mode} until {}", Second(until.secs())),
        None => format!("{mode} without an end"),
    }
}

/// The request, with all that the settings ask for this piece.
pub(super) fn asked_for(
    mut put: PutObjectFluentBuilder,
    settings: &S3Settings,
    lock: Option<Lock>,
    sha256: &str,
) -> PutObjectFluentBuilder {
    put = match &settings.encryption {
        None => put,
        Some(S3Encryption::Store) => put.server_side_encryption(ServerSideEncryption::Aes256),
        Some(S3Encryption::Kms { key_id }) => {
            put.server_side_encryption(ServerSideEncryption::AwsKms).set_ssekms_key_id(key_id.clone())
        }
    };
    if let Some(lock) = lock {
        let mode = match lock.mode {
            S3LockMode::Governance => ObjectLockMode::Governance,
            S3LockMode::Compliance => ObjectLockMode::Compliance,
        };
        put = put.object_lock_mode(mode).object_lock_retain_until_date(DateTime::from_secs(lock.until.0));
    }
    // S3 takes nothing that is to be locked without a checksum, be it locked by us or by the bucket. The algorithm's own header is what Amazon's reference of
    // PutObject asks for there (read 2026-11-22); S3 itself is content with the checksum, other stores are not.
    if settings.checksums == S3Checksums::WhenSupported || lock.is_some() {
        put = put.checksum_algorithm(ChecksumAlgorithm::Sha256).checksum_sha256(sha256);
    }
    put.set_expected_bucket_owner(settings.expected_bucket_owner.clone())
}

/// Whether a store that names this encryption has done what was asked.
pub(super) fn is_encrypted(asked: Option<&S3Encryption>, found: Option<&ServerSideEncryption>) -> bool {
    match asked {
        None => true,
        Some(S3Encryption::Store) => found == Some(&ServerSideEncryption::Aes256),
        Some(S3Encryption::Kms { .. }) => found == Some(&ServerSideEncryption::AwsKms),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retention(mode: ObjectLockRetentionMode, until: i64) -> ObjectLockRetention {
        ObjectLockRetention::builder().mode(mode).retain_until_date(DateTime::from_secs(until)).build()
    }

    #[test]
    fn a_lock_is_met_by_one_as_strict_and_as_long_and_by_more() {
        let asked = |mode| Lock { mode, until: Second(1_000) };
        let (governance, compliance) = (S3LockMode::Governance, S3LockMode::Compliance);
        let weak = |until| retention(ObjectLockRetentionMode::Governance, until);
        let strict = |until| retention(ObjectLockRetentionMode::Compliance, until);
        assert!(asked(governance).is_met(Some(&weak(1_000))));
        assert!(asked(governance).is_met(Some(&strict(1_001))));
        assert!(asked(compliance).is_met(Some(&strict(1_000))));
        assert!(!asked(compliance).is_met(Some(&weak(2_000))));
        assert!(!asked(governance).is_met(Some(&weak(999))));
        assert!(!asked(governance).is_met(None));
        assert!(is_of(compliance, Some(&strict(1))) && !is_of(compliance, Some(&weak(1))));
    }

    #[test]
    fn a_lock_counts_from_the_upload_and_that_of_a_probe_is_short() {
        let lock = S3ObjectLock { mode: S3LockMode::Compliance, retain: Duration::from_secs(86_400) };
        assert_eq!(Lock::of(&lock, Piece::Claim, Second(1_000)).until, Second(87_400));
        assert_eq!(Lock::of(&lock, Piece::Probe, Second(1_000)).until, Second(1_060));
    }

    #[test]
    fn an_encryption_is_the_one_asked_for() {
        let kms = S3Encryption::Kms { key_id: None };
        assert!(is_encrypted(None, None));
        assert!(is_encrypted(Some(&S3Encryption::Store), Some(&ServerSideEncryption::Aes256)));
        assert!(is_encrypted(Some(&kms), Some(&ServerSideEncryption::AwsKms)));
        assert!(!is_encrypted(Some(&kms), Some(&ServerSideEncryption::Aes256)));
        assert!(!is_encrypted(Some(&S3Encryption::Store), None));
    }
}
