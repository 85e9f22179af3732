//! The judge is judged: whatever is dropped, doubled, altered, moved, cut or broken in what a run has left must be noticed, wherever
//! chance puts it, also where whoever did it has made every hash right again.

use std::collections::BTreeSet;
use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::simulated::simulation::{BEGIN, HOUR, Simulation};
use crate::world::chance::Chance;
use crate::world::ingestion::Fault;
use crate::world::ingestion::rows::Row;
use crate::world::pulumi::events::Generator;
use crate::world::pulumi::store::hex;
use crate::world::s3::reader::gunzip;
use crate::world::script::Times;
use crate::world::setup::rule_of;
use crate::world::truth::archive::Archive;
use crate::world::truth::{Expect, Source, sends, table};
use crate::world::verdict::Cut;

/// A few hours of one org, at all of its destinations, and nothing wrong.
async fn run() -> (Simulation, Source) {
    let mut simulation = Simulation::of(&["acme"]).with_sentinel();
    simulation.setup("acme").s3 = true;
    simulation.setup("acme").source = "rescan_after = [\"30m\"]".into();
    let events = Generator::seeded(1).plain().lively(BEGIN, BEGIN + 3 * HOUR, 60.0);
    simulation.add("acme", events);
    simulation.start();
    simulation.pass_until(BEGIN + 5 * HOUR).await;
    simulation.assert_complete("acme", i64::MAX);
    let source = simulation.truth("acme");
    (simulation, source)
}

fn is_sound(archive: &Archive, source: &Source) -> bool {
    archive.check("s3", "acme", source, &Expect::default()).is_complete()
}

fn packed(plain: &[u8]) -> Vec<u8> {
    let mut packer = GzEncoder::new(Vec::new(), Compression::fast());
    packer.write_all(plain).expect("memory takes it");
    packer.finish().expect("memory takes it")
}

fn claims(archive: &Archive) -> Vec<String> {
    archive.files.keys().filter(|name| name.starts_with("_chain/")).cloned().collect()
}

fn objects(archive: &Archive) -> Vec<String> {
    archive.files.keys().filter(|name| name.starts_with("org=")).cloned().collect()
}

fn lines(archive: &Archive, object: &str) -> Vec<Vec<u8>> {
    let plain = gunzip(&archive.files[object]).expect("it is whole");
    plain.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect()
}

fn rewrite(archive: &mut Archive, object: &str, lines: &[Vec<u8>]) {
    archive.files.insert(object.to_owned(), packed(&lines.concat()));
}

/// Makes every hash and count right again, from the first claim to the last.
fn seal(archive: &mut Archive) {
    let mut previous = "0".repeat(64);
    for name in claims(archive) {
        let mut claim: Value = serde_json::from_slice(&archive.files[&name]).expect("a claim is JSON");
        let key = claim["key"].as_str().expect("a claim names its object").to_owned();
        if let Some(plain) = archive.files.get(&key).and_then(|body| gunzip(body)) {
            claim["sha256"] = hex(&Sha256::digest(&plain)).into();
            claim["count"] = plain.iter().filter(|byte| **byte == b'\n').count().into();
        }
        claim["previous"] = previous.into();
        let bytes = claim.to_string().into_bytes();
        previous = hex(&Sha256::digest(&bytes));
        archive.files.insert(name, bytes);
    }
}

/// An object with at least so many lines.
fn object(archive: &Archive, chance: &mut Chance, least: usize) -> String {
    let names: Vec<String> =
        objects(archive).into_iter().filter(|name| lines(archive, name).len() >= least).collect();
    chance.pick(&names).clone()
}

/// Does one of the things that an honest archive never shows; says which. Some leave the hashes right.
fn tampered(archive: &mut Archive, chance: &mut Chance) -> &'static str {
    let seals = chance.one_in(2);
    let what = match chance.below(13) {
        0 => {
            let name = object(archive, chance, 1);
            let mut lines = lines(archive, &name);
            lines.remove(chance.below(lines.len() as u64) as usize);
            rewrite(archive, &name, &lines);
            "an event is dropped"
        }
        1 => {
            let name = object(archive, chance, 1);
            let mut lines = lines(archive, &name);
            let place = chance.below(lines.len() as u64) as usize;
            lines.insert(place, lines[place].clone());
            rewrite(archive, &name, &lines);
            "an event is doubled"
        }
        2 => {
            let name = object(archive, chance, 1);
            let mut lines = lines(archive, &name);
            let place = chance.below(lines.len() as u64) as usize;
            let text = String::from_utf8(lines[place].clone()).expect("the events are text");
            lines[place] = text.replacen("\"description\":\"", "\"description\":\"not ", 1).into_bytes();
            rewrite(archive, &name, &lines);
            "an event is altered"
        }
        3 => {
            let name = object(archive, chance, 1);
            let mut lines = lines(archive, &name);
            let place = chance.below(lines.len() as u64) as usize;
            let text = String::from_utf8(lines[place].clone()).expect("the events are text");
            let key =
                text.split("\"key\":\"").nth(1).map(|rest| rest[..43].to_owned()).expect("a line has a key");
            let another = lines.len();
            let copy = text.replacen(&key, &format!("{another:043}"), 1).into_bytes();
            lines.insert(place, copy);
            rewrite(archive, &name, &lines);
            "an event is doubled under another key"
        }
        4 => {
            let name = object(archive, chance, 2);
            let mut lines = lines(archive, &name);
            lines.reverse();
            if lines == self::lines(archive, &name) {
                return "nothing";
            }
            rewrite(archive, &name, &lines);
            // Sealed, an order within one second is as good as another.
            return "events are reordered";
        }
        5 => {
            let name = object(archive, chance, 1);
            archive.files.remove(&name);
            "an object is removed"
        }
        6 => {
            let names = claims(archive);
            archive.files.remove(chance.pick(&names[..names.len() - 1]));
            return "a claim is removed from the middle";
        }
        7 => {
            let names = claims(archive);
            let name = chance.pick(&names[1..]).clone();
            let mut claim: Value = serde_json::from_slice(&archive.files[&name]).expect("a claim is JSON");
            claim["previous"] = chance.hex(64).into();
            archive.files.insert(name, claim.to_string().into_bytes());
            return "a link of the chain is broken";
        }
        8 => {
            let names: Vec<String> = archive.files.keys().cloned().collect();
            let name = chance.pick(&names).clone();
            let body = archive.files.get_mut(&name).expect("it is there");
            let end = chance.below(body.len() as u64) as usize;
            body.truncate(end);
            return "a file is cut short";
        }
        9 => {
            let name = object(archive, chance, 1);
            let (folder, _) = name.rsplit_once('/').expect("objects lie in folders");
            let body = archive.files[&name].clone();
            archive.files.insert(format!("{folder}/{:020}.jsonl.gz", 999_999), body);
            "an object is added"
        }
        10 => {
            let (left, right) = (object(archive, chance, 1), object(archive, chance, 1));
            if left == right {
                return "nothing";
            }
            let (a, b) = (archive.files[&left].clone(), archive.files[&right].clone());
            archive.files.insert(left, b);
            archive.files.insert(right, a);
            "two objects change places"
        }
        11 => {
            let name = claims(archive).pop().expect("there are claims");
            let claim: Value = serde_json::from_slice(&archive.files[&name]).expect("a claim is JSON");
            archive.files.remove(claim["key"].as_str().expect("a claim names its object"));
            archive.files.remove(&name);
            "the newest chunk is removed, claim and object"
        }
        _ => {
            let name = object(archive, chance, 1);
            archive.files.insert(name, packed(b""));
            return "an object is made void";
        }
    };
    if seals {
        seal(archive);
    }
    what
}

#[tokio::test(start_paused = true)]
async fn every_tampering_with_an_archive_is_noticed_wherever_it_is() {
    let (simulation, source) = run().await;
    let sound = simulation.bucket();
    assert!(claims(&sound).len() > 10, "there is something to tamper with");
    assert!(is_sound(&sound, &source));
    let mut again = sound.clone();
    seal(&mut again);
    assert!(is_sound(&again, &source), "sealing alone changes nothing that matters");
    let mut seen = BTreeSet::new();
    for seed in 0..160 {
        let mut archive = sound.clone();
        let what = tampered(&mut archive, &mut Chance::seeded(seed));
        seen.insert(what);
        assert_eq!(is_sound(&archive, &source), what == "nothing", "seed {seed}: {what}");
    }
    seen.remove("nothing");
    assert_eq!(seen.len(), 13, "each kind was tried: {seen:?}");
}

#[tokio::test(start_paused = true)]
async fn every_row_that_is_dropped_doubled_altered_or_invented_is_noticed() {
    let (simulation, source) = run().await;
    let rows = simulation.azure.rows_of_rule(&rule_of("acme"));
    let check = |rows: &[Row]| table::check(rows, "acme", &source, simulation.now(), &Expect::default());
    assert!(check(&rows).is_complete());
    let heard = simulation.wire.heard();
    assert!(sends::needless(&rows, &heard, &[]).is_empty());
    for seed in 0..100 {
        let mut chance = Chance::seeded(seed);
        let place = chance.below(rows.len() as u64) as usize;
        let mut changed = rows.clone();
        match seed % 4 {
            0 => {
                changed.remove(place);
            }
            1 => {
                changed[place].cells.insert("EventKey_s".into(), chance.hex(43).into());
                changed.push(rows[place].clone());
            }
            2 => {
                changed[place].cells.insert("Description_s".into(), chance.hex(20).into());
            }
            _ => {
                let mut copy = rows[place].clone();
                copy.cells.insert("SourceIP_s".into(), "198.51.100.1".into());
                changed.push(copy);
            }
        }
        assert!(!check(&changed).is_complete(), "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_row_sent_again_is_excused_by_a_lost_answer_or_an_end_of_the_process_alone() {
    let (simulation, _) = run().await;
    let rows = simulation.azure.rows_of_rule(&rule_of("acme"));
    let heard = simulation.wire.heard();
    let mut repeated = rows.clone();
    let (first, newest) = (rows[0].clone(), rows[rows.len() - 1].clone());
    repeated.push(Row { request: newest.request + 1, received: newest.received + 60, ..first.clone() });
    assert_eq!(sends::needless(&repeated, &heard, &[]).len(), 1);
    let mut unheard = heard.clone();
    unheard.remove(&first.request);
    assert!(sends::needless(&repeated, &unheard, &[]).is_empty(), "its answer was lost");
    assert!(sends::needless(&repeated, &heard, &[first.received + 5]).is_empty(), "the process ended");
    assert_eq!(sends::needless(&repeated, &heard, &[newest.received + 61]).len(), 1, "it ended later");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_lost_counts_as_not_heard() {
    let mut simulation = Simulation::of(&["acme"]).with_sentinel();
    simulation.add("acme", Generator::seeded(2).background(BEGIN, BEGIN + HOUR, 60.0));
    simulation.azure.fault(Fault::AnswerLost(Cut::Close), Times::Next(1));
    simulation.start();
    simulation.pass_until(BEGIN + 2 * HOUR).await;
    let rows = simulation.azure.rows_of_rule(&rule_of("acme"));
    let heard = simulation.wire.heard();
    assert!(!heard.contains(&rows[0].request) && heard.contains(&rows[rows.len() - 1].request));
    let report = simulation.ingested("acme", &Expect { as_of: BEGIN + HOUR, ..Expect::default() });
    assert!(report.removable > 0 && report.is_complete(), "{report}");
    assert!(sends::needless(&rows, &heard, &[]).is_empty());
}
