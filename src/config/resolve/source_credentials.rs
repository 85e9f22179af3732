//! Who the daemon is for Pulumi: stored tokens, or a token of the platform that is exchanged.

use std::time::Duration;

use super::super::quantity::Period;
use super::super::settings::{Oidc, SourceCredentials, TokenType};
use super::super::{OidcSection, Secrets, SourceSection, TokenTypeName};
use super::{Reader, SECRET_REMEDY, required};
use crate::secret::read_projected;

/// Every exchange writes an audit event: more than a dozen an hour is a mistyped unit.
const EXPIRATION_MIN: Period = Period(Duration::from_secs(300));
const EXPIRATION_MAX: Period = Period(Duration::from_secs(7 * 86_400));
/// Of a team's name or a person's login.
const SCOPE_BYTES_MAX: usize = 256;

fn at(name: &str) -> [&str; 3] {
    ["source", "oidc", name]
}

impl Reader<'_> {
    /// `org` is Pulumi's name of the organization, where that is known.
    pub(super) fn source_credentials(
        &mut self,
        section: &SourceSection,
        org: Option<&str>,
    ) -> Option<SourceCredentials> {
        let oidc = &["source", "oidc"];
        let Some(written) = &section.oidc else {
            if self.view.found_wrong(oidc) {
                return None;
            }
            if section.token.is_none() {
                let remedy = format!("{SECRET_REMEDY}, or set `oidc` to do without a stored token");
                self.view.missing(&["source", "token"], &remedy);
            }
            let token =
                section.token.as_ref().and_then(|token| self.secret(&["source", "token"], Some(token)));
            let next_token = self.optional_secret(&["source", "next_token"], section.next_token.as_ref());
            return Some(SourceCredentials::Stored { token: token?, next_token: next_token? });
        };
        for (name, given) in [("token", &section.token), ("next_token", &section.next_token)] {
            if given.is_some() {
                let text = "is a stored token, and `oidc` stands in place of one: remove one of the two";
                self.view.refuse_unseen(&["source", name], text);
            }
        }
        self.oidc(written, org).map(SourceCredentials::Exchanged)
    }

    fn oidc(&mut self, written: &OidcSection, org: Option<&str>) -> Option<Oidc> {
        let file = at("subject_token_file");
        let remedy = "give the file into which the platform puts its token";
        let subject_token_file = self.path(&file, written.subject_token_file.as_deref(), remedy);
        if self.secrets == Secrets::MustBeReadable
            && let Some(path) = &subject_token_file
            && let Err(error) = read_projected(path)
        {
            self.view.refuse(&file, error.to_string());
        }
        let organization = match written.organization.as_deref() {
            Some(given) => self.name(
                &at("organization"),
                Some(given),
                "give Pulumi's name of the organization at which the token is exchanged",
            ),
            None if self.view.found_wrong(&at("organization")) => None,
            None => org.map(str::to_owned),
        };
        let token_type = match written.token_type {
            _ if self.view.found_wrong(&at("token_type")) => None,
            None | Some(TokenTypeName::Organization) => Some(TokenType::Organization),
            Some(TokenTypeName::Team) => Some(TokenType::Team),
            Some(TokenTypeName::Personal) => Some(TokenType::Personal),
        };
        let scope = token_type.and_then(|token_type| self.oidc_scope(token_type, written.scope.as_deref()));
        let key = at("expiration");
        let expiration = written.expiration.map(|period| {
            if period < EXPIRATION_MIN || period > EXPIRATION_MAX {
                self.view.refuse(&key, format!("give from {EXPIRATION_MIN} to {EXPIRATION_MAX}"));
            }
            period.0
        });
        if self.view.found_wrong(&file) || self.view.found_wrong(&key) {
            return None;
        }
        Some(Oidc {
            organization: organization?,
            subject_token_file: subject_token_file?,
            token_type: token_type?,
            scope: scope?,
            expiration,
        })
    }

    fn oidc_scope(&mut self, token_type: TokenType, value: Option<&str>) -> Option<String> {
        let key = &at("scope");
        let scope = value.unwrap_or_default();
        let is_named = |prefix: &str| {
            scope.strip_prefix(prefix).is_some_and(|name| {
                !name.is_empty()
                    && name.len() <= SCOPE_BYTES_MAX
                    && !name.contains(|c: char| c.is_whitespace() || c.is_control())
            })
        };
        let (fits, remedy) = match token_type {
            TokenType::Organization => {
                (matches!(scope, "" | "admin"), "an organization's token takes no scope, or admin")
            }
            TokenType::Team => (is_named("team:"), "a team's token takes team: and the team's name"),
            TokenType::Personal => (is_named("user:"), "a personal token takes user: and the login"),
        };
        if value.is_none() && (self.view.found_wrong(key) || !fits) {
            return required(self.view, key, None, remedy);
        }
        if !fits {
            self.view.refuse(key, remedy);
            return None;
        }
        if scope == "admin" {
            self.view
                .warn(key, "lets the token do whatever an admin may: a role with audit_logs:read is enough");
        }
        Some(scope.to_owned())
    }
}
