//! The archive in S3 or a store that speaks its protocol.
//!
//! A piece is one PUT with `If-None-Match: *`, sent from memory with a SHA-256 checksum that the store verifies and keeps. The
//! SDK's own retries are off: a repeat it made in silence would meet its own success and call it a stranger's. What an answer
//! means is [`answer`]'s business, how the store is reached is [`client`]'s; no other module knows the SDK.

mod answer;
mod check;
pub mod client;
#[cfg(test)]
mod tests;

use std::future::Future;

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::get_object::{GetObjectError, GetObjectOutput};
use aws_sdk_s3::primitives::ByteStream;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use sha2::{Digest, Sha256};

use self::answer::{Meaning, Refused};
use self::client::{Connections, SecretSeen};
use crate::chunk::CHUNK_LINES_BYTES_MAX;
use crate::config::settings::{S3Credentials, S3Settings};
use crate::destination::archive::{
    Archive, Creation, Entry, Lines, Obstacle, Piece, SHA256_METADATA, Store, lines_of,
};
use crate::destination::{DestinationName, PauseReason, Problem};
use crate::event::OrgId;
use crate::probe::trial::{How, Trial};

/// What every permission problem names: there is no Delete among them.
const ACTIONS: &str = "s3:PutObject, s3:GetObject and s3:ListBucket";

/// The `s3` destination of one org. Touches nothing before it is used.
///
/// # Errors
/// When `ca_file` cannot be read.
pub fn destination(
    settings: &S3Settings,
    org: &OrgId,
    connections: &Connections,
) -> Result<Archive<Bucket>, Problem> {
    Bucket::new(settings, org, connections).map(|bucket| Archive::new(org.clone(), bucket))
}

/// A bucket, below a prefix, as a [`Store`].
pub struct Bucket {
    settings: S3Settings,
    org: OrgId,
    connections: Connections,
    /// `None` until it is used, and again when its credentials were refused.
    client: Option<Client>,
    secret: SecretSeen,
}

impl Bucket {
    fn new(settings: &S3Settings, org: &OrgId, connections: &Connections) -> Result<Bucket, Problem> {
        connections.http(settings.ca_file.as_deref())?;
        Ok(Bucket {
            settings: settings.clone(),
            org: org.clone(),
            connections: connections.clone(),
            client: None,
            secret: SecretSeen::Nothing,
        })
    }

    /// A key with the prefix, as the store knows it.
    fn whole(&self, key: &str) -> String {
        if self.settings.prefix.is_empty() {
            key.to_owned()
        } else {
            format!("{}/{key}", self.settings.prefix)
        }
    }

    /// Sends one request, and once more for each thing that a second try can heal: credentials that have been replaced, and a
    /// clock that is wrong (the client learns the store's time from every answer, so the same request is signed right the second
    /// time).
    async fn ask<T, E, Asked>(&mut self, asked: &str, send: impl Fn(Client) -> Asked) -> Result<T, Refused>
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
        Asked: Future<Output = Result<T, SdkError<E>>>,
    {
        let mut reloaded = false;
        let mut skewed = false;
        loop {
            let client = match &self.client {
                Some(client) => client.clone(),
                None => {
                    let made = client::connect(&self.settings, &self.connections, &mut self.secret).await?;
                    self.client.insert(made).clone()
                }
            };
            let refused = match send(client).await {
                Ok(answer) => return Ok(answer),
                Err(error) => Refused::new(asked, &error),
            };
            match refused.meaning {
                Meaning::CredentialsRefused if !reloaded => {
                    reloaded = true;
                    self.client = None;
                }
                Meaning::Skewed if !skewed => skewed = true,
                Meaning::CredentialsRefused | Meaning::CredentialsMissing => {
                    self.client = None;
                    return Err(refused);
                }
                _ => return Err(refused),
            }
        }
    }

    async fn get(&mut self, key: &str) -> Result<Option<GetObjectOutput>, Refused> {
        let (bucket, whole) = (self.settings.bucket.clone(), self.whole(key));
        let asked = format!("GET {}", self.locate(key));
        let got = self
            .ask::<_, GetObjectError, _>(&asked, |client| {
                client.get_object().bucket(bucket.clone()).key(whole.clone()).send()
            })
            .await;
        match got {
            Ok(output) => Ok(Some(output)),
            Err(refused) if refused.meaning == Meaning::Absent => Ok(None),
            Err(refused) => Err(refused),
        }
    }

    /// What a refusal means for whoever waits, and what a person can do about it.
    fn obstacle(&self, refused: Refused) -> Obstacle {
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
                    "allow this identity {ACTIONS} on bucket `{bucket}` for {below}*; look at the bucket policy too, \
                     at Object Lock, and, with a KMS key, at kms:GenerateDataKey and kms:Decrypt"
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
            Meaning::Untrusted => (
                PauseReason::Configuration,
                "set `ca_file` of [s3] to the authority that signed the store's certificate, or have that one replaced".into(),
            ),
            Meaning::Wrong => {
                (PauseReason::Configuration, "correct [s3] in the configuration as the answer says".into())
            }
        };
        Obstacle::Paused(Problem { reason, cause, remedy: format!("{remedy}; nothing is lost meanwhile") })
    }

    fn credentials_remedy(&self) -> String {
        match &self.settings.credentials {
            S3Credentials::Static { access_key_id, secret_access_key } => format!(
                "put the secret of access key `{access_key_id}` into {}, or set another `access_key_id`; the secret is read again at every try",
                secret_access_key.place
            ),
            S3Credentials::Default => {
                "give this process credentials of the AWS default chain (environment, profile, web identity, \
                 container or instance role), or set `access_key_id` and `secret_access_key` in [s3]"
                    .into()
            }
        }
    }
}

#[async_trait]
impl Store for Bucket {
    fn name(&self) -> DestinationName {
        DestinationName::S3
    }

    fn locate(&self, key: &str) -> String {
        format!("s3://{}/{}", self.settings.bucket, self.whole(key))
    }

    async fn create(&mut self, key: &str, body: &Bytes, piece: Piece<'_>) -> Result<Creation, Obstacle> {
        let asked = format!("PUT {}", self.locate(key));
        let (bucket, whole) = (self.settings.bucket.clone(), self.whole(key));
        let checksum = STANDARD.encode(Sha256::digest(body));
        let metadata = piece.metadata();
        let created = self
            .ask(&asked, |client| {
                let put = client
                    .put_object()
                    .bucket(bucket.clone())
                    .key(whole.clone())
                    .if_none_match("*")
                    .content_type(piece.content_type())
                    .checksum_sha256(checksum.clone())
                    .body(ByteStream::from(body.clone()));
                metadata.iter().fold(put, |put, (name, value)| put.metadata(*name, value)).send()
            })
            .await;
        match created {
            // Whoever stores something names it; an answer without a name may carry an error in its body.
            Ok(output) => match output.e_tag {
                Some(tag) => Ok(Creation::New(Entry { status: 200, reference: tag })),
                None => Err(Obstacle::Ambiguous(format!("{asked}: 200 without an ETag"))),
            },
            Err(refused) if refused.meaning == Meaning::Exists => Ok(Creation::Exists),
            Err(refused) => Err(self.obstacle(refused)),
        }
    }

    async fn read(&mut self, key: &str, bytes_max: usize) -> Result<Option<Bytes>, Obstacle> {
        let got = self.get(key).await.map_err(|refused| self.obstacle(refused))?;
        let Some(output) = got else { return Ok(None) };
        let cut = |error| Obstacle::Ambiguous(format!("GET {}: {error}", self.locate(key)));
        first(output.body, bytes_max).await.map(Some).map_err(cut)
    }

    async fn lines(&mut self, key: &str) -> Result<Option<(Lines, Entry)>, Obstacle> {
        let got = self.get(key).await.map_err(|refused| self.obstacle(refused))?;
        let Some(output) = got else { return Ok(None) };
        let entry = Entry { status: 200, reference: output.e_tag.clone().unwrap_or_default() };
        let kept = output.metadata.as_ref().and_then(|metadata| metadata.get(SHA256_METADATA));
        if let Some(sha256) = kept {
            return Ok(Some((Lines::Sha256(sha256.to_ascii_lowercase()), entry)));
        }
        let bytes_max = usize::try_from(CHUNK_LINES_BYTES_MAX).unwrap_or(usize::MAX);
        let cut = |error| Obstacle::Ambiguous(format!("GET {}: {error}", self.locate(key)));
        let body = first(output.body, bytes_max).await.map_err(cut)?;
        match tokio::task::spawn_blocking(move || lines_of(body.as_ref())).await {
            Ok(lines) => Ok(Some((lines, entry))),
            Err(_) => Err(Obstacle::Ambiguous("the work on the object was cut off".into())),
        }
    }

    async fn secret_changed(&mut self) -> bool {
        let S3Credentials::Static { secret_access_key, .. } = &self.settings.credentials else {
            return false;
        };
        match (self.secret, secret_access_key.read()) {
            (SecretSeen::Value(used), Ok(now)) => now.fingerprint() != used,
            (SecretSeen::Unreadable, now) => now.is_ok(),
            (SecretSeen::Nothing, _) | (_, Err(_)) => false,
        }
    }

    async fn check(&mut self, how: &How) -> Vec<Trial> {
        self.tried(how).await
    }
}

/// The first `bytes_max` bytes of a body; the rest is not fetched.
async fn first(mut body: ByteStream, bytes_max: usize) -> Result<Bytes, String> {
    let mut whole = BytesMut::new();
    while whole.len() < bytes_max {
        match body.next().await {
            Some(Ok(part)) => whole.extend_from_slice(&part[..part.len().min(bytes_max - whole.len())]),
            Some(Err(error)) => return Err(answer::innermost(&error)),
            None => break,
        }
    }
    Ok(whole.freeze())
}
