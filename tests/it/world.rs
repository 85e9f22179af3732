//! The world itself: that each switch does what it says, so that a test which relies on one tests the forwarder and not the world.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::world::World;
use crate::world::clock::{WorldClock, http_date, rfc3339};
use crate::world::entra::{self, Entra};
use crate::world::ingestion::{
    self, CONNECTOR_STREAM, Ingestion, Keep, TABLE_STREAM, official_columns, table_columns,
};
use crate::world::lexemes;
use crate::world::pulumi::Pulumi;
use crate::world::pulumi::behaviour::{
    BadGzip, Behaviour, Bound, Cursor, DateHeader, Fault, Filtering, Gzip, LastToken, More, NoEvents, Order,
    TokenStyle,
};
use crate::world::pulumi::events::{Event, Generator, Person, dreadful, kinds};
use crate::world::pulumi::store::{fingerprint, hex};
use crate::world::s3::proxy;
use crate::world::s3::reader::gunzip;
use crate::world::script::Times;
use crate::world::setup::{CLIENT_ID, CLIENT_SECRET, OrgSetup, TENANT, rule_of};
use crate::world::truth::archive::Archive;
use crate::world::truth::{Expect, Source, table};
use crate::world::verdict::{Cut, RetryAfter, Verdict};

const NOW: i64 = 1_795_256_100;

// ---- Pulumi Cloud, asked without a network ----

fn pulumi(behaviour: Behaviour) -> Pulumi {
    let pulumi = Pulumi::new(WorldClock::by(|| NOW), 1);
    pulumi.found("acme", behaviour);
    pulumi
}

fn get(pulumi: &Pulumi, path: &str) -> Verdict {
    let token = pulumi.org("acme").token();
    get_as(pulumi, path, &format!("token {token}"))
}

fn get_as(pulumi: &Pulumi, path: &str, credential: &str) -> Verdict {
    let request =
        Request::get(path).header("authorization", credential).body(Bytes::new()).expect("a request");
    pulumi.answer(request)
}

fn body(verdict: &Verdict) -> &[u8] {
    verdict.response.as_ref().expect("an answer").body()
}

fn json_of(verdict: &Verdict) -> Value {
    serde_json::from_slice(body(verdict)).expect("a JSON body")
}

fn list(pulumi: &Pulumi, query: &str) -> Value {
    json_of(&get(pulumi, &format!("/api/orgs/acme/auditlogs/v2?{query}")))
}

fn times(page: &Value) -> Vec<i64> {
    page["auditLogEvents"].as_array().map_or_else(Vec::new, |events| {
        events.iter().map(|event| event["timestamp"].as_i64().expect("a time")).collect()
    })
}

/// Follows tokens as a trusting client does. Nothing after so many pages: it does not end.
fn follow(pulumi: &Pulumi, query: &str, pages_max: usize) -> Option<Vec<Value>> {
    let mut seen = Vec::new();
    let mut token = String::new();
    for _ in 0..pages_max {
        let page = list(pulumi, &format!("{query}{token}"));
        seen.extend(page["auditLogEvents"].as_array().cloned().unwrap_or_default());
        let next = match &page["continuationToken"] {
            Value::String(next) if !next.is_empty() => next.clone(),
            Value::Number(next) => next.to_string(),
            _ => return Some(seen),
        };
        token = format!("&continuationToken={}", next.replace('+', "%2B").replace('=', "%3D"));
    }
    None
}

fn span(count: i64) -> Vec<Event> {
    (0..count).map(|second| Event::at(NOW - count + second).described(&format!("number {second}"))).collect()
}

#[test]
fn bounds_are_inclusive_or_exclusive_each_by_its_own_switch() {
    let query = format!("startTime={}&endTime={}", NOW - 10, NOW - 5);
    for (lower, upper, expected) in [
        (Bound::Inclusive, Bound::Inclusive, NOW - 10..=NOW - 5),
        (Bound::Inclusive, Bound::Exclusive, NOW - 10..=NOW - 6),
        (Bound::Exclusive, Bound::Inclusive, NOW - 9..=NOW - 5),
        (Bound::Exclusive, Bound::Exclusive, NOW - 9..=NOW - 6),
    ] {
        let pulumi = pulumi(Behaviour { lower, upper, ..Behaviour::mysql() });
        pulumi.org("acme").add(span(20));
        let expected: Vec<i64> = expected.rev().collect();
        assert_eq!(times(&list(&pulumi, &query)), expected, "{lower:?} {upper:?}");
    }
}

#[test]
fn the_first_version_takes_start_time_as_upper_bound_and_ignores_end_and_event() {
    let pulumi = pulumi(Behaviour { upper: Bound::Exclusive, ..Behaviour::mysql() });
    pulumi.org("acme").add(span(20));
    let path =
        format!("/api/orgs/acme/auditlogs?startTime={}&endTime={}&eventFilter=user-login", NOW - 15, NOW);
    let page = json_of(&get(&pulumi, &path));
    assert_eq!(times(&page), (NOW - 20..NOW - 15).rev().collect::<Vec<_>>());
}

#[test]
fn a_token_of_a_whole_second_loses_or_repeats_at_a_page_break_and_a_keyset_token_does_neither() {
    let mut generator = Generator::seeded(3).plain();
    let events: Vec<Event> = (0..60).flat_map(|second| generator.burst(NOW - 100 + second, 7)).collect();
    let count = |token, cursor| {
        let pulumi = pulumi(Behaviour { token, cursor, ..Behaviour::mysql() });
        pulumi.org("acme").add(events.clone());
        follow(&pulumi, "", 50).map(|seen| seen.len())
    };
    assert_eq!(count(TokenStyle::Keyset, Cursor::Before), Some(420));
    for token in [TokenStyle::Decimal, TokenStyle::Base64, TokenStyle::Number] {
        assert!(count(token, Cursor::Before).is_some_and(|seen| seen < 420), "{token:?} loses");
        assert!(count(token, Cursor::UpTo).is_some_and(|seen| seen > 420), "{token:?} repeats");
    }
}

#[test]
fn a_second_larger_than_a_page_stalls_an_inclusive_cursor() {
    let pulumi = pulumi(Behaviour { cursor: Cursor::UpTo, ..Behaviour::mysql() });
    pulumi.org("acme").add(Generator::seeded(1).burst(NOW - 9, 250));
    let first = list(&pulumi, "");
    let second = list(
        &pulumi,
        &format!("continuationToken={}", first["continuationToken"].as_str().expect("a token")),
    );
    assert_eq!(first["continuationToken"], second["continuationToken"]);
    assert!(follow(&pulumi, "", 100).is_none());
}

#[test]
fn the_order_within_a_second_is_random_for_each_request_or_always_the_same() {
    let order = |order| {
        let pulumi = pulumi(Behaviour { order, ..Behaviour::mysql() });
        pulumi
            .org("acme")
            .add(span(1).into_iter().chain((0..50).map(|n| Event::at(NOW - 3).described(&n.to_string()))));
        (list(&pulumi, ""), list(&pulumi, ""))
    };
    let (first, second) = order(Order::Random);
    assert_ne!(first, second);
    let (first, second) = order(Order::Stable);
    assert_eq!(first, second);
}

#[test]
fn the_last_page_and_the_empty_page_take_every_shape() {
    for (last_token, expected) in
        [(LastToken::Absent, None), (LastToken::Null, Some(Value::Null)), (LastToken::Empty, Some(json!("")))]
    {
        let pulumi = pulumi(Behaviour { last_token, ..Behaviour::mysql() });
        assert_eq!(list(&pulumi, "").get("continuationToken").cloned(), expected);
    }
    for (no_events, expected) in [(NoEvents::Null, Value::Null), (NoEvents::Empty, json!([]))] {
        let pulumi = pulumi(Behaviour { no_events, ..Behaviour::mysql() });
        assert_eq!(list(&pulumi, "")["auditLogEvents"], expected);
    }
}

#[test]
fn a_full_last_page_carries_a_token_only_where_the_service_judges_by_fullness() {
    for (more, token) in [(More::Exact, false), (More::WhenFull, true)] {
        let pulumi = pulumi(Behaviour { more, ..Behaviour::mysql() });
        pulumi.org("acme").add(span(100));
        assert_eq!(list(&pulumi, "")["continuationToken"].is_string(), token);
    }
}

#[test]
fn filters_apply_before_paging_or_leave_short_pages_that_lead_on() {
    let events: Vec<Event> = (0..300)
        .map(|number| {
            let mut event = Event::at(NOW - 300 + number);
            if number % 100 == 0 {
                "stack-deleted".clone_into(&mut event.event);
            }
            event
        })
        .collect();
    for (filtering, first_page) in [(Filtering::BeforePaging, 3), (Filtering::AfterPaging, 1)] {
        let pulumi = pulumi(Behaviour { filtering, ..Behaviour::ideal() });
        pulumi.org("acme").add(events.clone());
        assert_eq!(times(&list(&pulumi, "eventFilter=stack-deleted")).len(), first_page);
        assert_eq!(follow(&pulumi, "eventFilter=stack-deleted", 10).map(|seen| seen.len()), Some(3));
    }
    let pulumi = pulumi(Behaviour::dynamo());
    assert_eq!(get(&pulumi, "/api/orgs/acme/auditlogs/v2?userFilter=nobody-knows").status(), Some(404));
}

#[test]
fn empty_pages_lead_on_to_everything_and_a_stalled_token_never_ends() {
    for token in [TokenStyle::Decimal, TokenStyle::Base64, TokenStyle::Number, TokenStyle::Keyset] {
        for cursor in [Cursor::Before, Cursor::UpTo] {
            let pulumi = pulumi(Behaviour { token, cursor, ..Behaviour::mysql() });
            pulumi.org("acme").add(span(50));
            pulumi.fault("acme", Fault::EmptyPage, Times::Next(3));
            assert_eq!(follow(&pulumi, "", 4).map(|seen| seen.len()), Some(50), "{token:?} {cursor:?}");
        }
    }
    let pulumi = pulumi(Behaviour {
        stalled_token: Some("1".to_owned()),
        more: More::WhenFull,
        page_size: 10,
        ..Behaviour::mysql()
    });
    pulumi.org("acme").add(span(50));
    assert_eq!(list(&pulumi, "")["continuationToken"], "1");
}

#[test]
fn a_late_event_appears_in_its_place_when_its_time_has_come() {
    let (clock, turn) = WorldClock::turned(NOW);
    let pulumi = Pulumi::new(clock, 1);
    pulumi.found("acme", Behaviour::mysql());
    pulumi.org("acme").add([Event::at(NOW - 5), Event::at(NOW - 10).late_by(610), Event::at(NOW - 20)]);
    assert_eq!(times(&list(&pulumi, "")), [NOW - 5, NOW - 20]);
    turn.advance(Duration::from_secs(600));
    assert_eq!(times(&list(&pulumi, "")), [NOW - 5, NOW - 10, NOW - 20]);
}

#[test]
fn a_changed_profile_changes_how_old_events_look_and_not_which_they_are() {
    let pulumi = pulumi(Behaviour::mysql());
    let org = pulumi.org("acme");
    let mut event = Event::at(NOW - 5);
    event.token_id = Some("id".to_owned());
    event.token_name = Some("ci".to_owned());
    org.add(event.twins(2));
    let before = org.truth();
    assert!(org.change_person("ada", |ada| ada.avatar = "https://elsewhere.example/new.png".to_owned()));
    assert!(org.rename_in_events("tokenName", "ci", "ci (renamed)"));
    org.decorate("region", json!("eu"));
    let after = org.truth();
    assert_ne!(before[0].bytes, after[0].bytes);
    assert_eq!(before[0].key, before[1].key);
    let shown = org.shown();
    assert_eq!(shown.key(&before[0].bytes), shown.key(&after[0].bytes));

    let invented = String::from_utf8_lossy(&after[0].bytes).replace("new.png", "never-shown.png");
    assert_ne!(shown.key(invented.as_bytes()), after[0].key);
}

#[test]
fn two_events_that_differ_only_in_the_person_are_two() {
    let pulumi = pulumi(Behaviour::mysql());
    let (ada, mut grace) = (Event::at(NOW - 5), Event::at(NOW - 5));
    grace.user = Person::new("grace", "Grace Hopper");
    pulumi.org("acme").add([ada, grace]);
    let truth = pulumi.truth("acme");
    assert_eq!(fingerprint(&truth[0].bytes), fingerprint(&truth[1].bytes));
    assert_ne!(truth[0].key, truth[1].key);
}

#[test]
fn dreadful_events_come_out_byte_for_byte() {
    let pulumi = pulumi(Behaviour::mysql());
    let all = dreadful(NOW - 60);
    for (_, bytes) in &all {
        pulumi.org("acme").add_verbatim(NOW - 60, bytes);
    }
    let answer = get(&pulumi, "/api/orgs/acme/auditlogs/v2");
    let page = lexemes::minify(body(&answer));
    let served: BTreeSet<Vec<u8>> =
        lexemes::elements(lexemes::member(&page, "auditLogEvents").expect("events"))
            .expect("an array")
            .into_iter()
            .map(<[u8]>::to_vec)
            .collect();
    assert_eq!(served, all.into_iter().map(|(_, bytes)| lexemes::minify(&bytes)).collect());
}

#[test]
fn white_space_between_tokens_changes_nothing_within_them() {
    let events = Generator::seeded(5).burst(NOW - 7, 80);
    let page = |spread| {
        let pulumi = pulumi(Behaviour { spread, order: Order::Stable, ..Behaviour::mysql() });
        pulumi.org("acme").add(events.clone());
        body(&get(&pulumi, "/api/orgs/acme/auditlogs/v2")).to_vec()
    };
    let (plain, spread) = (page(false), page(true));
    assert!(spread.len() > plain.len() + 1000);
    assert_eq!(lexemes::minify(&spread), plain);
    let read = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).expect("JSON");
    assert_eq!(read(&spread), read(&plain));
}

#[test]
fn only_the_literal_word_token_and_a_valid_one_open_the_list() {
    let pulumi = pulumi(Behaviour::mysql());
    let org = pulumi.org("acme");
    let path = "/api/orgs/acme/auditlogs/v2";
    let old = org.token();
    assert_eq!(get_as(&pulumi, path, &format!("Bearer {old}")).status(), Some(401));
    assert_eq!(get_as(&pulumi, path, "token pul-0000").status(), Some(401));
    let new = org.rotate_token();
    assert_eq!(get_as(&pulumi, path, &format!("token {old}")).status(), Some(401));
    assert_eq!(get_as(&pulumi, path, &format!("token {new}")).status(), Some(200));
    org.expire_token_at(&new, NOW);
    assert_eq!(get_as(&pulumi, path, &format!("token {new}")).status(), Some(401));
    assert_eq!(pulumi.ledger.answered("acme", 401), 4);
}

#[test]
fn a_call_denied_for_its_role_is_itself_an_event() {
    let pulumi = pulumi(Behaviour::mysql());
    let org = pulumi.org("acme");
    org.allow(&org.token(), false);
    assert_eq!(get(&pulumi, "/api/orgs/acme/auditlogs/v2").status(), Some(403));
    assert_eq!(get(&pulumi, "/api/orgs/acme/auditlogs/v2").status(), Some(403));
    org.allow(&org.token(), true);
    let page = list(&pulumi, "");
    let events = page["auditLogEvents"].as_array().expect("events");
    assert_eq!(events.len(), 2);
    assert!(
        events
            .iter()
            .all(|event| event["event"] == "auth-failure-organization-role" && event["authFailure"] == true)
    );
}

#[test]
fn a_renamed_org_is_not_found_under_its_old_name_and_listed_under_the_new_one() {
    let pulumi = pulumi(Behaviour::mysql());
    let token = pulumi.org("acme").token();
    pulumi.org("acme").rename("acme-corp");
    let credential = format!("token {token}");
    assert_eq!(get_as(&pulumi, "/api/orgs/acme/auditlogs/v2", &credential).status(), Some(404));
    assert_eq!(get_as(&pulumi, "/api/orgs/acme-corp/auditlogs/v2", &credential).status(), Some(200));
    let user = json_of(&get_as(&pulumi, "/api/user", &credential));
    assert_eq!(user["organizations"][0]["githubLogin"], "acme-corp");
}

#[test]
fn errors_have_the_status_and_shape_of_the_real_ones() {
    let pulumi = pulumi(Behaviour::mysql());
    let org = pulumi.org("acme");
    let path = "/api/orgs/acme/auditlogs/v2";
    for (fault, status, is_json) in [
        (Fault::Edition, 400, true),
        (Fault::Saml, 401, true),
        (Fault::ExpiryPolicy { days: 90 }, 403, true),
        (Fault::Firewall, 403, false),
        (Fault::throttled(), 429, true),
        (Fault::html(504), 504, false),
        (Fault::status(503), 503, true),
        (Fault::Body(Bytes::new()), 200, false),
        (Fault::Redirect("https://elsewhere.invalid/".to_owned()), 307, false),
    ] {
        org.fault(fault, Times::Next(1));
        let verdict = get(&pulumi, path);
        assert_eq!(verdict.status(), Some(status));
        assert_eq!(serde_json::from_slice::<Value>(body(&verdict)).is_ok(), is_json, "{status}");
    }
    assert_eq!(get(&pulumi, path).status(), Some(200));
    assert_eq!(get(&pulumi, "/api/orgs/acme/auditlogs/v2?startTime=yesterday").status(), Some(400));
    assert_eq!(get(&pulumi, "/api/orgs/acme/auditlogs/v2?continuationToken=%00").status(), Some(400));
    assert_eq!(get(&pulumi, "/api/orgs/acme/auditlogs/v2?pageSize=1&orgName=x").status(), Some(200));
    org.entitle(false);
    assert_eq!(get(&pulumi, path).status(), Some(400));
    org.behave(|behaviour| (behaviour.v2, behaviour.event_types) = (false, false));
    assert_eq!(get(&pulumi, path).status(), Some(404));
    assert_eq!(get(&pulumi, "/api/orgs/acme/auditlogs/event-types").status(), Some(404));
}

#[test]
fn the_catalog_and_the_metadata_are_served() {
    let pulumi = pulumi(Behaviour::mysql());
    let catalog = json_of(&get(&pulumi, "/api/orgs/acme/auditlogs/event-types"));
    assert_eq!(catalog["eventTypes"].as_array().map(Vec::len), Some(169));
    assert_eq!(kinds().len(), 169);
    assert_eq!(json_of(&get(&pulumi, "/api/orgs/acme/metadata"))["features"]["auditLogsEnabled"], true);
}

#[test]
fn retry_after_and_date_take_every_form() {
    let pulumi = pulumi(Behaviour::mysql());
    let org = pulumi.org("acme");
    let header = |name: &str| {
        let verdict = get(&pulumi, "/api/orgs/acme/auditlogs/v2");
        let response = verdict.response.expect("an answer");
        response.headers().get(name).map(|value| value.to_str().expect("text").to_owned())
    };
    for (retry_after, expected) in [
        (RetryAfter::None, None),
        (RetryAfter::Seconds(7), Some("7".to_owned())),
        (RetryAfter::DateIn(-60), Some(http_date(NOW - 60))),
        (RetryAfter::Raw("soon".to_owned()), Some("soon".to_owned())),
    ] {
        org.fault(Fault::Throttled(retry_after), Times::Next(1));
        assert_eq!(header("retry-after"), expected);
    }
    for (date, expected) in [
        (DateHeader::Present, Some("Sat, 21 Nov 2026 10:15:00 GMT".to_owned())),
        (DateHeader::Absent, None),
        (DateHeader::Shifted(86_400), Some("Sun, 22 Nov 2026 10:15:00 GMT".to_owned())),
        (DateHeader::Raw("yesterday".to_owned()), Some("yesterday".to_owned())),
    ] {
        org.behave(|behaviour| behaviour.date = date);
        assert_eq!(header("date"), expected);
    }
}

#[test]
fn gzip_is_sent_when_asked_unasked_without_its_header_or_damaged() {
    let pulumi = pulumi(Behaviour { gzip: Gzip::WhenAsked, ..Behaviour::mysql() });
    let org = pulumi.org("acme");
    org.add(span(100));
    let path = "/api/orgs/acme/auditlogs/v2";
    let asking = || {
        let request = Request::get(path)
            .header("authorization", format!("token {}", org.token()))
            .header("accept-encoding", "gzip")
            .body(Bytes::new())
            .expect("a request");
        pulumi.answer(request).response.expect("an answer")
    };
    assert!(
        get(&pulumi, path).response.is_some_and(|answer| !answer.headers().contains_key("content-encoding"))
    );
    let packed = asking();
    assert_eq!(packed.headers()["content-encoding"], "gzip");
    assert!(gunzip(packed.body()).is_some_and(|plain| plain.starts_with(b"{\"auditLogEvents\"")));
    org.behave(|behaviour| behaviour.gzip = Gzip::HeaderStripped);
    let stripped = get(&pulumi, path).response.expect("an answer");
    assert!(
        !stripped.headers().contains_key("content-encoding") && stripped.body().starts_with(&[0x1f, 0x8b])
    );
    for (how, readable) in [
        (BadGzip::Truncated, false),
        (BadGzip::WrongChecksum, false),
        (BadGzip::TwoMembers, true),
        (BadGzip::Mislabelled, false),
    ] {
        org.fault(Fault::BadGzip(how), Times::Next(1));
        assert_eq!(gunzip(asking().body()).is_some(), readable, "{how:?}");
    }
    let bomb = Fault::bomb(16);
    assert!(bomb.len() < 20_000 && gunzip(&bomb).is_some_and(|zeros| zeros.len() == 16 << 20));
}

#[test]
fn faults_strike_the_requests_they_are_meant_for() {
    let pulumi = pulumi(Behaviour::mysql());
    let org = pulumi.org("acme");
    org.fault(Fault::status(500), Times::After(1, 2));
    let statuses =
        || (0..4).map(|_| get(&pulumi, "/api/orgs/acme/auditlogs/v2").status()).collect::<Vec<_>>();
    assert_eq!(statuses(), [Some(200), Some(500), Some(500), Some(200)]);
    org.fault(Fault::status(502), Times::UntilCleared);
    assert_eq!(statuses(), [Some(502); 4]);
    assert_eq!(get(&pulumi, "/api/user").status(), Some(200));
    org.clear_faults();
    assert_eq!(statuses(), [Some(200); 4]);
}

#[test]
fn a_large_log_is_paged_by_search_and_not_by_walking() {
    let pulumi = pulumi(Behaviour::ideal());
    let count = 200_000;
    let mut generator = Generator::seeded(9);
    pulumi.org("acme").add(generator.spread(NOW - 1_000_000, NOW, count));
    let mut upper = NOW;
    let mut seen = 0;
    for _ in 0..500 {
        let page = list(&pulumi, &format!("startTime=0&endTime={upper}"));
        let times = times(&page);
        seen += times.len();
        upper = times.last().expect("the log is longer than this walk") - 1;
    }
    assert_eq!(seen, 50_000);
    pulumi.org("acme").forget_before(NOW - 500_000);
    assert!(pulumi.org("acme").len() < count);
    assert_eq!(pulumi.truth("acme").len(), count);
}

#[test]
fn generated_events_are_the_same_for_the_same_seed_and_cover_the_odd_ones() {
    let draw = |seed| Generator::seeded(seed).lively(NOW - 86_400, NOW, 200.0);
    let events = draw(4);
    let texts = |events: &[Event]| events.iter().map(|event| format!("{event:?}")).collect::<Vec<_>>();
    assert_eq!(texts(&events), texts(&draw(4)));
    assert_ne!(texts(&events), texts(&draw(5)));
    assert!((3_500..7_500).contains(&events.len()), "{}", events.len());
    assert!(events.iter().any(|event| event.source_ip.contains(':')));
    assert!(events.iter().any(|event| event.user.login.is_empty()));
    assert!(events.iter().any(|event| !event.unknown.is_empty()));
    assert!(events.iter().any(|event| event.event.contains(' ')));
    assert!(events.iter().any(|event| event.visible_at > event.timestamp));
    let mut seen = BTreeMap::new();
    for event in &events {
        *seen.entry(format!("{event:?}")).or_insert(0) += 1;
    }
    assert!(seen.values().any(|count| *count > 1), "there are twins");
}

#[test]
fn lexemes_take_json_apart_without_reading_it() {
    let text = br#"{ "a" : [1, {"b": "x, } \" y"}], "" : "\\", "c": -0 , "c":1e999}"#;
    let minified = lexemes::minify(text);
    let members = lexemes::members(&minified).expect("an object");
    let show: Vec<(String, String)> = members
        .iter()
        .map(|(key, value)| {
            (String::from_utf8_lossy(key).into_owned(), String::from_utf8_lossy(value).into_owned())
        })
        .collect();
    let expected = [("a", r#"[1,{"b":"x, } \" y"}]"#), ("", r#""\\""#), ("c", "-0"), ("c", "1e999")];
    assert_eq!(show, expected.map(|(key, value)| (key.to_owned(), value.to_owned())));
    assert!(lexemes::members(b"[1]").is_none());
    assert!(lexemes::members(b"{\"a\":1").is_none());
    assert_eq!(lexemes::text(br#""\u00e9\n\ud83d\ude00\ud800""#).as_deref(), Some("é\n😀\u{fffd}"));
}

// ---- Entra ----

fn token_request(form: &str) -> Request<Bytes> {
    Request::post(format!("https://localhost/{TENANT}/oauth2/v2.0/token"))
        .header("content-type", "application/x-www-form-urlencoded")
        .body(Bytes::from(form.to_owned()))
        .expect("a request")
}

fn form(secret: &str, scope: &str) -> String {
    format!(
        "grant_type=client_credentials&client_id={CLIENT_ID}&client_secret={}&scope={scope}",
        secret.replace('~', "%7E")
    )
}

#[test]
fn entra_grants_for_the_right_secret_and_says_what_is_wrong_with_any_other_request() {
    let (clock, turn) = WorldClock::turned(NOW);
    let entra = Entra::new(clock, 1);
    entra.register(TENANT, CLIENT_ID, CLIENT_SECRET);
    let scope = "https%3A%2F%2Fmonitor.azure.com%2F.default";
    let ask = |form: &str| {
        let verdict = entra.answer(token_request(form));
        (verdict.status(), json_of(&verdict))
    };
    let (status, granted) = ask(&form(CLIENT_SECRET, scope));
    assert_eq!((status, &granted["expires_in"]), (Some(200), &json!(3599)));
    let grant =
        entra.book.find(granted["access_token"].as_str().expect("a token")).expect("it is in the book");
    assert_eq!((grant.audience.as_str(), grant.expires), ("https://monitor.azure.com", NOW + 3599));

    for (form, status, code) in [
        (form("wrong", scope), 401, 7_000_215),
        (form(CLIENT_SECRET, "https%3A%2F%2Fmonitor.azure.com"), 400, 70011),
        (form(CLIENT_SECRET, "https%3A%2F%2Fother.example%2F.default"), 400, 500_011),
        (form(CLIENT_SECRET, scope).replace(CLIENT_ID, "another"), 400, 700_016),
        ("grant_type=password".to_owned(), 400, 70003),
    ] {
        let (answered, problem) = ask(&form);
        assert_eq!((answered, &problem["error_codes"][0]), (Some(status), &json!(code)));
        assert!(
            problem["error_description"]
                .as_str()
                .is_some_and(|text| text.starts_with(&format!("AADSTS{code}: ")))
        );
    }
    entra.add_secret(TENANT, CLIENT_ID, "short", Some(NOW + 10));
    assert_eq!(ask(&form("short", scope)).0, Some(200));
    turn.advance(Duration::from_secs(10));
    assert_eq!(ask(&form("short", scope)).1["error_codes"][0], 7_000_222);
    entra.rotate_secret(TENANT, CLIENT_ID, "new");
    assert_eq!(ask(&form(CLIENT_SECRET, scope)).0, Some(401));
    assert_eq!(ask(&form("new", scope)).0, Some(200));

    entra.fault(entra::Fault::throttled(RetryAfter::Seconds(3)), Times::Next(1));
    entra.fault(entra::Fault::EmptyToken, Times::Next(1));
    assert_eq!(ask(&form("new", scope)).0, Some(429));
    assert_eq!(ask(&form("new", scope)).1["access_token"], "");
}

#[test]
fn a_managed_identity_and_an_assertion_get_tokens_too() {
    let entra = Entra::new(WorldClock::by(|| NOW), 1);
    entra.register(TENANT, CLIENT_ID, CLIENT_SECRET);
    let managed = Request::get(
        "http://127.0.0.1/msi/token?api-version=2019-08-01&resource=https%3A%2F%2Fmonitor.azure.com",
    )
    .header("x-identity-header", entra.identity_header())
    .body(Bytes::new())
    .expect("a request");
    let token = json_of(&entra.answer(managed));
    assert!(token["expires_on"].is_string(), "the time is a text here");
    let assertion = format!(
        "grant_type=client_credentials&client_id={CLIENT_ID}&scope=https://monitor.azure.com/.default&client_assertion=a.b.c&client_assertion_type=urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
    );
    assert_eq!(entra.answer(token_request(&assertion)).status(), Some(401));
    entra.takes_assertions(TENANT, CLIENT_ID);
    assert_eq!(entra.answer(token_request(&assertion)).status(), Some(200));
}

// ---- Logs ingestion ----

struct Sender {
    entra: Entra,
    ingestion: Ingestion,
    token: String,
}

const RULE: &str = "dcr-00000000000000000000000000000000";

fn sender() -> Sender {
    let entra = Entra::new(WorldClock::by(|| NOW), 1);
    let ingestion = Ingestion::new(WorldClock::by(|| NOW), entra.book.clone(), 1);
    ingestion.create_rule(RULE);
    let token = entra.token_for("https://monitor.azure.com");
    Sender { entra, ingestion, token }
}

impl Sender {
    fn send(&self, body: impl Into<Bytes>) -> Verdict {
        self.send_to(
            &format!("/dataCollectionRules/{RULE}/streams/Custom-PulumiAuditLogs_CL?api-version=2023-01-01"),
            &self.token,
            None,
            body,
        )
    }

    fn send_to(&self, path: &str, token: &str, encoding: Option<&str>, body: impl Into<Bytes>) -> Verdict {
        let mut request = Request::post(path)
            .header("authorization", format!("Bearer {token}"))
            .header("content-type", "application/json");
        if let Some(encoding) = encoding {
            request = request.header("content-encoding", encoding);
        }
        self.ingestion.answer(request.body(body.into()).expect("a request"))
    }
}

fn row(number: i64) -> Value {
    json!({"TimeGenerated": "2026-11-21T10:14:00.000000Z", "Timestamp_d": NOW - 60, "Event_s": "user-login",
        "Description_s": format!("number {number}"), "AuthFailure_b": false, "EventKey_s": format!("key{number}")})
}

#[test]
fn ingestion_checks_in_the_real_order() {
    let sender = sender();
    let path = |rule: &str, stream: &str, query: &str| {
        format!("/dataCollectionRules/{rule}/streams/{stream}{query}")
    };
    let (stream, version) = ("Custom-PulumiAuditLogs_CL", "?api-version=2023-01-01");
    let wrong = sender.entra.token_for("https://management.azure.com");
    let good = sender.token.clone();
    for (path, token, status, code) in [
        ("/elsewhere".to_owned(), &good, 404, ""),
        (path(RULE, stream, ""), &good, 400, "InvalidApiVersion"),
        (path(RULE, stream, version), &"unknown".to_owned(), 401, "InvalidAuthenticationToken"),
        (path(RULE, stream, version), &wrong, 401, "InvalidAudience"),
        (path("dcr-other", stream, version), &good, 404, "NotFound"),
        (path(RULE, "Custom-Other", version), &good, 400, "InvalidStream"),
        (path(RULE, stream, version), &good, 204, ""),
        (path(RULE, stream, "?api%2Dversion=2023-01-01"), &good, 204, ""),
    ] {
        let verdict = sender.send_to(&path, token, None, "[]");
        assert_eq!(verdict.status(), Some(status), "{path}");
        let response = verdict.response.expect("an answer");
        assert_eq!(response.headers()["retry-after"], "0", "on every answer");
        if !code.is_empty() {
            assert_eq!(response.headers()["x-ms-error-code"], code);
        }
    }
    sender.ingestion.denies_the_role();
    assert_eq!(sender.send("[]").status(), Some(403));
    sender.ingestion.role_arrives_at(NOW + 1);
    assert_eq!(sender.send("[]").status(), Some(403));
    sender.ingestion.grants_the_role();
    assert_eq!(sender.send("").status(), Some(500));
    assert_eq!(sender.send(vec![b' '; 1_048_576]).status(), Some(204));
    assert_eq!(sender.send(vec![b' '; 1_048_577]).status(), Some(413));
    sender.entra.book.revoke_all();
    assert_eq!(sender.send("[]").status(), Some(401));
}

#[test]
fn what_follows_an_acceptance_is_silent() {
    let sender = sender();
    for lost in ["{\"Event_s\":\"an object\"}", "[1]", "[{\"Event_s\":", "nonsense"] {
        assert_eq!(sender.send(lost).status(), Some(204));
    }
    assert!(sender.ingestion.all_rows().is_empty());
    assert_eq!(sender.ingestion.errors().len(), 4);
    let odd = json!([{"TimeGenerated": "2020-01-01T00:00:00Z", "EventTime_t": "2020-01-01T00:00:00Z", "Timestamp_d": "17",
        "Event_s": 5, "AuthFailure_b": "yes", "Undeclared": 1, "Description_s": "é".repeat(40_000), "RawEvent": {"a": [1]}}]);
    assert_eq!(sender.send(odd.to_string()).status(), Some(204));
    let rows = sender.ingestion.all_rows();
    let cells = &rows[0].cells;
    assert!(rows[0].restamped);
    assert_eq!(cells["TimeGenerated"], rfc3339(NOW));
    assert_eq!(cells["EventTime_t"], "2020-01-01T00:00:00Z");
    assert_eq!(
        (&cells["Timestamp_d"], &cells["Event_s"], &cells["AuthFailure_b"]),
        (&json!(17), &json!("5"), &Value::Null)
    );
    assert_eq!((&cells["RawEvent"], &cells["SourceIP_s"]), (&json!({"a": [1]}), &json!("")));
    assert_eq!(cells["Description_s"].as_str().map(str::len), Some(65_536));
    assert_eq!(sender.ingestion.dropped_columns(), BTreeMap::from([("Undeclared".to_owned(), 1)]));
}

#[test]
fn a_fresh_time_is_kept_and_copies_are_not_removed() {
    let sender = sender();
    let rows = json!([row(1), row(2)]).to_string();
    sender.send(rows.clone());
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(rows.as_bytes()).expect("memory takes it");
    let path =
        format!("/dataCollectionRules/{RULE}/streams/Custom-PulumiAuditLogs_CL?api-version=2023-01-01");
    let packed = packer.finish().expect("memory takes it");
    let size = packed.len();
    assert_eq!(sender.send_to(&path, &sender.token, Some("gzip"), packed).status(), Some(204));
    assert_eq!(sender.send_to(&path, &sender.token, Some("gzip"), "not packed").status(), Some(400));
    assert_eq!(sender.send_to(&path, &sender.token, Some("br"), "[]").status(), Some(400));
    let stored = sender.ingestion.rows_of_rule(RULE);
    assert_eq!(stored.len(), 4);
    assert!(
        stored.iter().all(|row| !row.restamped && row.text("TimeGenerated") == "2026-11-21T10:14:00.000000Z")
    );
    let sizes = sender.ingestion.ledger.entries();
    assert_eq!((sizes[1].body_bytes, sizes[1].plain_bytes), (size, rows.len()));
    sender.ingestion.keep(Keep::Counts);
    sender.send(rows);
    assert_eq!((sender.ingestion.accepted(RULE), sender.ingestion.all_rows().len()), (6, 4));
}

#[test]
fn each_ingestion_fault_stores_or_does_not_as_it_says() {
    use ingestion::Fault;
    for (fault, status, lost, stored) in [
        (Fault::AnswerLost(Cut::Close), Some(204), true, 1),
        (Fault::AnswerLate(Duration::from_secs(90)), Some(204), false, 1),
        (Fault::Success(202), Some(202), false, 1),
        (Fault::unavailable(), Some(503), false, 0),
        (Fault::throttled(RetryAfter::Seconds(7)), Some(429), false, 0),
        (Fault::Html(502), Some(502), false, 0),
        (Fault::Redirect("https://elsewhere.invalid".to_owned()), Some(307), false, 0),
        (Fault::Unauthorized, Some(401), false, 0),
        (Fault::Drip { status: 500, every: Duration::from_secs(1) }, Some(500), false, 0),
        (Fault::Stall, None, true, 0),
    ] {
        let sender = sender();
        sender.ingestion.fault(fault.clone(), Times::Next(1));
        let verdict = sender.send(json!([row(1)]).to_string());
        assert_eq!((verdict.status(), verdict.cut.is_some()), (status, lost), "{fault:?}");
        assert_eq!(sender.ingestion.all_rows().len(), stored, "{fault:?}");
        assert_eq!(sender.send("[]").status(), Some(204), "once only");
    }
}

#[test]
fn single_rows_can_be_refused_and_limits_lowered() {
    let sender = sender();
    sender.ingestion.refuse_rows(|row| row.contains("number 3"));
    assert_eq!(sender.send(json!([row(1), row(3)]).to_string()).status(), Some(400));
    assert_eq!(sender.send(json!([row(1), row(2)]).to_string()).status(), Some(204));
    sender.ingestion.accept_all_rows();
    assert_eq!(sender.send(json!([row(3)]).to_string()).status(), Some(204));
    sender.ingestion.limit(100, None);
    assert_eq!(sender.send(json!([row(4)]).to_string()).status(), Some(413));
    sender.ingestion.limit(1_048_576, Some(100));
    assert_eq!(sender.send(json!([row(4)]).to_string()).status(), Some(413));
    sender.ingestion.limit(1_048_576, None);
    sender.ingestion.limit_requests_per_minute(Some(1));
    assert_eq!(sender.send("[]").status(), Some(204));
    assert_eq!(sender.send("[]").status(), Some(429));
}

// ---- over the network ----

fn client(world: &World) -> reqwest::Client {
    let pem = std::fs::read(world.ca_pem()).expect("the authority's certificate");
    let ca = reqwest::Certificate::from_pem(&pem).expect("a certificate");
    reqwest::Client::builder()
        .tls_certs_only([ca])
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .expect("a client")
}

#[tokio::test]
async fn connections_end_as_the_faults_say() {
    let world = World::with_events(100).await;
    let org = world.pulumi().org("acme");
    let client = client(&world);
    let url = format!("{}/api/orgs/acme/auditlogs/v2", world.pulumi_url());
    let get = || client.get(&url).header("authorization", format!("token {}", org.token())).send();
    for cut in [Cut::Close, Cut::Reset] {
        org.fault(Fault::Lost(cut), Times::Next(1));
        assert!(get().await.is_err(), "{cut:?}");
    }
    for cut in [Cut::BodyAfter(500), Cut::ResetAfter(500)] {
        org.fault(Fault::Lost(cut), Times::Next(1));
        let mut answer = get().await.expect("the head arrives");
        assert!(answer.content_length().is_some_and(|length| length > 10_000));
        let mut arrived = 0;
        let end = loop {
            match answer.chunk().await {
                Ok(Some(chunk)) => arrived += chunk.len(),
                end => break end,
            }
        };
        assert!(end.is_err(), "{cut:?}");
        assert!(arrived <= 500, "{cut:?} after {arrived}");
        assert!(cut != Cut::BodyAfter(500) || arrived == 500, "what was sent before a close arrives");
    }
    org.fault(Fault::Drip { bytes: 4096, every: Duration::from_millis(1) }, Times::Next(1));
    let whole = get().await.expect("an answer").bytes().await.expect("a body");
    assert!(serde_json::from_slice::<Value>(&whole).is_ok());
    assert_eq!(world.pulumi().ledger.unanswered("acme"), 4);
}

#[tokio::test]
async fn a_reset_is_a_reset_and_a_close_is_a_close() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let world = World::start().await;
    for (cut, reset) in [(Cut::Close, false), (Cut::Reset, true)] {
        world.pulumi().fault("acme", Fault::Lost(cut), Times::Next(1));
        let address = world.pulumi_url().replace("http://", "");
        let mut tcp = tokio::net::TcpStream::connect(&address).await.expect("it listens");
        let token = world.pulumi().org("acme").token();
        let request = format!(
            "GET /api/orgs/acme/auditlogs/v2 HTTP/1.1\r\nhost: x\r\nauthorization: token {token}\r\n\r\n"
        );
        tcp.write_all(request.as_bytes()).await.expect("it reads");
        let mut answer = Vec::new();
        let ended = tcp.read_to_end(&mut answer).await;
        assert_eq!(ended.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset), reset);
        assert!(answer.is_empty());
    }
}

#[tokio::test]
async fn a_service_that_is_away_refuses_connections_and_returns_to_its_port() {
    let world = World::start().await;
    let client = client(&world);
    let url = format!("{}/api/user", world.pulumi_url());
    assert_eq!(client.get(&url).send().await.expect("an answer").status(), 401);
    for _ in 0..3 {
        world.pulumi_goes_away().await;
        let refused = client.get(&url).send().await.expect_err("nobody listens");
        assert!(refused.is_connect(), "{refused:?}");
        world.pulumi_comes_back();
        assert_eq!(client.get(&url).send().await.expect("an answer").status(), 401);
    }
    world.azure().goes_away().await;
    assert!(client.post(world.ingestion_tls_url()).send().await.is_err());
    world.azure().comes_back();
    assert_eq!(client.post(world.ingestion_tls_url()).send().await.expect("an answer").status(), 404);
}

#[tokio::test]
async fn an_upload_can_be_cut_off_while_it_is_coming() {
    let world = World::start().await;
    let client = client(&world);
    let url = format!(
        "{}/dataCollectionRules/{}/streams/Custom-PulumiAuditLogs_CL?api-version=2023-01-01",
        world.ingestion_url(),
        rule_of("acme")
    );
    let token = world.entra().token_for("https://monitor.azure.com");
    let rows = json!((0..2_000).map(row).collect::<Vec<_>>()).to_string();
    let send = || {
        client
            .post(&url)
            .bearer_auth(&token)
            .header("content-type", "application/json")
            .body(rows.clone())
            .send()
    };
    world.ingestion().fault(ingestion::Fault::WhileReceiving(Cut::Reset), Times::Next(1));
    assert!(send().await.is_err());
    assert!(world.rows("acme").is_empty());
    assert_eq!(send().await.expect("an answer").status(), 204);
    assert_eq!(world.rows("acme").len(), 2_000);
    world.azure().loses_answers(1);
    assert!(send().await.is_err());
    assert_eq!(world.rows("acme").len(), 4_000, "stored all the same");
}

#[tokio::test]
async fn certificates_are_good_or_bad_as_ordered() {
    use crate::world::certificates::Leaf;
    for leaf in [
        Leaf::Good,
        Leaf::Expired,
        Leaf::NotYetValid,
        Leaf::WrongName,
        Leaf::SelfSigned,
        Leaf::UnknownAuthority,
    ] {
        let world = World::builder().certificate(leaf).start().await;
        let answer = client(&world).get(world.entra_url()).send().await;
        assert_eq!(answer.is_ok(), leaf == Leaf::Good, "{leaf:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_can_be_asked_in_process_under_simulated_time() {
    let start = tokio::time::Instant::now();
    let clock = WorldClock::by(move || NOW + start.elapsed().as_secs() as i64);
    let pulumi = Pulumi::new(clock, 1);
    pulumi.found("acme", Behaviour::mysql());
    pulumi.org("acme").add([Event::at(NOW).late_by(3600)]);
    pulumi.fault("acme", Fault::Late(Duration::from_secs(3600)), Times::Next(1));
    let late = get(&pulumi, "/api/orgs/acme/auditlogs/v2").arrive().await.expect("it arrives");
    assert!(late.body().starts_with(b"{\"auditLogEvents\":null"));
    assert_eq!(times(&list(&pulumi, "")), [NOW]);
    pulumi.fault("acme", Fault::closed(), Times::Next(1));
    assert!(get(&pulumi, "/api/orgs/acme/auditlogs/v2").arrive().await.is_err());
}

#[tokio::test]
async fn the_configuration_names_everything_and_hides_its_secrets_from_others() {
    use std::os::unix::fs::PermissionsExt;
    let world = World::builder().orgs(&["acme", "globex"]).start().await;
    let setups = [
        OrgSetup::new("acme").with_sentinel().with_file().since("2026-11-20T00:00:00Z"),
        OrgSetup::new("globex").with_file(),
    ];
    let config = world.write_config(&setups, "[log]\nlevel = \"debug\"\n");
    let text = std::fs::read_to_string(config).expect("it is there");
    let main: toml::Table = text.parse().expect("it is TOML");
    assert_eq!(main["source"]["api_url"].as_str(), Some(world.pulumi_url().as_str()));
    let acme = std::fs::read_to_string(world.paths.orgs.join("acme.toml")).expect("it is there");
    let acme: toml::Table = acme.parse().expect("it is TOML");
    assert_eq!(acme["sentinel"]["authority"].as_str(), Some(world.entra_url().as_str()));
    for secret in std::fs::read_dir(&world.paths.secrets).expect("a directory").flatten() {
        assert_eq!(secret.metadata().expect("a file").permissions().mode() & 0o777, 0o600);
    }
    assert!(world.paths.secret("acme-token").exists() && world.paths.secret("globex-token").exists());
}

// ---- S3 ----

#[tokio::test(flavor = "multi_thread")]
async fn s3_creates_once_and_the_faults_before_it_lose_refuse_and_hide() {
    let world = World::builder().with_s3().start().await;
    let s3 = world.s3();
    let (direct, through) = (&s3.bucket, s3.through_the_faults());
    assert_eq!(through.create_object("pulumi/a=1/x y.json", b"one".to_vec()).await, 200);
    assert_eq!(through.create_object("pulumi/a=1/x y.json", b"two".to_vec()).await, 412);
    assert_eq!(direct.get("pulumi/a=1/x y.json").await.as_deref(), Some(&b"one"[..]));
    assert_eq!(through.get("pulumi/a=1/x y.json").await.as_deref(), Some(&b"one"[..]));

    s3.loses_replies(1);
    assert_eq!(through.create_object("lost", b"1".to_vec()).await, 0);
    assert_eq!(through.create_object("lost", b"1".to_vec()).await, 412, "it was stored");
    s3.conflicts(1);
    assert_eq!(through.create_object("conflict", b"1".to_vec()).await, 409);
    assert_eq!(direct.get("conflict").await, None);
    for (fault, status) in [
        (proxy::Fault::slow_down(), 503),
        (proxy::Fault::internal_error(), 500),
        (proxy::Fault::access_denied(), 403),
        (proxy::Fault::expired_token(), 400),
    ] {
        s3.fault(proxy::Scope::puts("_chain/"), fault, Times::Next(1));
        assert_eq!(
            through.create_object("elsewhere", b"1".to_vec()).await,
            if status == 503 { 200 } else { 412 }
        );
        assert_eq!(through.create_object(&format!("_chain/{status}"), b"1".to_vec()).await, status);
    }
    s3.proxy.listings_go_stale();
    assert_eq!(through.create_object("unlisted", b"1".to_vec()).await, 200);
    assert!(!through.keys("").await.contains(&"unlisted".to_owned()));
    assert!(direct.keys("").await.contains(&"unlisted".to_owned()));
    s3.proxy.listings_catch_up();
    assert!(through.keys("").await.contains(&"unlisted".to_owned()));

    s3.goes_away().await;
    assert_eq!(through.create_object("away", b"1".to_vec()).await, 0);
    s3.comes_back();
    assert_eq!(through.create_object("away", b"1".to_vec()).await, 200);
    let puts = s3.proxy.puts();
    assert!(puts.iter().all(|(_, create_only, _)| *create_only));
    assert_eq!(
        puts.iter().filter(|(path, _, _)| path.contains("/lost")).map(|put| put.2).collect::<Vec<_>>(),
        [None, Some(412)]
    );
}

// ---- the checker ----

/// An archive as the documentation describes it, two chunks of the given lines.
fn archive(id: &str, events: &[Vec<u8>]) -> Archive {
    let mut archive = Archive::default();
    let mut previous = "0".repeat(64);
    let date = &rfc3339(NOW - 60)[..10];
    let half = events.len().div_ceil(2);
    for (number, events) in events.chunks(half).enumerate() {
        let time = rfc3339(NOW - 60);
        let mut lines = Vec::new();
        for (place, event) in events.iter().enumerate() {
            let key = &hex(&Sha256::digest(format!("{number}/{place}")))[..43];
            write!(lines, "{{\"key\":\"{key}\",\"org\":\"acme\",\"id\":\"{id}\",\"time\":\"{time}\",\"chunk\":{number},\"mode\":\"live\",")
                .expect("memory takes it");
            match std::str::from_utf8(event) {
                Ok(text) => write!(lines, "\"event\":{text}}}").expect("memory takes it"),
                Err(_) => {
                    use base64::Engine;
                    let packed = base64::engine::general_purpose::STANDARD.encode(event);
                    write!(lines, "\"event_base64\":\"{packed}\"}}").expect("memory takes it");
                }
            }
            lines.push(b'\n');
        }
        let key = format!("org={id}/date={date}/{number:020}.jsonl.gz");
        let claim = json!({"version": 1, "id": id, "org": "acme", "chunk": number, "key": key, "sha256": hex(&Sha256::digest(&lines)),
            "previous": previous, "count": events.len(), "first_time": time, "last_time": time, "mode": "live"})
        .to_string();
        previous = hex(&Sha256::digest(&claim));
        archive.files.insert(format!("_chain/org={id}/{number:020}.json"), claim.into_bytes());
        archive.files.insert(key, pack(&lines));
    }
    archive
}

fn pack(plain: &[u8]) -> Vec<u8> {
    let mut packed = Vec::new();
    flate2::read::GzEncoder::new(plain, flate2::Compression::fast())
        .read_to_end(&mut packed)
        .expect("memory takes it");
    packed
}

fn source_with_everything() -> (Pulumi, Source, Vec<Vec<u8>>) {
    let pulumi = pulumi(Behaviour::mysql());
    let org = pulumi.org("acme");
    let mut generator = Generator::seeded(8);
    org.add(generator.burst(NOW - 60, 40));
    org.add(generator.twins(NOW - 60, 3));
    for (_, bytes) in dreadful(NOW - 60) {
        org.add_verbatim(NOW - 60, &bytes);
    }
    let source = Source { events: org.truth(), shown: org.shown() };
    let events = source.events.iter().map(|event| event.bytes.clone()).collect();
    (pulumi, source, events)
}

#[test]
fn the_checker_accepts_a_true_archive_and_notices_one_event_dropped_doubled_or_altered() {
    let (_pulumi, source, events) = source_with_everything();
    let check = |events: &[Vec<u8>]| archive("a", events).check("s3", "a", &source, &Expect::default());
    let report = check(&events);
    report.assert_complete();
    assert_eq!((report.due, report.arrived), (63, 63));

    for place in [0, 41, 43, 62] {
        let mut dropped = events.clone();
        dropped.remove(place);
        let report = check(&dropped);
        assert_eq!((report.lost.len(), report.doubled.len(), report.foreign.len()), (1, 0, 0), "{report}");

        let mut doubled = events.clone();
        doubled.push(events[place].clone());
        let report = check(&doubled);
        assert_eq!((report.lost.len(), report.doubled.len(), report.foreign.len()), (0, 1, 0), "{report}");
        assert!(!report.is_complete() && report.loses_nothing());
    }
    for (find, replace) in [
        ("\"timestamp\":", "\"timestamp\":1"),
        ("\"name\":\"", "\"name\":\"not "),
        ("\"event\":\"", "\"event\":\"x"),
    ] {
        let mut altered = events.clone();
        let text = String::from_utf8(altered[2].clone()).expect("an ordinary event");
        altered[2] = text.replacen(find, replace, 1).into_bytes();
        let report = check(&altered);
        assert_eq!((report.lost.len(), report.doubled.len(), report.foreign.len()), (1, 0, 1), "{report}");
    }
}

#[test]
fn the_checker_exempts_what_is_not_due_and_what_was_declared_damaged() {
    let (_pulumi, source, events) = source_with_everything();
    let nothing = Archive::default();
    let damaged = Expect { damaged: BTreeSet::from([NOW - 60]), ..Expect::default() };
    let report = nothing.check("s3", "a", &source, &damaged);
    assert_eq!((report.is_complete(), report.exempt), (true, 63));
    let later = Expect { since: NOW, ..Expect::default() };
    assert!(nothing.check("s3", "a", &source, &later).is_complete());
    archive("a", &events).check("s3", "a", &source, &later).assert_complete();
    assert_eq!(nothing.check("s3", "a", &source, &Expect::default()).lost.len(), 63);
}

#[test]
fn the_checker_notices_every_break_of_the_chain() {
    let (_pulumi, source, events) = source_with_everything();
    let whole = archive("a", &events);
    let object = |number: u64| format!("org=a/date={}/{number:020}.jsonl.gz", &rfc3339(NOW - 60)[..10]);
    let claim = |number: u64| format!("_chain/org=a/{number:020}.json");
    let broken = |what: &str, change: &dyn Fn(&mut Archive)| {
        let mut archive = whole.clone();
        change(&mut archive);
        let report = archive.check("s3", "a", &source, &Expect::default());
        assert!(!report.problems.is_empty(), "{what} goes unnoticed");
    };
    broken("a missing first claim", &|archive| drop(archive.files.remove(&claim(0))));
    broken("a missing last claim", &|archive| drop(archive.files.remove(&claim(1))));
    broken("a missing object", &|archive| drop(archive.files.remove(&object(1))));
    broken("a changed claim", &|archive| archive.files.get_mut(&claim(0)).expect("it is there").push(b' '));
    broken("an object of other lines", &|archive| {
        let other = archive.files[&object(0)].clone();
        archive.files.insert(object(1), other);
    });
    broken("a damaged object", &|archive| {
        archive.files.get_mut(&object(0)).expect("it is there").truncate(40)
    });
    broken("an object that nobody claims", &|archive| drop(archive.files.insert(object(2), pack(b""))));
    broken("a claim that follows another", &|archive| {
        let text = String::from_utf8(archive.files[&claim(1)].clone()).expect("text");
        let text = text.replacen("\"previous\":\"", "\"previous\":\"0", 1);
        archive.files.insert(claim(1), text.into_bytes());
    });
    broken("a wrong count", &|archive| {
        let text = String::from_utf8(archive.files[&claim(1)].clone()).expect("text");
        archive.files.insert(claim(1), text.replacen("\"count\":", "\"count\":1", 1).into_bytes());
    });

    let mut void = whole.clone();
    void.files.insert(object(1), pack(b""));
    let report = void.check("s3", "a", &source, &Expect::default());
    assert_eq!((report.void, report.problems.len()), (1, 0), "an empty object settles its number");
    assert!(!report.lost.is_empty());
}

#[test]
fn an_archive_in_a_directory_is_read_like_one_in_a_bucket() {
    let (_pulumi, source, events) = source_with_everything();
    let directory = tempfile::tempdir().expect("a directory");
    for (name, body) in &archive("a", &events).files {
        let path = directory.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("it can be made");
        std::fs::write(path, body).expect("it can be written");
    }
    Archive::of_directory(directory.path()).check("file", "a", &source, &Expect::default()).assert_complete();
}

/// A row for an event, made from its JSON by the table of the documentation.
fn row_of(event: &[u8], key: &str) -> Value {
    let event: Value = serde_json::from_slice(event).expect("an ordinary event");
    let id =
        kinds().iter().find(|kind| event["event"] == kind.display_name.as_str()).map(|kind| json!(kind.id));
    let text = |name: &str| event.get(name).cloned().unwrap_or_else(|| json!(""));
    let flag = |name: &str| event.get(name).cloned().unwrap_or(Value::Bool(false));
    json!({"TimeGenerated": rfc3339(NOW - 60), "Timestamp_d": event["timestamp"], "SourceIP_s": event["sourceIP"],
        "Event_s": id.unwrap_or_else(|| event["event"].clone()), "Description_s": event["description"],
        "TokenID_s": text("tokenID"), "ActorUrn_s": text("actorUrn"), "RequireOrgAdmin_b": flag("reqOrgAdmin"),
        "RequireStackAdmin_b": flag("reqStackAdmin"), "AuthFailure_b": flag("authFailure"), "EventKey_s": key})
}

#[test]
fn the_connectors_rule_makes_the_fifteen_columns_of_its_pollers_fields() {
    let sender = sender();
    let path = format!("/dataCollectionRules/{RULE}/streams/{CONNECTOR_STREAM}?api-version=2023-01-01");
    let fields = json!([
        {"timestamp": NOW - 60, "sourceIP": "192.0.2.1", "event": "user-login", "description": "in", "tokenID": null,
            "user": {"name": "Ada", "githubLogin": "ada", "email": "ada@example.com"}, "authFailure": true, "EventKey_s": "k"},
        {"timestamp": NOW - 200_000, "user": null},
    ]);
    assert_eq!(sender.send_to(&path, &sender.token, None, fields.to_string()).status(), Some(204));
    let rows = sender.ingestion.all_rows();
    let names: BTreeSet<String> = official_columns().into_iter().map(|(name, _)| name).collect();
    assert!(rows.iter().all(|row| row.cells.keys().cloned().collect::<BTreeSet<_>>() == names));
    assert_eq!(rows[0].text("TimeGenerated"), rfc3339(NOW - 60));
    assert_eq!((rows[0].text("UserName_s"), rows[0].text("UserAvatarUrl_s")), ("Ada", ""));
    assert_eq!((rows[0].text("TokenID_s"), rows[0].flag("AuthFailure_b")), ("", true));
    assert_eq!(rows[0].cells["RequireOrgAdmin_b"], false);
    assert_eq!((rows[0].restamped, rows[1].restamped), (false, true));
    assert_eq!(rows[1].number("Timestamp_d"), Some(NOW - 200_000));
    assert_eq!(sender.ingestion.dropped_columns(), BTreeMap::from([("EventKey_s".to_owned(), 1)]));
}

#[test]
fn without_a_key_the_checker_compares_multisets_so_a_copy_is_one_too_many() {
    let pulumi = pulumi(Behaviour::mysql());
    let org = pulumi.org("acme");
    org.add(Generator::seeded(9).plain().burst(NOW - 60, 40));
    org.add(Event::at(NOW - 60).twins(3));
    let source = Source { events: org.truth(), shown: org.shown() };
    let check = |columns: fn() -> ingestion::Columns, stream: &str, rows: &[Value]| {
        let sender = sender();
        sender.ingestion.declare_stream(RULE, TABLE_STREAM, columns());
        let path = format!("/dataCollectionRules/{RULE}/streams/{stream}?api-version=2023-01-01");
        let answer = sender.send_to(&path, &sender.token, None, json!(rows).to_string());
        assert_eq!(answer.status(), Some(204));
        table::check(&sender.ingestion.all_rows(), "acme", &source, NOW, &Expect::default())
    };
    let official: Vec<Value> = source.events.iter().map(|event| row_of(&event.bytes, "")).collect();
    let fields: Vec<Value> = source
        .events
        .iter()
        .map(|event| serde_json::from_slice(&event.bytes).expect("an ordinary event"))
        .collect();
    for (stream, rows) in [(TABLE_STREAM, &official), (CONNECTOR_STREAM, &fields)] {
        let report = check(official_columns, stream, rows);
        report.assert_complete();
        assert_eq!((report.due, report.arrived, report.removable), (43, 43, 0));
        assert_eq!(check(official_columns, stream, &rows[1..]).lost.len(), 1);
        let copied = [&rows[..], &rows[40..41]].concat();
        let report = check(official_columns, stream, &copied);
        assert_eq!((report.doubled.len(), report.removable), (1, 0), "a fourth twin is one too many");
    }
    let report = check(table_columns, TABLE_STREAM, &official);
    assert_eq!(report.problems.len(), 43, "where the column is there, each row needs its key");
}

#[test]
fn the_checker_removes_copies_from_the_table_by_their_key_and_notices_the_rest() {
    let pulumi = pulumi(Behaviour::mysql());
    let org = pulumi.org("acme");
    let mut generator = Generator::seeded(8);
    org.add(generator.burst(NOW - 60, 200));
    org.add(generator.twins(NOW - 60, 3));
    let source = Source { events: org.truth(), shown: org.shown() };
    let rows: Vec<Value> = source
        .events
        .iter()
        .enumerate()
        .map(|(number, event)| row_of(&event.bytes, &format!("key{number}")))
        .collect();
    let check = |rows: &[Value]| {
        let sender = sender();
        for some in rows.chunks(50) {
            assert_eq!(sender.send(json!(some).to_string()).status(), Some(204));
        }
        table::check(&sender.ingestion.all_rows(), "acme", &source, NOW, &Expect::default())
    };
    let report = check(&rows);
    report.assert_complete();
    assert_eq!((report.due, report.arrived, report.removable), (203, 203, 0));

    let mut copied = rows.clone();
    copied.extend_from_slice(&rows[..50]);
    let report = check(&copied);
    report.assert_complete();
    assert_eq!(report.removable, 50);

    assert_eq!(check(&rows[1..]).lost.len(), 1);
    let mut doubled = rows.clone();
    doubled.push(row_of(&source.events[7].bytes, "another key"));
    assert_eq!(check(&doubled).doubled.len(), 1);
    let mut altered = rows.clone();
    altered[5]["Description_s"] = json!("something else");
    let report = check(&altered);
    assert_eq!((report.lost.len(), report.foreign.len()), (1, 1));
    let mut swapped = copied;
    swapped[210]["Event_s"] = json!("stack-renamed");
    assert_eq!(check(&swapped).problems.len(), 1, "two rows with one key must agree");
}
