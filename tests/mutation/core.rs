//! The decision core alone, with its own tests: what `make mutants` mutates. `core.py` lays it out; the modules are the product's.
//!
//! *Why not the whole crate:* it takes half a minute to build for each of some hundred mutants; these modules take a second.

pub mod chunk;
pub mod clock;
pub mod collect {
    mod difference;
    mod known_time;
    pub mod plan;
    pub mod sweep;
    pub mod tally;
}
pub mod coverage;
pub mod destination;
pub mod event;
pub mod journal;
pub mod mutant;
pub mod problem;
pub mod pulumi {
    pub mod budget;
    pub mod wire;
}
pub mod retry;
pub mod trial;
