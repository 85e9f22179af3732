//! What every store must do for the archive's promise to hold: one suite, run by each of them.

use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;

use super::{Archive, Creation, Piece, Store};
use crate::chunk::{Chunk, Cut, Link, Mode, NewEvent, Packing, Summary, gzip};
use crate::clock::{Second, Window};
use crate::destination::{Answer, Backlog, Destination};
use crate::event::{Event, EventKey, Identity, OrgId, Payload};
use crate::problem::{PauseReason, Problem};
use crate::trial::Outcome;

/// Somewhere that several stores can look at, as several processes do.
pub(crate) trait Place {
    type Store: Store;
    fn store(&self) -> Self::Store;
}

/// No other chunk.
pub(crate) struct Alone;

#[async_trait]
impl Backlog for Alone {
    async fn after(&self, _: u64) -> Option<Chunk> {
        None
    }
    async fn chunk(&self, _: u64) -> Option<Chunk> {
        None
    }
}

pub(crate) fn org() -> OrgId {
    OrgId::new("acme").unwrap()
}

/// Chunk `number` of instance `instance`, with `events` events of 2026-11-21.
pub(crate) fn chunk(number: u64, instance: &str, events: u32) -> Chunk {
    let at = Second(1_795_256_100);
    let summary = Summary {
        start: Some(at),
        coverage: Vec::new(),
        checkpoints: Default::default(),
        instance: instance.into(),
        forwarder: "test".into(),
        audit: None,
    };
    let cut = Cut {
        id: &org(),
        org: "acme-corp",
        mode: Mode::Live,
        window: Window::new(at, at + 300),
        packing: Packing::Stored,
        next: number,
        link: Link::FIRST,
        before: summary.clone(),
        after: summary,
    };
    let event = |n: u32| {
        let identity = Identity([u8::try_from(n % 251).unwrap(); 32]);
        NewEvent {
            event: Event {
                raw: Bytes::from(format!("{{\"n\":{n}}}")),
                at: Some(at + i64::from(n)),
                identity,
                payload: Payload([0; 32]),
                kind: "login".into(),
                odd: Default::default(),
            },
            key: EventKey::new(&identity, 0),
        }
    };
    cut.chunks((0..events).map(event).collect()).remove(0)
}

pub(crate) fn archive<P: Place>(place: &P) -> Archive<P::Store> {
    Archive::new(org(), place.store())
}

pub(crate) async fn deliver<P: Place>(place: &P, chunk: &Chunk) -> Answer {
    archive(place).deliver(chunk, &Alone).await
}

async fn plant<P: Place>(place: &P, key: &str, body: Bytes, piece: Piece<'_>) {
    let created = place.store().create(key, &body, piece).await.unwrap();
    assert!(matches!(created, Creation::New(_)), "{key} was there already");
}

async fn pause<P: Place>(place: &P, chunk: &Chunk) -> Problem {
    match deliver(place, chunk).await {
        Answer::Paused(problem) => problem,
        answer => panic!("expected a pause, got {answer:?}"),
    }
}

pub(crate) async fn a_chunk_becomes_a_claim_and_an_object<P: Place>(place: P) {
    let chunk = chunk(0, "one", 3);
    let Answer::Durable(receipt) = deliver(&place, &chunk).await else { panic!("not durable") };
    assert_eq!(receipt.rows, 3);
    assert!(!receipt.reference.is_empty());
    let mut store = place.store();
    assert_eq!(store.read(&chunk.claim_key(), usize::MAX).await.unwrap(), Some(chunk.claim.clone()));
    assert_eq!(store.read(&chunk.object_key(), usize::MAX).await.unwrap(), Some(chunk.body.clone()));
}

pub(crate) async fn a_piece_is_read_no_further_than_asked<P: Place>(place: P) {
    let chunk = chunk(0, "one", 3);
    assert!(matches!(deliver(&place, &chunk).await, Answer::Durable(_)));
    let mut store = place.store();
    assert_eq!(store.read(&chunk.claim_key(), 5).await.unwrap(), Some(chunk.claim.slice(..5)));
    assert_eq!(store.read("_chain/org=acme/none.json", 5).await.unwrap(), None);
    assert!(store.lines("org=acme/none.jsonl.gz").await.unwrap().is_none());
}

pub(crate) async fn a_chunk_delivered_again_is_durable_and_stays_one<P: Place>(place: P) {
    let chunk = chunk(7, "one", 3);
    let mut archive = archive(&place);
    for _ in 0..3 {
        assert!(matches!(archive.deliver(&chunk, &Alone).await, Answer::Durable(_)));
    }
    assert!(matches!(deliver(&place, &chunk).await, Answer::Durable(_)), "after a restart, too");
}

pub(crate) async fn a_claim_whose_object_never_came_is_completed<P: Place>(place: P) {
    let chunk = chunk(1, "one", 2);
    plant(&place, &chunk.claim_key(), chunk.claim.clone(), Piece::Claim).await;
    assert!(matches!(deliver(&place, &chunk).await, Answer::Durable(_)));
    let stored = place.store().read(&chunk.object_key(), usize::MAX).await.unwrap();
    assert_eq!(stored, Some(chunk.body));
}

pub(crate) async fn a_number_claimed_by_another_instance_is_fenced_and_no_object_is_written<P: Place>(
    place: P,
) {
    let (ours, theirs) = (chunk(4, "ours", 2), chunk(4, "theirs", 2));
    plant(&place, &theirs.claim_key(), theirs.claim.clone(), Piece::Claim).await;
    let problem = pause(&place, &ours).await;
    assert_eq!(problem.reason, PauseReason::Fenced);
    assert!(problem.cause.contains("instance theirs"), "{}", problem.cause);
    assert!(problem.remedy.contains("adopt --org acme"), "{}", problem.remedy);
    let mut store = place.store();
    assert_eq!(store.read(&ours.object_key(), usize::MAX).await.unwrap(), None);
    assert_eq!(store.read(&ours.claim_key(), usize::MAX).await.unwrap(), Some(theirs.claim));
}

pub(crate) async fn a_restored_copy_of_the_state_is_fenced_as_such<P: Place>(place: P) {
    let (before, after) = (chunk(4, "one", 2), chunk(4, "one", 3));
    assert!(matches!(deliver(&place, &before).await, Answer::Durable(_)));
    let problem = pause(&place, &after).await;
    assert_eq!(problem.reason, PauseReason::Fenced);
    assert!(problem.cause.contains("another copy of this state directory"), "{}", problem.cause);
}

pub(crate) async fn a_claim_that_goes_on_where_ours_ends_is_not_ours<P: Place>(place: P) {
    let chunk = chunk(4, "one", 2);
    let longer = Bytes::from([chunk.claim.as_ref(), b" "].concat());
    plant(&place, &chunk.claim_key(), longer, Piece::Claim).await;
    assert_eq!(pause(&place, &chunk).await.reason, PauseReason::Fenced);
}

pub(crate) async fn the_same_lines_compressed_otherwise_are_ours<P: Place>(place: P) {
    let chunk = chunk(2, "one", 200);
    let other = gzip(&chunk.lines().unwrap(), 0);
    assert_ne!(other, chunk.body);
    plant(&place, &chunk.object_key(), other, Piece::Object(&chunk)).await;
    assert!(matches!(deliver(&place, &chunk).await, Answer::Durable(_)));
}

pub(crate) async fn the_same_lines_without_metadata_are_ours<P: Place>(place: P) {
    let chunk = chunk(2, "one", 200);
    plant(&place, &chunk.object_key(), gzip(&chunk.lines().unwrap(), 0), Piece::Claim).await;
    assert!(matches!(deliver(&place, &chunk).await, Answer::Durable(_)));
}

pub(crate) async fn other_lines_under_our_key_are_fenced_and_kept<P: Place>(place: P) {
    let (ours, theirs) = (chunk(2, "one", 2), chunk(2, "one", 3));
    plant(&place, &ours.object_key(), theirs.body.clone(), Piece::Object(&theirs)).await;
    assert_eq!(pause(&place, &ours).await.reason, PauseReason::Fenced);
    assert_eq!(place.store().read(&ours.object_key(), usize::MAX).await.unwrap(), Some(theirs.body));
}

pub(crate) async fn a_number_voided_by_a_recovery_takes_no_events_any_more<P: Place>(place: P) {
    let chunk = chunk(9, "one", 2);
    plant(&place, &chunk.claim_key(), chunk.claim.clone(), Piece::Claim).await;
    let void = gzip(b"", 6);
    plant(&place, &chunk.object_key(), void.clone(), Piece::Probe).await;
    assert_eq!(pause(&place, &chunk).await.reason, PauseReason::Fenced);
    assert_eq!(place.store().read(&chunk.object_key(), usize::MAX).await.unwrap(), Some(void));
}

pub(crate) async fn an_object_that_does_not_unpack_waits_for_a_person<P: Place>(place: P) {
    let chunk = chunk(3, "one", 2);
    plant(&place, &chunk.object_key(), chunk.body.slice(..20), Piece::Probe).await;
    let problem = pause(&place, &chunk).await;
    assert!(problem.cause.contains("does not unpack"), "{}", problem.cause);
}

/// Each of eight writers disturbs another once at most.
const TRIES_MAX: usize = 8;

pub(crate) async fn of_writers_at_the_same_moment_one_wins<P: Place>(place: P) {
    let durable = AtomicU64::new(0);
    let fenced = AtomicU64::new(0);
    let chunks: Vec<Chunk> = (0..8).map(|n| chunk(5, &format!("writer-{n}"), n + 1)).collect();
    let writers = chunks.iter().map(|chunk| async {
        // A writer that begins may take another's half-written piece for a leftover: that one is told to send again.
        let mut answer = deliver(&place, chunk).await;
        for _ in 0..TRIES_MAX {
            let Answer::Ambiguous(_) = answer else { break };
            answer = deliver(&place, chunk).await;
        }
        match answer {
            Answer::Durable(_) => durable.fetch_add(1, Ordering::SeqCst),
            Answer::Paused(problem) if problem.reason == PauseReason::Fenced => {
                fenced.fetch_add(1, Ordering::SeqCst)
            }
            answer => panic!("{answer:?}"),
        };
    });
    // Eight deliveries interleaved at every await of one task.
    let mut writers: Vec<_> = writers.map(Box::pin).collect();
    std::future::poll_fn(|context| {
        writers.retain_mut(|writer| writer.as_mut().poll(context).is_pending());
        if writers.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    assert_eq!((durable.load(Ordering::SeqCst), fenced.load(Ordering::SeqCst)), (1, 7));
}

pub(crate) async fn the_write_probe_sees_that_nothing_is_overwritten<P: Place>(place: P) {
    let mut archive = archive(&place);
    for time in ["the first time", "again, with the probe of the first time in place"] {
        let outcome = archive.write_probe().await;
        assert!(matches!(outcome, Outcome::Ok(_)), "{time}: {outcome:?}");
    }
}

/// Makes one test of each promise for a place.
macro_rules! holds {
    ($place:expr) => {
        $crate::destination::archive::contract::holds!($place;
            a_chunk_becomes_a_claim_and_an_object,
            a_piece_is_read_no_further_than_asked,
            a_chunk_delivered_again_is_durable_and_stays_one,
            a_claim_whose_object_never_came_is_completed,
            a_number_claimed_by_another_instance_is_fenced_and_no_object_is_written,
            a_restored_copy_of_the_state_is_fenced_as_such,
            a_claim_that_goes_on_where_ours_ends_is_not_ours,
            the_same_lines_compressed_otherwise_are_ours,
            the_same_lines_without_metadata_are_ours,
            other_lines_under_our_key_are_fenced_and_kept,
            a_number_voided_by_a_recovery_takes_no_events_any_more,
            an_object_that_does_not_unpack_waits_for_a_person,
            of_writers_at_the_same_moment_one_wins,
            the_write_probe_sees_that_nothing_is_overwritten,
        );
    };
    ($place:expr; $($promise:ident,)*) => {
        $(
            #[tokio::test]
            async fn $promise() {
                $crate::destination::archive::contract::$promise($place.await).await;
            }
        )*
    };
}
pub(crate) use holds;
