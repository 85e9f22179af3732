//! How the store is reached: over the daemon's one HTTP client, with one S3 client for all orgs that reach their store in the same
//! way, made from settings and the credentials as they stand.
//!
//! *Why a new S3 client after a refusal, and not a provider that reloads:* the default chain caches what it read (a profile, a
//! token's exchange) in several places; a client made anew has none of it. Connections are not lost by it: they belong to the
//! HTTP client.
//!
//! *Why orgs share a client:* a thousand orgs with one role need its session once an hour, not a thousand times. Whoever is refused
//! names the client that was; only the first to do so has another one made.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_config::BehaviorVersion;
use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::sts::AssumeRoleProvider;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{AppName, Credentials, Region, SharedHttpClient, StalledStreamProtectionConfig};
use aws_sdk_s3::config::{RequestChecksumCalculation, ResponseChecksumValidation};

use super::answer::{Meaning, Refused};
use super::http;
use crate::config::settings::{S3Checksums, S3Credentials, S3Role, S3Settings};
use crate::http::Clients;
use crate::problem::{PauseReason, Problem};
use crate::pulumi::environment::{Environments, Freshness};
use crate::secret::{Fingerprint, Place, SecretError, SecretSource};

/// The region a request is signed for where the store has none of its own.
const REGION_OF_OTHER_STORES: &str = "us-east-1";

/// How long to wait for the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// Name lookup, connection and handshake.
    pub connect: Duration,
    /// From the first byte of the request to the answer's headers.
    pub read: Duration,
    /// The whole exchange.
    pub operation: Duration,
    /// How long an exchange may stand still before it is given up.
    pub stall: Duration,
}

/// Chunks are small but for the oddest: one event that fills the largest page, packed to a fifth, passes at 2 Mbit/s.
impl Default for Deadlines {
    fn default() -> Deadlines {
        Deadlines {
            connect: Duration::from_secs(10),
            read: Duration::from_secs(120),
            operation: Duration::from_secs(300),
            stall: Duration::from_secs(20),
        }
    }
}

/// The daemon's HTTP clients as the SDK takes them, one for each certificate authority file in use, and the S3 clients made of them.
/// Clones share them.
#[derive(Clone, Default)]
pub struct Connections(Arc<Shared>);

#[derive(Default)]
struct Shared {
    deadlines: Deadlines,
    clients: Arc<Clients>,
    environments: Environments,
    http: Mutex<HashMap<Option<PathBuf>, SharedHttpClient>>,
    /// No more than there are differing settings.
    stores: Mutex<HashMap<Access, Arc<tokio::sync::Mutex<Option<Connected>>>>>,
}

/// All of [`S3Settings`] that decides how a store is reached.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Access {
    region: Option<String>,
    endpoint_url: Option<String>,
    force_path_style: bool,
    fips: bool,
    dual_stack: bool,
    profile: Option<String>,
    /// A fixed key: its id, and where its secret is.
    key: Option<(String, Place, bool)>,
    role: Option<S3Role>,
    checksums: S3Checksums,
    ca_file: Option<PathBuf>,
}

impl Access {
    fn of(settings: &S3Settings) -> Access {
        let (profile, key) = match &settings.credentials {
            S3Credentials::Default => (None, None),
            S3Credentials::Profile(profile) => (Some(profile.clone()), None),
            S3Credentials::Static { access_key_id, secret_access_key: secret } => {
                (None, Some((access_key_id.clone(), secret.place.clone(), secret.group_may_read)))
            }
        };
        Access {
            region: settings.region.clone(),
            endpoint_url: settings.endpoint_url.clone(),
            force_path_style: settings.force_path_style,
            fips: settings.fips,
            dual_stack: settings.dual_stack,
            profile,
            key,
            role: settings.role.clone(),
            checksums: settings.checksums,
            ca_file: settings.ca_file.clone(),
        }
    }
}

/// A client, and what it was made of.
#[derive(Clone)]
pub(super) struct Connected {
    pub(super) client: Client,
    pub(super) secret: SecretSeen,
    /// Tells this client from those made before and after it.
    made: u64,
    /// Its credentials were refused.
    stale: bool,
}

/// Names one client among those that were made for the same settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Made(u64);

impl Connected {
    pub(super) fn made(&self) -> Made {
        Made(self.made)
    }
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Connections({:?})", self.0.deadlines)
    }
}

impl Connections {
    pub fn new(clients: Arc<Clients>, environments: Environments) -> Connections {
        Connections(Arc::new(Shared { clients, environments, ..Shared::default() }))
    }

    /// The same over real connections, for commands that share nothing.
    pub fn connected() -> Connections {
        let clients = Arc::new(Clients::default());
        let environments = Environments::connected(&clients);
        Connections::new(clients, environments)
    }

    /// With less patience.
    #[cfg(test)]
    pub(super) fn within(deadlines: Deadlines) -> Connections {
        Connections(Arc::new(Shared { deadlines, ..Shared::default() }))
    }

    /// Another HTTP client in place of the one that goes out: simulated stores hand in their own.
    pub fn through(http: SharedHttpClient) -> Connections {
        let shared = Shared { http: Mutex::new(HashMap::from([(None, http)])), ..Shared::default() };
        Connections(Arc::new(shared))
    }

    /// Makes sure that the next one who asks gets another client than this one.
    pub(super) async fn forget(&self, settings: &S3Settings, refused: Made) {
        let slot = {
            let stores = self.0.stores.lock().unwrap_or_else(PoisonError::into_inner);
            stores.get(&Access::of(settings)).cloned()
        };
        if let Some(slot) = slot {
            let mut slot = slot.lock().await;
            if let Some(connected) = slot.as_mut().filter(|connected| connected.made() == refused) {
                connected.stale = true;
            }
        }
    }

    /// The client for these settings; a new one where there is none, or only the one whose credentials were `refused`. `seen` is
    /// told what became of the configured secret, also where there is no client in the end.
    pub(super) async fn store(
        &self,
        settings: &S3Settings,
        refused: Option<Made>,
        seen: &mut SecretSeen,
    ) -> Result<Connected, Refused> {
        let slot = {
            let mut stores = self.0.stores.lock().unwrap_or_else(PoisonError::into_inner);
            stores.entry(Access::of(settings)).or_default().clone()
        };
        // Held while one is made, so that the others wait for it rather than ask as well.
        let mut slot = slot.lock().await;
        let before = slot.as_ref().map_or(0, |connected| connected.made);
        let freshness = if slot.is_some() { Freshness::Renewed } else { Freshness::Kept };
        match &*slot {
            Some(connected) if !connected.stale && refused != Some(connected.made()) => {
                *seen = connected.secret;
                Ok(connected.clone())
            }
            _ => {
                let client = connect(settings, self, freshness, seen).await?;
                let connected = Connected { client, secret: *seen, made: before + 1, stale: false };
                *slot = Some(connected.clone());
                Ok(connected)
            }
        }
    }

    /// What a configured secret is, as far as can be told without asking anybody.
    pub(super) fn seen(&self, secret: &SecretSource) -> Option<Fingerprint> {
        self.0.environments.seen(secret).map(|secret| secret.fingerprint())
    }

    /// The client that trusts the system's authorities and those in `ca_file`.
    ///
    /// # Errors
    /// When the file cannot be read or holds no certificate.
    pub fn http(&self, ca_file: Option<&Path>) -> Result<SharedHttpClient, Problem> {
        let mut known = self.0.http.lock().unwrap_or_else(PoisonError::into_inner);
        let key = ca_file.map(Path::to_owned);
        if let Some(client) = known.get(&key) {
            return Ok(client.clone());
        }
        let client = self.0.clients.get(ca_file).map_err(|error| Problem {
            reason: PauseReason::Configuration,
            cause: format!("[s3]: {error}"),
            remedy: "correct `ca_file` of [s3]".into(),
        })?;
        let client = http::shared(client);
        known.insert(key, client.clone());
        Ok(client)
    }
}

/// What the last look at a configured secret saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SecretSeen {
    /// Nobody has looked, or there is none with the default chain.
    Nothing,
    Unreadable,
    Value(Fingerprint),
}

/// Reads the credentials as they stand and makes a client of them. Asks the network only for a region that is not configured.
async fn connect(
    settings: &S3Settings,
    connections: &Connections,
    freshness: Freshness,
    seen: &mut SecretSeen,
) -> Result<Client, Refused> {
    let http = connections
        .http(settings.ca_file.as_deref())
        .map_err(|problem| Refused { meaning: Meaning::Untrusted, cause: problem.cause })?;
    let deadlines = connections.0.deadlines;
    let mut loader = aws_config::defaults(BehaviorVersion::latest()).http_client(http.clone());
    if let Ok(name) = AppName::new(env!("CARGO_PKG_NAME")) {
        loader = loader.app_name(name);
    }
    if let Some(region) = &settings.region {
        loader = loader.region(Region::new(region.clone()));
    } else if settings.endpoint_url.is_some() {
        loader = loader.region(Region::new(REGION_OF_OTHER_STORES));
    }
    // What is not asked for here may still be asked for in the SDK's own environment.
    if settings.fips {
        loader = loader.use_fips(true);
    }
    if settings.dual_stack {
        loader = loader.use_dual_stack(true);
    }
    match &settings.credentials {
        S3Credentials::Default => {}
        S3Credentials::Profile(profile) => loader = loader.profile_name(profile),
        S3Credentials::Static { access_key_id, secret_access_key } => {
            *seen = SecretSeen::Unreadable;
            let read = connections.0.environments.read(secret_access_key, freshness).await;
            let secret = read.map_err(|error| Refused {
                meaning: match &error {
                    SecretError::Unavailable { wait: Some(wait), .. } => Meaning::Throttled(Some(*wait)),
                    SecretError::Unavailable { .. } => Meaning::Ambiguous,
                    _ => Meaning::CredentialsMissing,
                },
                cause: error.to_string(),
            })?;
            *seen = SecretSeen::Value(secret.fingerprint());
            let credentials = Credentials::new(access_key_id, secret.expose(), None, None, "configuration");
            loader = loader.credentials_provider(credentials);
        }
    }
    if settings.checksums == S3Checksums::WhenRequired {
        loader = loader
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
    }
    let mut shared = loader.load().await;
    let Some(region) = shared.region().cloned() else {
        return Err(Refused { meaning: Meaning::NoRegion, cause: "no region is known for [s3]".into() });
    };
    if let S3Credentials::Profile(profile) = &settings.credentials {
        // The default chain would ask the environment first, whatever the profile's name.
        let config = ProviderConfig::default()
            .with_http_client(http)
            .with_region(Some(region))
            .with_use_fips(settings.fips.then_some(true))
            .with_use_dual_stack(settings.dual_stack.then_some(true))
            .with_behavior_version(Some(BehaviorVersion::latest()));
        let provider =
            ProfileFileCredentialsProvider::builder().configure(&config).profile_name(profile).build();
        let provider = SharedCredentialsProvider::new(provider);
        shared = shared.into_builder().credentials_provider(provider).build();
    }
    if let Some(role) = &settings.role {
        let mut provider =
            AssumeRoleProvider::builder(&role.arn).session_name(&role.session_name).configure(&shared);
        if let Some(id) = &role.external_id {
            provider = provider.external_id(id);
        }
        let provider = SharedCredentialsProvider::new(provider.build().await);
        shared = shared.into_builder().credentials_provider(provider).build();
    }
    let mut config = aws_sdk_s3::config::Builder::from(&shared)
        .force_path_style(settings.force_path_style)
        .retry_config(RetryConfig::disabled())
        .timeout_config(
            TimeoutConfig::builder()
                .connect_timeout(deadlines.connect)
                .read_timeout(deadlines.read)
                .operation_timeout(deadlines.operation)
                .build(),
        )
        .stalled_stream_protection(
            StalledStreamProtectionConfig::enabled().grace_period(deadlines.stall).build(),
        );
    if let Some(url) = &settings.endpoint_url {
        config = config.endpoint_url(url);
    }
    Ok(Client::from_conf(config.build()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_ca_file_is_refused_before_anything_is_sent() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let connections = Connections::default();
        let none = write("none.pem", "no certificate");
        let bad = write("bad.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
        for path in [none, bad, directory.path().join("absent.pem")] {
            let problem = connections.http(Some(&path)).unwrap_err();
            assert_eq!(problem.reason, PauseReason::Configuration);
            assert!(problem.cause.contains("ca_file"), "{}", problem.cause);
        }
    }
}
