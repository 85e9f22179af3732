//! The crash sweep: for a scripted run of the real binary, everything that changes a file or sends goes wrong once, call by call,
//! until a run meets no more of them; then it is started again, and the world's checker decides.
//!
//! `make crash-sweep` does all of it, `make crash-sweep POINTS=300` a spread, `make crash-sweep POINT=first/journal/kill/17` one.
//! [`point`] says what can go wrong, [`stage`] what the script is, [`story`] how a point is played, [`judge`] what counts as well.
//!
//! *Why not a part of `cargo test`:* the whole takes from minutes to hours. It is not in `make test` for that reason alone.

#![expect(clippy::expect_used, reason = "a panic is the report, and it is caught for each point")]

#[path = "../world/mod.rs"]
mod world;

mod calls;
mod durable;
mod judge;
mod lasting;
mod point;
mod stage;
mod story;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard};

use futures_util::FutureExt;
use point::{Fault, Point, Series};
use stage::Stage;
use story::{Outcome, Recorded};
use tokio::time::Instant;
use world::chance::Chance;

/// Stories that go on at once. Most of a story is waiting for a process.
const JOBS: usize = 4;
/// How often progress is said.
const SAY_EVERY: usize = 10;

struct Options {
    points: Option<usize>,
    point: Option<Point>,
    series: Option<String>,
    jobs: usize,
    seed: u64,
}

impl Options {
    fn read() -> Result<Options, String> {
        let mut options = Options { points: None, point: None, series: None, jobs: JOBS, seed: 1 };
        let mut arguments = std::env::args().skip(1);
        while let Some(name) = arguments.next() {
            let value = arguments.next().unwrap_or_default();
            let number = || value.parse::<u64>().map_err(|_| format!("{name} takes a number, not `{value}`"));
            match name.as_str() {
                "--points" => options.points = Some(usize::try_from(number()?).unwrap_or(usize::MAX)),
                "--point" => options.point = Some(value.parse()?),
                "--series" => options.series = Some(value),
                "--jobs" => options.jobs = usize::try_from(number()?).unwrap_or(JOBS).max(1),
                "--seed" => options.seed = number()?,
                other => {
                    return Err(format!(
                        "unknown option {other}: --points N, --point POINT, --series BEGINNING, --jobs N, --seed N"
                    ));
                }
            }
        }
        Ok(options)
    }
}

/// What is still to be played, and what came of the rest.
struct Sweep {
    /// Points to play before all others; for a spread these are all.
    fixed: VecDeque<Point>,
    /// Series of a whole sweep, and the next number of each.
    open: VecDeque<(Series, u64)>,
    /// How many points there will be, nearly.
    expected: usize,
    played: usize,
    untouched: usize,
    hits: BTreeMap<String, usize>,
    by_fault: BTreeMap<String, usize>,
    failures: Vec<(Point, String)>,
    /// Series that a run without a hit has ended.
    ended: BTreeSet<Series>,
    begun: Instant,
}

impl Sweep {
    fn next(&mut self) -> Option<Point> {
        if let Some(point) = self.fixed.pop_front() {
            return Some(point);
        }
        while let Some((series, number)) = self.open.pop_front() {
            if self.ended.contains(&series) || series.last().is_some_and(|last| number > last) {
                continue;
            }
            self.open.push_back((series, number + 1));
            return Some(Point { series, number });
        }
        None
    }

    fn note(&mut self, point: Point, outcome: Result<Outcome, String>) {
        self.played += 1;
        match outcome {
            Ok(Outcome::Hit(kinds)) => {
                *self.by_fault.entry(family(point.series)).or_default() += 1;
                for kind in kinds {
                    *self.hits.entry(kind).or_default() += 1;
                }
            }
            Ok(Outcome::Untouched) => {
                self.untouched += 1;
                self.ended.insert(point.series);
            }
            Err(error) => {
                println!(
                    "FAILED {point}: {error}\n  to bring it about again: make crash-sweep POINT={point}"
                );
                self.failures.push((point, error));
            }
        }
        if self.played.is_multiple_of(SAY_EVERY) {
            let seconds = self.begun.elapsed().as_secs_f64();
            println!(
                "{} of about {} points, {} failed, {seconds:.0} s",
                self.played,
                self.expected.max(self.played),
                self.failures.len()
            );
        }
    }

    fn print(&self) {
        println!("\nfault, and how many points met it:");
        for (fault, count) in &self.by_fault {
            println!("  {fault:<24} {count:>6}");
        }
        println!("call that went wrong, and how often:");
        for (kind, count) in &self.hits {
            println!("  {kind:<48} {count:>6}");
        }
        let lengths = story::LENGTHS.load(Ordering::Relaxed);
        if lengths > 0 {
            println!("the write-ahead log was cut at {lengths} lengths");
        }
        let hits: usize = self.by_fault.values().sum();
        println!(
            "{} points in {:.0} s: {hits} hit and healed, {} met nothing, {} FAILED",
            self.played,
            self.begun.elapsed().as_secs_f64(),
            self.untouched,
            self.failures.len()
        );
        for (point, _) in &self.failures {
            println!("  make crash-sweep POINT={point}");
        }
    }
}

fn family(series: Series) -> String {
    match series {
        Series::Call { fault, .. } => fault.name().to_owned(),
        Series::Nested => "five kills, nested".to_owned(),
        other => other.to_string(),
    }
}

fn lock(sweep: &Mutex<Sweep>) -> MutexGuard<'_, Sweep> {
    sweep.lock().expect("nobody panics while holding it")
}

fn main() -> ExitCode {
    let options = match Options::read() {
        Ok(options) => options,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    match runtime
        .expect("the system gives threads")
        .block_on(tokio::task::LocalSet::new().run_until(run(options)))
    {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: Options) -> Result<bool, String> {
    let temporary =
        tempfile::Builder::new().prefix("crash-sweep-").tempdir().map_err(|error| error.to_string())?;
    let root = temporary.path().canonicalize().map_err(|error| error.to_string())?;
    let shim = stage::compile(&root);
    let thorough = options.points.is_none();
    let mut first = Stage::build(&root, &shim, 0, thorough).await;
    let recorded = story::record(&mut first).await?;
    println!(
        "the script takes {:.1} s under strace, which saw {} calls; so did the shim",
        recorded.seconds, recorded.agreed
    );
    let sweep = Arc::new(Mutex::new(plan(&options, &recorded)));
    let jobs = if options.point.is_some() { 1 } else { options.jobs };
    let mut workers = tokio::task::JoinSet::new();
    let mut stages = vec![first];
    for number in 1..jobs {
        stages.push(Stage::build(&root, &shim, number, thorough).await);
    }
    for stage in stages {
        workers.spawn_local(work(stage, sweep.clone()));
    }
    workers.join_all().await;
    let sweep = lock(&sweep);
    sweep.print();
    if options.point.is_some() && !sweep.failures.is_empty() {
        let kept = temporary.keep();
        println!("what was left is in {}", kept.display());
    }
    Ok(sweep.failures.is_empty() && sweep.played > sweep.untouched)
}

async fn work(mut stage: Stage, sweep: Arc<Mutex<Sweep>>) {
    loop {
        let Some(point) = lock(&sweep).next() else { return };
        let played = std::panic::AssertUnwindSafe(story::play(&mut stage, point)).catch_unwind().await;
        let outcome = played.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            Err(text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("a panic").to_owned())
        });
        if outcome.is_err() {
            stage.sweep_up().await;
        }
        lock(&sweep).note(point, outcome);
    }
}

/// Which points are played: one, a spread over all series, or all.
fn plan(options: &Options, recorded: &Recorded) -> Sweep {
    let counts: BTreeMap<Series, u64> = recorded.counts.iter().copied().collect();
    let may_mount = lasting::may_mount();
    if !may_mount {
        println!(
            "no file system may be mounted in a namespace here: full disks are shown by refused calls alone"
        );
    }
    let wanted = |series: &Series| {
        (*series != Series::Full || may_mount)
            && options
                .series
                .as_ref()
                .is_none_or(|beginning| series.to_string().starts_with(beginning.as_str()))
    };
    let all: Vec<(Series, u64)> = Series::all()
        .into_iter()
        .filter(wanted)
        .map(|series| (series, series.last().or(counts.get(&series).copied()).unwrap_or_default()))
        .collect();
    let total: u64 = all.iter().map(|(_, count)| count).sum();
    let mut sweep = Sweep {
        fixed: VecDeque::new(),
        open: VecDeque::new(),
        expected: usize::try_from(total).unwrap_or(usize::MAX),
        played: 0,
        untouched: 0,
        hits: BTreeMap::new(),
        by_fault: BTreeMap::new(),
        failures: Vec::new(),
        ended: BTreeSet::new(),
        begun: Instant::now(),
    };
    match (options.point, options.points) {
        (Some(point), _) => {
            sweep.fixed.push_back(point);
            sweep.expected = 1;
        }
        (None, Some(points)) => {
            sweep.fixed = spread(&all, points, options.seed).into();
            sweep.expected = sweep.fixed.len();
        }
        (None, None) => sweep.open = all.iter().map(|(series, _)| (*series, 1)).collect(),
    }
    println!("{total} points or so, {} to be played", sweep.expected);
    sweep
}

/// So many points: every series has some, and those of a series are spread over its length.
fn spread(all: &[(Series, u64)], points: usize, seed: u64) -> Vec<Point> {
    let mut chance = Chance::seeded(seed);
    let mut shares: Vec<(Series, u64, u64)> =
        all.iter().filter(|(_, count)| *count > 0).map(|(series, count)| (*series, *count, 0)).collect();
    // One each, then where a point stands for the most others; those that wait for minutes count for less.
    let mut left = points;
    while left > 0 {
        let weight = |(series, count, share): &(Series, u64, u64)| {
            let slow = match series {
                Series::Call { fault, .. } if fault.lasts() => 8.0,
                Series::Call { fault: Fault::Torn, .. } | Series::Nested => 4.0,
                _ => 1.0,
            };
            if share == count { 0.0 } else { *count as f64 / slow / (*share as f64) }
        };
        let most = shares.iter_mut().max_by(|one, other| weight(one).total_cmp(&weight(other)));
        let Some((_, count, share)) = most.filter(|(_, count, share)| share < count) else { break };
        *share = (*share + 1).min(*count);
        left -= 1;
    }
    let mut chosen = Vec::new();
    for (series, count, share) in shares {
        for index in 0..share {
            let (from, until) = (index * count / share, (index + 1) * count / share);
            chosen.push(Point { series, number: 1 + from + chance.below(until - from) });
        }
    }
    chance.shuffle(&mut chosen);
    chosen
}
