//! CPU time of this process's threads. Finer than a process's ticks, which matters for a step of a tenth of a second.

use std::path::Path;
use std::time::Duration;

/// Time on a CPU of all threads of this process that are alive.
pub fn all() -> Duration {
    let tasks = std::fs::read_dir("/proc/self/task").expect("Linux lists a process's threads");
    tasks.flatten().map(|task| on_cpu(&task.path().join("schedstat"))).sum()
}

/// Time on a CPU of the calling thread.
pub fn this() -> Duration {
    on_cpu(Path::new("/proc/thread-self/schedstat"))
}

fn on_cpu(schedstat: &Path) -> Duration {
    // A thread that ends while it is looked at has nothing to say.
    let text = std::fs::read_to_string(schedstat).unwrap_or_default();
    Duration::from_nanos(
        text.split_whitespace().next().and_then(|time| time.parse().ok()).unwrap_or_default(),
    )
}
