//! The archive: what `s3` and `file` share. A chunk becomes durable as two pieces, each created only if absent: first its
//! claim, whose name depends on the number alone, then its object.
//!
//! This module knows the protocol and nothing of any place: a [`Store`] creates and reads, [`Archive`] decides what a piece that
//! is already there means. It never overwrites, never deletes, and never waits.
//!
//! *Why the claim comes first:* two writers that disagree about the date would write two objects under different names. The claim
//! makes them meet, whatever they believe, before either has written events.
//!
//! *Why an object is compared by the digest of its lines:* a new gzip library gives other bytes for the same lines, and must not
//! turn our own object into a stranger's.

#[cfg(test)]
pub(crate) mod contract;
#[cfg(test)]
mod memory;

use std::io::{self, Read, Write};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use sha2::{Digest, Sha256};

use crate::chunk::{CHUNK_LINES_BYTES_MAX, Chunk, Claim, Link};
use crate::destination::{Answer, Backlog, Destination, DestinationName, Receipt};
use crate::event::{OrgId, hex};
use crate::mutant::{self, Mutant};
use crate::problem::{PauseReason, Problem};
use crate::rotation::Standing;
use crate::trial::{How, Outcome, Trial};

/// Most bytes read of a claim that is not ours: enough to say whose it is.
const CLAIM_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Where the write probe puts its piece, relative to the prefix.
const PROBE_KEY: &str = "_probe/conditional-write.json";

/// What a piece is, as far as a store labels it.
#[derive(Clone, Copy, Debug)]
pub enum Piece<'a> {
    /// The claim of a chunk.
    Claim,
    /// The object with a chunk's events.
    Object(&'a Chunk),
    /// Written on command, to see that the store creates only what is absent.
    Probe,
}

impl Piece<'_> {
    pub fn content_type(self) -> &'static str {
        match self {
            Piece::Claim | Piece::Probe => "application/json",
            Piece::Object(_) => "application/x-ndjson",
        }
    }

    /// What a store that keeps metadata keeps beside the bytes.
    pub fn metadata(self) -> Vec<(&'static str, String)> {
        let Piece::Object(chunk) = self else { return Vec::new() };
        let mut metadata = vec![
            ("chunk", chunk.number.to_string()),
            (SHA256_METADATA, hex(&chunk.sha256)),
            ("count", chunk.count.to_string()),
        ];
        metadata.extend(chunk.first.map(|at| ("first-time", at.to_string())));
        metadata.extend(chunk.last.map(|at| ("last-time", at.to_string())));
        metadata
    }
}

/// Name of the metadata that holds the SHA-256 of an object's uncompressed lines, hexadecimal.
pub const SHA256_METADATA: &str = "sha256";

/// What came of creating a piece only if it is absent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Creation {
    /// It is durable, and ours.
    New(Entry),
    /// There is one already, and it is durable.
    Exists,
}

/// How a store refers to a piece it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// HTTP status; 0 where there is none.
    pub status: u16,
    /// ETag, or the piece's key.
    pub reference: String,
}

/// SHA-256 of the lines an object unpacks to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lines {
    /// Hexadecimal.
    Sha256(String),
    /// What is stored does not unpack.
    Unreadable,
}

/// Why a store could not do what it was asked.
#[derive(Clone, Debug)]
pub enum Obstacle {
    /// Perhaps done, perhaps not.
    Ambiguous(String),
    Throttled {
        wait: Option<Duration>,
        cause: String,
    },
    Paused(Problem),
}

impl From<Obstacle> for Answer {
    fn from(obstacle: Obstacle) -> Answer {
        match obstacle {
            Obstacle::Ambiguous(cause) => Answer::Ambiguous(cause),
            Obstacle::Throttled { wait, cause } => Answer::Throttled { wait, cause },
            Obstacle::Paused(problem) => Answer::Paused(problem),
        }
    }
}

/// A place that keeps pieces under keys, and creates one only if it is absent.
#[async_trait]
pub trait Store: Send {
    fn name(&self) -> DestinationName;

    /// A key as a person would look it up.
    fn locate(&self, key: &str) -> String;

    /// Creates a piece whole and durable, or not at all; never overwrites.
    async fn create(&mut self, key: &str, body: &Bytes, piece: Piece<'_>) -> Result<Creation, Obstacle>;

    /// The first `bytes_max` bytes of a piece; `None` when there is none.
    async fn read(&mut self, key: &str, bytes_max: usize) -> Result<Option<Bytes>, Obstacle>;

    /// What an object's lines are, and how the store refers to it; `None` when there is none.
    async fn lines(&mut self, key: &str) -> Result<Option<(Lines, Entry)>, Obstacle>;

    /// Sees to it that a piece of ours that was found in place is kept as one just created is: what the place was told to keep
    /// may have changed since, and what a store did with the first try nobody saw.
    async fn keep(&mut self, _key: &str, _piece: Piece<'_>) -> Result<(), Obstacle> {
        Ok(())
    }

    async fn secret_changed(&mut self) -> bool;

    /// As [`Destination::look_at_secrets`].
    async fn look_at_secrets(&mut self) {}

    /// As [`Destination::standing`].
    fn standing(&self) -> Option<Standing> {
        None
    }

    /// As [`Destination::check`]; the write probe is the archive's business.
    async fn check(&mut self, how: &How) -> Vec<Trial>;
}

/// A destination that keeps chunks as claims and objects.
pub struct Archive<S> {
    org: OrgId,
    store: S,
    /// The claim last seen in place, so that a repeated object need not claim again.
    claimed: Option<Link>,
}

impl<S: Store> Archive<S> {
    pub fn new(org: OrgId, store: S) -> Archive<S> {
        Archive { org, store, claimed: None }
    }

    /// Creates one small piece twice, to see that the store honours "only if absent". Leaves it there.
    pub async fn write_probe(&mut self) -> Outcome {
        let body = Bytes::from_static(b"{\"probe\":\"created only if absent\"}");
        for _ in 0..2 {
            let created = self.store.create(PROBE_KEY, &body, Piece::Probe).await;
            match created {
                Ok(Creation::New(_)) => {}
                Ok(Creation::Exists) => {
                    if let Err(obstacle) = self.store.keep(PROBE_KEY, Piece::Probe).await {
                        return Answer::from(obstacle).into();
                    }
                    let place = self.store.locate(PROBE_KEY);
                    return Outcome::Ok(format!("{place} can be written, and was not overwritten"));
                }
                Err(obstacle) => return Answer::from(obstacle).into(),
            }
        }
        Outcome::Failed(Problem {
            reason: PauseReason::Configuration,
            cause: format!("{} was created twice: the store ignores `If-None-Match`", self.store.locate(PROBE_KEY)),
            remedy: "use a store that honours conditional writes; until then two instances could overwrite each other".into(),
        })
    }

    async fn settle(&mut self, chunk: &Chunk) -> Result<Receipt, Obstacle> {
        if mutant::is(Mutant::ObjectBeforeClaim) {
            self.object(chunk).await?;
        }
        let link = Link::of_claim(&chunk.claim);
        if self.claimed != Some(link) {
            self.claim(chunk).await?;
            self.claimed = Some(link);
        }
        let entry = self.object(chunk).await?;
        Ok(Receipt {
            status: entry.status,
            reference: entry.reference,
            rows: chunk.count,
            bytes: (chunk.claim.len() + chunk.body.len()) as u64,
            ..Receipt::default()
        })
    }

    async fn claim(&mut self, chunk: &Chunk) -> Result<(), Obstacle> {
        let key = chunk.claim_key();
        if let Creation::New(_) = self.store.create(&key, &chunk.claim, Piece::Claim).await? {
            return Ok(());
        }
        // One byte more than ours tells a longer claim from ours.
        let bytes_max = CLAIM_BYTES_MAX.max(chunk.claim.len() + 1);
        let Some(found) = self.store.read(&key, bytes_max).await? else {
            return Err(Obstacle::Ambiguous(format!("{} exists and is absent", self.store.locate(&key))));
        };
        if found == chunk.claim {
            return self.store.keep(&key, Piece::Claim).await;
        }
        let theirs = serde_json::from_slice::<Claim>(&found).ok().map(|claim| claim.summary.instance);
        let ours = serde_json::from_slice::<Claim>(&chunk.claim).ok().map(|claim| claim.summary.instance);
        let whose = match (theirs, ours) {
            (Some(theirs), Some(ours)) if theirs == ours => {
                format!("another copy of this state directory (instance {ours})")
            }
            (Some(theirs), _) => format!("instance {}", theirs.chars().take(80).collect::<String>()),
            (None, _) => "something that is not a claim".to_owned(),
        };
        Err(self.fenced(chunk, format!("{} holds a claim of {whose}", self.store.locate(&key))))
    }

    async fn object(&mut self, chunk: &Chunk) -> Result<Entry, Obstacle> {
        let key = chunk.object_key();
        if let Creation::New(entry) = self.store.create(&key, &chunk.body, Piece::Object(chunk)).await? {
            return Ok(entry);
        }
        let Some((lines, entry)) = self.store.lines(&key).await? else {
            return Err(Obstacle::Ambiguous(format!("{} exists and is absent", self.store.locate(&key))));
        };
        match lines {
            Lines::Sha256(found) if found == hex(&chunk.sha256) => {
                self.store.keep(&key, Piece::Object(chunk)).await?;
                Ok(entry)
            }
            Lines::Sha256(_) => {
                Err(self.fenced(chunk, format!("{} holds other events", self.store.locate(&key))))
            }
            Lines::Unreadable => Err(Obstacle::Paused(Problem {
                reason: PauseReason::Fenced,
                cause: format!(
                    "chunk {} cannot be archived: {} exists and does not unpack",
                    chunk.number,
                    self.store.locate(&key)
                ),
                remedy: "find out who wrote or damaged it and move it out of the archive; the chunk is then written by itself".into(),
            })),
        }
    }

    fn fenced(&self, chunk: &Chunk, cause: String) -> Obstacle {
        Obstacle::Paused(Problem {
            reason: PauseReason::Fenced,
            cause: format!("chunk {} is taken: {cause}", chunk.number),
            remedy: format!(
                "stop the other instance that archives `{0}` here, then run `pulumi-audit-forwarder adopt --org {0}`; nothing is lost meanwhile",
                self.org
            ),
        })
    }
}

#[async_trait]
impl<S: Store> Destination for Archive<S> {
    fn name(&self) -> DestinationName {
        self.store.name()
    }

    async fn deliver(&mut self, chunk: &Chunk, _: &dyn Backlog) -> Answer {
        match self.settle(chunk).await {
            Ok(receipt) => Answer::Durable(receipt),
            Err(obstacle) => obstacle.into(),
        }
    }

    async fn secret_changed(&mut self) -> bool {
        self.store.secret_changed().await
    }

    async fn look_at_secrets(&mut self) {
        self.store.look_at_secrets().await;
    }

    fn standing(&self) -> Option<Standing> {
        self.store.standing()
    }

    async fn check(&mut self, how: &How) -> Vec<Trial> {
        let mut trials = self.store.check(how).await;
        if how.write_probe && !trials.iter().any(Trial::ends) {
            trials.push(Trial::new("write", self.write_probe().await));
        }
        trials
    }
}

/// Unpacks an object and hashes its lines, without keeping them.
pub fn lines_of(object: impl Read) -> Lines {
    lines_below(CHUNK_LINES_BYTES_MAX, object)
}

/// What unpacks to `bytes_max` bytes or more is no object of ours.
fn lines_below(bytes_max: u64, object: impl Read) -> Lines {
    struct Hasher(Sha256);
    impl Write for Hasher {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.update(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut hasher = Hasher(Sha256::new());
    match io::copy(&mut MultiGzDecoder::new(object).take(bytes_max), &mut hasher) {
        Ok(bytes) if bytes < bytes_max => Lines::Sha256(hex(&hasher.0.finalize())),
        Ok(_) | Err(_) => Lines::Unreadable,
    }
}

#[cfg(test)]
mod tests {
    use super::contract::{Alone, Place, archive, chunk};
    use super::*;
    use crate::chunk::gzip;
    use crate::clock::Clock;

    #[test]
    fn a_piece_says_what_it_is_and_an_object_also_what_is_in_it() {
        let chunk = chunk(7, "one", 3);
        let pieces = [Piece::Claim, Piece::Probe, Piece::Object(&chunk)];
        let kinds = pieces.map(Piece::content_type);
        assert_eq!(kinds, ["application/json", "application/json", "application/x-ndjson"]);
        assert_eq!((Piece::Claim.metadata(), Piece::Probe.metadata()), (vec![], vec![]));
        let expected = [
            ("chunk", "7"),
            ("sha256", &hex(&chunk.sha256)),
            ("count", "3"),
            ("first-time", "2026-11-21T10:15:00Z"),
            ("last-time", "2026-11-21T10:15:02Z"),
        ];
        let metadata = Piece::Object(&chunk).metadata();
        assert_eq!(metadata, expected.map(|(name, value)| (name, value.to_owned())));
    }

    #[tokio::test]
    async fn the_receipt_counts_the_claim_and_the_object() {
        let chunk = chunk(7, "one", 3);
        let mut archive = archive(&memory::Memory::default());
        let Answer::Durable(receipt) = archive.deliver(&chunk, &Alone).await else { panic!("not durable") };
        let bytes = (chunk.claim.len() + chunk.body.len()) as u64;
        assert_eq!(receipt, Receipt { reference: chunk.object_key(), rows: 3, bytes, ..Receipt::default() });
    }

    /// Answers of a store, and whether it was asked for anything.
    struct Said {
        answer: Result<Creation, Obstacle>,
        tried: Outcome,
        changed: bool,
    }

    #[async_trait]
    impl Store for Said {
        fn name(&self) -> DestinationName {
            DestinationName::S3
        }
        fn locate(&self, key: &str) -> String {
            key.to_owned()
        }
        async fn create(&mut self, _: &str, _: &Bytes, _: Piece<'_>) -> Result<Creation, Obstacle> {
            self.answer.clone()
        }
        async fn read(&mut self, _: &str, _: usize) -> Result<Option<Bytes>, Obstacle> {
            Ok(None)
        }
        async fn lines(&mut self, _: &str) -> Result<Option<(Lines, Entry)>, Obstacle> {
            Ok(None)
        }
        async fn secret_changed(&mut self) -> bool {
            self.changed
        }
        async fn check(&mut self, _: &How) -> Vec<Trial> {
            vec![Trial::new("list", self.tried.clone())]
        }
    }

    fn said(answer: Result<Creation, Obstacle>) -> Archive<Said> {
        let tried = Outcome::Ok("it answers".into());
        Archive::new(contract::org(), Said { answer, tried, changed: false })
    }

    #[tokio::test]
    async fn what_a_store_could_not_do_reaches_the_lane_as_it_is() {
        let chunk = chunk(0, "one", 1);
        let ambiguous = said(Err(Obstacle::Ambiguous("reset".into()))).deliver(&chunk, &Alone).await;
        assert!(matches!(ambiguous, Answer::Ambiguous(cause) if cause == "reset"));
        let wait = Some(Duration::from_secs(9));
        let throttled = Obstacle::Throttled { wait, cause: "slow down".into() };
        let throttled = said(Err(throttled)).deliver(&chunk, &Alone).await;
        assert!(matches!(throttled, Answer::Throttled { wait: asked, .. } if asked == wait));
        let gone = said(Ok(Creation::Exists)).deliver(&chunk, &Alone).await;
        assert!(matches!(gone, Answer::Ambiguous(cause) if cause.contains("exists and is absent")));
    }

    #[tokio::test]
    async fn the_receipt_says_what_the_store_answered_for_the_object() {
        let created = Creation::New(Entry { status: 201, reference: "etag".into() });
        let answer = said(Ok(created)).deliver(&chunk(0, "one", 1), &Alone).await;
        let Answer::Durable(receipt) = answer else { panic!("not durable") };
        assert_eq!((receipt.status, receipt.reference.as_str()), (201, "etag"));
    }

    #[tokio::test]
    async fn the_archive_is_named_after_its_store_and_asks_it_for_changed_secrets() {
        for changed in [true, false] {
            let mut archive = said(Ok(Creation::Exists));
            archive.store.changed = changed;
            assert_eq!(archive.name(), DestinationName::S3);
            assert_eq!(archive.secret_changed().await, changed);
        }
    }

    #[tokio::test]
    async fn the_write_probe_is_tried_only_when_it_is_asked_for_and_the_store_is_in_order() {
        let created = || Ok(Creation::New(Entry { status: 200, reference: "tag".into() }));
        let how = |write_probe| How { write_probe, clock: Clock::system() };
        let tried = |trials: &[Trial]| trials.iter().map(|trial| trial.tried).collect::<Vec<_>>();
        assert_eq!(tried(&said(created()).check(&how(false)).await), ["list"]);
        let trials = said(created()).check(&how(true)).await;
        assert_eq!(tried(&trials), ["list", "write"]);
        let Outcome::Failed(problem) = &trials[1].outcome else { panic!("{trials:?}") };
        assert!(problem.cause.contains("created twice"), "{}", problem.cause);
        let mut unreachable = said(created());
        unreachable.store.tried = Outcome::unreachable("no answer".into());
        assert_eq!(tried(&unreachable.check(&how(true)).await), ["list"]);
    }

    #[tokio::test]
    async fn a_claim_in_hand_is_not_asked_for_again() {
        let place = memory::Memory::default();
        let (first, second) = (chunk(0, "one", 1), chunk(1, "one", 1));
        let mut archive = archive(&place);
        assert!(matches!(archive.deliver(&first, &Alone).await, Answer::Durable(_)));
        place.store().remove(&first.claim_key());
        assert!(matches!(archive.deliver(&first, &Alone).await, Answer::Durable(_)));
        assert_eq!(place.store().read(&first.claim_key(), 1).await.unwrap(), None);
        assert!(matches!(archive.deliver(&second, &Alone).await, Answer::Durable(_)));
        assert!(place.store().read(&second.claim_key(), 1).await.unwrap().is_some());
    }

    #[test]
    fn lines_are_the_same_whatever_the_compression() {
        let lines = b"{\"key\":1}\n".repeat(100);
        let [fast, small] = [1, 9].map(|level| gzip(&lines, level));
        assert_ne!(fast, small);
        assert_eq!(lines_of(fast.as_ref()), lines_of(small.as_ref()));
        assert_eq!(lines_of(fast.as_ref()), Lines::Sha256(hex(&Sha256::digest(&lines))));
    }

    #[test]
    fn what_unpacks_to_more_than_a_chunk_may_hold_does_not_unpack() {
        let object = gzip(&b"{}\n".repeat(100), 6);
        assert_eq!(lines_below(301, object.as_ref()), lines_of(object.as_ref()));
        for bytes_max in [0, 299, 300] {
            assert_eq!(lines_below(bytes_max, object.as_ref()), Lines::Unreadable, "{bytes_max}");
        }
    }

    /// Chunk 0 of an instance whose name alone is so many bytes long.
    fn chunk_with_a_claim_of(bytes: usize) -> Chunk {
        chunk(0, &"x".repeat(bytes), 1)
    }

    async fn plant(place: &memory::Memory, chunk: &Chunk, claim: Bytes) {
        let created = place.store().create(&chunk.claim_key(), &claim, Piece::Claim).await;
        assert!(matches!(created, Ok(Creation::New(_))));
    }

    #[tokio::test]
    async fn a_claim_of_megabytes_still_says_whose_it_is() {
        let (ours, theirs) = (chunk(0, "ours", 1), chunk_with_a_claim_of(3 << 20));
        let place = memory::Memory::default();
        plant(&place, &theirs, theirs.claim.clone()).await;
        let Answer::Paused(problem) = archive(&place).deliver(&ours, &Alone).await else {
            panic!("not fenced")
        };
        assert!(problem.cause.contains("a claim of instance xxx"), "{}", problem.cause);
        assert!(problem.cause.len() < 1_000, "and is not quoted whole");

        let endless = chunk_with_a_claim_of(5 << 20);
        let place = memory::Memory::default();
        plant(&place, &endless, endless.claim.clone()).await;
        let Answer::Paused(problem) = archive(&place).deliver(&ours, &Alone).await else {
            panic!("not fenced")
        };
        assert!(problem.cause.contains("something that is not a claim"), "{}", problem.cause);
    }

    #[tokio::test]
    async fn a_claim_of_ours_is_known_again_however_long_and_one_that_goes_on_is_not_ours() {
        let chunk = chunk_with_a_claim_of(5 << 20);
        let place = memory::Memory::default();
        plant(&place, &chunk, chunk.claim.clone()).await;
        assert!(matches!(archive(&place).deliver(&chunk, &Alone).await, Answer::Durable(_)));
        let place = memory::Memory::default();
        plant(&place, &chunk, Bytes::from([chunk.claim.as_ref(), b" "].concat())).await;
        assert!(matches!(archive(&place).deliver(&chunk, &Alone).await, Answer::Paused(_)));
    }

    #[test]
    fn a_torn_object_does_not_unpack() {
        let whole = gzip(&b"{}\n".repeat(1000), 6);
        assert_eq!(lines_of(&whole[..whole.len() - 4]), Lines::Unreadable);
        assert_eq!(lines_of(&b"no gzip"[..]), Lines::Unreadable);
    }
}
