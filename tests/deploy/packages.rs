//! The Debian and RPM packages: installed, upgraded with state, and removed, on a machine with systemd.
//!
//! They hold the binary that the tests are run with, and are made by the script that makes a release's.

mod machine;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use machine::Machine;

use crate::world::World;
use crate::world::clock::rfc3339;
use crate::world::daemon::until;
use crate::world::pulumi::events::Generator;
use crate::world::setup::OrgSetup;
use crate::world::truth::archive::Archive;
use crate::world::truth::{Expect, Report};

const OLD: &str = "0.1.0";
const NEW: &str = "0.1.1-rc.1";
/// The time of everything that is packed: the last second of 2025.
const EPOCH: &str = "1767225599";

/// What is installed, with mode and owner as they are on the machine afterwards. zsh looks in another folder on each, and documents have other names.
const BOTH: &str = "\
755 root root /usr/bin/pulumi-audit-forwarder
644 root root /usr/lib/systemd/system/pulumi-audit-forwarder.service
644 root root /usr/lib/sysusers.d/pulumi-audit-forwarder.conf
644 root root /usr/share/man/man1/pulumi-audit-forwarder.1.gz
644 root root /usr/share/bash-completion/completions/pulumi-audit-forwarder
644 root root /usr/share/fish/vendor_completions.d/pulumi-audit-forwarder.fish
750 root pulumi-audit-forwarder /etc/pulumi-audit-forwarder
644 root root /etc/pulumi-audit-forwarder/forwarder.toml
750 root pulumi-audit-forwarder /etc/pulumi-audit-forwarder/orgs
700 root root /etc/pulumi-audit-forwarder/credentials
700 pulumi-audit-forwarder pulumi-audit-forwarder /var/lib/pulumi-audit-forwarder
644 root root /usr/share/doc/pulumi-audit-forwarder/examples/example-org.toml.example
644 root root /usr/share/doc/pulumi-audit-forwarder/examples/pulumi-audit-forwarder.rules.yml
";
const DEB: &str = "\
644 root root /usr/share/zsh/vendor-completions/_pulumi-audit-forwarder
644 root root /usr/share/doc/pulumi-audit-forwarder/copyright
644 root root /usr/share/doc/pulumi-audit-forwarder/changelog.gz
644 root root /usr/share/doc/pulumi-audit-forwarder/changelog.Debian.gz
644 root root /usr/share/doc/pulumi-audit-forwarder/THIRD-PARTY-LICENSES.gz
";
const RPM: &str = "\
644 root root /usr/share/zsh/site-functions/_pulumi-audit-forwarder
644 root root /usr/share/doc/pulumi-audit-forwarder/CHANGELOG.md
644 root root /usr/share/licenses/pulumi-audit-forwarder/LICENSE
644 root root /usr/share/licenses/pulumi-audit-forwarder/THIRD-PARTY-LICENSES
";

/// Packages of two versions, made once for all tests.
fn packages() -> &'static Path {
    static PACKAGES: OnceLock<tempfile::TempDir> = OnceLock::new();
    let directory = PACKAGES.get_or_init(|| {
        let directory = tempfile::tempdir().expect("a directory can be made");
        // With what a debugger reads it would be many times as large.
        let binary = directory.path().join("binary");
        done(Command::new("strip").arg("-o").arg(&binary).arg(env!("CARGO_BIN_EXE_pulumi-audit-forwarder")));
        fs::write(directory.path().join("notices"), "the licences of the crates\n")
            .expect("it can be written");
        for version in [OLD, NEW] {
            pack(directory.path(), version, &directory.path().join("out"));
        }
        directory
    });
    directory.path()
}

fn pack(from: &Path, version: &str, out: &Path) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/packages/build.sh");
    let mut command = Command::new(script);
    command.arg(from.join("binary")).arg(from.join("notices")).arg(out);
    done(command.env("VERSION", version).env("SOURCE_DATE_EPOCH", EPOCH).env("LEVEL", "1"));
}

/// Runs what must succeed; answers what it wrote.
#[track_caller]
fn done(command: &mut Command) -> String {
    let output =
        command.output().expect("the program can be started: `make tools` installs what the tests use");
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {said}");
    said
}

#[derive(Clone, Copy)]
enum Format {
    Deb,
    Rpm,
}

impl Format {
    fn file(self, version: &str) -> PathBuf {
        let version = version.replace('-', "~");
        packages().join("out").join(match self {
            Format::Deb => format!("pulumi-audit-forwarder_{version}-1_amd64.deb"),
            Format::Rpm => format!("pulumi-audit-forwarder-{version}-1.x86_64.rpm"),
        })
    }

    /// Installs or upgrades. On a Debian machine the database of rpm is empty: what a package requires is looked at by another test.
    fn install(self, machine: &Machine, version: &str) -> String {
        let file = self.file(version);
        machine.bring(&file, "/root/package");
        machine.does(match self {
            Format::Deb => "mv /root/package /root/package.deb && dpkg --install /root/package.deb",
            Format::Rpm => "rpm --upgrade --replacepkgs --nodeps --force-debian /root/package",
        })
    }

    fn remove(self, machine: &Machine) -> String {
        machine.does(match self {
            Format::Deb => "dpkg --remove pulumi-audit-forwarder",
            Format::Rpm => "rpm --erase --nodeps --force-debian pulumi-audit-forwarder",
        })
    }

    fn installed(self, machine: &Machine) -> String {
        machine.says(match self {
            Format::Deb => "dpkg-query --show --showformat '${Version}' pulumi-audit-forwarder",
            Format::Rpm => "rpm --query --queryformat '%{VERSION}-%{RELEASE}' pulumi-audit-forwarder",
        })
    }
}

/// One org on the machine, from the world to Sentinel and to a folder below the state directory.
struct Installed {
    world: World,
    machine: Machine,
    events: Generator,
    scratch: tempfile::TempDir,
}

impl Installed {
    /// A machine with the old package, and an operator who then did what the package says is next.
    async fn begin(format: Format) -> Installed {
        let world = World::builder().events(200).start().await;
        let scratch = tempfile::tempdir().expect("a directory can be made");
        let machine = Machine::start(scratch.path()).await;
        let said = format.install(&machine, OLD);
        assert!(said.contains("not started: it has no organization yet"), "{said}");
        assert!(said.contains("systemctl enable --now pulumi-audit-forwarder"), "{said}");
        Installed { world, machine, events: Generator::seeded(11), scratch }
    }

    fn configure(&self) {
        let (world, machine) = (&self.world, &self.machine);
        let setup =
            OrgSetup::new("acme").with_sentinel().with_file().since(&rfc3339(world.clock.now() - 7_200));
        world.write_config(&[setup], "");
        let at_home = |path: &Path| path.to_string_lossy().into_owned();
        let text = fs::read_to_string(world.paths.orgs.join("acme.toml"))
            .expect("the org's file was written")
            .replace(
                &format!("{}/", at_home(&world.paths.secrets)),
                "/run/credentials/pulumi-audit-forwarder.service/secret_",
            )
            .replace(&at_home(&world.paths.archive_of("acme")), "/var/lib/pulumi-audit-forwarder/archive")
            .replace(&at_home(world.ca_pem()), "/etc/pulumi-audit-forwarder/ca.pem");
        let org = self.scratch.path().join("acme.toml");
        fs::write(&org, text).expect("it can be written");
        machine.bring(&org, "/etc/pulumi-audit-forwarder/orgs/acme.toml");
        machine.bring(world.ca_pem(), "/etc/pulumi-audit-forwarder/ca.pem");
        for secret in ["acme-token", "client-secret"] {
            let place = format!("/etc/pulumi-audit-forwarder/credentials/{secret}");
            machine.bring(&world.paths.secret(secret), &place);
            machine.does(&format!("chmod 600 {place}"));
        }
        // As the file itself tells people to: a `#` is removed, a value changed.
        let values = [
            ("listen", format!("{:?}", "127.0.0.1:0")),
            ("api_url", format!("{:?}", world.pulumi_url())),
            ("poll_interval", "\"1s\"".to_owned()),
            ("rescan_after", "[\"2s\"]".to_owned()),
            ("requests_per_second", "200".to_owned()),
        ];
        for (key, value) in values {
            machine.does(&format!(
                "sed -i 's|^#{key} = .*|{key} = {value}|' /etc/pulumi-audit-forwarder/forwarder.toml \
                 && grep -qx '{key} = {}' /etc/pulumi-audit-forwarder/forwarder.toml",
                value.replace('[', "\\[").replace(']', "\\]")
            ));
        }
    }

    fn systemctl(&self, words: &str) -> String {
        self.machine.says(&format!("systemctl {words} pulumi-audit-forwarder.service"))
    }

    fn process(&self) -> String {
        self.systemctl("show --property MainPID --value")
    }

    fn journal(&self) -> String {
        self.machine.says("stat --format %i /var/lib/pulumi-audit-forwarder/journal.db")
    }

    fn something_happens(&mut self) {
        let now = self.world.clock.now();
        self.world.pulumi().org("acme").add(self.events.burst(now - 1, 40));
    }

    fn archive(&self) -> Report {
        let copy = tempfile::tempdir().expect("a directory can be made");
        self.machine.take("/var/lib/pulumi-audit-forwarder/archive", copy.path());
        let expect = Expect { as_of: self.world.clock.now(), ..Expect::default() };
        Archive::of_directory(&copy.path().join("archive")).check(
            "file",
            "acme",
            &self.world.source("acme"),
            &expect,
        )
    }

    /// Waits until everything that has happened by now stands at both destinations, once.
    async fn everything_arrives(&self) {
        assert_eq!(
            self.systemctl("is-active"),
            "active",
            "{}",
            self.machine.says("journalctl --no-pager -n 50")
        );
        until("everything is in Sentinel and in the archive", async || {
            self.world.check_sentinel("acme").is_complete() && self.archive().is_complete()
        })
        .await;
        let rows = self.world.check_sentinel("acme");
        assert_eq!(rows.removable, 0, "no row was sent twice: {rows}");
    }
}

/// From the first installation to the last removal but one; what is different afterwards is told by the tests themselves.
async fn lives(format: Format) -> Installed {
    let mut it = Installed::begin(format).await;
    assert_eq!(it.systemctl("is-active"), "inactive", "nothing is started without an organization");
    assert_eq!(it.systemctl("is-enabled"), "enabled");
    assert_eq!(
        it.machine.says("getent passwd pulumi-audit-forwarder | cut -d: -f5-"),
        "Pulumi audit forwarder:/var/lib/pulumi-audit-forwarder:/usr/sbin/nologin"
    );
    let more = if matches!(format, Format::Deb) { DEB } else { RPM };
    let expected: String = [BOTH, more].concat();
    for line in expected.lines() {
        let path = line.rsplit(' ').next().expect("a line ends with a path");
        assert_eq!(it.machine.says(&format!("stat --format '%a %U %G %n' {path}")), line);
    }
    assert_eq!(it.machine.says("stat --format %Y /usr/bin/pulumi-audit-forwarder"), EPOCH);
    it.machine.does("bash -c '. /usr/share/bash-completion/completions/pulumi-audit-forwarder && complete -p pulumi-audit-forwarder'");

    it.configure();
    it.machine.does("systemctl start pulumi-audit-forwarder");
    it.everything_arrives().await;
    let (first, journal) = (it.process(), it.journal());
    assert_eq!(it.machine.says(&format!("stat --format %U /proc/{first}")), "pulumi-audit-forwarder");

    // Upgraded while it runs: the new process goes on with the state of the old one.
    it.something_happens();
    let said = format.install(&it.machine, NEW);
    it.something_happens();
    assert!(!said.contains("no organization yet"), "{said}");
    assert_eq!(format.installed(&it.machine), "0.1.1~rc.1-1");
    let second = it.process();
    assert!(second != first && second != "0", "it was restarted: {first} before, {second} now");
    it.everything_arrives().await;
    assert_eq!(it.journal(), journal);
    assert_eq!(
        it.machine.says("grep -c '^poll_interval = \"1s\"' /etc/pulumi-audit-forwarder/forwarder.toml"),
        "1"
    );

    // What an operator stopped and disabled stays so.
    it.machine.does("systemctl disable --now pulumi-audit-forwarder");
    format.install(&it.machine, NEW);
    assert_eq!(it.systemctl("is-active"), "inactive");
    assert_eq!(it.systemctl("is-enabled"), "disabled");

    // Removed while it runs, and installed again: it goes on where it was.
    it.machine.does("systemctl enable --now pulumi-audit-forwarder");
    let third = it.process();
    format.remove(&it.machine);
    assert!(!it.machine.run(&format!("test -e /proc/{third}")).ok, "its process has ended");
    assert!(!it.machine.run("test -e /usr/bin/pulumi-audit-forwarder").ok);
    assert!(!it.machine.run("systemctl cat pulumi-audit-forwarder").ok);
    it.machine.does("test -f /etc/pulumi-audit-forwarder/orgs/acme.toml");
    it.machine.does("test -f /etc/pulumi-audit-forwarder/credentials/acme-token");
    assert_eq!(it.journal(), journal);
    it.something_happens();
    format.install(&it.machine, NEW);
    it
}

#[tokio::test(flavor = "multi_thread")]
async fn a_debian_package_is_installed_upgraded_and_removed_without_a_gap_and_purged_but_for_its_archive() {
    let it = lives(Format::Deb).await;
    it.machine.does("systemctl enable --now pulumi-audit-forwarder");
    it.everything_arrives().await;

    let said = it.machine.does("dpkg --purge pulumi-audit-forwarder");
    assert!(said.contains("/var/lib/pulumi-audit-forwarder is kept"), "{said}");
    assert!(!it.machine.run("test -e /etc/pulumi-audit-forwarder").ok, "configuration and secrets are gone");
    assert_eq!(it.machine.says("ls -A /var/lib/pulumi-audit-forwarder"), "archive", "so is the state");
    assert!(it.archive().is_complete(), "an archive is never purged");
    assert!(!it.machine.run("systemctl is-enabled pulumi-audit-forwarder").ok);

    it.machine.does("rm -r /var/lib/pulumi-audit-forwarder");
    Format::Deb.install(&it.machine, NEW);
    it.machine
        .does("touch /var/lib/pulumi-audit-forwarder/journal.db && dpkg --purge pulumi-audit-forwarder");
    assert!(
        !it.machine.run("test -e /var/lib/pulumi-audit-forwarder").ok,
        "state alone goes with its folder"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_rpm_is_installed_upgraded_and_erased_without_a_gap() {
    let it = lives(Format::Rpm).await;
    // rpm keeps a changed file under another name, and says so.
    it.machine.does("cd /etc/pulumi-audit-forwarder && mv forwarder.toml.rpmsave forwarder.toml");
    it.machine.does("systemctl enable --now pulumi-audit-forwarder");
    it.everything_arrives().await;
    Format::Rpm.remove(&it.machine);
    assert!(it.archive().is_complete());
    it.machine.does("test -f /var/lib/pulumi-audit-forwarder/journal.db");
}

#[test]
fn the_same_input_packed_elsewhere_gives_the_same_bytes() {
    let elsewhere = tempfile::tempdir().expect("a directory can be made");
    let from = elsewhere.path().join("with/another/path");
    fs::create_dir_all(&from).expect("it can be made");
    for file in ["binary", "notices"] {
        fs::copy(packages().join(file), from.join(file)).expect("it can be copied");
    }
    let (mine, theirs) = (fs::metadata(from.join("binary")), fs::metadata(packages().join("binary")));
    assert_ne!(
        mine.expect("it is there").mtime_nsec(),
        theirs.expect("it is there").mtime_nsec(),
        "files of another time"
    );
    pack(&from, OLD, &elsewhere.path().join("out"));
    let mut compared = 0;
    for entry in fs::read_dir(elsewhere.path().join("out")).expect("something was made") {
        let path = entry.expect("it can be read").path();
        let name = path.file_name().expect("it has a name");
        let first = fs::read(packages().join("out").join(name)).expect("it was made before too");
        assert!(fs::read(&path).expect("it can be read") == first, "{} differs", path.display());
        compared += 1;
    }
    assert_eq!(compared, 3, "tarball, .deb and .rpm");
}

#[test]
fn debian_and_rpm_find_nothing_to_complain_about() {
    let deb = Format::Deb.file(OLD);
    // It closes no bug of Debian's, and one of the scripts tells people to use systemctl.
    let unfit = "--suppress-tags=initial-upload-closes-no-bugs,maintainer-script-calls-systemctl";
    let mut lintian = Command::new("lintian");
    lintian.args(["--allow-root", "--no-cfg", "--fail-on=error,warning", unfit]).arg(&deb);
    assert_eq!(done(&mut lintian), "");

    let rpm = Format::Rpm.file(OLD);
    let said = done(Command::new("rpm").args(["--checksig", "--nosignature"]).arg(&rpm));
    assert!(said.trim_end().ends_with("digests OK"), "{said}");
}

#[test]
fn packages_require_the_c_library_that_the_binary_was_linked_with_and_little_else() {
    let symbols = done(Command::new("objdump").arg("-T").arg(packages().join("binary")));
    let versions = symbols.split(['(', ')', ' ']).filter_map(|word| word.strip_prefix("GLIBC_"));
    let number =
        |version: &str| version.split('.').map(|part| part.parse().unwrap_or(0)).collect::<Vec<u32>>();
    let newest = versions.max_by_key(|version| number(version)).expect("it is linked with the C library");

    let depends = done(Command::new("dpkg-deb").arg("--field").arg(Format::Deb.file(OLD)).arg("Depends"));
    assert_eq!(
        depends.trim(),
        format!(
            "libc6 (>= {newest}), libgcc-s1, ca-certificates, systemd | systemd-standalone-sysusers | systemd-sysusers"
        )
    );
    let requires =
        done(Command::new("rpm").args(["--query", "--requires", "--package"]).arg(Format::Rpm.file(OLD)));
    let named: Vec<&str> =
        requires.lines().filter(|line| !line.contains(['(', '=']) && *line != "/bin/sh").collect();
    assert_eq!(named, ["/usr/sbin/groupadd", "/usr/sbin/useradd", "ca-certificates", "systemd"]);
    assert!(requires.contains(&format!("libc.so.6(GLIBC_{newest})(64bit)")), "{requires}");
    assert!(
        !requires.contains("ssl") && !requires.contains("crypto"),
        "TLS comes with the binary: {requires}"
    );
}

/// What the tarball holds, for those who have neither package manager.
#[test]
fn the_tarball_holds_the_binary_and_what_belongs_to_it_in_one_folder_of_root() {
    let tarball = packages().join("out/pulumi-audit-forwarder-0.1.0-linux-x86_64.tar.gz");
    let listed =
        done(Command::new("tar").args(["--list", "--verbose", "--numeric-owner", "--file"]).arg(&tarball));
    let files: Vec<String> = listed
        .lines()
        .map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            assert_eq!(words[1], "0/0", "{line}");
            let name = words[5].strip_prefix("pulumi-audit-forwarder-0.1.0-linux-x86_64/");
            format!("{} {}", words[0], name.expect("everything is in one folder"))
        })
        .filter(|line| !line.ends_with(' ') && !line.ends_with('/'))
        .collect();
    assert_eq!(
        files,
        [
            "-rw-r--r-- CHANGELOG.md",
            "-rw-r--r-- LICENSE",
            "-rw-r--r-- README.md",
            "-rw-r--r-- THIRD-PARTY-LICENSES",
            "-rw-r--r-- completions/pulumi-audit-forwarder.bash",
            "-rw-r--r-- completions/pulumi-audit-forwarder.fish",
            "-rw-r--r-- completions/pulumi-audit-forwarder.zsh",
            "-rw-r--r-- config/forwarder.toml",
            "-rw-r--r-- config/orgs/example-org.toml.example",
            "-rw-r--r-- prometheus/pulumi-audit-forwarder.rules.yml",
            "-rwxr-xr-x pulumi-audit-forwarder",
            "-rw-r--r-- pulumi-audit-forwarder.1",
            "-rw-r--r-- systemd/pulumi-audit-forwarder.service",
            "-rw-r--r-- systemd/pulumi-audit-forwarder.sysusers",
        ]
    );
}
