//! One TOML file: its values for figment, and where each of them stands.
//!
//! *Why not figment's own TOML provider:* it knows the file of a value but not its line, and an error without its line sends people
//! searching. Parsed here once, a document gives both; dates and times become their text on the way.

use std::collections::BTreeMap;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};

use figment::value::{Dict, Value};
use toml::de::{DeTable, DeValue};

use super::mistake::Mistake;

/// Most bytes of a configuration file: a longer one is not a configuration file.
const DOCUMENT_BYTES_MAX: u64 = 1024 * 1024;
/// Most syntax errors reported of one file: after a few, the rest follows from the first.
const SYNTAX_ERRORS_MAX: usize = 5;

/// A file that could be parsed.
#[derive(Debug)]
pub(super) struct Document {
    pub(super) path: PathBuf,
    pub(super) values: Dict,
    spots: BTreeMap<Vec<String>, Spot>,
}

/// Where a key stands, and its value when that may be shown at all.
#[derive(Clone, Debug)]
pub(super) struct Spot {
    pub(super) line: usize,
    /// As in the file, for scalars and lists of scalars.
    pub(super) text: Option<String>,
    /// `[a]` rather than `a = …`.
    pub(super) section: bool,
}

impl Document {
    /// Reads and parses a file. A relative path is relative to `directory`, and shown as it is.
    ///
    /// # Errors
    /// What is wrong: the file cannot be read, or is not TOML.
    pub(super) fn read(path: &Path, directory: &Path) -> Result<Document, Vec<Mistake>> {
        let mut text = String::new();
        std::fs::File::open(directory.join(path))
            .and_then(|file| file.take(DOCUMENT_BYTES_MAX + 1).read_to_string(&mut text))
            .map_err(|error| {
                vec![Mistake::new(
                    path.display().to_string(),
                    format!("cannot be read ({error}): give the daemon's user a readable TOML file in UTF-8"),
                )]
            })?;
        if text.len() as u64 > DOCUMENT_BYTES_MAX {
            return Err(vec![Mistake::new(
                path.display().to_string(),
                format!("is larger than {DOCUMENT_BYTES_MAX} bytes: give a configuration file"),
            )]);
        }
        Document::parse(path, &text)
    }

    /// # Errors
    /// When the text is not TOML.
    pub(super) fn parse(path: &Path, text: &str) -> Result<Document, Vec<Mistake>> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let (table, errors) = DeTable::parse_recoverable(text);
        if !errors.is_empty() {
            let mistakes = errors.iter().take(SYNTAX_ERRORS_MAX).map(|error| syntax(path, text, error));
            return Err(mistakes.collect());
        }
        let mut reader = Reader { path, text, spots: BTreeMap::new(), mistakes: Vec::new() };
        let values = reader.table(&mut Vec::new(), table.get_ref());
        if !reader.mistakes.is_empty() {
            return Err(reader.mistakes);
        }
        Ok(Document { path: path.to_owned(), values, spots: reader.spots })
    }

    pub(super) fn spot(&self, key: &[String]) -> Option<&Spot> {
        self.spots.get(key)
    }

    /// `file:line` of a key.
    pub(super) fn place(&self, spot: &Spot) -> String {
        format!("{}:{}", self.path.display(), spot.line)
    }

    /// Says something of a key: its value is shown if it is wanted and can be, else only its name.
    pub(super) fn mistake(&self, key: &[String], text: String, show: bool) -> Mistake {
        let mistake = Mistake::new(self.path.display().to_string(), text);
        // An item of a list is shown with its whole list.
        let nearest =
            (1..=key.len()).rev().find_map(|length| Some((&key[..length], self.spot(&key[..length])?)));
        let Some((key, spot)) = nearest else { return mistake };
        let mistake = mistake.on_line(spot.line);
        let name = key.last().map(String::as_str).unwrap_or_default();
        match &spot.text {
            _ if spot.section => mistake.at_section(&key.join(".")),
            Some(value) if show => mistake.at_value(name, value.lines().next().unwrap_or_default()),
            _ => mistake.at_key(name),
        }
    }
}

/// The line is shown up to its `=` only: a secret whose quotes are broken must not be printed.
fn syntax(path: &Path, text: &str, error: &toml::de::Error) -> Mistake {
    let what = match error.message() {
        "duplicate key" => {
            "this stands here a second time: keep one, with everything that both have".to_owned()
        }
        said => format!("this is not TOML: {}", said.replace('\n', ", ")),
    };
    let Some(span) = error.span() else {
        return Mistake::new(path.display().to_string(), what);
    };
    let start = floor(text, span.start);
    let mistake = Mistake::new(path.display().to_string(), what).on_line(line_of(text, start));
    let from = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
    let line = text[from..].lines().next().unwrap_or_default();
    let section = line.trim().strip_prefix('[').and_then(|line| line.strip_suffix(']'));
    match (line.split_once('='), section) {
        (Some((key, _)), _) if bare(key.trim()) => mistake.at_key(key.trim()),
        (None, Some(section)) if bare(section.trim()) => mistake.at_section(section.trim()),
        _ => mistake,
    }
}

/// Whether this is a plain dotted key; anything else on a broken line may be a value.
fn bare(key: &str) -> bool {
    !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

fn floor(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

fn line_of(text: &str, at: usize) -> usize {
    text.as_bytes()[..at.min(text.len())].iter().filter(|byte| **byte == b'\n').count() + 1
}

struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
    spots: BTreeMap<Vec<String>, Spot>,
    mistakes: Vec<Mistake>,
}

impl Reader<'_> {
    /// The parser bounds how deep tables nest.
    fn table(&mut self, at: &mut Vec<String>, table: &DeTable<'_>) -> Dict {
        let mut values = Dict::new();
        for (key, value) in table {
            let name = key.get_ref().clone().into_owned();
            at.push(name.clone());
            self.remember(at, key.span(), value);
            if let Some(value) = self.value(at, value.get_ref(), key.span()) {
                values.insert(name, value);
            }
            at.pop();
        }
        values
    }

    fn remember(&mut self, at: &[String], key: Range<usize>, value: &toml::Spanned<DeValue<'_>>) {
        let plain = |value: &DeValue<'_>| !matches!(value, DeValue::Table(_) | DeValue::Array(_));
        let shown = match value.get_ref() {
            DeValue::Table(_) => false,
            DeValue::Array(items) => items.iter().all(|item| plain(item.get_ref())),
            _ => true,
        };
        let line = line_of(self.text, key.start);
        let text = self.text.get(value.span()).filter(|_| shown).map(str::to_owned);
        let before = &self.text[..floor(self.text, key.start)];
        let before = before.rsplit('\n').next().unwrap_or_default();
        let section = value.get_ref().is_table() && before.trim_start().starts_with('[');
        self.spots.insert(at.to_vec(), Spot { line, text, section });
    }

    fn value(&mut self, at: &mut Vec<String>, value: &DeValue<'_>, key: Range<usize>) -> Option<Value> {
        Some(match value {
            DeValue::String(text) => Value::from(text.as_ref()),
            DeValue::Boolean(yes) => Value::from(*yes),
            DeValue::Datetime(time) => Value::from(time.to_string()),
            DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
                Ok(number) => Value::from(number),
                Err(_) => return self.number(at, key),
            },
            DeValue::Float(number) => match number.as_str().parse::<f64>() {
                Ok(number) => Value::from(number),
                Err(_) => return self.number(at, key),
            },
            DeValue::Table(table) => Value::from(self.table(at, table)),
            DeValue::Array(items) => {
                let mut values = Vec::with_capacity(items.len());
                for (index, item) in items.iter().enumerate() {
                    at.push(index.to_string());
                    values.extend(self.value(at, item.get_ref(), key.clone()));
                    at.pop();
                }
                Value::from(values)
            }
        })
    }

    fn number(&mut self, at: &[String], key: Range<usize>) -> Option<Value> {
        let name = at.last().map(String::as_str).unwrap_or_default();
        let mistake = Mistake::new(self.path.display().to_string(), "give a number of ordinary size");
        self.mistakes.push(mistake.on_line(line_of(self.text, key.start)).at_key(name));
        None
    }
}
