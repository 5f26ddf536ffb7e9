//! Starts through the broker.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::broker::Broker;
use crate::support::container::Container;
use crate::world::{World, code_and_lines, state};

#[test]
fn delivers_to_a_hook_without_credentials_and_records_it() {
    let Some(world) = World::begin() else { return };
    let broker = Broker::start(&world.host);
    for _ in 0..3 {
        let container = Container::create();
        assert_eq!(code_and_lines(&broker.hook(&state(&container))), (0, vec![]));
        assert_eq!(container.secret("db"), world.canary.as_bytes());
    }
    let records = world.records();
    assert_eq!(records.len(), 3);
    for record in records {
        assert_eq!(record["decision"], "delivered");
        assert_eq!(record["secrets"][0]["reference"], "op://AgentVault/db/password");
        let phases: Vec<&String> = record["milliseconds"].as_object().unwrap().keys().collect();
        assert_eq!(phases, ["deliver", "read", "resolve"]);
    }
    assert!(broker.terminate().success());
}

#[test]
fn never_asks_for_a_container_without_requests() {
    let Some(world) = World::begin() else { return };
    let broker = Broker::start(&world.host);
    broker.signal(Signal::STOP);
    let container = Container::create();
    let begin = Instant::now();
    let foreign = container.state([("io.podman.annotations.init".to_owned(), "FALSE".to_owned())]);
    assert_eq!(code_and_lines(&broker.hook(&foreign)), (0, vec![]));
    assert!(begin.elapsed() < Duration::from_secs(5));
    broker.signal(Signal::CONT);
}

#[test]
fn loads_its_settings_again_and_keeps_the_old_ones_if_they_are_not_valid() {
    let Some(world) = World::begin() else { return };
    let broker = Broker::start(&world.host);
    let start = || broker.hook(&state(&Container::create())).status.code().unwrap();
    let reload = |text: &str| {
        world.host.write("settings.toml", text.as_bytes(), 0o644);
        broker.signal(Signal::HUP);
    };
    let until = |code: i32| {
        let deadline = Instant::now() + Duration::from_secs(20);
        while start() != code {
            assert!(Instant::now() < deadline, "never {code}");
        }
    };
    let settings = std::fs::read_to_string(world.host.settings()).unwrap();
    assert_eq!(start(), 0);
    reload(&settings.replace("op://AgentVault/*", "op://Other/*"));
    until(77);
    reload("nonsense");
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(start(), 77);
    reload(&settings);
    until(0);
}

#[test]
fn a_restart_ends_the_starts_in_progress_first() {
    let Some(world) = World::begin() else { return };
    let mut broker = Broker::start(&world.host);
    let settings = std::fs::read_to_string(world.host.settings()).unwrap();
    for round in 0..5 {
        let container = Container::create();
        let mut hook = crate::support::broker::hook(broker.hook_settings());
        let hook = hook.stdin(std::process::Stdio::piped()).spawn().unwrap();
        let mut hook = hook;
        std::io::Write::write_all(&mut hook.stdin.take().unwrap(), &state(&container)).unwrap();
        std::thread::sleep(Duration::from_millis(2 * round));
        // The socket of a broker without systemd goes with it: what has connected before is served.
        assert!(broker.terminate().success());
        let code = hook.wait().unwrap().code();
        assert_eq!(container.has_secrets(), code == Some(0));
        assert!(matches!(code, Some(0 | 69)), "{code:?}");
        broker = Broker::start(&world.host);
        assert_eq!(settings, std::fs::read_to_string(world.host.settings()).unwrap());
    }
}
