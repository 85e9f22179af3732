//! A pod on this machine: volumes as the kubelet writes them, and a process in a root of its own as a container runtime starts it.
//!
//! Root is read-only, the user is a number without capabilities that can gain no privileges, and the environment is what the pod and the
//! image say. The network is this machine's, because the world is on its loopback.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;
use std::time::Duration;

use tokio::time::Instant;

use crate::world::World;
use crate::world::daemon::{Daemon, until};

/// The image's own root, with the program under test and the libraries that it was linked with.
pub(crate) static IMAGE: LazyLock<PathBuf> = LazyLock::new(|| {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("deploy-image");
    lay_out(&root);
    root.join("root")
});

pub(crate) fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Runs a command to its end; it must succeed.
#[track_caller]
pub(crate) fn done(command: &mut Command) -> Output {
    let output = command.output().expect("it starts");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{out}{err}", output.status);
    output
}

/// What `deploy/container/layout.sh` makes of the program under test. That is linked to the libraries of this machine, which are laid
/// beside it; a release is linked with them inside.
pub(crate) fn lay_out(directory: &Path) {
    let program = Path::new(env!("CARGO_BIN_EXE_pulumi-audit-forwarder"));
    let beside = tempfile::tempdir().expect("a directory can be made");
    let (stripped, sbom) = (beside.path().join("program"), beside.path().join("sbom"));
    done(Command::new("strip").arg("-o").arg(&stripped).arg(program));
    fs::write(&sbom, r#"{"bomFormat":"CycloneDX","specVersion":"1.5","version":1}"#).expect("it is written");
    let script = repository("deploy/container/layout.sh");
    let layout = Command::new("sh")
        .arg(script)
        .args([stripped.as_os_str(), OsStr::new("/etc/ssl/certs/ca-certificates.crt"), sbom.as_os_str()])
        .arg(directory)
        .output()
        .expect("a shell starts");
    assert!(layout.status.success(), "{}", String::from_utf8_lossy(&layout.stderr));
    let linked = done(Command::new("ldd").arg(program)).stdout;
    let linked = String::from_utf8_lossy(&linked);
    for library in linked.split_whitespace().filter(|word| word.starts_with('/')) {
        let place = directory.join("root").join(&library[1..]);
        fs::create_dir_all(place.parent().expect("it is in a directory")).expect("it can be made");
        fs::copy(library, place).expect("a library can be copied");
    }
}

/// A file of a volume: what it holds, and its mode before `fsGroup`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Payload {
    pub(crate) bytes: Vec<u8>,
    pub(crate) mode: u32,
}

/// Writes a volume of ConfigMaps, Secrets and tokens, or renews it, in the steps of the kubelet: a directory of its own for what is new,
/// `..data` turned to it in one rename, then links for what came, then what went is removed.
pub(crate) fn write_volume(
    volume: &Path,
    files: &BTreeMap<String, Payload>,
    fs_group: Option<u32>,
    turn: u32,
) {
    fs::create_dir_all(volume).expect("a volume can be made");
    let name = format!("..2026_11_22_07_25_{turn:02}.1234567890");
    let fresh = volume.join(&name);
    fs::create_dir(&fresh).expect("a directory can be made");
    let mut visible = BTreeSet::new();
    for (path, payload) in files {
        let place = fresh.join(path);
        fs::create_dir_all(place.parent().expect("it is in a directory")).expect("it can be made");
        fs::write(&place, &payload.bytes).expect("a file can be written");
        // With fsGroup, what is read-only becomes readable for the group, which owns it then.
        let mode = payload.mode | if fs_group.is_some() { 0o440 } else { 0 };
        fs::set_permissions(&place, fs::Permissions::from_mode(mode)).expect("a mode can be set");
        chown(&place, Some(0), fs_group).expect("only root can give files away: run these tests as root");
        visible.insert(path.split('/').next().expect("a path has a first part").to_owned());
    }
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755)).expect("a mode can be set");
    let data = volume.join("..data");
    let before = fs::read_link(&data).ok();
    symlink(&name, volume.join("..data_tmp")).expect("a link can be made");
    fs::rename(volume.join("..data_tmp"), &data).expect("it can be renamed");
    for name in &visible {
        let link = volume.join(name);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new("..data").join(name), link).expect("a link can be made");
        }
    }
    for entry in fs::read_dir(volume).expect("it can be read") {
        let entry = entry.expect("it can be read");
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_link = entry.file_type().expect("it has a type").is_symlink();
        if is_link && !name.starts_with("..") && !visible.contains(&name) {
            fs::remove_file(entry.path()).expect("it can be removed");
        }
    }
    if let Some(before) = before {
        fs::remove_dir_all(volume.join(before)).expect("it can be removed");
    }
}

/// A directory of this machine at a place in the pod.
#[derive(Clone, Debug)]
pub(crate) struct Mount {
    pub(crate) from: PathBuf,
    pub(crate) at: String,
    pub(crate) read_only: bool,
}

/// A container, before it is started.
#[derive(Clone, Debug)]
pub(crate) struct Container {
    /// The image's root, unpacked.
    pub(crate) root: PathBuf,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) user: u32,
    pub(crate) group: u32,
    pub(crate) fs_group: Option<u32>,
    pub(crate) environment: BTreeMap<String, String>,
    pub(crate) command: Vec<String>,
}

impl Container {
    /// A script that becomes a process of the container, whatever arguments it is given.
    fn script(&self, directory: &Path, name: &str, command: &[String]) -> PathBuf {
        let mut mounts = self.mounts.clone();
        // What every container runtime brings.
        for at in ["/proc", "/dev", "/etc/hosts", "/etc/resolv.conf"] {
            if Path::new(at).exists() {
                mounts.push(Mount { from: at.into(), at: at.to_owned(), read_only: at.starts_with("/etc") });
            }
        }
        // Parents first: what lies below another volume has its place in that one, as the kubelet prepares it.
        mounts.sort_by_key(|mount| mount.at.matches('/').count());
        let root = quoted(&self.root.to_string_lossy());
        let mut lines = vec![
            "#!/bin/sh".to_owned(),
            "set -e".to_owned(),
            r#"[ -n "$IN_A_NAMESPACE" ] || IN_A_NAMESPACE=1 exec unshare --mount --propagation private "$0""#
                .to_owned(),
            // A mount of its own, so that it is read-only here and nowhere else.
            format!("mount --bind {root} {root}"),
        ];
        for (number, mount) in mounts.iter().enumerate() {
            let around =
                mounts[..number].iter().rev().find(|outer| mount.at.starts_with(&format!("{}/", outer.at)));
            let place = match around {
                Some(outer) => outer.from.join(&mount.at[outer.at.len() + 1..]),
                None => self.root.join(&mount.at[1..]),
            };
            if mount.from.is_dir() {
                fs::create_dir_all(place).expect("a place to mount at can be made");
            } else if !place.exists() {
                fs::write(place, "").expect("a place to mount at can be made");
            }
            let at = format!("{root}{}", quoted(&mount.at));
            lines.push(format!("mount --bind {} {at}", quoted(&mount.from.to_string_lossy())));
            if mount.read_only {
                lines.push(format!("mount -o remount,bind,ro {at}"));
            }
        }
        let environment = self.environment.iter().map(|(name, value)| quoted(&format!("{name}={value}")));
        lines.push(format!("mount -o remount,bind,ro {root}"));
        lines.push(format!(
            "exec env -i {} /usr/bin/setpriv --no-new-privs /usr/sbin/chroot --userspec={}:{} --groups={} {root} {}",
            environment.collect::<Vec<_>>().join(" "),
            self.user,
            self.group,
            self.fs_group.unwrap_or(self.group),
            command.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" "),
        ));
        let script = directory.join(name);
        fs::write(&script, lines.join("\n") + "\n").expect("a script can be written");
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("a mode can be set");
        script
    }

    /// Starts what the container is for.
    pub(crate) fn start(&self, directory: &Path) -> Daemon {
        let script = self.script(directory, "start", &self.command);
        // The script is deaf to arguments: it runs what the pod says.
        Daemon::start(&script, Path::new("/nowhere"), &directory.join("log"))
    }

    /// Another command in it, as `kubectl exec` runs one.
    pub(crate) fn exec(&self, directory: &Path, command: &[&str]) -> Output {
        let command: Vec<String> = command.iter().map(|word| (*word).to_owned()).collect();
        let script = self.script(directory, &format!("exec-{}", command.len()), &command);
        Command::new(script).output().expect("a shell starts")
    }
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Waits until everything of an org is in its table.
pub(crate) async fn delivered(world: &World, daemon: &mut Daemon, org: &str) {
    let begun = Instant::now();
    until(&format!("{org} is delivered"), async || {
        assert!(daemon.has_ended().is_none(), "it ended: {}", daemon.log());
        assert!(begun.elapsed() < Duration::from_secs(30), "{org} is not delivered: {}", daemon.log());
        world.check_sentinel(org).is_complete()
    })
    .await;
}
