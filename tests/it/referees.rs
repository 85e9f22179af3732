//! The vendors' own clients judge our simulators: what Pulumi's and Microsoft's libraries can work with is close enough to the real
//! thing, and what they cannot is wrong here, not there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use crate::world::World;
use crate::world::pulumi::behaviour::{Behaviour, Cursor, Gzip, NoEvents, TokenStyle};
use crate::world::pulumi::events::Generator;
use crate::world::setup::{CLIENT_ID, CLIENT_SECRET, TENANT, rule_of};

pub(crate) fn tool(path: &str) -> PathBuf {
    let tool = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools").join(path);
    assert!(tool.exists(), "{} is missing: run `make tools`", tool.display());
    tool
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/referees").join(name)
}

async fn run(command: &mut Command) -> serde_json::Value {
    let child = command
        .env_remove("HTTPS_PROXY")
        .env_remove("HTTP_PROXY")
        .env_remove("https_proxy")
        .env_remove("http_proxy")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(Duration::from_secs(120), child)
        .await
        .expect("the referee comes to an end")
        .expect("the referee can be started");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "the referee failed:\n{out}\n{err}");
    serde_json::from_str(out.lines().last().unwrap_or_default()).expect("the referee's last line is JSON")
}

/// What Pulumi's client sees of the log: events by (timestamp, event, description), and its pages.
async fn paged_by_pulumis_client(behaviour: Behaviour) -> (World, serde_json::Value) {
    let world = World::builder().behaviour(behaviour).start().await;
    let now = world.clock.now();
    let mut generator = Generator::seeded(7);
    // No two events of one second, so that no token can lose or repeat any.
    let events: Vec<_> = (0..457).map(|number| generator.event(now - 5_000 + number * 10)).collect();
    let org = world.pulumi();
    org.org("acme").add(events);
    let seen = run(Command::new(tool("venv/bin/python"))
        .arg(script("pulumi_pages.py"))
        .args([&world.pulumi_url(), "acme", &(now - 6_000).to_string(), &(now + 1).to_string()])
        .env("PULUMI_TOKEN", org.org("acme").token()))
    .await;
    (world, seen)
}

fn keys(events: &serde_json::Value) -> BTreeMap<String, usize> {
    let mut keys = BTreeMap::new();
    for event in events.as_array().expect("a list of events") {
        *keys.entry(event.to_string()).or_default() += 1;
    }
    keys
}

fn truth(world: &World) -> BTreeMap<String, usize> {
    let mut keys = BTreeMap::new();
    for event in world.pulumi().truth("acme") {
        let event: serde_json::Value =
            serde_json::from_slice(&event.bytes).expect("an ordinary event is JSON");
        let key = serde_json::json!([
            event["timestamp"],
            event["event"],
            event["description"],
            event["user"]["githubLogin"]
        ]);
        *keys.entry(key.to_string()).or_default() += 1;
    }
    keys
}

#[tokio::test(flavor = "multi_thread")]
async fn pulumis_python_client_pages_the_whole_log_whatever_the_token_is_made_of() {
    for (token, cursor) in [
        (TokenStyle::Keyset, Cursor::Before),
        (TokenStyle::Decimal, Cursor::Before),
        (TokenStyle::Base64, Cursor::Before),
    ] {
        let behaviour = Behaviour { token, cursor, gzip: Gzip::WhenAsked, ..Behaviour::mysql() };
        let (world, seen) = paged_by_pulumis_client(behaviour).await;
        assert_eq!(keys(&seen["events"]), truth(&world), "{token:?}");
        assert_eq!(seen["pages"], 5, "{token:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pulumis_python_client_sees_page_ends_twice_where_the_token_includes_its_second() {
    let behaviour = Behaviour { cursor: Cursor::UpTo, no_events: NoEvents::Empty, ..Behaviour::mysql() };
    let (world, seen) = paged_by_pulumis_client(behaviour).await;
    let (seen, truth) = (keys(&seen["events"]), truth(&world));
    assert!(truth.keys().all(|key| seen.contains_key(key)), "every event is seen");
    assert_eq!(
        seen.values().sum::<usize>(),
        truth.values().sum::<usize>() + 4,
        "and the last of each page but one again"
    );
}

const ROWS: usize = 2_500;

fn assert_uploaded(world: &World, report: &serde_json::Value) {
    assert_eq!(report["uploaded"], ROWS);
    let rows = world.rows("acme");
    assert_eq!(rows.len(), ROWS);
    assert!(
        rows.iter().all(|row| row.text("Event_s") == "stack-deleted" && row.number("Timestamp_d").is_some())
    );
    assert_eq!(rows.iter().filter(|row| row.text("Description_s").contains("Zoë")).count(), ROWS);
    assert!(world.ingestion().errors().is_empty());
    assert_eq!(world.entra().book.issued(), 1, "one token serves all uploads");
    let uploads = world.ingestion().ledger.entries();
    assert!(uploads.iter().all(|upload| upload.header("content-encoding") == Some("gzip")));
}

#[tokio::test(flavor = "multi_thread")]
async fn microsofts_python_clients_get_a_token_and_upload_over_tls() {
    let world = World::start().await;
    let report = run(Command::new(tool("venv/bin/python"))
        .arg(script("azure_upload.py"))
        .args([&world.entra_url(), &world.ingestion_tls_url(), &rule_of("acme"), "Custom-PulumiAuditLogs_CL"])
        .args([TENANT, CLIENT_ID, &ROWS.to_string()])
        .arg(world.ca_pem())
        .env("CLIENT_SECRET", CLIENT_SECRET))
    .await;
    assert_uploaded(&world, &report);
}

#[tokio::test(flavor = "multi_thread")]
async fn microsofts_python_clients_understand_our_refusals() {
    let world = World::start().await;
    let report = run(Command::new(tool("venv/bin/python"))
        .arg(script("azure_upload.py"))
        .args([&world.entra_url(), &world.ingestion_tls_url(), &rule_of("acme"), "Custom-Unknown"])
        .args([TENANT, CLIENT_ID, "1"])
        .arg(world.ca_pem())
        .env("CLIENT_SECRET", CLIENT_SECRET))
    .await;
    assert_eq!((&report["status"], &report["code"]), (&400.into(), &"InvalidStream".into()));

    let report = run(Command::new(tool("venv/bin/python"))
        .arg(script("azure_upload.py"))
        .args([&world.entra_url(), &world.ingestion_tls_url(), &rule_of("acme"), "Custom-PulumiAuditLogs_CL"])
        .args([TENANT, CLIENT_ID, "1"])
        .arg(world.ca_pem())
        .env("CLIENT_SECRET", "wrong"))
    .await;
    assert_eq!(report["error"], "ClientAuthenticationError");
    assert!(report["message"].as_str().is_some_and(|message| message.contains("AADSTS7000215")));
}

#[tokio::test(flavor = "multi_thread")]
async fn microsofts_javascript_clients_get_a_token_and_upload_over_tls() {
    let world = World::start().await;
    let modules = tool("node/node_modules");
    let report = run(Command::new("node")
        .arg(script("azure_upload.mjs"))
        .args([&world.entra_url(), &world.ingestion_tls_url(), &rule_of("acme"), "Custom-PulumiAuditLogs_CL"])
        .args([TENANT, CLIENT_ID, &ROWS.to_string()])
        .env("NODE_EXTRA_CA_CERTS", world.ca_pem())
        .env("REFEREE_MODULES", modules)
        .env("CLIENT_SECRET", CLIENT_SECRET))
    .await;
    assert_uploaded(&world, &report);
    let uploads = world.ingestion().ledger.entries();
    assert!(
        uploads.iter().all(|upload| upload.target.contains("api%2Dversion")),
        "this client encodes even the name"
    );
}
