//! A bucket as [`verify`](crate::verify) reads it: keys below a prefix, and what is under one.

use async_trait::async_trait;
use bytes::Bytes;

use super::Bucket;
use super::client::Connections;
use crate::clock::Clock;
use crate::config::settings::S3Settings;
use crate::destination::archive::{Obstacle, Store};
use crate::event::OrgId;
use crate::problem::Problem;
use crate::recovery::Place;
use crate::verify::Reader;

/// A bucket, below its prefix, to be read; recovery alone asks for its store.
pub struct BucketReader {
    bucket: Bucket,
    /// What is listed, the last key given, and whether there is more.
    below: String,
    after: Option<String>,
    has_more: bool,
}

impl BucketReader {
    /// # Errors
    /// When a file of its route cannot be used.
    pub fn new(
        settings: &S3Settings,
        org: &OrgId,
        connections: &Connections,
        clock: &Clock,
    ) -> Result<BucketReader, Problem> {
        let bucket = Bucket::new(settings, org, connections, clock)?;
        Ok(BucketReader { bucket, below: String::new(), after: None, has_more: false })
    }
}

#[async_trait]
impl Reader for BucketReader {
    fn locate(&self, key: &str) -> String {
        self.bucket.locate(key)
    }

    fn list(&mut self, below: &str) {
        (self.below, self.after, self.has_more) = (below.to_owned(), None, true);
    }

    async fn more(&mut self) -> Result<Vec<String>, Obstacle> {
        while self.has_more {
            let (bucket, below) = (self.bucket.settings.bucket.clone(), self.bucket.whole(&self.below));
            let asked = format!("LIST {}", self.bucket.locate(&self.below));
            let owner = self.bucket.settings.expected_bucket_owner.clone();
            let after = self.after.clone();
            let listed = self
                .bucket
                .ask(&asked, |client| {
                    let list = client.list_objects_v2().set_expected_bucket_owner(owner.clone());
                    list.bucket(bucket.clone()).prefix(below.clone()).set_start_after(after.clone()).send()
                })
                .await
                .map_err(|refused| self.bucket.obstacle(refused))?;
            let keys: Vec<String> =
                listed.contents.unwrap_or_default().into_iter().filter_map(|object| object.key).collect();
            let Some(last) = keys.last().cloned() else {
                self.has_more = false;
                return Ok(Vec::new());
            };
            if self.after.as_ref().is_some_and(|after| last <= *after) {
                return Err(Obstacle::Ambiguous(format!("{asked}: the store gives the same keys again")));
            }
            self.has_more = listed.is_truncated == Some(true);
            self.after = Some(last);
            // Where the store shows folders as keys of their own, they say nothing.
            let prefix = self.bucket.whole("").len();
            let keys = keys.iter().filter(|key| !key.ends_with('/')).filter_map(|key| key.get(prefix..));
            let keys: Vec<String> = keys.map(str::to_owned).collect();
            if !keys.is_empty() {
                return Ok(keys);
            }
        }
        Ok(Vec::new())
    }

    async fn read(&mut self, key: &str, bytes_max: usize) -> Result<Option<Bytes>, Obstacle> {
        Store::read(&mut self.bucket, key, bytes_max).await
    }
}

impl Place for BucketReader {
    fn store(&mut self) -> &mut dyn Store {
        &mut self.bucket
    }
}
