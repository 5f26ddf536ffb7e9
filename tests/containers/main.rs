//! Starts real containers with the real hook, and shows every promise on every engine.
//!
//! Needs root, `busybox` (static), `runc`, `crun`, `youki`, `runsc`, `podman`, `newuidmap`, `containerd` and Docker; for pods, Debian's
//! `python3-grpcio`. What is missing is a failure where `CI` is set in the environment; elsewhere it
//! is skipped, and said. Everything happens in a mount namespace of its own, on a `/run` of its own, which are gone with the process
//! ([`support::sandbox`]). A table of engines and promises is printed at the end.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests fail by panicking, and this one prints its table"
)]

mod container;
mod direct;
mod engine;
mod kills;
mod promises;
mod spec;
#[path = "../support/mod.rs"]
mod support;
mod user;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::{Command, ExitCode};
use std::sync::Mutex;

use engine::Engine;
use libtest_mimic::{Arguments, Trial};
use promises::Promise;
use support::sandbox;
use world::World;

/// What was shown so far: by promise, then by column.
static SHOWN: Mutex<BTreeMap<(&str, Column), bool>> = Mutex::new(BTreeMap::new());

/// One column of the table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Column {
    /// `None` is for promises of the hook alone.
    engine: Option<Engine>,
    /// Whether the hook asks a broker.
    broker: bool,
}

/// Those that are shown through a broker, too.
const WITH_BROKER: [Engine; 5] =
    [Engine::Runc, Engine::Crun, Engine::PodmanCrun, Engine::RootlessRunc, Engine::RootlessCrun];

/// The promises that are shown through a broker: those that do not depend on where the settings are.
const OF_BROKER: [&str; 10] = [
    "delivery::",
    "hygiene::",
    "log::",
    "places::",
    "refusal::",
    "rotation::",
    "specs::",
    "updates::",
    "users::",
    "rootless::a_privileged_container",
];

/// The promises that are shown through a broker alone.
const OF_BROKER_ALONE: &str = "updates::";

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    if !arguments.list {
        if !rustix::process::geteuid().is_root() {
            println!("containers: skipped, as they need root");
            return if is_ci() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
        }
        // Before there is any thread: each would keep the namespace that it was born in.
        sandbox::enter().expect("cannot make a mount namespace");
        user::add();
    }
    let conclusion = libtest_mimic::run(&arguments, trials());
    if !arguments.list {
        user::leave();
        print!("{}", table());
    }
    conclusion.exit_code()
}

fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for (column, programs) in columns() {
        let missing: Vec<&str> = programs.iter().copied().filter(|program| sandbox::find(program).is_none()).collect();
        let missing = missing.join(", ");
        if !missing.is_empty() && !is_ci() {
            println!("containers: {} is skipped, without {missing}", title(column));
        }
        for (name, promise) in promises::all() {
            let is_of_broker = OF_BROKER.iter().any(|module| name.starts_with(module));
            if column.broker && !is_of_broker || !column.broker && name.starts_with(OF_BROKER_ALONE) {
                continue;
            }
            let show: Box<dyn Fn(&World) + Send> = match (promise, column.engine) {
                (Promise::OfHook(show), None) => Box::new(show),
                (Promise::On(engines, show), Some(engine)) if engines.contains(&engine) => {
                    Box::new(move |world| show(world, engine))
                }
                _ => continue,
            };
            trials.push(trial(name, column, missing.clone(), show));
        }
    }
    trials
}

/// Every engine, some of them again through a broker, and the hook alone, with the programs that each needs.
fn columns() -> impl Iterator<Item = (Column, &'static [&'static str])> {
    let column = |engine: Engine, broker| (Column { engine: Some(engine), broker }, engine.programs());
    let engines = Engine::ALL.iter().map(move |engine| column(*engine, false));
    let through_broker = WITH_BROKER.into_iter().map(move |engine| column(engine, true));
    let hook = (Column { engine: None, broker: false }, &["busybox", "setpriv", "strace"][..]);
    engines.chain(through_broker).chain([hook])
}

/// One promise on one engine, or by the hook alone.
fn trial(name: &'static str, column: Column, missing: String, show: Box<dyn Fn(&World) + Send>) -> Trial {
    let skipped = !missing.is_empty() && !is_ci();
    let show = move || {
        let shown = catch_unwind(AssertUnwindSafe(|| {
            assert!(missing.is_empty(), "not installed: {missing}");
            container::set_through_broker(column.broker);
            show(World::shared());
        }));
        SHOWN.lock().unwrap().insert((name, column), shown.is_ok());
        shown.map_err(|panic| resume_unwind(panic))
    };
    Trial::test(format!("{}::{name}", title(column)), show).with_ignored_flag(skipped)
}

fn title(column: Column) -> String {
    let name = column.engine.map_or("hook", Engine::name);
    if column.broker { format!("broker/{name}") } else { name.to_owned() }
}

/// A program and its version, if it prints one.
fn version(program: &str) -> Option<String> {
    let output = Command::new(sandbox::find(program)?).arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = text.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
    Some(format!("{program} {}", version.trim_end_matches(',')))
}

fn is_ci() -> bool {
    std::env::var_os("CI").is_some()
}

/// What was shown, one promise a line, below the programs that it was shown on.
fn table() -> String {
    let shown = SHOWN.lock().unwrap();
    let programs: BTreeSet<&str> = Engine::ALL.iter().flat_map(|engine| engine.programs()).copied().collect();
    let versions: Vec<String> = programs.into_iter().filter_map(version).collect();
    let titles: String = columns().map(|(column, _)| format!("{:<22}", title(column))).collect();
    let mut table = format!("\n{}: {}\n\n{titles}\n", sandbox::name(), versions.join(", "));
    for (name, _) in promises::all() {
        let marks: Vec<_> = columns().map(|(column, _)| shown.get(&(name, column))).collect();
        if marks.iter().all(Option::is_none) {
            continue;
        }
        for mark in marks {
            let word = match mark {
                Some(true) => "yes",
                Some(false) => "FAILED",
                None => "-",
            };
            let _ = write!(table, "{word:<22}");
        }
        let _ = writeln!(table, "{}", name.replace("::", ": ").replace('_', " "));
    }
    table
}
