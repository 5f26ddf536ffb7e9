//! Records of starts through the broker, while something holds up their file.

use std::fs::{self, File};
use std::thread;
use std::time::{Duration, Instant};

use oci_secrets::broker::client;

use crate::support::broker::{Broker, write_hook_settings};
use crate::support::container::Container;
use crate::world::{World, code_and_lines, state};

/// The deadline of every start, and the patience of the test.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn a_record_that_cannot_be_written_yet_holds_up_its_own_start_alone() {
    let Some(world) = World::begin() else { return };
    let settings = fs::read_to_string(world.host.settings()).unwrap();
    let chained = settings.replace("deadline = \"2s\"", "deadline = \"60s\"") + "chain = true\n";
    world.host.write("settings.toml", chained.as_bytes(), 0o644);
    let broker = Broker::start(&world.host);
    write_hook_settings(broker.hook_settings(), broker.socket(), "[deliver]\ndeadline = \"60s\"\n");
    assert_eq!(code_and_lines(&broker.hook(&state(&Container::create()))), (0, vec![]));

    let lock = File::open(world.host.path("audit")).unwrap();
    lock.lock().unwrap();
    let containers = [Container::create(), Container::create()];
    thread::scope(|scope| {
        let hooks = containers.each_ref().map(|container| scope.spawn(|| broker.hook(&state(container))));
        let begin = Instant::now();
        while !containers.iter().all(Container::has_secrets) {
            assert!(begin.elapsed() < PATIENCE, "a start waits for the record of another");
            thread::sleep(Duration::from_millis(5));
        }
        let status = client::Connection::open(broker.socket(), PATIENCE).and_then(client::Connection::status);
        assert_eq!(status.unwrap().connections, 3);
        assert!(hooks.iter().all(|hook| !hook.is_finished()), "a start does not wait for its record");
        assert_eq!(world.decisions(), ["delivered"]);
        lock.unlock().unwrap();
        for hook in hooks {
            assert_eq!(code_and_lines(&hook.join().unwrap()), (0, vec![]));
        }
    });
    assert_eq!(world.decisions(), ["delivered"; 3]);
    let verified = world.host.oci_secrets(&["audit", "verify"], b"");
    assert!(verified.status.success(), "{verified:?}");
}
