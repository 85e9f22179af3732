//! `quarantine show`: the event of one row as it is archived, byte for byte but for white space and escapes.
//!
//! *Why it is laid out here and not by a JSON library:* one would turn numbers into its own, drop repeated keys and reorder others,
//! and what is archived is evidence.

use std::io::Write;

use anyhow::anyhow;

use super::{looked_at, not_in_quarantine, row_of};
use crate::chunk::claim_key;
use crate::cli::{Exit, Failure, RowFlags, known_orgs};
use crate::config::settings::{OrgSettings, Settings};
use crate::destination::RowId;
use crate::event::OrgId;
use crate::journal::Journal;

/// Deeper levels are indented no further, so that brackets alone cannot make a line long.
const INDENTED_MAX: usize = 32;

pub(super) async fn show(
    settings: &Settings,
    flags: &RowFlags,
    out: &mut (dyn Write + Send),
) -> Result<Exit, Failure> {
    let journal = looked_at(settings)?;
    let at = RowId { chunk: flags.chunk, row: flags.row };
    for org in known_orgs(settings, &journal, Some(&flags.org)).await? {
        let found = row_of(&journal, &org, flags.destination, at).await.map_err(anyhow::Error::from)?;
        if found.is_none() {
            return Err(not_in_quarantine(&org, flags.destination, at));
        }
        let Some(chunk) = journal.chunk(&org, at.chunk).await.map_err(anyhow::Error::from)? else {
            let configured = settings.orgs.iter().find(|configured| configured.id == org);
            return Err(anyhow!(elsewhere(&org, configured, at)).into());
        };
        let lines = chunk.lines().map_err(anyhow::Error::from)?;
        let line = lines.split(|byte| *byte == b'\n').nth(at.row as usize).filter(|line| !line.is_empty());
        let line = line.ok_or_else(|| {
            anyhow!("chunk {} of `{org}` has {} rows, and no row {}", at.chunk, chunk.count, at.row)
        })?;
        writeln!(out, "{}", laid_out(&String::from_utf8_lossy(line)))?;
    }
    Ok(Exit::Done)
}

/// Where the event is once the journal has let its chunk go.
fn elsewhere(org: &OrgId, configured: Option<&OrgSettings>, at: RowId) -> String {
    let claim = claim_key(org, at.chunk);
    let mut places = Vec::new();
    if let Some(bucket) = configured.and_then(|org| org.s3.as_ref()) {
        let slash = if bucket.prefix.is_empty() { "" } else { "/" };
        places.push(format!("`s3://{}/{}{slash}{claim}`", bucket.bucket, bucket.prefix));
    }
    if let Some(folder) = configured.and_then(|org| org.file.as_ref()) {
        places.push(format!("`{}`", folder.path.join(&claim).display()));
    }
    let kept = format!("chunk {} of `{org}` is no longer in the journal", at.chunk);
    if places.is_empty() {
        return format!(
            "{kept}, and no archive ([s3] or [file]) is configured for this org now; look for {claim} in the one it had"
        );
    }
    format!(
        "{kept}; the event is line {} of the archive's object that the claim {} names in its field `key`",
        u64::from(at.row) + 1,
        places.join(" or ")
    )
}

/// JSON with a line for each value. What a terminal could take for a command is escaped, as JSON allows; nothing else changes.
fn laid_out(json: &str) -> String {
    let mut text = String::with_capacity(json.len() * 2);
    let (mut depth, mut inside, mut escaped) = (0_usize, false, false);
    let line = |text: &mut String, depth: usize| {
        text.push('\n');
        text.push_str(&"  ".repeat(depth.min(INDENTED_MAX)));
    };
    let mut characters = json.chars().peekable();
    while let Some(character) = characters.next() {
        if inside {
            match character {
                '\u{7f}'..='\u{9f}' => text.push_str(&format!("\\u{:04x}", u32::from(character))),
                other => text.push(other),
            }
            inside = escaped || character != '"';
            escaped = !escaped && character == '\\';
            continue;
        }
        match character {
            '"' => {
                inside = true;
                text.push('"');
            }
            '{' | '[' => {
                text.push(character);
                match characters.next_if(|next| matches!(next, '}' | ']')) {
                    Some(end) => text.push(end),
                    None => {
                        depth += 1;
                        line(&mut text, depth);
                    }
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                line(&mut text, depth);
                text.push(character);
            }
            ',' => {
                text.push(',');
                line(&mut text, depth);
            }
            ':' => text.push_str(": "),
            other => text.push(other),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_laid_out_and_keeps_every_lexeme() {
        let line = r#"{"key":"k","time":null,"event":{"a":1.50E+2,"a":18446744073709551616,"b":[],"c":{},"d":[1,"x,{\"}:\\"]}}"#;
        let expected = r#"{
  "key": "k",
  "time": null,
  "event": {
    "a": 1.50E+2,
    "a": 18446744073709551616,
    "b": [],
    "c": {},
    "d": [
      1,
      "x,{\"}:\\"
    ]
  }
}"#;
        assert_eq!(laid_out(line), expected);
    }

    #[test]
    fn what_could_move_the_cursor_is_escaped_and_stays_the_same_value() {
        let line = "{\"a\":\"\u{9b}2J\u{7f}é\"}";
        let text = laid_out(line);
        assert!(!text.contains(|character: char| character.is_control() && character != '\n'), "{text:?}");
        let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(value(&text), value(line));
    }

    #[test]
    fn brackets_alone_make_no_long_lines() {
        let deep = format!("{}1{}", "[".repeat(10_000), "]".repeat(10_000));
        assert!(laid_out(&deep).len() < 10_000 * 2 * (2 * INDENTED_MAX + 2) + 100);
    }
}
