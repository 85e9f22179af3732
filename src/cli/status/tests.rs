use std::net::Ipv4Addr;
use std::path::Path;

use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::admin::{self, Admin};
use crate::cli::answer;
use crate::cli::tests::{Captured, written};
use crate::clock::{Second, Window};
use crate::coverage::Coverage;
use crate::destination::DestinationName;
use crate::event::OrgId;
use crate::journal::Append;
use crate::liveness::Liveness;
use crate::metrics::Metrics;
use crate::report::tests::{problem, settings};
use crate::report::{CoverageFigures, Reports};

const NOW: Second = Second(1_795_256_100);

fn example() -> Status {
    serde_json::from_value(json!({
        "version": "0.1.0",
        "orgs": [
            {
                "id": "acme", "org": "acme-corp", "state": "ok", "start": "2026-11-20T10:15:00Z",
                "cursor": "2026-11-21T10:12:50Z", "tip": "2026-11-21T10:12:50Z",
                "coverage": {"holes": 0, "damaged": 0, "unsettled": 0},
                "source": {"state": "ok", "reason": null, "since": "2026-11-21T09:00:00Z", "remedy": null},
                "lanes": [{
                    "destination": "s3", "state": "ok", "reason": null, "since": "2026-11-21T09:00:00Z",
                    "remedy": null, "checkpoint": 41, "delivered_until": "2026-11-21T10:12:50Z",
                    "backlog_chunks": 0, "backlog_events": 0, "quarantined": 0
                }]
            },
            {
                "id": "bolt-production", "org": "bolt", "state": "paused", "start": "2026-11-20T10:15:00Z",
                "cursor": "2026-11-21T09:15:00Z", "tip": "2026-11-21T10:15:00Z",
                "coverage": {"holes": 3600, "damaged": 1, "unsettled": 86400},
                "activity": {"from": "2026-11-20T10:30:00Z", "step_seconds": 1800, "events": [5, 1200, 0]},
                "source": {
                    "state": "waiting", "reason": "throttled", "since": "2026-11-21T10:14:15Z", "remedy": null
                },
                "lanes": [
                    {
                        "destination": "sentinel",
                        "identity": "app `client` of tenant `tenant`", "state": "paused", "reason": "permission",
                        "since": "2026-11-21T08:10:00Z",
                        "remedy": "grant identity 0000 the Monitoring Metrics Publisher role on rule dcr-0\u{1b}[2J",
                        "last_error": {"at": "2026-11-21T10:13:00Z", "text": "Azure answered 403\u{202e}"},
                        "credential": {
                            "slot": "next_secret", "since": "2026-11-09T10:15:00Z", "or_longer": true,
                            "expires": "2026-11-24T10:15:00Z"
                        },
                        "checkpoint": 7, "delivered_until": "2026-11-13T09:15:00Z",
                        "backlog_chunks": 120, "backlog_events": 98304, "quarantined": 3
                    },
                    {
                        "destination": "s3", "state": "ok", "reason": null, "since": "2026-11-21T09:00:00Z",
                        "remedy": null, "checkpoint": null, "delivered_until": null,
                        "backlog_chunks": 0, "backlog_events": 0, "quarantined": 0
                    }
                ]
            },
            {
                "id": "zeta", "org": "", "state": "retired", "start": null, "cursor": null, "tip": null,
                "coverage": {"holes": 0, "damaged": 0, "unsettled": 0},
                "source": {"state": "retired", "reason": null, "since": null, "remedy": null},
                "lanes": []
            }
        ],
        "config": {"ok": false, "since": "2026-11-21T10:14:00Z", "error": "orgs/acme.toml:3: unknown key `tokn`"}
    }))
    .unwrap()
}

#[test]
fn the_table_shows_trouble_first_with_what_to_do_below_it() {
    insta::assert_snapshot!(
        "table",
        table::table(&example(), "running, asked at 127.0.0.1:9465", NOW, Colours::Off)
    );
}

#[test]
fn colours_change_nothing_but_colours() {
    let plain = table::table(&example(), "running", NOW, Colours::Off);
    let mut coloured = table::table(&example(), "running", NOW, Colours::On);
    assert!(coloured.contains("\u{1b}[31mpaused\u{1b}[0m"), "{coloured}");
    for colour in ["\u{1b}[0m", "\u{1b}[2m", "\u{1b}[31m", "\u{1b}[32m", "\u{1b}[33m"] {
        coloured = coloured.replace(colour, "");
    }
    assert_eq!(coloured, plain);
}

#[test]
fn a_daemon_on_all_addresses_is_asked_on_the_loopback_one() {
    for (listen, asked) in [("0.0.0.0:1", "127.0.0.1:1"), ("[::]:1", "[::1]:1"), ("10.0.0.1:1", "10.0.0.1:1")]
    {
        assert_eq!(ask::reachable(listen.parse().unwrap()), asked.parse().unwrap());
    }
}

/// A command line's exit, standard output and standard error.
fn asked(directory: &Path, arguments: &[&str]) -> (Exit, String, String) {
    let file = directory.join("forwarder.toml");
    let (mut out, mut err) = (Captured::default(), Captured::default());
    let whole =
        [&["pulumi-audit-forwarder", "--config", file.to_str().unwrap(), "status"], arguments].concat();
    let exit = answer(whole, &mut out, &mut err);
    (exit, out.text(), err.text())
}

/// A configuration of `acme` and `beta` with its state directory beside it and these admin endpoints.
fn configured(listen: &str) -> tempfile::TempDir {
    let directory = written();
    let file = directory.path().join("forwarder.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("state_dir = \"state\"\nadmin.listen = \"{listen}\"\n{text}")).unwrap();
    directory
}

/// Admin endpoints of a daemon with one paused org, and the runtime they live on.
fn daemon() -> (tokio::runtime::Runtime, Admin, Reports) {
    let runtime = runtime().unwrap();
    let (admin, reports) = runtime.block_on(async {
        let metrics = Metrics::new("0.1.0", "test");
        let reports = Reports::new(metrics.clone(), Clock::simulated(NOW));
        reports.set_config(true, None);
        let acme = reports.org(&settings("acme", "acme-corp", &[DestinationName::File]));
        acme.coverage(CoverageFigures { cursor: Some(NOW), tip: Some(NOW), ..CoverageFigures::default() });
        acme.source().paused(&problem());
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let admin = admin::serve(listen, reports.clone(), metrics, Liveness::new(), CancellationToken::new());
        (admin.await.unwrap(), reports)
    });
    (runtime, admin, reports)
}

#[test]
fn the_running_daemon_is_asked() {
    let (_runtime, admin, reports) = daemon();
    let directory = configured(&admin.address.to_string());
    let (exit, out, err) = asked(directory.path(), &["--json"]);
    assert_eq!((exit, err.as_str()), (Exit::Done, ""));
    assert_eq!(serde_json::from_str::<Status>(&out).unwrap(), reports.status());

    let (exit, out, _) = asked(directory.path(), &[]);
    assert_eq!(exit, Exit::Done);
    assert!(out.contains(&format!("running, asked at {}", admin.address)), "{out}");
    assert!(out.contains("permission for ") && out.contains(&problem().remedy), "{out}");
    assert!(
        out.contains("\n1 of 1 organization needs attention: acme (source paused: permission)\n"),
        "{out}"
    );
    assert!(out.contains(&format!("ago: {}", problem().cause)), "{out}");
    assert!(!out.contains('\u{1b}'), "{out}");

    // The page for people says the same.
    let headline = out.lines().nth(1).expect("a sentence");
    let page = page_of(admin.address);
    assert!(page.contains(&format!("<h1>{headline}</h1>")), "{page}");
    assert!(page.contains(&problem().remedy) && page.contains(&problem().cause), "{page}");
}

fn page_of(address: SocketAddr) -> String {
    use std::io::{Read, Write};

    let mut connection = std::net::TcpStream::connect(address).unwrap();
    write!(connection, "GET / HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn the_healthcheck_says_nothing_and_outlives_a_configuration_that_no_longer_loads() {
    let (runtime, admin, _reports) = daemon();
    let directory = configured(&admin.address.to_string());
    assert_eq!(asked(directory.path(), &["--healthcheck"]), (Exit::Done, String::new(), String::new()));
    std::fs::write(directory.path().join("orgs/acme.toml"), "nonsense = 1\n").unwrap();
    assert_eq!(asked(directory.path(), &["--healthcheck"]), (Exit::Done, String::new(), String::new()));

    // The sockets go with the runtime.
    drop(runtime);
    assert_eq!(asked(directory.path(), &["--healthcheck"]), (Exit::Failed, String::new(), String::new()));
}

#[test]
fn the_healthcheck_follows_livez_and_nothing_else() {
    use std::io::{Read, Write};

    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let directory = configured(&listener.local_addr().unwrap().to_string());
    let daemon = std::thread::spawn(move || {
        let answers = ["503 Service Unavailable", "200 OK", "404 Not Found"];
        answers.map(|answer| {
            let (mut connection, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            let read = connection.read(&mut request).unwrap();
            write!(connection, "HTTP/1.1 {answer}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
                .unwrap();
            String::from_utf8_lossy(&request[..read]).lines().next().unwrap_or_default().to_owned()
        })
    });
    for exit in [Exit::Failed, Exit::Done, Exit::Failed] {
        assert_eq!(asked(directory.path(), &["--healthcheck"]), (exit, String::new(), String::new()));
    }
    assert_eq!(daemon.join().unwrap(), ["GET /livez HTTP/1.1"; 3]);
}

#[test]
fn without_a_daemon_the_state_directory_is_read_and_nothing_is_written() {
    // Port 1 of the loopback address: nobody listens there.
    let directory = configured("127.0.0.1:1");
    let state = directory.path().join("state");
    let (exit, _, err) = asked(directory.path(), &[]);
    assert_eq!(exit, Exit::Failed);
    assert!(err.contains("no daemon answers at 127.0.0.1:1: nothing listens there"), "{err}");
    assert!(err.contains(state.to_str().unwrap()), "{err}");
    assert!(!state.exists());

    runtime().unwrap().block_on(async {
        let journal = SqliteJournal::open(&state).unwrap();
        for id in ["acme", "gone"] {
            let id = OrgId::new(id).unwrap();
            let opened = journal.open(&id, &[DestinationName::File]).await.unwrap();
            let mut coverage = Coverage::default();
            coverage.cover(Window::new(NOW - 3_600, NOW), NOW, &[3_600, 21_600, 86_400], &[]);
            let append = Append {
                revision: opened.revision,
                start: Some(NOW - 3_600),
                coverage,
                chunks: Vec::new(),
                tally: Vec::new(),
                tally_floor: None,
                window: None,
                now: NOW,
            };
            journal.append(&id, append).await.unwrap();
        }
    });
    let (exit, out, err) = asked(directory.path(), &["--json"]);
    assert_eq!((exit, err.as_str()), (Exit::Done, ""));
    let status: serde_json::Value = serde_json::from_str(&out).unwrap();
    let stopped = json!({
        "state": "waiting", "reason": "stopped", "since": null,
        "remedy": "start the daemon: pulumi-audit-forwarder run", "late_after_seconds": 1800
    });
    let read = |state: &str| json!([{ "from": "2026-11-21T09:15:00Z", "until": "2026-11-21T10:15:00Z", "state": state }]);
    assert_eq!(
        status["orgs"],
        json!([
            {
                "id": "acme", "org": "acme-corp", "state": "waiting",
                "start": "2026-11-21T09:15:00Z", "cursor": "2026-11-21T10:15:00Z", "tip": "2026-11-21T10:15:00Z",
                "coverage": {"holes": 0, "damaged": 0, "unsettled": 3600}, "spans": read("unsettled"),
                "source": stopped,
                "lanes": [{
                    "destination": "file", "state": "waiting", "reason": "stopped", "since": null,
                    "remedy": "start the daemon: pulumi-audit-forwarder run", "checkpoint": 0,
                    "delivered_until": "2026-11-21T10:15:00Z",
                    "backlog_chunks": 0, "backlog_events": 0, "quarantined": 0
                }]
            },
            {
                "id": "beta", "org": "beta-corp", "state": "waiting", "start": null, "cursor": null, "tip": null,
                "coverage": {"holes": 0, "damaged": 0, "unsettled": 0}, "source": stopped,
                "lanes": [{
                    "destination": "file", "state": "waiting", "reason": "stopped", "since": null,
                    "remedy": "start the daemon: pulumi-audit-forwarder run", "checkpoint": null,
                    "delivered_until": null, "backlog_chunks": 0, "backlog_events": 0, "quarantined": 0
                }]
            },
            {
                "id": "gone", "org": "", "state": "retired",
                "start": "2026-11-21T09:15:00Z", "cursor": "2026-11-21T10:15:00Z", "tip": "2026-11-21T10:15:00Z",
                "coverage": {"holes": 0, "damaged": 0, "unsettled": 0}, "spans": read("settled"),
                "source": {
                    "state": "retired", "reason": null, "since": null, "remedy": null, "late_after_seconds": 1800
                },
                "lanes": []
            }
        ])
    );
}
