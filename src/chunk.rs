//! Chunks: bounded runs of new events, numbered densely per org, with everything their bytes elsewhere are made from.
//!
//! This module cuts events into chunks and fixes, once, the bytes that every destination writes: the lines (gzip), and the
//! [`Claim`]. It does no IO, reads no clock and draws no random numbers.
//!
//! *Why the lines are made here and not in a destination:* S3 and `file` must write the same bytes on every retry, on every
//! machine and after every upgrade of a gzip library; and what the journal keeps compressed is then exactly the object, so a body
//! is compressed once. Sentinel's rows are a view, mapped from the same lines.

use std::io::{Read, Write};

use bytes::Bytes;
use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::clock::{Second, Window};
use crate::coverage::Span;
use crate::event::{Event, EventKey, OrgId, hex};

/// Most events in a chunk.
pub const CHUNK_EVENTS_MAX: usize = 1_000;
/// Most bytes of raw events in a chunk; a single larger event is a chunk of its own.
pub const CHUNK_EVENT_BYTES_MAX: usize = 512 * 1024;
/// Most bytes a chunk's lines may unpack to: 64 MiB of page, base64 and the lines' frames. Guards against a damaged body.
pub const CHUNK_LINES_BYTES_MAX: u64 = 160 * 1024 * 1024;

/// How hard a chunk's body is compressed (`docs/performance.md` has what each costs).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// Level 6: a destination stores the body as it is, and bills what is stored.
    Stored,
    /// Level 1: only the journal holds it, until it is delivered in another form.
    Passing,
}

impl Packing {
    const fn gzip_level(self) -> u32 {
        match self {
            Packing::Stored => 6,
            Packing::Passing => 1,
        }
    }
}

/// How an event came to be journaled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// By a head sweep.
    Live,
    /// By a rescan: it became visible after its second had been read.
    Late,
    /// By filling a hole after the start or an absence.
    Catchup,
    /// On command.
    Backfill,
    /// On command.
    Replay,
}

impl Mode {
    pub fn as_str(self) -> &'static str {
        match self {
            Mode::Live => "live",
            Mode::Late => "late",
            Mode::Catchup => "catchup",
            Mode::Backfill => "backfill",
            Mode::Replay => "replay",
        }
    }

    pub fn parse(text: &str) -> Option<Mode> {
        [Mode::Live, Mode::Late, Mode::Catchup, Mode::Backfill, Mode::Replay]
            .into_iter()
            .find(|mode| mode.as_str() == text)
    }
}

/// SHA-256 of a claim's bytes: a link of the org's hash chain. The claim holds the SHA-256 of the lines and the previous link,
/// so the chain covers both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link(pub [u8; 32]);

impl Link {
    /// What chunk 0 names as its predecessor.
    pub const FIRST: Link = Link([0; 32]);

    pub fn of_claim(bytes: &[u8]) -> Link {
        Link(Sha256::digest(bytes).into())
    }
}

/// A bounded run of new events, ready for every destination. Immutable once journaled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Dense per org: 0, 1, 2, …
    pub number: u64,
    pub id: OrgId,
    /// Pulumi's name of the organization when the chunk was cut.
    pub org: String,
    pub mode: Mode,
    /// `YYYY-MM-DD`: the UTC date that all its events share; for events without a time, the date their window starts in.
    pub date: String,
    /// The window whose sweep found the events.
    pub window: Window,
    /// Number of events; 0 only where the number was settled without events ([`Chunk::void`]).
    pub count: u32,
    /// First and last event time; `None` when no event has one.
    pub first: Option<Second>,
    pub last: Option<Second>,
    /// SHA-256 of the uncompressed lines.
    pub sha256: [u8; 32],
    /// The previous chunk's [`Link`].
    pub previous: Link,
    /// The lines, gzipped: exactly the object's bytes.
    pub body: Bytes,
    /// The claim's bytes.
    pub claim: Bytes,
}

/// A claim as written to `_chain/`: one JSON object. Its bytes are fixed in the transaction that appends its chunk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Claim {
    /// Version of this format.
    pub version: u32,
    pub id: OrgId,
    pub org: String,
    pub chunk: u64,
    /// The object's key, relative to the prefix.
    pub key: String,
    /// Of the object's uncompressed lines, hexadecimal.
    pub sha256: String,
    /// SHA-256 of the previous claim's bytes, hexadecimal; 64 zeros for chunk 0.
    pub previous: String,
    pub count: u32,
    /// RFC 3339, or null.
    pub first_time: Option<String>,
    pub last_time: Option<String>,
    pub mode: Mode,
    /// RFC 3339 interval, `from/until`.
    pub window: String,
    #[serde(flatten)]
    pub summary: Summary,
}

/// What makes the archive enough to start again from, as of the chunk's transaction.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Unix seconds: the beginning of collection.
    pub start: Option<Second>,
    /// Spans in order. Only the claim of a window's last chunk lists that window as covered.
    pub coverage: Vec<Span>,
    /// Checkpoint of each lane.
    pub checkpoints: std::collections::BTreeMap<String, u64>,
    /// Which state directory wrote it: random, made once.
    pub instance: String,
    /// Version of the forwarder that wrote it.
    pub forwarder: String,
    /// The newest line of the audit record then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit: Option<crate::audit::Head>,
}

/// Version of [`Claim`]'s format.
pub const CLAIM_VERSION: u32 = 1;

/// A new event and the key of this occurrence.
#[derive(Clone, Debug)]
pub struct NewEvent {
    pub event: Event,
    pub key: EventKey,
}

/// What is the same for all chunks cut from one window.
pub struct Cut<'a> {
    pub id: &'a OrgId,
    pub org: &'a str,
    pub mode: Mode,
    pub window: Window,
    pub packing: Packing,
    /// Number of the first chunk to cut, and the link it continues.
    pub next: u64,
    pub link: Link,
    /// Coverage without the window, for all claims but the last.
    pub before: Summary,
    /// Coverage with the window, for the last claim.
    pub after: Summary,
}

impl Cut<'_> {
    /// Cuts the new events of one window into chunks. Events are taken in the order of their time (those without a plausible
    /// one first, under the window's date), and, inside a second, in the order given.
    ///
    /// No events give no chunks.
    pub fn chunks(&self, mut events: Vec<NewEvent>) -> Vec<Chunk> {
        events.sort_by_key(|new| new.event.at);
        let mut runs: Vec<(String, &[NewEvent])> = Vec::new();
        let mut rest = events.as_slice();
        while let Some(first) = rest.first() {
            let day = self.day(&first.event);
            let mut bytes = 0;
            let length = rest
                .iter()
                .take(CHUNK_EVENTS_MAX)
                .take_while(|new| {
                    bytes += new.event.raw.len();
                    self.day(&new.event) == day
                        && first.event.at.is_some() == new.event.at.is_some()
                        && bytes <= CHUNK_EVENT_BYTES_MAX
                })
                .count()
                .max(1);
            let (run, after) = rest.split_at(length);
            runs.push((day.date(), run));
            rest = after;
        }

        let mut link = self.link;
        let last = runs.len().saturating_sub(1);
        let mut chunks = Vec::with_capacity(runs.len());
        for (index, (date, run)) in runs.into_iter().enumerate() {
            let summary = if index == last { &self.after } else { &self.before };
            let chunk = self.chunk(self.next + index as u64, link, date, run, summary);
            link = Link::of_claim(&chunk.claim);
            chunks.push(chunk);
        }
        chunks
    }

    fn day(&self, event: &Event) -> Second {
        event.at.unwrap_or(self.window.from).midnight()
    }

    fn chunk(&self, number: u64, previous: Link, date: String, run: &[NewEvent], summary: &Summary) -> Chunk {
        let mut lines = Vec::with_capacity(run.iter().map(|new| new.event.raw.len() + 200).sum());
        let mut frame = Frame::of(self, number);
        for new in run {
            frame.write_line(&mut lines, new);
        }
        let sha256: [u8; 32] = Sha256::digest(&lines).into();
        let count = u32::try_from(run.len()).unwrap_or(u32::MAX);
        let first = run.iter().filter_map(|new| new.event.at).min();
        let last = run.iter().filter_map(|new| new.event.at).max();
        let claim = Claim {
            version: CLAIM_VERSION,
            id: self.id.clone(),
            org: self.org.to_owned(),
            chunk: number,
            key: object_key(self.id, &date, number),
            sha256: hex(&sha256),
            previous: hex(&previous.0),
            count,
            first_time: first.map(|at| at.to_string()),
            last_time: last.map(|at| at.to_string()),
            mode: self.mode,
            window: self.window.to_string(),
            summary: summary.clone(),
        };
        Chunk {
            number,
            id: self.id.clone(),
            org: self.org.to_owned(),
            mode: self.mode,
            date,
            window: self.window,
            count,
            first,
            last,
            sha256,
            previous,
            body: gzip(&lines, self.packing.gzip_level()),
            claim: Bytes::from(serde_json::to_vec(&claim).unwrap_or_default()),
        }
    }
}

/// The object's key relative to the prefix. Depends on nothing but the chunk, so a retry meets its own object.
pub fn object_key(id: &OrgId, date: &str, number: u64) -> String {
    format!("org={id}/date={date}/{number:020}.jsonl.gz")
}

/// The claim's key relative to the prefix. Depends on the number alone, so two writers cannot both own it.
pub fn claim_key(id: &OrgId, number: u64) -> String {
    format!("_chain/org={id}/{number:020}.json")
}

impl Chunk {
    /// The object's key relative to the prefix.
    pub fn object_key(&self) -> String {
        object_key(&self.id, &self.date, self.number)
    }

    /// The claim's key relative to the prefix.
    pub fn claim_key(&self) -> String {
        claim_key(&self.id, self.number)
    }

    /// This number without its events: what is left where a claim's object never came, or is gone. Its claim stays as it is.
    #[must_use]
    pub fn void(self) -> Chunk {
        let sha256 = Sha256::digest(b"").into();
        let body = gzip(b"", Packing::Stored.gzip_level());
        Chunk { count: 0, first: None, last: None, sha256, body, ..self }
    }

    pub fn is_void(&self) -> bool {
        self.count == 0
    }

    /// The uncompressed lines, checked against [`Chunk::sha256`].
    ///
    /// # Errors
    /// When the body does not unpack to the lines it was made from: the journal is damaged.
    pub fn lines(&self) -> Result<Vec<u8>, Damaged> {
        let mut lines = Vec::with_capacity(self.body.len() * 6);
        MultiGzDecoder::new(self.body.as_ref())
            .take(CHUNK_LINES_BYTES_MAX)
            .read_to_end(&mut lines)
            .map_err(|_| Damaged { number: self.number })?;
        if <[u8; 32]>::from(Sha256::digest(&lines)) != self.sha256 {
            return Err(Damaged { number: self.number });
        }
        Ok(lines)
    }
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("chunk {number} does not unpack to the lines it was made from: the state directory is damaged")]
pub struct Damaged {
    pub number: u64,
}

/// One line of a chunk, read back.
#[derive(Debug, Deserialize)]
pub struct Line<'a> {
    pub key: &'a str,
    /// RFC 3339; `None` where no plausible time could be had.
    pub time: Option<&'a str>,
    /// `None` only where `event_base64` stands instead; an event may well be the JSON value `null`.
    #[serde(borrow, default, deserialize_with = "present")]
    pub event: Option<&'a RawValue>,
    pub event_base64: Option<&'a str>,
}

/// An [`Option`] would take the value `null` for an absent one.
fn present<'de: 'a, 'a, D: serde::Deserializer<'de>>(value: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(value).map(Some)
}

/// What is the same in all lines of a chunk, and the time last written: many events share their second.
struct Frame {
    before_time: String,
    before_event: String,
    time: (Option<Second>, String),
}

impl Frame {
    fn of(cut: &Cut<'_>, number: u64) -> Frame {
        let org = serde_json::to_string(cut.org).unwrap_or_default();
        Frame {
            before_time: format!("\",\"org\":{org},\"id\":\"{}\",\"time\":", cut.id),
            before_event: format!(",\"chunk\":{number},\"mode\":\"{}\",", cut.mode.as_str()),
            time: (None, "null".to_owned()),
        }
    }

    /// `{"key":…,"org":…,"id":…,"time":…,"chunk":…,"mode":…,"event":{…}}` and a line feed. An event that is not UTF-8 stands as
    /// `event_base64` instead.
    fn write_line(&mut self, lines: &mut Vec<u8>, new: &NewEvent) {
        if self.time.0 != new.event.at {
            let text = new.event.at.map_or_else(|| "null".to_owned(), |at| format!("\"{at}\""));
            self.time = (new.event.at, text);
        }
        lines.extend_from_slice(b"{\"key\":\"");
        lines.extend_from_slice(new.key.as_str().as_bytes());
        lines.extend_from_slice(self.before_time.as_bytes());
        lines.extend_from_slice(self.time.1.as_bytes());
        lines.extend_from_slice(self.before_event.as_bytes());
        if std::str::from_utf8(&new.event.raw).is_ok() {
            lines.extend_from_slice(b"\"event\":");
            lines.extend_from_slice(&new.event.raw);
        } else {
            use base64::Engine;
            let encoded = base64::engine::general_purpose::STANDARD.encode(&new.event.raw);
            lines.extend_from_slice(b"\"event_base64\":\"");
            lines.extend_from_slice(encoded.as_bytes());
            lines.push(b'"');
        }
        lines.extend_from_slice(b"}\n");
    }
}

/// Gzips a buffer; the header holds no time and no name, so equal input gives equal bytes.
pub fn gzip(plain: &[u8], level: u32) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::with_capacity(plain.len() / 4 + 64), Compression::new(level));
    // Writing into memory cannot fail.
    if encoder.write_all(plain).is_err() {
        return Bytes::new();
    }
    encoder.finish().map(Bytes::from).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::event::{Identity, Payload};

    /// 2026-11-21T00:00:00Z.
    const DAY: i64 = 1_795_219_200;

    fn new_event(at: Option<i64>, raw: impl Into<Vec<u8>>) -> NewEvent {
        let raw = Bytes::from(raw.into());
        let identity = Identity(Sha256::digest(&raw).into());
        let key = EventKey::new(&identity, 0);
        NewEvent {
            key,
            event: Event {
                raw,
                at: at.map(Second),
                identity,
                payload: Payload([0; 32]),
                kind: "".into(),
                odd: Default::default(),
            },
        }
    }

    fn summary(coverage: Vec<Span>) -> Summary {
        Summary {
            start: Some(Second(DAY)),
            coverage,
            checkpoints: BTreeMap::from([("s3".to_owned(), 12), ("sentinel".to_owned(), 11)]),
            instance: "00112233445566778899aabbccddeeff".to_owned(),
            forwarder: "0.1.0".to_owned(),
            audit: None,
        }
    }

    fn covered(until: i64) -> Span {
        Span { from: Second(DAY), until: Second(until), read_at: Second(until), age: 0, damaged: false }
    }

    fn cut_packed(packing: Packing, next: u64, link: Link, events: Vec<NewEvent>) -> Vec<Chunk> {
        let cut = Cut {
            id: &OrgId::new("acme").unwrap(),
            org: "Acme \"Corp\"",
            mode: Mode::Live,
            window: Window::new(Second(DAY + 36_000), Second(DAY + 36_300)),
            packing,
            next,
            link,
            before: summary(vec![covered(DAY + 36_000)]),
            after: summary(vec![covered(DAY + 36_300)]),
        };
        cut.chunks(events)
    }

    fn cut_from(next: u64, link: Link, events: Vec<NewEvent>) -> Vec<Chunk> {
        cut_packed(Packing::Stored, next, link, events)
    }

    fn cut(events: Vec<NewEvent>) -> Vec<Chunk> {
        cut_from(0, Link::FIRST, events)
    }

    fn claim(chunk: &Chunk) -> Claim {
        serde_json::from_slice(&chunk.claim).unwrap()
    }

    /// The events' raw forms, in order, as read back from the lines.
    fn raws(chunk: &Chunk) -> Vec<Vec<u8>> {
        use base64::Engine;
        let lines = chunk.lines().unwrap();
        let lines = lines.strip_suffix(b"\n").expect("a line feed ends every line");
        let raws = lines.split(|byte| *byte == b'\n').map(|line| {
            let line: Line<'_> = serde_json::from_slice(line).unwrap();
            match (line.event, line.event_base64) {
                (Some(event), None) => event.get().as_bytes().to_vec(),
                (None, Some(text)) => base64::engine::general_purpose::STANDARD.decode(text).unwrap(),
                other => panic!("{other:?}"),
            }
        });
        raws.collect()
    }

    #[test]
    fn no_events_are_no_chunk() {
        assert_eq!(cut(Vec::new()), []);
    }

    #[test]
    fn a_chunk_has_at_most_a_thousand_events() {
        let events = (0..2_001).map(|n| new_event(Some(DAY + n / 10), format!("{{\"n\":{n}}}"))).collect();
        let chunks = cut(events);
        assert_eq!(chunks.iter().map(|chunk| chunk.count).collect::<Vec<_>>(), [1_000, 1_000, 1]);
        assert_eq!((chunks[0].first, chunks[0].last), (Some(Second(DAY)), Some(Second(DAY + 99))));
    }

    #[test]
    fn a_chunk_has_at_most_512_kib_of_events() {
        let quarter =
            |fill: char| new_event(Some(DAY), format!("\"{}\"", fill.to_string().repeat(128 * 1024 - 2)));
        let chunks = cut(vec![quarter('a'), quarter('b'), quarter('c'), quarter('d'), quarter('e')]);
        assert_eq!(chunks.iter().map(|chunk| chunk.count).collect::<Vec<_>>(), [4, 1], "exactly 512 KiB fit");
        let byte_more = new_event(Some(DAY), "10");
        let chunks = cut(vec![byte_more, quarter('a'), quarter('b'), quarter('c'), quarter('d')]);
        assert_eq!(chunks.iter().map(|chunk| chunk.count).collect::<Vec<_>>(), [4, 1]);
    }

    #[test]
    fn an_event_larger_than_a_chunk_is_a_chunk_of_its_own() {
        let huge = format!("\"{}\"", "x".repeat(CHUNK_EVENT_BYTES_MAX));
        let chunks = cut(vec![
            new_event(Some(DAY), "1"),
            new_event(Some(DAY + 1), huge.clone()),
            new_event(Some(DAY + 2), "2"),
            new_event(Some(DAY + 3), "3"),
        ]);
        assert_eq!(chunks.iter().map(|chunk| chunk.count).collect::<Vec<_>>(), [1, 1, 2]);
        assert_eq!(raws(&chunks[1]), [huge.into_bytes()]);
    }

    #[test]
    fn a_chunk_never_spans_midnight() {
        let chunks = cut(vec![
            new_event(Some(DAY + 86_400), "3"),
            new_event(Some(DAY - 1), "1"),
            new_event(Some(DAY + 86_399), "2"),
        ]);
        let dates: Vec<_> = chunks.iter().map(|chunk| chunk.date.as_str()).collect();
        assert_eq!(dates, ["2026-11-20", "2026-11-21", "2026-11-22"]);
        assert_eq!(chunks[2].object_key(), "org=acme/date=2026-11-22/00000000000000000002.jsonl.gz");
        assert_eq!(chunks[2].claim_key(), "_chain/org=acme/00000000000000000002.json");
    }

    #[test]
    fn events_without_a_time_stand_first_and_apart_under_the_windows_date() {
        let chunks = cut(vec![
            new_event(Some(DAY + 36_001), "2"),
            new_event(None, "0"),
            new_event(Some(DAY + 36_000), "1"),
            new_event(None, "9"),
        ]);
        assert_eq!(chunks.len(), 2, "even where the date is the same");
        assert_eq!((chunks[0].first, chunks[0].last, chunks[0].date.as_str()), (None, None, "2026-11-21"));
        assert_eq!(raws(&chunks[0]), [b"0", b"9"]);
        assert_eq!(raws(&chunks[1]), [b"1", b"2"]);
        assert_eq!((claim(&chunks[0]).first_time, claim(&chunks[0]).last_time), (None, None));
    }

    #[test]
    fn events_of_one_second_keep_the_order_they_were_given_in() {
        let events = ["5", "3", "4", "1"].map(|raw| new_event(Some(DAY), raw));
        assert_eq!(raws(&cut(events.to_vec())[0]), [b"5", b"3", b"4", b"1"]);
    }

    #[test]
    fn only_the_last_claim_lists_the_window_as_covered() {
        let chunks = cut((0..3).map(|day| new_event(Some(DAY + day * 86_400), "1")).collect());
        let listed: Vec<_> = chunks.iter().map(|chunk| claim(chunk).summary.coverage[0].until).collect();
        assert_eq!(listed, [Second(DAY + 36_000), Second(DAY + 36_000), Second(DAY + 36_300)]);
    }

    #[test]
    fn claims_are_linked_from_the_one_before() {
        let link = Link([9; 32]);
        let chunks = cut_from(7, link, (0..3).map(|day| new_event(Some(DAY + day * 86_400), "1")).collect());
        assert_eq!(chunks.iter().map(|chunk| chunk.number).collect::<Vec<_>>(), [7, 8, 9]);
        let mut previous = link;
        for chunk in &chunks {
            assert_eq!(chunk.previous, previous);
            assert_eq!(claim(chunk).previous, hex(&previous.0));
            assert_eq!(claim(chunk).sha256, hex(&Sha256::digest(chunk.lines().unwrap())));
            assert_eq!(claim(chunk).key, chunk.object_key());
            previous = Link::of_claim(&chunk.claim);
        }
        assert_eq!(claim(&cut(vec![new_event(Some(DAY), "1")])[0]).previous, "0".repeat(64));
    }

    #[test]
    fn a_line_is_pinned() {
        let chunks = cut_from(
            12,
            Link::FIRST,
            vec![
                new_event(
                    Some(DAY + 36_900),
                    r#"{"timestamp":1795256100,"n":1.0e5,"n":-0,"text":"é \u0041 \ud800"}"#,
                ),
                new_event(Some(DAY + 36_901), b"{\"event\":\"\xff\"}".to_vec()),
            ],
        );
        let lines = String::from_utf8(chunks[0].lines().unwrap()).unwrap();
        let pinned = concat!(
            r#"{"key":"rBDlhVkot6Lh081rz9X_7IkfekITLNUcD6B2KXlNTSg","org":"Acme \"Corp\"","id":"acme","time":"2026-11-21T10:15:00Z","chunk":12,"mode":"live","event":{"timestamp":1795256100,"n":1.0e5,"n":-0,"text":"é \u0041 \ud800"}}"#,
            "\n",
            r#"{"key":"ql2dtA7Dam5NKS579sMggCLiUNpfzZwB6axAV1gpuTA","org":"Acme \"Corp\"","id":"acme","time":"2026-11-21T10:15:01Z","chunk":12,"mode":"live","event_base64":"eyJldmVudCI6Iv8ifQ=="}"#,
            "\n",
        );
        assert_eq!(lines, pinned);
    }

    #[test]
    fn a_claim_is_pinned() {
        let chunks = cut_from(
            12,
            Link([171; 32]),
            vec![
                new_event(Some(DAY + 36_900), r#"{"timestamp":1795256100}"#),
                new_event(Some(DAY + 36_901), r#"{"timestamp":1795256101}"#),
            ],
        );
        let pinned = r#"{"version":1,"id":"acme","org":"Acme \"Corp\"","chunk":12,"key":"org=acme/date=2026-11-21/00000000000000000012.jsonl.gz","sha256":"704c6e720e658c1cb19b37336932a1753c6dcd3dc1420123f7b8c30187adb674","previous":"abababababababababababababababababababababababababababababababab","count":2,"first_time":"2026-11-21T10:15:00Z","last_time":"2026-11-21T10:15:01Z","mode":"live","window":"2026-11-21T10:00:00Z/2026-11-21T10:05:00Z","start":1795219200,"coverage":[{"from":1795219200,"until":1795255500,"read_at":1795255500,"age":0}],"checkpoints":{"s3":12,"sentinel":11},"instance":"00112233445566778899aabbccddeeff","forwarder":"0.1.0"}"#;
        assert_eq!(std::str::from_utf8(&chunks[0].claim).unwrap(), pinned);
        let link = hex(&Link::of_claim(&chunks[0].claim).0);
        assert_eq!(link, "fb9cc4f6c043be39a3a3ed9c8403c653bd9aec93a69a1dd4f05cd3080959e98c");
    }

    #[test]
    fn an_event_that_is_not_utf_8_is_kept_as_base64() {
        let raw = b"{\"event\":\"\xff\xfe\"}".to_vec();
        let chunks = cut(vec![new_event(Some(DAY), raw.clone())]);
        assert!(chunks[0].lines().unwrap().is_ascii());
        assert_eq!(raws(&chunks[0]), [raw]);
    }

    #[test]
    fn an_event_that_is_null_is_there_all_the_same() {
        assert_eq!(raws(&cut(vec![new_event(None, "null")])[0]), [b"null"]);
    }

    #[test]
    fn the_same_events_give_the_same_bytes_without_a_time_in_them() {
        let events = || (0..50).map(|n| new_event(Some(DAY + n), format!("{{\"n\":{n}}}"))).collect();
        let (one, two) = (cut(events()), cut(events()));
        assert_eq!(one, two);
        assert_eq!(one[0].body[..4], [0x1f, 0x8b, 8, 0], "gzip, deflate, no name");
        assert_eq!(one[0].body[4..8], [0; 4], "mtime");
    }

    #[test]
    fn how_hard_a_body_is_compressed_changes_no_line() {
        let events = || (0..500).map(|n| new_event(Some(DAY + 36_001), format!("{{\"n\":{n}}}"))).collect();
        let stored = cut(events());
        let passing = cut_packed(Packing::Passing, 0, Link::FIRST, events());
        assert_eq!(passing[0].lines(), stored[0].lines());
        assert_eq!(passing[0].claim, stored[0].claim);
        assert!(passing[0].body.len() > stored[0].body.len());
    }

    #[test]
    fn lines_that_are_not_those_it_was_made_from_are_refused() {
        let chunk = cut(vec![new_event(Some(DAY), "1")]).remove(0);
        let damaged = Err(Damaged { number: 0 });
        assert!(chunk.lines().is_ok());
        assert_eq!(Chunk { body: gzip(b"other\n", 6), ..chunk.clone() }.lines(), damaged);
        assert_eq!(
            Chunk { body: chunk.body.slice(..chunk.body.len() - 1), ..chunk.clone() }.lines(),
            damaged
        );
        assert_eq!(Chunk { body: Bytes::new(), ..chunk.clone() }.lines(), damaged);
        let longer = [chunk.body.as_ref(), gzip(b"more\n", 6).as_ref()].concat();
        assert_eq!(Chunk { body: longer.into(), ..chunk.clone() }.lines(), damaged);
        assert_eq!(Chunk { sha256: [0; 32], ..chunk }.lines(), damaged);
    }

    #[test]
    fn a_void_keeps_its_place_in_the_chain_and_none_of_its_events() {
        let chunk = cut_from(7, Link([9; 32]), vec![new_event(Some(DAY + 36_001), "1")]).remove(0);
        assert!(!chunk.is_void());
        let void = chunk.clone().void();
        assert!(void.is_void());
        assert_eq!(void.lines(), Ok(Vec::new()), "its hash is that of no lines");
        assert_eq!((void.count, void.first, void.last), (0, None, None));
        assert_eq!(void.body, gzip(b"", 6), "what a destination that stores bodies stores");
        let kept = Chunk { count: 1, first: chunk.first, last: chunk.last, sha256: chunk.sha256, ..void };
        assert_eq!(Chunk { body: chunk.body.clone(), ..kept }, chunk, "number, link, keys and claim stay");
    }

    #[test]
    fn an_event_of_many_mebibytes_reads_back() {
        let huge = format!("\"{}\"", "x".repeat(3 << 20));
        let chunks = cut(vec![new_event(Some(DAY), huge.clone())]);
        assert_eq!(raws(&chunks[0]), [huge.into_bytes()]);
    }

    #[test]
    fn a_mode_is_written_as_it_is_read() {
        for mode in [Mode::Live, Mode::Late, Mode::Catchup, Mode::Backfill, Mode::Replay] {
            assert_eq!(Mode::parse(mode.as_str()), Some(mode));
            assert_eq!(serde_json::to_string(&mode).unwrap(), format!("\"{}\"", mode.as_str()));
        }
        assert_eq!(Mode::parse("Live"), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// Whatever comes in is in exactly one chunk, every chunk is within its bounds, and no two neighbours could be one.
        #[test]
        fn every_event_is_in_one_chunk_within_its_bounds(
            given in prop::collection::vec((prop::option::of(0i64..200_000), 2usize..200_000), 0..14)
        ) {
            let events: Vec<NewEvent> = given
                .iter()
                .enumerate()
                .map(|(n, (at, length))| new_event(at.map(|at| DAY + at), format!("\"{n}{}\"", "-".repeat(*length))))
                .collect();
            let chunks = cut(events.clone());
            let mut left: Vec<Vec<u8>> = events.iter().map(|new| new.event.raw.to_vec()).collect();
            let read: Vec<Vec<Vec<u8>>> = chunks.iter().map(raws).collect();
            let sizes: Vec<usize> = read.iter().map(|raws| raws.iter().map(Vec::len).sum()).collect();
            for ((chunk, raws), size) in chunks.iter().zip(&read).zip(&sizes) {
                prop_assert!(*size <= CHUNK_EVENT_BYTES_MAX || chunk.count == 1);
                for at in [chunk.first, chunk.last].into_iter().flatten() {
                    prop_assert_eq!(at.date(), chunk.date.clone());
                }
                for raw in raws {
                    let at = left.iter().position(|one| one == raw);
                    prop_assert!(at.is_some());
                    left.swap_remove(at.unwrap());
                }
            }
            prop_assert!(left.is_empty());
            for (index, pair) in chunks.windows(2).enumerate() {
                let next = read[index + 1][0].len();
                let apart = pair[0].date != pair[1].date || pair[0].first.is_some() != pair[1].first.is_some();
                prop_assert!(apart || sizes[index] + next > CHUNK_EVENT_BYTES_MAX);
            }
        }
    }
}
