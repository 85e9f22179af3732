//! placeholder

pub mod admin;
pub mod chunk;
pub mod cli;
pub mod clock;
pub mod collect;
pub mod config;
pub mod coverage;
pub mod destination;
pub mod event;
pub mod http;
pub mod journal;
pub mod lane;
pub mod log;
pub mod metrics;
pub mod org;
pub mod pulumi;
pub mod report;
pub mod retry;
pub mod secret;
pub mod supervisor;
