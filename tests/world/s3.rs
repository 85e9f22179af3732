//! S3: a real server, with faults in front of it, and a way to read what is really stored.

pub mod giver;
pub mod memory;
pub mod moto;
pub mod proxy;
pub mod reader;
pub mod seaweed;

use std::sync::Arc;

use super::chance::Chance;
use super::clock::WorldClock;
use super::script::Times;
use super::server::Server;
use super::verdict::Cut;
use proxy::{Fault, Proxy, Scope};
use reader::Bucket;

/// What stands behind the faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// SeaweedFS.
    Plain,
    /// SeaweedFS, and the bucket has Object Lock.
    Locking,
    /// moto, which takes any key of KMS and any signature.
    Moto,
}

/// One test's bucket and its own faults; the server behind is shared.
pub struct S3 {
    pub proxy: Arc<Proxy>,
    server: Server,
    /// Past the faults.
    pub bucket: Bucket,
}

impl S3 {
    pub async fn start(clock: WorldClock, kind: Kind) -> Self {
        let address = match kind {
            Kind::Plain | Kind::Locking => seaweed::shared().await.address,
            Kind::Moto => moto::shared().await.address,
        };
        let direct = format!("http://{address}");
        let unlike_others = Chance::seeded(u64::from(std::process::id()) ^ unique()).hex(8);
        let name = format!("audit-{}-{unlike_others}", std::process::id());
        let bucket = Bucket::create(&direct, &name, kind == Kind::Locking).await;
        let proxy = Arc::new(Proxy::new(address, clock));
        let server = Server::start(Arc::clone(&proxy), None).await;
        Self { proxy, server, bucket }
    }

    /// What the forwarder is told, faults included.
    pub fn endpoint(&self) -> String {
        self.server.url()
    }

    /// The bucket as the forwarder sees it.
    pub fn through_the_faults(&self) -> Bucket {
        self.bucket.through(&self.endpoint())
    }

    pub fn fault(&self, scope: Scope, fault: Fault, times: Times) {
        self.proxy.fault(scope, fault, times);
    }

    /// The next so many puts are stored, and their replies lost.
    pub fn loses_replies(&self, count: u32) {
        self.proxy.fault(Scope::puts(""), Fault::ReplyLost(Cut::Close), Times::Next(count));
    }

    /// The next so many puts meet a conflict that decides nothing.
    pub fn conflicts(&self, count: u32) {
        self.proxy.fault(Scope::puts(""), Fault::conflict(), Times::Next(count));
    }

    pub fn recovers(&self) {
        self.proxy.clear_faults();
    }

    /// What stands on the port.
    pub fn server(&self) -> &Server {
        &self.server
    }

    pub async fn goes_away(&self) {
        self.server.goes_away().await;
    }

    pub fn comes_back(&self) {
        self.server.comes_back();
    }
}

/// Counts the buckets of this process.
fn unique() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static BUCKETS: AtomicU64 = AtomicU64::new(1);
    BUCKETS.fetch_add(1, Ordering::Relaxed) << 32
}
