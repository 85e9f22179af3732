//! Command lines as people write them, and what they are answered.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use clap::CommandFactory;

use super::*;

/// What a command printed.
#[derive(Default)]
pub(super) struct Captured(Vec<u8>);

impl Captured {
    pub(super) fn text(&self) -> String {
        String::from_utf8(self.0.clone()).unwrap()
    }
}

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn secret(path: &Path) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, "test-secret\n").unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// A directory with a valid configuration of two orgs.
pub(super) fn written() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    secret(&path.join("token"));
    std::fs::create_dir_all(path.join("orgs")).unwrap();
    std::fs::write(
        path.join("forwarder.toml"),
        "[file]\npath = \"archive\"\n[source]\ntoken.file = \"token\"\n",
    )
    .unwrap();
    std::fs::write(path.join("orgs/acme.toml"), "org = \"acme-corp\"\n[file]\n").unwrap();
    let beta = "org = \"beta-corp\"\nstart = 2026-01-01T00:00:00Z\n[file]\npath = \"/beta\"\n";
    std::fs::write(path.join("orgs/beta.toml"), beta).unwrap();
    directory
}

/// Exit, standard output and standard error.
fn asked(arguments: &[&str]) -> (Exit, String, String) {
    let (mut out, mut err) = (Captured::default(), Captured::default());
    let exit = answer([&["pulumi-audit-forwarder"], arguments].concat(), &mut out, &mut err);
    (exit, out.text(), err.text())
}

#[test]
fn the_command_line_contradicts_itself_nowhere() {
    CommandLine::command().debug_assert();
}

#[test]
fn exit_codes_are_what_was_promised() {
    let exits = [Exit::Done, Exit::Failed, Exit::Usage, Exit::Unreachable, Exit::Busy, Exit::Configuration];
    assert_eq!(exits.map(Exit::code), [0, 1, 2, 69, 75, 78]);
}

#[test]
fn help_and_version_are_results_and_wrong_usage_is_an_error() {
    let (exit, out, err) = asked(&["--version"]);
    assert_eq!((exit, err.as_str()), (Exit::Done, ""));
    assert_eq!(out, concat!("pulumi-audit-forwarder ", env!("CARGO_PKG_VERSION"), "\n"));
    let (exit, out, _) = asked(&["--help"]);
    assert_eq!(exit, Exit::Done);
    for part in ["run", "check", "status", "config", "completions", "man", "Exit codes"] {
        assert!(out.contains(part), "{out}");
    }
    for wrong in [
        &["walk"][..],
        &[],
        &["run", "--timeout", "1m"],
        &["run", "--once", "--timeout", "5"],
        &["status", "--json", "--healthcheck"],
        &["check", "--offline", "--write-probe"],
        &["completions"],
        &["config", "schema", "both"],
    ] {
        let (exit, out, err) = asked(wrong);
        assert_eq!((exit, out.as_str()), (Exit::Usage, ""), "{wrong:?}");
        assert!(!err.is_empty());
    }
}

#[test]
fn an_invalid_configuration_ends_with_78_and_its_mistakes_on_standard_error() {
    let directory = written();
    let file = directory.path().join("forwarder.toml");
    std::fs::write(&file, "[log]\nlevel = \"loud\"\n").unwrap();
    let file = file.to_str().unwrap();
    let (exit, out, err) = asked(&["check", "--offline", "--config", file]);
    assert_eq!((exit, out.as_str()), (Exit::Configuration, ""));
    assert!(err.starts_with("error: the configuration has mistakes:\n\n"), "{err}");
    assert!(err.contains("forwarder.toml:2 | level = \"loud\""), "{err}");
    let (exit, out, _) = asked(&["--config", file, "check", "--json"]);
    assert_eq!(exit, Exit::Configuration);
    let answer: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&answer["ok"], &answer["config"]["ok"]), (&false.into(), &false.into()));
}

#[test]
fn an_org_that_is_not_configured_is_wrong_usage() {
    let directory = written();
    let file = directory.path().join("forwarder.toml");
    let (exit, _, err) = asked(&["check", "--offline", "--org", "gamma", "--config", file.to_str().unwrap()]);
    assert_eq!(exit, Exit::Usage);
    assert_eq!(err, "error: no org `gamma` is configured: --org takes one of acme, beta\n");
}

#[test]
fn flags_win_over_the_configuration_of_logs() {
    let directory = written();
    let file = directory.path().join("forwarder.toml");
    let arguments =
        ["x", "run", "--log-level", "debug", "--log-format", "json", "--config", file.to_str().unwrap()];
    let line = CommandLine::try_parse_from(arguments).unwrap();
    let log = line.global.load().unwrap().settings.log;
    assert_eq!((log.level.as_str(), log.format), ("debug", LogFormat::Json));
}

#[test]
fn the_merged_configuration_is_shown_as_toml_with_origins() {
    let directory = written();
    let file = directory.path().join("forwarder.toml");
    let (exit, out, err) = asked(&["config", "show", "--config", file.to_str().unwrap()]);
    assert_eq!((exit, err.as_str()), (Exit::Done, ""));
    let out = out.replace(directory.path().to_str().unwrap(), "[directory]");
    insta::assert_snapshot!("shown", out);
    let parsed: toml::Table = out.parse().unwrap();
    assert_eq!(parsed["orgs"]["beta"]["file"]["path"].as_str(), Some("/beta"));
}

#[test]
fn the_starter_configuration_is_written_once() {
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().join("new/config");
    let (exit, out, _) = asked(&["config", "init", target.to_str().unwrap()]);
    assert_eq!(exit, Exit::Done);
    assert!(out.contains("forwarder.toml") && out.contains("next:"), "{out}");
    std::fs::write(target.join("forwarder.toml"), "mine").unwrap();
    std::fs::remove_file(target.join("orgs/example-org.toml.example")).unwrap();
    let (exit, _, err) = asked(&["config", "init", target.to_str().unwrap()]);
    assert_eq!(exit, Exit::Failed);
    assert!(err.contains("exists, and nothing was written"), "{err}");
    assert_eq!(std::fs::read_to_string(target.join("forwarder.toml")).unwrap(), "mine");
    assert!(!target.join("orgs/example-org.toml.example").exists());
}

/// `#key = …` and `#[section]` are settings; `# Text` is for people.
fn uncommented(text: &str) -> String {
    let setting = |line: &str| {
        let rest = line
            .strip_prefix('#')
            .filter(|rest| rest.starts_with(|c: char| c == '[' || c.is_ascii_lowercase()));
        rest.unwrap_or(line).to_owned() + "\n"
    };
    text.lines().map(setting).collect()
}

#[test]
fn the_starter_configuration_loads_as_it_is_and_with_everything_in_it_turned_on() {
    for change in [str::to_owned, uncommented] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        std::fs::create_dir_all(path.join("orgs")).unwrap();
        for (name, text) in config::STARTER {
            let name = name.replace(".toml.example", ".toml");
            std::fs::write(path.join(name), change(text)).unwrap();
        }
        for name in ["pulumi-token", "pulumi-token-next", "azure-client-secret", "s3-secret-access-key"] {
            secret(&path.join("secrets").join(name));
        }
        let loaded = crate::config::load(Some(&path.join("forwarder.toml")))
            .unwrap_or_else(|invalid| panic!("{invalid}"));
        assert_eq!(loaded.settings.orgs.len(), 1);
        assert_eq!(loaded.settings.warnings, Vec::<String>::new());
    }
}
