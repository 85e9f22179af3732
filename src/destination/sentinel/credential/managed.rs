//! Tokens of a managed identity: from the metadata service of a virtual machine or Kubernetes node, or from App Service and its kin.
//!
//! Asks once for each call, of an address on this machine that no proxy may stand before, and sorts the answer.
//!
//! *Why our own:* it is one GET. The identity library retries it for 72 seconds and lets nobody switch that off, takes no resource
//! id on App Service, and loses the difference between *no such identity* and *busy*.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method};
use serde::Deserialize;
use serde_json::Value;

use super::entra::{ServiceError, no_answer, passing};
use super::{Fetched, NoToken};
use crate::clock::{Clock, Second};
use crate::config::settings::{ManagedHost, ManagedId};
use crate::http::{Request, Response, Transport};
use crate::secret::Secret;

/// The same on every machine in Azure (learn.microsoft.com, "How to use managed identities on an Azure VM", 2026-09).
const MACHINE: &str = "http://169.254.169.254/metadata/identity/oauth2/token";
const MACHINE_VERSION: &str = "2018-02-01";
const APP_SERVICE_VERSION: &str = "2019-08-01";
const DEADLINE: Duration = Duration::from_secs(30);
/// The metadata service answers at once or is not there.
const PROBE_DEADLINE: Duration = Duration::from_secs(2);
const ANSWER_BYTES_MAX: usize = 256 * 1024;

pub(super) struct Managed {
    pub(super) host: ManagedHost,
    pub(super) id: ManagedId,
    pub(super) scope: String,
    pub(super) transport: Arc<dyn Transport>,
    pub(super) clock: Clock,
}

impl Managed {
    pub(super) fn name(&self) -> String {
        match &self.id {
            ManagedId::System => "the system-assigned managed identity of this machine".into(),
            ManagedId::Client(id) => format!("the managed identity with client id `{id}`"),
            ManagedId::Object(id) => format!("the managed identity with object id `{id}`"),
            ManagedId::Resource(id) => format!("the managed identity `{id}`"),
        }
    }

    /// Whether the metadata service answers; it refuses a question without its header in words of its own, and other clouds'
    /// services at the same address do not.
    pub(super) async fn is_there(&self) -> bool {
        let url = format!("{}?api-version={MACHINE_VERSION}", self.endpoint());
        match self.transport.send(request(url, HeaderMap::new(), PROBE_DEADLINE)).await {
            Ok(response) => match response.status {
                400 => ServiceError::of(&response).name.is_some(),
                410 | 429 | 500..=599 => true,
                _ => false,
            },
            Err(_) => false,
        }
    }

    pub(super) async fn fetch(&self) -> Fetched {
        let mut headers = HeaderMap::new();
        match &self.host {
            ManagedHost::Machine => {
                headers.insert("metadata", HeaderValue::from_static("true"));
            }
            ManagedHost::AppService { header, .. } => {
                let remedy = "the platform sets it: start the daemon with the platform's environment";
                let secret = header.read().map_err(|error| NoToken::refused(error.to_string(), remedy))?;
                let mut value = HeaderValue::from_str(secret.expose()).map_err(|_| {
                    NoToken::refused(format!("{} holds what no header can", header.place), remedy)
                })?;
                value.set_sensitive(true);
                headers.insert("x-identity-header", value);
            }
        }
        match self.transport.send(request(self.url(), headers, DEADLINE)).await {
            Ok(response) => self.token(&response),
            Err(failure) => Err(match self.host {
                ManagedHost::Machine => NoToken::Failed(format!(
                    "no token from {}, which only machines in Azure have: {failure}",
                    self.service()
                )),
                ManagedHost::AppService { .. } => {
                    no_answer(&self.service(), "IDENTITY_ENDPOINT", &self.name(), &failure)
                }
            }),
        }
    }

    fn token(&self, response: &Response) -> Fetched {
        let service = self.service();
        if response.status == 200 {
            let Some((token, life)) = Token::of(response, self.clock.now()) else {
                return Err(NoToken::Failed(format!("{service} answered without a token")));
            };
            return Ok((token, life));
        }
        let error = ServiceError::of(response);
        let cause = error.cause(&service, response.status);
        if let Some(passing) = passing(response, self.clock.now(), &cause) {
            return Err(passing);
        }
        let name = self.name();
        match (response.status, &self.host) {
            // Being set up or exchanged: for up to 70 seconds.
            (404 | 410, ManagedHost::Machine) => Err(NoToken::Failed(cause)),
            (400, _) => {
                let remedy = match (&self.id, &self.host) {
                    (ManagedId::System, ManagedHost::Machine) => {
                        "switch on the system-assigned identity of this machine, or name a user-assigned one that it has (`client_id`)"
                            .to_owned()
                    }
                    (ManagedId::System, ManagedHost::AppService { .. }) => {
                        "switch on the app's system-assigned identity, or name a user-assigned one that it has (`client_id`)".to_owned()
                    }
                    _ => format!("assign {name} to this machine or app, or correct its id; check `cloud` and `scope` ({})", self.scope),
                };
                Err(NoToken::refused(format!("{cause} for {name}"), remedy))
            }
            (401 | 403, ManagedHost::AppService { .. }) => Err(NoToken::refused(
                format!("{cause} for {name}"),
                "restart the daemon, so that it gets the IDENTITY_HEADER that counts now, and check that the app still has this identity",
            )),
            _ => Err(NoToken::misconfigured(
                format!("{cause} for {name}"),
                format!(
                    "check that {service} is the one of Azure, with no proxy before it; elsewhere choose another `kind` of `identity`"
                ),
            )),
        }
    }

    fn endpoint(&self) -> &str {
        match &self.host {
            ManagedHost::Machine => MACHINE,
            ManagedHost::AppService { endpoint, .. } => endpoint,
        }
    }

    fn service(&self) -> String {
        match &self.host {
            ManagedHost::Machine => "the metadata service (169.254.169.254)".into(),
            ManagedHost::AppService { .. } => "the service at IDENTITY_ENDPOINT".into(),
        }
    }

    fn url(&self) -> String {
        let resource = self.scope.strip_suffix("/.default").unwrap_or(&self.scope);
        let (version, resource_key) = match self.host {
            ManagedHost::Machine => (MACHINE_VERSION, "msi_res_id"),
            ManagedHost::AppService { .. } => (APP_SERVICE_VERSION, "mi_res_id"),
        };
        let endpoint = self.endpoint();
        let join = if endpoint.contains('?') { '&' } else { '?' };
        let mut url = format!("{endpoint}{join}api-version={version}&resource={}", encoded(resource));
        let id = match &self.id {
            ManagedId::System => None,
            ManagedId::Client(id) => Some(("client_id", id)),
            ManagedId::Object(id) => Some(("object_id", id)),
            ManagedId::Resource(id) => Some((resource_key, id)),
        };
        if let Some((key, id)) = id {
            url.push_str(&format!("&{key}={}", encoded(id)));
        }
        url
    }
}

fn encoded(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

fn request(url: String, headers: HeaderMap, deadline: Duration) -> Request {
    let body_bytes_max = ANSWER_BYTES_MAX;
    Request { method: Method::GET, url, headers, body: Bytes::new(), body_bytes_max, deadline }
}

/// Numbers come as numbers or as text, and some services say only when the token ends.
#[derive(Deserialize)]
struct Token {
    access_token: String,
    #[serde(default)]
    expires_in: Value,
    #[serde(default)]
    expires_on: Value,
}

impl Token {
    fn of(response: &Response, now: Second) -> Option<(Secret, Duration)> {
        let token: Token = serde_json::from_slice(&response.body).ok()?;
        let seconds = |value: &Value| match value {
            Value::String(text) => text.parse::<i64>().ok(),
            value => value.as_i64(),
        };
        // How long is better to know than until when: it does not depend on our clock.
        let life = seconds(&token.expires_in)
            .or_else(|| seconds(&token.expires_on).map(|until| until.saturating_sub(now.0)))
            .unwrap_or(0);
        let secret = Secret::new(token.access_token);
        let life = Duration::from_secs(u64::try_from(life).unwrap_or(0));
        (!secret.expose().is_empty()).then_some((secret, life))
    }
}

/// Any answer of a metadata service.
#[cfg(any(test, fuzzing))]
pub(crate) fn property(bytes: &[u8]) {
    struct Nobody;

    #[async_trait::async_trait]
    impl Transport for Nobody {
        async fn send(&self, _: Request) -> Result<Response, crate::http::Failure> {
            Err(crate::http::Failure::Connection("nobody".into()))
        }
    }

    let response = crate::hostile::given::response(bytes, "retry-after");
    let managed = Managed {
        host: ManagedHost::Machine,
        id: ManagedId::Client("c".into()),
        scope: "https://monitor.azure.com/.default".into(),
        transport: Arc::new(Nobody),
        clock: Clock::simulated(Second(1_795_256_100)),
    };
    super::assert_sound(managed.token(&response));
}

#[cfg(test)]
mod tests;
