//! Days of the forwarder's life in a second: its own parts in this process, the simulated services without sockets, and tokio's
//! paused clock under both.
//!
//! What is asked here needs time to show: budgets of requests, absences, probes that must not hammer, clocks that jump. What a
//! socket, a signal or a disk does is asked elsewhere, of the real binary.

mod absences;
mod budgets;
mod clocks;
mod crowds;
mod healthy;
mod outages;
mod refusals;
mod reloads;
mod rotations;
mod starts;
mod windows;

#[path = "../simulated/crash.rs"]
mod crash;
#[path = "../simulated/sdk.rs"]
mod sdk;
#[path = "../simulated/simulation.rs"]
pub(crate) mod simulation;
#[path = "../simulated/wire.rs"]
mod wire;
