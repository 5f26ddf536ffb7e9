//! The broker and the hook, killed at any moment.

use std::io::{ErrorKind, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use crate::attacks::{receive, send};
use crate::live::count_of;
use crate::scene::{ITEMS, Scene, pair, wait_until};
use crate::support::broker::{Broker, hook};
use crate::support::container::Container;
use crate::world::{World, code_and_lines, state};

/// How often a process is killed; the environment can ask for more, as it does for a release.
const ROUNDS: u32 = 40;

/// How often a broker ends while threads connect to it: every few dozen times, some connection waits just then.
const ENDS: u32 = 120;
const CLIENTS: u32 = 8;

#[test]
fn no_container_starts_when_the_broker_is_killed_at_any_moment() {
    let Some(world) = World::begin() else { return };
    let broker = Broker::start(&world.host);
    let duration = measure(&broker);
    drop(broker);
    let rounds = count_of("OCI_SECRETS_TEST_ROUNDS", ROUNDS);
    for round in 0..rounds {
        let broker = Broker::start(&world.host);
        let container = Container::create();
        let mut child = hook(broker.hook_settings());
        let mut child = child.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(&state(&container)).unwrap();
        std::thread::sleep(duration * round / rounds * 3 / 2);
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

/// The broker's own socket ends with it. What waits in one of systemd's is the next broker's: `systemd.rs`.
#[test]
fn a_broker_that_is_asked_to_end_answers_each_connection_that_was_made() {
    let Some(world) = World::begin() else { return };
    for _ in 0..ENDS {
        let broker = Broker::start(&world.host);
        let answered = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..CLIENTS {
                scope.spawn(|| ask_until_refused(broker.socket(), &answered));
            }
            while answered.load(Ordering::Relaxed) < CLIENTS {
                std::thread::yield_now();
            }
            broker.signal(Signal::TERM);
        });
        assert!(broker.terminate().success());
    }
}

/// Connects again and again. Each connection that the kernel makes must get an answer.
fn ask_until_refused(path: &Path, answered: &AtomicU32) {
    loop {
        let socket = match UnixStream::connect(path) {
            Ok(socket) => socket,
            Err(error) => return assert_eq!(error.kind(), ErrorKind::ConnectionRefused),
        };
        send(&socket, &json!("status"), None);
        assert!(receive(&socket).is_some(), "a connection was closed without an answer");
        answered.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_hook_that_is_killed_leaves_one_record_and_no_files() {
    let Some(world) = World::begin() else { return };
    let broker = Broker::start(&world.host);
    let duration = measure(&broker);
    let before = world.records().len();
    let rounds = count_of("OCI_SECRETS_TEST_ROUNDS", ROUNDS);
    for round in 0..rounds {
        let container = Container::create();
        let mut child = hook(broker.hook_settings());
        let mut child = child.stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(&state(&container)).unwrap();
        std::thread::sleep(duration * round / rounds);
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

/// `orders.rs` kills it between any other two steps.
#[test]
fn a_container_gets_the_signal_that_a_killed_broker_did_not_send() {
    let Some(scene) = Scene::begin() else { return };
    let (container, reference) = (Container::trapping("HUP"), format!("op://AgentVault/{}/password", ITEMS[0]));
    let broker = Broker::start(&scene.world.host);
    scene.start(&broker, &container, &[("run.secrets.on-update", "signal:HUP")]);
    scene.rotate(1);
    killed_at_its_signal(&broker, || assert_ne!(scene.refresh(&broker).0, 0));
    assert_eq!(pair(&container), [scene.secret(1), scene.secret(1)]);
    assert_eq!(container.trapped(), 0);
    drop(broker);

    let broker = Broker::start(&scene.world.host);
    wait_until("the signal of the update", || container.trapped() == 1);
    killed_at_its_signal(&broker, || {
        assert_ne!(scene.command(&broker, &["revoke", "--reason", "leaked", &reference]).0, 0);
    });
    assert_eq!(container.trapped(), 1);
    drop(broker);

    let _broker = Broker::start(&scene.world.host);
    wait_until("the signal of the removal", || container.trapped() == 2);
}

/// Makes the broker do something that ends with a signal to a container, and kills it where it would send that.
fn killed_at_its_signal(broker: &Broker, act: impl FnOnce()) {
    let mut strace: Child = Command::new("strace")
        .args(["-qq", "-o", "/dev/null", "-e", "trace=pidfd_send_signal", "-e"])
        .args(["inject=pidfd_send_signal:error=EPERM:signal=KILL", "-f", "-p", &broker.pid().to_string()])
        .spawn()
        .unwrap();
    let status = format!("/proc/{}/status", broker.pid());
    wait_until("strace", || !std::fs::read_to_string(&status).unwrap().contains("TracerPid:\t0\n"));
    act();
    strace.wait().unwrap();
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
