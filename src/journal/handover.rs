//! What the collector of an org and its lanes tell each other, in memory: how far the journal reaches, and how far each lane is.
//!
//! Nothing is decided on it that a crash could make wrong: what counts is in the journal.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::clock::Second;
use crate::destination::DestinationName;

/// What the lanes of an org are told after every commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Journaled {
    /// The number the next chunk will get.
    pub next: u64,
    /// Everything before it is journaled.
    pub cursor: Option<Second>,
}

/// The lanes' checkpoints, as far as the collector needs them: claims carry them.
#[derive(Debug, Default)]
pub struct Checkpoints(BTreeMap<DestinationName, AtomicU64>);

impl Checkpoints {
    pub fn new(checkpoints: &BTreeMap<DestinationName, u64>) -> Checkpoints {
        Checkpoints(checkpoints.iter().map(|(name, next)| (*name, AtomicU64::new(*next))).collect())
    }

    pub fn set(&self, destination: DestinationName, next: u64) {
        if let Some(checkpoint) = self.0.get(&destination) {
            checkpoint.store(next, Ordering::Release);
        }
    }

    pub fn get(&self, destination: DestinationName) -> Option<u64> {
        self.0.get(&destination).map(|next| next.load(Ordering::Acquire))
    }

    /// The configured lanes.
    pub fn lanes(&self) -> Vec<DestinationName> {
        self.0.keys().copied().collect()
    }

    /// By the lanes' names, as claims carry them.
    pub fn named(&self) -> BTreeMap<String, u64> {
        self.0.iter().map(|(name, next)| (name.to_string(), next.load(Ordering::Acquire))).collect()
    }
}
