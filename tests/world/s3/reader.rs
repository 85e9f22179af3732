//! Reads buckets with the AWS client, past the faults: what is really stored.

use std::io::Read;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::primitives::ByteStream;

use super::seaweed::{ACCESS_KEY, REGION, SECRET_KEY};

/// A client with the world's credentials, for any endpoint.
pub fn client(endpoint: &str) -> Client {
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .endpoint_url(endpoint)
        .region(Region::new(REGION))
        .credentials_provider(Credentials::new(ACCESS_KEY, SECRET_KEY, None, None, "tests"))
        .retry_config(aws_sdk_s3::config::retry::RetryConfig::disabled())
        .force_path_style(true)
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .build();
    Client::from_conf(config)
}

#[derive(Debug, Clone)]
pub struct Bucket {
    client: Client,
    pub name: String,
}

impl Bucket {
    pub async fn create(endpoint: &str, name: &str, object_lock: bool) -> Self {
        let client = client(endpoint);
        let create = client.create_bucket().bucket(name).object_lock_enabled_for_bucket(object_lock);
        create.send().await.expect("a new bucket can be created");
        Self { client, name: name.to_owned() }
    }

    /// All keys below a prefix, sorted.
    pub async fn keys(&self, prefix: &str) -> Vec<String> {
        let mut keys = Vec::new();
        let mut pages =
            self.client.list_objects_v2().bucket(&self.name).prefix(prefix).into_paginator().send();
        while let Some(page) = pages.next().await {
            let page = page.expect("the bucket can be listed");
            keys.extend(page.contents().iter().filter_map(|object| object.key().map(str::to_owned)));
        }
        keys.sort();
        keys
    }

    pub async fn get(&self, key: &str) -> Option<Vec<u8>> {
        let object = self.client.get_object().bucket(&self.name).key(key).send().await.ok()?;
        Some(object.body.collect().await.ok()?.to_vec())
    }

    pub async fn metadata(&self, key: &str, name: &str) -> Option<String> {
        let head = self.client.head_object().bucket(&self.name).key(key).send().await.ok()?;
        head.metadata()?.get(name).cloned()
    }

    /// How an object is kept.
    pub async fn kept(&self, key: &str) -> HeadObjectOutput {
        self.client.head_object().bucket(&self.name).key(key).send().await.expect("the object is there")
    }

    /// Deletes the one version of an object, rather than hiding it; answers the status.
    pub async fn delete_for_good(&self, key: &str) -> u16 {
        let version = self.kept(key).await.version_id;
        let delete = self.client.delete_object().bucket(&self.name).key(key).set_version_id(version);
        match delete.send().await {
            Ok(_) => 204,
            Err(error) => error.raw_response().map_or(0, |response| response.status().as_u16()),
        }
    }

    /// Everything below a prefix, as stored. Several at a time: a test reads hundreds of objects.
    pub async fn everything(&self, prefix: &str) -> Vec<(String, Vec<u8>)> {
        let mut all = Vec::new();
        for keys in self.keys(prefix).await.chunks(16) {
            let mut reading = tokio::task::JoinSet::new();
            for key in keys.iter().cloned() {
                let bucket = self.clone();
                reading.spawn(async move { bucket.get(&key).await.map(|body| (key, body)) });
            }
            all.extend(reading.join_all().await.into_iter().flatten());
        }
        all
    }

    pub async fn put(&self, key: &str, body: Vec<u8>) {
        let put = self.client.put_object().bucket(&self.name).key(key).body(ByteStream::from(body));
        put.send().await.expect("the bucket can be written");
    }

    /// Create-only; answers the status.
    pub async fn create_object(&self, key: &str, body: Vec<u8>) -> u16 {
        let put = self
            .client
            .put_object()
            .bucket(&self.name)
            .key(key)
            .if_none_match("*")
            .body(ByteStream::from(body));
        match put.send().await {
            Ok(_) => 200,
            Err(error) => error.raw_response().map_or(0, |response| response.status().as_u16()),
        }
    }

    pub async fn delete(&self, key: &str) {
        self.client
            .delete_object()
            .bucket(&self.name)
            .key(key)
            .send()
            .await
            .expect("the object can be deleted");
    }

    /// The same bucket through another endpoint, for example through the faults.
    pub fn through(&self, endpoint: &str) -> Self {
        Self { client: client(endpoint), name: self.name.clone() }
    }
}

/// Unpacks a gzip file; nothing where it is damaged.
pub fn gunzip(packed: &[u8]) -> Option<Vec<u8>> {
    let mut plain = Vec::new();
    flate2::read::MultiGzDecoder::new(packed).read_to_end(&mut plain).ok()?;
    Some(plain)
}
