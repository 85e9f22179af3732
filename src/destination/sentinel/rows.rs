//! Rows: what the table in Azure takes, mapped from a chunk's lines, and request bodies packed from them.
//!
//! Pure: no IO, no clock, no chance. The same chunk always gives the same rows, so nothing of them is kept between two tries. The
//! module decides what a row holds and what cannot be a row; it does not know who asks for it.
//!
//! *Why no `serde_json::Value`:* it triples the cost of an event, and this is the largest part of what an event costs.
//!
//! *Why a doubtful event stands in `RawEvent` as text:* Azure takes a body that it cannot parse with 204 and drops all of its rows.
//! What some JSON reader might refuse (a lone surrogate, `1e999`, deep nesting) is therefore never sent as JSON, but as a string
//! that holds it. The connector's `user` must stay an object, since Pulumi's own rule takes its texts out: a doubtful one is sent
//! with these texts alone.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::ops::Range;
use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use super::columns::{Cell, Column, Raw, Source, texts_of_user};
use crate::chunk::{Chunk, Damaged, Line};
use crate::clock::Second;
use crate::destination::{QuarantineReason, Refusal, RowId};
use crate::pulumi::wire::Fields;

/// Most plain bytes of a request's body, brackets and commas included. The service's limit is 1 MiB, "both compressed and
/// uncompressed" (learn.microsoft.com, "Azure Monitor service limits", 2026-09); other senders settled on a round million.
pub const BODY_BYTES_MAX: usize = 1_000_000;
/// Most bytes of a row: it must fit into a body alone.
pub const ROW_BYTES_MAX: usize = BODY_BYTES_MAX - 2;
/// Most UTF-16 units of a text, mark included. The service cuts at 64 KB without a mark and does not say what it counts.
pub const TEXT_UNITS_MAX: usize = 32_000;
/// Most UTF-8 bytes of a text, mark included.
pub const TEXT_BYTES_MAX: usize = 64_000;
/// Ends every text that was cut. The archive has it whole.
pub const CUT_MARK: &str = "…[cut]";
/// Texts are not halved below this.
const TEXT_BYTES_LEAST: usize = 256;
/// Most bytes of a user's JSON that is sent as it stands: no text in it is long enough to be cut.
const USER_BYTES_MAX: usize = TEXT_UNITS_MAX;
/// `2026-11-21T10:15:00`.
const TIME_BYTES: usize = 19;
/// Deepest nesting of an event that is sent as JSON; several readers stop at 64.
const RAW_DEPTH_MAX: usize = 32;

/// What was odd in a chunk's events, for the metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Oddities {
    /// Event types that are neither an id nor a display name we know.
    pub unknown_event: u64,
    /// Texts that were cut; a `RawEvent` left out and a `user` made shorter count too.
    pub cut_text: u64,
}

/// The rows of one chunk.
#[derive(Debug, Default)]
pub struct Rows {
    /// `[row,row,row`: each row with one byte before it, so that any run of rows is one slice.
    bytes: Vec<u8>,
    rows: Vec<Row>,
    /// Events that cannot be rows, for good.
    pub unsendable: Vec<Refusal>,
    pub oddities: Oddities,
}

#[derive(Debug)]
struct Row {
    line: u32,
    span: Range<usize>,
    key: Box<str>,
}

impl Rows {
    /// Maps a chunk to these columns.
    ///
    /// # Errors
    /// When the chunk's body is not what it was made from.
    pub fn of(chunk: &Chunk, columns: &[&Column]) -> Result<Rows, Damaged> {
        let damaged = || Damaged { number: chunk.number };
        let lines = chunk.lines()?;
        let lines = std::str::from_utf8(&lines).map_err(|_| damaged())?;
        let frame = Frame::of(chunk);
        let mut rows = Rows { bytes: Vec::with_capacity(lines.len() + lines.len() / 4), ..Rows::default() };
        for (number, line) in lines.lines().enumerate() {
            let parts = frame.parts(line).ok_or_else(damaged)?;
            rows.add(chunk, columns, u32::try_from(number).map_err(|_| damaged())?, &parts);
        }
        Ok(rows)
    }

    fn add(&mut self, chunk: &Chunk, columns: &[&Column], number: u32, parts: &Parts<'_>) {
        let decoded;
        let text = match parts.raw {
            Raw::Json(raw) => raw,
            Raw::Base64(base64) => {
                decoded = String::from_utf8_lossy(&STANDARD.decode(base64).unwrap_or_default()).into_owned();
                decoded.as_str()
            }
        };
        let fields = Fields::read(text);
        let time = parts.time.and_then(|time| time.strip_suffix('Z')).filter(|time| time.len() == TIME_BYTES);
        let at =
            parts.time.and_then(|text| fields.timestamp.map(Second).or_else(|| Second::parse_rfc3339(text)));
        let (Some(at), Some(time)) = (at, time) else {
            let reason = QuarantineReason::ImplausibleTime;
            self.leave_out(chunk, number, parts.key, reason, "the event has no plausible time");
            return;
        };
        let event = event_id(&fields.event);
        if event.is_none() && !fields.event.is_empty() {
            self.oddities.unknown_event += 1;
        }
        let event = event.unwrap_or(&fields.event);
        let source = Source { chunk, key: parts.key, at, time, event, fields: &fields, raw: parts.raw };

        self.bytes.push(if self.rows.is_empty() { b'[' } else { b',' });
        let from = self.bytes.len();
        let mut cut = write_row(&mut self.bytes, columns, &source, None);
        if self.bytes.len() - from > ROW_BYTES_MAX {
            self.bytes.truncate(from);
            match write_small_row(&mut self.bytes, columns, &source) {
                Some(texts) => cut = texts,
                None => {
                    self.bytes.truncate(from - 1);
                    let reason = QuarantineReason::TooLarge;
                    self.leave_out(chunk, number, parts.key, reason, "the row cannot be made small enough");
                    return;
                }
            }
        }
        self.oddities.cut_text += cut;
        self.rows.push(Row { line: number, span: from..self.bytes.len(), key: parts.key.into() });
    }

    fn leave_out(&mut self, chunk: &Chunk, row: u32, key: &str, reason: QuarantineReason, detail: &str) {
        self.unsendable.push(Refusal {
            at: RowId { chunk: chunk.number, row },
            key: key.to_owned(),
            reason,
            detail: detail.to_owned(),
            provisional: false,
        });
    }

    /// How many rows there are to send.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The line in the chunk that a row was made from.
    pub fn line(&self, index: usize) -> u32 {
        self.rows[index].line
    }

    pub fn key(&self, index: usize) -> &str {
        &self.rows[index].key
    }

    /// The row made from a line, if there is one.
    pub fn index_of(&self, line: u32) -> Option<usize> {
        self.rows.binary_search_by_key(&line, |row| row.line).ok()
    }

    /// Runs of rows, in order, each of which is a body of at most `body_bytes_max`; a larger row stands alone.
    pub fn packed(&self, body_bytes_max: usize) -> Vec<Range<usize>> {
        let mut runs = Vec::new();
        let mut first = 0;
        for (index, row) in self.rows.iter().enumerate() {
            let bytes = row.span.end - self.rows[first].span.start + 2;
            if bytes > body_bytes_max && index > first {
                runs.push(first..index);
                first = index;
            }
        }
        if first < self.rows.len() {
            runs.push(first..self.rows.len());
        }
        runs
    }

    /// The body that holds a run of rows: `[row,row]`.
    pub fn body(&self, run: Range<usize>) -> Vec<u8> {
        let (Some(first), Some(last)) = (self.rows.get(run.start), self.rows[..run.end].last()) else {
            return b"[]".to_vec();
        };
        let mut body = Vec::with_capacity(last.span.end - first.span.start + 2);
        body.push(b'[');
        body.extend_from_slice(&self.bytes[first.span.start..last.span.end]);
        body.push(b']');
        body
    }
}

/// Writes a row; returns how many texts were cut. With `room`, the row is being made smaller.
fn write_row(out: &mut Vec<u8>, columns: &[&Column], source: &Source<'_>, room: Option<&mut Room>) -> u64 {
    let mut writer = Writer { out, room, cut: 0 };
    for (index, column) in columns.iter().enumerate() {
        writer.name(index, column.name);
        writer.cell((column.cell)(source));
    }
    writer.out.push(b'}');
    writer.cut
}

/// Writes a row that would be too large: without `RawEvent`, and then with its longest text halved until it fits. Returns how
/// many texts were cut, or `None` when it does not fit all the same.
fn write_small_row(out: &mut Vec<u8>, columns: &[&Column], source: &Source<'_>) -> Option<u64> {
    let mut room = Room::default();
    let start = out.len();
    loop {
        let cut = write_row(out, columns, source, Some(&mut room));
        if out.len() - start <= ROW_BYTES_MAX {
            return Some(cut);
        }
        out.truncate(start);
        room.halve_the_longest()?;
    }
}

/// How much of each text a row has room for, by the order in which they stand in it.
#[derive(Default)]
struct Room {
    kept: Vec<usize>,
    /// Which text is written next.
    next: usize,
    /// Of those that may be halved: how many bytes it took, and which.
    longest: Option<(usize, usize)>,
}

impl Room {
    fn kept_bytes(&mut self, text: &str) -> usize {
        if self.next == self.kept.len() {
            self.kept.push(kept_bytes(text));
        }
        text.floor_char_boundary(self.kept[self.next])
    }

    fn written(&mut self, bytes: usize) {
        let may_be_halved = self.kept[self.next] >= TEXT_BYTES_LEAST;
        if may_be_halved && self.longest.is_none_or(|(most, _)| bytes > most) {
            self.longest = Some((bytes, self.next));
        }
        self.next += 1;
    }

    /// `None` when nothing is left to halve.
    fn halve_the_longest(&mut self) -> Option<()> {
        let (_, longest) = self.longest.take()?;
        self.kept[longest] /= 2;
        self.next = 0;
        Some(())
    }
}

struct Writer<'w> {
    out: &'w mut Vec<u8>,
    room: Option<&'w mut Room>,
    cut: u64,
}

impl Writer<'_> {
    fn name(&mut self, index: usize, name: &str) {
        self.out.extend_from_slice(if index == 0 { b"{\"" } else { b",\"" });
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
    }

    fn cell(&mut self, cell: Cell<'_>) {
        match cell {
            Cell::Time(time) => {
                self.out.push(b'"');
                self.out.extend_from_slice(time.as_bytes());
                self.out.extend_from_slice(b".000000Z\"");
            }
            Cell::Long(number) => write_json(self.out, &number),
            Cell::Count(number) => write_json(self.out, &number),
            Cell::Text(text) => self.text(text),
            Cell::Name(text) => write_json(self.out, text),
            Cell::Boolean(true) => self.out.extend_from_slice(b"true"),
            Cell::Boolean(false) => self.out.extend_from_slice(b"false"),
            Cell::Raw(_) if self.room.is_some() => {
                self.out.extend_from_slice(b"null");
                self.cut += 1;
            }
            Cell::Raw(Raw::Json(raw)) if is_plain(raw) => self.out.extend_from_slice(raw.as_bytes()),
            Cell::Raw(Raw::Json(raw)) => write_json(self.out, raw),
            Cell::Raw(Raw::Base64(base64)) => {
                self.out.extend_from_slice(b"{\"event_base64\":");
                write_json(self.out, base64);
                self.out.push(b'}');
            }
            Cell::User(fields) => self.user(fields),
        }
    }

    fn text(&mut self, text: &str) {
        let kept = self.room.as_mut().map_or_else(|| kept_bytes(text), |room| room.kept_bytes(text));
        let before = self.out.len();
        if kept == text.len() {
            write_json(self.out, text);
        } else {
            write_json(self.out, &format!("{}{CUT_MARK}", &text[..kept]));
            self.cut += 1;
        }
        if let Some(room) = &mut self.room {
            room.written(self.out.len() - before);
        }
    }

    fn user(&mut self, fields: &Fields<'_>) {
        let raw = fields.user;
        let short = raw.len() <= USER_BYTES_MAX;
        if raw.is_empty() {
            self.out.extend_from_slice(b"null");
        } else if short && is_plain(raw) {
            self.out.extend_from_slice(raw.as_bytes());
        } else {
            let before = self.cut;
            for (index, (name, text)) in texts_of_user(fields).into_iter().enumerate() {
                self.name(index, name);
                self.text(text);
            }
            self.out.push(b'}');
            // Something else in it was long, and is left out.
            if !short && self.cut == before {
                self.cut += 1;
            }
        }
    }
}

/// Writing a string or a number into memory cannot fail.
fn write_json<T: serde::Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) {
    serde_json::to_writer(out, value).unwrap_or_default();
}

/// How much of a text is sent: all of it, or so much that the mark has room.
fn kept_bytes(text: &str) -> usize {
    // A text has at most as many UTF-16 units as bytes.
    if text.len() <= TEXT_UNITS_MAX {
        return text.len();
    }
    let units_max = TEXT_UNITS_MAX - CUT_MARK.encode_utf16().count();
    let bytes_max = TEXT_BYTES_MAX - CUT_MARK.len();
    let mut units = 0;
    let mut kept = None;
    for (at, character) in text.char_indices() {
        units += character.len_utf16();
        let bytes = at + character.len_utf8();
        if kept.is_none() && (units > units_max || bytes > bytes_max) {
            kept = Some(at);
        }
        if units > TEXT_UNITS_MAX || bytes > TEXT_BYTES_MAX {
            return kept.unwrap_or(at);
        }
    }
    text.len()
}

/// A line's parts.
struct Parts<'a> {
    key: &'a str,
    time: Option<&'a str>,
    raw: Raw<'a>,
}

/// What stands between the parts of this chunk's lines. They are ours and their hash has been checked, so what is known of them
/// need not be parsed again.
struct Frame {
    before_time: String,
    before_event: String,
}

impl Frame {
    fn of(chunk: &Chunk) -> Frame {
        let org = serde_json::to_string(&chunk.org).unwrap_or_default();
        Frame {
            before_time: format!(",\"org\":{org},\"id\":\"{}\",\"time\":", chunk.id),
            before_event: format!(
                ",\"chunk\":{},\"mode\":\"{}\",\"event\":",
                chunk.number,
                chunk.mode.as_str()
            ),
        }
    }

    /// Takes a line apart; one that is framed in another way is parsed.
    fn parts<'a>(&self, line: &'a str) -> Option<Parts<'a>> {
        self.known(line).or_else(|| {
            let line: Line<'a> = serde_json::from_str(line).ok()?;
            let raw = match (line.event, line.event_base64) {
                (Some(raw), _) => Raw::Json(raw.get()),
                (None, base64) => Raw::Base64(base64?),
            };
            Some(Parts { key: line.key, time: line.time, raw })
        })
    }

    fn known<'a>(&self, line: &'a str) -> Option<Parts<'a>> {
        let (key, rest) = line.strip_prefix("{\"key\":\"")?.split_once('"')?;
        let rest = rest.strip_prefix(self.before_time.as_str())?;
        let (time, rest) = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').map(|(time, rest)| (Some(time), rest))?,
            None => (None, rest.strip_prefix("null")?),
        };
        let event = rest.strip_prefix(self.before_event.as_str())?.strip_suffix('}')?;
        Some(Parts { key, time, raw: Raw::Json(event) })
    }
}

/// The catalog of event types, as of the data file's date.
struct EventTypes {
    ids: HashSet<&'static str>,
    /// By display name in lower case.
    names: HashMap<String, &'static str>,
}

static EVENT_TYPES: LazyLock<EventTypes> = LazyLock::new(|| {
    #[derive(Default, Deserialize)]
    struct Catalog<'a> {
        #[serde(rename = "eventTypes", borrow)]
        types: Vec<EventType<'a>>,
    }
    #[derive(Deserialize)]
    struct EventType<'a> {
        event: &'a str,
        #[serde(rename = "displayName")]
        name: &'a str,
    }
    // The file is part of the program; a test reads it.
    let catalog: Catalog<'static> =
        serde_json::from_str(include_str!("../../../data/event-types.json")).unwrap_or_default();
    EventTypes {
        ids: catalog.types.iter().map(|known| known.event).collect(),
        names: catalog.types.iter().map(|known| (known.name.to_lowercase(), known.event)).collect(),
    }
});

/// The id of an event type, given as an id or, as older services do, as a display name; `None` when it is neither.
fn event_id(text: &str) -> Option<&'static str> {
    EVENT_TYPES.ids.get(text).copied().or_else(|| {
        // No display name is longer than a few words.
        (text.len() < 200).then(|| EVENT_TYPES.names.get(&text.to_lowercase()).copied())?
    })
}

/// Whether every JSON reader takes this: strings are text, numbers are finite, nesting is shallow.
fn is_plain(raw: &str) -> bool {
    let mut deserializer = serde_json::Deserializer::from_str(raw);
    Plain(RAW_DEPTH_MAX).deserialize(&mut deserializer).is_ok() && deserializer.end().is_ok()
}

/// Reads a value with so many levels left, and forgets it.
#[derive(Clone, Copy)]
struct Plain(usize);

impl<'de> DeserializeSeed<'de> for Plain {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Plain {
    fn deeper<E: serde::de::Error>(self) -> Result<Plain, E> {
        self.0.checked_sub(1).map(Plain).ok_or_else(|| E::custom("too deep"))
    }
}

impl<'de> Visitor<'de> for Plain {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<(), E> {
        number.is_finite().then_some(()).ok_or_else(|| E::custom("not finite"))
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let inner = self.deeper()?;
        while items.next_element_seed(inner)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let inner = self.deeper()?;
        while entries.next_key_seed(inner)?.is_some() {
            entries.next_value_seed(inner)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::Value;

    use super::super::columns::{ColumnKind, chosen};
    use super::*;
    use crate::chunk::{Cut, Link, Mode, NewEvent, Packing, Summary};
    use crate::clock::Window;
    use crate::config::settings::Columns;
    use crate::event::{Event, EventKey, Identity, OrgId, Payload};

    const AT: Second = Second(1_795_256_100);

    fn chunk_named(org: &str, events: &[(&[u8], Option<Second>)]) -> Chunk {
        let summary = Summary {
            start: None,
            coverage: Vec::new(),
            checkpoints: Default::default(),
            instance: "test".into(),
            forwarder: "test".into(),
            audit: None,
        };
        let cut = Cut {
            id: &OrgId::new("acme").unwrap(),
            org,
            mode: Mode::Live,
            window: Window::new(Second(1_795_250_000), Second(1_795_260_000)),
            packing: Packing::Stored,
            next: 12,
            link: Link::FIRST,
            before: summary.clone(),
            after: summary,
        };
        let events = events.iter().enumerate().map(|(index, (raw, at))| {
            let event = Event {
                raw: Bytes::copy_from_slice(raw),
                at: *at,
                identity: Identity([7; 32]),
                payload: Payload([0; 32]),
                kind: "".into(),
                odd: Default::default(),
            };
            NewEvent { key: EventKey::new(&event.identity, index as u64), event }
        });
        cut.chunks(events.collect()).remove(0)
    }

    fn chunk(events: &[&str]) -> Chunk {
        chunk_named("acme-corp", &events.iter().map(|raw| (raw.as_bytes(), Some(AT))).collect::<Vec<_>>())
    }

    fn rows(events: &[&str]) -> Rows {
        Rows::of(&chunk(events), &chosen(Columns::Extended, true)).unwrap()
    }

    fn values(rows: &Rows) -> Vec<Value> {
        serde_json::from_slice(&rows.body(0..rows.len())).unwrap()
    }

    const EVENT: &str = r#"{"timestamp":1795256100,"sourceIP":"203.0.113.7","event":"Stack Deleted","description":"Deleted stack \"a/b\"","user":{"name":"Ada","githubLogin":"ada","avatarUrl":"https://x/1.png"},"tokenID":"t-1","tokenName":"ci","actorName":"bot","actorUrn":"urn:x","reqOrgAdmin":true,"authFailure":true,"later":1.0}"#;

    #[test]
    fn a_row_is_exactly_what_the_interface_says() {
        let rows = rows(&[EVENT]);
        let expected = concat!(
            r#"[{"TimeGenerated":"2026-11-21T10:15:00.000000Z","Timestamp_d":1795256100,"SourceIP_s":"203.0.113.7","#,
            r#""Event_s":"stack-deleted","Description_s":"Deleted stack \"a/b\"","UserName_s":"Ada","#,
            r#""UserLogin_s":"ada","UserAvatarUrl_s":"https://x/1.png","TokenID_s":"t-1","TokenName_s":"ci","#,
            r#""ActorName_s":"bot","ActorUrn_s":"urn:x","RequireOrgAdmin_b":true,"RequireStackAdmin_b":false,"#,
            r#""AuthFailure_b":true,"EventKey_s":"KEY","OrgName_s":"acme-corp","OrgId_s":"acme","#,
            r#""EventTime_t":"2026-11-21T10:15:00.000000Z","IngestMode_s":"live","Chunk_d":12,"RawEvent":RAW}]"#
        );
        let key = EventKey::new(&Identity([7; 32]), 0);
        let expected = expected.replace("KEY", key.as_str()).replace("RAW", EVENT);
        assert_eq!(String::from_utf8(rows.body(0..1)).unwrap(), expected);
        assert_eq!(rows.oddities, Oddities::default());
        assert_eq!(rows.key(0), key.as_str());
    }

    /// Each choice of columns, with its name.
    const CHOICES: [(&str, Columns, bool); 4] = [
        ("official", Columns::Official, false),
        ("extended", Columns::Extended, false),
        ("extended_with_raw_event", Columns::Extended, true),
        ("connector", Columns::Connector, false),
    ];

    /// As it is sent, a column a line, and long runs of one character as their length.
    fn shown(row: &[u8], columns: &[&Column]) -> String {
        let mut text = String::from_utf8(row.to_vec()).unwrap();
        for column in columns {
            let name = format!("\"{}\":", column.name);
            text = text.replace(&format!(",{name}"), &format!(",\n {name}"));
        }
        let mut shown = String::new();
        let mut rest = text.as_str();
        while let Some(first) = rest.chars().next() {
            let run = rest.len() - rest.trim_start_matches(first).len();
            let count = run / first.len_utf8();
            if count > 50 {
                shown.push_str(&format!("<{first} {count} times>"));
            } else {
                shown.push_str(&rest[..run]);
            }
            rest = &rest[run..];
        }
        shown
    }

    #[test]
    fn golden_rows_of_every_choice_of_columns() {
        let long = "x".repeat(40_000);
        let events: Vec<(&str, Vec<u8>)> = vec![
            ("complete, type as a display name", EVENT.into()),
            ("nothing but a time", br#"{"timestamp":1795256100}"#.into()),
            ("no user", br#"{"timestamp":1795256100,"sourceIP":"::1","event":"user-login-failed","description":"Login failed.","user":null,"authFailure":true}"#.into()),
            ("wrong types", br#"{"timestamp":1795256100,"sourceIP":null,"event":7,"description":["a",1.50],"user":"ada","tokenID":false,"tokenName":{"n":1},"reqOrgAdmin":"true","reqStackAdmin":1,"authFailure":null}"#.into()),
            ("wrong types in the user", br#"{"timestamp":1795256100,"event":"quantum-leap","user":{"name":5,"githubLogin":["ada"],"avatarUrl":null}}"#.into()),
            ("a user with more fields, names twice", br#"{"timestamp":1795256100,"event":"x","event":"user-login","user":{"name":"Ada","githubLogin":"ada","avatarUrl":"","email":"ada@example.com","teams":[{"n":1}]}}"#.into()),
            ("half a pair", br#"{"timestamp":1795256100,"event":"user-login","description":"a\ud800b","user":{"name":"x\udc00","githubLogin":"ada","email":"ada@example.com"}}"#.into()),
            ("a user's number out of range", br#"{"timestamp":1795256100,"event":"user-login","user":{"name":"Ada","githubLogin":"ada","rank":1e999}}"#.into()),
            ("not UTF-8", b"{\"timestamp\":1795256100,\"event\":\"user-login\",\"description\":\"a\xffb\",\"user\":{\"name\":\"\xff\"}}".into()),
            ("huge texts", serde_json::json!({"timestamp": AT.0, "event": "user-login", "description": long, "actorUrn": long, "user": {"name": long, "githubLogin": "ada", "email": "ada@example.com"}}).to_string().into()),
            ("a user with something huge", serde_json::json!({"timestamp": AT.0, "event": "user-login", "user": {"name": "Ada", "more": long}}).to_string().into()),
        ];
        let chunk = chunk_named(
            "acme-corp",
            &events.iter().map(|(_, raw)| (raw.as_slice(), Some(AT))).collect::<Vec<_>>(),
        );
        for (name, columns, raw_event) in CHOICES {
            let columns = chosen(columns, raw_event);
            let rows = Rows::of(&chunk, &columns).unwrap();
            assert_eq!((rows.len(), rows.unsendable.len()), (events.len(), 0));
            assert!(values(&rows).iter().all(|row| row.as_object().unwrap().len() == columns.len()));
            let mut page = format!("{:?}\n", rows.oddities);
            for (index, (event, _)) in events.iter().enumerate() {
                let body = rows.body(index..index + 1);
                page.push_str(&format!("\n# {event}\n{}\n", shown(&body[1..body.len() - 1], &columns)));
            }
            insta::assert_snapshot!(name, page);
        }
    }

    #[test]
    fn every_cell_has_its_columns_type_whatever_the_event_holds() {
        let events = [
            EVENT,
            r#"{"timestamp":1795256100}"#,
            r#"{"timestamp":1795256100,"event":{},"description":7,"user":[],"tokenID":true,"authFailure":"true"}"#,
        ];
        for (name, columns, raw_event) in CHOICES {
            let columns = chosen(columns, raw_event);
            let rows = Rows::of(&chunk(&events), &columns).unwrap();
            for row in values(&rows) {
                for column in &columns {
                    let cell = &row[column.name];
                    let fits = match column.kind {
                        ColumnKind::Boolean => cell.is_boolean(),
                        ColumnKind::Long => cell.is_i64(),
                        ColumnKind::String | ColumnKind::DateTime => cell.is_string(),
                        ColumnKind::Dynamic => true,
                    };
                    assert!(fits, "{name}: {} is {cell}", column.name);
                }
            }
        }
    }

    #[test]
    fn display_names_become_ids_and_unknown_types_pass_and_are_counted() {
        assert_eq!(EVENT_TYPES.ids.len(), 169);
        assert_eq!(EVENT_TYPES.names.len(), 169);
        let event = |kind: &str| format!(r#"{{"timestamp":1795256100,"event":{}}}"#, serde_json::json!(kind));
        let events = ["stack-deleted", "STACK deleted", "stack.update", ""].map(event);
        let rows = rows(&events.each_ref().map(String::as_str));
        let kinds: Vec<_> = values(&rows).iter().map(|row| row["Event_s"].clone()).collect();
        assert_eq!(kinds, ["stack-deleted", "stack-deleted", "stack.update", ""]);
        assert_eq!(rows.oddities.unknown_event, 1);
    }

    #[test]
    fn a_text_is_cut_at_a_character_with_a_mark() {
        let event = |text: &str| serde_json::json!({"timestamp": AT.0, "description": text}).to_string();
        let description = |text: &str| {
            let rows = rows(&[&event(text)]);
            let cut = values(&rows)[0]["Description_s"].as_str().unwrap().to_owned();
            assert_eq!(rows.oddities.cut_text, u64::from(cut != text));
            cut
        };
        for whole in ["x".repeat(32_000), "😀".repeat(16_000), "€".repeat(21_333)] {
            assert_eq!(description(&whole), whole);
        }
        for long in
            ["x".repeat(32_001), "😀".repeat(16_001), "€".repeat(21_334), format!("x{}", "😀".repeat(30_000))]
        {
            let cut = description(&long);
            let kept = cut.strip_suffix(CUT_MARK).unwrap();
            assert!(long.starts_with(kept));
            assert!(cut.encode_utf16().count() <= TEXT_UNITS_MAX && cut.len() <= TEXT_BYTES_MAX);
            assert!(cut.encode_utf16().count() >= TEXT_UNITS_MAX - 1 || cut.len() >= TEXT_BYTES_MAX - 3);
        }
    }

    #[test]
    fn a_row_too_large_loses_its_raw_event_and_then_half_of_its_longest_texts() {
        let big =
            serde_json::json!({"timestamp": AT.0, "event": "x", "extra": "y".repeat(1_000_000)}).to_string();
        let large = rows(&[&big]);
        assert_eq!(values(&large)[0]["RawEvent"], Value::Null);
        assert_eq!(large.oddities.cut_text, 1);

        // Control characters take six bytes each.
        let text = "\u{1}".repeat(31_000);
        let event = serde_json::json!({
            "timestamp": AT.0, "event": "x", "description": text, "sourceIP": text, "tokenID": text, "tokenName": text,
            "actorName": text, "actorUrn": text, "user": {"name": "Ada", "githubLogin": text, "avatarUrl": text}
        });
        for (_, columns, raw_event) in CHOICES {
            let rows = Rows::of(&chunk(&[&event.to_string()]), &chosen(columns, raw_event)).unwrap();
            let body = rows.body(0..1);
            assert!(body.len() <= BODY_BYTES_MAX && body.len() > BODY_BYTES_MAX / 2, "{}", body.len());
            let row = &values(&rows)[0];
            if columns == Columns::Connector {
                assert_eq!(row["user"]["name"], "Ada");
                assert_eq!(row["user"].as_object().unwrap().len(), 3);
                let description = row["description"].as_str().unwrap();
                assert!(text.starts_with(description.strip_suffix(CUT_MARK).unwrap_or(description)));
            } else {
                assert_eq!(row["UserName_s"], "Ada");
            }
            if columns == Columns::Extended {
                assert_eq!(row["EventKey_s"], rows.key(0));
            }
            assert!(rows.oddities.cut_text > 1);
            assert!(rows.unsendable.is_empty());
        }
    }

    #[test]
    fn every_text_of_the_connectors_user_may_be_halved() {
        let text = "\u{1}".repeat(32_000);
        let mut event = serde_json::json!({"timestamp": AT.0});
        for name in ["event", "description", "sourceIP", "tokenID", "tokenName", "actorName", "actorUrn"] {
            event[name] = "\u{1}".repeat(11_000).into();
        }
        event["user"] = serde_json::json!({"name": text, "githubLogin": text, "avatarUrl": text});
        let columns = chosen(Columns::Connector, false);
        let rows = Rows::of(&chunk(&[&event.to_string()]), &columns).unwrap();
        let body = rows.body(0..1);
        assert!(body.len() <= BODY_BYTES_MAX && body.len() > BODY_BYTES_MAX * 3 / 4, "{}", body.len());
        let row = &values(&rows)[0];
        assert_eq!(row["description"].as_str().unwrap().len(), 11_000);
        assert!(
            row["user"].as_object().unwrap().values().any(|text| text.as_str().unwrap().ends_with(CUT_MARK))
        );
    }

    #[test]
    fn an_event_without_a_plausible_time_is_never_a_row() {
        let chunk = chunk_named("acme", &[(br#"{"timestamp":"soon"}"#, None), (b"[1,2]", None)]);
        let rows = Rows::of(&chunk, &chosen(Columns::Extended, true)).unwrap();
        assert!(rows.is_empty());
        assert_eq!(rows.body(0..0), b"[]");
        let reasons: Vec<_> =
            rows.unsendable.iter().map(|refusal| (refusal.at.row, refusal.reason)).collect();
        assert_eq!(reasons, [(0, QuarantineReason::ImplausibleTime), (1, QuarantineReason::ImplausibleTime)]);
    }

    #[test]
    fn what_some_reader_might_refuse_is_sent_as_text() {
        let deep = format!(r#"{{"timestamp":1795256100,"d":{}{}}}"#, "[".repeat(10_000), "]".repeat(10_000));
        let events = [
            r#"{"timestamp":1795256100,"description":"\ud800"}"#,
            r#"{"timestamp":1795256100,"n":1e999}"#,
            deep.as_str(),
        ];
        let rows = rows(&events);
        for (value, event) in values(&rows).iter().zip(events) {
            assert_eq!(value["RawEvent"], event);
        }
        let description = values(&rows)[0]["Description_s"].as_str().unwrap().to_owned();
        assert!(description.chars().all(|c| c == '\u{fffd}'), "{description:?}");
        let plain = [
            r#"{"a":"\u0000 \u2028","a":18446744073709551617,"c":[[-0,1.0000000000000000001]]}"#,
            "null",
            "7",
        ];
        assert!(plain.into_iter().all(is_plain));
    }

    #[test]
    fn an_event_that_is_not_utf_8_is_a_row_all_the_same() {
        let raw: &[u8] = b"{\"timestamp\":1795256100,\"event\":\"stack-deleted\",\"description\":\"a\xffb\"}";
        let rows =
            Rows::of(&chunk_named("acme", &[(raw, Some(AT))]), &chosen(Columns::Extended, true)).unwrap();
        let row = &values(&rows)[0];
        assert_eq!(row["Event_s"], "stack-deleted");
        assert_eq!(row["Description_s"], "a\u{fffd}b");
        assert_eq!(row["RawEvent"]["event_base64"], STANDARD.encode(raw));
    }

    #[test]
    fn a_line_taken_apart_by_its_frame_is_the_line_parsed() {
        for org in ["acme-corp", "we \"quote\" \\ \u{1} é"] {
            let chunk = chunk_named(org, &[(EVENT.as_bytes(), Some(AT))]);
            let lines = String::from_utf8(chunk.lines().unwrap()).unwrap();
            let line = lines.trim_end();
            let known = Frame::of(&chunk).known(line).unwrap();
            let parsed: Line<'_> = serde_json::from_str(line).unwrap();
            assert_eq!((known.key, known.time), (parsed.key, parsed.time));
            assert!(matches!(known.raw, Raw::Json(raw) if raw == parsed.event.unwrap().get()));
            let other = Chunk { number: 13, ..chunk };
            assert!(Frame::of(&other).known(line).is_none());
            assert!(Frame::of(&other).parts(line).is_some());
        }
    }

    #[test]
    fn runs_are_packed_up_to_the_limit_and_hold_every_row_once() {
        let events: Vec<String> =
            (0..40).map(|n| format!(r#"{{"timestamp":1795256100,"description":"{n}"}}"#)).collect();
        let rows = rows(&events.iter().map(String::as_str).collect::<Vec<_>>());
        let one = rows.body(0..1).len();
        for limit in [1, one, one * 3, BODY_BYTES_MAX] {
            let runs = rows.packed(limit);
            let together: Vec<usize> = runs.iter().cloned().flatten().collect();
            assert_eq!(together, (0..40).collect::<Vec<_>>());
            for run in runs {
                let body = rows.body(run.clone());
                assert!(body.len() <= limit || run.len() == 1);
                assert_eq!(serde_json::from_slice::<Vec<Value>>(&body).unwrap().len(), run.len());
            }
        }
        assert_eq!(rows.packed(BODY_BYTES_MAX), std::slice::from_ref(&(0..40)));
    }
}
