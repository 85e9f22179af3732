//! Collecting: which window next ([`plan`]), reading it to its end ([`sweep`]), what of it is new ([`tally`]).

pub mod plan;
pub mod sweep;
pub mod tally;
