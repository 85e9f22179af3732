//! What an event costs: CPU time of the real binary between simulated services, step by step, and its memory.
//!
//! `make bench`, or `cargo bench --bench pipeline -- [--events N] [--rounds N] [--catch-up N] [--only steps|whole|memory]`. Run it on
//! a machine that does nothing else. CPU seconds per million events are quoted, not wall time, because the source sets the pace in
//! life and neighbours on a shared machine change how long things take, but hardly what they cost.
//!
//! *Why not a benchmark harness:* they time a function in their own process. Here the process is what is measured, while the
//! services it talks to run in this one and must not count.

#![expect(clippy::expect_used, reason = "a panic is the report, and real time is measured")]

#[path = "../measure/mod.rs"]
mod measure;
mod proof;
mod steps;
mod threads;
mod whole;
#[path = "../../tests/world/mod.rs"]
mod world;

use std::time::Duration;

use measure::{Figure, NO_AIM, print, process};
use whole::{Lanes, Load};

struct Options {
    events: usize,
    rounds: usize,
    catch_up: usize,
    only: Option<String>,
}

impl Options {
    fn read() -> Options {
        let mut options = Options { events: 200_000, rounds: 5, catch_up: 1_000_000, only: None };
        let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
        while let Some(name) = arguments.next() {
            let value = arguments.next().unwrap_or_default();
            let number = || value.parse().unwrap_or_else(|_| panic!("{name} takes a number"));
            match name.as_str() {
                "--events" => options.events = number(),
                "--rounds" => options.rounds = number(),
                "--catch-up" => options.catch_up = number(),
                "--only" => options.only = Some(value),
                other => panic!("unknown option {other}"),
            }
        }
        options
    }

    fn wants(&self, part: &str) -> bool {
        self.only.as_deref().is_none_or(|only| only == part)
    }
}

fn main() {
    // One TLS provider for all libraries, as in the binary.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let options = Options::read();
    eprintln!("{}", process::machine());
    let mut figures = Vec::new();
    let mut steps = String::new();
    if options.wants("steps") {
        steps = step_by_step(&options, &mut figures);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    if options.wants("whole") {
        runtime.block_on(whole_pipeline(&options, &mut figures));
    }
    if options.wants("memory") {
        runtime.block_on(memory(&options, &mut figures));
    }
    println!("\n{steps}");
    print(&figures);
}

fn step_by_step(options: &Options, figures: &mut Vec<Figure>) -> String {
    let raw: Vec<(i64, Vec<u8>)> = {
        let pulumi = world::pulumi::Pulumi::new(world::clock::WorldClock::system(), 1);
        pulumi.found("acme", world::pulumi::behaviour::Behaviour::default());
        let from = 1_795_132_800;
        pulumi.org("acme").add(whole::events(from, from + 13 * 3_600, options.events));
        pulumi.truth("acme").into_iter().map(|event| (event.timestamp, event.bytes)).collect()
    };
    let [event, row, sent, stored] = steps::sizes(&raw);
    let mut rounds = Vec::new();
    for round in 1..=options.rounds {
        eprintln!("steps alone, round {round} of {}", options.rounds);
        rounds.push(steps::run(&raw));
    }
    let per_million = |cost: Duration| cost.as_secs_f64() * 1e6 / options.events as f64;
    let mut table = format!(
        "An event has {event:.0} bytes, a row {row:.0}; {sent:.0} of it travel to Azure, {stored:.0} are archived.\n\n\
         | Step alone | CPU s per million events |\n|---|---|\n"
    );
    let (mut sum, mut durable) = (0.0, 0.0);
    for (index, step) in rounds[0].iter().enumerate() {
        let cost = median(rounds.iter().map(|round| per_million(round[index].cost)).collect());
        sum += if step.part { 0.0 } else { cost };
        durable += if step.durable { cost } else { 0.0 };
        let indent = if step.part { "– " } else { "" };
        table.push_str(&format!("| {indent}{} | {cost:.2} |\n", step.name));
    }
    table.push_str(&format!("| sum of the steps, Azure alone | {sum:.2} |\n"));
    let proofs: Vec<(f64, f64)> = (0..options.rounds).map(|_| proof::run(&raw)).collect();
    let verified = median(proofs.iter().map(|proof| proof.0).collect());
    let ratio = median(proofs.iter().map(|proof| proof.1 / proof.0).collect());
    figures.push(Figure {
        name: "verify, MB of archived lines a CPU second".into(),
        value: format!("{verified:.0} ({ratio:.1} times the cost of unpacking and hashing alone)"),
        aim: "≥ 100",
        met: verified >= 100.0,
    });
    figures.push(Figure {
        name: "durability and counting (tally, journal with its packing, hashes), CPU s per million".into(),
        value: format!("{durable:.2}"),
        aim: "≤ 6",
        met: durable <= 6.0,
    });
    table
}

async fn whole_pipeline(options: &Options, figures: &mut Vec<Figure>) {
    // Old enough for two of the three later looks to have been made already, young enough for the tally to be kept.
    let load = Load { events: options.events, hours_ago: (20, 7) };
    let kinds = [(Lanes::Azure, "Azure"), (Lanes::S3, "S3"), (Lanes::Both, "Azure and S3")];
    let mut costs = [const { Vec::new() }; 3];
    let mut peaks = [0.0_f64; 3];
    // In turn, so that a slow minute of the machine meets all of them.
    for round in 1..=options.rounds {
        for (index, (lanes, name)) in kinds.into_iter().enumerate() {
            let outcome = whole::deliver(lanes, load).await;
            let cost = outcome.cpu.as_secs_f64() * 1e6 / load.events as f64;
            eprintln!(
                "to {name}, round {round} of {}: {cost:.1} CPU s per million, {:.1} s, {} page requests, peak {:.0} MiB",
                options.rounds,
                outcome.wall.as_secs_f64(),
                outcome.requests,
                outcome.peak_mib
            );
            costs[index].push(cost);
            peaks[index] = peaks[index].max(outcome.peak_mib);
        }
    }
    let [azure, s3, both] = costs.map(median);
    let per_second = 1e6 / azure;
    figures.push(Figure {
        name: "events per CPU second, to Azure".into(),
        value: format!("{per_second:.0} ({azure:.1} CPU s per million, peak {:.0} MiB)", peaks[0]),
        aim: "≥ 60,000",
        met: per_second >= 60_000.0,
    });
    figures.push(Figure {
        name: "to S3 alone, CPU s per million".into(),
        value: format!("{s3:.1} (peak {:.0} MiB)", peaks[1]),
        aim: NO_AIM,
        met: true,
    });
    figures.push(Figure {
        name: "to Azure and S3, CPU s per million".into(),
        value: format!("{both:.1} (peak {:.0} MiB)", peaks[2]),
        aim: "≤ 24",
        met: both <= 24.0,
    });
}

async fn memory(options: &Options, figures: &mut Vec<Figure>) {
    eprintln!("memory of an idle daemon");
    let idle = whole::idle_mib().await;
    figures.push(Figure {
        name: "idle, 1 org, both destinations, resident".into(),
        value: format!("{idle:.1} MiB"),
        aim: "≤ 24 MiB",
        met: idle <= 24.0,
    });
    eprintln!("from start to first request");
    let mut starts = Vec::new();
    for _ in 0..options.rounds {
        starts.push(whole::first_request().await.as_secs_f64() * 1e3);
    }
    let start = median(starts);
    figures.push(Figure {
        name: "start to first request, 1 org".into(),
        value: format!("{start:.0} ms"),
        aim: "≤ 200 ms",
        met: start <= 200.0,
    });
    eprintln!("catching up on {} events", options.catch_up);
    let days = 12;
    let load = Load { events: options.catch_up, hours_ago: (days * 24, 49) };
    let outcome = whole::deliver(Lanes::Both, load).await;
    let tenths: Vec<String> = outcome.tenths.iter().map(|mib| format!("{mib:.0}")).collect();
    eprintln!(
        "{:.0} s, {:.1} CPU s per million, resident MiB at each tenth: {}",
        outcome.wall.as_secs_f64(),
        outcome.cpu.as_secs_f64() * 1e6 / load.events as f64,
        tenths.join(" ")
    );
    figures.push(Figure {
        name: format!("catch-up of {} events, both destinations, peak", options.catch_up),
        value: format!("{:.0} MiB; at each tenth {}", outcome.peak_mib, tenths.join(" ")),
        aim: "≤ 96 MiB, flat",
        met: outcome.peak_mib <= 96.0,
    });
    let size = whole::binary_megabytes();
    figures.push(Figure {
        name: "stripped binary".into(),
        value: format!("{size:.1} MB"),
        aim: "≤ 20 MB",
        met: size <= 20.0,
    });
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
