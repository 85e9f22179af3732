//! A forwarder and its world on one clock: started, stopped and killed like a process, over the same journal.

#![allow(
    dead_code,
    clippy::allow_attributes,
    clippy::expect_used,
    reason = "two targets include this and each uses another part of it; and in a test a panic is the report"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use bytes::Bytes;
use pulumi_audit_forwarder::clock::{Clock, Second};
use pulumi_audit_forwarder::collect::Until;
use pulumi_audit_forwarder::config;
use pulumi_audit_forwarder::config::settings::Settings;
use pulumi_audit_forwarder::coverage::Coverage;
use pulumi_audit_forwarder::destination::DestinationName;
use pulumi_audit_forwarder::destination::s3::client::Connections;
use pulumi_audit_forwarder::destination::sentinel::credential::Credentials;
use pulumi_audit_forwarder::event::OrgId;
use pulumi_audit_forwarder::fleet::{Changes, Fleet};
use pulumi_audit_forwarder::http::Transport;
use pulumi_audit_forwarder::journal::memory::MemoryJournal;
use pulumi_audit_forwarder::journal::{Append, Journal, OrgState, WindowRecord};
use pulumi_audit_forwarder::metrics::Metrics;
use pulumi_audit_forwarder::org::{Connect, Shared};
use pulumi_audit_forwarder::pulumi::budget::HostBudgets;
use pulumi_audit_forwarder::pulumi::environment::Environments;
use pulumi_audit_forwarder::pulumi::exchange::Exchanges;
use pulumi_audit_forwarder::report::Reports;
use pulumi_audit_forwarder::report::status::{LaneStatus, OrgStatus};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::crash::{Fate, Mortal};
use super::sdk;
use super::wire::{AZURE, ENTRA, Line, PULUMI, S3, Wire};
use crate::world::clock::{WorldClock, rfc3339};
use crate::world::entra::Entra;
use crate::world::ingestion::Ingestion;
use crate::world::pulumi::behaviour::{Behaviour, Gzip};
use crate::world::pulumi::events::Event;
use crate::world::pulumi::{OrgHandle, Pulumi};
use crate::world::s3::memory::Memory;
use crate::world::setup::{ACCESS_KEY, CLIENT_ID, CLIENT_SECRET, Paths, SECRET_KEY, TENANT, rule_of};
use crate::world::truth::archive::Archive;
use crate::world::truth::{Expect, Report, Source, table};

/// 2026-11-21T00:00:00Z, when every simulation begins.
pub(crate) const BEGIN: i64 = 1_795_219_200;
pub(crate) const MINUTE: i64 = 60;
pub(crate) const HOUR: i64 = 3_600;
pub(crate) const DAY: i64 = 86_400;
/// A drawn token, secret or archive needs a second or two to be seen and a request to be made.
pub(crate) const SOON: i64 = 10;

/// How one org is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Setup {
    /// Pulumi's name of the organization, where it is not the id.
    pub(crate) org: Option<String>,
    /// `now` or an RFC 3339 time.
    pub(crate) start: String,
    pub(crate) api: &'static str,
    pub(crate) sentinel: bool,
    pub(crate) s3: bool,
    pub(crate) file: bool,
    /// More lines of `[source]`.
    pub(crate) source: String,
    /// `oidc` of `[source]`, in place of a token.
    pub(crate) oidc: Option<String>,
    /// Where the client secret of `[sentinel]` is, if not in a file.
    pub(crate) client_secret: Option<String>,
    /// More keys of `identity` of `[sentinel]`, each after a comma.
    pub(crate) identity: String,
    /// More lines of `[s3]`.
    pub(crate) bucket: String,
}

impl Setup {
    pub(crate) fn destinations(&self) -> Vec<DestinationName> {
        let configured = [
            (self.sentinel, DestinationName::Sentinel),
            (self.s3, DestinationName::S3),
            (self.file, DestinationName::File),
        ];
        configured.into_iter().filter(|(configured, _)| *configured).map(|(_, name)| name).collect()
    }

    fn new() -> Setup {
        Setup {
            org: None,
            start: rfc3339(BEGIN),
            api: PULUMI,
            sentinel: false,
            s3: false,
            file: true,
            source: String::new(),
            oidc: None,
            client_secret: None,
            identity: String::new(),
            bucket: String::new(),
        }
    }
}

pub(crate) struct Simulation {
    pub(crate) pulumi: Arc<Pulumi>,
    pub(crate) entra: Arc<Entra>,
    pub(crate) azure: Arc<Ingestion>,
    pub(crate) store: Arc<Memory>,
    pub(crate) wire: Arc<Wire>,
    pub(crate) journal: Arc<MemoryJournal>,
    pub(crate) setups: BTreeMap<String, Setup>,
    /// `max_bytes_per_org`.
    pub(crate) journal_bytes_max: u64,
    /// How far this machine's clock is ahead of the truth, in seconds.
    pub(crate) local_clock_ahead: i64,
    begun: Instant,
    /// What Pulumi has called an org since it was renamed, the newest last.
    names: BTreeMap<String, Vec<String>>,
    paths: Paths,
    process: Option<Process>,
    /// Another process that somebody has started by mistake, with a journal of its own.
    second: Option<Process>,
    _folder: TempDir,
}

struct Process {
    stop: CancellationToken,
    fleet: Fleet,
    reports: Reports,
    shared: Arc<Shared>,
    fate: Arc<Fate>,
}

/// Where the archive of an org is in the bucket.
const BUCKET: &str = "audit";
pub(crate) const PREFIX: &str = "pulumi";

impl Simulation {
    /// A world with these orgs, their logs empty, and a forwarder that archives them, not started yet.
    pub(crate) fn of(orgs: &[&str]) -> Simulation {
        Self::seeded(orgs, 1, &Behaviour { gzip: Gzip::Never, ..Behaviour::mysql() })
    }

    /// The same with chance and a service's ways of one's own.
    pub(crate) fn seeded(orgs: &[&str], seed: u64, behaviour: &Behaviour) -> Simulation {
        fastrand::seed(seed);
        let begun = Instant::now();
        let clock = WorldClock::by(move || BEGIN + begun.elapsed().as_secs() as i64);
        let pulumi = Arc::new(Pulumi::new(clock.clone(), seed));
        let entra = Arc::new(Entra::new(clock.clone(), seed));
        let azure = Arc::new(Ingestion::new(clock.clone(), entra.book.clone(), seed));
        let store = Arc::new(Memory::new(clock, BUCKET));
        entra.register(TENANT, CLIENT_ID, CLIENT_SECRET);
        for org in orgs {
            pulumi.found(org, behaviour.clone());
            azure.create_rule(&rule_of(org));
        }
        let wire = Arc::new(Wire::new(pulumi.clone(), entra.clone(), azure.clone(), store.clone()));
        let folder = folder();
        let simulation = Simulation {
            pulumi,
            entra,
            azure,
            store,
            wire,
            journal: Arc::new(MemoryJournal::named(&format!("{seed:016x}"))),
            setups: orgs.iter().map(|org| ((*org).to_owned(), Setup::new())).collect(),
            journal_bytes_max: 2 << 30,
            local_clock_ahead: 0,
            begun,
            names: BTreeMap::new(),
            paths: Paths::below(folder.path()),
            process: None,
            second: None,
            _folder: folder,
        };
        for org in orgs {
            simulation.write_token(org, &simulation.org(org).token());
        }
        simulation.paths.write_secret("client-secret", CLIENT_SECRET);
        simulation.write_s3_secret(SECRET_KEY);
        simulation
    }

    pub(crate) fn setup(&mut self, org: &str) -> &mut Setup {
        self.setups.get_mut(org).expect("the simulation has this org")
    }

    pub(crate) fn with_sentinel(mut self) -> Simulation {
        self.setups.values_mut().for_each(|setup| setup.sentinel = true);
        self
    }

    /// By its id, or by Pulumi's name.
    pub(crate) fn org(&self, name: &str) -> OrgHandle<'_> {
        self.pulumi.org(self.names.get(name).and_then(|names| names.last()).map_or(name, String::as_str))
    }

    /// Renames an org at Pulumi; what is configured stays as it is.
    pub(crate) fn rename(&mut self, org: &str, name: &str) {
        self.org(org).rename(name);
        self.names.entry(org.to_owned()).or_default().push(name.to_owned());
    }

    /// All names that Pulumi has ever had for an org.
    pub(crate) fn names(&self, org: &str) -> Vec<String> {
        let later = self.names.get(org).into_iter().flatten().cloned();
        std::iter::once(org.to_owned()).chain(later).collect()
    }

    /// Adds events; each becomes visible when it happens, or later where it says so.
    pub(crate) fn add(&self, org: &str, events: impl IntoIterator<Item = Event>) {
        let happening = |event: Event| Event { visible_at: event.visible_at.max(event.timestamp), ..event };
        self.org(org).add(events.into_iter().map(happening));
    }

    /// The true time.
    pub(crate) fn now(&self) -> i64 {
        BEGIN + self.begun.elapsed().as_secs() as i64
    }

    /// Since the simulation began.
    pub(crate) fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    pub(crate) async fn pass(&self, seconds: i64) {
        sleep(Duration::from_secs(u64::try_from(seconds).expect("time goes forward"))).await;
    }

    pub(crate) async fn pass_until(&self, second: i64) {
        self.pass((second - self.now()).max(0)).await;
    }

    /// Lets time pass in steps until something holds; panics when it does not within `patience` seconds.
    pub(crate) async fn until(&self, what: &str, patience: i64, mut holds: impl FnMut() -> bool) {
        let deadline = self.now() + patience;
        while !holds() {
            assert!(self.now() < deadline, "not within {patience} s: {what}\n{:#?}", self.statuses());
            self.pass(1).await;
        }
    }

    pub(crate) fn write_token(&self, org: &str, token: &str) {
        self.paths.write_secret(&format!("{org}-token"), token);
    }

    pub(crate) fn write_next_token(&self, org: &str, token: &str) -> PathBuf {
        self.paths.write_secret(&format!("{org}-token-next"), token)
    }

    /// Any other secret, by the name of its file.
    pub(crate) fn write_secret(&self, name: &str, value: &str) -> PathBuf {
        self.paths.write_secret(name, value)
    }

    /// The same as a careless program does it: what is there is cut off first, and it is readable to its owner all the time.
    pub(crate) fn write_over(&self, name: &str, bytes: &[u8]) {
        fs::write(self.paths.secret(name), bytes).expect("the secret can be written");
    }

    /// Tells the running process that a secret may have changed, as SIGHUP does and whoever watches files.
    pub(crate) fn nudge(&self) {
        let process = self.process.as_ref().expect("it is running");
        process.shared.secrets_changed.send_modify(|count| *count += 1);
    }

    /// The running process's numbers, as a page of metrics.
    pub(crate) fn metrics(&self) -> String {
        let process = self.process.as_ref().expect("it is running");
        process.reports.metrics().page().collect()
    }

    pub(crate) fn write_client_secret(&self, secret: &str) {
        self.paths.write_secret("client-secret", secret);
    }

    pub(crate) fn write_s3_secret(&self, secret: &str) {
        self.paths.write_secret("s3-secret-access-key", secret);
    }

    /// Starts the forwarder as the supervisor does, on what the journal holds.
    pub(crate) fn start(&mut self) {
        assert!(self.process.is_none(), "it is running");
        self.process = Some(self.launch(&self.paths, &self.setups, self.journal.clone()));
    }

    /// Starts another by mistake: it has a journal of its own, and archives these orgs to the same places.
    /// It has begun before, so it does not take the archive for its own and go on from there.
    pub(crate) async fn start_second(&mut self, orgs: &BTreeSet<String>) {
        assert!(self.second.is_none(), "one mistake at a time");
        let paths = Paths::below(&self.paths.root.join("second"));
        let mut setups = self.setups.clone();
        setups.retain(|org, _| orgs.contains(org));
        setups.values_mut().for_each(|setup| setup.sentinel = false);
        let journal = Arc::new(MemoryJournal::named("another"));
        for (org, setup) in &setups {
            let begun = journal.open(&id(org), &setup.destinations()).await.expect("memory does not fail");
            let append = Append {
                revision: begun.revision,
                start: Some(Second(BEGIN)),
                coverage: Coverage::default(),
                chunks: Vec::new(),
                tally: Vec::new(),
                tally_floor: None,
                window: None,
                now: Second(self.now()),
            };
            journal.append(&id(org), append).await.expect("memory does not fail");
        }
        self.second = Some(self.launch(&paths, &setups, journal));
    }

    /// Ends the second, and says what it thought of its lanes.
    pub(crate) async fn end_second(&mut self) -> Vec<OrgStatus> {
        let second = self.second.take().expect("it is running");
        let statuses = second.reports.status().orgs;
        second.fate.die();
        second.fleet.shut_down().await;
        statuses
    }

    /// What decides when the running process dies.
    pub(crate) fn fate(&self) -> Option<Arc<Fate>> {
        self.process.as_ref().map(|process| process.fate.clone())
    }

    pub(crate) fn is_running(&self) -> bool {
        self.process.is_some()
    }

    fn launch(
        &self,
        paths: &Paths,
        setups: &BTreeMap<String, Setup>,
        journal: Arc<MemoryJournal>,
    ) -> Process {
        let settings = self.settings(paths, setups);
        let fate = Arc::new(Fate::default());
        let clock = Clock::simulated(Second(self.now() + self.local_clock_ahead));
        let line: Arc<dyn Transport> = Arc::new(Line { wire: self.wire.clone(), fate: fate.clone() });
        let s3 = Connections::through(sdk::client(line.clone()));
        let connect: Connect = Arc::new(move |_| Ok(line.clone()));
        let environments = Environments::new(connect.clone(), Exchanges::default(), clock.clone());
        let reports = Reports::new(Metrics::new("simulated", ""), clock.clone());
        let shared = Arc::new(Shared {
            journal: Arc::new(Mortal { journal: journal as Arc<dyn Journal>, fate: fate.clone() }),
            journal_bytes_max: Arc::new(AtomicU64::new(self.journal_bytes_max)),
            reports: reports.clone(),
            clock,
            connect,
            hosts: HostBudgets::default(),
            environments,
            credentials: Credentials::default(),
            s3,
            secrets_changed: watch::Sender::default(),
        });
        let stop = CancellationToken::new();
        let fleet = Fleet::new(shared.clone(), Until::Stopped, stop.clone());
        fleet.apply(&settings, &BTreeSet::new());
        Process { stop, fleet, reports, shared, fate }
    }

    fn settings(&self, paths: &Paths, setups: &BTreeMap<String, Setup>) -> Settings {
        self.write_config(paths, setups);
        let mut settings = config::load(Some(&paths.config)).expect("the configuration is valid").settings;
        settings.journal.max_bytes_per_org = self.journal_bytes_max;
        settings
    }

    /// Puts the present setups in force while the forwarder runs.
    pub(crate) fn reload(&self) -> Changes {
        let process = self.process.as_ref().expect("it is running");
        process.fleet.apply(&self.settings(&self.paths, &self.setups), &BTreeSet::new())
    }

    /// Ends it in order.
    pub(crate) async fn stop(&mut self) {
        let process = self.process.take().expect("it is running");
        process.stop.cancel();
        process.fleet.ended().await;
    }

    /// Ends it wherever it is.
    pub(crate) async fn kill(&mut self) {
        let process = self.process.take().expect("it is running");
        process.fate.die();
        process.fleet.shut_down().await;
    }

    fn write_config(&self, paths: &Paths, setups: &BTreeMap<String, Setup>) {
        let forwarder =
            format!("state_dir = {:?}\norgs_dir = \"orgs\"\n[admin]\nlisten = \"off\"\n", paths.state);
        fs::write(&paths.config, forwarder).expect("the configuration can be written");
        let secret = |name: &str| self.paths.secret(name);
        for old in fs::read_dir(&paths.orgs).expect("the orgs' directory is there") {
            fs::remove_file(old.expect("it can be read").path()).expect("a file can be removed");
        }
        for (org, setup) in setups {
            let token = match &setup.oidc {
                Some(oidc) => format!("oidc = {oidc}"),
                None => format!("token = {{ file = {:?} }}", secret(&format!("{org}-token"))),
            };
            let mut text = format!(
                "org = {org:?}\nstart = {start:?}\n[source]\napi_url = \"https://{api}\"\n{token}\n{more}\n",
                start = setup.start,
                org = setup.org.as_deref().unwrap_or(org),
                api = setup.api,
                more = setup.source,
            );
            if setup.sentinel {
                text += &format!(
                    "[sentinel]\nendpoint = \"https://{AZURE}\"\nrule_id = {rule:?}\nauthority = \"https://{ENTRA}\"\n\
                     identity = {{ kind = \"client_secret\", tenant_id = {TENANT:?}, client_id = {CLIENT_ID:?}, secret = {secret}{more} }}\n",
                    rule = rule_of(org),
                    more = setup.identity,
                    secret = setup
                        .client_secret
                        .clone()
                        .unwrap_or_else(|| format!("{{ file = {:?} }}", secret("client-secret"))),
                );
            }
            if setup.s3 {
                text += &format!(
                    "[s3]\nbucket = {BUCKET:?}\nprefix = {PREFIX:?}\nregion = \"eu-west-1\"\nendpoint_url = \"https://{S3}\"\n\
                     force_path_style = true\naccess_key_id = {ACCESS_KEY:?}\nsecret_access_key = {{ file = {secret:?} }}\n{more}\n",
                    secret = secret("s3-secret-access-key"),
                    more = setup.bucket,
                );
            }
            if setup.file {
                text += &format!("[file]\npath = {:?}\n", self.paths.archive_of(org));
            }
            fs::write(paths.orgs.join(format!("{org}.toml")), text).expect("the org's file can be written");
        }
    }

    pub(crate) fn statuses(&self) -> Vec<OrgStatus> {
        self.process.as_ref().map(|process| process.reports.status().orgs).unwrap_or_default()
    }

    pub(crate) fn status(&self, org: &str) -> OrgStatus {
        let status = self.statuses().into_iter().find(|status| status.id.as_str() == org);
        status.expect("the forwarder runs and has this org")
    }

    /// `(state, reason)` of the source side.
    pub(crate) fn source(&self, org: &str) -> (&'static str, String) {
        let source = self.status(org).source;
        (source.state.as_str(), source.reason.unwrap_or_default())
    }

    pub(crate) fn lane(&self, org: &str, destination: &str) -> LaneStatus {
        let lanes = self.status(org).lanes;
        lanes.into_iter().find(|lane| lane.destination.to_string() == destination).expect("it has this lane")
    }

    pub(crate) async fn state(&self, org: &str) -> OrgState {
        // Naming the configured lanes again changes nothing.
        let lanes = self.setups[org].destinations();
        self.journal.open(&id(org), &lanes).await.expect("memory does not fail")
    }

    pub(crate) async fn coverage(&self, org: &str) -> Coverage {
        self.state(org).await.coverage
    }

    pub(crate) fn windows(&self, org: &str) -> Vec<WindowRecord> {
        self.journal.windows(&id(org))
    }

    /// Seconds that the forwarder declares damaged.
    pub(crate) async fn damaged(&self, org: &str) -> BTreeSet<i64> {
        let coverage = self.coverage(org).await;
        damaged(&coverage)
    }

    /// The same without waiting: of what was stored by the last commit.
    pub(crate) fn damaged_now(&self, org: &str) -> BTreeSet<i64> {
        damaged(&self.journal.coverage(&id(org)))
    }

    pub(crate) fn truth(&self, org: &str) -> Source {
        let name = self.setups.get(org).and_then(|setup| setup.org.as_deref());
        let handle = match name {
            Some(name) if !self.names.contains_key(org) => self.org(name),
            _ => self.org(org),
        };
        Source { events: handle.truth(), shown: handle.shown() }
    }

    pub(crate) fn archive_of(&self, org: &str) -> PathBuf {
        self.paths.archive_of(org)
    }

    /// What is in an org's folder.
    pub(crate) fn files(&self, org: &str) -> Archive {
        Archive::of_directory(&self.paths.archive_of(org))
    }

    /// What reached the archive, compared with what was visible at `as_of`.
    pub(crate) fn archived(&self, org: &str, expect: &Expect) -> Report {
        Archive::of_directory(&self.paths.archive_of(org)).check("file", org, &self.truth(org), expect)
    }

    /// What is in the bucket.
    pub(crate) fn bucket(&self) -> Archive {
        let below = format!("{PREFIX}/");
        let files = self.store.everything().into_iter();
        Archive {
            files: files
                .filter_map(|(key, body)| Some((key.strip_prefix(&below)?.to_owned(), body)))
                .collect(),
        }
    }

    /// What is in the bucket of an org, to be looked at again and again.
    pub(crate) fn bucket_of(&self, org: &str) -> BTreeMap<String, Bytes> {
        ["_chain/org=", "org="]
            .into_iter()
            .flat_map(|folder| {
                let folder = format!("{folder}{org}/");
                let below = self.store.below(&format!("{PREFIX}/{folder}"));
                below.into_iter().map(move |(name, body)| (format!("{folder}{name}"), body))
            })
            .collect()
    }

    /// The same of an org in the bucket.
    pub(crate) fn stored(&self, org: &str, expect: &Expect) -> Report {
        self.bucket().check("s3", org, &self.truth(org), expect)
    }

    /// The same for the table.
    pub(crate) fn ingested(&self, org: &str, expect: &Expect) -> Report {
        let rows = self.azure.rows_of_rule(&rule_of(org));
        table::check(&rows, org, &self.truth(org), self.now(), expect)
    }

    /// Asserts that everything visible at `as_of` is at every destination, exactly once where that is promised.
    #[track_caller]
    pub(crate) fn assert_complete(&self, org: &str, as_of: i64) {
        self.assert_complete_but(org, &Expect { as_of, ..Expect::default() });
    }

    #[track_caller]
    pub(crate) fn assert_complete_but(&self, org: &str, expect: &Expect) {
        let violations = self.wire.violations();
        assert!(violations.is_empty(), "{violations:?}");
        let setup = &self.setups[org];
        if setup.s3 {
            let report = self.stored(org, expect);
            assert!(report.due > 0, "nothing was due: {report}");
            report.assert_complete();
        }
        if setup.file {
            let report = self.archived(org, expect);
            assert!(report.due > 0, "nothing was due: {report}");
            report.assert_complete();
        }
        if setup.sentinel {
            let report = self.ingested(org, expect);
            assert!(report.due > 0, "nothing was due: {report}");
            report.assert_complete();
        }
    }
}

fn damaged(coverage: &Coverage) -> BTreeSet<i64> {
    let damaged = coverage.spans().iter().filter(|span| span.damaged);
    damaged.flat_map(|span| span.from.0..span.until.0).collect()
}

/// In memory where there is such a place: a simulated day syncs thousands of files, and no test here is about the disk.
fn folder() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a directory can be made")
}

pub(crate) fn id(org: &str) -> OrgId {
    OrgId::new(org).expect("the tests' orgs have good names")
}
