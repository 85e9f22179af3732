//! The judge is judged: a run in which all went well, and what is then done to it, one thing after another. Each must be objected to.
//!
//! What is lost, doubled or altered in an archive or a table is tried elsewhere, at length; here it is about what is judged of a run
//! while it goes on.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use pulumi_audit_forwarder::clock::{Second, Window};
use pulumi_audit_forwarder::journal::{Append, Journal};

use crate::history::{History, Reduction};
use crate::judge::{self, Ill};
use crate::play::{self, Loss, Play};
use crate::simulation::{BEGIN, HOUR, MINUTE, id};
use crate::wire::{AZURE, PULUMI, S3, Sent};
use crate::world::setup::rule_of;

const ORG: &str = "acme";

type Sabotage = (&'static str, &'static str);

/// What is done, and how the objection to it begins.
const ALL: [Sabotage; 12] = [
    ("objects are lost while another's store is ill", "I4:"),
    ("a destination that is ill says it is well", "I8:"),
    ("a source that is ill says it is well", "I8:"),
    ("objects are lost after the faults", "I7:"),
    ("objects that were found in time are lost", "I1:"),
    ("another forwarder goes on where a claim stands", "M2:"),
    ("time is covered without what happened in it", "M1:"),
    ("an object has no claim", "written before"),
    ("more is asked than is allowed", "asked"),
    ("a 403 is asked for again and again", "was refused"),
    ("a refused request is repeated at once", "tried"),
    ("what is known to be delivered is sent again after a loss", "I3:"),
];

/// What was done without an objection; or was objected to before it was done.
pub(crate) fn unnoticed() -> Vec<String> {
    let seed = plain();
    ALL.into_iter()
        .filter_map(|(what, expected)| {
            let (before, after) = play::alone(async move { tried(what, seed).await });
            let begins = |texts: &[String]| texts.iter().any(|text| text.contains(expected));
            if begins(&before) {
                Some(format!("{what}: already said of a run in which all is well: {before:?}"))
            } else if begins(&after) {
                None
            } else {
                Some(format!("{what}: {after:?}"))
            }
        })
        .collect()
}

/// One org with a table and a bucket, hours without a fault.
async fn well(seed: u64) -> Play {
    let reduction = Reduction { keep: Some([].into()), orgs: Some([0].into()), thin: 1 };
    let mut play = Play::of(reduction.apply(History::drawn(seed)));
    play.simulation.start();
    play.simulation.pass(HOUR).await;
    play
}

fn plain() -> u64 {
    (0..10_000)
        .find(|seed| {
            let history = History::drawn(*seed);
            let org = &history.orgs[0];
            org.sentinel && org.s3 && history.length < 4 * HOUR && org.is_busy() && history.is_plain()
        })
        .expect("one in some hundreds is like this")
}

async fn tried(what: &str, seed: u64) -> (Vec<String>, Vec<String>) {
    let mut play = well(seed).await;
    let before = said(&mut play, what).await;
    done(&mut play, what).await;
    (before, said(&mut play, what).await)
}

async fn done(play: &mut Play, what: &str) {
    let lose = |play: &Play| {
        assert!(play.simulation.store.lose(&format!("/org={ORG}/date=")) > 0, "some were stored")
    };
    let pretend = |play: &Play, host: &str, path: String, status: u16, times: u64| {
        let at = play.simulation.elapsed();
        for number in 0..times {
            let at = at + Duration::from_millis(number);
            let sent =
                Sent { at, host: host.to_owned(), path: path.clone(), status: Some(status), digest: 0 };
            play.simulation.wire.pretend(sent);
        }
    };
    let list = format!("/api/orgs/{ORG}/auditlogs/v2?");
    match what {
        "objects are lost while another's store is ill"
        | "objects are lost after the faults"
        | "objects that were found in time are lost" => lose(play),
        "time is covered without what happened in it" => {
            let state = play.simulation.state(ORG).await;
            let mut coverage = state.coverage.clone();
            let tip = coverage.tip().expect("something was read");
            let until = Second(tip.0 + 2 * HOUR);
            coverage.cover(Window::new(tip, until), until, &[], &[]);
            let append = Append {
                revision: state.revision,
                start: state.start,
                coverage,
                chunks: Vec::new(),
                tally: Vec::new(),
                tally_floor: state.tally_floor,
                window: None,
                now: Second(play.now()),
            };
            play.simulation.journal.append(&id(ORG), append).await.expect("memory does not fail");
        }
        "an object has no claim" => {
            let url =
                format!("https://{S3}/audit/pulumi/org={ORG}/date=2026-11-21/99999999999999999999.jsonl.gz");
            let request = Request::put(url).header("if-none-match", "*").body(Bytes::from_static(b"?"));
            play.simulation.store.answer(request.expect("a request is well formed"));
        }
        "more is asked than is allowed" => pretend(play, PULUMI, list, 200, 400),
        "a 403 is asked for again and again" => pretend(play, PULUMI, list, 403, 30),
        "a refused request is repeated at once" => {
            pretend(play, AZURE, format!("/dataCollectionRules/{}/streams", rule_of(ORG)), 429, 9);
        }
        "what is known to be delivered is sent again after a loss" => {
            let rows = play.simulation.azure.shared_rows_of_rule(&rule_of(ORG));
            let last = rows.last().expect("some were sent").text("EventKey_s").to_owned();
            let delivered = [(ORG.to_owned(), [last].into())].into();
            play.losses.push(Loss { uploads: 0, delivered });
        }
        // The judge is told what is not so.
        _ => {}
    }
}

async fn said(play: &mut Play, what: &str) -> Vec<String> {
    let well = [(ORG.to_owned(), "s3".to_owned()), (ORG.to_owned(), "sentinel".to_owned())].into();
    let is_sabotaged = std::mem::replace(&mut play.sabotaged, true);
    let hour_ago = play.simulation.elapsed().saturating_sub(Duration::from_secs(HOUR as u64));
    match what {
        "objects are lost while another's store is ill" => {
            judge::outage(play, &Ill::Source("beta".to_owned()), &well, hour_ago);
        }
        "a destination that is ill says it is well" if is_sabotaged => {
            judge::outage(play, &Ill::Store(None), &well, hour_ago);
        }
        "a source that is ill says it is well" if is_sabotaged => {
            judge::outage(play, &Ill::Source(ORG.to_owned()), &well, hour_ago);
        }
        "objects are lost after the faults" => judge::drained(play, 20 * MINUTE),
        "objects that were found in time are lost" => judge::prompt(play, play.now() - BEGIN),
        "another forwarder goes on where a claim stands" if is_sabotaged => {
            let statuses = play.simulation.statuses();
            judge::second(play, &statuses);
        }
        "time is covered without what happened in it" => judge::journaled(play).await,
        "an object has no claim" => {
            let unclaimed = play.simulation.store.unclaimed();
            play.objections.extend(unclaimed.iter().map(|key| format!("written before its claim: {key}")));
        }
        "more is asked than is allowed" | "a 403 is asked for again and again" => {
            let objections = judge::pressure(play, ORG);
            play.objections.extend(objections);
        }
        "what is known to be delivered is sent again after a loss" => {
            let objections = judge::resent(play, ORG);
            play.objections.extend(objections);
        }
        "a refused request is repeated at once" => {
            let objections = judge::haste(play, ORG);
            play.objections.extend(objections);
        }
        _ => {}
    }
    std::mem::take(&mut play.objections)
}
