//! One binary for every property: `FUZZ_TARGET` says which. Each is a function of the product's own tests (`src/hostile.rs`).

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use pulumi_audit_forwarder::hostile::{self, Property};

static PROPERTY: LazyLock<Property> = LazyLock::new(|| {
    let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
    let names: Vec<&str> = hostile::PROPERTIES.iter().map(|(name, _)| *name).collect();
    let found = hostile::PROPERTIES.iter().find(|(known, _)| *known == name);
    found.unwrap_or_else(|| panic!("FUZZ_TARGET is one of {names:?}")).1
});

fuzz_target!(|bytes: &[u8]| PROPERTY(bytes));
