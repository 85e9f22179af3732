//! Coverage: the ledger of which event time has been read, how late it was last read, and what could not be read whole.
//!
//! Coverage is the truth and the cursor is derived from it. This module is pure: it does not know what a sweep is, and reads no
//! clock.
//!
//! *Why a span holds an age and not a number of looks:* the age at which a second was last read (rounded down to a configured one)
//! says what is still owed to it, also after an outage, and also after `rescan_after` was changed.

use serde::{Deserialize, Serialize};

use crate::clock::{Second, Window};

/// No setting asks for a later look than after a hundred years.
const AGE_MAX: i64 = 100 * 366 * 86_400;

/// Neighbouring seconds in the same state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    pub from: Second,
    pub until: Second,
    /// The service's time of the last look; of several merged ones the latest.
    pub read_at: Second,
    /// Every second of the span was read when it was at least this old, in seconds: 0 or one of `rescan_after`.
    pub age: i64,
    /// A second too dense to be read whole.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub damaged: bool,
}

/// Ordered spans that do not overlap.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Coverage {
    spans: Vec<Span>,
}

impl Coverage {
    /// Spans from a stored form.
    ///
    /// # Errors
    /// When they are out of order or overlap, or lie where no time can be counted: the store is damaged.
    pub fn from_spans(spans: Vec<Span>) -> Result<Coverage, Disordered> {
        let countable = |span: &Span| {
            [span.from, span.until, span.read_at].into_iter().all(Second::has_a_date)
                && (0..=AGE_MAX).contains(&span.age)
        };
        let ordered = spans.iter().all(|span| span.from < span.until && countable(span))
            && spans.windows(2).all(|pair| pair[0].until <= pair[1].from);
        if ordered { Ok(Coverage { spans }) } else { Err(Disordered) }
    }

    pub fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// The right edge of the newest committed window.
    pub fn tip(&self) -> Option<Second> {
        self.spans.last().map(|span| span.until)
    }

    /// The service's time of the newest look of all.
    pub fn last_read(&self) -> Option<Second> {
        self.spans.iter().map(|span| span.read_at).max()
    }

    /// The gaps between `start` and the tip, oldest first.
    pub fn holes(&self, start: Second) -> Vec<Window> {
        let mut holes = Vec::new();
        let mut edge = start;
        for span in &self.spans {
            if span.from > edge {
                holes.push(Window::new(edge, span.from));
            }
            edge = edge.max(span.until);
        }
        holes
    }

    /// The left edge of the first hole; without one, the tip. Everything before it is journaled.
    pub fn cursor(&self, start: Second) -> Second {
        let mut edge = start;
        for span in &self.spans {
            if span.from > edge {
                break;
            }
            edge = edge.max(span.until);
        }
        edge
    }

    /// Whether a second was read and could not be proven whole.
    pub fn is_damaged(&self, at: Second) -> bool {
        self.spans.iter().any(|span| span.damaged && span.from <= at && at < span.until)
    }

    pub fn damaged_seconds(&self) -> i64 {
        self.spans.iter().filter(|span| span.damaged).map(|span| span.until - span.from).sum()
    }

    /// Seconds that were read, and that another look is owed to. Nothing is owed below `floor`.
    pub fn unsettled_seconds(&self, ages: &[i64], floor: Option<Second>) -> i64 {
        let last = ages.last().copied().unwrap_or(0);
        self.runs_below(last, floor).iter().map(|run| run.seconds()).sum()
    }

    /// The left edge of the first span that is owed another look, or the tip. Nothing is owed below `floor`.
    pub fn settled_until(&self, ages: &[i64], floor: Option<Second>) -> Option<Second> {
        let last = ages.last().copied().unwrap_or(0);
        self.runs_below(last, floor).first().map(|run| run.from).or(self.tip())
    }

    /// Adds a window that was read whole, by a sweep that began at `read_at`, except for its `damaged` seconds. `ages` are those
    /// of `rescan_after`, ascending.
    pub fn cover(&mut self, window: Window, read_at: Second, ages: &[i64], damaged: &[Second]) {
        if window.is_empty() {
            return;
        }
        let inside = |at: &Second| window.contains(*at);
        let mut edges = vec![window.from, window.until];
        edges.extend(ages.iter().map(|age| read_at - *age).filter(inside));
        edges.extend(damaged.iter().flat_map(|at| [*at, *at + 1]).filter(inside));
        edges.extend(self.spans.iter().flat_map(|span| [span.from, span.until]).filter(inside));
        edges.sort_unstable();
        edges.dedup();

        let fresh: Vec<Span> = edges
            .windows(2)
            .map(|edge| {
                let (from, until) = (edge[0], edge[1]);
                let age = ages.iter().copied().filter(|age| until <= read_at - *age).max().unwrap_or(0);
                let known = self.spans.iter().find(|span| span.from <= from && until <= span.until);
                // A clock that was corrected may make a later look seem earlier; what was reached stays reached.
                let age = known.map_or(age, |span| span.age.max(age));
                Span { from, until, read_at, age, damaged: damaged.contains(&from) }
            })
            .collect();

        let mut spans: Vec<Span> = Vec::with_capacity(self.spans.len() + fresh.len() + 1);
        for span in &self.spans {
            if span.from < window.from {
                spans.push(Span { until: span.until.min(window.from), ..*span });
            }
            if span.until > window.until {
                spans.push(Span { from: span.from.max(window.until), ..*span });
            }
        }
        spans.extend(fresh);
        spans.sort_unstable_by_key(|span| span.from);
        self.spans = merged(spans);
    }

    /// Takes back what lies beyond a corrected `now`: it cannot have been read. Nor were the ages reached that the rest was said to
    /// be read at while the time was wrong, so all of it that may be asked for again, from `floor` on, is owed its looks anew.
    pub fn take_back(&mut self, now: Second, floor: Option<Second>) {
        if let Some(tip) = self.tip() {
            self.uncover(Window::new(now, tip));
        }
        let mut spans: Vec<Span> = Vec::with_capacity(self.spans.len() + 1);
        for span in &self.spans {
            let span = Span { read_at: span.read_at.min(now), ..*span };
            let edge = floor.map_or(span.from, |floor| floor.clamp(span.from, span.until));
            let parts = [Span { until: edge, ..span }, Span { from: edge, age: 0, ..span }];
            spans.extend(parts.into_iter().filter(|part| part.from < part.until));
        }
        self.spans = merged(spans);
    }

    /// Forgets that a window was read: what was journaled of it is not there any more.
    pub fn uncover(&mut self, window: Window) {
        let mut spans: Vec<Span> = Vec::with_capacity(self.spans.len() + 1);
        for span in &self.spans {
            let before = Span { until: span.until.min(window.from), ..*span };
            let after = Span { from: span.from.max(window.until), ..*span };
            if window.is_empty() {
                spans.push(*span);
            } else {
                spans.extend([before, after].into_iter().filter(|part| part.from < part.until));
            }
        }
        self.spans = spans;
    }

    /// The seconds to which a look is owed now, oldest first, clipped to `width` seconds; and, when none is due, the time when the
    /// next one will be.
    ///
    /// Looks are gathered until a quarter of the distance to the previous age is due (1 h: 15 min; 6 h: 75 min; 24 h: 4.5 h), so
    /// that a quiet org costs few requests. None is owed below `floor`, however the ages have changed since.
    pub fn look(&self, now: Second, ages: &[i64], width: i64, floor: Option<Second>) -> Look {
        let mut next = None;
        for (index, age) in ages.iter().copied().enumerate().rev() {
            let previous = if index == 0 { 0 } else { ages[index - 1] };
            let batch = ((age - previous) / 4).max(1);
            let limit = now - age;
            for run in self.runs_below(age, floor) {
                let due = Window::new(run.from, run.until.min(limit));
                if due.seconds() >= batch || (!due.is_empty() && run.until < limit) {
                    let until = due.until.min(due.from + width.max(1));
                    return Look::Due(Window::new(due.from, until));
                }
                let at = (run.from + batch).min(run.until + 1) + age;
                next = Some(next.map_or(at, |known: Second| known.min(at)));
            }
        }
        next.map_or(Look::Nothing, Look::At)
    }

    /// Contiguous spans from `floor` on that were never read at `age` or later.
    fn runs_below(&self, age: i64, floor: Option<Second>) -> Vec<Window> {
        let mut runs: Vec<Window> = Vec::new();
        for span in self.spans.iter().filter(|span| span.age < age) {
            let from = floor.map_or(span.from, |floor| floor.max(span.from));
            match runs.last_mut() {
                _ if from >= span.until => {}
                Some(run) if run.until == from => run.until = span.until,
                _ => runs.push(Window::new(from, span.until)),
            }
        }
        runs
    }
}

/// What [`Coverage::look`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    Due(Window),
    At(Second),
    Nothing,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("coverage spans are out of order")]
pub struct Disordered;

fn merged(spans: Vec<Span>) -> Vec<Span> {
    let mut result: Vec<Span> = Vec::with_capacity(spans.len());
    for span in spans {
        match result.last_mut() {
            Some(last) if last.until == span.from && last.age == span.age && last.damaged == span.damaged => {
                last.until = span.until;
                last.read_at = last.read_at.max(span.read_at);
            }
            _ => result.push(span),
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const AGES: &[i64] = &[10, 40];

    fn window(from: i64, until: i64) -> Window {
        Window::new(Second(from), Second(until))
    }

    fn span(from: i64, until: i64) -> Span {
        Span { from: Second(from), until: Second(until), read_at: Second(until), age: 0, damaged: false }
    }

    #[test]
    fn a_stored_form_out_of_order_is_refused() {
        let stored = |spans: &[Span]| Coverage::from_spans(spans.to_vec());
        assert_eq!(stored(&[span(0, 5), span(5, 9), span(20, 21)]).unwrap().spans().len(), 3);
        for damaged in [
            &[span(5, 5)][..],
            &[span(5, 4)],
            &[span(0, 6), span(5, 9)],
            &[span(5, 9), span(0, 5)],
            &[span(0, 5), span(7, 7), span(8, 9)],
        ] {
            assert_eq!(stored(damaged), Err(Disordered), "{damaged:?}");
        }
    }

    #[test]
    fn a_stored_form_where_no_time_can_be_counted_is_refused() {
        let stored = |span: Span| Coverage::from_spans(vec![span]).map(drop);
        let good = Span { age: AGE_MAX, ..span(0, 5) };
        assert_eq!(stored(good), Ok(()));
        for damaged in [
            Span { from: Second(i64::MIN), ..good },
            Span { until: Second(i64::MAX), ..good },
            Span { read_at: Second(i64::MAX), ..good },
            Span { age: -1, ..good },
            Span { age: AGE_MAX + 1, ..good },
        ] {
            assert_eq!(stored(damaged), Err(Disordered), "{damaged:?}");
        }
    }

    #[test]
    fn a_second_that_was_read_at_the_greatest_age_a_setting_may_ask_for_is_not_refused() {
        let century = 100 * 366 * 24 * 60 * 60;
        let read = Second(1_795_256_100);
        let settled = Span {
            from: read - century - 5,
            until: read - century,
            read_at: read,
            age: century,
            damaged: false,
        };
        assert_eq!(Coverage::from_spans(vec![settled]).map(drop), Ok(()));
        assert_eq!(century, 3_162_240_000);
    }

    #[test]
    fn holes_lie_between_the_start_and_the_tip_and_nowhere_else() {
        let coverage =
            Coverage::from_spans(vec![span(10, 20), span(20, 30), span(40, 50), span(51, 60)]).unwrap();
        assert_eq!(coverage.tip(), Some(Second(60)));
        assert_eq!(coverage.holes(Second(0)), [window(0, 10), window(30, 40), window(50, 51)]);
        assert_eq!(coverage.holes(Second(10)), [window(30, 40), window(50, 51)]);
        assert_eq!(coverage.holes(Second(25)), [window(30, 40), window(50, 51)], "a start inside a span");
        assert_eq!(coverage.holes(Second(35)), [window(35, 40), window(50, 51)]);
        assert_eq!(coverage.holes(Second(70)), []);
        let cursors = [0, 10, 25, 30, 45, 70].map(|start| coverage.cursor(Second(start)).0);
        assert_eq!(cursors, [0, 30, 30, 30, 50, 70]);
        assert_eq!(Coverage::default().tip(), None);
    }

    #[test]
    fn a_damaged_second_is_damaged_from_its_beginning_to_its_end() {
        let mut coverage = Coverage::default();
        coverage.cover(window(0, 10), Second(10), AGES, &[Second(0), Second(4), Second(5), Second(9)]);
        let damaged: Vec<i64> = (-1..12).filter(|at| coverage.is_damaged(Second(*at))).collect();
        assert_eq!(damaged, [0, 4, 5, 9]);
        assert_eq!(coverage.damaged_seconds(), 4);
        coverage.cover(window(5, 6), Second(60), AGES, &[]);
        assert!(coverage.is_damaged(Second(4)) && !coverage.is_damaged(Second(5)));
    }

    #[test]
    fn looks_are_gathered_until_a_quarter_of_the_distance_to_the_previous_age() {
        let ages = &[100, 500][..];
        let mut coverage = Coverage::default();
        coverage.cover(window(0, 1_000), Second(1_000), ages, &[]);
        // Owed at 100 is what was younger when it was read: 900 to 1,000, 25 seconds at a time; at 500: 500 to 1,000, 100 at a time.
        assert_eq!(coverage.look(Second(1_000), ages, 1_000, None), Look::At(Second(1_025)));
        assert_eq!(coverage.look(Second(1_024), ages, 1_000, None), Look::At(Second(1_025)));
        assert_eq!(coverage.look(Second(1_025), ages, 1_000, None), Look::Due(window(900, 925)));
        assert_eq!(
            coverage.look(Second(1_025), ages, 10, None),
            Look::Due(window(900, 910)),
            "no wider than asked"
        );
        assert_eq!(coverage.look(Second(1_025), ages, 0, None), Look::Due(window(900, 901)));
        assert_eq!(
            coverage.look(Second(1_100), ages, 1_000, None),
            Look::Due(window(500, 600)),
            "the oldest age first"
        );
        // The end of a run is not waited for longer than until it is old enough itself.
        let mut short = Coverage::default();
        short.cover(window(0, 10), Second(10), ages, &[]);
        assert_eq!(short.look(Second(10), ages, 1_000, None), Look::At(Second(111)));
        assert_eq!(short.look(Second(110), ages, 1_000, None), Look::At(Second(111)));
        assert_eq!(short.look(Second(111), ages, 1_000, None), Look::Due(window(0, 10)));
        assert_eq!(Coverage::default().look(Second(1_000), ages, 1_000, None), Look::Nothing);
    }

    #[test]
    fn what_is_owed_is_told_apart_by_the_gaps_between_it() {
        let mut coverage = Coverage::default();
        for from in [0, 10, 30] {
            coverage.cover(window(from, from + 10), Second(from + 10), AGES, &[]);
        }
        assert_eq!(coverage.unsettled_seconds(AGES, None), 30);
        assert_eq!(coverage.settled_until(AGES, None), Some(Second(0)));
        assert_eq!(coverage.unsettled_seconds(AGES, Some(Second(15))), 15);
        assert_eq!(coverage.unsettled_seconds(AGES, Some(Second(20))), 10);
        assert_eq!(coverage.settled_until(AGES, Some(Second(20))), Some(Second(30)));
        assert_eq!(coverage.settled_until(AGES, Some(Second(40))), Some(Second(40)), "the tip");
        assert_eq!(coverage.unsettled_seconds(&[], None), 0, "without later looks nothing is owed");
        assert_eq!(coverage.look(Second(100), AGES, 1_000, None), Look::Due(window(0, 20)), "up to the gap");
    }

    #[test]
    fn an_empty_window_covers_nothing() {
        let mut coverage = Coverage::default();
        coverage.cover(window(5, 5), Second(10), AGES, &[]);
        coverage.cover(window(5, 4), Second(10), AGES, &[]);
        assert_eq!(coverage, Coverage::default());
    }

    #[test]
    fn of_spans_that_are_joined_the_latest_look_is_remembered() {
        let mut coverage = Coverage::default();
        coverage.cover(window(0, 5), Second(9), AGES, &[]);
        coverage.cover(window(5, 10), Second(8), AGES, &[]);
        coverage.cover(window(12, 15), Second(7), AGES, &[]);
        let read: Vec<_> =
            coverage.spans().iter().map(|span| (span.from.0, span.until.0, span.read_at.0)).collect();
        assert_eq!(read, [(0, 10, 9), (12, 15, 7)]);
        assert_eq!(coverage.last_read(), Some(Second(9)));
    }

    #[test]
    fn the_cursor_stops_at_the_first_hole() {
        let mut coverage = Coverage::default();
        coverage.cover(window(10, 20), Second(20), AGES, &[]);
        assert_eq!(coverage.cursor(Second(0)), Second(0));
        assert_eq!(coverage.holes(Second(0)), [window(0, 10)]);
        coverage.cover(window(0, 10), Second(21), AGES, &[]);
        assert_eq!(coverage.cursor(Second(0)), Second(20));
        assert_eq!(coverage.holes(Second(0)), []);
    }

    #[test]
    fn a_span_read_before_an_absence_is_owed_its_looks_afterwards() {
        let mut coverage = Coverage::default();
        coverage.cover(window(0, 100), Second(100), AGES, &[]);
        let Look::Due(due) = coverage.look(Second(1_000), AGES, 1_000, None) else {
            panic!("a look is owed")
        };
        assert_eq!(due, window(60, 100), "what was younger than the last age when it was read");
        coverage.cover(due, Second(1_000), AGES, &[]);
        assert_eq!(coverage.look(Second(1_000), AGES, 1_000, None), Look::Nothing);
        assert_eq!(coverage.unsettled_seconds(AGES, None), 0);
    }

    #[test]
    fn what_was_read_late_enough_stays_so_where_a_corrected_time_says_otherwise() {
        let mut coverage = Coverage::default();
        coverage.cover(window(20, 80), Second(1_000), AGES, &[]);
        coverage.cover(window(0, 100), Second(70), AGES, &[]);
        assert_eq!(coverage.settled_until(AGES, None), Some(Second(80)));
        assert_eq!(coverage.unsettled_seconds(AGES, None), 20, "those that were not read before");
    }

    #[test]
    fn nothing_below_the_floor_is_owed_even_when_later_looks_are_asked_for_since() {
        let mut coverage = Coverage::default();
        coverage.cover(window(0, 200), Second(300), &AGES[..1], &[]);
        let floor = Some(Second(150));
        assert_eq!(coverage.look(Second(1_000), AGES, 1_000, floor), Look::Due(window(150, 200)));
        assert_eq!(coverage.settled_until(AGES, floor), Some(Second(150)));
        assert_eq!(coverage.unsettled_seconds(AGES, floor), 50);
        assert_eq!(coverage.look(Second(1_000), AGES, 1_000, Some(Second(200))), Look::Nothing);
    }

    #[test]
    fn after_a_wrong_time_everything_above_the_floor_is_owed_its_looks() {
        let mut coverage = Coverage::default();
        coverage.cover(window(0, 200), Second(1_000), AGES, &[]);
        coverage.take_back(Second(120), Some(Second(50)));
        assert_eq!(coverage.tip(), Some(Second(120)));
        assert_eq!(coverage.settled_until(AGES, None), Some(Second(50)));
        assert_eq!(coverage.unsettled_seconds(AGES, None), 70);
    }

    #[test]
    fn a_window_that_is_uncovered_is_a_hole_and_its_neighbours_stay() {
        let mut coverage = Coverage::default();
        coverage.cover(window(0, 100), Second(100), AGES, &[Second(90)]);
        coverage.uncover(window(20, 30));
        assert_eq!(coverage.holes(Second(0)), [window(20, 30)]);
        assert_eq!(coverage.tip(), Some(Second(100)));
        assert!(coverage.is_damaged(Second(90)));
        coverage.uncover(window(50, 50));
        coverage.uncover(window(80, 200));
        assert_eq!(coverage.holes(Second(0)), [window(20, 30)]);
        assert_eq!(coverage.tip(), Some(Second(80)));
        coverage.uncover(window(-10, 500));
        assert_eq!(coverage, Coverage::default());
        coverage.uncover(window(0, 10));
        assert_eq!(coverage, Coverage::default(), "there was nothing to forget");
        coverage.cover(window(0, 100), Second(100), AGES, &[]);
        coverage.uncover(window(0, 100));
        assert_eq!(coverage, Coverage::default(), "nothing is left at its edges");
    }

    #[test]
    fn a_damaged_second_heals_when_it_is_read_whole() {
        let mut coverage = Coverage::default();
        coverage.cover(window(0, 10), Second(10), AGES, &[Second(4)]);
        assert_eq!(coverage.damaged_seconds(), 1);
        assert_eq!(coverage.cursor(Second(0)), Second(10), "it is covered all the same");
        coverage.cover(window(0, 10), Second(60), AGES, &[]);
        assert_eq!(coverage.damaged_seconds(), 0);
        assert_eq!(coverage.spans().len(), 1);
    }

    proptest! {
        /// A slow model: one cell a second. Time is corrected now and then, so a later look may be of an earlier time.
        #[test]
        fn coverage_agrees_with_one_cell_a_second(
            reads in prop::collection::vec((0i64..60, 1i64..30, 0i64..80, prop::option::of(0i64..60)), 1..12)
        ) {
            let mut coverage = Coverage::default();
            let mut cells: Vec<Option<(i64, bool)>> = vec![None; 100];
            for (from, length, later, damaged) in reads {
                let window = window(from, from + length);
                let now = window.until.0 + later;
                let damaged: Vec<Second> = damaged.map(Second).into_iter().filter(|at| window.contains(*at)).collect();
                coverage.cover(window, Second(now), AGES, &damaged);
                for at in window.from.0..window.until.0 {
                    let age = AGES.iter().copied().filter(|age| at < now - age).max().unwrap_or(0);
                    let known = cells[at as usize].map_or(0, |(age, _)| age);
                    cells[at as usize] = Some((age.max(known), damaged.contains(&Second(at))));
                }
                for (at, cell) in cells.iter().enumerate() {
                    let span = coverage.spans().iter().find(|s| Window::new(s.from, s.until).contains(Second(at as i64)));
                    prop_assert_eq!(span.map(|s| (s.age, s.damaged)), *cell, "second {}", at);
                }
                prop_assert!(Coverage::from_spans(coverage.spans().to_vec()).is_ok());
            }
            for (at, cell) in cells.iter().enumerate().take_while(|(_, cell)| cell.is_some()) {
                prop_assert!(coverage.cursor(Second(0)) > Second(at as i64) || cell.is_none());
            }
        }

        /// The same model, when time was wrong: nothing is left beyond now, and from the floor on nothing of age.
        #[test]
        fn what_is_taken_back_agrees_with_one_cell_a_second(
            reads in prop::collection::vec((0i64..60, 1i64..30, 0i64..40, prop::option::of(0i64..60)), 1..8),
            now in 0i64..100,
            floor in prop::option::of(0i64..100),
        ) {
            let mut coverage = Coverage::default();
            for (from, length, later, damaged) in reads {
                let window = window(from, from + length);
                let damaged: Vec<Second> = damaged.map(Second).into_iter().filter(|at| window.contains(*at)).collect();
                coverage.cover(window, Second(window.until.0 + later), AGES, &damaged);
            }
            let cells = |coverage: &Coverage| -> Vec<Option<(i64, bool)>> {
                let of = |at: i64| coverage.spans().iter().find(|s| s.from.0 <= at && at < s.until.0);
                (0..100).map(|at| of(at).map(|span| (span.age, span.damaged))).collect()
            };
            let before = cells(&coverage);
            coverage.take_back(Second(now), floor.map(Second));
            prop_assert!(Coverage::from_spans(coverage.spans().to_vec()).is_ok());
            for (at, (before, after)) in before.into_iter().zip(cells(&coverage)).enumerate() {
                let at = at as i64;
                let old = floor.is_some_and(|floor| at < floor);
                let expected = before.filter(|_| at < now).map(|(age, damaged)| (if old { age } else { 0 }, damaged));
                prop_assert_eq!(after, expected, "second {}", at);
            }
        }
    }
}
