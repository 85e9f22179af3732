//! Faults that stay until a person repairs the disk. The forwarder runs as a service here: it must name the fault, send nothing that
//! it could not commit, and go on by itself once the disk works. Or it refuses to start, and says why.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::calls;
use crate::durable;
use crate::judge;
use crate::point::{Act, Fault, Place, Refusal};
use crate::stage::{Fate, Play, binary};
use crate::story::Outcome;
use crate::world::chance::Chance;
use crate::world::clock::parse_rfc3339;
use crate::world::daemon::Daemon;
use crate::world::pulumi::events::Event;

/// Until a fault is named, or everything is done.
const NAMED: Duration = Duration::from_secs(40);
/// The source of an org that has no state yet: it waits for its archive, which may hold a past to go on from.
const BEFORE_THE_START: &str = "source, not begun";
/// Until everything is delivered after the repair: a lane that lacks a permission looks again after a minute.
const HEALED: Duration = Duration::from_secs(100);
const LOOK: Duration = Duration::from_millis(50);

/// What is seen of a daemon.
enum State {
    Works,
    /// Everything that is due is delivered.
    Done,
    /// Who is paused, and why.
    Paused(Vec<(String, String)>),
}

async fn state(daemon: &mut Daemon, due: i64) -> State {
    let Some(status) = daemon.status().await else { return State::Works };
    let org = &status["orgs"][0];
    let mut paused = Vec::new();
    let lanes = org["lanes"].as_array().cloned().unwrap_or_default();
    let named = lanes.iter().map(|lane| (lane["destination"].as_str().unwrap_or_default(), lane));
    let source = if org["start"].is_null() { BEFORE_THE_START } else { "source" };
    for (name, party) in named.chain([(source, &org["source"])]) {
        if party["state"] == "paused" {
            let reason = party["reason"].as_str().unwrap_or_default();
            let remedy = party["remedy"].as_str().unwrap_or_default();
            if remedy.is_empty() {
                return State::Paused(vec![(name.to_owned(), format!("{reason}, without a remedy"))]);
            }
            paused.push((name.to_owned(), reason.to_owned()));
        }
    }
    if !paused.is_empty() {
        return State::Paused(paused);
    }
    let delivered = |lane: &Value| {
        let until = lane["delivered_until"].as_str().and_then(parse_rfc3339);
        until.is_some_and(|until| until > due) && lane["backlog_chunks"] == 0
    };
    match org["coverage"]["holes"] == 0 && !lanes.is_empty() && lanes.iter().all(delivered) {
        true => State::Done,
        false => State::Works,
    }
}

fn reason(place: Place, fault: Fault) -> &'static str {
    match (place, fault) {
        (Place::File, Fault::ForEver(Refusal::Permission)) => "permission",
        _ => "disk",
    }
}

/// One place refuses from a certain call on.
pub async fn refused(
    play: &mut Play<'_>,
    place: Place,
    fault: Fault,
    number: u64,
) -> Result<Outcome, String> {
    let broken = play.paths().root.join("broken");
    File::create(&broken).expect("a file can be made");
    let fate = Fate { place, fault, number, while_there: Some(broken.clone()) };
    play.set_time(Act::Second);
    let due = play.stage.world.clock.now();
    let (variables, log) = play.variables(Some(&fate));
    let variables: Vec<(&str, &str)> =
        variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let said = play.paths().root.join("said");
    let mut daemon = Daemon::start_in(binary(), &play.paths().config, &said, &["run"], &variables);
    let begun = Instant::now();
    let hit = loop {
        let hit = judge::name_of_hit(&calls::read(&log));
        if let Some(status) = daemon.has_ended() {
            // It did not start; what it says has to say why.
            let text = daemon.log();
            if hit.is_none() || status.code() != Some(1) || !text.contains("state directory") {
                return Err(format!("it ended with {status}:\n{}", judge::tail(&text)));
            }
            let before = judge::after_the_fault(play, Some(&log)).await?;
            fs::remove_file(&broken).expect("it is there");
            let recovered = play.recover().await;
            judge::of_the_recovery(play, &recovered, &before, 1).await?;
            return Ok(Outcome::Hit(hit.map(|hit| format!("{hit}, not started")).into_iter().collect()));
        }
        match state(&mut daemon, due).await {
            State::Paused(parties) => {
                let expected = reason(place, fault);
                if let Some((party, reason)) = parties.iter().find(|(_, reason)| reason != expected) {
                    return Err(format!("{party} is paused({reason}), not paused({expected})"));
                }
                let concerned = |party: &str| party == "file" || party == BEFORE_THE_START;
                if place == Place::File && parties.iter().any(|(party, _)| !concerned(party)) {
                    return Err(format!("the archive's disk pauses others: {parties:?}"));
                }
                break hit;
            }
            State::Done => break hit,
            State::Works if begun.elapsed() > NAMED => {
                return Err(format!("neither done nor paused:\n{}", judge::tail(&daemon.log())));
            }
            State::Works => sleep(LOOK).await,
        }
    };
    let before = judge::after_the_fault(play, Some(&log)).await?;
    fs::remove_file(&broken).expect("it is there");
    heals(play, &mut daemon, &before, usize::from(hit.is_some()), due).await?;
    Ok(hit.map_or(Outcome::Untouched, |hit| Outcome::Hit(vec![format!("{hit}, for ever")])))
}

/// Everything arrives without a restart, and the service ends in order.
async fn heals(
    play: &Play<'_>,
    daemon: &mut Daemon,
    before: &judge::Arrived,
    sends: usize,
    due: i64,
) -> Result<(), String> {
    let repaired = Instant::now();
    loop {
        let judged = match state(daemon, due).await {
            State::Done => judge::of_the_archive(play, before, sends, due).await,
            State::Works => Err("it is at work".to_owned()),
            State::Paused(parties) => Err(format!("paused are {parties:?}")),
        };
        let Err(error) = judged else { break };
        if let Some(status) = daemon.has_ended() {
            return Err(format!("it ended with {status} after the repair:\n{}", judge::tail(&daemon.log())));
        }
        if repaired.elapsed() > HEALED {
            return Err(format!("{} does not heal: {error}\n{}", play.id, judge::tail(&daemon.log())));
        }
        sleep(LOOK).await;
    }
    let status = daemon.stop().await;
    match status.success() {
        true => Ok(()),
        false => Err(format!("it ended with {status}:\n{}", judge::tail(&daemon.log()))),
    }
}

/// Whether this user may have a file system of a chosen size.
pub fn may_mount() -> bool {
    let tried = std::process::Command::new("unshare")
        .args(["-Urm", "sh", "-c", "mount -t tmpfs -o size=64k none /mnt"])
        .stderr(std::process::Stdio::null())
        .status();
    tried.is_ok_and(|status| status.success())
}

/// The state directory is a file system of 4 MiB in a namespace of its own, and somebody fills it.
pub async fn full(play: &mut Play<'_>, number: u64) -> Result<Outcome, String> {
    let (root, state_dir) = (play.paths().root.clone(), play.paths().state.clone());
    let script = root.join("in-a-namespace");
    let text = format!(
        "#!/bin/sh\nexec unshare -Urm sh -c 'mount -t tmpfs -o size=4m,mode=700 none \"$0\" && exec \"$@\"' '{}' '{}' \"$@\"\n",
        state_dir.display(),
        binary().display()
    );
    fs::write(&script, text).expect("a script can be written");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o700)).expect("its mode can be set");
    play.set_time(Act::Second);
    let mut due = play.stage.world.clock.now();
    let mut daemon = Daemon::start_in(&script, &play.paths().config, &root.join("said"), &["run"], &[]);
    wait(&mut daemon, due, |state| matches!(state, State::Done)).await?;

    let inside = PathBuf::from(format!("/proc/{}/root{}", daemon.pid(), state_dir.display()));
    fill(&inside.join("ballast"), (number - 1) * 24 * 1024);
    let mut chance = Chance::seeded(number);
    let second = play.stage.world.clock.now() - 1;
    let events = (0..400).map(|index| Event::at(second - index / 4).described(&chance.hex(4_000)));
    play.stage.world.pulumi().org(&play.id).add(events);
    wait(
        &mut daemon,
        due,
        |state| matches!(state, State::Paused(parties) if parties.iter().all(|(_, reason)| reason == "disk")),
    )
    .await?;
    let before = judge::arrived(play).await;
    let scratch = root.join("scratch");
    durable::copy(&inside, &scratch);
    judge::all_is_kept(&before, &durable::read(&scratch)?)?;
    fs::remove_file(inside.join("ballast")).expect("the ballast is there");
    due = second;
    heals(play, &mut daemon, &before, 0, due).await?;
    Ok(Outcome::Hit(vec!["journal, file system full".to_owned()]))
}

fn fill(path: &Path, but: u64) {
    use std::io::Write;
    let mut file = File::create(path).expect("the ballast can be made");
    let mut size = 0;
    while file.write_all(&[0; 4_096]).is_ok() {
        size += 4_096;
    }
    file.set_len(u64::saturating_sub(size, but)).expect("the ballast can be cut");
}

async fn wait(daemon: &mut Daemon, due: i64, holds: impl Fn(&State) -> bool) -> Result<(), String> {
    let begun = Instant::now();
    while !holds(&state(daemon, due).await) {
        if begun.elapsed() > NAMED || daemon.has_ended().is_some() {
            return Err(format!("what was waited for did not come:\n{}", judge::tail(&daemon.log())));
        }
        sleep(LOOK).await;
    }
    Ok(())
}

/// Files may not grow: the kernel answers EFBIG, and sends a signal that kills who does not expect it.
pub async fn limited(play: &mut Play<'_>, number: u64) -> Result<Outcome, String> {
    const KIB: [u64; 4] = [64, 256, 320, 400];
    let kib = KIB[usize::try_from(number - 1).unwrap_or_default() % KIB.len()];
    play.set_time(Act::Second);
    let limit = format!("ulimit -f {}; exec \"$@\"", kib * 2);
    let ended = play.finish(play.command(&["sh", "-c", &limit, "sh"])).await;
    judge::of_the_end(Fault::ForEver(Refusal::FileSize), true, &ended)?;
    let before = judge::after_the_fault(play, None).await?;
    let recovered = play.recover().await;
    judge::of_the_recovery(play, &recovered, &before, 1).await?;
    let told = if ended.status.success() { "not reached" } else { "said and healed" };
    Ok(Outcome::Hit(vec![format!("files of {kib} KiB at most, {told}")]))
}
