//! What stands in the way when a store refuses, and what a person can do about it.
//!
//! Everything here is for reading: it sends nothing, and it decides only whom to wait for.

use super::Bucket;
use super::answer::{Meaning, Refused};
use crate::config::settings::{S3Credentials, S3Key};
use crate::destination::archive::{Obstacle, Store};
use crate::problem::{PauseReason, Problem};

/// What every permission problem names: there is no Delete among them.
const ACTIONS: &str = "s3:PutObject, s3:GetObject and s3:ListBucket";
/// The same for pieces that are to be locked.
const ACTIONS_WITH_LOCK: &str =
    "s3:PutObject, s3:GetObject, s3:PutObjectRetention, s3:GetObjectRetention and s3:ListBucket";

impl Bucket {
    /// What a refusal means for whoever waits, and what a person can do about it.
    pub(super) fn obstacle(&self, refused: Refused) -> Obstacle {
        let Refused { meaning, cause } = refused;
        let bucket = &self.settings.bucket;
        let below = self.locate("");
        let (reason, remedy) = match meaning {
            // `create` and `get` have taken these for what they are; anywhere else they decide nothing.
            Meaning::Exists | Meaning::Absent | Meaning::Ambiguous => return Obstacle::Ambiguous(cause),
            Meaning::Throttled(wait) => return Obstacle::Throttled { wait, cause },
            Meaning::CredentialsRefused | Meaning::CredentialsMissing => {
                (PauseReason::Credentials, self.credentials_remedy())
            }
            Meaning::Skewed => (
                PauseReason::Configuration,
                "correct this machine's clock: the store does not accept its signatures, and says no time to learn from".into(),
            ),
            Meaning::Denied => (
                PauseReason::Permission,
                format!(
                    "allow this identity {} on bucket `{bucket}` for {below}*{}; look at the bucket policy too, \
                     at Object Lock, and, with a KMS key, at kms:GenerateDataKey and kms:Decrypt",
                    self.actions(),
                    match &self.settings.expected_bucket_owner {
                        Some(owner) => format!(", and see that account {owner} (`expected_bucket_owner`) owns it"),
                        None => String::new(),
                    }
                ),
            ),
            Meaning::RoleDenied => (PauseReason::Permission, self.role_remedy()),
            Meaning::Frozen => (
                PauseReason::Configuration,
                format!(
                    "have it restored, and keep {}* out of lifecycle rules that move it where it cannot be read at once",
                    self.locate("_chain/")
                ),
            ),
            Meaning::KeyDenied => (
                PauseReason::Permission,
                format!(
                    "enable the KMS key of bucket `{bucket}` and allow this identity kms:GenerateDataKey and kms:Decrypt on it"
                ),
            ),
            Meaning::NoBucket => (
                PauseReason::Configuration,
                format!("create bucket `{bucket}`, or correct `bucket`, `region` or `endpoint_url` of [s3]"),
            ),
            Meaning::Elsewhere(Some(region)) => (
                PauseReason::Configuration,
                format!("set `region = \"{}\"` in [s3]", region.chars().take(40).collect::<String>()),
            ),
            Meaning::Elsewhere(None) => (
                PauseReason::Configuration,
                format!("set `region` or `endpoint_url` of [s3] to where bucket `{bucket}` is"),
            ),
            Meaning::NoRegion => (
                PauseReason::Configuration,
                "set `region` in [s3], or `endpoint_url` for a store that has none".into(),
            ),
            Meaning::Unconditional => (
                PauseReason::Configuration,
                "use a store that knows `If-None-Match` on PUT: without it two instances could overwrite each other".into(),
            ),
            Meaning::Barred(remedy) => (PauseReason::Configuration, remedy),
            Meaning::Wrong => {
                (PauseReason::Configuration, "correct [s3] in the configuration as the answer says".into())
            }
        };
        Obstacle::Paused(Problem { reason, cause, remedy: format!("{remedy}; nothing is lost meanwhile") })
    }

    /// A refusal of something about locks. A store that knows none has many words for it.
    pub(super) fn lock_obstacle(&self, refused: Refused) -> Obstacle {
        match refused.meaning {
            Meaning::Wrong | Meaning::Unconditional => Obstacle::Paused(self.unlocked(refused.cause)),
            _ => self.obstacle(refused),
        }
    }

    pub(super) fn unlocked(&self, cause: String) -> Problem {
        Problem {
            reason: PauseReason::Configuration,
            cause,
            remedy: format!(
                "enable Object Lock on bucket `{}`, or use a store that has it; remove `object_lock` of [s3] only if the \
                 archive may be deleted; nothing is lost meanwhile",
                self.settings.bucket
            ),
        }
    }

    fn actions(&self) -> &'static str {
        if self.settings.object_lock.is_some() { ACTIONS_WITH_LOCK } else { ACTIONS }
    }

    fn role_remedy(&self) -> String {
        let Some(role) = &self.settings.role else {
            return "allow the credentials found to assume the role that the AWS profile or environment names (sts:AssumeRole, \
                    or sts:AssumeRoleWithWebIdentity in the role's trust policy)"
                .into();
        };
        let with = match &role.external_id {
            Some(id) => format!("with sts:ExternalId `{id}`"),
            None => "without asking for sts:ExternalId, or set `external_id` in [s3]".into(),
        };
        format!(
            "allow the credentials of [s3] sts:AssumeRole on {}, and let the role's trust policy name them, {with}",
            role.arn
        )
    }

    fn credentials_remedy(&self) -> String {
        match &self.settings.credentials {
            S3Credentials::Static { key, next } => {
                let of = |key: &S3Key| {
                    format!("access key `{}` into {}", key.access_key_id, key.secret_access_key.place)
                };
                let second =
                    next.as_ref().map(|next| format!(", or that of {}", of(next))).unwrap_or_default();
                format!(
                    "put the secret of {}{second}, or set another `access_key_id`; the secret is read again at every try",
                    of(key)
                )
            }
            S3Credentials::Profile(profile) => format!(
                "see that profile `{profile}` stands in the AWS configuration files of this user (AWS_CONFIG_FILE and \
                 AWS_SHARED_CREDENTIALS_FILE name others) and has credentials; `aws sso login --profile {profile}` renews an SSO session"
            ),
            S3Credentials::Default => {
                "give this process credentials of the AWS default chain (environment, profile, web identity, \
                 container or instance role), or set `access_key_id` and `secret_access_key` in [s3]"
                    .into()
            }
        }
    }
}
