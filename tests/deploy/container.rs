//! The container image: built, looked into, and run.
