//! Access tokens of one org: which one is in use, and what to do when it is refused.
//!
//! The secret's place is read at the first use and after every refusal, so replacing the file is enough. Nothing here prints one.

use crate::secret::{Fingerprint, Secret, SecretError, SecretSource};

/// Which of the two configured tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    Token,
    NextToken,
}

/// The tokens of one org.
#[derive(Debug)]
pub struct Tokens {
    /// `None` where there are no stored tokens at all.
    token: Option<SecretSource>,
    next_token: Option<SecretSource>,
    current: Option<(Slot, Secret)>,
    /// The one to begin with when none is in use.
    turn: Slot,
    /// What both places held at the last refusal.
    refused: Option<[Option<Fingerprint>; 2]>,
}

impl Tokens {
    pub fn new(token: Option<SecretSource>, next_token: Option<SecretSource>) -> Tokens {
        Tokens { token, next_token, current: None, turn: Slot::Token, refused: None }
    }

    /// The token in use, read now if there is none yet.
    ///
    /// # Errors
    /// When its place cannot be read.
    pub fn current(&mut self) -> Result<Secret, SecretError> {
        if let Some((_, secret)) = &self.current {
            return Ok(secret.clone());
        }
        let slot = self.first();
        let secret = match (slot, &self.next_token, &self.token) {
            (Slot::NextToken, Some(next), _) => next.read()?,
            (_, _, Some(token)) => token.read()?,
            (_, _, None) => return Err(SecretError::Empty { place: "`token` of [source]".into() }),
        };
        self.current = Some((slot, secret.clone()));
        Ok(secret)
    }

    /// The one that was changed since the last refusal; else the one whose turn it is, if it can be read.
    fn first(&self) -> Slot {
        let [token, next] = self.fingerprints();
        if let Some([refused, refused_next]) = self.refused {
            if token.is_some() && token != refused {
                return Slot::Token;
            }
            if next.is_some() && next != refused_next {
                return Slot::NextToken;
            }
        }
        if self.turn == Slot::NextToken && next.is_some() { Slot::NextToken } else { Slot::Token }
    }

    /// After a refusal: the token to try next, which is not the one just refused. `None` when there is no other: ask a person.
    pub fn other(&mut self) -> Option<Secret> {
        let refused = self.current.take();
        let was = refused.as_ref().map(|(_, secret)| secret.fingerprint());
        let sources = [(Slot::Token, self.token.as_ref()), (Slot::NextToken, self.next_token.as_ref())];
        for (slot, source) in sources {
            let Some(secret) = source.and_then(|source| source.read().ok()) else { continue };
            if Some(secret.fingerprint()) != was {
                self.current = Some((slot, secret.clone()));
                return Some(secret);
            }
        }
        None
    }

    /// No token helps: remember what they are, so that a change can be seen. They are read anew at the next use.
    pub fn all_refused(&mut self) {
        self.current = None;
        self.turn = Slot::Token;
        self.refused = Some(self.fingerprints());
    }

    /// The one in use may not read the log: the other has its turn at the next try, which is not now. A change can be seen.
    pub fn forbidden(&mut self) {
        let was = self.current.take().map(|(slot, _)| slot);
        self.turn = if was == Some(Slot::Token) { Slot::NextToken } else { Slot::Token };
        self.refused = Some(self.fingerprints());
    }

    /// Whether a place holds something else than at the last refusal.
    pub fn changed(&self) -> bool {
        self.refused.is_some_and(|refused| refused != self.fingerprints())
    }

    pub fn slot(&self) -> Option<Slot> {
        self.current.as_ref().map(|(slot, _)| *slot)
    }

    /// Where the tokens are, for remedies.
    pub fn places(&self) -> String {
        let places = [&self.token, &self.next_token].into_iter().flatten();
        places.map(|source| source.place.to_string()).collect::<Vec<_>>().join(" and ")
    }

    fn fingerprints(&self) -> [Option<Fingerprint>; 2] {
        let read = |source: &SecretSource| source.read().ok().map(|secret| secret.fingerprint());
        [self.token.as_ref().and_then(read), self.next_token.as_ref().and_then(read)]
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use super::*;
    use crate::secret::Place;

    fn write(path: &Path, text: &str) -> SecretSource {
        std::fs::write(path, text).unwrap();
        std::fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
        SecretSource { place: Place::File(path.to_owned()), group_may_read: false }
    }

    #[test]
    fn a_replaced_file_is_tried_after_a_refusal() {
        let folder = tempfile::tempdir().unwrap();
        let source = write(&folder.path().join("token"), "one\n");
        let mut tokens = Tokens::new(Some(source), None);
        assert_eq!(tokens.current().unwrap().expose(), "one");
        write(&folder.path().join("token"), "two\n");
        assert_eq!(tokens.current().unwrap().expose(), "one", "the old one is used while it is accepted");
        assert_eq!(tokens.other().unwrap().expose(), "two");
        assert!(tokens.other().is_none(), "there is no third");
    }

    #[test]
    fn a_forbidden_token_gives_its_turn_to_the_other_or_to_the_one_that_changes() {
        let folder = tempfile::tempdir().unwrap();
        let token = write(&folder.path().join("token"), "one");
        let next = write(&folder.path().join("next"), "two");
        let mut tokens = Tokens::new(Some(token), Some(next));
        assert_eq!(tokens.current().unwrap().expose(), "one");
        tokens.forbidden();
        assert!(!tokens.changed());
        assert_eq!(tokens.current().unwrap().expose(), "two");
        tokens.forbidden();
        write(&folder.path().join("next"), "three");
        assert!(tokens.changed());
        assert_eq!(tokens.current().unwrap().expose(), "three");
        tokens.forbidden();
        assert_eq!(tokens.current().unwrap().expose(), "one");
    }

    #[test]
    fn a_token_alone_is_read_anew_after_it_was_forbidden() {
        let folder = tempfile::tempdir().unwrap();
        let mut tokens = Tokens::new(Some(write(&folder.path().join("token"), "one")), None);
        tokens.current().unwrap();
        tokens.forbidden();
        write(&folder.path().join("token"), "two");
        assert!(tokens.changed());
        assert_eq!(tokens.current().unwrap().expose(), "two");
    }

    #[test]
    fn the_next_token_is_tried_when_the_first_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let token = write(&folder.path().join("token"), "one");
        let next = write(&folder.path().join("next"), "two");
        let mut tokens = Tokens::new(Some(token), Some(next));
        tokens.current().unwrap();
        assert_eq!(tokens.other().unwrap().expose(), "two");
        assert_eq!(tokens.slot(), Some(Slot::NextToken));
        tokens.all_refused();
        assert!(!tokens.changed());
        write(&folder.path().join("next"), "three");
        assert!(tokens.changed());
    }
}
