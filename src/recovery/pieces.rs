//! The pieces of an archive as recovery reads and settles them: patiently, and several at once.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use tokio::time::sleep;

use super::{Extent, Failed, Place, Recovery, Source, damaged};
use crate::chunk::{CHUNK_LINES_BYTES_MAX, Chunk, claim_key};
use crate::clock::whole_seconds;
use crate::destination::DestinationName;
use crate::destination::archive::{Creation, Lines, Obstacle, Piece, Store, lines_of};
use crate::event::hex;
use crate::problem::WaitReason;
use crate::retry;
use crate::verify::number;

/// Longest wait between two tries of one request.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// What became of a number without an object.
pub(super) enum Settled {
    /// Its events were found after all: the object's bytes.
    Whole(Bytes),
    /// It is settled without events.
    Void,
}

impl Recovery<'_> {
    /// Where an archive's claims begin and end. Listings may be behind, so both ends are probed until a claim is absent.
    pub(super) async fn extent(&self, source: &mut Source) -> Result<Option<Extent>, Failed> {
        let below = format!("_chain/org={}/", self.org);
        let mut ends: Option<Extent> = None;
        source.readers[0].list(&below);
        loop {
            let keys = self.more(&mut *source.readers[0]).await?;
            if keys.is_empty() {
                break;
            }
            for key in keys {
                let name = key.strip_prefix(&below).and_then(|name| name.strip_suffix(".json"));
                let Some(number) = name.and_then(number) else { continue };
                let known = ends.unwrap_or(Extent { first: number, next: number + 1 });
                ends = Some(Extent { first: known.first.min(number), next: known.next.max(number + 1) });
            }
        }
        let mut ends = ends.unwrap_or(Extent { first: 0, next: 0 });
        while self.is_claimed(source, ends.next).await? {
            ends.next += 1;
        }
        while ends.first > 0 && self.is_claimed(source, ends.first - 1).await? {
            ends.first -= 1;
        }
        Ok((ends.first < ends.next).then_some(ends))
    }

    async fn is_claimed(&self, source: &mut Source, number: u64) -> Result<bool, Failed> {
        Ok(self.read(source, &claim_key(self.org, number), 1).await?.is_some())
    }

    /// The first bytes under a key.
    pub(super) async fn read(
        &self,
        source: &mut Source,
        key: &str,
        bytes_max: usize,
    ) -> Result<Option<Bytes>, Failed> {
        self.read_with(&mut *source.readers[0], key, bytes_max).await
    }

    /// The bytes under at most as many keys as there are readers.
    pub(super) async fn read_all(
        &self,
        source: &mut Source,
        keys: &[String],
        bytes_max: usize,
    ) -> Result<Vec<Option<Bytes>>, Failed> {
        let reading = source.readers.iter_mut().zip(keys);
        let all = join_all(reading.map(|(reader, key)| self.read_with(&mut **reader, key, bytes_max))).await;
        all.into_iter().collect()
    }

    async fn read_with(
        &self,
        reader: &mut dyn Place,
        key: &str,
        bytes_max: usize,
    ) -> Result<Option<Bytes>, Failed> {
        let mut failures = 0;
        loop {
            match reader.read(key, bytes_max).await {
                Ok(bytes) => return Ok(bytes),
                Err(obstacle) => self.wait(obstacle, &mut failures).await?,
            }
        }
    }

    async fn more(&self, reader: &mut dyn Place) -> Result<Vec<String>, Failed> {
        let mut failures = 0;
        loop {
            match reader.more().await {
                Ok(keys) => return Ok(keys),
                Err(obstacle) => self.wait(obstacle, &mut failures).await?,
            }
        }
    }

    async fn create(
        &self,
        store: &mut dyn Store,
        key: &str,
        body: &Bytes,
        piece: Piece<'_>,
    ) -> Result<Creation, Failed> {
        let mut failures = 0;
        loop {
            match store.create(key, body, piece).await {
                Ok(creation) => return Ok(creation),
                Err(obstacle) => self.wait(obstacle, &mut failures).await?,
            }
        }
    }

    /// Waits for what may go better the next time; what needs a person is handed on.
    async fn wait(&self, obstacle: Obstacle, failures: &mut u32) -> Result<(), Failed> {
        *failures += 1;
        let backoff = retry::backoff(*failures, fastrand::f64()).min(WAIT_MAX);
        let (wait, cause, reason) = match obstacle {
            Obstacle::Paused(_) => return Err(obstacle.into()),
            Obstacle::Ambiguous(cause) => (backoff, cause, WaitReason::Backoff),
            Obstacle::Throttled { wait, cause } => (wait.unwrap_or(backoff), cause, WaitReason::Throttled),
        };
        if let Some(party) = self.party {
            let cause = format!("recovery from the archive: {cause}");
            party.waiting(reason, Some(self.clock.now().saturating_add(whole_seconds(wait))), &cause);
        }
        sleep(wait).await;
        Ok(())
    }

    /// Settles a number whose object is not there: with the object of another archive, else with an empty one. Whichever was
    /// created first decides, so a writer that wakes up late cannot add events that were read again since.
    pub(super) async fn settle(
        &self,
        sources: &mut [Source],
        index: usize,
        chunk: Chunk,
        is_newest: bool,
    ) -> Result<Settled, Failed> {
        let (key, number) = (chunk.object_key(), chunk.number);
        let bytes_max = usize::try_from(CHUNK_LINES_BYTES_MAX).unwrap_or(usize::MAX);
        for (other, source) in sources.iter_mut().enumerate() {
            if other == index {
                continue;
            }
            let Some(body) = self.read(source, &key, bytes_max).await? else { continue };
            if lines_of(body.as_ref()) == Lines::Sha256(hex(&chunk.sha256)) {
                let from = source.name;
                let store = sources[index].readers[0].store();
                self.create(store, &key, &body, Piece::Object(&chunk)).await?;
                tracing::warn!(org = %self.org, chunk = number, archive = %from, "an object was missing, and is there again from another archive");
                return self.settled(&mut sources[index], &key, bytes_max).await;
            }
        }
        let window = chunk.window;
        let void = chunk.void();
        let store = sources[index].readers[0].store();
        self.create(store, &key, &void.body, Piece::Object(&void)).await?;
        let settled = self.settled(&mut sources[index], &key, bytes_max).await?;
        let archive: DestinationName = sources[index].name;
        match &settled {
            Settled::Whole(_) => {}
            Settled::Void if is_newest => tracing::warn!(
                org = %self.org, %archive, chunk = number, window = %window,
                "a claim's object had not been written: its number stays empty, and its window is read again"
            ),
            Settled::Void => tracing::error!(
                org = %self.org, %archive, chunk = number, window = %window,
                "an object is missing from the archive although later ones were written: somebody removed it. Its number stays empty, \
                 and its window is read again as far as the source still has it; restore the object from a copy if there is one"
            ),
        }
        Ok(settled)
    }

    /// What stands under a key that has just been created or was found taken.
    async fn settled(&self, source: &mut Source, key: &str, bytes_max: usize) -> Result<Settled, Failed> {
        let Some(body) = self.read(source, key, bytes_max).await? else {
            let located = source.readers[0].locate(key);
            return Err(Obstacle::Ambiguous(format!("{located} exists and is absent")).into());
        };
        match lines_of(body.as_ref()) {
            Lines::Sha256(lines) if lines == NO_LINES => Ok(Settled::Void),
            Lines::Sha256(_) => Ok(Settled::Whole(body)),
            Lines::Unreadable => {
                let located = source.readers[0].locate(key);
                Err(damaged(
                    format!("{located} does not unpack"),
                    "put back a former version of it, or remove it: its window is then read again",
                )
                .into())
            }
        }
    }
}

/// SHA-256 of nothing.
const NO_LINES: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
