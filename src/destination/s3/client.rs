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
use crate::clock::Clock;
use crate::config::settings::{S3Checksums, S3Credentials, S3Key, S3Role, S3Settings};
use crate::http::{Clients, Route};
use crate::problem::{PauseReason, Problem};
use crate::pulumi::environment::Environments;
use crate::rotation::{Choice, Places, Refusal, Rotation, Slot, Standing, present};
use crate::secret::{Fingerprint, Freshness, Secret, SecretError};

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

/// The daemon's HTTP clients as the SDK takes them, one for each route in use, and the S3 clients made of them.
/// Clones share them.
#[derive(Clone, Default)]
pub struct Connections(Arc<Shared>);

#[derive(Default)]
struct Shared {
    deadlines: Deadlines,
    clients: Arc<Clients>,
    environments: Environments,
    http: Mutex<HashMap<Route, SharedHttpClient>>,
    /// No more than there are differing settings.
    stores: Mutex<HashMap<Access, Arc<tokio::sync::Mutex<Reached>>>>,
}

/// A store and how it is reached at present.
struct Reached {
    connected: Option<Connected>,
    /// Where fixed keys are configured.
    keys: Option<Rotation<KeyPlaces>>,
    /// The key that `connected` was made with.
    choice: Option<Choice<Key>>,
    made: u64,
}

/// The configured keys.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Keys {
    first: S3Key,
    next: Option<S3Key>,
}

/// A key as it was read.
#[derive(Clone)]
struct Key {
    access_key_id: String,
    secret: Secret,
}

impl Key {
    fn new(configured: &S3Key, secret: Secret) -> Key {
        Key { access_key_id: configured.access_key_id.clone(), secret }
    }
}

impl Keys {
    fn of(settings: &S3Settings) -> Option<Keys> {
        match &settings.credentials {
            S3Credentials::Static { key, next } => Some(Keys { first: key.clone(), next: next.clone() }),
            S3Credentials::Default | S3Credentials::Profile(_) => None,
        }
    }
}

struct KeyPlaces {
    keys: Keys,
    /// Where secrets are read that are not on this machine.
    environments: Environments,
}

impl KeyPlaces {
    fn at(&self, slot: Slot) -> Option<&S3Key> {
        match slot {
            Slot::First => Some(&self.keys.first),
            Slot::Next => self.keys.next.as_ref(),
        }
    }
}

impl Places for KeyPlaces {
    type Value = Key;

    fn keys(&self) -> [&'static str; 2] {
        ["access_key_id", "next_access_key_id"]
    }

    fn seen(&self, slot: Slot) -> Option<Result<Key, SecretError>> {
        let key = self.at(slot)?;
        Some(self.environments.seen(&key.secret_access_key).map(|secret| Key::new(key, secret)))
    }

    async fn read(&self, slot: Slot, freshness: Freshness) -> Option<Result<Key, SecretError>> {
        let key = self.at(slot)?;
        let secret = self.environments.read(&key.secret_access_key, freshness).await;
        Some(secret.map(|secret| Key::new(key, secret)))
    }

    fn fingerprint(key: &Key) -> Fingerprint {
        let id = Secret::new(key.access_key_id.clone());
        Fingerprint::of_all([id.fingerprint(), key.secret.fingerprint()])
    }
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
    keys: Option<Keys>,
    role: Option<S3Role>,
    checksums: S3Checksums,
    route: Route,
}

impl Access {
    fn of(settings: &S3Settings) -> Access {
        let profile = match &settings.credentials {
            S3Credentials::Profile(profile) => Some(profile.clone()),
            S3Credentials::Default | S3Credentials::Static { .. } => None,
        };
        Access {
            region: settings.region.clone(),
            endpoint_url: settings.endpoint_url.clone(),
            force_path_style: settings.force_path_style,
            fips: settings.fips,
            dual_stack: settings.dual_stack,
            profile,
            keys: Keys::of(settings),
            role: settings.role.clone(),
            checksums: settings.checksums,
            route: settings.route.clone(),
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
    /// Its credentials were accepted.
    pub(super) proven: bool,
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
        let shared =
            Shared { http: Mutex::new(HashMap::from([(Route::default(), http)])), ..Shared::default() };
        Connections(Arc::new(shared))
    }

    /// How the store of these settings is reached at present.
    fn reached(&self, settings: &S3Settings) -> Arc<tokio::sync::Mutex<Reached>> {
        let mut stores = self.0.stores.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || {
            let keys = self.places(settings).map(Rotation::new);
            Arc::new(tokio::sync::Mutex::new(Reached { connected: None, keys, choice: None, made: 0 }))
        };
        stores.entry(Access::of(settings)).or_insert_with(new).clone()
    }

    /// Makes sure that the next one who asks gets another client than this one.
    pub(super) async fn forget(&self, settings: &S3Settings, refused: Made, standing: &mut Standing) {
        let reached = self.reached(settings);
        let mut reached = reached.lock().await;
        if let Some(connected) = reached.connected.as_mut().filter(|connected| connected.made() == refused) {
            connected.stale = true;
        }
        reached.say(standing);
    }

    /// A client's credentials were accepted.
    pub(super) async fn proven(&self, settings: &S3Settings, made: Made, standing: &mut Standing) {
        let reached = self.reached(settings);
        let mut reached = reached.lock().await;
        let Reached { connected, keys, choice, .. } = &mut *reached;
        if let Some(connected) = connected.as_mut().filter(|connected| connected.made() == made) {
            connected.proven = true;
            if let (Some(keys), Some(choice)) = (keys, choice) {
                keys.accepted(choice);
            }
        }
        reached.say(standing);
    }

    /// Whether there is a key to be tried, or another client than this one to be used.
    pub(super) async fn is_due(
        &self,
        settings: &S3Settings,
        known: Option<Made>,
        clock: &Clock,
        standing: &mut Standing,
    ) -> bool {
        let reached = self.reached(settings);
        let mut reached = reached.lock().await;
        let due = match &mut reached.keys {
            Some(keys) => {
                keys.look(clock.now()).await;
                keys.nudged();
                keys.is_due()
            }
            None => false,
        };
        reached.say(standing);
        due || reached.connected.as_ref().map(Connected::made) != known
    }

    /// The client for these settings; a new one where there is none, where only the one is there whose credentials were `refused` for
    /// this reason, and where another key is to be tried. `standing` and `seen` are told what became of the configured keys, also
    /// where there is no client in the end.
    pub(super) async fn store(
        &self,
        settings: &S3Settings,
        refused: Option<(Made, &str)>,
        clock: &Clock,
        seen: &mut SecretSeen,
        standing: &mut Standing,
    ) -> Result<Connected, Refused> {
        let reached = self.reached(settings);
        // Held while one is made, so that the others wait for it rather than ask as well.
        let mut reached = reached.lock().await;
        let due = reached.keys.as_mut().is_some_and(Rotation::is_due);
        let usable = reached.connected.as_ref().filter(|connected| {
            !connected.stale && refused.is_none_or(|(made, _)| made != connected.made()) && !due
        });
        if let Some(connected) = usable.cloned() {
            *seen = connected.secret;
            reached.say(standing);
            return Ok(connected);
        }
        let current = reached.connected.as_ref().map(Connected::made);
        let why = refused.filter(|(made, _)| Some(*made) == current).map(|(_, why)| why);
        let chosen = reached.choose(why, clock, seen).await;
        reached.say(standing);
        let key = chosen?;
        let client = connect(settings, self, key.as_ref()).await?;
        reached.made += 1;
        let connected = Connected { client, secret: *seen, made: reached.made, stale: false, proven: false };
        reached.connected = Some(connected.clone());
        Ok(connected)
    }

    /// The configured keys as far as they are known without asking anybody, as one.
    pub(super) fn present_keys(&self, settings: &S3Settings) -> Option<Fingerprint> {
        present(&self.places(settings)?)
    }

    fn places(&self, settings: &S3Settings) -> Option<KeyPlaces> {
        Some(KeyPlaces { keys: Keys::of(settings)?, environments: self.0.environments.clone() })
    }

    /// The client for a route.
    ///
    /// # Errors
    /// When a file of the route cannot be used.
    pub fn http(&self, route: &Route) -> Result<SharedHttpClient, Problem> {
        let mut known = self.0.http.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = known.get(route) {
            return Ok(client.clone());
        }
        let client = self.0.clients.get(route).map_err(|error| Problem {
            reason: PauseReason::Configuration,
            cause: format!("[s3]: {error}"),
            remedy: format!("correct `{}` of [s3]", error.key()),
        })?;
        let client = http::shared(client);
        known.insert(route.clone(), client.clone());
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

impl SecretSeen {
    fn of(present: Option<Fingerprint>) -> SecretSeen {
        present.map_or(SecretSeen::Unreadable, SecretSeen::Value)
    }
}

impl Reached {
    /// The key to reach it with, where keys are configured. `refused`: why the one in use was.
    async fn choose(
        &mut self,
        refused: Option<&str>,
        clock: &Clock,
        seen: &mut SecretSeen,
    ) -> Result<Option<Key>, Refused> {
        let Some(keys) = &mut self.keys else { return Ok(None) };
        *seen = SecretSeen::of(present(keys.places()));
        let other = match (self.choice.take(), refused) {
            (Some(choice), Some(why)) => keys.refused(choice, Refusal::Unknown, why).await,
            _ => None,
        };
        let choice = match other {
            Some(other) => Ok(other),
            None => keys.choose(clock.now()).await,
        };
        // One that is not on this machine may just have been read, for the first time or again.
        if *seen == SecretSeen::Unreadable || refused.is_some() {
            *seen = SecretSeen::of(present(keys.places()));
        }
        let choice = choice.map_err(|error| Refused {
            meaning: match &error {
                SecretError::Unavailable { wait: Some(wait), .. } => Meaning::Throttled(Some(*wait)),
                SecretError::Unavailable { .. } => Meaning::Ambiguous,
                _ => Meaning::CredentialsMissing,
            },
            cause: error.to_string(),
        })?;
        let key = choice.value().clone();
        self.choice = Some(choice);
        Ok(Some(key))
    }

    fn say(&self, standing: &mut Standing) {
        if let Some(keys) = &self.keys {
            *standing = keys.standing();
        }
    }
}

/// Makes a client of the credentials as they stand. Asks the network only for a region that is not configured.
async fn connect(
    settings: &S3Settings,
    connections: &Connections,
    key: Option<&Key>,
) -> Result<Client, Refused> {
    let http = connections
        .http(&settings.route)
        .map_err(|problem| Refused { meaning: Meaning::Barred(problem.remedy), cause: problem.cause })?;
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
    if let S3Credentials::Profile(profile) = &settings.credentials {
        loader = loader.profile_name(profile);
    }
    if let Some(Key { access_key_id, secret }) = key {
        let credentials = Credentials::new(access_key_id, secret.expose(), None, None, "configuration");
        loader = loader.credentials_provider(credentials);
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
            let problem = connections.http(&Route::trusting(Some(path))).unwrap_err();
            assert_eq!(problem.reason, PauseReason::Configuration);
            assert!(problem.cause.contains("ca_file"), "{}", problem.cause);
        }
    }
}
