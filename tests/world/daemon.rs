//! The real binary as a child process: started, asked, signalled and killed.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long anything that must happen may take before a test fails.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How often the world is looked at while waiting.
const LOOK: Duration = Duration::from_millis(20);

/// A running forwarder. Killed when dropped.
pub struct Daemon {
    child: Child,
    log: PathBuf,
    admin: Option<String>,
}

impl Daemon {
    /// Starts `binary run` with a configuration; standard error goes to a file of its own, standard output to one beside it.
    pub fn start(binary: &Path, config: &Path, log: &Path) -> Daemon {
        Self::start_with(binary, config, log, &["run"])
    }

    /// The same with other arguments after the global ones.
    pub fn start_with(binary: &Path, config: &Path, log: &Path, arguments: &[&str]) -> Daemon {
        Self::start_in(binary, config, log, arguments, &[])
    }

    /// The same with environment variables.
    pub fn start_in(
        binary: &Path,
        config: &Path,
        log: &Path,
        arguments: &[&str],
        variables: &[(&str, &str)],
    ) -> Daemon {
        let file = File::create(log).expect("the log file can be made");
        let out = File::create(log.with_extension("out")).expect("its neighbour can be made");
        let child = Command::new(binary)
            .arg("--config")
            .arg(config)
            .args(["--log-format", "json"])
            .args(arguments)
            .env_remove("HTTPS_PROXY")
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(file)
            .spawn()
            .expect("the binary starts");
        Daemon { child, log: log.to_owned(), admin: None }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Everything it has written to standard output.
    pub fn out(&self) -> String {
        std::fs::read_to_string(self.log.with_extension("out")).unwrap_or_default()
    }

    /// The admin address, from the log, once it is served.
    pub fn admin(&mut self) -> Option<String> {
        if self.admin.is_none() {
            self.admin = self.log().lines().find_map(|line| {
                let line: Value = serde_json::from_str(line).ok()?;
                let fields = line.get("fields").unwrap_or(&line);
                Some(fields.get("address")?.as_str()?.to_owned())
            });
        }
        self.admin.clone()
    }

    /// One admin endpoint: status and body. `None` while it is not served.
    pub async fn get(&mut self, path: &str) -> Option<(u16, String)> {
        let address = self.admin()?;
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(5)).build().ok()?;
        let answer = client.get(format!("http://{address}{path}")).send().await.ok()?;
        let status = answer.status().as_u16();
        Some((status, answer.text().await.ok()?))
    }

    /// `/api/status`.
    pub async fn status(&mut self) -> Option<Value> {
        let (_, body) = self.get("/api/status").await?;
        serde_json::from_str(&body).ok()
    }

    /// Ends it without warning.
    pub fn kill(&mut self) {
        self.child.kill().expect("it can be killed");
        self.child.wait().expect("it can be waited for");
    }

    /// SIGTERM, then waits for the end.
    pub async fn stop(&mut self) -> ExitStatus {
        self.signal("TERM");
        self.ended().await
    }

    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").arg(format!("-{name}")).arg(self.pid().to_string()).status();
        assert!(status.expect("kill runs").success());
    }

    pub fn has_ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("it can be asked")
    }

    pub async fn ended(&mut self) -> ExitStatus {
        let mut status = None;
        until("the daemon ends", async || {
            status = self.has_ended();
            status.is_some()
        })
        .await;
        status.expect("it has ended")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.has_ended().is_none() {
            self.kill();
        }
    }
}

/// Waits until something is true, looking often; panics with `what` when it never comes.
pub async fn until(what: &str, holds: impl AsyncFnMut() -> bool) {
    until_within(PATIENCE, what, holds).await;
}

/// The same for what takes longer by design.
pub async fn until_within(patience: Duration, what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < patience, "not within {patience:?}: {what}");
        tokio::time::sleep(LOOK).await;
    }
}
