//! One page of the audit log: which events, in which order, and which token leads on.
//!
//! Everything the facts page calls undocumented is a switch of [`Behaviour`]; here stands only what follows from them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::super::chance::{Chance, scramble};
use super::super::query;
use super::behaviour::{Behaviour, Bound, Cursor, Filtering, LastToken, More, NoEvents, Order, TokenStyle};
use super::events::kind_number;
use super::store::{Log, Stored};

/// What a list request asks for.
#[derive(Debug, Default)]
pub struct Asked {
    /// In seconds, as sent; the meaning is the version's.
    pub start_time: Option<i64>,
    pub end_time: Option<i64>,
    pub event_filter: Option<String>,
    pub user_filter: Option<String>,
    pub token: Option<String>,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    BadQuery(String),
    UnknownUser,
}

/// Where in the list a page begins, newest first.
#[derive(Debug, Clone, Copy)]
struct Place {
    /// The newest second that may be shown.
    last: i64,
    /// Within that second only what comes behind this rank; keyset tokens only.
    behind: Option<(u64, u64)>,
}

impl Asked {
    pub fn read(pairs: &[(String, String)]) -> Result<Self, Refusal> {
        let second = |name: &str| match query::value(pairs, name) {
            None | Some("") => Ok(None),
            Some(text) => text
                .parse::<i64>()
                .map(Some)
                .map_err(|_| Refusal::BadQuery(format!("invalid value for query parameter {name}"))),
        };
        let text = |name: &str| query::value(pairs, name).filter(|text| !text.is_empty()).map(str::to_owned);
        Ok(Self {
            start_time: second("startTime")?,
            end_time: second("endTime")?,
            event_filter: text("eventFilter"),
            user_filter: text("userFilter"),
            token: text("continuationToken"),
        })
    }

    /// The first version: `startTime` is an upper bound, `endTime` and `eventFilter` do nothing.
    pub fn of_the_first_version(mut self) -> Self {
        self.end_time = self.start_time.take();
        self.event_filter = None;
        self
    }
}

/// Serves one page. `empty` asks for a page without events that leads on all the same.
pub fn page(
    log: &Log,
    behaviour: &Behaviour,
    asked: &Asked,
    now: i64,
    chance: &mut Chance,
    empty: Option<u32>,
) -> Result<Vec<u8>, Refusal> {
    if asked.user_filter.as_deref().is_some_and(|login| !log.knows_login(login)) {
        return Err(Refusal::UnknownUser);
    }
    let first = match (asked.start_time, behaviour.lower) {
        (None, _) => i64::MIN,
        (Some(second), Bound::Inclusive) => second,
        (Some(second), Bound::Exclusive) => second.saturating_add(1),
    };
    let upper = match (asked.end_time, behaviour.upper) {
        (None, _) => i64::MAX,
        (Some(second), Bound::Inclusive) => second,
        (Some(second), Bound::Exclusive) => second.saturating_sub(1),
    };
    let mut place = Place { last: upper, behind: None };
    if let Some(token) = &asked.token {
        let from_token = read_token(token, behaviour)
            .ok_or_else(|| Refusal::BadQuery("invalid continuation token".to_owned()))?;
        if from_token.last <= place.last {
            place = from_token;
        }
    }
    if let Some(left) = empty {
        // Above the place reached, so that following it skips nothing, and never twice the same.
        let above = place.last.min(now).saturating_add(i64::from(left) + 1);
        let token = write_token(behaviour, Place { last: above, behind: None });
        return Ok(write(log, behaviour, &[], Some(token)));
    }

    let kind = asked.event_filter.as_deref().map(|id| (kind_number(id), id));
    let wanted = |stored: &Stored| {
        kind.is_none_or(|(kind, id)| log.is_kind(stored, kind, id))
            && asked.user_filter.as_deref().is_none_or(|login| log.is_by(stored, login))
    };
    let before_paging = behaviour.filtering == Filtering::BeforePaging;
    let shown = |stored: &Stored| stored.visible_at <= now && (!before_paging || wanted(stored));

    let (mut events, mut more) = take(log, behaviour, first, place, shown, chance);
    if behaviour.more == More::WhenFull {
        more = events.len() == behaviour.page_size;
    }
    let token =
        match (more, events.last()) {
            (true, Some(last)) => Some(behaviour.stalled_token.clone().unwrap_or_else(|| {
                write_token(behaviour, Place { last: last.time, behind: Some(rank(last)) })
            })),
            _ => None,
        };
    if !before_paging {
        events.retain(|stored| wanted(stored));
    }
    Ok(write(log, behaviour, &events, token))
}

/// The next page of what is shown, newest first, and whether there is more behind it.
fn take<'a>(
    log: &'a Log,
    behaviour: &Behaviour,
    first: i64,
    place: Place,
    shown: impl Fn(&Stored) -> bool,
    chance: &mut Chance,
) -> (Vec<&'a Stored>, bool) {
    let keyset = behaviour.token == TokenStyle::Keyset;
    let mut rest = log.span(first, place.last);
    let mut events: Vec<&Stored> = Vec::with_capacity(behaviour.page_size.min(1024));
    while let Some(newest) = rest.last() {
        let begins = rest.partition_point(|stored| stored.time < newest.time);
        let behind = place.behind.filter(|_| keyset && newest.time == place.last);
        let mut second: Vec<&Stored> = rest[begins..]
            .iter()
            .filter(|stored| shown(stored) && behind.is_none_or(|behind| rank(stored) > behind))
            .collect();
        match behaviour.order {
            Order::Random if !keyset => chance.shuffle(&mut second),
            _ => second.sort_by_key(|stored| rank(stored)),
        }
        for stored in second {
            if events.len() == behaviour.page_size {
                return (events, true);
            }
            events.push(stored);
        }
        rest = &rest[..begins];
    }
    (events, false)
}

/// A place within a second that has nothing to do with the order of arrival.
fn rank(stored: &Stored) -> (u64, u64) {
    (scramble(stored.sequence), stored.sequence)
}

fn write_token(behaviour: &Behaviour, place: Place) -> String {
    match behaviour.token {
        TokenStyle::Decimal | TokenStyle::Number => place.last.to_string(),
        TokenStyle::Base64 => STANDARD.encode(format!("{{\"timestamp\":{}}}", place.last)),
        TokenStyle::Keyset => {
            let (rank, sequence) = place.behind.unwrap_or_default();
            STANDARD.encode(format!("{}.{rank}.{sequence}", place.last))
        }
    }
}

fn read_token(token: &str, behaviour: &Behaviour) -> Option<Place> {
    let decoded = || String::from_utf8(STANDARD.decode(token).ok()?).ok();
    let second = match behaviour.token {
        TokenStyle::Decimal | TokenStyle::Number => token.parse().ok()?,
        TokenStyle::Base64 => serde_json::from_str::<Value>(&decoded()?).ok()?["timestamp"].as_i64()?,
        TokenStyle::Keyset => {
            let text = decoded()?;
            let mut parts = text.split('.');
            let last = parts.next()?.parse().ok()?;
            let behind = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
            return Some(Place { last, behind: Some(behind) });
        }
    };
    let last = match behaviour.cursor {
        Cursor::Before => second - 1,
        Cursor::UpTo => second,
    };
    Some(Place { last, behind: None })
}

fn write(log: &Log, behaviour: &Behaviour, events: &[&Stored], token: Option<String>) -> Vec<u8> {
    let mut body = Vec::with_capacity(64 + events.len() * 480);
    body.extend_from_slice(b"{\"auditLogEvents\":");
    if events.is_empty() && behaviour.no_events == NoEvents::Null {
        body.extend_from_slice(b"null");
    } else {
        body.push(b'[');
        for (number, stored) in events.iter().enumerate() {
            if number > 0 {
                body.push(b',');
            }
            log.render(stored, &mut body);
        }
        body.push(b']');
    }
    let token = match (token, behaviour.token, behaviour.last_token) {
        (Some(token), TokenStyle::Number, _) if token.parse::<i64>().is_ok() => Some(token),
        (Some(token), _, _) => Some(Value::from(token).to_string()),
        (None, _, LastToken::Absent) => None,
        (None, _, LastToken::Null) => Some("null".to_owned()),
        (None, _, LastToken::Empty) => Some("\"\"".to_owned()),
    };
    if let Some(token) = token {
        body.extend_from_slice(b",\"continuationToken\":");
        body.extend_from_slice(token.as_bytes());
    }
    body.push(b'}');
    if behaviour.spread { super::super::lexemes::spread(&body) } else { body }
}
