//! Which window next: a pure function of coverage, clock and budget.
//!
//! The present comes first: the tip is swept regularly, whatever lies behind it. Holes are then filled oldest first, in turn with
//! the later looks that covered spans are owed; both are background work with half of the request budget
//! ([`crate::pulumi::budget`]).
//!
//! *Why windows of the background are sized by experience:* a quiet org's whole day fits on one page, a busy org's minute may not.
//! The width doubles while windows are cheap and is halved when one was not ([`Width`]), so that a head sweep never waits long for
//! a background window to end.

use crate::chunk::Mode;
use crate::clock::{Second, Window};
use crate::coverage::{Coverage, Look};
use crate::mutant::{self, Mutant};

/// What a sweep is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// The regular one, at the tip.
    Head,
    /// Fills a hole.
    Catchup,
    /// A later look.
    Rescan,
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Head => "head",
            Kind::Catchup => "catchup",
            Kind::Rescan => "rescan",
        }
    }

    /// How the events it finds are marked.
    pub fn mode(self) -> Mode {
        match self {
            Kind::Head => Mode::Live,
            Kind::Catchup => Mode::Catchup,
            Kind::Rescan => Mode::Late,
        }
    }
}

/// Settings of an org's reading, in seconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    pub poll_interval: i64,
    pub overlap: i64,
    pub settle: i64,
    /// Ascending.
    pub rescan_after: Vec<i64>,
    /// Regular head sweeps fall on seconds that leave this remainder when divided by the poll interval: orgs are spread over it.
    pub phase: i64,
}

/// Tallies are kept until their span is settled and lies this far, and the overlap, behind the tip.
const TALLY_KEPT_SECONDS: i64 = 48 * 3_600;

impl Policy {
    /// Event time below which tallies may go: journaled without a hole since `start`, settled, and far behind the tip and `local`,
    /// the local time. Never moves back.
    ///
    /// *Why a hole holds it:* what a corrected time took back was read before, and is compared when it is read again. *Why the local
    /// time does:* a tip that ran ahead with a wrong date is taken back once the date is right again, a floor cannot be. It moves
    /// where two clocks agree.
    pub fn tally_floor(
        &self,
        coverage: &Coverage,
        known: Option<Second>,
        start: Second,
        local: Second,
    ) -> Option<Second> {
        let tip = coverage.tip()?.min(local);
        let settled = coverage.settled_until(&self.rescan_after, known)?;
        let floor = settled.min(coverage.cursor(start)).min(tip - TALLY_KEPT_SECONDS - self.overlap);
        Some(known.map_or(floor, |known| known.max(floor)))
    }

    /// The first time after `last` that is this org's turn.
    fn next_turn(&self, last: Second) -> Second {
        let interval = self.poll_interval.max(1);
        let next = last + 1;
        next + (self.phase - next.0).rem_euclid(interval)
    }
}

/// What the decision rests on.
#[derive(Clone, Copy, Debug)]
pub struct Situation<'a> {
    pub coverage: &'a Coverage,
    pub start: Second,
    /// The service's time.
    pub now: Second,
    /// When the last regular sweep of this process began.
    pub last_head: Option<Second>,
    /// Covered time below this is not asked for again.
    pub tally_floor: Option<Second>,
    /// Width of the next background window, in seconds.
    pub width: i64,
    /// The sweep done last, and the last one in the background.
    pub last: Option<Kind>,
    pub last_background: Option<Kind>,
    /// The org's journal is more than half full: holes wait.
    pub journal_half_full: bool,
}

/// The decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    Sweep {
        window: Window,
        kind: Kind,
    },
    /// Nothing is due before this.
    Wait(Second),
}

/// Which window next?
pub fn next(situation: &Situation<'_>, policy: &Policy) -> Next {
    let head_at = situation.last_head.map_or(situation.now, |last| policy.next_turn(last));
    let head = head(situation, policy).filter(|_| head_at <= situation.now);
    let (look, look_at) = look(situation, policy);
    let hole = hole(situation);
    let turns = match situation.last_background {
        Some(Kind::Rescan) => [(hole, Kind::Catchup), (look, Kind::Rescan)],
        _ => [(look, Kind::Rescan), (hole, Kind::Catchup)],
    };
    // Where head sweeps take longer than a poll interval, one window of the background has its turn between two of them.
    let order = match situation.last {
        Some(Kind::Head) => [turns[0], turns[1], (head, Kind::Head)],
        _ => [(head, Kind::Head), turns[0], turns[1]],
    };
    for (window, kind) in order {
        if let Some(window) = window {
            return Next::Sweep { window, kind };
        }
    }
    // A head sweep that is due may have nothing to read yet (`settle`, or a start that lies ahead): look again in a second.
    let at = look_at.map_or(head_at, |at| at.min(head_at));
    Next::Wait(at.max(situation.now + 1))
}

/// `[max(start, min(tip, now) − overlap, now − settle − overlap − 2 × poll interval), now − settle)`; what lies between the tip and
/// its left edge becomes a hole.
fn head(situation: &Situation<'_>, policy: &Policy) -> Option<Window> {
    let Situation { now, start, .. } = *situation;
    let tip = situation.coverage.tip().unwrap_or(start);
    let overlap = if mutant::is(Mutant::NoOverlap) { 0 } else { policy.overlap };
    let farthest = now - policy.settle - policy.overlap - 2 * policy.poll_interval;
    let from = start.max(tip.min(now) - overlap).max(farthest);
    let window = above_floor(Window::new(from, now - policy.settle), situation, tip);
    (!window.is_empty()).then_some(window)
}

fn look(situation: &Situation<'_>, policy: &Policy) -> (Option<Window>, Option<Second>) {
    let Situation { coverage, now, width, tally_floor, .. } = *situation;
    match coverage.look(now, &policy.rescan_after, width, tally_floor) {
        Look::Due(_) if mutant::is(Mutant::NoLaterLooks) => (None, None),
        Look::Due(window) => (Some(window), None),
        Look::At(at) => (None, Some(at)),
        Look::Nothing => (None, None),
    }
}

/// What is covered below the floor is not asked for again.
fn above_floor(window: Window, situation: &Situation<'_>, covered_until: Second) -> Window {
    let floor = situation.tally_floor.map_or(window.from, |floor| floor.min(covered_until));
    Window::new(window.from.max(floor), window.until)
}

fn hole(situation: &Situation<'_>) -> Option<Window> {
    if situation.journal_half_full {
        return None;
    }
    let hole = situation.coverage.holes(situation.start).into_iter().next()?;
    Some(Window::new(hole.from, hole.until.min(hole.from + situation.width.max(1))))
}

/// How wide background windows are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Width(i64);

const WIDTH_FIRST: i64 = 3_600;
const WIDTH_MAX: i64 = 7 * 86_400;
/// A window that cost at most this many requests was cheap, one that cost more than [`REQUESTS_DEAR`] was dear.
const REQUESTS_CHEAP: u32 = 12;
const REQUESTS_DEAR: u32 = 40;

impl Default for Width {
    fn default() -> Width {
        Width(WIDTH_FIRST)
    }
}

impl Width {
    pub fn seconds(self) -> i64 {
        self.0
    }

    /// Learns from a background window that was read.
    pub fn read(self, window: Window, requests: u32) -> Width {
        if requests > REQUESTS_DEAR {
            self.halved(window)
        } else if requests <= REQUESTS_CHEAP && window.seconds() >= self.0 {
            Width((self.0 * 2).min(WIDTH_MAX))
        } else {
            self
        }
    }

    /// Learns from a window that was too much.
    pub fn halved(self, window: Window) -> Width {
        Width((window.seconds() / 2).clamp(1, WIDTH_MAX).min(self.0))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn policy() -> Policy {
        Policy {
            poll_interval: 300,
            overlap: 900,
            settle: 0,
            rescan_after: vec![3_600, 21_600, 86_400],
            phase: 0,
        }
    }

    fn situation(coverage: &Coverage, now: i64) -> Situation<'_> {
        Situation {
            coverage,
            start: Second(1_000_000),
            now: Second(now),
            last_head: None,
            tally_floor: None,
            width: 3_600,
            last: None,
            last_background: None,
            journal_half_full: false,
        }
    }

    fn window(from: i64, until: i64) -> Window {
        Window::new(Second(from), Second(until))
    }

    #[test]
    fn the_present_comes_before_thirty_days_of_backlog() {
        let coverage = Coverage::default();
        let now = 1_000_000 + 30 * 86_400;
        let next = next(&situation(&coverage, now), &policy());
        assert_eq!(next, Next::Sweep { window: window(now - 1_500, now), kind: Kind::Head });
    }

    #[test]
    fn holes_wait_while_the_journal_is_more_than_half_full() {
        let mut coverage = Coverage::default();
        coverage.cover(window(1_100_000, 1_100_300), Second(1_100_300), &policy().rescan_after, &[]);
        let full = Situation {
            last_head: Some(Second(1_100_300)),
            journal_half_full: true,
            ..situation(&coverage, 1_100_300)
        };
        assert_eq!(next(&full, &policy()), Next::Wait(Second(1_100_400)));
        let room = Situation { journal_half_full: false, ..full };
        assert_eq!(
            next(&room, &policy()),
            Next::Sweep { window: window(1_000_000, 1_003_600), kind: Kind::Catchup }
        );
    }

    #[test]
    fn head_sweeps_that_take_longer_than_a_poll_interval_do_not_starve_the_background() {
        let mut coverage = Coverage::default();
        coverage.cover(window(1_100_000, 1_100_300), Second(1_100_300), &policy().rescan_after, &[]);
        let due = Situation {
            last_head: Some(Second(1_100_000)),
            last: Some(Kind::Head),
            ..situation(&coverage, 1_100_700)
        };
        assert_eq!(
            next(&due, &policy()),
            Next::Sweep { window: window(1_000_000, 1_003_600), kind: Kind::Catchup }
        );
        let after = Situation { last: Some(Kind::Catchup), ..due };
        assert!(matches!(next(&after, &policy()), Next::Sweep { kind: Kind::Head, .. }));
    }

    #[test]
    fn orgs_have_their_turns_at_their_own_phase() {
        let policy = Policy { phase: 100, ..policy() };
        assert_eq!(policy.next_turn(Second(900)), Second(1_000));
        assert_eq!(policy.next_turn(Second(1_000)), Second(1_300));
    }

    /// Read without a gap until `tip`, all of it long settled.
    fn settled(until: i64) -> Coverage {
        let mut coverage = Coverage::default();
        coverage.cover(window(1_000_000, until), Second(until + 10 * 86_400), &policy().rescan_after, &[]);
        coverage
    }

    #[test]
    fn a_kind_says_how_its_events_came_to_be_found() {
        let said = [Kind::Head, Kind::Catchup, Kind::Rescan].map(|kind| (kind.as_str(), kind.mode()));
        assert_eq!(said, [("head", Mode::Live), ("catchup", Mode::Catchup), ("rescan", Mode::Late)]);
    }

    #[test]
    fn a_head_sweep_goes_back_over_the_overlap_and_no_further_than_the_settle_time() {
        let coverage = settled(1_100_000);
        let policy = Policy { settle: 20, ..policy() };
        let at = |now| next(&situation(&coverage, now), &policy);
        let head = |from, until| Next::Sweep { window: window(from, until), kind: Kind::Head };
        assert_eq!(at(1_100_300), head(1_100_000 - 900, 1_100_280));
        assert_eq!(at(1_100_600), head(1_100_000 - 900, 1_100_580), "exactly two intervals behind");
        assert_eq!(at(1_109_000), head(1_109_000 - 1_520, 1_108_980), "what lies between becomes a hole");
        let ahead = next(&situation(&coverage, 1_099_000), &policy);
        assert_eq!(ahead, head(1_099_000 - 900, 1_098_980), "a tip in the future");
    }

    #[test]
    fn no_settle_time_makes_head_sweeps_leave_holes_or_read_nothing() {
        for settle in [0, 90, 601, 86_400] {
            let policy = Policy { overlap: 0, settle, ..policy() };
            let coverage = settled(1_100_000);
            let now = 1_100_000 + settle + policy.poll_interval;
            let head = Next::Sweep { window: window(1_100_000, now - settle), kind: Kind::Head };
            assert_eq!(next(&situation(&coverage, now), &policy), head, "settle {settle}");
        }
    }

    #[test]
    fn nothing_is_read_before_the_start_nor_again_below_the_tally_floor() {
        let policy = policy();
        let head = |from, until| Next::Sweep { window: window(from, until), kind: Kind::Head };
        let none = Coverage::default();
        assert_eq!(next(&situation(&none, 1_000_100), &policy), head(1_000_000, 1_000_100));
        assert_eq!(next(&situation(&none, 1_000_000), &policy), Next::Wait(Second(1_000_001)));
        let coverage = settled(1_100_000);
        let floor = |at| Situation { tally_floor: Some(Second(at)), ..situation(&coverage, 1_100_300) };
        assert_eq!(next(&floor(1_099_500), &policy), head(1_099_500, 1_100_300));
        assert_eq!(next(&floor(1_090_000), &policy), head(1_099_100, 1_100_300));
        let beyond = next(&floor(1_100_200), &policy);
        assert_eq!(beyond, head(1_100_000, 1_100_300), "what was never read is, wherever the floor lies");
    }

    #[test]
    fn the_wait_ends_when_a_look_or_a_head_sweep_is_due_whichever_is_first() {
        let mut coverage = Coverage::default();
        coverage.cover(window(1_000_000, 1_100_300), Second(1_100_300), &policy().rescan_after, &[]);
        let waits = |now, rescan_after: Vec<i64>| {
            let now_read = Situation { last_head: Some(Second(now)), ..situation(&coverage, now) };
            next(&now_read, &Policy { rescan_after, ..policy() })
        };
        // The next turns are at multiples of 300.
        assert_eq!(waits(1_100_300, vec![]), Next::Wait(Second(1_100_400)));
        assert_eq!(waits(1_100_400, vec![]), Next::Wait(Second(1_100_700)));
        // Seconds from 1,096,700 on are owed the look at an hour, fifteen minutes of them at once.
        assert_eq!(waits(1_101_150, vec![3_600]), Next::Wait(Second(1_101_200)));
        let due = waits(1_101_200, vec![3_600]);
        assert_eq!(due, Next::Sweep { window: window(1_096_700, 1_097_600), kind: Kind::Rescan });
    }

    #[test]
    fn later_looks_and_holes_take_turns() {
        let mut coverage = Coverage::default();
        coverage.cover(window(1_050_000, 1_060_000), Second(1_060_000), &policy().rescan_after, &[]);
        coverage.cover(window(1_100_000, 1_100_300), Second(1_100_300), &policy().rescan_after, &[]);
        let after = |last_background| {
            let situation = Situation {
                last_head: Some(Second(1_100_300)),
                last: last_background,
                last_background,
                ..situation(&coverage, 1_100_300)
            };
            match next(&situation, &policy()) {
                Next::Sweep { kind, window } => (kind, window.seconds()),
                wait => panic!("{wait:?}"),
            }
        };
        assert_eq!(after(None), (Kind::Rescan, 3_600));
        assert_eq!(after(Some(Kind::Rescan)), (Kind::Catchup, 3_600));
        assert_eq!(after(Some(Kind::Catchup)), (Kind::Rescan, 3_600));
    }

    #[test]
    fn tallies_are_kept_for_two_days_and_the_overlap_behind_the_tip() {
        let (policy, start) = (policy(), Second(1_000_000));
        let coverage = settled(2_000_000);
        let floor = |known, local| policy.tally_floor(&coverage, known, start, Second(local));
        assert_eq!(floor(None, 3_000_000), Some(Second(2_000_000 - 172_800 - 900)));
        assert_eq!(floor(None, 1_900_000), Some(Second(1_900_000 - 172_800 - 900)), "two clocks must agree");
        assert_eq!(floor(Some(Second(1_900_000)), 3_000_000), Some(Second(1_900_000)), "it never moves back");
        assert_eq!(policy.tally_floor(&Coverage::default(), None, start, start), None);

        let mut hole = settled(1_200_000);
        hole.cover(window(1_300_000, 2_000_000), Second(3_000_000), &policy.rescan_after, &[]);
        assert_eq!(policy.tally_floor(&hole, None, start, Second(3_000_000)), Some(Second(1_200_000)));
        let mut unsettled = settled(1_200_000);
        unsettled.cover(window(1_200_000, 2_000_000), Second(1_300_000), &policy.rescan_after, &[]);
        let owed = Second(1_300_000 - 86_400);
        assert_eq!(policy.tally_floor(&unsettled, None, start, Second(3_000_000)), Some(owed));
    }

    #[test]
    fn a_window_of_the_background_is_at_most_a_week_and_at_least_a_second() {
        let week = 7 * 86_400;
        let mut width = Width::default();
        for _ in 0..20 {
            width = width.read(window(0, width.seconds()), 12);
        }
        assert_eq!(width.seconds(), week);
        assert_eq!(Width::default().read(window(0, 3_600), 13).seconds(), 3_600, "neither cheap nor dear");
        assert_eq!(Width::default().read(window(0, 3_600), 40).seconds(), 3_600);
        assert_eq!(Width::default().read(window(0, 100), 41).seconds(), 50, "half of what was dear");
        assert_eq!(Width::default().halved(window(0, 9_000)).seconds(), 3_600, "never more than before");
    }

    #[test]
    fn the_width_learns() {
        let width = Width::default();
        assert_eq!(width.read(window(0, 3_600), 3).seconds(), 7_200);
        assert_eq!(width.read(window(0, 100), 1).seconds(), 3_600, "a short window says nothing");
        assert_eq!(width.read(window(0, 3_600), 20).seconds(), 3_600);
        assert_eq!(width.read(window(0, 3_600), 41).seconds(), 1_800);
        assert_eq!(width.halved(window(0, 1)).seconds(), 1);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        /// The slow model holds, for each second, how old it was at each of its looks.
        #[test]
        fn every_second_gets_its_looks_also_across_absences(
            absences in prop::collection::vec((1i64..60, 0i64..400), 1..4),
            start_back in 0i64..500,
            settle in 0i64..3,
            overlap in 0i64..30,
        ) {
            let ages = vec![30, 60, 240];
            let policy = Policy { poll_interval: 10, overlap, settle, rescan_after: ages.clone(), phase: 3 };
            let begin = 10_000;
            let start = Second(begin - start_back);
            let mut now = begin;
            let mut coverage = Coverage::default();
            let mut looks: std::collections::BTreeMap<i64, Vec<i64>> = Default::default();
            let mut width = Width(40);
            let mut requests = 0;
            let mut slow = absences.iter().copied().chain([(60, 0)]);
            while let Some((polls, absence)) = slow.next() {
                let (mut last_head, mut last, mut last_background) = (None, None, None);
                let stop = now + polls * 10 + if slow.size_hint().0 == 0 { 600 } else { 0 };
                while now < stop {
                    let situation = Situation {
                        coverage: &coverage, start, now: Second(now), last_head, tally_floor: None,
                        width: width.seconds(), last, last_background, journal_half_full: false,
                    };
                    match next(&situation, &policy) {
                        Next::Wait(until) => {
                            prop_assert!(until.0 > now, "waiting makes progress");
                            prop_assert!(until.0 <= now + 10 || until.0 <= now + settle + 10);
                            now = until.0;
                        }
                        Next::Sweep { window, kind } => {
                            requests += 1;
                            prop_assert!(requests < 3_000);
                            prop_assert!(!window.is_empty() && window.from >= start && window.until.0 <= now);
                            for at in window.from.0..window.until.0 {
                                looks.entry(at).or_default().push(now - at - 1);
                            }
                            coverage.cover(window, Second(now), &policy.rescan_after, &[]);
                            last = Some(kind);
                            if kind == Kind::Head {
                                last_head = Some(Second(now));
                                prop_assert_eq!(coverage.tip(), Some(Second(now - settle)));
                            } else {
                                last_background = Some(kind);
                                width = width.read(window, 1);
                            }
                        }
                    }
                }
                now += absence;
            }
            now = now.max(coverage.tip().map_or(now, |tip| tip.0));
            prop_assert_eq!(coverage.holes(start), vec![], "every hole is closed in the end");
            // A look may be late by its batch (a quarter of the distance between ages), never missing.
            let batch = 45 + 20;
            for (at, ages_seen) in &looks {
                for age in &ages {
                    if now - at > age + batch {
                        prop_assert!(ages_seen.iter().any(|seen| seen >= age), "second {} lacks its look at {}", at, age);
                    }
                }
            }
            prop_assert!(looks.keys().copied().eq(start.0..coverage.tip().unwrap_or(start).0), "no second was passed over");
        }
    }
}
