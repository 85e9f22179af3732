//! Repetition: the same message about the same org and destination is written a few times, then counted; a line says how many were
//! left out.
//!
//! It decides about errors, warnings and infos. Whoever asks for more detail than that gets all of it.
//!
//! Nothing is left out uncounted: whatever is not written is in exactly one count line, written when the spell ends, while it goes on
//! ([`SAID_EVERY`]), and at the end of the process. What is remembered is bounded ([`KNOWN_MAX`]): beyond that, a message is limited
//! and counted for all its orgs together.
//!
//! *Why not a crate:* the one there is (tracing-throttle) evicts what it remembers and its counts with it. *Why a line is judged by
//! message, org and destination and nothing else:* causes differ by a request id or a port, and would each be new. *Why count lines
//! come from outside:* a filter that logs is called by itself.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata};
use tracing_subscriber::layer::{Context, Filter};

/// So many lines are written at once, ...
const AT_ONCE: u32 = 10;
/// ... and then one whenever so much time has passed.
const ONE_EVERY: Duration = Duration::from_secs(30 * 60);
/// The same for what answers an act of a person: an answer of the half hour before is none.
const ANSWER_EVERY: Duration = Duration::from_secs(60);
/// A spell without a line for so long is over, and its count is said.
const QUIET: Duration = Duration::from_secs(10 * 60);
/// The count of a spell that goes on is said this often.
const SAID_EVERY: Duration = Duration::from_secs(60 * 60);
/// How often is looked which counts are due.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Most messages that are remembered, each with an org and a destination: about two megabytes of them.
const KNOWN_MAX: usize = 10_000;
/// Longest part of a name or a message that is remembered. Ours are shorter, a library's need not be.
const NAME_BYTES_MAX: usize = 200;

/// Cloning is cheap; all clones know the same.
#[derive(Clone, Default)]
pub(super) struct Repeats(Arc<Mutex<HashMap<Subject, Spell>>>);

/// What a line is about.
#[derive(PartialEq, Eq, Hash)]
struct Subject {
    message: Identifier,
    org: Option<String>,
    destination: Option<String>,
}

/// How often it came of late.
struct Spell {
    level: Level,
    text: String,
    /// When it may be written as often as at first.
    full_again: Instant,
    left_out: Option<LeftOut>,
}

struct LeftOut {
    count: u64,
    first: Instant,
    last: Instant,
}

/// A line that is due.
struct Count {
    level: Level,
    text: String,
    org: Option<String>,
    destination: Option<String>,
    left_out: u64,
    seconds: u64,
}

impl Repeats {
    /// Whether this one is written; if not, it is counted.
    fn admits(&self, metadata: &'static Metadata<'static>, about: About, now: Instant) -> bool {
        let mut known = self.known();
        let mut subject =
            Subject { message: metadata.callsite(), org: about.org, destination: about.destination };
        if known.len() >= KNOWN_MAX && !known.contains_key(&subject) {
            (subject.org, subject.destination) = (None, None);
        }
        let one_every = if about.is_answer { ANSWER_EVERY } else { ONE_EVERY };
        let spell = known.entry(subject).or_insert_with(|| Spell {
            level: *metadata.level(),
            text: about.text,
            full_again: now,
            left_out: None,
        });
        if spell.full_again.saturating_duration_since(now) <= one_every * (AT_ONCE - 1) {
            spell.full_again = spell.full_again.max(now) + one_every;
            return true;
        }
        let left_out = spell.left_out.get_or_insert(LeftOut { count: 0, first: now, last: now });
        left_out.count += 1;
        left_out.last = now;
        false
    }

    /// The counts that are due, or all of them; what needs no more remembering is forgotten.
    fn due(&self, now: Instant, all: bool) -> Vec<Count> {
        let mut due = Vec::new();
        self.known().retain(|subject, spell| {
            let is_due = |left_out: &mut LeftOut| {
                all || now >= left_out.last + QUIET || now >= left_out.first + SAID_EVERY
            };
            if let Some(left_out) = spell.left_out.take_if(is_due) {
                due.push(Count {
                    level: spell.level,
                    text: spell.text.clone(),
                    org: subject.org.clone(),
                    destination: subject.destination.clone(),
                    left_out: left_out.count,
                    seconds: (left_out.last - left_out.first).as_secs(),
                });
            }
            spell.left_out.is_some() || spell.full_again > now
        });
        due
    }

    /// Writes the count lines that are due.
    pub(super) fn say_due(&self) {
        self.due(Instant::now(), false).into_iter().for_each(Count::say);
    }

    /// Writes all counts: nothing follows.
    pub(super) fn say_all(&self) {
        self.due(Instant::now(), true).into_iter().for_each(Count::say);
    }

    /// Writes count lines when they are due, as long as it is polled.
    pub(super) async fn tend(&self) -> ! {
        loop {
            sleep(LOOK_EVERY).await;
            self.say_due();
        }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Subject, Spell>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Count {
    /// As severe as the lines it stands for, so that whoever sees those sees it.
    fn say(self) {
        let Count { level, text, org, destination, left_out, seconds } = self;
        match level {
            Level::ERROR => {
                tracing::error!(org, destination, text, left_out, seconds, "left out: the same error again")
            }
            Level::WARN => {
                tracing::warn!(org, destination, text, left_out, seconds, "left out: the same warning again")
            }
            _ => tracing::info!(org, destination, text, left_out, seconds, "left out: the same line again"),
        }
    }
}

impl<S> Filter<S> for Repeats {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    /// Never *always*: what a filter says of one event would then be held against its assertions that none was asked.
    fn callsite_enabled(&self, _: &'static Metadata<'static>) -> Interest {
        Interest::sometimes()
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::TRACE)
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        let metadata = event.metadata();
        // A count line is never counted.
        if *metadata.level() > Level::INFO || metadata.target() == module_path!() {
            return true;
        }
        let mut about = About::default();
        event.record(&mut about);
        self.admits(metadata, about, Instant::now())
    }
}

#[derive(Default)]
struct About {
    text: String,
    org: Option<String>,
    destination: Option<String>,
    /// It says what made it happen (`trigger`): a signal, or files that somebody changed.
    is_answer: bool,
}

impl Visit for About {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.text = cut(value),
            "org" => self.org = Some(cut(value)),
            "destination" => self.destination = Some(cut(value)),
            "trigger" => self.is_answer = true,
            _ => {}
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if matches!(field.name(), "message" | "org" | "destination") {
            self.record_str(field, &format!("{value:?}"));
        }
    }
}

fn cut(text: &str) -> String {
    text[..text.floor_char_boundary(NAME_BYTES_MAX)].to_owned()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use prometheus::IntCounter;
    use serde_json::Value;
    use tokio::time::advance;

    use super::*;
    use crate::log::sink::Sink;
    use crate::log::sink::tests::Captured;
    use crate::log::{Shape, subscriber};

    const PATIENCE: Duration = Duration::from_secs(10);
    const SECOND: Duration = Duration::from_secs(1);
    const DAY: u64 = 86_400;

    /// A log on tokio's paused clock. It is told when to look which counts are due.
    struct Paper {
        captured: Captured,
        sink: Sink,
        repeats: Repeats,
        _guard: tracing::subscriber::DefaultGuard,
    }

    impl Paper {
        fn at(level: &str) -> Paper {
            let captured = Captured::default();
            let sink = Sink::start(captured.clone(), IntCounter::new("dropped", "dropped").unwrap()).unwrap();
            let repeats = Repeats::default();
            let (subscriber, _) =
                subscriber(Shape::Json, level, sink.lines(Shape::Json.escape()), repeats.clone());
            let _guard = tracing::subscriber::set_default(subscriber);
            Paper { captured, sink, repeats, _guard }
        }

        fn lines(&self) -> Vec<Value> {
            self.sink.flush(PATIENCE);
            self.captured.text().lines().map(|line| serde_json::from_str(line).expect(line)).collect()
        }

        /// Lets time pass as the process does.
        async fn pass(&self, seconds: u64) {
            for _ in 0..seconds {
                advance(SECOND).await;
                self.look();
            }
        }

        fn look(&self) {
            self.repeats.say_due();
        }

        /// How often each thing happened, by its written lines and the counts: message, org, destination.
        fn happened(&self) -> BTreeMap<(String, String, String), u64> {
            let mut happened = BTreeMap::new();
            for line in self.lines() {
                let text = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
                let (message, times) = match line["left_out"].as_u64() {
                    Some(left_out) => (text("text"), left_out),
                    None => (text("message"), 1),
                };
                *happened.entry((message, text("org"), text("destination"))).or_default() += times;
            }
            happened
        }
    }

    fn key(message: &str, org: &str, destination: &str) -> (String, String, String) {
        (message.into(), org.into(), destination.into())
    }

    #[tokio::test(start_paused = true)]
    async fn a_disk_that_fails_every_second_for_a_day_writes_some_eighty_lines_that_add_up_to_all_of_it() {
        let paper = Paper::at("info");
        for port in 0..DAY {
            tracing::warn!(org = "acme", cause = format!("error {port}"), "cannot prune");
            paper.pass(1).await;
        }
        let written = paper.lines();
        let counts = written.iter().filter(|line| line["left_out"].is_u64()).count();
        assert_eq!((written.len() - counts, counts), (10 + 48 - 1, 23), "{:?}", written.last());
        assert!(written.iter().all(|line| line["level"] == "WARN"), "a count is as severe as what it counts");
        let first = written.iter().find(|line| line["left_out"].is_u64()).unwrap();
        assert_eq!(first["message"], "left out: the same warning again");
        assert_eq!((&first["text"], &first["org"]), (&"cannot prune".into(), &"acme".into()));
        // The day ends within an hour, so its end is what says the rest.
        paper.repeats.say_all();
        assert_eq!(paper.happened(), BTreeMap::from([(key("cannot prune", "acme", ""), DAY)]));
        paper.repeats.say_all();
        assert_eq!(paper.happened().values().sum::<u64>(), DAY, "nothing is counted twice");
    }

    #[tokio::test(start_paused = true)]
    async fn what_answers_an_act_of_a_person_is_written_once_a_minute_however_often_it_came_before() {
        let paper = Paper::at("info");
        for _ in 0..100 {
            tracing::error!(trigger = "SIGHUP", cause = "a typo", "the configuration is refused");
        }
        assert_eq!(paper.lines().len(), 10);
        paper.pass(61).await;
        tracing::error!(trigger = "SIGHUP", cause = "another typo", "the configuration is refused");
        assert_eq!(paper.lines().last().unwrap()["cause"], "another typo");
    }

    #[tokio::test(start_paused = true)]
    async fn a_spell_is_counted_when_it_has_been_over_for_ten_minutes() {
        let paper = Paper::at("info");
        for _ in 0..25 {
            tracing::error!(org = "acme", destination = "s3", "paused");
            paper.pass(2).await;
        }
        paper.pass(9 * 60).await;
        assert_eq!(paper.lines().len(), 10, "it may still go on");
        paper.pass(2 * 60).await;
        let lines = paper.lines();
        assert_eq!(lines.len(), 11);
        let count = &lines[10];
        assert_eq!(count["message"], "left out: the same error again");
        assert_eq!((&count["left_out"], &count["seconds"]), (&15.into(), &28.into()), "{count}");
        assert_eq!((&count["org"], &count["destination"]), (&"acme".into(), &"s3".into()), "{count}");
        paper.pass(DAY).await;
        assert_eq!(paper.lines().len(), 11, "it is said once");
        assert!(paper.repeats.known().is_empty(), "and nothing is remembered for ever");
        for _ in 0..10 {
            tracing::error!(org = "acme", destination = "s3", "paused");
        }
        assert_eq!(paper.lines().len(), 21, "another day is another spell");
    }

    #[tokio::test(start_paused = true)]
    async fn one_org_or_destination_or_message_takes_nothing_from_another() {
        let paper = Paper::at("info");
        for _ in 0..100 {
            tracing::error!(org = "acme", destination = "s3", "paused");
        }
        tracing::error!(org = %"acme", destination = %"sentinel", "paused");
        tracing::error!(org = "zoo", destination = "s3", "paused");
        tracing::info!(org = "acme", destination = "s3", "pause ended");
        assert_eq!(paper.lines().len(), 13);
        paper.repeats.say_all();
        assert_eq!(
            paper.happened(),
            BTreeMap::from([
                (key("paused", "acme", "s3"), 100),
                (key("paused", "acme", "sentinel"), 1),
                (key("paused", "zoo", "s3"), 1),
                (key("pause ended", "acme", "s3"), 1),
            ])
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_to_be_written_is_not_counted_and_details_are_written_whole() {
        let paper = Paper::at("debug");
        for _ in 0..50 {
            tracing::debug!(org = "acme", "still waiting");
            tracing::trace!(org = "acme", "nobody wants to see this");
        }
        assert_eq!(paper.lines().len(), 50);
        drop(paper);
        let paper = Paper::at("error");
        for _ in 0..50 {
            tracing::warn!(org = "acme", "waiting");
        }
        paper.repeats.say_all();
        assert_eq!(paper.lines(), Vec::<Value>::new());
        assert!(paper.repeats.known().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn more_orgs_than_are_remembered_are_counted_together_and_none_is_forgotten() {
        let paper = Paper::at("info");
        let say = |org: usize| tracing::warn!(org = format!("org-{org}"), destination = "s3", "waiting");
        let orgs = KNOWN_MAX + 500;
        (0..orgs).for_each(say);
        assert_eq!(paper.repeats.known().len(), KNOWN_MAX + 1);
        (0..30).for_each(|_| say(7));
        paper.repeats.say_all();
        let happened = paper.happened();
        assert_eq!(happened.values().sum::<u64>(), orgs as u64 + 30);
        assert_eq!(happened[&key("waiting", "org-7", "s3")], 31, "who is known is counted alone");
        assert_eq!(happened[&key("waiting", "", "")], 490, "those beyond, after ten lines");
        paper.pass(6 * 3_600).await;
        assert!(paper.repeats.known().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_message_of_a_library_is_remembered_in_part() {
        let paper = Paper::at("info");
        let long = "ü".repeat(10_000);
        for _ in 0..20 {
            tracing::warn!(target: "library", org = long, "{long}");
        }
        let known = paper.repeats.known();
        let bytes: usize = known
            .iter()
            .map(|(subject, spell)| spell.text.len() + subject.org.as_ref().map_or(0, String::len))
            .sum();
        assert_eq!((known.len(), bytes), (1, 2 * NAME_BYTES_MAX));
    }

    #[tokio::test(start_paused = true)]
    async fn beside_its_work_a_process_says_what_is_due() {
        let paper = Paper::at("info");
        for _ in 0..11 {
            tracing::info!("stopped");
        }
        let work = async {
            sleep(QUIET + LOOK_EVERY).await;
            paper.lines().len()
        };
        let lines = tokio::select! { lines = work => lines, never = paper.repeats.tend() => never };
        assert_eq!(lines, 11);
    }
}
