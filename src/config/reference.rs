//! The reference of every key, as Markdown, generated from the doc comments of the file types.
//!
//! It adds nothing to what they say but order, kinds and the names of environment variables. A key that this version refuses is no
//! field of any type, so it cannot get in here.
//!
//! *Why the order is asked of serde:* a schema's properties are sorted by their names, and a reference that begins with
//! `allow_http` helps nobody. The fields' own order is what serde lists when it meets a key it does not know.

use std::collections::BTreeSet;

use figment::Figment;
use figment::error::Kind;
use figment::providers::Serialized;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::schema::{FORWARDER_FILE, ORG_FILE, definitions, referred};
use super::{ENVIRONMENT_PREFIX, ForwarderFile, OrgFile};

/// Deepest nesting of tables that is followed.
const DEPTH_MAX: usize = 6;

const INTRODUCTION: &str = "\
# Configuration

<!-- Generated from the doc comments in src/config.rs by `pulumi-audit-forwarder config reference`. Change them, not this page. -->

Two kinds of TOML files: `forwarder.toml`, and one file for each organization. What is not written anywhere has the default named here;
`forwarder.toml` wins over that, the org's own file over both, and the environment over every file. `pulumi-audit-forwarder config show`
prints what all of them come to and where each value came from; `check --offline` says what is wrong, with file and line.

Relative paths are relative to the file they stand in. A duration is a text such as `\"90s\"`, `\"5m\"`, `\"1h30m\"`, `\"7d\"`; a size is a text such
as `\"512MiB\"`, `\"10GiB\"`. Unknown keys are refused. For an editor that knows JSON Schema, `config schema forwarder` and `config schema org`
print one.

## Changes while the daemon runs

The daemon takes up a changed file by itself within a few seconds, a changed secret or certificate file included, and at once at SIGHUP
(`systemctl reload`). What is valid is put in force org by org: a new file is an org that starts; an org whose settings differ finishes the requests
under way and goes on from where it stands with the new ones; the others are not touched. An org whose file is gone delivers what it can within ten
seconds and is `retired`: its state is kept, and it goes on from there when a file with the same name comes back. A configuration with a mistake
changes nothing: the log, `status` and `pulumi_audit_config_last_reload_successful` say so until it is mended. Only `state_dir`, `admin.listen`
and `log.format` wait for the next start of the daemon, and `status` names them; so do environment variables, which no running process sees.

An organization that was renamed in Pulumi Cloud is paused, and the remedy names the organizations that the token sees. Set `org` to the new name
and keep the file's name: it goes on with the same coverage, event keys and numbers.
";

/// The whole page.
pub fn markdown() -> String {
    let page = Page { definitions: definitions() };
    let shared = page.shared_sections();
    let places = page.in_several_places();
    let mut text = INTRODUCTION.to_owned();
    text.push_str("\n## `forwarder.toml`\n\n");
    text.push_str(&paragraphs(page.description(FORWARDER_FILE)));
    page.table::<ForwarderFile>(&mut text, FORWARDER_FILE, &mut Vec::new(), &[&shared[..], &places].concat());
    text.push_str("\n## The file of an org\n\n");
    text.push_str(&paragraphs(page.description(ORG_FILE)));
    page.table::<OrgFile>(&mut text, ORG_FILE, &mut Vec::new(), &[&shared[..], &places].concat());
    text.push_str(
        "\n## Sections of both files\n\nIn `forwarder.toml` they hold defaults for every org; in an org's file they count for that org.\n",
    );
    for (section, name) in page.fields::<OrgFile>(ORG_FILE, &[]).into_iter().filter_map(|(key, schema)| {
        let name = referred(&schema).filter(|name| shared.iter().any(|shared| shared == name))?;
        Some((key, name.to_owned()))
    }) {
        text.push_str(&format!("\n### `[{section}]`\n\n"));
        text.push_str(&paragraphs(page.description(&name)));
        page.table::<ForwarderFile>(&mut text, &name, &mut vec![section], &places);
    }
    for name in &places {
        text.push_str(&format!("\n## {}\n\n", title(name)));
        text.push_str(&paragraphs(page.description(name)));
        for (key, schema) in page.fields::<OrgFile>(name, &["source".into(), "token".into()]) {
            text.push_str(&format!("\n### `{key}`\n\n*{}*\n\n", page.kind(&schema)));
            text.push_str(&paragraphs(described(&schema)));
        }
    }
    text
}

struct Page {
    definitions: Map<String, Value>,
}

impl Page {
    /// The keys of a table, one heading each; a table inside is gone into, unless it has a place of its own (`elsewhere`).
    fn table<File: DeserializeOwned>(
        &self,
        text: &mut String,
        name: &str,
        at: &mut Vec<String>,
        elsewhere: &[String],
    ) {
        let mut tables = Vec::new();
        for (key, schema) in self.fields::<File>(name, at) {
            let path = [at.as_slice(), std::slice::from_ref(&key)].concat();
            match referred(&schema)
                .filter(|name| self.is_table(name) && title(name).is_empty())
                .map(str::to_owned)
            {
                Some(inner) => tables.push((path, schema, inner)),
                None => {
                    let about = self.about(name, &path, &schema);
                    text.push_str(&format!("\n#### `{}`\n\n{about}\n\n", path.join(".")));
                    text.push_str(&paragraphs(described(&schema)));
                }
            }
        }
        for (path, schema, inner) in tables.into_iter().filter(|(path, ..)| path.len() <= DEPTH_MAX) {
            // A section of a file is a heading of its own; a table within one is written in one line, as `identity = { … }` is.
            match path.as_slice() {
                [section] => text.push_str(&format!("\n### `[{section}]`\n\n")),
                _ => text.push_str(&format!("\n#### `{}`\n\n*table*\n\n", path.join("."))),
            }
            text.push_str(&paragraphs(described(&schema)));
            if elsewhere.contains(&inner) {
                text.push_str("\nIts keys stand under *Sections of both files*.\n");
            } else {
                self.table::<File>(text, &inner, &mut path.clone(), elsewhere);
            }
        }
    }

    /// The kind of a key and, where it can be given so, its environment variable.
    fn about(&self, table: &str, path: &[String], schema: &Map<String, Value>) -> String {
        let kind = self.kind(schema);
        let is_table = referred(schema).is_some_and(|name| self.is_table(name));
        if table == ORG_FILE || is_table {
            return format!("*{kind}*");
        }
        format!("*{kind}* · `{ENVIRONMENT_PREFIX}{}`", path.join("__").to_uppercase())
    }

    /// The fields of a table in the order of its type.
    fn fields<File: DeserializeOwned>(&self, name: &str, at: &[String]) -> Vec<(String, Map<String, Value>)> {
        let mut fields = self.properties(name);
        let order = order::<File>(at);
        let place = |key: &str| order.iter().position(|known| *known == key).unwrap_or(usize::MAX);
        fields.sort_by_key(|(key, _)| place(key));
        fields
    }

    fn properties(&self, name: &str) -> Vec<(String, Map<String, Value>)> {
        let properties = self.definitions.get(name).and_then(|definition| definition.get("properties"));
        let properties = properties.and_then(Value::as_object).into_iter().flatten();
        properties.filter_map(|(key, schema)| Some((key.clone(), schema.as_object()?.clone()))).collect()
    }

    fn is_table(&self, name: &str) -> bool {
        self.definitions.get(name).is_some_and(|definition| definition.get("properties").is_some())
    }

    fn description(&self, name: &str) -> &str {
        self.definitions.get(name).and_then(Value::as_object).map(described).unwrap_or_default()
    }

    /// Types of sections that both files have.
    fn shared_sections(&self) -> Vec<String> {
        let sections = |file: &str| -> Vec<String> {
            let fields = self.properties(file);
            fields.iter().filter_map(|(_, schema)| referred(schema)).map(str::to_owned).collect()
        };
        let of_org = sections(ORG_FILE);
        sections(FORWARDER_FILE)
            .into_iter()
            .filter(|name| of_org.contains(name) && self.is_table(name))
            .collect()
    }

    /// Types of tables that stand under more than one key below the files themselves: explained once.
    fn in_several_places(&self) -> Vec<String> {
        let files = [FORWARDER_FILE, ORG_FILE];
        let inner = self.definitions.keys().filter(|name| !files.contains(&name.as_str()));
        let used: Vec<String> = inner
            .flat_map(|name| self.properties(name))
            .filter_map(|(_, schema)| referred(&schema).filter(|name| self.is_table(name)).map(str::to_owned))
            .collect();
        let several =
            |name: &&String| !title(name).is_empty() && used.iter().filter(|other| other == name).count() > 1;
        let several: BTreeSet<&String> = used.iter().filter(several).collect();
        several.into_iter().cloned().collect()
    }

    /// What is to be written for a key, in words.
    fn kind(&self, schema: &Map<String, Value>) -> String {
        if let Some(name) = referred(schema) {
            if self.is_table(name) {
                return match title(name).as_str() {
                    "" => "table".into(),
                    title => format!("[{}](#{})", title.to_lowercase(), anchor(title)),
                };
            }
            // A text with a form of its own.
            let is_quantity = matches!(name, "Duration" | "Size");
            return match self.definitions.get(name).and_then(Value::as_object) {
                Some(_) if is_quantity => name.to_lowercase(),
                Some(definition) => self.kind(definition),
                None => String::new(),
            };
        }
        // Variants with a doc comment of their own are described one by one.
        let values = match (schema.get("enum"), schema.get("oneOf")) {
            (Some(Value::Array(values)), _) => values.clone(),
            (_, Some(Value::Array(choices))) => choices.iter().flat_map(constants).collect(),
            _ => Vec::new(),
        };
        if !values.is_empty() {
            let shown: Vec<String> =
                values.iter().filter_map(Value::as_str).map(|value| format!("`{value}`")).collect();
            return if shown.len() == 1 { shown.concat() } else { format!("one of {}", shown.join(", ")) };
        }
        match schema.get("type").and_then(Value::as_str) {
            Some("string") => "text".into(),
            Some("boolean") => "`true` or `false`".into(),
            Some("number" | "integer") => "number".into(),
            Some("array") => {
                let item = schema.get("items").and_then(Value::as_object);
                format!("list of {}", item.map(|item| plural(&self.kind(item))).unwrap_or_default())
            }
            _ => "table".into(),
        }
    }
}

fn constants(choice: &Value) -> Vec<Value> {
    match (choice.get("const"), choice.get("enum")) {
        (Some(only), _) => vec![only.clone()],
        (_, Some(Value::Array(values))) => values.clone(),
        _ => Vec::new(),
    }
}

/// The heading of a table that is explained in a place of its own; empty for the sections of the files.
fn title(name: &str) -> String {
    match name {
        "SecretPlace" => "The place of a secret".into(),
        _ => String::new(),
    }
}

/// As the usual viewers of Markdown make it.
fn anchor(title: &str) -> String {
    title.to_lowercase().replace(' ', "-")
}

fn plural(kind: &str) -> String {
    if kind.ends_with('s') || kind.starts_with("one of") { kind.to_owned() } else { format!("{kind}s") }
}

fn described(schema: &Map<String, Value>) -> &str {
    schema.get("description").and_then(Value::as_str).unwrap_or_default()
}

/// A doc comment as it stands, with one newline at its end.
fn paragraphs(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("{}\n", text.trim_end()) }
}

/// The keys of the table at a path, in the order of the type that reads it.
fn order<File: DeserializeOwned>(at: &[String]) -> Vec<&'static str> {
    // No key can be called so: it needs quotes, and nobody would.
    let nobody = at
        .iter()
        .rev()
        .fold(serde_json::json!({ "?": 0 }), |inner, key| serde_json::json!({ key.as_str(): inner }));
    match Figment::from(Serialized::defaults(nobody)).extract::<File>() {
        Err(error) => match error.kind {
            Kind::UnknownField(_, known) => known.to_vec(),
            _ => Vec::new(),
        },
        Ok(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Golden: the page that is shipped.
    #[test]
    fn the_shipped_reference_is_the_generated_one() {
        let shipped = include_str!("../../docs/configuration.md");
        assert!(
            shipped == markdown(),
            "docs/configuration.md is not what the doc comments say; renew it with: \
             cargo run --quiet -- config reference > docs/configuration.md"
        );
    }

    #[test]
    fn every_key_has_a_heading_and_those_of_a_section_stand_in_the_order_of_its_type() {
        let page = markdown();
        let heading =
            |key: &str| page.find(&format!("\n#### `{key}`\n")).unwrap_or_else(|| panic!("{key}:\n{page}"));
        let keys = [
            "state_dir",
            "orgs_dir",
            "admin.listen",
            "org",
            "start",
            "source.api_url",
            "source.token",
            "source.poll_interval",
            "sentinel.endpoint",
            "sentinel.rule_id",
            "s3.bucket",
            "s3.prefix",
            "file.path",
        ];
        let places: Vec<usize> = keys.iter().map(|key| heading(key)).collect();
        assert!(places.is_sorted(), "{places:?}");
        assert!(page.contains("`PAF_SOURCE__POLL_INTERVAL`") && !page.contains("`PAF_ORG`"));
        assert!(
            page.contains("*list of durations*")
                && page.contains("[the place of a secret](#the-place-of-a-secret)")
        );
        assert_eq!(order::<OrgFile>(&["sentinel".into(), "identity".into()]).first(), Some(&"kind"));
    }
}
