//! The journal in SQLite: one database per state directory, one process, one thread.
//!
//! This file turns the async contract into jobs for the thread `journal`, which owns the only connection; [`store`] runs them as
//! transactions and answers for faults of the disk, [`transactions`] says what each does, [`rows`] checks every row that is read.
//! Nothing here decides what is journaled.
//!
//! *Why a thread of its own:* a commit waits for the disk. On a thread of the runtime it would hold up every org's network, and
//! SQLite has one writer anyway; the bounded queue in front of it is the back pressure.

mod checksum;
pub mod damage;
mod fault;
mod lock;
mod names;
mod restoring;
mod rows;
mod schema;
mod store;
mod transactions;
mod wal;

use std::path::Path;
use std::thread::JoinHandle;

use async_trait::async_trait;
use rusqlite::Transaction;
use tokio::sync::{mpsc, oneshot, watch};

use self::damage::SetAside;
use self::fault::Fault;
use self::store::Store;
use crate::chunk::Chunk;
use crate::clock::Second;
use crate::destination::{DestinationName, Refusal, RowId};
use crate::event::OrgId;
use crate::journal::decision::Decision;
use crate::journal::restore::Restore;
use crate::journal::{
    Acknowledge, Append, Journal, JournalError, NOTE_BYTES_MAX, OrgState, Outstanding, Quarantined,
    TallyPage, Usage,
};

/// Jobs that wait for the thread; who comes later waits to be queued.
const JOBS_MAX: usize = 64;
/// Chunks deleted in one transaction.
const PRUNED_AT_ONCE: u64 = 256;

type Job = Box<dyn FnOnce(&mut Store) + Send>;

/// Version of the state directory's format that this build writes.
pub const FORMAT_VERSION: u32 = schema::VERSION;

/// A state directory that is open. Dropping it ends the thread after the jobs it has, and lets the directory go.
///
/// A call that is dropped while it waits may still be carried out; one that has not begun then is not.
pub struct SqliteJournal {
    /// `None` only while it is dropped.
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    read_only: bool,
    /// The first damage that was met since it was opened.
    damage: watch::Sender<Option<String>>,
}

impl std::fmt::Debug for SqliteJournal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SqliteJournal").field("read_only", &self.read_only).finish_non_exhaustive()
    }
}

impl SqliteJournal {
    /// Opens the state directory, creating it and the database when they are absent, and keeps every other process out.
    ///
    /// # Errors
    /// [`JournalError::Busy`], [`JournalError::Newer`], [`JournalError::Damaged`] and [`JournalError::Unusable`].
    pub fn open(directory: &Path) -> Result<SqliteJournal, JournalError> {
        SqliteJournal::start(directory, false)
    }

    /// Opens what is there to be looked at, beside a running daemon or without one. Creates and changes nothing: calls that would
    /// write fail, and [`Journal::open`] answers what it would have answered.
    ///
    /// # Errors
    /// As [`SqliteJournal::open`], except that nobody is in the way; [`JournalError::Unusable`] also where there is no journal yet.
    pub fn open_read_only(directory: &Path) -> Result<SqliteJournal, JournalError> {
        SqliteJournal::start(directory, true)
    }

    /// Moves a damaged database out of the way, so that the next opening makes a new one. `now` becomes part of its name.
    ///
    /// # Errors
    /// [`JournalError::Busy`], and [`JournalError::Unusable`] where the directory cannot be written.
    pub fn set_aside(directory: &Path, now: Second) -> Result<SetAside, JournalError> {
        let _lock = lock::Lock::take(directory)?;
        damage::set_aside(directory, now).map_err(|error| JournalError::Unusable {
            directory: directory.display().to_string(),
            cause: format!("its damaged database cannot be moved: {error}"),
        })
    }

    /// How many damaged databases lie in a state directory.
    pub fn damaged_kept(directory: &Path) -> usize {
        damage::damaged(directory).map_or(0, |found| found.len())
    }

    /// The first damage that was met since it was opened, if any.
    pub fn damage(&self) -> Option<String> {
        self.damage.borrow().clone()
    }

    /// Waits until damage is met.
    pub async fn damaged(&self) -> String {
        let mut seen = self.damage.subscribe();
        let found = seen.wait_for(Option::is_some).await.ok().and_then(|found| found.clone());
        match found {
            Some(what) => what,
            // The sender is ours, so it does not go away while it is waited for.
            None => std::future::pending().await,
        }
    }

    /// Waits until the thread has done what it was asked before, whatever came of it: `false` when it has ended.
    pub async fn turns(&self) -> bool {
        self.job(|_| Ok(())).await.is_ok()
    }

    fn start(directory: &Path, read_only: bool) -> Result<SqliteJournal, JournalError> {
        let (jobs, mut queue) = mpsc::channel::<Job>(JOBS_MAX);
        let (opened, outcome) = std::sync::mpsc::sync_channel(1);
        let path = directory.to_owned();
        let unusable =
            |cause: String| JournalError::Unusable { directory: directory.display().to_string(), cause };
        let thread = std::thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || {
                let store = if read_only { Store::open_read_only(&path) } else { Store::open(&path) };
                let (store, outcome) = match store {
                    Ok(store) => (Some(store), Ok(())),
                    Err(error) => (None, Err(error)),
                };
                let heard = opened.send(outcome).is_ok();
                let Some(mut store) = store.filter(|_| heard) else { return };
                while let Some(job) = queue.blocking_recv() {
                    let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| job(&mut store)));
                    if done.is_err() {
                        store.distrust();
                    }
                }
            })
            .map_err(|error| unusable(format!("no thread for it: {error}")))?;
        outcome.recv().unwrap_or_else(|_| Err(unusable("its thread ended while opening it".to_owned())))?;
        let damage = watch::Sender::new(None);
        Ok(SqliteJournal { jobs: Some(jobs), thread: Some(thread), read_only, damage })
    }

    async fn job<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Store) -> Result<T, JournalError> + Send + 'static,
    ) -> Result<T, JournalError> {
        let ended = || JournalError::Disk("the journal's thread failed at this; see the log".to_owned());
        let (answer, answered) = oneshot::channel();
        let damage = self.damage.clone();
        let job: Job = Box::new(move |store| {
            if answer.is_closed() {
                return;
            }
            let result = work(store);
            if let Err(JournalError::Damaged(what)) = &result {
                store.suspect(what);
                damage.send_if_modified(|first| match first {
                    Some(_) => false,
                    None => {
                        *first = Some(what.clone());
                        true
                    }
                });
            }
            if answer.send(result).is_err() {
                // Whoever asked has gone meanwhile; what was committed stays.
            }
        });
        let jobs = self.jobs.as_ref().ok_or_else(ended)?;
        jobs.send(job).await.map_err(|_| ended())?;
        answered.await.map_err(|_| ended())?
    }

    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, JournalError> {
        self.job(|store| store.read(work)).await
    }

    async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, JournalError> {
        self.job(|store| store.write(work)).await
    }
}

impl Drop for SqliteJournal {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            // It panicked; the panic has been reported, and everything it held is free.
        }
    }
}

#[async_trait]
impl Journal for SqliteJournal {
    async fn open(&self, org: &OrgId, lanes: &[DestinationName]) -> Result<OrgState, JournalError> {
        let (org, lanes) = (org.clone(), lanes.to_vec());
        if self.read_only {
            return self.read(move |t| transactions::look(t, &org, &lanes)).await;
        }
        self.write(move |t| transactions::open(t, &org, &lanes)).await
    }

    async fn orgs(&self) -> Result<Vec<OrgId>, JournalError> {
        self.read(|t| Ok(rows::OrgRow::all(t)?.into_iter().map(|org| org.id).collect())).await
    }

    async fn tally(&self, org: &OrgId, from: i64, until: i64) -> Result<Vec<TallyPage>, JournalError> {
        let org = org.clone();
        self.read(move |t| match rows::OrgRow::read(t, &org)? {
            Some(org) => rows::tally(t, &org, from, until),
            None => Ok(Vec::new()),
        })
        .await
    }

    async fn append(&self, org: &OrgId, append: Append) -> Result<(), JournalError> {
        let org = org.clone();
        self.write(move |t| transactions::append(t, &org, &append)).await
    }

    async fn chunk(&self, org: &OrgId, number: u64) -> Result<Option<Chunk>, JournalError> {
        let org = org.clone();
        self.read(move |t| transactions::chunk(t, &org, number)).await
    }

    async fn acknowledge(&self, org: &OrgId, acknowledge: Acknowledge) -> Result<(), JournalError> {
        let org = org.clone();
        self.write(move |t| transactions::acknowledge(t, &org, &acknowledge)).await
    }

    async fn outstanding(
        &self,
        org: &OrgId,
        destination: DestinationName,
    ) -> Result<Outstanding, JournalError> {
        let org = org.clone();
        self.read(move |t| transactions::outstanding(t, &org, destination)).await
    }

    async fn quarantine(
        &self,
        org: &OrgId,
        destination: DestinationName,
        after: Option<RowId>,
        limit: u32,
    ) -> Result<Vec<Quarantined>, JournalError> {
        let org = org.clone();
        self.read(move |t| match rows::OrgRow::read(t, &org)? {
            Some(org) => rows::quarantined(t, &org, destination, after, limit),
            None => Ok(Vec::new()),
        })
        .await
    }

    async fn provisional(
        &self,
        org: &OrgId,
        destination: DestinationName,
    ) -> Result<Vec<Refusal>, JournalError> {
        let org = org.clone();
        self.read(move |t| match rows::OrgRow::read(t, &org)? {
            Some(org) => rows::provisional(t, &org, destination),
            None => Ok(Vec::new()),
        })
        .await
    }

    async fn decide(&self, org: &OrgId, decision: Decision) -> Result<u64, JournalError> {
        if let Some(objection) = decision.objection() {
            return Err(JournalError::Conflict(objection));
        }
        let org = org.clone();
        self.write(move |t| transactions::decide(t, &org, &decision)).await
    }

    async fn decisions(&self, org: &OrgId, limit: u32) -> Result<Vec<Decision>, JournalError> {
        let org = org.clone();
        self.read(move |t| match rows::OrgRow::read(t, &org)? {
            Some(org) => rows::decisions(t, &org, limit),
            None => Ok(Vec::new()),
        })
        .await
    }

    async fn restore(&self, org: &OrgId, steps: Vec<Restore>) -> Result<(), JournalError> {
        let org = org.clone();
        self.write(move |t| restoring::restore(t, &org, &steps)).await
    }

    async fn usage(&self, org: &OrgId) -> Result<Usage, JournalError> {
        let org = org.clone();
        self.read(move |t| transactions::usage(t, &org)).await
    }

    async fn prune(&self, org: &OrgId, before: Second, bytes_max: u64) -> Result<u64, JournalError> {
        let mut pruned = 0;
        loop {
            let id = org.clone();
            let gone =
                self.write(move |t| transactions::prune(t, &id, before, bytes_max, PRUNED_AT_ONCE)).await?;
            pruned += gone;
            // Each round deletes what is there or ends; other calls get their turn in between.
            if gone < PRUNED_AT_ONCE {
                break;
            }
        }
        if pruned > 0 {
            self.job(Store::shrink).await?;
        }
        Ok(pruned)
    }

    async fn note(&self, org: &OrgId, name: &str) -> Result<Option<Vec<u8>>, JournalError> {
        let (org, name) = (org.clone(), name.to_owned());
        self.read(move |t| match rows::OrgRow::read(t, &org)? {
            Some(org) => rows::note(t, &org, &name),
            None => Ok(None),
        })
        .await
    }

    async fn set_note(&self, org: &OrgId, name: &str, value: Option<Vec<u8>>) -> Result<(), JournalError> {
        if let Some(length) = value.as_ref().map(Vec::len).filter(|length| *length > NOTE_BYTES_MAX) {
            return Err(JournalError::Conflict(format!(
                "note `{name}` of `{org}` has {length} bytes, and at most {NOTE_BYTES_MAX} are kept"
            )));
        }
        let (org, name) = (org.clone(), name.to_owned());
        self.write(move |t| {
            let org = rows::OrgRow::known(t, &org)?;
            rows::set_note(t, &org, &name, value.as_deref())
        })
        .await
    }
}

/// Any damage to a database that was written well: three bytes say where, one what stands there now. It is noticed, or nothing that
/// is read of it differs.
#[cfg(any(test, fuzzing))]
#[expect(clippy::expect_used, reason = "a property: it panics where it does not hold")]
pub(crate) fn property(bytes: &[u8]) {
    use std::sync::OnceLock;

    use crate::chunk::{Cut, Link, Mode, NewEvent, Packing, Summary};
    use crate::clock::Window;
    use crate::coverage::{Coverage, Span};
    use crate::destination::Receipt;
    use crate::event::{EventKey, Identity};

    static WRITTEN: OnceLock<Vec<u8>> = OnceLock::new();
    const NOW: Second = Second(1_795_256_100);
    let id = crate::hostile::given::org();
    let lanes = [DestinationName::S3];
    let directory = |name: &str| {
        std::env::temp_dir().join(format!(
            "paf-{name}-{}-{:?}",
            std::process::id(),
            std::thread::current().id()
        ))
    };
    let written = WRITTEN.get_or_init(|| {
        let directory = directory("written");
        let journal = SqliteJournal::open(&directory).expect("a directory can be made");
        crate::hostile::given::block_on(async {
            let state = journal.open(&id, &lanes).await.expect("a new org");
            let window = Window::new(NOW - 100, NOW);
            let span = Span { from: window.from, until: window.until, read_at: NOW, age: 0, damaged: false };
            let coverage = Coverage::from_spans(vec![span]).expect("one span is in order");
            let summary = || Summary {
                start: Some(NOW - 100),
                coverage: vec![span],
                checkpoints: Default::default(),
                instance: "0".into(),
                forwarder: "0".into(),
                audit: None,
            };
            let event = crate::pulumi::wire::read_event(
                bytes::Bytes::from_static(b"{\"timestamp\":1795256050,\"event\":\"x\"}"),
                &id,
                NOW,
            );
            let mut tally = crate::collect::tally::Tally::default();
            let new = tally.take(vec![event]);
            assert_eq!(new[0].key, EventKey::new(&Identity(new[0].event.identity.0), 0));
            let new: Vec<NewEvent> = new;
            let cut = Cut {
                id: &id,
                org: "acme",
                mode: Mode::Live,
                window,
                packing: Packing::Stored,
                next: 0,
                link: Link::FIRST,
                before: summary(),
                after: summary(),
            };
            let append = Append {
                revision: state.revision,
                start: Some(NOW - 100),
                coverage,
                chunks: cut.chunks(new),
                tally: tally.changed(),
                tally_floor: None,
                window: None,
                now: NOW,
            };
            journal.append(&id, append).await.expect("the first append");
            let receipt = Receipt { status: 200, ..Receipt::default() };
            let acknowledge = Acknowledge { destination: DestinationName::S3, chunk: 0, receipt, now: NOW };
            journal.acknowledge(&id, acknowledge).await.expect("the first acknowledgement");
        });
        drop(journal);
        let written = std::fs::read(names::database(&directory)).expect("it is there");
        assert!(std::fs::remove_dir_all(&directory).is_ok());
        written
    });
    let look = |body: &[u8]| {
        let directory = directory("damaged");
        std::fs::create_dir_all(&directory).expect("a directory can be made");
        std::fs::write(names::database(&directory), body).expect("and written to");
        let found = SqliteJournal::open_read_only(&directory).and_then(|journal| {
            crate::hostile::given::block_on(async {
                let state = journal.open(&id, &lanes).await?;
                let chunk = journal.chunk(&id, 0).await?;
                let tally = journal.tally(&id, i64::MIN, i64::MAX).await?;
                Ok((journal.orgs().await?, state, chunk, tally))
            })
        });
        let removed = std::fs::remove_dir_all(&directory);
        assert!(removed.is_ok(), "{removed:?}");
        found
    };
    let mut damaged = written.clone();
    for edit in bytes.chunks_exact(4).take(64) {
        let at = usize::from(edit[0]) << 16 | usize::from(edit[1]) << 8 | usize::from(edit[2]);
        let length = damaged.len();
        damaged[at % length] = edit[3];
    }
    let right = look(written).expect("what was written can be read");
    if let Ok(found) = look(&damaged) {
        assert_eq!(found, right, "damage that goes unnoticed changes nothing");
    }
}
