//! Histories: what a seed stands for, as a plain value. Everything that chance decides is decided here, before anything runs, so
//! that a history can be made smaller and remains the same otherwise.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::crash::{Call, Side};
use crate::simulation::{DAY, HOUR, MINUTE};
use crate::wire::{AZURE, ENTRA, PULUMI, S3};
use crate::world::chance::{Chance, scramble};
use crate::world::entra;
use crate::world::ingestion;
use crate::world::pulumi::behaviour::{
    BadGzip, Behaviour, Bound, Cursor, DateHeader, Fault, Filtering, Gzip, LastToken, More, NoEvents, Order,
    TokenStyle,
};
use crate::world::pulumi::events::{Event, Generator, Person};
use crate::world::s3::memory;
use crate::world::verdict::{Cut, RetryAfter};

/// Longest wait that a fault asks for, in seconds.
pub(crate) const WAIT_MAX: i64 = 900;

#[derive(Clone, Debug)]
pub(crate) struct History {
    pub(crate) seed: u64,
    pub(crate) behaviour: Behaviour,
    pub(crate) poll: i64,
    pub(crate) overlap: i64,
    pub(crate) settle: i64,
    pub(crate) rescans: &'static [i64],
    pub(crate) orgs: Vec<OrgPlan>,
    pub(crate) journal_bytes_max: u64,
    pub(crate) local_clock_ahead: i64,
    /// How long things happen, in seconds; then they are left alone until everything has had its last look.
    pub(crate) length: i64,
    pub(crate) steps: Vec<Step>,
}

#[derive(Clone, Debug)]
pub(crate) struct OrgPlan {
    pub(crate) name: String,
    pub(crate) sentinel: bool,
    pub(crate) s3: bool,
    pub(crate) file: bool,
    log: u64,
    rate: f64,
    bursts: u64,
    /// A second that no page can hold.
    dense: bool,
    late_one_in: u64,
    late_most: u64,
    /// Profiles change. Then there are no namesakes: which of two unexplained payloads is the rename cannot be known.
    renames: bool,
    /// One event in so many is left.
    pub(crate) thin: u64,
}

/// Something happens, so many seconds after the beginning or as soon as what was before it is over.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) at: i64,
    pub(crate) act: Act,
}

#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// SIGKILL now.
    Kill {
        absence: i64,
    },
    /// It is told to end, and does so in order.
    Stop {
        absence: i64,
    },
    /// It dies around a call to come.
    Crash {
        call: Option<Call>,
        passing: u32,
        side: Side,
        absence: i64,
    },
    /// The next commits fail; on the far side the disk has them all the same.
    Disk {
        count: u32,
        side: Side,
    },
    Source {
        org: usize,
        fault: Fault,
        times: u32,
    },
    Azure {
        org: Option<usize>,
        fault: ingestion::Fault,
        times: u32,
    },
    Entra {
        fault: entra::Fault,
        times: u32,
    },
    Store {
        part: &'static str,
        fault: memory::Fault,
        times: u32,
    },
    Away {
        host: &'static str,
        seconds: i64,
    },
    /// Azure takes less in a request than it says.
    Limit {
        bytes: usize,
        seconds: i64,
    },
    /// Azure's tokens stop working before their time.
    RevokeAll,
    /// A new token replaces all others; the operator writes it down after a while.
    RotateToken {
        org: usize,
        after: i64,
    },
    /// A second token is put beside the first, which then stops working.
    NextToken {
        org: usize,
        after: i64,
    },
    /// The token may not read the log for a while.
    Forbid {
        org: usize,
        seconds: i64,
    },
    RotateClientSecret {
        after: i64,
    },
    /// Azure's role is taken away for a while.
    DenyRole {
        seconds: i64,
    },
    /// The store will not have the key, until another is written down.
    RotateKey {
        code: &'static str,
        after: i64,
    },
    Rename {
        org: usize,
        stamp: u64,
    },
    Date {
        date: DateHeader,
        seconds: i64,
    },
    /// Whoever sends the next request to the host panics.
    Panic {
        host: &'static str,
    },
    /// Restarted with another configuration.
    Lane {
        org: usize,
        lane: Lane,
        on: bool,
    },
    StartEarlier {
        org: usize,
        by: i64,
    },
    LocalClock {
        ahead: i64,
    },
    /// A copy is made of the state.
    Backup,
    /// It is killed, and its state is lost before the next start: all of it, or what came after the last copy, which is put back.
    Lost {
        backup: bool,
        absence: i64,
    },
    /// Another forwarder with a journal of its own archives to the same places.
    Second {
        seconds: i64,
    },
    /// One party is ill for long; everybody else must not notice, and it must be said.
    Outage {
        victim: Victim,
        seconds: i64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    Sentinel,
    S3,
    File,
}

#[derive(Clone, Debug)]
pub(crate) enum Victim {
    Source(usize, Fault),
    Azure,
    Rule(usize),
    Store,
    Archive(usize, u16, &'static str),
}

/// A smaller history of the same seed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reduction {
    /// The steps that are left, by their place.
    pub(crate) keep: Option<BTreeSet<usize>>,
    /// The orgs that are left.
    pub(crate) orgs: Option<BTreeSet<usize>>,
    /// One event in so many is left.
    pub(crate) thin: u64,
}

impl Reduction {
    pub(crate) fn apply(&self, mut history: History) -> History {
        if let Some(keep) = &self.keep {
            let steps = history.steps.into_iter().enumerate();
            history.steps = steps.filter(|(place, _)| keep.contains(place)).map(|(_, step)| step).collect();
        }
        for (place, org) in history.orgs.iter_mut().enumerate() {
            if self.orgs.as_ref().is_some_and(|orgs| !orgs.contains(&place)) {
                (org.sentinel, org.s3, org.file) = (false, false, false);
            }
            org.thin = self.thin.max(1);
        }
        history
    }

    /// As words of the command line.
    pub(crate) fn flags(&self) -> String {
        let list = |set: &BTreeSet<usize>| set.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
        let mut flags = String::new();
        if let Some(keep) = &self.keep {
            flags += &format!(" KEEP={}", if keep.is_empty() { "none".to_owned() } else { list(keep) });
        }
        if let Some(orgs) = &self.orgs {
            flags += &format!(" ORGS={}", list(orgs));
        }
        if self.thin > 1 {
            flags += &format!(" THIN={}", self.thin);
        }
        flags
    }
}

impl OrgPlan {
    pub(crate) fn is_configured(&self) -> bool {
        self.sentinel || self.s3 || self.file
    }

    /// Something happens in most minutes.
    pub(crate) fn is_busy(&self) -> bool {
        self.rate >= 40.0
    }

    /// All that ever happens in this org between two moments. `settled` is the age of the last look: what becomes visible later is
    /// not promised.
    pub(crate) fn events(&self, from: i64, until: i64, page_size: usize, settled: i64) -> Vec<Event> {
        let mut chance = Chance::seeded(self.log);
        let mut generator = Generator::seeded(chance.next());
        let mut events = generator.background(from, until, self.rate);
        let span = (until - from) as u64;
        let moment = |chance: &mut Chance| from + chance.below(span) as i64;
        for _ in 0..self.bursts {
            let size = *chance.pick(&[2, 9, 16, 30]);
            events.extend(generator.burst(moment(&mut chance), size));
            let size = 2 + chance.below(4) as usize;
            events.extend(generator.twins(moment(&mut chance), size));
        }
        // Bursts in neighbouring seconds, so that pages break in and between them.
        let at = moment(&mut chance);
        for second in at..at + 8 {
            let size = chance.below(9) as usize;
            events.extend(generator.burst(second, size));
        }
        if self.dense {
            let size = page_size + 1 + chance.below(page_size as u64) as usize;
            events.extend(generator.burst(moment(&mut chance), size));
        }
        let most = self.late_most.min((settled - 120).max(1) as u64);
        for event in &mut events {
            if chance.one_in(self.late_one_in) {
                let most = *chance.pick(&[60, 900, most]);
                event.visible_at = event.timestamp + chance.below(most.min(settled as u64 - 60)) as i64;
            }
        }
        if !self.renames {
            for _ in 0..3 {
                let late = chance.below(most) as i64;
                events.extend(namesakes(moment(&mut chance), late));
            }
        }
        let mut kept: Vec<Event> = events
            .into_iter()
            .enumerate()
            .filter(|(place, _)| scramble(*place as u64).is_multiple_of(self.thin.max(1)))
            .map(|(_, event)| Event { visible_at: event.visible_at.max(event.timestamp), ..event })
            .collect();
        kept.sort_by_key(|event| event.timestamp);
        kept
    }
}

/// Two events that differ only in who did it: what the identity leaves out.
fn namesakes(at: i64, late: i64) -> [Event; 2] {
    let first = Event::at(at);
    let mut second = first.clone().late_by(late);
    second.user = Person::new("grace-h", "Grace Hopper");
    [first, second]
}

impl History {
    pub(crate) fn drawn(seed: u64) -> History {
        let chance = &mut Chance::seeded(scramble(seed ^ 0x0073_696d_756c_6174));
        // Many short ones and some long: most of what can go wrong needs hours, little of it needs days.
        let (hours, rescans): (i64, &'static [i64]) = match chance.below(40) {
            0 => (36 + chance.below(24) as i64, &[HOUR, 6 * HOUR, DAY]),
            1..=5 => (8 + chance.below(8) as i64, &[20 * MINUTE, HOUR, 4 * HOUR]),
            _ => (2 + chance.below(4) as i64, &[10 * MINUTE, 40 * MINUTE]),
        };
        let length = hours * HOUR;
        let behaviour = behaviour(seed, chance);
        let count = *chance.pick(&[1, 1, 1, 2, 2, 3, 4]);
        let orgs: Vec<OrgPlan> = (0..count).map(|number| org(number, count, hours, chance)).collect();
        let poll =
            if hours > 24 { 5 * MINUTE } else { *chance.pick(&[MINUTE, 2 * MINUTE, 5 * MINUTE, 5 * MINUTE]) };
        let small_journal = chance.one_in(12);
        let mut history = History {
            seed,
            poll,
            overlap: *chance.pick(&[0, 2 * MINUTE, 15 * MINUTE]),
            settle: *chance.pick(&[0, 0, 0, 90]),
            rescans,
            orgs,
            journal_bytes_max: if small_journal { 48 * 1024 } else { 2 << 30 },
            // Without a date from the service the local clock is all there is.
            local_clock_ahead: if behaviour.date == DateHeader::Present && chance.one_in(6) {
                *chance.pick(&[-3650 * DAY, -DAY, -HOUR, 37, HOUR, DAY, 3650 * DAY])
            } else {
                0
            },
            behaviour,
            length,
            steps: Vec::new(),
        };
        let mean = (length / (6 + chance.below(8) as i64)).max(60) as u64;
        let mut at = 0;
        while at < length {
            let quiet = 1 + chance.below(2 * mean) as i64;
            let act = act(&history, chance);
            at += quiet;
            let takes = act.seconds();
            history.steps.push(Step { at, act });
            at += takes;
        }
        history.lose(&mut Chance::seeded(scramble(seed ^ 0x0000_6c6f_7373_6573)));
        history
    }

    /// In some histories the state is lost, once or twice. Not where lanes come and go as well: one that is added after a loss begins
    /// with what is left, and what it should have had is not for the archives to say.
    fn lose(&mut self, chance: &mut Chance) {
        let lanes_change = self.steps.iter().any(|step| matches!(step.act, Act::Lane { .. }));
        if lanes_change || !chance.one_in(5) {
            return;
        }
        for _ in 0..*chance.pick(&[1, 1, 2]) {
            let backup = chance.one_in(2);
            let absence = *chance.pick(&[1, 30, 600, HOUR]);
            let at = 1 + chance.below(self.length as u64) as i64;
            self.insert(Step { at, act: Act::Lost { backup, absence } });
            if backup {
                let at = chance.below(at as u64) as i64;
                self.insert(Step { at, act: Act::Backup });
            }
        }
    }

    fn insert(&mut self, step: Step) {
        let place = self.steps.partition_point(|other| other.at <= step.at);
        self.steps.insert(place, step);
    }

    /// The clocks are right, and pages are large and follow one another often.
    pub(crate) fn is_plain(&self) -> bool {
        self.behaviour.date == DateHeader::Present
            && self.local_clock_ahead == 0
            && self.behaviour.page_size == 100
            && self.poll <= 2 * MINUTE
            && self.settle == 0
            && self.overlap > 2 * MINUTE
            && self.journal_bytes_max > 1 << 20
    }

    /// The age of the last look.
    pub(crate) fn settled(&self) -> i64 {
        self.rescans.last().copied().unwrap_or_default()
    }

    /// How long after the last fault all that was visible in time is where it belongs: long before the last look at what was not.
    pub(crate) fn drained(&self) -> i64 {
        16 * MINUTE + WAIT_MAX + 2 * self.poll
    }

    /// How long everything needs after the last fault: the last look and its batch, and the longest wait that was asked for.
    pub(crate) fn tail(&self) -> i64 {
        let before = self.rescans.iter().rev().nth(1).copied().unwrap_or_default();
        self.settled() + (self.settled() - before) / 4 + 3 * self.poll + WAIT_MAX + 20 * MINUTE
    }
}

impl Act {
    /// How long it takes by itself.
    fn seconds(&self) -> i64 {
        match self {
            Act::Kill { absence } | Act::Stop { absence } | Act::Lost { absence, .. } => *absence,
            Act::Away { seconds, .. }
            | Act::Forbid { seconds, .. }
            | Act::DenyRole { seconds }
            | Act::Limit { seconds, .. }
            | Act::Date { seconds, .. }
            | Act::Second { seconds }
            | Act::Outage { seconds, .. } => *seconds,
            Act::RotateToken { after, .. }
            | Act::NextToken { after, .. }
            | Act::RotateClientSecret { after }
            | Act::RotateKey { after, .. } => *after,
            _ => 0,
        }
    }
}

fn org(number: usize, count: usize, hours: i64, chance: &mut Chance) -> OrgPlan {
    // Files are synced and wait for threads, so there are fewer of them.
    let (sentinel, s3, file) = *chance.pick(&[
        (true, false, false),
        (false, true, false),
        (true, true, false),
        (true, true, false),
        (true, true, false),
        (false, true, false),
        (true, false, true),
        (false, true, true),
        (true, true, true),
        (false, false, true),
    ]);
    let quiet = if hours > 24 || count > 2 { 2 } else { 0 };
    let rates: &[f64] = &[0.5, 4.0, 12.0, 40.0, 120.0];
    OrgPlan {
        name: ["acme", "beta", "gamma", "delta"][number].to_owned(),
        sentinel,
        s3,
        file,
        log: chance.next(),
        rate: *chance.pick(&rates[..rates.len() - quiet]),
        bursts: chance.below(5),
        dense: chance.one_in(12),
        late_one_in: *chance.pick(&[2, 5, 50]),
        late_most: *chance.pick(&[1_800, 4 * 3_600, 86_400]),
        renames: chance.one_in(2),
        thin: 1,
    }
}

/// The eight combinations of bounds and token follow one another, so that any eight seeds have them all.
fn behaviour(seed: u64, chance: &mut Chance) -> Behaviour {
    let either = |bit: u64| (seed >> bit) & 1 == 0;
    Behaviour {
        page_size: *chance.pick(&[10, 17, 40, 100]),
        lower: if either(0) { Bound::Inclusive } else { Bound::Exclusive },
        upper: if either(1) { Bound::Inclusive } else { Bound::Exclusive },
        cursor: if either(2) { Cursor::Before } else { Cursor::UpTo },
        token: *chance.pick(&[
            TokenStyle::Decimal,
            TokenStyle::Base64,
            TokenStyle::Number,
            TokenStyle::Keyset,
        ]),
        order: *chance.pick(&[Order::Stable, Order::Random]),
        last_token: *chance.pick(&[LastToken::Absent, LastToken::Null, LastToken::Empty]),
        no_events: *chance.pick(&[NoEvents::Null, NoEvents::Empty]),
        more: *chance.pick(&[More::Exact, More::WhenFull]),
        filtering: *chance.pick(&[Filtering::BeforePaging, Filtering::AfterPaging]),
        gzip: if chance.one_in(10) { Gzip::HeaderStripped } else { Gzip::Never },
        spread: chance.one_in(4),
        date: if chance.one_in(10) { DateHeader::Absent } else { DateHeader::Present },
        ..Behaviour::mysql()
    }
}

fn act(history: &History, chance: &mut Chance) -> Act {
    let which = chance.below(history.orgs.len() as u64) as usize;
    let times = 1 + chance.below(4) as u32;
    let absence = *chance.pick(&[1, 1, 30, 600, HOUR, history.length / 2]);
    let side = *chance.pick(&[Side::Before, Side::After]);
    let after = *chance.pick(&[5, 200, 1_200]);
    let long = *chance.pick(&[20, 300, 15 * MINUTE, 40 * MINUTE]);
    let usual_journal = history.journal_bytes_max > 1 << 20;
    match chance.below(40) {
        0 => Act::Kill { absence },
        1 => Act::Stop { absence },
        2..=7 => {
            let call = *chance.pick(&[None, Some(Call::Commit), Some(Call::Request), Some(Call::Look)]);
            Act::Crash {
                call,
                passing: chance.below(40) as u32,
                side,
                absence: *chance.pick(&[1, 5, 60, 900]),
            }
        }
        8 => Act::Disk { count: 1 + chance.below(3) as u32, side },
        9..=11 => Act::Source { org: which, fault: source_fault(chance), times },
        12 | 13 => {
            let org = chance.one_in(2).then_some(which);
            Act::Azure { org, fault: azure_fault(chance), times }
        }
        14 => Act::Entra { fault: entra_fault(chance), times },
        15..=17 => Act::Store {
            part: chance.pick::<&'static str>(&["", "_chain/", "/date="]),
            fault: store_fault(chance),
            times,
        },
        18 => Act::Away { host: chance.pick::<&'static str>(&[PULUMI, ENTRA, AZURE, S3]), seconds: long },
        19 => Act::RevokeAll,
        20 => Act::RotateToken { org: which, after },
        21 => Act::NextToken { org: which, after },
        22 => Act::Forbid { org: which, seconds: long },
        23 => Act::RotateClientSecret { after },
        24 => Act::DenyRole { seconds: long },
        25 => {
            let codes = ["SignatureDoesNotMatch", "InvalidAccessKeyId", "ExpiredToken", "AccessDenied"];
            Act::RotateKey { code: chance.pick::<&'static str>(&codes), after }
        }
        26 | 27 if history.orgs[which].renames => Act::Rename { org: which, stamp: chance.next() },
        28 if history.behaviour.date == DateHeader::Present && history.local_clock_ahead == 0 => {
            let date = match chance.below(5) {
                0 => DateHeader::Absent,
                1 => DateHeader::Raw("yesterday".to_owned()),
                2 => DateHeader::Shifted(-DAY),
                3 => DateHeader::Shifted(DAY),
                _ => DateHeader::Shifted(40 * DAY),
            };
            // One absurd date and its neighbours, or so many that they are believed.
            let most = if chance.one_in(3) { 2 * HOUR } else { history.poll };
            Act::Date { date, seconds: 1 + chance.below(most as u64) as i64 }
        }
        29 if usual_journal => {
            let lane = *chance.pick(&[Lane::Sentinel, Lane::S3, Lane::File]);
            Act::Lane { org: which, lane, on: chance.one_in(2) }
        }
        30 => Act::StartEarlier { org: which, by: 600 + chance.below(3 * 3_600) as i64 },
        31 if history.behaviour.date == DateHeader::Present => {
            Act::LocalClock { ahead: *chance.pick(&[-DAY, -600, 0, 600, DAY]) }
        }
        32 => Act::Second { seconds: history.poll + long },
        33 => {
            let seconds = 3 * history.poll + *chance.pick(&[3 * MINUTE, 10 * MINUTE, 40 * MINUTE]);
            let victim = match chance.below(5) {
                0 => {
                    let faults = [
                        Fault::status(500),
                        Fault::html(502),
                        Fault::closed(),
                        Fault::Body(bytes::Bytes::new()),
                    ];
                    Victim::Source(which, chance.pick(&faults).clone())
                }
                1 => Victim::Azure,
                2 => Victim::Rule(which),
                3 => Victim::Store,
                _ => {
                    let (status, code) =
                        *chance.pick(&[(503, "SlowDown"), (500, "InternalError"), (403, "AccessDenied")]);
                    Victim::Archive(which, status, code)
                }
            };
            Act::Outage { victim, seconds }
        }
        35 | 36 => Act::Limit { bytes: 4_000, seconds: HOUR },
        37 => {
            // As if it were a wait, and again and again.
            let at_once = || RetryAfter::Seconds(0);
            let part = chance.pick::<&'static str>(&["_chain/", "/date="]);
            match chance.below(3) {
                0 => Act::Source { org: which, fault: Fault::Throttled(at_once()), times: 12 },
                1 => {
                    Act::Azure { org: Some(which), fault: ingestion::Fault::throttled(at_once()), times: 12 }
                }
                _ => Act::Store { part, fault: memory::Fault::error(503, "SlowDown"), times: 12 },
            }
        }
        // Between two commits, where there should be but one.
        38 | 39 => {
            let call = *chance.pick(&[Call::Commit, Call::Commit, Call::Request]);
            Act::Crash { call: Some(call), passing: chance.below(12) as u32, side, absence: 1 }
        }
        34 => Act::Panic { host: chance.pick::<&'static str>(&[PULUMI, ENTRA, AZURE, S3]) },
        _ => Act::Crash { call: Some(Call::Commit), passing: chance.below(6) as u32, side, absence: 1 },
    }
}

fn source_fault(chance: &mut Chance) -> Fault {
    match chance.below(14) {
        0 => Fault::status(500),
        1 => Fault::html(503),
        2 => Fault::Throttled(RetryAfter::Seconds(chance.below(WAIT_MAX as u64))),
        3 => Fault::throttled(),
        4 => Fault::closed(),
        5 => Fault::Lost(Cut::BodyAfter(100)),
        6 => Fault::Late(Duration::from_secs(chance.below(90))),
        7 => Fault::Body(bytes::Bytes::new()),
        8 => Fault::Stall,
        9 => Fault::status(400),
        10 => Fault::BadGzip(BadGzip::Truncated),
        11 => Fault::status(408),
        12 => Fault::Throttled(RetryAfter::Raw("soon".to_owned())),
        _ => Fault::EmptyPage,
    }
}

fn azure_fault(chance: &mut Chance) -> ingestion::Fault {
    match chance.below(9) {
        0 | 1 => ingestion::Fault::AnswerLost(Cut::Close),
        2 => ingestion::Fault::AnswerLate(Duration::from_secs(chance.below(200))),
        3 => ingestion::Fault::unavailable(),
        4 => ingestion::Fault::throttled(RetryAfter::Seconds(chance.below(600))),
        5 => ingestion::Fault::Unauthorized,
        6 => ingestion::Fault::Html(502),
        7 => ingestion::Fault::Success(*chance.pick(&[200, 202])),
        _ => ingestion::Fault::Stall,
    }
}

fn entra_fault(chance: &mut Chance) -> entra::Fault {
    match chance.below(6) {
        0 => entra::Fault::unavailable(),
        1 => entra::Fault::throttled(RetryAfter::Seconds(chance.below(300))),
        2 => entra::Fault::Html(502),
        3 => entra::Fault::Lost(Cut::Close),
        4 => entra::Fault::Stall,
        _ => entra::Fault::EmptyToken,
    }
}

fn store_fault(chance: &mut Chance) -> memory::Fault {
    match chance.below(10) {
        0..=2 => memory::Fault::ReplyLost(Cut::Close),
        3 => memory::Fault::ReplyLate(Duration::from_secs(chance.below(200))),
        4 => memory::Fault::error(409, "ConditionalRequestConflict"),
        5 => memory::Fault::error(503, "SlowDown"),
        6 => memory::Fault::error(500, "InternalError"),
        7 => memory::Fault::error(403, "RequestTimeTooSkewed"),
        8 => memory::Fault::ErrorInside,
        _ => memory::Fault::Stall,
    }
}
