//! An archive in memory, and what a person with write access might do to it.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::sync::{Arc, OnceLock};

use flate2::read::MultiGzDecoder;
use proptest::prelude::*;
use proptest::sample::Index;
use sha2::{Digest, Sha256};

use super::*;
use crate::chunk::{Claim, Cut, Mode, NewEvent, Packing, Summary, gzip};
use crate::event::{EventKey, Identity};
use crate::pulumi::wire::read_event;

/// 2026-11-21T00:00:00Z.
const DAY: i64 = 1_795_219_200;

type Files = BTreeMap<String, Bytes>;

fn org() -> OrgId {
    OrgId::new("acme").unwrap()
}

/// Reads from memory.
#[derive(Clone)]
struct Memory {
    files: Arc<Files>,
    left: Vec<String>,
}

#[async_trait]
impl Reader for Memory {
    fn locate(&self, key: &str) -> String {
        format!("memory:{key}")
    }

    fn list(&mut self, below: &str) {
        self.left = self.files.keys().filter(|key| key.starts_with(below)).cloned().rev().collect();
    }

    async fn more(&mut self) -> Result<Vec<String>, Obstacle> {
        let some = self.left.len().min(3);
        Ok((0..some).filter_map(|_| self.left.pop()).collect())
    }

    async fn read(&mut self, key: &str, bytes_max: usize) -> Result<Option<Bytes>, Obstacle> {
        Ok(self.files.get(key).map(|body| body.slice(..body.len().min(bytes_max))))
    }
}

fn verified(files: &Files, asked: &Asked) -> Report {
    let reader = Memory { files: Arc::new(files.clone()), left: Vec::new() };
    let walked = async { walk(vec![reader.clone(), reader.clone(), reader], asked, &mut |_| {}).await };
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime =
            tokio::runtime::Builder::new_current_thread().build().unwrap();
    }
    RUNTIME.with(|runtime| runtime.block_on(walked)).unwrap()
}

fn asked() -> Asked {
    Asked { org: org(), lane: Some(DestinationName::File), within: None, head: None }
}

fn looked_at(files: &Files) -> Report {
    verified(files, &asked())
}

fn first_wrong(report: &Report) -> String {
    report.wrong.first.as_ref().map_or_else(|| "nothing".to_owned(), ToString::to_string)
}

/// The events of `(second, how many, what)`, each as often as it says, in chunks as the collector cuts them.
fn archive(windows: &[&[(i64, u8, &str)]]) -> Files {
    let mut files = Files::new();
    let mut ordinals: BTreeMap<Identity, u64> = BTreeMap::new();
    let (mut next, mut link) = (0, Link::FIRST);
    for (n, events) in windows.iter().enumerate() {
        let mut new = Vec::new();
        for (at, times, what) in *events {
            for _ in 0..*times {
                let event = read_event(raw(*at, what), &org(), Second(DAY + 400_000));
                let ordinal = ordinals.entry(event.identity).or_default();
                new.push(NewEvent { key: EventKey::new(&event.identity, *ordinal), event });
                *ordinal += 1;
            }
        }
        let summary = Summary {
            start: Some(Second(DAY)),
            coverage: Vec::new(),
            checkpoints: BTreeMap::from([("file".to_owned(), next)]),
            instance: "00112233445566778899aabbccddeeff".into(),
            forwarder: "0.1.0".into(),
            audit: None,
        };
        let cut = Cut {
            id: &org(),
            org: "Acme \"Corp\"",
            mode: if n % 3 == 1 { Mode::Late } else { Mode::Live },
            window: Window::new(Second(DAY), Second(DAY + 300_000)),
            packing: Packing::Passing,
            next,
            link,
            before: summary.clone(),
            after: summary,
        };
        for chunk in cut.chunks(new) {
            files.insert(chunk.claim_key(), chunk.claim.clone());
            files.insert(chunk.object_key(), chunk.body.clone());
            (next, link) = (chunk.number + 1, Link::of_claim(&chunk.claim));
        }
    }
    files
}

/// `odd` is no object, `latin` is not UTF-8, anything else is described so; below 0 there is no time.
fn raw(at: i64, what: &str) -> Bytes {
    let time = if at < 0 { String::new() } else { format!("\"timestamp\":{},", DAY + at) };
    match what {
        "odd" => Bytes::from_static(b"[1,2]"),
        "latin" => Bytes::from([b"{", time.as_bytes(), b"\"event\":\"\xe9\"}"].concat()),
        _ => Bytes::from(format!(
            "{{{time}\"sourceIP\":\"203.0.113.7\",\"event\":\"stack-deleted\",\"description\":\"{what}\",\"user\":{{\"name\":\"Ada\"}}}}"
        )),
    }
}

fn small() -> Files {
    archive(&[
        &[(10, 1, "a"), (10, 2, "twin"), (90_000, 1, "next day")],
        &[(10, 1, "twin"), (30, 1, "b"), (31, 1, "latin")],
        &[(-1, 1, "odd"), (-1, 2, "timeless"), (40, 1, "c")],
        &[(50, 1, "d"), (60, 1, "e"), (70, 1, "f")],
    ])
}

fn claim_of(number: u64) -> String {
    claim_key(&org(), number)
}

fn objects(files: &Files) -> Vec<String> {
    let mut keys: Vec<String> = files.keys().filter(|key| key.starts_with("org=")).cloned().collect();
    keys.sort_by_key(|key| key.rsplit('/').next().map(str::to_owned));
    keys
}

fn unpacked(body: &[u8]) -> Option<Vec<u8>> {
    let mut lines = Vec::new();
    if body.is_empty() {
        return None;
    }
    MultiGzDecoder::new(body).read_to_end(&mut lines).ok().map(|_| lines)
}

fn edit(files: &mut Files, key: &str, change: impl FnOnce(String) -> String) {
    let lines = String::from_utf8(unpacked(&files[key]).unwrap()).unwrap();
    files.insert(key.to_owned(), gzip(change(lines).as_bytes(), 6));
}

fn edit_claim(files: &mut Files, number: u64, change: impl FnOnce(&mut Claim)) {
    let mut claim: Claim = serde_json::from_slice(&files[&claim_of(number)]).unwrap();
    change(&mut claim);
    files.insert(claim_of(number), serde_json::to_vec(&claim).unwrap().into());
}

/// Makes every claim fit its object and the claim before it again, as somebody would who may write everything.
fn forge(files: &mut Files) {
    let mut link = Link::FIRST;
    for number in 0..count(files) {
        let mut claim: Claim = serde_json::from_slice(&files[&claim_of(number)]).unwrap();
        if let Some(lines) = files.get(&claim.key).and_then(|body| unpacked(body)) {
            claim.sha256 = hex(&Sha256::digest(lines));
        }
        claim.previous = hex(&link.0);
        let bytes = serde_json::to_vec(&claim).unwrap();
        link = Link::of_claim(&bytes);
        files.insert(claim_of(number), bytes.into());
    }
}

fn count(files: &Files) -> u64 {
    files.keys().filter(|key| key.starts_with("_chain/")).count() as u64
}

#[test]
fn what_was_written_is_whole() {
    let files = small();
    let report = looked_at(&files);
    assert_eq!(first_wrong(&report), "nothing");
    assert_eq!((report.chunks, report.objects, report.events), (6, 6, 14));
    assert_eq!(report.notes, Vec::<String>::new());
    let link = Link::of_claim(&files[&claim_of(5)]);
    assert_eq!(report.head, Some((5, link)));
    assert_eq!((report.first, report.last), (Some(Second(DAY + 10)), Some(Second(DAY + 90_000))));
    let noted = Asked { head: Some(hex(&link.0)), ..asked() };
    assert!(verified(&files, &noted).wrong.is_empty());
}

#[test]
fn a_changed_event_is_named_with_its_file_and_line() {
    let mut files = small();
    let object = objects(&files)[5].clone();
    edit(&mut files, &object, |lines| lines.replace("\"description\":\"e\"", "\"description\":\"E\""));
    let report = looked_at(&files);
    let said = first_wrong(&report);
    assert!(said.starts_with(&format!("memory:{object}, line 2: `key` is ")), "{said}");
    assert!(said.ends_with("the event was changed, or its key was"), "{said}");
    assert_eq!(report.wrong.counts, BTreeMap::from([(Kind::EventKey, 1), (Kind::Object, 1)]));
    // Whoever makes all hashes fit has still not the event's key.
    forge(&mut files);
    assert_eq!(looked_at(&files).wrong.counts, BTreeMap::from([(Kind::EventKey, 1)]));
}

#[test]
fn each_field_of_a_line_is_named() {
    for (from, to, what) in [
        ("\"org\":\"Acme", "\"org\":\"Beta", "`org`"),
        ("\"id\":\"acme\"", "\"id\":\"beta\"", "`id`"),
        ("\"chunk\":5", "\"chunk\":6", "`chunk`"),
        ("\"mode\":\"live\"", "\"mode\":\"late\"", "`mode`"),
        ("T00:00:50Z", "T00:00:51Z", "`time`"),
        ("T00:00:50Z", "T00:00:50.0Z", "`time`"),
        ("\"time\":\"2026-11-21T00:00:50Z\"", "\"time\":null", "`time`"),
        ("\"mode\":\"live\",", "\"mode\":\"live\", ", "its form"),
        ("\"key\":\"", "\"key\":\"A", "`key`"),
        ("{\"key\"", "\"key\"", "it"),
        ("\"event\":{", "\"event\":", "`event`"),
    ] {
        let mut files = small();
        let object = objects(&files)[5].clone();
        edit(&mut files, &object, |lines| lines.replacen(from, to, 1));
        forge(&mut files);
        let said = first_wrong(&looked_at(&files));
        assert!(said.starts_with(&format!("memory:{object}, line 1: {what} is ")), "{from} {to}: {said}");
    }
}

#[test]
fn lines_in_another_order_and_a_line_that_stands_twice_are_named() {
    let mut files = small();
    let object = objects(&files)[5].clone();
    edit(&mut files, &object, |lines| lines.split_inclusive('\n').rev().collect());
    forge(&mut files);
    let said = first_wrong(&looked_at(&files));
    assert!(
        said.contains("line 2: `time` is 2026-11-21T00:01:00Z, where 2026-11-21T00:01:10Z or later"),
        "{said}"
    );

    let mut files = small();
    edit(&mut files, &object, |lines| lines.split_inclusive('\n').flat_map(|line| [line, line]).collect());
    let counts = looked_at(&files).wrong.counts;
    assert_eq!((counts[&Kind::Repeated], counts[&Kind::Object]), (3, 2), "each line, the count, the hash");
}

#[test]
fn an_event_that_was_archived_before_is_named_where_it_stands_again() {
    let files = archive(&[&[(10, 1, "a")], &[(10, 1, "b")]]);
    let keys = objects(&files);
    let mut again = files.clone();
    let first = unpacked(&files[&keys[0]]).unwrap();
    let line = String::from_utf8(first)
        .unwrap()
        .replace("\"chunk\":0,\"mode\":\"live\"", "\"chunk\":1,\"mode\":\"late\"");
    edit(&mut again, &keys[1], |_| line);
    forge(&mut again);
    let report = looked_at(&again);
    assert_eq!(report.wrong.counts, BTreeMap::from([(Kind::Repeated, 1)]), "{}", first_wrong(&report));
    assert!(first_wrong(&report).starts_with(&format!("memory:{}, line 1: ", keys[1])));
}

#[test]
fn what_is_missing_or_too_much_is_named() {
    let keys = objects(&small());
    let without = |key: &str| {
        let mut files = small();
        files.remove(key);
        looked_at(&files)
    };
    let report = without(&keys[2]);
    assert!(
        first_wrong(&report).starts_with(&format!("memory:{}: it is not there", keys[2])),
        "{}",
        first_wrong(&report)
    );
    let report = without(&claim_of(3));
    assert!(first_wrong(&report).contains("where the claims 3 was expected"), "{}", first_wrong(&report));
    assert_eq!(report.wrong.counts, BTreeMap::from([(Kind::ClaimMissing, 1), (Kind::Stray, 1)]));
    assert_eq!(without(&claim_of(0)).wrong.counts[&Kind::ClaimMissing], 1);
    let report = without(&claim_of(5));
    assert_eq!(report.wrong.counts, BTreeMap::from([(Kind::Stray, 1)]));

    for stray in [
        "org=acme/date=2026-11-21/notes.txt",
        "org=acme/date=2026-11-20/00000000000000000001.jsonl.gz",
        "_chain/org=acme/1.json",
    ] {
        let mut files = small();
        files.insert(stray.to_owned(), Bytes::new());
        let report = looked_at(&files);
        assert_eq!(report.wrong.counts, BTreeMap::from([(Kind::Stray, 1)]), "{stray}");
        assert!(first_wrong(&report).contains(stray));
    }
}

#[test]
fn the_newest_claim_may_wait_for_its_object_unless_the_journal_says_that_it_is_there() {
    let mut files = small();
    files.remove(&objects(&files)[5]);
    let mut report = looked_at(&files);
    assert!(report.wrong.is_empty());
    assert!(
        report.notes[0].contains("chunk 5, the newest, has a claim and no object yet"),
        "{:?}",
        report.notes
    );
    let head = report.head.unwrap().1;
    report.compare(&org(), &Known { next: 6, checkpoint: 5, link: Some(head) });
    assert!(report.wrong.is_empty());
    report.compare(&org(), &Known { next: 6, checkpoint: 6, link: Some(head) });
    assert_eq!(report.wrong.counts, BTreeMap::from([(Kind::ObjectMissing, 1)]));
}

#[test]
fn a_number_settled_without_events_is_noted() {
    let mut files = small();
    files.insert(objects(&files)[2].clone(), gzip(b"", 6));
    let report = looked_at(&files);
    assert!(report.wrong.is_empty());
    assert_eq!((report.voids, report.notes.len()), (1, 1));
    assert!(report.notes[0].starts_with("chunk 2 is settled without events"));
    files.insert(objects(&files)[2].clone(), Bytes::new());
    assert_eq!(looked_at(&files).wrong.counts, BTreeMap::from([(Kind::ObjectUnreadable, 1)]));
}

#[test]
fn a_removed_tail_shows_against_a_noted_head_and_against_the_journal() {
    let mut files = small();
    let head = Link::of_claim(&files[&claim_of(5)]);
    for number in [4, 5] {
        files.remove(&claim_of(number));
        let object = objects(&files).pop().unwrap();
        files.remove(&object);
    }
    let report = looked_at(&files);
    assert!(report.wrong.is_empty(), "nothing inside shows it");
    let noted = verified(&files, &Asked { head: Some(hex(&head.0)), ..asked() });
    assert_eq!(noted.wrong.counts, BTreeMap::from([(Kind::Head, 1)]));
    let compared = |known: Known| {
        let mut report = report.clone();
        report.compare(&org(), &known);
        report.wrong.counts.into_keys().collect::<Vec<_>>()
    };
    let link = report.head.unwrap().1;
    assert_eq!(compared(Known { next: 6, checkpoint: 6, link: None }), [Kind::Tail]);
    assert_eq!(
        compared(Known { next: 6, checkpoint: 4, link: Some(link) }),
        [],
        "the rest is still to be delivered"
    );
    assert_eq!(compared(Known { next: 4, checkpoint: 4, link: Some(head) }), [Kind::Chain]);
    assert_eq!(compared(Known { next: 3, checkpoint: 3, link: None }), [Kind::Ahead]);
    assert_eq!(compared(Known { next: 0, checkpoint: 0, link: None }), [Kind::Ahead]);
}

#[test]
fn an_archive_configured_later_may_start_later() {
    let mut files = small();
    let keys = objects(&files);
    for number in 0..2 {
        files.remove(&claim_of(number));
        files.remove(&keys[number as usize]);
    }
    assert_eq!(looked_at(&files).wrong.counts, BTreeMap::from([(Kind::ClaimMissing, 1)]));
    edit_claim(&mut files, 2, |claim| claim.summary.checkpoints.clear());
    for number in 3..6 {
        let link = Link::of_claim(&files[&claim_of(number - 1)]);
        edit_claim(&mut files, number, |claim| claim.previous = hex(&link.0));
    }
    let report = looked_at(&files);
    assert_eq!(first_wrong(&report), "nothing");
    assert!(report.notes[0].starts_with("the archive starts at chunk 2"));
}

#[test]
fn only_objects_of_the_time_asked_for_are_read() {
    let mut files = small();
    let keys = objects(&files);
    edit(&mut files, &keys[1], |lines| lines.replace("next day", "next year"));
    let on = |from: i64, until: i64| {
        let within = Some(Window::new(Second(DAY + from), Second(DAY + until)));
        verified(&files, &Asked { within, ..asked() })
    };
    let report = on(0, 45);
    assert!(report.wrong.is_empty(), "{}", first_wrong(&report));
    assert_eq!((report.chunks, report.objects), (6, 4), "all but the next day's and the last");
    assert!(!on(80_000, 100_000).wrong.is_empty());
}

#[test]
fn a_packed_bomb_is_given_up() {
    let mut files = small();
    let object = objects(&files)[5].clone();
    let empty = gzip(&vec![b'\n'; 8 << 20], 9);
    files.insert(object, empty.repeat(21).into());
    let report = looked_at(&files);
    assert!(report.wrong.counts.contains_key(&Kind::ObjectUnreadable), "{:?}", report.wrong.counts);
}

#[test]
fn what_is_printed_has_no_control_characters() {
    let mut files = small();
    edit_claim(&mut files, 5, |claim| claim.key = format!("\u{1b}[2J{}", "x".repeat(1_000)));
    let said = first_wrong(&looked_at(&files));
    assert!(!said.contains('\u{1b}') && said.len() < 800, "{said}");
}

/// One thing that somebody does.
#[derive(Clone, Debug)]
enum Tampering {
    FlipBit(Index, Index, u8),
    FlipBitInside(Index, Index, u8),
    Truncate(Index, Index),
    Delete(Index),
    Copy(Index, Index),
    Swap(Index, Index),
    RemoveLine(Index, Index),
    RepeatLine(Index, Index, Index),
    SwapLines(Index, Index, Index),
    TruncateLines(Index, Index),
    Count(Index, u32),
    Insert(u8),
    RollBack(Index),
    /// The same, and then all hashes are made to fit.
    Forged(Box<Tampering>),
}

fn tampering() -> impl Strategy<Value = Tampering> {
    use Tampering::*;
    let i = any::<Index>;
    let once = prop_oneof![
        (i(), i(), 0u8..8).prop_map(|(file, at, bit)| FlipBit(file, at, bit)),
        (i(), i(), 0u8..8).prop_map(|(file, at, bit)| FlipBitInside(file, at, bit)),
        (i(), i()).prop_map(|(file, at)| Truncate(file, at)),
        i().prop_map(Delete),
        (i(), i()).prop_map(|(from, to)| Copy(from, to)),
        (i(), i()).prop_map(|(one, other)| Swap(one, other)),
        (i(), i()).prop_map(|(file, line)| RemoveLine(file, line)),
        (i(), i(), i()).prop_map(|(file, line, to)| RepeatLine(file, line, to)),
        (i(), i(), i()).prop_map(|(file, one, other)| SwapLines(file, one, other)),
        (i(), i()).prop_map(|(file, at)| TruncateLines(file, at)),
        (i(), any::<u32>()).prop_map(|(file, count)| Count(file, count)),
        any::<u8>().prop_map(Insert),
        i().prop_map(RollBack),
    ];
    (once, prop::bool::weighted(0.2))
        .prop_map(|(once, forged)| if forged { Forged(Box::new(once)) } else { once })
}

/// Does it.
fn tamper(files: &mut Files, how: &Tampering) {
    use Tampering::*;
    let all: Vec<String> = files.keys().cloned().collect();
    let keys = objects(files);
    let lines_of = |files: &Files, key: &str| -> Vec<Vec<u8>> {
        let lines = unpacked(&files[key]).unwrap();
        lines.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect()
    };
    let pack = |files: &mut Files, key: &str, lines: Vec<Vec<u8>>| {
        files.insert(key.to_owned(), gzip(&lines.concat(), 1));
    };
    let flip = |bytes: &mut [u8], at: &Index, bit: u8| bytes[at.index(bytes.len())] ^= 1 << bit;
    match how {
        FlipBit(file, at, bit) => {
            let key = file.get(&all);
            let mut bytes = files[key].to_vec();
            flip(&mut bytes, at, *bit);
            files.insert(key.clone(), bytes.into());
        }
        FlipBitInside(file, at, bit) => {
            let key = file.get(&keys);
            let mut lines = unpacked(&files[key]).unwrap();
            flip(&mut lines, at, *bit);
            files.insert(key.clone(), gzip(&lines, 1));
        }
        Truncate(file, at) => {
            let key = file.get(&all);
            let body = files[key].clone();
            files.insert(key.clone(), body.slice(..at.index(body.len())));
        }
        Delete(file) => drop(files.remove(file.get(&all))),
        Copy(from, to) => drop(files.insert(to.get(&all).clone(), files[from.get(&all)].clone())),
        Swap(one, other) => {
            let (one, other) = (one.get(&keys), other.get(&keys));
            let (a, b) = (files[one].clone(), files[other].clone());
            files.insert(one.clone(), b);
            files.insert(other.clone(), a);
        }
        RemoveLine(file, line) => {
            let key = file.get(&keys);
            let mut lines = lines_of(files, key);
            lines.remove(line.index(lines.len()));
            pack(files, key, lines);
        }
        RepeatLine(file, line, to) => {
            let key = file.get(&keys);
            let mut lines = lines_of(files, key);
            let line = line.get(&lines).clone();
            lines.insert(to.index(lines.len() + 1), line);
            pack(files, key, lines);
        }
        SwapLines(file, one, other) => {
            let key = file.get(&keys);
            let mut lines = lines_of(files, key);
            let (one, other) = (one.index(lines.len()), other.index(lines.len()));
            lines.swap(one, other);
            pack(files, key, lines);
        }
        TruncateLines(file, at) => {
            let key = file.get(&keys);
            let lines = unpacked(&files[key]).unwrap();
            files.insert(key.clone(), gzip(&lines[..at.index(lines.len())], 1));
        }
        Count(file, count) => {
            let number = file.index(all.len() - keys.len()) as u64;
            edit_claim(files, number, |claim| claim.count = *count);
        }
        Insert(kind) => {
            let next = count(files);
            let (claim, object) = (claim_of(next - 1), keys[keys.len() - 1].clone());
            let (key, body) = match kind % 4 {
                0 => (claim_of(next), files[&claim].clone()),
                1 => (claim_of(next + 7), files[&claim].clone()),
                2 => (object_key(&org(), "2026-11-21", next), files[&object].clone()),
                _ => (object_key(&org(), "2026-11-25", 0), files[&object].clone()),
            };
            files.insert(key, body);
        }
        RollBack(left) => {
            for number in left.index(keys.len()) as u64..count(files) {
                files.remove(&claim_of(number));
                files.remove(&keys[number as usize]);
            }
        }
        Forged(how) => {
            tamper(files, how);
            let claims = files.iter().filter(|(key, _)| key.starts_with("_chain/"));
            // Only what can still be read can be made to fit.
            if claims.clone().all(|(_, claim)| serde_json::from_slice::<Claim>(claim).is_ok())
                && (0..count(files)).all(|number| files.contains_key(&claim_of(number)))
            {
                forge(files);
            }
        }
    }
}

/// What is promised of an archive: its claims' bytes, and its objects' lines under their names.
fn promised(files: &Files) -> BTreeMap<&str, Option<Vec<u8>>> {
    let promised = |key: &str, body: &[u8]| match key.starts_with("_chain/") {
        true => Some(body.to_vec()),
        false => unpacked(body),
    };
    files.iter().map(|(key, body)| (key.as_str(), promised(key, body))).collect()
}

fn archives() -> &'static [Files] {
    static ARCHIVES: OnceLock<Vec<Files>> = OnceLock::new();
    ARCHIVES.get_or_init(|| {
        let mut archives = vec![small(), archive(&[&[(5, 1, "only")]])];
        archives.push(archive(&[
            &[(1, 3, "x"), (2, 1, "odd"), (86_400, 4, "y")],
            &[(1, 1, "x")],
            &[(1, 1, "x"), (3, 1, "latin")],
        ]));
        archives.push(archive(&[
            &[(0, 1, "é")],
            &[(1, 1, "b")],
            &[(2, 1, "c")],
            &[(3, 1, "d")],
            &[(4, 9, "e")],
        ]));
        archives
    })
}

fn config() -> ProptestConfig {
    let config = ProptestConfig::default();
    // 10,000 take half a minute unoptimized; `PROPTEST_CASES` asks for them.
    if std::env::var_os("PROPTEST_CASES").is_some() {
        config
    } else {
        ProptestConfig { cases: 2_000, ..config }
    }
}

proptest! {
    #![proptest_config(config())]

    /// Whatever is done to an archive, if it changes anything that is promised it is found: all of it against a noted head, and
    /// without one all but the newest claim and what somebody can do who may write everything anew.
    #[test]
    fn every_tampering_is_found(which in any::<Index>(), how in tampering()) {
        let whole = which.get(archives());
        let mut files = whole.clone();
        tamper(&mut files, &how);
        let newest = claim_of(count(whole) - 1);
        let head = Some(hex(&Link::of_claim(&whole[&newest]).0));
        let noted = verified(&files, &Asked { head, ..asked() });
        let alone = looked_at(&files);
        if promised(&files) == promised(whole) {
            prop_assert_eq!(first_wrong(&noted), "nothing");
            prop_assert_eq!(first_wrong(&alone), "nothing");
            return Ok(());
        }
        // Said, and not called wrong: see the module's *Why*.
        let is_said = noted.voids > 0 || noted.lacks_newest_object;
        prop_assert!(!noted.wrong.is_empty() || is_said, "not found: {:?}", how);
        let touches_newest_claim = files.get(&newest) != whole.get(&newest);
        if !touches_newest_claim {
            prop_assert!(!alone.wrong.is_empty() || is_said, "not found without a head: {:?}", how);
        }
    }
}
