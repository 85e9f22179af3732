//! The reference store: pieces in memory. It passes the same suite as the real ones.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;

use super::contract::{self, Place};
use super::{Creation, Entry, Lines, Obstacle, Piece, Store, lines_of};
use crate::destination::DestinationName;
use crate::trial::{How, Trial};

/// Clones share what they hold.
#[derive(Clone, Default)]
pub(super) struct Memory(Arc<Mutex<BTreeMap<String, Bytes>>>);

impl Memory {
    /// As no forwarder does it.
    pub(super) fn remove(&self, key: &str) {
        self.0.lock().unwrap().remove(key);
    }
}

#[async_trait]
impl Store for Memory {
    fn name(&self) -> DestinationName {
        DestinationName::File
    }

    fn locate(&self, key: &str) -> String {
        format!("memory:{key}")
    }

    async fn create(&mut self, key: &str, body: &Bytes, _: Piece<'_>) -> Result<Creation, Obstacle> {
        let mut pieces = self.0.lock().unwrap();
        if pieces.contains_key(key) {
            return Ok(Creation::Exists);
        }
        pieces.insert(key.to_owned(), body.clone());
        Ok(Creation::New(Entry { status: 0, reference: key.to_owned() }))
    }

    async fn read(&mut self, key: &str, bytes_max: usize) -> Result<Option<Bytes>, Obstacle> {
        let pieces = self.0.lock().unwrap();
        Ok(pieces.get(key).map(|body| body.slice(..body.len().min(bytes_max))))
    }

    async fn lines(&mut self, key: &str) -> Result<Option<(Lines, Entry)>, Obstacle> {
        let pieces = self.0.lock().unwrap();
        let entry = Entry { status: 0, reference: key.to_owned() };
        Ok(pieces.get(key).map(|body| (lines_of(body.as_ref()), entry)))
    }

    async fn secret_changed(&mut self) -> bool {
        false
    }

    async fn check(&mut self, _: &How) -> Vec<Trial> {
        vec![Trial::new("memory", "at hand".to_owned())]
    }
}

impl Place for Memory {
    type Store = Memory;

    fn store(&self) -> Memory {
        self.clone()
    }
}

contract::holds!(async { Memory::default() });
