//! One suite that every journal runs, sentence by sentence of [`crate::journal`]; and below it what only a journal on disk can show.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use tempfile::TempDir;

use super::decision::{Action, DECISIONS_KEPT, Decision};
use super::memory::MemoryJournal;
use super::restore::{Begin, MARK, Part, Restore, Restored};
use super::sqlite::SqliteJournal;
use super::*;
use crate::chunk::{Claim, Cut, Mode, NewEvent, Packing, Summary};
use crate::coverage::Span;
use crate::destination::{QuarantineReason, RowId};
use crate::event::{Event, EventKey, IdentityHasher, Payload, hex};

const SENTINEL: DestinationName = DestinationName::Sentinel;
const S3: DestinationName = DestinationName::S3;
const FILE: DestinationName = DestinationName::File;

/// 2026-11-21T00:00:00Z.
const DAY: i64 = 1_795_219_200;
const NEVER: Second = Second(i64::MIN);

fn acme() -> OrgId {
    OrgId::new("acme").unwrap()
}

fn window() -> Window {
    Window::new(Second(DAY), Second(DAY + 300))
}

fn span(from: i64, until: i64) -> Span {
    Span { from: Second(from), until: Second(until), read_at: Second(until), age: 0, damaged: false }
}

fn coverage(until: i64) -> Coverage {
    Coverage::from_spans(vec![span(DAY, until)]).unwrap()
}

fn event(org: &OrgId, at: i64, text: &str) -> NewEvent {
    let raw = Bytes::from(format!("{{\"timestamp\":{at},\"event\":\"{text}\"}}"));
    let mut hasher = IdentityHasher::new(org);
    hasher.value(&raw);
    let identity = hasher.finish();
    NewEvent {
        key: EventKey::new(&identity, 0),
        event: Event {
            raw,
            at: Some(Second(at)),
            identity,
            payload: Payload([0; 32]),
            kind: "".into(),
            odd: Default::default(),
        },
    }
}

/// An org as its collector sees it.
struct Collector<'a> {
    journal: &'a dyn Journal,
    org: OrgId,
    revision: u64,
    next: u64,
    link: Link,
    now: Second,
}

impl<'a> Collector<'a> {
    async fn open(journal: &'a dyn Journal, org: OrgId, lanes: &[DestinationName]) -> Collector<'a> {
        let state = journal.open(&org, lanes).await.unwrap();
        Collector {
            journal,
            org,
            revision: state.revision,
            next: state.next,
            link: state.link,
            now: Second(DAY),
        }
    }

    fn cut(&self, times: &[i64]) -> Vec<Chunk> {
        let summary = Summary {
            start: None,
            coverage: Vec::new(),
            checkpoints: BTreeMap::new(),
            instance: String::new(),
            forwarder: "0".to_owned(),
            audit: None,
        };
        let cut = Cut {
            id: &self.org,
            org: "Acme Corp",
            mode: Mode::Live,
            window: window(),
            packing: Packing::Stored,
            next: self.next,
            link: self.link,
            before: summary.clone(),
            after: summary,
        };
        cut.chunks(times.iter().map(|at| event(&self.org, *at, "stack-updated")).collect())
    }

    fn append(&self, chunks: Vec<Chunk>) -> Append {
        Append {
            revision: self.revision,
            start: None,
            coverage: Coverage::default(),
            chunks,
            tally: Vec::new(),
            tally_floor: None,
            window: None,
            now: self.now,
        }
    }

    async fn commit(&mut self, append: Append) -> Result<(), JournalError> {
        let chunks = append.chunks.clone();
        self.journal.append(&self.org, append).await?;
        self.revision += 1;
        if let Some(last) = chunks.last() {
            self.next = last.number + 1;
            self.link = Link::of_claim(&last.claim);
        }
        Ok(())
    }

    /// One chunk for each time, each of one event, in one append each.
    async fn chunks(&mut self, times: &[i64]) -> Vec<Chunk> {
        let mut all = Vec::new();
        for at in times {
            let chunks = self.cut(&[*at]);
            all.extend(chunks.clone());
            self.commit(self.append(chunks)).await.unwrap();
        }
        all
    }

    async fn deliver(
        &self,
        destination: DestinationName,
        chunk: u64,
        receipt: Receipt,
    ) -> Result<(), JournalError> {
        let acknowledge = Acknowledge { destination, chunk, receipt, now: self.now };
        self.journal.acknowledge(&self.org, acknowledge).await
    }

    async fn state(&self, lanes: &[DestinationName]) -> OrgState {
        self.journal.open(&self.org, lanes).await.unwrap()
    }
}

fn refusal(chunk: u64, row: u32) -> Refusal {
    Refusal {
        at: RowId { chunk, row },
        key: format!("key-{chunk}-{row}"),
        reason: QuarantineReason::Refused,
        detail: "400: no".to_owned(),
        provisional: true,
    }
}

fn quarantining(refusals: Vec<Refusal>) -> Receipt {
    Receipt {
        status: 204,
        reference: "r".to_owned(),
        rows: 1,
        bytes: 10,
        quarantined: refusals,
        ..Receipt::default()
    }
}

async fn refusals(
    journal: &dyn Journal,
    org: &OrgId,
    destination: DestinationName,
    limit: u32,
) -> Vec<Refusal> {
    let rows = journal.quarantine(org, destination, None, limit).await.unwrap();
    rows.into_iter().map(|row| row.refusal).collect()
}

async fn a_new_org_is_empty(journal: &dyn Journal) {
    let state = journal.open(&acme(), &[SENTINEL, S3]).await.unwrap();
    assert_eq!((state.revision, state.next, state.link), (0, 0, Link::FIRST));
    assert_eq!((state.start, state.tally_floor), (None, None));
    assert_eq!(state.coverage, Coverage::default());
    assert_eq!(state.checkpoints, BTreeMap::from([(SENTINEL, 0), (S3, 0)]));
    assert_eq!(state.added, [(SENTINEL, 0), (S3, 0)]);
    assert!(!state.instance.is_empty());
    assert_eq!(journal.chunk(&acme(), 0).await.unwrap(), None);
    assert_eq!(journal.usage(&acme()).await.unwrap(), Usage::default());
    assert_eq!(journal.outstanding(&acme(), S3).await.unwrap(), Outstanding::default());

    let other = OrgId::new("umbrella").unwrap();
    let theirs = journal.open(&other, &[S3]).await.unwrap();
    assert_eq!(theirs.instance, state.instance, "it names the state directory, not the org");
    assert_eq!(
        journal.open(&acme(), &[SENTINEL, S3]).await.unwrap().added,
        [],
        "the second opening adds nothing"
    );
    assert_eq!(journal.orgs().await.unwrap(), [acme(), other]);
}

async fn an_org_that_was_never_opened_has_nothing_and_takes_nothing(journal: &dyn Journal) {
    let nobody = OrgId::new("nobody").unwrap();
    assert_eq!(journal.orgs().await.unwrap(), []);
    assert_eq!(journal.chunk(&nobody, 0).await.unwrap(), None);
    assert_eq!(journal.tally(&nobody, 0, 10).await.unwrap(), []);
    assert_eq!(refusals(journal, &nobody, S3, 10).await, []);
    assert_eq!(journal.note(&nobody, "x").await.unwrap(), None);
    assert_eq!(journal.usage(&nobody).await.unwrap(), Usage::default());
    assert_eq!(journal.outstanding(&nobody, S3).await.unwrap(), Outstanding::default());
    let collector =
        Collector { journal, org: nobody.clone(), revision: 0, next: 0, link: Link::FIRST, now: NEVER };
    let conflict = |result: Result<(), JournalError>| matches!(result, Err(JournalError::Conflict(_)));
    assert!(conflict(journal.append(&nobody, collector.append(Vec::new())).await));
    assert!(conflict(collector.deliver(S3, 0, Receipt::default()).await));
    assert!(conflict(journal.set_note(&nobody, "x", None).await));
    let decided = journal.decide(&nobody, decision(Action::Drop, &[(0, 0)], DAY)).await;
    assert!(conflict(decided.map(|_| ())));
    assert_eq!(journal.provisional(&nobody, S3).await.unwrap(), []);
    assert_eq!(journal.decisions(&nobody, 10).await.unwrap(), []);
    assert!(conflict(journal.prune(&nobody, NEVER, 0).await.map(|_| ())));
    assert_eq!(journal.orgs().await.unwrap(), []);
}

async fn an_append_commits_all_of_its_parts(journal: &dyn Journal) {
    let mut acme = Collector::open(journal, acme(), &[S3]).await;
    let chunks = acme.cut(&[DAY + 1, DAY + 2, DAY + 86_400]);
    assert_eq!(chunks.len(), 2, "midnight cuts");
    let page = TallyPage { minute: DAY / 60, body: vec![1, 2, 3] };
    let append = Append {
        start: Some(Second(DAY)),
        coverage: coverage(DAY + 300),
        tally: vec![page.clone()],
        tally_floor: Some(Second(DAY - 60)),
        window: Some(WindowRecord {
            window: window(),
            kind: "head".to_owned(),
            read_at: Second(DAY + 300),
            seen: 3,
            new: 3,
        }),
        ..acme.append(chunks.clone())
    };
    acme.commit(append).await.unwrap();
    let state = acme.state(&[S3]).await;
    assert_eq!((state.revision, state.next), (1, 2));
    assert_eq!(state.link, Link::of_claim(&chunks[1].claim));
    assert_eq!(state.start, Some(Second(DAY)));
    assert_eq!(state.coverage, coverage(DAY + 300));
    assert_eq!(state.tally_floor, Some(Second(DAY - 60)));
    assert_eq!(journal.tally(&acme.org, 0, i64::MAX).await.unwrap(), [page]);

    // Nothing but a correction of the coverage.
    acme.commit(Append { coverage: coverage(DAY + 200), ..acme.append(Vec::new()) }).await.unwrap();
    let state = acme.state(&[S3]).await;
    assert_eq!((state.revision, state.next), (2, 2));
    assert_eq!(state.coverage, coverage(DAY + 200));
    assert_eq!(state.start, Some(Second(DAY)), "no start given leaves it as it is");
    acme.commit(Append { start: Some(Second(0)), ..acme.append(Vec::new()) }).await.unwrap();
    assert_eq!(acme.state(&[S3]).await.start, Some(Second(0)));
}

async fn a_chunk_comes_back_byte_for_byte(journal: &dyn Journal) {
    let mut acme = Collector::open(journal, acme(), &[S3]).await;
    let mut written = acme.cut(&[DAY + 1, DAY + 2]);
    // A chunk without any plausible time, and another mode.
    let mut timeless = Chunk { number: 1, first: None, last: None, mode: Mode::Late, ..written[0].clone() };
    timeless.previous = Link::of_claim(&written[0].claim);
    timeless.claim = Bytes::from_static(b"{\"any\":1}");
    timeless.body = Bytes::from_static(&[0, 255, 1]);
    written.push(timeless);
    acme.commit(acme.append(written.clone())).await.unwrap();
    for chunk in &written {
        assert_eq!(journal.chunk(&acme.org, chunk.number).await.unwrap().as_ref(), Some(chunk));
    }
    assert_eq!(journal.chunk(&acme.org, 2).await.unwrap(), None);
    assert!(written[0].lines().is_ok());
}

async fn a_stale_revision_leaves_nothing_changed(journal: &dyn Journal) {
    let mut acme = Collector::open(journal, acme(), &[S3]).await;
    acme.chunks(&[DAY]).await;
    let before = acme.state(&[S3]).await;
    for revision in [0, 2] {
        let append = Append {
            revision,
            start: Some(Second(1)),
            coverage: coverage(DAY + 1),
            tally: vec![TallyPage { minute: 1, body: vec![1] }],
            tally_floor: Some(Second(60)),
            ..acme.append(acme.cut(&[DAY + 1]))
        };
        let refused = journal.append(&acme.org, append).await;
        assert!(matches!(refused, Err(JournalError::Conflict(_))), "{refused:?}");
    }
    assert_eq!(acme.state(&[S3]).await, before);
    assert_eq!(journal.chunk(&acme.org, 1).await.unwrap(), None);
    assert_eq!(journal.tally(&acme.org, i64::MIN, i64::MAX).await.unwrap(), []);
}

async fn a_chunk_that_does_not_continue_the_chain_is_refused_with_everything_beside_it(
    journal: &dyn Journal,
) {
    let mut acme = Collector::open(journal, acme(), &[S3]).await;
    acme.chunks(&[DAY]).await;
    let before = acme.state(&[S3]).await;
    let good = acme.cut(&[DAY, DAY + 86_400]);
    let broken: [fn(&mut [Chunk]); 5] = [
        |chunks| chunks[1].number = 3,
        |chunks| chunks[0].number = 0,
        |chunks| chunks[1].previous = Link::FIRST,
        |chunks| chunks[0].claim = Bytes::from_static(b"{}"),
        |chunks| chunks[1].id = OrgId::new("umbrella").unwrap(),
    ];
    for breaks in broken {
        let mut chunks = good.clone();
        breaks(&mut chunks);
        let append = Append { tally: vec![TallyPage { minute: 1, body: vec![1] }], ..acme.append(chunks) };
        let refused = journal.append(&acme.org, append).await;
        assert!(matches!(refused, Err(JournalError::Conflict(_))), "{refused:?}");
    }
    assert_eq!(acme.state(&[S3]).await, before);
    assert_eq!(journal.chunk(&acme.org, 1).await.unwrap(), None, "the good first one neither");
    assert_eq!(journal.tally(&acme.org, 0, 10).await.unwrap(), []);
    acme.commit(acme.append(good)).await.unwrap();
}

async fn the_chain_verifies_from_the_first_chunk_to_the_newest(journal: &dyn Journal) {
    let mut acme = Collector::open(journal, acme(), &[S3]).await;
    for round in 0..5 {
        let chunks = acme.cut(&[DAY + round, DAY + 86_400 + round]);
        acme.commit(acme.append(chunks)).await.unwrap();
    }
    let state = acme.state(&[S3]).await;
    assert_eq!(state.next, 10);
    let mut link = Link::FIRST;
    for number in 0..state.next {
        let chunk = journal.chunk(&acme.org, number).await.unwrap().unwrap();
        assert_eq!((chunk.number, chunk.previous), (number, link));
        let claim: Claim = serde_json::from_slice(&chunk.claim).unwrap();
        assert_eq!((claim.chunk, claim.previous, claim.sha256), (number, hex(&link.0), hex(&chunk.sha256)));
        chunk.lines().unwrap();
        link = Link::of_claim(&chunk.claim);
    }
    assert_eq!(link, state.link);
}

async fn orgs_do_not_see_each_other(journal: &dyn Journal) {
    let mut acme = Collector::open(journal, acme(), &[S3]).await;
    let mut umbrella = Collector::open(journal, OrgId::new("umbrella").unwrap(), &[S3]).await;
    let ours = acme.chunks(&[DAY, DAY + 1]).await;
    let theirs = umbrella.chunks(&[DAY + 5]).await;
    let page = |body: u8| TallyPage { minute: 7, body: vec![body] };
    acme.commit(Append { tally: vec![page(1)], ..acme.append(Vec::new()) }).await.unwrap();
    umbrella.commit(Append { tally: vec![page(2)], ..umbrella.append(Vec::new()) }).await.unwrap();
    umbrella.commit(Append { tally_floor: Some(Second(DAY)), ..umbrella.append(Vec::new()) }).await.unwrap();
    journal.set_note(&acme.org, "refused", Some(vec![1])).await.unwrap();
    umbrella.deliver(S3, 0, quarantining(vec![refusal(0, 0)])).await.unwrap();
    assert_eq!(journal.prune(&umbrella.org, Second(i64::MAX), 0).await.unwrap(), 1);

    assert_eq!(journal.chunk(&acme.org, 0).await.unwrap().as_ref(), Some(&ours[0]));
    assert_eq!(journal.chunk(&umbrella.org, 0).await.unwrap(), None);
    assert_eq!(theirs[0].id, umbrella.org);
    assert_eq!(journal.tally(&acme.org, 0, 10).await.unwrap(), [page(1)]);
    assert_eq!(journal.tally(&umbrella.org, 0, 10).await.unwrap(), []);
    assert_eq!(journal.note(&umbrella.org, "refused").await.unwrap(), None);
    assert_eq!(refusals(journal, &acme.org, S3, 10).await, []);
    assert_eq!(acme.state(&[S3]).await.checkpoints[&S3], 0);
}

async fn tally_pages_are_replaced_whole_and_pruned_by_the_floor(journal: &dyn Journal) {
    let mut acme = Collector::open(journal, acme(), &[S3]).await;
    let page = |minute: i64, body: u8| TallyPage { minute, body: vec![body; 3] };
    let pages = vec![page(TIMELESS_MINUTE, 9), page(-2, 8), page(10, 1), page(11, 1), page(12, 1)];
    acme.commit(Append { tally: pages.clone(), ..acme.append(Vec::new()) }).await.unwrap();
    assert_eq!(journal.tally(&acme.org, i64::MIN, i64::MAX).await.unwrap(), pages, "in order");
    assert_eq!(journal.tally(&acme.org, 10, 12).await.unwrap(), pages[2..4], "half-open");
    assert_eq!(journal.tally(&acme.org, 11, 11).await.unwrap(), []);
    assert_eq!(journal.tally(&acme.org, 12, 10).await.unwrap(), []);
    assert_eq!(journal.tally(&acme.org, TIMELESS_MINUTE, TIMELESS_MINUTE + 1).await.unwrap(), pages[..1]);

    acme.commit(Append { tally: vec![page(11, 2)], ..acme.append(Vec::new()) }).await.unwrap();
    assert_eq!(journal.tally(&acme.org, 11, 12).await.unwrap(), [page(11, 2)]);

    // 11 min 30 s: minute 10 lies wholly before it, minute 11 does not.
    acme.commit(Append { tally_floor: Some(Second(11 * 60 + 30)), ..acme.append(Vec::new()) }).await.unwrap();
    let kept = [page(TIMELESS_MINUTE, 9), page(11, 2), page(12, 1)];
    assert_eq!(journal.tally(&acme.org, i64::MIN, i64::MAX).await.unwrap(), kept);

    // The floor never moves back, and what is put below it is gone at once.
    let back = Append { tally: vec![page(5, 5)], tally_floor: Some(Second(60)), ..acme.append(Vec::new()) };
    acme.commit(back).await.unwrap();
    assert_eq!(acme.state(&[S3]).await.tally_floor, Some(Second(11 * 60 + 30)));
    acme.commit(acme.append(Vec::new())).await.unwrap();
    assert_eq!(acme.state(&[S3]).await.tally_floor, Some(Second(11 * 60 + 30)));
    assert_eq!(journal.tally(&acme.org, i64::MIN, i64::MAX).await.unwrap(), kept);
    acme.commit(Append { tally_floor: Some(Second(12 * 60)), ..acme.append(Vec::new()) }).await.unwrap();
    assert_eq!(journal.tally(&acme.org, 0, i64::MAX).await.unwrap(), kept[2..]);
}

async fn a_checkpoint_moves_by_one_chunk_at_a_time(journal: &dyn Journal) {
    let mut acme = Collector::open(journal, acme(), &[SENTINEL, S3]).await;
    let nothing = acme.deliver(S3, 0, Receipt::default()).await;
    assert!(matches!(nothing, Err(JournalError::Conflict(_))), "a chunk that is not there cannot be durable");
    acme.chunks(&[DAY, DAY + 1]).await;
    for wrong in [1, 2, u64::MAX] {
        let refused = acme.deliver(S3, wrong, quarantining(vec![refusal(0, 0)])).await;
        assert!(matches!(refused, Err(JournalError::Conflict(_))), "{refused:?}");
    }
    let stranger = acme.deliver(FILE, 0, Receipt::default()).await;
    assert!(matches!(stranger, Err(JournalError::Conflict(_))), "{stranger:?}");
    assert_eq!(refusals(journal, &acme.org, S3, 10).await, [], "nothing of it was kept");
    acme.deliver(S3, 0, Receipt::default()).await.unwrap();
    let again = acme.deliver(S3, 0, Receipt::default()).await;
    assert!(matches!(again, Err(JournalError::Conflict(_))), "{again:?}");
    let state = acme.state(&[SENTINEL, S3]).await;
    assert_eq!(state.checkpoints, BTreeMap::from([(SENTINEL, 0), (S3, 1)]));
    assert_eq!(state.revision, 2, "an acknowledgement is no append");
}

async fn outstanding_counts_what_each_lane_has_to_deliver(journal: &dyn Journal) {
    let mut acme = Collector::open(journal, acme(), &[SENTINEL, S3]).await;
    acme.commit(acme.append(acme.cut(&[DAY + 50, DAY + 60]))).await.unwrap();
    acme.commit(acme.append(acme.cut(&[DAY + 70]))).await.unwrap();
    acme.commit(acme.append(acme.cut(&[DAY + 9, DAY + 80, DAY + 90]))).await.unwrap();
    let left = |chunks, events, first: Option<i64>, quarantined| Outstanding {
        chunks,
        events,
        first: first.map(Second),
        quarantined,
    };
    assert_eq!(journal.outstanding(&acme.org, S3).await.unwrap(), left(3, 6, Some(DAY + 9), 0));
    assert_eq!(
        journal.outstanding(&acme.org, FILE).await.unwrap(),
        left(3, 6, Some(DAY + 9), 0),
        "a lane to come"
    );
    acme.deliver(S3, 0, quarantining(vec![refusal(0, 1)])).await.unwrap();
    assert_eq!(journal.outstanding(&acme.org, S3).await.unwrap(), left(2, 4, Some(DAY + 9), 1));
    assert_eq!(journal.outstanding(&acme.org, SENTINEL).await.unwrap(), left(3, 6, Some(DAY + 9), 0));
    acme.deliver(S3, 1, Receipt::default()).await.unwrap();
    acme.deliver(S3, 2, Receipt::default()).await.unwrap();
    assert_eq!(journal.outstanding(&acme.org, S3).await.unwrap(), left(0, 0, None, 1));
}

async fn a_lane_that_is_added_starts_at_the_oldest_chunk_kept(journal: &dyn Journal) {
    let mut acme = Collector::open(journal, acme(), &[S3]).await;
    acme.chunks(&[DAY, DAY + 1, DAY + 2]).await;
    acme.deliver(S3, 0, Receipt::default()).await.unwrap();
    assert_eq!(journal.prune(&acme.org, Second(i64::MAX), u64::MAX).await.unwrap(), 1);
    let state = acme.state(&[S3, SENTINEL]).await;
    assert_eq!(state.checkpoints, BTreeMap::from([(S3, 1), (SENTINEL, 1)]));
    assert_eq!(state.added, [(SENTINEL, 1)]);
    assert_eq!(acme.state(&[SENTINEL, S3]).await.added, []);
}

async fn a_lane_that_is_removed_holds_nothing_back_and_keeps_its_checkpoint(journal: &dyn Journal) {
    let mut acme = Collector::open(journal, acme(), &[S3, SENTINEL]).await;
    acme.chunks(&[DAY, DAY + 1, DAY + 2]).await;
    acme.deliver(SENTINEL, 0, Receipt::default()).await.unwrap();
    acme.deliver(S3, 0, Receipt::default()).await.unwrap();
    acme.deliver(S3, 1, Receipt::default()).await.unwrap();
    assert_eq!(acme.state(&[S3]).await.checkpoints, BTreeMap::from([(S3, 2)]));
    assert_eq!(acme.state(&[S3, SENTINEL]).await.checkpoints[&SENTINEL], 1, "it continues where it was");
    assert_eq!(acme.state(&[S3, SENTINEL]).await.added, []);

    acme.state(&[S3]).await;
    acme.deliver(SENTINEL, 1, Receipt::default()).await.unwrap();
    assert_eq!(journal.prune(&acme.org, Second(i64::MAX), 0).await.unwrap(), 2);
    acme.deliver(S3, 2, Receipt::default()).await.unwrap();
    assert_eq!(
        journal.prune(&acme.org, Second(i64::MAX), 0).await.unwrap(),
        1,
        "the lane that went does not hold it"
    );
    let state = acme.state(&[S3, SENTINEL]).await;
    assert_eq!(state.added, [(SENTINEL, 3)], "what it had to deliver is gone");
    assert_eq!(state.checkpoints[&SENTINEL], 3);
}

async fn pruning_never_touches_what_a_lane_has_to_deliver(journal: &dyn Journal) {
    let mut acme = Collector::open(journal, acme(), &[S3, SENTINEL]).await;
    let chunks = acme.chunks(&[DAY, DAY + 1, DAY + 2]).await;
    acme.deliver(S3, 0, Receipt::default()).await.unwrap();
    acme.deliver(S3, 1, Receipt::default()).await.unwrap();
    assert_eq!(journal.prune(&acme.org, Second(i64::MAX), 0).await.unwrap(), 0);
    acme.deliver(SENTINEL, 0, Receipt::default()).await.unwrap();
    assert_eq!(journal.prune(&acme.org, Second(i64::MAX), 0).await.unwrap(), 1);
    assert_eq!(journal.chunk(&acme.org, 0).await.unwrap(), None);
    assert_eq!(journal.chunk(&acme.org, 1).await.unwrap().as_ref(), Some(&chunks[1]));
    acme.state(&[]).await;
    assert_eq!(
        journal.prune(&acme.org, Second(i64::MAX), 0).await.unwrap(),
        0,
        "no lane has acknowledged anything"
    );
    assert_eq!(acme.state(&[S3, SENTINEL]).await.link, acme.link, "the chain's end is kept");
}

async fn pruning_goes_by_age_then_by_size_oldest_first(journal: &dyn Journal) {
    let mut acme = Collector::open(journal, acme(), &[S3]).await;
    let mut chunks = Vec::new();
    for day in 0..5 {
        acme.now = Second(DAY + day * 86_400);
        chunks.extend(acme.chunks(&[DAY + day]).await);
    }
    for number in 0..4 {
        acme.deliver(S3, number, Receipt::default()).await.unwrap();
    }
    let size = |chunk: &Chunk| (chunk.body.len() + chunk.claim.len()) as u64;
    let all: u64 = chunks.iter().map(size).sum();
    let usage = journal.usage(&acme.org).await.unwrap();
    assert_eq!(usage, Usage { chunks: 5, bytes: all, unacknowledged_bytes: size(&chunks[4]) });

    assert_eq!(journal.prune(&acme.org, Second(DAY), u64::MAX).await.unwrap(), 0, "`before` is not included");
    assert_eq!(journal.prune(&acme.org, Second(DAY + 1), u64::MAX).await.unwrap(), 1);
    let left = all - size(&chunks[0]);
    assert_eq!(journal.prune(&acme.org, NEVER, left).await.unwrap(), 0, "it fits exactly");
    assert_eq!(journal.prune(&acme.org, NEVER, left - 1).await.unwrap(), 1, "as many as needed");
    assert_eq!(journal.chunk(&acme.org, 2).await.unwrap().as_ref(), Some(&chunks[2]));
    assert_eq!(
        journal.prune(&acme.org, NEVER, 0).await.unwrap(),
        2,
        "then what is not acknowledged is in the way"
    );
    let usage = journal.usage(&acme.org).await.unwrap();
    assert_eq!(usage, Usage { chunks: 1, bytes: size(&chunks[4]), unacknowledged_bytes: size(&chunks[4]) });
    acme.deliver(S3, 4, Receipt::default()).await.unwrap();
    assert_eq!(journal.prune(&acme.org, NEVER, 0).await.unwrap(), 1);
    assert_eq!(journal.usage(&acme.org).await.unwrap(), Usage::default());
    let state = acme.state(&[S3]).await;
    assert_eq!((state.next, state.checkpoints[&S3], state.added), (5, 5, Vec::new()));
    acme.chunks(&[DAY]).await;
}

async fn many_chunks_are_pruned_in_one_call(journal: &dyn Journal) {
    let mut acme = Collector::open(journal, acme(), &[S3]).await;
    let times: Vec<i64> = (0..600).map(|day| DAY + day * 86_400).collect();
    let chunks = acme.cut(&times);
    assert_eq!(chunks.len(), 600);
    acme.commit(acme.append(chunks)).await.unwrap();
    for number in 0..520 {
        acme.deliver(S3, number, Receipt::default()).await.unwrap();
    }
    assert_eq!(journal.prune(&acme.org, Second(i64::MAX), u64::MAX).await.unwrap(), 520);
    assert_eq!(journal.usage(&acme.org).await.unwrap().chunks, 80);
}

async fn quarantine_is_provisional_until_a_receipt_confirms_it(journal: &dyn Journal) {
    let mut acme = Collector::open(journal, acme(), &[SENTINEL, S3]).await;
    acme.chunks(&[DAY, DAY + 1, DAY + 2, DAY + 3]).await;
    acme.deliver(SENTINEL, 0, quarantining(vec![refusal(0, 7), refusal(0, 2)])).await.unwrap();
    acme.deliver(S3, 0, quarantining(vec![refusal(0, 5)])).await.unwrap();
    let oldest_first = vec![refusal(0, 2), refusal(0, 7)];
    assert_eq!(refusals(journal, &acme.org, SENTINEL, 10).await, oldest_first);
    assert_eq!(refusals(journal, &acme.org, SENTINEL, 1).await, oldest_first[..1]);

    let confirms = Receipt { confirms: true, ..quarantining(vec![refusal(1, 9)]) };
    acme.deliver(SENTINEL, 1, confirms).await.unwrap();
    let expected = [settled(refusal(0, 2)), settled(refusal(0, 7)), refusal(1, 9)];
    assert_eq!(refusals(journal, &acme.org, SENTINEL, 10).await, expected, "its own row came after");
    assert_eq!(
        refusals(journal, &acme.org, S3, 10).await,
        [refusal(0, 5)],
        "another lane's stay as they are"
    );

    let released = Receipt {
        released: vec![RowId { chunk: 0, row: 7 }, RowId { chunk: 0, row: 5 }],
        ..quarantining(vec![settled(refusal(1, 9))])
    };
    acme.deliver(SENTINEL, 2, released).await.unwrap();
    let expected = [settled(refusal(0, 2)), settled(refusal(1, 9))];
    assert_eq!(refusals(journal, &acme.org, SENTINEL, 10).await, expected, "released, and replaced");
    assert_eq!(journal.outstanding(&acme.org, SENTINEL).await.unwrap().quarantined, 2);
    assert_eq!(journal.outstanding(&acme.org, S3).await.unwrap().quarantined, 1);
}

async fn a_full_quarantine_refuses_the_acknowledgement_and_drops_nothing(journal: &dyn Journal) {
    let mut acme = Collector::open(journal, acme(), &[SENTINEL]).await;
    acme.chunks(&[DAY, DAY + 1]).await;
    let rows = u32::try_from(QUARANTINE_ROWS_MAX).unwrap();
    let refusals: Vec<Refusal> = (0..rows).map(|row| refusal(0, row)).collect();
    acme.deliver(SENTINEL, 0, quarantining(refusals)).await.unwrap();
    let one_more = acme.deliver(SENTINEL, 1, quarantining(vec![refusal(1, 0)])).await;
    assert!(matches!(&one_more, Err(JournalError::Full(text)) if text.contains("sentinel")), "{one_more:?}");
    assert!(one_more.unwrap_err().remedy().contains("`quarantine list`"), "no disk has to be looked at");
    assert_eq!(acme.state(&[SENTINEL]).await.checkpoints[&SENTINEL], 1);
    assert_eq!(journal.outstanding(&acme.org, SENTINEL).await.unwrap().quarantined, QUARANTINE_ROWS_MAX);
    let room = Receipt { released: vec![RowId { chunk: 0, row: 3 }], ..quarantining(vec![refusal(1, 0)]) };
    acme.deliver(SENTINEL, 1, room).await.unwrap();
    assert_eq!(journal.outstanding(&acme.org, SENTINEL).await.unwrap().quarantined, QUARANTINE_ROWS_MAX);
}

async fn quarantine_is_read_page_by_page_with_the_time_each_row_came(journal: &dyn Journal) {
    let mut acme = Collector::open(journal, acme(), &[SENTINEL, S3]).await;
    acme.chunks(&[DAY, DAY + 1, DAY + 2]).await;
    acme.deliver(SENTINEL, 0, quarantining(vec![refusal(0, 2), refusal(0, 7)])).await.unwrap();
    acme.deliver(SENTINEL, 1, Receipt::default()).await.unwrap();
    acme.now = Second(DAY + 60);
    acme.deliver(SENTINEL, 2, quarantining(vec![refusal(2, 0)])).await.unwrap();
    let came = |refusal: Refusal, at: i64| Quarantined { refusal, since: Some(Second(at)) };
    let whole = [came(refusal(0, 2), DAY), came(refusal(0, 7), DAY), came(refusal(2, 0), DAY + 60)];
    for taken in 0..whole.len() {
        let after = taken.checked_sub(1).map(|last| whole[last].refusal.at);
        for limit in [1, 2, 10] {
            let page = journal.quarantine(&acme.org, SENTINEL, after, limit).await.unwrap();
            let until = whole.len().min(taken + limit as usize);
            assert_eq!(page, whole[taken..until], "after {after:?}, at most {limit}");
        }
    }
    let end = Some(whole[2].refusal.at);
    assert_eq!(journal.quarantine(&acme.org, SENTINEL, end, 10).await.unwrap(), []);
    assert_eq!(journal.quarantine(&acme.org, S3, None, 10).await.unwrap(), []);
}

fn decision(action: Action, rows: &[(u64, u32)], at: i64) -> Decision {
    Decision {
        action,
        destination: SENTINEL,
        rows: rows.iter().map(|(chunk, row)| RowId { chunk: *chunk, row: *row }).collect(),
        who: "ada (uid 1000)".to_owned(),
        reason: "\"seen\", and\nof no use".to_owned(),
        at: Second(at),
    }
}

fn settled(refusal: Refusal) -> Refusal {
    Refusal { provisional: false, ..refusal }
}

/// An org whose chunks 0 and 1 left two final rows each.
async fn with_final_rows(journal: &dyn Journal) -> Collector<'_> {
    let mut acme = Collector::open(journal, acme(), &[SENTINEL]).await;
    acme.chunks(&[DAY, DAY + 1, DAY + 2]).await;
    for chunk in [0, 1] {
        let rows = vec![settled(refusal(chunk, 1)), settled(refusal(chunk, 4))];
        acme.deliver(SENTINEL, chunk, quarantining(rows)).await.unwrap();
    }
    acme
}

async fn rows_that_are_dropped_leave_the_quarantine_with_a_record_of_it(journal: &dyn Journal) {
    let acme = with_final_rows(journal).await;
    let dropped = decision(Action::Drop, &[(1, 1), (0, 4)], DAY + 9);
    assert_eq!(journal.decide(&acme.org, dropped.clone()).await.unwrap(), 2);
    let left = [settled(refusal(0, 1)), settled(refusal(1, 4))];
    assert_eq!(refusals(journal, &acme.org, SENTINEL, 10).await, left);
    assert_eq!(journal.outstanding(&acme.org, SENTINEL).await.unwrap().quarantined, 2);
    assert!(journal.chunk(&acme.org, 0).await.unwrap().is_some(), "the chunk keeps them");
    let last = decision(Action::Drop, &[(0, 1)], DAY + 10);
    assert_eq!(journal.decide(&acme.org, last.clone()).await.unwrap(), 1);
    assert_eq!(journal.decisions(&acme.org, 10).await.unwrap(), [last.clone(), dropped]);
    assert_eq!(journal.decisions(&acme.org, 1).await.unwrap(), [last]);
    let other = OrgId::new("umbrella").unwrap();
    journal.open(&other, &[SENTINEL]).await.unwrap();
    assert_eq!(journal.decisions(&other, 10).await.unwrap(), [], "each org has its own");
}

async fn rows_to_be_sent_again_are_provisional_until_their_lane_says_what_came_of_it(journal: &dyn Journal) {
    let acme = with_final_rows(journal).await;
    assert_eq!(journal.provisional(&acme.org, SENTINEL).await.unwrap(), []);
    let again = decision(Action::Retry, &[(0, 4), (1, 1)], DAY + 9);
    for _ in 0..2 {
        assert_eq!(journal.decide(&acme.org, again.clone()).await.unwrap(), 4, "twice is as once");
    }
    let waiting = [refusal(0, 4), refusal(1, 1)];
    assert_eq!(journal.provisional(&acme.org, SENTINEL).await.unwrap(), waiting);
    assert_eq!(journal.decisions(&acme.org, 10).await.unwrap(), [again.clone(), again]);

    // The lane sent both: one was accepted, the other refused beside it.
    let receipt =
        Receipt { confirms: true, released: vec![RowId { chunk: 0, row: 4 }], ..quarantining(Vec::new()) };
    acme.deliver(SENTINEL, 2, receipt).await.unwrap();
    assert_eq!(journal.provisional(&acme.org, SENTINEL).await.unwrap(), []);
    let left = [settled(refusal(0, 1)), settled(refusal(1, 1)), settled(refusal(1, 4))];
    assert_eq!(refusals(journal, &acme.org, SENTINEL, 10).await, left);
}

async fn a_decision_that_cannot_be_carried_out_whole_changes_nothing(journal: &dyn Journal) {
    let acme = with_final_rows(journal).await;
    let before = refusals(journal, &acme.org, SENTINEL, 10).await;
    let long = "x".repeat(decision::DECISION_WORDS_BYTES_MAX + 1);
    let many: Vec<(u64, u32)> = (0..=1_000).map(|row| (0, row)).collect();
    let mut refused = Vec::new();
    for action in [Action::Retry, Action::Drop] {
        refused.extend([
            decision(action, &[(0, 1), (0, 2)], DAY),
            decision(action, &[], DAY),
            decision(action, &many, DAY),
            Decision { destination: S3, ..decision(action, &[(0, 1)], DAY) },
            Decision { reason: long.clone(), ..decision(action, &[(0, 1)], DAY) },
            Decision { who: long.clone(), ..decision(action, &[(0, 1)], DAY) },
        ]);
    }
    // The same row cannot be dropped twice.
    refused.push(decision(Action::Drop, &[(0, 1), (0, 1)], DAY));
    for decision in refused {
        let result = journal.decide(&acme.org, decision.clone()).await;
        assert!(matches!(result, Err(JournalError::Conflict(_))), "{decision:?}: {result:?}");
    }
    assert_eq!(journal.prune(&acme.org, Second(i64::MAX), u64::MAX).await.unwrap(), 2);
    let gone = journal.decide(&acme.org, decision(Action::Retry, &[(0, 1)], DAY)).await;
    assert!(
        matches!(&gone, Err(JournalError::Conflict(text)) if text.contains("no longer kept")),
        "{gone:?}"
    );
    assert_eq!(refusals(journal, &acme.org, SENTINEL, 10).await, before);
    assert_eq!(journal.outstanding(&acme.org, SENTINEL).await.unwrap().quarantined, 4);
    assert_eq!(journal.decisions(&acme.org, 10).await.unwrap(), []);
    assert_eq!(journal.decide(&acme.org, decision(Action::Drop, &[(0, 1)], DAY)).await.unwrap(), 3);
}

async fn no_more_rows_wait_to_be_sent_again_than_a_lane_reads(journal: &dyn Journal) {
    let mut acme = Collector::open(journal, acme(), &[SENTINEL]).await;
    acme.chunks(&[DAY]).await;
    let rows = (0..=PROVISIONAL_ROWS_MAX).map(|row| settled(refusal(0, row))).collect();
    acme.deliver(SENTINEL, 0, quarantining(rows)).await.unwrap();
    let all: Vec<(u64, u32)> = (0..PROVISIONAL_ROWS_MAX).map(|row| (0, row)).collect();
    journal.decide(&acme.org, decision(Action::Retry, &all, DAY)).await.unwrap();
    let one_more = decision(Action::Retry, &[(0, PROVISIONAL_ROWS_MAX)], DAY);
    let refused = journal.decide(&acme.org, one_more.clone()).await;
    assert!(matches!(refused, Err(JournalError::Conflict(_))), "{refused:?}");
    let waiting = journal.provisional(&acme.org, SENTINEL).await.unwrap();
    assert_eq!(waiting.len(), PROVISIONAL_ROWS_MAX as usize);
    journal.decide(&acme.org, decision(Action::Drop, &[(0, 3)], DAY)).await.unwrap();
    journal.decide(&acme.org, one_more).await.unwrap();
}

async fn the_record_of_decisions_is_bounded(journal: &dyn Journal) {
    let acme = with_final_rows(journal).await;
    for at in 0..=i64::from(DECISIONS_KEPT) {
        journal.decide(&acme.org, decision(Action::Retry, &[(0, 1)], at)).await.unwrap();
    }
    let kept = journal.decisions(&acme.org, u32::MAX).await.unwrap();
    assert_eq!(kept.len(), DECISIONS_KEPT as usize);
    assert_eq!((kept[0].at, kept[kept.len() - 1].at), (Second(i64::from(DECISIONS_KEPT)), Second(1)));
}

async fn notes_are_small_values_beside_an_org(journal: &dyn Journal) {
    journal.open(&acme(), &[S3]).await.unwrap();
    assert_eq!(journal.note(&acme(), "refused").await.unwrap(), None);
    journal.set_note(&acme(), "refused", Some(vec![0, 255])).await.unwrap();
    assert_eq!(journal.note(&acme(), "refused").await.unwrap(), Some(vec![0, 255]));
    assert_eq!(journal.note(&acme(), "other").await.unwrap(), None);
    journal.set_note(&acme(), "refused", Some(vec![7; NOTE_BYTES_MAX])).await.unwrap();
    assert_eq!(journal.note(&acme(), "refused").await.unwrap(), Some(vec![7; NOTE_BYTES_MAX]));
    let long = journal.set_note(&acme(), "refused", Some(vec![8; NOTE_BYTES_MAX + 1])).await;
    assert!(long.is_err());
    assert_eq!(journal.note(&acme(), "refused").await.unwrap(), Some(vec![7; NOTE_BYTES_MAX]));
    journal.set_note(&acme(), "refused", None).await.unwrap();
    assert_eq!(journal.note(&acme(), "refused").await.unwrap(), None);
}

async fn writers_of_many_orgs_and_lanes_do_not_disturb_each_other(journal: Arc<dyn Journal>) {
    let mut tasks = tokio::task::JoinSet::new();
    for index in 0..10 {
        let journal = Arc::clone(&journal);
        tasks.spawn(async move {
            let id = OrgId::new(&format!("org-{index}")).unwrap();
            let mut org = Collector::open(journal.as_ref(), id, &[S3, SENTINEL]).await;
            for number in 0..10 {
                org.chunks(&[DAY + index]).await;
                let (one, two) = tokio::join!(
                    org.deliver(S3, number, Receipt::default()),
                    org.deliver(SENTINEL, number, quarantining(vec![refusal(number, 0)])),
                );
                one.and(two).unwrap();
            }
            let state = org.state(&[S3, SENTINEL]).await;
            assert_eq!(state.checkpoints, BTreeMap::from([(S3, 10), (SENTINEL, 10)]));
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    assert_eq!(journal.orgs().await.unwrap().len(), 10);
}

fn begin(next: u64, link: Link) -> Restore {
    Restore::Begin(Begin { next, link, mark: b"mark".to_vec() })
}

fn part(chunks: Vec<Chunk>, tally: Vec<TallyPage>) -> Restore {
    Restore::Part(Part { chunks, tally, now: Second(DAY) })
}

fn done(next: u64, checkpoints: &[(DestinationName, u64)]) -> Restore {
    Restore::Done(Restored {
        start: Some(Second(DAY)),
        coverage: coverage(DAY + 300),
        next,
        tally_floor: Some(Second(DAY - 60)),
        checkpoints: checkpoints.iter().copied().collect(),
    })
}

async fn what_is_put_back_counts_with_the_last_step(journal: &dyn Journal) {
    let mut collector = Collector::open(journal, acme(), &[S3, SENTINEL]).await;
    // As an archive whose first chunks every lane has passed would give them.
    (collector.next, collector.link) = (7, Link([9; 32]));
    let seven = collector.cut(&[DAY, DAY + 1]);
    (collector.next, collector.link) = (8, Link::of_claim(&seven[0].claim));
    let eight = collector.cut(&[DAY + 2]);
    let page = TallyPage { minute: 5, body: vec![1] };

    journal.restore(&acme(), vec![begin(7, Link([9; 32]))]).await.unwrap();
    journal.restore(&acme(), vec![part(seven.clone(), vec![page.clone()])]).await.unwrap();
    assert_eq!(journal.note(&acme(), MARK).await.unwrap().as_deref(), Some(&b"mark"[..]));
    let state = journal.open(&acme(), &[S3, SENTINEL]).await.unwrap();
    assert_eq!((state.start, state.next), (None, 8));
    assert_eq!(state.coverage, Coverage::default());
    assert_eq!(journal.tally(&acme(), 0, 10).await.unwrap(), std::slice::from_ref(&page));

    // Begun again, as after a crash.
    journal.restore(&acme(), vec![begin(7, Link([9; 32]))]).await.unwrap();
    assert_eq!(journal.tally(&acme(), i64::MIN, i64::MAX).await.unwrap(), []);
    assert_eq!(journal.chunk(&acme(), 7).await.unwrap(), None);
    let timeless = TallyPage { minute: TIMELESS_MINUTE, body: vec![2] };
    let steps = vec![part(seven.clone(), vec![page]), part(eight.clone(), vec![timeless])];
    journal.restore(&acme(), steps).await.unwrap();
    let steps = vec![done(9, &[(S3, 9), (SENTINEL, 8), (FILE, 3)])];
    journal.restore(&acme(), steps).await.unwrap();

    let state = journal.open(&acme(), &[S3, SENTINEL]).await.unwrap();
    assert_eq!(journal.note(&acme(), MARK).await.unwrap(), None);
    assert_eq!((state.start, state.next, state.tally_floor), (Some(Second(DAY)), 9, Some(Second(DAY - 60))));
    assert_eq!((state.coverage, state.link), (coverage(DAY + 300), Link::of_claim(&eight[0].claim)));
    assert_eq!(state.checkpoints, BTreeMap::from([(S3, 9), (SENTINEL, 8)]));
    assert_eq!(journal.chunk(&acme(), 7).await.unwrap(), Some(seven[0].clone()));
    assert_eq!(journal.tally(&acme(), i64::MIN, i64::MAX).await.unwrap().len(), 2);
    let with_file = journal.open(&acme(), &[FILE]).await.unwrap();
    assert_eq!(with_file.checkpoints[&FILE], 7, "its next chunk is not kept any more: the oldest is");
    // And it goes on like any other.
    let mut collector = Collector::open(journal, acme(), &[S3, SENTINEL]).await;
    let append = collector.append(collector.cut(&[DAY + 9]));
    collector.commit(append).await.unwrap();
}

async fn chunks_that_stay_lead_up_to_those_put_back(journal: &dyn Journal) {
    let mut collector = Collector::open(journal, acme(), &[S3, SENTINEL]).await;
    for at in [DAY, DAY + 1, DAY + 2] {
        let append = collector.append(collector.cut(&[at]));
        collector.commit(append).await.unwrap();
    }
    for lane in [S3, SENTINEL] {
        for number in 0..3 {
            let acknowledge =
                Acknowledge { destination: lane, chunk: number, receipt: Receipt::default(), now: NEVER };
            journal.acknowledge(&acme(), acknowledge).await.unwrap();
        }
    }
    let kept = journal.chunk(&acme(), 1).await.unwrap().unwrap();
    let link = Link::of_claim(&kept.claim);
    (collector.next, collector.link) = (2, link);
    let other = collector.cut(&[DAY + 5, DAY + 6]);

    let wrong = journal.restore(&acme(), vec![begin(2, Link([1; 32]))]).await;
    assert!(matches!(wrong, Err(JournalError::Conflict(_))), "{wrong:?}");
    let steps = vec![begin(2, link), part(other.clone(), Vec::new()), done(3, &[(S3, 3)])];
    journal.restore(&acme(), steps).await.unwrap();
    let state = journal.open(&acme(), &[S3, SENTINEL]).await.unwrap();
    assert_eq!((state.next, state.link), (3, Link::of_claim(&other[0].claim)));
    assert_eq!(
        state.checkpoints,
        BTreeMap::from([(S3, 3), (SENTINEL, 2)]),
        "what it sent of the old 2 says nothing"
    );
    assert_eq!(journal.chunk(&acme(), 1).await.unwrap(), Some(kept));
    assert_eq!(journal.chunk(&acme(), 2).await.unwrap(), Some(other[0].clone()));
}

async fn steps_that_do_not_fit_change_nothing(journal: &dyn Journal) {
    let collector = Collector::open(journal, acme(), &[S3]).await;
    let chunks = collector.cut(&[DAY]);
    let fresh = journal.open(&acme(), &[S3]).await.unwrap();
    for steps in [
        vec![part(chunks.clone(), Vec::new())],
        vec![done(0, &[])],
        vec![begin(0, Link::FIRST), part(chunks.clone(), Vec::new()), done(2, &[])],
        vec![begin(0, Link::FIRST), part(chunks.clone(), Vec::new()), done(1, &[(S3, 2)])],
        vec![begin(3, Link([7; 32])), part(chunks.clone(), Vec::new())],
    ] {
        let refused = journal.restore(&acme(), steps).await;
        assert!(matches!(refused, Err(JournalError::Conflict(_))), "{refused:?}");
        assert_eq!(journal.open(&acme(), &[S3]).await.unwrap(), fresh);
        assert_eq!(journal.note(&acme(), MARK).await.unwrap(), None);
        assert_eq!(journal.chunk(&acme(), 0).await.unwrap(), None);
    }
}

macro_rules! contract {
    ($($name:ident,)*) => {
        mod memory_keeps_the_contract {
            use super::*;
            $(#[tokio::test]
            async fn $name() {
                super::$name(&MemoryJournal::new()).await;
            })*

            #[tokio::test]
            async fn writers_of_many_orgs_and_lanes_do_not_disturb_each_other() {
                super::writers_of_many_orgs_and_lanes_do_not_disturb_each_other(Arc::new(MemoryJournal::new())).await;
            }
        }

        mod sqlite_keeps_the_contract {
            use super::*;
            $(#[tokio::test]
            async fn $name() {
                let directory = TempDir::new().unwrap();
                super::$name(&SqliteJournal::open(directory.path()).unwrap()).await;
            })*

            #[tokio::test]
            async fn writers_of_many_orgs_and_lanes_do_not_disturb_each_other() {
                let directory = TempDir::new().unwrap();
                let journal = Arc::new(SqliteJournal::open(directory.path()).unwrap());
                super::writers_of_many_orgs_and_lanes_do_not_disturb_each_other(journal).await;
            }
        }
    };
}

contract! {
    what_is_put_back_counts_with_the_last_step,
    chunks_that_stay_lead_up_to_those_put_back,
    steps_that_do_not_fit_change_nothing,
    a_new_org_is_empty,
    an_org_that_was_never_opened_has_nothing_and_takes_nothing,
    an_append_commits_all_of_its_parts,
    a_chunk_comes_back_byte_for_byte,
    a_stale_revision_leaves_nothing_changed,
    a_chunk_that_does_not_continue_the_chain_is_refused_with_everything_beside_it,
    the_chain_verifies_from_the_first_chunk_to_the_newest,
    orgs_do_not_see_each_other,
    tally_pages_are_replaced_whole_and_pruned_by_the_floor,
    a_checkpoint_moves_by_one_chunk_at_a_time,
    outstanding_counts_what_each_lane_has_to_deliver,
    a_lane_that_is_added_starts_at_the_oldest_chunk_kept,
    a_lane_that_is_removed_holds_nothing_back_and_keeps_its_checkpoint,
    pruning_never_touches_what_a_lane_has_to_deliver,
    pruning_goes_by_age_then_by_size_oldest_first,
    many_chunks_are_pruned_in_one_call,
    quarantine_is_provisional_until_a_receipt_confirms_it,
    a_full_quarantine_refuses_the_acknowledgement_and_drops_nothing,
    quarantine_is_read_page_by_page_with_the_time_each_row_came,
    rows_that_are_dropped_leave_the_quarantine_with_a_record_of_it,
    rows_to_be_sent_again_are_provisional_until_their_lane_says_what_came_of_it,
    a_decision_that_cannot_be_carried_out_whole_changes_nothing,
    no_more_rows_wait_to_be_sent_again_than_a_lane_reads,
    the_record_of_decisions_is_bounded,
    notes_are_small_values_beside_an_org,
}

mod damaged;

/// What only a journal on disk can show.
mod sqlite_on_disk {
    use std::os::unix::fs::PermissionsExt;

    use rusqlite::Connection;

    use super::*;

    pub(super) const PARTS: [&str; 4] = ["journal.db", "journal.db-wal", "journal.db-shm", "lock"];

    pub(super) fn open(directory: &Path) -> SqliteJournal {
        SqliteJournal::open(directory).unwrap()
    }

    /// Someone else with `sqlite3`.
    pub(super) fn stranger(directory: &Path) -> Connection {
        Connection::open(directory.join("journal.db")).unwrap()
    }

    pub(super) fn files(directory: &Path) -> BTreeMap<String, Vec<u8>> {
        std::fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap()))
            .collect()
    }

    /// A journal with something in every table that decisions rest on: three chunks, the first acknowledged.
    pub(super) async fn filled(directory: &Path) -> (OrgState, Vec<Chunk>) {
        let journal = open(directory);
        let mut acme = Collector::open(&journal, acme(), &[S3, SENTINEL]).await;
        let chunks = acme.chunks(&[DAY, DAY + 1, DAY + 2]).await;
        let page = |minute: i64| TallyPage { minute, body: vec![1, 2, 3] };
        let append = Append {
            coverage: coverage(DAY + 300),
            tally: vec![page(DAY / 60), page(DAY / 60 + 1)],
            window: Some(WindowRecord {
                window: window(),
                kind: "head".to_owned(),
                read_at: Second(DAY),
                seen: 1,
                new: 1,
            }),
            ..acme.append(Vec::new())
        };
        acme.commit(append).await.unwrap();
        acme.deliver(SENTINEL, 0, quarantining(vec![refusal(0, 0)])).await.unwrap();
        acme.deliver(S3, 0, Receipt::default()).await.unwrap();
        journal.decide(&acme.org, decision(Action::Retry, &[(0, 0)], DAY)).await.unwrap();
        journal.set_note(&acme.org, "refused", Some(vec![1, 2])).await.unwrap();
        (acme.state(&[S3, SENTINEL]).await, chunks)
    }

    /// Everything a daemon reads before it sends.
    pub(super) async fn read_all(journal: &dyn Journal) -> Result<OrgState, JournalError> {
        let state = journal.open(&acme(), &[S3, SENTINEL]).await?;
        for number in 0..state.next {
            journal.chunk(&acme(), number).await?;
        }
        journal.tally(&acme(), i64::MIN, i64::MAX).await?;
        journal.quarantine(&acme(), SENTINEL, None, 100).await?;
        journal.provisional(&acme(), SENTINEL).await?;
        journal.decisions(&acme(), 100).await?;
        journal.note(&acme(), "refused").await?;
        Ok(state)
    }

    #[tokio::test]
    async fn everything_survives_reopening() {
        let directory = TempDir::new().unwrap();
        let (state, chunks) = filled(directory.path()).await;
        let journal = open(directory.path());
        assert_eq!(read_all(&journal).await.unwrap(), state);
        for chunk in &chunks {
            assert_eq!(journal.chunk(&acme(), chunk.number).await.unwrap().as_ref(), Some(chunk));
        }
        assert_eq!(journal.tally(&acme(), 0, i64::MAX).await.unwrap().len(), 2);
        assert_eq!(refusals(&journal, &acme(), SENTINEL, 9).await, [refusal(0, 0)]);
        assert_eq!(journal.note(&acme(), "refused").await.unwrap(), Some(vec![1, 2]));
        assert_eq!(journal.outstanding(&acme(), S3).await.unwrap().chunks, 2);
    }

    #[tokio::test]
    async fn what_was_committed_is_there_without_an_orderly_end() {
        let directory = TempDir::new().unwrap();
        let journal = open(directory.path());
        let mut collector = Collector::open(&journal, acme(), &[S3]).await;
        let chunks = collector.chunks(&[DAY]).await;
        // The files as a killed process would leave them.
        let copy = TempDir::new().unwrap();
        for name in PARTS {
            std::fs::copy(directory.path().join(name), copy.path().join(name)).unwrap();
        }
        let before = files(copy.path());
        let looked = SqliteJournal::open_read_only(copy.path()).unwrap();
        assert_eq!(looked.chunk(&acme(), 0).await.unwrap().as_ref(), Some(&chunks[0]));
        drop(looked);
        assert_eq!(files(copy.path()), before, "looking changes nothing");

        std::fs::remove_file(copy.path().join("journal.db-shm")).unwrap();
        let before = files(copy.path());
        let looked = SqliteJournal::open_read_only(copy.path()).unwrap();
        assert_eq!(looked.chunk(&acme(), 0).await.unwrap().as_ref(), Some(&chunks[0]));
        drop(looked);
        assert_eq!(files(copy.path()), before, "without the index neither");

        let found = open(copy.path()).chunk(&acme(), 0).await.unwrap();
        assert_eq!(found.as_ref(), Some(&chunks[0]));
    }

    #[tokio::test]
    async fn a_second_process_is_refused_with_the_pid_of_the_first() {
        let directory = TempDir::new().unwrap();
        let first = open(directory.path());
        let second = SqliteJournal::open(directory.path()).unwrap_err();
        let pid = std::process::id().to_string();
        assert!(matches!(&second, JournalError::Busy { pid: named, .. } if *named == pid), "{second}");
        assert_eq!(std::fs::read_to_string(directory.path().join("lock")).unwrap(), pid);
        drop(first);
        open(directory.path());
    }

    #[tokio::test]
    async fn the_directory_and_the_events_are_for_this_user_alone() {
        let parent = TempDir::new().unwrap();
        let directory = parent.path().join("a/state dir %41?#");
        filled(&directory).await;
        let journal = open(&directory);
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&directory), 0o700);
        for name in PARTS {
            assert_eq!(mode(&directory.join(name)), 0o600, "{name}");
        }
        drop(journal);
        assert!(SqliteJournal::open_read_only(&directory).is_ok(), "whatever its name is made of");
    }

    #[tokio::test]
    async fn a_newer_version_is_refused_and_left_as_it_was() {
        let directory = TempDir::new().unwrap();
        filled(directory.path()).await;
        stranger(directory.path()).pragma_update(None, "user_version", 3).unwrap();
        let before = files(directory.path());
        for _ in 0..2 {
            let error = SqliteJournal::open(directory.path()).unwrap_err();
            assert!(matches!(error, JournalError::Newer { found: 3, known: 2, .. }), "{error}");
            assert_eq!(files(directory.path()), before);
        }
        let error = SqliteJournal::open_read_only(directory.path()).unwrap_err();
        assert!(matches!(error, JournalError::Newer { found: 3, known: 2, .. }), "{error}");
        assert_eq!(files(directory.path()), before);
    }

    #[tokio::test]
    async fn version_1_is_read_as_it_is_and_brought_forward_by_the_first_that_may_write() {
        let directory = TempDir::new().unwrap();
        let (state, _) = filled(directory.path()).await;
        let old = stranger(directory.path());
        old.execute_batch("DROP TABLE decision; PRAGMA user_version = 1").unwrap();
        drop(old);
        let before = files(directory.path());
        let looked = SqliteJournal::open_read_only(directory.path()).unwrap();
        assert_eq!(read_all(&looked).await.unwrap(), state);
        assert_eq!(looked.decisions(&acme(), 10).await.unwrap(), []);
        drop(looked);
        assert_eq!(files(directory.path()), before);

        let journal = open(directory.path());
        assert_eq!(read_all(&journal).await.unwrap(), state);
        let dropped = decision(Action::Drop, &[(0, 0)], DAY);
        assert_eq!(journal.decide(&acme(), dropped.clone()).await.unwrap(), 0);
        drop(journal);
        let journal = open(directory.path());
        assert_eq!(journal.decisions(&acme(), 10).await.unwrap(), [dropped]);
    }

    #[tokio::test]
    async fn a_database_that_was_emptied_or_replaced_is_not_taken_for_a_first_start() {
        let zeros = vec![0; 65_536];
        let foreign = {
            let directory = TempDir::new().unwrap();
            stranger(directory.path()).execute_batch("CREATE TABLE theirs (a)").unwrap();
            std::fs::read(directory.path().join("journal.db")).unwrap()
        };
        for content in
            [Vec::new(), zeros, foreign, b"not a database, but long enough to be looked at".repeat(9)]
        {
            let directory = TempDir::new().unwrap();
            filled(directory.path()).await;
            std::fs::write(directory.path().join("journal.db"), &content).unwrap();
            let error = SqliteJournal::open(directory.path()).unwrap_err();
            assert!(matches!(error, JournalError::Damaged(_)), "{error}");
            assert_eq!(std::fs::read(directory.path().join("journal.db")).unwrap(), content);
        }
    }

    #[tokio::test]
    async fn a_creation_that_was_cut_short_is_begun_again() {
        let directory = TempDir::new().unwrap();
        std::fs::write(directory.path().join("journal.db.new"), b"half").unwrap();
        let journal = open(directory.path());
        journal.open(&acme(), &[S3]).await.unwrap();
        assert!(!directory.path().join("journal.db.new").exists());
    }

    #[tokio::test]
    async fn a_directory_that_cannot_be_used_is_named() {
        let directory = TempDir::new().unwrap();
        let file = directory.path().join("file");
        std::fs::write(&file, b"").unwrap();
        for path in [file.clone(), file.join("below")] {
            let error = SqliteJournal::open(&path).unwrap_err();
            assert!(
                matches!(&error, JournalError::Unusable { directory, .. } if *directory == path.display().to_string()),
                "{error}"
            );
        }
    }

    #[tokio::test]
    async fn looking_creates_and_changes_nothing() {
        let directory = TempDir::new().unwrap();
        let absent = directory.path().join("absent");
        assert!(matches!(SqliteJournal::open_read_only(&absent), Err(JournalError::Unusable { .. })));
        assert!(matches!(
            SqliteJournal::open_read_only(directory.path()),
            Err(JournalError::Unusable { .. })
        ));
        assert_eq!(files(directory.path()), BTreeMap::new());

        let (state, chunks) = filled(directory.path()).await;
        let before = files(directory.path());
        let looked = SqliteJournal::open_read_only(directory.path()).unwrap();
        assert_eq!(read_all(&looked).await.unwrap(), state);
        assert_eq!(
            looked.open(&acme(), &[FILE]).await.unwrap().added,
            [(FILE, 0)],
            "what an opening would answer"
        );
        assert_eq!(looked.open(&OrgId::new("new").unwrap(), &[S3]).await.unwrap().checkpoints[&S3], 0);
        assert_eq!(looked.orgs().await.unwrap(), [acme()]);
        assert!(looked.set_note(&acme(), "x", Some(vec![1])).await.is_err());
        assert!(looked.prune(&acme(), Second(i64::MAX), 0).await.is_err());
        assert_eq!(looked.chunk(&acme(), 2).await.unwrap().as_ref(), Some(&chunks[2]));
        drop(looked);
        assert_eq!(files(directory.path()), before);
    }

    #[tokio::test]
    async fn a_running_journal_can_be_looked_at() {
        let directory = TempDir::new().unwrap();
        let journal = open(directory.path());
        let mut collector = Collector::open(&journal, acme(), &[S3]).await;
        collector.chunks(&[DAY]).await;
        let looked = SqliteJournal::open_read_only(directory.path()).unwrap();
        assert_eq!(looked.outstanding(&acme(), S3).await.unwrap().chunks, 1);
        collector.chunks(&[DAY + 1]).await;
        assert_eq!(looked.outstanding(&acme(), S3).await.unwrap().chunks, 2);
    }

    /// Every value of every row that decisions rest on, changed one at a time behind the journal's back.
    #[tokio::test]
    async fn a_changed_value_is_noticed_before_it_is_used() {
        let values = [
            ("journal", "instance", "'other'"),
            ("journal", "orgs", "orgs + 1"),
            ("org", "id", "'acmf'"),
            ("org", "org", "org + 64"),
            ("org", "revision", "revision + 1"),
            ("org", "start", "5"),
            ("org", "oldest", "oldest + 1"),
            ("org", "next", "next - 1"),
            ("org", "link", "zeroblob(32)"),
            ("org", "tally_floor", "60"),
            ("org", "tally_digest", "tally_digest + 1"),
            ("org", "lanes", "lanes - 1"),
            ("org", "sum", "sum + 1"),
            ("coverage", "spans", "replace(spans, '0', '1')"),
            ("coverage", "org", "org + 1"),
            ("lane", "destination", "'file'"),
            ("lane", "checkpoint", "checkpoint + 1"),
            ("lane", "configured", "0"),
            ("lane", "quarantined", "quarantined + 1"),
            ("lane", "org", "org + 64"),
            ("chunk", "number", "number + 64"),
            ("chunk", "appended", "appended + 1"),
            ("chunk", "name", "'Acme Corq'"),
            ("chunk", "mode", "'late'"),
            ("chunk", "date", "'2026-11-22'"),
            ("chunk", "window_from", "window_from + 1"),
            ("chunk", "window_until", "window_until + 1"),
            ("chunk", "count", "count + 1"),
            ("chunk", "first", "NULL"),
            ("chunk", "last", "last + 1"),
            ("chunk", "sha256", "zeroblob(32)"),
            ("chunk", "previous", "randomblob(32)"),
            ("chunk", "bytes", "bytes + 1"),
            ("body", "number", "number + 64"),
            ("body", "claim", "randomblob(length(claim))"),
            ("body", "body", "CAST(substr(body, 2) AS BLOB)"),
            ("tally", "minute", "minute - 1000"),
            ("tally", "body", "x'010204'"),
            ("tally", "sum", "sum + 1"),
            ("quarantine", "row", "row + 1"),
            ("quarantine", "key", "'other'"),
            ("quarantine", "reason", "'too_large'"),
            ("decision", "at", "at + 1"),
            ("decision", "who", "'eve (uid 1000)'"),
            ("decision", "action", "'drop'"),
            ("decision", "destination", "'file'"),
            ("decision", "rows", "'0:1'"),
            ("decision", "reason", "''"),
            ("note", "value", "x'00'"),
        ];
        for (table, column, value) in values {
            let directory = TempDir::new().unwrap();
            filled(directory.path()).await;
            // What stands in one row changes wherever it stands.
            let changed = stranger(directory.path())
                .execute(
                    &format!(
                        "UPDATE {table} SET {column} = {value} WHERE {column} IS (SELECT {column} FROM {table} \
                         WHERE {column} IS NOT {value} LIMIT 1)"
                    ),
                    [],
                )
                .unwrap();
            assert!(changed > 0, "{table}.{column}");
            let noticed = match SqliteJournal::open(directory.path()) {
                Err(error) => Err(error),
                Ok(journal) => read_all(&journal).await,
            };
            assert!(matches!(noticed, Err(JournalError::Damaged(_))), "{table}.{column}: {noticed:?}");
        }
    }

    #[tokio::test]
    async fn a_row_that_vanished_is_noticed() {
        for table in ["journal", "org", "coverage", "lane", "chunk", "body", "tally"] {
            let directory = TempDir::new().unwrap();
            filled(directory.path()).await;
            let sql = format!("DELETE FROM {table} WHERE sum = (SELECT max(sum) FROM {table})");
            let sql = if table == "coverage" { "DELETE FROM coverage".to_owned() } else { sql };
            assert_eq!(stranger(directory.path()).execute(&sql, []).unwrap(), 1, "{table}");
            let noticed = match SqliteJournal::open(directory.path()) {
                Err(error) => Err(error),
                Ok(journal) => read_all(&journal).await,
            };
            assert!(matches!(noticed, Err(JournalError::Damaged(_))), "{table}: {noticed:?}");
        }
    }

    #[tokio::test]
    async fn damage_of_one_org_leaves_the_others_alone() {
        let directory = TempDir::new().unwrap();
        filled(directory.path()).await;
        let journal = open(directory.path());
        let mut umbrella = Collector::open(&journal, OrgId::new("umbrella").unwrap(), &[S3]).await;
        umbrella.chunks(&[DAY]).await;
        stranger(directory.path())
            .execute("UPDATE body SET body = x'00' WHERE number = 1 AND org = (SELECT org FROM org WHERE id = 'acme')", [])
            .unwrap();
        let error = journal.chunk(&acme(), 1).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "the journal is damaged: chunk 1 of `acme` does not match its checksum"
        );
        assert!(journal.chunk(&acme(), 0).await.is_ok());
        umbrella.chunks(&[DAY + 1]).await;
    }

    /// Flips one bit in each of many places all over the file: what is read is either what was written, or an error.
    #[tokio::test]
    async fn a_flipped_bit_anywhere_never_changes_what_is_read() {
        let directory = TempDir::new().unwrap();
        let (state, chunks) = filled(directory.path()).await;
        let whole = std::fs::read(directory.path().join("journal.db")).unwrap();
        for place in (0..whole.len()).step_by(397) {
            let mut flipped = whole.clone();
            flipped[place] ^= 1 << (place % 8);
            let copy = TempDir::new().unwrap();
            std::fs::write(copy.path().join("journal.db"), &flipped).unwrap();
            let Ok(journal) = SqliteJournal::open(copy.path()) else { continue };
            let Ok(read) = read_all(&journal).await else { continue };
            assert_eq!(read, state, "byte {place}");
            for chunk in &chunks {
                let found = journal.chunk(&acme(), chunk.number).await.unwrap();
                assert_eq!(found.as_ref(), Some(chunk), "byte {place}");
            }
        }
    }

    #[tokio::test]
    async fn after_a_refused_commit_nothing_is_believed_and_a_later_call_works() {
        let directory = TempDir::new().unwrap();
        let journal = open(directory.path());
        let mut collector = Collector::open(&journal, acme(), &[S3]).await;
        collector.chunks(&[DAY]).await;
        let before = collector.state(&[S3]).await;
        // Another program holds the database: SQLite reports a fault, as it would for a disk.
        let other = stranger(directory.path());
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        let refused = collector.commit(collector.append(collector.cut(&[DAY + 1]))).await;
        assert!(matches!(refused, Err(JournalError::Disk(_))), "{refused:?}");
        let refused = collector.deliver(S3, 0, Receipt::default()).await;
        assert!(matches!(refused, Err(JournalError::Disk(_))), "{refused:?}");
        other.execute_batch("ROLLBACK").unwrap();
        assert_eq!(collector.state(&[S3]).await, before);
        collector.chunks(&[DAY + 1]).await;
        collector.deliver(S3, 0, Receipt::default()).await.unwrap();
    }

    #[tokio::test]
    async fn a_database_that_goes_away_is_not_made_anew_while_running() {
        let directory = TempDir::new().unwrap();
        let journal = open(directory.path());
        let mut collector = Collector::open(&journal, acme(), &[S3]).await;
        collector.chunks(&[DAY]).await;
        let other = stranger(directory.path());
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        let aside = directory.path().join("aside");
        std::fs::rename(directory.path().join("journal.db"), &aside).unwrap();
        let refused = collector.deliver(S3, 0, Receipt::default()).await;
        assert!(matches!(refused, Err(JournalError::Disk(_))), "{refused:?}");
        let refused = journal.orgs().await;
        assert!(
            matches!(&refused, Err(JournalError::Disk(text)) if text.contains("journal.db")),
            "{refused:?}"
        );
        assert!(!directory.path().join("journal.db").exists());
        other.execute_batch("ROLLBACK").unwrap();
        drop(other);
        std::fs::rename(&aside, directory.path().join("journal.db")).unwrap();
        collector.deliver(S3, 0, Receipt::default()).await.unwrap();
    }

    #[tokio::test]
    async fn windows_and_receipts_are_kept_up_to_their_bound() {
        let directory = TempDir::new().unwrap();
        filled(directory.path()).await;
        let journal = open(directory.path());
        let mut collector = Collector::open(&journal, acme(), &[S3, SENTINEL]).await;
        let other = stranger(directory.path());
        let count = |table: &str| -> i64 {
            other.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
        };
        assert_eq!((count("sweep"), count("receipt")), (1, 2));
        other.execute("UPDATE sweep SET number = number - ?1", [WINDOWS_KEPT - 1]).unwrap();
        other
            .execute("UPDATE receipt SET chunk = chunk - ?1 WHERE destination = 's3'", [WINDOWS_KEPT - 1])
            .unwrap();
        let record =
            WindowRecord { window: window(), kind: "head".to_owned(), read_at: Second(DAY), seen: 1, new: 1 };
        // The first stands at the bound's edge only once there are newer ones.
        other.execute("INSERT INTO sweep SELECT org, 0, window_from, window_until, kind, read_at, seen, new FROM sweep", []).unwrap();
        let append = Append { window: Some(record), ..collector.append(Vec::new()) };
        collector.commit(append).await.unwrap();
        assert_eq!(count("sweep"), 2, "the one beyond the bound went, the new one came");
        collector.deliver(S3, 1, Receipt::default()).await.unwrap();
        assert_eq!(count("receipt"), 2);
    }

    #[tokio::test]
    async fn pages_that_pruning_freed_go_back_to_the_file_system() {
        let directory = TempDir::new().unwrap();
        let journal = open(directory.path());
        let mut collector = Collector::open(&journal, acme(), &[S3]).await;
        for at in 0..10 {
            let mut chunks = collector.cut(&[DAY + at]);
            chunks[0].body = Bytes::from(vec![7; 9 << 20]);
            collector.commit(collector.append(chunks)).await.unwrap();
            collector.deliver(S3, collector.next - 1, Receipt::default()).await.unwrap();
        }
        let pages = || -> i64 {
            stranger(directory.path()).pragma_query_value(None, "page_count", |row| row.get(0)).unwrap()
        };
        let before = pages();
        assert_eq!(journal.prune(&collector.org, Second(i64::MAX), u64::MAX).await.unwrap(), 10);
        let back = before - pages();
        assert!(
            (1_024..1_100).contains(&back),
            "{back} pages: a bounded number, and the list of those freed"
        );
    }
}
