//! What was asked for in the page's address, and addresses that ask for it again. Without scripts the address is all that a page
//! remembers, also when it refreshes itself.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;

use crate::report::glance::{Level, OrgGlance};
use crate::report::words::cut;

/// Most characters of a search.
const SEARCH_CHARACTERS_MAX: usize = 100;

/// The address's parameters as they come; what cannot be understood is as if it were not there.
#[derive(Debug, Default, Deserialize)]
pub(in crate::admin) struct Asked {
    q: Option<String>,
    show: Option<String>,
    page: Option<String>,
    refresh: Option<String>,
}

/// Which orgs to show, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Filter {
    /// Part of an id or a name.
    pub(super) search: String,
    pub(super) level: Option<Level>,
    /// From 1 on.
    pub(super) page: usize,
    pub(super) refreshes: bool,
}

impl From<Asked> for Filter {
    fn from(asked: Asked) -> Filter {
        let show = asked.show.unwrap_or_default();
        Filter {
            search: cut(asked.q.unwrap_or_default().trim(), SEARCH_CHARACTERS_MAX),
            level: Level::ALL.into_iter().find(|level| level.as_str() == show),
            page: asked.page.and_then(|page| page.parse().ok()).unwrap_or(1).max(1),
            refreshes: asked.refresh.as_deref() != Some("off"),
        }
    }
}

impl Filter {
    pub(super) fn takes(&self, org: &OrgGlance<'_>) -> bool {
        self.level.is_none_or(|level| org.level == level) && self.finds(org)
    }

    /// Whether the search alone finds it.
    pub(super) fn finds(&self, org: &OrgGlance<'_>) -> bool {
        let search = self.search.to_lowercase();
        search.is_empty()
            || org.org.id.as_str().contains(&search)
            || org.org.org.to_lowercase().contains(&search)
    }

    pub(super) fn is_set(&self) -> bool {
        !self.search.is_empty() || self.level.is_some()
    }

    /// The address of the list of orgs, with these parameters.
    pub(super) fn address(&self) -> String {
        let mut parameters = Vec::new();
        if !self.search.is_empty() {
            parameters.push(format!("q={}", utf8_percent_encode(&self.search, NON_ALPHANUMERIC)));
        }
        parameters.extend(self.level.map(|level| format!("show={}", level.as_str())));
        if self.page > 1 {
            parameters.push(format!("page={}", self.page));
        }
        if !self.refreshes {
            parameters.push("refresh=off".to_owned());
        }
        if parameters.is_empty() { "/".to_owned() } else { format!("/?{}", parameters.join("&")) }
    }

    pub(super) fn on_page(&self, page: usize) -> Filter {
        Filter { page, ..self.clone() }
    }

    pub(super) fn showing(&self, level: Level) -> Filter {
        Filter { level: Some(level), page: 1, ..self.clone() }
    }

    pub(super) fn refreshing(&self, refreshes: bool) -> Filter {
        Filter { refreshes, ..self.clone() }
    }
}
