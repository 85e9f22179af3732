//! What the daemon tells systemd, over a real socket.

use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::slice::from_ref;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::sleep;

use super::{binary, complete, recent};
use crate::world::World;
use crate::world::daemon::{Daemon, until};
use crate::world::pulumi::events::Generator;

/// The place where systemd listens: each message as it came.
pub(super) struct Manager {
    pub(super) socket: PathBuf,
    heard: Arc<Mutex<Vec<String>>>,
}

impl Manager {
    /// Listens in a directory of its own below the world's.
    pub(super) fn listens(world: &World) -> Manager {
        let folder = world.paths.root.join("run");
        std::fs::create_dir_all(&folder).expect("a directory can be made");
        let socket = folder.join("notify");
        let listener = UnixDatagram::bind(&socket).expect("a socket can be made");
        // As systemd's own, which everybody may write to.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(&socket, open).expect("its mode can be set");
        let heard = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&heard);
        std::thread::spawn(move || {
            let mut message = vec![0; 64 * 1024];
            while let Ok(length) = listener.recv(&mut message) {
                let text = String::from_utf8_lossy(&message[..length]).into_owned();
                into.lock().expect("nobody panics with it").push(text);
            }
        });
        Manager { socket, heard }
    }

    /// What it is told to the daemon as its environment, with the time that systemd waits for a sign of life.
    pub(super) fn variables(&self, watchdog: Duration) -> Vec<(&'static str, String)> {
        vec![
            ("NOTIFY_SOCKET", self.socket.display().to_string()),
            ("WATCHDOG_USEC", watchdog.as_micros().to_string()),
        ]
    }

    pub(super) fn heard(&self) -> Vec<String> {
        self.heard.lock().expect("nobody panics with it").clone()
    }

    /// What was said without signs of life, one of these after the other: its first word.
    fn course(&self) -> Vec<String> {
        let heard = self.heard();
        let words = heard.iter().map(|message| message.lines().next().unwrap_or_default().to_owned());
        words.filter(|word| !word.starts_with("WATCHDOG") && !word.starts_with("STATUS")).collect()
    }

    /// The last line on how things stand.
    pub(super) fn status(&self) -> String {
        let heard = self.heard();
        let lines = heard.iter().rev().flat_map(|message| message.lines());
        lines.filter_map(|line| line.strip_prefix("STATUS=")).next().unwrap_or_default().to_owned()
    }

    fn fed(&self) -> usize {
        self.heard().iter().filter(|message| message.contains("WATCHDOG=1")).count()
    }

    pub(super) async fn has_heard(&self, word: &str, times: usize) {
        until(&format!("{word} is told {times} times: {:?}", self.heard()), async || {
            self.course().iter().filter(|heard| heard.as_str() == word).count() >= times
        })
        .await;
    }

    /// Waits until it was fed so many more times.
    pub(super) async fn is_fed(&self, times: usize) {
        let before = self.fed();
        until(&format!("the watchdog is fed {times} times"), async || self.fed() >= before + times).await;
    }

    async fn status_holds(&self, part: &str) {
        until(&format!("the status says `{part}`"), async || self.status().contains(part)).await;
    }
}

fn start(world: &World, manager: &Manager, watchdog: Duration) -> Daemon {
    let variables = manager.variables(watchdog);
    let variables: Vec<_> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    Daemon::start_in(binary(), &world.paths.config, &world.paths.root.join("log"), &["run"], &variables)
}

#[tokio::test(flavor = "multi_thread")]
async fn systemd_is_told_in_order_what_begins_reloads_fails_and_ends_while_azure_is_away() {
    let world = World::with_events(20).await;
    world.azure().goes_away().await;
    let acme = recent(&world, "acme").with_file().with_sentinel();
    world.write_config(from_ref(&acme), "");
    let manager = Manager::listens(&world);
    let mut daemon = start(&world, &manager, Duration::from_secs(4));
    manager.has_heard("READY=1", 1).await;
    let (code, _) = daemon.get("/livez").await.expect("the admin endpoints are open when it is ready");
    assert_eq!(code, 200);
    let ready = manager.heard().into_iter().find(|message| message.starts_with("READY=1"));
    let ready = ready.expect("it was heard");
    assert!(ready.contains("\nSTATUS=1 org, 1 "), "{ready}");

    // An outage over there is no reason to be started again.
    manager.status_holds("1 org, 1 waiting (backoff)").await;
    manager.is_fed(3).await;

    daemon.signal("HUP");
    manager.has_heard("READY=1", 2).await;
    let file = world.paths.orgs.join("acme.toml");
    let written = std::fs::read_to_string(&file).expect("it was written");
    let refused = "the changed configuration is refused, and the one before stays in force";
    std::fs::write(&file, format!("nonsense = 1\n{written}")).expect("it can be written");
    daemon.signal("HUP");
    manager.has_heard("READY=1", 3).await;
    manager.status_holds(refused).await;
    std::fs::write(&file, &written).expect("it can be written");
    daemon.signal("HUP");
    manager.has_heard("READY=1", 4).await;
    until("the refusal is over", async || !manager.status().contains(refused)).await;

    let token = world.pulumi().org("acme").rotate_token();
    manager.status_holds("1 org, 1 paused (credentials)").await;
    manager.is_fed(2).await;
    world.paths.write_secret("acme-token", &token);
    world.azure().comes_back();
    complete(&world, &acme).await;
    manager.status_holds("1 org, 1 delivering; delivered until 20").await;
    assert!(daemon.stop().await.success());
    manager.has_heard("STOPPING=1", 1).await;

    let reload = ["RELOADING=1", "READY=1"];
    assert_eq!(manager.course(), [&["READY=1"], &reload[..], &reload, &reload, &["STOPPING=1"]].concat());
    for message in manager.heard() {
        assert!(message.len() < 600, "{message}");
        for line in message.lines() {
            let (key, value) = line.split_once('=').expect("each line is an assignment");
            let known = ["READY", "RELOADING", "MONOTONIC_USEC", "STOPPING", "STATUS", "WATCHDOG"];
            assert!(known.contains(&key), "{line}");
            assert!(!value.contains(|c: char| c.is_control()) && !value.contains(&token), "{line}");
        }
        if message.contains("RELOADING=1") {
            // systemd 253 and newer want to know since when.
            assert!(message.contains("\nMONOTONIC_USEC="), "{message}");
        }
        if message.contains("READY=1") {
            assert!(message.contains("\nSTATUS="), "what it is ready with: {message}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watchdog_of_another_process_is_not_fed_and_without_systemd_nothing_is_told() {
    let world = World::with_events(5).await;
    let acme = recent(&world, "acme").with_file();
    world.write_config(from_ref(&acme), "");
    let manager = Manager::listens(&world);
    let socket = manager.socket.display().to_string();
    let others = [("NOTIFY_SOCKET", socket.as_str()), ("WATCHDOG_USEC", "200000"), ("WATCHDOG_PID", "1")];
    let log = world.paths.root.join("log");
    let mut daemon = Daemon::start_in(binary(), &world.paths.config, &log, &["run"], &others);
    manager.has_heard("READY=1", 1).await;
    manager.status_holds("1 delivering").await;
    assert!(daemon.stop().await.success());
    assert_eq!(manager.fed(), 0);

    let told = manager.heard().len();
    let mut daemon =
        Daemon::start_in(binary(), &world.paths.config, &log, &["run"], &[("NOTIFY_SOCKET", "")]);
    complete(&world, &acme).await;
    until("it is served", async || daemon.get("/readyz").await.is_some_and(|(code, _)| code == 200)).await;
    assert!(daemon.stop().await.success());
    assert_eq!(manager.heard().len(), told);
}

/// Threads of a process that stand still, as on a disk that does not answer, or in a loop that does not end. Dropped, they go on.
struct Stopped(Child);

impl Stopped {
    /// Every thread of this name.
    async fn threads(daemon: &Daemon, name: &str) -> Stopped {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/deploy/unit/stop_threads.py");
        let mut child = Command::new("python3")
            .args([script, &daemon.pid().to_string(), name])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("Python is there");
        let mut out = child.stdout.take().expect("it is piped");
        let said = tokio::task::spawn_blocking(move || {
            let mut said = [0; 7];
            std::io::Read::read_exact(&mut out, &mut said).map(|()| said)
        });
        let said = said.await.expect("it does not panic").expect("the threads stand still: it takes root");
        assert_eq!(&said, b"stopped");
        Stopped(child)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // It waits for the end of what it is told.
        drop(self.0.stdin.take());
        self.0.wait().expect("it can be waited for");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_watchdog_starves_while_the_journal_or_the_runtime_stands_still_and_a_restart_loses_nothing() {
    const WATCHDOG: Duration = Duration::from_secs(6);
    let world = World::with_events(20).await;
    let acme = recent(&world, "acme").with_file().with_sentinel();
    world.write_config(from_ref(&acme), "");
    let manager = Manager::listens(&world);
    let mut daemon = start(&world, &manager, WATCHDOG);
    complete(&world, &acme).await;
    manager.is_fed(2).await;

    let withheld =
        |daemon: &Daemon| daemon.log().matches("the service manager's watchdog is not fed").count();
    for (thread, part) in [("journal", "journal"), ("tokio-rt-worker", "runtime")] {
        let before = withheld(&daemon);
        let stopped = Stopped::threads(&daemon, thread).await;
        until(&format!("it is said that {part} stands still"), async || withheld(&daemon) > before).await;
        let said = daemon.log();
        let said = said.lines().rfind(|line| line.contains("watchdog is not fed")).expect("it was said");
        assert!(said.contains(part) && said.contains("ERROR"), "{said}");
        if thread == "journal" {
            // Whoever asks hears the same.
            let (code, text) = daemon.get("/livez").await.expect("the endpoints still answer");
            assert_eq!((code, text.contains("journal makes no progress")), (503, true), "{text}");
        }
        let fed = manager.fed();
        // It would have been fed twice.
        sleep(WATCHDOG / 2).await;
        assert_eq!(manager.fed(), fed, "{part} stands still");
        assert_eq!(withheld(&daemon), before + 1, "once");
        drop(stopped);
        manager.is_fed(1).await;
    }

    // The journal stands still again, with events on the way, and systemd does what it does then.
    let stopped = Stopped::threads(&daemon, "journal").await;
    let now = world.clock.now();
    world.pulumi().org("acme").add(Generator::seeded(7).spread(now - 60, now - 1, 30));
    daemon.signal("ABRT");
    drop(stopped);
    assert!(!daemon.ended().await.success());
    let mut daemon = start(&world, &manager, WATCHDOG);
    complete(&world, &acme).await;
    world.check_file("acme").assert_complete();
    world.check_sentinel("acme").assert_complete();
    assert!(daemon.stop().await.success());
}
