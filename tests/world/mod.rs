//! The world around the forwarder, on loopback: Pulumi Cloud, Entra ID, Azure's log ingestion, and S3.
//!
//! Each service is a plain struct that decides in code without IO and keeps a ledger of every request; [`server`] puts it on a
//! port. A test that turns time itself uses the structs directly. Nothing here uses the forwarder's code: it is what the
//! forwarder is judged by.
//!
//! ```ignore
//! let world = World::start().await;
//! world.pulumi().org("acme").add(Generator::seeded(1).background(from, until, 60.0));
//! let config = world.write_config(&[OrgSetup::new("acme").with_sentinel()], "");
//! // … run the forwarder …
//! world.check_sentinel("acme").assert_complete();
//! ```

#![allow(
    dead_code,
    unreachable_pub,
    clippy::allow_attributes,
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::len_without_is_empty,
    reason = "several targets include this module and each uses another part of it, so `expect` would be unfulfilled in some; \
              and in a test a panic is the report"
)]

pub mod certificates;
pub mod chance;
pub mod clock;
pub mod daemon;
pub mod entra;
pub mod ingestion;
pub mod ledger;
pub mod lexemes;
pub mod pulumi;
pub mod query;
pub mod s3;
pub mod script;
pub mod server;
pub mod setup;
pub mod truth;
pub mod tunnel;
pub mod verdict;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use certificates::{Certificates, Leaf};
use clock::WorldClock;
use entra::Entra;
use ingestion::Ingestion;
use pulumi::Pulumi;
use pulumi::behaviour::Behaviour;
use pulumi::events::Generator;
use s3::S3;
use server::Server;
use setup::{CLIENT_ID, CLIENT_SECRET, OrgSetup, PREFIX, Paths, TENANT, rule_of};
use truth::archive::Archive;
use truth::{Expect, Report, Source};

/// What the world is made of.
pub struct Builder {
    orgs: Vec<String>,
    behaviour: Behaviour,
    clock: WorldClock,
    seed: u64,
    s3: Option<s3::Kind>,
    events: usize,
    certificate: Leaf,
    directory: Option<PathBuf>,
}

impl Builder {
    /// Orgs in place of the one called `acme`.
    pub fn orgs(mut self, orgs: &[&str]) -> Self {
        self.orgs = orgs.iter().map(|org| (*org).to_owned()).collect();
        self
    }

    pub fn behaviour(mut self, behaviour: Behaviour) -> Self {
        self.behaviour = behaviour;
        self
    }

    pub fn clock(mut self, clock: WorldClock) -> Self {
        self.clock = clock;
        self
    }

    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// With an S3 server, which takes a few seconds to start once per process.
    pub fn with_s3(self) -> Self {
        self.with_s3_of(s3::Kind::Plain)
    }

    pub fn with_s3_of(mut self, kind: s3::Kind) -> Self {
        self.s3 = Some(kind);
        self
    }

    /// Each org begins with so many events, spread over the last hour.
    pub fn events(mut self, count: usize) -> Self {
        self.events = count;
        self
    }

    /// What the TLS listeners show.
    pub fn certificate(mut self, leaf: Leaf) -> Self {
        self.certificate = leaf;
        self
    }

    /// A directory that stays, in place of one that goes with the world.
    pub fn directory(mut self, directory: &Path) -> Self {
        self.directory = Some(directory.to_path_buf());
        self
    }

    pub async fn start(self) -> World {
        let temporary =
            self.directory.is_none().then(|| tempfile::tempdir().expect("a directory can be made"));
        let root = match (&self.directory, &temporary) {
            (Some(directory), _) => directory.clone(),
            (None, Some(temporary)) => temporary.path().to_path_buf(),
            (None, None) => unreachable!("one of the two is there"),
        };
        let paths = Paths::below(&root);
        let certificates = Certificates::create(&root);
        let tls = || Some(certificates.server(self.certificate));

        let pulumi = Arc::new(Pulumi::new(self.clock.clone(), self.seed));
        let entra = Arc::new(Entra::new(self.clock.clone(), self.seed));
        let ingestion = Arc::new(Ingestion::new(self.clock.clone(), entra.book.clone(), self.seed));
        entra.register(TENANT, CLIENT_ID, CLIENT_SECRET);
        let now = self.clock.now();
        for (number, org) in self.orgs.iter().enumerate() {
            pulumi.found(org, self.behaviour.clone());
            ingestion.create_rule(&rule_of(org));
            let events =
                Generator::seeded(self.seed + number as u64).spread(now - 3600, now - 1, self.events);
            pulumi.org(org).add(events);
        }
        World {
            pulumi_http: Server::start(Arc::clone(&pulumi), None).await,
            pulumi_tls: Server::start(Arc::clone(&pulumi), tls()).await,
            entra_tls: Server::start(Arc::clone(&entra), tls()).await,
            entra_http: Server::start(Arc::clone(&entra), None).await,
            ingestion_http: Server::start(Arc::clone(&ingestion), None).await,
            ingestion_tls: Server::start(Arc::clone(&ingestion), tls()).await,
            s3: match self.s3 {
                Some(kind) => Some(S3::start(self.clock.clone(), kind).await),
                None => None,
            },
            pulumi,
            entra,
            ingestion,
            clock: self.clock,
            certificates,
            paths,
            _temporary: temporary,
        }
    }
}

/// Every service, up and running.
pub struct World {
    pulumi: Arc<Pulumi>,
    entra: Arc<Entra>,
    ingestion: Arc<Ingestion>,
    s3: Option<S3>,
    pulumi_http: Server,
    pulumi_tls: Server,
    entra_tls: Server,
    entra_http: Server,
    ingestion_http: Server,
    ingestion_tls: Server,
    pub clock: WorldClock,
    certificates: Certificates,
    pub paths: Paths,
    _temporary: Option<tempfile::TempDir>,
}

impl World {
    /// One org called `acme`, Azure, and no S3.
    pub async fn start() -> Self {
        Self::builder().start().await
    }

    /// The same, with so many events in the last hour.
    pub async fn with_events(count: usize) -> Self {
        Self::builder().events(count).start().await
    }

    pub fn builder() -> Builder {
        Builder {
            orgs: vec!["acme".to_owned()],
            behaviour: Behaviour::default(),
            clock: WorldClock::system(),
            seed: 1,
            s3: None,
            events: 0,
            certificate: Leaf::Good,
            directory: None,
        }
    }

    pub fn pulumi(&self) -> &Pulumi {
        &self.pulumi
    }

    pub fn entra(&self) -> &Entra {
        &self.entra
    }

    pub fn ingestion(&self) -> &Ingestion {
        &self.ingestion
    }

    pub fn s3(&self) -> &S3 {
        self.s3.as_ref().expect("the world was built without S3: add `with_s3()`")
    }

    /// Azure as a whole, for tests that speak of nothing finer.
    pub fn azure(&self) -> Azure<'_> {
        Azure { world: self }
    }

    /// Pulumi's servers go away; [`World::pulumi_comes_back`] ends it.
    pub async fn pulumi_goes_away(&self) {
        self.pulumi_http.goes_away().await;
        self.pulumi_tls.goes_away().await;
    }

    pub fn pulumi_comes_back(&self) {
        self.pulumi_http.comes_back();
        self.pulumi_tls.comes_back();
    }

    /// One more org, founded while the world runs.
    pub fn found(&self, org: &str, behaviour: Behaviour) {
        self.pulumi.found(org, behaviour);
        self.ingestion.create_rule(&rule_of(org));
    }

    pub fn pulumi_url(&self) -> String {
        self.pulumi_http.url()
    }

    pub fn pulumi_tls_url(&self) -> String {
        self.pulumi_tls.url()
    }

    /// Pulumi behind TLS of another kind, as somebody hosts it alone.
    pub async fn pulumi_behind(&self, config: Arc<rustls::ServerConfig>) -> Server {
        Server::start(Arc::clone(&self.pulumi), Some(config)).await
    }

    pub fn entra_url(&self) -> String {
        self.entra_tls.url()
    }

    /// For `IDENTITY_ENDPOINT`, with [`Entra::identity_header`] for `IDENTITY_HEADER`.
    pub fn managed_identity_url(&self) -> String {
        format!("{}/msi/token", self.entra_http.url())
    }

    pub fn ingestion_url(&self) -> String {
        self.ingestion_http.url()
    }

    pub fn ingestion_tls_url(&self) -> String {
        self.ingestion_tls.url()
    }

    pub fn ca_pem(&self) -> &Path {
        &self.certificates.ca_pem
    }

    pub fn certificates(&self) -> &Certificates {
        &self.certificates
    }

    /// Writes the forwarder's configuration; `more` is appended to `forwarder.toml`. Answers the path for `--config`.
    pub fn write_config(&self, orgs: &[OrgSetup], more: &str) -> PathBuf {
        setup::write_config(self, orgs, more)
    }

    pub fn write_org(&self, org: &OrgSetup) {
        setup::write_org(self, org);
    }

    /// All that the source knows of an org, for the checker.
    pub fn source(&self, org: &str) -> Source {
        let handle = self.pulumi.org(org);
        Source { events: handle.truth(), shown: handle.shown() }
    }

    fn now_due(&self) -> Expect {
        Expect { as_of: self.clock.now(), ..Expect::default() }
    }

    pub async fn archive(&self) -> Archive {
        Archive::of_bucket(&self.s3().bucket, PREFIX).await
    }

    /// Checks everything that is due by now; the id and the name of the org are the same.
    pub async fn check_s3(&self, org: &str) -> Report {
        self.check_s3_with(org, org, &self.now_due()).await
    }

    pub async fn check_s3_with(&self, id: &str, org: &str, expect: &Expect) -> Report {
        self.archive().await.check("s3", id, &self.source(org), expect)
    }

    pub fn check_file(&self, org: &str) -> Report {
        self.check_file_with(org, org, &self.now_due())
    }

    pub fn check_file_with(&self, id: &str, org: &str, expect: &Expect) -> Report {
        Archive::of_directory(&self.paths.archive_of(id)).check("file", id, &self.source(org), expect)
    }

    pub fn check_sentinel(&self, org: &str) -> Report {
        self.check_sentinel_with(org, &self.now_due())
    }

    pub fn check_sentinel_with(&self, org: &str, expect: &Expect) -> Report {
        let rows = self.ingestion.rows_of_rule(&rule_of(org));
        truth::table::check(&rows, org, &self.source(org), self.clock.now(), expect)
    }

    /// Rows stored for an org, copies included.
    pub fn rows(&self, org: &str) -> Vec<ingestion::rows::Row> {
        self.ingestion.rows_of_rule(&rule_of(org))
    }
}

/// Entra ID and the ingestion endpoint together.
pub struct Azure<'a> {
    world: &'a World,
}

impl Azure<'_> {
    /// Connections to the ingestion endpoint are refused.
    pub async fn goes_away(&self) {
        self.world.ingestion_http.goes_away().await;
        self.world.ingestion_tls.goes_away().await;
    }

    pub fn comes_back(&self) {
        self.world.ingestion_http.comes_back();
        self.world.ingestion_tls.comes_back();
    }

    pub async fn identity_goes_away(&self) {
        self.world.entra_tls.goes_away().await;
        self.world.entra_http.goes_away().await;
    }

    pub fn identity_comes_back(&self) {
        self.world.entra_tls.comes_back();
        self.world.entra_http.comes_back();
    }

    pub fn denies_the_role(&self) {
        self.world.ingestion.denies_the_role();
    }

    pub fn grants_the_role(&self) {
        self.world.ingestion.grants_the_role();
    }

    /// The next so many uploads are stored, and their answers lost.
    pub fn loses_answers(&self, count: u32) {
        self.world
            .ingestion
            .fault(ingestion::Fault::AnswerLost(verdict::Cut::Close), script::Times::Next(count));
    }

    /// From now on only this client secret works.
    pub fn rotate_secret(&self, secret: &str) {
        self.world.entra.rotate_secret(TENANT, CLIENT_ID, secret);
        self.world.entra.book.revoke_all();
    }
}
