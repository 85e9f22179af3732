//! Coverage as it is shown: stretches of time from `start` to the tip, each with what became of it.

use serde::{Deserialize, Serialize};

use super::status::Moment;
use crate::clock::Second;
use crate::coverage::Coverage;

/// Stretches shown of one org. Coverage has few, unless many seconds are damaged; then the newest of the gravest are shown, and
/// `coverage` has them all.
pub const SPANS_MAX: usize = 64;

/// What became of a stretch of time, the gravest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SpanState {
    /// Not read yet.
    Hole,
    /// Read, and too dense to be read whole.
    Damaged,
    /// Read, and another look is due.
    Unsettled,
    /// Read, and nothing more is expected.
    Settled,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpanStatus {
    pub from: Moment,
    pub until: Moment,
    pub state: SpanState,
}

impl SpanStatus {
    pub fn seconds(&self) -> i64 {
        self.until.0 - self.from.0
    }
}

/// Oldest first, and how many were left out. `last` is the age of the last look that is owed to every span; nothing is owed below
/// `floor`.
pub fn spans(
    coverage: &Coverage,
    start: Option<Second>,
    last: i64,
    floor: Option<Second>,
) -> (Vec<SpanStatus>, u64) {
    let span = |from, until, state| SpanStatus { from: Moment(from), until: Moment(until), state };
    let mut spans: Vec<SpanStatus> = Vec::new();
    for read in coverage.spans() {
        let edge = floor.map_or(read.from, |floor| floor.clamp(read.from, read.until));
        let above = if read.age >= last { SpanState::Settled } else { SpanState::Unsettled };
        let parts = match read.damaged {
            true => vec![span(read.from, read.until, SpanState::Damaged)],
            false => {
                vec![span(read.from, edge, SpanState::Settled), span(edge, read.until, above)]
            }
        };
        spans.extend(parts.into_iter().filter(|part| part.seconds() > 0));
    }
    let holes = start.map(|start| coverage.holes(start)).unwrap_or_default();
    spans.extend(holes.into_iter().map(|hole| span(hole.from, hole.until, SpanState::Hole)));
    spans.sort_unstable_by_key(|span| span.from);
    spans.dedup_by(|next, last| {
        let joins = last.until == next.from && last.state == next.state;
        if joins {
            last.until = next.until;
        }
        joins
    });
    let left_out = spans.len().saturating_sub(SPANS_MAX);
    if left_out > 0 {
        spans.sort_by_key(|span| (span.state, std::cmp::Reverse(span.from)));
        spans.truncate(SPANS_MAX);
        spans.sort_unstable_by_key(|span| span.from);
    }
    (spans, left_out as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Window;

    const AGES: &[i64] = &[10, 40];

    fn cover(coverage: &mut Coverage, from: i64, until: i64, at: i64, damaged: &[Second]) {
        coverage.cover(Window::new(Second(from), Second(until)), Second(at), AGES, damaged);
    }

    fn shown(coverage: &Coverage, floor: Option<i64>) -> Vec<(i64, i64, SpanState)> {
        let (spans, left_out) = spans(coverage, Some(Second(0)), 40, floor.map(Second));
        assert_eq!(left_out, 0);
        spans.iter().map(|span| (span.from.0.0, span.until.0.0, span.state)).collect()
    }

    #[test]
    fn time_is_read_or_a_hole_and_what_was_read_is_settled_or_not() {
        use SpanState::{Damaged, Hole, Settled, Unsettled};
        let mut coverage = Coverage::default();
        cover(&mut coverage, 100, 200, 200, &[Second(120)]);
        cover(&mut coverage, 0, 50, 200, &[]);
        assert_eq!(
            shown(&coverage, None),
            [
                (0, 50, Settled),
                (50, 100, Hole),
                (100, 120, Settled),
                (120, 121, Damaged),
                (121, 160, Settled),
                (160, 200, Unsettled)
            ]
        );
        let joined = shown(&coverage, Some(170));
        assert_eq!(
            joined[4..],
            [(121, 170, Settled), (170, 200, Unsettled)],
            "nothing is owed below the floor"
        );
        assert_eq!(spans(&Coverage::default(), None, 40, None), (vec![], 0));
    }

    #[test]
    fn of_many_the_newest_holes_and_damaged_seconds_are_kept() {
        let mut coverage = Coverage::default();
        let damaged: Vec<Second> = (0..200).map(|at| Second(at * 2)).collect();
        cover(&mut coverage, 0, 1_000, 2_000, &damaged);
        cover(&mut coverage, 1_100, 1_200, 2_000, &[]);
        let (spans, left_out) = spans(&coverage, Some(Second(0)), 40, None);
        assert_eq!((spans.len(), left_out), (SPANS_MAX, 402 - SPANS_MAX as u64));
        assert!(spans.is_sorted_by_key(|span| span.from));
        assert!(spans.iter().any(|span| span.state == SpanState::Hole), "the hole stays");
        assert_eq!(spans.first().map(|span| span.from), Some(Moment(Second(398 - 62 * 2))));
    }
}
