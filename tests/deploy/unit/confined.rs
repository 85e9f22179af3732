//! The daemon under the restrictions of its unit, which `service.py` takes from the unit file line by line: that it can do everything
//! it must, also when things go wrong, and that the restrictions are there.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::slice::from_ref;
use std::time::Duration;

use super::telling::Manager;
use super::{binary, complete, deploy, recent};
use crate::world::World;
use crate::world::daemon::{Daemon, until};
use crate::world::ingestion;
use crate::world::pulumi::behaviour::Fault;
use crate::world::pulumi::events::Generator;
use crate::world::s3;
use crate::world::script::Times;
use crate::world::setup::OrgSetup;
use crate::world::verdict::RetryAfter;

/// The service's user here.
const USER: u32 = 61_234;
const WATCHDOG: Duration = Duration::from_secs(20);

/// The daemon's files of a world in the places that the unit names, and the program that starts it there.
struct Installed<'a> {
    world: &'a World,
    manager: Manager,
    starts: PathBuf,
}

impl Installed<'_> {
    /// `spoiled` are options of `service.py`.
    fn of<'a>(world: &'a World, orgs: &[OrgSetup], spoiled: &[&str]) -> Installed<'a> {
        world.write_config(orgs, "");
        let paths = &world.paths;
        let config = paths.config.parent().expect("it lies in a directory");
        fs::copy(world.ca_pem(), config.join("ca.pem")).expect("the certificate can be copied");
        let root = paths.root.join("installed");
        fs::create_dir_all(&root).expect("a directory can be made");
        for (name, target) in [("etc", config), ("credentials", &paths.secrets), ("state", &paths.state)] {
            symlink(target, root.join(name)).expect("a link can be made");
        }
        chown(&paths.state, Some(USER), Some(USER)).expect("the tests of the unit take root");
        let installed =
            Installed { world, manager: Manager::listens(world), starts: paths.root.join("start") };
        for file in installed.config_files() {
            installed.settle(&file);
        }
        let unit = deploy().join("pulumi-audit-forwarder.service");
        let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/deploy/unit/service.py");
        // Python as Debian has it: the library's binding is installed for no other one.
        let script = format!(
            "#!/bin/sh\nexec /usr/bin/python3 {program} {} --root {} --binary {} --uid {USER} {}\n",
            unit.display(),
            root.display(),
            binary().display(),
            spoiled.join(" "),
        );
        fs::write(&installed.starts, script).expect("it can be written");
        fs::set_permissions(&installed.starts, fs::Permissions::from_mode(0o700)).expect("it can be run");
        installed
    }

    fn config_files(&self) -> Vec<PathBuf> {
        let paths = &self.world.paths;
        let orgs = fs::read_dir(&paths.orgs).expect("it is there").flatten().map(|entry| entry.path());
        orgs.chain([paths.config.clone()]).collect()
    }

    /// Names everything in a file by its place on the machine: no state directory but systemd's, secrets as credentials, and the
    /// service by a name that has to be looked up.
    fn settle(&self, file: &Path) {
        let paths = &self.world.paths;
        let text = fs::read_to_string(file).expect("it was written");
        let text: String = text
            .lines()
            .filter(|line| !line.starts_with("state_dir"))
            .map(|line| match line.strip_prefix("api_url = \"http://127.0.0.1") {
                Some(rest) => format!("api_url = \"http://localhost{rest}\n"),
                None => format!("{line}\n"),
            })
            .collect();
        let text = text
            .replace(
                &format!("{}/", paths.secrets.display()),
                "/run/credentials/pulumi-audit-forwarder.service/secret_",
            )
            .replace(&self.world.ca_pem().display().to_string(), "/etc/pulumi-audit-forwarder/ca.pem");
        fs::write(file, text).expect("it can be written");
        fs::set_permissions(file, fs::Permissions::from_mode(0o644)).expect("its mode can be set");
    }

    fn start(&self) -> Daemon {
        let variables = self.manager.variables(WATCHDOG);
        let variables: Vec<_> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let paths = &self.world.paths;
        Daemon::start_in(&self.starts, &paths.config, &paths.root.join("log"), &["run"], &variables)
    }
}

/// A line of `/proc/PID/status`.
fn told_by_the_kernel(daemon: &Daemon, key: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).expect("it runs");
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).expect("it is there");
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[tokio::test(flavor = "multi_thread")]
async fn under_the_units_own_restrictions_every_event_arrives_through_faults_of_every_family() {
    let world = World::builder().with_s3().events(200).start().await;
    let acme = recent(&world, "acme").with_s3().with_sentinel();
    let installed = Installed::of(&world, from_ref(&acme), &[]);
    let mut generator = Generator::seeded(9);
    let mut more = |count| {
        let now = world.clock.now();
        world.pulumi().org("acme").add(generator.spread(now - 300, now - 1, count));
    };
    let mut daemon = installed.start();
    installed.manager.has_heard("READY=1", 1).await;
    for (key, value) in [
        ("Uid", format!("{USER} {USER} {USER} {USER}").as_str()),
        ("Groups", ""),
        ("NoNewPrivs", "1"),
        ("Seccomp", "2"),
        ("Umask", "0077"),
        ("CapEff", "0000000000000000"),
        ("CapBnd", "0000000000000000"),
        ("CapAmb", "0000000000000000"),
    ] {
        assert_eq!(told_by_the_kernel(&daemon, key), value, "{key}");
    }
    complete(&world, &acme).await;

    // H, G: answers that never come after everything was stored, and services that are busy.
    let busy =
        ingestion::Fault::Status { status: 503, code: "ServiceUnavailable", retry_after: RetryAfter::None };
    world.ingestion().fault(busy, Times::Next(2));
    world.azure().loses_answers(1);
    world.s3().loses_replies(2);
    world.s3().fault(s3::proxy::Scope::any(), s3::proxy::Fault::slow_down(), Times::After(2, 1));
    more(120);
    complete(&world, &acme).await;

    // A, E: the source refuses, and answers slowly; then the process dies without warning, with events on the way.
    let refused = Fault::Status { code: 500, message: "trouble".to_owned(), retry_after: RetryAfter::None };
    world.pulumi().fault("acme", refused, Times::Next(2));
    more(120);
    until("some of it is on its way", async || {
        let lost = world.check_sentinel("acme").lost.len();
        lost < 120
    })
    .await;
    daemon.kill();
    let mut daemon = installed.start();
    installed.manager.has_heard("READY=1", 2).await;
    complete(&world, &acme).await;

    // J: a changed file is taken up, a mistake is refused, and systemd hears how it ended.
    let file = world.paths.orgs.join("acme.toml");
    let written = fs::read_to_string(&file).expect("it was written");
    fs::write(&file, format!("nonsense = 1\n{written}")).expect("it can be written");
    daemon.signal("HUP");
    installed.manager.has_heard("READY=1", 3).await;
    until("the refusal is told", async || installed.manager.status().contains("is refused")).await;
    fs::write(&file, written.replace("[source]", "[source]\npoll_interval = \"2s\""))
        .expect("it can be written");
    daemon.signal("HUP");
    installed.manager.has_heard("READY=1", 4).await;
    until("the change is in force", async || daemon.log().contains("the configuration was reloaded")).await;

    // F: the token is refused, and another one is put in its place; a credential of systemd counts from a restart on.
    let token = world.pulumi().org("acme").rotate_token();
    until("the pause is told", async || installed.manager.status().contains("1 paused (credentials)")).await;
    more(60);
    world.paths.write_secret("acme-token", &token);
    assert!(daemon.stop().await.success());
    let mut daemon = installed.start();
    complete(&world, &acme).await;

    // What the alerts and dashboards are made of.
    let (_, page) = daemon.get("/metrics").await.expect("it is served");
    for name in ["process_start_time_seconds", "process_open_fds", "process_max_fds", "process_threads"] {
        let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let value: f64 = line.and_then(|value| value.parse().ok()).expect("it is there");
        assert!(value > 0.0, "{name} is {value}");
    }
    installed.manager.is_fed(1).await;
    assert!(daemon.stop().await.success());
    world.check_sentinel("acme").assert_complete();
    world.check_s3("acme").await.assert_complete();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_what_the_unit_allows_the_daemon_does_not_start() {
    let world = World::with_events(5).await;
    let acme = recent(&world, "acme").with_sentinel();
    for (spoiled, said) in [
        // No calls of the network at all, and no Internet: nothing can be served or read.
        (["--without", "@network-io"], "panicked"),
        (["--set", "RestrictAddressFamilies=AF_UNIX"], "Address family not supported"),
    ] {
        let installed = Installed::of(&world, from_ref(&acme), &spoiled);
        let mut daemon = installed.start();
        assert!(!daemon.ended().await.success(), "{spoiled:?}");
        assert!(daemon.log().contains(said), "{spoiled:?}: {}", daemon.log());
        for left in ["installed", "run"] {
            fs::remove_dir_all(world.paths.root.join(left)).expect("it can be removed");
        }
    }
}

/// What a shell in the place of the daemon may do; each act says `can` or `cannot`.
#[test]
fn the_restrictions_are_those_of_the_unit() {
    let folder = tempfile::tempdir().expect("a directory can be made");
    for name in ["etc", "credentials", "state"] {
        fs::create_dir(folder.path().join(name)).expect("a directory can be made");
    }
    chown(folder.path().join("state"), Some(USER), Some(USER)).expect("the tests of the unit take root");
    let state = "/var/lib/pulumi-audit-forwarder";
    let python = |code: &str| format!("/usr/bin/python3 -c '{code}'");
    let acts = [
        ("write the state", true, format!("touch {state}/x")),
        ("write below /tmp", true, "touch /tmp/x".to_owned()),
        ("write elsewhere", false, "touch /etc/x || touch /var/x || touch /usr/x || touch /srv/x".to_owned()),
        ("see homes", false, "ls /root || ls /home".to_owned()),
        ("see processes of others", false, "ls -d /proc/1".to_owned()),
        ("see devices", false, "ls /dev/kmsg || ls /dev/mem || ls /dev/vda".to_owned()),
        ("change the kernel", false, "echo 1 > /proc/sys/vm/drop_caches".to_owned()),
        ("open a network socket", true, python("import socket; socket.socket(socket.AF_INET6)")),
        ("open a raw socket", false, python("import socket; socket.socket(socket.AF_PACKET)")),
        ("make a namespace", false, "unshare --user true".to_owned()),
        ("mount", false, "mount -t tmpfs x /tmp".to_owned()),
        ("make memory executable", false, python("import mmap; mmap.mmap(-1, 4096, prot=7)")),
        ("become somebody else", false, python("import os; os.setuid(0)")),
        ("make a file that lends rights", false, format!("touch {state}/y; chmod u+s {state}/y")),
        ("trace", false, python("import ctypes, sys; sys.exit(ctypes.CDLL(None).ptrace(0, 0, 0, 0) < 0)")),
        ("set the clock", false, "date -s 2020-01-01".to_owned()),
        (
            "load a module",
            false,
            python("import ctypes, sys; sys.exit(ctypes.CDLL(None).syscall(313, -1, 0, 0) < 0)"),
        ),
        ("take realtime", false, "chrt --fifo 1 true".to_owned()),
    ];
    let script: String = acts
        .iter()
        .map(|(name, _, act)| {
            format!("if ( {act} ) >/dev/null 2>&1; then echo can {name}; else echo cannot {name}; fi\n")
        })
        .collect();
    fs::write(folder.path().join("etc/acts"), script).expect("it can be written");
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/deploy/unit/service.py");
    let said = std::process::Command::new("/usr/bin/python3")
        .arg(program)
        .arg(deploy().join("pulumi-audit-forwarder.service"))
        .args(["--root", &folder.path().to_string_lossy(), "--binary", "/bin/dash"])
        .args(["--set", "ExecStart=/usr/bin/pulumi-audit-forwarder /etc/pulumi-audit-forwarder/acts"])
        .output()
        .expect("Python is there");
    let expected: String = acts
        .iter()
        .map(|(name, can, _)| format!("{} {name}\n", if *can { "can" } else { "cannot" }))
        .collect();
    assert_eq!(String::from_utf8_lossy(&said.stdout), expected, "{}", String::from_utf8_lossy(&said.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_mebibytes_and_a_few_threads_are_enough_for_ten_orgs_and_fewer_are_refused_clearly() {
    let names: Vec<String> = (0..10).map(|n| format!("org-{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let world = World::builder().orgs(&names).events(40).start().await;
    let orgs: Vec<OrgSetup> = names.iter().map(|name| recent(&world, name).with_sentinel()).collect();
    let installed = Installed::of(&world, &orgs, &["--set", "MemoryMax=64M", "--set", "TasksMax=16"]);
    let mut daemon = installed.start();
    for org in &orgs {
        complete(&world, org).await;
    }
    assert!(daemon.stop().await.success());
    for left in ["installed", "run"] {
        fs::remove_dir_all(world.paths.root.join(left)).expect("it can be removed");
    }
    let installed = Installed::of(&world, &orgs, &["--set", "TasksMax=2"]);
    let mut daemon = installed.start();
    assert_eq!(daemon.ended().await.code(), Some(1));
    assert!(
        daemon.log().contains("the system gives no threads: raise the limit of processes"),
        "{}",
        daemon.log()
    );
}
