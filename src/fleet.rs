//! The fleet: which orgs run, and with which settings.
//!
//! Each org has a keeper, a task that runs it, ends it when it is to run otherwise, and starts it again from what is stored. New
//! settings are handed to the keepers of the orgs that they concern; the others are not touched. Nothing here loads settings
//! ([`crate::reload`] does) or decides about events.
//!
//! *Why a keeper for each, which takes the newest settings only:* an org that is slow to end delays no other, a hundred changes
//! while it ends are one, and there is never a second task that reads or delivers for the same org.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::collect::Until;
use crate::config::changes;
use crate::config::settings::{JournalSettings, OrgSettings, Settings};
use crate::event::OrgId;
use crate::org::{self, Org, Shared};
use crate::stop::{Leash, Stop};

/// How long deliveries under way may take when an org ends: longer than the requests to any destination but the slowest. What has
/// not ended then is dropped, and sent again.
const FINISH_DEADLINE: Duration = Duration::from_secs(120);
/// How long an org that is removed may go on delivering what it has journaled.
const DRAIN_DEADLINE: Duration = Duration::from_secs(10);

/// All orgs that run.
pub struct Fleet {
    shared: Arc<Shared>,
    until: Until,
    process: CancellationToken,
    orders: Mutex<Orders>,
    in_force: watch::Sender<Arc<InForce>>,
    keepers: Mutex<JoinSet<()>>,
}

#[derive(Default)]
struct Orders {
    given: u64,
    /// Also of every org that was removed: its keeper waits for it to come back.
    of: BTreeMap<OrgId, watch::Sender<Option<Order>>>,
}

/// What an org is to run with.
#[derive(Clone)]
struct Order {
    settings: Arc<OrgSettings>,
    phase: i64,
    /// Not all orgs begin at once.
    turn: Instant,
    /// Tells orders apart, also where their settings are the same: a file that they name may hold something else.
    number: u64,
}

/// What is to be kept of which orgs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InForce {
    pub journal: JournalSettings,
    pub orgs: Vec<OrgId>,
}

/// What new settings have changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    pub added: Vec<OrgId>,
    pub removed: Vec<OrgId>,
    /// With the names of the keys.
    pub changed: Vec<(OrgId, Vec<String>)>,
    /// Services with another `host_requests_per_second`: no org ends for that.
    pub rates: Vec<String>,
}

impl Changes {
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.changed.is_empty() && self.rates.is_empty()
    }
}

impl Fleet {
    /// No org runs before the first [`Fleet::apply`]. `process` is cancelled when the process ends.
    pub fn new(shared: Arc<Shared>, until: Until, process: CancellationToken) -> Fleet {
        let nothing = InForce {
            journal: JournalSettings { max_bytes_per_org: u64::MAX, retain: Duration::MAX },
            orgs: Vec::new(),
        };
        Fleet {
            shared,
            until,
            process,
            orders: Mutex::default(),
            in_force: watch::Sender::new(Arc::new(nothing)),
            keepers: Mutex::default(),
        }
    }

    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// What is in force, now and later.
    pub fn in_force(&self) -> watch::Receiver<Arc<InForce>> {
        self.in_force.subscribe()
    }

    /// Puts settings in force, org by org, and says what they change. It waits for nothing: each org ends and starts in its own time.
    /// `renewed` are certificate files that hold something else than before.
    pub fn apply(&self, settings: &Settings, renewed: &BTreeSet<PathBuf>) -> Changes {
        self.shared.journal_bytes_max.store(settings.journal.max_bytes_per_org, Ordering::Relaxed);
        self.shared.reports.metrics().set_journal_capacity(settings.journal.max_bytes_per_org);
        let ids = settings.orgs.iter().map(|org| org.id.clone());
        let in_force = InForce { journal: settings.journal, orgs: ids.collect() };
        self.in_force.send_if_modified(|known| {
            let differs = **known != in_force;
            *known = Arc::new(in_force);
            differs
        });

        let mut orders = lock(&self.orders);
        let mut changes = Changes { rates: self.set_host_rates(&settings.orgs), ..Changes::default() };
        let mut due = Vec::new();
        for (index, new) in settings.orgs.iter().enumerate() {
            let known = orders.of.get(&new.id).and_then(|order| order.borrow().clone());
            let Some(old) = known else {
                changes.added.push(new.id.clone());
                due.push(index);
                continue;
            };
            let mut keys = changes::of_org(&old.settings, new);
            // Its rate was set above.
            keys.retain(|key| key != "source.host_requests_per_second");
            if renewed.iter().any(|path| new.certificate_files().contains(&path.as_path())) {
                keys.push("ca_file (its contents)".to_owned());
            }
            if !keys.is_empty() {
                changes.changed.push((new.id.clone(), keys));
                due.push(index);
            }
        }
        let count = settings.orgs.len();
        for (place, index) in due.iter().copied().enumerate() {
            orders.given += 1;
            let new = &settings.orgs[index];
            let interval = new.source.poll_interval;
            let order = Order {
                settings: Arc::new(new.clone()),
                phase: org::phase(index, count, interval),
                turn: Instant::now() + org::stagger(place, due.len(), interval),
                number: orders.given,
            };
            match orders.of.get(&new.id) {
                Some(known) => drop(known.send_replace(Some(order))),
                None => {
                    let (sender, receiver) = watch::channel(Some(order));
                    orders.of.insert(new.id.clone(), sender);
                    let keeper = Keeper {
                        id: new.id.clone(),
                        shared: self.shared.clone(),
                        until: self.until,
                        process: self.process.clone(),
                    };
                    lock(&self.keepers).spawn(keeper.keep(receiver));
                }
            }
        }
        let wanted: BTreeSet<&OrgId> = settings.orgs.iter().map(|org| &org.id).collect();
        for (id, order) in &orders.of {
            if !wanted.contains(id) && order.borrow().is_some() {
                order.send_replace(None);
                changes.removed.push(id.clone());
            }
        }
        changes
    }

    /// The first org of a host sets its rate. Answers which have another one now.
    fn set_host_rates(&self, orgs: &[OrgSettings]) -> Vec<String> {
        let mut set = BTreeSet::new();
        let firsts = orgs.iter().map(|org| &org.source).filter(|source| set.insert(&source.api_url));
        firsts
            .filter(|source| self.shared.hosts.set_rate(&source.api_url, source.host_requests_per_second))
            .map(|source| source.api_url.clone())
            .collect()
    }

    /// How many orgs are to run.
    pub fn configured(&self) -> usize {
        self.in_force.borrow().orgs.len()
    }

    /// Passes by every lock that is held while settings are put in force: it does not return while one of them is never let go.
    pub fn turns(&self) {
        drop(lock(&self.orders));
        drop(lock(&self.keepers));
    }

    /// Waits until every org has ended: by itself where only what is due was wanted, or with the process.
    pub async fn ended(&self) {
        std::future::poll_fn(|context| {
            let mut keepers = lock(&self.keepers);
            while let std::task::Poll::Ready(ended) = keepers.poll_join_next(context) {
                if ended.is_none() {
                    return std::task::Poll::Ready(());
                }
            }
            std::task::Poll::Pending
        })
        .await;
    }

    /// Drops whatever has not ended.
    pub async fn shut_down(&self) {
        let mut keepers = std::mem::take(&mut *lock(&self.keepers));
        keepers.shutdown().await;
    }
}

/// Runs one org, as it is ordered.
struct Keeper {
    id: OrgId,
    shared: Arc<Shared>,
    until: Until,
    process: CancellationToken,
}

impl Keeper {
    async fn keep(self, mut orders: watch::Receiver<Option<Order>>) {
        let mut running: Option<Running> = None;
        loop {
            // What runs goes on until its turn.
            let turn = orders.borrow_and_update().as_ref().map(|order| order.turn);
            if let Some(turn) = turn {
                self.process.run_until_cancelled(sleep_until(turn)).await;
            }
            if let Some(old) = running.take() {
                let order = orders.borrow_and_update().clone();
                match order {
                    Some(order) if order.number == old.number => running = Some(old),
                    Some(_) => old.finish(&self.id).await,
                    None => old.drain(&self.id).await,
                }
            }
            if self.process.is_cancelled() && running.is_none() {
                return;
            }
            // What was ordered while the old one ended counts.
            match orders.borrow_and_update().clone() {
                Some(order) if running.is_none() => running = Some(self.start(order)),
                Some(_) => {}
                None => self.retire(),
            }
            tokio::select! {
                ordered = orders.changed() => if ordered.is_err() { return },
                () = self.ended(&mut running) => return,
            }
        }
    }

    /// Waits until what runs has ended by itself, or with the process.
    async fn ended(&self, running: &mut Option<Running>) {
        match running {
            Some(running) => joined(&mut running.task).await,
            None => self.process.cancelled().await,
        }
    }

    fn start(&self, order: Order) -> Running {
        let (leash, stop) = Stop::of(&self.process);
        let org = Org::new(order.settings, order.phase, self.shared.clone(), stop);
        let mut task = JoinSet::new();
        task.spawn(org.run(self.until));
        Running { number: order.number, leash, task }
    }

    fn retire(&self) {
        self.shared.reports.retire(&self.id);
        tracing::info!(org = %self.id, "removed from the configuration; its state is kept, and it goes on where it stands when it comes back");
    }
}

/// An org that runs.
struct Running {
    number: u64,
    leash: Leash,
    task: JoinSet<()>,
}

impl Running {
    /// The step and the deliveries under way end first.
    async fn finish(mut self, id: &OrgId) {
        self.leash.end();
        if timeout(FINISH_DEADLINE, joined(&mut self.task)).await.is_err() {
            tracing::warn!(org = %id, "not everything under way ended in time; it is sent again");
            self.task.shutdown().await;
        }
        self.leash.gone().await;
    }

    /// What is journaled is delivered first, as far as that goes at once.
    async fn drain(mut self, id: &OrgId) {
        self.leash.collect_no_more();
        if timeout(DRAIN_DEADLINE, joined(&mut self.task)).await.is_err() {
            tracing::info!(org = %id, "not everything that is journaled could be delivered at once; it is kept");
        }
        self.finish(id).await;
    }
}

async fn joined(task: &mut JoinSet<()>) {
    while task.join_next().await.is_some() {}
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
