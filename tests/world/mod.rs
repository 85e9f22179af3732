//! The world around the forwarder, on loopback: Pulumi Cloud, Entra ID, Azure's log ingestion, and S3.

#![allow(
    dead_code,
    clippy::allow_attributes,
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::len_without_is_empty,
    reason = "several targets include this module and each uses another part of it, so `expect` would be unfulfilled in some; \
              and in a test a panic is the report"
)]

pub mod certificates;
pub mod chance;
pub mod clock;
pub mod entra;
pub mod ingestion;
pub mod ledger;
pub mod lexemes;
pub mod pulumi;
pub mod query;
pub mod script;
pub mod server;
pub mod verdict;
