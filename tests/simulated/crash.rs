//! Where a process can die, and a disk can fail: around every call of the journal and every request.
//!
//! A process that is dead does nothing more. So from the moment of the crash every call of it waits for ever, and what it had
//! asked for is done or not, as was drawn; whoever owns the process then ends its tasks ([`super::simulation`]).

#![allow(
    dead_code,
    clippy::allow_attributes,
    clippy::expect_used,
    reason = "two targets include this and each uses another part of it; and in a test a panic is the report"
)]

use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use pulumi_audit_forwarder::chunk::Chunk;
use pulumi_audit_forwarder::clock::Second;
use pulumi_audit_forwarder::destination::{DestinationName, Refusal, RowId};
use pulumi_audit_forwarder::event::OrgId;
use pulumi_audit_forwarder::journal::decision::Decision;
use pulumi_audit_forwarder::journal::restore::Restore;
use pulumi_audit_forwarder::journal::{
    Acknowledge, Append, Journal, JournalError, OrgState, Outstanding, Quarantined, TallyPage, Usage,
};
use tokio::sync::Notify;

/// What a process does that leaves a trace outside of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Call {
    /// A journal's transaction.
    Commit,
    /// Any other call of the journal.
    Look,
    /// A request to anybody.
    Request,
}

/// On which side of the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Before,
    /// It was done; nobody heard of it.
    After,
}

/// One process's fate.
#[derive(Debug, Default)]
pub(crate) struct Fate {
    inner: Mutex<Inner>,
    died: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    /// Which calls count, how many of them pass, and on which side of the next it dies.
    armed: Option<(Option<Call>, u32, Side)>,
    dead: bool,
    /// The next so many commits fail, on this side.
    disk: Option<(u32, Side)>,
    disk_failures: u64,
}

impl Fate {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("nothing panics while it holds the fate")
    }

    /// It dies at a call of this kind (any, if none is named), after so many others of it.
    pub(crate) fn arm(&self, call: Option<Call>, passing: u32, side: Side) {
        self.inner().armed = Some((call, passing, side));
    }

    pub(crate) fn disarm(&self) {
        self.inner().armed = None;
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.inner().dead
    }

    /// The next so many commits fail.
    pub(crate) fn fail_commits(&self, count: u32, side: Side) {
        self.inner().disk = (count > 0).then_some((count, side));
    }

    pub(crate) fn disk_failures(&self) -> u64 {
        self.inner().disk_failures
    }

    /// Ends when it dies.
    pub(crate) async fn death(&self) {
        while !self.is_dead() {
            self.died.notified().await;
        }
    }

    /// Nobody does anything here any more.
    pub(crate) fn die(&self) {
        self.inner().dead = true;
        self.died.notify_one();
    }

    /// Passed by the living only. Before a call it decides whether it is this one.
    pub(crate) async fn pass(&self, call: Call, side: Side) {
        let dies = {
            let mut inner = self.inner();
            if !inner.dead
                && let Some((wanted, passing, at)) = &mut inner.armed
                && wanted.is_none_or(|wanted| wanted == call)
                && *at == side
            {
                if *passing == 0 {
                    inner.armed = None;
                    true
                } else {
                    *passing -= 1;
                    false
                }
            } else {
                inner.dead
            }
        };
        if dies {
            self.die();
            pending::<()>().await;
        }
    }

    fn disk(&self) -> Option<Side> {
        let mut inner = self.inner();
        let (left, side) = inner.disk?;
        inner.disk = (left > 1).then_some((left - 1, side));
        inner.disk_failures += 1;
        Some(side)
    }
}

/// A journal of a process that may die, on a disk that may fail.
pub(crate) struct Mortal {
    pub(crate) journal: Arc<dyn Journal>,
    pub(crate) fate: Arc<Fate>,
}

impl Mortal {
    async fn commit<T>(&self, act: impl Future<Output = Result<T, JournalError>>) -> Result<T, JournalError> {
        self.fate.pass(Call::Commit, Side::Before).await;
        let failure = self.fate.disk();
        let broken = || JournalError::Disk("a failure that the simulation asked for".into());
        if failure == Some(Side::Before) {
            return Err(broken());
        }
        let done = act.await;
        self.fate.pass(Call::Commit, Side::After).await;
        if failure == Some(Side::After) { Err(broken()) } else { done }
    }

    async fn look<T>(&self, act: impl Future<Output = T>) -> T {
        self.fate.pass(Call::Look, Side::Before).await;
        let seen = act.await;
        self.fate.pass(Call::Look, Side::After).await;
        seen
    }
}

#[async_trait]
impl Journal for Mortal {
    async fn open(&self, org: &OrgId, lanes: &[DestinationName]) -> Result<OrgState, JournalError> {
        self.look(self.journal.open(org, lanes)).await
    }

    async fn orgs(&self) -> Result<Vec<OrgId>, JournalError> {
        self.look(self.journal.orgs()).await
    }

    async fn tally(&self, org: &OrgId, from: i64, until: i64) -> Result<Vec<TallyPage>, JournalError> {
        self.look(self.journal.tally(org, from, until)).await
    }

    async fn append(&self, org: &OrgId, append: Append) -> Result<(), JournalError> {
        self.commit(self.journal.append(org, append)).await
    }

    async fn restore(&self, org: &OrgId, steps: Vec<Restore>) -> Result<(), JournalError> {
        self.commit(self.journal.restore(org, steps)).await
    }

    async fn chunk(&self, org: &OrgId, number: u64) -> Result<Option<Chunk>, JournalError> {
        self.look(self.journal.chunk(org, number)).await
    }

    async fn acknowledge(&self, org: &OrgId, acknowledge: Acknowledge) -> Result<(), JournalError> {
        self.commit(self.journal.acknowledge(org, acknowledge)).await
    }

    async fn outstanding(
        &self,
        org: &OrgId,
        destination: DestinationName,
    ) -> Result<Outstanding, JournalError> {
        self.look(self.journal.outstanding(org, destination)).await
    }

    async fn quarantine(
        &self,
        org: &OrgId,
        destination: DestinationName,
        after: Option<RowId>,
        limit: u32,
    ) -> Result<Vec<Quarantined>, JournalError> {
        self.look(self.journal.quarantine(org, destination, after, limit)).await
    }

    async fn provisional(
        &self,
        org: &OrgId,
        destination: DestinationName,
    ) -> Result<Vec<Refusal>, JournalError> {
        self.look(self.journal.provisional(org, destination)).await
    }

    async fn decide(&self, org: &OrgId, decision: Decision) -> Result<u64, JournalError> {
        self.commit(self.journal.decide(org, decision)).await
    }

    async fn decisions(&self, org: &OrgId, limit: u32) -> Result<Vec<Decision>, JournalError> {
        self.look(self.journal.decisions(org, limit)).await
    }

    async fn usage(&self, org: &OrgId) -> Result<Usage, JournalError> {
        self.look(self.journal.usage(org)).await
    }

    async fn prune(&self, org: &OrgId, before: Second, bytes_max: u64) -> Result<u64, JournalError> {
        self.commit(self.journal.prune(org, before, bytes_max)).await
    }

    async fn note(&self, org: &OrgId, name: &str) -> Result<Option<Vec<u8>>, JournalError> {
        self.look(self.journal.note(org, name)).await
    }

    async fn set_note(&self, org: &OrgId, name: &str, value: Option<Vec<u8>>) -> Result<(), JournalError> {
        self.commit(self.journal.set_note(org, name, value)).await
    }
}
