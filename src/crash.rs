//! What a crash may leave behind: a place in the source, and nothing of what the process held.
//!
//! A core dump would hold every secret that was ever read, and the payload of a panic may hold any value. It decides nothing about
//! what happens after a panic: a part of an org that panics is started again ([`crate::org`]).
//!
//! *Why two means against core dumps:* where the kernel hands them to a program (`/proc/sys/kernel/core_pattern` begins with `|`), a
//! limit of 0 is no limit (core(5), read 2026-11-22); only a process that is not dumpable is never dumped. That also keeps other
//! processes of the same user from reading its memory and environment in `/proc`, and from tracing it. But whoever is started by this
//! one is dumpable again, and inherits the limit.

use std::io::Write;
use std::panic::Location;

/// To be called before anything else.
pub fn leave_nothing() {
    refuse_core_dumps();
    std::panic::set_hook(Box::new(|panic| say(panic.location())));
}

/// Where the system refuses, its own settings stand, and a start is worth more than this precaution.
fn refuse_core_dumps() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }).ok();
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{DumpableBehavior, set_dumpable_behavior};
        set_dumpable_behavior(DumpableBehavior::NotDumpable).ok();
    }
}

/// Where it was, and not what was said: that may hold a value.
fn say(place: Option<&Location<'_>>) {
    let at = place.map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
    if tracing::dispatcher::has_been_set() {
        tracing::error!(at, "panicked; this is a bug, please report it");
    } else {
        // Nobody is left to be told that nobody can be told.
        drop(writeln!(std::io::stderr(), "error: panicked at {at}; this is a bug, please report it"));
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    /// Set in a process of its own: a hook is the whole process's.
    const CHILD: &str = "A_TEST_THAT_PANICS";
    const SECRET: &str = "pul-0123456789abcdef";

    #[test]
    fn a_panic_says_where_and_not_what_and_its_process_cannot_be_dumped() {
        if std::env::var_os(CHILD).is_some() {
            super::leave_nothing();
            #[cfg(target_os = "linux")]
            println!("{:?}", rustix::process::dumpable_behavior());
            println!("{:?}", rustix::process::getrlimit(rustix::process::Resource::Core));
            panic!("{SECRET}");
        }
        let name = "crash::tests::a_panic_says_where_and_not_what_and_its_process_cannot_be_dumped";
        let ended = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env(CHILD, "1")
            .env("RUST_BACKTRACE", "full")
            .output()
            .unwrap();
        let said =
            format!("{}{}", String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
        assert!(said.contains("error: panicked at src/crash.rs:") && !said.contains(SECRET), "{said}");
        assert!(said.contains("Rlimit { current: Some(0), maximum: Some(0) }"), "{said}");
        #[cfg(target_os = "linux")]
        assert!(said.contains("Ok(NotDumpable)"), "{said}");
        assert!(!ended.status.success());
    }
}
