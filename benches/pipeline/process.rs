//! What a process has cost: CPU time and memory, as the kernel counts them.

use std::path::Path;
use std::time::Duration;

/// Length of the kernel's unit of CPU time in `/proc/*/stat`: USER_HZ is 100 on every Linux.
const TICK: Duration = Duration::from_millis(10);

/// User and system time of all children that have ended and been waited for.
pub fn ended_children() -> Duration {
    let stat = read("/proc/self/stat");
    // The second field is a name in parentheses and may hold anything; `cutime` and `cstime` are the 14th and 15th after it.
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: u32 = after_name.split_whitespace().skip(13).take(2).map(number::<u32>).sum();
    TICK * ticks
}

/// Time on a CPU of all threads of this process that are alive. Finer than ticks, which matters for a tenth of a second.
pub fn threads() -> Duration {
    let tasks = std::fs::read_dir("/proc/self/task").expect("Linux lists a process's threads");
    tasks.flatten().map(|task| on_cpu(&task.path().join("schedstat"))).sum()
}

/// Time on a CPU of the calling thread.
pub fn this_thread() -> Duration {
    on_cpu(Path::new("/proc/thread-self/schedstat"))
}

fn on_cpu(schedstat: &Path) -> Duration {
    // A thread that ends while it is looked at has nothing to say.
    let text = std::fs::read_to_string(schedstat).unwrap_or_default();
    Duration::from_nanos(text.split_whitespace().next().map_or(0, number))
}

/// Memory of a process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    pub resident_mib: f64,
    pub peak_mib: f64,
}

/// `None` once the process has ended.
pub fn memory(pid: u32) -> Option<Memory> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let mib = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<f64>().ok().map(|kib| kib / 1024.0)
    };
    Some(Memory { resident_mib: mib("VmRSS:")?, peak_mib: mib("VmHWM:")? })
}

/// The processor's name, how many of them there are, and the kernel.
pub fn machine() -> String {
    let info = read("/proc/cpuinfo");
    let field = |name: &str| {
        let line = info.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_once(": ")).map_or("unknown", |(_, value)| value).to_owned()
    };
    let count = info.lines().filter(|line| line.starts_with("processor")).count();
    let kernel = read("/proc/sys/kernel/osrelease");
    format!("{count} × {} at {} MHz, Linux {}", field("model name"), field("cpu MHz"), kernel.trim())
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn number<N: std::str::FromStr + Default>(text: &str) -> N {
    text.parse().unwrap_or_default()
}
