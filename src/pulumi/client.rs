//! Asks Pulumi for pages: one request at a time, within its budget, with the token in use.
//!
//! It knows what each status means and says so as a [`SourceError`]; what follows (halve, wait, pause) is decided in
//! [`crate::collect`]. It never retries, except once with another token after a 401.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method};
use tokio::time::{Instant, sleep_until};

use crate::clock::{Clock, Second, whole_seconds};
use crate::config::settings::{OrgSettings, SourceCredentials};
use crate::event::OrgId;
use crate::http::{Failure, Request, Response, Transport};
use crate::metrics::OrgMetrics;
use crate::pulumi::budget::{HostBudget, HostBudgets, OrgBudget, Urgency};
use crate::pulumi::exchange::{Exchange, Exchanges, Figures, Lack};
use crate::pulumi::service_clock::ServiceClock;
use crate::pulumi::token::{TokenPlaces, Tokens};
use crate::pulumi::wire::{self, Account, Malformed, Page, Query};
use crate::report::Party;
use crate::retry;
use crate::rotation::{InUse, Refusal, Slot, Standing};
use crate::secret::{Fingerprint, Secret};

/// Most bytes of a page, decoded.
pub const PAGE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// The whole exchange; the service's own poller gives up after 60 s.
const DEADLINE: Duration = Duration::from_secs(60);
/// The form of answers that is understood: the version of the API.
pub(super) const ACCEPTED: HeaderValue = HeaderValue::from_static("application/vnd.pulumi+8");
/// Larger pages are parsed on a thread that may be busy for a while.
const LARGE_PAGE_BYTES: usize = 1024 * 1024;

/// What a refusal means, and with it what comes next.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// Every token was refused, or none can be read.
    #[error("{cause}")]
    Credentials { cause: String, remedy: String },
    #[error("{cause}")]
    Permission { cause: String, remedy: String },
    #[error("{cause}")]
    Configuration { cause: String, remedy: String },
    /// 404: there is no such organization, as far as this token is told.
    #[error("{cause}")]
    NotFound { cause: String, remedy: String },
    /// A certificate or a proxy on the way, which may be put right without this configuration.
    #[error("{cause}")]
    Barred { cause: String, remedy: String },
    /// 400: perhaps the window is the trouble.
    #[error("{cause}")]
    BadRequest { cause: String, remedy: String },
    #[error("throttled (429 or 503 with Retry-After)")]
    Throttled { wait: Option<Duration> },
    /// Too slow or too large to be read as one window.
    #[error("{0}")]
    TooHeavy(String),
    /// Worth another try.
    #[error("{0}")]
    Transient(String),
}

/// One org's connection to its service.
pub struct Client {
    id: OrgId,
    org: String,
    api_url: String,
    transport: Arc<dyn Transport>,
    /// Nothing where tokens are exchanged.
    tokens: Tokens,
    exchange: Option<Arc<Exchange>>,
    /// What of the exchange's figures is counted already.
    counted: Figures,
    /// Why the last try ended, where that was for want of an exchanged token.
    lack: Option<Lack>,
    /// Who is told which token is in use.
    party: Option<Party>,
    budget: OrgBudget,
    service: ServiceClock,
    clock: Clock,
    origin: Instant,
    /// When the service last answered.
    heard: Option<Instant>,
    dated: bool,
    jumped: bool,
    metrics: Arc<OrgMetrics>,
}

impl Client {
    pub fn new(
        settings: &OrgSettings,
        transport: Arc<dyn Transport>,
        hosts: &HostBudgets,
        exchanges: &Exchanges,
        clock: Clock,
        metrics: Arc<OrgMetrics>,
    ) -> Client {
        let source = &settings.source;
        let host = hosts.of(&source.api_url, source.host_requests_per_second);
        let (tokens, exchange) = match source.credentials.clone() {
            SourceCredentials::Stored { token, next_token } => {
                (TokenPlaces::new(Some(token), next_token), None)
            }
            SourceCredentials::Exchanged(oidc) => {
                let exchange = exchanges.get(&source.access(), &oidc, &transport, &clock);
                (TokenPlaces::new(None, None), Some(exchange))
            }
        };
        Client {
            id: settings.id.clone(),
            org: settings.org.clone(),
            api_url: source.api_url.clone(),
            transport,
            tokens: Tokens::new(tokens),
            exchange,
            counted: Figures::default(),
            lack: None,
            party: None,
            budget: OrgBudget::new(source.requests_per_second, host),
            service: ServiceClock::new(source.poll_interval),
            clock,
            origin: Instant::now(),
            heard: None,
            dated: false,
            jumped: false,
            metrics,
        }
    }

    /// The service's time; the local one until an answer carried a `Date`.
    pub fn now(&self) -> Second {
        self.service.now(self.origin.elapsed()).unwrap_or_else(|| self.clock.now())
    }

    /// Whether [`Client::now`] is the service's.
    pub fn dated(&self) -> bool {
        self.dated
    }

    /// Whether the service has answered within this time.
    pub fn heard_within(&self, span: Duration) -> bool {
        self.heard.is_some_and(|heard| heard.elapsed() <= span)
    }

    /// Whether the service's time has jumped since this was last asked.
    pub fn take_jump(&mut self) -> bool {
        std::mem::take(&mut self.jumped)
    }

    /// The believed time contradicts what was known before: once it has held for a poll interval, it counts as a jump.
    pub fn doubt_time(&mut self) {
        self.service.doubt(self.origin.elapsed());
    }

    /// From now on this party says which token is in use.
    pub fn reports_to(&mut self, party: Party) {
        self.party = Some(party);
    }

    /// Which token to begin with: the one in use before a restart.
    pub fn begin_with(&mut self, slot: Slot) {
        self.tokens.begin_with(slot);
    }

    /// Which of the stored tokens is in use.
    pub fn slot(&self) -> Option<Slot> {
        self.tokens.slot()
    }

    /// Whether a token's place holds something that is to be tried.
    pub async fn tokens_changed(&mut self) -> bool {
        if let Some(exchange) = &self.exchange {
            return self.lack.is_some_and(|lack| exchange.has_changed(lack));
        }
        self.tokens.look(self.now()).await;
        self.report_tokens();
        self.tokens.is_due()
    }

    /// The same when somebody said that there is something new: also a token that nobody has tried yet.
    pub async fn tokens_nudged(&mut self) -> bool {
        if self.exchange.is_some() {
            return self.tokens_changed().await;
        }
        self.tokens.look(self.now()).await;
        self.tokens.nudged();
        self.report_tokens();
        self.tokens.is_due()
    }

    fn report_tokens(&self) {
        let Some(party) = &self.party else { return };
        let standing = self.tokens.standing();
        match standing.in_use.map(|in_use| in_use.expires) {
            Some(Some(end)) => self.metrics.credential_expiry("source", end),
            Some(None) => self.metrics.credential_expiry_unknown("source"),
            None => {}
        }
        party.uses(&standing);
    }

    /// Which of the exchanged tokens it is concerns nobody: there is another every hour or so.
    fn report_exchange(&self, accepted: bool) {
        let Some(party) = &self.party else { return };
        let in_use =
            InUse { slot: Slot::First, key: "oidc", fingerprint: Fingerprint::of_all([]), expires: None };
        party.uses(&Standing { in_use: accepted.then_some(in_use), ..Standing::default() });
    }

    pub fn host(&self) -> &HostBudget {
        self.budget.host()
    }

    /// Asks for one page.
    ///
    /// # Errors
    /// Anything but a page, sorted by what is to be done about it.
    pub async fn page(&mut self, query: &Query, urgency: Urgency) -> Result<Page, SourceError> {
        let path = wire::list_path(&self.org, query);
        let answer = self.ask(&path, urgency).await?;
        // What was asked for is plausible, also where this very answer has turned the clock back.
        let now = self.now().max(query.before);
        let id = self.id.clone();
        let body = answer.body;
        let page = if body.len() > LARGE_PAGE_BYTES {
            tokio::task::spawn_blocking(move || wire::parse_page(&body, &id, now))
                .await
                .map_err(|_| SourceError::Transient("parsing a large page was stopped".into()))?
        } else {
            wire::parse_page(&body, &id, now)
        };
        page.map_err(|malformed| match malformed {
            Malformed::Form(_) => SourceError::Transient(malformed.to_string()),
            Malformed::TooMany => SourceError::TooHeavy(malformed.to_string()),
        })
    }

    /// Asks for the newest second, to see whether the log can be read.
    ///
    /// # Errors
    /// As [`Client::page`].
    pub async fn check(&mut self) -> Result<(), SourceError> {
        let now = self.now();
        let query = Query { after: now - 2, before: now - 1, token: None, kind: None };
        self.page(&query, Urgency::Present).await.map(|_| ())
    }

    /// Asks whose the token is.
    ///
    /// # Errors
    /// As [`Client::page`].
    pub async fn account(&mut self) -> Result<Account, SourceError> {
        let answer = self.ask(wire::ACCOUNT_PATH, Urgency::Present).await?;
        let what = format!("the answer to {} is no account", wire::ACCOUNT_PATH);
        wire::parse_account(&answer.body).ok_or(SourceError::Transient(what))
    }

    /// One request, and another one with another token where one is refused and there is another: at most one for each value that
    /// a place holds.
    async fn ask(&mut self, path: &str, urgency: Urgency) -> Result<Response, SourceError> {
        match self.exchange.clone() {
            Some(exchange) => {
                let answer = self.ask_by_exchange(&exchange, path, urgency).await;
                match &answer {
                    Ok(_) => self.report_exchange(true),
                    Err(SourceError::Credentials { .. }) => self.report_exchange(false),
                    Err(_) => {}
                }
                answer
            }
            None => {
                let answer = self.ask_in_turn(path, urgency).await;
                self.report_tokens();
                answer
            }
        }
    }

    async fn ask_in_turn(&mut self, path: &str, urgency: Urgency) -> Result<Response, SourceError> {
        let mut choice = self.tokens.choose(self.now()).await.map_err(|error| SourceError::Credentials {
            cause: error.to_string(),
            remedy: format!(
                "put an access token into {}; it is taken up by itself",
                self.tokens.places().names()
            ),
        })?;
        // What is said in the end: a 403 rather than a 401, because it is tried more seldom.
        let mut forbidden = None;
        loop {
            let answer = self.exchange(path, choice.value(), urgency).await?;
            let refusal = match answer.status {
                401 => Refusal::Unknown,
                403 if wire::is_expiry_policy(&answer.body) => Refusal::TooLong,
                403 => Refusal::Forbidden,
                // It does not see the organization, which the one in use does.
                404 if self.tokens.is_spare(&choice) => Refusal::Forbidden,
                status => {
                    if status == 200 {
                        let taken = self.tokens.taken();
                        self.tokens.accepted(&choice);
                        if self.tokens.taken() > taken {
                            self.metrics.credential_refresh("source", true);
                        }
                    }
                    return self.meaning(answer, choice.value());
                }
            };
            self.metrics.credential_refresh("source", false);
            let said = said(&answer.body, choice.value());
            let why = format!("Pulumi answered {}{said}", answer.status);
            if answer.status == 403 && !self.tokens.is_spare(&choice) {
                forbidden = forbidden.or(self.meaning(answer, choice.value()).err());
            }
            match self.tokens.refused(choice, refusal, &why).await {
                Some(other) => choice = other,
                None => {
                    return Err(forbidden.unwrap_or_else(|| SourceError::Credentials {
                        cause: format!("Pulumi refused the access token (401){said}"),
                        remedy: format!(
                            "put a valid access token into {}; it is taken up by itself, and nothing is lost meanwhile",
                            self.tokens.places().names()
                        ),
                    }));
                }
            }
        }
    }

    /// One request with the exchanged token, and a second one with another if the first is refused with 401.
    async fn ask_by_exchange(
        &mut self,
        exchange: &Arc<Exchange>,
        path: &str,
        urgency: Urgency,
    ) -> Result<Response, SourceError> {
        let mut last = None;
        for _ in 0..2 {
            let token = exchange.token().await;
            self.lack = token.is_err().then_some(Lack::OfToken);
            self.count_exchanges(exchange);
            let token = token?;
            let answer = self.exchange(path, token.secret(), urgency).await?;
            if answer.status == 403 {
                exchange.retire(&token);
            }
            if answer.status != 401 {
                return self.meaning(answer, token.secret());
            }
            last = Some(said(&answer.body, token.secret()));
            if !exchange.reject(&token) {
                break;
            }
        }
        self.lack = Some(Lack::OfTrust(exchange.subject()));
        Err(SourceError::Credentials {
            cause: format!("Pulumi refused the exchanged access token (401){}", last.unwrap_or_default()),
            remedy: format!(
                "see at Pulumi that this is still allowed: {}; tried again by itself, and nothing is lost meanwhile",
                exchange.name()
            ),
        })
    }

    /// Orgs may share an exchange; each counts what it sees of it.
    fn count_exchanges(&mut self, exchange: &Exchange) {
        let figures = exchange.figures();
        for (now, before, ok) in
            [(figures.exchanged, self.counted.exchanged, true), (figures.failed, self.counted.failed, false)]
        {
            for _ in before..now {
                self.metrics.credential_refresh("source", ok);
            }
        }
        if let Some(life) = figures.life {
            let end = self.clock.now().saturating_add(whole_seconds(life));
            self.metrics.credential_expiry("source", end);
        }
        self.counted = figures;
    }

    async fn exchange(
        &mut self,
        path: &str,
        token: &Secret,
        urgency: Urgency,
    ) -> Result<Response, SourceError> {
        let turn = self.budget.take(urgency);
        if let Some(party) = &self.party {
            party.rests(turn.saturating_duration_since(Instant::now()));
        }
        sleep_until(turn).await;
        let request = Request {
            method: Method::GET,
            url: format!("{}{path}", self.api_url),
            headers: headers(token)?,
            body: Bytes::new(),
            body_bytes_max: PAGE_BYTES_MAX,
            deadline: DEADLINE,
        };
        let begun = Instant::now();
        let answer = self.transport.send(request).await;
        self.metrics.request_duration.observe(begun.elapsed().as_secs_f64());
        match answer {
            Ok(answer) => {
                self.metrics.request(&answer.status.to_string());
                self.heard = Some(Instant::now());
                self.observe_date(&answer);
                Ok(answer)
            }
            Err(failure) => {
                let code = if failure.is_timeout() { "timeout" } else { "connect" };
                self.metrics.request(code);
                if let Some(remedy) = failure.remedy("source") {
                    let cause = format!("{}: {failure}", self.api_url);
                    return Err(SourceError::Barred { cause, remedy });
                }
                Err(match failure {
                    Failure::Timeout(_) | Failure::Silent(_) | Failure::Stalled(_) | Failure::TooLarge(_) => {
                        SourceError::TooHeavy(failure.to_string())
                    }
                    _ => SourceError::Transient(failure.to_string()),
                })
            }
        }
    }

    fn observe_date(&mut self, answer: &Response) {
        let Some(date) = answer.header("date").and_then(date) else {
            self.jumped |= self.service.undated(self.origin.elapsed());
            return;
        };
        if self.service.observe(date, self.origin.elapsed()) {
            self.jumped = true;
        }
        self.dated = true;
        self.metrics.clock_skew.set((date - self.clock.now()) as f64);
    }

    fn meaning(&self, answer: Response, token: &Secret) -> Result<Response, SourceError> {
        let status = answer.status;
        if status == 200 {
            return Ok(answer);
        }
        let cause = format!("Pulumi answered {status}{}", said(&answer.body, token));
        let wait = answer.header("retry-after").and_then(|value| retry::retry_after(value, self.now()));
        Err(match status {
            400 | 402 => SourceError::BadRequest {
                cause,
                remedy:
                    "check that the organization's edition has audit logs (Enterprise or Business Critical)"
                        .into(),
            },
            403 => SourceError::Permission {
                cause,
                remedy: format!(
                    "give the token's role the permission audit_logs:read in organization `{}`, or, if the message names an expiry \
                     policy, make a token that lives no longer than it allows; tried again every 15 minutes, and at once when the \
                     token changes",
                    self.org
                ),
            },
            404 => SourceError::NotFound {
                cause,
                remedy: format!(
                    "check `org = \"{}\"` (was the organization renamed? then set its new name and keep this file's name: it goes on where \
                     it was), that the token can see it, and `api_url`",
                    self.org
                ),
            },
            408 | 504 => SourceError::TooHeavy(cause),
            429 => SourceError::Throttled { wait },
            503 if wait.is_some() => SourceError::Throttled { wait },
            204..=299 | 500..=599 => SourceError::Transient(cause),
            300..=399 => SourceError::Configuration {
                cause: format!("{cause}, a redirect, which is never followed"),
                remedy: format!("set `api_url` (now {}) to the service's final address", self.api_url),
            },
            _ => SourceError::Configuration {
                cause,
                remedy: format!("check `api_url` ({}) and what stands between here and there", self.api_url),
            },
        })
    }
}

/// A `Date` header's time.
pub(crate) fn date(text: &str) -> Option<Second> {
    let since_epoch = httpdate::parse_http_date(text).ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
    i64::try_from(since_epoch.as_secs()).ok().map(Second)
}

/// The service's words; should they repeat the token, which need not look like one, it is taken out.
fn said(body: &[u8], token: &Secret) -> String {
    let message = wire::error_message(body, token.expose());
    message.map(|message| format!(": {message}")).unwrap_or_default()
}

/// Those of every request that shows a token.
pub(super) fn headers(token: &Secret) -> Result<HeaderMap, SourceError> {
    let mut authorization = HeaderValue::from_str(&format!("token {}", token.expose())).map_err(|_| {
        SourceError::Credentials {
            cause: "the access token holds characters that no header can carry".into(),
            remedy: "put the token alone into its file".into(),
        }
    })?;
    authorization.set_sensitive(true);
    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, authorization);
    headers.insert(ACCEPT, ACCEPTED);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_that_the_service_repeats_is_not_shown() {
        let body = br#"{"code":401,"message":"`self-hosted-token` is not valid"}"#;
        assert_eq!(said(body, &Secret::new("self-hosted-token".into())), ": [REDACTED] is not valid");
    }
}
