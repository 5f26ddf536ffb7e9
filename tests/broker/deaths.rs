//! The broker and the hook, killed at any moment.

use std::io::Write as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::broker::{Broker, hook};
use crate::support::container::Container;
use crate::world::{World, code_and_lines, state};

const ROUNDS: u32 = 40;

#[test]
fn no_container_starts_when_the_broker_is_killed_at_any_moment() {
    let Some(world) = World::begin() else { return };
    let broker = Broker::start(&world.host);
    let duration = measure(&broker);
    drop(broker);
    for round in 0..ROUNDS {
        let broker = Broker::start(&world.host);
        let container = Container::create();
        let mut child = hook(broker.hook_settings());
        let mut child = child.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(&state(&container)).unwrap();
        std::thread::sleep(duration * round / ROUNDS * 3 / 2);
        broker.signal(Signal::KILL);
        let output = child.wait_with_output().unwrap();
        let (code, lines) = code_and_lines(&output);
        match code {
            0 => assert_eq!(container.secret("db"), world.canary.as_bytes()),
            69 => assert!(lines[0].contains(" the broker at "), "{lines:?}"),
            _ => panic!("{code}: {lines:?}"),
        }
    }
}

#[test]
fn a_hook_that_is_killed_leaves_one_record_and_no_files() {
    let Some(world) = World::begin() else { return };
    let broker = Broker::start(&world.host);
    let duration = measure(&broker);
    let before = world.records().len();
    for round in 0..ROUNDS {
        let container = Container::create();
        let mut child = hook(broker.hook_settings());
        let mut child = child.stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(&state(&container)).unwrap();
        std::thread::sleep(duration * round / ROUNDS);
        child.kill().unwrap();
        child.wait().unwrap();
    }
    // Starts that the broker never learned of have no record; every other has one.
    let container = Container::create();
    assert_eq!(broker.hook(&state(&container)).status.code(), Some(0));
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut seen = 0;
    loop {
        let records = world.records();
        if records.len() == seen {
            break;
        }
        seen = records.len();
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_secs(1));
    }
    let records = world.records();
    let mut starts: Vec<&str> = records.iter().map(|record| record["start"].as_str().unwrap()).collect();
    starts.sort_unstable();
    let count = starts.len();
    starts.dedup();
    assert_eq!(starts.len(), count, "two records of one start");
    assert!(count > before + 1);
}

/// The duration of a warm start.
fn measure(broker: &Broker) -> Duration {
    let durations = (0..4).map(|_| {
        let container = Container::create();
        let begin = Instant::now();
        assert_eq!(broker.hook(&state(&container)).status.code(), Some(0));
        begin.elapsed()
    });
    durations.min().unwrap()
}
