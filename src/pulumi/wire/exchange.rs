//! Token exchange in Pulumi's words: the form that is sent, the token that comes back, and what a refusal says.
//!
//! OAuth 2.0 Token Exchange (RFC 8693) with Pulumi's own urns: Pulumi Cloud REST API, "OAuth token exchange", 2026-08.

use std::time::Duration;

use percent_encoding::utf8_percent_encode;
use serde::Deserialize;
use serde_json::Value;

use super::{ESCAPED, cleaned, error_message};
use crate::config::settings::Oidc;
use crate::secret::Secret;

/// Where tokens are exchanged, below the service's address.
pub const EXCHANGE_PATH: &str = "/api/oauth/token";
/// How long an access token lives when nothing else is asked for.
pub const LIFE_DEFAULT: Duration = Duration::from_secs(7_200);
/// What the service may say about a life is believed between these; the upper one is the longest that issuers allow by default.
const LIFE_LEAST: Duration = Duration::from_secs(60);
const LIFE_MOST: Duration = Duration::from_secs(90_000);
/// Longest access token that is believed to be one.
const TOKEN_BYTES_MAX: usize = 16 * 1024;
/// Longest error word of OAuth.
const ERROR_CHARACTERS_MAX: usize = 60;

/// The body of an exchange. It holds the subject token.
pub fn form(oidc: &Oidc, subject: &str) -> String {
    let mut fields = vec![
        ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange".to_owned()),
        ("audience", audience(&oidc.organization)),
        ("subject_token_type", "urn:ietf:params:oauth:token-type:id_token".to_owned()),
        ("subject_token", subject.to_owned()),
        ("requested_token_type", format!("urn:pulumi:token-type:access_token:{}", oidc.token_type.as_str())),
    ];
    if !oidc.scope.is_empty() {
        fields.push(("scope", oidc.scope.clone()));
    }
    if let Some(expiration) = oidc.expiration {
        fields.push(("expiration", expiration.as_secs().to_string()));
    }
    let pairs = fields.iter().map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, ESCAPED)));
    pairs.collect::<Vec<_>>().join("&")
}

/// The audience that a token for this organization must have.
pub fn audience(organization: &str) -> String {
    format!("urn:pulumi:org:{organization}")
}

/// The access token of an answer with status 200, and how long it lives from the time of asking. `None` when there is none in it.
pub fn granted(body: &[u8], asked: Option<Duration>) -> Option<(Secret, Duration)> {
    #[derive(Deserialize)]
    struct Granted {
        access_token: String,
        #[serde(default)]
        expires_in: Option<Value>,
    }
    let granted: Granted = serde_json::from_slice(body).ok()?;
    let token = Secret::new(granted.access_token);
    let text = token.expose();
    // It becomes a header, which takes no other characters.
    let fits =
        !text.is_empty() && text.len() <= TOKEN_BYTES_MAX && text.bytes().all(|b| b.is_ascii_graphic());
    fits.then_some(())?;
    Some((token, life(granted.expires_in.as_ref(), asked)))
}

fn life(said: Option<&Value>, asked: Option<Duration>) -> Duration {
    let seconds = match said {
        Some(Value::Number(number)) => number.as_f64(),
        Some(Value::String(text)) => text.trim().parse().ok(),
        _ => None,
    };
    let asked = asked.unwrap_or(LIFE_DEFAULT);
    let said = seconds.filter(|seconds: &f64| !seconds.is_nan()).map(|seconds| {
        // Clamped before it is converted, which would panic for what is below zero or without end.
        Duration::from_secs_f64(seconds.clamp(0.0, LIFE_MOST.max(asked).as_secs_f64()))
    });
    said.unwrap_or(asked).max(LIFE_LEAST)
}

/// What an answer says about why there is no token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Denial {
    /// OAuth's word for it.
    pub error: Option<String>,
    /// The service's own words, without what was sent.
    pub message: Option<String>,
}

impl Denial {
    /// Reads OAuth's form of an error, or the service's own; nothing of what a proxy or a firewall says.
    pub fn of(body: &[u8], subject: &str) -> Denial {
        #[derive(Deserialize)]
        struct OauthError {
            error: String,
            #[serde(default)]
            error_description: Option<String>,
        }
        let Ok(denial) = serde_json::from_slice::<OauthError>(body) else {
            return Denial { error: None, message: error_message(body, subject) };
        };
        let is_word = |text: &str| {
            (1..=ERROR_CHARACTERS_MAX).contains(&text.len())
                && text.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
        };
        let message = denial.error_description.map(|text| cleaned(&text, subject));
        Denial {
            error: Some(denial.error).filter(|error| is_word(error)),
            message: message.filter(|text| !text.is_empty()).or_else(|| error_message(body, subject)),
        }
    }

    /// What follows the status in a sentence.
    pub fn said(&self) -> String {
        let mut said = String::new();
        if let Some(error) = &self.error {
            said.push(' ');
            said.push_str(error);
        }
        if let Some(message) = &self.message {
            said.push_str(": ");
            said.push_str(message);
        }
        said
    }
}

/// Any answer to an exchange: a token that a header can carry and a life that can be added, or words fit to print.
#[cfg(any(test, fuzzing))]
pub(in crate::pulumi) fn property(bytes: &[u8]) {
    use crate::hostile::given::{CANARY, assert_fit_to_print};

    let subject = format!("{CANARY}.{CANARY}.signature-of-the-canary");
    for asked in [None, Some(Duration::from_secs(300)), Some(Duration::from_secs(604_800))] {
        if let Some((token, life)) = granted(bytes, asked) {
            assert!(http::HeaderValue::from_str(&format!("token {}", token.expose())).is_ok());
            assert!(!token.expose().is_empty());
            assert!(life >= LIFE_LEAST && life <= LIFE_MOST.max(asked.unwrap_or_default()));
        }
    }
    let said = Denial::of(bytes, &subject).said();
    assert_fit_to_print(&said);
    assert!(!said.contains("signature-of-the-canary"), "{said}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::settings::TokenType;

    fn oidc(token_type: TokenType, scope: &str) -> Oidc {
        Oidc {
            organization: "acme corp".into(),
            subject_token_file: "/token".into(),
            token_type,
            scope: scope.into(),
            expiration: None,
        }
    }

    #[test]
    fn the_form_is_the_documented_one() {
        assert_eq!(
            form(&oidc(TokenType::Organization, ""), "h.b+/=.s"),
            "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Atoken-exchange&audience=urn%3Apulumi%3Aorg%3Aacme%20corp\
             &subject_token_type=urn%3Aietf%3Aparams%3Aoauth%3Atoken-type%3Aid_token&subject_token=h.b%2B%2F%3D.s\
             &requested_token_type=urn%3Apulumi%3Atoken-type%3Aaccess_token%3Aorganization"
        );
        let team = Oidc { expiration: Some(Duration::from_secs(3_600)), ..oidc(TokenType::Team, "team:ops") };
        let form = form(&team, "x");
        assert!(form.ends_with("access_token%3Ateam&scope=team%3Aops&expiration=3600"), "{form}");
    }

    #[test]
    fn a_life_is_believed_within_bounds() {
        let life = |expires_in: &str, asked: Option<u64>| {
            let body = format!(r#"{{"access_token":"pul-1","token_type":"token"{expires_in}}}"#);
            granted(body.as_bytes(), asked.map(Duration::from_secs)).unwrap().1.as_secs()
        };
        for (expires_in, asked, seconds) in [
            (r#","expires_in":7200"#, None, 7_200),
            (r#","expires_in":7200.5"#, None, 7_200),
            (r#","expires_in":"3600""#, None, 3_600),
            ("", None, 7_200),
            ("", Some(300), 300),
            (r#","expires_in":null"#, Some(300), 300),
            (r#","expires_in":"soon""#, None, 7_200),
            (r#","expires_in":0"#, None, 60),
            (r#","expires_in":-5"#, None, 60),
            (r#","expires_in":1e300"#, None, 90_000),
            (r#","expires_in":9223372036854775807"#, Some(604_800), 604_800),
            (r#","expires_in":"NaN""#, None, 7_200),
            (r#","expires_in":"inf""#, None, 90_000),
            (r#","expires_in":[1]"#, None, 7_200),
        ] {
            assert_eq!(life(expires_in, asked), seconds, "{expires_in} {asked:?}");
        }
    }

    #[test]
    fn an_answer_without_a_token_that_can_be_sent_is_none() {
        let nothing = [
            r#"{"access_token":""}"#,
            r#"{"access_token":null}"#,
            r#"{"access_token":" "}"#,
            r#"{"access_token":"a b"}"#,
            r#"{"access_token":"é"}"#,
            r#"{"expires_in":7200}"#,
            "[]",
            "<html>",
            "",
        ];
        for body in nothing {
            assert!(granted(body.as_bytes(), None).is_none(), "{body}");
        }
    }

    #[test]
    fn a_refusal_is_read_in_both_forms_and_repeats_nothing_that_was_sent() {
        let said = |body: &str| Denial::of(body.as_bytes(), "header12.payload1.signature").said();
        assert_eq!(
            said(r#"{"error":"invalid_grant","error_description":"no policy allows sub x"}"#),
            " invalid_grant: no policy allows sub x"
        );
        assert_eq!(said(r#"{"code":400,"message":"no store"}"#), ": no store");
        assert_eq!(said(r#"{"error":"invalid_grant","message":"two forms"}"#), " invalid_grant: two forms");
        assert_eq!(said(r#"{"error":"What Is This","error_description":""}"#), "");
        assert_eq!(said("<html>"), "");
        for repeated in ["header12.payload1.signature", "payload1", "`signature`"] {
            let body = format!(r#"{{"error":"invalid_grant","error_description":"bad {repeated} !"}}"#);
            assert_eq!(said(&body), " invalid_grant: bad [REDACTED] !");
        }
    }
}
