//! What many organizations in one process cost: memory, CPU time, and the time until each has been read.
//!
//! `make bench-orgs`, or `cargo bench --bench orgs -- [--orgs 1,100,1000] [--seconds N]`. The real binary runs with the default
//! intervals between simulated services in this process, each org with both destinations: first without any event, then with one a
//! minute for every org, then with trouble on top: one org has a hundred events a second, one org's table is gone. CPU time is the
//! daemon's own. Polls are spread over five minutes, so that a window shorter than that is fair for a hundred orgs and more; the
//! memory after a window that long is that of all orgs having delivered.

#![expect(clippy::expect_used, reason = "a panic is the report, and real time is measured")]

#[path = "../measure/mod.rs"]
mod measure;
#[path = "../../tests/world/mod.rs"]
mod world;

use std::path::Path;
use std::time::Duration;

use measure::{Figure, NO_AIM, print, process};
use tokio::time::{Instant, interval, sleep};
use world::World;
use world::clock::parse_rfc3339;
use world::daemon::Daemon;
use world::ingestion::{Fault, Keep};
use world::pulumi::events::Event;
use world::script::Times;
use world::setup::{OrgSetup, rule_of};

const INTERVAL: Duration = Duration::from_secs(300);
/// How long a daemon that has read every org once is left alone before it is measured.
const REST: Duration = Duration::from_secs(15);
/// The first read of every org may take so long: they begin spread over the poll interval, as fast as the host's budget allows.
const READY: Duration = Duration::from_secs(1_200);

struct Options {
    orgs: Vec<usize>,
    seconds: u64,
}

impl Options {
    fn read() -> Options {
        let mut options = Options { orgs: vec![1, 100, 1_000, 10_000], seconds: 120 };
        let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
        while let Some(name) = arguments.next() {
            let value = arguments.next().unwrap_or_default();
            let number = |text: &str| text.parse().unwrap_or_else(|_| panic!("{name} takes numbers"));
            match name.as_str() {
                "--orgs" => options.orgs = value.split(',').map(number).collect(),
                "--seconds" => options.seconds = number(&value) as u64,
                other => panic!("unknown option {other}"),
            }
        }
        options
    }
}

/// What one number of orgs costs.
#[derive(Debug)]
struct Outcome {
    orgs: usize,
    first_request: Duration,
    all_read: Duration,
    idle: Load,
    scrape: Scrape,
    busy: Load,
    /// Without and with trouble; where there are enough orgs to have others.
    lags: Option<(Lag, Lag)>,
}

/// How far the lanes of all orgs but the troubled two are behind, in seconds: on average, and at most.
#[derive(Clone, Copy, Debug)]
struct Lag {
    mean: f64,
    most: f64,
}

/// A process over a while.
#[derive(Debug)]
struct Load {
    resident_mib: f64,
    /// Of one core.
    share: f64,
}

/// One page of metrics.
#[derive(Debug)]
struct Scrape {
    megabytes: f64,
    cpu: Duration,
    resident_mib: f64,
    peak_mib: f64,
}

fn main() {
    // One TLS provider for all libraries, as in the binary.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let options = Options::read();
    eprintln!("{}", process::machine());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let mut figures = Vec::new();
    for orgs in &options.orgs {
        let outcome = runtime.block_on(measured(*orgs, Duration::from_secs(options.seconds)));
        report(&outcome, &mut figures);
    }
    println!();
    print(&figures);
}

fn report(outcome: &Outcome, figures: &mut Vec<Figure>) {
    let Outcome { orgs, first_request, all_read, idle, scrape, busy, lags } = outcome;
    let thousand = *orgs == 1_000;
    let memory = match *orgs {
        1 => Some(("≤ 24 MiB", 24.0)),
        1_000 => Some(("≤ 64 MiB", 64.0)),
        _ => None,
    };
    figures.push(Figure {
        name: format!("{orgs} orgs, idle, resident"),
        value: format!("{:.1} MiB", idle.resident_mib),
        aim: memory.map_or(NO_AIM, |(text, _)| text),
        met: memory.is_none_or(|(_, most)| idle.resident_mib <= most),
    });
    figures.push(Figure {
        name: format!("{orgs} orgs, idle, CPU"),
        value: format!("{:.2} % of a core", idle.share * 100.0),
        aim: if thousand { "< 2 %" } else { NO_AIM },
        met: !thousand || idle.share < 0.02,
    });
    figures.push(Figure {
        name: format!("{orgs} orgs, a page of metrics"),
        value: format!(
            "{:.1} MB, {:.2} CPU s, resident {:.1} MiB afterwards, peak {:.1}",
            scrape.megabytes,
            scrape.cpu.as_secs_f64(),
            scrape.resident_mib,
            scrape.peak_mib
        ),
        aim: if thousand { "< 0.05 CPU s" } else { NO_AIM },
        met: !thousand || scrape.cpu < Duration::from_millis(50),
    });
    figures.push(Figure {
        name: format!("{orgs} orgs, an event a minute each"),
        value: format!("{:.1} MiB, {:.2} % of a core", busy.resident_mib, busy.share * 100.0),
        aim: NO_AIM,
        met: true,
    });
    if let Some((calm, troubled)) = lags {
        figures.push(Figure {
            name: format!(
                "{orgs} orgs, behind the present on average (at most), with one org hot and one table gone"
            ),
            value: format!(
                "{:.0} s ({:.0}), without that {:.0} s ({:.0})",
                troubled.mean, troubled.most, calm.mean, calm.most
            ),
            aim: NO_AIM,
            met: true,
        });
    }
    figures.push(Figure {
        name: format!("{orgs} orgs, start to first request"),
        value: format!(
            "{:.0} ms; all have been read after {:.0} s",
            first_request.as_secs_f64() * 1e3,
            all_read.as_secs_f64()
        ),
        aim: if *orgs <= 1_000 { "≤ 200 ms" } else { NO_AIM },
        met: *orgs > 1_000 || *first_request <= Duration::from_millis(200),
    });
}

fn name(number: usize) -> String {
    format!("org-{number:05}")
}

/// The default intervals; one host's budget that so many orgs' polls and later looks fit into.
fn source(world: &World, orgs: usize) -> String {
    format!(
        "api_url = {:?}\nca_file = {:?}\npoll_interval = \"5m\"\nrescan_after = [\"1h\", \"6h\", \"24h\"]\n\
         requests_per_second = 2\nhost_requests_per_second = {}\n",
        world.pulumi_tls_url(),
        world.ca_pem(),
        (orgs / 100).max(10),
    )
}

async fn measured(orgs: usize, window: Duration) -> Outcome {
    let names: Vec<String> = (1..=orgs).map(name).collect();
    let known: Vec<&str> = names.iter().map(String::as_str).collect();
    let world = World::builder().orgs(&known).with_s3().start().await;
    world.ingestion().keep(Keep::Counts);
    let setups: Vec<OrgSetup> = names
        .iter()
        .map(|name| {
            let mut setup = OrgSetup::new(name).with_sentinel().with_s3();
            (setup.https, setup.more_source) = (true, source(&world, orgs));
            setup
        })
        .collect();
    let config = world.write_config(&setups, "");

    let begun = Instant::now();
    let binary = Path::new(env!("CARGO_BIN_EXE_pulumi-audit-forwarder"));
    let mut daemon = Daemon::start(binary, &config, &world.paths.root.join("log"));
    while world.pulumi().ledger.total() == 0 {
        assert!(begun.elapsed() < Duration::from_secs(60), "nothing is asked\n{}", daemon.log());
        sleep(Duration::from_millis(1)).await;
    }
    let first_request = begun.elapsed();
    while daemon.get("/readyz").await.is_none_or(|(status, _)| status != 200) {
        assert!(begun.elapsed() < READY, "it does not become ready");
        sleep(Duration::from_millis(500)).await;
    }
    let all_read = begun.elapsed();
    eprintln!("{orgs} orgs: all have been read after {:.0} s", all_read.as_secs_f64());
    sleep(REST).await;

    let idle = over(window, &daemon).await;
    eprintln!("{orgs} orgs: idle {:.1} MiB, {:.2} % of a core", idle.resident_mib, idle.share * 100.0);
    let scrape = scrape(&mut daemon).await;

    let arrived = || names.iter().map(|name| world.ingestion().accepted(&rule_of(name))).sum::<u64>();
    let busy = tokio::select! {
        busy = over(window, &daemon) => busy,
        () = happen(&world, &names) => unreachable!("events happen for ever"),
    };
    let rows = arrived();
    eprintln!(
        "{orgs} orgs: busy {:.1} MiB, {:.2} % of a core, {rows} events arrived",
        busy.resident_mib,
        busy.share * 100.0
    );
    // A figure of something that was not done would be worth nothing. What happened in the last interval may be on its way.
    let due = orgs as u64 * window.saturating_sub(INTERVAL / 2).as_secs() / 60;
    assert!(rows >= due / 2, "{rows} events have arrived, of at least {due}\n{}", daemon.log());

    let mut lags = None;
    if let [gone, hot, _, ..] = &names[..] {
        let troubled_two = [gone, hot];
        let calm = tokio::select! {
            lag = lag(window, &mut daemon, &troubled_two) => lag,
            () = happen(&world, &names) => unreachable!("events happen for ever"),
        };
        world.ingestion().fault_on(&rule_of(gone), Fault::unavailable(), Times::UntilCleared);
        let troubled = tokio::select! {
            lag = lag(window, &mut daemon, &troubled_two) => lag,
            () = happen(&world, &names) => unreachable!("events happen for ever"),
            () = boil(&world, hot) => unreachable!("events happen for ever"),
        };
        eprintln!("{orgs} orgs: behind {calm:?}, with trouble {troubled:?}");
        lags = Some((calm, troubled));
    }
    assert!(daemon.has_ended().is_none(), "{}", daemon.log());
    Outcome { orgs, first_request, all_read, idle, scrape, busy, lags }
}

fn cpu(daemon: &Daemon) -> Duration {
    process::cpu(&daemon.pid().to_string())[0]
}

async fn over(window: Duration, daemon: &Daemon) -> Load {
    let (before, begun) = (cpu(daemon), Instant::now());
    sleep(window).await;
    let spent = cpu(daemon) - before;
    let memory = process::memory(daemon.pid()).expect("the daemon is alive");
    Load { resident_mib: memory.resident_mib, share: spent.as_secs_f64() / begun.elapsed().as_secs_f64() }
}

async fn scrape(daemon: &mut Daemon) -> Scrape {
    let before = cpu(daemon);
    let address = daemon.admin().expect("the daemon is ready");
    let page = reqwest::get(format!("http://{address}/metrics")).await.expect("the daemon answers");
    let bytes = page.bytes().await.expect("the page is whole").len();
    let memory = process::memory(daemon.pid()).expect("the daemon is alive");
    Scrape {
        megabytes: bytes as f64 / 1e6,
        cpu: cpu(daemon) - before,
        resident_mib: memory.resident_mib,
        peak_mib: memory.peak_mib,
    }
}

/// As the daemon says, every ten seconds.
async fn lag(window: Duration, daemon: &mut Daemon, troubled: &[&String]) -> Lag {
    let (mut sum, mut most, mut count) = (0.0, 0.0_f64, 0.0);
    for _ in 0..(window.as_secs() / 10).max(1) {
        let address = daemon.admin().expect("the daemon is ready");
        let answer = reqwest::get(format!("http://{address}/api/status")).await.expect("the daemon answers");
        let body = answer.bytes().await.expect("the answer is whole");
        let status: serde_json::Value = serde_json::from_slice(&body).expect("the status is JSON");
        let now = world::clock::WorldClock::system().now();
        for org in status["orgs"].as_array().into_iter().flatten() {
            if troubled.iter().any(|name| org["id"] == name.as_str()) {
                continue;
            }
            for lane in org["lanes"].as_array().into_iter().flatten() {
                let until =
                    lane["delivered_until"].as_str().and_then(parse_rfc3339).expect("it has been swept");
                let behind = (now - until) as f64;
                (sum, most, count) = (sum + behind, most.max(behind), count + 1.0);
            }
        }
        sleep(Duration::from_secs(10)).await;
    }
    Lag { mean: sum / f64::max(count, 1.0), most }
}

/// A hundred events a second for one org.
async fn boil(world: &World, name: &str) {
    let mut tick = interval(Duration::from_secs(1));
    for second in 0_u64.. {
        tick.tick().await;
        let event = |number| {
            Event::at(world.clock.now()).described(&format!("Event {number} of busy second {second}"))
        };
        world.pulumi().org(name).add((0..100).map(event));
    }
}

/// One event a minute for every org, spread evenly over the minute.
async fn happen(world: &World, names: &[String]) {
    let mut tick = interval(Duration::from_millis(100));
    let mut done = 0;
    let begun = Instant::now();
    loop {
        tick.tick().await;
        let due = (begun.elapsed().as_secs_f64() / 60.0 * names.len() as f64) as usize;
        for number in done..due {
            let event = Event::at(world.clock.now()).described(&format!("Event {number} happened"));
            world.pulumi().org(&names[number % names.len()]).add([event]);
        }
        done = due;
    }
}
