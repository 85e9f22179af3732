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
/// Level 6: what is stored is billed (`docs/performance.md` has the figures).
const GZIP_LEVEL: u32 = 6;

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
    /// Number of events, at least 1.
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
        for new in run {
            write_line(&mut lines, self, number, new);
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
            body: gzip(&lines, GZIP_LEVEL),
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
    #[serde(borrow)]
    pub event: Option<&'a RawValue>,
    pub event_base64: Option<&'a str>,
}

/// `{"key":…,"org":…,"id":…,"time":…,"chunk":…,"mode":…,"event":{…}}` and a line feed. An event that is not UTF-8 stands as
/// `event_base64` instead.
fn write_line(lines: &mut Vec<u8>, cut: &Cut<'_>, number: u64, new: &NewEvent) {
    let org = serde_json::to_string(cut.org).unwrap_or_default();
    lines.extend_from_slice(b"{\"key\":\"");
    lines.extend_from_slice(new.key.as_str().as_bytes());
    lines.extend_from_slice(b"\",\"org\":");
    lines.extend_from_slice(org.as_bytes());
    lines.extend_from_slice(b",\"id\":\"");
    lines.extend_from_slice(cut.id.as_str().as_bytes());
    lines.extend_from_slice(b"\",\"time\":");
    match new.event.at {
        Some(at) => lines.extend_from_slice(format!("\"{at}\"").as_bytes()),
        None => lines.extend_from_slice(b"null"),
    }
    lines.extend_from_slice(format!(",\"chunk\":{number},\"mode\":\"{}\",", cut.mode.as_str()).as_bytes());
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

/// Gzips a buffer; the header holds no time and no name, so equal input gives equal bytes.
pub fn gzip(plain: &[u8], level: u32) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::with_capacity(plain.len() / 4 + 64), Compression::new(level));
    // Writing into memory cannot fail.
    if encoder.write_all(plain).is_err() {
        return Bytes::new();
    }
    encoder.finish().map(Bytes::from).unwrap_or_default()
}
