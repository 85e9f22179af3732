//! `check`: the configuration, then every credential and permission, one line each.
//!
//! What is tried, and how, belongs to those who will do it for real; this command asks them and prints what they found.

use std::io::Write;

use serde_json::json;
use tokio::sync::mpsc;

use super::{CheckFlags, Exit, Failure, Global, only, runtime};
use crate::config::Loaded;
use crate::config::settings::{OrgSettings, Settings, Start};
use crate::probe::Probe;
use crate::trial::Outcome;

/// `probes` starts trying, on the runtime it is called on, and gives the results in the order in which they come; dropping the
/// receiver ends the trying.
pub(super) fn check(
    global: &Global,
    flags: &CheckFlags,
    probes: impl FnOnce(&Settings) -> mpsc::Receiver<Probe>,
    out: &mut (dyn Write + Send),
) -> Result<Exit, Failure> {
    let mut loaded = match global.load() {
        Ok(loaded) => loaded,
        Err(invalid) => {
            if flags.json {
                let mistakes: Vec<String> = invalid.mistakes.iter().map(ToString::to_string).collect();
                let answer =
                    json!({ "ok": false, "config": { "ok": false, "mistakes": mistakes }, "probes": [] });
                writeln!(out, "{answer:#}")?;
            }
            return Err(invalid.into());
        }
    };
    only(&mut loaded.settings, flags.org.as_deref())?;
    if !flags.json {
        print_configuration(&loaded, out)?;
    }
    let mut found = Vec::new();
    if !flags.offline {
        let runtime = runtime()?;
        runtime.block_on(async {
            let mut probes = probes(&loaded.settings);
            while let Some(probe) = probes.recv().await {
                if !flags.json {
                    print_probe(&loaded.settings, &probe, out)?;
                }
                found.push(probe);
            }
            Ok::<(), Failure>(())
        })?;
    }
    let bad = found.iter().filter(|probe| probe.trial.outcome.is_bad()).count();
    if flags.json {
        writeln!(out, "{:#}", answer(&loaded, &found))?;
    } else if bad > 0 {
        writeln!(out, "{bad} of {} failed", found.len())?;
    }
    Ok(if bad > 0 { Exit::Unreachable } else { Exit::Done })
}

fn start(org: &OrgSettings) -> String {
    match org.start {
        Start::Now => "now".into(),
        Start::At(second) => second.to_string(),
    }
}

fn destinations(org: &OrgSettings) -> Vec<&'static str> {
    org.destinations().into_iter().map(|name| name.as_str()).collect()
}

/// Width of the column of ids.
fn width(settings: &Settings) -> usize {
    settings.orgs.iter().map(|org| org.id.as_str().len()).max().unwrap_or_default()
}

fn print_configuration(loaded: &Loaded, out: &mut dyn Write) -> Result<(), Failure> {
    writeln!(out, "configuration ok: {}", loaded.file.display())?;
    for warning in &loaded.settings.warnings {
        writeln!(out, "warning: {warning}")?;
    }
    let width = width(&loaded.settings);
    for org in &loaded.settings.orgs {
        let destinations = destinations(org).join(", ");
        writeln!(out, "{:width$}  {} from {}, into {destinations}", org.id.as_str(), org.org, start(org))?;
    }
    Ok(())
}

fn print_probe(settings: &Settings, probe: &Probe, out: &mut dyn Write) -> Result<(), Failure> {
    let (org, party, tried, width) = (probe.org.as_str(), &probe.party, probe.trial.tried, width(settings));
    let (word, text) = match &probe.trial.outcome {
        Outcome::Ok(found) => ("ok", found.clone()),
        Outcome::Warning { cause, remedy } => ("warning", format!("{cause}: {remedy}")),
        Outcome::Failed(problem) => ("FAILED", format!("{}: {}", problem.cause, problem.remedy)),
        Outcome::Unreachable { cause, remedy } => ("UNREACHABLE", format!("{cause}: {remedy}")),
    };
    writeln!(out, "{org:width$}  {party:8}  {tried:11}  {word:11}  {text}")?;
    Ok(())
}

fn answer(loaded: &Loaded, found: &[Probe]) -> serde_json::Value {
    let orgs: Vec<_> = loaded
        .settings
        .orgs
        .iter()
        .map(|org| {
            json!({ "id": org.id.as_str(), "org": org.org, "start": start(org), "destinations": destinations(org) })
        })
        .collect();
    let probes: Vec<_> = found.iter().map(tried).collect();
    json!({
        "ok": !found.iter().any(|probe| probe.trial.outcome.is_bad()),
        "config": {
            "ok": true,
            "file": loaded.file.display().to_string(),
            "warnings": loaded.settings.warnings,
            "orgs": orgs,
        },
        "probes": probes,
    })
}

/// One thing tried. `ok` is what the exit code follows; `outcome` is `ok`, `warning`, `failed` or `unreachable`.
fn tried(probe: &Probe) -> serde_json::Value {
    let Probe { org, party, trial } = probe;
    let outcome = |outcome: &str, ok: bool| json!({ "org": org.as_str(), "what": party, "tried": trial.tried, "ok": ok, "outcome": outcome });
    let (mut answer, more) = match &trial.outcome {
        Outcome::Ok(found) => (outcome("ok", true), json!({ "found": found })),
        Outcome::Warning { cause, remedy } => {
            (outcome("warning", true), json!({ "cause": cause, "remedy": remedy }))
        }
        Outcome::Failed(problem) => (
            outcome("failed", false),
            json!({ "reason": problem.reason.as_str(), "cause": problem.cause, "remedy": problem.remedy }),
        ),
        Outcome::Unreachable { cause, remedy } => {
            (outcome("unreachable", false), json!({ "cause": cause, "remedy": remedy }))
        }
    };
    if let (Some(answer), serde_json::Value::Object(more)) = (answer.as_object_mut(), more) {
        answer.extend(more);
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Captured, written};
    use super::*;
    use crate::problem::{PauseReason, Problem};
    use crate::trial::Trial;

    fn results(results: Vec<(&'static str, Trial)>) -> impl FnOnce(&Settings) -> mpsc::Receiver<Probe> {
        move |settings: &Settings| {
            let (sender, receiver) = mpsc::channel(16);
            let org = settings.orgs[0].id.clone();
            for (party, trial) in results {
                sender.try_send(Probe { org: org.clone(), party: party.into(), trial }).unwrap();
            }
            receiver
        }
    }

    fn fine(tried: &'static str) -> Trial {
        Trial::new(tried, "as it should be".to_owned())
    }

    fn refused() -> Trial {
        Trial::new(
            "list",
            Problem {
                reason: PauseReason::Permission,
                cause: "S3 refused to list bucket `acme-audit` (403)".into(),
                remedy: "grant s3:ListBucket".into(),
            },
        )
    }

    fn warned() -> Trial {
        Trial::new("token", Outcome::Warning { cause: "personal token".into(), remedy: "use another".into() })
    }

    fn checked(flags: CheckFlags, probes: impl FnOnce(&Settings) -> mpsc::Receiver<Probe>) -> (Exit, String) {
        let directory = written();
        let global = Global { config: Some(directory.path().join("forwarder.toml")), ..Global::default() };
        let mut out = Captured::default();
        let exit = check(&global, &flags, probes, &mut out).unwrap_or_else(|failure| panic!("{failure}"));
        (exit, out.text().replace(directory.path().to_str().unwrap(), "[directory]"))
    }

    #[test]
    fn each_thing_tried_is_one_line_and_a_failure_names_its_remedy() {
        let unreachable = Trial::new(
            "rows",
            Outcome::Unreachable { cause: "no answer".into(), remedy: "try again".into() },
        );
        let tried = vec![
            ("source", fine("audit log")),
            ("source", warned()),
            ("sentinel", unreachable),
            ("s3", refused()),
        ];
        let (exit, text) = checked(CheckFlags::default(), results(tried));
        assert_eq!(exit, Exit::Unreachable);
        assert_eq!(
            text,
            "configuration ok: [directory]/forwarder.toml\n\
             acme  acme-corp from now, into file\n\
             beta  beta-corp from 2026-01-01T00:00:00Z, into file\n\
             acme  source    audit log    ok           as it should be\n\
             acme  source    token        warning      personal token: use another\n\
             acme  sentinel  rows         UNREACHABLE  no answer: try again\n\
             acme  s3        list         FAILED       S3 refused to list bucket `acme-audit` (403): grant s3:ListBucket\n\
             2 of 4 failed\n"
        );
    }

    #[test]
    fn what_is_all_in_order_ends_with_0_and_so_does_a_warning() {
        for trial in [fine("audit log"), warned()] {
            let (exit, _) = checked(CheckFlags::default(), results(vec![("source", trial)]));
            assert_eq!(exit, Exit::Done);
        }
    }

    #[test]
    fn offline_tries_nothing() {
        let flags = CheckFlags { offline: true, org: Some("beta".into()), ..CheckFlags::default() };
        let (exit, text) = checked(flags, |_| panic!("nothing may be tried"));
        assert_eq!(exit, Exit::Done);
        assert!(text.contains("beta-corp") && !text.contains("acme-corp"), "{text}");
    }

    #[test]
    fn json_is_one_object_with_the_same_findings() {
        let flags = CheckFlags { json: true, ..CheckFlags::default() };
        let tried = vec![("source", fine("audit log")), ("source", warned()), ("s3", refused())];
        let (exit, text) = checked(flags, results(tried));
        assert_eq!(exit, Exit::Unreachable);
        let answer: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(answer["ok"], false);
        assert_eq!(answer["config"]["orgs"][1]["start"], "2026-01-01T00:00:00Z");
        assert_eq!(answer["config"]["orgs"][0]["destinations"], json!(["file"]));
        assert_eq!(answer["probes"][0]["found"], "as it should be");
        assert_eq!(answer["probes"][0]["tried"], "audit log");
        assert_eq!(
            (&answer["probes"][1]["ok"], &answer["probes"][1]["outcome"]),
            (&json!(true), &json!("warning"))
        );
        assert_eq!(answer["probes"][2]["reason"], "permission");
        assert_eq!(answer["probes"][2]["remedy"], "grant s3:ListBucket");
    }
}
