//! The status page: what `/api/status` says, as HTML for people. Trouble comes first; the templates in `templates/` are filled here.
//!
//! The page runs no scripts and loads nothing but its own icon, so that it works in any browser, also over a tunnel at night, and so
//! that its policy can forbid everything. It refreshes itself by a header and keeps what was asked for in its address. However many
//! orgs there are, one page shows a hundred of them.
//!
//! *Why templates that are compiled:* a template that escapes by itself and does not build with a missing value leaves nothing to
//! forget. *Why a header and not an element:* the browser then repeats the very address, and who pauses it just leaves it out.

mod cell;
mod filter;
mod graph;
mod list;
mod org;
mod problem;
#[cfg(test)]
mod tests;

use askama::Template;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use crate::clock::Second;
use crate::report::glance::Level;
use crate::report::status::{ErrorStatus, Moment, Status};
use crate::report::words::{clean, cut, length};

pub(super) use filter::Asked;
pub(super) use list::orgs;
pub(super) use org::org;

const STYLE: &str = include_str!("page/style.css");

/// How often the page refreshes itself.
pub(super) const REFRESH_SECONDS: u32 = 30;

/// Most characters of a name, and of a text of another service.
const NAME_CHARACTERS_MAX: usize = 80;

const TEXT_CHARACTERS_MAX: usize = 600;

/// Nothing may be loaded or run but the icon; the one style sheet is known by its hash.
pub(super) fn content_security_policy() -> String {
    let hash = STANDARD.encode(Sha256::digest(STYLE.as_bytes()));
    format!(
        "default-src 'none'; style-src 'sha256-{hash}'; img-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    )
}

/// The icon of a page that shows this.
pub(super) fn icon(level: &str) -> Option<&'static str> {
    Some(match level {
        "attention.svg" => include_str!("page/attention.svg"),
        "behind.svg" => include_str!("page/behind.svg"),
        "fine.svg" => include_str!("page/fine.svg"),
        _ => return None,
    })
}

/// A page, and whether it is to refresh itself.
pub(super) struct Page {
    pub(super) html: Result<String, askama::Error>,
    pub(super) refreshes: bool,
    /// What it is about is there.
    pub(super) found: bool,
}

/// What every page has.
struct Frame {
    title: String,
    icon: &'static str,
    style: &'static str,
    version: String,
    now: Moment,
    refresh_seconds: Option<u32>,
    /// The address of the same page that refreshes itself, or no longer does.
    refresh_address: String,
}

impl Frame {
    fn new(
        status: &Status,
        title: &str,
        level: Level,
        now: Second,
        refreshes: bool,
        address: String,
    ) -> Frame {
        Frame {
            title: cut(title, 2 * NAME_CHARACTERS_MAX),
            icon: match level {
                Level::Attention => "attention",
                Level::Behind => "behind",
                Level::Waiting | Level::Starting | Level::Fine | Level::Retired => "fine",
            },
            style: STYLE,
            version: shown(&status.version, NAME_CHARACTERS_MAX),
            now: Moment(now),
            refresh_seconds: refreshes.then_some(REFRESH_SECONDS),
            refresh_address: address,
        }
    }
}

/// How long ago something was, and when.
struct Age {
    at: Moment,
    text: String,
}

struct ErrorShown {
    age: Age,
    text: String,
}

#[derive(Template)]
#[template(path = "absent.html", whitespace = "minimize")]
struct Absent {
    frame: Frame,
    id: String,
}

fn word(level: Level) -> &'static str {
    match level {
        Level::Attention => "needs attention",
        Level::Behind => "behind",
        Level::Waiting => "waits",
        Level::Starting => "starting",
        Level::Fine => "fine",
        Level::Retired => "not configured",
    }
}

fn age(at: Moment, now: Second) -> Age {
    Age { at, text: length(now - at.0) }
}

fn error_shown(error: &ErrorStatus, now: Second) -> ErrorShown {
    ErrorShown { age: age(error.at, now), text: text(&error.text) }
}

/// What a service or a person wrote, made harmless to the eye: the template escapes it.
fn text(text: &str) -> String {
    shown(text, TEXT_CHARACTERS_MAX)
}

fn shown(text: &str, characters: usize) -> String {
    cut(&clean(&cut(text, characters)), characters)
}
