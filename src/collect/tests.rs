//! A collector that waits is heard of, and one that has stopped is not.

use std::os::unix::fs::PermissionsExt;

use async_trait::async_trait;
use bytes::Bytes;
use http::HeaderMap;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::config::settings::SourceCredentials;
use crate::destination::DestinationName;
use crate::http::{Failure, Request, Response, Transport};
use crate::journal::memory::MemoryJournal;
use crate::metrics::Metrics;
use crate::pulumi::budget::HostBudgets;
use crate::pulumi::exchange::Exchanges;
use crate::report::Reports;
use crate::report::tests::settings;
use crate::secret::{Place, SecretSource};

/// What the service does with every request.
#[derive(Clone, Copy)]
enum Service {
    Answers(u16),
    IsAway,
    /// Nothing bounds the wait for it: a defect, which no service can bring about.
    NeverEnds,
}

#[async_trait]
impl Transport for Service {
    async fn send(&self, _: Request) -> Result<Response, Failure> {
        match self {
            Service::Answers(status) => {
                Ok(Response { status: *status, headers: HeaderMap::new(), body: Bytes::from_static(b"{}") })
            }
            Service::IsAway => Err(Failure::Timeout(Duration::from_secs(60))),
            Service::NeverEnds => std::future::pending().await,
        }
    }
}

/// Whether the collector was stalled at any minute of so many hours.
async fn stalls(service: Service, hours: u64) -> bool {
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "pul-0123456789abcdef0123456789abcdef01234567").unwrap();
    std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o600)).unwrap();
    let mut org = settings("acme", "acme-corp", &[DestinationName::File]);
    let token = SecretSource { place: Place::File(token), group_may_read: false };
    org.source.credentials = SourceCredentials::Stored { token, next_token: None };
    let org = Arc::new(org);
    let clock = Clock::system();
    let reports = Reports::new(Metrics::new("0", "test"), clock.clone());
    let report = reports.org(&org);
    let journal = Arc::new(MemoryJournal::new());
    let state = journal.open(&org.id, &org.destinations()).await.unwrap();
    let (hosts, exchanges) = (HostBudgets::default(), Exchanges::default());
    let mut client =
        Client::new(&org, Arc::new(service), &hosts, &exchanges, clock.clone(), report.metrics());
    client.reports_to(report.source().clone());
    let collector = Collector::new(Parts {
        settings: org,
        phase: 0,
        client,
        journal,
        journal_bytes_max: Arc::new(u64::MAX.into()),
        checkpoints: Arc::new(Checkpoints::new(&state.checkpoints)),
        state,
        journaled: watch::channel(Journaled::default()).0,
        metrics: report.metrics(),
        report,
        clock,
        secrets_changed: watch::Sender::default().subscribe(),
    });
    let (_leash, stop) = Stop::of(&CancellationToken::new());
    let running = tokio::spawn(collector.run(Until::Stopped, stop));
    let mut stalled = false;
    for _ in 0..hours * 60 {
        sleep(Duration::from_secs(60)).await;
        stalled |= !reports.liveness().stalled().is_empty();
    }
    assert!(!running.is_finished());
    running.abort();
    assert!(running.await.is_err());
    assert!(reports.liveness().stalled().is_empty(), "what has ended is not stalled");
    stalled
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_for_a_service_or_a_person_is_not_stalled_and_whoever_waits_for_nothing_is() {
    for status in [200, 401, 403, 404, 429, 500] {
        assert!(!stalls(Service::Answers(status), 4).await, "{status}");
    }
    assert!(!stalls(Service::IsAway, 4).await);
    assert!(stalls(Service::NeverEnds, 1).await);
}
