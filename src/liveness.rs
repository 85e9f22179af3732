//! Whether the process makes progress: every part that matters says when it will be heard of again, and one that is overdue is named.
//!
//! Only parts of this process are asked. Were a remote system among them, an outage over there would restart the daemon here, again
//! and again, and help nobody: whoever waits for one says how long, and is not overdue before.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// A part that has not beaten for this long is stalled. Long, because a restart costs more than a slow disk.
const PATIENCE: Duration = Duration::from_secs(60);
/// Of a part that need not be heard of.
const NEVER: u64 = u64::MAX;

/// What all parts have said. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Liveness(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    begun: Instant,
    patience: AtomicU64,
    parts: Mutex<Vec<Arc<Part>>>,
}

#[derive(Debug)]
struct Part {
    name: String,
    /// When it will have been heard of again, in milliseconds since the beginning.
    due: AtomicU64,
}

/// The right to speak for one part. When it is dropped, the part no longer counts: it has ended, it is not stalled.
#[derive(Debug)]
pub struct Pulse {
    all: Liveness,
    part: Arc<Part>,
}

impl Default for Liveness {
    fn default() -> Liveness {
        Liveness::new()
    }
}

impl Liveness {
    pub fn new() -> Liveness {
        let (begun, patience) = (Instant::now(), AtomicU64::new(milliseconds(PATIENCE)));
        Liveness(Arc::new(Inner { begun, patience, parts: Mutex::default() }))
    }

    /// Who watches acts sooner than the usual patience lasts: then half of his time is what a part gets.
    pub fn watched_within(&self, deadline: Duration) {
        self.0.patience.store(milliseconds(PATIENCE.min(deadline / 2)), Ordering::Relaxed);
    }

    /// How often a part should beat.
    pub fn period(&self) -> Duration {
        self.patience() / 12
    }

    /// A part that from now on must beat.
    pub fn pulse(&self, name: &str) -> Pulse {
        let pulse = self.quiet_pulse(name);
        pulse.beat();
        pulse
    }

    /// A part that need not be heard of until it first speaks.
    pub fn quiet_pulse(&self, name: &str) -> Pulse {
        let part = Arc::new(Part { name: name.to_owned(), due: AtomicU64::new(NEVER) });
        self.with(|parts| parts.push(Arc::clone(&part)));
        Pulse { all: self.clone(), part }
    }

    /// Parts that are overdue.
    pub fn stalled(&self) -> Vec<String> {
        let now = milliseconds(self.0.begun.elapsed());
        self.with(|parts| {
            let overdue = parts.iter().filter(|part| part.due.load(Ordering::Relaxed) < now);
            overdue.map(|part| part.name.clone()).collect()
        })
    }

    fn patience(&self) -> Duration {
        Duration::from_millis(self.0.patience.load(Ordering::Relaxed))
    }

    fn with<T>(&self, act: impl FnOnce(&mut Vec<Arc<Part>>) -> T) -> T {
        act(&mut self.0.parts.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Pulse {
    /// It has done something, and will have done more within the usual patience.
    pub fn beat(&self) {
        self.beat_again_within(Duration::ZERO);
    }

    /// It has done something, and what comes next may take so long, or is waited for so long.
    pub fn beat_again_within(&self, longest: Duration) {
        let due = self.all.0.begun.elapsed().saturating_add(longest.max(self.all.patience()));
        self.part.due.store(milliseconds(due), Ordering::Relaxed);
    }

    /// Nothing is expected of it until it speaks again.
    pub fn be_quiet(&self) {
        self.part.due.store(NEVER, Ordering::Relaxed);
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.all.with(|parts| parts.retain(|part| !Arc::ptr_eq(part, &self.part)));
    }
}

fn milliseconds(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(NEVER)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOBODY: [&str; 0] = [];

    #[tokio::test(start_paused = true)]
    async fn a_part_that_stops_beating_is_named_until_it_beats_or_ends() {
        let liveness = Liveness::new();
        let (runtime, journal) = (liveness.pulse("runtime"), liveness.pulse("journal"));
        tokio::time::advance(PATIENCE).await;
        runtime.beat();
        assert_eq!(liveness.stalled(), NOBODY);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(liveness.stalled(), ["journal"]);
        journal.beat();
        assert_eq!(liveness.stalled(), NOBODY);
        tokio::time::advance(PATIENCE * 2).await;
        drop(journal);
        assert_eq!(liveness.stalled(), ["runtime"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_that_waits_is_not_stalled_before_its_wait_is_over_and_a_quiet_one_never() {
        let liveness = Liveness::new();
        let (lane, idle) = (liveness.pulse("lane"), liveness.quiet_pulse("idle"));
        lane.beat_again_within(PATIENCE * 5);
        tokio::time::advance(PATIENCE * 5).await;
        assert_eq!(liveness.stalled(), NOBODY);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(liveness.stalled(), ["lane"]);
        lane.be_quiet();
        idle.beat();
        assert_eq!(liveness.stalled(), NOBODY);
        tokio::time::advance(PATIENCE + Duration::from_secs(1)).await;
        assert_eq!(liveness.stalled(), ["idle"]);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_watches_closely_sees_a_stall_before_his_own_time_is_up() {
        let liveness = Liveness::new();
        liveness.watched_within(Duration::from_secs(3_600));
        assert_eq!(liveness.period(), PATIENCE / 12);
        liveness.watched_within(Duration::from_secs(10));
        let part = liveness.pulse("part");
        tokio::time::advance(Duration::from_millis(5_001)).await;
        assert_eq!(liveness.stalled(), ["part"]);
        drop(part);
    }
}
