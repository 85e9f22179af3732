//! Tokens of an app registration, by Microsoft's own identity library over our HTTP: a client secret, a certificate, or the token of
//! a platform that Entra ID trusts.
//!
//! *Why its requests run over [`Transport`]:* one client, one set of authorities, and simulated days without a socket. *Why not its
//! credentials for certificates and workload identity:* the one brings OpenSSL, the other keeps a projected token for ten minutes.
//! Both are client assertions, and those the library takes from us.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use azure_core::cloud::{CloudConfiguration, CustomConfiguration};
use azure_core::credentials::TokenCredential;
use azure_core::error::ErrorKind;
use azure_core::http::headers::Headers;
use azure_core::http::{
    AsyncRawResponse, Body, ClientMethodOptions, ClientOptions, HttpClient, Request as AzureRequest,
    RetryOptions, Transport as AzureTransport,
};
use azure_identity::{
    ClientAssertion, ClientAssertionCredential, ClientAssertionCredentialOptions, ClientSecretCredential,
    ClientSecretCredentialOptions,
};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde::Deserialize;
use serde_json::Value;

use super::super::client::wait_asked;
use super::certificate::Certificate;
use super::{Fetched, NoToken};
use crate::clock::{Clock, Second};
use crate::http::{Failure, Request, Response, Transport};
use crate::problem::PauseReason;
use crate::pulumi::environment::{Environments, Freshness};
use crate::secret::{Fingerprint, Place, Secret, SecretBytes, SecretError, SecretSource, read_projected};

/// For a whole exchange with the token service.
const DEADLINE: Duration = Duration::from_secs(30);
/// Most bytes of its answer; tokens have a few thousand.
const ANSWER_BYTES_MAX: usize = 256 * 1024;
/// No token lives longer: real ones end after a day at most.
const LIFE_SECONDS_MAX: i64 = 7 * 86_400;
/// Codes of Entra ID that pass by themselves (learn.microsoft.com, "Microsoft Entra authentication error codes", 2026-09).
const TRANSIENT_CODES: [i64; 2] = [50196, 90033];

/// An app registration.
pub(super) struct App {
    pub(super) authority: String,
    pub(super) tenant_id: String,
    pub(super) client_id: String,
    pub(super) scope: String,
    pub(super) proof: Proof,
    /// Where proofs are read that are not on this machine.
    pub(super) environments: Environments,
    pub(super) transport: Arc<dyn Transport>,
    pub(super) clock: Clock,
}

/// What the app shows for itself.
pub(super) enum Proof {
    Secret(SecretSource),
    Certificate {
        certificate: SecretSource,
        password: Option<SecretSource>,
    },
    /// A file with a token that the platform exchanges by itself.
    Projected(PathBuf),
}

/// The proof as read for one fetch.
enum Shown {
    Secret(Secret),
    Certificate(SecretBytes, Option<Secret>),
    Projected(Secret),
}

impl Proof {
    async fn read(&self, environments: &Environments, freshness: Freshness) -> Result<Shown, SecretError> {
        match self {
            Proof::Secret(secret) => environments.read(secret, freshness).await.map(Shown::Secret),
            Proof::Certificate { certificate, password } => {
                let password = match password {
                    Some(password) => Some(environments.read(password, freshness).await?),
                    None => None,
                };
                let certificate = environments.read_bytes(certificate, freshness).await?;
                Ok(Shown::Certificate(certificate, password))
            }
            Proof::Projected(path) => read_projected(path).map(Shown::Projected),
        }
    }

    /// As it is known without asking anybody.
    fn seen(&self, environments: &Environments) -> Option<Shown> {
        match self {
            Proof::Secret(secret) => environments.seen(secret).map(Shown::Secret),
            Proof::Certificate { certificate, password } => {
                let password = match password {
                    Some(password) => Some(environments.seen(password)?),
                    None => None,
                };
                Some(Shown::Certificate(environments.seen_bytes(certificate)?, password))
            }
            Proof::Projected(path) => read_projected(path).ok().map(Shown::Projected),
        }
    }

    /// Whether what is read of it may be of an earlier time.
    fn is_kept(&self) -> bool {
        let is_kept = |source: &SecretSource| matches!(source.place, Place::Esc(_));
        match self {
            Proof::Secret(secret) => is_kept(secret),
            Proof::Certificate { certificate, password } => {
                is_kept(certificate) || password.as_ref().is_some_and(is_kept)
            }
            Proof::Projected(_) => false,
        }
    }
}

impl Shown {
    fn fingerprint(&self) -> Fingerprint {
        match self {
            Shown::Secret(secret) | Shown::Projected(secret) => secret.fingerprint(),
            Shown::Certificate(certificate, password) => certificate.fingerprint(password.as_ref()),
        }
    }
}

/// A proof that was presented, as far as messages may tell.
#[derive(Default)]
struct Presented {
    thumbprint: Option<String>,
}

impl App {
    pub(super) fn name(&self) -> String {
        let by = match self.proof {
            Proof::Secret(_) => "",
            Proof::Certificate { .. } => " (certificate)",
            Proof::Projected(_) => " (workload identity)",
        };
        format!("app `{}` of tenant `{}`{by}", self.client_id, self.tenant_id)
    }

    pub(super) fn secret(&self) -> Option<Fingerprint> {
        self.proof.seen(&self.environments).map(|shown| shown.fingerprint())
    }

    /// A proof that was read at an earlier time and is refused is read again, and shown where it has become another.
    pub(super) async fn fetch(&self) -> (Option<Fingerprint>, Fetched) {
        let shown = match self.read(Freshness::Kept).await {
            Ok(shown) => shown,
            Err(none) => return (None, Err(none)),
        };
        let seen = shown.fingerprint();
        let fetched = self.exchange(shown).await;
        let is_refused =
            matches!(&fetched, Err(NoToken::Refused(problem)) if problem.reason == PauseReason::Credentials);
        if is_refused
            && self.proof.is_kept()
            && let Ok(again) = self.read(Freshness::Renewed).await
            && again.fingerprint() != seen
        {
            return (Some(again.fingerprint()), self.exchange(again).await);
        }
        (Some(seen), fetched)
    }

    async fn read(&self, freshness: Freshness) -> Result<Shown, NoToken> {
        self.proof.read(&self.environments, freshness).await.map_err(|error| match error {
            SecretError::Unavailable { wait: Some(wait), .. } => {
                NoToken::Throttled { wait: Some(wait), cause: error.to_string() }
            }
            SecretError::Unavailable { .. } => NoToken::Failed(error.to_string()),
            error => NoToken::refused(error.to_string(), self.put_proof()),
        })
    }

    async fn exchange(&self, shown: Shown) -> Fetched {
        // The library takes https only; where the configuration allows plain HTTP (loopback), the scheme is put back on the wire.
        let (authority, plain) = match self.authority.strip_prefix("http://") {
            Some(rest) => (format!("https://{rest}"), true),
            None => (self.authority.clone(), false),
        };
        let wire = Arc::new(Wire { transport: Arc::clone(&self.transport), plain, last: Mutex::new(None) });
        let mut cloud = CustomConfiguration::default();
        cloud.authority_host = authority;
        let client_options = ClientOptions {
            retry: RetryOptions::none(),
            transport: Some(AzureTransport::new(Arc::clone(&wire) as Arc<dyn HttpClient>)),
            cloud: Some(Arc::new(CloudConfiguration::Custom(cloud))),
            ..ClientOptions::default()
        };
        let mut presented = Presented::default();
        let assertion = match shown {
            Shown::Secret(secret) => {
                // Made anew each time: it would keep a token, and the secret may have changed.
                let credential = ClientSecretCredential::new(
                    &self.tenant_id,
                    self.client_id.clone(),
                    secret.expose().to_owned().into(),
                    Some(ClientSecretCredentialOptions { client_options }),
                );
                return self.token(credential, &wire, &presented).await;
            }
            Shown::Projected(token) => token,
            Shown::Certificate(bytes, password) => {
                let (thumbprint, assertion) = self.assertion(bytes, password).await?;
                presented.thumbprint = Some(thumbprint);
                assertion
            }
        };
        let credential = ClientAssertionCredential::new(
            self.tenant_id.clone(),
            self.client_id.clone(),
            Assertion(assertion),
            Some(ClientAssertionCredentialOptions { client_options }),
        );
        self.token(credential, &wire, &presented).await
    }

    /// Opens the certificate and signs. Opening PKCS#12 is made slow on purpose, so it does not hold up other tasks.
    async fn assertion(
        &self,
        bytes: SecretBytes,
        password: Option<Secret>,
    ) -> Result<(String, Secret), NoToken> {
        let audience = format!("{}/{}/oauth2/v2.0/token", self.authority, self.tenant_id);
        let (client_id, now) = (self.client_id.clone(), self.clock.now());
        let signed = tokio::task::spawn_blocking(move || {
            let certificate = Certificate::open(&bytes, password.as_ref())?;
            let assertion = certificate.assertion(&audience, &client_id, now)?;
            Ok::<_, super::certificate::CertificateError>((certificate.thumbprint(), assertion))
        })
        .await;
        match signed {
            Ok(Ok(signed)) => Ok(signed),
            Ok(Err(error)) => Err(NoToken::refused(
                format!("the certificate in {} cannot be used: {error}", self.place()),
                self.put_proof(),
            )),
            Err(_) => Err(NoToken::Failed("signing with the certificate was interrupted".into())),
        }
    }

    async fn token<C: TokenCredential>(
        &self,
        credential: azure_core::Result<Arc<C>>,
        wire: &Wire,
        presented: &Presented,
    ) -> Fetched {
        let credential = credential.map_err(|_| {
            NoToken::refused(
                format!("`{}` cannot be asked for a token for {}", self.authority, self.name()),
                "check `authority`, `tenant_id` and `client_id`",
            )
        })?;
        match credential.get_token(&[&self.scope], None).await {
            Ok(token) if token.token.secret().is_empty() => {
                Err(NoToken::Failed(format!("{} answered without a token", self.authority)))
            }
            Ok(token) => {
                // The library counts from the system's clock, so this must too.
                let life = token.expires_on.unix_timestamp() - Clock::system().now().0;
                let life = Duration::from_secs(u64::try_from(life).unwrap_or(0));
                Ok((Secret::new(token.token.secret().to_owned()), life))
            }
            Err(_) => Err(self.failure(wire.take(), presented)),
        }
    }

    /// Sorts what went wrong by what was seen on the wire: the library's error loses the status of an answer that is not Entra's.
    fn failure(&self, last: Option<Result<Response, Failure>>, presented: &Presented) -> NoToken {
        let authority = &self.authority;
        let response = match last {
            Some(Ok(response)) => response,
            Some(Err(failure)) => return no_answer(authority, "authority", &self.name(), &failure),
            None => return NoToken::Failed(format!("no token from {authority}: nothing was asked")),
        };
        let error = ServiceError::of(&response);
        let cause = error.cause(authority, response.status);
        if let Some(passing) = passing(&response, self.clock.now(), &cause) {
            return passing;
        }
        match response.status {
            400..=499 if error.codes.iter().any(|code| TRANSIENT_CODES.contains(code)) => {
                NoToken::Failed(cause)
            }
            400 | 401 | 403 if error.name.is_some() => {
                let cause = format!("{cause} for {}", self.name());
                NoToken::refused(cause, self.remedy(&error.codes, presented))
            }
            _ => NoToken::misconfigured(
                format!("{cause} for {}", self.name()),
                format!(
                    "check `authority` ({authority}) and any proxy before it: this is not the answer of a token service"
                ),
            ),
        }
    }

    fn remedy(&self, codes: &[i64], presented: &Presented) -> String {
        let App { tenant_id, client_id, scope, .. } = self;
        let place = self.place();
        let thumbprint = presented.thumbprint.as_deref().unwrap_or_default();
        match (codes.first(), &self.proof) {
            (Some(700_016), _) => {
                format!("there is no app {client_id} in tenant {tenant_id}: correct `client_id` or `tenant_id`")
            }
            (Some(90_002 | 900_023), _) => {
                format!("there is no tenant {tenant_id} in this cloud: correct `tenant_id` or `cloud`")
            }
            (Some(70_011 | 500_011), _) => {
                format!("scope {scope} is not known in tenant {tenant_id}: correct `cloud` or `scope`")
            }
            (Some(7_000_215), Proof::Secret(_)) => format!(
                "put the value (not the id) of a client secret of app {client_id}, tenant {tenant_id}, into {place}"
            ),
            (Some(7_000_222), Proof::Secret(_)) => format!(
                "the client secret has expired: make a new one for app {client_id}, tenant {tenant_id}, and put its value into {place}"
            ),
            (Some(700_024), Proof::Certificate { .. }) => {
                "correct this machine's clock: the token service takes what was signed for other than it is now".into()
            }
            (Some(7_000_222), Proof::Certificate { .. }) => format!(
                "the certificate {thumbprint} has expired: make a new one, upload it to app {client_id}, tenant {tenant_id}, and put it with its key into {place}"
            ),
            (Some(700_024), Proof::Projected(_)) => {
                format!("the token in {place} has expired: make sure that the platform replaces it, and that the clock is right")
            }
            (Some(70_021 | 700_021 | 700_211 | 700_212 | 700_213), Proof::Projected(_)) => format!(
                "add a federated credential to app {client_id}, tenant {tenant_id}, whose issuer, subject and audience are those of the token in {place}"
            ),
            (_, Proof::Secret(_)) => {
                format!("check app {client_id} in tenant {tenant_id}, and its client secret in {place}")
            }
            (_, Proof::Certificate { .. }) => format!(
                "upload the certificate {thumbprint} (in {place}) to app {client_id}, tenant {tenant_id}, or put the one that is there, with its key, into {place}"
            ),
            (_, Proof::Projected(_)) => {
                format!("check app {client_id} in tenant {tenant_id}, its federated credentials, and the token in {place}")
            }
        }
    }

    fn place(&self) -> String {
        match &self.proof {
            Proof::Secret(source) | Proof::Certificate { certificate: source, .. } => {
                source.place.to_string()
            }
            Proof::Projected(path) => format!("file {}", path.display()),
        }
    }

    fn put_proof(&self) -> String {
        let (client_id, place) = (&self.client_id, self.place());
        match &self.proof {
            Proof::Secret(_) => format!("put the client secret of app {client_id} into {place}"),
            Proof::Certificate { .. } => {
                format!(
                    "put the certificate of app {client_id}, with its RSA private key, into {place} as PEM or PKCS#12"
                )
            }
            Proof::Projected(_) => format!(
                "have the platform put the token for app {client_id} into {place}; on AKS label the pod `azure.workload.identity/use: \"true\"`"
            ),
        }
    }
}

/// There was no answer. `key` is the setting that says where it was asked for.
pub(super) fn no_answer(service: &str, key: &str, who: &str, failure: &Failure) -> NoToken {
    match failure {
        Failure::Untrusted(cause) => NoToken::misconfigured(
            format!("no token for {who}: the certificate of {service} is not trusted: {cause}"),
            format!(
                "check `{key}`; where a proxy or a private authority signs certificates, name its authority in `ca_file`"
            ),
        ),
        failure => NoToken::Failed(format!("no token from {service}: {failure}")),
    }
}

/// An answer that says nothing about the identity, of any token service: asked again later, it is another.
pub(super) fn passing(response: &Response, now: Second, cause: &str) -> Option<NoToken> {
    let cause = cause.to_owned();
    match response.status {
        429 => Some(NoToken::Throttled { wait: wait_asked(response, now), cause }),
        503 => Some(match wait_asked(response, now) {
            Some(wait) => NoToken::Throttled { wait: Some(wait), cause },
            None => NoToken::Failed(cause),
        }),
        200..=299 | 408 | 500..=599 => Some(NoToken::Failed(cause)),
        _ => None,
    }
}

/// What a token service says in an error. Its description is left out: it may repeat what was sent.
#[derive(Default)]
pub(super) struct ServiceError {
    pub(super) name: Option<String>,
    codes: Vec<i64>,
}

impl ServiceError {
    pub(super) fn of(response: &Response) -> ServiceError {
        #[derive(Deserialize)]
        struct Body {
            error: String,
            #[serde(default)]
            error_codes: Vec<i64>,
        }
        let Ok(body) = serde_json::from_slice::<Body>(&response.body) else { return ServiceError::default() };
        // An OAuth error is a word; anything else is not shown.
        let word = body.error.len() <= 60 && body.error.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        let name = if word { body.error } else { "unknown error".into() };
        ServiceError { name: Some(name), codes: body.error_codes.into_iter().take(4).collect() }
    }

    pub(super) fn cause(&self, service: &str, status: u16) -> String {
        let mut cause = format!("{service} answered {status}");
        if let Some(name) = &self.name {
            cause.push(' ');
            cause.push_str(name);
        }
        for code in &self.codes {
            cause.push_str(&format!(" AADSTS{code}"));
        }
        cause
    }
}

/// The library adds a token's life to the time without a look at it, and panics where no calendar reaches. It also reads answers that
/// are no JSON object, or no text where it skips: those it never gets to see.
fn with_a_life_that_can_be_added(body: Bytes) -> Bytes {
    let Ok(mut answer) = serde_json::from_slice::<serde_json::Map<String, Value>>(&body) else {
        return Bytes::new();
    };
    let Some(life) = answer.get_mut("expires_in") else { return body };
    match life.as_i64() {
        Some(seconds) if (0..=LIFE_SECONDS_MAX).contains(&seconds) => return body,
        Some(seconds) => *life = seconds.clamp(0, LIFE_SECONDS_MAX).into(),
        None => return body,
    }
    serde_json::to_vec(&answer).map_or(body, Bytes::from)
}

/// A client assertion that is there already.
struct Assertion(Secret);

impl fmt::Debug for Assertion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Assertion([REDACTED])")
    }
}

#[async_trait]
impl ClientAssertion for Assertion {
    async fn secret(&self, _: Option<ClientMethodOptions<'_>>) -> azure_core::Result<String> {
        Ok(self.0.expose().to_owned())
    }
}

/// The library's HTTP client: our transport, which remembers its last answer.
struct Wire {
    transport: Arc<dyn Transport>,
    plain: bool,
    last: Mutex<Option<Result<Response, Failure>>>,
}

impl Wire {
    fn take(&self) -> Option<Result<Response, Failure>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wire")
    }
}

#[async_trait]
impl HttpClient for Wire {
    async fn execute_request(&self, request: &AzureRequest) -> azure_core::Result<AsyncRawResponse> {
        let unusable =
            |what: &str| azure_core::Error::with_message(ErrorKind::DataConversion, what.to_owned());
        let mut headers = HeaderMap::new();
        for (name, value) in request.headers().iter() {
            let name = HeaderName::from_str(name.as_str()).map_err(|_| unusable("header name"))?;
            // The transport measures the body itself.
            if name != http::header::CONTENT_LENGTH {
                headers.insert(
                    name,
                    HeaderValue::from_str(value.as_str()).map_err(|_| unusable("header value"))?,
                );
            }
        }
        let Body::Bytes(body) = request.body().clone() else { return Err(unusable("body")) };
        let mut url = request.url().to_string();
        if self.plain {
            url.replace_range(..url.find(':').unwrap_or(0), "http");
        }
        let request = Request {
            method: Method::from_str(request.method().as_str()).map_err(|_| unusable("method"))?,
            url,
            headers,
            body,
            body_bytes_max: ANSWER_BYTES_MAX,
            deadline: DEADLINE,
        };
        let answer = self.transport.send(request).await;
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer.clone());
        match answer {
            Ok(response) => {
                let body = with_a_life_that_can_be_added(response.body);
                Ok(AsyncRawResponse::from_bytes(response.status.into(), Headers::new(), body))
            }
            Err(failure) => Err(azure_core::Error::with_message(ErrorKind::Io, failure.to_string())),
        }
    }
}

/// Any answer of Entra ID, through the library and past it.
#[cfg(any(test, fuzzing))]
pub(crate) fn property(bytes: &[u8]) {
    struct Canned(Response);

    #[async_trait]
    impl Transport for Canned {
        async fn send(&self, _: Request) -> Result<Response, Failure> {
            Ok(self.0.clone())
        }
    }

    let response = crate::hostile::given::response(bytes, "retry-after");
    let app = App {
        authority: "https://login.example".into(),
        tenant_id: "11111111-1111-1111-1111-111111111111".into(),
        client_id: "c".into(),
        scope: "https://monitor.azure.com/.default".into(),
        proof: Proof::Secret(SecretSource { place: Place::Env("ABSENT".into()), group_may_read: false }),
        environments: Environments::default(),
        transport: Arc::new(Canned(response)),
        clock: Clock::simulated(Second(1_795_256_100)),
    };
    let shown = Shown::Secret(Secret::new(crate::hostile::given::CANARY.into()));
    super::assert_sound(crate::hostile::given::block_on(app.exchange(shown)));
}
