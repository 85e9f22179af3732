//! Access tokens of one org: where they are, when they end, and which is in use.
//!
//! Which one is tried when is [`crate::rotation`]'s business. Nothing here prints one.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

use crate::clock::Second;
use crate::rotation::{Places, Rotation, Slot};
use crate::secret::{Fingerprint, Secret, SecretError, SecretSource};

/// The tokens of one org.
pub type Tokens = Rotation<TokenPlaces>;

/// `token` and `next_token`.
pub struct TokenPlaces {
    /// `None` where there are no stored tokens at all.
    token: Option<SecretSource>,
    next_token: Option<SecretSource>,
}

impl TokenPlaces {
    pub fn new(token: Option<SecretSource>, next_token: Option<SecretSource>) -> TokenPlaces {
        TokenPlaces { token, next_token }
    }

    /// For remedies.
    pub fn names(&self) -> String {
        let places = [&self.token, &self.next_token].into_iter().flatten();
        places.map(|source| source.place.to_string()).collect::<Vec<_>>().join(" or ")
    }
}

impl Places for TokenPlaces {
    type Value = Secret;

    fn keys(&self) -> [&'static str; 2] {
        ["token", "next_token"]
    }

    fn seen(&self, slot: Slot) -> Option<Result<Secret, SecretError>> {
        let source = match slot {
            Slot::First => &self.token,
            Slot::Next => &self.next_token,
        };
        source.as_ref().map(SecretSource::read)
    }

    fn fingerprint(token: &Secret) -> Fingerprint {
        token.fingerprint()
    }

    /// Pulumi's own tokens do not say when they end, and no call of its API does. A token in the form of a JWT does.
    fn expires(token: &Secret) -> Option<Second> {
        #[derive(Deserialize)]
        struct Claims {
            exp: i64,
        }
        let mut parts = token.expose().split('.');
        let (Some(_), Some(claims), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return None;
        };
        let claims = URL_SAFE_NO_PAD.decode(claims.trim_end_matches('=')).ok()?;
        serde_json::from_slice::<Claims>(&claims).ok().map(|claims| Second(claims.exp))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_that_is_a_jwt_says_when_it_ends_and_another_does_not() {
        let jwt = |claims: &str| format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims));
        let end = |token: &str| TokenPlaces::expires(&Secret::new(token.to_owned()));
        assert_eq!(end(&jwt(r#"{"sub":"x","exp":1795256100}"#)), Some(Second(1_795_256_100)));
        for other in
            ["pul-0123", "a.b.c", "a.b", &jwt("{}"), &jwt(r#"{"exp":"soon"}"#), &format!("{}.x", jwt("{}"))]
        {
            assert_eq!(end(other), None, "{other}");
        }
    }
}
