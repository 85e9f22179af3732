//! Every request a service got, for tests to ask about afterwards.
//!
//! Counts are exact for ever; the requests themselves are kept up to a bound, the newest ones, so that a benchmark does not grow.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;

use http::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST,
    IF_NONE_MATCH, USER_AGENT,
};
use http::request::Parts;

const KEPT_MAX: usize = 100_000;

#[derive(Debug, Clone)]
pub struct Entry {
    /// Unix second of the world's clock.
    pub at: i64,
    pub method: String,
    /// Path and query as sent.
    pub target: String,
    /// The org, rule, tenant or bucket the request was about; empty where none could be told.
    pub about: String,
    /// Headers that matter, names in lower case.
    pub headers: Vec<(String, String)>,
    pub body_bytes: usize,
    /// The same after unpacking, where it was packed.
    pub plain_bytes: usize,
    /// Nothing where the connection ended without an answer, or where what was answered did not arrive whole.
    pub status: Option<u16>,
    /// The service did what was asked, whatever became of the answer.
    pub done: bool,
}

impl Entry {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

#[derive(Debug, Default)]
pub struct Ledger {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    kept: VecDeque<Entry>,
    counts: BTreeMap<(String, Option<u16>), u64>,
}

impl Ledger {
    pub fn write(&self, entry: Entry) {
        let mut inner = self.inner.lock().expect("no test panics while it holds the ledger");
        *inner.counts.entry((entry.about.clone(), entry.status)).or_default() += 1;
        if inner.kept.len() == KEPT_MAX {
            inner.kept.pop_front();
        }
        inner.kept.push_back(entry);
    }

    pub fn entries(&self) -> Vec<Entry> {
        self.inner.lock().expect("no test panics while it holds the ledger").kept.iter().cloned().collect()
    }

    /// How many requests there were about something (an org, a rule, a tenant, a bucket).
    pub fn requests(&self, about: &str) -> u64 {
        self.sum(|name, _| name == about)
    }

    /// How many of them were answered with this status.
    pub fn answered(&self, about: &str, status: u16) -> u64 {
        self.sum(|name, answered| name == about && answered == Some(status))
    }

    /// How many of them got no whole answer.
    pub fn unanswered(&self, about: &str) -> u64 {
        self.sum(|name, answered| name == about && answered.is_none())
    }

    pub fn total(&self) -> u64 {
        self.sum(|_, _| true)
    }

    fn sum(&self, wanted: impl Fn(&str, Option<u16>) -> bool) -> u64 {
        let inner = self.inner.lock().expect("no test panics while it holds the ledger");
        inner.counts.iter().filter(|((name, status), _)| wanted(name, *status)).map(|(_, count)| count).sum()
    }
}

/// The beginning of an entry, from what the request says of itself.
pub fn entry(at: i64, head: &Parts, body_bytes: usize, about: &str) -> Entry {
    let matters = [
        ACCEPT,
        ACCEPT_ENCODING,
        AUTHORIZATION,
        CONTENT_ENCODING,
        CONTENT_LENGTH,
        CONTENT_TYPE,
        HOST,
        IF_NONE_MATCH,
        USER_AGENT,
    ];
    let mut headers: Vec<(String, String)> = matters
        .iter()
        .filter_map(|name| head.headers.get(name).map(|value| (name, value)))
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
        .collect();
    headers.extend(
        head.headers
            .iter()
            .filter(|(name, _)| name.as_str().starts_with("x-"))
            .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())),
    );
    Entry {
        at,
        method: head.method.to_string(),
        target: head.uri.path_and_query().map_or_else(String::new, ToString::to_string),
        about: about.to_owned(),
        headers,
        body_bytes,
        plain_bytes: body_bytes,
        status: None,
        done: false,
    }
}
