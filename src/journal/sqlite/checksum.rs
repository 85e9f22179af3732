//! Checksums of rows: the first 8 bytes of SHA-256 over a row's values and its key.
//!
//! They notice a flipped bit and a row under another's key. They do not notice an older row that came back whole, which is SQLite's
//! to prevent, and do not stop a person who means to forge.
//!
//! *Why, when SQLite has none:* a flipped bit inside a value is still a valid database, and would be sent.

use sha2::{Digest, Sha256};

use crate::clock::Second;
use crate::event::OrgId;

pub(super) struct Checksum(Sha256);

impl Checksum {
    /// `table` keeps rows of different tables apart; `owner` is the org's id, empty for what belongs to none.
    pub(super) fn new(table: &str, owner: &str) -> Checksum {
        Checksum(Sha256::new()).bytes(table.as_bytes()).bytes(owner.as_bytes())
    }

    pub(super) fn of(table: &str, org: &OrgId) -> Checksum {
        Checksum::new(table, org.as_str())
    }

    /// Length first, so that neighbouring values cannot run into each other.
    pub(super) fn bytes(mut self, bytes: &[u8]) -> Checksum {
        self.0.update((bytes.len() as u64).to_be_bytes());
        self.0.update(bytes);
        self
    }

    pub(super) fn integer(mut self, integer: i64) -> Checksum {
        self.0.update(integer.to_be_bytes());
        self
    }

    pub(super) fn second(self, second: Option<Second>) -> Checksum {
        match second {
            Some(Second(at)) => self.integer(1).integer(at),
            None => self.integer(0),
        }
    }

    /// As SQLite's integer.
    pub(super) fn finish(self) -> i64 {
        let digest: [u8; 32] = self.0.finalize().into();
        let [a, b, c, d, e, f, g, h, ..] = digest;
        i64::from_be_bytes([a, b, c, d, e, f, g, h])
    }
}
