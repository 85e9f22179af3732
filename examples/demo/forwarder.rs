//! The forwarder as a process: found, started, asked for its status, killed, and gone whenever the demo is.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use serde::Deserialize;
use tokio::time::Instant;

use crate::world::clock::parse_rfc3339;
use crate::world::daemon::Daemon;

const NAME: &str = "pulumi-audit-forwarder";
const SERVED_WITHIN: Duration = Duration::from_secs(30);

/// `/api/status`, as far as the demo shows it.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct Status {
    pub(crate) orgs: Vec<Org>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Org {
    pub(crate) id: String,
    start: Option<String>,
    cursor: Option<String>,
    tip: Option<String>,
    pub(crate) coverage: Coverage,
    pub(crate) source: Party,
    pub(crate) lanes: Vec<Lane>,
}

/// In seconds of event time.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Coverage {
    pub(crate) holes: i64,
    pub(crate) damaged: i64,
    unsettled: i64,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Party {
    pub(crate) state: String,
    pub(crate) reason: Option<String>,
    pub(crate) remedy: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Lane {
    pub(crate) destination: String,
    pub(crate) state: String,
    pub(crate) reason: Option<String>,
    delivered_until: Option<String>,
    pub(crate) backlog_events: u64,
}

impl Status {
    pub(crate) fn org(&self, id: &str) -> Option<&Org> {
        self.orgs.iter().find(|org| org.id == id)
    }

    /// Undelivered events of all orgs at one destination.
    pub(crate) fn backlog(&self, destination: &str) -> u64 {
        let lanes = self.orgs.iter().flat_map(|org| &org.lanes);
        lanes.filter(|lane| lane.destination == destination).map(|lane| lane.backlog_events).sum()
    }

    pub(crate) fn caught_up(&self) -> bool {
        !self.orgs.is_empty() && self.orgs.iter().all(|org| org.tip.is_some() && org.coverage.holes == 0)
    }

    pub(crate) fn delivered(&self) -> bool {
        self.orgs.iter().flat_map(|org| &org.lanes).all(|lane| lane.backlog_events == 0)
    }
}

impl Org {
    pub(crate) fn cursor(&self) -> Option<i64> {
        parse_rfc3339(self.cursor.as_deref()?)
    }

    pub(crate) fn tip(&self) -> Option<i64> {
        parse_rfc3339(self.tip.as_deref()?)
    }

    /// How much of the time between start and tip is journaled, in `0.0..=1.0`.
    pub(crate) fn read_share(&self) -> f64 {
        let span = self.start.as_deref().and_then(parse_rfc3339).and_then(|start| Some(self.tip()? - start));
        match span {
            Some(span) if span > 0 => 1.0 - self.coverage.holes as f64 / span as f64,
            _ => 0.0,
        }
    }

    /// Up to here every later look has been taken too, once the holes are closed.
    pub(crate) fn settled_until(&self) -> Option<i64> {
        Some(self.tip()? - self.coverage.unsettled)
    }
}

impl Lane {
    pub(crate) fn delivered_until(&self) -> Option<i64> {
        parse_rfc3339(self.delivered_until.as_deref()?)
    }
}

/// The binary that was built together with this example: `target/PROFILE/pulumi-audit-forwarder`.
pub(crate) fn beside_this_example() -> anyhow::Result<PathBuf> {
    let example = std::env::current_exe().context("cannot tell where this example lies")?;
    let profile = example.parent().and_then(Path::parent).context("this example lies in no target folder")?;
    let binary = profile.join(NAME);
    if !binary.exists() {
        let release = if profile.ends_with("release") { " --release" } else { "" };
        bail!(
            "{} is missing: run `make demo`, or `cargo build{release} --bin {NAME}` first",
            binary.display()
        );
    }
    Ok(binary)
}

/// One after another; at most one runs.
pub(crate) struct Forwarder {
    binary: PathBuf,
    config: PathBuf,
    directory: PathBuf,
    running: Option<Running>,
    starts: u32,
    peak_kib: u64,
}

/// Ended in this order.
struct Running {
    _keeper: Keeper,
    daemon: Daemon,
}

impl Forwarder {
    pub(crate) fn new(binary: &Path, config: &Path, directory: &Path) -> Self {
        Self {
            binary: binary.to_owned(),
            config: config.to_owned(),
            directory: directory.to_owned(),
            running: None,
            starts: 0,
            peak_kib: 0,
        }
    }

    /// Starts it and waits until it answers; says how long that took.
    pub(crate) async fn start(&mut self) -> anyhow::Result<Duration> {
        self.starts += 1;
        let begun = Instant::now();
        let daemon = Daemon::start(&self.binary, &self.config, &self.log());
        let keeper = Keeper::of(daemon.pid())?;
        self.running = Some(Running { _keeper: keeper, daemon });
        while self.status().await?.is_none() {
            if begun.elapsed() > SERVED_WITHIN {
                bail!("the forwarder does not answer: see {}", self.log().display());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(begun.elapsed())
    }

    /// Where the present process writes its log.
    fn log(&self) -> PathBuf {
        self.directory.join(format!("forwarder-{}.log", self.starts))
    }

    /// Its own words; nothing while it is not running or does not answer.
    pub(crate) async fn status(&mut self) -> anyhow::Result<Option<Status>> {
        let log = self.log();
        let Some(running) = &mut self.running else { return Ok(None) };
        if let Some(status) = running.daemon.has_ended() {
            bail!("the forwarder ended by itself ({status}): see {}", log.display());
        }
        let status = running.daemon.status().await;
        self.look_at_memory();
        Ok(status.and_then(|status| serde_json::from_value(status).ok()))
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        self.running.as_ref().map(|running| running.daemon.pid())
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.look_at_memory();
        if let Some(mut running) = self.running.take() {
            running.daemon.kill();
        }
    }

    /// SIGTERM; how it ended, and how long that took.
    pub(crate) async fn stop(&mut self) -> anyhow::Result<(ExitStatus, Duration)> {
        self.look_at_memory();
        let begun = Instant::now();
        let mut running = self.running.take().context("the forwarder is not running")?;
        let status = running.daemon.stop().await;
        Ok((status, begun.elapsed()))
    }

    /// The most memory that any of its processes had resident at once.
    pub(crate) fn peak_mib(&self) -> f64 {
        self.peak_kib as f64 / 1024.0
    }

    fn look_at_memory(&mut self) {
        let Some(pid) = self.pid() else { return };
        let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let peak = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = peak.and_then(|peak| peak.trim().strip_suffix(" kB")?.parse().ok());
        self.peak_kib = self.peak_kib.max(kib.unwrap_or(0));
    }
}

/// Ends the forwarder when the demo dies in a way that runs no code of ours: the kernel then closes the pipe that is the shell's
/// standard input. In a process group of its own, because a Ctrl-C at the terminal must not end it first.
struct Keeper(Child);

impl Keeper {
    fn of(pid: u32) -> anyhow::Result<Self> {
        let script = r#"while read -r _; do :; done; kill -9 "$1" 2>/dev/null"#;
        let shell = Command::new("sh")
            .args(["-c", script, "keeper", &pid.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn();
        Ok(Self(shell.context("cannot start a shell")?))
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // Before its pipe closes, so that it never signals a number that may be somebody else's by then.
        if self.0.kill().is_ok() {
            let _reaped = self.0.wait();
        }
    }
}
