//! `make simulate`: thousands of histories of the whole core, each drawn from a seed and judged by a checker that shares no code
//! with it.
//!
//! A history is hours or days of up to four organizations, in one thread, on tokio's paused clock: the product's own collector,
//! lanes, supervision and clients over the simulated services, without a socket. Everything that chance decides is decided by the
//! seed. One that fails is printed as one line, and again as the smallest history found that still fails.
//!
//! What a seed does not decide: files are read and written on other threads, and lanes that wait for the same chunk have their turns in
//! an order that tokio draws from numbers of its own. So a run may differ from another of its seed in the order of what happens in one
//! instant, and in whom a fault meets that is there for whoever comes next. Every so often a seed is run twice, and it is said how many
//! were the same.
//!
//! `cargo test` runs a few of them.

#![expect(clippy::expect_used, reason = "in a test a panic is the report")]

#[path = "../world/mod.rs"]
mod world;

#[path = "../simulated/crash.rs"]
mod crash;
#[path = "../simulated/sdk.rs"]
mod sdk;
#[path = "../simulated/simulation.rs"]
mod simulation;
#[path = "../simulated/wire.rs"]
mod wire;

mod history;
mod judge;
mod play;
mod sabotage;
mod shrink;

use std::collections::BTreeSet;
use std::io::IsTerminal;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use history::{History, Reduction};
use play::Tally;
use wire::Sent;

/// A history makes and frees small things without end: the C library's allocator takes a seventh of its time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// In `cargo test`, where nobody says how many.
const SEEDS: u64 = 24;
/// Every so many seeds one is run twice, to see that it is the same run.
const TWICE_EVERY: u64 = 25;
const SHRINK_PATIENCE: Duration = Duration::from_secs(60);
/// Without a terminal, how often it is said how far this is.
const SAY_EVERY: Duration = Duration::from_secs(15);
/// Failing seeds that are shown; the others are counted.
const SHOWN_MAX: usize = 5;

struct Options {
    first: u64,
    seeds: u64,
    reduction: Reduction,
    /// Ends at the first that fails, and says how many were run.
    until_failure: bool,
    threads: u64,
    shrinks: bool,
    show: bool,
}

impl Options {
    /// `None` when this is `cargo test` looking for other tests.
    fn read(arguments: impl Iterator<Item = String>) -> Result<Option<Options>, String> {
        let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get() as u64);
        let mut options = Options {
            first: 0,
            seeds: SEEDS,
            reduction: Reduction::default(),
            until_failure: false,
            threads,
            shrinks: true,
            show: false,
        };
        let mut arguments = arguments.peekable();
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value"));
            let number = |text: String| text.parse::<u64>().map_err(|_| format!("{text:?} is not a number"));
            let list = |text: String| {
                let parts = text.split(',').filter(|part| !part.is_empty() && *part != "none");
                parts
                    .map(|part| part.parse::<usize>().map_err(|_| format!("{part:?} is not a number")))
                    .collect::<Result<BTreeSet<usize>, String>>()
            };
            match argument.as_str() {
                "--seeds" => options.seeds = number(value()?)?,
                "--from" => options.first = number(value()?)?,
                "--seed" => (options.first, options.seeds, options.show) = (number(value()?)?, 1, true),
                "--keep" => options.reduction.keep = Some(list(value()?)?),
                "--orgs" => options.reduction.orgs = Some(list(value()?)?),
                "--thin" => options.reduction.thin = number(value()?)?,
                "--threads" => options.threads = number(value()?)?.max(1),
                "--until-failure" => options.until_failure = true,
                "--no-shrink" => options.shrinks = false,
                // What `cargo test` passes on to every target.
                "--list" => return Ok(None),
                "--test-threads" | "--skip" | "--color" | "--format" => {
                    value()?;
                }
                flag if flag.starts_with('-') => {}
                filter => {
                    if !"simulate".contains(filter) {
                        return Ok(None);
                    }
                }
            }
        }
        Ok(Some(options))
    }
}

/// What all threads add to.
#[derive(Default)]
struct Sum {
    runs: u64,
    simulated: Duration,
    deaths: u64,
    faults: u64,
    events: u64,
    extras: u64,
    damaged: u64,
    seconds_instances: u64,
    losses: u64,
    /// Run twice, and of them the same.
    twice: u64,
    same: u64,
    /// The first request of one that was not.
    difference: Option<String>,
    failed: Vec<(u64, Vec<String>)>,
}

/// One history; whatever panics in it is an objection too.
fn run(history: History) -> Tally {
    let seed = history.seed;
    catch_unwind(AssertUnwindSafe(|| play::play(history))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        let text = text.unwrap_or_else(|| "a panic without words".to_owned());
        Tally { objections: vec![format!("seed {seed} panicked: {text}")], ..Tally::default() }
    })
}

fn judged(seed: u64, reduction: &Reduction) -> Tally {
    let history = || reduction.apply(History::drawn(seed));
    let mut tally = run(history());
    if seed.is_multiple_of(TWICE_EVERY) && tally.objections.is_empty() {
        let again = run(history());
        tally.repeated = Some(difference(&tally.sent, &again.sent));
        tally.simulated += again.simulated;
    }
    tally.sent = Vec::new();
    tally
}

/// The first request in which two runs differ. In what order lanes that wait for the same thing have their turn within an instant,
/// tokio draws from numbers of its own.
fn difference(one: &[Sent], other: &[Sent]) -> Option<String> {
    let in_order = |sent: &[Sent]| {
        let mut sent = sent.to_vec();
        sent.sort_by(|a, b| (a.at, &a.host, &a.path, a.digest).cmp(&(b.at, &b.host, &b.path, b.digest)));
        sent
    };
    let (one, other) = (in_order(one), in_order(other));
    let same = |a: &Sent, b: &Sent| (a.at, &a.host, a.digest) == (b.at, &b.host, b.digest);
    let place = (0..one.len().max(other.len())).find(|place| match (one.get(*place), other.get(*place)) {
        (Some(a), Some(b)) => !same(a, b),
        _ => true,
    })?;
    Some(format!("request {place} was {:?}, and then {:?}", one.get(place), other.get(place)))
}

fn main() -> ExitCode {
    let options = match Options::read(std::env::args().skip(1)) {
        Ok(Some(options)) => options,
        Ok(None) => return ExitCode::SUCCESS,
        Err(mistake) => {
            eprintln!("simulate: {mistake}");
            return ExitCode::from(64);
        }
    };
    // A panic is told with its seed; those that happen inside are none of the reader's business before that.
    std::panic::set_hook(Box::new(|_| {}));
    let began = wall_clock();
    // A judge that is never seen to object proves nothing.
    if !options.until_failure && !options.show {
        let unnoticed = sabotage::unnoticed();
        unnoticed.iter().for_each(|what| println!("the judge is wrong about it: {what}"));
        if !unnoticed.is_empty() {
            return ExitCode::FAILURE;
        }
    }
    let bar = progress(options.seeds);
    let (next, ended) = (AtomicU64::new(options.first), AtomicBool::new(false));
    let until = options.first.saturating_add(options.seeds);
    let sum = Mutex::new(Sum::default());
    let said = Mutex::new(wall_clock());
    std::thread::scope(|scope| {
        for _ in 0..options.threads.min(options.seeds.max(1)) {
            scope.spawn(|| {
                while !ended.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= until {
                        break;
                    }
                    let tally = judged(seed, &options.reduction);
                    if let Some(first) = tally.objections.first() {
                        let reproduces = format!("make simulate SEED={seed}{}", options.reduction.flags());
                        let line = first.lines().next().unwrap_or_default();
                        bar.suspend(|| println!("{reproduces}  # {line}"));
                    }
                    let mut sum = sum.lock().unwrap_or_else(PoisonError::into_inner);
                    sum.add(seed, tally);
                    bar.set_position(sum.runs);
                    bar.set_message(format!(
                        "{} simulated hours, {} failed",
                        hours(sum.simulated),
                        sum.failed.len()
                    ));
                    let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
                    if bar.is_hidden() && wall_clock() - *said > SAY_EVERY {
                        *said = wall_clock();
                        println!(
                            "{} of {} seeds, {} simulated hours",
                            sum.runs,
                            options.seeds,
                            hours(sum.simulated)
                        );
                    }
                    if options.until_failure && !sum.failed.is_empty() {
                        ended.store(true, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    bar.finish_and_clear();
    let sum = sum.into_inner().unwrap_or_else(PoisonError::into_inner);
    sum.show(wall_clock() - began);
    sum.show_sameness();
    sum.show_failures(&options)
}

impl Sum {
    fn add(&mut self, seed: u64, tally: Tally) {
        self.runs += 1;
        self.simulated += tally.simulated;
        self.deaths += tally.deaths;
        self.faults += tally.faults;
        self.events += tally.events;
        self.extras += tally.extras;
        self.damaged += tally.damaged;
        self.seconds_instances += tally.seconds_instances;
        self.losses += tally.losses;
        self.twice += u64::from(tally.repeated.is_some());
        self.same += u64::from(tally.repeated == Some(None));
        if let Some(Some(difference)) = tally.repeated {
            self.difference.get_or_insert(format!("seed {seed}: {difference}"));
        }
        if !tally.objections.is_empty() {
            self.failed.push((seed, tally.objections));
        }
    }

    fn show(&self, took: Duration) {
        let cpu = cpu_seconds();
        let per_second = self.simulated.as_secs_f64() / 3_600.0 / cpu.max(0.01);
        println!(
            "{} seeds in {:.1} s: {} simulated hours in {cpu:.1} CPU seconds, {per_second:.0} an CPU second",
            self.runs,
            took.as_secs_f64(),
            hours(self.simulated)
        );
        println!(
            "{} events, {} things that happened, {} ends of a process, {} losses of state, {} runs with two forwarders; \
             {} extra rows in Azure, {} seconds declared damaged; {} seeds failed",
            self.events,
            self.faults,
            self.deaths,
            self.losses,
            self.seconds_instances,
            self.extras,
            self.damaged,
            self.failed.len()
        );
    }

    fn show_sameness(&self) {
        println!("{} seeds were run twice, {} of them the same to the byte", self.twice, self.same);
        if let Some(difference) = &self.difference {
            println!("the first that was not: {difference}");
        }
    }

    fn show_failures(mut self, options: &Options) -> ExitCode {
        self.failed.sort_by_key(|(seed, _)| *seed);
        let Some((first, _)) = self.failed.first() else { return ExitCode::SUCCESS };
        if options.until_failure {
            println!("first failure: seed {first}, after {} seeds", first - options.first + 1);
        }
        for (seed, objections) in self.failed.iter().take(SHOWN_MAX) {
            println!("\nmake simulate SEED={seed}{}", options.reduction.flags());
            for objection in objections.iter().take(6) {
                println!("  {objection}");
            }
        }
        if self.failed.len() > SHOWN_MAX {
            let rest: Vec<String> =
                self.failed[SHOWN_MAX..].iter().map(|(seed, _)| seed.to_string()).collect();
            println!("\nand {}: {}", rest.len(), rest.join(" "));
        }
        if options.shrinks && !options.until_failure {
            let seed = *first;
            let fails = |history| !run(history).objections.is_empty();
            let smallest = shrink::shrink(seed, options.reduction.clone(), SHRINK_PATIENCE, fails);
            if smallest != options.reduction {
                let history = smallest.apply(History::drawn(seed));
                println!("\nsmaller, and it fails as well:\nmake simulate SEED={seed}{}", smallest.flags());
                println!("{history:#?}");
                for objection in run(history).objections.iter().take(6) {
                    println!("  {objection}");
                }
            }
        }
        ExitCode::FAILURE
    }
}

/// How long this takes to whoever waits for it.
#[expect(clippy::disallowed_methods, reason = "simulated time is for what is simulated")]
fn wall_clock() -> Instant {
    Instant::now()
}

fn hours(simulated: Duration) -> u64 {
    simulated.as_secs() / 3_600
}

fn progress(seeds: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style =
        ProgressStyle::with_template("{bar:40} {pos}/{len} seeds, {elapsed} of about {duration}; {msg}");
    ProgressBar::new(seeds).with_style(style.expect("the template is well formed"))
}

/// Of this process, all threads together. The kernel counts in hundredths of a second.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks =
        |place: usize| fields.get(place).and_then(|field| field.parse::<f64>().ok()).unwrap_or_default();
    (ticks(11) + ticks(12)) / 100.0
}
