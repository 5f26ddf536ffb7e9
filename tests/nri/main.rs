//! Pods on a real containerd whose NRI plugin is the broker.
//!
//! Needs root, containerd from 1.7, runc, busybox (static), jq and Debian's python3-grpcio: `tests/nri/debian SUITE` has them. Debian 12
//! has an older containerd, on which this is skipped. Everything happens in a mount namespace of its own.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests fail by panicking, and this one prints what it skips"
)]

mod containerd;
mod gaps;
mod pods;
#[path = "../support/mod.rs"]
mod support;
mod world;

use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use libtest_mimic::{Arguments, Trial};
use support::{cri, sandbox};
use world::World;

/// The first containerd with this form of NRI.
const NRI_SINCE: (u32, u32) = (1, 7);

type Scenario = fn(&mut World);

const SCENARIOS: &[(&str, Scenario)] = &[
    ("pods::each_container_gets_only_its_own_secrets_and_the_pause_container_none", pods::each_gets_its_own),
    ("pods::an_init_container_and_a_second_attempt_get_their_secrets", pods::init_and_second_attempt),
    ("pods::a_failing_hook_stops_one_container_and_says_why", pods::failing_hook),
    ("pods::a_hook_of_the_base_spec_is_called_once", pods::base_spec),
    ("pods::two_overlapping_instances_deliver_once", pods::overlap),
    ("pods::a_restarted_containerd_asks_the_plugin_again", pods::restarted_containerd),
    ("gaps::a_container_that_started_without_the_hook_is_found_later", gaps::started_without),
    ("gaps::a_plugin_that_does_not_answer_is_not_waited_for", gaps::stopped),
    ("gaps::a_plugin_that_ends_during_the_event_is_not_missed", gaps::ends_during_event),
];

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // One containerd for all, which some of them restart.
    arguments.test_threads = Some(1);
    let reason = reason_to_skip();
    if let (Some(reason), false) = (&reason, arguments.list) {
        println!("nri: skipped: {reason}");
        return ExitCode::SUCCESS;
    }
    if !arguments.list {
        // Before there is any thread: each would keep the namespace that it was born in.
        sandbox::enter().expect("cannot make a mount namespace");
    }
    let world: Arc<Mutex<Option<World>>> = Arc::default();
    let trials = SCENARIOS.iter().map(|(name, scenario)| {
        let world = Arc::clone(&world);
        Trial::test(*name, move || {
            // After a failure the next scenario still has a containerd.
            let mut world = world.lock().unwrap_or_else(PoisonError::into_inner);
            scenario(world.get_or_insert_with(World::begin));
            Ok(())
        })
    });
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    drop(world.lock().unwrap_or_else(PoisonError::into_inner).take());
    conclusion.exit_code()
}

/// A missing tool is a failure in CI; an engine without NRI is not.
fn reason_to_skip() -> Option<String> {
    match containerd::version() {
        Some(version) if version < NRI_SINCE => Some(format!("containerd {}.{} has no NRI", version.0, version.1)),
        _ if std::env::var_os("CI").is_some() => None,
        _ if !rustix::process::geteuid().is_root() => Some("containers require root".into()),
        None => Some("containerd is not installed".into()),
        Some(_) => (!cri::has_client()).then(|| "python3-grpcio is not installed".into()),
    }
}
