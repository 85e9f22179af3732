//! The configuration files as JSON Schema: what an editor completes and checks while a file is written.
//!
//! It is made of the file types themselves, and says no more than they do: which keys there are, of which kind, and what each means.
//! What only the whole can tell (a key that is required, two that belong together, a file that must exist) is the loader's to say.
//!
//! *Why `null` is taken out:* a key may come from another layer, so nearly every field is an `Option`; but TOML has no null.

use schemars::generate::SchemaSettings;
use schemars::transform::{RecursiveTransform, Transform};
use schemars::{JsonSchema, Schema};
use serde_json::{Map, Value, json};

use super::{DEFAULTS, ForwarderFile, ORG_DEFAULTS, OrgFile};

/// Where a schema keeps the types that it refers to.
pub(super) const DEFINITIONS: &str = "#/$defs/";
pub(super) const FORWARDER_FILE: &str = "ForwarderFile";
pub(super) const ORG_FILE: &str = "OrgFile";

/// The schema of `forwarder.toml`.
pub fn forwarder() -> Value {
    one::<ForwarderFile>(FORWARDER_FILE)
}

/// The schema of an org's file.
pub fn org() -> Value {
    one::<OrgFile>(ORG_FILE)
}

/// The schema of either file; each alone is below `$defs`.
pub fn both() -> Value {
    let files = [FORWARDER_FILE, ORG_FILE].map(|name| json!({ "$ref": format!("{DEFINITIONS}{name}") }));
    json!({ "$schema": dialect(), "title": "forwarder.toml, or an org's file", "anyOf": files, "$defs": definitions() })
}

/// Every type of both files by its name, with the defaults that are built in.
pub(super) fn definitions() -> Map<String, Value> {
    let mut generator = settings().into_generator();
    // Only the definitions matter here; the references to them are not used.
    drop(generator.subschema_for::<ForwarderFile>());
    drop(generator.subschema_for::<OrgFile>());
    let mut definitions = generator.take_definitions(true);
    for (file, defaults) in [(FORWARDER_FILE, DEFAULTS), (ORG_FILE, ORG_DEFAULTS)] {
        if let Ok(table) = defaults.parse::<toml::Table>() {
            add_defaults(&mut definitions, file, &table);
        }
    }
    definitions
}

fn settings() -> SchemaSettings {
    SchemaSettings::draft2020_12().with_transform(RecursiveTransform(PlainToml))
}

fn dialect() -> Value {
    settings().meta_schema.map_or(Value::Null, |dialect| Value::from(dialect.into_owned()))
}

fn one<T: JsonSchema>(name: &str) -> Value {
    let mut definitions = definitions();
    let mut schema = definitions.remove(name).unwrap_or_default();
    let reached = reachable(&schema, &definitions);
    definitions.retain(|name, _| reached.contains(name));
    if let Some(schema) = schema.as_object_mut() {
        schema.insert("$schema".into(), dialect());
        schema.insert("title".into(), T::schema_name().into());
        schema.insert("$defs".into(), definitions.into());
    }
    schema
}

/// The names of the definitions that a schema refers to, directly or through others.
fn reachable(schema: &Value, definitions: &Map<String, Value>) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    let mut open = vec![schema];
    while let Some(value) = open.pop() {
        match value {
            Value::Object(object) => {
                if let Some(name) = referred(object).filter(|name| !names.iter().any(|known| known == name)) {
                    names.push(name.to_owned());
                    open.extend(definitions.get(name));
                }
                open.extend(object.values());
            }
            Value::Array(items) => open.extend(items),
            _ => {}
        }
    }
    names
}

/// The definition that a schema refers to.
pub(super) fn referred(schema: &Map<String, Value>) -> Option<&str> {
    schema.get("$ref")?.as_str()?.strip_prefix(DEFINITIONS)
}

/// Adds what is true where nobody says otherwise.
fn add_defaults(definitions: &mut Map<String, Value>, name: &str, defaults: &toml::Table) {
    let mut below = Vec::new();
    let property = |key: &str| format!("/properties/{key}");
    let Some(definition) = definitions.get_mut(name) else { return };
    for (key, default) in defaults {
        let Some(schema) = definition.pointer_mut(&property(key)).and_then(Value::as_object_mut) else {
            continue;
        };
        match default {
            toml::Value::Table(table) => {
                if let Some(name) = referred(schema) {
                    below.push((name.to_owned(), table));
                }
            }
            value => {
                let value = serde_json::to_value(value).unwrap_or_default();
                schema.insert("default".into(), value);
            }
        }
    }
    for (name, table) in below {
        add_defaults(definitions, &name, table);
    }
}

/// Takes out what TOML does not have, and what says nothing to people who write it.
#[derive(Clone, Debug)]
struct PlainToml;

impl Transform for PlainToml {
    fn transform(&mut self, schema: &mut Schema) {
        let Some(object) = schema.as_object_mut() else { return };
        // `Option<bool>`: "boolean" or "null".
        if let Some(Value::Array(types)) = object.get_mut("type") {
            types.retain(|kind| kind != "null");
            if let [only] = types.as_slice() {
                let only = only.clone();
                object.insert("type".into(), only);
            }
        }
        // `Option<Section>`: a reference, or null.
        if let Some(Value::Array(choices)) = object.get_mut("anyOf") {
            choices.retain(|choice| choice.get("type").is_none_or(|kind| kind != "null"));
            if let [Value::Object(only)] = choices.as_slice() {
                let only = only.clone();
                object.remove("anyOf");
                object.extend(only);
            }
        }
        if object.get("default").is_some_and(Value::is_null) {
            object.remove("default");
        }
        // Rust's name for the size of a number.
        if object.get("type").is_some_and(|kind| kind == "number" || kind == "integer") {
            object.remove("format");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a value is one that a schema describes: as much of JSON Schema as these schemas use. Says where it is not.
    fn fits(schema: &Value, value: &Value, root: &Value) -> Result<(), String> {
        let Some(object) = schema.as_object() else { return Ok(()) };
        for keyword in object.keys() {
            let known = [
                "$defs",
                "$ref",
                "$schema",
                "additionalProperties",
                "anyOf",
                "const",
                "default",
                "description",
                "enum",
                "items",
                "oneOf",
                "pattern",
                "properties",
                "required",
                "title",
                "type",
                "minimum",
                "maximum",
            ];
            assert!(known.contains(&keyword.as_str()), "this test does not know {keyword}");
        }
        if let Some(name) = referred(object) {
            fits(&root["$defs"][name], value, root)?;
        }
        let kind = match value {
            Value::String(_) => "string",
            Value::Bool(_) => "boolean",
            Value::Number(number) if number.is_f64() => "number",
            Value::Number(_) => "integer",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
            Value::Null => "null",
        };
        let wanted = object.get("type").and_then(Value::as_str);
        if wanted.is_some_and(|wanted| wanted != kind && (wanted, kind) != ("number", "integer")) {
            return Err(format!("{value} is no {wanted:?}"));
        }
        if object.get("enum").and_then(Value::as_array).is_some_and(|one_of| !one_of.contains(value)) {
            return Err(format!("{value} is none of {}", object["enum"]));
        }
        if object.get("const").is_some_and(|only| only != value) {
            return Err(format!("{value} is not {}", object["const"]));
        }
        if let Some(choices) = object.get("oneOf").or(object.get("anyOf")).and_then(Value::as_array)
            && !choices.iter().any(|choice| fits(choice, value, root).is_ok())
        {
            return Err(format!("{value} fits none of its choices"));
        }
        for (key, value) in value.as_object().into_iter().flatten() {
            match object.get("properties").and_then(|properties| properties.get(key)) {
                Some(schema) => fits(schema, value, root).map_err(|error| format!("{key}: {error}"))?,
                None if object.get("additionalProperties") == Some(&Value::Bool(false)) => {
                    return Err(format!("{key} is unknown"));
                }
                None => {}
            }
        }
        for item in value.as_array().into_iter().flatten() {
            fits(object.get("items").unwrap_or(&Value::Null), item, root)?;
        }
        Ok(())
    }

    fn toml(text: &str) -> Value {
        serde_json::to_value(text.parse::<toml::Table>().unwrap()).unwrap()
    }

    #[test]
    fn the_starter_configuration_fits_and_its_misspellings_do_not() {
        let starter = include_str!("../../config/forwarder.toml");
        let example = include_str!("../../config/orgs/example-org.toml.example");
        let uncommented = |text: &str| {
            text.replace("\n#", "\n")
                .lines()
                .filter(|line| !line.starts_with(' '))
                .collect::<Vec<_>>()
                .join("\n")
        };
        for text in [starter.to_owned(), uncommented(starter)] {
            assert_eq!(fits(&forwarder(), &toml(&text), &forwarder()), Ok(()), "{text}");
        }
        for text in [example.to_owned(), uncommented(example)] {
            assert_eq!(fits(&org(), &toml(&text), &org()), Ok(()), "{text}");
        }
        for (wrong, said) in [
            ("stat_dir = \"/x\"", "stat_dir is unknown"),
            ("[log]\nlevel = \"loud\"", "log: level: \"loud\" is none of"),
            ("[source]\noverlap = 5", "source: overlap: 5 is no"),
            ("[source]\ntoken = \"pul-0\"", "source: token: \"pul-0\" is no"),
        ] {
            let error = fits(&forwarder(), &toml(wrong), &forwarder()).unwrap_err();
            assert!(error.starts_with(said), "{error}");
        }
    }

    #[test]
    fn each_file_has_a_schema_of_its_own_and_both_have_one_together() {
        let both = both();
        for (one, name) in [(forwarder(), FORWARDER_FILE), (org(), ORG_FILE)] {
            assert_eq!(one["properties"], both["$defs"][name]["properties"]);
            assert_eq!(one["$schema"], both["$schema"]);
            // Everything referred to is there.
            for name in reachable(&one, one["$defs"].as_object().unwrap()) {
                assert!(one["$defs"][&name].is_object(), "{name}");
            }
        }
        assert!(!both.to_string().contains("null"), "TOML has no null: {both:#}");
        assert!(
            org()["properties"].get("state_dir").is_none() && org()["$defs"].get("AdminSection").is_none()
        );
    }

    #[test]
    fn the_defaults_in_the_schema_are_those_that_the_doc_comments_name() {
        let mut seen = 0;
        for (name, definition) in definitions() {
            let properties =
                definition.get("properties").and_then(Value::as_object).cloned().unwrap_or_default();
            for (key, schema) in properties {
                let text = schema["description"].as_str().unwrap_or_default().to_owned();
                assert!(!text.is_empty(), "{name}.{key} has no doc comment");
                let Some(default) = schema.get("default") else { continue };
                let shown = match default {
                    Value::String(text) if text.is_empty() => "Default: empty".to_owned(),
                    Value::String(text) => format!("`{text}`"),
                    other => format!("`{}`", other.to_string().replace(',', ", ")),
                };
                let said = text.split_once("Default: ").map(|(_, rest)| format!("Default: {rest}"));
                assert!(
                    said.is_some_and(|said| said.contains(&shown)),
                    "{name}.{key}: {shown} is not in: {text}"
                );
                seen += 1;
            }
        }
        assert!(seen > 15, "{seen}");
    }
}
