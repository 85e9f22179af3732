//! What time it is at the service: the last believed `Date` header plus the monotonic time since.
//!
//! Windows end at the service's now, so a local clock that is wrong neither skips nor invents time. Until there has been a `Date`,
//! the local clock stands in.
//!
//! *Why a jump must hold:* a cache or a broken node may send one absurd date. A jump is believed only when every date for a whole
//! poll interval has agreed with it.

use std::time::Duration;

use crate::clock::Second;

/// Dates that differ by no more than this do not jump: the header has whole seconds, and an answer takes time.
const STEADY_SECONDS: i64 = 5;

/// Pure: monotonic time is an argument, counted from any fixed moment.
#[derive(Clone, Debug)]
pub struct ServiceClock {
    hold: Duration,
    believed: Option<Reading>,
    /// A jump that is not believed yet, and since when it has held.
    jump: Option<(Reading, Duration)>,
    /// Since when what is believed has held, though it contradicts what was known before there was a date.
    doubted: Option<Duration>,
}

/// A date and when it was read.
#[derive(Clone, Copy, Debug)]
struct Reading {
    date: Second,
    at: Duration,
}

impl Reading {
    fn now(self, at: Duration) -> Second {
        let elapsed = at.saturating_sub(self.at).as_secs();
        self.date.saturating_add(i64::try_from(elapsed).unwrap_or(i64::MAX))
    }

    fn agrees(self, other: Reading) -> bool {
        (self.now(other.at) - other.date).abs() <= STEADY_SECONDS
    }
}

impl ServiceClock {
    /// `hold` is how long a jump must hold: a poll interval.
    pub fn new(hold: Duration) -> ServiceClock {
        ServiceClock { hold, believed: None, jump: None, doubted: None }
    }

    /// Takes in the `Date` of an answer that came `at`. Returns whether the believed time jumped.
    pub fn observe(&mut self, date: Second, at: Duration) -> bool {
        let reading = Reading { date, at };
        let Some(believed) = self.believed else {
            self.believed = Some(reading);
            return false;
        };
        if believed.agrees(reading) {
            self.jump = None;
            // Never step back by the header's rounding.
            if reading.date >= believed.now(at) {
                self.believed = Some(reading);
            }
            return self.outlives_doubt(at);
        }
        // Every date must agree, for the doubt to end.
        self.doubted = self.doubted.map(|_| at);
        match self.jump {
            Some((jump, since)) if jump.agrees(reading) => {
                if at.saturating_sub(since) < self.hold {
                    return false;
                }
                self.believed = Some(reading);
                (self.jump, self.doubted) = (None, None);
                true
            }
            _ => {
                self.jump = Some((reading, at));
                false
            }
        }
    }

    /// The believed time, or the local one where there is no date, contradicts what was known before: it counts as a jump once it has
    /// held.
    pub fn doubt(&mut self, at: Duration) {
        self.doubted.get_or_insert(at);
    }

    /// An answer without a date came `at`. Returns as [`ServiceClock::observe`] does: where there has been no date, the local time is
    /// what must hold.
    pub fn undated(&mut self, at: Duration) -> bool {
        self.believed.is_none() && self.outlives_doubt(at)
    }

    fn outlives_doubt(&mut self, at: Duration) -> bool {
        self.doubted.take_if(|since| at.saturating_sub(*since) >= self.hold).is_some()
    }

    /// The service's time, once known.
    pub fn now(&self, at: Duration) -> Option<Second> {
        self.believed.map(|believed| believed.now(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn clock() -> ServiceClock {
        let mut clock = ServiceClock::new(seconds(300));
        clock.observe(Second(1_000_000), seconds(0));
        clock
    }

    #[test]
    fn it_goes_on_between_answers() {
        assert_eq!(clock().now(seconds(70)), Some(Second(1_000_070)));
        assert_eq!(ServiceClock::new(seconds(1)).now(seconds(9)), None);
    }

    #[test]
    fn one_absurd_date_changes_nothing() {
        let mut clock = clock();
        assert!(!clock.observe(Second(2_000_000), seconds(10)));
        assert!(!clock.observe(Second(1_000_020), seconds(20)));
        assert!(!clock.observe(Second(2_000_400), seconds(410)));
        assert_eq!(clock.now(seconds(410)), Some(Second(1_000_410)));
    }

    #[test]
    fn a_jump_that_holds_for_a_poll_interval_is_believed() {
        for jumped in [2_000_000, 900_000] {
            let mut clock = clock();
            assert!(!clock.observe(Second(jumped), seconds(10)));
            assert!(!clock.observe(Second(jumped + 290), seconds(300)));
            assert!(clock.observe(Second(jumped + 300), seconds(310)));
            assert_eq!(clock.now(seconds(311)), Some(Second(jumped + 301)));
        }
    }

    #[test]
    fn a_doubted_time_that_holds_for_a_poll_interval_counts_as_a_jump_once() {
        let mut clock = clock();
        clock.doubt(seconds(0));
        assert!(!clock.observe(Second(1_000_299), seconds(299)));
        assert!(clock.observe(Second(1_000_300), seconds(300)));
        assert!(!clock.observe(Second(1_000_900), seconds(900)));
        assert_eq!(clock.now(seconds(901)), Some(Second(1_000_901)));
    }

    #[test]
    fn a_doubt_does_not_end_while_dates_disagree() {
        let mut clock = clock();
        clock.doubt(seconds(0));
        assert!(!clock.observe(Second(2_000_000), seconds(200)));
        assert!(!clock.observe(Second(1_000_300), seconds(300)), "it has held since the other date only");
        assert!(clock.observe(Second(1_000_500), seconds(500)));
        // A first date that was the wrong one: the jump to the right one ends the doubt.
        let mut clock = self::clock();
        clock.doubt(seconds(0));
        assert!(!clock.observe(Second(2_000_010), seconds(10)));
        assert!(clock.observe(Second(2_000_310), seconds(310)));
        assert!(!clock.observe(Second(2_000_900), seconds(900)));
    }

    #[test]
    fn without_a_date_it_is_the_local_time_that_must_hold() {
        let mut clock = ServiceClock::new(seconds(300));
        assert!(!clock.undated(seconds(500)), "nobody doubted");
        clock.doubt(seconds(500));
        assert!(!clock.undated(seconds(799)));
        assert!(clock.undated(seconds(800)));
        assert!(!clock.undated(seconds(2_000)));
    }

    #[test]
    fn rounding_never_turns_it_back() {
        let mut clock = clock();
        clock.observe(Second(1_000_009), seconds(10));
        assert_eq!(clock.now(seconds(10)), Some(Second(1_000_010)));
    }
}
