//! Each step of the pipeline alone, in this process, on the same events: CPU seconds per million events.
//!
//! The steps are called as the daemon calls them, window by window, but one after the other and without waiting, so their sum is
//! less than the daemon's own cost: what is missing is the runtime, the queue of the journal's thread, and talking to the services.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Response};
use pulumi_audit_forwarder::chunk::{Chunk, Cut, Link, Mode, Packing, Summary, gzip};
use pulumi_audit_forwarder::clock::{Second, Window};
use pulumi_audit_forwarder::collect::tally::Tally;
use pulumi_audit_forwarder::config::settings::Columns;
use pulumi_audit_forwarder::coverage::Coverage;
use pulumi_audit_forwarder::destination::sentinel::columns::chosen;
use pulumi_audit_forwarder::destination::sentinel::rows::{BODY_BYTES_MAX, Rows};
use pulumi_audit_forwarder::destination::{DestinationName, Receipt};
use pulumi_audit_forwarder::event::{Event, OrgId};
use pulumi_audit_forwarder::http::{Client, Request, Route, Transport};
use pulumi_audit_forwarder::journal::sqlite::SqliteJournal;
use pulumi_audit_forwarder::journal::{Acknowledge, Append, Journal, TallyPage, WindowRecord};
use pulumi_audit_forwarder::pulumi::wire::parse_page;
use sha2::{Digest, Sha256};

use crate::threads;
use crate::world::certificates::{Certificates, Leaf};
use crate::world::server::{Answering, Server, Service};
use crate::world::verdict::{Verdict, respond};

/// Events on a page, as the service has it.
const PAGE_EVENTS: usize = 100;
/// Event time that the daemon reads at once at this density.
const WINDOW_SECONDS: i64 = 900;
/// As in the daemon: for what is stored, for what only the journal holds, and for what Azure takes.
const GZIP_STORED: u32 = 6;
const GZIP_PASSING: u32 = 1;
const GZIP_SENT: u32 = 1;

/// One step's cost in one round.
pub struct Step {
    pub name: &'static str,
    pub cost: Duration,
    /// A part of the step above it, measured again on its own.
    pub part: bool,
    /// Belongs to what durability and counting cost.
    pub durable: bool,
}

/// Runs every step once over `raw`, the events as received, oldest first.
pub fn run(raw: &[(i64, Vec<u8>)]) -> Vec<Step> {
    let org = OrgId::new("acme").expect("a good id");
    let mut steps = Vec::new();
    let mut add = |name, cost, part, durable| steps.push(Step { name, cost, part, durable });

    let windows = pages(raw);
    let now = Second(raw.last().map_or(0, |(at, _)| *at) + 1);
    let (parsed, cost) = measured(|| {
        let parse = |body: &Bytes| parse_page(body, &org, now).expect("a page").events;
        let read = |(window, pages): &(Window, Vec<Bytes>)| (*window, pages.iter().flat_map(parse).collect());
        windows.iter().map(read).collect::<Vec<(Window, Vec<Event>)>>()
    });
    add("parse pages, identity and payload hashed", cost, false, false);
    let (_, cost) = measured(|| {
        let events = parsed.iter().flat_map(|(_, events)| events);
        // The identity hashes about half of what the payload does.
        events
            .map(|event| Sha256::digest(&event.raw)[0] ^ Sha256::digest(&event.raw[..event.raw.len() / 2])[0])
            .max()
    });
    add("of that, about: SHA-256 of identity and payload", cost, true, true);

    let copy = parsed.clone();
    let (tallied, cost) = measured(|| {
        let take = |(window, events)| {
            let mut tally = Tally::read(&[]).expect("nothing to read");
            let new = tally.take(events);
            (window, new, tally.changed())
        };
        copy.into_iter().map(take).collect::<Vec<_>>()
    });
    add("tally: compare, event keys, write its pages", cost, false, true);

    let mut link = Link::FIRST;
    let mut next = 0;
    let (cut, cost) = measured(|| {
        let mut journaled: Vec<(Window, Vec<Chunk>, Vec<TallyPage>)> = Vec::new();
        for (window, new, tally) in tallied {
            let (before, after) = (summary(), summary());
            let packing = Packing::Passing;
            let cut = Cut {
                id: &org,
                org: "acme",
                mode: Mode::Catchup,
                window,
                packing,
                next,
                link,
                before,
                after,
            };
            let chunks = cut.chunks(new);
            if let Some(last) = chunks.last() {
                (next, link) = (last.number + 1, Link::of_claim(&last.claim));
            }
            journaled.push((window, chunks, tally));
        }
        journaled
    });
    add("cut into chunks: lines, SHA-256, gzip 1, claims", cost, false, false);
    let chunks: Vec<Chunk> = cut.iter().flat_map(|(_, chunks, _)| chunks.clone()).collect();
    let lines: Vec<Vec<u8>> = chunks.iter().map(|chunk| chunk.lines().expect("whole")).collect();
    let (_, cost) = measured(|| lines.iter().map(|lines| gzip(lines, GZIP_PASSING).len()).sum::<usize>());
    add("of that: gzip 1", cost, true, true);
    let (_, cost) = measured(|| lines.iter().map(|lines| gzip(lines, GZIP_STORED).len()).sum::<usize>());
    add("gzip 6 instead, where the body is archived", cost, true, false);
    let (_, cost) = measured(|| lines.iter().map(|lines| Sha256::digest(lines)[0]).max());
    add("of that: SHA-256 of the lines", cost, true, true);

    journal(&org, cut, &mut add);

    let columns = chosen(Columns::Extended, false);
    let (rows, cost) =
        measured(|| chunks.iter().map(|chunk| Rows::of(chunk, &columns).expect("whole")).collect::<Vec<_>>());
    add("rows: unpack, check, map", cost, false, false);
    let (_, cost) =
        measured(|| chunks.iter().map(|chunk| chunk.lines().map_or(0, |l| l.len())).sum::<usize>());
    add("of that: unpack and check", cost, true, true);
    let (bodies, cost) = measured(|| {
        let body = |rows: &Rows| {
            rows.packed(BODY_BYTES_MAX).into_iter().map(|run| rows.body(run)).collect::<Vec<_>>()
        };
        rows.iter().flat_map(body).collect::<Vec<_>>()
    });
    add("request bodies", cost, false, false);
    let (packed, cost) = measured(|| bodies.iter().map(|body| gzip(body, GZIP_SENT)).collect::<Vec<_>>());
    add("gzip 1", cost, false, false);
    let page_bodies: Vec<Bytes> =
        windows.iter().flat_map(|(_, pages)| pages).map(|page| gzip(page, GZIP_STORED)).collect();
    requests(&page_bodies, &packed, &mut add);
    steps
}

/// Bytes on the wire to Azure and in the archive, per event, and plain bytes of an event and of a row.
pub fn sizes(raw: &[(i64, Vec<u8>)]) -> [f64; 4] {
    let org = OrgId::new("acme").expect("a good id");
    let columns = chosen(Columns::Extended, false);
    let (mut sent, mut stored, mut row_bytes) = (0, 0, 0);
    let now = Second(raw.last().map_or(0, |(at, _)| *at) + 1);
    for (window, pages) in pages(raw) {
        let events =
            pages.iter().flat_map(|body| parse_page(body, &org, now).expect("a page").events).collect();
        let new = Tally::default().take(events);
        let (before, after) = (summary(), summary());
        let cut = Cut {
            id: &org,
            org: "acme",
            mode: Mode::Catchup,
            window,
            packing: Packing::Stored,
            next: 0,
            link: Link::FIRST,
            before,
            after,
        };
        for chunk in cut.chunks(new) {
            stored += chunk.body.len();
            let rows = Rows::of(&chunk, &columns).expect("whole");
            for run in rows.packed(BODY_BYTES_MAX) {
                let body = rows.body(run);
                row_bytes += body.len();
                sent += gzip(&body, GZIP_SENT).len();
            }
        }
    }
    let plain: usize = raw.iter().map(|(_, bytes)| bytes.len()).sum();
    [plain, row_bytes, sent, stored].map(|bytes| bytes as f64 / raw.len() as f64)
}

fn journal(
    org: &OrgId,
    windows: Vec<(Window, Vec<Chunk>, Vec<TallyPage>)>,
    add: &mut impl FnMut(&'static str, Duration, bool, bool),
) {
    let directory = tempfile::tempdir().expect("a directory can be made");
    let journal = SqliteJournal::open(directory.path()).expect("a journal can be made");
    let lanes = [DestinationName::Sentinel];
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let state = runtime.block_on(journal.open(org, &lanes)).expect("it opens");
    let count: u64 = windows.iter().map(|(_, chunks, _)| chunks.len() as u64).sum();
    let mut coverage = Coverage::default();

    let begun = threads::all();
    runtime.block_on(async {
        for (revision, (window, chunks, tally)) in (state.revision..).zip(windows) {
            let (from, until) = (window.from.0 / 60, window.until.0 / 60 + 1);
            let known = journal.tally(org, from, until).await.expect("it reads");
            assert!(known.len() <= 1, "windows meet in one minute at most");
            coverage.cover(window, window.until, &[], &[]);
            let seen = chunks.iter().map(|chunk| u64::from(chunk.count)).sum();
            let record =
                WindowRecord { window, kind: "catchup".into(), read_at: window.until, seen, new: seen };
            let append = Append {
                revision,
                start: Some(window.from),
                coverage: coverage.clone(),
                chunks,
                tally,
                tally_floor: None,
                window: Some(record),
                now: window.until,
            };
            journal.append(org, append).await.expect("it appends");
        }
    });
    add("journal: append windows, chunks and tally (SQLite, FULL)", threads::all() - begun, false, true);

    let begun = threads::all();
    runtime.block_on(async {
        for number in 0..count {
            let chunk = journal.chunk(org, number).await.expect("it reads").expect("it is there");
            let receipt = Receipt { status: 204, rows: chunk.count, bytes: 1, ..Receipt::default() };
            let destination = DestinationName::Sentinel;
            let acknowledge = Acknowledge { destination, chunk: number, receipt, now: Second(0) };
            journal.acknowledge(org, acknowledge).await.expect("it acknowledges");
        }
    });
    add("journal: read and acknowledge chunks, one lane", threads::all() - begun, false, true);
}

/// Answers every GET with the next of its pages, and takes every POST.
struct Peer {
    pages: Vec<Bytes>,
    next: std::sync::atomic::AtomicUsize,
}

impl Service for Peer {
    fn handle(self: Arc<Self>, request: http::Request<Bytes>) -> Answering {
        let answer: Response<Bytes> = if request.method() == Method::GET {
            let turn = self.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            respond(200, "application/json", self.pages[turn % self.pages.len()].clone())
        } else {
            respond(204, "", Bytes::new())
        };
        Box::pin(std::future::ready(Verdict::answer(answer)))
    }
}

/// Pages fetched and bodies sent over TLS; only this thread's time counts, the peer has threads of its own.
fn requests(pages: &[Bytes], bodies: &[Bytes], add: &mut impl FnMut(&'static str, Duration, bool, bool)) {
    let directory = tempfile::tempdir().expect("a directory can be made");
    let certificates = Certificates::create(directory.path());
    let peers = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let peer = Peer { pages: pages.to_vec(), next: std::sync::atomic::AtomicUsize::new(0) };
    let server = peers.block_on(Server::start(Arc::new(peer), Some(certificates.server(Leaf::Good))));
    let client = Client::new(&Route::trusting(Some(certificates.ca_pem.clone()))).expect("a client");
    let request = |method, body: &Bytes| Request {
        method,
        url: server.url(),
        headers: HeaderMap::new(),
        body: body.clone(),
        body_bytes_max: 64 << 20,
        deadline: Duration::from_secs(60),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        client.send(request(Method::POST, &Bytes::new())).await.expect("the peer answers");
        let begun = threads::this();
        for _ in pages {
            client.send(request(Method::GET, &Bytes::new())).await.expect("a page");
        }
        add("fetch pages: HTTP, TLS, unpack", threads::this() - begun, false, false);
        let begun = threads::this();
        for body in bodies {
            client.send(request(Method::POST, body)).await.expect("an answer");
        }
        add("send bodies: HTTP, TLS", threads::this() - begun, false, false);
    });
}

/// The events in pages as the service would send them, newest first, window by window.
pub(crate) fn pages(raw: &[(i64, Vec<u8>)]) -> Vec<(Window, Vec<Bytes>)> {
    let window_of = |at: i64| at.div_euclid(WINDOW_SECONDS);
    let windows = raw.chunk_by(|a, b| window_of(a.0) == window_of(b.0));
    let page = |events: &[(i64, Vec<u8>)]| {
        let list: Vec<&[u8]> = events.iter().rev().map(|(_, bytes)| bytes.as_slice()).collect();
        let mut body = b"{\"auditLogEvents\":[".to_vec();
        body.extend_from_slice(&list.join(&b','));
        body.extend_from_slice(b"],\"continuationToken\":\"1795256100\"}");
        Bytes::from(body)
    };
    windows
        .map(|events| {
            let from = window_of(events[0].0) * WINDOW_SECONDS;
            let window = Window::new(Second(from), Second(from + WINDOW_SECONDS));
            (window, events.rchunks(PAGE_EVENTS).map(page).collect())
        })
        .collect()
}

pub(crate) fn summary() -> Summary {
    Summary {
        start: Some(Second(0)),
        coverage: Vec::new(),
        checkpoints: std::collections::BTreeMap::from([("sentinel".to_owned(), 0)]),
        instance: "00000000000000000000000000000000".into(),
        forwarder: "0".into(),
        audit: None,
    }
}

fn measured<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let begun = threads::this();
    let result = std::hint::black_box(work());
    (result, threads::this() - begun)
}
