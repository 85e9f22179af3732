#[path = "../world/mod.rs"]
mod world;
