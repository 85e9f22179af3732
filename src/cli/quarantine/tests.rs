use std::path::Path;

use bytes::Bytes;
use serde_json::Value;

use super::*;
use crate::chunk::{Cut, Mode, NewEvent, Packing, Summary};
use crate::cli::answer;
use crate::cli::tests::{Captured, written};
use crate::clock::{Second, Window};
use crate::coverage::Coverage;
use crate::destination::{QuarantineReason, Receipt, Refusal};
use crate::event::{Event, EventKey, IdentityHasher, Payload};
use crate::journal::{Acknowledge, Append};

/// 2026-11-21T10:15:00Z.
const NOW: Second = Second(1_795_256_100);
const SENTINEL: DestinationName = DestinationName::Sentinel;

fn acme() -> OrgId {
    OrgId::new("acme").unwrap()
}

fn event(number: i64) -> NewEvent {
    let raw = Bytes::from(format!("{{\"timestamp\":{},\"n\":1.0E+{number}}}", NOW.0 + number));
    let mut hasher = IdentityHasher::new(&acme());
    hasher.value(&raw);
    let identity = hasher.finish();
    let key = EventKey::new(&identity, 0);
    let (at, payload) = (Some(NOW + number), Payload([0; 32]));
    NewEvent { key, event: Event { raw, at, identity, payload, kind: "".into(), odd: Default::default() } }
}

fn refusal(chunk: u64, row: u32) -> Refusal {
    Refusal {
        at: RowId { chunk, row },
        key: format!("key-{chunk}-{row}"),
        reason: QuarantineReason::Refused,
        detail: "400: no\u{1b}[2J".to_owned(),
        provisional: false,
    }
}

/// An org with two chunks of three events, and these rows of chunk 0 in quarantine.
async fn fill(state: &Path, refused: Vec<Refusal>) {
    let journal = SqliteJournal::open(state).unwrap();
    let opened = journal.open(&acme(), &[SENTINEL]).await.unwrap();
    let mut link = opened.link;
    for number in 0..2 {
        let summary = Summary {
            start: None,
            coverage: Vec::new(),
            checkpoints: Default::default(),
            instance: String::new(),
            forwarder: "0".to_owned(),
            audit: None,
        };
        let id = acme();
        let cut = Cut {
            id: &id,
            org: "acme-corp",
            mode: Mode::Live,
            window: Window::new(NOW, NOW + 300),
            packing: Packing::Stored,
            next: number,
            link,
            before: summary.clone(),
            after: summary,
        };
        let chunks = cut.chunks((0..3).map(event).collect());
        link = crate::chunk::Link::of_claim(&chunks[0].claim);
        let append = Append {
            revision: number,
            start: Some(NOW),
            coverage: Coverage::default(),
            chunks,
            tally: Vec::new(),
            tally_floor: None,
            window: None,
            now: NOW,
        };
        journal.append(&acme(), append).await.unwrap();
    }
    let receipt = Receipt { status: 204, quarantined: refused, ..Receipt::default() };
    let acknowledge = Acknowledge { destination: SENTINEL, chunk: 0, receipt, now: NOW + 60 };
    journal.acknowledge(&acme(), acknowledge).await.unwrap();
}

/// A configuration of `acme` and `beta`, and a state directory with these rows in quarantine.
fn filled(refused: Vec<Refusal>) -> tempfile::TempDir {
    let directory = written();
    let file = directory.path().join("forwarder.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("state_dir = \"state\"\n{text}")).unwrap();
    runtime().unwrap().block_on(fill(&directory.path().join("state"), refused));
    directory
}

fn asked(directory: &Path, arguments: &[&str]) -> (Exit, String, String) {
    let file = directory.join("forwarder.toml");
    let (mut out, mut err) = (Captured::default(), Captured::default());
    let whole = [
        &["pulumi-audit-forwarder", "--log-level", "error", "--config", file.to_str().unwrap(), "quarantine"],
        arguments,
    ]
    .concat();
    let exit = answer(whole, &mut out, &mut err);
    (exit, out.text(), err.text())
}

const LANE: [&str; 4] = ["--org", "acme", "--destination", "sentinel"];

fn of_acme<'a>(command: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&[command], &LANE[..], more].concat()
}

#[test]
fn the_list_shows_where_each_row_is_and_why() {
    let directory = filled(vec![refusal(0, 0), Refusal { provisional: true, ..refusal(0, 2) }]);
    let (exit, out, err) = asked(directory.path(), &["list"]);
    assert_eq!((exit, err.as_str()), (Exit::Done, ""));
    insta::assert_snapshot!("list", out);

    let (exit, out, _) = asked(directory.path(), &["list", "--json", "--destination", "sentinel"]);
    assert_eq!(exit, Exit::Done);
    let answer: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(answer["rows"].as_array().unwrap().len(), 2);
    assert_eq!(
        answer["rows"][1],
        json!({
            "org": "acme", "destination": "sentinel", "chunk": 0, "row": 2, "key": "key-0-2", "reason": "refused",
            "detail": "400: no\u{1b}[2J", "since": "2026-11-21T10:16:00Z", "provisional": true
        })
    );
    for nothing in [&["list", "--org", "beta"][..], &["list", "--destination", "s3"]] {
        assert_eq!(
            asked(directory.path(), nothing),
            (Exit::Done, "no rows in quarantine\n".into(), String::new())
        );
    }
}

#[test]
fn a_long_list_is_cut_and_says_so_and_json_has_everything() {
    let directory = filled((0..1_200).map(|row| refusal(0, row)).collect());
    let rows = |out: &str| out.lines().filter(|line| line.contains("key-0-")).count();
    let (_, out, _) = asked(directory.path(), &["list"]);
    assert_eq!(rows(&out), ROWS_LISTED);
    assert!(out.contains("1150 rows more: --all lists them"), "{out}");
    let (_, out, _) = asked(directory.path(), &["list", "--all"]);
    assert_eq!(rows(&out), 1_200);
    let (_, out, _) = asked(directory.path(), &["list", "--json"]);
    let answer: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(answer["rows"].as_array().unwrap().len(), 1_200);
}

#[test]
fn a_row_is_shown_as_it_is_archived() {
    let directory = filled(vec![refusal(0, 2)]);
    let (exit, out, err) = asked(directory.path(), &of_acme("show", &["--chunk", "0", "--row", "2"]));
    assert_eq!((exit, err.as_str()), (Exit::Done, ""));
    insta::assert_snapshot!("show", out);

    let (exit, out, err) = asked(directory.path(), &of_acme("show", &["--chunk", "0", "--row", "1"]));
    assert_eq!((exit, out.as_str()), (Exit::Failed, ""));
    assert!(err.starts_with("error: row 1 of chunk 0 of `acme` is not in quarantine for sentinel"), "{err}");
}

#[test]
fn a_row_whose_chunk_was_pruned_is_to_be_found_in_the_archive_and_cannot_be_retried() {
    let directory = filled(vec![refusal(0, 2)]);
    runtime().unwrap().block_on(async {
        let journal = SqliteJournal::open(&directory.path().join("state")).unwrap();
        assert_eq!(journal.prune(&acme(), Second(i64::MAX), u64::MAX).await.unwrap(), 1);
    });
    let (exit, out, err) = asked(directory.path(), &of_acme("show", &["--chunk", "0", "--row", "2"]));
    assert_eq!((exit, out.as_str()), (Exit::Failed, ""));
    let claim = directory.path().join("archive/_chain/org=acme/00000000000000000000.json");
    assert!(err.contains(claim.to_str().unwrap()) && err.contains("is line 3 of"), "{err}");
}

#[test]
fn dropped_rows_leave_the_list_and_the_record_says_who_and_why() {
    let directory = filled((0..3).map(|row| refusal(0, row)).collect());
    let drop = |more: &[&str]| asked(directory.path(), &of_acme("drop", more));
    let (exit, out, err) = drop(&["--chunk", "0", "--row", "0", "--row", "2", "--reason", "a test\u{1b}[2J"]);
    assert_eq!((exit, err.as_str()), (Exit::Done, ""));
    assert_eq!(
        out,
        "acme: 2 rows dropped from the quarantine for sentinel, 1 left; the archive keeps what was dropped\n"
    );
    let (_, out, _) = asked(directory.path(), &["list", "--json"]);
    let answer: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(answer["rows"].as_array().unwrap().len(), 1);
    let decision = &answer["decisions"][0];
    assert_eq!(decision["action"], "drop");
    assert_eq!(decision["reason"], "a test\u{1b}[2J");
    assert_eq!(decision["rows"], json!([{ "chunk": 0, "row": 0 }, { "chunk": 0, "row": 2 }]));
    assert!(decision["who"].as_str().unwrap().contains("uid"), "{decision}");
    let (_, out, _) = asked(directory.path(), &["list"]);
    assert!(out.contains("acme: decided, newest first") && out.contains("drop 2 rows for sentinel"), "{out}");
    assert!(out.contains("a test") && !out.contains('\u{1b}'), "{out}");

    // Gone rows cannot go again, and then nothing goes.
    let (exit, _, err) = drop(&["--chunk", "0", "--row", "1", "--row", "2", "--reason", "again"]);
    assert_eq!(exit, Exit::Failed);
    assert!(err.contains("row 2 of chunk 0 of `acme` is not in quarantine"), "{err}");
    let (exit, _, err) = drop(&["--chunk", "7", "--reason", "none there"]);
    assert_eq!(exit, Exit::Failed);
    assert!(err.contains("no row of chunk 7 of `acme` is in quarantine"), "{err}");
    for (exit, said) in [(Exit::Done, "1 row dropped"), (Exit::Done, "nothing to drop")] {
        let (ended, out, _) = drop(&["--all", "--reason", "the rest"]);
        assert_eq!(ended, exit);
        assert!(out.contains(said), "{out}");
    }
}

#[test]
fn more_rows_than_one_decision_takes_are_dropped_by_several() {
    let directory = filled((0..2_500).map(|row| refusal(0, row)).collect());
    let (exit, out, _) = asked(directory.path(), &of_acme("drop", &["--all", "--reason", "all of them"]));
    assert_eq!(exit, Exit::Done);
    assert!(out.contains("2500 rows dropped") && out.contains("0 left"), "{out}");
    let (_, out, _) = asked(directory.path(), &["list", "--json"]);
    let answer: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(answer["decisions"].as_array().unwrap().len(), 3);
    assert_eq!(answer["rows"], json!([]));
}

#[test]
fn nothing_is_decided_while_somebody_has_the_state_directory_or_where_there_is_none() {
    let directory = filled(vec![refusal(0, 0)]);
    let state = directory.path().join("state");
    let held = SqliteJournal::open(&state).unwrap();
    for command in [of_acme("retry", &["--all"]), of_acme("drop", &["--all", "--reason", "no"])] {
        let (exit, out, err) = asked(directory.path(), &command);
        assert_eq!((exit, out.as_str()), (Exit::Busy, ""));
        assert!(
            err.contains(&std::process::id().to_string()) && err.contains("stop the daemon first"),
            "{err}"
        );
    }
    let (exit, out, _) = asked(directory.path(), &["list"]);
    assert_eq!(exit, Exit::Done);
    assert!(out.contains("key-0-0") && !out.contains("decided"), "looking is allowed: {out}");
    drop(held);

    std::fs::remove_dir_all(&state).unwrap();
    for command in [of_acme("drop", &["--all", "--reason", "no"]), vec!["list"]] {
        let (exit, _, err) = asked(directory.path(), &command);
        assert_eq!(exit, Exit::Failed);
        assert!(err.contains("no journal in it yet") && !state.exists(), "{err}");
    }
}

#[test]
fn rows_of_a_destination_that_nobody_runs_are_not_sent_again() {
    let directory = filled(vec![refusal(0, 0)]);
    let (exit, _, err) = asked(directory.path(), &of_acme("retry", &["--all"]));
    assert_eq!(exit, Exit::Failed);
    assert!(err.contains("sentinel is not configured for `acme`"), "{err}");
    let (_, out, _) = asked(directory.path(), &["list"]);
    assert!(out.contains("final") && !out.contains("decided"), "{out}");
}

#[test]
fn a_decision_says_which_rows_and_a_drop_says_why() {
    let directory = filled(vec![refusal(0, 0)]);
    for wrong in [
        of_acme("drop", &["--all"]),
        of_acme("drop", &["--reason", "which?"]),
        of_acme("drop", &["--all", "--reason", "  "]),
        of_acme("drop", &["--all", "--chunk", "1", "--reason", "both"]),
        of_acme("drop", &["--row", "1", "--reason", "of which chunk?"]),
        of_acme("retry", &[]),
        of_acme("show", &["--chunk", "0"]),
        vec!["retry", "--all"],
        vec!["list", "--destination", "splunk"],
        vec!["list", "--org", "nobody"],
        vec![],
    ] {
        let (exit, out, err) = asked(directory.path(), &wrong);
        assert_eq!((exit, out.as_str()), (Exit::Usage, ""), "{wrong:?}: {err}");
    }
    let (_, out, _) = asked(directory.path(), &["list"]);
    assert!(out.contains("key-0-0") && !out.contains("decided"), "{out}");
}
