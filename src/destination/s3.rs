//! The archive in S3 or a store that speaks its protocol.
//!
//! A piece is one PUT with `If-None-Match: *`, sent from memory with a SHA-256 checksum that the store verifies and keeps. The
//! SDK's own retries are off: a repeat it made in silence would meet its own success and call it a stranger's. What an answer
//! means is [`answer`]'s business, how the store is reached is [`client`]'s, how it keeps what it is given is [`keeping`]'s, what
//! a refusal asks of a person is [`remedy`]'s; no other module knows the SDK.
//!
//! *Why an object that is there already is asked for its metadata and not for itself:* it may lie in a storage class that has to be
//! restored before it can be read, and its metadata says what its lines are.

mod answer;
mod check;
pub mod client;
mod heartbeat;
mod http;
mod keeping;
pub mod reading;
mod remedy;
#[cfg(test)]
mod tests;

use std::future::Future;

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::get_object::{GetObjectError, GetObjectOutput};
use aws_sdk_s3::operation::get_object_retention::GetObjectRetentionError;
use aws_sdk_s3::operation::head_object::{HeadObjectError, HeadObjectOutput};
use aws_sdk_s3::operation::put_object_retention::PutObjectRetentionError;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ObjectLockEnabled, ObjectLockRetention, ServerSideEncryption, StorageClass};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use sha2::{Digest, Sha256};

use self::answer::{Meaning, Refused};
use self::client::{Connected, Connections, Made, SecretSeen};
use self::keeping::Lock;
use crate::chunk::{CHUNK_LINES_BYTES_MAX, claim_key};
use crate::clock::Clock;
use crate::config::settings::{S3Credentials, S3Settings};
use crate::destination::DestinationName;
use crate::destination::Pulse;
use crate::destination::archive::{
    Archive, Creation, Entry, Lines, Obstacle, Piece, SHA256_METADATA, Store, lines_of,
};
use crate::event::OrgId;
use crate::mutant::{self, Mutant};
use crate::problem::{PauseReason, Problem};
use crate::rotation::Standing;
use crate::trial::{How, Trial};

/// The `s3` destination of one org. Touches nothing before it is used.
///
/// # Errors
/// When a file of its route cannot be used.
pub fn destination(
    settings: &S3Settings,
    org: &OrgId,
    connections: &Connections,
    clock: &Clock,
) -> Result<Archive<Bucket>, Problem> {
    Bucket::new(settings, org, connections, clock).map(|bucket| Archive::new(org.clone(), bucket))
}

/// Where an org's heartbeats go in its bucket.
///
/// # Errors
/// When a file of the route cannot be used.
pub fn heartbeats(
    settings: &S3Settings,
    org: &OrgId,
    connections: &Connections,
    clock: &Clock,
) -> Result<Box<dyn Pulse>, Problem> {
    Bucket::new(settings, org, connections, clock).map(|bucket| Box::new(bucket) as Box<dyn Pulse>)
}

/// A bucket, below a prefix, as a [`Store`].
pub struct Bucket {
    settings: S3Settings,
    org: OrgId,
    connections: Connections,
    clock: Clock,
    /// `None` until it is used, and when there were no credentials for it.
    connected: Option<Connected>,
    secret: SecretSeen,
    /// Which of two keys is in use.
    standing: Standing,
    /// A piece of this process has been read back and was locked as asked.
    locks: bool,
}

impl Bucket {
    fn new(
        settings: &S3Settings,
        org: &OrgId,
        connections: &Connections,
        clock: &Clock,
    ) -> Result<Bucket, Problem> {
        connections.http(&settings.route)?;
        Ok(Bucket {
            settings: settings.clone(),
            org: org.clone(),
            connections: connections.clone(),
            clock: clock.clone(),
            connected: None,
            secret: SecretSeen::Nothing,
            standing: Standing::default(),
            locks: false,
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
        let mut reloads = 0;
        let mut skewed = false;
        let mut stale: Option<(Made, String)> = None;
        loop {
            let connected = match &self.connected {
                Some(connected) => connected,
                None => {
                    let refused = stale.as_ref().map(|(made, why)| (*made, why.as_str()));
                    let (seen, standing) = (&mut self.secret, &mut self.standing);
                    let made =
                        self.connections.store(&self.settings, refused, &self.clock, seen, standing).await?;
                    self.connected.insert(made)
                }
            };
            let (made, proven) = (connected.made(), connected.proven);
            let answer = send(connected.client.clone()).await;
            let refused = answer.as_ref().err().map(|error| Refused::new(asked, error));
            // Whatever the store finds wrong with the question, it has found the signature right.
            let accepted = refused.as_ref().is_none_or(|refused| refused.meaning.is_of_the_request());
            if accepted && !proven {
                self.connections.proven(&self.settings, made, &mut self.standing).await;
                if let Some(connected) = &mut self.connected {
                    connected.proven = true;
                }
            }
            let refused = match (answer, refused) {
                (Ok(answer), _) => return Ok(answer),
                (Err(_), Some(refused)) => refused,
                (Err(error), None) => Refused::new(asked, &error),
            };
            match refused.meaning {
                Meaning::CredentialsRefused if self.may_reload(reloads) => {
                    reloads += 1;
                    (self.connected, stale) = (None, Some((made, refused.cause)));
                }
                Meaning::Skewed if !skewed => skewed = true,
                Meaning::CredentialsRefused | Meaning::CredentialsMissing | Meaning::RoleDenied => {
                    self.connected = None;
                    self.connections.forget(&self.settings, made, &mut self.standing).await;
                    return Err(refused);
                }
                _ => return Err(refused),
            }
        }
    }

    /// Once, for credentials that have been replaced since they were read; where keys are exchanged also for the one before, and for
    /// the second.
    fn may_reload(&self, reloads: u32) -> bool {
        let keys = match &self.settings.credentials {
            S3Credentials::Static { next: Some(_), .. } => 3,
            S3Credentials::Static { next: None, .. } if self.standing.in_use.is_some() => 2,
            _ => 1,
        };
        reloads < keys
    }

    async fn get(&mut self, key: &str) -> Result<Option<GetObjectOutput>, Refused> {
        let (bucket, whole) = (self.settings.bucket.clone(), self.whole(key));
        let asked = format!("GET {}", self.locate(key));
        let owner = self.settings.expected_bucket_owner.clone();
        let got = self
            .ask::<_, GetObjectError, _>(&asked, |client| {
                let get = client.get_object().set_expected_bucket_owner(owner.clone());
                get.bucket(bucket.clone()).key(whole.clone()).send()
            })
            .await;
        present(got)
    }

    async fn head(&mut self, key: &str) -> Result<Option<HeadObjectOutput>, Refused> {
        let (bucket, whole) = (self.settings.bucket.clone(), self.whole(key));
        let asked = format!("HEAD {}", self.locate(key));
        let owner = self.settings.expected_bucket_owner.clone();
        let got = self
            .ask::<_, HeadObjectError, _>(&asked, |client| {
                let head = client.head_object().set_expected_bucket_owner(owner.clone());
                head.bucket(bucket.clone()).key(whole.clone()).send()
            })
            .await;
        present(got)
    }

    /// The lock of a piece, where the store knows of locks.
    async fn lock(&mut self, key: &str) -> Result<Option<ObjectLockRetention>, Obstacle> {
        let (bucket, whole) = (self.settings.bucket.clone(), self.whole(key));
        let asked = format!("GET {}?retention", self.locate(key));
        let owner = self.settings.expected_bucket_owner.clone();
        let got = self
            .ask::<_, GetObjectRetentionError, _>(&asked, |client| {
                let get = client.get_object_retention().set_expected_bucket_owner(owner.clone());
                get.bucket(bucket.clone()).key(whole.clone()).send()
            })
            .await;
        match present(got) {
            Ok(output) => Ok(output.and_then(|output| output.retention)),
            Err(refused) => Err(self.lock_obstacle(refused)),
        }
    }

    /// Locks a piece that is there already and has no such lock.
    async fn lock_late(&mut self, key: &str, lock: Lock) -> Result<(), Obstacle> {
        let (bucket, whole) = (self.settings.bucket.clone(), self.whole(key));
        let asked = format!("PUT {}?retention", self.locate(key));
        let owner = self.settings.expected_bucket_owner.clone();
        let put = self
            .ask::<_, PutObjectRetentionError, _>(&asked, |client| {
                let put = client.put_object_retention().set_expected_bucket_owner(owner.clone());
                put.bucket(bucket.clone()).key(whole.clone()).retention(lock.retention()).send()
            })
            .await;
        put.map(|_| ()).map_err(|refused| self.lock_obstacle(refused))
    }

    /// Reads the lock of a piece back that was just uploaded or locked.
    async fn see_lock(&mut self, key: &str, lock: Lock) -> Result<(), Obstacle> {
        let found = self.lock(key).await?;
        if lock.is_met(found.as_ref()) {
            self.locks = true;
            return Ok(());
        }
        let (located, said) = (self.locate(key), keeping::said(found.as_ref()));
        Err(Obstacle::Paused(
            self.unlocked(format!("{located} was to be locked until {} and has {said}", lock.until)),
        ))
    }

    /// Whether the store says that it has encrypted a piece as asked.
    fn see_encryption(&self, key: &str, found: Option<&ServerSideEncryption>) -> Result<(), Obstacle> {
        let asked = self.settings.encryption.as_ref();
        if keeping::is_encrypted(asked, found) {
            return Ok(());
        }
        let (located, found) = (self.locate(key), found.map_or("no encryption", |found| found.as_str()));
        Err(Obstacle::Paused(Problem {
            reason: PauseReason::Configuration,
            cause: format!("{located} is not encrypted as `sse` of [s3] asks: the store names {found}"),
            remedy: "use a store that encrypts so, or set `sse` to what it does; if the piece was written before `sse` was \
                     changed, set it back until this chunk is delivered, or have the piece removed; nothing is lost meanwhile"
                .into(),
        }))
    }

    /// Whether the bucket has Object Lock, as far as it may be asked.
    async fn lockable(&mut self) -> Result<&'static str, Obstacle> {
        let bucket = self.settings.bucket.clone();
        let asked = format!("GET s3://{bucket}?object-lock");
        let owner = self.settings.expected_bucket_owner.clone();
        let got = self
            .ask(&asked, |client| {
                let get = client.get_object_lock_configuration().set_expected_bucket_owner(owner.clone());
                get.bucket(bucket.clone()).send()
            })
            .await;
        match present(got) {
            Ok(output) => {
                let lock = output.and_then(|output| output.object_lock_configuration);
                match lock.and_then(|lock| lock.object_lock_enabled) {
                    Some(ObjectLockEnabled::Enabled) => Ok("the bucket has Object Lock"),
                    _ => Err(Obstacle::Paused(
                        self.unlocked(format!("{asked}: the bucket has no Object Lock")),
                    )),
                }
            }
            // It is needed here only: the first piece that is written shows the same.
            Err(refused) if refused.meaning == Meaning::Denied => Ok(
                "not looked at, which needs s3:GetBucketObjectLockConfiguration; the first object that is written shows it",
            ),
            Err(refused) => Err(self.lock_obstacle(refused)),
        }
    }
}

/// What a design mutant takes for success.
fn mistaken(refused: &Refused) -> bool {
    mutant::is(Mutant::TakenIsSuccess) && refused.meaning == Meaning::Exists
        || mutant::is(Mutant::ConflictIsExists) && refused.cause.contains(": 409")
}

/// What was found, if anything.
fn present<T>(got: Result<T, Refused>) -> Result<Option<T>, Refused> {
    match got {
        Ok(output) => Ok(Some(output)),
        Err(refused) if refused.meaning == Meaning::Absent => Ok(None),
        Err(refused) => Err(refused),
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
        let lock = self.settings.object_lock.map(|lock| Lock::of(&lock, piece, self.clock.now()));
        let settings = self.settings.clone();
        let created = self
            .ask(&asked, |client| {
                let put = client
                    .put_object()
                    .bucket(bucket.clone())
                    .key(whole.clone())
                    .if_none_match("*")
                    .content_type(piece.content_type())
                    .body(ByteStream::from(body.clone()));
                let mut put = keeping::asked_for(put, &settings, lock, &checksum);
                if let (Some(class), Piece::Object(_)) = (&settings.storage_class, piece) {
                    put = put.storage_class(StorageClass::from(class.as_str()));
                }
                metadata.iter().fold(put, |put, (name, value)| put.metadata(*name, value)).send()
            })
            .await;
        let output = match created {
            Ok(output) => output,
            Err(refused) if mistaken(&refused) => {
                return Ok(Creation::New(Entry { status: 200, reference: String::new() }));
            }
            Err(refused) if refused.meaning == Meaning::Exists => return Ok(Creation::Exists),
            // A bucket without Object Lock refuses the whole request; Amazon's says why, in words, others do not.
            Err(refused) if lock.is_some() && refused.cause.contains("Object Lock") => {
                return Err(self.lock_obstacle(refused));
            }
            Err(refused)
                if lock.is_some() && matches!(refused.meaning, Meaning::Wrong | Meaning::Unconditional) =>
            {
                return Err(match self.lockable().await {
                    Ok(_) => self.obstacle(refused),
                    Err(obstacle) => obstacle,
                });
            }
            Err(refused) => return Err(self.obstacle(refused)),
        };
        // Whoever stores something names it; an answer without a name may carry an error in its body.
        let Some(tag) = output.e_tag else {
            return Err(Obstacle::Ambiguous(format!("{asked}: 200 without an ETag")));
        };
        self.see_encryption(key, output.server_side_encryption.as_ref())?;
        if let Some(lock) = lock.filter(|_| !self.locks) {
            self.see_lock(key, lock).await?;
        }
        Ok(Creation::New(Entry { status: 200, reference: tag }))
    }

    async fn read(&mut self, key: &str, bytes_max: usize) -> Result<Option<Bytes>, Obstacle> {
        let got = self.get(key).await.map_err(|refused| self.obstacle(refused))?;
        let Some(output) = got else { return Ok(None) };
        let cut = |error| Obstacle::Ambiguous(format!("GET {}: {error}", self.locate(key)));
        first(output.body, bytes_max).await.map(Some).map_err(cut)
    }

    async fn lines(&mut self, key: &str) -> Result<Option<(Lines, Entry)>, Obstacle> {
        let head = self.head(key).await.map_err(|refused| self.obstacle(refused))?;
        let Some(output) = head else { return Ok(None) };
        let entry = Entry { status: 200, reference: output.e_tag.clone().unwrap_or_default() };
        let kept = output.metadata.as_ref().and_then(|metadata| metadata.get(SHA256_METADATA));
        if let Some(sha256) = kept {
            return Ok(Some((Lines::Sha256(sha256.to_ascii_lowercase()), entry)));
        }
        let got = self.get(key).await.map_err(|refused| self.obstacle(refused))?;
        let Some(output) = got else { return Ok(None) };
        let bytes_max = usize::try_from(CHUNK_LINES_BYTES_MAX).unwrap_or(usize::MAX);
        let cut = |error| Obstacle::Ambiguous(format!("GET {}: {error}", self.locate(key)));
        let body = first(output.body, bytes_max).await.map_err(cut)?;
        match tokio::task::spawn_blocking(move || lines_of(body.as_ref())).await {
            Ok(lines) => Ok(Some((lines, entry))),
            Err(_) => Err(Obstacle::Ambiguous("the work on the object was cut off".into())),
        }
    }

    async fn keep(&mut self, key: &str, piece: Piece<'_>) -> Result<(), Obstacle> {
        if self.settings.encryption.is_some() {
            let head = self.head(key).await.map_err(|refused| self.obstacle(refused))?;
            self.see_encryption(key, head.and_then(|head| head.server_side_encryption).as_ref())?;
        }
        let Some(asked) = self.settings.object_lock else { return Ok(()) };
        let found = self.lock(key).await?;
        if keeping::is_of(asked.mode, found.as_ref()) {
            return Ok(());
        }
        let lock = Lock::of(&asked, piece, self.clock.now());
        self.lock_late(key, lock).await?;
        self.see_lock(key, lock).await
    }

    async fn secret_changed(&mut self) -> bool {
        match (self.secret, self.connections.present_keys(&self.settings)) {
            (SecretSeen::Value(used), Some(now)) => now != used,
            (SecretSeen::Unreadable, now) => now.is_some(),
            (SecretSeen::Nothing, _) | (_, None) => false,
        }
    }

    async fn look_at_secrets(&mut self) {
        let known = self.connected.as_ref().map(Connected::made);
        let standing = &mut self.standing;
        if self.connections.is_due(&self.settings, known, &self.clock, standing).await {
            self.connected = None;
            // Present or absent, both show that the key is known; what else is wrong, the next delivery says.
            let first_claim = claim_key(&self.org, 0);
            drop(self.get(&first_claim).await);
        }
    }

    fn standing(&self) -> Option<Standing> {
        matches!(self.settings.credentials, S3Credentials::Static { .. }).then(|| self.standing.clone())
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

/// Any answer of a store, through the SDK.
#[cfg(any(test, fuzzing))]
#[expect(clippy::expect_used, reason = "a property: it panics where it does not hold")]
pub(crate) fn property(bytes: &[u8]) {
    use aws_sdk_s3::config::http::{HttpRequest, HttpResponse};
    use aws_sdk_s3::config::retry::RetryConfig;
    use aws_sdk_s3::config::{
        BehaviorVersion, Credentials, Region, RuntimeComponents, SharedHttpClient,
        StalledStreamProtectionConfig,
    };
    use aws_sdk_s3::primitives::SdkBody;
    use aws_smithy_runtime_api::client::http::{
        HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
    };

    use crate::hostile::given::{CANARY, assert_fit_to_print};

    #[derive(Clone, Debug)]
    struct Canned(crate::http::Response);

    impl HttpConnector for Canned {
        fn call(&self, _: HttpRequest) -> HttpConnectorFuture {
            let mut answer = ::http::Response::new(SdkBody::from(self.0.body.clone()));
            *answer.status_mut() = ::http::StatusCode::from_u16(self.0.status).expect("a status");
            // Headers that are no text never reach the SDK.
            let text = self.0.headers.iter().filter(|(_, value)| value.to_str().is_ok());
            answer.headers_mut().extend(text.map(|(name, value)| (name.clone(), value.clone())));
            HttpConnectorFuture::ready(Ok(HttpResponse::try_from(answer).expect("text")))
        }
    }

    impl HttpClient for Canned {
        fn http_connector(&self, _: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
            SharedHttpConnector::new(self.clone())
        }
    }

    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new("id", CANARY, None, None, "test"))
        .retry_config(RetryConfig::disabled())
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .http_client(SharedHttpClient::new(Canned(crate::hostile::given::response(bytes, "retry-after"))))
        .build();
    let client = Client::from_conf(config);
    let sound = |refused: Refused| {
        assert_fit_to_print(&refused.cause);
        if let Meaning::Elsewhere(Some(region)) = refused.meaning {
            assert_fit_to_print(&region);
        }
    };
    crate::hostile::given::block_on(async {
        let put = client.put_object().bucket("b").key("k").body(ByteStream::from_static(b"x")).send().await;
        put.err().into_iter().for_each(|error| sound(Refused::new("PUT", &error)));
        let head = client.head_object().bucket("b").key("k").send().await;
        head.err().into_iter().for_each(|error| sound(Refused::new("HEAD", &error)));
        let list = client.list_objects_v2().bucket("b").send().await;
        list.err().into_iter().for_each(|error| sound(Refused::new("LIST", &error)));
        match client.get_object().bucket("b").key("k").send().await {
            Ok(output) => {
                if let Ok(found) = first(output.body, 1_000).await {
                    assert!(found.len() <= 1_000);
                }
            }
            Err(error) => sound(Refused::new("GET", &error)),
        }
    });
}
