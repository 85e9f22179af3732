//! How the store is reached: one HTTP client for all orgs, and an S3 client made from settings and the credentials as they stand.
//!
//! *Why a new S3 client after a refusal, and not a provider that reloads:* the default chain caches what it read (a profile, a
//! token's exchange) in several places; a client made anew has none of it. Connections are not lost by it: they belong to the
//! HTTP client.

use std::collections::HashMap;
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_config::BehaviorVersion;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{AppName, Credentials, Region, SharedHttpClient, StalledStreamProtectionConfig};
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use aws_smithy_http_client::{Builder, Connector};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::answer::{Meaning, Refused};
use crate::config::settings::{S3Credentials, S3Settings};
use crate::destination::{PauseReason, Problem};
use crate::secret::Fingerprint;

/// Most bytes of a certificate authority file.
const CA_BYTES_MAX: u64 = 4 * 1024 * 1024;

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

/// The HTTP clients, one for each certificate authority file in use. Clones share them.
#[derive(Clone, Default)]
pub struct Connections(Arc<Shared>);

#[derive(Default)]
struct Shared {
    deadlines: Deadlines,
    clients: Mutex<HashMap<Option<PathBuf>, SharedHttpClient>>,
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Connections({:?})", self.0.deadlines)
    }
}

impl Connections {
    pub fn new(deadlines: Deadlines) -> Connections {
        Connections(Arc::new(Shared { deadlines, clients: Mutex::default() }))
    }

    /// The client that trusts the system's authorities and those in `ca_file`.
    ///
    /// # Errors
    /// When the file cannot be read or holds no certificate.
    pub fn http(&self, ca_file: Option<&Path>) -> Result<SharedHttpClient, Problem> {
        let mut clients = self.0.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let key = ca_file.map(Path::to_owned);
        if let Some(client) = clients.get(&key) {
            return Ok(client.clone());
        }
        let client = http_client(ca_file)?;
        clients.insert(key, client.clone());
        Ok(client)
    }
}

fn http_client(ca_file: Option<&Path>) -> Result<SharedHttpClient, Problem> {
    let mut trusted = TrustStore::default();
    if let Some(path) = ca_file {
        trusted.add_pem_certificate(certificates(path).map_err(|cause| Problem {
            reason: PauseReason::Configuration,
            cause: format!("cannot use ca_file {} of [s3]: {cause}", path.display()),
            remedy: "give a file with certificates in PEM form".into(),
        })?);
    }
    let context = TlsContext::builder().with_trust_store(trusted).build().map_err(|error| Problem {
        reason: PauseReason::Configuration,
        cause: format!("cannot set up TLS for [s3]: {error}"),
        remedy: "look at ca_file of [s3]".into(),
    })?;
    // As the SDK builds its own default, but with our authorities; its plain builder would ignore HTTPS_PROXY and NO_PROXY.
    Ok(Builder::new().build_with_connector_fn(move |settings, components| {
        let mut connector = Connector::builder()
            .tls_provider(Provider::Rustls(CryptoMode::AwsLc))
            .tls_context(context.clone())
            .proxy_config(ProxyConfig::from_env());
        connector.set_connector_settings(settings.cloned());
        connector.set_sleep_impl(components.and_then(|components| components.sleep_impl()));
        connector.build()
    }))
}

/// The file's bytes, once every certificate in them is known to be one: the SDK panics over a bad one.
fn certificates(path: &Path) -> Result<Vec<u8>, String> {
    let mut pem = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(CA_BYTES_MAX).read_to_end(&mut pem))
        .map_err(|error| error.to_string())?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| error.to_string())?;
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    if roots.is_empty() { Err("it holds no certificate".into()) } else { Ok(pem) }
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
pub(super) async fn connect(
    settings: &S3Settings,
    connections: &Connections,
    seen: &mut SecretSeen,
) -> Result<Client, Refused> {
    let http = connections
        .http(settings.ca_file.as_deref())
        .map_err(|problem| Refused { meaning: Meaning::Untrusted, cause: problem.cause })?;
    let deadlines = connections.0.deadlines;
    let mut loader = aws_config::defaults(BehaviorVersion::latest()).http_client(http);
    if let Ok(name) = AppName::new(env!("CARGO_PKG_NAME")) {
        loader = loader.app_name(name);
    }
    if let Some(region) = &settings.region {
        loader = loader.region(Region::new(region.clone()));
    } else if settings.endpoint_url.is_some() {
        loader = loader.region(Region::new(REGION_OF_OTHER_STORES));
    }
    if let S3Credentials::Static { access_key_id, secret_access_key } = &settings.credentials {
        *seen = SecretSeen::Unreadable;
        let secret = secret_access_key
            .read()
            .map_err(|error| Refused { meaning: Meaning::CredentialsMissing, cause: error.to_string() })?;
        *seen = SecretSeen::Value(secret.fingerprint());
        let credentials = Credentials::new(access_key_id, secret.expose(), None, None, "configuration");
        loader = loader.credentials_provider(credentials);
    }
    let shared = loader.load().await;
    if shared.region().is_none() {
        return Err(Refused { meaning: Meaning::NoRegion, cause: "no region is known for [s3]".into() });
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
