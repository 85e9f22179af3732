//! What is known of an event once it has been read: its raw form, its time, its identity and its payload.
//!
//! This module does not know Pulumi's field names ([`crate::pulumi::wire`] does), and decides nothing.
//!
//! *Why an identity beside the payload:* the source gives events no id, and resolves some fields (the whole `user`, token and
//! actor names) when they are read. The [`Identity`] hashes only what is fixed when the event happens, so that a changed avatar
//! does not make a new event; the [`Payload`] hashes all of it, so that two events that differ in a field the identity leaves out
//! are still two.

use std::fmt;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::clock::Second;

/// Our name of an org: the stem of its configuration file. It names state, keys and objects and never changes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct OrgId(Arc<str>);

/// Longest [`OrgId`]: S3 keys and file names hold it beside other parts.
pub const ORG_ID_CHARACTERS_MAX: usize = 64;

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "`{0}` cannot be an org's id: use 1 to {ORG_ID_CHARACTERS_MAX} lower-case letters, digits, `-` and `_` as the file's name"
)]
pub struct BadOrgId(String);

impl OrgId {
    pub fn new(text: &str) -> Result<OrgId, BadOrgId> {
        let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
        if text.is_empty() || text.len() > ORG_ID_CHARACTERS_MAX || !text.bytes().all(good) {
            return Err(BadOrgId(text.chars().take(80).collect()));
        }
        Ok(OrgId(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for OrgId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for OrgId {
    type Error = BadOrgId;
    fn try_from(text: String) -> Result<OrgId, BadOrgId> {
        OrgId::new(&text)
    }
}

impl From<OrgId> for String {
    fn from(id: OrgId) -> String {
        id.0.as_ref().into()
    }
}

/// SHA-256 over the fields that are fixed when the event happens; the exact encoding is [`IdentityHasher`]'s.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity(pub [u8; 32]);

/// SHA-256 of the event's raw form.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Payload(pub [u8; 32]);

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", hex(&self.0[..8]))
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Payload({})", hex(&self.0[..8]))
    }
}

/// Builds an [`Identity`]: a domain tag with a version and a zero byte, then each value as its length (4 bytes, big-endian) and
/// its bytes. The org's id comes first; the wire module says which fields follow, and how a value becomes bytes.
pub struct IdentityHasher(Sha256);

/// The domain tag: a changed encoding must change the version in it, or old and new keys would be confused.
pub const IDENTITY_DOMAIN: &[u8] = b"pulumi-audit-forwarder/identity/v1\0";

impl IdentityHasher {
    pub fn new(org: &OrgId) -> IdentityHasher {
        let mut hasher = Sha256::new();
        hasher.update(IDENTITY_DOMAIN);
        let mut this = IdentityHasher(hasher);
        this.value(org.as_str().as_bytes());
        this
    }

    pub fn value(&mut self, bytes: &[u8]) {
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        self.0.update(length.to_be_bytes());
        self.0.update(bytes);
    }

    pub fn finish(self) -> Identity {
        Identity(self.0.finalize().into())
    }
}

/// The name of one occurrence of an event, the same in every destination and after every crash: unpadded base64url of
/// SHA-256(identity ‖ ordinal as 8 bytes, big-endian), 43 characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventKey(String);

impl EventKey {
    pub fn new(identity: &Identity, ordinal: u64) -> EventKey {
        let mut hasher = Sha256::new();
        hasher.update(identity.0);
        hasher.update(ordinal.to_be_bytes());
        EventKey(URL_SAFE_NO_PAD.encode(hasher.finalize()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// One audit event as read from a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// As received, without insignificant white space. Not necessarily UTF-8, nor an object.
    pub raw: Bytes,
    /// When it happened; `None` when no plausible time could be read.
    pub at: Option<Second>,
    pub identity: Identity,
    pub payload: Payload,
    /// The event type as sent; empty when there was none. Needed to ask inside a dense second.
    pub kind: Arc<str>,
    pub odd: Odd,
}

/// What is unexpected about an event; counted once, when it is journaled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Odd {
    /// A field this version does not know.
    pub unknown_field: bool,
    /// A field that is always there is not.
    pub missing_field: bool,
    /// A known field of another type, or an event that is not an object.
    pub bad_type: bool,
    pub implausible_time: bool,
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_43_characters_and_pinned() {
        let org = OrgId::new("acme").unwrap();
        let mut hasher = IdentityHasher::new(&org);
        hasher.value(b"1795256100");
        let identity = hasher.finish();
        let key = EventKey::new(&identity, 0);
        assert_eq!(key.as_str().len(), 43);
        assert_ne!(key, EventKey::new(&identity, 1));
    }

    #[test]
    fn an_id_is_written_and_read_as_its_text() {
        let org = OrgId::new("acme-1_x").unwrap();
        assert_eq!((org.as_str(), org.to_string().as_str()), ("acme-1_x", "acme-1_x"));
        let json = serde_json::to_string(&org).unwrap();
        assert_eq!(json, "\"acme-1_x\"");
        assert_eq!(serde_json::from_str::<OrgId>(&json).unwrap(), org);
        assert!(serde_json::from_str::<OrgId>("\"../acme\"").is_err());
    }

    #[test]
    fn where_one_value_ends_and_the_next_begins_is_part_of_the_identity() {
        let of = |values: &[&[u8]]| {
            let mut hasher = IdentityHasher::new(&OrgId::new("acme").unwrap());
            values.iter().for_each(|value| hasher.value(value));
            hasher.finish()
        };
        assert_ne!(of(&[b"ab", b"c"]), of(&[b"a", b"bc"]));
        assert_ne!(of(&[b"ab"]), of(&[b"ab", b""]));
    }

    #[test]
    fn hashes_are_shown_as_hexadecimal_and_cut_in_logs() {
        assert_eq!(hex(&[0x00, 0x0f, 0xa5, 0xff]), "000fa5ff");
        assert_eq!(format!("{:?}", Identity([0xa5; 32])), "Identity(a5a5a5a5a5a5a5a5)");
        assert_eq!(format!("{:?}", Payload([0x5a; 32])), "Payload(5a5a5a5a5a5a5a5a)");
    }

    #[test]
    fn an_id_that_could_leave_its_folder_is_refused() {
        for bad in ["", "Acme", "a/b", "..", "a b", "é"] {
            assert!(OrgId::new(bad).is_err(), "{bad}");
        }
        assert!(OrgId::new("acme-1_x").is_ok());
    }
}
