//! What is tried of a source: whether there is a token in exchange for the platform's, whether each token can read the log, whose it
//! is and what else it may do, and the clock.
//!
//! *Why the log is asked first:* it is what matters. That a service will not say whose a token is (an old one, or a role that may
//! not ask) spoils nothing.

use std::sync::Arc;

use super::dates::Dates;
use crate::config::settings::{Oidc, OrgSettings, SourceCredentials};
use crate::http::Transport;
use crate::org::Shared;
use crate::problem::{PauseReason, Problem};
use crate::pulumi::client::{Client, SourceError};
use crate::pulumi::wire::{Account, TokenKind};
use crate::secret::SecretSource;
use crate::trial::{Outcome, Trial};

/// What the two tokens' trials are called.
const NAMES: [[&str; 2]; 2] = [["audit log", "token"], ["audit log by next_token", "next_token"]];
/// What the trial of an exchange is called.
const EXCHANGE: &str = "exchange";

pub(super) async fn tried(org: &OrgSettings, shared: &Shared, dates: &Dates) -> Vec<Trial> {
    let mut trials = match &org.source.credentials {
        SourceCredentials::Stored { token, next_token } => {
            of_stored(org, token, next_token.as_ref(), shared).await
        }
        SourceCredentials::Exchanged(oidc) => of_exchanged(org, oidc, shared).await,
    };
    trials.extend(dates.trial(&[&org.source.api_url]));
    trials
}

async fn of_stored(
    org: &OrgSettings,
    token: &SecretSource,
    next_token: Option<&SecretSource>,
    shared: &Shared,
) -> Vec<Trial> {
    let mut of_tokens = Vec::new();
    for (names, token) in NAMES.into_iter().zip(std::iter::once(token).chain(next_token)) {
        // Alone, so that the other does not stand in for it.
        let mut alone = org.clone();
        alone.source.credentials = SourceCredentials::Stored { token: token.clone(), next_token: None };
        let remedy = format!(
            "make an organization token whose role has audit_logs:read and nothing else, and put it into {}",
            token.place
        );
        of_tokens.push(of_token(&alone, names, &remedy, shared).await);
    }
    let works = of_tokens.iter().any(|trials| !trials.iter().any(Trial::ends));
    let mut trials: Vec<Trial> = of_tokens.into_iter().flatten().collect();
    if works && next_token.is_some() {
        // Amid an exchange of tokens one of them is refused, and the daemon does without it.
        trials.iter_mut().for_each(soften);
    }
    trials
}

async fn of_exchanged(org: &OrgSettings, oidc: &Oidc, shared: &Shared) -> Vec<Trial> {
    let transport = match transport(org, shared) {
        Ok(transport) => transport,
        Err(problem) => return vec![Trial::new(EXCHANGE, problem)],
    };
    let exchanges = shared.environments.exchanges();
    let exchange = exchanges.get(&org.source.access(), oidc, &transport, &shared.clock);
    let outcome = match exchange.token().await {
        Ok(token) => Outcome::Ok(format!("{}: for {} s", exchange.name(), token.life().as_secs())),
        Err(error) => refused(error, &org.source.api_url),
    };
    let mut trials = vec![Trial::new(EXCHANGE, outcome)];
    if !trials.iter().any(Trial::ends) {
        let remedy = "ask for organization tokens in `oidc`, and let the issuer's policy give them a role that has audit_logs:read and \
                      nothing else";
        trials.extend(of_token(org, NAMES[0], remedy, shared).await);
    }
    trials
}

fn transport(org: &OrgSettings, shared: &Shared) -> Result<Arc<dyn Transport>, Problem> {
    (shared.connect)(&org.source.route).map_err(|error| {
        let (cause, remedy) = (error.to_string(), format!("correct `{}`", error.key()));
        Problem { reason: PauseReason::Configuration, cause, remedy }
    })
}

fn soften(trial: &mut Trial) {
    if let Outcome::Failed(problem) = &trial.outcome {
        trial.outcome = Outcome::Warning {
            cause: format!("{}; the other token is used meanwhile", problem.cause),
            remedy: problem.remedy.clone(),
        };
    }
}

/// The token of these settings. `narrower` says how to have one that may do less.
async fn of_token(
    org: &OrgSettings,
    names: [&'static str; 2],
    narrower: &str,
    shared: &Shared,
) -> Vec<Trial> {
    let [log, owner] = names;
    let transport = match transport(org, shared) {
        Ok(transport) => transport,
        Err(problem) => return vec![Trial::new(log, problem)],
    };
    let metrics = shared.reports.metrics().org(&org.id, &org.destinations());
    let exchanges = shared.environments.exchanges();
    let mut client = Client::new(org, transport, &shared.hosts, exchanges, shared.clock.clone(), metrics);
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
        Ok(account) => whose(&account, &org.org, narrower),
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
fn whose(account: &Account, org: &str, narrower: &str) -> Outcome {
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
        Some(more) => Outcome::Warning { cause: format!("{what}: it {more}"), remedy: narrower.to_owned() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pulumi::wire::Known;

    fn said(kind: TokenKind, is_admin: bool) -> Outcome {
        let organizations = vec![Known { name: "Acme".into(), is_admin }];
        whose(&Account { kind, organizations }, "acme", "use a narrower one")
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
            assert_eq!(remedy, "use a narrower one");
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
