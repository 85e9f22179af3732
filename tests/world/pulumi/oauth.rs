//! Token exchange: a token of an issuer that an org trusts, for an access token that ends by itself. Each leaves an event in the org's
//! log.
//!
//! It verifies no signatures: an issuer's tokens are those that [`Issuer::issue`] has made, as long as they have not expired.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::Response;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use serde_json::{Value, json};

use super::super::chance::Chance;
use super::super::query;
use super::super::verdict::respond;
use super::{Org, Owner, Token, events::Event};

/// An issuer, as it is registered with an org, and the one policy it has there.
#[derive(Debug, Clone)]
pub struct Issuer {
    /// The only subject that is allowed.
    pub subject: String,
    /// `organization`, `team` or `personal`.
    pub token_type: &'static str,
    /// What must be asked for: nothing, `team:…` or `user:…`.
    pub scope: String,
    pub may_read: bool,
    /// Seconds; the longest life of a token.
    pub max_expiration: i64,
    /// Tokens of this issuer, and until when each is good.
    issued: Vec<(String, i64)>,
}

impl Issuer {
    /// A policy that allows organization tokens with a role that may read the log.
    pub fn for_organization(subject: &str) -> Self {
        Self {
            subject: subject.to_owned(),
            token_type: "organization",
            scope: String::new(),
            may_read: true,
            max_expiration: 90_000,
            issued: Vec::new(),
        }
    }

    pub fn for_person(subject: &str, login: &str) -> Self {
        Self { token_type: "personal", scope: format!("user:{login}"), ..Self::for_organization(subject) }
    }

    /// A token for a subject: in the form of a JWT, with a signature that only this issuer could make.
    pub(super) fn issue(&mut self, chance: &mut Chance, org: &str, subject: &str, until: i64) -> String {
        let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let claims = json!({"iss": "https://issuer.example", "sub": subject, "aud": format!("urn:pulumi:org:{org}"),
            "exp": until, "jti": chance.hex(8)});
        let token = format!("{}.{}.{}", part(json!({"alg": "RS256"})), part(claims), chance.hex(64));
        self.issued.push((token.clone(), until));
        token
    }
}

/// An exchange that succeeded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchange {
    pub at: i64,
    pub subject_token: String,
    pub access_token: String,
    pub expires_in: i64,
}

/// What was asked for, in either form of a body.
pub(super) struct Asked {
    fields: Vec<(String, String)>,
}

impl Asked {
    pub(super) fn read(head: &Parts, body: &[u8]) -> Asked {
        let content_type = head.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let fields = if content_type.is_some_and(|value| value.starts_with("application/json")) {
            let object: serde_json::Map<String, Value> = serde_json::from_slice(body).unwrap_or_default();
            let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            object.iter().map(|(name, value)| (name.clone(), text(value))).collect()
        } else {
            query::pairs(&String::from_utf8_lossy(body))
        };
        Asked { fields }
    }

    fn field(&self, name: &str) -> &str {
        query::value(&self.fields, name).unwrap_or_default()
    }

    /// The organization it is about; the token's own audience wins over the request's.
    pub(super) fn org(&self) -> String {
        let claims = self.field("subject_token").split('.').nth(1).unwrap_or_default();
        let claims = URL_SAFE_NO_PAD.decode(claims).unwrap_or_default();
        let claims: Value = serde_json::from_slice(&claims).unwrap_or_default();
        let audience = claims["aud"].as_str().unwrap_or(self.field("audience"));
        audience.strip_prefix("urn:pulumi:org:").unwrap_or_default().to_owned()
    }
}

/// OAuth's word for it, and the service's own.
type Refusal = (&'static str, &'static str);

pub(super) fn refusal((error, description): Refusal) -> Response<Bytes> {
    let body = json!({"error": error, "error_description": description});
    respond(400, "application/json", body.to_string())
}

impl Org {
    /// Exchanges a token, or says why not. The other orgs that a personal token opens are the caller's business.
    pub(super) fn exchange(
        &mut self,
        asked: &Asked,
        now: i64,
        chance: &mut Chance,
    ) -> Result<(Response<Bytes>, Token), Refusal> {
        if asked.field("grant_type") != "urn:ietf:params:oauth:grant-type:token-exchange" {
            return Err(("unsupported_grant_type", "the grant type is not supported"));
        }
        if asked.field("subject_token_type") != "urn:ietf:params:oauth:token-type:id_token" {
            return Err(("invalid_request", "subject_token_type must be an id token"));
        }
        let subject_token = asked.field("subject_token").to_owned();
        let known = |issuer: &&Issuer| issuer.issued.iter().any(|(token, _)| *token == subject_token);
        let Some(issuer) = self.issuers.iter().find(known) else {
            return Err(("invalid_grant", "the issuer is not registered with this organization"));
        };
        if issuer.issued.iter().any(|(token, until)| *token == subject_token && *until <= now) {
            return Err(("invalid_grant", "token is expired"));
        }
        let claims = URL_SAFE_NO_PAD.decode(subject_token.split('.').nth(1).unwrap_or_default());
        let claims: Value = serde_json::from_slice(&claims.unwrap_or_default()).unwrap_or_default();
        let wanted = format!("urn:pulumi:token-type:access_token:{}", issuer.token_type);
        if claims["sub"] != issuer.subject.as_str()
            || asked.field("requested_token_type") != wanted
            || asked.field("scope") != issuer.scope
        {
            return Err(("invalid_grant", "no authorization policy allows this exchange"));
        }
        let expiration = match asked.field("expiration") {
            "" => 7_200,
            text => match text.parse::<i64>() {
                Ok(seconds) if seconds > 0 => seconds,
                _ => return Err(("invalid_request", "expiration must be a number of seconds")),
            },
        };
        let expires_in = expiration.min(issuer.max_expiration);
        let owner = match issuer.scope.split_once(':') {
            Some(("user", login)) => Owner::Person(login.to_owned()),
            Some(("team", team)) => Owner::Team(team.to_owned()),
            _ => Owner::Organization,
        };
        let token = Token {
            until: Some(now + expires_in),
            may_read: issuer.may_read,
            owner,
            ..super::new_token(chance)
        };
        let (token_type, scope) = (issuer.token_type, issuer.scope.clone());
        self.exchanges.push(Exchange {
            at: now,
            subject_token,
            access_token: token.value.clone(),
            expires_in,
        });
        let number = self.exchanges.len();
        let text = format!(
            "Created {token_type} token for OIDC issuer \"https://issuer.example\" (exchange {number})"
        );
        let mut event = Event::at(now).late_by(0).described(&text);
        event.event = format!("{token_type}-token-created-for-oidc-issuer");
        self.log.add([event]);
        let body = json!({"access_token": token.value, "issued_token_type": wanted, "token_type": "token",
            "expires_in": expires_in, "scope": scope});
        Ok((respond(200, "application/json", body.to_string()), token))
    }
}
