//! How an org is told to end, and how it is known that nothing of it is left.
//!
//! The process ends: what can be read again is dropped at once, and deliveries under way are finished. The org starts anew with other
//! settings: the step of collecting under way is finished too. The org is removed: it collects no more, and delivers what it has.
//!
//! *Why it is counted what is left:* an org is many tasks, and aborting the first only asks the others to end. Two of one org at a
//! time would read and deliver the same.

use std::convert::Infallible;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// The org's side. Every part of it that runs holds a clone.
#[derive(Clone)]
pub struct Stop {
    process: CancellationToken,
    delivering: CancellationToken,
    collecting: CancellationToken,
    /// Closes with the last clone.
    _left: mpsc::Sender<Infallible>,
}

/// The side of whoever ends it.
pub struct Leash {
    delivering: CancellationToken,
    collecting: CancellationToken,
    left: mpsc::Receiver<Infallible>,
}

impl Stop {
    /// For an org of this process.
    pub fn of(process: &CancellationToken) -> (Leash, Stop) {
        let delivering = process.child_token();
        let collecting = delivering.child_token();
        let (sender, left) = mpsc::channel(1);
        let leash = Leash { delivering: delivering.clone(), collecting: collecting.clone(), left };
        (leash, Stop { process: process.clone(), delivering, collecting, _left: sender })
    }

    /// Cancelled when the whole process ends: nothing is waited for but deliveries under way.
    pub fn process(&self) -> &CancellationToken {
        &self.process
    }

    /// Cancelled when no further delivery may begin; with the process, too.
    pub fn delivering(&self) -> &CancellationToken {
        &self.delivering
    }

    /// Cancelled when no further step of collecting may begin; with delivering, too.
    pub fn collecting(&self) -> &CancellationToken {
        &self.collecting
    }
}

impl Leash {
    /// No further step of collecting begins; what is journaled is still delivered.
    pub fn collect_no_more(&self) {
        self.collecting.cancel();
    }

    /// No further step and no further delivery begins.
    pub fn end(&self) {
        self.delivering.cancel();
    }

    /// Waits until nothing of the org is left. It was told to end, or aborted.
    pub async fn gone(&mut self) {
        while self.left.recv().await.is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_the_process_ends_all_and_an_end_of_collecting_nothing_else() {
        let process = CancellationToken::new();
        let (leash, stop) = Stop::of(&process);
        let cancelled = |stop: &Stop| {
            [stop.collecting(), stop.delivering(), stop.process()].map(CancellationToken::is_cancelled)
        };
        assert_eq!(cancelled(&stop), [false; 3]);
        leash.collect_no_more();
        assert_eq!(cancelled(&stop), [true, false, false]);
        leash.end();
        assert_eq!(cancelled(&stop), [true, true, false]);
        let (_leash, other) = Stop::of(&process);
        assert_eq!(cancelled(&other), [false; 3], "one org's end is no other's");
        process.cancel();
        assert_eq!(cancelled(&other), [true; 3]);
    }

    #[tokio::test]
    async fn it_is_gone_when_the_last_part_is() {
        let (mut leash, stop) = Stop::of(&CancellationToken::new());
        let part = stop.clone();
        drop(stop);
        let waited = tokio::time::timeout(std::time::Duration::ZERO, leash.gone()).await;
        assert!(waited.is_err(), "a part is left");
        drop(part);
        leash.gone().await;
    }
}
