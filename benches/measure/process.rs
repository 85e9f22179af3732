//! What a process has cost: CPU time and memory, as the kernel counts them.

use std::time::Duration;

/// Length of the kernel's unit of CPU time in `/proc/*/stat`: USER_HZ is 100 on every Linux.
const TICK: Duration = Duration::from_millis(10);

/// User and system time of a process (`self` or a pid), ended threads included; and of its children that ended and were waited for.
/// To a hundredth of a second.
pub fn cpu(process: &str) -> [Duration; 2] {
    let stat = read(&format!("/proc/{process}/stat"));
    // The name stands in parentheses and may hold anything; `utime` is the 12th field after it, then `stime`, `cutime`, `cstime`.
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let mut ticks = after_name.split_whitespace().skip(11).map(number::<u32>);
    [(); 2].map(|()| TICK * ticks.by_ref().take(2).sum())
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
