//! Plays a history: the world, the forwarder in it, and everything that the history says happens to either.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use pulumi_audit_forwarder::journal::memory::MemoryJournal;
use pulumi_audit_forwarder::report::status::OrgStatus;

use crate::crash::Side;
use crate::history::{Act, History, Lane, Victim, WAIT_MAX};
use crate::judge::{self, Ill};
use crate::simulation::{BEGIN, HOUR, MINUTE, Simulation};
use crate::wire::{AZURE, S3, Sent};
use crate::world::clock::rfc3339;
use crate::world::pulumi::behaviour::DateHeader;
use crate::world::s3::memory;
use crate::world::script::Times;
use crate::world::setup::{CLIENT_ID, TENANT, rule_of};
use crate::world::{ingestion, pulumi};

/// How far before the beginning the logs reach.
const BEFORE: i64 = 4 * HOUR;

/// How long all is well after the faults, while the log goes on.
const WELL: i64 = 25 * MINUTE;
/// A start looks at the archives within this time.
const LOOK: i64 = 10;
/// What Azure takes at most in a request.
const AZURE_BYTES: usize = 1 << 20;

/// What a run was, counted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) simulated: Duration,
    pub(crate) deaths: u64,
    pub(crate) faults: u64,
    pub(crate) events: u64,
    pub(crate) extras: u64,
    pub(crate) damaged: u64,
    pub(crate) seconds_instances: u64,
    pub(crate) losses: u64,
    /// Every request.
    pub(crate) sent: Vec<Sent>,
    /// Run again, the first that was sent otherwise, if any.
    pub(crate) repeated: Option<Option<String>>,
    /// What the checker has against it.
    pub(crate) objections: Vec<String>,
}

/// The state was lost, or turned back.
#[derive(Debug)]
pub(crate) struct Loss {
    /// Uploads that Azure had stored by then.
    pub(crate) uploads: u64,
    /// Per org, the keys of the rows that are known to be delivered all the same.
    pub(crate) delivered: BTreeMap<String, HashSet<String>>,
}

pub(crate) struct Play {
    pub(crate) history: History,
    pub(crate) simulation: Simulation,
    /// When a process ended, in whichever way.
    pub(crate) deaths: Vec<i64>,
    pub(crate) objections: Vec<String>,
    /// Since when each org is to be collected.
    pub(crate) since: BTreeMap<String, i64>,
    pub(crate) had_second: bool,
    /// Time may have been covered that had not been.
    pub(crate) times_were_wrong: bool,
    /// Something was done to it, for the judge to find.
    pub(crate) sabotaged: bool,
    /// The last copy of the state.
    backup: Option<MemoryJournal>,
    /// What was lost of it, and when.
    pub(crate) losses: Vec<Loss>,
    /// An older copy was put back while the bucket was ill: a lane that is fenced then waits for another start.
    turned_back_blindly: bool,
    /// What the judge has read already.
    pub(crate) read: judge::Read,
    faults: u64,
    /// How long it stays away after the crash that is armed.
    absence: i64,
}

/// Plays it to its end, and has it judged.
pub(crate) fn play(history: History) -> Tally {
    alone(async { Play::of(history).run().await })
}

/// In one thread, on a clock of its own.
pub(crate) fn alone<T>(what: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .max_blocking_threads(4)
        .build();
    runtime.expect("a runtime can be made").block_on(what)
}

impl Play {
    pub(crate) fn of(history: History) -> Play {
        let names: Vec<&str> =
            history.orgs.iter().filter(|org| org.is_configured()).map(|org| org.name.as_str()).collect();
        let mut simulation = Simulation::seeded(&names, history.seed, &history.behaviour);
        simulation.journal_bytes_max = history.journal_bytes_max;
        simulation.local_clock_ahead = history.local_clock_ahead;
        let ages: Vec<String> = history.rescans.iter().map(|age| format!("\"{age}s\"")).collect();
        let source = format!(
            "poll_interval = \"{}s\"\noverlap = \"{}s\"\nsettle = \"{}s\"\nrescan_after = [{}]\n",
            history.poll,
            history.overlap,
            history.settle,
            ages.join(", ")
        );
        for org in history.orgs.iter().filter(|org| org.is_configured()) {
            let setup = simulation.setup(&org.name);
            (setup.sentinel, setup.s3, setup.file) = (org.sentinel, org.s3, org.file);
            setup.source.clone_from(&source);
            // It goes on when the faults have ended, so that what is found then is seen to be found in time.
            let (from, until) = (BEGIN - BEFORE, BEGIN + history.length + history.drained() + WELL);
            let events = org.events(from, until, history.behaviour.page_size, history.settled());
            simulation.add(&org.name, events);
        }
        let times_were_wrong = history.local_clock_ahead != 0;
        let since = names.iter().map(|name| ((*name).to_owned(), BEGIN)).collect();
        Play {
            history,
            simulation,
            deaths: Vec::new(),
            objections: Vec::new(),
            since,
            had_second: false,
            times_were_wrong,
            sabotaged: false,
            backup: None,
            losses: Vec::new(),
            turned_back_blindly: false,
            read: judge::Read::default(),
            faults: 0,
            absence: 0,
        }
    }

    async fn run(mut self) -> Tally {
        self.simulation.start();
        for step in std::mem::take(&mut self.history.steps) {
            self.pass_until(BEGIN + step.at).await;
            self.happen(step.act).await;
        }
        self.pass_until(BEGIN + self.history.length).await;
        self.calm();
        self.start_again_where_told().await;
        // Everything that was visible in time is drained long before the last look at what was not.
        let drained = self.history.drained();
        self.pass(drained).await;
        judge::drained(&mut self, drained);
        self.pass(WELL).await;
        judge::prompt(&mut self, WELL);
        self.pass(self.history.tail()).await;
        judge::end(&mut self).await
    }

    pub(crate) fn now(&self) -> i64 {
        self.simulation.now()
    }

    pub(crate) fn orgs(&self) -> Vec<String> {
        self.simulation.setups.keys().cloned().collect()
    }

    pub(crate) fn faults(&self) -> u64 {
        self.faults
    }

    /// The configured name of an org of the history; nothing where the reduction has taken it away.
    fn name(&self, org: usize) -> Option<String> {
        self.history.orgs.get(org).filter(|org| org.is_configured()).map(|org| org.name.clone())
    }

    /// Time passes. A process that dies meanwhile is started again after its absence.
    async fn pass(&mut self, seconds: i64) {
        self.pass_until(self.now() + seconds.max(0)).await;
    }

    async fn pass_until(&mut self, second: i64) {
        while self.now() < second {
            let left = Duration::from_secs((second - self.now()) as u64);
            let Some(fate) = self.simulation.fate() else {
                tokio::time::sleep(left).await;
                continue;
            };
            let died = tokio::select! {
                biased;
                () = fate.death() => true,
                () = tokio::time::sleep(left) => false,
            };
            if died {
                self.kill().await;
                tokio::time::sleep(Duration::from_secs(self.absence as u64)).await;
                self.simulation.start();
            }
        }
    }

    async fn kill(&mut self) {
        self.simulation.kill().await;
        judge::journaled(self).await;
        self.deaths.push(self.now());
    }

    /// It is ended in order, unless it is dying already.
    async fn stop(&mut self) {
        if let Some(fate) = self.simulation.fate() {
            fate.disarm();
            if fate.is_dead() {
                return self.kill().await;
            }
        }
        self.simulation.stop().await;
        self.deaths.push(self.now());
    }

    /// No fault is in force any more, nor to come.
    fn calm(&mut self) {
        for org in self.orgs() {
            self.simulation.org(&org).clear_faults();
        }
        self.simulation.azure.clear_faults();
        self.simulation.azure.limit(AZURE_BYTES, None);
        self.simulation.entra.clear_faults();
        self.simulation.store.clear_faults();
        self.simulation.wire.panics_for(AZURE, 0);
        if let Some(fate) = self.simulation.fate() {
            fate.disarm();
            fate.fail_commits(0, Side::Before);
        }
    }

    async fn restart(&mut self, change: impl FnOnce(&mut Simulation)) {
        self.stop().await;
        self.pass(1).await;
        change(&mut self.simulation);
        self.simulation.start();
    }

    async fn happen(&mut self, act: Act) {
        self.faults += 1;
        judge::journaled(self).await;
        self.times_were_wrong |= matches!(act, Act::Date { .. } | Act::LocalClock { .. });
        match act {
            Act::Kill { absence } => {
                self.kill().await;
                self.pass(absence).await;
                self.simulation.start();
            }
            Act::Stop { absence } => {
                self.stop().await;
                self.pass(absence).await;
                self.simulation.start();
            }
            Act::Crash { call, passing, side, absence } => {
                self.absence = absence;
                if let Some(fate) = self.simulation.fate() {
                    fate.arm(call, passing, side);
                }
            }
            Act::Disk { count, side } => {
                if let Some(fate) = self.simulation.fate() {
                    fate.fail_commits(count, side);
                }
            }
            Act::Source { org, fault, times } => {
                if let Some(org) = self.name(org) {
                    self.simulation.pulumi.fault(&org, fault, Times::Next(times));
                }
            }
            Act::Azure { org, fault, times } => match org.map(|org| self.name(org)) {
                None => self.simulation.azure.fault(fault, Times::Next(times)),
                Some(Some(org)) => self.simulation.azure.fault_on(&rule_of(&org), fault, Times::Next(times)),
                Some(None) => {}
            },
            Act::Entra { fault, times } => self.simulation.entra.fault(fault, Times::Next(times)),
            Act::Store { part, fault, times } => {
                self.simulation.store.fault_on(part, fault, Times::Next(times));
            }
            Act::Away { host, seconds } => {
                self.simulation.wire.goes_away(host);
                self.pass(seconds).await;
                self.simulation.wire.comes_back(host);
            }
            Act::Limit { bytes, seconds } => {
                self.simulation.azure.limit(bytes, None);
                self.pass(seconds).await;
                self.simulation.azure.limit(AZURE_BYTES, None);
            }
            Act::RevokeAll => self.simulation.entra.book.revoke_all(),
            Act::RotateToken { org, after } => {
                let Some(org) = self.name(org) else { return };
                let token = self.simulation.org(&org).rotate_token();
                self.pass(after).await;
                self.simulation.write_token(&org, &token);
            }
            Act::NextToken { org, after } => {
                let Some(org) = self.name(org) else { return };
                let first = self.simulation.org(&org).token();
                let next = self.simulation.org(&org).add_token();
                let place = self.simulation.write_next_token(&org, &next);
                let line = format!("next_token = {{ file = {place:?} }}\n");
                self.restart(|simulation| {
                    let source = &mut simulation.setup(&org).source;
                    if !source.contains("next_token") {
                        source.push_str(&line);
                    }
                })
                .await;
                self.pass(after).await;
                self.simulation.org(&org).revoke_token(&first);
            }
            Act::Forbid { org, seconds } => {
                let Some(org) = self.name(org) else { return };
                let token = self.simulation.org(&org).token();
                self.simulation.org(&org).allow(&token, false);
                self.pass(seconds).await;
                self.simulation.org(&org).allow(&token, true);
            }
            Act::RotateClientSecret { after } => {
                let secret = format!("secret-of-{}", self.now());
                self.simulation.entra.rotate_secret(TENANT, CLIENT_ID, &secret);
                self.simulation.entra.book.revoke_all();
                self.pass(after).await;
                self.simulation.write_client_secret(&secret);
            }
            Act::DenyRole { seconds } => {
                self.simulation.azure.denies_the_role();
                self.pass(seconds).await;
                self.simulation.azure.grants_the_role();
            }
            Act::RotateKey { code, after } => {
                let fault = memory::Fault::error(403, code);
                self.simulation.store.fault_on("", fault, Times::UntilCleared);
                self.pass(after).await;
                self.simulation.store.clear_faults();
                self.simulation.write_s3_secret(&format!("key-of-{}", self.now()));
            }
            Act::Rename { org, stamp } => {
                if let Some(org) = self.name(org) {
                    self.rename(&org, stamp);
                }
            }
            Act::Date { date, seconds } => {
                for org in self.orgs() {
                    self.simulation.org(&org).behave(|behaviour| behaviour.date = date.clone());
                }
                self.pass(seconds).await;
                for org in self.orgs() {
                    self.simulation.org(&org).behave(|behaviour| behaviour.date = DateHeader::Present);
                }
            }
            Act::Panic { host } => self.simulation.wire.panics_for(host, 1),
            Act::Lane { org, lane, on } => {
                let Some(org) = self.name(org) else { return };
                let mut setup = self.simulation.setups[&org].clone();
                match lane {
                    Lane::Sentinel => setup.sentinel = on,
                    Lane::S3 => setup.s3 = on,
                    Lane::File => setup.file = on,
                }
                // Somewhere everything goes.
                if !setup.destinations().is_empty() {
                    self.restart(|simulation| *simulation.setup(&org) = setup).await;
                }
            }
            Act::StartEarlier { org, by } => {
                let Some(org) = self.name(org) else { return };
                let since = (self.since[&org] - by).max(BEGIN - BEFORE);
                self.since.insert(org.clone(), since);
                self.restart(|simulation| simulation.setup(&org).start = rfc3339(since)).await;
            }
            Act::LocalClock { ahead } => {
                self.restart(|simulation| simulation.local_clock_ahead = ahead).await;
            }
            Act::Backup => self.backup = Some(MemoryJournal::clone(&self.simulation.journal)),
            Act::Lost { backup, absence } => self.lose(backup, absence).await,
            Act::Second { seconds } => self.second(seconds).await,
            Act::Outage { victim, seconds } => self.outage(victim, seconds).await,
        }
    }

    /// Without a copy of it there is nothing to put back, and a copy of a state that was lost since is not put back either: who has
    /// written the archive meanwhile has another name.
    async fn lose(&mut self, backup: bool, absence: i64) {
        self.kill().await;
        let copy = if backup { self.backup.clone() } else { None };
        if copy.is_some() || !backup {
            let uploads = self.simulation.azure.stored_requests();
            let delivered = judge::known_as_delivered(self, copy.as_ref()).await;
            self.losses.push(Loss { uploads, delivered });
            let name = format!("{:016x}-{}", self.history.seed, self.losses.len());
            if copy.is_none() {
                self.backup = None;
            }
            self.simulation.journal = Arc::new(copy.unwrap_or_else(|| MemoryJournal::named(&name)));
        }
        self.pass(absence).await;
        self.turned_back_blindly |= backup && self.simulation.store.has_faults();
        self.simulation.start();
        self.pass(LOOK).await;
    }

    /// A lane that was fenced because its archive was away when an older copy was put back says so, and goes on after another start.
    async fn start_again_where_told(&mut self) {
        if !self.turned_back_blindly {
            return;
        }
        self.pass(WAIT_MAX).await;
        let is_fenced =
            |status: &OrgStatus| status.lanes.iter().any(|lane| lane.reason.as_deref() == Some("fenced"));
        if self.simulation.statuses().iter().any(is_fenced) {
            self.restart(|_| {}).await;
        }
    }

    fn rename(&self, org: &str, stamp: u64) {
        let org = self.simulation.org(org);
        let accounts = org.accounts();
        if accounts.is_empty() {
            return;
        }
        let account = &accounts[(stamp >> 8) as usize % accounts.len()];
        org.change_person(account, |person| match stamp % 3 {
            0 => person.avatar = format!("https://avatars.example.com/u/{stamp}"),
            1 => person.name = format!("Renamed {stamp}"),
            _ => person.login = format!("renamed-{stamp}"),
        });
        if stamp.is_multiple_of(5) {
            org.rename_in_events("tokenName", "ci-main", &format!("ci-{stamp}"));
        }
        if stamp.is_multiple_of(7) {
            org.decorate("addedLater", serde_json::Value::from(stamp));
        }
    }

    /// Only orgs whose archive has begun are archived by the other as well, so that it is clear who is the stranger.
    async fn second(&mut self, seconds: i64) {
        let begun: BTreeSet<String> = self
            .orgs()
            .into_iter()
            .filter(|org| {
                let setup = &self.simulation.setups[org];
                let claim = format!("_chain/org={org}/{:020}.json", 0);
                let in_bucket = self.simulation.store.has(&format!("{}/{claim}", crate::simulation::PREFIX));
                (setup.s3 || setup.file)
                    && (!setup.s3 || in_bucket)
                    && (!setup.file || self.simulation.archive_of(org).join(&claim).exists())
            })
            .collect();
        if begun.is_empty() {
            return;
        }
        self.had_second = true;
        self.simulation.start_second(&begun).await;
        self.pass(seconds).await;
        let statuses = self.simulation.end_second().await;
        judge::second(self, &statuses);
    }

    async fn outage(&mut self, victim: Victim, seconds: i64) {
        self.calm();
        self.pass(2 * self.history.poll + 90).await;
        let well = judge::up_to_date(self);
        let name = |org: usize| self.name(org);
        let ill = match &victim {
            Victim::Source(org, _) => name(*org).map(Ill::Source),
            Victim::Azure => Some(Ill::Azure(None)),
            Victim::Rule(org) => name(*org).map(|org| Ill::Azure(Some(org))),
            Victim::Store => Some(Ill::Store(None)),
            Victim::Archive(org, ..) => name(*org).map(|org| Ill::Store(Some(org))),
        };
        let Some(ill) = ill else { return };
        let began = self.simulation.elapsed();
        match (&victim, &ill) {
            (Victim::Source(_, fault), Ill::Source(org)) => {
                let fault: pulumi::behaviour::Fault = fault.clone();
                self.simulation.pulumi.fault(org, fault, Times::UntilCleared);
            }
            (_, Ill::Azure(None)) => self.simulation.wire.goes_away(AZURE),
            (_, Ill::Azure(Some(org))) => {
                let fault = ingestion::Fault::unavailable();
                self.simulation.azure.fault_on(&rule_of(org), fault, Times::UntilCleared);
            }
            (Victim::Archive(_, status, code), Ill::Store(Some(org))) => {
                let fault = memory::Fault::error(*status, code);
                self.simulation.store.fault_on(&format!("org={org}/"), fault, Times::UntilCleared);
            }
            _ => self.simulation.wire.goes_away(S3),
        }
        self.pass(seconds).await;
        judge::outage(self, &ill, &well, began);
        self.simulation.wire.comes_back(AZURE);
        self.simulation.wire.comes_back(S3);
        self.calm();
    }
}
