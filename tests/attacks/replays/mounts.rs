//! Attacks by mounts: concurrent mounts, and mounts that are shared with the host.

use std::fs::create_dir_all;
use std::path::Path;
use std::thread;

use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_bind_recursive, mount_change, unmount,
};

use super::paths::choose;
use crate::scene::{Hook, Scene};
use crate::support::sandbox;
use crate::victim::{Victim, mounts};

/// By a process in the container's mount namespace.
pub(super) fn mounts_that_are_made_meanwhile_gain_nothing(scene: &mut Scene) {
    let mut visible = 0;
    for _ in 0..scene.rounds() {
        let moment = scene.moment(fastrand::f64());
        let victim = Victim::new(|rootfs| {
            create_dir_all(rootfs.join("run/secrets/token")).unwrap();
            create_dir_all(rootfs.join("srv/secrets/token")).unwrap();
        });
        let at = victim.rootfs().join(choose(&["", "run", "run/secrets", "run/secrets/token"]));
        let from = victim.rootfs().join(choose(&["srv", "srv/secrets", "run", "run/secrets"]));
        let is_tmpfs = fastrand::bool();
        let ended = scene.meanwhile(victim.state(), |hook| {
            victim.inside(|| {
                thread::sleep(moment);
                // The path may be covered by the delivery.
                let _ = match is_tmpfs {
                    true => mount("tmpfs", &at, "tmpfs", MountFlags::empty(), None),
                    false => mount_bind_recursive(&from, &at),
                };
            });
            hook.end()
        });
        let deliveries = victim.deliveries();
        let succeeded = scene.count(&victim, &ended);
        // After the hook's last check it may be covered, or also visible through a bind mount, but only in the container.
        assert!(!deliveries.is_empty() || !succeeded, "{ended:?}");
        // A second mount from before the hook detected it is empty.
        let filled = victim.inside(|| deliveries.iter().any(|delivery| delivery.point.join("db").exists()));
        assert!(succeeded || !filled, "{deliveries:?}: {ended:?}");
        assert!(deliveries.iter().all(|delivery| delivery.point.starts_with(victim.rootfs())), "{deliveries:?}");
        let content = victim.read("/run/secrets/db");
        visible += usize::from(content.as_ref().is_ok_and(|content| content == scene.world.canary.as_bytes()));
        assert!(succeeded || content.is_err(), "{ended:?}");
    }
    assert!(visible > scene.rounds() / 10, "{visible}");
}

/// Mounts that are shared with the host must not propagate the delivery to it.
pub(super) fn a_shared_root_filesystem_shows_the_host_nothing(scene: &mut Scene) {
    let shared = tempfile::Builder::new().prefix("shared").tempdir_in(sandbox::DIRECTORY).unwrap();
    mount_bind(shared.path(), shared.path()).unwrap();
    let flags = [
        MountPropagationFlags::empty(),
        MountPropagationFlags::SHARED,
        MountPropagationFlags::DOWNSTREAM,
        MountPropagationFlags::PRIVATE,
    ];
    let some = || flags[fastrand::usize(..flags.len())];
    let change = |path: &Path, flag: MountPropagationFlags| {
        if !flag.is_empty() {
            mount_change(path, flag | MountPropagationFlags::REC).unwrap();
        }
    };
    for _ in 0..scene.rounds() {
        change(shared.path(), MountPropagationFlags::SHARED);
        if fastrand::bool() {
            mount_change(shared.path(), MountPropagationFlags::DOWNSTREAM).unwrap();
            change(shared.path(), MountPropagationFlags::SHARED);
        }
        let image = |rootfs: &Path| {
            create_dir_all(rootfs.join("run/secrets/token")).unwrap();
            create_dir_all(rootfs.join("srv/secrets")).unwrap();
            if fastrand::bool() {
                mount_bind(rootfs, rootfs).unwrap();
                change(rootfs, some());
            }
        };
        let own = |rootfs: &Path| {
            change(rootfs, some());
            if fastrand::bool() {
                mount_bind(rootfs.join("srv"), rootfs.join(choose(&["run", "run/secrets"]))).unwrap();
            }
            if fastrand::bool() {
                mount("tmpfs", rootfs.join("run/secrets"), "tmpfs", MountFlags::empty(), None).unwrap();
            }
            change(rootfs, some());
        };
        let victim = Victim::propagating(shared.path(), some(), image, own);
        let ended = scene.meanwhile(victim.state(), Hook::end);
        let deliveries = victim.deliveries();
        assert_eq!(!deliveries.is_empty(), scene.count(&victim, &ended), "{deliveries:?}: {ended:?}");
        // The container may see the delivery twice, through its own shared mounts.
        assert!(deliveries.iter().all(|delivery| delivery.point.starts_with(victim.rootfs())), "{deliveries:?}");
        let content = victim.read("/run/secrets/db");
        assert_eq!(content.is_ok_and(|db| db == scene.world.canary.as_bytes()), ended.status.success());
        drop(victim);
        for mount in mounts().iter().rev().filter(|mount| mount.point.starts_with(shared.path().join("bundle"))) {
            unmount(&mount.point, UnmountFlags::DETACH).unwrap();
        }
    }
    unmount(shared.path(), UnmountFlags::DETACH).unwrap();
    assert!(
        scene.tally.delivered > scene.rounds() / 10 && scene.tally.delivered < scene.rounds(),
        "{}",
        scene.tally.delivered
    );
}
