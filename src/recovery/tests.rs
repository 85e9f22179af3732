//! Archives as they may be found, and what comes of them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use tempfile::TempDir;

use super::adopt::Passed;
use super::rebuild::events;
use super::*;
use crate::chunk::{Chunk, Cut, Mode, Packing, Summary, gzip};
use crate::collect::tally::Tally;
use crate::config::settings::FileSettings;
use crate::coverage::Coverage;
use crate::destination::archive::contract::Alone;
use crate::destination::file;
use crate::destination::file::reading::FolderReader;
use crate::destination::{Answer, Destination, Receipt};
use crate::event::Event;
use crate::journal::memory::MemoryJournal;
use crate::journal::{Acknowledge, Append, TIMELESS_MINUTE};
use crate::pulumi::wire::read_event;

/// 2026-11-21T00:00:00Z.
const DAY: i64 = 1_795_219_200;
const HOUR: i64 = 3_600;
const FILE: DestinationName = DestinationName::File;
const S3: DestinationName = DestinationName::S3;
const SENTINEL: DestinationName = DestinationName::Sentinel;

fn org() -> OrgId {
    OrgId::new("acme").unwrap()
}

fn policy() -> Policy {
    Policy {
        poll_interval: 300,
        overlap: 900,
        settle: 0,
        rescan_after: vec![HOUR, 6 * HOUR, 24 * HOUR],
        phase: 0,
    }
}

fn event(at: i64, what: &str) -> Event {
    let raw = format!("{{\"timestamp\":{at},\"event\":\"{what}\"}}");
    read_event(Bytes::from(raw), &org(), Second(i64::MAX))
}

fn timeless(what: &str) -> Event {
    read_event(Bytes::from(format!("{{\"event\":\"{what}\"}}")), &org(), Second(i64::MAX))
}

/// An instance at work: a journal, and folders that its lanes have brought chunks to.
struct Instance {
    journal: MemoryJournal,
    lanes: Vec<DestinationName>,
    state: OrgState,
}

impl Instance {
    async fn new(lanes: &[DestinationName]) -> Instance {
        let journal = MemoryJournal::new();
        let state = journal.open(&org(), lanes).await.unwrap();
        Instance { journal, lanes: lanes.to_vec(), state }
    }

    async fn open(&mut self) {
        self.state = self.journal.open(&org(), &self.lanes).await.unwrap();
    }

    /// Reads a window with these events in it, as a collector does, and answers the chunks of what is new.
    async fn sweep(&mut self, from: i64, until: i64, seen: Vec<Event>) -> Vec<Chunk> {
        let window = Window::new(Second(from), Second(until));
        let mut tally = Tally::read(&self.journal.tally(&org(), i64::MIN, i64::MAX).await.unwrap()).unwrap();
        let new = tally.take(seen);
        let mut coverage = self.state.coverage.clone();
        let summary = |coverage: &Coverage, state: &OrgState| Summary {
            start: Some(Second(DAY)),
            coverage: coverage.spans().to_vec(),
            checkpoints: state.checkpoints.iter().map(|(name, next)| (name.to_string(), *next)).collect(),
            instance: state.instance.clone(),
            forwarder: "test".into(),
            audit: None,
        };
        let before = summary(&coverage, &self.state);
        coverage.cover(window, Second(until), &policy().rescan_after, &[]);
        let after = summary(&coverage, &self.state);
        let cut = Cut {
            id: &org(),
            org: "acme-corp",
            mode: Mode::Live,
            window,
            packing: Packing::Stored,
            next: self.state.next,
            link: self.state.link,
            before,
            after,
        };
        let chunks = cut.chunks(new);
        let append = Append {
            revision: self.state.revision,
            start: Some(Second(DAY)),
            coverage,
            chunks: chunks.clone(),
            tally: tally.changed(),
            tally_floor: None,
            window: None,
            now: Second(until),
        };
        self.journal.append(&org(), append).await.unwrap();
        self.open().await;
        chunks
    }

    async fn acknowledge(&mut self, lane: DestinationName, chunk: u64) {
        let receipt = Receipt::default();
        let acknowledge = Acknowledge { destination: lane, chunk, receipt, now: Second(DAY) };
        self.journal.acknowledge(&org(), acknowledge).await.unwrap();
        self.open().await;
    }

    fn with_recovery<'a>(&'a self, policy: &'a Policy, clock: &'a Clock, org: &'a OrgId) -> Recovery<'a> {
        Recovery { org, lanes: &self.lanes, journal: &self.journal, policy, clock, party: None }
    }

    async fn recover(&mut self, sources: &mut [Source]) -> Result<Outcome, Problem> {
        let (policy, clock, org) = (policy(), Clock::simulated(Second(DAY + 30 * HOUR)), org());
        let outcome = self.with_recovery(&policy, &clock, &org).run(&self.state, sources).await;
        self.open().await;
        outcome.map_err(Problem::from)
    }

    async fn adopt(&mut self, sources: &mut [Source]) -> Option<adopt::Adopted> {
        let (policy, clock, org) = (policy(), Clock::simulated(Second(DAY + 30 * HOUR)), org());
        let recovery = self.with_recovery(&policy, &clock, &org);
        let adopted = recovery.adopt(&self.state, sources, Packing::Stored, true).await;
        let adopted = adopted.map_err(Problem::from).unwrap();
        self.open().await;
        adopted
    }

    /// What a tally that has seen all this would find new of it.
    async fn new_of(&self, seen: Vec<Event>) -> usize {
        let pages = self.journal.tally(&org(), i64::MIN, i64::MAX).await.unwrap();
        Tally::read(&pages).unwrap().take(seen).len()
    }

    async fn events_from(&self, first: u64) -> Vec<Event> {
        let mut all = Vec::new();
        for number in first..self.state.next {
            let chunk = self.journal.chunk(&org(), number).await.unwrap().unwrap();
            all.extend(events(&chunk, &org()).unwrap());
        }
        all
    }
}

/// Brings chunks to a folder.
async fn archive(root: &Path, chunks: &[Chunk]) {
    let mut lane = file::destination(&FileSettings { path: root.to_owned() }, &org());
    for chunk in chunks {
        let answer = lane.deliver(chunk, &Alone).await;
        assert!(matches!(answer, Answer::Durable(_)), "{answer:?}");
    }
}

fn source(name: DestinationName, root: &Path) -> Source {
    let reader = || Box::new(FolderReader::new(root, &org())) as Box<dyn Place>;
    Source { name, readers: (0..3).map(|_| reader()).collect() }
}

fn folder() -> (TempDir, PathBuf) {
    let directory = TempDir::new().unwrap();
    let path = directory.path().to_owned();
    (directory, path)
}

/// An archive of four chunks: two old ones of which one is without a time, and two of the last hours.
async fn lived(root: &Path) -> (Instance, Vec<Chunk>) {
    let mut first = Instance::new(&[FILE, SENTINEL]).await;
    let mut chunks = first.sweep(DAY, DAY + HOUR, vec![event(DAY + 1, "a"), timeless("t")]).await;
    chunks.extend(
        first.sweep(DAY + HOUR, DAY + 2 * HOUR, vec![event(DAY + HOUR, "b"), event(DAY + HOUR, "b")]).await,
    );
    first.acknowledge(SENTINEL, 0).await;
    first.acknowledge(SENTINEL, 1).await;
    first.acknowledge(FILE, 0).await;
    first.acknowledge(FILE, 1).await;
    chunks.extend(first.sweep(DAY + 2 * HOUR, DAY + 3 * HOUR, vec![event(DAY + 2 * HOUR, "c")]).await);
    archive(root, &chunks).await;
    assert_eq!(chunks.len(), 4);
    (first, chunks)
}

#[tokio::test]
async fn an_org_without_an_archive_or_without_claims_is_new() {
    let (_directory, root) = folder();
    let mut instance = Instance::new(&[FILE]).await;
    assert_eq!(instance.recover(&mut []).await, Ok(Outcome::Nothing));
    assert_eq!(instance.recover(&mut [source(FILE, &root)]).await, Ok(Outcome::Nothing));
    assert_eq!(instance.state.start, None);
}

#[tokio::test]
async fn everything_that_is_needed_comes_back() {
    let (_directory, root) = folder();
    let (first, chunks) = lived(&root).await;
    let mut again = Instance::new(&[FILE, SENTINEL]).await;
    assert_eq!(again.recover(&mut [source(FILE, &root)]).await, Ok(Outcome::Recovered));
    assert_eq!(again.state.start, first.state.start);
    assert_eq!(again.state.coverage, first.state.coverage);
    assert_eq!((again.state.next, again.state.link), (first.state.next, first.state.link));
    assert_eq!(again.state.checkpoints, BTreeMap::from([(FILE, 4), (SENTINEL, 2)]));
    assert_eq!(again.journal.chunk(&org(), 1).await.unwrap(), None, "every lane has passed it");
    assert_eq!(again.journal.chunk(&org(), 2).await.unwrap(), Some(chunks[2].clone()));
    assert_eq!(again.journal.chunk(&org(), 3).await.unwrap(), Some(chunks[3].clone()));
    let seen = vec![event(DAY + 1, "a"), timeless("t"), event(DAY + HOUR, "b"), event(DAY + HOUR, "b")];
    assert_eq!(again.new_of(seen).await, 0);
    assert_eq!(again.new_of(vec![event(DAY + HOUR, "b"); 3]).await, 1, "a third twin is one more");
    assert_eq!(again.recover(&mut [source(FILE, &root)]).await, Ok(Outcome::Nothing));
}

#[tokio::test]
async fn a_new_name_continues_the_chain_and_the_old_one_is_fenced() {
    let (_directory, root) = folder();
    let (mut first, _) = lived(&root).await;
    let mut again = Instance::new(&[FILE, SENTINEL]).await;
    again.recover(&mut [source(FILE, &root)]).await.unwrap();
    let new = again.sweep(DAY + 3 * HOUR, DAY + 4 * HOUR, vec![event(DAY + 3 * HOUR, "d")]).await;
    archive(&root, &new).await;
    let late = first.sweep(DAY + 3 * HOUR, DAY + 4 * HOUR, vec![event(DAY + 3 * HOUR, "d")]).await;
    let mut lane = file::destination(&FileSettings { path: root.clone() }, &org());
    let Answer::Paused(problem) = lane.deliver(&late[0], &Alone).await else { panic!("it is taken") };
    assert_eq!(problem.reason, PauseReason::Fenced);
}

fn remove_object(root: &Path, chunk: &Chunk) {
    std::fs::remove_file(root.join(chunk.object_key())).unwrap();
}

#[tokio::test]
async fn a_number_without_an_object_stays_empty_and_its_window_is_a_hole() {
    for missing in 0..4 {
        let (_directory, root) = folder();
        let (_, chunks) = lived(&root).await;
        remove_object(&root, &chunks[missing]);
        let mut again = Instance::new(&[FILE, SENTINEL]).await;
        assert_eq!(again.recover(&mut [source(FILE, &root)]).await, Ok(Outcome::Recovered));
        let stored = std::fs::read(root.join(chunks[missing].object_key())).unwrap();
        assert_eq!(stored, gzip(b"", 6), "chunk {missing}");
        let holes = again.state.coverage.holes(Second(DAY));
        let window = chunks[missing].window;
        let is_a_hole = holes == [window] || again.state.coverage.tip() == Some(window.from);
        assert!(is_a_hole, "chunk {missing}: {holes:?}");
        // What was lost, and nothing else, is new again.
        let seen = vec![
            event(DAY + 1, "a"),
            timeless("t"),
            event(DAY + HOUR, "b"),
            event(DAY + HOUR, "b"),
            event(DAY + 2 * HOUR, "c"),
        ];
        assert_eq!(again.new_of(seen).await, chunks[missing].count as usize, "chunk {missing}");
        if let Some(kept) = again.journal.chunk(&org(), missing as u64).await.unwrap() {
            assert!(kept.is_void() && kept.lines().unwrap().is_empty());
            // Another archive lane writes the same.
            let (_other, other) = folder();
            archive(&other, &[kept]).await;
        }
    }
}

#[tokio::test]
async fn a_missing_object_is_taken_from_the_other_archive() {
    let (_directory, root) = folder();
    let (_other, other) = folder();
    let (first, chunks) = lived(&root).await;
    archive(&other, &chunks).await;
    remove_object(&root, &chunks[3]);
    let mut again = Instance::new(&[FILE, S3, SENTINEL]).await;
    again.recover(&mut [source(FILE, &root), source(S3, &other)]).await.unwrap();
    assert_eq!(again.state.coverage, first.state.coverage);
    assert_eq!(std::fs::read(root.join(chunks[3].object_key())).unwrap(), chunks[3].body);
}

#[tokio::test]
async fn the_archive_that_reaches_further_is_recovered_from() {
    let (_directory, root) = folder();
    let (_other, other) = folder();
    let (first, chunks) = lived(&root).await;
    archive(&other, &chunks[..2]).await;
    let mut again = Instance::new(&[FILE, S3]).await;
    again.recover(&mut [source(FILE, &other), source(S3, &root)]).await.unwrap();
    assert_eq!(again.state.next, first.state.next);
    assert_eq!(again.state.checkpoints, BTreeMap::from([(S3, 4), (FILE, 2)]));
}

#[tokio::test]
async fn what_cannot_be_believed_is_a_pause_that_names_it_and_changes_nothing() {
    type Damage = (&'static str, fn(&Path, &[Chunk]));
    let damages: [Damage; 5] = [
        ("it is missing between others", |root, chunks| {
            std::fs::remove_file(root.join(chunks[1].claim_key())).unwrap();
        }),
        ("one JSON object", |root, chunks| {
            std::fs::write(root.join(chunks[3].claim_key()), b"{").unwrap();
        }),
        ("does not continue", |root, chunks| {
            let path = root.join(chunks[1].claim_key());
            let text = std::fs::read_to_string(&path).unwrap();
            std::fs::write(path, text.replace("\"forwarder\":\"test\"", "\"forwarder\":\"best\"")).unwrap();
        }),
        ("whole gzip file", |root, chunks| {
            std::fs::write(root.join(chunks[2].object_key()), &chunks[2].body[..30]).unwrap();
        }),
        ("SHA-256", |root, chunks| {
            let lines = String::from_utf8(chunks[3].lines().unwrap()).unwrap().replace("\"c\"}", "\"d\"}");
            std::fs::write(root.join(chunks[3].object_key()), gzip(lines.as_bytes(), 6)).unwrap();
        }),
    ];
    for (words, damage) in damages {
        let (_directory, root) = folder();
        let (_, chunks) = lived(&root).await;
        damage(&root, &chunks);
        let mut again = Instance::new(&[FILE, SENTINEL]).await;
        let problem = again.recover(&mut [source(FILE, &root)]).await.unwrap_err();
        assert_eq!(problem.reason, PauseReason::Configuration, "{problem:?}");
        let is_named = problem.cause.contains("acme/") && !problem.remedy.is_empty();
        assert!(is_named && (problem.cause.contains(words) || words == "SHA-256"), "{problem:?}");
        assert_eq!(again.state.start, None, "it has not begun");
        // The next try begins again, and fails in the same way; once it is put right, it ends.
        assert!(again.recover(&mut [source(FILE, &root)]).await.is_err());
        drop(std::fs::remove_dir_all(&root));
        archive(&root, &chunks).await;
        assert_eq!(again.recover(&mut [source(FILE, &root)]).await, Ok(Outcome::Recovered));
    }
}

/// The same state directory, opened from a copy made earlier.
fn copy_of(instance: &Instance) -> Instance {
    Instance {
        journal: instance.journal.clone(),
        lanes: instance.lanes.clone(),
        state: instance.state.clone(),
    }
}

#[tokio::test]
async fn an_older_copy_of_the_state_goes_on_from_the_archive_and_its_own_windows_are_read_again() {
    let (_directory, root) = folder();
    let (mut first, _) = lived(&root).await;
    for number in 2..4 {
        first.acknowledge(FILE, number).await;
    }
    let mut old = copy_of(&first);
    let new = first.sweep(DAY + 3 * HOUR, DAY + 4 * HOUR, vec![event(DAY + 3 * HOUR, "d")]).await;
    archive(&root, &new).await;
    // The copy has been at work since: it has found something that the archive does not have.
    let late = vec![event(DAY + 2 * HOUR, "c"), event(DAY + 2 * HOUR + 5, "late")];
    old.sweep(DAY + 2 * HOUR, DAY + 3 * HOUR, late.clone()).await;
    old.acknowledge(SENTINEL, 2).await;

    assert_eq!(old.recover(&mut [source(FILE, &root)]).await, Ok(Outcome::Recovered));
    assert_eq!((old.state.next, old.state.link), (first.state.next, first.state.link));
    assert_eq!(old.state.checkpoints, BTreeMap::from([(FILE, 5), (SENTINEL, 3)]));
    let window = Window::new(Second(DAY + 2 * HOUR), Second(DAY + 3 * HOUR));
    assert_eq!(old.state.coverage.holes(Second(DAY)), [window]);
    assert_eq!(old.new_of(late).await, 1);
    assert!(
        old.journal.chunk(&org(), 2).await.unwrap().is_some(),
        "what it kept and had not delivered stays"
    );
    assert_eq!(old.recover(&mut [source(FILE, &root)]).await, Ok(Outcome::Nothing));
}

#[tokio::test]
async fn what_another_instance_wrote_is_left_to_a_person_who_adopts_it() {
    let (_directory, root) = folder();
    let (mut ours, _) = lived(&root).await;
    for number in 2..4 {
        ours.acknowledge(FILE, number).await;
        ours.acknowledge(SENTINEL, number).await;
    }
    let mut theirs = Instance::new(&[FILE, SENTINEL]).await;
    theirs.recover(&mut [source(FILE, &root)]).await.unwrap();

    let at = DAY + 3 * HOUR;
    let both = vec![event(at, "d"), event(at, "twin")];
    archive(&root, &theirs.sweep(at, at + HOUR, both.clone()).await).await;
    archive(&root, &theirs.sweep(at + HOUR, at + 2 * HOUR, vec![event(at + HOUR, "e")]).await).await;
    // Ours has seen the twin twice, and something that came late; Sentinel has the first of its chunks.
    let seen = vec![event(at, "d"), event(at, "twin"), event(at, "twin")];
    ours.sweep(at, at + HOUR, seen.clone()).await;
    ours.acknowledge(SENTINEL, 4).await;
    let late = vec![event(at + 7, "late"), event(at + 7, "late")];
    ours.sweep(at, at + HOUR, [seen, late.clone()].concat()).await;
    assert_eq!(
        ours.recover(&mut [source(FILE, &root)]).await,
        Ok(Outcome::Nothing),
        "it is fenced, not recovered"
    );

    let adopted = ours.adopt(&mut [source(FILE, &root)]).await.unwrap();
    let expected = adopt::Adopted { from: 4, theirs: 2, ours: 2, our_events: 5, remaining: 3 };
    assert_eq!(adopted, expected);
    assert_eq!(ours.state.checkpoints, BTreeMap::from([(FILE, 6), (SENTINEL, 4)]));
    assert_eq!(ours.state.next, 8);
    let passed = Passed::load(&ours.journal, &org(), SENTINEL).await;
    let expected = [(4, true), (5, false), (6, true), (7, false)];
    for (chunk, is_passed) in expected {
        assert_eq!(passed.contains(chunk), is_passed, "chunk {chunk}");
    }
    let all = ours.events_from(4).await;
    for (what, count) in [("\"d\"", 1), ("\"twin\"", 2), ("\"e\"", 1), ("\"late\"", 2)] {
        let found = all.iter().filter(|event| String::from_utf8_lossy(&event.raw).contains(what)).count();
        assert_eq!(found, count, "{what}");
    }
    assert_eq!(ours.new_of(all).await, 0);

    // The chain goes on, and the archive proves whole.
    let mut rest = Vec::new();
    for number in 6..8 {
        rest.push(ours.journal.chunk(&org(), number).await.unwrap().unwrap());
    }
    archive(&root, &rest).await;
    let asked = crate::verify::Asked { org: org(), lane: Some(FILE), within: None, head: None };
    let report =
        crate::verify::walk(vec![FolderReader::new(&root, &org())], &asked, &mut |_| {}).await.unwrap();
    assert!(report.wrong.is_empty(), "{:?}", report.wrong.first);
    assert_eq!((report.chunks, report.events), (8, 11));
    assert_eq!(ours.adopt(&mut [source(FILE, &root)]).await, None);
    assert_eq!(ours.journal.tally(&org(), TIMELESS_MINUTE, TIMELESS_MINUTE + 1).await.unwrap().len(), 1);
}
