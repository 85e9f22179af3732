//! The systemd unit: what it notifies, what it is allowed, and that the daemon lives with that.
//!
//! systemd itself does not run here. Its own tool reads the unit; a socket stands in the place where it listens; and the restrictions
//! of the unit are brought about line by line, for the real binary, by `unit/service.py`.

mod confined;
mod telling;

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::world::World;
use crate::world::clock::rfc3339;
use crate::world::daemon::until;
use crate::world::setup::OrgSetup;

const UNIT: &str = include_str!("../../deploy/systemd/pulumi-audit-forwarder.service");
const USER: &str = include_str!("../../deploy/systemd/pulumi-audit-forwarder.sysusers");
const PAGE: &str = include_str!("../../docs/systemd.md");

/// In tenths, as `systemd-analyze security` takes it.
const EXPOSURE_MAX: u32 = 13;

fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_pulumi-audit-forwarder"))
}

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/systemd")
}

/// An org that is read from two hours ago on.
fn recent(world: &World, org: &str) -> OrgSetup {
    OrgSetup::new(org).since(&rfc3339(world.clock.now() - 7_200))
}

/// Waits until everything that is due stands at every destination of the org, once.
async fn complete(world: &World, setup: &OrgSetup) {
    until(&format!("everything of {} has arrived", setup.org), async || {
        (!setup.sentinel || world.check_sentinel(&setup.org).is_complete())
            && (!setup.file || world.check_file(&setup.org).is_complete())
            && (!setup.s3 || world.check_s3(&setup.org).await.is_complete())
    })
    .await;
}

/// The values of a key of the unit.
fn values(key: &str) -> Vec<&'static str> {
    UNIT.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('=')).collect()
}

/// What one of systemd's tools says about the unit, with `drop_in` beside it: everything, and whether it is content.
fn analyze(arguments: &[&str], unit: &str, drop_in: Option<&str>) -> (bool, String) {
    let folder = tempfile::tempdir().expect("a directory can be made");
    let path = folder.path().join("pulumi-audit-forwarder.service");
    std::fs::write(&path, unit).expect("the unit can be written");
    if let Some(drop_in) = drop_in {
        let beside = folder.path().join("pulumi-audit-forwarder.service.d");
        std::fs::create_dir(&beside).expect("a directory can be made");
        std::fs::write(beside.join("override.conf"), drop_in).expect("the drop-in can be written");
    }
    let said = Command::new("systemd-analyze")
        .args(arguments)
        .arg(&path)
        .env("SYSTEMD_UNIT_PATH", format!("{}:", folder.path().display()))
        .output()
        .expect("systemd-analyze is there: tests/tools.sh");
    let text = format!("{}{}", String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
    (said.status.success(), text)
}

/// What is wrong with it: `verify` reports much of that with a line only.
fn verify(unit: &str, drop_in: Option<&str>) -> Vec<String> {
    // The program is looked for, and is not installed here.
    let unit = unit.replace("/usr/bin/pulumi-audit-forwarder ", &format!("{} ", binary().display()));
    let (content, text) = analyze(&["verify", "--man=no"], &unit, drop_in);
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    if !content && lines.is_empty() {
        lines.push("systemd-analyze verify is not content, and does not say why".to_owned());
    }
    lines
}

fn exposure(unit: &str) -> (bool, String) {
    let threshold = format!("--threshold={EXPOSURE_MAX}");
    analyze(&["security", "--offline=true", "--no-pager", &threshold], unit, None)
}

#[test]
fn systemd_finds_nothing_wrong_with_the_unit() {
    assert_eq!(verify(UNIT, None), Vec::<String>::new());
    let spoiled = UNIT.replace("RestartSec=", "RestartSecond=");
    assert!(!verify(&spoiled, None).is_empty(), "a key that does not exist is noticed");
}

#[test]
fn the_unit_exposes_the_machine_as_little_as_1_3() {
    let (little, text) = exposure(UNIT);
    assert!(little, "{text}");
    let overall = text.lines().find(|line| line.contains("Overall exposure level")).expect("it is said");
    println!("{overall}");
    for restriction in ["PrivateUsers=yes", "NoNewPrivileges=yes", "ProtectSystem=strict"] {
        let (little, text) = exposure(&UNIT.replace(restriction, ""));
        assert!(!little || text != exposure(UNIT).1, "{restriction} counts");
    }
    let (little, _) = exposure(&UNIT.replace("CapabilityBoundingSet=", "CapabilityBoundingSet=~"));
    assert!(!little, "more is noticed");
}

#[test]
fn a_restart_is_never_given_up_and_paths_are_those_of_every_other_part() {
    assert_eq!(values("StartLimitIntervalSec"), ["0"]);
    assert_eq!(values("Restart"), ["on-failure"]);
    assert_eq!(
        values("ExecStart"),
        ["/usr/bin/pulumi-audit-forwarder --config /etc/pulumi-audit-forwarder/forwarder.toml run"]
    );
    assert_eq!(values("StateDirectory"), ["pulumi-audit-forwarder"]);
    let user = values("User")[0];
    assert_eq!(values("Group"), [user]);
    let declared = USER.lines().find(|line| line.starts_with("u ")).expect("the user is declared");
    assert!(
        declared.starts_with(&format!("u {user} ")) && declared.contains(" /var/lib/pulumi-audit-forwarder ")
    );
}

/// The drop-ins that the page shows, by the sentence before each.
fn drop_ins() -> Vec<String> {
    PAGE.split("```ini\n").skip(1).filter_map(|rest| rest.split("```").next()).map(str::to_owned).collect()
}

#[test]
fn systemd_finds_nothing_wrong_with_the_drop_ins_that_the_page_shows() {
    let drop_ins = drop_ins();
    assert!(drop_ins.len() >= 4, "the page shows some: {}", drop_ins.len());
    for drop_in in drop_ins {
        // What only a newer systemd knows is said so beside it.
        let lines = verify(UNIT, Some(&drop_in));
        let lines: Vec<_> = lines.iter().filter(|line| !line.contains("notify-reload")).collect();
        assert!(lines.is_empty(), "{drop_in}{lines:?}");
    }
    assert!(!verify(UNIT, Some("[Service]\nEnvironment\n")).is_empty(), "a mistake in a drop-in is noticed");
}

#[test]
fn the_page_explains_every_line_of_the_unit() {
    let keys = UNIT.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('='));
    let missing: Vec<&str> =
        keys.map(|(key, _)| key).filter(|key| !PAGE.contains(&format!("`{key}="))).collect();
    assert!(missing.is_empty(), "docs/systemd.md does not explain {missing:?}");
    assert!(deploy().join("pulumi-audit-forwarder.service").is_file());
}
