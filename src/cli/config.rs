//! `config show`, `config schema`, `config reference` and `config init`.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;

use anyhow::Context;

use super::{Exit, Failure, Global, SchemaOf};
use crate::config::{Loaded, ShownValue, reference, schema};

/// The starter configuration, as it is shipped beside the source.
pub(super) const STARTER: [(&str, &str); 2] = [
    ("forwarder.toml", include_str!("../../config/forwarder.toml")),
    ("orgs/example-org.toml.example", include_str!("../../config/orgs/example-org.toml.example")),
];

/// Prints the merged configuration.
pub(super) fn show(global: &Global, out: &mut dyn Write) -> Result<Exit, Failure> {
    let loaded = global.load_without_secrets()?;
    out.write_all(text(&loaded).as_bytes())?;
    Ok(Exit::Done)
}

/// One TOML document, although it came from several: orgs stand below `[orgs]`.
fn text(loaded: &Loaded) -> String {
    let mut text = format!("# {}\n", loaded.file.display());
    values(&mut text, "", &loaded.forwarder_values);
    for (id, file, org_values) in &loaded.org_values {
        text.push_str(&format!("\n# {}\n[orgs.{id}]\n", file.display()));
        values(&mut text, &format!("orgs.{id}."), org_values);
    }
    text
}

/// Plain keys stand before sections in `shown`; tables inside a section are dotted keys, so that each value has its own line.
fn values(text: &mut String, section_prefix: &str, shown: &[ShownValue]) {
    let lines: Vec<(Option<&str>, String, &str)> = shown
        .iter()
        .filter_map(|value| {
            let (section, key) = match value.key.as_slice() {
                [] => return None,
                [key] => (None, key.clone()),
                [section, key @ ..] => (Some(section.as_str()), key.join(".")),
            };
            Some((section, format!("{key} = {}", value.value), value.origin.as_str()))
        })
        .collect();
    let width = lines.iter().map(|(_, line, _)| line.chars().count()).max().unwrap_or_default().min(60);
    let mut current = None;
    for (section, line, origin) in lines {
        if let Some(section) = section.filter(|_| section != current) {
            text.push_str(&format!("\n[{section_prefix}{section}]\n"));
        }
        current = section;
        text.push_str(&format!("{line:width$}  # {origin}\n"));
    }
}

/// Prints the JSON Schema of one file or of both.
pub(super) fn schema(file: Option<SchemaOf>, out: &mut dyn Write) -> Result<Exit, Failure> {
    let schema = match file {
        Some(SchemaOf::Forwarder) => schema::forwarder(),
        Some(SchemaOf::Org) => schema::org(),
        None => schema::both(),
    };
    writeln!(out, "{schema:#}")?;
    Ok(Exit::Done)
}

/// Prints the reference.
pub(super) fn reference(out: &mut dyn Write) -> Result<Exit, Failure> {
    out.write_all(reference::markdown().as_bytes())?;
    Ok(Exit::Done)
}

/// Writes the starter configuration, or nothing.
pub(super) fn init(directory: &Path, out: &mut dyn Write) -> Result<Exit, Failure> {
    for (name, _) in STARTER {
        let path = directory.join(name);
        if path.symlink_metadata().is_ok() {
            return Err(anyhow::anyhow!(
                "{} exists, and nothing was written: give another directory, or move the file away",
                path.display()
            )
            .into());
        }
    }
    for (name, text) in STARTER {
        let path = directory.join(name);
        write_new(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        writeln!(out, "wrote {}", path.display())?;
    }
    writeln!(
        out,
        "next: copy {} to a name that ends in .toml, fill it in, and try it with `{} --config {} check`",
        directory.join(STARTER[1].0).display(),
        env!("CARGO_PKG_NAME"),
        directory.join(STARTER[0].0).display(),
    )?;
    Ok(Exit::Done)
}

fn write_new(path: &Path, text: &str) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    OpenOptions::new().write(true).create_new(true).open(path)?.write_all(text.as_bytes())
}
