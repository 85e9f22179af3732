use super::*;
use crate::cli::answer;
use crate::cli::tests::{Captured, written};
use crate::clock::Window;
use crate::coverage::{Coverage, Span};
use crate::destination::DestinationName;
use crate::journal::Append;
use crate::report::tests::settings;

/// 2026-11-21T10:15:00Z.
const NOW: Second = Second(1_795_256_100);
const AGES: &[i64] = &[3_600, 21_600, 86_400];

fn state(start: Option<Second>, coverage: Coverage) -> OrgState {
    OrgState {
        revision: 1,
        instance: String::new(),
        start,
        coverage,
        next: 0,
        link: crate::chunk::Link::FIRST,
        tally_floor: None,
        checkpoints: BTreeMap::new(),
        added: Vec::new(),
    }
}

/// A day and a half: most of it settled, with a hole, a damaged second, and a tail that is owed its looks.
fn eventful() -> Coverage {
    let mut coverage = Coverage::default();
    let start = NOW - 129_600;
    coverage.cover(Window::new(start, NOW - 90_000), NOW, AGES, &[start + 100]);
    coverage.cover(Window::new(NOW - 86_400, NOW), NOW, AGES, &[]);
    coverage
}

fn org(id: &str) -> OrgSettings {
    let mut org = settings(id, &format!("{id}-corp"), &[DestinationName::File]);
    org.source.rescan_after =
        AGES.iter().map(|age| std::time::Duration::from_secs(age.unsigned_abs())).collect();
    org
}

fn shown(id: &str, configured: bool, state: &OrgState) -> OrgCoverage {
    let settings = org(id);
    of(OrgId::new(id).unwrap(), configured.then_some(&settings), state)
}

#[test]
fn the_table_shows_what_is_missing_and_when_the_rest_was_last_read() {
    let orgs = [
        shown("acme", true, &state(Some(NOW - 129_600), eventful())),
        shown("beta", true, &state(None, Coverage::default())),
        shown("gone", false, &state(Some(NOW - 129_600), eventful())),
    ];
    insta::assert_snapshot!("table", text(&orgs, false));
}

#[test]
fn of_many_spans_those_that_matter_are_shown_and_the_others_counted() {
    let spans = (0..1_000).map(|at| Span {
        from: Second(at * 100),
        until: Second(at * 100 + 100 - i64::from(at == 3)),
        read_at: NOW,
        age: 86_400,
        damaged: at == 5,
    });
    let coverage = Coverage::from_spans(spans.collect()).unwrap();
    let org = shown("acme", true, &state(Some(Second(0)), coverage));
    let short = text(std::slice::from_ref(&org), false);
    assert_eq!(short.lines().count(), 3 + 1 + LINES_PER_ORG + 1, "{short}");
    for part in ["not read yet\n", "damaged", "981 more of 1001 spans: `coverage --org acme --all` shows all"]
    {
        assert!(short.contains(part), "`{part}` is in: {short}");
    }
    assert_eq!(text(std::slice::from_ref(&org), true).lines().count(), 3 + 1 + 1_001);
    // However many orgs there are, the lines about spans end somewhere.
    let many = vec![org; 30];
    assert_eq!(text(&many, false).matches("settled").count() + 20, LINES);
}

#[test]
fn the_sums_are_those_of_status_and_the_spans_add_up_to_them() {
    let acme = shown("acme", true, &state(Some(NOW - 129_600), eventful()));
    let seconds = |spans: &mut dyn Iterator<Item = &SpanShown>| -> i64 {
        spans.map(|span| span.until.0 - span.from.0).sum()
    };
    assert_eq!(acme.coverage.holes, 3_600);
    assert_eq!(acme.coverage.damaged, seconds(&mut acme.spans.iter().filter(|span| span.damaged)));
    assert_eq!(acme.coverage.unsettled, seconds(&mut acme.spans.iter().filter(|span| !span.settled)));
    assert_eq!(seconds(&mut acme.spans.iter()) + acme.coverage.holes, 129_600);
}

fn asked(directory: &std::path::Path, arguments: &[&str]) -> (Exit, String, String) {
    let file = directory.join("forwarder.toml");
    let (mut out, mut err) = (Captured::default(), Captured::default());
    let whole =
        [&["pulumi-audit-forwarder", "--config", file.to_str().unwrap(), "coverage"], arguments].concat();
    let exit = answer(whole, &mut out, &mut err);
    (exit, out.text(), err.text())
}

#[test]
fn the_state_directory_is_read_and_never_made() {
    let directory = written();
    let file = directory.path().join("forwarder.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("state_dir = \"state\"\n{text}")).unwrap();
    let path = directory.path().join("state");
    let (exit, out, err) = asked(directory.path(), &[]);
    assert_eq!((exit, out.as_str()), (Exit::Failed, ""));
    assert!(err.contains(path.to_str().unwrap()) && err.contains("no journal in it yet"), "{err}");
    assert!(!path.exists());

    let journal = SqliteJournal::open(&path).unwrap();
    runtime().unwrap().block_on(async {
        let acme = OrgId::new("acme").unwrap();
        let opened = journal.open(&acme, &[DestinationName::File]).await.unwrap();
        let append = Append {
            revision: opened.revision,
            start: Some(NOW - 129_600),
            coverage: eventful(),
            chunks: Vec::new(),
            tally: Vec::new(),
            tally_floor: None,
            window: None,
            now: NOW,
        };
        journal.append(&acme, append).await.unwrap();
    });
    // The journal is still open, as by a daemon.
    let (exit, out, err) = asked(directory.path(), &["--json"]);
    assert_eq!((exit, err.as_str()), (Exit::Done, ""));
    let answer: serde_json::Value = serde_json::from_str(&out).unwrap();
    let acme = &answer["orgs"][0];
    assert_eq!((&acme["id"], &acme["org"]), (&"acme".into(), &"acme-corp".into()));
    assert_eq!(acme["coverage"]["holes"], 3_600);
    assert_eq!(
        acme["holes"],
        serde_json::json!([{ "from": "2026-11-20T09:15:00Z", "until": "2026-11-20T10:15:00Z" }])
    );
    assert_eq!(acme["spans"][0]["from"], "2026-11-19T22:15:00Z");
    assert_eq!(
        (&answer["orgs"][1]["id"], &answer["orgs"][1]["spans"]),
        (&"beta".into(), &serde_json::json!([]))
    );

    let (exit, out, _) = asked(directory.path(), &["--org", "beta"]);
    assert_eq!(exit, Exit::Done);
    assert!(out.starts_with("beta (beta-corp)\n") && !out.contains("acme"), "{out}");
    let (exit, _, err) = asked(directory.path(), &["--org", "nobody"]);
    assert_eq!(exit, Exit::Usage);
    assert_eq!(err, "error: no org `nobody` is known: --org takes one of acme, beta\n");
}
