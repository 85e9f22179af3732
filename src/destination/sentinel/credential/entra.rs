//! Tokens of an app registration, by Microsoft's own identity library over our HTTP: a client secret, a certificate, or the token of
//! a platform that Entra ID trusts.
//!
//! *Why its requests run over [`Transport`]:* one client, one set of authorities, and simulated days without a socket. *Why not its
//! credentials for certificates and workload identity:* the one brings OpenSSL, the other keeps a projected token for ten minutes.
//! Both are client assertions, and those the library takes from us.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
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
use crate::pulumi::environment::Environments;
use crate::rotation::{Places, Refusal, Rotation, Slot, Standing, present};
use crate::secret::{Fingerprint, Freshness, Secret, SecretBytes, SecretError, SecretSource, read_projected};

/// For a whole exchange with the token service.
const DEADLINE: Duration = Duration::from_secs(30);
/// Most bytes of its answer; tokens have a few thousand.
const ANSWER_BYTES_MAX: usize = 256 * 1024;
/// No token lives longer: real ones end after a day at most.
const LIFE_SECONDS_MAX: i64 = 7 * 86_400;
/// Codes of Entra ID that pass by themselves (learn.microsoft.com, "Microsoft Entra authentication error codes", 2026-09).
const TRANSIENT_CODES: [i64; 2] = [50196, 90033];
/// Codes that say that app, tenant or scope is wrong: no other proof helps.
pub(super) const APP_CODES: [i64; 5] = [700_016, 90_002, 900_023, 70_011, 500_011];

/// An app registration.
pub(super) struct App {
    pub(super) authority: String,
    pub(super) tenant_id: String,
    pub(super) client_id: String,
    pub(super) scope: String,
    pub(super) proofs: Proofs,
    pub(super) rotation: tokio::sync::Mutex<Rotation<Proofs>>,
    pub(super) transport: Arc<dyn Transport>,
    pub(super) clock: Clock,
}

/// What the app shows for itself, and what it may show instead.
#[derive(Clone)]
pub(super) struct Proofs {
    pub(super) first: Proof,
    /// Of the same kind.
    pub(super) next: Option<Proof>,
    /// Where those are read that are not on this machine.
    pub(super) environments: Environments,
}

impl Places for Proofs {
    type Value = Arc<Shown>;

    /// It is looked at when a token is fetched, which may be once in hours.
    const BEFORE_EXPIRY_SECONDS: i64 = 86_400;

    fn keys(&self) -> [&'static str; 2] {
        match self.first {
            Proof::Secret(_) => ["secret", "next_secret"],
            Proof::Certificate { .. } => ["certificate", "next_certificate"],
            Proof::Projected(_) => ["token_file", ""],
        }
    }

    fn seen(&self, slot: Slot) -> Option<Result<Arc<Shown>, SecretError>> {
        self.at(slot).map(|proof| proof.seen(&self.environments).map(Arc::new))
    }

    async fn read(&self, slot: Slot, freshness: Freshness) -> Option<Result<Arc<Shown>, SecretError>> {
        Some(self.at(slot)?.read(&self.environments, freshness).await.map(Arc::new))
    }

    fn fingerprint(shown: &Arc<Shown>) -> Fingerprint {
        shown.fingerprint()
    }

    fn expires(shown: &Arc<Shown>) -> Option<Second> {
        match &**shown {
            Shown::Certificate { end, .. } => end.get().copied(),
            Shown::Secret(_) | Shown::Projected(_) => None,
        }
    }
}

impl Proofs {
    fn at(&self, slot: Slot) -> Option<&Proof> {
        match slot {
            Slot::First => Some(&self.first),
            Slot::Next => self.next.as_ref(),
        }
    }
}

/// What the app shows for itself.
#[derive(Clone)]
pub(super) enum Proof {
    Secret(SecretSource),
    Certificate {
        certificate: SecretSource,
        password: Option<SecretSource>,
    },
    /// A file with a token that the platform exchanges by itself.
    Projected(PathBuf),
}

/// A proof as it was read.
pub(super) enum Shown {
    Secret(Secret),
    Certificate {
        bytes: Arc<SecretBytes>,
        password: Option<Secret>,
        /// When it ends: known once it was opened, which is slow.
        end: OnceLock<Second>,
    },
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
                let bytes = Arc::new(environments.read_bytes(certificate, freshness).await?);
                Ok(Shown::Certificate { bytes, password, end: OnceLock::new() })
            }
            Proof::Projected(path) => read_projected(path).map(Shown::Projected),
        }
    }

    /// As it is known without asking anybody.
    fn seen(&self, environments: &Environments) -> Result<Shown, SecretError> {
        match self {
            Proof::Secret(secret) => environments.seen(secret).map(Shown::Secret),
            Proof::Certificate { certificate, password } => {
                let password = password.as_ref().map(|password| environments.seen(password)).transpose()?;
                let bytes = Arc::new(environments.seen_bytes(certificate)?);
                Ok(Shown::Certificate { bytes, password, end: OnceLock::new() })
            }
            Proof::Projected(path) => read_projected(path).map(Shown::Projected),
        }
    }
}

impl Shown {
    fn fingerprint(&self) -> Fingerprint {
        match self {
            Shown::Secret(secret) | Shown::Projected(secret) => secret.fingerprint(),
            Shown::Certificate { bytes, password, .. } => bytes.fingerprint(password.as_ref()),
        }
    }
}

/// An assertion, and the certificate that signed it.
struct Signed {
    thumbprint: String,
    end: Option<Second>,
    assertion: Secret,
}

/// A proof that was presented, as far as messages may tell.
struct Presented {
    slot: Slot,
    thumbprint: Option<String>,
}

/// What came of showing a proof.
struct Exchanged {
    fetched: Fetched,
    /// It is the proof that was refused: another one may be taken.
    refused: bool,
}

impl From<NoToken> for Exchanged {
    fn from(none: NoToken) -> Exchanged {
        Exchanged { fetched: Err(none), refused: false }
    }
}

impl App {
    pub(super) fn name(&self) -> String {
        let by = match self.proofs.first {
            Proof::Secret(_) => "",
            Proof::Certificate { .. } => " (certificate)",
            Proof::Projected(_) => " (workload identity)",
        };
        format!("app `{}` of tenant `{}`{by}", self.client_id, self.tenant_id)
    }

    pub(super) fn secret(&self) -> Option<Fingerprint> {
        present(&self.proofs)
    }

    /// Whether there is a proof to be tried: one that has changed, or that nobody has tried yet.
    pub(super) async fn is_due(&self) -> bool {
        let mut rotation = self.rotation.lock().await;
        rotation.look(self.clock.now()).await;
        rotation.nudged();
        rotation.is_due()
    }

    /// Which proof is in use; nothing where the platform exchanges it by itself.
    pub(super) fn standing(&self) -> Option<Standing> {
        if matches!(self.proofs.first, Proof::Projected(_)) {
            return None;
        }
        // Whoever fetches holds it, and will say what came of it.
        self.rotation.try_lock().ok().map(|rotation| rotation.standing())
    }

    /// Asks for a token; where a proof is refused, once more with each other one that there is.
    pub(super) async fn fetch(&self) -> (Option<Fingerprint>, Fetched) {
        let read = self.secret();
        let mut rotation = self.rotation.lock().await;
        let mut choice = match rotation.choose(self.clock.now()).await {
            Ok(choice) => choice,
            Err(error) => return (None, Err(self.no_proof(error))),
        };
        // One that is not on this machine may just have been read for the first time.
        let mut read = read.or_else(|| self.secret());
        loop {
            let Exchanged { fetched, refused } = self.exchange(choice.slot(), choice.value()).await;
            match &fetched {
                Ok(_) => rotation.accepted(&choice),
                Err(NoToken::Refused(problem)) if refused => {
                    let other = rotation.refused(choice, Refusal::Unknown, &problem.cause).await;
                    read = self.secret();
                    if let Some(other) = other {
                        choice = other;
                        continue;
                    }
                }
                Err(_) => {}
            }
            return (read, fetched);
        }
    }

    fn no_proof(&self, error: SecretError) -> NoToken {
        let cause = error.to_string();
        match error {
            SecretError::Unavailable { wait: wait @ Some(_), .. } => NoToken::Throttled { wait, cause },
            SecretError::Unavailable { .. } => NoToken::Failed(cause),
            _ => NoToken::refused(cause, self.put_proof(Slot::First)),
        }
    }

    async fn exchange(&self, slot: Slot, shown: &Shown) -> Exchanged {
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
        let mut presented = Presented { slot, thumbprint: None };
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
            Shown::Projected(token) => token.clone(),
            Shown::Certificate { bytes, password, end } => {
                match self.assertion(slot, Arc::clone(bytes), password.clone()).await {
                    Ok(signed) => {
                        presented.thumbprint = Some(signed.thumbprint);
                        if let Some(at) = signed.end {
                            end.get_or_init(|| at);
                        }
                        signed.assertion
                    }
                    Err(none) => {
                        let refused = matches!(none, NoToken::Refused(_));
                        return Exchanged { fetched: Err(none), refused };
                    }
                }
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
        slot: Slot,
        bytes: Arc<SecretBytes>,
        password: Option<Secret>,
    ) -> Result<Signed, NoToken> {
        let audience = format!("{}/{}/oauth2/v2.0/token", self.authority, self.tenant_id);
        let (client_id, now) = (self.client_id.clone(), self.clock.now());
        let signed = tokio::task::spawn_blocking(move || {
            let certificate = Certificate::open(&bytes, password.as_ref())?;
            let assertion = certificate.assertion(&audience, &client_id, now)?;
            let (thumbprint, end) = (certificate.thumbprint(), certificate.end());
            Ok::<_, super::certificate::CertificateError>(Signed { thumbprint, end, assertion })
        })
        .await;
        match signed {
            Ok(Ok(signed)) => Ok(signed),
            Ok(Err(error)) => Err(NoToken::refused(
                format!("the certificate in {} cannot be used: {error}", self.place(slot)),
                self.put_proof(slot),
            )),
            Err(_) => Err(NoToken::Failed("signing with the certificate was interrupted".into())),
        }
    }

    async fn token<C: TokenCredential>(
        &self,
        credential: azure_core::Result<Arc<C>>,
        wire: &Wire,
        presented: &Presented,
    ) -> Exchanged {
        let Ok(credential) = credential else {
            let cause = format!("`{}` cannot be asked for a token for {}", self.authority, self.name());
            return NoToken::refused(cause, "check `authority`, `tenant_id` and `client_id`").into();
        };
        match credential.get_token(&[&self.scope], None).await {
            Ok(token) if token.token.secret().is_empty() => {
                NoToken::Failed(format!("{} answered without a token", self.authority)).into()
            }
            Ok(token) => {
                // The library counts from the system's clock, so this must too.
                let life = token.expires_on.unix_timestamp() - Clock::system().now().0;
                let life = Duration::from_secs(u64::try_from(life).unwrap_or(0));
                let fetched = Ok((Secret::new(token.token.secret().to_owned()), life));
                Exchanged { fetched, refused: false }
            }
            Err(_) => self.failure(wire.take(), presented),
        }
    }

    /// Sorts what went wrong by what was seen on the wire: the library's error loses the status of an answer that is not Entra's.
    fn failure(&self, last: Option<Result<Response, Failure>>, presented: &Presented) -> Exchanged {
        let authority = &self.authority;
        let response = match last {
            Some(Ok(response)) => response,
            Some(Err(failure)) => return no_answer(authority, "authority", &self.name(), &failure).into(),
            None => return NoToken::Failed(format!("no token from {authority}: nothing was asked")).into(),
        };
        let error = ServiceError::of(&response);
        let cause = error.cause(authority, response.status);
        if let Some(passing) = passing(&response, self.clock.now(), &cause) {
            return passing.into();
        }
        let none = match response.status {
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
        };
        let of_the_app = error.codes.iter().any(|code| APP_CODES.contains(code));
        let refused =
            matches!(&none, NoToken::Refused(problem) if problem.reason == PauseReason::Credentials);
        Exchanged { fetched: Err(none), refused: refused && !of_the_app }
    }

    fn remedy(&self, codes: &[i64], presented: &Presented) -> String {
        let App { tenant_id, client_id, scope, .. } = self;
        let place = self.place(presented.slot);
        let thumbprint = presented.thumbprint.as_deref().unwrap_or_default();
        match (codes.first(), &self.proofs.first) {
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

    fn place(&self, slot: Slot) -> String {
        match self.proofs.at(slot).unwrap_or(&self.proofs.first) {
            Proof::Secret(source) | Proof::Certificate { certificate: source, .. } => {
                source.place.to_string()
            }
            Proof::Projected(path) => format!("file {}", path.display()),
        }
    }

    fn put_proof(&self, slot: Slot) -> String {
        let (client_id, place) = (&self.client_id, self.place(slot));
        match &self.proofs.first {
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
    match failure.remedy("sentinel") {
        Some(remedy) => NoToken::misconfigured(
            format!("no token for {who} from {service}: {failure}"),
            format!("check `{key}`; {remedy}"),
        ),
        None => NoToken::Failed(format!("no token from {service}: {failure}")),
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
    let place = crate::secret::Place::Env("ABSENT".into());
    let first = Proof::Secret(SecretSource { place, group_may_read: false });
    let proofs = Proofs { first, next: None, environments: Environments::default() };
    let app = App {
        authority: "https://login.example".into(),
        tenant_id: "11111111-1111-1111-1111-111111111111".into(),
        client_id: "c".into(),
        scope: "https://monitor.azure.com/.default".into(),
        rotation: tokio::sync::Mutex::new(Rotation::new(proofs.clone())),
        proofs,
        transport: Arc::new(Canned(response)),
        clock: Clock::simulated(Second(1_795_256_100)),
    };
    let shown = Shown::Secret(Secret::new(crate::hostile::given::CANARY.into()));
    let exchanged = crate::hostile::given::block_on(app.exchange(Slot::First, &shown));
    super::assert_sound(exchanged.fetched);
}
