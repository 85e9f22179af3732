//! What a person has to do, the same for several orgs told once.

use super::{Age, ErrorShown, age, error_shown, text};
use crate::clock::Second;
use crate::report::glance::{Level, OrgGlance, Part, parts};
use crate::report::status::{ErrorStatus, Moment, OrgStatus, State};
use crate::report::words::grouped;

/// Problems above the list, and orgs named in each.
pub(super) const PROBLEMS_MAX: usize = 8;
const NAMED_MAX: usize = 12;

/// The same thing wrong with some orgs.
pub(super) struct Problem {
    pub(super) what: String,
    /// The org that has had it for the longest.
    pub(super) since: Option<Age>,
    pub(super) orgs: Vec<String>,
    pub(super) more_orgs: Option<String>,
    pub(super) error: Option<ErrorShown>,
    pub(super) remedy: Option<String>,
    pub(super) command: Option<String>,
}

/// What a person has to do, the same for several orgs told once, and how many problems were left out.
pub(super) fn problems<'a>(
    orgs: impl Iterator<Item = &'a OrgGlance<'a>>,
    now: Second,
) -> (Vec<Problem>, usize) {
    let mut groups: Vec<(Trouble<'a>, Vec<&'a OrgStatus>)> = Vec::new();
    for org in orgs.filter(|org| org.level == Level::Attention) {
        for trouble in troubles(org.org) {
            match groups.iter_mut().find(|(known, _)| known.is_like(&trouble)) {
                Some((known, orgs)) => {
                    orgs.push(org.org);
                    known.since = known.since.min(trouble.since);
                }
                None => groups.push((trouble, vec![org.org])),
            }
        }
    }
    let more = groups.len().saturating_sub(PROBLEMS_MAX);
    groups.truncate(PROBLEMS_MAX);
    let problem = |(trouble, orgs): (Trouble<'a>, Vec<&'a OrgStatus>)| Problem {
        what: trouble.what,
        since: trouble.since.map(|at| age(at, now)),
        orgs: orgs.iter().take(NAMED_MAX).map(|org| org.id.as_str().to_owned()).collect(),
        more_orgs: (orgs.len() > NAMED_MAX).then(|| grouped((orgs.len() - NAMED_MAX) as u64)),
        error: trouble.error.map(|error| error_shown(error, now)),
        remedy: trouble.remedy.map(text),
        command: trouble.is_quarantine.then(|| match orgs.as_slice() {
            [only] => format!("pulumi-audit-forwarder quarantine list --org {}", only.id),
            _ => "pulumi-audit-forwarder quarantine list".to_owned(),
        }),
    };
    (groups.into_iter().map(problem).collect(), more)
}

struct Trouble<'a> {
    what: String,
    since: Option<Moment>,
    error: Option<&'a ErrorStatus>,
    remedy: Option<&'a str>,
    is_quarantine: bool,
}

impl Trouble<'_> {
    fn is_like(&self, other: &Trouble<'_>) -> bool {
        (&self.what, self.remedy) == (&other.what, other.remedy)
    }
}

fn troubles(org: &OrgStatus) -> Vec<Trouble<'_>> {
    let paused = parts(org).filter(|part| part.state == State::Paused).map(|part: Part<'_>| Trouble {
        what: format!("{} paused: {}", part.name, part.reason()),
        since: part.since,
        error: part.last_error,
        remedy: part.remedy,
        is_quarantine: false,
    });
    let rows = org.lanes.iter().filter(|lane| lane.quarantined > 0).map(|lane| Trouble {
        what: format!("{} refused rows for good: they are in quarantine", lane.destination),
        since: None,
        error: None,
        remedy: Some(
            "the archive has them whole; see why they were refused, then send them again or drop them",
        ),
        is_quarantine: true,
    });
    paused.chain(rows).collect()
}
