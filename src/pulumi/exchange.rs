//! Access tokens that are exchanged for a token of the platform, kept while they live.
//!
//! An [`Exchange`] hands out a token that is alive, fetches the next one in the background when three quarters of its life are over,
//! and goes on with the old one while that lives. The platform's token is read anew for each exchange: it is replaced every hour or
//! so. One exchange at a time, and as few as possible, because each writes an audit event of its own: whoever asks while a failure
//! stands is told of it and asks nothing of the service.
//!
//! *Why not the code that keeps Entra's tokens:* there, whoever asks decides when to ask again, since a refused try leaves no trace
//! that matters. Here many orgs may stand behind one exchange, and each of their tries would be recorded.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method};
use tokio::time::Instant;

use super::client::{ACCEPTED, SourceError};
use super::wire::exchange::{Denial, EXCHANGE_PATH, audience, form, granted};
use crate::clock::{Clock, Second};
use crate::config::settings::{Oidc, SourceAccess, TokenType};
use crate::http::{ClientError, Failure, Request, Response, Transport};
use crate::retry;
use crate::secret::{Fingerprint, Place, Secret, read_projected};

/// For a whole exchange.
const DEADLINE: Duration = Duration::from_secs(30);
/// Most bytes of its answer; tokens have a few dozen.
const ANSWER_BYTES_MAX: usize = 256 * 1024;
/// A refusal stands for so long, unless the platform's token is replaced. Less than what its askers wait, so that each of their
/// tries may be one.
const REFUSED_PAUSE: Duration = Duration::from_secs(55);
/// Tokens that are refused lead to one exchange in this time.
const REJECTED_PAUSE: Duration = Duration::from_secs(300);

/// What somebody lacked who went away to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lack {
    /// There was none.
    OfToken,
    /// There was one, which was refused; and this was the platform's at that time.
    OfTrust(Option<Fingerprint>),
}

/// An access token that was exchanged.
pub struct Token {
    secret: Secret,
    /// When the next one is to be fetched.
    refresh: Instant,
    expires: Instant,
}

impl Token {
    pub fn secret(&self) -> &Secret {
        &self.secret
    }

    pub fn life(&self) -> Duration {
        self.expires.saturating_duration_since(Instant::now())
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token([REDACTED])")
    }
}

/// Numbers for the metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    pub exchanged: u64,
    pub failed: u64,
    /// How long the present token still lives.
    pub life: Option<Duration>,
}

/// A source of access tokens for one service, one organization and one kind of token; shared by all who use them.
pub struct Exchange {
    api_url: String,
    oidc: Oidc,
    transport: Arc<dyn Transport>,
    clock: Clock,
    state: Mutex<State>,
    /// Held by whoever exchanges.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    token: Option<Arc<Token>>,
    standing: Option<Standing>,
    /// In a row.
    failures: u32,
    refreshing: bool,
    /// The token may do too little for somebody.
    retired: bool,
    /// When a token was last taken out of use because it was refused.
    rejected: Option<Instant>,
    exchanged: u64,
    failed: u64,
}

/// A failure that answers whoever asks until its time is over.
struct Standing {
    error: SourceError,
    until: Instant,
    /// What the file held then.
    subject: Option<Fingerprint>,
}

impl Exchange {
    fn new(api_url: &str, oidc: &Oidc, transport: Arc<dyn Transport>, clock: Clock) -> Exchange {
        Exchange {
            api_url: api_url.to_owned(),
            oidc: oidc.clone(),
            transport,
            clock,
            state: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
        }
    }

    /// A token that is alive; without one, exchanges the platform's.
    ///
    /// # Errors
    /// When there is none and none could be had, or it is not yet time to ask again.
    pub async fn token(self: &Arc<Self>) -> Result<Arc<Token>, SourceError> {
        if let Some(token) = self.good() {
            return Ok(token);
        }
        let _turn = self.turn.lock().await;
        let subject = self.subject();
        let standing = {
            let state = self.state();
            if let Some(token) = state.good() {
                return Ok(token);
            }
            // Also what another has met while this one waited for its turn.
            let stands =
                |standing: &&Standing| Instant::now() < standing.until && standing.subject == subject;
            state.standing.as_ref().filter(stands).map(|standing| standing.error.clone())
        };
        let error = match standing {
            Some(error) => error,
            None => match self.exchange().await {
                Ok(token) => return Ok(token),
                Err(error) => error,
            },
        };
        // One that may do too little may still do something.
        self.state().alive().ok_or(error)
    }

    /// The token that is alive; when it is time for the next one, that is fetched meanwhile.
    fn good(self: &Arc<Self>) -> Option<Arc<Token>> {
        let mut state = self.state();
        let token = state.good()?;
        let now = Instant::now();
        let waits = state.standing.as_ref().is_some_and(|standing| now < standing.until);
        if token.refresh <= now && !waits && !state.refreshing {
            state.refreshing = true;
            tokio::spawn(Arc::clone(self).refresh(Arc::clone(&token)));
        }
        Some(token)
    }

    async fn refresh(self: Arc<Self>, old: Arc<Token>) {
        let _turn = self.turn.lock().await;
        if self.state().is_present(&old)
            && let Err(error) = self.exchange().await
        {
            // It costs nothing while the old token lives.
            tracing::warn!(organization = self.oidc.organization, cause = %error, life_seconds = old.life().as_secs(), "no new access token; the present one is used on");
        }
        self.state().refreshing = false;
    }

    /// Takes a token out of use that the service refused with 401, so that the next call exchanges another. Tells whether that is worth
    /// a try: not when another was refused just before, which happens where it is not the token that is wrong. Then it stays for
    /// those who may have more luck with it.
    pub fn reject(&self, token: &Arc<Token>) -> bool {
        let mut state = self.state();
        if !state.is_present(token) {
            return true;
        }
        if state.rejected.is_some_and(|rejected| rejected.elapsed() < REJECTED_PAUSE) {
            return false;
        }
        state.token = None;
        state.rejected = Some(Instant::now());
        true
    }

    /// A token may not do what somebody wanted: what it may was decided when it was issued, so that the next try, whenever that is,
    /// needs another. Where none can be had, this one is used on.
    pub fn retire(&self, token: &Arc<Token>) {
        let mut state = self.state();
        state.retired |= state.is_present(token);
    }

    /// Whether there is more to hope for than when somebody went away with this lack.
    pub fn has_changed(&self, lack: Lack) -> bool {
        let subject = self.subject();
        match lack {
            // Somebody else's success counts as well.
            Lack::OfToken => {
                self.state().standing.as_ref().is_none_or(|standing| standing.subject != subject)
            }
            Lack::OfTrust(refused) => subject != refused,
        }
    }

    /// The platform's token as it stands now.
    pub fn subject(&self) -> Option<Fingerprint> {
        read_projected(&self.oidc.subject_token_file).ok().map(|subject| subject.fingerprint())
    }

    pub fn figures(&self) -> Figures {
        let state = self.state();
        let life = state.alive().map(|token| token.life());
        Figures { exchanged: state.exchanged, failed: state.failed, life }
    }

    /// What is exchanged for what, for messages.
    pub fn name(&self) -> String {
        let Oidc { organization, token_type, scope, .. } = &self.oidc;
        let scope = if scope.is_empty() { String::new() } else { format!(", scope `{scope}`") };
        let kind = token_type.as_str();
        format!("{} exchanged for {kind} tokens of `{organization}`{scope}", self.place())
    }

    /// Must be called with the turn held.
    async fn exchange(&self) -> Result<Arc<Token>, SourceError> {
        let begun = Instant::now();
        let subject = read_projected(&self.oidc.subject_token_file);
        let (seen, granted) = match subject {
            Ok(subject) => (Some(subject.fingerprint()), self.ask(&subject).await),
            Err(error) => {
                let remedy = format!(
                    "have the platform put its token with audience `{}` into {}; it is read again by itself",
                    audience(&self.oidc.organization),
                    self.place()
                );
                (None, Err(SourceError::Credentials { cause: error.to_string(), remedy }))
            }
        };
        let mut state = self.state();
        match granted {
            Ok((secret, life)) => {
                // Counted from before it was asked for: it cannot have been issued earlier.
                let (refresh, expires) = (begun + life.mul_f64(0.75), begun + life);
                let token = Arc::new(Token { secret, refresh, expires });
                state.token = Some(Arc::clone(&token));
                state.retired = false;
                state.standing = None;
                state.failures = 0;
                state.exchanged += 1;
                tracing::debug!(
                    organization = self.oidc.organization,
                    life_seconds = life.as_secs(),
                    "OIDC token exchanged"
                );
                Ok(token)
            }
            Err(error) => {
                state.failures = state.failures.saturating_add(1);
                state.failed += 1;
                let until = Instant::now() + pause(&error, state.failures);
                state.standing = Some(Standing { error: error.clone(), until, subject: seen });
                Err(error)
            }
        }
    }

    async fn ask(&self, subject: &Secret) -> Result<(Secret, Duration), SourceError> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, ACCEPTED);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        let request = Request {
            method: Method::POST,
            url: format!("{}{EXCHANGE_PATH}", self.api_url),
            headers,
            body: Bytes::from(form(&self.oidc, subject.expose())),
            body_bytes_max: ANSWER_BYTES_MAX,
            deadline: DEADLINE,
        };
        let answer =
            self.transport.send(request).await.map_err(|failure| unanswered(&self.api_url, failure))?;
        self.meaning(&answer, subject, self.clock.now())
    }

    fn meaning(
        &self,
        answer: &Response,
        subject: &Secret,
        now: Second,
    ) -> Result<(Secret, Duration), SourceError> {
        let status = answer.status;
        if status == 200 {
            return granted(&answer.body, self.oidc.expiration).ok_or_else(|| {
                SourceError::Transient("Pulumi answered a token exchange with 200 and without a token".into())
            });
        }
        let denial = Denial::of(&answer.body, subject.expose());
        let cause = format!("Pulumi answered a token exchange with {status}{}", denial.said());
        let wait = answer.header("retry-after").and_then(|value| retry::retry_after(value, now));
        Err(match status {
            429 => SourceError::Throttled { wait },
            503 if wait.is_some() => SourceError::Throttled { wait },
            201..=299 | 408 | 500..=599 => SourceError::Transient(cause),
            300..=399 => redirected(&self.api_url, &cause),
            _ => SourceError::Credentials { cause, remedy: self.remedy(status, &denial) },
        })
    }

    fn remedy(&self, status: u16, denial: &Denial) -> String {
        let Oidc { organization, token_type, scope, .. } = &self.oidc;
        let (place, kind) = (self.place(), token_type.as_str());
        match (denial.error.as_deref(), status) {
            (Some("invalid_scope"), _) => {
                format!("correct `scope` (now `{scope}`) or `token_type` of `oidc`")
            }
            (None, 404 | 405) => format!(
                "check `api_url` ({}) and `organization` (`{organization}`): no tokens are exchanged there",
                self.api_url
            ),
            (None, 403 | 407) => format!("check what stands between here and {}", self.api_url),
            _ => {
                let grants = match token_type {
                    TokenType::Organization => String::new(),
                    TokenType::Team | TokenType::Personal => format!(" for `{scope}`"),
                };
                format!(
                    "see in organization `{organization}` that the issuer of the token in {place} is registered, and has a policy that \
                     allows {kind} tokens{grants} for its subject and the audience `{}`; see that the token has not expired; a \
                     replaced one is tried at once",
                    audience(organization)
                )
            }
        }
    }

    fn place(&self) -> String {
        Place::File(self.oidc.subject_token_file.clone()).to_string()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn alive(&self) -> Option<Arc<Token>> {
        self.token.as_ref().filter(|token| Instant::now() < token.expires).cloned()
    }

    /// Alive, and nobody wants another.
    fn good(&self) -> Option<Arc<Token>> {
        self.alive().filter(|_| !self.retired)
    }

    fn is_present(&self, token: &Arc<Token>) -> bool {
        self.token.as_ref().is_some_and(|present| Arc::ptr_eq(present, token))
    }
}

/// How long a failure stands.
fn pause(error: &SourceError, failures: u32) -> Duration {
    // Never nothing: those who wait for their turn meanwhile are to be told of it.
    let jitter = || 0.5 + fastrand::f64() / 2.0;
    match error {
        SourceError::Throttled { wait } => wait.unwrap_or_else(|| retry::cool_down(failures, jitter())),
        SourceError::Transient(_) | SourceError::TooHeavy(_) => retry::backoff(failures, jitter()),
        SourceError::Credentials { .. }
        | SourceError::Permission { .. }
        | SourceError::Configuration { .. }
        | SourceError::NotFound { .. }
        | SourceError::Barred { .. }
        | SourceError::BadRequest { .. } => REFUSED_PAUSE,
    }
}

/// There was no answer to something that is not a page.
pub(super) fn unanswered(api_url: &str, failure: Failure) -> SourceError {
    match failure.remedy("source") {
        Some(remedy) => SourceError::Barred { cause: format!("{api_url}: {failure}"), remedy },
        None => SourceError::Transient(failure.to_string()),
    }
}

pub(super) fn redirected(api_url: &str, cause: &str) -> SourceError {
    SourceError::Configuration {
        cause: format!("{cause}, a redirect, which is never followed"),
        remedy: format!("set `api_url` (now {api_url}) to the service's final address"),
    }
}

/// The exchanges in use, and those whose tokens are still good: an org that is started again does not need another. Clones share
/// them.
#[derive(Clone, Default)]
pub struct Exchanges(Arc<Mutex<Known>>);

type Known = Vec<(SourceAccess, Arc<Exchange>)>;

impl Exchanges {
    /// The exchange of `oidc` at the service of `access`, made over `transport` where there is none yet.
    pub fn get(
        &self,
        access: &SourceAccess,
        oidc: &Oidc,
        transport: &Arc<dyn Transport>,
        clock: &Clock,
    ) -> Arc<Exchange> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|(_, exchange)| Arc::strong_count(exchange) > 1 || exchange.state().alive().is_some());
        if let Some((_, exchange)) = known.iter().find(|(other, _)| other == access) {
            return Arc::clone(exchange);
        }
        let exchange = Exchange::new(&access.api_url, oidc, Arc::clone(transport), clock.clone());
        let exchange = Arc::new(exchange);
        known.push((access.clone(), Arc::clone(&exchange)));
        exchange
    }
}

/// A file of the route that cannot be used.
pub(super) fn unusable(error: &ClientError) -> SourceError {
    SourceError::Configuration {
        cause: error.to_string(),
        remedy: format!("correct `{}` of [source]; it is read again by itself", error.key()),
    }
}

/// Answers with the same bytes under every status that means something, for properties.
#[cfg(any(test, fuzzing))]
pub(super) fn answers(bytes: &[u8]) -> impl Iterator<Item = Response> {
    const STATUSES: [u16; 12] = [200, 201, 302, 400, 401, 403, 404, 408, 418, 429, 500, 503];
    let mut headers = HeaderMap::new();
    // What stands on the first line, as far as a header takes it.
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    if let Ok(value) = HeaderValue::from_bytes(line) {
        headers.insert("retry-after", value);
    }
    let body = Bytes::copy_from_slice(bytes);
    STATUSES.into_iter().map(move |status| Response { status, headers: headers.clone(), body: body.clone() })
}

/// Whatever was answered: a reason that can be printed, and waits that end.
#[cfg(any(test, fuzzing))]
pub(super) fn assert_sound(error: SourceError) {
    use crate::hostile::given::assert_fit_to_print;

    assert_fit_to_print(&error.to_string());
    match error {
        SourceError::Throttled { wait } => {
            assert!(wait.is_none_or(|wait| !wait.is_zero() && wait <= retry::RETRY_AFTER_MAX));
        }
        SourceError::Credentials { remedy, .. }
        | SourceError::Permission { remedy, .. }
        | SourceError::Configuration { remedy, .. }
        | SourceError::NotFound { remedy, .. }
        | SourceError::Barred { remedy, .. }
        | SourceError::BadRequest { remedy, .. } => assert_fit_to_print(&remedy),
        SourceError::TooHeavy(_) | SourceError::Transient(_) => {}
    }
}

/// A transport for properties: what is asked of it is beside the point.
#[cfg(any(test, fuzzing))]
pub(super) struct Nobody;

#[cfg(any(test, fuzzing))]
#[async_trait::async_trait]
impl Transport for Nobody {
    async fn send(&self, _: Request) -> Result<Response, Failure> {
        Err(Failure::Connection("nobody is there".into()))
    }
}

/// Any answer to an exchange.
#[cfg(any(test, fuzzing))]
pub(crate) fn property(bytes: &[u8]) {
    use crate::hostile::given::CANARY;

    super::wire::exchange::property(bytes);
    let oidc = Oidc {
        organization: "acme".into(),
        subject_token_file: "/nowhere".into(),
        token_type: TokenType::Organization,
        scope: String::new(),
        expiration: None,
    };
    let now = Second(1_795_256_100);
    let exchange = Exchange::new("https://api.example", &oidc, Arc::new(Nobody), Clock::simulated(now));
    let subject = Secret::new(CANARY.into());
    for answer in answers(bytes) {
        let status = answer.status;
        match exchange.meaning(&answer, &subject, now) {
            Ok((token, life)) => {
                assert!(status == 200 && !token.expose().is_empty());
                assert!(Instant::now().checked_add(life).is_some());
            }
            Err(error) => assert_sound(error),
        }
    }
}

#[cfg(test)]
mod tests;
