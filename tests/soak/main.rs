//! Seven days of the real binary's life, a poll a second in place of one every five minutes, while every service fails at random:
//! memory must not grow by more than 1 MiB a day, and in the end everything has arrived, exactly once where that is promised.
//!
//! `make soak`, or `make soak MINUTES=5` for a part of it. The seed says which faults come; `SEED=…` gives another.

#![expect(clippy::expect_used, reason = "a panic is the report")]

#[path = "../world/mod.rs"]
mod world;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use world::World;
use world::chance::Chance;
use world::clock::rfc3339;
use world::daemon::{Daemon, until_within};
use world::pulumi::behaviour::{BadGzip, Fault};
use world::pulumi::events::Generator;
use world::s3::proxy::{self, Scope};
use world::script::Times;
use world::setup::OrgSetup;
use world::verdict::{Cut, RetryAfter};
use world::{entra, ingestion};

const ORGS: [&str; 10] = ["acme", "beta", "cyan", "dune", "echo", "fern", "gold", "hail", "iris", "jade"];
/// Polls of a day at the default interval of five minutes; here each takes a second.
const POLLS_A_DAY: f64 = 288.0;
/// Seven days of polls.
const MINUTES: u64 = 7 * 288 / 60 + 1;
const GROWTH_MAX: f64 = 1.0;
/// Memory that 10 orgs may take.
const MEMORY_MAX: f64 = 128.0;
/// Everything drains within that after the last fault.
const DRAIN: Duration = Duration::from_secs(600);

/// Resident memory in MiB.
fn memory(pid: u32, field: &str) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("Linux tells");
    let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("it has this field");
    line.trim_start_matches(':').trim().trim_end_matches(" kB").parse::<f64>().expect("a number") / 1024.0
}

fn fail(world: &World, chance: &mut Chance) {
    let org = *chance.pick(&ORGS);
    let times = Times::Next(1 + chance.below(3) as u32);
    match chance.below(16) {
        0 => world.pulumi().fault(org, Fault::status(500), times),
        1 => world.pulumi().fault(org, Fault::html(503), times),
        2 => world.pulumi().fault(org, Fault::Throttled(RetryAfter::Seconds(1 + chance.below(9))), times),
        3 => world.pulumi().fault(org, Fault::Lost(Cut::ResetAfter(100)), times),
        4 => world.pulumi().fault(org, Fault::BadGzip(BadGzip::Truncated), times),
        5 => world.pulumi().fault(org, Fault::Body(Bytes::from(vec![b' '; 4 << 20])), times),
        6 => world.ingestion().fault(ingestion::Fault::AnswerLost(Cut::Reset), times),
        7 => world.ingestion().fault(ingestion::Fault::unavailable(), times),
        8 => world.ingestion().fault(ingestion::Fault::throttled(RetryAfter::Seconds(2)), times),
        9 => world.ingestion().fault(ingestion::Fault::Unauthorized, times),
        10 => world.entra().fault(entra::Fault::unavailable(), times),
        11 => world.entra().book.revoke_all(),
        12 => world.s3().loses_replies(1),
        13 => world.s3().fault(Scope::any(), proxy::Fault::internal_error(), times),
        14 => world.s3().fault(Scope::any(), proxy::Fault::conflict(), times),
        _ => world.s3().fault(Scope::any(), proxy::Fault::slow_down(), times),
    }
}

/// Growth in MiB a day, by least squares over `(seconds, MiB)`.
fn slope(samples: &[(f64, f64)]) -> f64 {
    let count = samples.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| samples.iter().map(of).sum::<f64>() / count;
    let (time, size) = (mean(|s| s.0), mean(|s| s.1));
    let above: f64 = samples.iter().map(|s| (s.0 - time) * (s.1 - size)).sum();
    let below: f64 = samples.iter().map(|s| (s.0 - time).powi(2)).sum();
    above / below * POLLS_A_DAY
}

async fn run(minutes: u64, seed: u64) -> Result<(), String> {
    let mut chance = Chance::seeded(seed);
    let mut generator = Generator::seeded(seed);
    let world = World::builder().orgs(&ORGS).with_s3().seed(seed).start().await;
    let since = rfc3339(world.clock.now() - 60);
    let orgs: Vec<OrgSetup> = ORGS
        .iter()
        .map(|org| OrgSetup::new(org).since(&since).with_s3().with_sentinel().with_file())
        .collect();
    world.write_config(&orgs, "[journal]\nretain = \"5m\"\n");
    let log = world.paths.root.join("log");
    let mut daemon =
        Daemon::start(Path::new(env!("CARGO_BIN_EXE_pulumi-audit-forwarder")), &world.paths.config, &log);
    let (began, length) = (Instant::now(), Duration::from_secs(minutes * 60));
    let (mut faults, mut events, mut samples) = (0u64, 0u64, Vec::new());
    while began.elapsed() < length {
        if let Some(status) = daemon.has_ended() {
            return Err(format!("the daemon ended by itself with {status}: {}", daemon.log()));
        }
        let now = world.clock.now();
        for org in ORGS {
            let count = chance.below(4) as usize;
            let mut new = generator.burst(now - 1, count);
            if chance.one_in(5) {
                new.extend(generator.twins(now - 1, 2));
            }
            events += new.len() as u64;
            world.pulumi().org(org).add(new);
        }
        if chance.one_in(2) {
            fail(&world, &mut chance);
            faults += 1;
        }
        samples.push((began.elapsed().as_secs_f64(), memory(daemon.pid(), "VmRSS")));
        if samples.len() % 60 == 0 {
            let resident = samples.last().map_or(0.0, |sample| sample.1);
            println!(
                "{:>5.1} of 7 days   {resident:>6.1} MiB   {events:>7} events   {faults:>5} faults",
                samples.len() as f64 / POLLS_A_DAY
            );
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    for org in ORGS {
        world.pulumi().org(org).clear_faults();
    }
    world.ingestion().clear_faults();
    world.s3().proxy.clear_faults();
    until_within(DRAIN, "everything drains", async || {
        for org in ORGS {
            let here = world.check_file(org).is_complete() && world.check_sentinel(org).is_complete();
            if !here || !world.check_s3(org).await.is_complete() {
                tokio::time::sleep(Duration::from_secs(2)).await;
                return false;
            }
        }
        true
    })
    .await;
    let peak = memory(daemon.pid(), "VmHWM");
    if !daemon.stop().await.success() {
        return Err(format!("it did not end well: {}", daemon.log()));
    }
    // The first third fills caches, pools and tables that then stay.
    let growth = slope(&samples[samples.len() / 3..]);
    println!(
        "{:.1} days: {events} events, {faults} faults, 0 lost, 0 doubled; growth {growth:.2} MiB a day (at most {GROWTH_MAX}), peak {peak:.1} MiB (at most {MEMORY_MAX})",
        samples.len() as f64 / POLLS_A_DAY
    );
    if growth > GROWTH_MAX || peak > MEMORY_MAX {
        return Err("memory grows beyond its bound".into());
    }
    Ok(())
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn main() -> ExitCode {
    let (minutes, seed) = (number("MINUTES", MINUTES), number("SEED", 20_261_121));
    println!("{minutes} minutes, MINUTES={minutes} SEED={seed}");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime can be made");
    match runtime.block_on(run(minutes, seed)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(cause) => {
            eprintln!("failed: {cause}");
            ExitCode::FAILURE
        }
    }
}
