//! Measures the duration of container starts with and without the hook: run it with `tests/bench/run`. With the arguments
//! `gateway MINUTES` it measures the gateway instead, with `broker MINUTES` the broker at a steady rate, with `broker-memory STARTS` its
//! memory, with `podman` containers of podman, with `nri` how long a runtime waits for its plugin, with `updates` running containers that follow
//! changes.
//!
//! Figures are medians. Compared cases run in turn, so that other load affects both; figures of different runs are not comparable. The
//! servers are the stand-in's, on loopback and over TLS. Both sides use the CA certificates of the system, and one more.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::indexing_slicing,
    reason = "a benchmark that cannot continue should fail immediately, and it prints its table"
)]

mod broker;
mod engine;
mod gateway;
mod load;
mod measure;
mod nri;
#[allow(dead_code, reason = "a benchmark uses a part of it")]
#[path = "../nri_protocol/runtime.rs"]
mod nri_runtime;
mod podman;
#[path = "../support/mod.rs"]
mod support;
mod updates;
mod vault;

use std::fs;
use std::process::{Command, ExitCode};
use std::time::Duration;

use engine::{Bundle, ENGINES, unify_cgroups};
use measure::{median, medians, peak_of_children, row, row_added, timed, times};
use support::container::Container;
use support::host::{self, Host};
use support::machine::Machine;
use vault::{Identity, Vault};

/// The arguments of the hook in `config/hooks.d`.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// The annotations of a container without requests.
const FOREIGN: [(&str, &str); 3] = [
    ("io.container.manager", "libpod"),
    ("io.podman.annotations.init", "FALSE"),
    ("org.opencontainers.image.stopSignal", "15"),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments[..] {
        [] => container_starts(),
        [what] if what == "updates" => updates::run(),
        [what] if what == "broker" => broker(&Machine::enter().unwrap()),
        [what] if what == "podman" => podman::one_secret(&Machine::enter().unwrap()),
        [what] if what == "nri" => nri::events(&Machine::enter().unwrap()),
        [what, minutes] if what == "gateway" => gateway::steady_load(minutes.parse().unwrap()),
        [what, minutes] if what == "broker" => return load::steady_load(minutes.parse().unwrap()),
        [what, starts] if what == "broker-memory" => broker::memory(starts.parse().unwrap()),
        [what, program, arguments @ ..] if what == "peak" => peak(program, arguments),
        _ => panic!(
            "expected no arguments, gateway MINUTES, broker MINUTES, broker-memory STARTS, podman, nri, or updates"
        ),
    }
    ExitCode::SUCCESS
}

fn container_starts() {
    let machine = Machine::enter().unwrap();
    peak_memory(&machine);
    container_without_our_annotations(&machine);
    one_secret(&machine);
    many_secrets(&machine, Duration::ZERO);
    many_secrets(&machine, Duration::from_millis(10));
    podman::one_secret(&machine);
    broker(&machine);
}

fn broker(machine: &Machine) {
    broker::warm_starts(machine);
    broker::simultaneous_starts(machine);
}

fn peak_memory(machine: &Machine) {
    let vault = Vault::fill(machine, Identity::ServiceAccount, Duration::ZERO);
    let (container, hook) = (container(), hook(&vault.host));
    let mut alone = Command::new(std::env::current_exe().unwrap());
    alone.arg("peak").arg(hook.get_program()).args(hook.get_args());
    let output = host::run(&mut alone, &container.state(vault.many()));
    println!("Peak memory of the hook, 64 secrets");
    print!("{}", String::from_utf8_lossy(&output.stdout));
}

/// Runs a program and prints its peak memory. This process has no other child and is small: the kernel reports the largest of all.
fn peak(program: &str, arguments: &[String]) {
    let status = Command::new(program).args(arguments).env_clear().env("PATH", PATH).status().unwrap();
    assert!(status.success());
    println!("  {:46} {:8.1} MiB          target < 24 MiB", "hook", peak_of_children());
}

fn container_without_our_annotations(machine: &Machine) {
    let vault = Vault::fill(machine, Identity::ServiceAccount, Duration::ZERO);
    let container = container();
    let state = container.state(FOREIGN.map(|(key, value)| (key.to_owned(), value.to_owned())));
    let [base, ours] = medians(
        500,
        [&mut || timed(Command::new("/bin/true").env_clear().env("PATH", "/bin"), &state), &mut || {
            timed(&mut hook(&vault.host), &state)
        }],
    );
    println!("\nA container without our annotations, the hook alone");
    row("/bin/true", base, None);
    row("hook", ours, Some((base, 1.3)));

    unify_cgroups();
    for engine in ENGINES {
        let bundles = [None, Some(Command::new("/bin/true")), Some(hook(&vault.host))].map(Bundle::with);
        let [none, base, ours] = times(
            150,
            [&mut || bundles[0].run(engine), &mut || bundles[1].run(engine), &mut || bundles[2].run(engine)],
        );
        println!("\nA container without our annotations, {engine} run");
        row("no hook", median(none.clone()), None);
        row_added("/bin/true", base, &none);
        row_added("hook", ours, &none);
    }
}

fn one_secret(machine: &Machine) {
    println!("\nOne secret");
    for identity in [Identity::ServiceAccount, Identity::MetadataServer] {
        let vault = Vault::fill(machine, identity, Duration::ZERO);
        let one = vault.one();
        let [curls, hook] = medians(100, [&mut || vault.curls(), &mut || start(&vault.host, &one)]);
        row(identity.curls(), curls, None);
        let most = if matches!(identity, Identity::MetadataServer) { 0.25 } else { 0.2 };
        row(&format!("hook, {identity}"), hook, Some((curls, most)));
    }
}

fn many_secrets(machine: &Machine, latency: Duration) {
    let vault = Vault::fill(machine, Identity::ServiceAccount, latency);
    let (one, many) = (vault.one(), vault.many());
    let rounds = if latency.is_zero() { 60 } else { 30 };
    let [one, many] = medians(rounds, [&mut || start(&vault.host, &one), &mut || start(&vault.host, &many)]);
    println!("\nMany secrets, servers that answer after {} ms", latency.as_millis());
    row("1 secret", one, None);
    row("64 secrets in 8 items", many, Some((one, if latency.is_zero() { 2.0 } else { 1.6 })));
}

/// The duration of the hook for a container with these annotations.
fn start(host: &Host, annotations: &[(String, String)]) -> Duration {
    let container = container();
    timed(&mut hook(host), &container.state(annotations.iter().cloned()))
}

/// A container whose image has `/run`, as almost every image has.
fn container() -> Container {
    let container = Container::create();
    fs::create_dir(container.rootfs().join("run")).unwrap();
    container
}

/// The hook as `config/hooks.d` calls it.
fn hook(host: &Host) -> Command {
    let mut command = host.program("oci-secrets-hook");
    command.env("PATH", PATH);
    command
}
