//! Heartbeats as objects beside the archive: one for each org and interval, which no recovery reads.

use async_trait::async_trait;
use aws_sdk_s3::primitives::ByteStream;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use super::{Bucket, keeping};
use crate::clock::Second;
use crate::destination::Pulse;
use crate::destination::archive::Store;

#[async_trait]
impl Pulse for Bucket {
    /// One that is there is replaced: after a restart within the interval, the later one tells more.
    async fn send(&mut self, interval: Second, row: Vec<u8>) -> Result<(), String> {
        let key = key(self.org.as_str(), interval);
        let asked = format!("PUT {}", self.locate(&key));
        let (settings, whole) = (self.settings.clone(), self.whole(&key));
        let checksum = STANDARD.encode(Sha256::digest(&row));
        let put = self
            .ask(&asked, |client| {
                let put = client
                    .put_object()
                    .bucket(settings.bucket.clone())
                    .key(whole.clone())
                    .content_type("application/json")
                    .body(ByteStream::from(row.clone()));
                keeping::asked_for(put, &settings, None, &checksum).send()
            })
            .await;
        put.map(drop).map_err(|refused| refused.cause)
    }
}

/// Relative to the prefix. Where a date is looked for, it is a partition like those of objects.
fn key(org: &str, interval: Second) -> String {
    let time: String = interval.to_string().chars().skip(11).filter(char::is_ascii_digit).collect();
    format!("_heartbeat/org={org}/date={}/{time}Z.json", interval.date())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_names_org_and_interval() {
        assert_eq!(key("acme", Second(1_795_256_100)), "_heartbeat/org=acme/date=2026-11-21/101500Z.json");
    }
}
