//! One object against its claim: unpacked line by line, each line compared with the bytes that follow from its values.
//!
//! *Why bytes and not values:* a line's bytes follow from its values, so comparing a frame is both stricter and several times
//! faster than parsing it. Only a line that does not fit is parsed, to name the field.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io::{BufRead, BufReader, Read as _};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use flate2::bufread::MultiGzDecoder;
use serde::Deserialize;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::claim::{Read, second};
use super::finding::{Findings, Kind, Wrong};
use crate::chunk::CHUNK_LINES_BYTES_MAX;
use crate::clock::Second;
use crate::event::{Event, EventKey, Identity, OrgId, hex};
use crate::pulumi::wire::read_event;

/// Occurrences of one event that are tried for a key that fits none of the first: more identical events than this are not believed.
const ORDINALS_MAX: u64 = 1 << 20;
/// Once so many keys of an object have fitted none, fewer are tried: it is wrong anyway.
const SEARCHES_MAX: u32 = 3;
const ORDINALS_FEW: u64 = 256;
/// An object with more wrong lines is not read to its end.
const WRONG_MAX: u64 = 1_000;
/// Keys remembered of an object.
const KEYS_MAX: usize = 100_000;

/// What an object holds.
#[derive(Debug, Default)]
pub(crate) struct Object {
    pub(crate) wrong: Findings,
    pub(super) events: u64,
    /// Of its lines, unpacked.
    pub(super) bytes: u64,
    /// Enough of each key to tell it from all others.
    pub(super) keys: Vec<(u64, u128)>,
    /// It unpacks to nothing: its number was settled without events.
    pub(crate) is_void: bool,
}

/// `before` is how many events may lie in the chunks before this one: no ordinal can be higher.
pub(crate) fn check(read: &Read, id: &OrgId, number: u64, place: &str, body: &[u8], before: u64) -> Object {
    let mut object = Object::default();
    let claim = &read.claim;
    let wrong = |kind, what: &str| Wrong::new(kind, number, place, what);
    let mut digest = Sha256::new();
    let mut lines = Lines::new(read, id, number, place, before);
    let mut reader =
        BufReader::with_capacity(64 * 1024, MultiGzDecoder::new(body).take(CHUNK_LINES_BYTES_MAX));
    let mut line = Vec::new();
    let mut broken = body.is_empty().then(|| "empty".to_owned());
    while broken.is_none() {
        line.clear();
        match reader.read_until(b'\n', &mut line) {
            Ok(0) => break,
            Ok(length) => object.bytes += length as u64,
            Err(error) => broken = Some(format!("broken after {} lines ({error})", lines.count)),
        }
        if object.bytes >= CHUNK_LINES_BYTES_MAX {
            broken = Some(format!("more than {CHUNK_LINES_BYTES_MAX} bytes unpacked"));
        }
        if object.wrong.total() >= WRONG_MAX {
            broken = Some(format!("something else: {WRONG_MAX} of its lines are wrong"));
        }
        if broken.is_none() {
            digest.update(&line);
            lines.line(&line, &mut object);
        }
    }
    object.events = lines.count;
    if let Some(broken) = broken {
        object.wrong.push(wrong(Kind::ObjectUnreadable, "the file").differs("a whole gzip file", broken));
        return object;
    }
    if object.bytes == 0 {
        object.is_void = true;
        return object;
    }
    let mut differs = |what: &str, expected: &dyn fmt::Display, found: &dyn fmt::Display| {
        object.wrong.push(wrong(Kind::Object, what).differs(expected, found));
    };
    if u64::from(claim.count) != lines.count {
        differs("the number of lines", &format!("{} as its claim says", claim.count), &lines.count);
    }
    let sha256 = hex(&digest.finalize());
    if claim.sha256 != sha256 {
        differs("the SHA-256 of the lines", &claim.sha256, &sha256);
    }
    let said = |at: Option<Second>| at.map_or_else(|| "null".to_owned(), |at| at.to_string());
    if lines.has_times && lines.first != read.first {
        differs("the first time", &format!("{} as its claim says", said(read.first)), &said(lines.first));
    }
    if lines.has_times && lines.last != read.last {
        differs("the last time", &format!("{} as its claim says", said(read.last)), &said(lines.last));
    }
    object
}

/// What is the same in all lines of a chunk, and what has been seen of them.
struct Lines<'a> {
    read: &'a Read,
    id: &'a OrgId,
    number: u64,
    place: &'a str,
    before: u64,
    before_time: String,
    before_event: String,
    count: u64,
    /// Every line had a time that could be read.
    has_times: bool,
    first: Option<Second>,
    last: Option<Second>,
    /// The text last read, and what it means.
    time: (Vec<u8>, Option<Second>),
    previous: Option<Option<Second>>,
    ordinals: HashMap<Identity, u64>,
    keys: HashSet<u128>,
    searches: u32,
}

/// A line taken apart.
struct Parts<'a> {
    key: &'a [u8],
    /// `None` for `null`.
    time: Option<Second>,
    raw: Bytes,
}

impl<'a> Lines<'a> {
    fn new(read: &'a Read, id: &'a OrgId, number: u64, place: &'a str, before: u64) -> Lines<'a> {
        let org = serde_json::to_string(&read.claim.org).unwrap_or_default();
        Lines {
            read,
            id,
            number,
            place,
            before,
            before_time: format!("\",\"org\":{org},\"id\":\"{id}\",\"time\":"),
            before_event: format!(",\"chunk\":{number},\"mode\":\"{}\",", read.claim.mode.as_str()),
            count: 0,
            has_times: true,
            first: None,
            last: None,
            time: (Vec::new(), None),
            previous: None,
            ordinals: HashMap::new(),
            keys: HashSet::new(),
            searches: 0,
        }
    }

    fn line(&mut self, line: &[u8], object: &mut Object) {
        self.count += 1;
        let count = self.count;
        let Some(parts) = self.take_apart(line) else {
            self.has_times = false;
            object.wrong.push(self.misfit(line).on(count));
            return;
        };
        if let Some(wrong) = self.event(&parts) {
            object.wrong.push(wrong.on(count));
        }
        if let Some(at) = parts.time {
            self.first = Some(self.first.map_or(at, |first| first.min(at)));
            self.last = Some(self.last.map_or(at, |last| last.max(at)));
        }
        self.previous = Some(parts.time);
        let mut start = [0; 16];
        start.copy_from_slice(&parts.key[..16]);
        let key = u128::from_be_bytes(start);
        if self.keys.len() < KEYS_MAX {
            if self.keys.insert(key) {
                object.keys.push((count, key));
            } else {
                let wrong = Wrong::new(Kind::Repeated, self.number, self.place, "the key");
                let found = String::from_utf8_lossy(parts.key);
                object.wrong.push(wrong.differs("one that stands once", found).on(count));
            }
        }
    }

    /// `None` where the bytes are not those that a line of this chunk has around its values.
    fn take_apart<'l>(&mut self, line: &'l [u8]) -> Option<Parts<'l>> {
        let rest = line.strip_prefix(b"{\"key\":\"")?;
        let (key, rest) = rest.split_at_checked(43)?;
        if !key.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')) {
            return None;
        }
        let rest = rest.strip_prefix(self.before_time.as_bytes())?;
        let (time, rest) = match rest.strip_prefix(b"null") {
            Some(rest) => (None, rest),
            None => {
                let rest = rest.strip_prefix(b"\"")?;
                let (text, rest) = rest.split_at(rest.iter().position(|byte| *byte == b'"')?);
                if self.time.0 != text {
                    self.time = (text.to_vec(), std::str::from_utf8(text).ok().and_then(second));
                }
                (Some(self.time.1?), &rest[1..])
            }
        };
        let rest = rest.strip_prefix(self.before_event.as_bytes())?.strip_suffix(b"}\n")?;
        let raw = match rest.strip_prefix(b"\"event\":") {
            Some(raw) => Bytes::copy_from_slice(std::str::from_utf8(raw).ok()?.as_bytes()),
            None => {
                let text = rest.strip_prefix(b"\"event_base64\":\"")?.strip_suffix(b"\"")?;
                let raw = STANDARD.decode(text).ok()?;
                // What is UTF-8 stands as it is.
                std::str::from_utf8(&raw).err()?;
                Bytes::from(raw)
            }
        };
        Some(Parts { key, time, raw })
    }

    /// Whether the event is the one that the line says it is.
    fn event(&mut self, parts: &Parts<'_>) -> Option<Wrong> {
        let wrong = |kind, what: &str| Wrong::new(kind, self.number, self.place, what);
        // The time at which it was read is not known: every time after 2015 may have been plausible then.
        let event = read_event(parts.raw.clone(), self.id, Second(i64::MAX));
        if !is_json(&event) {
            return Some(wrong(Kind::Line, "`event`").differs("JSON", "something else"));
        }
        let said = |at: Option<Second>| at.map_or_else(|| "null".to_owned(), |at| at.to_string());
        let was_read = |at: Second| self.read.window.is_some_and(|window| at < window.until);
        let fits = match parts.time {
            Some(_) => event.at == parts.time,
            None => !event.at.is_some_and(was_read),
        };
        if !fits {
            return Some(wrong(Kind::Line, "`time`").differs(said(event.at), said(parts.time)));
        }
        match self.previous {
            Some(previous) if previous.is_some() != parts.time.is_some() => {
                let with = |is: bool| if is { "a line with a time" } else { "a line without a time" };
                let (expected, found) = (with(previous.is_some()), with(parts.time.is_some()));
                return Some(wrong(Kind::Line, "what comes next").differs(expected, found));
            }
            Some(previous) if parts.time < previous => {
                let expected = format!("{} or later", said(previous));
                return Some(wrong(Kind::Line, "`time`").differs(expected, said(parts.time)));
            }
            _ => {}
        }
        if self.ordinal(&event.identity, parts.key).is_none() {
            let expected =
                format!("{} or that of a later occurrence", EventKey::new(&event.identity, 0).as_str());
            let found = String::from_utf8_lossy(parts.key).into_owned();
            let wrong = Wrong::new(Kind::EventKey, self.number, self.place, "`key`");
            return Some(wrong.differs(expected, found));
        }
        None
    }

    /// Which occurrence of its event a key names.
    fn ordinal(&mut self, identity: &Identity, key: &[u8]) -> Option<u64> {
        let names = |ordinal: &u64| EventKey::new(identity, *ordinal).as_str().as_bytes() == key;
        // An event that happened several times usually lies in one chunk, in the order of its occurrences.
        let next = self.ordinals.get(identity).copied().unwrap_or(0);
        let most = self.before.saturating_add(self.count).min(ORDINALS_MAX);
        let most = if self.searches < SEARCHES_MAX { most } else { most.min(ORDINALS_FEW) };
        let found = Some(next).filter(names).or_else(|| (0..most).find(names));
        match found {
            Some(ordinal) => drop(self.ordinals.insert(*identity, ordinal + 1)),
            None => self.searches += 1,
        }
        found
    }

    /// Names the field by which a line does not fit.
    fn misfit(&self, line: &[u8]) -> Wrong {
        let wrong = |what: &str| Wrong::new(Kind::Line, self.number, self.place, what);
        let Some(line) = line.strip_suffix(b"\n") else {
            return wrong("its end").differs("a line feed", "the end of the object");
        };
        let Ok(fields) = serde_json::from_slice::<Fields<'_>>(line) else {
            return wrong("it").differs("one JSON object", format!("{} bytes of something else", line.len()));
        };
        let claim = &self.read.claim;
        let quoted = |text: &str| serde_json::to_string(text).unwrap_or_default();
        let text = |raw: Option<&'_ RawValue>| raw.map_or("absent", RawValue::get).to_owned();
        for (what, expected, found) in [
            ("`org`", quoted(&claim.org), fields.org),
            ("`id`", quoted(self.id.as_str()), fields.id),
            ("`chunk`", self.number.to_string(), fields.chunk),
            ("`mode`", quoted(claim.mode.as_str()), fields.mode),
        ] {
            if text(found) != expected {
                return wrong(what).differs(expected, text(found));
            }
        }
        let time = text(fields.time);
        let is_time = time == "null" || serde_json::from_str::<&str>(&time).ok().and_then(second).is_some();
        if !is_time {
            return wrong("`time`").differs("a time in RFC 3339 or null", time);
        }
        let key = text(fields.key);
        if key.len() != 45 {
            return wrong("`key`").differs("43 characters", key);
        }
        wrong("its form").differs("the seven fields in their order, without white space", "another")
    }
}

/// Every event is JSON, even where it is no object; of those it is known already.
fn is_json(event: &Event) -> bool {
    !event.odd.bad_type || serde_json::from_str::<&RawValue>(&String::from_utf8_lossy(&event.raw)).is_ok()
}

#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow)]
    key: Option<&'a RawValue>,
    #[serde(borrow)]
    org: Option<&'a RawValue>,
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "with_null")]
    time: Option<&'a RawValue>,
    #[serde(borrow)]
    chunk: Option<&'a RawValue>,
    #[serde(borrow)]
    mode: Option<&'a RawValue>,
}

/// An [`Option`] would take the value `null` for an absent one.
fn with_null<'de: 'a, 'a, D: serde::Deserializer<'de>>(value: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(value).map(Some)
}

/// Any bytes under an object's key, and any lines in an object.
#[cfg(any(test, fuzzing))]
#[expect(clippy::expect_used, reason = "a property: it panics where it does not hold")]
pub(crate) fn property(bytes: &[u8]) {
    const CLAIM: &str = r#"{"version":1,"id":"acme","org":"acme","chunk":7,"key":"org=acme/date=2026-11-21/00000000000000000007.jsonl.gz","sha256":"","previous":"","count":1,"first_time":"2026-11-21T10:15:00Z","last_time":"2026-11-21T10:15:00Z","mode":"live","window":"2026-11-21T10:10:00Z/2026-11-21T10:20:00Z","start":null,"coverage":[],"checkpoints":{},"instance":"0","forwarder":"0"}"#;
    let id = crate::hostile::given::org();
    let mut wrong = Findings::default();
    let read = super::claim::check(CLAIM.as_bytes(), &id, 7, &mut wrong).expect("it is a claim");
    for body in [bytes, crate::chunk::gzip(bytes, 1).as_ref()] {
        let object = check(&read, &id, 7, "somewhere", body, 0);
        // The SHA-256 in the claim is nobody's.
        assert!(object.is_void || !object.wrong.is_empty());
        if let Some(first) = object.wrong.first {
            assert!(first.to_string().chars().count() < 2_000);
        }
    }
}
