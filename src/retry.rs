//! When to try again: pure functions of what was answered, how often it failed, and a chance that the caller draws.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};

use crate::clock::Second;
use crate::mutant::{self, Mutant};

/// First and longest pause of the backoff.
const BACKOFF_FIRST: Duration = Duration::from_secs(1);
const BACKOFF_LONGEST: Duration = Duration::from_secs(300);
/// Waits that a service asks for are honoured up to this.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(3_600);
/// Without a wait named, Pulumi's limits are measured over minutes: start there.
const COOL_DOWN_FIRST: Duration = Duration::from_secs(60);

/// Pause before the next try after `failures` in a row (at least 1), with full jitter. `jitter` is in 0.0..1.0.
pub fn backoff(failures: u32, jitter: f64) -> Duration {
    ceiling(BACKOFF_FIRST, failures).mul_f64(jitter.clamp(0.0, 1.0))
}

/// Pause after a 429 that named none: it grows from a minute to five; of the shorter ones up to a tenth is added.
pub fn cool_down(refusals: u32, jitter: f64) -> Duration {
    ceiling(COOL_DOWN_FIRST, refusals).mul_f64(1.0 + jitter.clamp(0.0, 1.0) / 10.0).min(BACKOFF_LONGEST)
}

fn ceiling(first: Duration, failures: u32) -> Duration {
    let series = ExponentialBuilder::default()
        .with_min_delay(first)
        .with_max_delay(BACKOFF_LONGEST)
        .with_factor(2.0)
        .without_max_times()
        .build();
    // The series is constant from its sixteenth member on.
    series.take(16).nth(failures.clamp(1, 16) as usize - 1).unwrap_or(BACKOFF_LONGEST)
}

/// The wait that a `Retry-After` header asks for: whole seconds or an HTTP date, at most [`RETRY_AFTER_MAX`]. `None` when it asks
/// for none: Azure sends `Retry-After: 0` on every answer, and a date may be past or garbage.
pub fn retry_after(value: &str, now: Second) -> Option<Duration> {
    let value = value.trim();
    let seconds = if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        value.parse::<u64>().unwrap_or(u64::MAX)
    } else {
        let date = httpdate::parse_http_date(value).ok()?;
        let at = date.duration_since(std::time::UNIX_EPOCH).ok()?.as_secs();
        at.checked_sub(u64::try_from(now.0).ok()?)?
    };
    (seconds > 0 || mutant::is(Mutant::RetryAtOnce))
        .then(|| Duration::from_secs(seconds).min(RETRY_AFTER_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_backoff_doubles_from_a_second_to_five_minutes() {
        let ceilings: Vec<u64> = (1..12).map(|failures| backoff(failures, 1.0).as_secs()).collect();
        assert_eq!(ceilings, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        assert_eq!(backoff(5, 0.0), Duration::ZERO);
        assert_eq!(backoff(u32::MAX, 0.5), Duration::from_secs(150));
        assert_eq!(backoff(0, 1.0), Duration::from_secs(1));
    }

    #[test]
    fn a_429_without_a_wait_costs_one_to_five_minutes() {
        assert_eq!(cool_down(1, 0.0), Duration::from_secs(60));
        assert_eq!(cool_down(2, 0.0), Duration::from_secs(120));
        assert_eq!(cool_down(1, 1.0), Duration::from_secs(66));
        assert_eq!(cool_down(9, 1.0), Duration::from_secs(300));
    }

    #[test]
    fn retry_after_is_read_in_both_forms_and_bounded() {
        let now = Second(784_111_777); // 1994-11-06 08:49:37
        let wait = |value: &str| retry_after(value, now).map(|wait| wait.as_secs());
        assert_eq!(wait("7"), Some(7));
        assert_eq!(wait("Sun, 06 Nov 1994 08:50:37 GMT"), Some(60));
        assert_eq!(wait("999999999999999999999999"), Some(3_600));
        for none in ["0", "", "-1", "soon", "Sun, 06 Nov 1994 08:48:37 GMT", "1.5"] {
            assert_eq!(wait(none), None, "{none}");
        }
    }
}
