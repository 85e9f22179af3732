//! Behaviour from outside, one module each, against the world on loopback.

#[path = "../world/mod.rs"]
mod world;

#[path = "world.rs"]
mod the_world;

mod referees;
