//! Access tokens from Entra ID, by Microsoft's own identity library over our HTTP.
//!
//! A [`Credential`] hands out a token that is alive, fetches the next one in the background when half of its life is over, and goes
//! on with the old one while that lives. One fetch at a time; the secret is read anew for each. It does not wait between tries:
//! whoever asks decides when to ask again.
//!
//! *Why a wrapper:* the library refreshes five minutes before the end and makes a failed refresh an error though the old token is
//! still good; it retries by itself for a minute; it takes an answer without a token for an empty token. *Why its requests run over
//! [`Transport`]:* one client, one set of authorities, and simulated days without a socket.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use azure_core::cloud::{CloudConfiguration, CustomConfiguration};
use azure_core::credentials::TokenCredential;
use azure_core::error::ErrorKind;
use azure_core::http::headers::Headers;
use azure_core::http::{
    AsyncRawResponse, Body, ClientOptions, HttpClient, Request as AzureRequest, RetryOptions,
    Transport as AzureTransport,
};
use azure_identity::{ClientSecretCredential, ClientSecretCredentialOptions};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde::Deserialize;
use tokio::time::Instant;

use super::client::wait_asked;
use crate::clock::Clock;
use crate::config::settings::{AzureIdentity, SentinelSettings};
use crate::destination::{Answer, PauseReason, Problem};
use crate::http::{Failure, Request, Response, Transport};
use crate::secret::{Fingerprint, Secret, SecretSource};

/// For a whole exchange with the token service.
const DEADLINE: Duration = Duration::from_secs(30);
/// Most bytes of its answer; tokens have a few thousand.
const ANSWER_BYTES_MAX: usize = 256 * 1024;
/// Between two background tries while the old token lives.
const REFRESH_PAUSE: Duration = Duration::from_secs(30);
/// No token lives longer; guards against a clock that jumps while one is fetched.
const LIFE_MAX: Duration = Duration::from_secs(24 * 3600);
/// Codes of Entra ID that pass by themselves (learn.microsoft.com, "Microsoft Entra authentication error codes", 2026-09).
const TRANSIENT_CODES: [i64; 2] = [50196, 90033];

/// An access token.
pub struct Token {
    secret: Secret,
    expires: Instant,
    /// When the next one is to be fetched.
    refresh: Instant,
}

impl Token {
    pub fn secret(&self) -> &Secret {
        &self.secret
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token([REDACTED])")
    }
}

/// Why there is no token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoToken {
    /// The service did not answer, or not as it should: ask again later.
    Failed(String),
    Throttled {
        wait: Option<Duration>,
        cause: String,
    },
    /// A person has to act.
    Refused(Problem),
}

impl From<NoToken> for Answer {
    fn from(none: NoToken) -> Answer {
        match none {
            NoToken::Failed(cause) => Answer::Ambiguous(cause),
            NoToken::Throttled { wait, cause } => Answer::Throttled { wait, cause },
            NoToken::Refused(problem) => Answer::Paused(problem),
        }
    }
}

/// Numbers for the metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    pub refreshed: u64,
    pub failed: u64,
    /// How long the present token still lives.
    pub life: Option<Duration>,
}

/// A source of tokens for one identity and one scope, shared by the orgs that use it.
pub struct Credential {
    entra: Entra,
    state: Mutex<State>,
    /// Held by whoever fetches.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    token: Option<Arc<Token>>,
    /// Fetches that have ended, and how the last of them failed.
    ended: u64,
    failure: Option<NoToken>,
    refreshing: bool,
    refresh_after: Option<Instant>,
    last_secret: Option<Fingerprint>,
    refreshed: u64,
    failed: u64,
}

impl Credential {
    pub fn new(settings: &SentinelSettings, transport: Arc<dyn Transport>, clock: Clock) -> Arc<Credential> {
        let AzureIdentity::ClientSecret { tenant_id, client_id, secret } = &settings.identity;
        Arc::new(Credential {
            entra: Entra {
                authority: settings.authority.clone(),
                tenant_id: tenant_id.clone(),
                client_id: client_id.clone(),
                scope: settings.scope.clone(),
                secret: secret.clone(),
                transport,
                clock,
            },
            state: Mutex::default(),
            turn: tokio::sync::Mutex::new(()),
        })
    }

    /// Who this is, for messages.
    pub fn identity(&self) -> String {
        format!("app `{}` of tenant `{}`", self.entra.client_id, self.entra.tenant_id)
    }

    /// A token that is alive; without one, fetches it.
    ///
    /// # Errors
    /// When there is none and none could be fetched.
    pub async fn token(self: &Arc<Self>) -> Result<Arc<Token>, NoToken> {
        let ended = {
            let mut state = self.state();
            if let Some(token) = state.alive() {
                let now = Instant::now();
                let due = token.refresh <= now && state.refresh_after.is_none_or(|after| after <= now);
                if due && !state.refreshing {
                    state.refreshing = true;
                    tokio::spawn(Arc::clone(self).refresh(Arc::clone(&token)));
                }
                return Ok(token);
            }
            state.ended
        };
        let _turn = self.turn.lock().await;
        {
            let state = self.state();
            if let Some(token) = state.alive() {
                return Ok(token);
            }
            // Another's fetch has failed while this one waited for its turn: that answers it too.
            if let (true, Some(failure)) = (state.ended != ended, &state.failure) {
                return Err(failure.clone());
            }
        }
        self.fetch().await
    }

    /// Takes a token out of use that was refused, so that the next call fetches another. One that was replaced already is ignored.
    pub fn reject(&self, token: &Arc<Token>) {
        let mut state = self.state();
        if state.token.as_ref().is_some_and(|present| Arc::ptr_eq(present, token)) {
            state.token = None;
        }
    }

    /// The secret that the last fetch used; `None` when it could not be read.
    pub fn last_secret(&self) -> Option<Fingerprint> {
        self.state().last_secret
    }

    /// The secret as it stands now.
    pub fn present_secret(&self) -> Option<Fingerprint> {
        self.entra.secret.read().ok().map(|secret| secret.fingerprint())
    }

    pub fn figures(&self) -> Figures {
        let state = self.state();
        let life = state.token.as_ref().map(|token| token.expires.saturating_duration_since(Instant::now()));
        Figures { refreshed: state.refreshed, failed: state.failed, life }
    }

    async fn refresh(self: Arc<Self>, old: Arc<Token>) {
        let _turn = self.turn.lock().await;
        let replaced = !self.state().token.as_ref().is_some_and(|present| Arc::ptr_eq(present, &old));
        // A failure costs nothing while the old token lives, and is counted.
        let failed = !replaced && self.fetch().await.is_err();
        let mut state = self.state();
        state.refreshing = false;
        state.refresh_after = failed.then(|| Instant::now() + REFRESH_PAUSE);
    }

    /// Must be called with the turn held.
    async fn fetch(&self) -> Result<Arc<Token>, NoToken> {
        let secret = self.entra.secret.read();
        self.state().last_secret = secret.as_ref().ok().map(Secret::fingerprint);
        let fetched = match secret {
            Ok(secret) => self.entra.fetch(&secret).await,
            Err(error) => Err(self.entra.refused(
                error.to_string(),
                format!(
                    "put the client secret of app {} into {}",
                    self.entra.client_id, self.entra.secret.place
                ),
            )),
        };
        let mut state = self.state();
        state.ended += 1;
        match fetched {
            Ok((secret, life)) => {
                let now = Instant::now();
                let token = Arc::new(Token { secret, expires: now + life, refresh: now + life / 2 });
                state.token = Some(Arc::clone(&token));
                state.failure = None;
                state.refreshed += 1;
                Ok(token)
            }
            Err(failure) => {
                state.failure = Some(failure.clone());
                state.failed += 1;
                Err(failure)
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn alive(&self) -> Option<Arc<Token>> {
        self.token.as_ref().filter(|token| Instant::now() < token.expires).cloned()
    }
}

/// The credentials in use: orgs that have the same identity share one, and with it their tokens.
#[derive(Default)]
pub struct Credentials(Mutex<Vec<(CredentialKey, Weak<Credential>)>>);

/// What a token depends on, and by which authorities its service is trusted.
type CredentialKey = (String, String, AzureIdentity, Option<PathBuf>);

impl Credentials {
    /// The credential for these settings. `transport` is used when it has to be made.
    pub fn get(
        &self,
        settings: &SentinelSettings,
        transport: Arc<dyn Transport>,
        clock: &Clock,
    ) -> Arc<Credential> {
        let SentinelSettings { authority, scope, identity, ca_file, .. } = settings;
        let key = (authority.clone(), scope.clone(), identity.clone(), ca_file.clone());
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|(_, credential)| credential.strong_count() > 0);
        if let Some(credential) =
            known.iter().find(|(other, _)| *other == key).and_then(|(_, weak)| weak.upgrade())
        {
            return credential;
        }
        let credential = Credential::new(settings, transport, clock.clone());
        known.push((key, Arc::downgrade(&credential)));
        credential
    }
}

/// An app with a client secret.
struct Entra {
    authority: String,
    tenant_id: String,
    client_id: String,
    scope: String,
    secret: SecretSource,
    transport: Arc<dyn Transport>,
    clock: Clock,
}

impl Entra {
    async fn fetch(&self, secret: &Secret) -> Result<(Secret, Duration), NoToken> {
        // The library takes https only; where the configuration allows plain HTTP (loopback), the scheme is put back on the wire.
        let (authority, plain) = match self.authority.strip_prefix("http://") {
            Some(rest) => (format!("https://{rest}"), true),
            None => (self.authority.clone(), false),
        };
        let wire = Arc::new(Wire { transport: Arc::clone(&self.transport), plain, last: Mutex::new(None) });
        let mut cloud = CustomConfiguration::default();
        cloud.authority_host = authority;
        let options = ClientOptions {
            retry: RetryOptions::none(),
            transport: Some(AzureTransport::new(Arc::clone(&wire) as Arc<dyn HttpClient>)),
            cloud: Some(Arc::new(CloudConfiguration::Custom(cloud))),
            ..ClientOptions::default()
        };
        // Made anew each time: it would keep a token, and the secret may have changed.
        let credential = ClientSecretCredential::new(
            &self.tenant_id,
            self.client_id.clone(),
            secret.expose().to_owned().into(),
            Some(ClientSecretCredentialOptions { client_options: options }),
        )
        .map_err(|_| {
            self.refused(
                format!("`{}` cannot be asked for a token for {}", self.authority, self.who()),
                "check `authority`, `tenant_id` and `client_id`".into(),
            )
        })?;
        match credential.get_token(&[&self.scope], None).await {
            Ok(token) if token.token.secret().is_empty() => {
                Err(NoToken::Failed(format!("{} answered without a token", self.authority)))
            }
            Ok(token) => {
                // The library counts from the system's clock, so this must too.
                let life = token.expires_on.unix_timestamp() - Clock::system().now().0;
                let life = Duration::from_secs(u64::try_from(life).unwrap_or(0)).min(LIFE_MAX);
                Ok((Secret::new(token.token.secret().to_owned()), life))
            }
            Err(_) => Err(self.failure(wire.take())),
        }
    }

    /// Sorts what went wrong by what was seen on the wire: the library's error loses the status of an answer that is not Entra's.
    fn failure(&self, last: Option<Result<Response, Failure>>) -> NoToken {
        let authority = &self.authority;
        let response = match last {
            Some(Ok(response)) => response,
            Some(Err(Failure::Untrusted(cause))) => {
                return NoToken::Refused(Problem {
                    reason: PauseReason::Configuration,
                    cause: format!("the certificate of {authority} is not trusted: {cause}"),
                    remedy: "check `authority`; where a proxy or a private authority signs certificates, name its authority in `ca_file`"
                        .into(),
                });
            }
            Some(Err(failure)) => return NoToken::Failed(format!("no token from {authority}: {failure}")),
            None => return NoToken::Failed(format!("no token from {authority}: nothing was asked")),
        };
        let status = response.status;
        let error = EntraError::of(&response);
        let cause = error.cause(authority, status);
        match status {
            429 => NoToken::Throttled { wait: wait_asked(&response, self.clock.now()), cause },
            503 => match wait_asked(&response, self.clock.now()) {
                Some(wait) => NoToken::Throttled { wait: Some(wait), cause },
                None => NoToken::Failed(cause),
            },
            200..=299 | 408 | 500..=599 => NoToken::Failed(cause),
            400..=499 if error.codes.iter().any(|code| TRANSIENT_CODES.contains(code)) => {
                NoToken::Failed(cause)
            }
            400 | 401 | 403 if error.name.is_some() => self.refused(cause, self.remedy(&error.codes)),
            _ => NoToken::Refused(Problem {
                reason: PauseReason::Configuration,
                cause,
                remedy: format!(
                    "check `authority` ({authority}) and any proxy before it: this is not the answer of a token service"
                ),
            }),
        }
    }

    fn remedy(&self, codes: &[i64]) -> String {
        let Entra { tenant_id, client_id, scope, .. } = self;
        let place = &self.secret.place;
        match codes.first() {
            Some(7_000_215) => {
                format!(
                    "put the value (not the id) of a client secret of app {client_id}, tenant {tenant_id}, into {place}"
                )
            }
            Some(7_000_222) => {
                format!(
                    "the client secret has expired: make a new one for app {client_id}, tenant {tenant_id}, and put its value into {place}"
                )
            }
            Some(700_016) => format!(
                "there is no app {client_id} in tenant {tenant_id}: correct `client_id` or `tenant_id`"
            ),
            Some(90_002 | 900_023) => {
                format!("there is no tenant {tenant_id} in this cloud: correct `tenant_id` or `cloud`")
            }
            Some(70_011 | 500_011) => {
                format!("scope {scope} is not known in tenant {tenant_id}: correct `cloud` or `scope`")
            }
            _ => format!("check app {client_id} in tenant {tenant_id}, and its client secret in {place}"),
        }
    }

    fn who(&self) -> String {
        format!("app `{}` of tenant `{}`", self.client_id, self.tenant_id)
    }

    fn refused(&self, cause: String, remedy: String) -> NoToken {
        NoToken::Refused(Problem { reason: PauseReason::Credentials, cause, remedy })
    }
}

/// What a token service says in an error. Its description is left out: it may repeat what was sent.
#[derive(Default)]
struct EntraError {
    name: Option<String>,
    codes: Vec<i64>,
}

impl EntraError {
    fn of(response: &Response) -> EntraError {
        #[derive(Deserialize)]
        struct Body {
            error: String,
            #[serde(default)]
            error_codes: Vec<i64>,
        }
        let Ok(body) = serde_json::from_slice::<Body>(&response.body) else { return EntraError::default() };
        // An OAuth error is a word; anything else is not shown.
        let word = body.error.len() <= 60 && body.error.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        let name = if word { body.error } else { "unknown error".into() };
        EntraError { name: Some(name), codes: body.error_codes.into_iter().take(4).collect() }
    }

    fn cause(&self, authority: &str, status: u16) -> String {
        let mut cause = format!("{authority} answered {status}");
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
                Ok(AsyncRawResponse::from_bytes(response.status.into(), Headers::new(), response.body))
            }
            Err(failure) => Err(azure_core::Error::with_message(ErrorKind::Io, failure.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Entra as Service, TOKEN_SECONDS, secret_file, settings};
    use super::*;
    use crate::clock::Second;

    struct Bench {
        service: Arc<Service>,
        credential: Arc<Credential>,
        secret: tempfile::NamedTempFile,
    }

    fn bench() -> Bench {
        let secret = secret_file("canary-secret");
        let service = Arc::<Service>::default();
        let transport = Arc::clone(&service) as Arc<dyn Transport>;
        let credential =
            Credential::new(&settings(secret.path()), transport, Clock::simulated(Second(1_795_256_100)));
        Bench { service, credential, secret }
    }

    impl Bench {
        fn asked(&self) -> u32 {
            *self.service.asked.lock().unwrap()
        }

        async fn token(&self) -> Result<String, NoToken> {
            self.credential.token().await.map(|token| token.secret().expose().to_owned())
        }

        async fn answers(&self, status: u16, body: &str) -> NoToken {
            self.service.script.lock().unwrap().push_back(Ok((status, body.to_owned())));
            self.token().await.unwrap_err()
        }
    }

    /// Lets the background fetch run.
    async fn pass(seconds: u64) {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn the_token_request_is_the_documented_one() {
        let bench = bench();
        assert_eq!(bench.token().await.unwrap(), "token-1");
        let bodies = bench.service.bodies.lock().unwrap();
        let (url, body) = &bodies[0];
        assert_eq!(url, "https://login.example/tenant-1/oauth2/v2.0/token");
        assert_eq!(
            body,
            "client_id=client-1&client_secret=canary-secret&grant_type=client_credentials&scope=https%3A%2F%2Fmonitor.azure.com%2F.default"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_loopback_authority_may_be_plain() {
        let secret = secret_file("s");
        let service = Arc::<Service>::default();
        let settings =
            SentinelSettings { authority: "http://127.0.0.1:8080".into(), ..settings(secret.path()) };
        let transport = Arc::clone(&service) as Arc<dyn Transport>;
        Credential::new(&settings, transport, Clock::simulated(Second(0))).token().await.unwrap();
        assert_eq!(service.bodies.lock().unwrap()[0].0, "http://127.0.0.1:8080/tenant-1/oauth2/v2.0/token");
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_service_that_is_down_for_most_of_a_tokens_life_costs_nothing() {
        let bench = bench();
        assert_eq!(bench.token().await.unwrap(), "token-1");
        pass(TOKEN_SECONDS / 2 - 60).await;
        assert_eq!(bench.token().await.unwrap(), "token-1");
        pass(10).await;
        assert_eq!(bench.asked(), 1, "not before half of its life is over");
        *bench.service.down.lock().unwrap() = true;
        for _ in 0..(TOKEN_SECONDS / 2 - 60) / 5 {
            pass(5).await;
            assert_eq!(bench.token().await.unwrap(), "token-1");
        }
        assert!((10..=60).contains(&bench.asked()), "{} tries, not one a request", bench.asked());
        *bench.service.down.lock().unwrap() = false;
        pass(30).await;
        bench.token().await.unwrap();
        pass(1).await;
        assert_ne!(
            bench.token().await.unwrap(),
            "token-1",
            "fetched in the background before the old one ended"
        );
        assert_eq!(bench.credential.figures().refreshed, 2);
        assert!(bench.credential.figures().failed > 5);
    }

    #[tokio::test(start_paused = true)]
    async fn many_ask_and_one_fetches() {
        let bench = bench();
        let ask = || {
            let credential = Arc::clone(&bench.credential);
            tokio::spawn(
                async move { credential.token().await.map(|token| token.secret().expose().to_owned()) },
            )
        };
        let tasks: Vec<_> = (0..50).map(|_| ask()).collect();
        for task in tasks {
            assert_eq!(task.await.unwrap().unwrap(), "token-1");
        }
        assert_eq!(bench.asked(), 1);

        bench.credential.reject(&bench.credential.token().await.unwrap());
        *bench.service.down.lock().unwrap() = true;
        let tasks: Vec<_> = (0..50).map(|_| ask()).collect();
        for task in tasks {
            assert!(matches!(task.await.unwrap(), Err(NoToken::Failed(_))));
        }
        assert_eq!(bench.asked(), 2, "those who waited share the failure");
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_that_was_replaced_cannot_be_rejected_again() {
        let bench = bench();
        let old = bench.credential.token().await.unwrap();
        bench.credential.reject(&old);
        assert_eq!(bench.token().await.unwrap(), "token-2");
        bench.credential.reject(&old);
        assert_eq!(bench.token().await.unwrap(), "token-2");
    }

    #[tokio::test(start_paused = true)]
    async fn every_refusal_names_what_to_change_and_none_repeats_the_secret() {
        let bench = bench();
        let place = bench.secret.path().display().to_string();
        for (status, code, part) in [
            (401, 7_000_215, place.as_str()),
            (401, 7_000_222, "expired"),
            (400, 700_016, "client_id"),
            (400, 90_002, "tenant_id"),
            (400, 70_011, "scope"),
            (403, 1, "client-1"),
        ] {
            let body = format!(
                r#"{{"error":"invalid_client","error_description":"AADSTS{code}: canary-secret","error_codes":[{code}]}}"#
            );
            let NoToken::Refused(problem) = bench.answers(status, &body).await else { panic!("{code}") };
            assert_eq!(problem.reason, PauseReason::Credentials);
            assert!(problem.remedy.contains(part), "{}", problem.remedy);
            assert!(problem.cause.contains(&format!("AADSTS{code}")));
            assert!(!format!("{problem:?}").contains("canary"));
        }
        let NoToken::Refused(problem) = bench.answers(400, r#"{"error":"canary secret"}"#).await else {
            panic!()
        };
        assert!(!problem.cause.contains("canary"));
    }

    #[tokio::test(start_paused = true)]
    async fn what_passes_by_itself_is_not_a_refusal() {
        let bench = bench();
        for (status, body) in [
            (200, r#"{"token_type":"Bearer","expires_in":3599,"access_token":""}"#),
            (200, r#"{"error":"invalid_client"}"#),
            (200, "<html>"),
            (200, ""),
            (408, ""),
            (500, "{}"),
            (503, "<html>"),
            (400, r#"{"error":"temporarily_unavailable","error_codes":[90033]}"#),
        ] {
            let answer = bench.answers(status, body).await;
            assert!(matches!(answer, NoToken::Failed(_)), "{status} {body}: {answer:?}");
        }
        assert!(matches!(bench.answers(429, "").await, NoToken::Throttled { wait: None, .. }));
        for (status, body) in [(302, ""), (400, "<html>"), (404, ""), (407, "")] {
            let NoToken::Refused(problem) = bench.answers(status, body).await else { panic!("{status}") };
            assert_eq!(problem.reason, PauseReason::Configuration);
        }
        bench.service.script.lock().unwrap().push_back(Err(Failure::Untrusted("x".into())));
        assert!(matches!(bench.token().await, Err(NoToken::Refused(_))));
        assert!(bench.token().await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_without_a_life_serves_once() {
        let bench = bench();
        let body = r#"{"token_type":"Bearer","access_token":"short"}"#;
        bench.service.script.lock().unwrap().push_back(Ok((200, body.into())));
        assert_eq!(bench.token().await.unwrap(), "short");
        assert_eq!(bench.token().await.unwrap(), "token-2");
    }

    #[tokio::test(start_paused = true)]
    async fn an_unreadable_secret_is_a_refusal_and_is_read_again() {
        let bench = bench();
        std::fs::write(bench.secret.path(), "").unwrap();
        let NoToken::Refused(problem) = bench.token().await.unwrap_err() else { panic!() };
        assert_eq!(problem.reason, PauseReason::Credentials);
        assert_eq!(bench.credential.last_secret(), None);
        std::fs::write(bench.secret.path(), "another").unwrap();
        assert!(bench.token().await.is_ok());
        assert_eq!(bench.credential.last_secret(), bench.credential.present_secret());
    }

    #[tokio::test(start_paused = true)]
    async fn orgs_with_one_identity_share_their_tokens() {
        let secret = secret_file("s");
        let credentials = Credentials::default();
        let clock = Clock::simulated(Second(0));
        let get = |settings: &SentinelSettings| {
            credentials.get(settings, Arc::<Service>::default() as Arc<dyn Transport>, &clock)
        };
        let one = settings(secret.path());
        let same = SentinelSettings { stream: "Custom-other".into(), ..one.clone() };
        let other = SentinelSettings { scope: "https://monitor.azure.us/.default".into(), ..one.clone() };
        let first = get(&one);
        assert!(Arc::ptr_eq(&first, &get(&same)));
        assert!(!Arc::ptr_eq(&first, &get(&other)));
    }

    #[test]
    fn a_token_is_never_printed() {
        let now = Instant::now();
        let token = Token { secret: Secret::new("canary".into()), expires: now, refresh: now };
        assert!(!format!("{token:?}").contains("canary"));
    }
}
