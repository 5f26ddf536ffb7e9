//! Measures and prints durations.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};

use crate::support::host;

/// The durations of each case. All cases run in turn, after one warm-up turn.
pub(crate) fn times<const N: usize>(rounds: usize, mut cases: [&mut dyn FnMut() -> Duration; N]) -> [Vec<Duration>; N] {
    let mut times = [const { Vec::new() }; N];
    for round in 0..=rounds {
        for (case, times) in cases.iter_mut().zip(&mut times) {
            let time = case();
            if round > 0 {
                times.push(time);
            }
        }
    }
    times
}

/// The median duration of each case.
pub(crate) fn medians<const N: usize>(rounds: usize, cases: [&mut dyn FnMut() -> Duration; N]) -> [Duration; N] {
    times(rounds, cases).map(median)
}

pub(crate) fn median<T: PartialOrd + Copy>(mut values: Vec<T>) -> T {
    values.sort_unstable_by(|a, b| a.partial_cmp(b).unwrap());
    values[values.len() / 2]
}

pub(crate) fn percentile(times: &[Duration], percent: usize) -> Duration {
    let mut times = times.to_vec();
    times.sort_unstable();
    times[(times.len() * percent / 100).min(times.len() - 1)]
}

/// The resident memory of a process, in MiB.
pub(crate) fn resident(pid: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or("VmRSS: 0 kB");
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
}

/// The additional duration of a case in milliseconds: the median of the differences within each turn.
fn added(more: &[Duration], base: &[Duration]) -> f64 {
    median(more.iter().zip(base).map(|(more, base)| milliseconds(*more) - milliseconds(*base)).collect())
}

/// The duration of a command.
pub(crate) fn timed(command: &mut Command, input: &[u8]) -> Duration {
    attempt(command, input).unwrap_or_else(|message| panic!("{command:?}: {message}"))
}

/// The duration of a command, or its error output if it failed.
pub(crate) fn attempt(command: &mut Command, input: &[u8]) -> Result<Duration, String> {
    let begin = Instant::now();
    let output = host::run(command, input);
    let time = begin.elapsed();
    if output.status.success() { Ok(time) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

/// The peak memory, in MiB, of the child processes of this one.
pub(crate) fn peak_of_children() -> f64 {
    let kib = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap().max_rss();
    f64::from(i32::try_from(kib).unwrap()) / 1024.0
}

/// Prints a duration, its ratio to a baseline, and the limit for the ratio.
pub(crate) fn row(name: &str, time: Duration, target: Option<(Duration, f64)>) {
    let milliseconds = milliseconds(time);
    match target {
        None => println!("  {name:46} {milliseconds:8.2} ms"),
        Some((base, most)) => {
            let ratio = time.as_secs_f64() / base.as_secs_f64();
            let verdict = if ratio <= most { "" } else { "  missed" };
            println!("  {name:46} {milliseconds:8.2} ms  x {ratio:4.2}  target <= {most}{verdict}");
        }
    }
}

/// Prints the duration of a case, and the difference to a baseline.
pub(crate) fn row_added(name: &str, times: Vec<Duration>, base: &[Duration]) {
    let added = added(&times, base);
    println!("  {name:46} {:8.2} ms  {added:+6.2} ms", milliseconds(median(times)));
}

pub(crate) fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
