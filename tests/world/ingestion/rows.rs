//! What becomes of a body after it was accepted: rows of a table, each column as its declared type has it, or nothing at all.
//!
//! Everything here happens after the 204, so a client hears of none of it. That is the service's way, and the reason why the
//! forwarder must shape its rows itself.

use std::collections::BTreeMap;

use serde_json::Value;
use serde_json::value::RawValue;

use super::super::clock::{parse_rfc3339, rfc3339};

/// Texts beyond this are cut.
const TEXT_MAX: usize = 64 * 1024;
const TWO_DAYS: i64 = 2 * 86_400;
const ONE_DAY: i64 = 86_400;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    Text,
    Long,
    Real,
    Boolean,
    DateTime,
    Dynamic,
}

/// One row as it stands in the table.
#[derive(Debug, Clone)]
pub struct Row {
    /// Numbers the requests that stored rows; rows of one request share it.
    pub request: u64,
    pub received: i64,
    pub rule: String,
    pub stream: String,
    pub cells: BTreeMap<String, Value>,
    /// The service replaced the time by that of receipt.
    pub restamped: bool,
}

impl Row {
    pub fn text(&self, column: &str) -> &str {
        self.cells.get(column).and_then(Value::as_str).unwrap_or_default()
    }

    pub fn number(&self, column: &str) -> Option<i64> {
        self.cells.get(column).and_then(Value::as_i64)
    }

    pub fn flag(&self, column: &str) -> bool {
        self.cells.get(column).and_then(Value::as_bool).unwrap_or_default()
    }
}

/// What a rule makes of a row.
pub type Transform = fn(BTreeMap<String, Value>) -> BTreeMap<String, Value>;

/// What a body turned into.
#[derive(Debug, Default)]
pub struct Shaped {
    pub rows: Vec<(BTreeMap<String, Value>, bool)>,
    /// Names of fields that the stream does not declare, and how often each was dropped.
    pub dropped_columns: BTreeMap<String, u64>,
    /// Why there are no rows, as the table of errors would say.
    pub error: Option<String>,
}

/// Splits a body into rows without reading more of them than where each ends.
pub fn split(body: &[u8]) -> Result<Vec<&RawValue>, String> {
    serde_json::from_slice(body).map_err(|error| format!("the body is not a JSON array: {error}"))
}

pub fn shape(body: &[u8], columns: &[(String, Type)], transform: Option<Transform>, received: i64) -> Shaped {
    let mut shaped = Shaped::default();
    let rows = match split(body) {
        Ok(rows) => rows,
        Err(error) => return Shaped { error: Some(error), ..shaped },
    };
    for row in rows {
        let Ok(fields) = serde_json::from_str::<BTreeMap<String, &RawValue>>(row.get()) else {
            shaped.error = Some("an element of the array is no object".to_owned());
            continue;
        };
        for name in fields.keys().filter(|name| !columns.iter().any(|(known, _)| known == *name)) {
            *shaped.dropped_columns.entry(name.clone()).or_default() += 1;
        }
        let mut cells: BTreeMap<String, Value> = columns
            .iter()
            .map(|(name, kind)| (name.clone(), coerce(fields.get(name).map(|raw| raw.get()), *kind)))
            .collect();
        if let Some(transform) = transform {
            cells = transform(cells);
        }
        let restamped = restamp(&mut cells, received);
        shaped.rows.push((cells, restamped));
    }
    shaped
}

/// The transformation of the rule that comes with Pulumi's connector: from the fields its poller sends to the fifteen columns.
pub fn connector_transform(cells: BTreeMap<String, Value>) -> BTreeMap<String, Value> {
    let text = |value: &Value| match value {
        Value::Null => Value::from(""),
        Value::String(text) => Value::from(text.clone()),
        other => Value::from(other.to_string()),
    };
    let flag = |value: &Value| Value::Bool(value.as_bool().unwrap_or_default());
    let second = &cells["timestamp"];
    let user = &cells["user"];
    let mut made = BTreeMap::from([
        ("TimeGenerated", second.as_i64().map_or(Value::Null, |second| Value::from(rfc3339(second)))),
        ("Timestamp_d", second.clone()),
        ("UserName_s", text(&user["name"])),
        ("UserLogin_s", text(&user["githubLogin"])),
        ("UserAvatarUrl_s", text(&user["avatarUrl"])),
    ]);
    for (column, field) in [
        ("SourceIP_s", "sourceIP"),
        ("Event_s", "event"),
        ("Description_s", "description"),
        ("TokenID_s", "tokenID"),
        ("TokenName_s", "tokenName"),
        ("ActorName_s", "actorName"),
        ("ActorUrn_s", "actorUrn"),
    ] {
        made.insert(column, text(&cells[field]));
    }
    for (column, field) in [
        ("RequireOrgAdmin_b", "reqOrgAdmin"),
        ("RequireStackAdmin_b", "reqStackAdmin"),
        ("AuthFailure_b", "authFailure"),
    ] {
        made.insert(column, flag(&cells[field]));
    }
    made.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn restamp(cells: &mut BTreeMap<String, Value>, received: i64) -> bool {
    let Some(cell) = cells.get_mut("TimeGenerated") else { return false };
    let believable = cell
        .as_str()
        .and_then(parse_rfc3339)
        .is_some_and(|time| time >= received - TWO_DAYS && time <= received + ONE_DAY);
    if !believable {
        *cell = Value::from(rfc3339(received));
    }
    !believable
}

fn coerce(raw: Option<&str>, kind: Type) -> Value {
    let absent = if kind == Type::Text { Value::from("") } else { Value::Null };
    let Some(raw) = raw else { return absent };
    // A number that no type here can hold is null, but must not spoil its row.
    let value = serde_json::from_str::<Value>(raw);
    match (kind, value) {
        (Type::Dynamic, Ok(value)) => value,
        (Type::Dynamic, Err(_)) => Value::from(raw),
        (_, Err(_)) => absent,
        (Type::Text, Ok(Value::String(text))) => Value::from(cut(text)),
        (Type::Text, Ok(Value::Null)) => Value::from(""),
        (Type::Text, Ok(_)) => Value::from(cut(raw.to_owned())),
        (Type::Long, Ok(Value::Number(number))) if number.is_i64() => Value::Number(number),
        (Type::Long, Ok(Value::String(text))) => text.parse::<i64>().map_or(Value::Null, Value::from),
        (Type::Real, Ok(Value::Number(number))) => Value::Number(number),
        (Type::Boolean, Ok(Value::Bool(flag))) => Value::Bool(flag),
        (Type::DateTime, Ok(Value::String(text))) if parse_rfc3339(&text).is_some() => Value::from(text),
        _ => Value::Null,
    }
}

fn cut(mut text: String) -> String {
    if text.len() > TEXT_MAX {
        let end = (0..=TEXT_MAX).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
    }
    text
}
