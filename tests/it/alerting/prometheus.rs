//! Debian's Prometheus: the server as a child process, asked over its API, and promtool.

use std::fs;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::{Value, json};

use crate::referees::tool;
use crate::world::daemon::until;

/// A running server. What its shell reads is the life line: when this process ends, however it ends, the server does.
pub(crate) struct Prometheus {
    _keeper: Child,
    log: PathBuf,
    address: String,
    /// One for all questions: to make one takes longer than to ask.
    client: reqwest::Client,
}

impl Prometheus {
    /// Starts it in a directory of its own; it scrapes `target` and evaluates `rules` every second.
    pub(crate) async fn start(directory: &Path, target: &str, rules: &Value) -> Prometheus {
        fs::create_dir_all(directory).expect("a directory can be made");
        // JSON is YAML.
        fs::write(directory.join("rules.yml"), rules.to_string()).expect("rules can be written");
        let config = json!({
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": ["rules.yml"],
            "scrape_configs": [{"job_name": "paf", "static_configs": [{"targets": [target]}]}],
        });
        let file = directory.join("prometheus.yml");
        fs::write(&file, config.to_string()).expect("the configuration can be written");
        let log = directory.join("log");
        let keep = r#"log="$1"; shift; "$@" >"$log" 2>&1 </dev/null & server=$!
            while read -r _; do :; done; kill -9 "$server"; wait "$server" 2>/dev/null"#;
        let keeper = Command::new("sh")
            .args(["-c", keep, "keeper"])
            .arg(&log)
            .arg(tool("prometheus/usr/bin/prometheus"))
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", directory.join("data").display()))
            .args(["--web.listen-address=127.0.0.1:0", "--log.format=json"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("a shell can be started");
        let client = reqwest::Client::builder().no_proxy().build().expect("a client can be made");
        let mut server = Prometheus { _keeper: keeper, log, address: String::new(), client };
        until("Prometheus is ready", async || {
            server.address = server.said_address().unwrap_or_default();
            server.get("/-/ready").await.is_some()
        })
        .await;
        server
    }

    fn said_address(&self) -> Option<String> {
        fs::read_to_string(&self.log).ok()?.lines().find_map(|line| {
            let line: Value = serde_json::from_str(line).ok()?;
            let address = (line["msg"] == "Listening on").then(|| line["address"].as_str())??;
            Some(address.to_owned())
        })
    }

    /// Where it can be asked.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    async fn get(&self, path_and_query: &str) -> Option<String> {
        let answer = self.client.get(format!("{}{path_and_query}", self.url())).send().await.ok()?;
        let good = answer.status().is_success();
        let text = answer.text().await.ok()?;
        assert!(good || !path_and_query.starts_with("/api/"), "{path_and_query}: {text}");
        good.then_some(text)
    }

    async fn api(&self, path_and_query: &str) -> Value {
        let text = self.get(path_and_query).await.expect("Prometheus answers");
        let mut answer: Value = serde_json::from_str(&text).expect("it answers in JSON");
        answer["data"].take()
    }

    /// The series that an expression comes to now: labels and value.
    pub(crate) async fn query(&self, expression: &str) -> Vec<Value> {
        let query: String = expression.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let data = self.api(&format!("/api/v1/query?query={query}")).await;
        data["result"].as_array().cloned().unwrap_or_default()
    }

    /// Every rule as it was last evaluated.
    pub(crate) async fn rules(&self) -> Vec<Value> {
        let data = self.api("/api/v1/rules").await;
        let groups = data["groups"].as_array().cloned().unwrap_or_default();
        groups.iter().filter_map(|group| group["rules"].as_array().cloned()).flatten().collect()
    }

    /// Alerts of a name that fire: labels and annotations.
    pub(crate) async fn firing(&self, name: &str) -> Vec<Value> {
        let data = self.api("/api/v1/alerts").await;
        let alerts = data["alerts"].as_array().cloned().unwrap_or_default();
        let is_meant = |alert: &Value| alert["labels"]["alertname"] == name && alert["state"] == "firing";
        alerts.into_iter().filter(is_meant).collect()
    }
}

/// Runs promtool to its end.
pub(crate) fn promtool(arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(tool("prometheus/usr/bin/promtool"))
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool starts");
    let mut given = child.stdin.take().expect("its input is a pipe");
    given.write_all(input.as_bytes()).expect("it reads");
    drop(given);
    child.wait_with_output().expect("promtool ends")
}

/// A YAML file of ours, as a parser that others wrote has it.
pub(crate) fn yaml(path: &str) -> Value {
    let program = "import json, sys, yaml; json.dump(yaml.safe_load(open(sys.argv[1])), sys.stdout)";
    let output = Command::new(tool("venv/bin/python"))
        .args(["-c", program, path])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("Python starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("it is JSON")
}
