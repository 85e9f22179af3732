//! Secrets in Pulumi's ESC environments: opened once, read whole, and kept until the session ends.
//!
//! Each opening and each reading writes an audit event, so all secrets of all orgs that name the same environment and are somebody
//! with the same token share one session, and a failure answers everybody until its time is over. Only a secret that its destination
//! has refused is worth opening the environment again before that, and not more often than every [`RENEWAL_PAUSE`].
//!
//! Where Pulumi does not answer, what was read last is used on for up to [`STALE_MAX`]: a destination is not to stand still because
//! the source does.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use tokio::time::Instant;

use super::client::{SourceError, headers};
use super::exchange::{Exchange, Exchanges, redirected, unanswered, unusable};
use super::wire::environment::{EnvironmentName, PropertyPath, complaint, opened, value};
use crate::clock::Clock;
use crate::config::settings::{SourceAccess, SourceCredentials};
use crate::http::{Clients, Request, Response, Transport};
use crate::org::Connect;
use crate::retry;
use crate::secret::{EscPlace, Freshness, Place, Secret, SecretBytes, SecretError, SecretSource, word};

/// For each of the two requests.
const DEADLINE: Duration = Duration::from_secs(60);
/// Most bytes of an opened environment.
const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;
/// How long what was read is used: the two hours that a session is asked for, less a margin for clocks and requests under way.
const SESSION: Duration = Duration::from_secs(115 * 60);
/// How long what was read is used where the environment cannot be opened again.
const STALE_MAX: Duration = Duration::from_secs(24 * 3_600);
/// The least time from one opening to another that a refused secret has caused.
pub const RENEWAL_PAUSE: Duration = Duration::from_secs(300);
/// A refused opening is itself recorded as a failure: one in this time.
const FORBIDDEN_PAUSE: Duration = Duration::from_secs(15 * 60);
/// Other refusals stand for so long.
const REFUSED_PAUSE: Duration = Duration::from_secs(55);
/// An environment that nobody has read for so long is forgotten, with what was in it.
const FORGET_AFTER: Duration = Duration::from_secs(48 * 3_600);

/// Reads secrets wherever they are; opens each environment once. Clones share what is open.
#[derive(Clone)]
pub struct Environments(Arc<Inner>);

struct Inner {
    connect: Connect,
    exchanges: Exchanges,
    clock: Clock,
    /// No more than there are differing settings.
    known: Mutex<Vec<Arc<Environment>>>,
}

impl Environments {
    pub fn new(connect: Connect, exchanges: Exchanges, clock: Clock) -> Environments {
        Environments(Arc::new(Inner { connect, exchanges, clock, known: Mutex::default() }))
    }

    /// Over real connections.
    pub fn connected(clients: &Arc<Clients>) -> Environments {
        let clients = Arc::clone(clients);
        let connect: Connect = Arc::new(move |route| clients.transport(route));
        Environments::new(connect, Exchanges::default(), Clock::system())
    }

    pub fn exchanges(&self) -> &Exchanges {
        &self.0.exchanges
    }

    /// Reads a secret of one word.
    ///
    /// # Errors
    /// As [`SecretSource::read`]; and when its environment cannot be opened, or has no such value.
    pub async fn read(&self, source: &SecretSource, freshness: Freshness) -> Result<Secret, SecretError> {
        match &source.place {
            Place::File(_) | Place::Env(_) => source.read(),
            Place::Esc(place) => place_word(place, &self.bytes(place, freshness).await?),
        }
    }

    /// Reads a secret that is not one word.
    ///
    /// # Errors
    /// As [`Environments::read`].
    pub async fn read_bytes(
        &self,
        source: &SecretSource,
        freshness: Freshness,
    ) -> Result<SecretBytes, SecretError> {
        match &source.place {
            Place::File(_) | Place::Env(_) => source.read_bytes(),
            Place::Esc(place) => self.bytes(place, freshness).await,
        }
    }

    /// What a place holds as far as can be told without asking anybody: of an environment, what was read of it in the session that
    /// goes on.
    ///
    /// # Errors
    /// As [`SecretSource::read`]; [`SecretError::Unavailable`] where its environment is not open.
    pub fn seen(&self, source: &SecretSource) -> Result<Secret, SecretError> {
        match &source.place {
            Place::File(_) | Place::Env(_) => source.read(),
            Place::Esc(place) => place_word(place, &self.seen_in(place)?),
        }
    }

    /// The same for one that is not a word.
    ///
    /// # Errors
    /// As [`Environments::seen`].
    pub fn seen_bytes(&self, source: &SecretSource) -> Result<SecretBytes, SecretError> {
        match &source.place {
            Place::File(_) | Place::Env(_) => source.read_bytes(),
            Place::Esc(place) => self.seen_in(place),
        }
    }

    fn seen_in(&self, place: &EscPlace) -> Result<SecretBytes, SecretError> {
        let open = {
            let known = self.known();
            let environment = known.iter().find(|environment| environment.is_of(place));
            environment.and_then(|environment| environment.state().fit(Freshness::Kept))
        };
        let values = open.ok_or_else(|| SecretError::Unavailable {
            place: place.to_string(),
            wait: None,
            cause: "its environment is not open".into(),
        })?;
        found(place, &values)
    }

    async fn bytes(&self, place: &EscPlace, freshness: Freshness) -> Result<SecretBytes, SecretError> {
        let refused = |error: SourceError| refused(place, error);
        let environment = self.environment(place).map_err(refused)?;
        let values = environment.values(freshness).await.map_err(refused)?;
        found(place, &values)
    }

    fn environment(&self, place: &EscPlace) -> Result<Arc<Environment>, SourceError> {
        let mut known = self.known();
        known.retain(|environment| environment.state().used.elapsed() < FORGET_AFTER);
        if let Some(environment) = known.iter().find(|environment| environment.is_of(place)) {
            environment.state().used = Instant::now();
            return Ok(Arc::clone(environment));
        }
        let Inner { connect, exchanges, clock, .. } = &*self.0;
        let access = &place.access;
        let transport = connect(&access.route).map_err(|error| unusable(&error))?;
        let key = match &access.credentials {
            stored @ SourceCredentials::Stored { .. } => {
                Key::Stored(stored.secrets().into_iter().cloned().collect())
            }
            SourceCredentials::Exchanged(oidc) => {
                Key::Exchanged(exchanges.get(access, oidc, &transport, clock))
            }
        };
        let environment = Arc::new(Environment {
            name: place.environment.clone(),
            access: access.clone(),
            transport,
            key,
            clock: clock.clone(),
            state: Mutex::new(State::new()),
            turn: tokio::sync::Mutex::default(),
        });
        known.push(Arc::clone(&environment));
        Ok(environment)
    }

    fn known(&self) -> MutexGuard<'_, Vec<Arc<Environment>>> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Environments {
    fn default() -> Environments {
        Environments::connected(&Arc::default())
    }
}

impl fmt::Debug for Environments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Environments")
    }
}

fn found(place: &EscPlace, values: &Values) -> Result<SecretBytes, SecretError> {
    let found = value(values.body.expose(), &place.path).map_err(|none| SecretError::Withheld {
        place: place.to_string(),
        cause: none.to_string(),
        remedy: "correct the path after `#`, or the environment".into(),
    })?;
    if found.expose().is_empty() {
        return Err(SecretError::Empty { place: place.to_string() });
    }
    Ok(found)
}

fn place_word(place: &EscPlace, bytes: &SecretBytes) -> Result<Secret, SecretError> {
    let text = std::str::from_utf8(bytes.expose());
    word(text.map_err(|_| SecretError::Malformed { place: place.to_string() })?, place.to_string())
}

fn refused(place: &EscPlace, error: SourceError) -> SecretError {
    let place = place.to_string();
    match error {
        SourceError::Credentials { cause, remedy }
        | SourceError::Permission { cause, remedy }
        | SourceError::Configuration { cause, remedy }
        | SourceError::NotFound { cause, remedy }
        | SourceError::Barred { cause, remedy }
        | SourceError::BadRequest { cause, remedy } => SecretError::Withheld { place, cause, remedy },
        SourceError::Throttled { wait } => {
            SecretError::Unavailable { place, wait, cause: "Pulumi asked to slow down".into() }
        }
        SourceError::TooHeavy(cause) | SourceError::Transient(cause) => {
            SecretError::Unavailable { place, wait: None, cause }
        }
    }
}

/// One environment, asked for with the credentials of one source.
struct Environment {
    name: EnvironmentName,
    access: SourceAccess,
    transport: Arc<dyn Transport>,
    key: Key,
    clock: Clock,
    state: Mutex<State>,
    /// Held by whoever opens it.
    turn: tokio::sync::Mutex<()>,
}

/// What opens it.
enum Key {
    /// The source's tokens; the one that worked last is tried first.
    Stored(Vec<SecretSource>),
    Exchanged(Arc<Exchange>),
}

struct State {
    values: Option<Arc<Values>>,
    standing: Option<Standing>,
    /// In a row.
    failures: u32,
    /// Which stored token worked last.
    first: usize,
    used: Instant,
}

/// A failure that answers whoever asks until its time is over.
struct Standing {
    error: SourceError,
    until: Instant,
}

/// An environment as it was read.
struct Values {
    body: SecretBytes,
    read: Instant,
}

impl Environment {
    fn is_of(&self, place: &EscPlace) -> bool {
        self.name == place.environment && self.access == place.access
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn values(&self, freshness: Freshness) -> Result<Arc<Values>, SourceError> {
        if let Some(values) = self.state().fit(freshness) {
            return Ok(values);
        }
        let _turn = self.turn.lock().await;
        let standing = {
            let state = self.state();
            if let Some(values) = state.fit(freshness) {
                return Ok(values);
            }
            let stands = |standing: &&Standing| Instant::now() < standing.until;
            state.standing.as_ref().filter(stands).map(|standing| standing.error.clone())
        };
        let error = match standing {
            Some(error) => error,
            None => match self.open().await {
                Ok(values) => return Ok(values),
                Err(error) => error,
            },
        };
        // Better an old secret than none, unless somebody has decided that it is not to be had.
        let passes = matches!(
            error,
            SourceError::Throttled { .. }
                | SourceError::Transient(_)
                | SourceError::TooHeavy(_)
                | SourceError::Barred { .. }
        );
        let age_max = if passes { STALE_MAX } else { SESSION };
        let kept = self.state().values.clone();
        kept.filter(|values| values.read.elapsed() < age_max).ok_or(error)
    }

    /// Must be called with the turn held.
    async fn open(&self) -> Result<Arc<Values>, SourceError> {
        let opened = self.ask().await;
        let mut state = self.state();
        match opened {
            Ok(body) => {
                let values = Arc::new(Values { body, read: Instant::now() });
                state.values = Some(Arc::clone(&values));
                state.standing = None;
                state.failures = 0;
                tracing::debug!(environment = %self.name, "ESC environment opened and read");
                Ok(values)
            }
            Err(error) => {
                state.failures = state.failures.saturating_add(1);
                let until = Instant::now() + pause(&error, state.failures);
                state.standing = Some(Standing { error: error.clone(), until });
                tracing::warn!(environment = %self.name, cause = %error, "ESC environment not opened");
                Err(error)
            }
        }
    }

    async fn ask(&self) -> Result<SecretBytes, SourceError> {
        let (token, answer) = self.admitted(&self.name.open_path()).await?;
        let Some(session) = opened(&answer.body) else {
            let said = said(&answer, &token);
            return Err(SourceError::Transient(format!("Pulumi answered 200 and named no session{said}")));
        };
        let answer = self.send(Method::GET, &self.name.session_path(&session), &token).await?;
        self.meaning(&answer, &token)?;
        Ok(SecretBytes::new(answer.body.into()))
    }

    /// Opens it with each of the tokens until one is not refused with 401.
    async fn admitted(&self, path: &str) -> Result<(Secret, Response), SourceError> {
        let mut last = None;
        match &self.key {
            Key::Stored(tokens) => {
                let first = self.state().first;
                for turn in 0..tokens.len() {
                    let index = (first + turn) % tokens.len();
                    let token = match tokens[index].read() {
                        Ok(token) => token,
                        Err(error) => {
                            last = last.or_else(|| Some(self.no_token(error.to_string())));
                            continue;
                        }
                    };
                    let answer = self.send(Method::POST, path, &token).await?;
                    if answer.status != 401 {
                        self.meaning(&answer, &token)?;
                        self.state().first = index;
                        return Ok((token, answer));
                    }
                    last = Some(self.no_token(format!("Pulumi refused it (401){}", said(&answer, &token))));
                }
            }
            Key::Exchanged(exchange) => {
                for _ in 0..2 {
                    let token = exchange.token().await?;
                    let answer = self.send(Method::POST, path, token.secret()).await?;
                    if answer.status != 401 {
                        self.meaning(&answer, token.secret())?;
                        return Ok((token.secret().clone(), answer));
                    }
                    let said = said(&answer, token.secret());
                    last = Some(self.no_token(format!("Pulumi refused it (401){said}")));
                    if !exchange.reject(&token) {
                        break;
                    }
                }
            }
        }
        Err(last.unwrap_or_else(|| self.no_token("there is none".into())))
    }

    fn no_token(&self, cause: String) -> SourceError {
        SourceError::Credentials {
            cause: format!("no access token of [source] opens it: {cause}"),
            remedy: "have [source] use a token that is valid".into(),
        }
    }

    async fn send(&self, method: Method, path: &str, token: &Secret) -> Result<Response, SourceError> {
        let request = Request {
            method,
            url: format!("{}{path}", self.access.api_url),
            headers: headers(token)?,
            body: Bytes::new(),
            body_bytes_max: ANSWER_BYTES_MAX,
            deadline: DEADLINE,
        };
        self.transport.send(request).await.map_err(|failure| unanswered(&self.access.api_url, failure))
    }

    fn meaning(&self, answer: &Response, token: &Secret) -> Result<(), SourceError> {
        let status = answer.status;
        let cause = format!("Pulumi answered {status}{}", said(answer, token));
        let name = &self.name;
        let wait = answer.header("retry-after").and_then(|value| retry::retry_after(value, self.clock.now()));
        Err(match status {
            200 => return Ok(()),
            401 => self.no_token(cause),
            403 => SourceError::Permission {
                cause,
                remedy: format!(
                    "give the role of the token of [source] the permission environment:open on `{name}`; tried again every 15 minutes, \
                     and at once after a restart"
                ),
            },
            404 => SourceError::Configuration {
                cause,
                remedy: format!(
                    "see that environment `{name}` exists, and that the token of [source] can see it"
                ),
            },
            429 => SourceError::Throttled { wait },
            503 if wait.is_some() => SourceError::Throttled { wait },
            201..=299 | 408 | 500..=599 => SourceError::Transient(cause),
            300..=399 => redirected(&self.access.api_url, &cause),
            _ => SourceError::BadRequest {
                cause,
                remedy: format!(
                    "correct environment `{name}` as the answer says: it cannot be opened as it is"
                ),
            },
        })
    }
}

impl State {
    fn new() -> State {
        State { values: None, standing: None, failures: 0, first: 0, used: Instant::now() }
    }

    /// What was read, where it will do.
    fn fit(&self, freshness: Freshness) -> Option<Arc<Values>> {
        let age_max = match freshness {
            Freshness::Kept => SESSION,
            Freshness::Renewed => RENEWAL_PAUSE,
        };
        self.values.as_ref().filter(|values| values.read.elapsed() < age_max).cloned()
    }
}

fn said(answer: &Response, token: &Secret) -> String {
    complaint(&answer.body, token.expose()).map(|said| format!(": {said}")).unwrap_or_default()
}

/// How long a failure stands.
fn pause(error: &SourceError, failures: u32) -> Duration {
    // Never nothing: those who wait for their turn meanwhile are to be told of it.
    let jitter = || 0.5 + fastrand::f64() / 2.0;
    match error {
        SourceError::Throttled { wait } => wait.unwrap_or_else(|| retry::cool_down(failures, jitter())),
        SourceError::Transient(_) | SourceError::TooHeavy(_) => retry::backoff(failures, jitter()),
        SourceError::Permission { .. } => FORBIDDEN_PAUSE,
        SourceError::Configuration { .. } | SourceError::BadRequest { .. } => RENEWAL_PAUSE,
        SourceError::Credentials { .. } | SourceError::NotFound { .. } | SourceError::Barred { .. } => {
            REFUSED_PAUSE
        }
    }
}

/// Parses `org/project/environment#path`, for the configuration.
pub fn parse_place(text: &str) -> Option<(EnvironmentName, PropertyPath)> {
    let (environment, path) = text.split_once('#')?;
    Some((EnvironmentName::parse(environment)?, PropertyPath::parse(path)?))
}

/// Any answer about an environment.
#[cfg(any(test, fuzzing))]
#[expect(clippy::expect_used, reason = "a property: it panics where it does not hold")]
pub(crate) fn property(bytes: &[u8]) {
    use super::exchange::{Nobody, answers, assert_sound};
    use crate::hostile::given::CANARY;

    super::wire::environment::property(bytes);
    let access = SourceAccess {
        api_url: "https://api.example".into(),
        route: crate::http::Route::default(),
        credentials: SourceCredentials::Stored {
            token: SecretSource { place: Place::Env("ABSENT".into()), group_may_read: false },
            next_token: None,
        },
    };
    let environment = Environment {
        name: EnvironmentName::parse("acme/infra/siem").expect("a good name"),
        access,
        transport: Arc::new(Nobody),
        key: Key::Stored(Vec::new()),
        clock: Clock::simulated(crate::clock::Second(1_795_256_100)),
        state: Mutex::new(State::new()),
        turn: tokio::sync::Mutex::default(),
    };
    let token = Secret::new(CANARY.into());
    for answer in answers(bytes) {
        match environment.meaning(&answer, &token) {
            Ok(()) => assert_eq!(answer.status, 200),
            Err(error) => assert_sound(error),
        }
    }
}

#[cfg(test)]
mod tests;
