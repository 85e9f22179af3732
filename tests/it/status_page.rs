//! The status page as a person meets it: in Debian's Chromium, light and dark, wide and narrow, by keyboard, without scripts, and
//! judged by axe-core. One browser visits everything; what the daemon says of itself is put into its reports here.
//!
//! With `SCREENSHOTS` set to a folder, the pictures for the documentation are put there (`make screenshots`).

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use pulumi_audit_forwarder::admin::{self, Admin};
use pulumi_audit_forwarder::clock::{Clock, Second, Window};
use pulumi_audit_forwarder::config;
use pulumi_audit_forwarder::config::settings::Settings;
use pulumi_audit_forwarder::coverage::Coverage;
use pulumi_audit_forwarder::destination::DestinationName::{File, S3, Sentinel};
use pulumi_audit_forwarder::journal::Outstanding;
use pulumi_audit_forwarder::liveness::Liveness;
use pulumi_audit_forwarder::metrics::Metrics;
use pulumi_audit_forwarder::problem::{PauseReason, Problem, WaitReason};
use pulumi_audit_forwarder::report::activity::Activity;
use pulumi_audit_forwarder::report::spans::spans;
use pulumi_audit_forwarder::report::{CoverageFigures, OrgReport, Reports};
use pulumi_audit_forwarder::rotation::{InUse, Slot, Standing};
use pulumi_audit_forwarder::secret::Secret;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

use crate::forwarder::{complete, org, recent, start};
use crate::world::World;
use crate::world::daemon::until;
use crate::world::pulumi::events::Generator;

const NOW: Second = Second(1_795_256_100);
/// When the scenes begin: what went wrong then has an age.
const BEGIN: Second = Second(NOW.0 - 7_275);
const DAY: i64 = 86_400;
const HOSTILE: &str =
    "<script>alert('x')</script><img src=x onerror=alert(1)>\"'&\u{202e}gnp.exe\u{200b}</td></table>";

/// A daemon's admin endpoints with what a test lets its orgs say.
struct Scene {
    reports: Reports,
    orgs: Vec<OrgReport>,
    admin: Admin,
    /// Keeps the endpoints.
    _shutdown: CancellationToken,
}

impl Scene {
    /// Orgs by id and name, each with Sentinel and S3, and with a `[file]` where its id says so.
    async fn of(names: &[(String, String)]) -> Scene {
        let settings = if names.is_empty() { Vec::new() } else { configured(names).orgs };
        let metrics = Metrics::new("0.1.0", "test");
        let reports = Reports::new(metrics.clone(), Clock::simulated(BEGIN));
        reports.set_config(true, None);
        let orgs = settings.iter().map(|org| reports.org(org)).collect();
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let shutdown = CancellationToken::new();
        let admin = admin::serve(listen, reports.clone(), metrics, Liveness::new(), shutdown.clone())
            .await
            .expect("a free port");
        Scene { reports, orgs, admin, _shutdown: shutdown }
    }

    fn org(&self, id: &str) -> &OrgReport {
        self.orgs.iter().find(|org| org.id().as_str() == id).expect("it is in the scene")
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.admin.address)
    }
}

fn configured(names: &[(String, String)]) -> Settings {
    let directory = tempfile::tempdir().expect("a directory can be made");
    let file = directory.path().join("forwarder.toml");
    std::fs::create_dir(directory.path().join("orgs")).expect("it can be written to");
    let shared = "state_dir = \"state\"\n[sentinel]\nendpoint = \"https://x.ingest.monitor.azure.com\"\n\
        rule_id = \"dcr-00000000000000000000000000000000\"\nstream = \"Custom-PulumiAuditLogs_CL\"\n\
        identity = { kind = \"managed_identity\" }\n[s3]\nbucket = \"audit\"\nregion = \"eu-west-1\"\n";
    std::fs::write(&file, shared).expect("it can be written");
    for (id, _) in names {
        let third = if id.ends_with("-file") { "[file]\npath = \"/nowhere\"\n" } else { "" };
        let text = format!("org = \"{id}\"\n[source]\ntoken = {{ file = \"t\" }}\n[sentinel]\n[s3]\n{third}");
        std::fs::write(directory.path().join(format!("orgs/{id}.toml")), text).expect("it can be written");
    }
    let mut settings = config::load_without_secrets(Some(&file)).expect("it is valid").settings;
    // Names that no configuration may hold are shown safely all the same.
    for (org, (_, name)) in settings.orgs.iter_mut().zip(names) {
        org.org.clone_from(name);
    }
    settings
}

fn named(ids: &[&str]) -> Vec<(String, String)> {
    ids.iter().map(|id| ((*id).to_owned(), format!("{id}-corp"))).collect()
}

/// Everything is well: swept just now, delivered, with a day of events that differs from org to org.
fn fine(org: &OrgReport, number: usize) {
    well_but(org, number, &[], &[]);
}

/// The same with holes, in seconds before now, and damaged seconds.
fn well_but(org: &OrgReport, number: usize, holes: &[(i64, i64)], damaged: &[i64]) {
    let ages = [3_600, 21_600, DAY];
    let (begin, tip) = (NOW - 12 * DAY, NOW - 40 - (number % 7) as i64 * 13);
    let damaged: Vec<Second> = damaged.iter().map(|ago| NOW - *ago).collect();
    let mut coverage = Coverage::default();
    let mut from = begin;
    for (first, last) in holes.iter().copied().chain([(0, 0)]) {
        let until = if first == 0 { tip } else { NOW - first };
        coverage.cover(Window::new(from, until), NOW, &ages, &damaged);
        from = NOW - last;
    }
    let missing: i64 = coverage.holes(begin).iter().map(|hole| hole.seconds()).sum();
    let cursor = coverage.cursor(begin);
    org.coverage(CoverageFigures {
        start: Some(begin),
        cursor: Some(cursor),
        tip: Some(tip),
        holes_seconds: missing,
        damaged_seconds: coverage.damaged_seconds(),
        unsettled_seconds: coverage.unsettled_seconds(&ages, None),
    });
    org.spans(spans(&coverage, Some(begin), DAY, None));
    let mut activity = Activity::default();
    for step in 0..48_u64 {
        // Working hours, seen from somewhere, and chance of a kind.
        let hour = (step / 2 + number as u64 * 3) % 24;
        let busy = [2, 1, 1, 1, 2, 4, 9, 22, 34, 41, 44, 38, 29, 36, 43, 45, 40, 31, 19, 12, 8, 6, 4, 3]
            [hour as usize];
        let chance = (step * 48 + number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58;
        activity.add(NOW - step as i64 * 1_800, busy * (1 + number as u64 % 5) * (32 + chance) / 64, NOW);
    }
    org.activity(activity);
    org.swept();
    org.first_sweep_ended();
    org.source().ok();
    for name in [Sentinel, S3] {
        org.lane(name).progress(4_000, &Outstanding::default(), Some(cursor));
        if !org.lane(name).is_paused() {
            org.lane(name).ok();
        }
    }
}

fn standing(key: &'static str, expires: Option<Second>) -> Standing {
    let fingerprint = Secret::new(key.to_owned()).fingerprint();
    Standing { in_use: Some(InUse { slot: Slot::First, key, fingerprint, expires }), ..Standing::default() }
}

fn problem(reason: PauseReason, cause: &str, remedy: &str) -> Problem {
    Problem { reason, cause: cause.into(), remedy: remedy.into() }
}

fn expired() -> Problem {
    problem(
        PauseReason::Credentials,
        "Entra ID refused the client secret of app 22222222-2222-2222-2222-222222222222 (401, AADSTS7000222: the provided client secret keys are expired)",
        "put a new client secret into /run/secrets/azure-secret; the file is read again by itself. Nothing is lost: the lane waits and goes on from its checkpoint",
    )
}

/// One visit's findings.
#[derive(Debug, Deserialize)]
struct Found {
    name: String,
    status: u16,
    headers: BTreeMap<String, String>,
    bytes: usize,
    milliseconds: u64,
    /// The whole visit.
    took: u64,
    title: String,
    text: String,
    rows: usize,
    errors: Vec<String>,
    #[serde(default)]
    url: String,
    #[serde(default)]
    value: String,
    #[serde(default)]
    focus: Vec<Focus>,
    #[serde(default)]
    skipped_to: String,
    #[serde(default)]
    scripts: usize,
    #[serde(default)]
    overflow: i64,
    #[serde(default)]
    height: i64,
    #[serde(default)]
    background: String,
    #[serde(default)]
    policy_violations: Vec<String>,
    #[serde(default)]
    violations: Vec<String>,
    #[serde(default)]
    undecided: Vec<String>,
    #[serde(default)]
    requests: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Focus {
    name: String,
    outline: bool,
}

async fn visited(visits: &[Value]) -> BTreeMap<String, Found> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let modules = root.join(".tools/browser/node_modules");
    assert!(modules.exists(), "{} is missing: run `make tools`", modules.display());
    let home = tempfile::tempdir().expect("a directory can be made");
    let mut child = Command::new("node")
        .arg(root.join("tests/browser/visit.mjs"))
        .arg(&modules)
        .arg("/usr/bin/chromium")
        .env("HOME", home.path())
        .env_remove("HTTPS_PROXY")
        .env_remove("HTTP_PROXY")
        .env_remove("https_proxy")
        .env_remove("http_proxy")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("node starts");
    let mut input = child.stdin.take().expect("it was asked for");
    input.write_all(Value::from(visits).to_string().as_bytes()).await.expect("it reads");
    drop(input);
    let output = tokio::time::timeout(Duration::from_secs(120), child.wait_with_output())
        .await
        .expect("the browser comes to an end")
        .expect("it can be waited for");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "the browser failed:\n{out}\n{err}");
    let found: Vec<Found> = serde_json::from_str(out.lines().last().unwrap_or_default()).expect("findings");
    found.into_iter().map(|found| (found.name.clone(), found)).collect()
}

/// What holds for every page.
fn assert_sound(found: &Found) {
    let name = &found.name;
    assert_eq!(found.errors, Vec::<String>::new(), "{name}: the console is silent");
    assert_eq!(
        found.policy_violations,
        Vec::<String>::new(),
        "{name}: the policy forbids nothing that is there"
    );
    assert_eq!(found.violations, Vec::<String>::new(), "{name}: axe-core");
    assert_eq!(found.undecided, Vec::<String>::new(), "{name}: axe-core can decide");
    assert_eq!(found.scripts, 0, "{name}: nothing on it could run");
    assert!(found.overflow <= 0, "{name}: the page is {} px too wide", found.overflow);
    let policy = &found.headers["content-security-policy"];
    assert!(policy.starts_with("default-src 'none'; style-src 'sha256-"), "{policy}");
    assert!(
        policy.ends_with("; img-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"),
        "{policy}"
    );
    assert_eq!(found.headers["referrer-policy"], "no-referrer");
    assert_eq!(found.headers["x-content-type-options"], "nosniff");
    let foreign: Vec<&String> = found
        .requests
        .iter()
        .filter(|path| !path.starts_with("/org/") && !path.starts_with("/icon/") && *path != "/")
        .collect();
    assert!(foreign.is_empty(), "{name}: it loads nothing else: {foreign:?}");
}

#[tokio::test]
async fn the_status_page_says_in_a_browser_where_the_trouble_is_and_is_sound_in_every_state() {
    tokio::time::pause();
    let twelve = [
        "aurora",
        "beacon",
        "cobalt",
        "delta",
        "ember",
        "fjord",
        "granite",
        "harbor",
        "indigo",
        "juniper-file",
        "kestrel",
        "lumen",
    ];
    let well = Scene::of(&named(&twelve)).await;
    let paused = Scene::of(&named(&twelve)).await;
    let hole = Scene::of(&named(&twelve)).await;
    let thousand: Vec<(String, String)> =
        (0..1_000).map(|number| (format!("org-{number:04}"), format!("Organization {number}"))).collect();
    let many = Scene::of(&thousand).await;
    let long = "x".repeat(10_000);
    let hostile = Scene::of(&[("acme".into(), HOSTILE.into()), ("bolt".into(), long.clone())]).await;
    let empty = Scene::of(&[]).await;

    for org in [&well, &paused, &hole, &many, &hostile].iter().flat_map(|scene| &scene.orgs) {
        org.source().uses(&standing("token", None));
    }
    // A lane that could not deliver for hours.
    let stuck = paused.org("harbor").lane(Sentinel);
    stuck.uses(&standing("secret", Some(BEGIN + 20)));
    stuck.paused(&expired());
    paused.org("kestrel").lane(S3).uses(&standing("secret_access_key", Some(NOW + 6 * DAY)));
    for number in 0..40 {
        many.orgs[number * 20].lane(Sentinel).paused(&expired());
    }
    tokio::time::advance(Duration::from_secs((NOW - BEGIN).unsigned_abs())).await;

    for scene in [&well, &paused, &hole, &many, &hostile] {
        for (number, org) in scene.orgs.iter().enumerate() {
            fine(org, number);
        }
        if let Some(org) = scene.orgs.iter().find(|org| org.id().as_str() == "juniper-file") {
            org.lane(File).progress(4_000, &Outstanding::default(), Some(NOW - 131));
        }
    }
    stuck.paused(&expired());
    let left = Outstanding { chunks: 120, events: 98_304, first: Some(NOW - 7_320), quarantined: 0 };
    stuck.progress(3_880, &left, Some(NOW - 7_320));
    paused.org("delta").source().waiting(WaitReason::Throttled, Some(NOW), "Pulumi asked to slow down (429)");
    well_but(
        hole.org("fjord"),
        5,
        &[(9 * DAY, 9 * DAY - 3 * 3_600), (10 * 3_600, 9 * 3_600 + 600)],
        &[3 * 3_600, 16 * 3_600],
    );
    many.orgs[7].source().paused(&problem(
        PauseReason::Permission,
        "Pulumi Cloud refused the token (403)",
        "give the token's role the permission audit_logs:read",
    ));
    for number in 101..110 {
        many.orgs[number].source().waiting(WaitReason::Throttled, None, "429");
    }
    well_but(&many.orgs[55], 55, &[(11 * DAY, 3 * DAY)], &[]);
    for org in &hostile.orgs {
        let text = format!("{HOSTILE}{long}");
        org.lane(Sentinel).paused(&problem(PauseReason::Configuration, &text, &text));
        org.source().waiting(WaitReason::Backoff, None, &text);
    }
    hostile.reports.set_config(false, Some(format!("orgs/acme.toml:1: {HOSTILE}{long}")));
    tokio::time::resume();

    let pictures = std::env::var_os("SCREENSHOTS").map(PathBuf::from);
    let mut visits = Vec::new();
    let mut visit = |name: &str, url: String, more: Value| {
        let mut visit = json!({ "name": name, "url": url });
        let more = more.as_object().cloned().unwrap_or_default();
        if let (Some(to), Some(picture)) = (&pictures, more.get("picture").and_then(Value::as_str)) {
            visit["screenshot"] = json!(to.join(picture));
        }
        visit.as_object_mut().expect("it is one").extend(more);
        visits.push(visit);
    };
    let phone = json!({ "width": 375, "height": 812 });
    visit("well", well.url("/"), json!({ "tabs": 9 }));
    visit("well dark", well.url("/"), json!({ "dark": true, "picture": "dark.png" }));
    visit("well phone", well.url("/"), phone.clone());
    visit("well org", well.url("/org/cobalt"), json!({}));
    visit("paused", paused.url("/"), json!({ "picture": "attention.png" }));
    visit("paused dark", paused.url("/"), json!({ "dark": true }));
    visit("paused phone", paused.url("/"), json!({ "width": 375, "height": 812, "picture": "phone.png" }));
    visit("paused org", paused.url("/org/harbor"), json!({}));
    visit("paused org phone", paused.url("/org/harbor"), phone.clone());
    visit("hole", hole.url("/"), json!({}));
    visit(
        "hole org",
        hole.url("/org/fjord?refresh=off"),
        json!({ "width": 1000, "height": 960, "picture": "org.png" }),
    );
    visit("hole org dark", hole.url("/org/fjord"), json!({ "dark": true }));
    visit("hole org phone", hole.url("/org/fjord"), phone.clone());
    visit("many", many.url("/"), json!({}));
    visit("many last", many.url("/?page=99&refresh=off"), json!({}));
    visit("many phone", many.url("/?show=attention"), phone.clone());
    visit("many search", many.url("/?refresh=off"), json!({ "search": "org-005" }));
    visit("hostile", hostile.url("/"), json!({}));
    visit("hostile phone", hostile.url("/"), phone.clone());
    visit("hostile org", hostile.url("/org/acme"), json!({}));
    visit("hostile org phone", hostile.url("/org/bolt"), phone.clone());
    visit(
        "hostile search",
        hostile.url("/?q=%3Cscript%3Ealert(1)%3C%2Fscript%3E%22%20onfocus%3D%22alert(2)&show=%22%3E"),
        json!({}),
    );
    visit("absent", well.url("/org/nobody"), json!({}));
    visit("absent hostile", well.url("/org/%3Cscript%3Ealert(1)%3C%2Fscript%3E"), json!({}));
    visit("empty", empty.url("/"), json!({}));
    let found = visited(&visits).await;
    for found in found.values() {
        let Found { name, bytes, milliseconds, took, height, .. } = found;
        eprintln!("{name}: {bytes} bytes in {milliseconds} ms, {height} px high; {took} ms in all");
    }
    for found in found.values().filter(|found| found.name != "many search") {
        assert_sound(found);
    }

    let well_page = &found["well"];
    assert_eq!((well_page.status, well_page.rows), (200, 12));
    assert!(well_page.title.starts_with("All 12 organizations delivered until "), "{}", well_page.title);
    assert!(!well_page.text.contains("What to do"), "{}", well_page.text);
    assert_eq!(well_page.headers["refresh"], "30");
    assert!(found["well dark"].background != well_page.background, "dark is another scheme");
    assert!(found["hole org dark"].background == found["well dark"].background);
    let focus: Vec<&str> = well_page.focus.iter().map(|focus| focus.name.as_str()).collect();
    assert_eq!(
        focus,
        [
            "Skip to the list",
            "pulumi-audit-forwarder",
            "Pause",
            "Find",
            "Show",
            "Apply",
            "aurora",
            "beacon",
            "cobalt"
        ],
    );
    assert!(well_page.focus.iter().all(|focus| focus.outline), "the focus is seen: {:?}", well_page.focus);
    assert_eq!(well_page.skipped_to, "orgs");

    let paused_page = &found["paused"];
    assert!(
        paused_page
            .title
            .starts_with("1 of 12 organizations needs attention: harbor (sentinel paused: credentials)"),
        "{}",
        paused_page.title
    );
    for part in [
        "What to do: put a new client secret into /run/secrets/azure-secret",
        "98,304 events to deliver",
        "AADSTS7000222",
        "waiting ",
        "ends in 5d 23h",
        "1 organization waits for a while",
    ] {
        assert!(paused_page.text.contains(part), "{part}: {}", paused_page.text);
    }
    let first = paused_page.text.split("trouble first").nth(1).and_then(|rest| rest.find("harbor"));
    let other = paused_page.text.split("trouble first").nth(1).and_then(|rest| rest.find("aurora"));
    assert!(first.is_some() && first < other, "trouble first: {}", paused_page.text);
    let org_page = &found["paused org"];
    for part in [
        "harbor",
        "sentinel paused: credentials",
        "What to do: put a new client secret",
        "98,304",
        "secret ≥ 2h 1m old, ended 2h ",
        "coverage --org harbor",
    ] {
        assert!(org_page.text.contains(part), "{part}: {}", org_page.text);
    }

    let hole_page = &found["hole"];
    assert!(
        hole_page
            .title
            .starts_with("1 of 12 organizations is behind: fjord (catching up, 3h 50m not read yet)"),
        "{}",
        hole_page.title
    );
    assert!(hole_page.text.contains("2s too dense"), "{}", hole_page.text);
    let hole_org = &found["hole org"];
    for part in [
        "What is missing, the newest first",
        "2026-11-12T10:15:00Z",
        "2026-11-12T13:15:00Z",
        "3h 0m",
        "too dense to be read whole",
        "2026-11-21T07:15:01Z",
    ] {
        assert!(hole_org.text.contains(part), "{part}: {}", hole_org.text);
    }
    assert!(!hole_org.headers.contains_key("refresh"), "it was asked to stand still");

    let many_page = &found["many"];
    assert!(many_page.title.starts_with("41 of 1,000 organizations need attention: sentinel paused: credentials (40), source paused: permission (1)"), "{}", many_page.title);
    assert_eq!((many_page.rows, found["many last"].rows, found["many phone"].rows), (100, 100, 41));
    assert!(
        many_page.text.contains("and 28 more"),
        "40 orgs with one remedy are one problem: {}",
        many_page.text
    );
    assert!(many_page.bytes < 250_000, "{} bytes", many_page.bytes);
    let search = &found["many search"];
    assert_eq!(search.rows, 10, "{}", search.text);
    assert_eq!((search.value.as_str(), search.errors.len()), ("org-005", 0));
    assert!(
        search.url.ends_with("/?q=org-005&show=&refresh=off"),
        "what was asked before stays: {}",
        search.url
    );

    for name in ["hostile", "hostile phone", "hostile org", "hostile org phone"] {
        let text = &found[name].text;
        assert!(
            text.contains("<script>alert('x')</script>") || name == "hostile org phone",
            "shown as it is: {text}"
        );
        assert!(
            !text.contains('\u{202e}') && !text.contains('\u{200b}'),
            "{name}: nothing turns the reading direction"
        );
        assert!(!text.contains(&"x".repeat(1_000)), "{name}: long texts are cut");
        assert!(found[name].bytes < 60_000, "{name}: {} bytes", found[name].bytes);
    }
    assert!(found["hostile"].text.contains("\\u{202e}gnp.exe\\u{200b}"), "{}", found["hostile"].text);
    assert!(found["hostile search"].text.contains("No organization matches."));
    for name in ["absent", "absent hostile"] {
        assert_eq!(found[name].status, 404);
        assert!(found[name].text.contains("No organization is called"), "{}", found[name].text);
    }
    assert!(found["empty"].text.contains("No organization has started yet"), "{}", found["empty"].text);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemon_shows_the_day_it_journaled_on_its_page_also_after_it_was_killed() {
    let world = World::builder().events(60).start().await;
    let acme = recent(&world, "acme").with_sentinel().with_file();
    let mut daemon = start(&world, std::slice::from_ref(&acme));
    complete(&world, &acme).await;
    let events = async |daemon: &mut crate::world::daemon::Daemon| -> Option<u64> {
        let org = org(daemon, "acme").await?;
        Some(org["activity"]["events"].as_array()?.iter().filter_map(Value::as_u64).sum())
    };
    until("its events are counted", async || events(&mut daemon).await == Some(60)).await;
    let (code, page) = daemon.get("/").await.expect("the page is served");
    assert_eq!(code, 200);
    assert!(page.contains("60 new events in the last 24 hours"), "{page}");
    daemon.kill();

    let mut daemon = crate::forwarder::again(&world);
    until("they are counted again", async || events(&mut daemon).await == Some(60)).await;
    let (code, page) = daemon.get("/org/acme").await.expect("the page is served");
    assert_eq!(code, 200);
    assert!(page.contains("60 new events in the last 24 hours"), "{page}");
    assert!(page.contains("settled") && page.contains("Coverage since the start"), "{page}");

    world.ingestion().denies_the_role();
    let now = world.clock.now();
    world.pulumi().org("acme").add(Generator::seeded(9).spread(now - 5, now - 1, 4));
    until("the page says what is wrong and what to do", async || {
        let Some((200, page)) = daemon.get("/").await else { return false };
        page.contains("1 of 1 organization needs attention: acme (sentinel paused: permission)")
            && page.contains("Monitoring Metrics Publisher")
            && page.contains("64 new events in the last 24 hours")
    })
    .await;
    assert!(daemon.stop().await.success());
}
