//! What is wrong with the configuration, said so that the person who wrote it can mend it.
//!
//! A mistake names the file and line (or the environment variable), shows the key, and says what to write instead. It never shows
//! the value of a secret, nor of a key this version does not know: that may be a secret under a misspelt name.

use std::fmt;

/// Most mistakes printed at once; more than a screenful helps nobody.
const MISTAKES_SHOWN_MAX: usize = 50;
/// Most characters shown of a value.
const VALUE_CHARACTERS_MAX: usize = 80;

/// The configuration cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Invalid {
    /// Never empty; in the order of the files.
    pub mistakes: Vec<Mistake>,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, mistake) in self.mistakes.iter().take(MISTAKES_SHOWN_MAX).enumerate() {
            if number > 0 {
                writeln!(f)?;
            }
            write!(f, "{mistake}")?;
        }
        match self.mistakes.len().saturating_sub(MISTAKES_SHOWN_MAX) {
            0 => Ok(()),
            more => write!(f, "\nand {more} more"),
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// A file, or `environment`.
    place: String,
    /// 0: none.
    line: usize,
    excerpt: Option<Excerpt>,
    /// What to do about it.
    text: String,
}

/// A line as it stands there, as far as it may be shown, and the part of it that is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Excerpt {
    line: String,
    /// In characters.
    from: usize,
    length: usize,
}

impl Mistake {
    pub(super) fn new(place: impl Into<String>, text: impl Into<String>) -> Mistake {
        // What is said may repeat a file's name or a value, and neither may begin a line.
        Mistake { place: place.into(), line: 0, excerpt: None, text: printable(&text.into()) }
    }

    pub(super) fn on_line(mut self, line: usize) -> Mistake {
        self.line = line;
        self
    }

    /// Puts what was found in one file and its layers into the order in which it is read.
    pub(super) fn sort(mistakes: &mut [Mistake]) {
        mistakes.sort_by(|a, b| (&a.place, a.line).cmp(&(&b.place, b.line)));
    }

    /// Marks the value in `key = value`.
    pub(super) fn at_value(mut self, key: &str, value: &str) -> Mistake {
        let value = excerpted(value);
        self.excerpt = Some(Excerpt {
            line: format!("{} = {value}", excerpted(key)),
            from: excerpted(key).chars().count() + 3,
            length: value.chars().count(),
        });
        self
    }

    /// Marks the key in `key = …`, the value unsaid.
    pub(super) fn at_key(mut self, key: &str) -> Mistake {
        let key = excerpted(key);
        self.excerpt = Some(Excerpt { from: 0, length: key.chars().count(), line: format!("{key} = …") });
        self
    }

    /// Marks a whole `[section]`.
    pub(super) fn at_section(mut self, section: &str) -> Mistake {
        let line = format!("[{}]", excerpted(section));
        self.excerpt = Some(Excerpt { from: 0, length: line.chars().count(), line });
        self
    }
}

/// Without control characters: a file's name must not forge a line.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// The same, and not endless.
fn excerpted(text: &str) -> String {
    let mut shown = printable(&text.chars().take(VALUE_CHARACTERS_MAX).collect::<String>());
    if text.chars().nth(VALUE_CHARACTERS_MAX).is_some() {
        shown.push('…');
    }
    shown
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = match self.line {
            0 => printable(&self.place),
            line => format!("{}:{line}", printable(&self.place)),
        };
        let Some(excerpt) = &self.excerpt else {
            return write!(f, "{place}: {}", self.text);
        };
        let margin = place.chars().count();
        writeln!(f, "{place} | {}", excerpt.line)?;
        write!(
            f,
            "{:margin$} | {:from$}{} {}",
            "",
            "",
            "^".repeat(excerpt.length.max(1)),
            self.text,
            from = excerpt.from
        )
    }
}
