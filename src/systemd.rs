//! What the service manager is told (sd_notify(3)): that everything runs, is reloaded or ends, how the orgs stand in one line, and,
//! as long as every part makes progress, that this process need not be started again.
//!
//! Nothing here decides whether a part makes progress: [`Liveness`] knows. Where nobody asks to be told, as outside of systemd, nothing
//! is.
//!
//! *Why a thread of its own:* a runtime that is stuck could not say so in the log, and a service manager that does not read would hold
//! up whoever tells it something. The thread feeds the watchdog, but only asks whether it may: the progress is that of the others.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::Instant;

use crate::clock::Second;
use crate::liveness::Liveness;
use crate::report::status::State;
use crate::report::{Reports, Standing};

/// What waits to be told. More only waits where the service manager does not read, and then the newest is what counts.
const WAITING_MAX: usize = 64;
/// Between two lines that only say how the orgs stand: each is passed on to everyone who watches the unit.
const STATUS_PAUSE: Duration = Duration::from_secs(5);
/// So often in its time the watchdog is fed.
const FEEDS: u32 = 4;
/// Kinds of reasons and names of parts in one line.
const NAMED_MAX: usize = 5;

/// Whoever started this process and wants to know how it is. Cloning is cheap.
#[derive(Clone)]
pub struct ServiceManager(Arc<Inner>);

struct Inner {
    mail: Mutex<Mail>,
    arrived: Condvar,
    told: Condvar,
    /// It starts this process again when it has not been fed for so long.
    watchdog: Option<Duration>,
}

#[derive(Default)]
struct Mail {
    waiting: VecDeque<Said>,
    status: Option<String>,
    watched: Option<Liveness>,
    telling: bool,
    /// It is told that this process ends; how orgs stand meanwhile is not.
    ending: bool,
}

/// What is told in its order; the newer status goes with it.
enum Said {
    Ready,
    /// Since this time of the monotonic clock, in microseconds.
    Reloading(Option<i128>),
    Stopping,
}

impl ServiceManager {
    /// The one that started this process, if it wants to be told anything.
    ///
    /// # Errors
    /// When a thread cannot be made.
    pub fn of_this_process() -> std::io::Result<Option<ServiceManager>> {
        if std::env::var_os("NOTIFY_SOCKET").is_none_or(|path| path.is_empty()) {
            return Ok(None);
        }
        let watchdog = sd_notify::watchdog_enabled().filter(|deadline| !deadline.is_zero());
        let (mail, arrived, told) = (Mutex::default(), Condvar::new(), Condvar::new());
        let service_manager = ServiceManager(Arc::new(Inner { mail, arrived, told, watchdog }));
        let told = service_manager.clone();
        std::thread::Builder::new().name("systemd".to_owned()).spawn(move || Teller::new(told).run())?;
        Ok(Some(service_manager))
    }

    /// From now on the watchdog is fed as long as none of these parts is stalled.
    pub fn watches(&self, liveness: &Liveness) {
        if let Some(deadline) = self.0.watchdog {
            liveness.watched_within(deadline);
        }
        self.0.mail().watched = Some(liveness.clone());
        self.0.arrived.notify_one();
    }

    /// Everything runs, with the configuration that is in force.
    pub fn ready(&self, line: String) {
        self.say(Said::Ready, line);
    }

    pub fn reloading(&self) {
        let since = match NotifyState::monotonic_usec_now() {
            Ok(NotifyState::MonotonicUsec(since)) => Some(since),
            _ => None,
        };
        self.say(Said::Reloading(since), "reading the configuration again".to_owned());
    }

    pub fn stopping(&self) {
        self.say(Said::Stopping, "stopping; deliveries under way are finished first".to_owned());
    }

    /// One line on how things stand; the last of several that follow closely is told.
    pub fn status(&self, line: String) {
        let mut mail = self.0.mail();
        if !mail.ending {
            mail.status = Some(line);
            self.0.arrived.notify_one();
        }
    }

    /// Waits until everything is told, at most `deadline`.
    pub fn finish(&self, deadline: Duration) {
        let busy = |mail: &mut Mail| mail.telling || !mail.waiting.is_empty();
        drop(self.0.told.wait_timeout_while(self.0.mail(), deadline, busy));
    }

    fn say(&self, said: Said, line: String) {
        let mut mail = self.0.mail();
        if mail.waiting.len() >= WAITING_MAX {
            mail.waiting.clear();
        }
        mail.ending |= matches!(said, Said::Stopping);
        mail.waiting.push_back(said);
        mail.status = Some(line);
        drop(mail);
        self.0.arrived.notify_one();
    }
}

impl Inner {
    fn mail(&self) -> MutexGuard<'_, Mail> {
        self.mail.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread that tells it.
struct Teller {
    service_manager: ServiceManager,
    /// The last line on how things stand, and when it was told.
    status: Option<(String, Instant)>,
    fed: Option<Instant>,
    /// The watchdog is not fed, which the log has said.
    withheld: bool,
    /// It cannot be told anything, which the log has said.
    deaf: bool,
}

impl Teller {
    fn new(service_manager: ServiceManager) -> Teller {
        Teller { service_manager, status: None, fed: None, withheld: false, deaf: false }
    }

    fn run(mut self) {
        let inner = Arc::clone(&self.service_manager.0);
        loop {
            let mut mail = inner.mail();
            mail.telling = false;
            inner.told.notify_all();
            // What has been told already need not be told again.
            mail.status.take_if(|line| self.status.as_ref().is_some_and(|(told, _)| told == line));
            while mail.waiting.is_empty() {
                let Some(pause) = self.pause(&mail).filter(|pause| !pause.is_zero()) else { break };
                mail = inner.arrived.wait_timeout(mail, pause).unwrap_or_else(PoisonError::into_inner).0;
                mail.status.take_if(|line| self.status.as_ref().is_some_and(|(told, _)| told == line));
            }
            mail.telling = true;
            let said = mail.waiting.pop_front();
            let last = mail.waiting.is_empty();
            let line = mail.status.take_if(|_| last && (said.is_some() || self.may_say_status()));
            let watched = mail.watched.clone();
            drop(mail);
            self.tell(said, line);
            if let (Some(deadline), Some(watched)) = (inner.watchdog, watched) {
                self.feed(deadline, &watched);
            }
        }
    }

    /// How long there is nothing to do unless something arrives.
    fn pause(&self, mail: &Mail) -> Option<Duration> {
        let status = mail.status.as_ref().map(|_| self.status_due());
        let feed = self.service_manager.0.watchdog.filter(|_| mail.watched.is_some()).map(|deadline| {
            let due = self.fed.map(|at| at + deadline / FEEDS);
            due.map_or(Duration::ZERO, |due| due.saturating_duration_since(Instant::now()))
        });
        [status, feed, Some(Duration::from_secs(3_600))].into_iter().flatten().min()
    }

    fn status_due(&self) -> Duration {
        let due = self.status.as_ref().map(|(_, at)| *at + STATUS_PAUSE);
        due.map_or(Duration::ZERO, |due| due.saturating_duration_since(Instant::now()))
    }

    fn may_say_status(&self) -> bool {
        self.status_due().is_zero()
    }

    fn tell(&mut self, said: Option<Said>, line: Option<String>) {
        let mut states = Vec::new();
        match said {
            Some(Said::Ready) => states.push(NotifyState::Ready),
            Some(Said::Reloading(since)) => {
                states.push(NotifyState::Reloading);
                states.extend(since.map(NotifyState::MonotonicUsec));
            }
            Some(Said::Stopping) => states.push(NotifyState::Stopping),
            None => {}
        }
        states.extend(line.as_deref().map(NotifyState::Status));
        if !states.is_empty() {
            self.notify(&states);
        }
        drop(states);
        if let Some(line) = line {
            self.status = Some((line, Instant::now()));
        }
    }

    /// Looks at every part, and feeds the watchdog if none is stalled.
    fn feed(&mut self, deadline: Duration, watched: &Liveness) {
        if self.fed.is_some_and(|at| at.elapsed() < deadline / FEEDS) {
            return;
        }
        self.fed = Some(Instant::now());
        let stalled = watched.stalled();
        if stalled.is_empty() {
            self.notify(&[NotifyState::Watchdog]);
            if std::mem::take(&mut self.withheld) {
                tracing::info!("every part makes progress again; the service manager's watchdog is fed");
            }
        } else if !std::mem::replace(&mut self.withheld, true) {
            let cause = some(&stalled);
            tracing::error!(
                cause,
                "no progress; the service manager's watchdog is not fed, so that it starts this process again"
            );
        }
    }

    fn notify(&mut self, states: &[NotifyState<'_>]) {
        match sd_notify::notify(states) {
            Ok(()) => self.deaf = false,
            Err(error) if !std::mem::replace(&mut self.deaf, true) => {
                tracing::warn!(cause = %error, "the service manager cannot be told how this process is");
            }
            Err(_) => {}
        }
    }
}

/// How all orgs stand; of so many that are configured, some may not have had their turn yet. Made of our own words and of numbers only.
pub fn line(reports: &Reports, configured: usize) -> String {
    let (mut standings, config_ok) = reports.standings();
    let to_come =
        Standing { state: State::Ok, reasons: BTreeSet::new(), starting: true, delivered_until: None };
    standings.resize(standings.len().max(configured), to_come);
    described(&standings, config_ok)
}

type Is = fn(&Standing) -> bool;

fn described(standings: &[Standing], config_ok: bool) -> String {
    let mut line = String::new();
    if !config_ok {
        line.push_str("the changed configuration is refused, and the one before stays in force; ");
    }
    let count = standings.len();
    line.push_str(&format!("{count} org{}", if count == 1 { "" } else { "s" }));
    let kinds: [(&str, Is); 4] = [
        ("delivering", |org| org.state <= State::Ok && !org.starting),
        ("starting", |org| org.state <= State::Ok && org.starting),
        ("waiting", |org| org.state == State::Waiting),
        ("paused", |org| org.state == State::Paused),
    ];
    for (kind, is) in kinds {
        let of_kind: Vec<&Standing> = standings.iter().filter(|org| is(org)).collect();
        if of_kind.is_empty() {
            continue;
        }
        line.push_str(&format!(", {} {kind}", of_kind.len()));
        let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
        of_kind
            .iter()
            .flat_map(|org| &org.reasons)
            .for_each(|reason| *reasons.entry(reason).or_default() += 1);
        let mut reasons: Vec<(&str, usize)> = reasons.into_iter().collect();
        reasons.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        if !reasons.is_empty() {
            let reasons: Vec<String> = reasons.iter().map(|(reason, _)| (*reason).to_owned()).collect();
            line.push_str(&format!(" ({})", some(&reasons)));
        }
    }
    // To the minute: what is told to the second is old when it is read.
    if let Some(until) = standings.iter().map(|org| org.delivered_until).min().flatten() {
        line.push_str(&format!("; delivered until {}", Second(until.0 - until.0.rem_euclid(60))));
    }
    line
}

/// A few, and how many more there are.
fn some(names: &[String]) -> String {
    let mut text = names.iter().take(NAMED_MAX).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > NAMED_MAX {
        text.push_str(&format!(" and {} more", names.len() - NAMED_MAX));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNTIL: Second = Second(1_795_256_100 + 59);

    fn org(state: State, reasons: &[&'static str]) -> Standing {
        let reasons = reasons.iter().copied().collect();
        Standing { state, reasons, starting: false, delivered_until: Some(UNTIL) }
    }

    #[test]
    fn the_line_counts_what_delivers_waits_and_needs_a_person_and_why() {
        let fine = org(State::Ok, &[]);
        let paused = org(State::Paused, &["credentials"]);
        assert_eq!(described(&[], true), "0 orgs");
        assert_eq!(
            described(std::slice::from_ref(&fine), true),
            "1 org, 1 delivering; delivered until 2026-11-21T10:15:00Z"
        );
        assert_eq!(
            described(&[fine.clone(), paused, fine.clone()], true),
            "3 orgs, 2 delivering, 1 paused (credentials); delivered until 2026-11-21T10:15:00Z"
        );
        let new = Standing { starting: true, delivered_until: None, ..fine.clone() };
        let late = Standing { delivered_until: Some(UNTIL - 3_600), ..org(State::Waiting, &["backoff"]) };
        assert_eq!(
            described(&[late.clone(), fine.clone()], false),
            "the changed configuration is refused, and the one before stays in force; 2 orgs, 1 delivering, 1 waiting (backoff); \
             delivered until 2026-11-21T09:15:00Z"
        );
        assert_eq!(
            described(&[new, late, fine], true),
            "3 orgs, 1 delivering, 1 starting, 1 waiting (backoff)"
        );
    }

    #[test]
    fn the_line_stays_short_with_ten_thousand_orgs_in_all_kinds_of_trouble() {
        use crate::problem::{PauseReason, WaitReason};
        let mut orgs = Vec::new();
        for n in 0..10_000 {
            orgs.push(org(State::Paused, &[PauseReason::ALL[n % 5].as_str()]));
            orgs.push(org(State::Waiting, &[WaitReason::ALL[n % 4].as_str()]));
            orgs.push(org(State::Ok, &[]));
        }
        let line = described(&orgs, false);
        assert!(line.len() < 400 && line.is_ascii() && !line.contains(char::is_control), "{line}");
    }

    #[test]
    fn the_unit_leaves_the_time_that_a_drain_may_take() {
        let unit = include_str!("../deploy/systemd/pulumi-audit-forwarder.service");
        let seconds = unit.lines().find_map(|line| line.strip_prefix("TimeoutStopSec=")?.strip_suffix('s'));
        let seconds: u64 = seconds.unwrap().parse().unwrap();
        assert!(Duration::from_secs(seconds) >= 3 * crate::supervisor::DRAIN_DEADLINE);
    }
}
