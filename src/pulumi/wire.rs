//! Pulumi's audit-log JSON, exactly: pages, the known fields of an event, query strings, error bodies.
//!
//! Reading never changes an event: its raw form, without insignificant white space, is what is kept. One odd event never spoils its
//! page: whatever stands in the list is an [`Event`], with what could be read of it. No vendor word leaves this file and the two below
//! it: [`exchange`] has the words of token exchange, [`environment`] those of ESC.
//!
//! *Why raw values and a hand-written map visitor:* `serde_json::Value` is 15 times slower and refuses a page for one number out of
//! range; a derived struct refuses an event for a duplicate key.
//!
//! Field names and presence: Pulumi Cloud REST API description (`ResponseAuditLogs`, `AuditLogEvent`), snapshot of 2026-08-21.

pub mod environment;
pub mod exchange;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::clock::Second;
use crate::event::{Event, IdentityHasher, Odd, OrgId, Payload};
use crate::mutant::{self, Mutant};

/// 2015-01-01: no audit event is older than the service.
const PLAUSIBLE_FROM: Second = Second(1_420_070_400);
/// How far ahead of the service's time an event may be.
const PLAUSIBLE_AHEAD_SECONDS: i64 = 86_400;
/// The events of a larger last page are slices of it: an event that outlived the others would hold all of it.
const SHARED_PAGE_BYTES: usize = 1024 * 1024;
/// Longest continuation token that is sent back.
const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// One answer of the list API.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// In the order received.
    pub events: Vec<Event>,
    /// There is more; `None` on the last page.
    pub next: Option<PageToken>,
}

/// A continuation token: opaque, sent back verbatim.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PageToken(String);

impl PageToken {
    pub fn new(text: impl Into<String>) -> PageToken {
        PageToken(text.into())
    }
}

/// What to ask: the bounds as sent, whose inclusiveness nobody knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    pub after: Second,
    pub before: Second,
    pub token: Option<PageToken>,
    /// Only events of this type.
    pub kind: Option<Arc<str>>,
}

/// Everything but unreserved characters is escaped.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// Path and query of a list request (second version of the API, where `startTime` is the lower bound).
pub fn list_path(org: &str, query: &Query) -> String {
    let mut path = format!(
        "/api/orgs/{}/auditlogs/v2?startTime={}&endTime={}",
        utf8_percent_encode(org, ESCAPED),
        query.after.0,
        query.before.0
    );
    if let Some(kind) = &query.kind {
        path.push_str("&eventFilter=");
        path.extend(utf8_percent_encode(kind, ESCAPED));
    }
    if let Some(token) = &query.token {
        path.push_str("&continuationToken=");
        path.extend(utf8_percent_encode(&token.0, ESCAPED));
    }
    path
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Malformed {
    #[error("the answer is not a page of audit events: {0}")]
    Form(String),
    #[error("the page holds more than {PAGE_EVENTS_MAX} events")]
    TooMany,
}

/// Most events of a page: real ones have a hundred. What is known of an event takes more memory than the shortest one has bytes, so
/// the bound on a page's bytes is not enough.
pub const PAGE_EVENTS_MAX: usize = 100_000;

#[derive(Deserialize)]
struct RawPage<'a> {
    #[serde(rename = "auditLogEvents", borrow, deserialize_with = "null_or_list")]
    events: Raws<'a>,
    #[serde(rename = "continuationToken", borrow)]
    token: Option<&'a RawValue>,
}

/// The events of a page as they stand: all of them, or the first of too many.
#[derive(Default)]
struct Raws<'a> {
    list: Vec<&'a RawValue>,
    too_many: bool,
}

/// The service writes an empty list as `null`; a missing list is no page.
fn null_or_list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Raws<'de>, D::Error> {
    Ok(Option::<Raws<'de>>::deserialize(deserializer)?.unwrap_or_default())
}

impl<'de: 'a, 'a> Deserialize<'de> for Raws<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Raws<'a>, D::Error> {
        struct RawsVisitor;
        impl<'de> Visitor<'de> for RawsVisitor {
            type Value = Raws<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }
            fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<Raws<'de>, S::Error> {
                let mut raws = Raws::default();
                while let Some(raw) = seq.next_element::<&RawValue>()? {
                    if raws.list.len() < PAGE_EVENTS_MAX {
                        raws.list.push(raw);
                    } else {
                        raws.too_many = true;
                    }
                }
                Ok(raws)
            }
        }
        deserializer.deserialize_seq(RawsVisitor)
    }
}

/// Reads a page. `now` is the service's time, against which an event's time is plausible or not.
///
/// # Errors
/// When the body is not the JSON object of a page, or of one with too many events. Odd events are no error.
pub fn parse_page(body: &Bytes, org: &OrgId, now: Second) -> Result<Page, Malformed> {
    let bom = b"\xef\xbb\xbf";
    let body = if body.starts_with(bom) { body.slice(bom.len()..) } else { body.clone() };
    match std::str::from_utf8(&body) {
        Ok(text) => {
            let bytes_of = |raw: &str, whole: bool| match without_white_space(raw.as_bytes()) {
                // A copy of a large page would be another large page. Where more pages follow, none may hold this one's turn.
                None if whole => body.slice_ref(raw.as_bytes()),
                None => Bytes::copy_from_slice(raw.as_bytes()),
                Some(dense) => Bytes::from(dense),
            };
            read_page(text, bytes_of, org, now)
        }
        Err(_) => {
            // Each byte taken for the character with its number gives valid text of the same structure; the events' own bytes
            // are then taken back. Slower, and only for pages that are not UTF-8.
            let text: String = body.iter().map(|byte| char::from(*byte)).collect();
            let bytes_of = |raw: &str, _| {
                let bytes: Vec<u8> =
                    raw.chars().map(|c| u8::try_from(u32::from(c)).unwrap_or(b'?')).collect();
                Bytes::from(without_white_space(&bytes).unwrap_or(bytes))
            };
            read_page(&text, bytes_of, org, now)
        }
    }
}

/// `bytes_of` gives an event's own bytes; it is told whether this page is the last and larger than is worth a copy.
fn read_page(
    text: &str,
    bytes_of: impl Fn(&str, bool) -> Bytes,
    org: &OrgId,
    now: Second,
) -> Result<Page, Malformed> {
    let page: RawPage<'_> = serde_json::from_str(text).map_err(|error| {
        // serde_json's text may quote a value; its place says enough.
        Malformed::Form(format!(
            "{:?} error at line {} column {}",
            error.classify(),
            error.line(),
            error.column()
        ))
    })?;
    if page.events.too_many {
        return Err(Malformed::TooMany);
    }
    let next = page.token.map(read_token).transpose()?.flatten();
    let shared = next.is_none() && text.len() > SHARED_PAGE_BYTES;
    let events =
        page.events.list.iter().map(|raw| read_event(bytes_of(raw.get(), shared), org, now)).collect();
    Ok(Page { events, next })
}

/// Absent, `null` and `""` alike are the end; a number stands for its digits.
fn read_token(raw: &RawValue) -> Result<Option<PageToken>, Malformed> {
    let text = match raw.get().as_bytes().first() {
        Some(b'"') => serde_json::from_str::<String>(raw.get())
            .map_err(|_| Malformed::Form("unreadable token".into()))?,
        Some(b'0'..=b'9' | b'-') => raw.get().to_owned(),
        Some(b'n') => return Ok(None),
        _ => return Err(Malformed::Form("the token is neither text nor a number".into())),
    };
    if text.len() > TOKEN_BYTES_MAX {
        return Err(Malformed::Form(format!("token longer than {TOKEN_BYTES_MAX} bytes")));
    }
    Ok((!text.is_empty()).then_some(PageToken(text)))
}

/// What is known of one event by its raw form, without insignificant white space, as it is archived.
pub fn read_event(raw: Bytes, org: &OrgId, now: Second) -> Event {
    let text = lossy(&raw);
    let parts = serde_json::from_str::<Parts<'_>>(&text).ok();
    let mut odd = Odd::default();
    let mut identity = IdentityHasher::new(org);
    let mut at = None;
    let mut kind = Cow::Borrowed("");
    match &parts {
        Some(parts) => {
            for lexeme in [
                parts.timestamp,
                parts.event,
                parts.description,
                parts.source_ip,
                parts.token_id,
                parts.actor_urn,
                parts.require_org_admin,
                parts.require_stack_admin,
                parts.auth_failure,
            ] {
                identity.value(&identity_bytes(lexeme));
            }
            identity.value(&identity_bytes(parts.user.filter(|_| mutant::is(Mutant::IdentityWithAvatar))));
            let texts = [parts.event, parts.description, parts.source_ip, parts.token_id, parts.actor_urn];
            let flags = [parts.require_org_admin, parts.require_stack_admin, parts.auth_failure];
            odd.unknown_field = parts.unknown;
            odd.bad_type = texts.iter().flatten().any(|raw| !is_text(raw))
                || flags.iter().flatten().any(|raw| !matches!(raw.get(), "true" | "false" | "null"))
                || parts.timestamp.is_some_and(|raw| raw.get().parse::<i64>().is_err());
            odd.missing_field = parts.timestamp.is_none()
                || parts.event.is_none()
                || parts.description.is_none()
                || parts.source_ip.is_none()
                || parts.user.is_none();
            at = parts.timestamp.and_then(|raw| raw.get().parse::<i64>().ok()).map(Second);
            let latest = now.saturating_add(PLAUSIBLE_AHEAD_SECONDS);
            at = at.filter(|at| PLAUSIBLE_FROM <= *at && *at <= latest);
            kind = text_of(parts.event);
        }
        None => {
            for _ in 0..9 {
                identity.value(b"");
            }
            identity.value(&raw);
            odd.bad_type = true;
        }
    }
    odd.implausible_time = at.is_none();
    let kind = Arc::from(kind.as_ref());
    drop(text);
    let payload = Payload(Sha256::digest(&raw).into());
    Event { at, identity: identity.finish(), payload, kind, odd, raw }
}

/// A value's bytes in the identity: nothing when absent, `null`, `""` or `false`; a string's text; otherwise the lexeme.
fn identity_bytes(raw: Option<&RawValue>) -> Cow<'_, [u8]> {
    let Some(raw) = raw else { return Cow::Borrowed(b"") };
    match raw.get() {
        "null" | "false" => Cow::Borrowed(b""),
        text if text.starts_with('"') => match plain_text(text) {
            Some(plain) => Cow::Borrowed(plain.as_bytes()),
            None => match serde_json::from_str::<String>(text) {
                Ok(decoded) => Cow::Owned(decoded.into_bytes()),
                Err(_) => Cow::Borrowed(text.as_bytes()),
            },
        },
        lexeme => Cow::Borrowed(lexeme.as_bytes()),
    }
}

fn is_text(raw: &RawValue) -> bool {
    raw.get().starts_with('"') || raw.get() == "null"
}

/// What stands between the quotes when nothing in it is escaped.
fn plain_text(lexeme: &str) -> Option<&str> {
    let inner = lexeme.strip_prefix('"')?.strip_suffix('"')?;
    (!inner.as_bytes().contains(&b'\\')).then_some(inner)
}

/// Drops white space outside strings. There is usually none, and then this is nothing; what lies between two pieces of it is copied
/// at once.
fn without_white_space(json: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let (mut kept_from, mut at) = (0, 0);
    while let Some(byte) = json.get(at) {
        at += 1;
        match byte {
            b'"' => at = after_text(json, at),
            b' ' | b'\t' | b'\n' | b'\r' => {
                out.reserve(if kept_from == 0 { json.len() } else { 0 });
                out.extend_from_slice(&json[kept_from..at - 1]);
                kept_from = at;
            }
            _ => {}
        }
    }
    if kept_from == 0 {
        return None;
    }
    out.extend_from_slice(&json[kept_from..]);
    Some(out)
}

/// Where a string ends whose inside begins at `at`.
fn after_text(json: &[u8], mut at: usize) -> usize {
    while let Some(found) =
        json.get(at..).and_then(|rest| rest.iter().position(|byte| matches!(byte, b'"' | b'\\')))
    {
        at += found + 1;
        if json[at - 1] == b'"' {
            return at;
        }
        // What a backslash escapes, a quote perhaps, is text.
        at += 1;
    }
    json.len()
}

/// The known fields as they stand; of a repeated key the last.
#[derive(Default)]
struct Parts<'a> {
    timestamp: Option<&'a RawValue>,
    source_ip: Option<&'a RawValue>,
    event: Option<&'a RawValue>,
    description: Option<&'a RawValue>,
    user: Option<&'a RawValue>,
    token_id: Option<&'a RawValue>,
    token_name: Option<&'a RawValue>,
    actor_name: Option<&'a RawValue>,
    actor_urn: Option<&'a RawValue>,
    require_org_admin: Option<&'a RawValue>,
    require_stack_admin: Option<&'a RawValue>,
    auth_failure: Option<&'a RawValue>,
    unknown: bool,
}

#[derive(Deserialize)]
enum Key {
    #[serde(rename = "timestamp")]
    Timestamp,
    #[serde(rename = "sourceIP")]
    SourceIp,
    #[serde(rename = "event")]
    Event,
    #[serde(rename = "description")]
    Description,
    #[serde(rename = "user")]
    User,
    #[serde(rename = "tokenID")]
    TokenId,
    #[serde(rename = "tokenName")]
    TokenName,
    #[serde(rename = "actorName")]
    ActorName,
    #[serde(rename = "actorUrn")]
    ActorUrn,
    #[serde(rename = "reqOrgAdmin")]
    RequireOrgAdmin,
    #[serde(rename = "reqStackAdmin")]
    RequireStackAdmin,
    #[serde(rename = "authFailure")]
    AuthFailure,
    #[serde(other)]
    Unknown,
}

impl<'de: 'a, 'a> Deserialize<'de> for Parts<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Parts<'a>, D::Error> {
        struct PartsVisitor;
        impl<'de> Visitor<'de> for PartsVisitor {
            type Value = Parts<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Parts<'de>, M::Error> {
                let mut parts = Parts::default();
                while let Some(key) = map.next_key::<Key>()? {
                    let place = match key {
                        Key::Timestamp => &mut parts.timestamp,
                        Key::SourceIp => &mut parts.source_ip,
                        Key::Event => &mut parts.event,
                        Key::Description => &mut parts.description,
                        Key::User => &mut parts.user,
                        Key::TokenId => &mut parts.token_id,
                        Key::TokenName => &mut parts.token_name,
                        Key::ActorName => &mut parts.actor_name,
                        Key::ActorUrn => &mut parts.actor_urn,
                        Key::RequireOrgAdmin => &mut parts.require_org_admin,
                        Key::RequireStackAdmin => &mut parts.require_stack_admin,
                        Key::AuthFailure => &mut parts.auth_failure,
                        Key::Unknown => {
                            parts.unknown = true;
                            map.next_value::<IgnoredAny>()?;
                            continue;
                        }
                    };
                    *place = Some(map.next_value::<&RawValue>()?);
                }
                Ok(parts)
            }
        }
        deserializer.deserialize_map(PartsVisitor)
    }
}

/// The known fields of an event, for whoever maps it. What is absent or unreadable is empty or false.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields<'a> {
    /// Unix seconds.
    pub timestamp: Option<i64>,
    pub source_ip: Cow<'a, str>,
    pub event: Cow<'a, str>,
    pub description: Cow<'a, str>,
    /// The whole user as its JSON stands in the event; empty when there is none.
    pub user: &'a str,
    pub user_name: Cow<'a, str>,
    pub user_login: Cow<'a, str>,
    pub user_avatar_url: Cow<'a, str>,
    pub token_id: Cow<'a, str>,
    pub token_name: Cow<'a, str>,
    pub actor_name: Cow<'a, str>,
    pub actor_urn: Cow<'a, str>,
    pub require_org_admin: bool,
    pub require_stack_admin: bool,
    pub auth_failure: bool,
}

impl<'a> Fields<'a> {
    /// Reads the known fields of a raw event. Never fails: an event that is not an object has none of them.
    pub fn read(raw: &'a str) -> Fields<'a> {
        let Ok(parts) = serde_json::from_str::<Parts<'a>>(raw) else { return Fields::default() };
        let user =
            parts.user.and_then(|user| serde_json::from_str::<User<'a>>(user.get()).ok()).unwrap_or_default();
        Fields {
            timestamp: parts.timestamp.and_then(|raw| raw.get().parse().ok()),
            source_ip: text_of(parts.source_ip),
            event: text_of(parts.event),
            description: text_of(parts.description),
            user: parts.user.map(RawValue::get).filter(|user| *user != "null").unwrap_or_default(),
            user_name: text_of(user.name),
            user_login: text_of(user.login),
            user_avatar_url: text_of(user.avatar_url),
            token_id: text_of(parts.token_id),
            token_name: text_of(parts.token_name),
            actor_name: text_of(parts.actor_name),
            actor_urn: text_of(parts.actor_urn),
            require_org_admin: is_true(parts.require_org_admin),
            require_stack_admin: is_true(parts.require_stack_admin),
            auth_failure: is_true(parts.auth_failure),
        }
    }
}

#[derive(Default, Deserialize)]
struct User<'a> {
    #[serde(borrow)]
    name: Option<&'a RawValue>,
    #[serde(rename = "githubLogin", borrow)]
    login: Option<&'a RawValue>,
    #[serde(rename = "avatarUrl", borrow)]
    avatar_url: Option<&'a RawValue>,
}

fn is_true(raw: Option<&RawValue>) -> bool {
    raw.is_some_and(|raw| raw.get() == "true")
}

/// A string's text; a lone surrogate, which has none, becomes replacement characters. Other types keep their lexeme.
fn text_of(raw: Option<&RawValue>) -> Cow<'_, str> {
    let Some(raw) = raw else { return Cow::Borrowed("") };
    let lexeme = raw.get();
    if lexeme == "null" {
        return Cow::Borrowed("");
    }
    if !lexeme.starts_with('"') {
        return Cow::Borrowed(lexeme);
    }
    match plain_text(lexeme) {
        Some(plain) => Cow::Borrowed(plain),
        None => Cow::Owned(serde_json::from_str::<Lossy>(lexeme).map(|text| text.0).unwrap_or_default()),
    }
}

/// Text, with replacement characters for what is not UTF-8. Nearly all of it is, and asking first costs a third of replacing.
fn lossy(bytes: &[u8]) -> Cow<'_, str> {
    str::from_utf8(bytes).map_or_else(|_| String::from_utf8_lossy(bytes), Cow::Borrowed)
}

struct Lossy(String);

impl<'de> Deserialize<'de> for Lossy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Lossy, D::Error> {
        struct LossyVisitor;
        impl Visitor<'_> for LossyVisitor {
            type Value = Lossy;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Lossy, E> {
                Ok(Lossy(lossy(bytes).into_owned()))
            }
        }
        deserializer.deserialize_bytes(LossyVisitor)
    }
}

/// Shorter parts of a token are words like others.
const TOKEN_PART_BYTES_MIN: usize = 8;
/// Most characters of the service's own words that are shown.
const MESSAGE_CHARACTERS_MAX: usize = 200;

/// The `message` of an error body, cut and without `token` or anything that looks like one; `None` for bodies of proxies and firewalls.
pub fn error_message(body: &[u8], token: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct ErrorBody {
        message: String,
    }
    let error: ErrorBody = serde_json::from_slice(body).ok()?;
    Some(cleaned(&error.message, token))
}

/// Words of the service, fit to print: on one line, cut, and without the token that was sent. Of one that has parts, as those of OIDC
/// issuers do, no part is shown either.
fn cleaned(text: &str, token: &str) -> String {
    // Before anything is looked for, so that none of it hides a token; and cut last, so that no piece of one is left.
    let plain = text.chars().filter(|c| c.is_whitespace() || !c.is_control()).collect::<String>();
    let parts = || token.split('.').filter(|part| part.len() >= TOKEN_PART_BYTES_MIN);
    let words = plain.split_whitespace();
    let words = words.map(|word| {
        let tells = word.contains("pul-") || (!token.is_empty() && word.contains(token));
        if tells || parts().any(|part| word.contains(part)) { "[REDACTED]" } else { word }
    });
    let text = words.collect::<Vec<_>>().join(" ");
    text.chars().take(MESSAGE_CHARACTERS_MAX).collect()
}

/// Whether a 403 speaks of the organization's policy on how long tokens live, as opposed to a missing permission or a firewall.
/// Its words are not documented; that it names the days is.
pub fn is_expiry_policy(body: &[u8]) -> bool {
    let Some(text) = error_message(body, "").map(|text| text.to_lowercase()) else { return false };
    text.contains("token") && (text.contains("expir") || text.contains("days"))
}

/// Where a token's own account is. Any token may ask.
pub const ACCOUNT_PATH: &str = "/api/user";
/// Most organizations that are named to a person.
const ORGANIZATIONS_SHOWN: usize = 10;
/// Most characters of a name that are kept.
const NAME_CHARACTERS_MAX: usize = 100;

/// Whose a token is, and what it sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    pub kind: TokenKind,
    pub organizations: Vec<Known>,
}

impl Account {
    /// In words, which organizations the token does see, where `org` is not among them.
    pub fn seen_instead_of(&self, org: &str) -> Option<String> {
        let names = || self.organizations.iter().map(|known| known.name.as_str());
        if names().next().is_none() || names().any(|name| name.eq_ignore_ascii_case(org)) {
            return None;
        }
        let shown: Vec<&str> = names().take(ORGANIZATIONS_SHOWN).collect();
        let more = match self.organizations.len() - shown.len() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        Some(format!("This token sees `{}`{more}", shown.join("`, `")))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// A person's, with everything that this person may do.
    Personal {
        login: String,
    },
    Organization {
        name: String,
        organization: String,
    },
    Team {
        name: String,
        organization: String,
        team: String,
    },
}

/// An organization that a token sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    pub name: String,
    pub is_admin: bool,
}

/// Reads the answer to [`ACCOUNT_PATH`]. `tokenInfo` is there for machines' tokens only; `role` is missing from older services.
/// `None` when it is no account.
pub fn parse_account(body: &[u8]) -> Option<Account> {
    #[derive(Deserialize)]
    struct RawAccount {
        #[serde(rename = "githubLogin")]
        login: String,
        #[serde(default)]
        organizations: Option<Vec<RawKnown>>,
        #[serde(rename = "tokenInfo", default)]
        token: Option<RawToken>,
    }
    #[derive(Deserialize)]
    struct RawKnown {
        #[serde(rename = "githubLogin")]
        login: String,
        #[serde(default)]
        role: Option<String>,
    }
    #[derive(Deserialize)]
    struct RawToken {
        #[serde(default)]
        name: String,
        #[serde(default)]
        organization: String,
        #[serde(default)]
        team: Option<String>,
    }
    let cut = |text: String| -> String {
        text.chars().filter(|c| !c.is_control()).take(NAME_CHARACTERS_MAX).collect()
    };
    let raw: RawAccount = serde_json::from_slice(body).ok()?;
    let kind = match raw.token {
        Some(RawToken { name, organization, team }) => {
            let (name, organization) = (cut(name), cut(organization));
            match team.map(cut).filter(|team| !team.is_empty()) {
                Some(team) => TokenKind::Team { name, organization, team },
                None => TokenKind::Organization { name, organization },
            }
        }
        None => TokenKind::Personal { login: cut(raw.login) },
    };
    let known = |known: RawKnown| Known {
        name: cut(known.login),
        is_admin: known.role.is_some_and(|role| role == "admin"),
    };
    Some(Account {
        kind,
        organizations: raw.organizations.unwrap_or_default().into_iter().map(known).collect(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Second = Second(1_795_256_100);

    fn org() -> OrgId {
        OrgId::new("acme").unwrap()
    }

    fn page(events: &[u8]) -> Page {
        let body = [b"{\"auditLogEvents\":[".as_slice(), events, b"],\"continuationToken\":\"7\"}"].concat();
        parse_page(&Bytes::from(body.clone()), &org(), NOW).unwrap()
    }

    fn event(json: &str) -> Event {
        page(json.as_bytes()).events.remove(0)
    }

    const PLAIN: &str = r#"{"timestamp":1795250000,"sourceIP":"203.0.113.7","event":"stack-deleted","description":"Deleted stack \"a/b\"","user":{"name":"Ada","githubLogin":"ada","avatarUrl":"https://x/1.png"}}"#;

    #[test]
    fn null_for_no_events_is_an_empty_page_and_a_missing_list_is_none() {
        assert_eq!(
            parse_page(&Bytes::from_static(b"{\"auditLogEvents\":null}"), &org(), NOW),
            Ok(Page::default())
        );
        for body in [b"".as_slice(), b"{}", b"[]", b"<html>", b"{\"code\":500,\"message\":\"no\"}"] {
            assert!(parse_page(&Bytes::from_static(body), &org(), NOW).is_err());
        }
    }

    #[test]
    fn absent_null_and_empty_tokens_are_the_end_and_numbers_are_tokens() {
        let token = |text: &str| {
            parse_page(&format!("{{\"auditLogEvents\":[]{text}}}").into(), &org(), NOW).unwrap().next
        };
        assert_eq!(token(""), None);
        assert_eq!(token(",\"continuationToken\":null"), None);
        assert_eq!(token(",\"continuationToken\":\"\""), None);
        assert_eq!(token(",\"continuationToken\":1615413365"), Some(PageToken::new("1615413365")));
        assert_eq!(token(",\"continuationToken\":\"eyJ0Ijox\""), Some(PageToken::new("eyJ0Ijox")));
    }

    #[test]
    fn avatar_name_login_and_unknown_fields_do_not_touch_the_identity() {
        let plain = event(PLAIN);
        for changed in [
            PLAIN.replace("1.png", "2.png"),
            PLAIN.replace("Ada", "Countess"),
            PLAIN.replace("\"ada\"", "\"ada2\""),
            PLAIN.replacen('{', "{\"tokenName\":\"ci\",\"actorName\":\"x\",\"new\":[1],\"reqOrgAdmin\":false,\"tokenID\":\"\",", 1),
            PLAIN.replace("Deleted", "Del\\u0065ted"),
        ] {
            let changed = event(&changed);
            assert_eq!(changed.identity, plain.identity);
            assert_ne!(changed.payload, plain.payload);
        }
    }

    #[test]
    fn every_fixed_field_changes_the_identity() {
        let plain = event(PLAIN);
        for changed in [
            PLAIN.replace("1795250000", "1795250001"),
            PLAIN.replace("203.0.113.7", "203.0.113.8"),
            PLAIN.replace("stack-deleted", "stack-created"),
            PLAIN.replace("Deleted", "deleted"),
            PLAIN.replacen('{', "{\"tokenID\":\"t\",", 1),
            PLAIN.replacen('{', "{\"actorUrn\":\"u\",", 1),
            PLAIN.replacen('{', "{\"reqOrgAdmin\":true,", 1),
            PLAIN.replacen('{', "{\"reqStackAdmin\":true,", 1),
            PLAIN.replacen('{', "{\"authFailure\":true,", 1),
        ] {
            assert_ne!(event(&changed).identity, plain.identity, "{changed}");
        }
    }

    #[test]
    fn the_documented_vector_holds() {
        // The page's Python block computes it without this code; continuous integration runs that block too.
        let page = include_str!("../../docs/formats.md");
        let json = page.lines().find(|line| line.starts_with("{\"timestamp\"")).unwrap();
        let identity = event(json).identity;
        let keys = [0, 1].map(|ordinal| crate::event::EventKey::new(&identity, ordinal));
        assert_eq!(
            crate::event::hex(&identity.0),
            "1257d8a5067e4b76983d7d5738cb9bbc078bb976a8481bb3b104da81f0117a34"
        );
        assert_eq!(keys[0].as_str(), "wyE101sN9kOyNW54QEkCPe-iReVygJOnJRoOEZC3KWk");
        assert_eq!(keys[1].as_str(), "EzzRVXHY08axzVBJ04AzMVZXxGpS_FIfMs4TAnRU2PM");
        assert!(page.contains(keys[1].as_str()) && page.contains(&crate::event::hex(&identity.0)));
    }

    #[test]
    fn one_odd_event_never_spoils_its_page() {
        let deep = format!("{{\"timestamp\":1795250000,\"x\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000));
        let odd: Vec<Vec<u8>> = vec![
            b"{\"timestamp\":1795250000,\"description\":\"\xff\xfe\"}".to_vec(),
            b"{\"k\xc3\":1}".to_vec(),
            b"{\"timestamp\":\"1795250000\"}".to_vec(),
            b"{\"timestamp\":1e999}".to_vec(),
            b"{\"timestamp\":18446744073709551617}".to_vec(),
            b"{\"timestamp\":-5}".to_vec(),
            b"{\"timestamp\":1795250000,\"timestamp\":1795250001}".to_vec(),
            b"{\"timestamp\":1795250000,\"description\":\"\\ud800\"}".to_vec(),
            b"7".to_vec(),
            b"null".to_vec(),
            b"[]".to_vec(),
            deep.into_bytes(),
        ];
        for odd in odd {
            let events = page(&[PLAIN.as_bytes(), b" ,", &odd, b", ", PLAIN.as_bytes()].concat()).events;
            assert_eq!(events.len(), 3);
            assert_eq!(events[1].raw, odd);
            assert_eq!(events[0], event(PLAIN));
            assert_eq!(events[2], events[0], "the neighbours read the same whatever stands beside them");
        }
    }

    #[test]
    fn implausible_times_are_no_times() {
        let at = |text: &str| event(&format!("{{\"timestamp\":{text}}}")).at;
        assert_eq!(at("1795256100"), Some(NOW));
        assert_eq!(at(&(NOW.0 + 86_400).to_string()), Some(NOW + 86_400));
        for text in [
            "1795256100000",
            "1420070399",
            "0",
            "null",
            "1795256100.5",
            "true",
            &(NOW.0 + 86_401).to_string(),
        ] {
            assert_eq!(at(text), None, "{text}");
        }
    }

    #[test]
    fn white_space_goes_only_outside_strings() {
        let spaced =
            br#" { "timestamp" : 1795250000 , "description" : "a  \" b \\" , "n" : [ 1.50 , -0 ] } "#;
        assert_eq!(
            page(spaced).events[0].raw,
            br#"{"timestamp":1795250000,"description":"a  \" b \\","n":[1.50,-0]}"#.as_slice()
        );
    }

    #[test]
    fn fields_are_read_with_defaults() {
        let fields = Fields::read(PLAIN);
        assert_eq!(fields.description, "Deleted stack \"a/b\"");
        assert_eq!(fields.user_login, "ada");
        assert!(!fields.auth_failure && fields.token_id.is_empty());
        assert_eq!(Fields::read("[]"), Fields::default());
        assert_eq!(Fields::read("{\"description\":\"x\\ud800\"}").description, "x\u{fffd}\u{fffd}\u{fffd}");
    }

    #[test]
    fn a_query_is_escaped() {
        let query = Query {
            after: Second(1),
            before: Second(2),
            token: Some(PageToken::new("a+b=&")),
            kind: Some(Arc::from("x y")),
        };
        assert_eq!(
            list_path("a/b", &query),
            "/api/orgs/a%2Fb/auditlogs/v2?startTime=1&endTime=2&eventFilter=x%20y&continuationToken=a%2Bb%3D%26"
        );
    }

    #[test]
    fn an_error_message_holds_no_token() {
        let body = br#"{"code":401,"message":"token pul-0123456789 is\ninvalid"}"#;
        assert_eq!(error_message(body, "pul-0123456789").as_deref(), Some("token [REDACTED] is invalid"));
        let hidden = br#"{"message":"p\u0001ul-0123456789 and own\u0002token"}"#;
        assert_eq!(error_message(hidden, "owntoken").as_deref(), Some("[REDACTED] and [REDACTED]"));
        let long = format!(r#"{{"message":"{}owntoken"}}"#, "a ".repeat(97));
        assert!(error_message(long.as_bytes(), "owntoken").is_some_and(|said| !said.contains("owntok")));
        assert_eq!(error_message(b"<html>", "owntoken"), None);
    }

    #[test]
    fn an_account_says_whose_the_token_is() {
        let kind = |more: &str| {
            let body = format!("{{\"githubLogin\":\"alice\",\"organizations\":null{more}}}");
            parse_account(body.as_bytes()).unwrap().kind
        };
        assert_eq!(kind(""), TokenKind::Personal { login: "alice".into() });
        assert_eq!(
            kind(",\"tokenInfo\":{\"name\":\"ci\",\"organization\":\"acme\",\"team\":\"\"}"),
            TokenKind::Organization { name: "ci".into(), organization: "acme".into() }
        );
        assert_eq!(
            kind(",\"tokenInfo\":{\"name\":\"ci\",\"organization\":\"acme\",\"team\":\"ops\"}"),
            TokenKind::Team { name: "ci".into(), organization: "acme".into(), team: "ops".into() }
        );
        let body = br#"{"githubLogin":"a","organizations":[{"githubLogin":"acme","role":"admin"},{"githubLogin":"b"}]}"#;
        let known = parse_account(body).unwrap().organizations;
        assert_eq!(known.iter().map(|known| known.is_admin).collect::<Vec<_>>(), [true, false]);
        assert!(parse_account(b"<html>").is_none());
        let seen = |count: usize, org: &str| {
            let known = |n| Known { name: format!("org-{n}"), is_admin: false };
            let kind = TokenKind::Personal { login: "ada".into() };
            Account { kind, organizations: (0..count).map(known).collect() }.seen_instead_of(org)
        };
        assert_eq!(seen(0, "acme"), None);
        assert_eq!(seen(2, "ORG-1"), None);
        assert_eq!(seen(2, "acme").unwrap(), "This token sees `org-0`, `org-1`");
        assert!(seen(1_000_000, "acme").unwrap().ends_with("`org-9` and 999990 more"));
    }

    proptest! {
        #[test]
        fn nothing_panics_on_any_bytes(body in prop::collection::vec(any::<u8>(), 0..400)) {
            drop(parse_page(&Bytes::from(body.clone()), &org(), NOW));
            let wrapped = [b"{\"auditLogEvents\":[".as_slice(), &body, b"]}"].concat();
            drop(parse_page(&Bytes::from(wrapped), &org(), NOW));
        }
    }
}
