//! `make demo`: the real binary against a world on loopback in which things break, and an independent count at the end.
//!
//! Pulumi Cloud, Entra ID and Azure's ingestion endpoint are simulated ([`world`]), S3 is a real server in front of which a proxy
//! loses replies, and the forwarder is the binary beside this example, started as a process of its own, watched through its own
//! `/api/status`, and killed. What happens is told in acts ([`acts`]); who takes part stands in [`cast`]; whether anything was lost
//! or doubled is decided by the world's checker ([`verdict`]), which shares no code with the forwarder.
//!
//! It leaves its configuration, state, logs and archive in `.demo/`, wiped at the next start, and no process, however it ends.

#[path = "demo/acts.rs"]
mod acts;
#[path = "demo/cast.rs"]
mod cast;
#[path = "demo/forwarder.rs"]
mod forwarder;
#[path = "demo/screen.rs"]
mod screen;
#[path = "demo/verdict.rs"]
mod verdict;
#[path = "../tests/world/mod.rs"]
mod world;

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use tokio::signal::unix::{SignalKind, signal};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

#[tokio::main]
async fn main() -> ExitCode {
    // The story is dropped when a signal comes, and with it the forwarder and everything else it started.
    let told = tokio::select! {
        told = tell() => told,
        name = ending_signal() => {
            eprintln!("\nended by {name}: every process of the demo is gone, its files are in .demo/");
            return ExitCode::from(130);
        }
    };
    match told {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) if is_closed_pipe(&error) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("\nthe demo could not go on: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn tell() -> anyhow::Result<bool> {
    let binary = forwarder::beside_this_example()?;
    let weed = Path::new(ROOT).join(".tools/venv/bin/weed");
    if !weed.exists() {
        bail!("the S3 server is not installed: run `make demo`, or `sh tests/tools.sh demo` first");
    }
    let (directory, _lock) = fresh_directory()?;
    acts::play(&binary, &directory).await
}

/// `.demo/` without what an earlier run left. Two runs at once would share it, so the second is refused.
fn fresh_directory() -> anyhow::Result<(PathBuf, File)> {
    let directory = Path::new(ROOT).join(".demo");
    fs::create_dir_all(&directory).context("cannot make .demo")?;
    let lock = File::create(directory.join("lock")).context("cannot write to .demo")?;
    if lock.try_lock().is_err() {
        bail!("another demo is running in this directory: wait until it has ended");
    }
    for entry in fs::read_dir(&directory).context("cannot read .demo")? {
        let path = entry?.path();
        if path.is_dir() {
            fs::remove_dir_all(&path).with_context(|| format!("cannot wipe {}", path.display()))?;
        } else if !path.ends_with("lock") {
            fs::remove_file(&path).with_context(|| format!("cannot wipe {}", path.display()))?;
        }
    }
    Ok((directory, lock))
}

async fn ending_signal() -> &'static str {
    let ends = |kind: SignalKind, name: &'static str| async move {
        match signal(kind) {
            Ok(mut signal) => {
                signal.recv().await;
            }
            // Without a listener the signal ends the process by itself.
            Err(_) => std::future::pending().await,
        }
        name
    };
    tokio::select! {
        name = ends(SignalKind::interrupt(), "SIGINT") => name,
        name = ends(SignalKind::terminate(), "SIGTERM") => name,
        name = ends(SignalKind::hangup(), "SIGHUP") => name,
    }
}

/// Whoever read along has gone away (`make demo | head`): nobody is left to tell.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}
