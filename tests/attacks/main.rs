//! Attacks on the real hook, each with a thousand rounds, and fewer through a broker: replays of attacks on other hooks, and races.
//!
//! Each round is one container start with one of two valid outcomes: the hook succeeds, and the container has all of its files at its
//! `/run/secrets` and nowhere else; or the hook fails, and nothing is attached. Nothing may ever appear on the host ([`scene`]).
//!
//! Requires root and `unshare`. It runs in new PID and mount namespaces, which end with the process. At the end it prints a table of
//! the attacks and the outcomes of their rounds.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests fail by panicking, and this one prints its table"
)]

mod replays;
mod scene;
#[path = "../support/mod.rs"]
mod support;
mod victim;

use std::fs;
use std::process::{Command, ExitCode};
use std::sync::Mutex;
use std::thread;

use libtest_mimic::{Arguments, Trial};
use replays::Attack;
use scene::{Scene, Tally, World};
use support::sandbox;

/// The outcomes of the rounds of each attack.
static TALLIES: Mutex<Vec<(&str, bool, Tally)>> = Mutex::new(Vec::new());

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    if arguments.list {
        return libtest_mimic::run(&arguments, trials()).exit_code();
    }
    if !rustix::process::geteuid().is_root() {
        println!("attacks: skipped, because they require root");
        return if std::env::var_os("CI").is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
    }
    if std::process::id() != 1 {
        return in_process_namespace();
    }
    // Before any thread starts: each would stay in its original namespace.
    sandbox::enter().expect("cannot make a mount namespace");
    let conclusion = libtest_mimic::run(&arguments, trials());
    print!("{}", table());
    let left = processes();
    if left.is_empty() {
        return conclusion.exit_code();
    }
    println!("attacks: these processes are left: {left:?}");
    ExitCode::FAILURE
}

/// Runs this program again as the first process of a PID namespace, where PIDs can be chosen and all processes are our own.
fn in_process_namespace() -> ExitCode {
    let mut unshare = Command::new("unshare");
    unshare.args(["--pid", "--fork", "--kill-child", "--mount-proc", "--"]);
    let status = unshare.arg(std::env::current_exe().unwrap()).args(std::env::args_os().skip(1)).status().unwrap();
    if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn trials() -> Vec<Trial> {
    let direct = replays::all().into_iter().map(|(name, attack)| Trial::test(name, move || run(name, false, attack)));
    let through_broker = replays::all()
        .into_iter()
        .map(|(name, attack)| Trial::test(format!("broker::{name}"), move || run(name, true, attack)));
    direct.chain(through_broker).collect()
}

/// Runs an attack in a thread with its own mount namespace, on a hook that asks a broker, or does not.
fn run(name: &'static str, broker: bool, attack: Attack) -> Result<(), libtest_mimic::Failed> {
    let attack = thread::spawn(move || {
        let mut scene = Scene::set(World::shared(), broker);
        attack(&mut scene);
        scene.close()
    });
    match attack.join() {
        Ok(tally) => {
            TALLIES.lock().unwrap().push((name, broker, tally));
            Ok(())
        }
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// The outcomes of the rounds, one line per attack.
fn table() -> String {
    let line = |(name, broker, tally): &(&str, bool, Tally)| {
        let Tally { rounds, delivered, killed } = tally;
        let refused = rounds - delivered - killed;
        let (name, way) = (name.replace("::", ": ").replace('_', " "), if *broker { "broker" } else { "" });
        format!("{rounds:>7}{delivered:>11}{refused:>9}{killed:>8}  {way:<8}{name}\n")
    };
    let mut tallies = TALLIES.lock().unwrap();
    tallies.sort_unstable_by_key(|(name, broker, _)| {
        (replays::all().iter().position(|(other, _)| other == name), *broker)
    });
    let lines: String = tallies.iter().map(line).collect();
    format!("\n rounds  delivered  refused  killed  through\n{lines}")
}

/// Remaining processes other than this one, the stand-in and the broker: a hook, or its child processes.
fn processes() -> Vec<String> {
    let ours = [support::StandIn::program(), support::program("oci-secrets-broker")];
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter(|entry| entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit));
    let line = |entry: fs::DirEntry| String::from_utf8(fs::read(entry.path().join("cmdline")).ok()?).ok();
    let lines = pids.filter(|entry| entry.file_name() != "1").filter_map(line);
    let is_ours = |line: &str| ours.iter().any(|program| line.starts_with(program.to_str().unwrap()));
    lines.filter(|line| !line.is_empty() && !is_ours(line)).collect()
}
