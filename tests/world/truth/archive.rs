//! Reads an archive (a bucket's or a directory's files) as `interface.md` describes it, and checks every link of its chain.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::super::clock::{parse_rfc3339, rfc3339};
use super::super::lexemes;
use super::super::pulumi::store::hex;
use super::super::s3::reader::{Bucket, gunzip};
use super::{Arrival, Expect, Report, Source, compare, sample};

/// Files by their names relative to the prefix.
#[derive(Debug, Clone, Default)]
pub struct Archive {
    pub files: BTreeMap<String, Vec<u8>>,
}

/// One line of an object.
#[derive(Debug, Clone)]
pub struct Line {
    pub key: String,
    pub time: Option<String>,
    pub chunk: u64,
    pub mode: String,
    /// The event as received, white space dropped.
    pub event: Vec<u8>,
}

impl Archive {
    pub async fn of_bucket(bucket: &Bucket, prefix: &str) -> Self {
        let below =
            if prefix.is_empty() { String::new() } else { format!("{}/", prefix.trim_end_matches('/')) };
        let files = bucket.everything(&below).await;
        Self { files: files.into_iter().map(|(key, body)| (key[below.len()..].to_owned(), body)).collect() }
    }

    pub fn of_directory(directory: &Path) -> Self {
        let mut archive = Self::default();
        let mut open = vec![directory.to_path_buf()];
        while let Some(next) = open.pop() {
            let Ok(entries) = std::fs::read_dir(&next) else { continue };
            for entry in entries.flatten() {
                let path = entry.path();
                if path.is_dir() {
                    open.push(path);
                } else if let (Ok(name), Ok(body)) = (path.strip_prefix(directory), std::fs::read(&path)) {
                    archive.files.insert(name.to_string_lossy().into_owned(), body);
                }
            }
        }
        archive
    }

    /// Every line of an org's objects, in the order of their numbers. What cannot be read is told in `problems`.
    pub fn lines(&self, id: &str, problems: &mut Vec<String>) -> Vec<Line> {
        self.objects(id).flat_map(|(name, body)| read_object(name, body, problems)).collect()
    }

    fn objects<'a>(&'a self, id: &str) -> impl Iterator<Item = (&'a String, &'a Vec<u8>)> {
        let folder = format!("org={id}/");
        self.files.iter().filter(move |(name, _)| name.starts_with(&folder))
    }

    /// Compares with the source, and checks the form of everything.
    pub fn check(&self, destination: &str, id: &str, source: &Source, expect: &Expect) -> Report {
        let mut report =
            Report { org: id.to_owned(), destination: destination.to_owned(), ..Report::default() };
        self.check_chain(id, expect, &mut report);
        let mut problems = Vec::new();
        let lines = self.lines(id, &mut problems);
        report.problems.append(&mut problems);
        let mut keys = BTreeSet::new();
        for line in &lines {
            if line.key.len() != 43 {
                report.problems.push(format!("the event key {:?} has not 43 characters", line.key));
            }
            if !keys.insert(&line.key) {
                report.problems.push(format!("the event key {} stands twice in the archive", line.key));
            }
        }
        let arrived = lines
            .iter()
            .map(|line| Arrival {
                key: source.shown.key(&line.event),
                sample: sample(&line.event),
                time: line.time.as_deref().and_then(parse_rfc3339),
            })
            .collect();
        let events = source.events.iter().map(|event| (event.key.clone(), event.clone())).collect();
        compare(&mut report, events, arrived, expect);
        report
    }

    fn check_chain(&self, id: &str, expect: &Expect, report: &mut Report) {
        let folder = format!("_chain/org={id}/");
        let mut named = BTreeSet::new();
        let mut previous: Option<String> = None;
        let mut next = expect.first_chunk;
        for (name, bytes) in self.files.iter().filter(|(name, _)| name.starts_with(&folder)) {
            let problems = &mut report.problems;
            let Ok(claim) = serde_json::from_slice::<Value>(bytes) else {
                problems.push(format!("{name} is not JSON"));
                continue;
            };
            let number = claim["chunk"].as_u64();
            if number != Some(next) || *name != format!("{folder}{next:020}.json") {
                problems.push(format!("{name} claims chunk {number:?} where {next} is due"));
            }
            next = number.unwrap_or(next) + 1;
            let expected = match (&previous, number) {
                (Some(previous), _) => Some(previous.clone()),
                (None, Some(0)) => Some("0".repeat(64)),
                (None, _) => None,
            };
            if expected.is_some_and(|expected| claim["previous"] != expected) {
                problems.push(format!("{name} does not follow the claim before it"));
            }
            previous = Some(hex(&Sha256::digest(bytes)));
            if claim["id"] != id {
                problems.push(format!("{name} names the id {}", claim["id"]));
            }
            let key = claim["key"].as_str().unwrap_or_default();
            named.insert(key.to_owned());
            let Some(body) = self.files.get(key) else {
                problems.push(format!("{name} names {key:?}, which is not there"));
                continue;
            };
            let Some(plain) = gunzip(body) else {
                problems.push(format!("{key} is not a whole gzip file"));
                continue;
            };
            if plain.is_empty() && claim["count"] != 0 {
                report.void += 1;
                continue;
            }
            if claim["sha256"] != hex(&Sha256::digest(&plain)) {
                problems.push(format!("{key} has not the hash its claim states"));
            }
            let count = plain.iter().filter(|byte| **byte == b'\n').count() as u64;
            if claim["count"].as_u64() != Some(count) {
                problems.push(format!("{key} holds {count} lines, its claim says {}", claim["count"]));
            }
            check_times(name, &claim, key, &plain, problems);
        }
        for (name, _) in self.objects(id) {
            if !named.contains(name) {
                report.problems.push(format!("{name} is claimed by nobody"));
            }
        }
    }
}

/// The claim's times are those of its events, and the object lies under their date.
fn check_times(name: &str, claim: &Value, key: &str, plain: &[u8], problems: &mut Vec<String>) {
    let times: Vec<i64> = plain
        .split(|byte| *byte == b'\n')
        .filter_map(|line| lexemes::text(lexemes::member(line, "time")?))
        .filter_map(|time| parse_rfc3339(&time))
        .collect();
    if !times.is_sorted() {
        problems.push(format!("{key} does not hold its events in the order of their time"));
    }
    let (Some(first), Some(last)) = (times.iter().min(), times.iter().max()) else { return };
    for (field, time) in [("first_time", first), ("last_time", last)] {
        let stated = match &claim[field] {
            Value::String(text) => parse_rfc3339(text),
            other => other.as_i64(),
        };
        if stated != Some(*time) {
            problems.push(format!(
                "{name} states {field} {}, its events say {}",
                claim[field],
                rfc3339(*time)
            ));
        }
    }
    for time in [first, last] {
        let date = &rfc3339(*time)[..10];
        if !key.contains(&format!("/date={date}/")) {
            problems.push(format!("{key} holds an event of {date}"));
        }
    }
}

fn read_object(name: &str, body: &[u8], problems: &mut Vec<String>) -> Vec<Line> {
    let Some(plain) = gunzip(body) else {
        problems.push(format!("{name} is not a whole gzip file"));
        return Vec::new();
    };
    if !plain.is_empty() && !plain.ends_with(b"\n") {
        problems.push(format!("{name} does not end with a line feed"));
    }
    plain
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .filter_map(|line| {
            let read = read_line(line);
            if read.is_none() {
                problems.push(format!("{name} has a line that cannot be read: {}", sample(line)));
            }
            read.inspect(|line| {
                if !name.ends_with(&format!("/{:020}.jsonl.gz", line.chunk)) {
                    problems.push(format!("{name} holds an event of chunk {}", line.chunk));
                }
            })
        })
        .collect()
}

fn read_line(line: &[u8]) -> Option<Line> {
    let members: BTreeMap<&[u8], &[u8]> = lexemes::members(line)?.into_iter().collect();
    let field = |name: &str| members.get(name.as_bytes()).copied();
    let text = |name: &str| lexemes::text(field(name)?);
    let event = match (field("event"), text("event_base64")) {
        (Some(event), None) => {
            let minified = lexemes::minify(event);
            // One event, one line, nothing insignificant: otherwise the bytes would not be the same everywhere.
            if minified != event {
                return None;
            }
            minified
        }
        (None, Some(packed)) => STANDARD.decode(packed).ok()?,
        _ => return None,
    };
    text("org")?;
    text("id")?;
    Some(Line {
        key: text("key")?,
        time: match field("time")? {
            b"null" => None,
            value => Some(lexemes::text(value)?),
        },
        chunk: std::str::from_utf8(field("chunk")?).ok()?.parse().ok()?,
        mode: text("mode")?,
        event,
    })
}
