//! A journal that counts and times its two transactions.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::time::Instant;

use super::decision::Decision;
use super::restore::Restore;
use super::{
    Acknowledge, Append, Journal, JournalError, OrgState, Outstanding, Quarantined, TallyPage, Usage,
};
use crate::chunk::Chunk;
use crate::clock::Second;
use crate::destination::{DestinationName, Refusal, RowId};
use crate::event::OrgId;
use crate::metrics::Metrics;

/// Any journal, with `state_commits_total` and `state_commit_duration_seconds`.
pub struct Measured {
    journal: Arc<dyn Journal>,
    metrics: Metrics,
}

impl Measured {
    pub fn new(journal: Arc<dyn Journal>, metrics: Metrics) -> Measured {
        Measured { journal, metrics }
    }

    fn count<T>(&self, kind: &str, begun: Instant, result: &Result<T, JournalError>) {
        // A conflict is an answer, not a failure of the store.
        let ok = matches!(result, Ok(_) | Err(JournalError::Conflict(_)));
        self.metrics.state_commit(kind, ok, begun.elapsed().as_secs_f64());
    }
}

#[async_trait]
impl Journal for Measured {
    async fn open(&self, org: &OrgId, lanes: &[DestinationName]) -> Result<OrgState, JournalError> {
        self.journal.open(org, lanes).await
    }

    async fn orgs(&self) -> Result<Vec<OrgId>, JournalError> {
        self.journal.orgs().await
    }

    async fn tally(&self, org: &OrgId, from: i64, until: i64) -> Result<Vec<TallyPage>, JournalError> {
        self.journal.tally(org, from, until).await
    }

    async fn append(&self, org: &OrgId, append: Append) -> Result<(), JournalError> {
        let begun = Instant::now();
        let result = self.journal.append(org, append).await;
        self.count("append", begun, &result);
        result
    }

    async fn chunk(&self, org: &OrgId, number: u64) -> Result<Option<Chunk>, JournalError> {
        self.journal.chunk(org, number).await
    }

    async fn acknowledge(&self, org: &OrgId, acknowledge: Acknowledge) -> Result<(), JournalError> {
        let begun = Instant::now();
        let result = self.journal.acknowledge(org, acknowledge).await;
        self.count("acknowledge", begun, &result);
        result
    }

    async fn outstanding(
        &self,
        org: &OrgId,
        destination: DestinationName,
    ) -> Result<Outstanding, JournalError> {
        self.journal.outstanding(org, destination).await
    }

    async fn quarantine(
        &self,
        org: &OrgId,
        destination: DestinationName,
        after: Option<RowId>,
        limit: u32,
    ) -> Result<Vec<Quarantined>, JournalError> {
        self.journal.quarantine(org, destination, after, limit).await
    }

    async fn provisional(
        &self,
        org: &OrgId,
        destination: DestinationName,
    ) -> Result<Vec<Refusal>, JournalError> {
        self.journal.provisional(org, destination).await
    }

    async fn decide(&self, org: &OrgId, decision: Decision) -> Result<u64, JournalError> {
        self.journal.decide(org, decision).await
    }

    async fn decisions(&self, org: &OrgId, limit: u32) -> Result<Vec<Decision>, JournalError> {
        self.journal.decisions(org, limit).await
    }

    async fn restore(&self, org: &OrgId, steps: Vec<Restore>) -> Result<(), JournalError> {
        self.journal.restore(org, steps).await
    }

    async fn usage(&self, org: &OrgId) -> Result<Usage, JournalError> {
        self.journal.usage(org).await
    }

    async fn prune(&self, org: &OrgId, before: Second, bytes_max: u64) -> Result<u64, JournalError> {
        self.journal.prune(org, before, bytes_max).await
    }

    async fn note(&self, org: &OrgId, name: &str) -> Result<Option<Vec<u8>>, JournalError> {
        self.journal.note(org, name).await
    }

    async fn set_note(&self, org: &OrgId, name: &str, value: Option<Vec<u8>>) -> Result<(), JournalError> {
        self.journal.set_note(org, name, value).await
    }
}
