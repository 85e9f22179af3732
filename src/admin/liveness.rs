//! Whether the process makes progress: parts that matter beat, and a part that has not beaten for long is named.
//!
//! Only parts of this process beat. Were a remote system among them, an outage over there would restart the daemon here, again
//! and again, and help nobody.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// A part that has not beaten for this long is stalled. Long, because a restart costs more than a slow disk.
const STALLED_AFTER: Duration = Duration::from_secs(60);

/// Beats of all parts. Cloning is cheap.
#[derive(Clone, Debug, Default)]
pub struct Liveness(Arc<Mutex<Vec<Part>>>);

#[derive(Debug)]
struct Part {
    name: &'static str,
    last: Instant,
}

/// The right to beat for one part. When it is dropped, the part no longer counts: it has ended, it is not stalled.
#[derive(Debug)]
pub struct Pulse {
    all: Liveness,
    name: &'static str,
}

impl Liveness {
    pub fn new() -> Liveness {
        Liveness::default()
    }

    /// A part that from now on must beat; each name is used once.
    pub fn pulse(&self, name: &'static str) -> Pulse {
        self.with(|parts| parts.push(Part { name, last: Instant::now() }));
        Pulse { all: self.clone(), name }
    }

    /// Parts that have not beaten for long.
    pub fn stalled(&self) -> Vec<&'static str> {
        self.with(|parts| {
            parts.iter().filter(|part| part.last.elapsed() > STALLED_AFTER).map(|part| part.name).collect()
        })
    }

    fn with<T>(&self, act: impl FnOnce(&mut Vec<Part>) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Pulse {
    /// How often a part should beat at least.
    pub const PERIOD: Duration = Duration::from_secs(5);

    pub fn beat(&self) {
        self.all.with(|parts| {
            for part in parts.iter_mut().filter(|part| part.name == self.name) {
                part.last = Instant::now();
            }
        });
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.all.with(|parts| parts.retain(|part| part.name != self.name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_part_that_stops_beating_is_named_until_it_beats_or_ends() {
        let liveness = Liveness::new();
        let (runtime, journal) = (liveness.pulse("runtime"), liveness.pulse("journal"));
        tokio::time::advance(STALLED_AFTER).await;
        runtime.beat();
        assert_eq!(liveness.stalled(), Vec::<&str>::new());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(liveness.stalled(), ["journal"]);
        journal.beat();
        assert_eq!(liveness.stalled(), Vec::<&str>::new());
        tokio::time::advance(STALLED_AFTER * 2).await;
        drop(journal);
        assert_eq!(liveness.stalled(), ["runtime"]);
    }
}
