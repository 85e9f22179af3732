//! How many new events an org had, by half hours of event time, over the last day.
//!
//! *Where it comes from:* the tally holds every journaled event of at least the last two days, by minute, so that a restarted daemon
//! counts a day of it once ([`crate::collect`]) and from then on what it journals. Nothing is stored for it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::status::Moment;
use crate::clock::Second;

/// One bar.
pub const STEP_SECONDS: i64 = 1_800;
/// Bars of a day; the last one is still growing.
pub const STEPS: i64 = 48;

/// New events by the step of event time they happened in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Activity {
    steps: BTreeMap<i64, u64>,
}

/// As it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActivityStatus {
    /// Beginning of the first step.
    pub from: Moment,
    /// Length of a step.
    pub step_seconds: i64,
    /// New events of each step, the oldest first.
    pub events: Vec<u64>,
}

impl ActivityStatus {
    /// New events of the whole day.
    pub fn total(&self) -> u64 {
        self.events.iter().sum()
    }

    pub fn most(&self) -> u64 {
        self.events.iter().copied().max().unwrap_or(0)
    }
}

impl Activity {
    /// Events that happened at `at`, counted at `now`. What is too old to be shown is forgotten, and no event is counted that
    /// lies more than a day ahead, so that it stays small.
    pub fn add(&mut self, at: Second, events: u64, now: Second) {
        let first = first_step(now);
        self.steps = self.steps.split_off(&first);
        let step = step(at);
        if (first..first + 2 * STEPS).contains(&step) {
            *self.steps.entry(step).or_default() += events;
        }
    }

    pub fn shown(&self, now: Second) -> ActivityStatus {
        let first = first_step(now);
        let events = (first..first + STEPS).map(|step| self.steps.get(&step).copied().unwrap_or(0));
        ActivityStatus {
            from: Moment(Second(first * STEP_SECONDS)),
            step_seconds: STEP_SECONDS,
            events: events.collect(),
        }
    }
}

/// From when on events are shown at `now`.
pub fn since(now: Second) -> Second {
    Second(first_step(now) * STEP_SECONDS)
}

fn step(at: Second) -> i64 {
    at.0.div_euclid(STEP_SECONDS)
}

fn first_step(now: Second) -> i64 {
    step(now) - (STEPS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Second = Second(1_795_256_100);

    #[test]
    fn a_day_is_shown_by_half_hours_up_to_the_one_that_runs() {
        let mut activity = Activity::default();
        activity.add(NOW, 2, NOW);
        activity.add(NOW - 1_800, 3, NOW);
        activity.add(since(NOW), 5, NOW);
        activity.add(since(NOW) - 1, 7, NOW);
        let shown = activity.shown(NOW);
        assert_eq!((shown.events.len(), shown.from), (48, Moment(since(NOW))));
        assert_eq!((shown.events[47], shown.events[46], shown.events[0]), (2, 3, 5));
        assert_eq!((shown.total(), shown.most()), (10, 5), "what is older is not shown");

        let later = activity.shown(NOW + 1_800);
        assert_eq!((later.events[46], later.events[45], later.total()), (2, 3, 5));
    }

    #[test]
    fn it_stays_small_whatever_times_events_claim() {
        let mut activity = Activity::default();
        for hour in -10_000..10_000 {
            activity.add(NOW + hour * 3_600, 1, NOW);
        }
        assert!(activity.steps.len() <= 96, "{}", activity.steps.len());
        activity.add(NOW + 86_400 * 9, 1, NOW + 86_400 * 9);
        assert_eq!(activity.steps.len(), 1);
    }
}
