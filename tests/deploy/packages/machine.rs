//! A machine to install something on: this one's files with changes of its own, and systemd as its first process.
//!
//! *Why not a container image:* a base would be made from packages first, for minutes. What the test installs, starts and removes is seen by nobody
//! outside, and ends with the machine; the network is shared, so the world on loopback is within reach.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use crate::world::daemon::until;

pub(super) struct Machine {
    child: Child,
    init: u32,
}

/// What a command inside said, standard error included.
pub(super) struct Said {
    pub(super) ok: bool,
    pub(super) text: String,
}

impl Machine {
    /// Starts it, and waits until its services can be started. `directory` is where its changes are kept, in memory.
    pub(super) async fn start(directory: &Path) -> Machine {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/deploy/packages/machine.sh");
        let said = directory.join("said");
        let child = as_root(&[&script.to_string_lossy(), &directory.to_string_lossy()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&said).expect("what it says can be kept"))
            .spawn()
            .expect("the machine's first process starts");
        let mut machine = Machine { child, init: 0 };
        until("the machine's services can be started", async || {
            assert!(
                machine.child.try_wait().expect("it can be asked").is_none(),
                "the machine could not be made"
            );
            machine.init = machine.first_process().unwrap_or(0);
            machine.init != 0 && machine.run("systemctl is-active sysinit.target").ok
        })
        .await;
        machine
    }

    /// The process that is number one inside, once it is systemd: before that, mounts are still being made.
    fn first_process(&self) -> Option<u32> {
        // sudo, where there is one, has the machine as a child of its own.
        let mut pid = self.child.id();
        for _ in 0..4 {
            if fs::read_to_string(format!("/proc/{pid}/comm")).ok()?.trim() == "systemd" {
                return Some(pid);
            }
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
            pid = children.split_whitespace().next()?.parse().ok()?;
        }
        None
    }

    /// Runs a shell's text inside, as root.
    pub(super) fn run(&self, script: &str) -> Said {
        let target = self.init.to_string();
        let output: Output =
            as_root(&["nsenter", "--target", &target, "--mount", "--pid", "--uts", "--ipc", "--cgroup"])
                .args(["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "SYSTEMD_PAGER="])
                .args(["timeout", "--kill-after=5", "90", "sh", "-c", &format!("exec 2>&1; {script}")])
                .stdin(Stdio::null())
                .output()
                .expect("a command can be run in the machine");
        Said { ok: output.status.success(), text: String::from_utf8_lossy(&output.stdout).into_owned() }
    }

    /// The same for what must succeed; answers what it said.
    #[track_caller]
    pub(super) fn does(&self, script: &str) -> String {
        let said = self.run(script);
        assert!(said.ok, "{script}\n{}\n{}", said.text, self.run("journalctl --no-pager -n 40").text);
        said.text
    }

    /// The same for what may fail; answers its only line.
    pub(super) fn says(&self, script: &str) -> String {
        self.run(script).text.trim().to_owned()
    }

    /// Copies a file in; it is root's.
    #[track_caller]
    pub(super) fn bring(&self, from: &Path, inside: &str) {
        let to = format!("/proc/{}/root{inside}", self.init);
        let copied = as_root(&["install", "-m", "644", "-o", "root", &from.to_string_lossy(), &to]).status();
        assert!(copied.is_ok_and(|status| status.success()), "{} can be copied to {inside}", from.display());
    }

    /// Copies a folder out, as it is at this moment, for anybody to read.
    pub(super) fn take(&self, inside: &str, to: &Path) {
        let from = format!("/proc/{}/root{inside}", self.init);
        let to = to.to_string_lossy();
        // A file may go while it is copied; who compares looks again.
        as_root(&["cp", "-r", &from, &to]).output().ok();
        as_root(&["chmod", "-R", "a+rwX", &to]).output().ok();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Its first process takes all others and the mounts with it.
        let ended = as_root(&["kill", "-KILL", &self.init.to_string()]).status();
        if self.init == 0 || !ended.is_ok_and(|status| status.success()) {
            self.child.kill().ok();
        }
        self.child.wait().ok();
    }
}

/// Namespaces with other users in them, and their packages, take root.
pub(super) fn as_root(words: &[&str]) -> Command {
    let mut command = Command::new("sudo");
    if rustix::process::geteuid().is_root() {
        command = Command::new(words[0]);
        command.args(&words[1..]);
    } else {
        command.arg("-n").args(words);
    }
    command
}
