//! Attacks by processes: the container's, or the hook itself, ends at a bad moment; several hooks run at once.

use std::fs;
use std::thread;

use rustix::mount::mount_bind;

use crate::scene::{ROUNDS, Scene};
use crate::victim::Victim;

/// The container ends, and its process's number goes to a process that waits for the files at the same path, in a root filesystem of
/// its own.
pub(super) fn a_number_that_is_taken_over_gets_nothing(scene: &mut Scene) {
    let mut missed = 0;
    while scene.tally.rounds < ROUNDS {
        let mut victim = Victim::new(|_| ());
        let place = victim.rootfs();
        let thief = Victim::mounted(
            |rootfs| fs::create_dir(rootfs.join("place")).unwrap(),
            |rootfs| mount_bind(rootfs.join("place"), &place).unwrap(),
        );
        let number = victim.process.id();
        // Half of them before the hook can have asked for the number for the first time.
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
        assert!(missed < ROUNDS, "the number was hardly ever to be had");
    }
    assert!(scene.tally.delivered > 0 && scene.tally.delivered < ROUNDS, "{}", scene.tally.delivered);
}

pub(super) fn a_container_that_exits_midway_leaves_nothing(scene: &mut Scene) {
    for round in 0..ROUNDS {
        let moment = scene.moment(round as f64 / ROUNDS as f64);
        let mut victim = Victim::new(|_| ());
        let ended = scene.meanwhile(victim.state(), |hook| {
            thread::sleep(moment);
            victim.end();
            hook.end()
        });
        scene.judge(&victim, &ended);
    }
    assert!(scene.tally.delivered > 0 && scene.tally.delivered < ROUNDS, "{}", scene.tally.delivered);
}

pub(super) fn a_hook_that_is_killed_leaves_all_or_nothing(scene: &mut Scene) {
    let mut attached = 0;
    for round in 0..ROUNDS {
        let moment = scene.moment(round as f64 / ROUNDS as f64);
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
        // It came to attach the files, and no further: the runtime ends the container, but first all of them are there.
        attached += 1;
        scene.count(&victim, &ended);
        assert_eq!(deliveries.len(), 1);
        for file in ["db", "key"] {
            assert!(victim.read(&format!("/run/secrets/{file}")).unwrap() == scene.world.canary.as_bytes());
        }
    }
    println!("attacks: {attached} hooks were killed after they had attached the files");
    assert!(scene.tally.killed > ROUNDS / 2 && scene.tally.delivered > 0, "{} killed", scene.tally.killed);
}

pub(super) fn two_starts_at_once_get_their_own(scene: &mut Scene) {
    for round in 0..ROUNDS {
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
            // A runtime calls its hooks one after another, and takes the failure of one for that of all.
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
