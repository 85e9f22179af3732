//! What is tried of a source: whether each token can read the log, whose it is and what else it may do, and the clock.
//!
//! *Why the log is asked first:* it is what matters. That a service will not say whose a token is (an old one, or a role that may
//! not ask) spoils nothing.

use super::dates::Dates;
use crate::config::settings::OrgSettings;
use crate::org::Shared;
use crate::problem::{PauseReason, Problem};
use crate::pulumi::client::{Client, SourceError};
use crate::pulumi::wire::{Account, TokenKind};
use crate::secret::{Place, SecretSource};
use crate::trial::{Outcome, Trial};

/// What the two tokens' trials are called.
const NAMES: [[&str; 2]; 2] = [["audit log", "token"], ["audit log by next_token", "next_token"]];

pub(super) async fn tried(org: &OrgSettings, shared: &Shared, dates: &Dates) -> Vec<Trial> {
    let tokens = [Some(&org.source.token), org.source.next_token.as_ref()];
    let mut of_tokens = Vec::new();
    for (names, token) in NAMES.into_iter().zip(tokens.into_iter().flatten()) {
        of_tokens.push(of_token(org, token, names, shared).await);
    }
    let works = of_tokens.iter().any(|trials| !trials.iter().any(Trial::ends));
    let mut trials: Vec<Trial> = of_tokens.into_iter().flatten().collect();
    if works && org.source.next_token.is_some() {
        // Amid an exchange of tokens one of them is refused, and the daemon does without it.
        trials.iter_mut().for_each(soften);
    }
    trials.extend(dates.trial(&[&org.source.api_url]));
    trials
}

fn soften(trial: &mut Trial) {
    if let Outcome::Failed(problem) = &trial.outcome {
        trial.outcome = Outcome::Warning {
            cause: format!("{}; the other token is used meanwhile", problem.cause),
            remedy: problem.remedy.clone(),
        };
    }
}

/// One token alone, so that the other does not stand in for it.
async fn of_token(
    org: &OrgSettings,
    token: &SecretSource,
    names: [&'static str; 2],
    shared: &Shared,
) -> Vec<Trial> {
    let mut alone = org.clone();
    alone.source.token = token.clone();
    alone.source.next_token = None;
    let [log, owner] = names;
    let transport = match (shared.connect)(&org.source.route) {
        Ok(transport) => transport,
        Err(error) => {
            let (cause, remedy) = (error.to_string(), format!("correct `{}`", error.key()));
            return vec![Trial::new(log, Problem { reason: PauseReason::Configuration, cause, remedy })];
        }
    };
    let metrics = shared.reports.metrics().org(&org.id, &org.destinations());
    let mut client = Client::new(&alone, transport, &shared.hosts, shared.clock.clone(), metrics);
    let read = match client.check().await {
        Ok(()) => Outcome::Ok(format!("of `{}` can be read", org.org)),
        Err(error) => refused(error, &org.source.api_url),
    };
    if matches!(&read, Outcome::Unreachable { .. })
        || matches!(&read, Outcome::Failed(problem) if problem.reason == PauseReason::Credentials)
    {
        return vec![Trial::new(log, read)];
    }
    let account = client.account().await;
    let read = match (read, &account) {
        (Outcome::Failed(problem), Ok(account)) => Outcome::Failed(with_known(problem, &org.org, account)),
        (read, _) => read,
    };
    let kind = match account {
        Ok(account) => whose(&account, &org.org, &token.place),
        Err(error) => Outcome::Ok(format!("accepted; the service does not say whose it is ({error})")),
    };
    vec![Trial::new(log, read), Trial::new(owner, kind)]
}

/// What a refusal of the log means for whoever asked.
fn refused(error: SourceError, api_url: &str) -> Outcome {
    let problem = |reason, cause, remedy| Outcome::Failed(Problem { reason, cause, remedy });
    match error {
        SourceError::Credentials { cause, remedy } => problem(PauseReason::Credentials, cause, remedy),
        SourceError::Permission { cause, remedy } => problem(PauseReason::Permission, cause, remedy),
        SourceError::Configuration { cause, remedy }
        | SourceError::NotFound { cause, remedy }
        | SourceError::Barred { cause, remedy }
        | SourceError::BadRequest { cause, remedy } => problem(PauseReason::Configuration, cause, remedy),
        SourceError::Throttled { wait } => Outcome::throttled("429 or 503 with Retry-After", wait),
        SourceError::TooHeavy(cause) | SourceError::Transient(cause) => {
            Outcome::unreachable(format!("{api_url}: {cause}"))
        }
    }
}

/// Which organizations the token does see, where the configured one is not among them.
fn with_known(mut problem: Problem, org: &str, account: &Account) -> Problem {
    if let Some(seen) = account.seen_instead_of(org) {
        problem.remedy = format!("{}. {seen}", problem.remedy);
    }
    problem
}

/// Whose a token is, and whether it may do more than it is needed for.
fn whose(account: &Account, org: &str, place: &Place) -> Outcome {
    let rules =
        account.organizations.iter().any(|known| known.is_admin && known.name.eq_ignore_ascii_case(org));
    let (what, more) = match &account.kind {
        TokenKind::Organization { name, organization } => (
            format!("organization token `{name}` of `{organization}`"),
            rules.then(|| "may do whatever an admin of the organization may".to_owned()),
        ),
        TokenKind::Team { name, organization, team } => (
            format!("team token `{name}` of team `{team}` of `{organization}`"),
            Some("may do whatever the team may".to_owned()),
        ),
        TokenKind::Personal { login } => {
            let rank = if rules { ", an admin," } else { "" };
            (
                format!("personal token of `{login}`"),
                Some(format!(
                    "may do whatever this person{rank} may in every organization, and ends with the account"
                )),
            )
        }
    };
    match more {
        None => Outcome::Ok(what),
        Some(more) => Outcome::Warning {
            cause: format!("{what}: it {more}"),
            remedy: format!(
                "make an organization token whose role has audit_logs:read and nothing else, and put it into {place}"
            ),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pulumi::wire::Known;

    fn said(kind: TokenKind, is_admin: bool) -> Outcome {
        let organizations = vec![Known { name: "Acme".into(), is_admin }];
        whose(&Account { kind, organizations }, "acme", &Place::Env("TOKEN".into()))
    }

    #[test]
    fn a_token_that_may_do_more_than_it_is_needed_for_is_warned_of() {
        let organization = || TokenKind::Organization { name: "audit".into(), organization: "acme".into() };
        assert_eq!(said(organization(), false), Outcome::Ok("organization token `audit` of `acme`".into()));
        let team = TokenKind::Team { name: "t".into(), organization: "acme".into(), team: "ops".into() };
        let personal = || TokenKind::Personal { login: "alice".into() };
        for (outcome, part) in [
            (said(organization(), true), "an admin of the organization"),
            (said(team, false), "team `ops`"),
            (said(personal(), false), "personal token of `alice`"),
            (said(personal(), true), "this person, an admin, may"),
        ] {
            let Outcome::Warning { cause, remedy } = outcome else { panic!("{outcome:?}") };
            assert!(cause.contains(part), "{cause}");
            assert!(remedy.contains("audit_logs:read") && remedy.contains("TOKEN"), "{remedy}");
        }
    }

    #[test]
    fn an_organization_that_the_token_does_not_see_is_answered_with_those_it_does() {
        let account = |name: &str| Account {
            kind: TokenKind::Personal { login: "alice".into() },
            organizations: vec![Known { name: name.into(), is_admin: false }],
        };
        let problem = || Problem {
            reason: PauseReason::Configuration,
            cause: "404".into(),
            remedy: "check `org`".into(),
        };
        assert_eq!(
            with_known(problem(), "acme", &account("acme-new")).remedy,
            "check `org`. This token sees `acme-new`"
        );
        assert_eq!(with_known(problem(), "acme", &account("ACME")).remedy, "check `org`");
    }
}
