//! A bucket in memory, for simulated time: PUT with and without `If-None-Match`, GET, HEAD and the list, answered as Amazon's does.
//!
//! It decides in plain code and can be asked without a network. It looks at no signature; what keys are good is a fault's to say.
//! Real servers, which others wrote, are asked elsewhere: here it is about what a client makes of the answers, at any moment.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use http::header::IF_NONE_MATCH;
use http::{HeaderMap, Method, Request, Response};
use sha2::{Digest, Sha256};

use super::super::clock::{WorldClock, http_date};
use super::super::ledger::{self, Ledger};
use super::super::pulumi::store::hex;
use super::super::query;
use super::super::script::{Script, Times};
use super::super::verdict::{Cut, Verdict, respond, with_header};

#[derive(Debug, Clone)]
pub enum Fault {
    /// Nothing done; this status and code.
    Error { status: u16, code: &'static str },
    /// Done, and the reply never comes.
    ReplyLost(Cut),
    /// Done, and the reply comes late.
    ReplyLate(Duration),
    /// Nothing done, nothing answered.
    Stall,
    /// 200 whose body is an error, nothing done.
    ErrorInside,
}

impl Fault {
    pub fn error(status: u16, code: &'static str) -> Self {
        Self::Error { status, code }
    }
}

#[derive(Debug, Clone)]
struct Stored {
    body: Bytes,
    etag: String,
    metadata: Vec<(String, String)>,
}

/// One store with one bucket. Keys are compared as they stand after unescaping.
pub struct Memory {
    state: Mutex<State>,
    pub ledger: Ledger,
    clock: WorldClock,
    bucket: String,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Stored>,
    /// By the part of a key that a fault is for; empty for all.
    faults: Script<String, Fault>,
    /// Ids of the access keys that are not known any more; no signature is looked at.
    deleted_keys: BTreeSet<String>,
    /// Puts that would have replaced something, or that did not ask for "only if absent".
    careless: Vec<String>,
    /// The objects that stored claims name.
    claimed: BTreeSet<String>,
    /// Objects that were stored before a claim named them.
    unclaimed: Vec<String>,
}

impl Memory {
    pub fn new(clock: WorldClock, bucket: &str) -> Self {
        Self { state: Mutex::default(), ledger: Ledger::default(), clock, bucket: bucket.to_owned() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics while it holds the bucket")
    }

    /// Requests whose key contains this text meet the fault.
    pub fn fault_on(&self, part: &str, fault: Fault, times: Times) {
        self.state().faults.push(part.to_owned(), fault, times);
    }

    pub fn clear_faults(&self) {
        self.state().faults.clear(|_| true);
    }

    pub fn has_faults(&self) -> bool {
        self.state().faults.is_armed()
    }

    /// Requests signed with this access key are refused from now on.
    pub fn delete_key(&self, id: &str) {
        self.state().deleted_keys.insert(id.to_owned());
    }

    /// Everything stored, by key.
    pub fn everything(&self) -> BTreeMap<String, Vec<u8>> {
        self.state().objects.iter().map(|(key, stored)| (key.clone(), stored.body.to_vec())).collect()
    }

    /// What is stored below this, by the rest of its key. Bodies are shared.
    pub fn below(&self, prefix: &str) -> BTreeMap<String, Bytes> {
        let state = self.state();
        let from = state.objects.range::<str, _>((Bound::Included(prefix), Bound::Unbounded));
        from.map_while(|(key, stored)| Some((key.strip_prefix(prefix)?.to_owned(), stored.body.clone())))
            .collect()
    }

    pub fn has(&self, key: &str) -> bool {
        self.state().objects.contains_key(key)
    }

    /// Loses what is stored under keys that have this part; says how much there was.
    pub fn lose(&self, part: &str) -> usize {
        let mut state = self.state();
        let before = state.objects.len();
        state.objects.retain(|key, _| !key.contains(part));
        before - state.objects.len()
    }

    pub fn len(&self) -> usize {
        self.state().objects.len()
    }

    /// Puts that could have overwritten something.
    pub fn careless(&self) -> Vec<String> {
        self.state().careless.clone()
    }

    /// Objects of an org that came before their claim.
    pub fn unclaimed(&self) -> Vec<String> {
        self.state().unclaimed.clone()
    }

    pub fn answer(&self, request: Request<Bytes>) -> Verdict {
        let (head, body) = request.into_parts();
        let now = self.clock.now();
        let mut entry = ledger::entry(now, &head, body.len(), &self.bucket);
        let segments = query::segments(head.uri.path());
        let (bucket, key) = match segments.split_first() {
            Some((bucket, rest)) => (bucket.clone(), rest.join("/")),
            None => (String::new(), String::new()),
        };
        let mut state = self.state();
        let fault = state.faults.strike(|part, _| key.contains(part.as_str()));
        let signed = head.headers.get("authorization").and_then(|value| value.to_str().ok());
        let signer = signed.and_then(|text| text.split("Credential=").nth(1)?.split('/').next());
        let verdict = match &fault {
            _ if signer.is_some_and(|id| state.deleted_keys.contains(id)) => {
                Verdict::answer(error(403, "InvalidAccessKeyId", &key))
            }
            Some(Fault::Error { status, code }) => Verdict::answer(error(*status, code, &key)),
            Some(Fault::Stall) => Verdict::hang_up().after(Duration::MAX),
            Some(Fault::ErrorInside) => Verdict::answer(error(200, "InternalError", &key)),
            _ if bucket != self.bucket => Verdict::answer(error(404, "NoSuchBucket", &bucket)),
            lost_or_none => {
                let response =
                    state.act(&head.method, &key, head.uri.query().unwrap_or_default(), &head.headers, body);
                entry.done = response.status().is_success();
                let verdict = Verdict::answer(response);
                match lost_or_none {
                    Some(Fault::ReplyLost(cut)) => verdict.cut(*cut),
                    Some(Fault::ReplyLate(wait)) => verdict.after(*wait),
                    _ => verdict,
                }
            }
        };
        drop(state);
        let verdict = Verdict {
            response: verdict.response.map(|response| {
                let response = with_header(response, "date", &http_date(now));
                let response = with_header(response, "x-amz-request-id", "4442587FB7D0A2F9");
                without_body_if(head.method == Method::HEAD, response)
            }),
            ..verdict
        };
        entry.status = verdict.status().filter(|_| verdict.cut.is_none());
        self.ledger.write(entry);
        verdict
    }
}

/// An answer to HEAD has no body, so its error has no code.
fn without_body_if(head: bool, response: Response<Bytes>) -> Response<Bytes> {
    if head { response.map(|_| Bytes::new()) } else { response }
}

impl State {
    fn act(
        &mut self,
        method: &Method,
        key: &str,
        query: &str,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Response<Bytes> {
        match *method {
            Method::PUT => self.put(key, headers, body),
            Method::GET if key.is_empty() => self.list(query),
            Method::GET | Method::HEAD => match self.objects.get(key) {
                Some(stored) => shown(stored),
                None => error(404, "NoSuchKey", key),
            },
            _ => error(405, "MethodNotAllowed", key),
        }
    }

    fn put(&mut self, key: &str, headers: &HeaderMap, body: Bytes) -> Response<Bytes> {
        let only_if_absent = headers.get(IF_NONE_MATCH).is_some_and(|value| value == "*");
        if !only_if_absent {
            self.careless.push(key.to_owned());
        }
        if only_if_absent && self.objects.contains_key(key) {
            return error(412, "PreconditionFailed", key);
        }
        self.hold_to_its_claim(key, &body);
        let digest = Sha256::digest(&body);
        if let Some(stated) = headers.get("x-amz-checksum-sha256") {
            use base64::Engine;
            if *stated != base64::engine::general_purpose::STANDARD.encode(digest) {
                return error(400, "BadDigest", key);
            }
        }
        let metadata = headers
            .iter()
            .filter(|(name, _)| name.as_str().starts_with("x-amz-meta-"))
            .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
            .collect();
        let etag = format!("\"{}\"", &hex(&digest)[..32]);
        let stored = Stored { body, etag: etag.clone(), metadata };
        self.objects.insert(key.to_owned(), stored);
        with_header(respond(200, "", Bytes::new()), "etag", &etag)
    }

    /// An object's number is claimed before it is written, so that two writers never own one.
    fn hold_to_its_claim(&mut self, key: &str, body: &[u8]) {
        if let Some((before, _)) = key.split_once("_chain/") {
            let claim: Option<serde_json::Value> = serde_json::from_slice(body).ok();
            let object = claim.as_ref().and_then(|claim| claim["key"].as_str());
            self.claimed.extend(object.map(|object| format!("{before}{object}")));
        } else if key.contains("org=") && !self.claimed.contains(key) {
            self.unclaimed.push(key.to_owned());
        }
    }

    fn list(&self, query: &str) -> Response<Bytes> {
        let pairs = query::pairs(query);
        let (prefix, after) = (
            query::value(&pairs, "prefix").unwrap_or_default(),
            query::value(&pairs, "start-after").unwrap_or_default(),
        );
        let keys: Vec<&String> = self
            .objects
            .keys()
            .filter(|key| key.starts_with(prefix) && key.as_str() > after)
            .take(1_001)
            .collect();
        let mut body = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<ListBucketResult><IsTruncated>{}</IsTruncated>",
            keys.len() > 1_000
        );
        for key in keys.iter().take(1_000) {
            body.push_str(&format!("<Contents><Key>{key}</Key></Contents>"));
        }
        body.push_str("</ListBucketResult>");
        respond(200, "application/xml", body)
    }
}

fn shown(stored: &Stored) -> Response<Bytes> {
    let mut response =
        with_header(respond(200, "binary/octet-stream", stored.body.clone()), "etag", &stored.etag);
    for (name, value) in &stored.metadata {
        if let (Ok(name), Ok(value)) =
            (http::HeaderName::from_bytes(name.as_bytes()), http::HeaderValue::from_str(value))
        {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

fn error(status: u16, code: &str, key: &str) -> Response<Bytes> {
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>simulated {code}</Message><Resource>/{key}</Resource><RequestId>0000000000000000</RequestId></Error>"
    );
    respond(status, "application/xml", body)
}
