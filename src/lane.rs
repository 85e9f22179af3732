//! Lanes: one reader of the journal for one (org, destination), with one checkpoint.
//!
//! A chunk is delivered until its destination has answered definitively; only then does the checkpoint pass it. A lane never gives
//! up and never drops: it waits, or it is paused and says why. What a destination's answer means is in the answer itself
//! ([`crate::destination::Answer`]); what follows from it is here.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::chunk::Chunk;
use crate::clock::{Clock, whole_seconds};
use crate::destination::{Answer, Backlog, Destination, DestinationName, Receipt};
use crate::event::OrgId;
use crate::journal::handover::{Checkpoints, Journaled};
use crate::journal::{Acknowledge, Journal, JournalError};
use crate::metrics::{Delivery, OrgMetrics};
use crate::mutant::{self, Mutant};
use crate::problem::{PauseReason, Problem, WaitReason};
use crate::recovery::adopt::Passed;
use crate::report::Party;
use crate::retry;

/// First probe of a paused lane; it grows to [`PROBE_LAST`].
const PROBE_FIRST: Duration = Duration::from_secs(60);
const PROBE_LAST: Duration = Duration::from_secs(300);
/// How often a changed secret is looked for while one is refused.
const SECRET_LOOK: Duration = Duration::from_secs(2);
/// How often a secret is looked at that is said to have changed: it may be half written the first time.
const LOOKS: u32 = 2;
/// How long a paused lane leaves its destination alone when somebody says that something has changed.
const NUDGED_PAUSE: Duration = Duration::from_secs(10);
/// How often the disk is tried again.
const DISK_PAUSE: Duration = Duration::from_secs(10);
/// How long the delivery of a chunk may take at most: dozens of requests where rows of it are refused, each with its own deadline.
const DELIVERY_LONGEST: Duration = Duration::from_secs(3_600);
/// How often a lane without anything to deliver makes sure of that.
const IDLE_LONGEST: Duration = Duration::from_secs(600);
/// How often the figures of a busy lane are computed anew.
const FIGURES_EVERY: Duration = Duration::from_secs(1);

/// One lane. Safe to drop at any await: until `acknowledge` returns, a restart begins with the same chunk again.
pub struct Lane {
    org: OrgId,
    destination: Box<dyn Destination>,
    name: DestinationName,
    journal: Arc<dyn Journal>,
    journaled: watch::Receiver<Journaled>,
    checkpoint: u64,
    checkpoints: Arc<Checkpoints>,
    party: Party,
    metrics: Arc<OrgMetrics>,
    clock: Clock,
    secrets_changed: watch::Receiver<u64>,
    /// How often the destination is still to look at its secrets, and when it last did.
    looks: u32,
    looked_at: Option<Instant>,
    /// What of the destination's credentials is counted already: taken over, refused.
    counted: (u64, u64),
    /// Without a definitive answer, in a row.
    failures: u32,
    /// Refused probes in a row.
    probes: u32,
    /// The journal has refused, and nothing was acknowledged since.
    journal_refused: bool,
    figures_at: Option<Instant>,
    /// What the figures that are shown were computed of.
    figures_of: Option<(Journaled, u64)>,
    stop: CancellationToken,
}

/// What a lane is made from.
pub struct Parts {
    pub org: OrgId,
    pub destination: Box<dyn Destination>,
    pub journal: Arc<dyn Journal>,
    pub journaled: watch::Receiver<Journaled>,
    pub checkpoint: u64,
    pub checkpoints: Arc<Checkpoints>,
    pub party: Party,
    pub metrics: Arc<OrgMetrics>,
    pub clock: Clock,
    /// Moves on when a secret may have changed.
    pub secrets_changed: watch::Receiver<u64>,
    pub stop: CancellationToken,
}

impl Lane {
    pub fn new(parts: Parts) -> Lane {
        Lane {
            name: parts.destination.name(),
            org: parts.org,
            destination: parts.destination,
            journal: parts.journal,
            journaled: parts.journaled,
            checkpoint: parts.checkpoint,
            checkpoints: parts.checkpoints,
            party: parts.party,
            metrics: parts.metrics,
            clock: parts.clock,
            secrets_changed: parts.secrets_changed,
            looks: 0,
            looked_at: None,
            counted: (0, 0),
            failures: 0,
            probes: 0,
            journal_refused: false,
            figures_at: None,
            figures_of: None,
            stop: parts.stop,
        }
    }

    /// Delivers until stopped; the delivery under way is finished first, so that its answer is not lost. `drained` is cancelled
    /// when nothing more will be journaled: then the lane ends as soon as it has delivered everything or is paused.
    pub async fn run(mut self, drained: CancellationToken) {
        let _running = self.party.runs();
        let passed = Passed::load(&*self.journal, &self.org, self.name).await;
        self.counted = self.destination.standing().map_or((0, 0), |known| (known.taken, known.refused));
        while !self.stop.is_cancelled() {
            self.party.turns();
            self.look_at_secrets().await;
            // Seen before the journal is asked, so that a commit after the question ends the wait below, and the last commit of all
            // is not taken for the end of what there is to deliver.
            self.journaled.borrow_and_update();
            let all_journaled = drained.is_cancelled();
            let chunk = match self.journal.chunk(&self.org, self.checkpoint).await {
                Ok(Some(chunk)) => chunk,
                Ok(None) => {
                    if std::mem::take(&mut self.journal_refused) {
                        // Nothing is left that could show that the disk works again.
                        self.party.ok();
                    }
                    self.figures(true).await;
                    if all_journaled {
                        return;
                    }
                    self.wait_for_chunks(&drained).await;
                    continue;
                }
                Err(error) => {
                    self.disk(&error).await;
                    continue;
                }
            };
            self.figures(false).await;
            if passed.contains(chunk.number) {
                let reference = "acknowledged before, under another number".to_owned();
                self.acknowledge(&chunk, Receipt { reference, ..Receipt::default() }).await;
                continue;
            }
            let begun = Instant::now();
            let backlog = JournalBacklog { journal: self.journal.clone(), org: self.org.clone() };
            if mutant::is(Mutant::AcknowledgedBeforeAnswer) {
                self.acknowledge(&chunk, Receipt::default()).await;
            }
            match self.name {
                // A file system that hangs ends with this process at the earliest, if at all: a restart would help nobody, and stop
                // the other lanes.
                DestinationName::File => self.party.depends_on_others(),
                DestinationName::Sentinel | DestinationName::S3 => self.party.rests(DELIVERY_LONGEST),
            }
            let answer = self.destination.deliver(&chunk, &backlog).await;
            self.party.turns();
            self.metrics.lane(self.name).delivery_duration.observe(begun.elapsed().as_secs_f64());
            self.say_credential();
            let paused = matches!(answer, Answer::Paused(_));
            let ending = drained.is_cancelled();
            match answer {
                Answer::Durable(receipt) => self.acknowledge(&chunk, receipt).await,
                answer => self.wait(&chunk, answer, &drained).await,
            }
            if paused && ending {
                break;
            }
        }
        self.figures(true).await;
    }

    /// The destination has it. Until the acknowledgement is committed, a restart delivers it again.
    async fn acknowledge(&mut self, chunk: &Chunk, receipt: Receipt) {
        let mut acknowledge = Acknowledge {
            destination: self.name,
            chunk: chunk.number,
            receipt: receipt.clone(),
            now: self.clock.now(),
        };
        while let Err(error) = self.journal.acknowledge(&self.org, acknowledge.clone()).await {
            if self.stop.is_cancelled() {
                return;
            }
            if let JournalError::Conflict(_) = error {
                // A commit that seemed to fail may have succeeded: what is stored decides.
                match self.journal.open(&self.org, &self.checkpoints.lanes()).await {
                    Ok(state) if state.checkpoints.get(&self.name) == Some(&(chunk.number + 1)) => break,
                    Ok(state) => {
                        self.checkpoint =
                            state.checkpoints.get(&self.name).copied().unwrap_or(self.checkpoint);
                        tracing::error!(org = %self.org, destination = %self.name, chunk = chunk.number, cause = %error, "the lane goes on from its stored checkpoint");
                        return;
                    }
                    Err(_) => {}
                }
            }
            self.disk(&error).await;
            acknowledge.now = self.clock.now();
        }
        self.checkpoint = chunk.number + 1;
        self.checkpoints.set(self.name, self.checkpoint);
        self.failures = 0;
        self.probes = 0;
        self.journal_refused = false;
        self.party.ok();
        self.count(chunk, &receipt);
        tracing::debug!(org = %self.org, destination = %self.name, chunk = chunk.number, rows = receipt.rows, "chunk delivered");
    }

    fn count(&self, chunk: &Chunk, receipt: &Receipt) {
        let lane = self.metrics.lane(self.name);
        lane.delivery(if receipt.quarantined.is_empty() {
            Delivery::Acknowledged
        } else {
            Delivery::Refused
        });
        lane.delivered_events.inc_by(u64::from(receipt.rows));
        lane.delivered_bytes.inc_by(receipt.bytes);
        if let Some(last) = chunk.last {
            lane.end_to_end_latency((self.clock.now() - last).max(0) as f64, u64::from(chunk.count));
        }
        for refusal in &receipt.quarantined {
            lane.quarantined(refusal.reason, 1);
            tracing::warn!(
                org = %self.org, destination = %self.name, chunk = refusal.at.chunk, row = refusal.at.row,
                reason = refusal.reason.as_str(), cause = refusal.detail, "row put into quarantine; the archive has it whole"
            );
        }
    }

    /// Anything but durable: says so, and waits. A pause is not waited for once nothing more will be journaled: if that happens
    /// while it is, one more try follows at once.
    async fn wait(&mut self, chunk: &Chunk, answer: Answer, drained: &CancellationToken) {
        let lane = self.metrics.lane(self.name);
        let number = chunk.number;
        match answer {
            Answer::Durable(_) => {}
            Answer::Ambiguous(cause) => {
                lane.delivery(Delivery::Ambiguous);
                self.failures = self.failures.saturating_add(1);
                let wait = retry::backoff(self.failures, fastrand::f64());
                self.waiting(WaitReason::Backoff, wait, &cause);
                tracing::debug!(org = %self.org, destination = %self.name, chunk = number, cause, "no definitive answer");
                self.sleep(wait).await;
            }
            Answer::Throttled { wait, cause } => {
                lane.delivery(Delivery::Throttled);
                self.failures = self.failures.saturating_add(1);
                let wait = wait.unwrap_or_else(|| retry::backoff(self.failures, fastrand::f64()));
                self.waiting(WaitReason::Throttled, wait, &cause);
                self.sleep(wait).await;
            }
            Answer::Paused(problem) => {
                lane.delivery(Delivery::Failed);
                self.party.paused(&problem);
                if drained.is_cancelled() {
                    return;
                }
                let wait = match problem.reason {
                    PauseReason::Credentials => PROBE_FIRST,
                    PauseReason::Disk => DISK_PAUSE,
                    _ => (PROBE_FIRST * (self.probes + 1)).min(PROBE_LAST),
                };
                self.probes = (self.probes + 1).min(10);
                tokio::select! {
                    () = drained.cancelled() => {}
                    () = self.sleep_until_secret_changes(wait) => {}
                }
            }
        }
    }

    fn waiting(&self, reason: WaitReason, wait: Duration, cause: &str) {
        self.party.waiting(reason, Some(self.clock.now().saturating_add(whole_seconds(wait))), cause);
    }

    /// The journal refused: nothing is believed, nothing is sent.
    async fn disk(&mut self, error: &JournalError) {
        self.metrics.lane(self.name).delivery(Delivery::Failed);
        self.journal_refused = true;
        self.party.paused(&Problem {
            reason: PauseReason::Disk,
            cause: error.to_string(),
            remedy: error.remedy().into(),
        });
        self.sleep(DISK_PAUSE).await;
    }

    /// After somebody said that a secret may have changed, but not all the time.
    async fn look_at_secrets(&mut self) {
        if self.secrets_changed.has_changed().unwrap_or(false) {
            self.secrets_changed.borrow_and_update();
            self.looks = LOOKS;
        }
        if self.looks == 0 || self.looked_at.is_some_and(|at| at.elapsed() < SECRET_LOOK) {
            return;
        }
        self.looks -= 1;
        let stop = self.stop.clone();
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.destination.look_at_secrets() => {}
        }
        self.looked_at = Some(Instant::now());
        self.say_credential();
    }

    /// Which of two secrets is in use.
    fn say_credential(&mut self) {
        let Some(standing) = self.destination.standing() else { return };
        for (now, before, ok) in
            [(standing.taken, self.counted.0, true), (standing.refused, self.counted.1, false)]
        {
            (before..now).for_each(|_| self.metrics.credential_refresh(self.name.as_str(), ok));
        }
        self.counted = (standing.taken, standing.refused);
        self.party.uses(&standing);
    }

    async fn wait_for_chunks(&mut self, drained: &CancellationToken) {
        self.party.rests(IDLE_LONGEST);
        tokio::select! {
            () = sleep(IDLE_LONGEST) => {}
            changed = self.journaled.changed() => {
                if changed.is_err() {
                    // The collector is gone and is being restarted, or the org is ending.
                    tokio::select! {
                        () = drained.cancelled() => {}
                        () = self.stop.cancelled() => {}
                    }
                }
            }
            looks = next_look(&mut self.secrets_changed, self.looks, self.looked_at) => self.looks = looks,
            () = drained.cancelled() => {}
            () = self.stop.cancelled() => {}
        }
    }

    /// Waits; while it does, the figures follow what is journaled.
    async fn sleep(&mut self, wait: Duration) {
        let until = Instant::now() + wait;
        self.party.rests(wait);
        self.figures(true).await;
        while Instant::now() < until && !self.stop.is_cancelled() {
            let (stop, journaled) = (self.stop.clone(), &mut self.journaled);
            tokio::select! {
                () = sleep_until(until) => {}
                () = stop.cancelled() => {}
                () = next_after(journaled, FIGURES_EVERY) => self.figures(true).await,
            }
        }
    }

    async fn sleep_until_secret_changes(&mut self, wait: Duration) {
        let begun = Instant::now();
        let until = begun + wait;
        while Instant::now() < until && !self.stop.is_cancelled() {
            self.sleep(SECRET_LOOK.min(until - Instant::now())).await;
            // A person may say that something has changed where no file shows it.
            let said = begun.elapsed() >= NUDGED_PAUSE && self.secrets_changed.has_changed().unwrap_or(false);
            if said || self.destination.secret_changed().await {
                return;
            }
        }
    }

    /// Backlog and "delivered until", for status and metrics. Nothing is asked again while nothing has changed: a thousand lanes
    /// may wait for one outage to end, each with days of backlog to count.
    async fn figures(&mut self, now: bool) {
        if !now && self.figures_at.is_some_and(|at| at.elapsed() < FIGURES_EVERY) {
            return;
        }
        let journaled = *self.journaled.borrow();
        if self.figures_of == Some((journaled, self.checkpoint)) {
            return;
        }
        self.figures_at = Some(Instant::now());
        let Ok(outstanding) = self.journal.outstanding(&self.org, self.name).await else { return };
        self.figures_of = Some((journaled, self.checkpoint));
        let cursor = journaled.cursor;
        let delivered_until = match (cursor, outstanding.first) {
            (Some(cursor), Some(first)) => Some(cursor.min(first)),
            (cursor, _) => cursor,
        };
        self.party.progress(self.checkpoint, &outstanding, delivered_until);
    }
}

/// Waits until something is journaled, but not less than `pause`; for ever when nothing will be.
async fn next_after(journaled: &mut watch::Receiver<Journaled>, pause: Duration) {
    if journaled.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
    sleep(pause).await;
}

/// Waits until secrets are to be looked at, and says how often.
async fn next_look(secrets_changed: &mut watch::Receiver<u64>, looks: u32, last: Option<Instant>) -> u32 {
    if let Some(last) = last {
        sleep_until(last + SECRET_LOOK).await;
    }
    if looks > 0 {
        return looks;
    }
    if secrets_changed.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
    LOOKS
}

struct JournalBacklog {
    journal: Arc<dyn Journal>,
    org: OrgId,
}

#[async_trait]
impl Backlog for JournalBacklog {
    async fn after(&self, number: u64) -> Option<Chunk> {
        self.chunk(number.checked_add(1)?).await
    }

    async fn chunk(&self, number: u64) -> Option<Chunk> {
        self.journal.chunk(&self.org, number).await.ok().flatten()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::sync::watch;

    use super::*;
    use crate::clock::Second;
    use crate::coverage::Coverage;
    use crate::destination::archive::contract::{chunk, org};
    use crate::destination::{Refusal, RowId};
    use crate::journal::decision::Decision;
    use crate::journal::memory::MemoryJournal;
    use crate::journal::restore::Restore;
    use crate::journal::{Append, OrgState, Outstanding, Quarantined, TallyPage, Usage};
    use crate::metrics::Metrics;
    use crate::report::Reports;
    use crate::report::tests::settings;
    use crate::trial::{How, Trial};

    /// The last chunk of all is journaled just after a lane has asked for it and was told that it is not there. Before that, the
    /// disk refuses some questions.
    struct Late {
        journal: MemoryJournal,
        last: Mutex<Option<(Append, CancellationToken)>>,
        refused: AtomicU32,
    }

    #[async_trait]
    impl Journal for Late {
        async fn open(&self, org: &OrgId, lanes: &[DestinationName]) -> Result<OrgState, JournalError> {
            self.journal.open(org, lanes).await
        }
        async fn orgs(&self) -> Result<Vec<OrgId>, JournalError> {
            self.journal.orgs().await
        }
        async fn tally(&self, org: &OrgId, from: i64, until: i64) -> Result<Vec<TallyPage>, JournalError> {
            self.journal.tally(org, from, until).await
        }
        async fn append(&self, org: &OrgId, append: Append) -> Result<(), JournalError> {
            self.journal.append(org, append).await
        }
        async fn restore(&self, org: &OrgId, steps: Vec<Restore>) -> Result<(), JournalError> {
            self.journal.restore(org, steps).await
        }
        async fn chunk(&self, org: &OrgId, number: u64) -> Result<Option<Chunk>, JournalError> {
            let refused =
                self.refused.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
            if refused.is_ok() {
                return Err(JournalError::Disk("disk I/O error".into()));
            }
            let answer = self.journal.chunk(org, number).await;
            let last = self.last.lock().unwrap().take();
            if let Some((append, drained)) = last {
                self.journal.append(org, append).await?;
                drained.cancel();
            }
            answer
        }
        async fn acknowledge(&self, org: &OrgId, acknowledge: Acknowledge) -> Result<(), JournalError> {
            self.journal.acknowledge(org, acknowledge).await
        }
        async fn outstanding(&self, org: &OrgId, lane: DestinationName) -> Result<Outstanding, JournalError> {
            self.journal.outstanding(org, lane).await
        }
        async fn quarantine(
            &self,
            org: &OrgId,
            lane: DestinationName,
            after: Option<RowId>,
            limit: u32,
        ) -> Result<Vec<Quarantined>, JournalError> {
            self.journal.quarantine(org, lane, after, limit).await
        }
        async fn provisional(
            &self,
            org: &OrgId,
            lane: DestinationName,
        ) -> Result<Vec<Refusal>, JournalError> {
            self.journal.provisional(org, lane).await
        }
        async fn decide(&self, org: &OrgId, decision: Decision) -> Result<u64, JournalError> {
            self.journal.decide(org, decision).await
        }
        async fn decisions(&self, org: &OrgId, limit: u32) -> Result<Vec<Decision>, JournalError> {
            self.journal.decisions(org, limit).await
        }
        async fn usage(&self, org: &OrgId) -> Result<Usage, JournalError> {
            self.journal.usage(org).await
        }
        async fn prune(&self, org: &OrgId, before: Second, bytes_max: u64) -> Result<u64, JournalError> {
            self.journal.prune(org, before, bytes_max).await
        }
        async fn note(&self, org: &OrgId, name: &str) -> Result<Option<Vec<u8>>, JournalError> {
            self.journal.note(org, name).await
        }
        async fn set_note(
            &self,
            org: &OrgId,
            name: &str,
            value: Option<Vec<u8>>,
        ) -> Result<(), JournalError> {
            self.journal.set_note(org, name, value).await
        }
    }

    struct Takes;

    #[async_trait]
    impl Destination for Takes {
        fn name(&self) -> DestinationName {
            DestinationName::File
        }
        async fn deliver(&mut self, _: &Chunk, _: &dyn Backlog) -> Answer {
            Answer::Durable(Receipt::default())
        }
        async fn secret_changed(&mut self) -> bool {
            false
        }
        async fn check(&mut self, _: &How) -> Vec<Trial> {
            Vec::new()
        }
    }

    #[tokio::test]
    async fn the_last_chunk_of_all_is_delivered_though_it_came_after_the_question_for_it() {
        let drained = CancellationToken::new();
        let now = Second(1_795_256_100);
        let append = Append {
            revision: 0,
            start: None,
            coverage: Coverage::default(),
            chunks: vec![chunk(0, "one", 1)],
            tally: Vec::new(),
            tally_floor: None,
            window: None,
            now,
        };
        let journal = Arc::new(Late {
            journal: MemoryJournal::new(),
            last: Mutex::new(Some((append, drained.clone()))),
            refused: AtomicU32::new(0),
        });
        let state = journal.open(&org(), &[DestinationName::File]).await.unwrap();
        let clock = Clock::system();
        let reports = Reports::new(Metrics::new("0", "test"), clock.clone());
        let report = reports.org(&settings("acme", "acme-corp", &[DestinationName::File]));
        let (_journaled, seen) = watch::channel(Journaled::default());
        let lane = Lane::new(Parts {
            org: org(),
            destination: Box::new(Takes),
            journal: journal.clone(),
            journaled: seen,
            checkpoint: 0,
            checkpoints: Arc::new(Checkpoints::new(&state.checkpoints)),
            party: report.lane(DestinationName::File).clone(),
            metrics: report.metrics(),
            clock,
            secrets_changed: watch::channel(0).1,
            stop: CancellationToken::new(),
        });
        lane.run(drained).await;
        let left = journal.outstanding(&org(), DestinationName::File).await.unwrap();
        assert_eq!(left.chunks, 0, "it was left undelivered");
    }

    #[tokio::test(start_paused = true)]
    async fn a_lane_with_nothing_to_deliver_ends_its_pause_when_the_disk_works_again() {
        let journal = Arc::new(Late {
            journal: MemoryJournal::new(),
            last: Mutex::new(None),
            refused: AtomicU32::new(2),
        });
        let state = journal.open(&org(), &[DestinationName::File]).await.unwrap();
        let clock = Clock::system();
        let reports = Reports::new(Metrics::new("0", "test"), clock.clone());
        let report = reports.org(&settings("acme", "acme-corp", &[DestinationName::File]));
        let party = report.lane(DestinationName::File).clone();
        let (_journaled, seen) = watch::channel(Journaled::default());
        let stop = CancellationToken::new();
        let lane = Lane::new(Parts {
            org: org(),
            destination: Box::new(Takes),
            journal: journal.clone(),
            journaled: seen,
            checkpoint: 0,
            checkpoints: Arc::new(Checkpoints::new(&state.checkpoints)),
            party: party.clone(),
            metrics: report.metrics(),
            clock,
            secrets_changed: watch::Sender::default().subscribe(),
            stop: stop.clone(),
        });
        let running = tokio::spawn(lane.run(CancellationToken::new()));
        sleep(DISK_PAUSE / 2).await;
        assert!(party.is_paused());
        sleep(2 * DISK_PAUSE).await;
        assert!(!party.is_paused(), "nothing is left to deliver, and nothing is wrong");
        stop.cancel();
        running.await.unwrap();
    }

    /// Pauses and waits as told, or never answers.
    struct Does(DestinationName, Option<Answer>);

    #[async_trait]
    impl Destination for Does {
        fn name(&self) -> DestinationName {
            self.0
        }
        async fn deliver(&mut self, _: &Chunk, _: &dyn Backlog) -> Answer {
            match &self.1 {
                Some(answer) => answer.clone(),
                None => std::future::pending().await,
            }
        }
        async fn secret_changed(&mut self) -> bool {
            false
        }
        async fn check(&mut self, _: &How) -> Vec<Trial> {
            Vec::new()
        }
    }

    /// Whether a lane with so many chunks to deliver was stalled at any minute of a day.
    async fn stalls(does: Does, chunks: u64) -> bool {
        let name = does.0;
        let journal = Arc::new(MemoryJournal::new());
        let state = journal.open(&org(), &[name]).await.unwrap();
        let append = Append {
            revision: 0,
            start: None,
            coverage: Coverage::default(),
            chunks: (0..chunks).map(|number| chunk(number, "one", 1)).collect(),
            tally: Vec::new(),
            tally_floor: None,
            window: None,
            now: Second(1_795_256_100),
        };
        journal.append(&org(), append).await.unwrap();
        let clock = Clock::system();
        let reports = Reports::new(Metrics::new("0", "test"), clock.clone());
        let report = reports.org(&settings("acme", "acme-corp", &[name]));
        let (_journaled, seen) = watch::channel(Journaled { next: chunks, cursor: None });
        let lane = Lane::new(Parts {
            org: org(),
            destination: Box::new(does),
            journal,
            journaled: seen,
            checkpoint: 0,
            checkpoints: Arc::new(Checkpoints::new(&state.checkpoints)),
            party: report.lane(name).clone(),
            metrics: report.metrics(),
            clock,
            secrets_changed: watch::Sender::default().subscribe(),
            stop: CancellationToken::new(),
        });
        let running = tokio::spawn(lane.run(CancellationToken::new()));
        let mut stalled = false;
        for _ in 0..24 * 60 {
            sleep(Duration::from_secs(60)).await;
            stalled |= reports.liveness().stalled() == [format!("{name} of acme")];
        }
        running.abort();
        assert!(running.await.is_err());
        assert!(reports.liveness().stalled().is_empty(), "what has ended is not stalled");
        stalled
    }

    #[tokio::test(start_paused = true)]
    async fn a_lane_that_waits_is_not_stalled_and_one_whose_delivery_never_ends_is() {
        let paused = Answer::Paused(Problem {
            reason: PauseReason::Permission,
            cause: "403".into(),
            remedy: "the role".into(),
        });
        let throttled = Answer::Throttled { wait: Some(retry::RETRY_AFTER_MAX), cause: "429".into() };
        for answer in [paused, throttled, Answer::Ambiguous("away".into())] {
            assert!(!stalls(Does(DestinationName::S3, Some(answer.clone())), 1).await, "{answer:?}");
        }
        assert!(!stalls(Does(DestinationName::S3, None), 0).await, "there is nothing to deliver");
        assert!(stalls(Does(DestinationName::S3, None), 1).await);
        assert!(
            !stalls(Does(DestinationName::File, None), 1).await,
            "a disk that hangs is not helped by a restart"
        );
    }
}
