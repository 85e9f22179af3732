//! Collecting: one org's events, from the service into the journal.
//!
//! [`plan`] says which window is next, [`sweep`] reads it to its end, [`tally`] says what of it is new; all three are pure. This
//! file acts: it asks, waits, commits, and says what it does. A window is committed whole, with its chunks, its tally and its
//! coverage in one transaction, or not at all; whatever fails, the next attempt begins from what is journaled.

mod difference;
mod forbidden;
mod known_time;
pub mod plan;
pub mod sweep;
pub mod tally;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use crate::chunk::{Link, Summary};
use crate::clock::{Clock, Second, Window, whole_seconds};
use crate::config::settings::{OrgSettings, Start};
use crate::event::Event;
use crate::journal::handover::{Checkpoints, Journaled};
use crate::journal::{Append, Journal, JournalError, OrgState, TIMELESS_MINUTE, WindowRecord};
use crate::metrics::OrgMetrics;
use crate::mutant::{self, Mutant};
use crate::problem::{PauseReason, Problem, WaitReason};
use crate::pulumi::budget::Urgency;
use crate::pulumi::client::{Client, SourceError};
use crate::report::activity::{self, Activity};
use crate::report::spans::spans;
use crate::report::{CoverageFigures, OrgReport};
use crate::retry;
use crate::rotation::Slot;
use crate::stop::Stop;

use difference::{Changed, Difference, New};
use forbidden::{FORBIDDEN_PAUSE, Forbidden};
use known_time::KnownTime;
use plan::{Kind, Next, Policy, Situation, Width};
use sweep::{Limits, Reading, Step, Sweep};

/// How often a service that refuses the credentials is probed.
const CREDENTIALS_PAUSE: Duration = Duration::from_secs(60);
/// How often a service that finds the request wrong is probed.
const CONFIGURATION_PAUSE: Duration = Duration::from_secs(300);
/// How often a way that somebody else may open again is tried: a handshake, no more.
const BARRED_PAUSE: Duration = Duration::from_secs(60);
/// How often a disk that refused a commit is tried again.
const DISK_PAUSE: Duration = Duration::from_secs(10);
/// How often a full journal is looked at again.
const FULL_PAUSE: Duration = Duration::from_secs(2);
/// How often a changed secret is looked for while one is refused; and how long after something was said to have changed it is looked
/// at again, should it have been half written.
const SECRET_LOOK: Duration = Duration::from_secs(2);
/// How long refused credentials are left alone when somebody says that something has changed, and it has not.
const NUDGED_PAUSE: Duration = Duration::from_secs(10);
/// Where the place of the token in use is noted.
const TOKEN_NOTE: &str = "token_in_use";
/// How long the step under way may take when its org ends.
const STEP_DEADLINE: Duration = Duration::from_secs(10);
/// How often catching up says how far it is.
const PROGRESS_EVERY: Duration = Duration::from_secs(30);

/// Pages of the tally that are counted at once, for people: six hours.
const MINUTES_COUNTED_AT_ONCE: i64 = 360;

/// A reading of no more events is compared and packed where it is: it takes a millisecond. A larger one keeps a thread busy.
const SMALL_READING: usize = 100;

/// How long to collect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    Stopped,
    /// Until nothing is due, or a person must act.
    NothingDue,
}

/// Collects one org. Safe to drop at any await: what is not committed is read again.
pub struct Collector {
    settings: Arc<OrgSettings>,
    policy: Policy,
    client: Client,
    journal: Arc<dyn Journal>,
    journal_bytes_max: Arc<AtomicU64>,
    state: OrgState,
    checkpoints: Arc<Checkpoints>,
    journaled: watch::Sender<Journaled>,
    report: OrgReport,
    metrics: Arc<OrgMetrics>,
    clock: Clock,
    /// Moves on when a secret may have changed.
    secrets_changed: watch::Receiver<u64>,
    /// The place of the token in use, as noted.
    slot: Option<Slot>,
    limits: Limits,
    width: Width,
    /// The service answered without a date.
    undated: bool,
    /// Whether the time that was held against what is journaled was the service's own; nothing has been yet.
    compared: Option<bool>,
    /// What is journaled may have been read by a wrong time.
    doubted: bool,
    /// The service's time was corrected, and coverage has not been.
    jumped: bool,
    last_head: Option<Second>,
    last: Option<Kind>,
    last_background: Option<Kind>,
    /// In a row.
    failures: u32,
    /// 429s in a row.
    throttles: u32,
    forbidden: Forbidden,
    /// What the token sees in place of an organization that is not found; asked once until a sweep succeeds again.
    seen_instead: Option<String>,
    progress_said: Option<Instant>,
    /// The events of the last day have been counted, for people.
    day_counted: bool,
}

/// What a collector is made from.
pub struct Parts {
    pub settings: Arc<OrgSettings>,
    /// Where in the poll interval this org's turn is, in seconds.
    pub phase: i64,
    pub client: Client,
    pub journal: Arc<dyn Journal>,
    pub journal_bytes_max: Arc<AtomicU64>,
    pub state: OrgState,
    pub checkpoints: Arc<Checkpoints>,
    pub journaled: watch::Sender<Journaled>,
    pub report: OrgReport,
    pub metrics: Arc<OrgMetrics>,
    pub clock: Clock,
    /// Moves on when a secret may have changed.
    pub secrets_changed: watch::Receiver<u64>,
}

/// What one step led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Progress,
    /// Nothing is due for so long.
    Idle(Duration),
    /// Nobody is needed; try again after so long.
    Waiting(Duration),
    /// A person must act; probe after so long, or when a secret changed.
    Paused(Duration),
}

/// Why a sweep was not committed.
enum Failed {
    Source(SourceError),
    Stuck(sweep::Stuck),
    Journal(JournalError),
}

impl From<JournalError> for Failed {
    fn from(error: JournalError) -> Failed {
        Failed::Journal(error)
    }
}

impl From<SourceError> for Failed {
    fn from(error: SourceError) -> Failed {
        Failed::Source(error)
    }
}

/// How an org is read.
pub fn policy(settings: &OrgSettings, phase: i64) -> Policy {
    let source = &settings.source;
    Policy {
        poll_interval: whole_seconds(source.poll_interval),
        overlap: whole_seconds(source.overlap),
        settle: whole_seconds(source.settle),
        rescan_after: source.rescan_after.iter().map(|age| whole_seconds(*age)).collect(),
        phase,
    }
}

impl Collector {
    pub fn new(parts: Parts) -> Collector {
        let policy = policy(&parts.settings, parts.phase);
        Collector {
            policy,
            settings: parts.settings,
            client: parts.client,
            journal: parts.journal,
            journal_bytes_max: parts.journal_bytes_max,
            state: parts.state,
            checkpoints: parts.checkpoints,
            journaled: parts.journaled,
            report: parts.report,
            metrics: parts.metrics,
            clock: parts.clock,
            secrets_changed: parts.secrets_changed,
            slot: None,
            limits: Limits::default(),
            width: Width::default(),
            undated: false,
            compared: None,
            doubted: false,
            jumped: false,
            last_head: None,
            last: None,
            last_background: None,
            failures: 0,
            throttles: 0,
            forbidden: Forbidden::default(),
            seen_instead: None,
            progress_said: None,
            day_counted: false,
        }
    }

    /// Collects until stopped, or until nothing is due. Where only this org ends, the step under way is finished first, so that no
    /// request was made in vain; but a service that does not answer keeps nobody.
    pub async fn run(mut self, until: Until, stop: Stop) {
        let late = async {
            stop.collecting().cancelled().await;
            sleep(STEP_DEADLINE).await;
        };
        tokio::select! {
            () = stop.process().cancelled() => {}
            () = late => {}
            () = self.collect(until, &stop) => {}
        }
    }

    async fn collect(&mut self, until: Until, stop: &Stop) {
        let stop = stop.collecting();
        let _running = self.report.source().runs();
        self.say_coverage();
        self.recall_token().await;
        self.forbidden = Forbidden::load(&*self.journal, &self.settings.id).await;
        if let Some(wait) = self.extra_try().await {
            self.report.source().waiting(
                WaitReason::Backoff,
                None,
                "refused with 403 recently; waiting before the next try",
            );
            self.report.source().rests(wait);
            stop.run_until_cancelled(sleep(wait)).await;
        }
        let mut probe = false;
        while !stop.is_cancelled() {
            self.report.source().turns();
            let outcome = if probe { self.probe().await } else { self.step().await };
            self.note_token().await;
            if until == Until::NothingDue && matches!(outcome, Outcome::Idle(_) | Outcome::Paused(_)) {
                return;
            }
            // A wait is the one thing of collecting that is left in the middle.
            probe = stop.run_until_cancelled(self.rest(outcome)).await.unwrap_or_default();
        }
    }

    /// What comes before the next step: `true` when that is to be a [`Collector::probe`].
    async fn rest(&mut self, outcome: Outcome) -> bool {
        if let Outcome::Idle(wait) | Outcome::Waiting(wait) | Outcome::Paused(wait) = outcome {
            self.report.source().rests(wait);
        }
        match outcome {
            Outcome::Progress => {}
            Outcome::Idle(wait) => return self.idle(wait).await,
            Outcome::Waiting(wait) => sleep(wait).await,
            Outcome::Paused(wait) => self.wait_for_a_person(wait).await,
        }
        false
    }

    /// Waits until something is due; earlier, and with `true`, when there is a token to be tried.
    async fn idle(&mut self, wait: Duration) -> bool {
        let until = Instant::now() + wait;
        loop {
            tokio::select! {
                () = sleep_until(until) => return false,
                () = said(&mut self.secrets_changed) => {}
            }
            if self.client.tokens_nudged().await {
                return true;
            }
            tokio::select! {
                () = sleep_until(until) => return false,
                () = sleep(SECRET_LOOK) => {}
            }
            if self.client.tokens_changed().await {
                return true;
            }
        }
    }

    /// The cheapest question there is, to see what a token is worth.
    async fn probe(&mut self) -> Outcome {
        match self.client.check().await {
            Ok(()) => Outcome::Progress,
            Err(refused) => self.failed(refused.into()).await,
        }
    }

    /// Begins with the token that was in use before a restart: the other one may be refused, and each refused call is somebody's
    /// alarm.
    async fn recall_token(&mut self) {
        let note = self.journal.note(&self.settings.id, TOKEN_NOTE).await.ok().flatten();
        self.slot = note.and_then(|note| Slot::parse(&String::from_utf8(note).ok()?));
        if let Some(slot) = self.slot {
            self.client.begin_with(slot);
        }
    }

    async fn note_token(&mut self) {
        let Some(slot) = self.client.slot().filter(|slot| self.slot != Some(*slot)) else { return };
        // The first place needs no note as long as there is none.
        let begin = self.slot.is_none() && slot == Slot::First;
        if !begin {
            let note = Some(slot.as_str().as_bytes().to_vec());
            if let Err(error) = self.journal.set_note(&self.settings.id, TOKEN_NOTE, note).await {
                tracing::warn!(org = %self.settings.id, cause = %error, "cannot note which token is in use");
                return;
            }
        }
        self.slot = Some(slot);
    }

    /// One decision and what follows from it.
    async fn step(&mut self) -> Outcome {
        let start = match self.start().await {
            Ok(start) => start,
            Err(failed) => return self.failed(failed).await,
        };
        if let Err(error) = self.correct(start).await {
            return self.failed(error.into()).await;
        }
        let half_full = match self.room().await {
            Ok(Room::None) => {
                self.report.source().waiting(
                    WaitReason::JournalFull,
                    None,
                    "the org's journal is full of undelivered chunks (max_bytes_per_org): events stay at the source",
                );
                self.report.first_sweep_ended();
                return Outcome::Waiting(FULL_PAUSE);
            }
            Ok(room) => room == Room::LessThanHalf,
            Err(error) => return self.failed(error.into()).await,
        };
        let now = self.client.now();
        let situation = Situation {
            coverage: &self.state.coverage,
            start,
            now,
            last_head: self.last_head,
            tally_floor: self.state.tally_floor,
            width: self.width.seconds(),
            last: self.last,
            last_background: self.last_background,
            journal_half_full: half_full,
        };
        let (window, kind) = match plan::next(&situation, &self.policy) {
            Next::Sweep { window, kind } => (window, kind),
            Next::Wait(until) => {
                let wait = Duration::from_secs(u64::try_from(until - now).unwrap_or(1).max(1));
                // A time that turned back, and is not believed yet, would put the next question off by as much.
                return Outcome::Idle(wait.min(self.settings.source.poll_interval));
            }
        };
        match self.sweep(window, kind, now).await {
            Ok(()) => {
                self.succeeded(kind, now).await;
                Outcome::Progress
            }
            Err(failed) => {
                self.metrics.sweep(kind.as_str(), "failed", 0.0);
                self.failed(failed).await
            }
        }
    }

    /// The beginning of collection; fixed and committed at the first answer that carries a `Date` when it is to be "now".
    async fn start(&mut self) -> Result<Second, Failed> {
        let answer = self.learn_time().await;
        let start = match (self.settings.start, self.state.start) {
            (Start::Now, Some(known)) => known,
            (Start::At(wanted), Some(known)) if wanted >= known => known,
            (Start::At(wanted), _) => self.commit_start(wanted).await?,
            (Start::Now, None) if self.client.dated() || answer.is_ok() => {
                self.commit_start(self.client.now()).await?
            }
            (Start::Now, None) => Second::default(),
        };
        answer.map(|()| start)
    }

    /// Asks for the newest second, to learn the service's time before the first window is planned with it: a window of a wrong local
    /// time would cover a future that has not happened. Also when nothing has been asked for a while: a date that lies before
    /// everything to be read leaves nothing to ask, and would be believed for ever.
    async fn learn_time(&mut self) -> Result<(), Failed> {
        let known = self.client.dated() || self.undated;
        if known && self.client.heard_within(2 * self.settings.source.poll_interval) {
            return Ok(());
        }
        let answer = self.client.check().await;
        if answer.is_ok() && !self.client.dated() {
            tracing::warn!(org = %self.settings.id, "the service sends no date: the local clock decides what time it is");
            self.undated = true;
        }
        Ok(answer?)
    }

    async fn commit_start(&mut self, start: Second) -> Result<Second, JournalError> {
        let mut append = self.empty_append();
        append.start = Some(start);
        self.append(append).await?;
        tracing::info!(org = %self.settings.id, start = %start, "collection starts");
        self.say_coverage();
        Ok(start)
    }

    /// Holds the time against what is journaled, and coverage against the time, before a window is planned with either.
    async fn correct(&mut self, start: Second) -> Result<(), JournalError> {
        if self.compared != Some(self.client.dated()) {
            self.compare_time().await?;
        }
        self.jumped |= self.client.take_jump();
        if self.jumped {
            self.take_back(start).await?;
            self.jumped = false;
        }
        Ok(())
    }

    /// A process believes its first date at once. Where it contradicts what earlier ones went by, that is written down before it is
    /// used; and once it has held for a poll interval, it counts as a jump.
    async fn compare_time(&mut self) -> Result<(), JournalError> {
        let id = &self.settings.id;
        let known = KnownTime::load(&*self.journal, id).await?;
        let now = self.client.now();
        let time = KnownTime::believed(now, self.clock.now());
        let time = time.compared(known, now, self.state.coverage.last_read());
        if time.doubted {
            tracing::warn!(org = %id, now = %now, "the service's time is not what the journal was read by; waiting whether it holds");
            self.client.doubt_time();
        }
        if !time.is_said_by(known) {
            time.save(&*self.journal, id).await?;
        }
        self.doubted = time.doubted;
        self.compared = Some(self.client.dated());
        Ok(())
    }

    /// After the service's time was corrected: what lies beyond it cannot have been read.
    async fn take_back(&mut self, start: Second) -> Result<(), JournalError> {
        let now = self.client.now();
        tracing::warn!(org = %self.settings.id, now = %now, "the service's time has jumped");
        self.last_head = None;
        let mut append = self.empty_append();
        if append.coverage.tip().is_some_and(|tip| tip > now || self.doubted) {
            let floor = append.tally_floor;
            // What lies below the floor was read, and could not be compared if it were read again.
            append.coverage.take_back(now.max(start).max(floor.unwrap_or(start)), floor);
            self.append(append).await?;
            self.say_coverage();
        }
        KnownTime::believed(now, self.clock.now()).save(&*self.journal, &self.settings.id).await?;
        self.doubted = false;
        Ok(())
    }

    /// Reads a window to its end and commits it. A head window that is too much is read in halves, the older first; of a background
    /// window only the older part is, and the next one is smaller.
    async fn sweep(&mut self, window: Window, kind: Kind, now: Second) -> Result<(), Failed> {
        let mut windows = vec![window];
        while let Some(window) = windows.pop() {
            let begun = Instant::now();
            let halves = match self.read(window, kind).await {
                Ok(Some(reading)) => {
                    let requests = reading.requests;
                    self.commit(window, kind, now, reading).await?;
                    self.metrics.sweep(kind.as_str(), "ok", begun.elapsed().as_secs_f64());
                    if kind != Kind::Head {
                        self.width = self.width.read(window, requests);
                    }
                    continue;
                }
                Ok(None) => window.halves(),
                Err(Failed::Source(
                    refused @ (SourceError::TooHeavy(_) | SourceError::BadRequest { .. }),
                )) => {
                    let Some(halves) = window.halves() else { return Err(Failed::Source(refused)) };
                    self.report.source().waiting(WaitReason::Backoff, None, &refused.to_string());
                    // A service under load is given time. One that finds the request wrong is not helped by it, and a person would
                    // hear of it only after many minutes.
                    if matches!(refused, SourceError::TooHeavy(_)) {
                        self.failures = self.failures.saturating_add(1);
                        sleep(retry::backoff(self.failures, fastrand::f64())).await;
                    }
                    Some(halves)
                }
                Err(failed) => return Err(failed),
            };
            self.metrics.sweep(kind.as_str(), "halved", begun.elapsed().as_secs_f64());
            tracing::debug!(org = %self.settings.id, window = %window, kind = kind.as_str(), "window halved");
            if let Some((older, newer)) = halves {
                if kind == Kind::Head {
                    windows.push(newer);
                } else {
                    self.width = self.width.halved(window);
                }
                windows.push(older);
            }
        }
        Ok(())
    }

    /// `None`: too much for one window.
    async fn read(&mut self, window: Window, kind: Kind) -> Result<Option<Reading>, Failed> {
        let urgency = if kind == Kind::Head { Urgency::Present } else { Urgency::Background };
        let (mut sweep, mut query) = Sweep::new(window, self.limits);
        loop {
            let page = self.client.page(&query, urgency).await?;
            self.report.source().turns();
            self.metrics.pages.inc();
            self.metrics.events_read.inc_by(page.events.len() as u64);
            match sweep.answer(page) {
                Step::Ask(next) => query = next,
                Step::Complete(reading) => return Ok(Some(reading)),
                Step::Halve => return Ok(None),
                Step::Stuck(stuck) => return Err(Failed::Stuck(stuck)),
            }
        }
    }

    /// Journals what is new of a window, and the window. The events are in memory only until the append returns; if the process dies
    /// here, the window is not covered and is read again.
    async fn commit(
        &mut self,
        window: Window,
        kind: Kind,
        now: Second,
        reading: Reading,
    ) -> Result<(), Failed> {
        let id = &self.settings.id.clone();
        let mut pages = Vec::new();
        if !reading.events.is_empty() {
            let (from, until) = (window.from.0.div_euclid(60), (window.until.0 - 1).div_euclid(60) + 1);
            pages = self.journal.tally(id, from, until).await?;
        }
        if !reading.timeless.is_empty() {
            pages.extend(self.journal.tally(id, TIMELESS_MINUTE, TIMELESS_MINUTE + 1).await?);
        }
        for at in reading.damaged.iter().filter(|at| !self.state.coverage.is_damaged(**at)) {
            tracing::error!(org = %id, second = %at, "a second is too dense to be proven whole: it is marked damaged, and what was read of it is kept");
        }

        let mut append = self.empty_append();
        let before = self.summary(&append);
        append.coverage.cover(window, now, &self.policy.rescan_after, &reading.damaged);
        if let Some(start) = append.start {
            let known = self.state.tally_floor;
            append.tally_floor = self.policy.tally_floor(&append.coverage, known, start, append.now);
        }
        let after = Summary { coverage: append.coverage.spans().to_vec(), ..before.clone() };

        let seen = (reading.events.len() + reading.timeless.len()) as u64;
        let work = Difference {
            id: id.clone(),
            org: self.settings.org.clone(),
            packing: self.settings.packing(),
            kind,
            window,
            next: self.state.next,
            link: self.state.link,
            before,
            after,
            pages,
            floor: append.tally_floor,
        };
        let outcome = if seen == 0 {
            Changed::default()
        } else {
            let seen: Vec<Event> = reading.events.into_iter().chain(reading.timeless).collect();
            if seen.len() <= SMALL_READING {
                work.run(seen)?
            } else {
                tokio::task::spawn_blocking(move || work.run(seen)).await.map_err(|_| {
                    JournalError::Damaged("comparing a window with the journal was stopped".into())
                })??
            }
        };
        if outcome.overflowed {
            tracing::error!(org = %id, "more events without a plausible time than can be told apart: they may be doubled");
        }
        append.chunks = outcome.chunks;
        append.tally = outcome.tally;
        let new = outcome.odd.len() as u64;
        append.window =
            Some(WindowRecord { window, kind: kind.as_str().to_owned(), read_at: now, seen, new });
        if mutant::is(Mutant::CoverageBeforeChunks) {
            self.append(Append { chunks: vec![], tally: vec![], ..append.clone() }).await?;
            append.revision += 1;
        }
        self.append(append).await?;

        self.count(kind, now, &outcome.odd);
        tracing::debug!(org = %id, window = %window, kind = kind.as_str(), seen, new, "window journaled");
        self.say_coverage();
        Ok(())
    }

    fn count(&self, kind: Kind, now: Second, new: &[New]) {
        let metrics = &self.metrics;
        metrics.events_new.inc_by(new.len() as u64);
        self.report.new_events(new.iter().filter_map(|new| new.at));
        if kind == Kind::Rescan {
            metrics.events_late.inc_by(new.len() as u64);
        }
        let read_before = self.read_before(kind, now);
        for at in
            new.iter().filter_map(|new| new.at).filter(|at| read_before.is_some_and(|before| *at < before))
        {
            metrics.lateness.observe((now - at) as f64);
        }
        let count = |has: fn(&New) -> bool| new.iter().filter(|new| has(new)).count() as u64;
        metrics.anomaly("unknown_field", count(|new| new.odd.unknown_field));
        metrics.anomaly("missing_field", count(|new| new.odd.missing_field));
        metrics.anomaly("bad_type", count(|new| new.odd.bad_type));
        metrics.anomaly("implausible_time", count(|new| new.odd.implausible_time));
    }

    /// What is new in a sweep of this kind and happened before this time was not visible when its second was read. Nothing where that
    /// cannot be said: after a pause between two head sweeps, the age of what the second finds is mostly the pause's.
    fn read_before(&self, kind: Kind, now: Second) -> Option<Second> {
        let poll = self.policy.poll_interval;
        match kind {
            Kind::Rescan => Some(now),
            Kind::Head => self
                .last_head
                .filter(|last| now - *last <= poll + poll / 2)
                .map(|last| last.saturating_add(-self.policy.settle)),
            Kind::Catchup => None,
        }
    }

    /// Commits, and continues from what was committed; after a refusal, from what is there.
    async fn append(&mut self, append: Append) -> Result<(), JournalError> {
        let next = append.chunks.last().map_or(self.state.next, |chunk| chunk.number + 1);
        let link = append.chunks.last().map_or(self.state.link, |chunk| Link::of_claim(&chunk.claim));
        let (start, coverage, floor) = (append.start, append.coverage.clone(), append.tally_floor);
        if let Err(error) = self.journal.append(&self.settings.id, append).await {
            self.reload().await;
            return Err(error);
        }
        self.state.revision += 1;
        self.state.start = start;
        self.state.coverage = coverage;
        self.state.tally_floor = floor;
        self.state.next = next;
        self.state.link = link;
        Ok(())
    }

    async fn reload(&mut self) {
        // A commit that seemed to fail may have succeeded.
        self.day_counted = false;
        let lanes = self.settings.destinations();
        match self.journal.open(&self.settings.id, &lanes).await {
            Ok(state) => self.state = state,
            Err(error) => {
                tracing::error!(org = %self.settings.id, cause = %error, "cannot read the org's state again")
            }
        }
    }

    fn empty_append(&self) -> Append {
        Append {
            revision: self.state.revision,
            start: self.state.start,
            coverage: self.state.coverage.clone(),
            chunks: Vec::new(),
            tally: Vec::new(),
            tally_floor: self.state.tally_floor,
            window: None,
            now: self.clock.now(),
        }
    }

    fn summary(&self, append: &Append) -> Summary {
        Summary {
            start: append.start,
            coverage: append.coverage.spans().to_vec(),
            checkpoints: self.checkpoints.named(),
            instance: self.state.instance.clone(),
            forwarder: env!("CARGO_PKG_VERSION").to_owned(),
            audit: self.report.audit(),
        }
    }

    /// Whether the journal has room; at its limit, acknowledged chunks go first, whatever their age.
    async fn room(&self) -> Result<Room, JournalError> {
        let id = &self.settings.id;
        // It may be changed at any time.
        let bytes_max = self.journal_bytes_max.load(Ordering::Relaxed);
        let mut usage = self.journal.usage(id).await?;
        if usage.bytes > bytes_max {
            self.journal.prune(id, Second(i64::MIN), bytes_max).await?;
            usage = self.journal.usage(id).await?;
        }
        self.report.journal(usage);
        Ok(if usage.bytes > bytes_max {
            Room::None
        } else if usage.unacknowledged_bytes > bytes_max / 2 {
            Room::LessThanHalf
        } else {
            Room::Plenty
        })
    }

    async fn succeeded(&mut self, kind: Kind, now: Second) {
        self.failures = 0;
        self.throttles = 0;
        self.seen_instead = None;
        self.report.source().ok();
        self.forbidden.clear(&*self.journal, &self.settings.id).await;
        self.report.swept();
        self.last = Some(kind);
        match kind {
            Kind::Head => {
                self.last_head = Some(now);
                self.report.first_sweep_ended();
            }
            Kind::Catchup | Kind::Rescan => self.last_background = Some(kind),
        }
        self.say_progress();
        self.count_day().await;
    }

    /// Counts what the tally holds of the last day; afterwards what is journaled is added. Not before something has been journaled,
    /// so that it delays nothing, and a few hours at a time, so that it takes little memory.
    async fn count_day(&mut self) {
        if self.day_counted {
            return;
        }
        let now = self.clock.now();
        let mut activity = Activity::default();
        let mut from = activity::since(now).0.div_euclid(60);
        // A service whose clock is ahead has events of an hour that is still to come here.
        let until = now.0.div_euclid(60) + 60;
        while from < until {
            let to = (from + MINUTES_COUNTED_AT_ONCE).min(until);
            // What cannot be read is the business of who needs it; here the next sweep tries again.
            let Ok(pages) = self.journal.tally(&self.settings.id, from, to).await else { return };
            for page in pages {
                activity.add(Second(page.minute * 60), tally::occurrences(&page), now);
            }
            from = to;
        }
        self.report.activity(activity);
        self.day_counted = true;
    }

    fn say_coverage(&self) {
        let start = self.state.start;
        let coverage = &self.state.coverage;
        let cursor = start.map(|start| coverage.cursor(start));
        let holes_seconds =
            start.map_or(0, |start| coverage.holes(start).iter().map(|hole| hole.seconds()).sum());
        self.report.coverage(CoverageFigures {
            start,
            cursor,
            tip: coverage.tip().or(start),
            holes_seconds,
            damaged_seconds: coverage.damaged_seconds(),
            unsettled_seconds: coverage.unsettled_seconds(&self.policy.rescan_after, self.state.tally_floor),
        });
        let last = self.policy.rescan_after.last().copied().unwrap_or(0);
        self.report.spans(spans(coverage, start, last, self.state.tally_floor));
        self.journaled.send_replace(Journaled { next: self.state.next, cursor });
    }

    /// Long catching up says how far it is.
    fn say_progress(&mut self) {
        let Some(start) = self.state.start else { return };
        let behind: i64 = self.state.coverage.holes(start).iter().map(|hole| hole.seconds()).sum();
        match self.progress_said {
            _ if behind == 0 => {
                if self.progress_said.take().is_some() {
                    tracing::info!(org = %self.settings.id, "caught up");
                }
            }
            Some(said) if said.elapsed() < PROGRESS_EVERY => {}
            _ => {
                let cursor = self.state.coverage.cursor(start);
                tracing::info!(org = %self.settings.id, cursor = %cursor, holes_seconds = behind, "catching up");
                self.progress_said = Some(Instant::now());
            }
        }
    }

    /// Says what went wrong, and how long to wait.
    async fn failed(&mut self, failed: Failed) -> Outcome {
        self.failures = self.failures.saturating_add(1);
        let party = self.report.source().clone();
        let outcome = match failed {
            Failed::Source(SourceError::Throttled { wait }) => {
                self.throttles = self.throttles.saturating_add(1);
                let wait = wait.unwrap_or_else(|| retry::cool_down(self.throttles, fastrand::f64()));
                self.metrics.throttled_seconds.inc_by(wait.as_secs_f64());
                if self.client.host().throttled(&self.settings.id, wait) {
                    tracing::warn!(org = %self.settings.id, "a second organization was throttled: its host is paused");
                }
                let until = self.clock.now() + whole_seconds(wait);
                party.waiting(WaitReason::Throttled, Some(until), "Pulumi asked to slow down");
                Outcome::Waiting(wait)
            }
            Failed::Source(SourceError::Transient(cause) | SourceError::TooHeavy(cause)) => {
                self.back_off(&cause)
            }
            Failed::Source(SourceError::Credentials { cause, remedy }) => {
                party.paused(&Problem { reason: PauseReason::Credentials, cause, remedy });
                Outcome::Paused(CREDENTIALS_PAUSE)
            }
            Failed::Source(SourceError::Permission { cause, remedy }) => {
                party.paused(&Problem { reason: PauseReason::Permission, cause, remedy });
                self.forbidden.refused(self.clock.now(), &*self.journal, &self.settings.id).await;
                Outcome::Paused(FORBIDDEN_PAUSE)
            }
            Failed::Source(
                SourceError::Configuration { cause, remedy } | SourceError::BadRequest { cause, remedy },
            ) => {
                party.paused(&Problem { reason: PauseReason::Configuration, cause, remedy });
                Outcome::Paused(CONFIGURATION_PAUSE)
            }
            Failed::Source(SourceError::NotFound { cause, remedy }) => {
                // Asked before anything is said, so that the one line of the log has it.
                let remedy = self.with_seen_instead(remedy).await;
                party.paused(&Problem { reason: PauseReason::Configuration, cause, remedy });
                Outcome::Paused(CONFIGURATION_PAUSE)
            }
            Failed::Source(SourceError::Barred { cause, remedy }) => {
                party.paused(&Problem { reason: PauseReason::Configuration, cause, remedy });
                Outcome::Paused(BARRED_PAUSE)
            }
            Failed::Stuck(stuck) => {
                party.paused(&Problem {
                    reason: PauseReason::Configuration,
                    cause: format!("the service does not answer as an audit log does: {stuck}"),
                    remedy: "check `api_url` and what stands between here and there; nothing of the window was believed".into(),
                });
                Outcome::Paused(CREDENTIALS_PAUSE)
            }
            Failed::Journal(JournalError::Conflict(cause)) => self.back_off(&cause),
            Failed::Journal(error) => {
                party.paused(&Problem {
                    reason: PauseReason::Disk,
                    cause: error.to_string(),
                    remedy: error.remedy().into(),
                });
                self.reload().await;
                Outcome::Paused(DISK_PAUSE)
            }
        };
        if matches!(outcome, Outcome::Paused(_)) {
            self.report.first_sweep_ended();
        }
        outcome
    }

    /// The remedy with the organizations that the token does see: a renamed one is among them.
    async fn with_seen_instead(&mut self, remedy: String) -> String {
        if self.seen_instead.is_none() {
            self.seen_instead = match self.client.account().await {
                Ok(account) => Some(account.seen_instead_of(&self.settings.org).unwrap_or_default()),
                // Worth another question at the next probe.
                Err(SourceError::Transient(_) | SourceError::TooHeavy(_) | SourceError::Throttled { .. }) => {
                    None
                }
                Err(_) => Some(String::new()),
            };
        }
        match self.seen_instead.as_deref() {
            None | Some("") => remedy,
            Some(seen) => format!("{remedy}. {seen}"),
        }
    }

    fn back_off(&self, cause: &str) -> Outcome {
        let wait = retry::backoff(self.failures, fastrand::f64());
        self.report.source().waiting(
            WaitReason::Backoff,
            Some(self.clock.now() + whole_seconds(wait)),
            cause,
        );
        Outcome::Waiting(wait)
    }

    /// Waits, but ends early when a token's place holds something else, and that may help.
    async fn wait_for_a_person(&mut self, wait: Duration) {
        let begun = Instant::now();
        let reason = self.report.source().problem().map(|problem| problem.reason);
        let helps = matches!(
            reason,
            Some(PauseReason::Credentials | PauseReason::Permission | PauseReason::Configuration)
        );
        while begun.elapsed() < wait {
            let left = wait.saturating_sub(begun.elapsed());
            let nudged = tokio::select! {
                () = sleep(SECRET_LOOK.min(left)) => false,
                () = said_after(&mut self.secrets_changed, Duration::from_secs(1)) => true,
            };
            if !helps {
                continue;
            }
            let changed =
                if nudged { self.client.tokens_nudged().await } else { self.client.tokens_changed().await };
            // A 401 may be asked about once more when somebody says so; a 403 only where something has changed.
            let asked = nudged && reason == Some(PauseReason::Credentials) && begun.elapsed() >= NUDGED_PAUSE;
            if (changed && self.extra_try().await.is_none()) || asked {
                return;
            }
        }
    }

    /// Whether the source may be asked out of turn after a 403; if not, how long until its turn.
    async fn extra_try(&mut self) -> Option<Duration> {
        let known = self.forbidden.clone();
        let wait = self.forbidden.extra_try(self.clock.now());
        if self.forbidden != known {
            // Kept before the try, so that a crash loop cannot hammer.
            self.forbidden.save(&*self.journal, &self.settings.id).await;
        }
        wait
    }
}

/// Ends when somebody says that a secret may have changed.
async fn said(secrets_changed: &mut watch::Receiver<u64>) {
    if secrets_changed.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// The same, but not before some time has passed: it may be said a thousand times a second.
async fn said_after(secrets_changed: &mut watch::Receiver<u64>, pause: Duration) {
    sleep(pause).await;
    said(secrets_changed).await;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Room {
    None,
    LessThanHalf,
    Plenty,
}
