//! ESC environments in Pulumi's words: their names, the paths of requests, and the values in an opened one.
//!
//! An opened environment is a tree of `{ "value": …, "secret"?, "unknown"?, "trace"? }`, also inside maps and lists: the form of
//! Pulumi's open-source ESC types, 2026-08. What an environment holds is secret: nothing of it is kept in parsed form, and no error
//! shows more than the path that was asked for.

use std::collections::HashMap;
use std::fmt;

use percent_encoding::utf8_percent_encode;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{ESCAPED, MESSAGE_CHARACTERS_MAX, cleaned, error_message};
use crate::secret::SecretBytes;

/// How long a session is asked for, in Go's notation.
const SESSION: &str = "2h";
/// Most bytes of one part of a name, and of a session's id.
const NAME_BYTES_MAX: usize = 256;
/// Most steps of a path, and most bytes of its text.
const STEPS_MAX: usize = 32;
const PATH_BYTES_MAX: usize = 1_024;
/// Most diagnostics that are shown.
const DIAGNOSTICS_MAX: usize = 3;

/// An environment, in one version or the newest.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EnvironmentName {
    org: String,
    project: String,
    name: String,
    version: Option<String>,
}

impl EnvironmentName {
    /// Reads `org/project/name` or `org/project/name@version`.
    pub fn parse(text: &str) -> Option<EnvironmentName> {
        let (whole, version) = match text.split_once('@') {
            Some((whole, version)) => (whole, Some(version)),
            None => (text, None),
        };
        let mut parts = whole.split('/').map(str::to_owned);
        let name = EnvironmentName {
            org: parts.next()?,
            project: parts.next()?,
            name: parts.next()?,
            version: version.map(str::to_owned),
        };
        let is_name = |part: &String| {
            (1..=NAME_BYTES_MAX).contains(&part.len())
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
                && part.bytes().any(|b| b != b'.')
        };
        let all = [&name.org, &name.project, &name.name].into_iter().chain(&name.version).all(is_name);
        (all && parts.next().is_none()).then_some(name)
    }

    fn path(&self) -> String {
        let part = |text| utf8_percent_encode(text, ESCAPED);
        format!("/api/esc/environments/{}/{}/{}", part(&self.org), part(&self.project), part(&self.name))
    }

    /// Where it is opened.
    pub fn open_path(&self) -> String {
        let version = match &self.version {
            Some(version) => format!("/versions/{}", utf8_percent_encode(version, ESCAPED)),
            None => String::new(),
        };
        format!("{}{version}/open?duration={SESSION}", self.path())
    }

    /// Where the opened one is read.
    pub fn session_path(&self, session: &str) -> String {
        format!("{}/open/{}", self.path(), utf8_percent_encode(session, ESCAPED))
    }
}

impl fmt::Display for EnvironmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.org, self.project, self.name)?;
        self.version.iter().try_for_each(|version| write!(f, "@{version}"))
    }
}

/// The way to one value: `azure.secret`, `keys[0]`, `files["a.pem"]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PropertyPath {
    text: String,
    steps: Vec<Step>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Step {
    Key(String),
    Index(usize),
}

impl PropertyPath {
    pub fn parse(text: &str) -> Option<PropertyPath> {
        if text.is_empty() || text.len() > PATH_BYTES_MAX || text.contains(char::is_control) {
            return None;
        }
        let mut steps = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let step;
            (step, rest) = match rest.strip_prefix('[') {
                Some(inside) => bracketed(inside)?,
                None => {
                    let key = if steps.is_empty() { rest } else { rest.strip_prefix('.')? };
                    let end = key.find(['.', '[']).unwrap_or(key.len());
                    let plain = end > 0 && !key[..end].contains([']', '"', ' ']);
                    plain.then(|| (Step::Key(key[..end].to_owned()), &key[end..]))?
                }
            };
            steps.push(step);
        }
        (steps.len() <= STEPS_MAX).then(|| PropertyPath { text: text.to_owned(), steps })
    }
}

/// What stands after `[`, and the rest of the path.
fn bracketed(inside: &str) -> Option<(Step, &str)> {
    match inside.strip_prefix('"') {
        Some(quoted) => {
            let (key, rest) = quoted.split_once("\"]")?;
            (!key.contains('"')).then(|| (Step::Key(key.to_owned()), rest))
        }
        None => {
            let (index, rest) = inside.split_once(']')?;
            index.bytes().all(|b| b.is_ascii_digit()).then_some(())?;
            Some((Step::Index(index.parse().ok()?), rest))
        }
    }
}

impl fmt::Display for PropertyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The id of the session that was opened; `None` when the answer names none.
pub fn opened(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Opened {
        id: String,
    }
    let Opened { id } = serde_json::from_slice(body).ok()?;
    let fits = (1..=NAME_BYTES_MAX).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic());
    // A path that ends so would be another.
    (fits && id.bytes().any(|b| b != b'.')).then_some(id)
}

/// What an answer says is wrong: the environment's own diagnostics, or the service's message, without `token` and cut.
pub fn complaint(body: &[u8], token: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Complaint {
        #[serde(default)]
        diagnostics: Option<Vec<Diagnostic>>,
    }
    #[derive(Deserialize)]
    struct Diagnostic {
        #[serde(default)]
        summary: Option<String>,
    }
    let complaint: Option<Complaint> = serde_json::from_slice(body).ok();
    let diagnostics = complaint.and_then(|complaint| complaint.diagnostics).unwrap_or_default();
    let summaries = diagnostics.into_iter().filter_map(|diagnostic| diagnostic.summary);
    let summaries = summaries.map(|summary| cleaned(&summary, token)).filter(|summary| !summary.is_empty());
    let summaries: Vec<String> = summaries.take(DIAGNOSTICS_MAX).collect();
    if summaries.is_empty() {
        return error_message(body, token);
    }
    Some(summaries.join("; ").chars().take(MESSAGE_CHARACTERS_MAX).collect())
}

/// Why there is no value at a path. The path is as far as it was followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoValue {
    #[error("what was read is no opened environment")]
    Form,
    #[error("there is no `{0}` in it")]
    Absent(String),
    #[error("the value of `{0}` is unknown: whatever provides it gave none")]
    Unknown(String),
    #[error("`{path}` is a {kind}, and not a text{hint}")]
    NoText { path: String, kind: &'static str, hint: &'static str },
}

/// One value of an opened environment.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow, default)]
    value: Option<&'a RawValue>,
    #[serde(default)]
    unknown: Option<bool>,
}

/// The text at a path.
///
/// # Errors
/// When there is none. No value is in the error.
pub fn value(body: &[u8], path: &PropertyPath) -> Result<SecretBytes, NoValue> {
    #[derive(Deserialize)]
    struct Environment<'a> {
        #[serde(borrow, default)]
        properties: Option<&'a RawValue>,
    }
    let environment: Environment<'_> = serde_json::from_slice(body).map_err(|_| NoValue::Form)?;
    let mut raw = environment.properties.map_or("{}", RawValue::get);
    let mut followed = String::new();
    for step in &path.steps {
        step.follow(&mut followed);
        raw = step.of(raw).ok_or_else(|| NoValue::Absent(followed.clone()))?.get();
        // A value that is not wrapped is taken as it stands.
        if raw.starts_with('{') {
            let envelope: Envelope<'_> = serde_json::from_str(raw).map_err(|_| NoValue::Form)?;
            if envelope.unknown == Some(true) {
                return Err(NoValue::Unknown(followed));
            }
            raw = envelope.value.map_or("null", RawValue::get);
        }
    }
    let (kind, hint) = match raw.as_bytes().first() {
        Some(b'"') => {
            let text: String = serde_json::from_str(raw).map_err(|_| NoValue::Form)?;
            return Ok(SecretBytes::new(text.into_bytes()));
        }
        Some(b'{') => ("map", ": name one of its keys"),
        Some(b'[') => ("list", ": name one of its items"),
        Some(b't' | b'f') => ("truth value", ": put it in quotes in the environment"),
        Some(b'n') | None => ("null", ""),
        Some(_) => ("number", ": put it in quotes in the environment"),
    };
    Err(NoValue::NoText { path: followed, kind, hint })
}

impl Step {
    fn follow(&self, followed: &mut String) {
        match self {
            Step::Index(index) => followed.push_str(&format!("[{index}]")),
            Step::Key(key) if key.contains(['.', '[', ' ']) => followed.push_str(&format!("[\"{key}\"]")),
            Step::Key(key) if followed.is_empty() => followed.push_str(key),
            Step::Key(key) => followed.push_str(&format!(".{key}")),
        }
    }

    /// What a map or list has there.
    fn of<'a>(&self, raw: &'a str) -> Option<&'a RawValue> {
        match self {
            Step::Key(key) => {
                let map: HashMap<String, &'a RawValue> = serde_json::from_str(raw).ok()?;
                map.get(key).copied()
            }
            Step::Index(index) => {
                let list: Vec<&'a RawValue> = serde_json::from_str(raw).ok()?;
                list.get(*index).copied()
            }
        }
    }
}

/// Any answer about an environment, and any text for a path: what is read stands in the answer, and no message shows it.
#[cfg(any(test, fuzzing))]
#[expect(clippy::expect_used, reason = "a property: it panics where it does not hold")]
pub(in crate::pulumi) fn property(bytes: &[u8]) {
    use crate::hostile::given::{CANARY, assert_fit_to_print};

    if let Some(complaint) = complaint(bytes, CANARY) {
        assert_fit_to_print(&complaint);
        assert!(!complaint.contains("pul-"), "{complaint}");
    }
    let name = EnvironmentName::parse("acme/infra/siem@7").expect("a good name");
    if let Some(session) = opened(bytes) {
        let path = name.session_path(&session);
        assert!(path.bytes().all(|b| b.is_ascii_graphic()) && path.matches('/').count() == 8, "{path}");
        assert!(!path.contains(['?', '#']) && !path.ends_with("/.."), "{path}");
    }
    // A path before the first NUL, an environment behind it; and the path that the seeds are made for.
    let mut parts = bytes.splitn(2, |byte| *byte == 0);
    let text = parts.next().and_then(|text| std::str::from_utf8(text).ok()).unwrap_or_default();
    let body = parts.next().unwrap_or(bytes);
    for text in [text, "azure.keys[1][\"a.b\"]"] {
        let Some(path) = PropertyPath::parse(text) else { continue };
        assert_eq!(path.to_string(), text);
        match value(body, &path) {
            Ok(secret) => assert!(secret.expose().len() <= body.len()),
            Err(error) => {
                let said = error.to_string();
                assert!(!said.chars().any(char::is_control) && said.len() <= 2 * PATH_BYTES_MAX, "{said}");
            }
        }
    }
    if let Some(parsed) = EnvironmentName::parse(text) {
        assert_eq!(parsed.to_string(), text);
        assert!(parsed.open_path().bytes().all(|b| b.is_ascii_graphic()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPENED: &str = r#"{
        "exprs": {"azure": {"range": {}}},
        "properties": {
            "azure": {"value": {
                "secret": {"value": "canary-1", "secret": true, "trace": {"def": {}}},
                "tenant.id": {"value": "t"},
                "pin": {"value": 1234},
                "later": {"value": "[unknown]", "unknown": true},
                "keys": {"value": [{"value": "canary-a"}, {"value": {"pem": {"value": "l1\nl2\n", "secret": true}}}]}
            }},
            "none": {"value": null},
            "on": {"value": true},
            "unknown": {"unknown": true}
        },
        "schema": {}
    }"#;

    fn at(path: &str) -> Result<String, String> {
        let path = PropertyPath::parse(path).unwrap();
        let found = value(OPENED.as_bytes(), &path);
        found
            .map(|secret| String::from_utf8(secret.expose().to_vec()).unwrap())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_path_leads_through_maps_and_lists() {
        for (path, text) in [
            ("azure.secret", "canary-1"),
            (r#"azure["tenant.id"]"#, "t"),
            (r#"["azure"].secret"#, "canary-1"),
            ("azure.keys[0]", "canary-a"),
            ("azure.keys[1].pem", "l1\nl2\n"),
        ] {
            assert_eq!(at(path).as_deref(), Ok(text), "{path}");
        }
    }

    #[test]
    fn what_cannot_be_had_is_named_by_its_path_and_never_shown() {
        for (path, part) in [
            ("azure.sekret", "there is no `azure.sekret`"),
            ("gcp.secret", "there is no `gcp` in"),
            ("azure.keys[2]", "there is no `azure.keys[2]`"),
            ("azure.secret.x", "there is no `azure.secret.x`"),
            ("azure.keys.x", "there is no `azure.keys.x`"),
            ("azure.later", "`azure.later` is unknown"),
            ("unknown.below", "`unknown` is unknown"),
            ("azure", "`azure` is a map"),
            ("azure.keys", "`azure.keys` is a list"),
            ("azure.pin", "`azure.pin` is a number, and not a text: put it in quotes"),
            ("none", "`none` is a null"),
            ("on", "`on` is a truth value"),
        ] {
            let error = at(path).unwrap_err();
            assert!(error.contains(part), "{path}: {error}");
            assert!(!error.contains("canary") && !error.contains("1234"), "{error}");
        }
        let path = PropertyPath::parse("a").unwrap();
        assert_eq!(value(br#"{"properties":{"a":"plain"}}"#, &path).unwrap().expose(), b"plain");
        for body in ["", "7", "<html>", r#"{"properties":{"a":{"unknown":7}}}"#] {
            assert_eq!(value(body.as_bytes(), &path).unwrap_err(), NoValue::Form, "{body}");
        }
        assert_eq!(value(b"{}", &path).unwrap_err(), NoValue::Absent("a".into()));
    }

    #[test]
    fn a_path_that_leads_nowhere_is_refused() {
        for path in [
            "", ".", "a.", ".a", "a..b", "a[", "a[]", "a[x]", "a[-1]", "a[\"x]", "a]b", "a b", "a\nb",
            "a[0]b",
        ] {
            assert_eq!(PropertyPath::parse(path), None, "{path}");
        }
        assert!(PropertyPath::parse(&"a.".repeat(40)).is_none());
        assert!(PropertyPath::parse(&vec!["a"; STEPS_MAX + 1].join(".")).is_none());
        assert!(PropertyPath::parse("a[0][1].b").is_some());
    }

    #[test]
    fn an_environment_is_named_by_three_parts_and_perhaps_a_version() {
        let parse = EnvironmentName::parse;
        let name = parse("acme/infra/siem.prod").unwrap();
        assert_eq!(name.open_path(), "/api/esc/environments/acme/infra/siem.prod/open?duration=2h");
        assert_eq!(name.session_path("s/1"), "/api/esc/environments/acme/infra/siem.prod/open/s%2F1");
        let stable = parse("acme/infra/siem@stable").unwrap();
        assert_eq!(
            stable.open_path(),
            "/api/esc/environments/acme/infra/siem/versions/stable/open?duration=2h"
        );
        assert_eq!(stable.to_string(), "acme/infra/siem@stable");
        for bad in [
            "",
            "acme",
            "acme/siem",
            "a/b/c/d",
            "a//c",
            "a/b/c@",
            "a/b/c@1@2",
            "a/b/..",
            "a b/c/d",
            "a/b/c#d",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn diagnostics_are_cut_and_cleaned() {
        let body = br#"{"code":400,"message":"bad","diagnostics":[{"summary":"no provider `x`\nthere","range":{}},{"detail":"y"},{"summary":"token pul-1"}]}"#;
        assert_eq!(complaint(body, "own").as_deref(), Some("no provider `x` there; token [REDACTED]"));
        assert_eq!(
            complaint(br#"{"code":403,"message":"own denied"}"#, "own").as_deref(),
            Some("[REDACTED] denied")
        );
        assert_eq!(complaint(b"<html>", "own"), None);
        let many =
            format!(r#"{{"diagnostics":[{}{{"summary":"x"}}]}}"#, r#"{"summary":"long words "},"#.repeat(90));
        assert!(complaint(many.as_bytes(), "own").is_some_and(|said| said.len() <= MESSAGE_CHARACTERS_MAX));
    }

    #[test]
    fn a_session_that_would_change_the_path_is_none() {
        assert_eq!(opened(br#"{"id":"s-1","diagnostics":[]}"#).as_deref(), Some("s-1"));
        for body in [r#"{"id":""}"#, r#"{"id":".."}"#, r#"{"id":"a b"}"#, r#"{"id":7}"#, "{}", ""] {
            assert_eq!(opened(body.as_bytes()), None, "{body}");
        }
    }
}
