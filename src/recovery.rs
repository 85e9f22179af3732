//! Recovery: an org whose journal is lost, or older than its archive, goes on from the archive's claims and objects.
//!
//! It is done at every start, before the org's first sweep, and decides between three cases. The journal is empty and the archive has
//! claims of this org: everything is put back ([`rebuild`]). The journal holds less than the archive, and what it lacks was written
//! under its own name: an older copy of the state was restored, and goes on from what the archive has. Anything else: the journal is
//! right as it is. It never overwrites or deletes a piece, and never takes what another instance has written for this state's own:
//! that takes a person ([`adopt`]).
//!
//! # Where is the event if we die here
//!
//! 1. While the archive is looked at: nothing has been changed anywhere.
//! 2. After a number without an object was settled with an empty one: the events were in no archive. Their window leaves coverage, so
//!    they are read again from the source; the empty object stays, and the next try meets it.
//! 3. While the state is put back ([`crate::journal::restore`]): in the archive. The org carries a mark, and the next start begins again.
//! 4. After the last step: in the archive, counted in the tally, and, as chunks, before every lane that had not acknowledged them.
//!
//! *Why an unreachable archive keeps an empty org waiting:* begun anew, it would claim numbers that are taken, and would not know what
//! it had delivered. An org with a journal goes on: the lane meets what it does not know, and is fenced.
//!
//! *Why every claim is read:* events without a time lie anywhere, and are compared with every page. *Why objects older than the tally
//! are not:* they are not asked for again; `verify` looks at them.

pub mod adopt;
mod pieces;
mod rebuild;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use crate::chunk::{Claim, Link, claim_key};
use crate::clock::{Clock, Second, Window};
use crate::collect::plan::Policy;
use crate::destination::DestinationName;
use crate::destination::archive::{Obstacle, Store};
use crate::event::OrgId;
use crate::journal::restore::{MARK, Restore};
use crate::journal::{Journal, JournalError, OrgState};
use crate::problem::{PauseReason, Problem};
use crate::report::Party;
use crate::verify::{CLAIM_BYTES_MAX, Reader};

/// How long an org with a journal waits at its start to see whether the archive knows more.
const LOOK_DEADLINE: Duration = Duration::from_secs(5);
/// Windows that leave coverage are remembered one by one up to so many; more become one that holds them all.
const WINDOWS_MAX: usize = 64;

/// An archive as recovery uses it: read, and given an empty object where one never came.
pub trait Place: Reader {
    fn store(&mut self) -> &mut dyn Store;
}

/// An archive of the org, with as many readers as may be at work at once, at least one.
pub struct Source {
    pub name: DestinationName,
    pub readers: Vec<Box<dyn Place>>,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The journal is right as it is.
    Nothing,
    /// The journal has been put back from the archive: it has to be opened anew.
    Recovered,
}

/// Why it could not be done now.
#[derive(Debug)]
pub enum Failed {
    Obstacle(Obstacle),
    Journal(JournalError),
}

impl From<Obstacle> for Failed {
    fn from(obstacle: Obstacle) -> Failed {
        Failed::Obstacle(obstacle)
    }
}

impl From<JournalError> for Failed {
    fn from(error: JournalError) -> Failed {
        Failed::Journal(error)
    }
}

impl From<Failed> for Problem {
    fn from(failed: Failed) -> Problem {
        match failed {
            Failed::Obstacle(Obstacle::Paused(problem)) => problem,
            Failed::Obstacle(Obstacle::Ambiguous(cause) | Obstacle::Throttled { cause, .. }) => Problem {
                reason: PauseReason::Configuration,
                cause,
                remedy: "see that the archive can be reached; it is tried again by itself".into(),
            },
            Failed::Journal(error) => Problem {
                reason: PauseReason::Disk,
                cause: error.to_string(),
                remedy: "repair the state directory's disk, or free space on it; the archive has the events"
                    .into(),
            },
        }
    }
}

/// One org's recovery.
pub struct Recovery<'a> {
    pub org: &'a OrgId,
    /// The configured lanes.
    pub lanes: &'a [DestinationName],
    pub journal: &'a dyn Journal,
    pub policy: &'a Policy,
    pub clock: &'a Clock,
    /// Told how far it is and what it waits for.
    pub party: Option<&'a Party>,
}

/// Where an archive's claims begin and end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Extent {
    first: u64,
    next: u64,
}

/// What is not taken from the archive.
#[derive(Clone, Debug, Default, PartialEq)]
struct Base {
    /// The journal's own chunks before this number and with this link stay. `None`: none does.
    keeps: Option<(u64, Link)>,
    /// Of the journal's own chunks that go: they leave coverage.
    uncover: Vec<Window>,
}

/// What the note [`MARK`] says.
#[derive(Debug, Serialize, Deserialize)]
struct Mark {
    keeps: bool,
    uncover: Vec<(i64, i64)>,
}

impl Mark {
    fn of(base: &Base) -> Mark {
        let mut uncover: Vec<(i64, i64)> = base.uncover.iter().map(|w| (w.from.0, w.until.0)).collect();
        uncover.sort_unstable();
        uncover.dedup();
        if uncover.len() > WINDOWS_MAX {
            let from = uncover.iter().map(|window| window.0).min().unwrap_or_default();
            let until = uncover.iter().map(|window| window.1).max().unwrap_or_default();
            uncover = vec![(from, until)];
        }
        Mark { keeps: base.keeps.is_some(), uncover }
    }

    fn windows(&self) -> Vec<Window> {
        self.uncover.iter().map(|(from, until)| Window::new(Second(*from), Second(*until))).collect()
    }
}

impl Recovery<'_> {
    /// Puts the org's state back if that is called for. `state` is what its journal holds.
    ///
    /// # Errors
    /// What a person has to change; the archive is as it was but for empty objects, and the org must not begin.
    pub async fn run(&self, state: &OrgState, sources: &mut [Source]) -> Result<Outcome, Failed> {
        let mark = self.journal.note(self.org, MARK).await?;
        // Whatever else stands there: everything is put back then.
        let unreadable = || Mark { keeps: false, uncover: Vec::new() };
        let mark: Option<Mark> =
            mark.map(|bytes| serde_json::from_slice(&bytes).unwrap_or_else(|_| unreadable()));
        let is_empty = state.start.is_none() && state.next == 0 && state.coverage.spans().is_empty();
        if mark.is_none() && !is_empty {
            // A journal that knows the archive's end needs nothing; one that cannot ask goes on.
            let found = match timeout(LOOK_DEADLINE, self.behind(state, sources)).await {
                Ok(Ok(found)) => found,
                Ok(Err(Failed::Journal(error))) => return Err(error.into()),
                Ok(Err(Failed::Obstacle(obstacle))) => {
                    tracing::debug!(org = %self.org, cause = ?obstacle, "not known whether the archive knows more than the journal");
                    None
                }
                Err(_) => None,
            };
            let Some((index, extent, base)) = found else { return Ok(Outcome::Nothing) };
            tracing::warn!(
                org = %self.org, chunk = state.next, archived = extent.next,
                "the state directory is older than the archive: going on from the archive"
            );
            return self.put_back(sources, index, extent, base).await;
        }
        let Some((index, extent)) = self.newest(sources).await? else {
            return match mark {
                None => Ok(Outcome::Nothing),
                Some(_) => Err(damaged(
                    "the archive that this org's state was being put back from has no claims any more".into(),
                    "configure the archive again as it was, or restore it",
                )
                .into()),
            };
        };
        let mut base = Base::default();
        if let Some(mark) = &mark {
            base.uncover = mark.windows();
            if mark.keeps {
                let (next, link, _) = self.common(state, &mut sources[index]).await?;
                base.keeps = Some((next, link));
            }
        }
        tracing::warn!(
            org = %self.org, archive = %sources[index].name, chunks = extent.next - extent.first,
            "the journal of this org is empty, and the archive is not: going on from the archive"
        );
        self.put_back(sources, index, extent, base).await
    }

    async fn put_back(
        &self,
        sources: &mut [Source],
        index: usize,
        extent: Extent,
        base: Base,
    ) -> Result<Outcome, Failed> {
        let mut restored = self.rebuild(sources, index, extent, &base, self.journal).await?;
        if base.keeps.is_some() {
            let own = self.journal.open(self.org, self.lanes).await?.checkpoints;
            further(&mut restored.checkpoints, &own);
        }
        let (next, start) = (restored.next, restored.start);
        self.journal.restore(self.org, vec![Restore::Done(restored)]).await?;
        tracing::warn!(
            org = %self.org, chunk = next, start = start.map(|at| at.to_string()),
            "the org goes on from its archive; what was not archived is read again"
        );
        Ok(Outcome::Recovered)
    }

    /// The archive that holds the most of the org's chain.
    async fn newest(&self, sources: &mut [Source]) -> Result<Option<(usize, Extent)>, Failed> {
        let mut newest: Option<(usize, Extent)> = None;
        for (index, source) in sources.iter_mut().enumerate() {
            let Some(extent) = self.extent(source).await? else { continue };
            if newest.is_none_or(|(_, known)| known.next < extent.next) {
                newest = Some((index, extent));
            }
        }
        Ok(newest)
    }

    /// How far the journal's own chunks and the archive's agree: the first number at which they do not, its link, and the bytes of
    /// the archive's claim there, if any.
    async fn common(
        &self,
        state: &OrgState,
        source: &mut Source,
    ) -> Result<(u64, Link, Option<bytes::Bytes>), Failed> {
        let mut number = state.checkpoints.get(&source.name).copied().unwrap_or(0).min(state.next);
        loop {
            let ours = match self.journal.chunk(self.org, number).await? {
                Some(chunk) => Some(chunk),
                None if number < state.next => {
                    number += 1;
                    continue;
                }
                None => None,
            };
            let link = ours.as_ref().map_or(state.link, |chunk| chunk.previous);
            let theirs = self.read(source, &claim_key(self.org, number), CLAIM_BYTES_MAX + 1).await?;
            match (ours, theirs) {
                (Some(ours), Some(theirs)) if ours.claim == theirs => number += 1,
                (_, theirs) => return Ok((number, link, theirs)),
            }
        }
    }

    /// Whether an archive goes on under this state's own name where the journal does not.
    async fn behind(
        &self,
        state: &OrgState,
        sources: &mut [Source],
    ) -> Result<Option<(usize, Extent, Base)>, Failed> {
        let own = |bytes: &[u8]| {
            let claim = serde_json::from_slice::<Claim>(bytes).ok();
            claim.is_some_and(|claim| claim.summary.instance == state.instance)
        };
        let mut found: Option<(usize, Extent, Base)> = None;
        for (index, source) in sources.iter_mut().enumerate() {
            let (number, link, theirs) = self.common(state, source).await?;
            if !theirs.as_deref().is_some_and(own) {
                continue;
            }
            let Some(extent) = self.extent(source).await? else { continue };
            let head = self.read(source, &claim_key(self.org, extent.next - 1), CLAIM_BYTES_MAX + 1).await?;
            if !head.as_deref().is_some_and(own)
                || found.as_ref().is_some_and(|(_, e, _)| e.next >= extent.next)
            {
                continue;
            }
            let uncover = self.windows(number, state.next).await?;
            found = Some((index, extent, Base { keeps: Some((number, link)), uncover }));
        }
        Ok(found)
    }

    /// The windows of the journal's own chunks `from..until`.
    async fn windows(&self, from: u64, until: u64) -> Result<Vec<Window>, Failed> {
        let mut windows: Vec<Window> = Vec::new();
        for number in from..until {
            let Some(chunk) = self.journal.chunk(self.org, number).await? else { continue };
            if windows.last() != Some(&chunk.window) {
                windows.push(chunk.window);
            }
        }
        Ok(windows)
    }
}

/// Lanes have passed what either the archive or the journal's own kept part says: that part leads up to the archive's.
fn further(checkpoints: &mut BTreeMap<DestinationName, u64>, own: &BTreeMap<DestinationName, u64>) {
    for (name, own) in own {
        let checkpoint = checkpoints.entry(*name).or_insert(*own);
        *checkpoint = (*checkpoint).max(*own);
    }
}

/// An archive that cannot be believed.
fn damaged(cause: String, remedy: &str) -> Obstacle {
    Obstacle::Paused(Problem {
        reason: PauseReason::Configuration,
        cause,
        remedy: format!("{remedy}; nothing is collected or sent meanwhile, and the source keeps its events"),
    })
}
