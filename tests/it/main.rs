//! Behaviour from outside, one module each, against the world on loopback.

#![expect(clippy::expect_used, reason = "in a test a panic is the report")]

#[path = "../world/mod.rs"]
mod world;

#[path = "world.rs"]
mod the_world;

mod alerting;
mod auditing;
mod aws;
mod beating;
mod checking;
mod columns;
mod commands;
mod damaged;
mod dashboards;
mod delivery;
mod endpoints;
mod forwarder;
mod hostile;
mod identities;
mod ingesting;
mod isolation;
mod judging;
mod keyless;
mod killed;
mod lateness;
mod logs;
mod matrix;
mod proving;
mod quarantine;
mod reading;
mod recovery;
mod referees;
mod reload;
mod restarts;
mod rotation;
mod sameness;
mod secrets;
mod simulated;
mod status_page;
mod storing;
mod transport;
mod versions;
