//! Layers: defaults ◀ `forwarder.toml` ◀ the org's file ◀ environment, merged by figment, and where each value came from.
//!
//! A [`View`] is one merged configuration, the daemon's own or one org's. Reading it does not stop at the first mistake: what is
//! wrong is noted and taken out, and the rest is read again.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use figment::error::{Actual, Kind};
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};
use serde::de::DeserializeOwned;

use super::document::Document;
use super::mistake::Mistake;
use super::{ENVIRONMENT_PREFIX, ShownValue};
use crate::mutant;

/// Where a layer's values come from.
#[derive(Clone)]
pub(super) enum Origin {
    /// Built in; the text says so to people.
    Default(&'static str),
    File(Arc<Document>),
    Environment(Arc<[Variable]>),
}

/// An environment variable that sets a key.
#[derive(Debug)]
pub(super) struct Variable {
    pub(super) name: String,
    pub(super) key: Vec<String>,
    pub(super) text: String,
}

#[derive(Clone)]
pub(super) struct Layer {
    pub(super) origin: Origin,
    pub(super) values: Dict,
}

impl Provider for &Layer {
    fn metadata(&self) -> Metadata {
        match &self.origin {
            Origin::Default(name) => Metadata::named(*name),
            Origin::File(document) => Metadata::from("TOML file", document.path.as_path()),
            Origin::Environment(_) => Metadata::named("environment"),
        }
    }

    fn data(&self) -> figment::error::Result<Map<Profile, Dict>> {
        Ok(Map::from([(Profile::Default, self.values.clone())]))
    }
}

/// Brackets in a variable, of which no setting has more than a few.
const NESTED_MAX: usize = 100;

/// Reads `PAF_SOURCE__POLL_INTERVAL` and its like into a layer. `PAF_CONFIG` names the file and is no key.
///
/// *Why not figment's own provider:* it reads the process's environment, which a test cannot set safely.
pub(super) fn environment(variables: &[(String, String)]) -> Layer {
    let found: Vec<Variable> = variables
        .iter()
        .filter(|(name, _)| name != "PAF_CONFIG" && !mutant::is_switch(name))
        .filter_map(|(name, text)| {
            let key = name.strip_prefix(ENVIRONMENT_PREFIX)?.to_ascii_lowercase();
            let key = key.split("__").map(str::to_owned).collect();
            Some(Variable { name: name.clone(), key, text: text.clone() })
        })
        .collect();
    let mut values = Dict::new();
    for variable in &found {
        // `true`, `2` and `["1h", "6h"]` are what they look like; everything else is text.
        let nested = variable.text.bytes().filter(|byte| matches!(byte, b'[' | b'{')).count();
        let value = match nested {
            // Read by a function that calls itself for each.
            NESTED_MAX.. => Value::from(variable.text.as_str()),
            _ => variable.text.parse::<Value>().unwrap_or_else(|never| match never {}),
        };
        insert(&mut values, &variable.key, value);
    }
    Layer { origin: Origin::Environment(found.into()), values }
}

fn insert(values: &mut Dict, key: &[String], value: Value) {
    match key {
        [] => {}
        [last] => {
            values.insert(last.clone(), value);
        }
        [first, rest @ ..] => {
            let inner = values.entry(first.clone()).or_insert_with(|| Value::from(Dict::new()));
            if !matches!(inner, Value::Dict(..)) {
                *inner = Value::from(Dict::new());
            }
            if let Value::Dict(_, inner) = inner {
                insert(inner, rest, value);
            }
        }
    }
}

pub(super) fn find<'a>(values: &'a Dict, key: &[String]) -> Option<&'a Value> {
    let (first, rest) = key.split_first()?;
    let value = values.get(first)?;
    match (rest, value) {
        ([], value) => Some(value),
        (rest, Value::Dict(_, inner)) => find(inner, rest),
        (rest, Value::Array(_, items)) => {
            rest.first()?.parse::<usize>().ok().and_then(|index| items.get(index))
        }
        _ => None,
    }
}

/// Takes a value out; of a list, the whole list.
fn remove(values: &mut Dict, key: &[String]) -> bool {
    match key {
        [] => false,
        [last] => values.remove(last).is_some(),
        [first, rest @ ..] => match values.get_mut(first) {
            Some(Value::Dict(_, inner)) => remove(inner, rest),
            Some(Value::Array(..)) => values.remove(first).is_some(),
            _ => false,
        },
    }
}

/// Tables that choose one of several forms. Merging two choices key by key would make a third that nobody wrote, so the upper one
/// replaces the lower one. The second entry is the key that makes the choice; without one, any key does.
const CHOICES: [(&[&str], Option<&str>); 11] = [
    (&["source", "token"], None),
    (&["source", "next_token"], None),
    (&["sentinel", "identity"], Some("kind")),
    (&["sentinel", "identity", "secret"], None),
    (&["sentinel", "identity", "certificate"], None),
    (&["sentinel", "identity", "password"], None),
    (&["sentinel", "identity", "next_secret"], None),
    (&["sentinel", "identity", "next_certificate"], None),
    (&["sentinel", "identity", "next_password"], None),
    (&["s3", "secret_access_key"], None),
    (&["s3", "next_secret_access_key"], None),
];

/// A key of an upper layer, and one of a lower layer that it stands in place of.
const INSTEAD: [(&[&str], &[&str]); 3] = [
    (&["source", "oidc"], &["source", "token"]),
    (&["source", "oidc"], &["source", "next_token"]),
    (&["source", "token"], &["source", "oidc"]),
];

fn owned(key: &[&str]) -> Vec<String> {
    key.iter().map(|part| (*part).to_owned()).collect()
}

fn is_secret(key: &[String]) -> bool {
    let holds = |part: &String| {
        matches!(
            part.strip_prefix("next_").unwrap_or(part),
            "token" | "secret" | "secret_access_key" | "certificate" | "password"
        )
    };
    // `file`, `env` and `esc` say where a secret is, not what it is.
    let place = key.last().is_some_and(|last| matches!(last.as_str(), "file" | "env" | "esc"));
    key.iter().any(holds) && !place
}

/// One merged configuration.
pub(super) struct View {
    /// From the lowest to the highest.
    layers: Vec<Layer>,
    /// The document that is spoken of when a key is missing altogether.
    home: Option<Arc<Document>>,
    /// Keys already found wrong, so that their absence is not reported as well.
    broken: BTreeSet<Vec<String>>,
    pub(super) mistakes: Vec<Mistake>,
    /// What is allowed but unwise.
    pub(super) warnings: Vec<String>,
}

impl View {
    pub(super) fn new(mut layers: Vec<Layer>, home: Option<Arc<Document>>) -> View {
        for (table, chooser) in CHOICES {
            let mut chosen_by = owned(table);
            let table = chosen_by.clone();
            chosen_by.extend(chooser.map(str::to_owned));
            let chooses = |layer: &Layer| {
                find(&layer.values, &chosen_by).is_some()
                    || find(&layer.values, &table).is_some_and(|value| !matches!(value, Value::Dict(..)))
            };
            if let Some(top) = layers.iter().rposition(chooses) {
                for layer in &mut layers[..top] {
                    remove(&mut layer.values, &table);
                }
            }
        }
        for (upper, lower) in INSTEAD.map(|(upper, lower)| (owned(upper), owned(lower))) {
            if let Some(top) = layers.iter().rposition(|layer| find(&layer.values, &upper).is_some()) {
                for layer in &mut layers[..top] {
                    remove(&mut layer.values, &lower);
                }
            }
        }
        View { layers, home, broken: BTreeSet::new(), mistakes: Vec::new(), warnings: Vec::new() }
    }

    /// Reads the merged values. Each mistake found is noted, and its value taken out.
    pub(super) fn read<T: DeserializeOwned + Default>(&mut self) -> T {
        loop {
            let figment = self.layers.iter().fold(Figment::new(), |figment, layer| figment.merge(layer));
            let error = match figment.extract::<T>() {
                Ok(values) => return values,
                Err(error) => error,
            };
            if self.reread_as_text(&error) {
                continue;
            }
            self.note(&error);
            // Every round takes a value out of a layer, so the rounds come to an end.
            let mut removed = false;
            for layer in &mut self.layers {
                removed |=
                    !matches!(layer.origin, Origin::Default(_)) && remove(&mut layer.values, &error.path);
            }
            self.broken.insert(error.path);
            if !removed {
                return T::default();
            }
        }
    }

    /// A variable's value that looks like a number may be meant as text: `PAF_S3__PREFIX=2026`.
    fn reread_as_text(&mut self, error: &figment::Error) -> bool {
        let Kind::InvalidType(
            Actual::Bool(_) | Actual::Unsigned(_) | Actual::Signed(_) | Actual::Float(_),
            _,
        ) = error.kind
        else {
            return false;
        };
        let Some(Layer { origin: Origin::Environment(variables), values }) = self.layers.last_mut() else {
            return false;
        };
        match (variables.iter().find(|variable| variable.key == error.path), find(values, &error.path)) {
            (Some(variable), Some(value)) if value.as_str().is_none() => {
                insert(values, &variable.key, Value::from(variable.text.as_str()));
                true
            }
            _ => false,
        }
    }

    fn note(&mut self, error: &figment::Error) {
        let name = error.path.last().cloned().unwrap_or_default();
        let (text, show) = match &error.kind {
            Kind::UnknownField(_, known) => {
                let mut text = unknown(&name, known);
                if matches!(self.origin(&error.path), Some(Origin::Environment(_))) {
                    text.push_str("; variables that begin with PAF_ are keys of forwarder.toml");
                }
                (text, false)
            }
            Kind::UnknownVariant(_, known) => (format!("give one of `{}`", known.join("`, `")), true),
            Kind::InvalidType(..) if is_secret(&error.path) => (
                "a secret is never written into a configuration file: \
                 give { file = \"…\" } or { env = \"…\" }, and replace the secret if it was real"
                    .into(),
                false,
            ),
            Kind::InvalidType(_, wanted) | Kind::InvalidValue(_, wanted) | Kind::InvalidLength(_, wanted) => {
                (format!("give {}", plain(wanted)), true)
            }
            Kind::Message(text) => (text.clone(), true),
            _ => ("this value cannot be used: see the reference for what this key takes".into(), false),
        };
        let mistake = self.mistake(&error.path, text, show);
        self.push(mistake);
    }

    fn push(&mut self, mistake: Mistake) {
        if !self.mistakes.contains(&mistake) {
            self.mistakes.push(mistake);
        }
    }

    /// Notes that a value is impossible.
    pub(super) fn refuse(&mut self, key: &[&str], text: impl Into<String>) {
        self.refuse_at(key, text, true);
    }

    /// The same for a value that may hold something secret, such as an address with a password in it.
    pub(super) fn refuse_unseen(&mut self, key: &[&str], text: impl Into<String>) {
        self.refuse_at(key, text, false);
    }

    fn refuse_at(&mut self, key: &[&str], text: impl Into<String>, show: bool) {
        let key = owned(key);
        let mistake = self.mistake(&key, text.into(), show);
        self.push(mistake);
        self.broken.insert(key);
    }

    /// Notes that something is wrong with the file as a whole.
    pub(super) fn refuse_whole(&mut self, text: &str) {
        let mistake = Mistake::new(self.home_text(), text);
        self.push(mistake);
    }

    /// Notes that a value is allowed but unwise.
    pub(super) fn warn(&mut self, key: &[&str], text: &str) {
        let key = owned(key);
        self.warnings.push(format!("{}: {} {text}", self.origin_text(&key), key.join(".")));
    }

    fn home_text(&self) -> String {
        self.home.as_ref().map_or_else(|| "configuration".into(), |home| home.path.display().to_string())
    }

    /// Notes that a key is missing, unless it or what it belongs to was found wrong before.
    pub(super) fn missing(&mut self, key: &[&str], remedy: &str) {
        let key = owned(key);
        if (1..=key.len()).any(|length| self.broken.contains(&key[..length])) {
            return;
        }
        let text = format!("`{}` is missing: {remedy}", key.join("."));
        // The nearest table that is written down.
        let parent = (1..key.len()).rev().map(|length| &key[..length]).find(|parent| {
            self.home.as_ref().is_some_and(|home| home.spot(parent).is_some())
                || self.origin(parent).is_some_and(|origin| !matches!(origin, Origin::Default(_)))
        });
        let mistake = match (parent, &self.home) {
            (Some(parent), Some(home)) if home.spot(parent).is_some() => home.mistake(parent, text, false),
            (Some(parent), _) => self.mistake(parent, text, false),
            (None, _) => Mistake::new(self.home_text(), text),
        };
        self.push(mistake);
    }

    /// Whether the key, or what it belongs to, was found wrong and is therefore absent.
    pub(super) fn found_wrong(&self, key: &[&str]) -> bool {
        let key = owned(key);
        (1..=key.len()).any(|length| self.broken.contains(&key[..length]))
    }

    /// Whether something inside the key's table was found wrong.
    pub(super) fn found_wrong_below(&self, key: &[&str]) -> bool {
        let key = owned(key);
        self.broken.iter().any(|broken| broken.starts_with(&key))
    }

    fn mistake(&self, key: &[String], text: String, show: bool) -> Mistake {
        match self.origin(key) {
            Some(Origin::File(document)) => document.mistake(key, text, show && !is_secret(key)),
            Some(Origin::Environment(variables)) => {
                let under =
                    |variable: &&Variable| variable.key.starts_with(key) || key.starts_with(&variable.key);
                let Some(variable) = variables.iter().find(under) else {
                    return Mistake::new("environment", text);
                };
                let mistake = Mistake::new("environment", text);
                // A variable may set a whole table, and a table may hold a secret beside what is spoken of.
                let item = key.split_last().filter(|(index, _)| index.parse::<usize>().is_ok());
                let alone = variable.key == key || item.is_some_and(|(_, list)| variable.key == list);
                if show && alone && !is_secret(key) {
                    mistake.at_value(&variable.name, &variable.text)
                } else {
                    mistake.at_key(&variable.name)
                }
            }
            Some(Origin::Default(name)) => {
                let value = find_text(&self.layers, key);
                Mistake::new(format!("{} ({name})", self.home_text()), text).at_value(&key.join("."), &value)
            }
            None => Mistake::new(self.home_text(), text),
        }
    }

    /// The highest layer that has the key.
    fn origin(&self, key: &[String]) -> Option<&Origin> {
        self.layers.iter().rev().find(|layer| find(&layer.values, key).is_some()).map(|layer| &layer.origin)
    }

    /// The file a value stands in, to which its relative path is relative; `None` for the environment and defaults.
    pub(super) fn file_of(&self, key: &[&str]) -> Option<&Path> {
        match self.origin(&owned(key)) {
            Some(Origin::File(document)) => Some(&document.path),
            _ => None,
        }
    }

    /// The file that a built-in relative path is relative to.
    pub(super) fn default_beside(&self, key: &[&str]) -> Option<&Path> {
        match self.origin(&owned(key)) {
            None | Some(Origin::Default(_)) => self.home.as_ref().map(|home| home.path.as_path()),
            Some(_) => None,
        }
    }

    /// Every merged value with the place it came from, in alphabetical order, plain keys before sections.
    pub(super) fn shown(&self) -> Vec<ShownValue> {
        let figment = self.layers.iter().fold(Figment::new(), |figment, layer| figment.merge(layer));
        let Ok(values) = figment.extract::<Dict>() else { return Vec::new() };
        let mut shown = Vec::new();
        self.collect(&values, &mut Vec::new(), &mut shown);
        shown.sort_by_key(|value| value.key.len() > 1);
        shown
    }

    fn collect(&self, values: &Dict, at: &mut Vec<String>, shown: &mut Vec<ShownValue>) {
        for (name, value) in values {
            at.push(name.clone());
            match value {
                Value::Dict(_, inner) if !inner.is_empty() => self.collect(inner, at, shown),
                value => shown.push(ShownValue {
                    key: at.clone(),
                    value: toml_text(value),
                    origin: self.origin_text(at),
                }),
            }
            at.pop();
        }
    }

    fn origin_text(&self, key: &[String]) -> String {
        match self.origin(key) {
            Some(Origin::File(document)) => match document.spot(key) {
                Some(spot) => document.place(spot),
                None => document.path.display().to_string(),
            },
            Some(Origin::Environment(variables)) => variables
                .iter()
                .find(|variable| variable.key == key)
                .map_or_else(|| "environment".into(), |variable| format!("environment {}", variable.name)),
            Some(Origin::Default(name)) => (*name).to_owned(),
            None => "default".into(),
        }
    }
}

fn find_text(layers: &[Layer], key: &[String]) -> String {
    layers.iter().rev().find_map(|layer| find(&layer.values, key)).map(toml_text).unwrap_or_default()
}

fn unknown(name: &str, known: &[&str]) -> String {
    let near = known.iter().map(|known| (distance(name, known), known)).min();
    match near {
        Some((letters, near)) if letters <= 2 && letters * 2 < name.len() => {
            format!("unknown key: is `{near}` meant?")
        }
        _ => format!("unknown key: remove it; known here are `{}`", known.join("`, `")),
    }
}

/// Letters to change to get from one key to the other.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().take(64).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let changed = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

/// serde's words for what was expected, in those of the file.
fn plain(expected: &str) -> String {
    match expected {
        "a string" | "path string" | "a path" => "a text in quotes".into(),
        "a boolean" => "true or false".into(),
        "a sequence" => "a list in square brackets".into(),
        "f64" => "a number".into(),
        "map" => "a table".into(),
        other if other.starts_with("struct ") => "a table".into(),
        other if other == "enum" || other.starts_with("enum ") => "a text in quotes".into(),
        other => other.to_owned(),
    }
}

/// A value as TOML.
fn toml_text(value: &Value) -> String {
    match value {
        Value::String(_, text) => toml::Value::from(text.as_str()).to_string(),
        Value::Char(_, c) => toml::Value::from(c.to_string()).to_string(),
        Value::Bool(_, yes) => yes.to_string(),
        Value::Num(_, number) => match (number.to_i128(), number.to_f64()) {
            (Some(number), _) => number.to_string(),
            (None, Some(number)) => number.to_string(),
            (None, None) => number.to_u128().map(|number| number.to_string()).unwrap_or_default(),
        },
        Value::Empty(..) => "\"\"".into(),
        Value::Dict(_, values) => {
            let parts: Vec<String> =
                values.iter().map(|(name, value)| format!("{name} = {}", toml_text(value))).collect();
            if parts.is_empty() { "{}".into() } else { format!("{{ {} }}", parts.join(", ")) }
        }
        Value::Array(_, items) => {
            format!("[{}]", items.iter().map(toml_text).collect::<Vec<_>>().join(", "))
        }
    }
}
