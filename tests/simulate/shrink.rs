//! Makes a history that fails smaller while it still fails: fewer orgs, fewer steps, fewer events.
//!
//! What fails after a step was left out may be another thing than before. It fails all the same, and with less in it.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::history::{History, Reduction};
use crate::wall_clock;

/// The smallest found in this time. `fails` runs a history.
pub(crate) fn shrink(
    seed: u64,
    begin: Reduction,
    patience: Duration,
    fails: impl Fn(History) -> bool,
) -> Reduction {
    let until = wall_clock() + patience;
    let history = History::drawn(seed);
    let mut best = begin;
    let attempt = |smaller: Reduction, best: &mut Reduction| {
        let better = wall_clock() < until && fails(smaller.apply(History::drawn(seed)));
        if better {
            *best = smaller;
        }
        better
    };

    let mut orgs = best.orgs.clone().unwrap_or_else(|| (0..history.orgs.len()).collect());
    for org in orgs.clone() {
        if orgs.len() > 1 {
            let mut fewer = orgs.clone();
            fewer.remove(&org);
            if attempt(Reduction { orgs: Some(fewer.clone()), ..best.clone() }, &mut best) {
                orgs = fewer;
            }
        }
    }

    let mut steps: Vec<usize> = best
        .keep
        .clone()
        .map_or_else(|| (0..history.steps.len()).collect(), |keep| keep.into_iter().collect());
    let mut size = steps.len().div_ceil(2).max(1);
    loop {
        let mut at = 0;
        while at < steps.len() {
            let fewer: Vec<usize> = steps
                .iter()
                .enumerate()
                .filter(|(place, _)| !(at..at + size).contains(place))
                .map(|(_, step)| *step)
                .collect();
            let keep: BTreeSet<usize> = fewer.iter().copied().collect();
            if attempt(Reduction { keep: Some(keep), ..best.clone() }, &mut best) {
                steps = fewer;
            } else {
                at += size;
            }
        }
        if size == 1 {
            break;
        }
        size = size.div_ceil(2);
    }

    for thin in [64, 16, 4, 2] {
        if thin > best.thin && attempt(Reduction { thin, ..best.clone() }, &mut best) {
            break;
        }
    }
    best
}
