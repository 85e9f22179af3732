//! Time: whole seconds, windows, and the one place where a clock is read.
//!
//! Everything that decides (plan, sweep, tally, retry) takes time as an argument. What waits, waits on tokio's clock; what needs
//! the date, asks a [`Clock`]. No other module may read the system's clock (`clippy.toml` bans it).
//!
//! *Why a value and not a global:* tests run days in a second on tokio's paused clock, and a [`Clock`] made with
//! [`Clock::simulated`] moves with it.

use std::fmt;
use std::ops::{Add, Sub};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A point in time, in whole Unix seconds. Pulumi's timestamps have no finer grain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Second(pub i64);

/// The first second of year 0 and the last of year 9999.
const YEAR_0: i64 = -62_167_219_200;
const YEAR_9999: i64 = 253_402_300_799;

impl Second {
    /// The UTC date this second lies in, as `YYYY-MM-DD`.
    pub fn date(self) -> String {
        let date = self.date_time().date();
        format!("{:04}-{:02}-{:02}", date.year(), u8::from(date.month()), date.day())
    }

    /// The first second of this second's UTC day.
    pub fn midnight(self) -> Second {
        Second(self.0.div_euclid(86_400) * 86_400)
    }

    /// Years outside 0–9999 have no RFC 3339 form; they are shown as the nearest that has one.
    fn date_time(self) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(self.0.clamp(YEAR_0, YEAR_9999))
            .unwrap_or(OffsetDateTime::UNIX_EPOCH)
    }

    /// Reads an RFC 3339 time; fractions of a second are cut off. Nothing where its offset leads out of the years 0–9999.
    pub fn parse_rfc3339(text: &str) -> Option<Second> {
        OffsetDateTime::parse(text, &Rfc3339)
            .ok()
            .map(|t| Second(t.unix_timestamp()))
            .filter(|at| at.has_a_date())
    }

    /// Whether it lies in the years 0–9999, far from where adding to it overflows.
    pub fn has_a_date(self) -> bool {
        (YEAR_0..=YEAR_9999).contains(&self.0)
    }

    pub fn saturating_add(self, seconds: i64) -> Second {
        Second(self.0.saturating_add(seconds))
    }
}

/// RFC 3339 in UTC: `2026-11-21T10:15:00Z`.
impl fmt::Display for Second {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let t = self.date_time();
        write!(
            f,
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z",
            t.year(),
            u8::from(t.month()),
            t.day(),
            t.hour(),
            t.minute(),
            t.second()
        )
    }
}

impl Add<i64> for Second {
    type Output = Second;
    fn add(self, seconds: i64) -> Second {
        Second(self.0 + seconds)
    }
}

impl Sub<i64> for Second {
    type Output = Second;
    fn sub(self, seconds: i64) -> Second {
        Second(self.0 - seconds)
    }
}

impl Sub<Second> for Second {
    type Output = i64;
    fn sub(self, other: Second) -> i64 {
        self.0 - other.0
    }
}

/// A half-open span of event time, `[from, until)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Window {
    pub from: Second,
    pub until: Second,
}

impl Window {
    pub fn new(from: Second, until: Second) -> Window {
        Window { from, until }
    }

    /// Length in seconds, never negative.
    pub fn seconds(self) -> i64 {
        (self.until - self.from).max(0)
    }

    pub fn is_empty(self) -> bool {
        self.until <= self.from
    }

    pub fn contains(self, at: Second) -> bool {
        self.from <= at && at < self.until
    }

    /// The older and the newer half; `None` when the window is a single second and cannot be halved.
    pub fn halves(self) -> Option<(Window, Window)> {
        if self.seconds() < 2 {
            return None;
        }
        let middle = self.from + self.seconds() / 2;
        Some((Window::new(self.from, middle), Window::new(middle, self.until)))
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.from, self.until)
    }
}

/// A duration in whole seconds, as event time counts them.
pub fn whole_seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

/// Where the date comes from. Cloning is cheap.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Duration + Send + Sync>);

impl Clock {
    /// The system's clock.
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the system's clock")]
    pub fn system() -> Clock {
        Clock(Arc::new(|| SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()))
    }

    /// A clock that shows `start` now and moves with tokio's clock, which a test may have paused.
    pub fn simulated(start: Second) -> Clock {
        let base = Duration::from_secs(u64::try_from(start.0).unwrap_or_default());
        let origin = tokio::time::Instant::now();
        Clock(Arc::new(move || base + origin.elapsed()))
    }

    pub fn now(&self) -> Second {
        Second(i64::try_from(self.since_epoch().as_secs()).unwrap_or(i64::MAX))
    }

    /// Time since the Unix epoch, for differences finer than a second.
    pub fn since_epoch(&self) -> Duration {
        (self.0)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Clock({})", self.now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_is_shown_and_read_as_rfc_3339() {
        let second = Second(1_795_256_100);
        assert_eq!(second.to_string(), "2026-11-21T10:15:00Z");
        assert_eq!(Second::parse_rfc3339("2026-11-21T11:15:00.9+01:00"), Some(second));
        assert_eq!(second.date(), "2026-11-21");
    }

    #[test]
    fn years_without_an_rfc_3339_form_are_shown_as_the_nearest_that_has_one() {
        assert_eq!(Second(i64::MIN).to_string(), "0000-01-01T00:00:00Z");
        assert_eq!(Second(i64::MAX).to_string(), "9999-12-31T23:59:59Z");
        assert_eq!(Second::parse_rfc3339("2026-11-21"), None);
    }

    #[test]
    fn an_offset_that_leads_out_of_the_years_is_no_time() {
        assert_eq!(Second::parse_rfc3339("0000-01-01T00:00:00Z"), Some(Second(YEAR_0)));
        assert_eq!(Second::parse_rfc3339("0000-01-01T00:00:00+01:00"), None);
        assert_eq!(Second::parse_rfc3339("9999-12-31T23:59:59Z"), Some(Second(YEAR_9999)));
        assert_eq!(Second::parse_rfc3339("9999-12-31T23:59:59-01:00"), None);
    }

    #[test]
    fn a_day_begins_at_midnight_also_before_1970() {
        assert_eq!(Second(1_795_256_100).midnight(), Second(1_795_219_200));
        assert_eq!(Second(-1).midnight(), Second(-86_400));
        assert_eq!(Second(-1).date(), "1969-12-31");
    }

    #[test]
    fn a_window_holds_its_first_second_and_not_its_last_edge() {
        let window = Window::new(Second(10), Second(13));
        let inside: Vec<i64> = (8..16).filter(|at| window.contains(Second(*at))).collect();
        assert_eq!(inside, [10, 11, 12]);
        assert_eq!((window.seconds(), window.is_empty()), (3, false));
        for until in [10, 9] {
            let window = Window::new(Second(10), Second(until));
            assert_eq!((window.seconds(), window.is_empty()), (0, true));
        }
        assert_eq!(window.to_string(), "1970-01-01T00:00:10Z/1970-01-01T00:00:13Z");
    }

    #[test]
    fn time_beyond_the_end_stays_at_the_end() {
        assert_eq!(Second(5).saturating_add(7), Second(12));
        assert_eq!(Second(i64::MAX).saturating_add(7), Second(i64::MAX));
        assert_eq!(whole_seconds(Duration::from_millis(2_999)), 2);
        assert_eq!(whole_seconds(Duration::MAX), i64::MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn a_simulated_clock_shows_its_start_and_moves_with_tokios() {
        let clock = Clock::simulated(Second(1_795_256_100));
        assert_eq!(clock.now(), Second(1_795_256_100));
        tokio::time::advance(Duration::from_millis(61_500)).await;
        assert_eq!(clock.now(), Second(1_795_256_161));
        assert_eq!(clock.since_epoch(), Duration::from_millis(1_795_256_161_500));
        assert_eq!(format!("{clock:?}"), "Clock(2026-11-21T10:16:01Z)");
    }

    #[test]
    fn a_single_second_cannot_be_halved() {
        let w = |from, until| Window::new(Second(from), Second(until));
        assert_eq!(w(5, 6).halves(), None);
        assert_eq!(w(0, 2).halves(), Some((w(0, 1), w(1, 2))));
        assert_eq!(w(0, 10).halves(), Some((w(0, 5), w(5, 10))));
        assert_eq!(
            Window::new(Second(5), Second(8)).halves(),
            Some((Window::new(Second(5), Second(6)), Window::new(Second(6), Second(8))))
        );
    }
}
