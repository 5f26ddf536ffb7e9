//! New values.

use std::collections::BTreeSet;
use std::fs;

use crate::container::Container;
use crate::engine::Engine;
use crate::support::search;
use crate::world::World;

pub(super) fn a_new_value_is_there_after_a_restart(world: &World, engine: Engine) {
    let mut container = Container::new(world);
    let item = container.secret("db", b"old");
    assert_eq!(container.run(engine, "cat /run/secrets/db").text(), "old");
    world.rotate(&item, &container.title("db"), "password", b"new");
    assert_eq!(container.run(engine, "cat /run/secrets/db").text(), "new");
    let records = world.journal.records(&container.name);
    let versions: Vec<u64> =
        records.iter().filter_map(|record| record["secrets"][0]["item_version"].as_u64()).collect();
    assert_eq!((versions.len(), versions[1] - versions[0]), (2, 1), "{records:?}");
}

pub(super) fn podman_restart_brings_the_new_value(world: &World, engine: Engine) {
    let mut container = Container::new(world);
    let item = container.secret("db", b"old");
    let running = container.detach(engine, "exec sleep 300");
    let found = || {
        let process = format!("/proc/{}", running.pid());
        let namespace = fs::read_link(format!("{process}/ns/mnt")).unwrap();
        (fs::read_to_string(format!("{process}/root/run/secrets/db")).unwrap(), namespace)
    };
    assert_eq!(found().0, "old");
    world.rotate(&item, &container.title("db"), "password", b"new");
    // Podman looks for hooks at each start: without the directory, the container would start without them.
    let hooks = container.hooks.as_ref().unwrap().to_str().unwrap();
    engine.ask(&["--hooks-dir", hooks, "restart", "--time=0", &container.name]);
    let (new, namespace) = found();
    assert_eq!(new, "new");
    // The old files went with their namespace: no process is in it any more.
    assert_eq!(search::mount_namespaces(&container.name), BTreeSet::from([namespace]));
}
