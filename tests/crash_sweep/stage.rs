//! The script: one organization, all three destinations, and two runs of the real binary, an hour of the world's time apart.
//!
//! The first run makes the state directory, sweeps the head and catches up three hours; the second has an hour to catch up, looks
//! again at what it read too early, and finds a late event there. Each takes a fraction of a second, because the past is all there.
//! A third run, without any fault, is the recovery.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::time::{Instant, timeout};

use crate::calls::{self, Call};
use crate::point::{Act, Fault, Place};
use crate::world::World;
use crate::world::clock::{WorldClock, rfc3339};
use crate::world::pulumi::behaviour::Behaviour;
use crate::world::pulumi::events::Generator;
use crate::world::setup::{OrgSetup, PREFIX, Paths};

/// The script happens this long ago for the first run.
const BETWEEN: i64 = 3_600;
const BACKLOG: i64 = 3 * 3_600;
/// A run that takes longer hangs. A lane tries a disk again after ten seconds, and there may be two of them.
const LONGEST: Duration = Duration::from_secs(60);
const TIMEOUT: &str = "40s";

/// A world of its own, in which one point after another is played.
pub struct Stage {
    pub world: World,
    offset: Arc<AtomicI64>,
    shim: PathBuf,
    root: PathBuf,
    number: usize,
    played: u64,
    /// Leaves out nothing that only takes longer.
    pub thorough: bool,
}

/// Where the calls that count go to.
#[derive(Debug, Clone)]
pub struct Addresses {
    pub directories: [(Place, PathBuf); 2],
    pub ports: [(Place, u16); 4],
}

/// One fault for one run.
#[derive(Debug, Clone)]
pub struct Fate {
    pub place: Place,
    pub fault: Fault,
    pub number: u64,
    /// While this is there, a fault that lasts goes on.
    pub while_there: Option<PathBuf>,
}

/// How a run ended.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub took: Duration,
    pub said: String,
    pub calls: Vec<Call>,
    /// Where the shim wrote; nothing where there was none.
    pub log: Option<PathBuf>,
}

/// One organization's story, from nothing.
pub struct Play<'s> {
    pub stage: &'s mut Stage,
    pub id: String,
    pub now: i64,
    runs: u32,
}

pub fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_pulumi-audit-forwarder"))
}

/// Compiles `shim.c` below `root`.
pub fn compile(root: &Path) -> PathBuf {
    let shim = root.join("shim.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/crash_sweep/shim.c");
    let compiled = std::process::Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .args([&shim, &source])
        .arg("-ldl")
        .status();
    assert!(compiled.expect("a C compiler, `cc`, is there").success(), "shim.c compiles");
    shim
}

impl Stage {
    pub async fn build(root: &Path, shim: &Path, number: usize, thorough: bool) -> Stage {
        let offset = Arc::new(AtomicI64::new(0));
        let (system, shown) = (WorldClock::system(), offset.clone());
        let clock = WorldClock::by(move || system.now() + shown.load(Ordering::SeqCst));
        let root = root.join(format!("stage-{number}"));
        let world = World::builder().orgs(&[]).clock(clock).with_s3().directory(&root).start().await;
        Stage { world, offset, shim: shim.to_owned(), root, number, played: 0, thorough }
    }

    /// An organization that nobody has read yet.
    pub fn play(&mut self) -> Play<'_> {
        self.played += 1;
        let id = format!("org-{}-{}", self.number, self.played);
        self.offset.store(0, Ordering::SeqCst);
        let now = self.world.clock.now();
        let then = now - BETWEEN;
        self.world.found(&id, Behaviour { page_size: 25, ..Behaviour::default() });
        let mut generator = Generator::seeded(7);
        let org = self.world.pulumi().org(&id);
        org.add(generator.spread(then - BACKLOG, then - 1_000, 30));
        org.add(generator.spread(then - 900, then - 60, 4));
        org.add(generator.twins(then - 30, 2));
        // Read too early, and found by looking again.
        org.add([generator.event(then - 1).late_by(60)]);
        org.add(generator.spread(then + 10, now - 1_000, 12));
        org.add(generator.spread(now - 800, now - 60, 3));
        org.add(generator.twins(now - 20, 2));
        let root = self.root.join(&id);
        fs::create_dir_all(root.join("config/orgs")).expect("a directory can be made");
        self.world.paths = Paths::below(&root);
        let since = rfc3339(then - BACKLOG);
        let mut setup = OrgSetup::new(&id).since(&since).with_sentinel().with_s3().with_file();
        // However slowly the first run gets going, the second still owes its last seconds another look.
        setup.more_source = "rescan_after = [\"10m\"]\n".to_owned();
        self.world.write_config(&[setup], "");
        Play { stage: self, id, now, runs: 0 }
    }

    /// Empties the bucket.
    pub async fn sweep_up(&self) {
        let bucket = &self.world.s3().bucket;
        for key in bucket.keys(&format!("{PREFIX}/")).await {
            bucket.delete(&key).await;
        }
    }
}

fn port(url: &str) -> u16 {
    let port = url.trim_end_matches('/').rsplit(':').next().and_then(|port| port.parse().ok());
    port.unwrap_or_else(|| panic!("{url} has a port"))
}

impl Play<'_> {
    pub fn paths(&self) -> &Paths {
        &self.stage.world.paths
    }

    pub fn addresses(&self) -> Addresses {
        let (world, paths) = (&self.stage.world, self.paths());
        Addresses {
            directories: [(Place::Journal, paths.state.clone()), (Place::File, paths.archive_of(&self.id))],
            ports: [
                (Place::Pulumi, port(&world.pulumi_url())),
                (Place::Entra, port(&world.entra_url())),
                (Place::Azure, port(&world.ingestion_url())),
                (Place::S3, port(&world.s3().endpoint())),
            ],
        }
    }

    pub fn set_time(&self, act: Act) {
        let offset = if act == Act::First { -BETWEEN } else { 0 };
        self.stage.offset.store(offset, Ordering::SeqCst);
    }

    /// What `shim.c` is told in the environment, and where it writes.
    pub fn variables(&mut self, fate: Option<&Fate>) -> (Vec<(&'static str, String)>, PathBuf) {
        self.runs += 1;
        let log = self.paths().root.join(format!("calls-{}", self.runs));
        let addresses = self.addresses();
        let directories =
            addresses.directories.iter().map(|(place, path)| format!("{}={}", place.name(), path.display()));
        let ports = addresses.ports.iter().map(|(place, port)| format!("{}={port}", place.name()));
        let places: Vec<String> = directories.chain(ports).collect();
        let mut variables = vec![
            ("LD_PRELOAD", self.stage.shim.display().to_string()),
            ("SWEEP_LOG", log.display().to_string()),
            ("SWEEP_PLACES", places.join(";")),
        ];
        if let Some(fate) = fate {
            variables.push(("SWEEP_PLACE", fate.place.name().to_owned()));
            variables.push(("SWEEP_NUMBER", fate.number.to_string()));
            variables.push(("SWEEP_FAULT", fate.fault.told().to_owned()));
            variables.push(("SWEEP_CALLS", fate.fault.calls().to_owned()));
            let file = fate.while_there.as_ref();
            variables.extend(file.map(|file| ("SWEEP_WHILE", file.display().to_string())));
        }
        (variables, log)
    }

    /// `run --once` under the shim, with or without a fault.
    pub async fn act(&mut self, act: Act, fate: Option<&Fate>) -> Ended {
        self.set_time(act);
        let (variables, log) = self.variables(fate);
        let mut command = self.command(&[]);
        command.envs(variables);
        let mut ended = self.finish(command).await;
        ended.calls = calls::read(&log);
        ended.log = Some(log);
        ended
    }

    /// The same under strace too, which writes to `trace`.
    pub async fn traced(&mut self, act: Act, trace: &Path) -> Ended {
        self.set_time(act);
        let (variables, log) = self.variables(None);
        let mut command = Command::new("strace");
        command.args(["-f", "-yy", "-s", "4096", "-e", &format!("trace={}", calls::TRACED), "-o"]).arg(trace);
        for (name, value) in variables {
            command.args(["-E", &format!("{name}={value}")]);
        }
        command.arg(binary());
        self.arguments(&mut command);
        let mut ended = self.finish(command).await;
        ended.calls = calls::read(&log);
        ended.log = Some(log);
        ended
    }

    /// The recovery: a run as anybody would start it.
    pub async fn recover(&mut self) -> Ended {
        self.set_time(Act::Second);
        let command = self.command(&[]);
        self.finish(command).await
    }

    /// `run --once`, through these words first (a shell that sets limits, say).
    pub fn command(&self, through: &[&str]) -> Command {
        let mut words: Vec<&std::ffi::OsStr> = through.iter().map(|word| word.as_ref()).collect();
        words.push(binary().as_os_str());
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        self.arguments(&mut command);
        command
    }

    fn arguments(&self, command: &mut Command) {
        command.arg("--config").arg(&self.paths().config);
        command.args(["--log-format", "json", "run", "--once", "--timeout", TIMEOUT]);
    }

    pub async fn finish(&self, mut command: Command) -> Ended {
        let said = self.paths().root.join("said");
        let file = File::create(&said).expect("a file can be made");
        let begun = Instant::now();
        let mut child: Child = command
            .env_remove("HTTPS_PROXY")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let status = timeout(LONGEST, child.wait()).await;
        let said = fs::read_to_string(said).unwrap_or_default();
        let status = status.unwrap_or_else(|_| panic!("it hangs: {said}")).expect("it can be waited for");
        Ended { status, took: begun.elapsed(), said, calls: Vec::new(), log: None }
    }

    /// Removes what the next story does not need.
    pub async fn clear(self) {
        fs::remove_dir_all(&self.paths().root).expect("the story's directory can be removed");
        self.stage.sweep_up().await;
    }
}
