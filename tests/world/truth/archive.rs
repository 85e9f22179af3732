//! Reads an archive (a bucket's or a directory's files) as `interface.md` describes it, and checks every link of its chain.

use std::borrow::Borrow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Bound;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::super::clock::{parse_rfc3339, rfc3339};
use super::super::lexemes;
use super::super::pulumi::store::{Shown, hex};
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

    /// What the newest claim of an org says of a lane: the first chunk that it does not say is delivered.
    pub fn checkpoint(&self, id: &str, lane: &str) -> Option<u64> {
        let folder = format!("_chain/org={id}/");
        let (_, newest) = self.files.iter().rfind(|(name, _)| name.starts_with(&folder))?;
        serde_json::from_slice::<Value>(newest).ok()?["checkpoints"][lane].as_u64()
    }

    /// How many claims of an org there are.
    pub fn claims(&self, id: &str) -> usize {
        let folder = format!("_chain/org={id}/");
        self.files.keys().filter(|name| name.starts_with(&folder)).count()
    }

    fn objects<'a>(&'a self, id: &str) -> impl Iterator<Item = (&'a String, &'a Vec<u8>)> {
        let folder = format!("org={id}/");
        self.files.iter().filter(move |(name, _)| name.starts_with(&folder))
    }

    /// Compares with the source, and checks the form of everything.
    pub fn check(&self, destination: &str, id: &str, source: &Source, expect: &Expect) -> Report {
        let files: BTreeMap<&str, Bytes> =
            self.files.iter().map(|(name, body)| (name.as_str(), Bytes::copy_from_slice(body))).collect();
        Known::default().check(&files, destination, id, source, expect)
    }
}

/// What pieces were found to hold, so that who looks again need not take apart again what is the same to the byte.
#[derive(Default)]
pub struct Known {
    claims: HashMap<String, (Bytes, Option<Claim>)>,
    objects: HashMap<String, (Bytes, Object)>,
    /// By this it was said which events the objects hold.
    shown: Option<Shown>,
}

/// A claim, as it stands.
struct Claim {
    said: Value,
    sha256: String,
}

/// An object, taken apart.
struct Object {
    /// Nothing where it is not a whole gzip file.
    form: Option<Form>,
    lines: Vec<Line>,
    /// Which event each line is.
    events: Vec<String>,
    problems: Vec<String>,
}

/// What an object's claim speaks of.
struct Form {
    is_empty: bool,
    sha256: String,
    count: u64,
    in_order: bool,
    /// The first and the last.
    times: Option<(i64, i64)>,
}

impl Known {
    /// The same as [`Archive::check`], for one org's archive at one destination, again and again.
    pub fn check<N: Borrow<str> + Ord>(
        &mut self,
        files: &BTreeMap<N, Bytes>,
        destination: &str,
        id: &str,
        source: &Source,
        expect: &Expect,
    ) -> Report {
        let mut report =
            Report { org: id.to_owned(), destination: destination.to_owned(), ..Report::default() };
        self.read(files, id, source);
        self.check_chain(files, id, expect, &mut report);
        let mut keys = HashSet::new();
        let mut arrived = Vec::new();
        for (name, _) in below(files, &format!("org={id}/")) {
            let (_, object) = &self.objects[name];
            report.problems.extend_from_slice(&object.problems);
            for (line, event) in object.lines.iter().zip(&object.events) {
                if line.key.len() != 43 {
                    report.problems.push(format!("the event key {:?} has not 43 characters", line.key));
                }
                if !keys.insert(line.key.as_str()) {
                    report.problems.push(format!("the event key {} stands twice in the archive", line.key));
                }
                arrived.push(Arrival {
                    key: event,
                    bytes: &line.event,
                    time: line.time.as_deref().and_then(parse_rfc3339),
                });
            }
        }
        let events = source.events.iter().map(|event| (event.key.as_str(), event));
        compare(&mut report, events, arrived.into_iter(), expect);
        report
    }

    /// Takes apart what is not known yet, or not with these bytes.
    fn read<N: Borrow<str> + Ord>(&mut self, files: &BTreeMap<N, Bytes>, id: &str, source: &Source) {
        for (name, body) in below(files, &format!("_chain/org={id}/")) {
            if self.claims.get(name).is_none_or(|(known, _)| known != body) {
                let claim = serde_json::from_slice(body)
                    .map(|said| Claim { said, sha256: hex(&Sha256::digest(body)) });
                self.claims.insert(name.to_owned(), (body.clone(), claim.ok()));
            }
        }
        if self.shown.as_ref() != Some(&source.shown) {
            self.shown = Some(source.shown.clone());
            for (_, object) in self.objects.values_mut() {
                object.events = object.lines.iter().map(|line| source.shown.key(&line.event)).collect();
            }
        }
        for (name, body) in below(files, &format!("org={id}/")) {
            if self.objects.get(name).is_none_or(|(known, _)| known != body) {
                let object = Object::read(name, body, &source.shown);
                self.objects.insert(name.to_owned(), (body.clone(), object));
            }
        }
    }

    fn check_chain<N: Borrow<str> + Ord>(
        &self,
        files: &BTreeMap<N, Bytes>,
        id: &str,
        expect: &Expect,
        report: &mut Report,
    ) {
        let folder = format!("_chain/org={id}/");
        let mut named = HashSet::new();
        let mut previous: Option<&str> = None;
        let mut next = expect.first_chunk;
        for (name, _) in below(files, &folder) {
            let problems = &mut report.problems;
            let (_, Some(Claim { said: claim, sha256 })) = &self.claims[name] else {
                problems.push(format!("{name} is not JSON"));
                continue;
            };
            let number = claim["chunk"].as_u64();
            if number != Some(next) || *name != format!("{folder}{next:020}.json") {
                problems.push(format!("{name} claims chunk {number:?} where {next} is due"));
            }
            next = number.unwrap_or(next) + 1;
            let follows = match (previous, number) {
                (Some(previous), _) => claim["previous"] == previous,
                (None, Some(0)) => claim["previous"] == "0".repeat(64),
                (None, _) => true,
            };
            if !follows {
                problems.push(format!("{name} does not follow the claim before it"));
            }
            previous = Some(sha256);
            if claim["id"] != id {
                problems.push(format!("{name} names the id {}", claim["id"]));
            }
            let key = claim["key"].as_str().unwrap_or_default();
            named.insert(key);
            let Some((_, object)) = self.objects.get(key).filter(|_| files.contains_key(key)) else {
                problems.push(format!("{name} names {key:?}, which is not there"));
                continue;
            };
            let Some(form) = &object.form else {
                problems.push(format!("{key} is not a whole gzip file"));
                continue;
            };
            if form.is_empty && claim["count"] != 0 {
                report.void += 1;
                continue;
            }
            if claim["sha256"] != form.sha256.as_str() {
                problems.push(format!("{key} has not the hash its claim states"));
            }
            if claim["count"].as_u64() != Some(form.count) {
                problems.push(format!("{key} holds {} lines, its claim says {}", form.count, claim["count"]));
            }
            check_times(name, claim, key, form, problems);
        }
        for (name, _) in below(files, &format!("org={id}/")) {
            if !named.contains(name) {
                report.problems.push(format!("{name} is claimed by nobody"));
            }
        }
    }
}

/// The files of a folder.
fn below<'a, N: Borrow<str> + Ord>(
    files: &'a BTreeMap<N, Bytes>,
    folder: &str,
) -> impl Iterator<Item = (&'a str, &'a Bytes)> {
    let from = files.range::<str, _>((Bound::Included(folder), Bound::Unbounded));
    from.map(|(name, body)| (name.borrow(), body)).take_while(move |(name, _)| name.starts_with(folder))
}

impl Object {
    fn read(name: &str, body: &[u8], shown: &Shown) -> Object {
        let mut problems = Vec::new();
        let Some(plain) = gunzip(body) else {
            problems.push(format!("{name} is not a whole gzip file"));
            return Object { form: None, lines: Vec::new(), events: Vec::new(), problems };
        };
        let lines = read_lines(name, &plain, &mut problems);
        let events = lines.iter().map(|line| shown.key(&line.event)).collect();
        Object { form: Some(Form::of(&plain, &lines)), lines, events, problems }
    }
}

impl Form {
    /// A line that cannot be read is told as such.
    fn of(plain: &[u8], lines: &[Line]) -> Form {
        let times: Vec<i64> = lines.iter().filter_map(|line| parse_rfc3339(line.time.as_deref()?)).collect();
        Form {
            is_empty: plain.is_empty(),
            sha256: hex(&Sha256::digest(plain)),
            count: plain.iter().filter(|byte| **byte == b'\n').count() as u64,
            in_order: times.is_sorted(),
            times: times.iter().min().copied().zip(times.iter().max().copied()),
        }
    }
}

/// The claim's times are those of its events, and the object lies under their date.
fn check_times(name: &str, claim: &Value, key: &str, form: &Form, problems: &mut Vec<String>) {
    if !form.in_order {
        problems.push(format!("{key} does not hold its events in the order of their time"));
    }
    let Some((first, last)) = form.times else { return };
    for (field, time) in [("first_time", first), ("last_time", last)] {
        let stated = match &claim[field] {
            Value::String(text) => parse_rfc3339(text),
            other => other.as_i64(),
        };
        if stated != Some(time) {
            problems.push(format!(
                "{name} states {field} {}, its events say {}",
                claim[field],
                rfc3339(time)
            ));
        }
    }
    for time in [first, last] {
        let date = &rfc3339(time)[..10];
        if !key.contains(&format!("/date={date}/")) {
            problems.push(format!("{key} holds an event of {date}"));
        }
    }
}

/// The lines of an object that was never stored under a name, as a journal has it.
pub fn lines_of(body: &[u8]) -> Vec<Line> {
    gunzip(body).map(|plain| read_lines("", &plain, &mut Vec::new())).unwrap_or_default()
}

fn read_object(name: &str, body: &[u8], problems: &mut Vec<String>) -> Vec<Line> {
    let Some(plain) = gunzip(body) else {
        problems.push(format!("{name} is not a whole gzip file"));
        return Vec::new();
    };
    read_lines(name, &plain, problems)
}

fn read_lines(name: &str, plain: &[u8], problems: &mut Vec<String>) -> Vec<Line> {
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
