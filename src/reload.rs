//! Reloading: notices that the configuration may have changed, loads it, and puts it in force, or says why not.
//!
//! SIGHUP and a change of any file that the configuration was made of ask for a load; what is valid goes to the [`Fleet`], org by
//! org, and what is not changes nothing and is said in the log, a metric and the status. Nothing here stops or starts an org.
//!
//! *Why at most one load a second:* a load reads every file. However often it is asked for meanwhile, one more follows.
//!
//! *Why files are looked at, and not waited for with inotify:* that sees nothing on network file systems, and a watch follows an inode
//! while Kubernetes and careful editors put another one in its place. A look at a thousand orgs' files takes milliseconds.

mod looks;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::Signal;
use tokio::time::{Instant, sleep, sleep_until};

use crate::audit::Act;
use crate::config::settings::Settings;
use crate::config::{Invalid, Loaded, changes};
use crate::event::OrgId;
use crate::fleet::{Changes, Fleet};
use crate::log::Level;
use crate::report::Reports;
use crate::systemd::{self, ServiceManager};
use looks::{Look, Watched};

/// Between two loads.
const LOAD_PAUSE: Duration = Duration::from_secs(1);
/// How often files are looked at. A change counts when two looks in a row have seen the same.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How often a configuration that was refused is tried again: what was wrong may lie in a file that is not known yet.
const REFUSED_PAUSE: Duration = Duration::from_secs(15);
/// Most names in one line of the log.
const NAMES_SHOWN: usize = 10;

/// Loads the configuration as it stands now.
pub type Load = Arc<dyn Fn() -> Result<Loaded, Invalid> + Send + Sync>;

/// What a process needs to reload.
pub struct Reloading {
    pub load: Load,
    /// The files that the settings in force came from.
    pub file: PathBuf,
    pub orgs_dir: PathBuf,
    /// The level of the log, where there is one.
    pub level: Option<Level>,
}

/// Reloads.
pub struct Reloader {
    load: Load,
    level: Option<Level>,
    fleet: Arc<Fleet>,
    reports: Reports,
    /// As the process has started.
    started: Settings,
    in_force: Settings,
    watched: Watched,
    /// As they looked before they were loaded last.
    known: Look,
    /// The last look.
    looked: Option<Look>,
    /// Files that have changed since settings were last put in force.
    changed: BTreeSet<PathBuf>,
    /// Something may have changed before it was looked at.
    recheck: bool,
    refused: Option<Refused>,
    said_restart: Vec<String>,
    service_manager: Option<ServiceManager>,
}

/// A configuration that could not be used.
struct Refused {
    error: String,
    at: Instant,
}

/// Why the configuration is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    /// SIGHUP.
    Asked,
    /// Files have changed.
    Files,
    /// Nothing is known to have changed, but may have, or what was refused may be valid now.
    Recheck,
}

impl Cause {
    fn as_str(self) -> &'static str {
        match self {
            Cause::Asked => "SIGHUP",
            Cause::Files => "changed files",
            Cause::Recheck => "another look",
        }
    }
}

impl Reloader {
    /// `settings` will be in force next: files are looked at before their contents are used. It reads no file, but asks for each.
    pub fn new(
        reloading: Reloading,
        settings: Settings,
        fleet: Arc<Fleet>,
        service_manager: Option<ServiceManager>,
    ) -> Reloader {
        let watched = Watched::of(&reloading.file, &reloading.orgs_dir, &settings);
        Reloader {
            load: reloading.load,
            level: reloading.level,
            reports: fleet.shared().reports.clone(),
            fleet,
            started: settings.clone(),
            in_force: settings,
            known: watched.look(),
            watched,
            looked: None,
            changed: BTreeSet::new(),
            // They were loaded before the state was opened, which may have taken a while.
            recheck: true,
            refused: None,
            said_restart: Vec::new(),
            service_manager,
        }
    }

    /// Reloads for ever. Signals that come while a load goes on are one.
    pub async fn run(mut self, mut hangup: Signal) {
        let mut next_look = Instant::now();
        loop {
            let cause = tokio::select! {
                Some(()) = hangup.recv() => Some(Cause::Asked),
                () = sleep_until(next_look) => {
                    let seen = self.look().await;
                    next_look = Instant::now() + LOOK_EVERY;
                    seen
                }
            };
            if let Some(cause) = cause {
                // Whoever has asked is told when it is done, whatever came of it.
                let asker = self.service_manager.clone().filter(|_| cause == Cause::Asked);
                if let Some(asker) = &asker {
                    asker.reloading();
                }
                self.reload(cause).await;
                if let Some(asker) = &asker {
                    asker.ready(systemd::line(&self.reports, self.fleet.configured()));
                }
                sleep(LOAD_PAUSE).await;
            }
        }
    }

    /// Looks at the files: is there anything to load?
    async fn look(&mut self) -> Option<Cause> {
        let watched = self.watched.clone();
        // A disk may be slow, or a network's.
        let look = tokio::task::spawn_blocking(move || watched.look()).await.ok()?;
        let steady = self.looked.as_ref() == Some(&look);
        let differs = look != self.known;
        self.looked = Some(look);
        if steady && differs {
            return Some(Cause::Files);
        }
        let due = self.refused.as_ref().is_some_and(|refused| refused.at.elapsed() >= REFUSED_PAUSE);
        (std::mem::take(&mut self.recheck) || due).then_some(Cause::Recheck)
    }

    async fn reload(&mut self, cause: Cause) {
        let (load, watched) = (self.load.clone(), self.watched.clone());
        // What is looked at before it is loaded cannot change unseen.
        let work = move || {
            let look = watched.look();
            let loaded = load().map(|loaded| {
                let new = Watched::of(&loaded.file, &loaded.orgs_dir, &loaded.settings);
                let newly = (new != watched).then(|| new.look().or_as_in(&look)).map(|look| (new, look));
                (loaded, newly)
            });
            (look, loaded)
        };
        let Ok((look, loaded)) = tokio::task::spawn_blocking(work).await else {
            return self
                .refuse("loading it ended in a panic; this is a bug, please report it".to_owned(), cause);
        };
        self.changed.append(&mut look.differs_from(&self.known));
        self.known = look;
        let was_refused = self.refused.is_some();
        match loaded {
            Ok((loaded, newly)) => {
                if let Some((watched, look)) = newly {
                    // Files that were not watched may have changed while they were loaded.
                    (self.watched, self.known, self.looked, self.recheck) = (watched, look, None, true);
                }
                self.apply(loaded.settings, cause);
            }
            Err(invalid) => self.refuse(invalid.to_string(), cause),
        }
        if cause != Cause::Recheck || was_refused != self.refused.is_some() {
            // Whoever waits for a secret looks at it again, also where something else is wrong.
            self.fleet.shared().secrets_changed.send_modify(|times| *times = times.wrapping_add(1));
        }
    }

    /// The settings before stay in force.
    fn refuse(&mut self, error: String, cause: Cause) {
        if self.refused.as_ref().is_none_or(|refused| refused.error != error) {
            tracing::error!(
                trigger = cause.as_str(),
                cause = error,
                "the configuration is refused; the one before stays in force"
            );
            self.reports.set_config(false, Some(error.clone()));
            self.reports.record(Act::ReloadRefused, cause.as_str(), Vec::new());
        }
        self.refused = Some(Refused { error, at: Instant::now() });
    }

    fn apply(&mut self, settings: Settings, cause: Cause) {
        let was_refused = self.refused.take().is_some();
        let changes = self.fleet.apply(&settings, &std::mem::take(&mut self.changed));
        if let Some(level) = &self.level {
            level.set(&settings.log.level);
        }
        let keys = changes::of_forwarder(&self.in_force, &settings);
        let restart = changes::of_what_needs_a_restart(&self.started, &settings);
        for warning in settings.warnings.iter().filter(|warning| !self.in_force.warnings.contains(warning)) {
            tracing::warn!(cause = warning, "the configuration is in force, with a warning");
        }
        say(cause, was_refused, &changes, &keys);
        let changed = names(&changes, &keys);
        if !changed.is_empty() {
            self.reports.record(Act::Reload, cause.as_str(), changed);
        }
        if restart != self.said_restart && !restart.is_empty() {
            let keys = restart.join(", ");
            tracing::warn!(keys, "these settings count from the next start of the process on");
        }
        self.reports.set_config(true, None);
        self.reports.set_config_restart(&restart);
        self.said_restart = restart;
        self.in_force = settings;
    }
}

/// One line, of names and never of values. What changes nothing is worth one only to whoever asked.
fn say(cause: Cause, was_refused: bool, changes: &Changes, keys: &[String]) {
    let trigger = cause.as_str();
    if changes.is_empty() && keys.is_empty() {
        match (cause, was_refused) {
            (_, true) => {
                tracing::info!(trigger, "the configuration is valid again; nothing has changed")
            }
            (Cause::Asked, false) => {
                tracing::info!(trigger, "the configuration was read again; nothing has changed")
            }
            (Cause::Files | Cause::Recheck, false) => {
                tracing::debug!(
                    trigger,
                    "files of the configuration were looked at again; nothing has changed"
                );
            }
        }
        return;
    }
    let names = |orgs: &[OrgId]| named(orgs.iter().map(|id| id.as_str().to_owned()));
    let changed = named(changes.changed.iter().map(|(id, keys)| format!("{id} ({})", keys.join(", "))));
    tracing::info!(
        trigger,
        added = names(&changes.added),
        removed = names(&changes.removed),
        changed,
        keys = keys.join(", "),
        rates = named(changes.rates.iter().cloned()),
        "the configuration was reloaded"
    );
}

/// The same for the audit record.
fn names(changes: &Changes, keys: &[String]) -> Vec<String> {
    let Changes { added, removed, changed, rates } = changes;
    let mut names: Vec<String> = added.iter().map(|id| format!("{id} added")).collect();
    names.extend(removed.iter().map(|id| format!("{id} removed")));
    names.extend(changed.iter().flat_map(|(id, keys)| keys.iter().map(move |key| format!("{id}: {key}"))));
    names.extend(rates.iter().map(|_| "source.host_requests_per_second".to_owned()));
    names.extend(keys.iter().cloned());
    names
}

/// A few names, and how many more there are.
fn named(names: impl ExactSizeIterator<Item = String>) -> String {
    let count = names.len();
    let mut text = names.take(NAMES_SHOWN).collect::<Vec<_>>().join(", ");
    if count > NAMES_SHOWN {
        text.push_str(&format!(" and {} more", count - NAMES_SHOWN));
    }
    text
}
