//! Whatever bytes a service sends, or does not send: memory stays within its limit, no other org is delayed, the fault is shown, and
//! everything arrives when it is over.

mod front;

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use crate::forwarder::{again, complete, is_complete, metric, party, paused, recent, start, works};
use crate::world::World;
use crate::world::certificates::Leaf;
use crate::world::clock::rfc3339;
use crate::world::daemon::{Daemon, until_within};
use crate::world::pulumi::behaviour::{BadGzip, Fault, Gzip};
use crate::world::pulumi::events::Event;
use crate::world::pulumi::events::Generator;
use crate::world::script::Times;
use crate::world::setup::OrgSetup;
use crate::world::verdict::RetryAfter;
use front::{Front, Misdeed, answer, drips, is_silent, misdeed, reads_slowly, says, says_for_ever};

/// What ten orgs may take at most.
const MEMORY_MAX_KIB: u64 = 128 * 1024;
/// Two poll intervals, and what a busy test machine adds.
const DELAY_MAX: Duration = Duration::from_secs(2 + 8);

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
            let mut read = None;
            until_within(patience, "the metrics are served", async || {
                read = metric(&mut self.daemon, "events_read_total", &[("org", name)]).await;
                read.is_some()
            })
            .await;
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

/// 256 MiB of zeros, a mebibyte in each of its members: an unoptimized build would pack a single one for minutes.
fn bomb() -> Vec<u8> {
    gzipped(&vec![0; 1 << 20]).repeat(256)
}

const CHUNKED: &[u8] = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn bombs_endless_answers_and_oversized_heads_all_at_once_stay_within_the_memory_of_ten_orgs() {
    let gzip = "content-encoding: gzip\r\n";
    let bomb = bomb();
    assert!((250_000..300_000).contains(&bomb.len()), "{} bytes of bomb", bomb.len());
    let tiny_events = [
        gzipped(b"{\"auditLogEvents\":["),
        gzipped("0,".repeat(1 << 19).as_bytes()).repeat(60),
        gzipped(b"null]}"),
    ]
    .concat();
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
    besieged.faults_are_shown(Duration::from_secs(180)).await;
    besieged.ends_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_no_http_is_a_failure_and_never_an_empty_log() {
    let empty = b"{\"auditLogEvents\":[]}";
    let raw = |text: &str| says(text.as_bytes().to_vec());
    let mut besieged = Besieged::begin(vec![
        (
            "folded-header",
            raw("HTTP/1.1 200 OK\r\nx: a\r\n  b\r\ncontent-length: 21\r\n\r\n{\"auditLogEvents\":[]}"),
        ),
        ("nul-in-header", says(answer("x: a\0b\r\n", empty))),
        (
            "two-lengths",
            raw("HTTP/1.1 200 OK\r\ncontent-length: 21\r\ncontent-length: 20\r\n\r\n{\"auditLogEvents\":[]}"),
        ),
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
        (
            "slow-head",
            drips(b"HTTP/1.1 200 OK\r\nx: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", second),
        ),
        ("slow-body", slow_body),
        ("informed-for-ever", says_for_ever(b"", b"HTTP/1.1 103 Early Hints\r\nx: y\r\n\r\n".repeat(10))),
    ])
    .await;
    besieged.healthy_goes_on(3).await;
    besieged.faults_are_shown(Duration::from_secs(120)).await;
    // The last one is given up as soon as there are more of these heads than any server sends.
    for name in ["silent", "slow-reader", "slow-head", "slow-body"] {
        let labels = [("org", name), ("code", "timeout")];
        let timeouts = metric(&mut besieged.daemon, "source_requests_total", &labels).await;
        assert!(timeouts >= Some(1.0), "{name}: {timeouts:?}");
    }
    besieged.healthy_goes_on(1).await;
    besieged.ends_well().await;
}

/// A source over TLS behind a front of its own; inside of TLS if there is a configuration.
async fn over_tls(
    cases: Vec<(&'static str, Option<Arc<ServerConfig>>, Misdeed)>,
    world: &World,
) -> (Vec<(&'static str, Front)>, Vec<OrgSetup>) {
    let (mut fronts, mut setups) = (Vec::new(), Vec::new());
    for (name, tls, misdeed) in cases {
        let front = Front::start(&world.pulumi_tls_url(), tls, misdeed).await;
        let mut setup = recent(world, name).with_file();
        setup.more_source = format!("api_url = {:?}\nca_file = {:?}\n", front.tls_url(), world.ca_pem());
        setups.push(setup);
        fronts.push((name, front));
    }
    (fronts, setups)
}

/// Reads the client's first message, and answers with an alert.
fn alerts(description: u8) -> Misdeed {
    misdeed(move |mut connection| async move {
        let mut hello = vec![0; 5];
        connection.read_exact(&mut hello).await?;
        let mut rest = vec![0; usize::from(u16::from_be_bytes([hello[3], hello[4]]))];
        connection.read_exact(&mut rest).await?;
        connection.write_all(&[0x15, 3, 3, 0, 2, 2, description]).await?;
        connection.shutdown().await
    })
}

/// A good handshake and half of an answer; then an alert that nobody encrypted, as whoever stands between the two may send it.
fn alerts_inside(config: Arc<ServerConfig>) -> Misdeed {
    let whole = answer("", b"{\"auditLogEvents\":[]}");
    misdeed(move |connection| {
        let (config, half) = (Arc::clone(&config), whole[..whole.len() - 9].to_vec());
        async move {
            let mut tls = TlsAcceptor::from(config).accept(connection).await?;
            front::head(&mut tls).await?;
            tls.write_all(&half).await?;
            tls.flush().await?;
            let tcp = tls.get_mut().0;
            tcp.write_all(&[0x15, 3, 3, 0, 2, 2, 80]).await?;
            tcp.flush().await?;
            std::future::pending().await
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_is_not_to_be_trusted_pauses_and_a_broken_handshake_is_tried_again() {
    let leaves = [
        ("expired", Leaf::Expired),
        ("not-yet-valid", Leaf::NotYetValid),
        ("wrong-name", Leaf::WrongName),
        ("self-signed", Leaf::SelfSigned),
        ("unknown-authority", Leaf::UnknownAuthority),
    ];
    let broken = ["cut-handshake", "no-common-cipher", "old-version", "cut-inside", "alert-inside"];
    let names: Vec<&str> = leaves.iter().map(|(name, _)| *name).chain(broken).chain(["healthy"]).collect();
    let world = World::builder().orgs(&names).events(40).start().await;
    let good = world.certificates().server(Leaf::Good);
    let mut cases: Vec<(&'static str, Option<Arc<ServerConfig>>, Misdeed)> = leaves
        .iter()
        .map(|(name, leaf)| (*name, Some(world.certificates().server(*leaf)), is_silent()))
        .collect();
    let cut = misdeed(|mut connection| async move {
        connection.read_u8().await?;
        connection.shutdown().await
    });
    let half = answer("", b"{\"auditLogEvents\":[]}");
    let cut_inside = misdeed(move |mut connection| {
        let half = half[..half.len() - 9].to_vec();
        async move {
            front::head(&mut connection).await?;
            connection.write_all(&half).await?;
            connection.flush().await
        }
    });
    cases.push(("cut-handshake", None, cut));
    cases.push(("no-common-cipher", None, alerts(40)));
    cases.push(("old-version", None, alerts(70)));
    cases.push(("cut-inside", Some(Arc::clone(&good)), cut_inside));
    cases.push(("alert-inside", None, alerts_inside(good)));
    let (fronts, setups) = over_tls(cases, &world).await;
    let healthy = recent(&world, "healthy").with_file();
    let all: Vec<OrgSetup> = setups.iter().chain([&healthy]).cloned().collect();
    let mut daemon = start(&world, &all);
    complete(&world, &healthy).await;
    for (name, _) in leaves {
        let remedy = paused(&mut daemon, name, "source", "configuration").await;
        assert!(remedy.contains("ca_file"), "{name}: {remedy}");
        assert_eq!(world.pulumi().ledger.requests(name), 0, "{name}: no token was sent");
    }
    for name in broken {
        until_within(Duration::from_secs(60), &format!("{name} is waited for"), async || {
            party(&mut daemon, name, "source").await.is_some_and(|source| source["state"] == "waiting")
        })
        .await;
    }
    assert_small(&daemon);
    fronts.iter().for_each(|(_, front)| front.relents());
    for setup in setups.iter().filter(|setup| broken.contains(&setup.id.as_str())) {
        until_within(RECOVERY, "a broken handshake is tried again", async || {
            world.check_file(&setup.org).is_complete()
        })
        .await;
    }
    assert!(daemon.stop().await.success());
    // A person has put the certificates right, and does not wait for the next probe.
    let mut daemon = again(&world);
    for setup in &setups {
        complete(&world, setup).await;
    }
    assert!(daemon.stop().await.success());
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a frame is short").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Speaks HTTP/2 up to the first request, then says this, once or for ever; what comes in meanwhile is read.
fn in_http2(says: Vec<u8>, for_ever: bool) -> Misdeed {
    const PREFACE: usize = 24;
    const SETTINGS: u8 = 4;
    const HEADERS: u8 = 1;
    misdeed(move |mut connection| {
        let says = says.clone();
        async move {
            connection.read_exact(&mut [0; PREFACE]).await?;
            connection.write_all(&frame(SETTINGS, 0, 0, &[])).await?;
            connection.flush().await?;
            loop {
                let mut head = [0; 9];
                connection.read_exact(&mut head).await?;
                let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
                connection.read_exact(&mut vec![0; length as usize]).await?;
                if head[3] == HEADERS {
                    break;
                }
            }
            let (mut reads, mut writes) = tokio::io::split(connection);
            let writing = async {
                loop {
                    writes.write_all(&says).await?;
                    writes.flush().await?;
                    if !for_ever {
                        return std::future::pending::<std::io::Result<()>>().await;
                    }
                }
            };
            let reading = async {
                let mut buffer = vec![0; 64 * 1024];
                while reads.read(&mut buffer).await? > 0 {}
                Ok::<(), std::io::Error>(())
            };
            tokio::select! {
                done = writing => done,
                done = reading => done,
            }
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_breaks_http2_is_waited_for_within_bounds_and_delays_nobody() {
    const OK: &[u8] = &[0x88];
    let world_orgs = [
        "goaway",
        "reset-stream",
        "stalled-flow",
        "settings-flood",
        "ping-flood",
        "continuation-flood",
        "window-broken",
        "healthy",
    ];
    let world = World::builder().orgs(&world_orgs).events(40).start().await;
    let mut http2 = (*world.certificates().server(Leaf::Good)).clone();
    http2.alpn_protocols = vec![b"h2".to_vec()];
    let http2 = Arc::new(http2);
    let answered = frame(1, 4, 1, OK);
    let flood = |frames: Vec<u8>| in_http2(frames.repeat(100), true);
    let case = |name, misdeed| (name, Some(Arc::clone(&http2)), misdeed);
    let (fronts, setups) = over_tls(
        vec![
            case("goaway", in_http2(frame(7, 0, 0, &[0; 8]), false)),
            case("reset-stream", in_http2(frame(3, 0, 1, &[0, 0, 0, 2]), false)),
            case("stalled-flow", in_http2(answered.clone(), false)),
            case("settings-flood", flood(frame(4, 0, 0, &[0, 4, 0, 0, 0xff, 0xff]))),
            case("ping-flood", flood(frame(6, 0, 0, &[7; 8]))),
            // A head that never ends: the first piece once, then more of it.
            case(
                "continuation-flood",
                in_http2([frame(1, 0, 1, OK), frame(9, 0, 1, &[0x88; 16_000]).repeat(1_000)].concat(), false),
            ),
            case(
                "window-broken",
                in_http2([answered, frame(0, 0, 1, &[b' '; 16_000]).repeat(1_000)].concat(), true),
            ),
        ],
        &world,
    )
    .await;
    let healthy = recent(&world, "healthy").with_file();
    let all: Vec<OrgSetup> = setups.iter().chain([&healthy]).cloned().collect();
    let daemon = start(&world, &all);
    let mut besieged = Besieged { world, fronts, setups, healthy, daemon };
    besieged.healthy_goes_on(2).await;
    besieged.faults_are_shown(Duration::from_secs(120)).await;
    besieged.ends_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_valid_page_of_fifty_megabytes_is_delivered_whole_within_the_memory_limit() {
    let world = World::builder().orgs(&["acme", "healthy"]).start().await;
    let at = world.clock.now() - 3_600;
    let letters = "0123456789abcdefghijklmnopqrstuvwxyz ".repeat(270);
    let events = (0..5_000).map(|n| Event::at(at - n).described(&format!("{n} {letters}")));
    let acme = world.pulumi().org("acme");
    acme.add(events);
    acme.behave(|behaviour| {
        behaviour.page_size = 10_000;
        behaviour.gzip = Gzip::Never;
    });
    // A look an hour later finds nothing here; two of such pages show nothing that one does not.
    let setup = OrgSetup::new("acme").since(&rfc3339(at - 6_000)).with_file();
    let healthy = recent(&world, "healthy").with_file();
    let mut daemon = start(&world, &[setup.clone(), healthy]);
    // An unoptimized build hashes and packs a few megabytes a second.
    until_within(Duration::from_secs(600), "a large page arrives", async || {
        metric(&mut daemon, "delivered_events_total", &[("org", "acme"), ("destination", "file")]).await
            == Some(5_000.0)
    })
    .await;
    world.pulumi().org("healthy").add([Event::at(world.clock.now() - 1).described("meanwhile")]);
    until_within(RECOVERY, "the other org goes on", async || world.check_file("healthy").is_complete()).await;
    assert_small(&daemon);
    assert!(daemon.stop().await.success());
    world.check_file("acme").assert_complete();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_packed_oddly_is_read_right_or_not_at_all() {
    let cases = [
        ("truncated", BadGzip::Truncated),
        ("checksum", BadGzip::WrongChecksum),
        ("trailing", BadGzip::TrailingBytes),
        ("two-members", BadGzip::TwoMembers),
        ("mislabelled", BadGzip::Mislabelled),
    ];
    let names = cases.map(|(name, _)| name);
    let world = World::builder().orgs(&names).events(40).start().await;
    for (name, how) in cases {
        world.pulumi().fault(name, Fault::BadGzip(how), Times::Next(3));
    }
    let setups = names.map(|name| recent(&world, name).with_file());
    let mut daemon = start(&world, &setups);
    for setup in &setups {
        until_within(RECOVERY, "everything arrives", async || world.check_file(&setup.org).is_complete())
            .await;
    }
    assert!(daemon.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn azure_entra_and_s3_may_send_what_they_like_and_only_their_lanes_wait() {
    let gzip = "content-encoding: gzip\r\n";
    let bomb = bomb();
    let many_headers: String = (0..100_000).map(|n| format!("x-{n}: {n}\r\n")).collect();
    let endless = || says_for_ever(b"HTTP/1.1 500 Oh\r\n\r\n", vec![b' '; 0x10000]);
    only_lanes_wait(
        vec![
            ("azure-bomb", says(answer(gzip, &bomb))),
            ("azure-endless", endless()),
            ("azure-headers", says(answer(&many_headers, b""))),
            ("entra-bomb", says(answer(gzip, &bomb))),
            ("entra-endless", endless()),
            ("s3-endless", endless()),
            ("s3-bomb", says(answer(gzip, &bomb))),
            ("s3-headers", says(answer(&many_headers, b""))),
        ],
        Duration::from_secs(60),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn azure_entra_and_s3_that_are_slow_or_silent_keep_only_their_lanes_waiting() {
    let second = Duration::from_secs(1);
    let head = b"HTTP/1.1 200 OK\r\nx: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    only_lanes_wait(
        vec![
            ("azure-silent", is_silent()),
            ("azure-slow-reader", reads_slowly(second)),
            ("azure-slow-head", drips(head, second)),
            ("entra-silent", is_silent()),
            ("entra-slow-head", drips(head, second)),
            ("s3-silent", is_silent()),
            ("s3-slow-reader", reads_slowly(second)),
            ("s3-slow-head", drips(head, second)),
        ],
        Duration::from_secs(150),
    )
    .await;
}

/// The service that the org's name begins with misbehaves: this lane is in trouble within `patience`, and files and sources are not.
async fn only_lanes_wait(misdeeds: Vec<(&'static str, Misdeed)>, patience: Duration) {
    let names: Vec<&str> = misdeeds.iter().map(|(name, _)| *name).chain(["healthy"]).collect();
    let world = World::builder().orgs(&names).with_s3().events(40).start().await;
    let tls = world.certificates().server(Leaf::Good);
    // An org begins when it has looked into its archive: those that are to suffer from S3 have begun before.
    let stored = names.iter().filter(|name| name.starts_with("s3"));
    let begun: Vec<OrgSetup> = stored.map(|name| recent(&world, name).with_file().with_s3()).collect();
    let mut before = start(&world, &begun);
    for setup in &begun {
        complete(&world, setup).await;
    }
    assert!(before.stop().await.success());
    for setup in &begun {
        world.pulumi().org(&setup.org).add(Generator::seeded(9).burst(world.clock.now() - 1, 10));
    }
    let (mut fronts, mut setups) = (Vec::new(), Vec::new());
    for (name, misdeed) in misdeeds {
        let mut setup = recent(&world, name).with_file();
        let front = match name.split('-').next() {
            Some("azure") => Front::start(&world.ingestion_url(), None, misdeed).await,
            Some("entra") => Front::start(&world.entra_url(), Some(Arc::clone(&tls)), misdeed).await,
            _ => Front::start(&world.s3().endpoint(), None, misdeed).await,
        };
        setup = if name.starts_with("s3") { setup.with_s3() } else { setup.with_sentinel() };
        match name.split('-').next() {
            Some("azure") => setup.azure_url = Some(front.url()),
            Some("entra") => setup.authority = Some(front.tls_url()),
            _ => setup.store_url = Some(front.url()),
        }
        setups.push(setup);
        fronts.push((name, front));
    }
    let healthy = recent(&world, "healthy").with_file();
    let all: Vec<OrgSetup> = setups.iter().chain([&healthy]).cloned().collect();
    let daemon = start(&world, &all);
    let mut besieged = Besieged { world, fronts, setups, healthy, daemon };
    besieged.healthy_goes_on(2).await;
    for setup in &besieged.setups {
        let lane = if setup.s3 { "s3" } else { "sentinel" };
        until_within(patience, &format!("{lane} of {} is in trouble", setup.id), async || {
            let lane = party(&mut besieged.daemon, &setup.id, lane).await.unwrap_or_default();
            lane["state"] == "waiting" || lane["state"] == "paused"
        })
        .await;
        until_within(RECOVERY, "files go on", async || besieged.world.check_file(&setup.org).is_complete())
            .await;
        works(&mut besieged.daemon, &setup.id, "source").await;
    }
    assert_small(&besieged.daemon);
    besieged.fronts.iter().for_each(|(_, front)| front.relents());
    for setup in &besieged.setups {
        let what = format!("everything of {} has arrived", setup.id);
        until_within(RECOVERY, &what, async || is_complete(&besieged.world, setup).await).await;
    }
    assert_small(&besieged.daemon);
    assert!(besieged.daemon.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_besieges_the_admin_endpoints_keeps_no_probe_out_and_costs_little() {
    let world = World::with_events(40).await;
    let acme = recent(&world, "acme").with_file();
    let mut daemon = start(&world, std::slice::from_ref(&acme));
    complete(&world, &acme).await;
    let address = daemon.admin().expect("it is served");
    let open = || std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).expect("it runs").count();
    let before = open();
    let mut held = Vec::new();
    for n in 0..300 {
        let mut tcp = tokio::net::TcpStream::connect(&address).await.expect("it listens");
        // Some say nothing, some half of a request.
        if n % 2 == 0 {
            let _may_be_closed = tcp.write_all(b"GET /metrics HTTP/1.1\r\nx: ").await;
        }
        held.push(tcp);
    }
    let open = || std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).expect("it runs").count();
    assert!(open() <= before + 64 + 8, "{before} descriptors before, {} now", open());
    for path in ["/livez", "/metrics", "/api/status"] {
        let (status, _) = daemon.get(path).await.expect("a probe is answered meanwhile");
        assert_eq!(status, 200, "{path}");
    }
    let many: String = (0..100_000).map(|n| format!("x-{n}: {n}\r\n")).collect();
    let long = "a".repeat(1 << 20);
    for request in [
        format!("GET /livez HTTP/1.1\r\n{many}\r\n"),
        format!("GET /{long} HTTP/1.1\r\n\r\n"),
        format!("GET /livez HTTP/1.1\r\nx: {long}\r\n\r\n"),
        "GET /livez HTTP/1.1\r\ncontent-length: 99999999999999999999\r\n\r\n".to_owned(),
        "\u{0}\u{1}\u{2}\r\n\r\n".to_owned(),
    ] {
        let mut tcp = tokio::net::TcpStream::connect(&address).await.expect("it listens");
        let (mut reads, mut writes) = tcp.split();
        let mut said = Vec::new();
        let asked = async {
            let _may_be_closed = writes.write_all(request.as_bytes()).await;
        };
        let read = async {
            let _may_be_reset = reads.read_to_end(&mut said).await;
        };
        let both = async { tokio::join!(asked, read) };
        assert!(tokio::time::timeout(Duration::from_secs(30), both).await.is_ok(), "the connection is ended");
        let said = String::from_utf8_lossy(&said);
        assert!(said.is_empty() || said.starts_with("HTTP/1.1 4"), "{said}");
    }
    world.pulumi().org("acme").add([Event::at(world.clock.now() - 1).described("meanwhile")]);
    complete(&world, &acme).await;
    assert_small(&daemon);
    assert!(daemon.stop().await.success());
    drop(held);
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_file_descriptors_are_enough_for_ten_orgs() {
    let names: Vec<String> = (0..10).map(|n| format!("org-{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let world = World::builder().orgs(&names).events(40).start().await;
    let setups: Vec<OrgSetup> =
        names.iter().map(|name| recent(&world, name).with_file().with_sentinel()).collect();
    world.write_config(&setups, "");
    let limited = world.paths.root.join("limited");
    std::fs::write(
        &limited,
        format!("#!/bin/sh\nulimit -n 64\nexec {:?} \"$@\"\n", crate::delivery::binary()),
    )
    .expect("it can be written");
    std::fs::set_permissions(&limited, std::fs::Permissions::from_mode(0o700)).expect("it can be run");
    let mut daemon = Daemon::start(&limited, &world.paths.config, &world.paths.root.join("log"));
    for setup in &setups {
        complete(&world, setup).await;
    }
    assert!(daemon.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_would_do_harm_elsewhere_is_inert_in_the_log_the_status_and_the_archive() {
    let world = World::builder().orgs(&["acme", "rude"]).start().await;
    let rude = "\r\n{\"level\":\"ERROR\",\"message\":\"forged\"}\r\n\u{1b}[2J\u{202e}</script><script>alert(1)</script>${jndi:ldap://x} =cmd()|' /C calc'!A0 | where 1==1";
    let now = world.clock.now();
    world.pulumi().org("acme").add((0..5).map(|n| Event::at(now - 10 - n).described(&format!("{n}{rude}"))));
    let long = "{\"timestamp\":AT,\"sourceIP\":\"192.0.2.1\",\"event\":\"e\",\"description\":\"D\",\"user\":{\"name\":\"\",\"githubLogin\":\"x\",\"avatarUrl\":\"\"}X}";
    let at = (now - 900).to_string();
    let verbatim =
        |description: &str, more: &str| long.replace("AT", &at).replace('D', description).replace('X', more);
    for length in [65_535, 65_536, 65_537] {
        world.pulumi().org("acme").add_verbatim(now - 900, verbatim(&"d".repeat(length), "").as_bytes());
        // A character of three bytes lies across the limit.
        world.pulumi().org("acme").add_verbatim(
            now - 900,
            verbatim(&format!("{}\u{20ac}\u{20ac}", "e".repeat(length - 4)), "").as_bytes(),
        );
    }
    world.pulumi().org("acme").add_verbatim(now - 900, verbatim(&"f".repeat(2 << 20), "").as_bytes());
    let unknown: String = (0..5_000).map(|n| format!(",\"new{n}\":{n}")).collect();
    world.pulumi().org("acme").add_verbatim(now - 900, verbatim("many fields", &unknown).as_bytes());
    let error = Fault::Status { code: 500, message: rude.to_owned(), retry_after: RetryAfter::None };
    world.pulumi().fault("rude", error, Times::UntilCleared);
    let refusal = Fault::Status { code: 404, message: rude.to_owned(), retry_after: RetryAfter::None };
    let acme = recent(&world, "acme").with_file().with_sentinel();
    let mut daemon = start(&world, &[acme.clone(), recent(&world, "rude").with_file()]);
    complete(&world, &acme).await;
    assert_eq!(world.rows("acme").len(), 5 + 8);
    world.pulumi().org("rude").clear_faults();
    world.pulumi().fault("rude", refusal, Times::UntilCleared);
    paused(&mut daemon, "rude", "source", "configuration").await;
    let (_, page) = daemon.get("/").await.expect("it is served");
    assert!(!page.contains("<script"), "{page}");
    assert!(daemon.stop().await.success());
    let log = daemon.log();
    assert!(log.contains("jndi"), "the service's words are in the log");
    for line in log.lines() {
        let line: serde_json::Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert_ne!(line["message"], "forged");
    }
    assert!(!log.contains('\u{1b}') && !log.contains('\r'));
}
