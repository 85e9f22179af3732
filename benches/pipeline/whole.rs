//! The real binary against the simulated world: only its own process's CPU time and memory count.

use std::path::Path;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep};

use crate::measure::process::{self, Memory};
use crate::world::World;
use crate::world::chance::Chance;
use crate::world::daemon::Daemon;
use crate::world::ingestion::Keep;
use crate::world::pulumi::events::{Event, Generator};
use crate::world::setup::{OrgSetup, rule_of};

const ORG: &str = "acme";
const HOUR: i64 = 3_600;
/// How often memory is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// How long a daemon that has nothing to do is left alone before its memory is read.
const REST: Duration = Duration::from_secs(15);

fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_pulumi-audit-forwarder"))
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Lanes {
    Azure,
    S3,
    Both,
}

impl Lanes {
    fn azure(self) -> bool {
        self != Lanes::S3
    }

    fn s3(self) -> bool {
        self != Lanes::Azure
    }

    fn configure(self, mut setup: OrgSetup) -> OrgSetup {
        setup.https = true;
        if self.azure() {
            setup = setup.with_sentinel();
        }
        if self.s3() { setup.with_s3() } else { setup }
    }
}

/// Which events there are to fetch.
#[derive(Clone, Copy)]
pub struct Load {
    pub events: usize,
    /// Hours before now between which they happened.
    pub hours_ago: (i64, i64),
}

pub struct Outcome {
    pub cpu: Duration,
    pub wall: Duration,
    pub peak_mib: f64,
    /// Resident memory at each tenth of the events; only with Azure, which counts as they come.
    pub tenths: Vec<f64>,
    pub requests: u64,
}

/// Events of 460 bytes on average, without anything odd: most of them made with a token and by an agent, each with a text of its own
/// that does not compress.
pub fn events(from: i64, until: i64, count: usize) -> Vec<Event> {
    let mut chance = Chance::seeded(11);
    let mut events = Generator::seeded(7).plain().spread(from, until, count);
    for event in &mut events {
        event.description.push_str(&format!(", revision {}", chance.hex(40)));
        if event.token_id.is_none() && !chance.one_in(4) {
            let number = chance.below(40);
            event.token_id = Some(format!("{number:08x}-5f3c-4c58-9d2e-{:012x}", number * 0x9e37_79b9));
            event.token_name = Some(format!("deploy key {number}"));
        }
        if event.actor_urn.is_none() && !chance.one_in(4) {
            let number = chance.below(200);
            event.actor_name = Some(format!("deployment agent {number}"));
            event.actor_urn = Some(format!("urn:pulumi:agent:pool-{}/{number}", number % 7));
        }
    }
    events
}

async fn world(lanes: Lanes) -> World {
    let world = World::builder().orgs(&[ORG]);
    let world = if lanes.s3() { world.with_s3() } else { world };
    let world = world.start().await;
    world.ingestion().keep(Keep::Counts);
    world
}

/// Pulumi over TLS, and as many requests a second as can be configured.
fn source(world: &World, interval: &str) -> String {
    format!(
        "api_url = {:?}\nca_file = {:?}\npoll_interval = {interval:?}\nrescan_after = [\"1h\", \"6h\", \"24h\"]\n\
         requests_per_second = 1000\nhost_requests_per_second = 1000\n",
        world.pulumi_tls_url(),
        world.ca_pem(),
    )
}

fn since(hours_ago: i64, now: i64) -> String {
    pulumi_audit_forwarder::clock::Second(now - hours_ago * HOUR).to_string()
}

/// Fetches and delivers everything with `run --once`; from the process's start to its end.
pub async fn deliver(lanes: Lanes, load: Load) -> Outcome {
    let world = world(lanes).await;
    let now = world.clock.now();
    let (from, until) = load.hours_ago;
    world.pulumi().org(ORG).add(events(now - from * HOUR, now - until * HOUR, load.events));
    let mut setup = lanes.configure(OrgSetup::new(ORG)).since(&since(from, now));
    setup.more_source = source(&world, "5m");
    let config = world.write_config(&[setup], "");
    let log = world.paths.root.join("log");

    let [_, children_before] = process::cpu("self");
    let begun = Instant::now();
    let mut daemon = Daemon::start_with(binary(), &config, &log, &["run", "--once", "--timeout", "1h"]);
    let mut last = Memory::default();
    let mut tenths = Vec::new();
    let status = loop {
        last = process::memory(daemon.pid()).unwrap_or(last);
        let accepted = world.ingestion().accepted(&rule_of(ORG)) as usize;
        if accepted * 10 >= load.events * (tenths.len() + 1) {
            tenths.push(last.resident_mib);
        }
        if let Some(status) = daemon.has_ended() {
            break status;
        }
        sleep(LOOK).await;
    };
    let wall = begun.elapsed();
    let cpu = process::cpu("self")[1] - children_before;

    // A figure of something that was not done would be worth nothing.
    assert!(status.success(), "the daemon did not deliver everything: {status}\n{}", daemon.log());
    if lanes.azure() {
        assert_eq!(world.ingestion().accepted(&rule_of(ORG)), load.events as u64, "rows in the table");
    }
    if lanes.s3() && load.events <= 200_000 {
        world.check_s3(ORG).await.assert_complete();
    }
    let requests = world.pulumi().ledger.requests(ORG);
    Outcome { cpu, wall, peak_mib: last.peak_mib, tenths, requests }
}

/// Resident memory of a daemon with one org and both destinations that has delivered an hour's 500 events and waits for more.
pub async fn idle_mib() -> f64 {
    const EVENTS: usize = 500;
    let world = world(Lanes::Both).await;
    let now = world.clock.now();
    world.pulumi().org(ORG).add(events(now - HOUR, now - 1, EVENTS));
    let mut setup = Lanes::Both.configure(OrgSetup::new(ORG)).since(&since(1, now));
    setup.more_source = source(&world, "5m");
    let config = world.write_config(&[setup], "");
    let log = world.paths.root.join("log");
    let daemon = Daemon::start(binary(), &config, &log);
    let begun = Instant::now();
    while world.ingestion().accepted(&rule_of(ORG)) < EVENTS as u64 {
        assert!(begun.elapsed() < Duration::from_secs(60), "nothing arrives\n{}", daemon.log());
        sleep(LOOK).await;
    }
    sleep(REST).await;
    process::memory(daemon.pid()).expect("the daemon is alive").resident_mib
}

/// From the process's start to the first byte of its first request to the source, with an empty state directory.
pub async fn first_request() -> Duration {
    let world = world(Lanes::Both).await;
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("loopback has a free port");
    let address = listener.local_addr().expect("a bound socket has an address");
    let mut setup = Lanes::Both.configure(OrgSetup::new(ORG)).since("2026-01-01T00:00:00Z");
    setup.more_source = format!("api_url = \"http://{address}\"\npoll_interval = \"5m\"\n");
    let config = world.write_config(&[setup], "");
    let log = world.paths.root.join("log");
    let begun = Instant::now();
    let _daemon = Daemon::start(binary(), &config, &log);
    let (mut connection, _) = listener.accept().await.expect("the daemon connects");
    let mut byte = [0];
    connection.read_exact(&mut byte).await.expect("the daemon asks");
    begun.elapsed()
}

/// Size of the binary as built for release.
pub fn binary_megabytes() -> f64 {
    std::fs::metadata(binary()).expect("the binary is there").len() as f64 / 1e6
}
