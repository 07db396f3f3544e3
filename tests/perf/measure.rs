//! What benches read of a process, and how they show it.

use std::time::Duration;

use crate::support::OperatorProcess;

pub fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

pub fn show(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}

/// Time that the operator has used, in user and system mode.
pub fn cpu_time(operator: &OperatorProcess) -> Duration {
    // Linux counts in hundredths of a second for every program.
    const TICKS_PER_SECOND: u64 = 100;
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", operator.process.pid())).unwrap();
    let after_name = stat.rsplit_once(") ").unwrap().1;
    let fields: Vec<u64> = after_name.split(' ').skip(11).take(2).map(|field| field.parse().unwrap()).collect();
    Duration::from_millis(fields.iter().sum::<u64>() * 1000 / TICKS_PER_SECOND)
}

/// Memory that it holds now.
pub fn resident_kib(operator: &OperatorProcess) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", operator.process.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
