//! Pulumi Cloud, as far as a reader of audit logs meets it: the two lists, the caller's own account, an org's metadata, the catalog
//! of event types, token exchange ([`oauth`]) and ESC environments ([`esc`]).
//!
//! It decides in plain code ([`Pulumi::answer`]) and can be asked without a network. It does not do exports.

pub mod behaviour;
mod esc;
pub mod events;
mod list;
pub mod oauth;
pub mod store;

use std::collections::BTreeMap;
use std::future::ready;
use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{ACCEPT_ENCODING, AUTHORIZATION};
use http::{Request, Response};
use serde_json::{Value, json};

use super::chance::Chance;
use super::clock::{WorldClock, http_date};
use super::ledger::{self, Ledger};
use super::query;
use super::script::{Script, Times};
use super::server::{Answering, Service};
use super::verdict::{Cut, RetryAfter, Verdict, html, respond, with_header};
use behaviour::{BadGzip, Behaviour, DateHeader, Fault, Gzip};
use events::{Event, Person};
use list::{Asked, Refusal};
use oauth::{Exchange, Issuer};
use store::{Log, Shown, TruthEvent};

/// The answer to a call without, or with a wrong, token.
const NO_CREDENTIALS: &str = "Unauthorized: No credentials provided or are invalid.";

pub struct Pulumi {
    state: Mutex<State>,
    pub ledger: Ledger,
    clock: WorldClock,
}

struct State {
    orgs: BTreeMap<String, Org>,
    chance: Chance,
}

struct Org {
    log: Log,
    behaviour: Behaviour,
    tokens: Vec<Token>,
    faults: Script<(), Fault>,
    /// Calls about the caller and the org itself, as opposed to its list, meet these.
    side_faults: Script<(), Fault>,
    entitled: bool,
    issuers: Vec<Issuer>,
    exchanges: Vec<Exchange>,
    /// Token exchanges, and requests about environments, meet these.
    exchange_faults: Script<(), Fault>,
    environment_faults: Script<(), Fault>,
    /// By project and name.
    environments: BTreeMap<String, esc::Environment>,
}

#[derive(Debug, Clone)]
struct Token {
    value: String,
    valid: bool,
    until: Option<i64>,
    may_read: bool,
    /// Whether its role may open environments.
    may_open: bool,
    owner: Owner,
}

/// Whose a token is, as the account's answer says it.
#[derive(Debug, Clone, Default)]
pub enum Owner {
    /// A token of the organization, with a role of its own.
    #[default]
    Organization,
    /// The same, made for admins.
    OrganizationAdmin,
    Team(String),
    Person(String),
}

impl Pulumi {
    pub fn new(clock: WorldClock, seed: u64) -> Self {
        let state = State { orgs: BTreeMap::new(), chance: Chance::seeded(seed ^ 0x70_75_6c) };
        Self { state: Mutex::new(state), ledger: Ledger::default(), clock }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics while it holds Pulumi's state")
    }

    /// Founds an org with one valid token.
    pub fn found(&self, org: &str, behaviour: Behaviour) {
        let mut state = self.state();
        let token = new_token(&mut state.chance);
        state.orgs.insert(
            org.to_owned(),
            Org {
                log: Log::default(),
                behaviour,
                tokens: vec![token],
                faults: Script::default(),
                side_faults: Script::default(),
                entitled: true,
                issuers: Vec::new(),
                exchanges: Vec::new(),
                exchange_faults: Script::default(),
                environment_faults: Script::default(),
                environments: BTreeMap::new(),
            },
        );
    }

    /// A handle on an org, by its present name.
    pub fn org(&self, name: &str) -> OrgHandle<'_> {
        assert!(self.state().orgs.contains_key(name), "the world has no org {name}");
        OrgHandle { pulumi: self, name: name.to_owned() }
    }

    pub fn orgs(&self) -> Vec<String> {
        self.state().orgs.keys().cloned().collect()
    }

    /// Requests for an org's list meet this fault.
    pub fn fault(&self, org: &str, fault: Fault, times: Times) {
        self.org(org).fault(fault, times);
    }

    /// All events an org's log has ever held, oldest first.
    pub fn truth(&self, org: &str) -> Vec<TruthEvent> {
        self.org(org).with(|org| org.log.truth())
    }

    pub fn answer(&self, request: Request<Bytes>) -> Verdict {
        let (head, body) = request.into_parts();
        let now = self.clock.now();
        let segments = query::segments(head.uri.path());
        let path: Vec<&str> = segments.iter().map(String::as_str).collect();
        let about = match path[..] {
            ["api", "orgs", org, ..] => org.to_owned(),
            // Apart, so that requests for the log can be counted.
            ["api", "esc", "environments", org, ..] => format!("{org}/environments"),
            ["api", "oauth", "token"] => format!("{}/exchange", oauth::Asked::read(&head, &body).org()),
            _ => String::new(),
        };
        let mut entry = ledger::entry(now, &head, body.len(), &about);
        let verdict = self.decide(&head, &body, &path, now);
        entry.done = verdict.status().is_some_and(|status| status < 300);
        entry.status = verdict.status().filter(|_| verdict.cut.is_none());
        self.ledger.write(entry);
        verdict
    }

    fn decide(&self, head: &http::request::Parts, body: &[u8], path: &[&str], now: i64) -> Verdict {
        let pairs = query::pairs(head.uri.query().unwrap_or_default());
        let credential = head.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = credential.and_then(|value| value.strip_prefix("token "));
        let asks_gzip = head
            .headers
            .get(ACCEPT_ENCODING)
            .and_then(|value| value.to_str().ok())
            .is_some_and(|value| value.contains("gzip"));
        let mut state = self.state();
        let State { orgs, chance } = &mut *state;
        let is_get = head.method == http::Method::GET;
        match path {
            ["api", "user"] if is_get => {
                let known: Vec<(String, Owner)> = orgs
                    .iter()
                    .filter_map(|(name, org)| Some((name.clone(), org.knows(token, now)?.owner.clone())))
                    .collect();
                let any = orgs.iter_mut().find(|(_, org)| org.knows(token, now).is_some());
                let response = if known.is_empty() { problem(401, NO_CREDENTIALS) } else { account(&known) };
                match any {
                    Some((name, org)) => {
                        let fault = org.side_faults.strike(|(), _| true);
                        org.travel(name, fault, response, asks_gzip, now)
                    }
                    None => Verdict::answer(dated(response, &DateHeader::Present, now)),
                }
            }
            ["api", "orgs", name, rest @ ..] if is_get => match orgs.get_mut(*name) {
                // A name that is not there looks the same whoever asks, but only to somebody with a token that works somewhere.
                None => {
                    let known = orgs.values().any(|org| org.knows(token, now).is_some());
                    let response = match known {
                        true => problem(404, &format!("Organization '{name}' not found")),
                        false => problem(401, NO_CREDENTIALS),
                    };
                    Verdict::answer(dated(response, &DateHeader::Present, now))
                }
                Some(org) => org.answer(name, rest, &pairs, token, asks_gzip, now, chance),
            },
            ["api", "oauth", "token"] if head.method == http::Method::POST => {
                let asked = oauth::Asked::read(head, body);
                let name = asked.org();
                let Some(org) = orgs.get_mut(&name) else {
                    let response = oauth::refusal(("invalid_grant", "unknown organization"));
                    return Verdict::answer(dated(response, &DateHeader::Present, now));
                };
                let fault = org.exchange_faults.strike(|(), _| true);
                // What is to be lost on the way back has happened; every other fault is instead of the exchange.
                let happens =
                    fault.as_ref().is_none_or(|fault| matches!(fault, Fault::Lost(_) | Fault::Late(_)));
                let response = match happens {
                    false => problem(500, "never sent"),
                    true => match org.exchange(&asked, now, chance) {
                        Err(refusal) => oauth::refusal(refusal),
                        Ok((response, token)) => {
                            org.tokens.push(token.clone());
                            if matches!(token.owner, Owner::Person(_)) {
                                let others = orgs.iter_mut().filter(|(other, _)| **other != name);
                                others.for_each(|(_, org)| org.tokens.push(token.clone()));
                            }
                            response
                        }
                    },
                };
                let org = orgs.get_mut(&name).expect("it was there");
                org.travel(&name, fault, response, asks_gzip, now)
            }
            ["api", "esc", "environments", name, rest @ ..] => match orgs.get_mut(*name) {
                None => Verdict::answer(dated(problem(404, "not found"), &DateHeader::Present, now)),
                Some(org) => {
                    let fault = org.environment_faults.strike(|(), _| true);
                    let may_open = org.knows(token, now).map(|token| token.may_open);
                    let response = match &fault {
                        Some(fault) if !matches!(fault, Fault::Lost(_) | Fault::Late(_)) => {
                            problem(500, "never sent")
                        }
                        _ => org.environment(is_get, rest, &pairs, may_open, now, chance),
                    };
                    org.travel(name, fault, response, asks_gzip, now)
                }
            },
            _ => Verdict::answer(dated(problem(404, "not found"), &DateHeader::Present, now)),
        }
    }
}

impl Service for Pulumi {
    fn handle(self: Arc<Self>, request: Request<Bytes>) -> Answering {
        Box::pin(ready(self.answer(request)))
    }
}

/// What a test does to one org.
pub struct OrgHandle<'a> {
    pulumi: &'a Pulumi,
    name: String,
}

impl OrgHandle<'_> {
    fn with<T>(&self, act: impl FnOnce(&mut Org) -> T) -> T {
        let mut state = self.pulumi.state();
        act(state.orgs.get_mut(&self.name).expect("the org has not been renamed since"))
    }

    /// Adds events; each shows from its `visible_at` on.
    pub fn add(&self, events: impl IntoIterator<Item = Event>) -> &Self {
        self.with(|org| org.log.add(events));
        self
    }

    /// Adds bytes as they are, in the list at the place of this second.
    pub fn add_verbatim(&self, place: i64, bytes: &[u8]) -> &Self {
        self.with(|org| org.log.add_verbatim(place, i64::MIN, bytes));
        self
    }

    pub fn behave(&self, change: impl FnOnce(&mut Behaviour)) -> &Self {
        self.with(|org| change(&mut org.behaviour));
        self
    }

    /// Requests for the list meet this fault.
    pub fn fault(&self, fault: Fault, times: Times) -> &Self {
        self.with(|org| org.faults.push((), fault, times));
        self
    }

    /// Requests for the account, the metadata and the event types meet this fault.
    pub fn side_fault(&self, fault: Fault, times: Times) -> &Self {
        self.with(|org| org.side_faults.push((), fault, times));
        self
    }

    /// Token exchanges meet this fault.
    pub fn exchange_fault(&self, fault: Fault, times: Times) -> &Self {
        self.with(|org| org.exchange_faults.push((), fault, times));
        self
    }

    /// Requests about ESC environments meet this fault.
    pub fn environment_fault(&self, fault: Fault, times: Times) -> &Self {
        self.with(|org| org.environment_faults.push((), fault, times));
        self
    }

    pub fn clear_faults(&self) -> &Self {
        self.with(|org| {
            org.faults.clear(|()| true);
            org.side_faults.clear(|()| true);
            org.exchange_faults.clear(|()| true);
            org.environment_faults.clear(|()| true);
        });
        self
    }

    /// The newest token that works.
    pub fn token(&self) -> String {
        self.with(|org| org.tokens.iter().rev().find(|token| token.valid).map(|token| token.value.clone()))
            .expect("the org has a valid token")
    }

    /// One more token that works.
    pub fn add_token(&self) -> String {
        let mut state = self.pulumi.state();
        let token = new_token(&mut state.chance);
        let value = token.value.clone();
        state.orgs.get_mut(&self.name).expect("the org exists").tokens.push(token);
        value
    }

    /// One more, which is as it is given.
    pub fn add_token_as(&self, value: &str) {
        self.add_token();
        self.with(|org| org.tokens.last_mut().expect("one was added").value = value.to_owned());
    }

    /// Makes a new token and revokes all others.
    pub fn rotate_token(&self) -> String {
        let value = self.add_token();
        self.with(|org| org.tokens.iter_mut().for_each(|token| token.valid = token.value == value));
        value
    }

    pub fn revoke_token(&self, value: &str) -> &Self {
        self.each_token(value, |token| token.valid = false)
    }

    pub fn revoke_all_but(&self, value: &str) -> &Self {
        self.with(|org| org.tokens.iter_mut().for_each(|token| token.valid = token.value == value));
        self
    }

    pub fn accept_token(&self, value: &str) -> &Self {
        self.each_token(value, |token| token.valid = true)
    }

    pub fn expire_token_at(&self, value: &str, second: i64) -> &Self {
        self.each_token(value, |token| token.until = Some(second))
    }

    /// Whether the role behind a token may read audit logs.
    pub fn allow(&self, value: &str, may_read: bool) -> &Self {
        self.each_token(value, |token| token.may_read = may_read)
    }

    /// Whether the role behind a token may open environments.
    pub fn allow_open(&self, value: &str, may_open: bool) -> &Self {
        self.each_token(value, |token| token.may_open = may_open)
    }

    /// Registers an issuer with its policy, in place of the one there was for the same subject.
    pub fn trust(&self, issuer: Issuer) -> &Self {
        self.with(|org| {
            org.issuers.retain(|known| known.subject != issuer.subject);
            org.issuers.push(issuer);
        });
        self
    }

    /// The org trusts nobody any more.
    pub fn distrust(&self) -> &Self {
        self.with(|org| org.issuers.clear());
        self
    }

    /// A token of the issuer that is trusted with this subject, good for so many seconds.
    pub fn issue(&self, subject: &str, seconds: i64) -> String {
        let until = self.pulumi.clock.now() + seconds;
        let mut state = self.pulumi.state();
        let State { orgs, chance } = &mut *state;
        let org = orgs.get_mut(&self.name).expect("the org exists");
        let issuer = org.issuers.iter_mut().find(|issuer| issuer.subject == subject);
        issuer.expect("the org trusts an issuer with this subject").issue(chance, &self.name, subject, until)
    }

    /// Every exchange that succeeded, the first one first.
    pub fn exchanges(&self) -> Vec<Exchange> {
        self.with(|org| org.exchanges.clone())
    }

    /// Writes an environment, `project/name`, over what there was.
    pub fn write_environment(&self, name: &str, values: Value) -> &Self {
        self.with(|org| org.environments.entry(name.to_owned()).or_default().write(values));
        self
    }

    /// Opening the environment ends with this complaint, or no longer with any.
    pub fn spoil_environment(&self, name: &str, diagnostic: Option<&str>) -> &Self {
        self.with(|org| org.environments.entry(name.to_owned()).or_default().complain(diagnostic));
        self
    }

    /// Every session of the environment ends now.
    pub fn end_sessions(&self, name: &str) -> &Self {
        self.with(|org| org.environments.entry(name.to_owned()).or_default().end_sessions());
        self
    }

    /// How often the environment was opened, and how often read.
    pub fn openings(&self, name: &str) -> (usize, usize) {
        self.with(|org| org.environments.get(name).map_or((0, 0), |found| (found.opened, found.read)))
    }

    fn each_token(&self, value: &str, change: impl Fn(&mut Token)) -> &Self {
        self.with(|org| org.tokens.iter_mut().filter(|token| token.value == value).for_each(change));
        self
    }

    /// Whose a token is; without this, the organization's.
    pub fn own(&self, value: &str, owner: Owner) -> &Self {
        self.each_token(value, |token| token.owner = owner.clone())
    }

    /// Whether the org's edition has audit logs at all.
    pub fn entitle(&self, entitled: bool) -> &Self {
        self.with(|org| org.entitled = entitled);
        self
    }

    /// The org goes by another name from now on; the old one is gone.
    pub fn rename(&self, new_name: &str) -> &Self {
        let mut state = self.pulumi.state();
        let org = state.orgs.remove(&self.name).expect("the org exists");
        state.orgs.insert(new_name.to_owned(), org);
        self
    }

    /// Changes a person's profile on every event, old and new.
    pub fn change_person(&self, account: &str, change: impl FnOnce(&mut Person)) -> bool {
        self.with(|org| org.log.change_person(account, change))
    }

    pub fn accounts(&self) -> Vec<String> {
        self.with(|org| org.log.accounts())
    }

    /// Renames what was first known by a `tokenName` or `actorName`, on every event.
    pub fn rename_in_events(&self, field: &str, first_name: &str, new_name: &str) -> bool {
        self.with(|org| org.log.rename(field, first_name, new_name))
    }

    /// Every event shows this field too from now on.
    pub fn decorate(&self, field: &str, value: Value) -> &Self {
        self.with(|org| org.log.decorate(field, value));
        self
    }

    /// Retention: what is older leaves the list.
    pub fn forget_before(&self, second: i64) -> &Self {
        self.with(|org| org.log.forget_before(second));
        self
    }

    pub fn len(&self) -> usize {
        self.with(|org| org.log.len())
    }

    pub fn truth(&self) -> Vec<TruthEvent> {
        self.with(|org| org.log.truth())
    }

    /// The first in this time, up to and with its last second, of which this holds: when it happened, and when it became visible.
    pub fn first_moment(&self, first: i64, last: i64, holds: impl Fn(i64, i64) -> bool) -> Option<i64> {
        self.with(|org| {
            let mut moments = org.log.span(first, last).iter().map(|stored| (stored.time, stored.visible_at));
            moments.find(|(time, visible_at)| holds(*time, *visible_at)).map(|(time, _)| time)
        })
    }

    /// How often anything in the log has changed.
    pub fn changes(&self) -> u64 {
        self.with(|org| org.log.changes())
    }

    pub fn shown(&self) -> Shown {
        self.with(|org| org.log.shown())
    }
}

impl Org {
    fn knows(&self, token: Option<&str>, now: i64) -> Option<&Token> {
        self.tokens.iter().find(|known| {
            Some(known.value.as_str()) == token && known.valid && known.until.is_none_or(|until| now < until)
        })
    }

    #[expect(clippy::too_many_arguments, reason = "each is one fact of the request, and there is one caller")]
    fn answer(
        &mut self,
        name: &str,
        rest: &[&str],
        pairs: &[(String, String)],
        token: Option<&str>,
        asks_gzip: bool,
        now: i64,
        chance: &mut Chance,
    ) -> Verdict {
        let is_list = matches!(rest, ["auditlogs"] | ["auditlogs", "v2"]);
        let fault =
            if is_list { self.faults.strike(|(), _| true) } else { self.side_faults.strike(|(), _| true) };
        let may_read = self.knows(token, now).map(|token| token.may_read);
        let response = match (rest, may_read) {
            (_, None) => problem(401, NO_CREDENTIALS),
            (["metadata"], _) => metadata(self.entitled),
            (["auditlogs", "event-types"], _) if self.behaviour.event_types => event_types(),
            (["auditlogs", "v2"], _) if !self.behaviour.v2 => problem(404, "not found"),
            (["auditlogs", ..], Some(false)) if is_list => self.denied(name, now),
            (["auditlogs", ..], _) if is_list && !self.entitled => edition(),
            (["auditlogs", version @ ..], _) if is_list => match Asked::read(pairs) {
                Err(refusal) => refused(&refusal),
                Ok(asked) => {
                    let asked = if version.is_empty() { asked.of_the_first_version() } else { asked };
                    let empty = matches!(fault, Some(Fault::EmptyPage)).then(|| chance.below(50) as u32 + 1);
                    match list::page(&self.log, &self.behaviour, &asked, now, chance, empty) {
                        Err(refusal) => refused(&refusal),
                        Ok(body) => respond(200, "application/json", body),
                    }
                }
            },
            _ => problem(404, "not found"),
        };
        self.travel(name, fault, response, asks_gzip, now)
    }

    /// A refused call is itself an event.
    fn denied(&mut self, name: &str, now: i64) -> Response<Bytes> {
        let mut event = Event::at(now).late_by(0).described(&format!(
            "Denied permission \"audit_logs:read\" on organization \"{name}\" (call {})",
            self.log.len()
        ));
        "auth-failure-organization-role".clone_into(&mut event.event);
        event.auth_failure = true;
        event.user = Person::new(name, name);
        self.log.add([event]);
        problem(403, &format!("[audit_logs:read] is required to access organization '{name}'"))
    }

    /// What becomes of the right answer on its way out.
    fn travel(
        &mut self,
        name: &str,
        fault: Option<Fault>,
        response: Response<Bytes>,
        asks_gzip: bool,
        now: i64,
    ) -> Verdict {
        let date = self.behaviour.date.clone();
        let finish = |response| dated(response, &date, now);
        let pack = match self.behaviour.gzip {
            Gzip::Never => false,
            Gzip::WhenAsked => asks_gzip,
            Gzip::Always | Gzip::HeaderStripped => true,
        };
        let stripped = self.behaviour.gzip == Gzip::HeaderStripped;
        let right = |response: Response<Bytes>| match pack && response.status() == 200 {
            true => packed(response, stripped),
            false => response,
        };
        let Some(fault) = fault else { return Verdict::answer(finish(right(response))) };
        match fault {
            Fault::Status { code, message, retry_after } => {
                Verdict::answer(finish(retry_after.on(problem(code, &message), now)))
            }
            Fault::Html { code, retry_after } => {
                Verdict::answer(finish(retry_after.on(html(code, "Service Trouble"), now)))
            }
            Fault::Edition => Verdict::answer(finish(edition())),
            Fault::Unauthorized => Verdict::answer(finish(problem(401, NO_CREDENTIALS))),
            Fault::Saml => Verdict::answer(finish(saml(name))),
            Fault::Role => {
                let denied = self.denied(name, now);
                Verdict::answer(finish(denied))
            }
            Fault::ExpiryPolicy { days } => Verdict::answer(finish(problem(
                403,
                &format!(
                    "Organization '{name}' requires access tokens to expire within {days} days; this token's remaining life is longer"
                ),
            ))),
            Fault::Firewall => Verdict::answer(finish(html(403, "403 Forbidden"))),
            Fault::Throttled(retry_after) => {
                Verdict::answer(finish(retry_after.on(problem(429, "Too many requests"), now)))
            }
            Fault::Lost(cut) => Verdict::answer(finish(right(response))).cut(cut),
            Fault::Late(delay) => Verdict::answer(finish(right(response))).after(delay),
            Fault::Stall => Verdict::hang_up().after(Duration::MAX),
            Fault::Drip { bytes, every } => {
                let mut verdict = Verdict::answer(finish(right(response)));
                verdict.drip = Some((bytes, every));
                verdict
            }
            Fault::ContentType(content_type) => {
                Verdict::answer(finish(with_header(right(response), "content-type", content_type)))
            }
            Fault::Body(body) => {
                let gzip = body.starts_with(&[0x1f, 0x8b]);
                let response = respond(200, "application/json", body);
                Verdict::answer(finish(if gzip {
                    with_header(response, "content-encoding", "gzip")
                } else {
                    response
                }))
            }
            Fault::BadGzip(how) => Verdict::answer(finish(badly_packed(response, how))),
            Fault::Redirect(to) => {
                Verdict::answer(finish(with_header(respond(307, "", Bytes::new()), "location", &to)))
            }
            Fault::EmptyPage => Verdict::answer(finish(right(response))),
        }
    }
}

impl Fault {
    /// Closed or reset without an answer.
    pub fn closed() -> Self {
        Self::Lost(Cut::Close)
    }

    pub fn throttled() -> Self {
        Self::Throttled(RetryAfter::None)
    }
}

fn new_token(chance: &mut Chance) -> Token {
    Token {
        value: format!("pul-{}", chance.hex(40)),
        valid: true,
        until: None,
        may_read: true,
        may_open: true,
        owner: Owner::default(),
    }
}

fn problem(code: u16, message: &str) -> Response<Bytes> {
    let response = respond(code, "application/json", json!({"code": code, "message": message}).to_string());
    if code >= 500 {
        with_header(response, "x-pulumi-request-id", "00000000-aaaa-4bbb-8ccc-dddddddddddd")
    } else {
        response
    }
}

fn edition() -> Response<Bytes> {
    problem(400, "Audit logs are only available to organizations on the Enterprise edition.")
}

fn saml(org: &str) -> Response<Bytes> {
    let body = json!({"code": 401, "message": "SAML reauthentication is required",
        "errors": [{"resource": "organization", "attribute": org, "errorType": "saml_reauth_required"}]});
    respond(401, "application/json", body.to_string())
}

fn refused(refusal: &Refusal) -> Response<Bytes> {
    match refusal {
        Refusal::BadQuery(message) => problem(400, message),
        Refusal::UnknownUser => problem(404, "user not found"),
    }
}

fn account(orgs: &[(String, Owner)]) -> Response<Bytes> {
    let (first, owner) = orgs.first().cloned().unwrap_or_default();
    let role = |owner: &Owner| if matches!(owner, Owner::OrganizationAdmin) { "admin" } else { "member" };
    let organizations: Vec<Value> = orgs
        .iter()
        .map(|(org, owner)| json!({"githubLogin": org, "name": org, "avatarUrl": "", "role": role(owner)}))
        .collect();
    let login = if let Owner::Person(login) = &owner { login } else { &first };
    let mut body = json!({"id": "00000000-1111-4222-8333-444444444444", "githubLogin": login, "name": login, "avatarUrl": "",
        "organizations": organizations});
    let team = if let Owner::Team(team) = &owner { team.as_str() } else { "" };
    if !matches!(owner, Owner::Person(_)) {
        body["tokenInfo"] = json!({"name": "audit-forwarder", "organization": first, "team": team});
    }
    respond(200, "application/json", body.to_string())
}

fn metadata(entitled: bool) -> Response<Bytes> {
    let body = json!({"features": {"auditLogsEnabled": entitled, "aleEnabled": false, "auditLogUIFilteringEnabled": entitled}});
    respond(200, "application/json", body.to_string())
}

fn event_types() -> Response<Bytes> {
    let listed: Vec<&Value> = events::kinds().iter().map(|kind| &kind.listed).collect();
    respond(200, "application/json", json!({"eventTypes": listed}).to_string())
}

fn dated(response: Response<Bytes>, date: &DateHeader, now: i64) -> Response<Bytes> {
    match date {
        DateHeader::Present => with_header(response, "date", &http_date(now)),
        DateHeader::Absent => response,
        DateHeader::Shifted(by) => with_header(response, "date", &http_date(now + by)),
        DateHeader::Raw(text) => with_header(response, "date", text),
    }
}

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut packer = GzEncoder::new(Vec::new(), Compression::fast());
    packer.write_all(plain).expect("memory takes it");
    packer.finish().expect("memory takes it")
}

fn packed(response: Response<Bytes>, stripped: bool) -> Response<Bytes> {
    let response = response.map(|body| Bytes::from(gzip(&body)));
    if stripped { response } else { with_header(response, "content-encoding", "gzip") }
}

fn badly_packed(response: Response<Bytes>, how: BadGzip) -> Response<Bytes> {
    let response = response.map(|body| {
        let mut bytes = gzip(&body);
        let end = bytes.len();
        match how {
            BadGzip::Truncated => bytes.truncate(end - end / 3),
            BadGzip::WrongChecksum => bytes[end - 8] ^= 0xff,
            BadGzip::TrailingBytes => bytes.extend_from_slice(b"trailing"),
            BadGzip::TwoMembers => {
                let (left, right) = body.split_at(body.len() / 2);
                bytes = [gzip(left), gzip(right)].concat();
            }
            BadGzip::Mislabelled => return body,
        }
        Bytes::from(bytes)
    });
    with_header(response, "content-encoding", "gzip")
}
