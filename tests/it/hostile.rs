//! Whatever bytes a service sends, or does not send: memory stays within its limit, no other org is delayed, the fault is shown, and
//! everything arrives when it is over.

mod front;

use std::time::{Duration, Instant};

use crate::forwarder::{complete, metric, party, recent, start, works};
use crate::world::World;
use crate::world::daemon::{Daemon, until_within};
use crate::world::pulumi::behaviour::Fault;
use crate::world::pulumi::events::Event;
use crate::world::setup::OrgSetup;
use front::{Front, Misdeed, answer, drips, is_silent, misdeed, reads_slowly, says, says_for_ever};

/// What ten orgs may take at most.
const MEMORY_MAX_KIB: u64 = 128 * 1024;
/// Two poll intervals, and what a busy test machine adds.
const DELAY_MAX: Duration = Duration::from_secs(2 + 5);

/// The longest wait after so few failures, with what a busy test machine adds.
const RECOVERY: Duration = Duration::from_secs(180);

/// The most memory that the process has ever had resident.
fn peak_kib(daemon: &Daemon) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the kernel counts it");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[track_caller]
fn assert_small(daemon: &Daemon) {
    let peak = peak_kib(daemon);
    assert!(peak <= MEMORY_MAX_KIB, "{} MiB were resident", peak / 1024);
}

/// Orgs whose source stands behind a front of its own, and one called `healthy` that nothing is wrong with.
struct Besieged {
    world: World,
    fronts: Vec<(&'static str, Front)>,
    setups: Vec<OrgSetup>,
    healthy: OrgSetup,
    daemon: Daemon,
}

impl Besieged {
    async fn begin(misdeeds: Vec<(&'static str, Misdeed)>) -> Besieged {
        let mut names: Vec<&str> = misdeeds.iter().map(|(name, _)| *name).collect();
        names.push("healthy");
        let world = World::builder().orgs(&names).events(40).start().await;
        let mut fronts = Vec::new();
        let mut setups = Vec::new();
        for (name, misdeed) in misdeeds {
            let front = Front::start(&world.pulumi_url(), None, misdeed).await;
            let mut setup = recent(&world, name).with_file();
            setup.more_source = format!("api_url = {:?}\n", front.url());
            setups.push(setup);
            fronts.push((name, front));
        }
        let healthy = recent(&world, "healthy").with_file();
        let all: Vec<OrgSetup> = setups.iter().chain([&healthy]).cloned().collect();
        let daemon = start(&world, &all);
        Besieged { world, fronts, setups, healthy, daemon }
    }

    /// The healthy org delivers within two poll intervals, while all others are in trouble.
    async fn healthy_goes_on(&mut self, rounds: usize) {
        complete(&self.world, &self.healthy).await;
        for round in 0..rounds {
            let event = Event::at(self.world.clock.now() - 1).described(&format!("round {round}"));
            self.world.pulumi().org("healthy").add([event]);
            let begun = Instant::now();
            complete(&self.world, &self.healthy).await;
            assert!(begun.elapsed() <= DELAY_MAX, "the healthy org took {:?}", begun.elapsed());
        }
    }

    /// Each fault was met, and is shown for what it is; nothing of it counts as read.
    async fn faults_are_shown(&mut self, patience: Duration) {
        for (name, front) in &self.fronts {
            let what = format!("the source of {name} is shown to be in trouble");
            until_within(patience, &what, async || {
                let source = party(&mut self.daemon, name, "source").await.unwrap_or_default();
                front.met() > 0 && (source["state"] == "waiting" || source["state"] == "paused")
            })
            .await;
            let read = metric(&mut self.daemon, "events_read_total", &[("org", name)]).await;
            assert_eq!(read, Some(0.0), "{name}");
        }
    }

    /// Everything arrives by itself, and memory never was too much.
    async fn ends_well(mut self) {
        assert_small(&self.daemon);
        self.fronts.iter().for_each(|(_, front)| front.relents());
        for setup in &self.setups {
            // A wait that has begun is waited out.
            let what = format!("everything of {} has arrived", setup.org);
            until_within(RECOVERY, &what, async || self.world.check_file(&setup.org).is_complete()).await;
            works(&mut self.daemon, &setup.id, "source").await;
        }
        self.healthy_goes_on(1).await;
        assert_small(&self.daemon);
        assert!(self.daemon.stop().await.success());
    }
}

fn gzipped(plain: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    std::io::Write::write_all(&mut packer, plain).expect("memory takes it");
    packer.finish().expect("memory takes it")
}

const CHUNKED: &[u8] = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn bombs_endless_answers_and_oversized_heads_all_at_once_stay_within_the_memory_of_ten_orgs() {
    let gzip = "content-encoding: gzip\r\n";
    let bomb = Fault::bomb(256);
    assert!((250_000..300_000).contains(&bomb.len()), "{} bytes of bomb", bomb.len());
    let page = |inside: &str| [b"{\"auditLogEvents\":[", inside.as_bytes(), b"null]}"].concat();
    let tiny_events = gzipped(&page(&"0,".repeat(30 << 20)));
    let many_headers: String = (0..100_000).map(|n| format!("x-{n}: {n}\r\n")).collect();
    let line = "a".repeat(1 << 20);
    let mut chunk = b"10000\r\n".to_vec();
    chunk.extend([b' '; 0x10000]);
    chunk.extend(b"\r\n");
    // A gzip stream that goes on: a member of a mebibyte of white space, again and again.
    let member = gzipped(&vec![b' '; 1 << 20]);
    let packed_chunk = [format!("{:x}\r\n", member.len()).as_bytes(), &member, b"\r\n"].concat();
    let packed_head =
        b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    let mut besieged = Besieged::begin(vec![
        ("bomb", says(answer(gzip, &bomb))),
        ("bomb-unlabelled", says(answer("", &bomb))),
        ("tiny-events", says(answer(gzip, &tiny_events))),
        ("endless", says_for_ever(b"HTTP/1.1 200 OK\r\n\r\n", vec![b' '; 0x10000])),
        ("endless-chunks", says_for_ever(CHUNKED, chunk)),
        ("endless-gzip", says_for_ever(&packed_head, packed_chunk)),
        ("many-headers", says(answer(&many_headers, b"{\"auditLogEvents\":[]}"))),
        ("long-header", says(answer(&format!("x: {line}\r\n"), b"{\"auditLogEvents\":[]}"))),
        ("endless-head", says_for_ever(b"HTTP/1.1 200 OK\r\n", b"x: y\r\n".repeat(1_000))),
    ])
    .await;
    besieged.healthy_goes_on(3).await;
    besieged.faults_are_shown(Duration::from_secs(60)).await;
    besieged.ends_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_no_http_is_a_failure_and_never_an_empty_log() {
    let empty = b"{\"auditLogEvents\":[]}";
    let raw = |text: &str| says(text.as_bytes().to_vec());
    let mut besieged = Besieged::begin(vec![
        ("folded-header", raw("HTTP/1.1 200 OK\r\nx: a\r\n  b\r\ncontent-length: 21\r\n\r\n{\"auditLogEvents\":[]}")),
        ("nul-in-header", says(answer("x: a\0b\r\n", empty))),
        ("two-lengths", raw("HTTP/1.1 200 OK\r\ncontent-length: 21\r\ncontent-length: 20\r\n\r\n{\"auditLogEvents\":[]}")),
        ("negative-length", raw("HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n{\"auditLogEvents\":[]}")),
        ("huge-chunk", raw("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffffff\r\n{}")),
        ("cut-head", raw("HTTP/1.1 200 OK\r\ncontent-le")),
        ("no-http", raw("220 mail.example ESMTP\r\n")),
        ("too-short", raw("HTTP/1.1 200 OK\r\ncontent-length: 2100\r\n\r\n{\"auditLogEvents\":[]}")),
    ])
    .await;
    besieged.healthy_goes_on(2).await;
    besieged.faults_are_shown(Duration::from_secs(90)).await;
    besieged.ends_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_is_slow_in_any_way_is_given_up_after_a_minute_and_delays_nobody() {
    let second = Duration::from_secs(1);
    let slow_body = misdeed(|mut connection| async move {
        use tokio::io::AsyncWriteExt;
        front::head(&mut connection).await?;
        connection.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n{").await?;
        loop {
            connection.write_all(b" ").await?;
            connection.flush().await?;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    });
    let mut besieged = Besieged::begin(vec![
        ("silent", is_silent()),
        ("slow-reader", reads_slowly(second)),
        ("slow-head", drips(b"HTTP/1.1 200 OK\r\nx: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", second)),
        ("slow-body", slow_body),
        ("informed-for-ever", says_for_ever(b"", b"HTTP/1.1 103 Early Hints\r\nx: y\r\n\r\n".repeat(10))),
    ])
    .await;
    besieged.healthy_goes_on(3).await;
    besieged.faults_are_shown(Duration::from_secs(120)).await;
    for (name, _) in &besieged.fronts {
        let timeouts = metric(&mut besieged.daemon, "source_requests_total", &[("org", name), ("code", "timeout")]).await;
        assert!(timeouts >= Some(1.0), "{name}: {timeouts:?}");
    }
    besieged.healthy_goes_on(1).await;
    besieged.ends_well().await;
}
