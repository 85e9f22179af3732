//! What operators install and set up, from `deploy/`: each part is used as they would use it, by the tools that they would use.

#![expect(clippy::expect_used, reason = "in a test a panic is the report")]

#[path = "../world/mod.rs"]
mod world;

mod aws;
mod azure;
mod chart;
mod container;
mod operating;
mod packages;
mod unit;
