//! Who takes part: three organizations, what their audit logs hold already, and what happens in them while the demo runs.

use time::{OffsetDateTime, Weekday};
use tokio::time::Instant;

use crate::world::World;
use crate::world::chance::Chance;
use crate::world::clock::rfc3339;
use crate::world::pulumi::events::{Event, Generator};
use crate::world::setup::OrgSetup;

/// Thirty days to catch up.
pub(crate) const ACME: &str = "acme";
/// Bursts, and one second of more events than a page holds.
pub(crate) const BLITZ: &str = "blitz";
/// Hardly anything.
pub(crate) const CALM: &str = "calm";
pub(crate) const ORGS: [&str; 3] = [ACME, BLITZ, CALM];
pub(crate) const DESTINATIONS: [&str; 3] = ["sentinel", "s3", "file"];

/// Events in the one second that no page holds whole.
pub(crate) const DENSE: usize = 350;

const HOUR: i64 = 3_600;
const DAY: i64 = 24 * HOUR;
const ACME_DAYS: i64 = 30;
const BLITZ_HOURS: i64 = 12;
const CALM_DAYS: i64 = 7;

/// What the demo changes of the defaults, in its own words.
pub(crate) const SHORTENED: &str = "To fit into a minute, the intervals are shortened: a poll every 2 s (default 5 min), 10 s of overlap (15 min), \
     one later look after 20 s (1 h, 6 h and 24 h), and a request budget of 20 a second for acme (2).";
const INTERVALS: &str = "poll_interval = \"2s\"\noverlap = \"10s\"\nrescan_after = [\"20s\"]\n";

/// What each org's log held before the forwarder came.
pub(crate) struct History {
    /// The second that fills more than a page, in [`BLITZ`].
    pub(crate) dense_second: i64,
    setups: Vec<OrgSetup>,
}

impl History {
    pub(crate) fn write(world: &World, now: i64) -> Self {
        let mut chance = Chance::seeded(20_261_121);
        let acme_from = now - ACME_DAYS * DAY;
        world.pulumi().org(ACME).add(working_days(&mut Generator::seeded(30), acme_from, now));

        let blitz_from = now - BLITZ_HOURS * HOUR;
        let dense_second = now - 5 * HOUR - 1_234;
        let mut generator = Generator::seeded(12);
        let mut events = generator.background(blitz_from, now, 150.0);
        for _ in 0..80 {
            let second = blitz_from + chance.below((BLITZ_HOURS * HOUR) as u64) as i64;
            // Events of the dense second would be counted with it.
            if second != dense_second {
                events.extend(generator.burst(second, 20 + chance.below(60) as usize));
            }
        }
        events.retain(|event| event.timestamp != dense_second);
        events.extend(generator.burst(dense_second, DENSE));
        events.sort_by_key(|event| event.timestamp);
        world.pulumi().org(BLITZ).add(events);

        let calm_from = now - CALM_DAYS * DAY;
        world.pulumi().org(CALM).add(Generator::seeded(7).background(calm_from, now, 0.5));

        let setup = |org: &str, start: i64, requests_per_second: u32| {
            let mut setup = OrgSetup::new(org).since(&rfc3339(start)).with_sentinel().with_s3().with_file();
            setup.more_source = format!("{INTERVALS}requests_per_second = {requests_per_second}\n");
            setup
        };
        let setups =
            vec![setup(ACME, acme_from, 20), setup(BLITZ, blitz_from, 60), setup(CALM, calm_from, 30)];
        Self { dense_second, setups }
    }

    pub(crate) fn setups(&self) -> &[OrgSetup] {
        &self.setups
    }
}

/// Office hours on weekdays, little at night, less at weekends, and a check of every stack at two in the morning.
fn working_days(generator: &mut Generator, from: i64, until: i64) -> Vec<Event> {
    let mut events = Vec::new();
    let mut hour = from;
    while hour < until {
        let end = (hour + HOUR).min(until);
        let at = OffsetDateTime::from_unix_timestamp(hour).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        let weekend = matches!(at.weekday(), Weekday::Saturday | Weekday::Sunday);
        let per_hour = match at.hour() {
            _ if weekend => 10.0,
            7..18 => 100.0,
            _ => 16.0,
        };
        let mut found = generator.background(hour, end, per_hour);
        if at.hour() == 2 {
            let check = hour + 120;
            found.extend(generator.background(check, (check + 90).min(end), 1_600.0));
            found.sort_by_key(|event| event.timestamp);
        }
        events.extend(found);
        hour = end;
    }
    events
}

/// Events that happen while the demo runs.
pub(crate) struct Live {
    generators: [Generator; 3],
    chance: Chance,
    last: Instant,
    /// Events owed to each org, in fractions.
    owed: [f64; 3],
    running: bool,
    stragglers: bool,
    /// Two bursts in one second could fill a page, and this demo has one such second on purpose.
    last_burst: i64,
    /// The newest event that shows itself only after the regular polls have passed over its second.
    pub(crate) last_straggler: i64,
    pub(crate) stragglers_made: usize,
}

/// Events a second, on average.
const RATES: [f64; 3] = [4.0, 0.6, 0.2];

impl Live {
    pub(crate) fn new() -> Self {
        Self {
            generators: [101, 102, 103].map(Generator::seeded),
            chance: Chance::seeded(77),
            last: Instant::now(),
            owed: [0.0; 3],
            running: true,
            stragglers: true,
            last_burst: i64::MIN,
            last_straggler: i64::MIN,
            stragglers_made: 0,
        }
    }

    /// Lets happen what has become due since the last call.
    pub(crate) fn tick(&mut self, world: &World) {
        let passed = self.last.elapsed().as_secs_f64();
        self.last = Instant::now();
        if !self.running {
            return;
        }
        let now = world.clock.now();
        for (number, org) in ORGS.iter().enumerate() {
            self.owed[number] += passed * RATES[number];
            while self.owed[number] >= 1.0 {
                self.owed[number] -= 1.0;
                if *org == BLITZ && std::mem::replace(&mut self.last_burst, now) == now {
                    continue;
                }
                let count = if *org == BLITZ { 20 + self.chance.below(50) as usize } else { 1 };
                let mut events = self.generators[number].burst(now, count);
                if *org == ACME && self.stragglers && self.chance.one_in(12) {
                    let hidden = 13 + self.chance.below(5) as i64;
                    events = events.into_iter().map(|event| event.late_by(hidden)).collect();
                    self.last_straggler = now;
                    self.stragglers_made += events.len();
                }
                world.pulumi().org(org).add(events);
            }
        }
    }

    /// From now on every event shows itself at once.
    pub(crate) fn no_more_stragglers(&mut self) {
        self.stragglers = false;
    }

    pub(crate) fn stop(&mut self) {
        self.running = false;
    }
}
