//! The forwarder as a process under test: how these tests start it, ask it, and wait for what it does.

use std::process::Output;

use serde_json::Value;

use crate::delivery::binary;
use crate::world::World;
use crate::world::clock::{parse_rfc3339, rfc3339};
use crate::world::daemon::{Daemon, until};
use crate::world::setup::OrgSetup;

/// An org that is read from two hours ago on.
pub(crate) fn recent(world: &World, org: &str) -> OrgSetup {
    OrgSetup::new(org).since(&rfc3339(world.clock.now() - 7_200))
}

/// Writes the configuration and starts the daemon.
pub(crate) fn start(world: &World, orgs: &[OrgSetup]) -> Daemon {
    start_with(world, orgs, "")
}

/// The same with more lines in `forwarder.toml`.
pub(crate) fn start_with(world: &World, orgs: &[OrgSetup], more: &str) -> Daemon {
    world.write_config(orgs, more);
    again(world)
}

/// Starts the daemon on what is configured and stored.
pub(crate) fn again(world: &World) -> Daemon {
    Daemon::start(binary(), &world.paths.config, &world.paths.root.join("log"))
}

/// Another command with the same configuration, run to its end.
pub(crate) async fn command(world: &World, arguments: &[&str]) -> Output {
    bare(&[&["--config", &world.paths.config.to_string_lossy()], arguments].concat()).await
}

/// The same with the environment of AWS's own tools: nothing of this process's, a home below the world, and `variables`.
pub(crate) async fn command_in(world: &World, variables: &[(&str, &str)], arguments: &[&str]) -> Output {
    let mut command = tokio::process::Command::new(binary());
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("AWS_")) {
        command.env_remove(name);
    }
    command.arg("--config").arg(&world.paths.config).args(arguments);
    // Nothing may be asked beyond loopback; who simulates an instance says so.
    command.env("AWS_EC2_METADATA_DISABLED", "true");
    command.env("HOME", &world.paths.root).env_remove("HTTPS_PROXY").env_remove("HTTP_PROXY");
    command.envs(variables.iter().copied()).kill_on_drop(true);
    command.output().await.expect("the binary starts")
}

/// The binary with nothing but these arguments.
pub(crate) async fn bare(arguments: &[&str]) -> Output {
    let mut command = tokio::process::Command::new(binary());
    command.args(arguments).env_remove("PAF_CONFIG").kill_on_drop(true);
    command.output().await.expect("the binary starts")
}

pub(crate) fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Waits until everything that is due stands at every destination of the org, once.
pub(crate) async fn complete(world: &World, setup: &OrgSetup) {
    until(&format!("everything of {} has arrived", setup.org), async || is_complete(world, setup).await)
        .await;
}

pub(crate) async fn is_complete(world: &World, setup: &OrgSetup) -> bool {
    (!setup.sentinel || world.check_sentinel(&setup.org).is_complete())
        && (!setup.file || world.check_file(&setup.org).is_complete())
        && (!setup.s3 || world.check_s3(&setup.org).await.is_complete())
}

/// Fails with a report where anything is lost, doubled, altered or malformed. Rows may be there more than once, as documented,
/// as long as their keys say so.
#[track_caller]
pub(crate) fn assert_files_and_rows(world: &World, setup: &OrgSetup) {
    if setup.file {
        world.check_file(&setup.org).assert_complete();
    }
    if setup.sentinel {
        world.check_sentinel(&setup.org).assert_complete();
    }
}

/// The part of the status about one org.
pub(crate) async fn org(daemon: &mut Daemon, id: &str) -> Option<Value> {
    let status = daemon.status().await?;
    status["orgs"].as_array()?.iter().find(|org| org["id"] == id).cloned()
}

/// The part of the status about the source of an org, or about its lane to a destination.
pub(crate) async fn party(daemon: &mut Daemon, id: &str, party: &str) -> Option<Value> {
    let org = org(daemon, id).await?;
    if party == "source" {
        return Some(org["source"].clone());
    }
    org["lanes"].as_array()?.iter().find(|lane| lane["destination"] == party).cloned()
}

/// Waits until a source or a lane is paused for a reason, and answers its remedy.
pub(crate) async fn paused(daemon: &mut Daemon, id: &str, name: &str, reason: &str) -> String {
    let mut found = None;
    until(&format!("{name} of {id} is paused({reason})"), async || {
        found = party(daemon, id, name).await;
        found.as_ref().is_some_and(|party| party["state"] == "paused" && party["reason"] == reason)
    })
    .await;
    let found = found.expect("it was found");
    assert!(found["since"].is_string(), "a pause has an age: {found}");
    found["remedy"].as_str().expect("a pause has a remedy").to_owned()
}

/// Waits until a source or a lane is in order.
pub(crate) async fn works(daemon: &mut Daemon, id: &str, name: &str) {
    until(&format!("{name} of {id} is in order"), async || {
        party(daemon, id, name).await.is_some_and(|party| party["state"] == "ok")
    })
    .await;
}

/// Waits until the daemon says that everything before `time` is delivered: cheaper than to compare everything again and again.
/// What it says is only waited for, not believed.
pub(crate) async fn drained(daemon: &mut Daemon, id: &str, time: i64) {
    until(&format!("{id} has delivered everything before {time}"), async || {
        let Some(org) = org(daemon, id).await else { return false };
        let delivered = |lane: &Value| {
            let until = lane["delivered_until"].as_str().and_then(parse_rfc3339);
            until.is_some_and(|until| until > time) && lane["backlog_chunks"] == 0
        };
        let lanes = org["lanes"].as_array().expect("an org has lanes");
        org["coverage"]["holes"] == 0 && lanes.iter().all(delivered)
    })
    .await;
}

/// Waits until the source has answered so many more questions about an org.
pub(crate) async fn asked(world: &World, org: &str, more: u64) {
    let before = world.pulumi().ledger.requests(org);
    until(&format!("{more} more requests about {org}"), async || {
        world.pulumi().ledger.requests(org) >= before + more
    })
    .await;
}

/// The value of a sample on a page of metrics. `name` goes without the prefix; all of `labels` must fit.
pub(crate) fn sample(page: &str, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    page.lines().find_map(|line| {
        let rest = line.strip_prefix("pulumi_audit_")?.strip_prefix(name)?;
        let (found, value) = match rest.strip_prefix('{') {
            Some(rest) => rest.rsplit_once("} ")?,
            None => ("", rest.strip_prefix(' ')?),
        };
        let fit = labels.iter().all(|(name, value)| found.contains(&format!("{name}=\"{value}\"")));
        fit.then(|| value.parse().ok()).flatten()
    })
}

/// The same, asked of the running daemon; nothing while it cannot be asked.
pub(crate) async fn metric(daemon: &mut Daemon, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let (_, page) = daemon.get("/metrics").await?;
    sample(&page, name, labels)
}
