//! A host that has run out of something.

use std::fs;
use std::process::Command;

use rustix::mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount};
use serde_json::Value;

use crate::support::broker::{self, Broker};
use crate::support::container::Container;
use crate::world::{World, wrong_start};

/// The hook with a limit of `prlimit`.
fn limited(world: &World, limit: &str) -> Command {
    let hook = world.host.program("oci-secrets-hook");
    let mut command = Command::new("/usr/bin/prlimit");
    command.env_clear().arg(limit).arg("--").arg(hook.get_program()).args(hook.get_args());
    command
}

/// Every outcome with these limits, of which at least the last must let the start succeed.
fn each_limit(is_of_memory: bool, limits: impl Iterator<Item = String>) {
    let Some(world) = World::begin() else { return };
    let (mut wrong, mut succeeded) = (Vec::new(), false);
    for limit in limits {
        succeeded = world.start(&mut limited(&world, &limit)).status.success();
        let outcome = wrong_start(&world, &mut limited(&world, &limit), is_of_memory);
        wrong.extend(outcome.map(|text| format!("{limit}: {text}")));
    }
    assert!(succeeded && wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_start_is_whole_or_refused_with_any_number_of_descriptors() {
    // With fewer, there is none for the libraries of the hook.
    each_limit(false, (4..=32).map(|descriptors| format!("--nofile={descriptors}")));
}

#[test]
fn a_start_is_whole_or_refused_with_any_amount_of_memory() {
    // With less, there is none for the hook itself.
    each_limit(true, (40..=640).step_by(40).map(|megabytes| format!("--as={}", megabytes << 20)));
}

#[test]
fn a_start_is_whole_or_refused_whatever_the_size_of_files_is_limited_to() {
    // The kernel ends a process that continues after its last write was short.
    each_limit(true, [0, 1, 100, 300, 5000, 1 << 20].iter().map(|bytes| format!("--fsize={bytes}")));
}

#[test]
fn a_start_is_whole_or_refused_if_the_broker_cannot_note_it() {
    let Some(world) = World::begin() else { return };
    let (directory, options) = (world.host.path("containers"), [c"size=4k", c"nr_inodes=2"]);
    fs::create_dir_all(&directory).unwrap();
    for options in options {
        mount("tmpfs", &directory, "tmpfs", MountFlags::empty(), Some(options)).unwrap();
        world.host.write("containers/.filler", &vec![b'x'; rustix::param::page_size()], 0o600);
        let broker = Broker::start(&world.host);
        let mut hook = broker::hook(broker.hook_settings());
        assert_eq!(wrong_start(&world, &mut hook, false), None);
        fs::remove_file(directory.join(".filler")).unwrap();
        assert!(world.start(&mut hook).status.success());
        assert!(broker.terminate().success());
        unmount(&directory, UnmountFlags::DETACH).unwrap();
    }
}

#[test]
fn a_record_that_does_not_fit_on_the_disk_refuses_the_start_and_damages_no_other() {
    let Some(world) = World::begin() else { return };
    let (directory, page) = (world.host.path("full"), rustix::param::page_size());
    fs::create_dir(&directory).unwrap();
    let settings = fs::read_to_string(world.host.settings()).unwrap();
    let (from, to) = (world.host.path("audit"), directory.join("audit"));
    let settings = settings.replace(&format!("{from:?}"), &format!("{to:?}"));
    world.host.write("settings.toml", settings.as_bytes(), 0o644);
    for room in [0, 1, 100, 300] {
        mount("tmpfs", &directory, "tmpfs", MountFlags::empty(), Some(c"size=4k")).unwrap();
        let earlier = format!("{}\n", "x".repeat(page - room - 1));
        world.host.write("full/audit", earlier.as_bytes(), 0o600);
        let output = world.start(&mut world.host.program("oci-secrets-hook"));
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(71) && message.contains("ENOSPC"), "{room}: {message}");
        // What has been written of it ends before the next record.
        mount_remount(&directory, MountFlags::empty(), c"size=64k").unwrap();
        assert!(world.host.hook(&World::state(&Container::create())).status.success());
        let records = fs::read_to_string(&to).unwrap();
        let last: Value = serde_json::from_str(records.lines().last().unwrap()).unwrap();
        assert!(records.starts_with(&earlier) && last["decision"] == "delivered", "{room}: {records}");
    }
}
