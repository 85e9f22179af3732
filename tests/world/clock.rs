//! What time it is in the world: the system's time, or one that a test turns.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;
use time::format_description::well_known::{Rfc2822, Rfc3339};

/// Answers the Unix second. Every simulated service asks this and nothing else.
#[derive(Clone)]
pub struct WorldClock(Arc<dyn Fn() -> i64 + Send + Sync>);

impl WorldClock {
    pub fn system() -> Self {
        Self::by(system_now)
    }

    /// A clock of the test's own, for example one that follows tokio's paused time.
    pub fn by(now: impl Fn() -> i64 + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// A clock that stands still until it is turned.
    pub fn turned(start: i64) -> (Self, Turn) {
        let turn = Turn(Arc::new(AtomicI64::new(start)));
        let read = turn.clone();
        (Self::by(move || read.now()), turn)
    }

    pub fn now(&self) -> i64 {
        (self.0)()
    }
}

impl fmt::Debug for WorldClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WorldClock({})", self.now())
    }
}

/// The hand of a clock that a test turns.
#[derive(Debug, Clone)]
pub struct Turn(Arc<AtomicI64>);

impl Turn {
    pub fn now(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }
    pub fn to(&self, second: i64) {
        self.0.store(second, Ordering::SeqCst);
    }
    pub fn advance(&self, by: Duration) {
        self.0.fetch_add(by.as_secs() as i64, Ordering::SeqCst);
    }
}

fn system_now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
}

/// `Sat, 21 Nov 2026 10:15:00 GMT`, as in a `Date` header.
pub fn http_date(second: i64) -> String {
    let moment = OffsetDateTime::from_unix_timestamp(second).expect("a year that a calendar knows");
    moment.format(&Rfc2822).expect("a date that mail could carry").replace("+0000", "GMT")
}

/// `2026-11-21T10:15:00Z`.
pub fn rfc3339(second: i64) -> String {
    let moment = OffsetDateTime::from_unix_timestamp(second).expect("a year that a calendar knows");
    moment.format(&Rfc3339).expect("a year of four digits")
}

/// The Unix second of an RFC 3339 text, or nothing.
pub fn parse_rfc3339(text: &str) -> Option<i64> {
    OffsetDateTime::parse(text, &Rfc3339).ok().map(OffsetDateTime::unix_timestamp)
}
