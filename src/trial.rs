//! What was tried, and what came of it.
//!
//! *Why unreachable is not failed:* whoever reads that a service did not answer looks at the network; whoever reads that it said no
//! changes a setting. Neither can deliver, so both end `check` with the same exit code.

use std::time::Duration;

use crate::clock::{Clock, Second};
use crate::problem::Problem;

/// A clock this far off is worth a person's look: signatures and tokens still hold, certificates and schedules begin to err.
const SKEW_SECONDS_MAX: i64 = 30;

/// How to try.
#[derive(Clone, Debug)]
pub struct How {
    /// An archive may create one small object, to see that it creates only what is absent.
    pub write_probe: bool,
    pub clock: Clock,
}

/// One thing that was tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trial {
    /// One or two words: `token`, `audit log`, `list`, `clock`.
    pub tried: &'static str,
    pub outcome: Outcome,
}

impl Trial {
    pub fn new(tried: &'static str, outcome: impl Into<Outcome>) -> Trial {
        Trial { tried, outcome: outcome.into() }
    }

    /// How far this machine's clock is from a service's, which said `theirs` when it was `ours` here.
    pub fn of_clock(service: &str, theirs: Second, ours: Second) -> Trial {
        let ahead = ours - theirs;
        let seconds = ahead.unsigned_abs();
        let outcome = if ahead.abs() <= SKEW_SECONDS_MAX {
            Outcome::Ok(format!("within {SKEW_SECONDS_MAX} s of {service}"))
        } else {
            let way = if ahead > 0 { "ahead of" } else { "behind" };
            Outcome::Warning {
                cause: format!("this machine's clock is {seconds} s {way} {service}"),
                remedy: "set the clock, and let NTP keep it: tokens, signatures and certificates are judged by it; \
                         which events are fetched is not, that follows the service's clock"
                    .into(),
            }
        };
        Trial { tried: "clock", outcome }
    }

    /// Whether nothing more of this party is worth trying.
    pub fn ends(&self) -> bool {
        self.outcome.is_bad()
    }
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// What was found to be in order.
    Ok(String),
    /// It works, and a person should know something about it.
    Warning { cause: String, remedy: String },
    /// A person has to act.
    Failed(Problem),
    /// Nothing was decided: no answer, or one that will be another next time.
    Unreachable { cause: String, remedy: String },
}

impl Outcome {
    pub fn unreachable(cause: String) -> Outcome {
        let remedy =
            "try again; if it stays so, check the address in the configuration, the network and any proxy";
        Outcome::Unreachable { cause, remedy: remedy.to_owned() }
    }

    /// Asked to slow down: reachable, but it says nothing about permissions.
    pub fn throttled(cause: &str, wait: Option<Duration>) -> Outcome {
        let cause = format!("asked to slow down ({cause})");
        let when =
            wait.map_or_else(|| "in a few minutes".to_owned(), |wait| format!("in {} s", wait.as_secs()));
        Outcome::Unreachable { cause, remedy: format!("try again {when}; the daemon waits by itself") }
    }

    /// Whether deliveries would not come through.
    pub fn is_bad(&self) -> bool {
        matches!(self, Outcome::Failed(_) | Outcome::Unreachable { .. })
    }
}

impl From<Problem> for Outcome {
    fn from(problem: Problem) -> Outcome {
        Outcome::Failed(problem)
    }
}

impl From<String> for Outcome {
    fn from(found: String) -> Outcome {
        Outcome::Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::destination::Answer;

    #[test]
    fn a_clock_is_judged_by_how_far_it_is_and_which_way() {
        let at = |ours| Trial::of_clock("api.example", Second(1_000_000), Second(ours)).outcome;
        assert_eq!(at(1_000_030), Outcome::Ok("within 30 s of api.example".into()));
        assert_eq!(at(999_970), Outcome::Ok("within 30 s of api.example".into()));
        let said = |outcome| match outcome {
            Outcome::Warning { cause, .. } => cause,
            other => panic!("{other:?}"),
        };
        assert_eq!(said(at(1_000_031)), "this machine's clock is 31 s ahead of api.example");
        assert_eq!(said(at(996_400)), "this machine's clock is 3600 s behind api.example");
    }

    #[test]
    fn what_passes_by_itself_is_never_called_a_mistake_of_the_configuration() {
        for answer in [
            Answer::Ambiguous("connection refused".into()),
            Answer::Throttled { wait: None, cause: "429".into() },
        ] {
            assert!(matches!(Outcome::from(answer), Outcome::Unreachable { .. }));
        }
    }
}
