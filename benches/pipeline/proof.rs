//! What it costs to verify an archive, in this process and from memory: MB of events a CPU second, beside unpacking and hashing alone.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use pulumi_audit_forwarder::chunk::{Cut, Link, Mode, Packing};
use pulumi_audit_forwarder::clock::Second;
use pulumi_audit_forwarder::collect::tally::Tally;
use pulumi_audit_forwarder::destination::archive::Obstacle;
use pulumi_audit_forwarder::event::OrgId;
use pulumi_audit_forwarder::pulumi::wire::parse_page;
use pulumi_audit_forwarder::verify::{Asked, Reader, walk};
use sha2::{Digest, Sha256};

use crate::steps::{pages, summary};
use crate::threads;

type Files = BTreeMap<String, Bytes>;

/// An archive in memory.
struct Memory {
    files: Arc<Files>,
    left: Vec<String>,
}

#[async_trait]
impl Reader for Memory {
    fn locate(&self, key: &str) -> String {
        key.to_owned()
    }

    fn list(&mut self, below: &str) {
        self.left = self.files.keys().filter(|key| key.starts_with(below)).cloned().rev().collect();
    }

    async fn more(&mut self) -> Result<Vec<String>, Obstacle> {
        let some = self.left.len().min(1_000);
        Ok((0..some).filter_map(|_| self.left.pop()).collect())
    }

    async fn read(&mut self, key: &str, bytes_max: usize) -> Result<Option<Bytes>, Obstacle> {
        Ok(self.files.get(key).map(|body| body.slice(..body.len().min(bytes_max))))
    }
}

/// MB of lines a CPU second: verified, and only unpacked and hashed.
pub fn run(raw: &[(i64, Vec<u8>)]) -> (f64, f64) {
    let org = OrgId::new("acme").expect("a good id");
    let files = Arc::new(archive(raw, &org));
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let asked = Asked { org, lane: None, within: None, head: None };
    let before = threads::all();
    let readers = (0..4).map(|_| Memory { files: files.clone(), left: Vec::new() }).collect();
    let walked = runtime.block_on(walk(readers, &asked, &mut |_| {})).expect("memory can be read");
    let verified = threads::all() - before;
    assert!(walked.wrong.first.is_none(), "{:?}", walked.wrong.first);
    assert_eq!(walked.events, raw.len() as u64);

    let before = threads::all();
    let mut bytes = 0;
    for body in files.iter().filter(|(key, _)| key.ends_with(".gz")).map(|(_, body)| body) {
        let mut lines = Vec::new();
        std::io::Read::read_to_end(&mut flate2::read::MultiGzDecoder::new(&body[..]), &mut lines)
            .expect("gzip");
        std::hint::black_box(Sha256::digest(&lines));
        bytes += lines.len() as u64;
    }
    let hashed = threads::all() - before;
    assert_eq!(walked.bytes, bytes);
    (bytes as f64 / 1e6 / verified.as_secs_f64(), bytes as f64 / 1e6 / hashed.as_secs_f64())
}

fn archive(raw: &[(i64, Vec<u8>)], org: &OrgId) -> Files {
    let now = Second(raw.last().map_or(0, |(at, _)| *at) + 1);
    let (mut files, mut next, mut link) = (Files::new(), 0, Link::FIRST);
    for (window, pages) in pages(raw) {
        let events =
            pages.iter().flat_map(|body| parse_page(body, org, now).expect("a page").events).collect();
        let (before, after) = (summary(), summary());
        let packing = Packing::Stored;
        let cut =
            Cut { id: org, org: "acme", mode: Mode::Catchup, window, packing, next, link, before, after };
        for chunk in cut.chunks(Tally::default().take(events)) {
            (next, link) = (chunk.number + 1, Link::of_claim(&chunk.claim));
            files.insert(chunk.claim_key(), chunk.claim.clone());
            files.insert(chunk.object_key(), chunk.body.clone());
        }
    }
    files
}
