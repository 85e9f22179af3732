//! A party: one side of an org that works, waits or is paused: its source, or one of its lanes.
//!
//! The one place that turns a change of state into status, gauges and one log line, so that the three never differ.
//!
//! A pause ends only with [`Party::ok`]. A probe that times out during a pause says nothing about what the person was asked to do;
//! if it ended the pause, the log would fill with pauses that begin and end.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing::{debug, error, info, warn};

use crate::audit::{Act, Audit, Entry};
use crate::clock::{Clock, Second};
use crate::destination::DestinationName;
use crate::event::OrgId;
use crate::journal::Outstanding;
use crate::liveness::Pulse;
use crate::metrics::{self, OrgMetrics};
use crate::problem::{Problem, WaitReason};
use crate::rotation::{InUse, Standing};

use super::status::{CredentialStatus, ErrorStatus, LaneStatus, Moment, State};
use super::words;

/// Who exchanges credentials, in the audit record.
const BY_ITSELF: &str = "the forwarder";
/// Most characters kept of what went wrong.
const ERROR_CHARACTERS_MAX: usize = 1_000;
/// How long a party that works may say nothing: several times the longest exchange with any service, and the longest commit.
const WORK_LONGEST: Duration = Duration::from_secs(900);
/// A service that asks to slow down for less than this is not worth a line: it happens on healthy days.
const WAIT_WORTH_A_LINE_SECONDS: i64 = 60;

/// Cloning is cheap; all clones are the same party.
#[derive(Clone)]
pub struct Party(Arc<Inner>);

struct Inner {
    org: OrgId,
    /// `None`: the source.
    destination: Option<DestinationName>,
    clock: Clock,
    metrics: Arc<OrgMetrics>,
    audit: Option<Audit>,
    /// Speaks while the party's task runs.
    pulse: Pulse,
    now: Mutex<Now>,
}

/// A party whose task runs, and is heard of; it is quiet again when this is dropped, whatever ended the task.
#[must_use]
pub struct Running(Party);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.0.pulse.be_quiet();
    }
}

/// Tells by whom something is done: it may become known later.
type Who = Box<dyn Fn() -> String + Send + Sync>;

#[derive(Default)]
struct Now {
    identity: Option<Who>,
    credential: Credential,
    condition: Condition,
    /// When the condition began.
    since: Option<Second>,
    /// The log has a line about the present wait, so its end is worth one too.
    wait_is_said: bool,
    checkpoint: Option<u64>,
    delivered_until: Option<Second>,
    outstanding: Outstanding,
    /// What went wrong last, and when.
    last_error: Option<(Second, String)>,
}

/// Which secret it uses.
#[derive(Default)]
struct Credential {
    /// The last that was accepted, and since when.
    last: Option<(InUse, Second)>,
    /// It is not the first of this process.
    exchanged: bool,
    /// It still is.
    in_use: bool,
    warning: Option<String>,
}

#[derive(Clone, Default, PartialEq, Eq)]
enum Condition {
    #[default]
    Ok,
    Waiting(WaitReason),
    Paused(Problem),
}

impl Party {
    pub(super) fn new(
        org: &OrgId,
        destination: Option<DestinationName>,
        clock: Clock,
        metrics: Arc<OrgMetrics>,
        audit: Option<Audit>,
        pulse: Pulse,
    ) -> Party {
        Party(Arc::new(Inner {
            now: Mutex::new(Now { since: Some(clock.now()), ..Now::default() }),
            org: org.clone(),
            destination,
            clock,
            metrics,
            audit,
            pulse,
        }))
    }

    /// Its task begins: until that ends, it is stalled when nothing is heard of it.
    pub fn runs(&self) -> Running {
        self.turns();
        Running(self.clone())
    }

    /// A sign of life: its task has come to a place where it did not stand before.
    pub fn turns(&self) {
        self.rests(Duration::ZERO);
    }

    /// The same from one that will do nothing for so long.
    pub fn rests(&self, wait: Duration) {
        self.0.pulse.beat_again_within(wait.saturating_add(WORK_LONGEST));
    }

    /// Nothing is expected of it until it speaks again: it depends on what a restart of this process cannot help.
    pub fn depends_on_others(&self) {
        self.0.pulse.be_quiet();
    }

    /// It works: ends a wait or a pause.
    pub fn ok(&self) {
        let mut now = self.now();
        if now.condition == Condition::Ok {
            return;
        }
        let (was, length) = self.change(&mut now, Condition::Ok);
        let (org, destination) = self.names();
        match was {
            Condition::Ok => {}
            Condition::Waiting(reason) if now.wait_is_said => {
                info!(org, destination, reason = reason.as_str(), seconds = length, "wait ended");
            }
            Condition::Waiting(reason) => {
                debug!(org, destination, reason = reason.as_str(), seconds = length, "short wait ended");
            }
            Condition::Paused(problem) => {
                info!(org, destination, reason = problem.reason.as_str(), seconds = length, "pause ended");
            }
        }
    }

    /// It waits, and needs nobody. During a pause this changes nothing: the pause is the worse news.
    pub fn waiting(&self, reason: WaitReason, until: Option<Second>, cause: &str) {
        let (org, destination) = self.names();
        let at = self.0.clock.now();
        let mut now = self.now();
        // Putting state back is no error.
        if reason != WaitReason::Recovering {
            self.went_wrong(&mut now, cause);
        }
        // A wait is worth a line at once, unless it is short and part of a healthy day.
        let begun = now.since.filter(|_| now.condition != Condition::Ok).unwrap_or(at);
        let length = until.unwrap_or(at).max(at) - begun;
        let worth_a_line = reason != WaitReason::Throttled || length >= WAIT_WORTH_A_LINE_SECONDS;
        let until = until.map(|at| at.to_string());
        match now.condition {
            Condition::Ok => {
                self.change(&mut now, Condition::Waiting(reason));
                now.wait_is_said = worth_a_line;
                if worth_a_line {
                    warn!(org, destination, reason = reason.as_str(), until, cause, "waiting");
                } else {
                    debug!(org, destination, reason = reason.as_str(), until, cause, "waiting for a moment");
                }
            }
            Condition::Waiting(known) => {
                if known != reason {
                    // The same spell for another reason: it began when it began.
                    let since = now.since;
                    self.change(&mut now, Condition::Waiting(reason));
                    now.since = since;
                }
                if worth_a_line && !now.wait_is_said {
                    now.wait_is_said = true;
                    warn!(org, destination, reason = reason.as_str(), until, cause, "waiting");
                } else {
                    debug!(org, destination, reason = reason.as_str(), until, cause, "still waiting");
                }
            }
            Condition::Paused(_) => {
                debug!(org, destination, reason = reason.as_str(), until, cause, "waiting during a pause");
            }
        }
    }

    /// It is paused until a person acts. Logged when it begins, and when its reason changes; repeating it costs nothing.
    pub fn paused(&self, problem: &Problem) {
        let mut now = self.now();
        self.went_wrong(&mut now, &problem.cause);
        let since = now.since;
        let known = match &now.condition {
            Condition::Paused(known) => Some(known.clone()),
            _ => None,
        };
        if known.as_ref() == Some(problem) {
            return;
        }
        let (org, destination) = self.names();
        let reason = problem.reason.as_str();
        let (cause, remedy) = (problem.cause.as_str(), problem.remedy.as_str());
        self.change(&mut now, Condition::Paused(problem.clone()));
        match known {
            Some(known) => {
                now.since = since;
                if known.reason == problem.reason {
                    debug!(org, destination, reason, cause, remedy, "still paused");
                } else {
                    error!(org, destination, reason, cause, remedy, "paused for another reason");
                }
            }
            None => error!(org, destination, reason, cause, remedy, "paused"),
        }
    }

    pub fn is_paused(&self) -> bool {
        matches!(self.now().condition, Condition::Paused(_))
    }

    /// What keeps it paused.
    pub fn problem(&self) -> Option<Problem> {
        match &self.now().condition {
            Condition::Paused(problem) => Some(problem.clone()),
            _ => None,
        }
    }

    /// How far a lane is: the number of its next chunk, what it has still to deliver, and the time before which everything is
    /// acknowledged.
    pub fn progress(&self, checkpoint: u64, outstanding: &Outstanding, delivered_until: Option<Second>) {
        let Some(destination) = self.0.destination else { return };
        let mut now = self.now();
        now.checkpoint = Some(checkpoint);
        now.outstanding = *outstanding;
        now.delivered_until = delivered_until;
        let lane = self.0.metrics.lane(destination);
        lane.backlog_chunks.set(metrics::figure(outstanding.chunks));
        lane.backlog_events.set(metrics::figure(outstanding.events));
        lane.delivered_until.set(metrics::time(delivered_until));
    }

    /// Who this lane is for its destination.
    pub fn acts_as(&self, identity: impl Fn() -> String + Send + Sync + 'static) {
        self.now().identity = Some(Box::new(identity));
    }

    /// Which secret it uses now. Logged when it is another value than before, and when a value cannot be used that was to replace it.
    pub fn uses(&self, standing: &Standing) {
        let (org, destination) = self.names();
        let mut now = self.now();
        let known = now.credential.last;
        let mut switched = None;
        if let Some(in_use) = standing.in_use
            && known
                .is_none_or(|(known, _)| (known.key, known.fingerprint) != (in_use.key, in_use.fingerprint))
        {
            if let Some((known, _)) = known {
                let (credential, before, cause) = (in_use.key, known.key, standing.given_up.as_deref());
                info!(org, destination, credential, before, cause, "another credential is in use");
                let which = if before == credential { "its value" } else { credential };
                switched = Some(format!("{destination}: {before} → {which}"));
            }
            let moved = known.filter(|(known, _)| known.fingerprint == in_use.fingerprint);
            let since = moved.map_or_else(|| self.0.clock.now(), |(_, since)| since);
            now.credential.exchanged |= known.is_some() && moved.is_none();
            now.credential.last = Some((in_use, since));
        }
        if standing.warning != now.credential.warning {
            if let Some(cause) = &standing.warning {
                warn!(org, destination, cause, "a changed secret cannot be used");
            }
            now.credential.warning.clone_from(&standing.warning);
        }
        now.credential.in_use = standing.in_use.is_some();
        drop(now);
        self.0.metrics.credential_in_use(destination, standing.in_use.map(|in_use| in_use.slot));
        self.0.metrics.secret_expiry(destination, standing.in_use.and_then(|in_use| in_use.expires));
        if let (Some(switched), Some(audit)) = (switched, self.0.audit.clone()) {
            let org = Some(self.0.org.clone());
            let entry =
                Entry { act: Act::CredentialSwitch, who: BY_ITSELF.into(), org, changed: vec![switched] };
            let at = self.0.clock.now();
            // A slow disk keeps nobody from delivering.
            drop(tokio::task::spawn_blocking(move || super::record(&audit, at, entry)));
        }
    }

    pub fn destination(&self) -> Option<DestinationName> {
        self.0.destination
    }

    /// State and reason, and how far a lane is.
    pub(super) fn standing(&self) -> (State, Option<&'static str>, Option<Second>) {
        let now = self.now();
        match &now.condition {
            Condition::Ok => (State::Ok, None, now.delivered_until),
            Condition::Waiting(reason) => (State::Waiting, Some(reason.as_str()), now.delivered_until),
            Condition::Paused(problem) => (State::Paused, Some(problem.reason.as_str()), now.delivered_until),
        }
    }

    /// State, reason, since when, remedy, credential, last error.
    pub(super) fn shown(&self) -> Shown {
        let now = self.now();
        let (state, reason, remedy) = now.condition.shown();
        let last_error =
            now.last_error.as_ref().map(|(at, text)| ErrorStatus { at: Moment(*at), text: text.clone() });
        let since = now.since.map(Moment);
        Shown { state, reason, since, remedy, credential: now.credential.status(), last_error }
    }

    pub(super) fn lane_status(&self, destination: DestinationName) -> LaneStatus {
        let Shown { state, reason, since, remedy, credential, last_error } = self.shown();
        let now = self.now();
        LaneStatus {
            destination,
            identity: now.identity.as_ref().map(|who| who()),
            credential,
            state,
            reason,
            since,
            remedy,
            last_error,
            checkpoint: now.checkpoint,
            delivered_until: now.delivered_until.map(Moment),
            backlog_chunks: now.outstanding.chunks,
            backlog_events: now.outstanding.events,
            quarantined: now.outstanding.quarantined,
        }
    }

    /// Moves to another condition and sets the gauges; says what was before and how many seconds it lasted.
    fn change(&self, now: &mut Now, to: Condition) -> (Condition, i64) {
        let at = self.0.clock.now();
        let (paused, waiting) = match &to {
            Condition::Ok => (None, None),
            Condition::Waiting(reason) => (None, Some(*reason)),
            Condition::Paused(problem) => (Some(problem.reason), None),
        };
        self.0.metrics.condition(self.names().1, paused, waiting);
        let length = now.since.map_or(0, |since| (at - since).max(0));
        now.since = Some(at);
        (std::mem::replace(&mut now.condition, to), length)
    }

    fn went_wrong(&self, now: &mut Now, cause: &str) {
        now.last_error = Some((self.0.clock.now(), words::cut(cause, ERROR_CHARACTERS_MAX)));
    }

    fn names(&self) -> (&str, &'static str) {
        (self.0.org.as_str(), self.0.destination.map_or(metrics::SOURCE, DestinationName::as_str))
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.0.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a source and a lane show alike.
pub(super) struct Shown {
    pub(super) state: State,
    pub(super) reason: Option<String>,
    pub(super) since: Option<Moment>,
    pub(super) remedy: Option<String>,
    pub(super) credential: Option<CredentialStatus>,
    pub(super) last_error: Option<ErrorStatus>,
}

impl Credential {
    fn status(&self) -> Option<CredentialStatus> {
        let (last, since) = self.last.filter(|_| self.in_use)?;
        Some(CredentialStatus {
            slot: last.key.to_owned(),
            since: Moment(since),
            or_longer: !self.exchanged,
            expires: last.expires.map(Moment),
            warning: self.warning.clone(),
        })
    }
}

impl Condition {
    fn shown(&self) -> (State, Option<String>, Option<String>) {
        match self {
            Condition::Ok => (State::Ok, None, None),
            Condition::Waiting(reason) => (State::Waiting, Some(reason.as_str().into()), None),
            Condition::Paused(problem) => {
                (State::Paused, Some(problem.reason.as_str().into()), Some(problem.remedy.clone()))
            }
        }
    }
}
