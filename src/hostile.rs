//! What must hold for any bytes from outside, as one function for each kind of them.
//!
//! Each is a property test of the normal suite, over the files in `fuzz/corpus` and mutations of them, and a target of `make fuzz`. A
//! property panics where it does not hold. Not part of the product: the module exists for tests and for the fuzzer only, which is why
//! what it reaches stays private everywhere else.

#![expect(clippy::expect_used, reason = "properties: they panic where they do not hold")]

pub(crate) mod given;

use std::panic::RefUnwindSafe;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use sha2::{Digest, Sha256};

use self::given::{CANARY, assert_fit_to_print, org};
use crate::chunk::{Chunk, Cut, Line, Link, Mode, NewEvent, Packing, Summary, gzip};
use crate::clock::{Second, Window};
use crate::collect::sweep::{Limits, Step, Sweep};
use crate::collect::tally::{self, Tally};
use crate::config::settings::Columns;
use crate::coverage::{Coverage, Span};
use crate::destination::sentinel::columns::chosen;
use crate::destination::sentinel::rows::{BODY_BYTES_MAX, Rows};
use crate::http::{Failure, Unpacking};
use crate::journal::TallyPage;
use crate::pulumi::service_clock::ServiceClock;
use crate::pulumi::wire;
use crate::retry;

pub type Property = fn(&[u8]);

/// By name, as `make fuzz TARGET=…` takes it.
pub const PROPERTIES: &[(&str, Property)] = &[
    ("page", page),
    ("account", account),
    ("exchange", crate::pulumi::exchange::property),
    ("environment", crate::pulumi::environment::property),
    ("http_body", http_body),
    ("waits_and_dates", waits_and_dates),
    ("entra", crate::destination::sentinel::credential::entra_property),
    ("managed_identity", crate::destination::sentinel::credential::managed_property),
    ("azure_cli", crate::destination::sentinel::credential::azure_cli_property),
    ("ingestion", crate::destination::sentinel::client::property),
    ("s3_answer", crate::destination::s3::property),
    ("configuration", crate::config::property),
    ("chunk_body", chunk_body),
    ("claim", crate::verify::claim_property),
    ("object", crate::verify::object_property),
    ("tally", tally_page),
    ("coverage", coverage),
    ("state", crate::journal::sqlite::property),
    ("secret", crate::secret::property),
];

const NOW: Second = Second(1_795_256_100);

/// A page from its bytes to rows: nothing of it is lost or altered on the way.
fn page(bytes: &[u8]) {
    let wrapped = [b"{\"auditLogEvents\":[".as_slice(), bytes, b"]}"].concat();
    for body in [Bytes::copy_from_slice(bytes), Bytes::from(wrapped)] {
        let page = match wire::parse_page(&body, &org(), NOW) {
            Ok(page) => page,
            Err(malformed) => {
                assert_fit_to_print(&malformed.to_string());
                continue;
            }
        };
        let plain = without_white_space(&body);
        for event in &page.events {
            assert!(holds(&plain, &event.raw), "the event is not as it came");
            assert_eq!(event.payload.0, <[u8; 32]>::from(Sha256::digest(&event.raw)));
            let again = wire::read_event(event.raw.clone(), &org(), NOW);
            assert_eq!(again, *event, "an event reads the same again");
        }
        if let Some(next) = &page.next {
            let query = wire::Query { after: NOW, before: NOW, token: Some(next.clone()), kind: None };
            assert!(wire::list_path("acme", &query).bytes().all(|byte| byte.is_ascii_graphic()));
        }
        let window = Window::new(NOW - 100_000, NOW);
        let (mut sweep, _) = Sweep::new(window, Limits::default());
        let count = page.events.len();
        if let Step::Complete(reading) = sweep.answer(page.clone()) {
            assert!(reading.events.len() + reading.timeless.len() <= count);
        }
        let new = Tally::default().take(page.events);
        assert_eq!(new.len(), count, "every occurrence is new to an empty tally");
        delivered(new, window);
    }
}

/// Cut into chunks and read back; mapped to rows that fit.
fn delivered(new: Vec<NewEvent>, window: Window) {
    let summary = || Summary {
        start: None,
        coverage: Vec::new(),
        checkpoints: Default::default(),
        instance: "0".into(),
        forwarder: "0".into(),
        audit: None,
    };
    let id = org();
    let cut = Cut {
        id: &id,
        org: "acme",
        mode: Mode::Live,
        window,
        packing: Packing::Passing,
        next: 0,
        link: Link::FIRST,
        before: summary(),
        after: summary(),
    };
    let mut raws: Vec<Bytes> = new.iter().map(|new| new.event.raw.clone()).collect();
    let mut read: Vec<Bytes> = Vec::new();
    let columns = chosen(Columns::Extended, true);
    for chunk in cut.chunks(new) {
        let lines = chunk.lines().expect("a chunk unpacks to what it was made from");
        for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let line: Line<'_> = serde_json::from_slice(line).expect("a line is one JSON object");
            read.push(match (line.event, line.event_base64) {
                (Some(raw), None) => Bytes::copy_from_slice(raw.get().as_bytes()),
                (None, Some(text)) => STANDARD.decode(text).expect("base64").into(),
                other => panic!("{other:?}"),
            });
        }
        let rows = Rows::of(&chunk, &columns).expect("a chunk maps to rows");
        assert_eq!(rows.len() + rows.unsendable.len(), chunk.count as usize);
        for run in rows.packed(BODY_BYTES_MAX) {
            let (body, length) = (rows.body(run.clone()), run.len());
            assert!(body.len() <= BODY_BYTES_MAX || length == 1);
            let parsed: Vec<serde_json::Map<String, serde_json::Value>> =
                serde_json::from_slice(&body).expect("a body is a list of rows");
            assert_eq!(parsed.len(), length);
        }
    }
    raws.sort_unstable();
    read.sort_unstable();
    assert_eq!(raws, read, "what arrives is what came");
}

fn without_white_space(json: &[u8]) -> Vec<u8> {
    let (mut inside, mut escaped) = (false, false);
    let keep = |byte: &&u8| {
        let quote = **byte == b'"' && !escaped;
        escaped = inside && !escaped && **byte == b'\\';
        inside ^= quote;
        inside || !matches!(**byte, b' ' | b'\t' | b'\n' | b'\r')
    };
    json.iter().filter(keep).copied().collect()
}

fn holds(whole: &[u8], part: &[u8]) -> bool {
    part.is_empty() || whole.windows(part.len()).any(|window| window == part)
}

fn account(bytes: &[u8]) {
    if let Some(message) = wire::error_message(bytes, CANARY) {
        assert_fit_to_print(&message);
        assert!(!message.contains("pul-"), "{message}");
    }
    if let Some(account) = wire::parse_account(bytes) {
        assert_fit_to_print(&format!("{:?}", account.kind));
        account.organizations.iter().for_each(|known| assert_fit_to_print(&known.name));
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        let fields = wire::Fields::read(text);
        assert!(fields.user.is_empty() || text.contains(fields.user));
    }
}

/// Pieces make no difference, and what is unpacked is what another reader of gzip finds, or a failure.
fn http_body(bytes: &[u8]) {
    const LIMIT: usize = 64 * 1024;
    let unpack = |size: usize| {
        let mut body = Unpacking::new(LIMIT);
        bytes.chunks(size.max(1)).try_for_each(|piece| body.add(piece))?;
        body.finish(true)
    };
    let whole = unpack(bytes.len());
    let torn = unpack(7);
    assert_eq!(whole.is_ok(), torn.is_ok());
    if let (Ok(whole), Ok(torn)) = (&whole, &torn) {
        assert_eq!(whole, torn);
    }
    match whole {
        Ok(plain) => {
            assert!(plain.len() <= LIMIT);
            let mut expected = Vec::new();
            if bytes.starts_with(&[0x1f, 0x8b]) {
                std::io::Read::read_to_end(&mut MultiGzDecoder::new(bytes), &mut expected)
                    .expect("another reader takes it too");
            } else {
                expected.extend_from_slice(bytes);
            }
            assert_eq!(plain, expected);
        }
        Err(Failure::TooLarge(_)) => {}
        Err(failure) => assert_fit_to_print(&failure.to_string()),
    }
}

fn waits_and_dates(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    for now in [NOW, Second(0), Second(i64::MIN), Second(i64::MAX)] {
        if let Some(wait) = retry::retry_after(text, now) {
            assert!(!wait.is_zero() && wait <= retry::RETRY_AFTER_MAX);
        }
    }
    if let Some(date) = crate::pulumi::client::date(text) {
        let mut clock = ServiceClock::new(std::time::Duration::from_secs(300));
        for seconds in [0, 10, 1_000] {
            clock.observe(NOW + seconds, std::time::Duration::from_secs(seconds.unsigned_abs()));
            clock.observe(date, std::time::Duration::from_secs(seconds.unsigned_abs()));
        }
        assert!(clock.now(std::time::Duration::from_secs(2_000)).is_some());
    }
    if let Some(at) = Second::parse_rfc3339(text) {
        let said = at.to_string();
        assert_eq!(Second::parse_rfc3339(&said), Some(at), "{said}");
        assert_eq!(at.date(), said[..10]);
        assert!(at.midnight() <= at);
    }
}

/// Compressed lines are those bytes again, and bytes that are no compressed lines are damage, whatever they claim to unpack to.
fn chunk_body(bytes: &[u8]) {
    let chunk = |body: Bytes, sha256: [u8; 32]| Chunk {
        number: 7,
        id: org(),
        org: "acme".into(),
        mode: Mode::Live,
        date: "2026-11-21".into(),
        window: Window::new(NOW - 10, NOW),
        count: 1,
        first: None,
        last: None,
        sha256,
        previous: Link::FIRST,
        body,
        claim: Bytes::new(),
    };
    let sha256: [u8; 32] = Sha256::digest(bytes).into();
    for level in [1, 6] {
        let packed = chunk(gzip(bytes, level), sha256);
        assert_eq!(packed.lines().as_deref(), Ok(bytes));
        // Lines that nobody cut: mapped, or damage.
        if let Ok(rows) = Rows::of(&packed, &chosen(Columns::Extended, true)) {
            assert!(rows.len() <= bytes.len());
        }
    }
    let raw = Bytes::copy_from_slice(bytes);
    assert!(chunk(raw.clone(), [0; 32]).lines().is_err());
    let lines = crate::destination::archive::lines_of(raw.as_ref());
    if let crate::destination::archive::Lines::Sha256(text) = lines {
        assert_eq!(text.len(), 64);
    }
}

fn tally_page(bytes: &[u8]) {
    let read = |body: &[u8]| Tally::read(&[TallyPage { minute: 5, body: body.to_vec() }]);
    let Ok(tally) = read(bytes) else { return };
    let body = tally::body_of(&tally, 5).expect("the page was read");
    let again = read(&body).expect("what was written is read");
    assert_eq!(tally::body_of(&again, 5), Some(body), "a page that was written is written the same");
}

/// Spans as a claim or the journal has them: refused, or fit for every question.
fn coverage(bytes: &[u8]) {
    let Ok(spans) = serde_json::from_slice::<Vec<Span>>(bytes) else { return };
    let Ok(mut coverage) = Coverage::from_spans(spans) else { return };
    let ages = [3_600, 21_600, 86_400];
    let start = Second(1_795_000_000);
    assert!(coverage.holes(start).iter().all(|hole| !hole.is_empty()));
    assert!(coverage.cursor(start) >= start);
    for floor in [None, Some(start)] {
        assert!(coverage.unsettled_seconds(&ages, floor) >= 0);
        coverage.settled_until(&ages, floor);
        coverage.look(NOW, &ages, 3_600, floor);
    }
    assert!(coverage.damaged_seconds() >= 0);
    let written = serde_json::to_vec(&coverage).expect("coverage has a JSON form");
    assert_eq!(serde_json::from_slice::<Coverage>(&written).expect("and is read from it"), coverage);
    coverage.cover(Window::new(NOW - 1_000, NOW), NOW, &ages, &[NOW - 5]);
    assert!(Coverage::from_spans(coverage.spans().to_vec()).is_ok());
    coverage.take_back(NOW - 500, Some(start));
    assert!(Coverage::from_spans(coverage.spans().to_vec()).is_ok());
}

const _: fn() = || {
    fn is_safe_to_catch<T: RefUnwindSafe>() {}
    is_safe_to_catch::<Property>();
};

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use proptest::prelude::*;
    use proptest::test_runner::{Config, TestRunner};

    use super::*;

    fn corpus(name: &str) -> Vec<Vec<u8>> {
        let directory: PathBuf = [env!("CARGO_MANIFEST_DIR"), "fuzz", "corpus", name].iter().collect();
        let files =
            std::fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
        let mut seeds: Vec<Vec<u8>> =
            files.map(|file| std::fs::read(file.unwrap().path()).unwrap()).collect();
        seeds.sort();
        assert!(!seeds.is_empty(), "{name} has no seeds");
        seeds
    }

    /// Some bytes replaced, inserted or taken out, or the rest cut off.
    fn mutated(mut seed: Vec<u8>, edits: &[(u16, u8, u8)]) -> Vec<u8> {
        for (at, what, byte) in edits {
            let at = usize::from(*at) % (seed.len() + 1);
            match what % 5 {
                0 if at < seed.len() => seed[at] = *byte,
                1 => seed.insert(at, *byte),
                2 if at < seed.len() => drop(seed.remove(at)),
                3 if *byte < 16 => seed.truncate(at),
                4 => {
                    let part = seed[at..].iter().take(usize::from(*byte)).copied().collect::<Vec<u8>>();
                    seed.splice(at..at, part);
                }
                _ => {}
            }
        }
        seed
    }

    fn holds_for_the_corpus_and_mutations(name: &str, cases: u32) {
        let (_, property) = PROPERTIES.iter().find(|(known, _)| *known == name).unwrap();
        let seeds = corpus(name);
        seeds.iter().for_each(|seed| property(seed));
        property(b"");
        let edits = prop::collection::vec(any::<(u16, u8, u8)>(), 1..8);
        let config = Config { cases, failure_persistence: None, ..Config::default() };
        TestRunner::new(config)
            .run(&(any::<prop::sample::Index>(), edits), |(index, edits)| {
                property(&mutated(seeds[index.index(seeds.len())].clone(), &edits));
                Ok(())
            })
            .unwrap_or_else(|error| panic!("{name}: {error}"));
    }

    #[test]
    fn every_kind_of_bytes_from_outside_has_seeds_and_every_folder_of_seeds_a_property() {
        let directory: PathBuf = [env!("CARGO_MANIFEST_DIR"), "fuzz", "corpus"].iter().collect();
        let mut folders: Vec<String> = std::fs::read_dir(directory)
            .unwrap()
            .map(|folder| folder.unwrap().file_name().into_string().unwrap())
            .collect();
        let mut names: Vec<&str> = PROPERTIES.iter().map(|(name, _)| *name).collect();
        folders.sort();
        names.sort_unstable();
        assert_eq!(folders, names);
    }

    #[test]
    fn printing_what_holds_a_secret_shows_none_of_it() {
        use crate::secret::{Secret, SecretBytes};

        let secret = Secret::new(CANARY.into());
        let bytes = SecretBytes::new(CANARY.as_bytes().to_vec());
        let mut headers = http::HeaderMap::new();
        headers.insert("authorization", http::HeaderValue::from_static(CANARY));
        let request = crate::http::Request {
            method: http::Method::GET,
            url: "https://x.example/".into(),
            headers: headers.clone(),
            body: Bytes::from_static(CANARY.as_bytes()),
            body_bytes_max: 1,
            deadline: std::time::Duration::from_secs(1),
        };
        let body = Bytes::from_static(CANARY.as_bytes());
        let response = crate::http::Response { status: 200, headers, body };
        let list: Vec<String> = CANARY.bytes().map(|byte| byte.to_string()).collect();
        for printed in [
            format!("{secret:?} {:?} {bytes:?} {:?}", secret.fingerprint(), bytes.fingerprint(Some(&secret))),
            format!("{request:?} {request:#?} {response:?} {response:#?}"),
            format!("{:?}", crate::destination::s3::client::Connections::default()),
        ] {
            assert!(!printed.contains(CANARY) && !printed.contains(&list.join(", ")), "{printed}");
        }
        // A panic prints what it is told, and backtraces hold no values.
        let told = std::panic::catch_unwind(|| panic!("{secret:?}")).unwrap_err();
        assert_eq!(told.downcast_ref::<String>().map(String::as_str), Some("Secret([REDACTED])"));
    }

    macro_rules! hold {
        ($($test:ident: $name:literal, $cases:literal;)*) => {$(
            #[test]
            fn $test() {
                holds_for_the_corpus_and_mutations($name, $cases);
            }
        )*};
    }

    hold! {
        no_page_of_pulumi_is_altered_or_breaks_anything: "page", 500;
        no_account_or_error_of_pulumi_breaks_anything_or_shows_a_token: "account", 1_000;
        no_answer_to_an_exchange_breaks_anything_or_shows_a_token: "exchange", 1_000;
        no_answer_about_an_environment_breaks_anything_or_shows_a_token: "environment", 1_000;
        no_packed_body_breaks_its_bound: "http_body", 500;
        no_wait_or_date_breaks_its_bound: "waits_and_dates", 2_000;
        no_answer_of_entra_breaks_anything_or_shows_a_secret: "entra", 300;
        no_answer_of_a_managed_identity_breaks_anything_or_shows_a_secret: "managed_identity", 1_000;
        no_output_of_the_azure_cli_breaks_anything: "azure_cli", 1_000;
        no_answer_of_azure_breaks_anything_or_shows_a_token: "ingestion", 1_000;
        no_answer_of_s3_breaks_anything_or_shows_a_secret: "s3_answer", 200;
        no_configuration_breaks_anything: "configuration", 300;
        no_body_of_a_chunk_breaks_anything: "chunk_body", 500;
        no_claim_breaks_anything: "claim", 1_000;
        no_object_of_an_archive_breaks_anything: "object", 500;
        no_page_of_the_tally_breaks_anything: "tally", 1_000;
        no_coverage_breaks_anything: "coverage", 1_000;
        no_damage_to_the_state_breaks_anything: "state", 25;
        no_secrets_file_breaks_anything_or_is_shown: "secret", 1_000;
    }
}
