//! Attacks by process timing: the container or the hook exits at a random moment; several hooks run concurrently.

use std::fs;
use std::thread;

use rustix::mount::mount_bind;

use crate::scene::Scene;
use crate::victim::Victim;

/// The container exits, and its PID is reused by a process that expects the files at the same path in its own root filesystem.
pub(super) fn a_reused_pid_gets_nothing(scene: &mut Scene) {
    let mut missed = 0;
    while scene.tally.rounds < scene.rounds() {
        let mut victim = Victim::new(|_| ());
        let target = victim.rootfs();
        let thief = Victim::mounted(
            |rootfs| fs::create_dir(rootfs.join("place")).unwrap(),
            |rootfs| mount_bind(rootfs.join("place"), &target).unwrap(),
        );
        let number = victim.process.id();
        // In half of the rounds, before the hook can have used the PID.
        let moment = scene.moment(if fastrand::bool() { fastrand::f64() } else { 0.0 });
        let mut heir = None;
        let ended = scene.meanwhile(victim.state(), |hook| {
            thread::sleep(moment);
            victim.end();
            heir = thief.join_as(number);
            hook.end()
        });
        assert!(thief.deliveries().is_empty(), "the thief has the files: {ended:?}");
        match heir {
            Some(mut heir) => {
                scene.judge(&victim, &ended);
                heir.kill().unwrap();
                heir.wait().unwrap();
            }
            None => missed += 1,
        }
        assert!(missed < scene.rounds(), "the PID could almost never be reused");
    }
    assert!(scene.tally.delivered > 0 && scene.tally.delivered < scene.rounds(), "{}", scene.tally.delivered);
}

pub(super) fn a_container_that_exits_midway_leaves_nothing(scene: &mut Scene) {
    for round in 0..scene.rounds() {
        let moment = scene.moment(round as f64 / scene.rounds() as f64);
        let mut victim = Victim::new(|_| ());
        let ended = scene.meanwhile(victim.state(), |hook| {
            thread::sleep(moment);
            victim.end();
            hook.end()
        });
        scene.judge(&victim, &ended);
    }
    assert!(scene.tally.delivered > 0 && scene.tally.delivered < scene.rounds(), "{}", scene.tally.delivered);
}

pub(super) fn a_hook_that_is_killed_leaves_all_or_nothing(scene: &mut Scene) {
    let mut attached = 0;
    for round in 0..scene.rounds() {
        let moment = scene.moment(round as f64 / scene.rounds() as f64);
        let victim = Victim::new(|_| ());
        let ended = scene.meanwhile(victim.state(), |mut hook| {
            thread::sleep(moment);
            hook.child.kill().unwrap();
            hook.end()
        });
        let deliveries = victim.deliveries();
        if !ended.was_killed() || deliveries.is_empty() {
            scene.judge(&victim, &ended);
            continue;
        }
        // It was killed after it attached the files: the runtime then ends the container. Until then all files exist, unless the broker, to
        // which nothing was reported, is just destroying them.
        attached += 1;
        scene.count(&victim, &ended);
        assert_eq!(deliveries.len(), 1);
        for file in ["db", "key"] {
            let content = victim.read(&format!("/run/secrets/{file}"));
            let is_destroyed = scene.broker && content.as_ref().map_or(true, Vec::is_empty);
            assert!(is_destroyed || content.unwrap() == scene.world.canary.as_bytes());
        }
    }
    println!("attacks: {attached} hooks were killed after they had attached the files");
    assert!(scene.tally.killed > scene.rounds() / 2 && scene.tally.delivered > 0, "{} killed", scene.tally.killed);
}

pub(super) fn two_starts_at_once_get_their_own(scene: &mut Scene) {
    for round in 0..scene.rounds() {
        let one = Victim::new(|_| ());
        let other = one.twin();
        let is_same = round % 4 == 0;
        let state = if is_same { one.state() } else { other.state() };
        let mut first = None;
        let second = scene.meanwhile(state, |second| {
            let hook = scene.hook(&one.state());
            let ended = second.end();
            first = Some(hook.end());
            ended
        });
        let first = first.unwrap();
        match is_same {
            false => {
                scene.judge(&one, &first);
                scene.judge(&other, &second);
                assert!(first.status.success() && second.status.success(), "{first:?} {second:?}");
            }
            // A runtime calls its hooks one after another, and fails if one of them fails.
            true => {
                let succeeded = [&first, &second].map(|ended| scene.count(&one, ended));
                let deliveries = one.deliveries();
                assert!(deliveries.len() <= 2, "{deliveries:?}");
                if succeeded == [true, true] {
                    assert!(one.read("/run/secrets/db").unwrap() == scene.world.canary.as_bytes());
                }
                if succeeded == [false, false] {
                    assert!(deliveries.is_empty(), "{deliveries:?}");
                }
            }
        }
    }
}
