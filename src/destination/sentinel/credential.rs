//! Access tokens for Azure's ingestion, kept while they live.
//!
//! A [`Credential`] hands out a token that is alive, fetches the next one in the background when half of its life is over, and goes
//! on with the old one while that lives. One fetch at a time; what proves the identity is read anew for each. It does not wait
//! between tries: whoever asks decides when to ask again. How a token is fetched is the [`identity`]'s business.
//!
//! *Why a wrapper:* Microsoft's library refreshes five minutes before the end and makes a failed refresh an error though the old
//! token is still good; it retries by itself for a minute; it takes an answer without a token for an empty token.

mod azure_cli;
mod certificate;
mod entra;
mod identity;
mod managed;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::time::Instant;

#[cfg(any(test, fuzzing))]
pub(crate) use self::{
    azure_cli::property as azure_cli_property, entra::property as entra_property,
    managed::property as managed_property,
};

use self::identity::Identity;
use crate::clock::Clock;
use crate::config::settings::{AzureIdentity, SentinelSettings};
use crate::destination::Answer;
use crate::http::{Route, Transport};
use crate::problem::{PauseReason, Problem};
use crate::pulumi::environment::Environments;
use crate::rotation::Standing;
use crate::secret::{Fingerprint, Secret};

/// Between two background tries while the old token lives.
const REFRESH_PAUSE: Duration = Duration::from_secs(30);
/// No token lives longer; guards against a clock that jumps while one is fetched.
const LIFE_MAX: Duration = Duration::from_secs(24 * 3600);

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

/// A token's text and how long it lives from now, or why there is none.
type Fetched = Result<(Secret, Duration), NoToken>;

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

impl NoToken {
    fn refused(cause: impl Into<String>, remedy: impl Into<String>) -> NoToken {
        let (cause, remedy) = (cause.into(), remedy.into());
        NoToken::Refused(Problem { reason: PauseReason::Credentials, cause, remedy })
    }

    fn misconfigured(cause: impl Into<String>, remedy: impl Into<String>) -> NoToken {
        let (cause, remedy) = (cause.into(), remedy.into());
        NoToken::Refused(Problem { reason: PauseReason::Configuration, cause, remedy })
    }
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
    identity: Identity,
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
    pub fn new(
        settings: &SentinelSettings,
        transport: Arc<dyn Transport>,
        environments: Environments,
        clock: Clock,
    ) -> Arc<Credential> {
        let credential = Credential {
            identity: Identity::new(settings, transport, environments, clock),
            state: Mutex::default(),
            turn: tokio::sync::Mutex::new(()),
        };
        Arc::new(credential)
    }

    /// Who this is, for messages.
    pub fn identity(&self) -> String {
        self.identity.name()
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

    /// The secret that the last fetch used; `None` when it could not be read, or when the identity has none.
    pub fn last_secret(&self) -> Option<Fingerprint> {
        self.state().last_secret
    }

    /// The secret as it stands now.
    pub fn present_secret(&self) -> Option<Fingerprint> {
        self.identity.secret()
    }

    /// Which of two configured secrets or certificates is in use. What is fetched with them stands in [`Credential::figures`].
    pub fn standing(&self) -> Option<Standing> {
        self.identity.standing().map(|standing| Standing { taken: 0, refused: 0, ..standing })
    }

    /// After somebody said that a secret may have changed: fetches a token with it, so that a wrong one is found out while the old
    /// one still serves.
    pub async fn look_at_secrets(&self) {
        let _turn = self.turn.lock().await;
        if self.identity.is_due().await {
            // Its failure costs nothing while the old token lives, and is counted.
            drop(self.fetch().await);
        }
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
        let (secret, fetched) = self.identity.fetch().await;
        let mut state = self.state();
        state.ended += 1;
        state.last_secret = secret;
        match fetched {
            Ok((secret, life)) => {
                let (now, life) = (Instant::now(), life.min(LIFE_MAX));
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

/// What a token depends on, and how its service is reached.
type CredentialKey = (String, String, AzureIdentity, Route);

impl Credentials {
    /// The credential for these settings. `transport` is used when it has to be made.
    pub fn get(
        &self,
        settings: &SentinelSettings,
        transport: Arc<dyn Transport>,
        environments: &Environments,
        clock: &Clock,
    ) -> Arc<Credential> {
        let SentinelSettings { authority, scope, identity, route, .. } = settings;
        let key = (authority.clone(), scope.clone(), identity.clone(), route.clone());
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|(_, credential)| credential.strong_count() > 0);
        if let Some(credential) =
            known.iter().find(|(other, _)| *other == key).and_then(|(_, weak)| weak.upgrade())
        {
            return credential;
        }
        let credential = Credential::new(settings, transport, environments.clone(), clock.clone());
        known.push((key, Arc::downgrade(&credential)));
        credential
    }
}

/// Whatever was answered: a token with a life, or a reason that can be printed. For every token service.
#[cfg(any(test, fuzzing))]
fn assert_sound(fetched: Fetched) {
    match fetched {
        Ok((secret, life)) => {
            assert!(!secret.expose().is_empty());
            // As it is counted from then on.
            assert!(Instant::now().checked_add(life.min(LIFE_MAX)).is_some());
        }
        Err(NoToken::Failed(cause)) => crate::hostile::given::assert_fit_to_print(&cause),
        Err(NoToken::Throttled { wait, cause }) => {
            assert!(wait.is_none_or(|wait| wait <= crate::retry::RETRY_AFTER_MAX));
            crate::hostile::given::assert_fit_to_print(&cause);
        }
        Err(NoToken::Refused(problem)) => {
            crate::hostile::given::assert_fit_to_print(&problem.cause);
            crate::hostile::given::assert_fit_to_print(&problem.remedy);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Entra as Service, TOKEN_SECONDS, secret_file, settings};
    use super::entra::APP_CODES;
    use super::*;
    use crate::clock::Second;
    use crate::config::settings::{ManagedHost, ManagedId, NextCertificate};
    use crate::http::Failure;
    use crate::secret::{Place, SecretSource};

    struct Bench {
        service: Arc<Service>,
        credential: Arc<Credential>,
        secret: tempfile::NamedTempFile,
    }

    fn bench() -> Bench {
        let secret = secret_file("canary-secret");
        let service = Arc::<Service>::default();
        let transport = Arc::clone(&service) as Arc<dyn Transport>;
        let credential = Credential::new(
            &settings(secret.path()),
            transport,
            Environments::default(),
            Clock::simulated(Second(1_795_256_100)),
        );
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
        Credential::new(&settings, transport, Environments::default(), Clock::simulated(Second(0)))
            .token()
            .await
            .unwrap();
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
    async fn a_metadata_service_that_is_down_for_most_of_a_tokens_life_costs_nothing_either() {
        let secret = secret_file("unused");
        let service = Arc::<Service>::default();
        let id = ManagedId::System;
        let identity = AzureIdentity::ManagedIdentity { host: ManagedHost::Machine, id };
        let settings = SentinelSettings { identity, ..settings(secret.path()) };
        let transport = Arc::clone(&service) as Arc<dyn Transport>;
        let credential = Credential::new(
            &settings,
            transport,
            Environments::default(),
            Clock::simulated(Second(1_795_256_100)),
        );
        let token = async || credential.token().await.map(|token| token.secret().expose().to_owned());
        assert_eq!(token().await.unwrap(), "token-1");
        *service.down.lock().unwrap() = true;
        for _ in 0..(TOKEN_SECONDS - 60) / 5 {
            pass(5).await;
            assert_eq!(token().await.unwrap(), "token-1");
        }
        assert!(
            (10..=60).contains(&*service.asked.lock().unwrap()),
            "tried in the background, not too often"
        );
        *service.down.lock().unwrap() = false;
        pass(30).await;
        token().await.unwrap();
        pass(1).await;
        assert_ne!(token().await.unwrap(), "token-1", "there was a new one before the old one ended");
        assert_eq!((credential.last_secret(), credential.present_secret()), (None, None));
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

    fn refusal(code: i64) -> Result<(u16, String), Failure> {
        let body = format!(r#"{{"error":"invalid_client","error_codes":[{code}]}}"#);
        Ok((401, body))
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_secret_is_taken_over_when_the_first_has_expired_or_is_wrong_and_stays_in_use() {
        for code in [7_000_222, 7_000_215] {
            let (first, next) = (secret_file("first-secret"), secret_file("next-secret"));
            let service = Arc::<Service>::default();
            let mut settings = settings(first.path());
            let place = Place::File(next.path().to_owned());
            let AzureIdentity::ClientSecret { next_secret, .. } = &mut settings.identity else { panic!() };
            *next_secret = Some(SecretSource { place, group_may_read: false });
            let transport = Arc::clone(&service) as Arc<dyn Transport>;
            let credential = Credential::new(
                &settings,
                transport,
                Environments::default(),
                Clock::simulated(Second(1_795_256_100)),
            );
            let slot = || credential.standing().unwrap().in_use.map(|in_use| in_use.key);
            service.script.lock().unwrap().push_back(refusal(code));
            let token = credential.token().await.unwrap();
            assert_eq!(slot(), Some("next_secret"));
            credential.reject(&token);
            credential.token().await.unwrap();
            let sent: Vec<bool> =
                service.bodies.lock().unwrap().iter().map(|(_, body)| body.contains("next-secret")).collect();
            assert_eq!(sent, [false, true, true]);
            // Both refused: one request a try, in turn, until one of them changes.
            credential.reject(&credential.token().await.unwrap());
            service.script.lock().unwrap().extend([refusal(code), refusal(code), refusal(code)]);
            assert!(credential.token().await.is_err() && credential.token().await.is_err());
            assert_eq!(*service.asked.lock().unwrap(), 6);
            assert_eq!(credential.last_secret(), credential.present_secret());
            std::fs::write(next.path(), "third-secret").unwrap();
            assert_ne!(credential.last_secret(), credential.present_secret());
            credential.token().await.unwrap();
            assert!(service.bodies.lock().unwrap()[6].1.contains("third-secret"));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_certificate_is_taken_over_on_the_last_day_of_the_first() {
        const NOW: Second = Second(1_795_256_100);
        for (left, taken) in [(86_400 + 60, false), (86_400 - 60, true)] {
            let pair = |seconds: i64| {
                let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
                let mut parameters = rcgen::CertificateParams::default();
                parameters.not_after = time::OffsetDateTime::from_unix_timestamp(NOW.0 + seconds).unwrap();
                let made = parameters.self_signed(&key).unwrap();
                secret_file(&format!("{}{}", key.serialize_pem(), made.pem()))
            };
            let (first, next) = (pair(left), pair(400 * 86_400));
            let source = |file: &tempfile::NamedTempFile| SecretSource {
                place: Place::File(file.path().to_owned()),
                group_may_read: false,
            };
            let identity = AzureIdentity::ClientCertificate {
                tenant_id: "tenant-1".into(),
                client_id: "client-1".into(),
                certificate: source(&first),
                password: None,
                next: Some(NextCertificate { certificate: source(&next), password: None }),
            };
            let settings = SentinelSettings { identity, ..settings(first.path()) };
            let transport = Arc::<Service>::default() as Arc<dyn Transport>;
            let credential =
                Credential::new(&settings, transport, Environments::default(), Clock::simulated(NOW));
            let slot = || credential.standing().unwrap().in_use.map(|in_use| in_use.key);
            credential.reject(&credential.token().await.unwrap());
            assert_eq!(slot(), Some("certificate"));
            credential.token().await.unwrap();
            assert_eq!(slot(), Some(if taken { "next_certificate" } else { "certificate" }));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn no_other_secret_is_tried_where_the_app_or_its_tenant_is_wrong() {
        for code in APP_CODES {
            let (first, next) = (secret_file("first-secret"), secret_file("next-secret"));
            let service = Arc::<Service>::default();
            let mut settings = settings(first.path());
            let place = Place::File(next.path().to_owned());
            let AzureIdentity::ClientSecret { next_secret, .. } = &mut settings.identity else { panic!() };
            *next_secret = Some(SecretSource { place, group_may_read: false });
            let transport = Arc::clone(&service) as Arc<dyn Transport>;
            let credential = Credential::new(
                &settings,
                transport,
                Environments::default(),
                Clock::simulated(Second(1_795_256_100)),
            );
            service.script.lock().unwrap().push_back(refusal(code));
            assert!(matches!(credential.token().await, Err(NoToken::Refused(_))));
            assert_eq!(*service.asked.lock().unwrap(), 1);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_changed_secret_that_is_refused_costs_the_token_in_use_nothing() {
        let bench = bench();
        bench.token().await.unwrap();
        std::fs::write(bench.secret.path(), "half-a-sec").unwrap();
        bench.service.script.lock().unwrap().push_back(refusal(7_000_215));
        bench.credential.look_at_secrets().await;
        let bodies = bench.service.bodies.lock().unwrap().clone();
        assert!(bodies[1].1.contains("half-a-sec") && bodies[2].1.contains("canary-secret"), "{bodies:?}");
        let warning = bench.credential.standing().unwrap().warning.unwrap();
        assert!(warning.contains("AADSTS7000215") && !warning.contains("half-a-sec"), "{warning}");
        for _ in 0..3 {
            bench.credential.look_at_secrets().await;
        }
        assert_eq!(bench.asked(), 3, "it is tried once");
        std::fs::write(bench.secret.path(), "half-a-secret-no-more").unwrap();
        bench.credential.look_at_secrets().await;
        assert_eq!(bench.credential.standing().unwrap().warning, None);
        assert_eq!(bench.asked(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn orgs_with_one_identity_share_their_tokens() {
        let secret = secret_file("s");
        let credentials = Credentials::default();
        let clock = Clock::simulated(Second(0));
        let get = |settings: &SentinelSettings| {
            credentials.get(
                settings,
                Arc::<Service>::default() as Arc<dyn Transport>,
                &Environments::default(),
                &clock,
            )
        };
        let one = settings(secret.path());
        let same = SentinelSettings { stream: "Custom-other".into(), ..one.clone() };
        let other = SentinelSettings { scope: "https://monitor.azure.us/.default".into(), ..one.clone() };
        let first = get(&one);
        assert!(Arc::ptr_eq(&first, &get(&same)));
        assert!(!Arc::ptr_eq(&first, &get(&other)));
    }

    /// A request, and the credential that makes it.
    async fn asked_as(
        identity: AzureIdentity,
        script: &[(u16, &str)],
    ) -> (Arc<Credential>, Arc<Service>, Result<String, NoToken>) {
        let secret = secret_file("unused");
        let service = Arc::<Service>::default();
        let replies = script.iter().map(|(status, body)| Ok((*status, (*body).to_owned())));
        service.script.lock().unwrap().extend(replies);
        let settings = SentinelSettings { identity, ..settings(secret.path()) };
        let transport = Arc::clone(&service) as Arc<dyn Transport>;
        let credential = Credential::new(
            &settings,
            transport,
            Environments::default(),
            Clock::simulated(Second(1_795_256_100)),
        );
        let token = credential.token().await.map(|token| token.secret().expose().to_owned());
        (credential, service, token)
    }

    fn workload(token_file: &std::path::Path) -> AzureIdentity {
        AzureIdentity::WorkloadIdentity {
            tenant_id: "tenant-1".into(),
            client_id: "client-1".into(),
            token_file: token_file.to_owned(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_projected_token_is_sent_as_it_stands_in_its_file_at_each_fetch() {
        use std::os::unix::fs::PermissionsExt;
        let file = secret_file("projected-canary-1\n");
        // As Kubernetes writes it.
        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o644)).unwrap();
        let (credential, service, token) = asked_as(workload(file.path()), &[]).await;
        assert_eq!(token.unwrap(), "token-1");
        let form = |assertion: &str| {
            format!(
                "client_assertion={assertion}&client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer\
                 &client_id=client-1&grant_type=client_credentials&scope=https%3A%2F%2Fmonitor.azure.com%2F.default"
            )
        };
        std::fs::write(file.path(), "projected-canary-2").unwrap();
        credential.reject(&credential.token().await.unwrap());
        credential.token().await.unwrap();
        let bodies = service.bodies.lock().unwrap().clone();
        assert_eq!(bodies[0].0, "https://login.example/tenant-1/oauth2/v2.0/token");
        assert_eq!(bodies[0].1, form("projected-canary-1"));
        assert_eq!(bodies[1].1, form("projected-canary-2"));
    }

    #[tokio::test(start_paused = true)]
    async fn every_refusal_of_a_projected_token_names_what_to_change_and_none_repeats_it() {
        let file = secret_file("projected-canary");
        let place = file.path().display().to_string();
        for (code, part) in [
            (70_021, "federated credential"),
            (700_211, "federated credential"),
            (700_024, "has expired"),
            (700_016, "client_id"),
            (1, place.as_str()),
        ] {
            let body = format!(
                r#"{{"error":"invalid_client","error_description":"projected-canary","error_codes":[{code}]}}"#
            );
            let (credential, _, token) = asked_as(workload(file.path()), &[(401, &body)]).await;
            let NoToken::Refused(problem) = token.unwrap_err() else { panic!("{code}") };
            assert_eq!(problem.reason, PauseReason::Credentials);
            assert!(problem.cause.contains("app `client-1` of tenant `tenant-1` (workload identity)"));
            assert!(problem.remedy.contains(part), "{}", problem.remedy);
            assert!(!format!("{problem:?}").contains("canary"));
            assert_eq!(credential.identity(), "app `client-1` of tenant `tenant-1` (workload identity)");
        }
        let (_, service, token) = asked_as(workload(std::path::Path::new("/nowhere/token")), &[]).await;
        let NoToken::Refused(problem) = token.unwrap_err() else { panic!() };
        assert!(problem.remedy.contains("azure.workload.identity/use"), "{}", problem.remedy);
        assert_eq!(*service.asked.lock().unwrap(), 0);
    }

    const PROBED: (u16, &str) =
        (400, r#"{"error":"invalid_request","error_description":"Required metadata header not specified"}"#);

    #[tokio::test(start_paused = true)]
    async fn the_default_is_the_managed_identity_where_the_metadata_service_answers_and_stays_so() {
        let identity = AzureIdentity::ManagedOrCli { id: ManagedId::Client("client-7".into()) };
        let (credential, service, token) = asked_as(identity, &[PROBED]).await;
        assert_eq!(token.unwrap(), "token-2");
        assert_eq!(credential.identity(), "the managed identity with client id `client-7`");
        credential.reject(&credential.token().await.unwrap());
        credential.token().await.unwrap();
        let asked: Vec<bool> =
            service.bodies.lock().unwrap().iter().map(|(url, _)| url.contains("client%2D7")).collect();
        assert_eq!(asked, [false, true, true], "probed once");
    }

    #[tokio::test(start_paused = true)]
    async fn a_default_identity_from_the_environment_is_that_identity() {
        let file = secret_file("projected");
        let found = AzureIdentity::Found(Box::new(workload(file.path())));
        let (credential, _, token) = asked_as(found, &[]).await;
        assert_eq!(token.unwrap(), "token-1");
        assert_eq!(credential.identity(), "app `client-1` of tenant `tenant-1` (workload identity)");
    }

    #[test]
    fn a_token_is_never_printed() {
        let now = Instant::now();
        let token = Token { secret: Secret::new("canary".into()), expires: now, refresh: now };
        assert!(!format!("{token:?}").contains("canary"));
    }

    /// An ESC environment with one secret in it.
    #[derive(Default)]
    struct Esc {
        value: Mutex<String>,
        opened: Mutex<u32>,
    }

    #[async_trait::async_trait]
    impl Transport for Esc {
        async fn send(&self, request: crate::http::Request) -> Result<crate::http::Response, Failure> {
            let body = if request.method == http::Method::POST {
                *self.opened.lock().unwrap() += 1;
                r#"{"id":"session"}"#.to_owned()
            } else {
                format!(r#"{{"properties":{{"azure":{{"value":"{}"}}}}}}"#, self.value.lock().unwrap())
            };
            Ok(crate::http::Response { status: 200, headers: http::HeaderMap::new(), body: body.into() })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_secret_of_an_environment_is_read_again_and_shown_where_it_has_become_another() {
        use std::os::unix::fs::PermissionsExt;

        use crate::config::settings::{SourceAccess, SourceCredentials};
        use crate::pulumi::environment::parse_place;
        use crate::pulumi::exchange::Exchanges;
        use crate::secret::{EscPlace, Place, SecretSource};

        let token = secret_file("pulumi-token");
        std::fs::set_permissions(token.path(), std::fs::Permissions::from_mode(0o600)).unwrap();
        let (environment, path) = parse_place("acme/infra/siem#azure").unwrap();
        let access = SourceAccess {
            api_url: "https://api.example".into(),
            route: Route::default(),
            credentials: SourceCredentials::Stored {
                token: SecretSource { place: Place::File(token.path().to_owned()), group_may_read: false },
                next_token: None,
            },
        };
        let place = Place::Esc(Arc::new(EscPlace { environment, path, access }));
        let identity = AzureIdentity::ClientSecret {
            tenant_id: "tenant-1".into(),
            client_id: "client-1".into(),
            secret: SecretSource { place, group_may_read: false },
            next_secret: None,
        };
        let esc = Arc::new(Esc { value: Mutex::new("canary-1".into()), ..Esc::default() });
        let line = Arc::clone(&esc) as Arc<dyn Transport>;
        let clock = Clock::simulated(Second(1_795_256_100));
        let environments =
            Environments::new(Arc::new(move |_| Ok(Arc::clone(&line))), Exchanges::default(), clock.clone());
        let service = Arc::<Service>::default();
        let transport = Arc::clone(&service) as Arc<dyn Transport>;
        let settings = SentinelSettings { identity, ..settings(token.path()) };
        let credential = Credential::new(&settings, transport, environments, clock);
        let refusal = || {
            let body = r#"{"error":"invalid_client","error_codes":[7000215]}"#;
            service.script.lock().unwrap().push_back(Ok((401, body.into())));
        };
        let shown = |try_number: usize| service.bodies.lock().unwrap()[try_number].1.contains("canary-2");

        let first = credential.token().await.unwrap();
        pass(400).await;
        *esc.value.lock().unwrap() = "canary-2".into();
        credential.reject(&first);
        refusal();
        let second = credential.token().await.unwrap();
        assert_eq!((shown(1), shown(2), *esc.opened.lock().unwrap()), (false, true, 2));
        assert_eq!(credential.last_secret(), credential.present_secret());

        credential.reject(&second);
        refusal();
        let NoToken::Refused(problem) = credential.token().await.unwrap_err() else { panic!() };
        assert!(problem.remedy.contains("ESC environment acme/infra/siem#azure"), "{}", problem.remedy);
        assert_eq!(*service.asked.lock().unwrap(), 4, "what was refused is not shown twice");
        assert_eq!(*esc.opened.lock().unwrap(), 2, "it was opened just before");
    }
}
