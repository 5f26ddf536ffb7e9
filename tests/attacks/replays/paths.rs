//! Attacks by the image, with symlinks and directories at `/run` and `/run/secrets`.

use std::fs::{self, create_dir, create_dir_all};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::mount::{MountFlags, mount};

use crate::scene::Scene;
use crate::victim::Victim;

pub(super) fn symlinks_of_the_image_lead_nowhere_else(scene: &mut Scene) {
    let decoy = scene.decoy.clone();
    for _ in 0..scene.rounds() {
        let victim = Victim::new(|rootfs| {
            create_dir_all(rootfs.join("deep/er")).unwrap();
            create_dir_all(rootfs.join("srv/secrets")).unwrap();
            symlink(some_path(&decoy), rootfs.join("link")).unwrap();
            match fastrand::u8(..4) {
                0 => create_dir(rootfs.join("run")).unwrap(),
                _ => symlink(some_path(&decoy), rootfs.join("run")).unwrap(),
            }
            // If /run is a symlink out of the image, this is the decoy.
            if rootfs.join("run").symlink_metadata().unwrap().is_dir() {
                symlink(some_path(&decoy), rootfs.join("run/secrets")).unwrap();
            }
        });
        scene.round(&victim);
    }
    assert!(scene.tally.delivered > scene.rounds() / 20, "{}", scene.tally.delivered);
}

/// A random path to a directory above, outside or inside of the image.
fn some_path(decoy: &Path) -> String {
    let decoy = decoy.to_str().unwrap();
    let up = "../".repeat(fastrand::usize(..24));
    let begin = choose(&["", "/", "//", "./", "/./", "deep/../", "/deep/er/../../", "/nowhere/../", &up]);
    let middle = choose(&["srv", "deep", "deep/er", "link", "run", "run/secrets", "nowhere", "", ".", decoy]);
    let end = choose(&["", "", "/", "/.", "/..", "/../srv", "/secrets", "/../../../../../../srv"]);
    let path = format!("{begin}{middle}{end}");
    if path.is_empty() { ".".to_owned() } else { path }
}

pub(super) fn links_of_proc_lead_nowhere(scene: &mut Scene) {
    let decoy = scene.decoy.to_str().unwrap().to_owned();
    let processes = ["self", "thread-self", "1", "self/task/../../self", "../proc/self"];
    let links = ["root", "cwd", "root/proc/1/root", "fd/3", "fd/4", "fd/5", "exe", "ns/mnt", "map_files"];
    for _ in 0..scene.rounds() {
        let link = format!("/proc/{}/{}", choose(&processes), choose(&links));
        let path = format!("{link}{}", choose(&["", "/run", "/..", &decoy]));
        let image = |rootfs: &Path| {
            create_dir(rootfs.join("proc")).unwrap();
            create_dir(rootfs.join("dev")).unwrap();
            symlink("/proc/self/fd", rootfs.join("dev/fd")).unwrap();
            symlink(&path, rootfs.join("link")).unwrap();
            let path = choose(&[&path, "/link", "/dev/fd/3", "/dev/fd/4/../.."]).to_owned();
            match fastrand::bool() {
                true => symlink(path, rootfs.join("run")).unwrap(),
                false => {
                    create_dir(rootfs.join("run")).unwrap();
                    symlink(path, rootfs.join("run/secrets")).unwrap();
                }
            }
        };
        let proc = |rootfs: &Path| mount("proc", rootfs.join("proc"), "proc", MountFlags::empty(), None).unwrap();
        let ended = scene.round(&Victim::mounted(image, proc));
        assert!(!ended.status.success(), "through {path}");
    }
}

/// By another container that shares `/run`: it swaps directories and symlinks continuously.
pub(super) fn directories_that_are_swapped_meanwhile_gain_nothing(scene: &mut Scene) {
    let decoy = scene.decoy.clone();
    for round in 0..scene.rounds() {
        let victim = Victim::new(|rootfs| {
            create_dir_all(rootfs.join("run/secrets")).unwrap();
            create_dir_all(rootfs.join("srv/secrets")).unwrap();
            create_dir_all(rootfs.join("run/directory/secrets")).unwrap();
            symlink(&decoy, rootfs.join("outwards")).unwrap();
            symlink(format!("../../../../../../..{}", decoy.display()), rootfs.join("run/outwards")).unwrap();
            symlink("/srv", rootfs.join("run/inwards")).unwrap();
            fs::write(rootfs.join("run/file"), "").unwrap();
        });
        let target = ["run", "run/secrets"][round % 2];
        let others = ["outwards", "srv", "run/outwards", "run/directory", "run/inwards", "run/file"];
        let others: Vec<_> = others.into_iter().filter(|other| target != "run" || !other.starts_with("run/")).collect();
        let (target, other) = (victim.rootfs().join(target), victim.rootfs().join(choose(&others)));
        let ended = AtomicBool::new(false);
        let swap = || {
            while !ended.load(Ordering::Relaxed) {
                renameat_with(CWD, &target, CWD, &other, RenameFlags::EXCHANGE).unwrap();
                thread::sleep(Duration::from_micros(fastrand::u64(..500)));
            }
        };
        let end = scene.meanwhile(victim.state(), |hook| {
            thread::scope(|scope| {
                scope.spawn(swap);
                let end = hook.end();
                ended.store(true, Ordering::Relaxed);
                end
            })
        });
        let deliveries = victim.deliveries();
        // After the hook's last check the directory may be moved together with the files, but only in the image.
        let succeeded = scene.count(&victim, &end);
        assert_eq!(deliveries.len(), usize::from(succeeded), "{deliveries:?}: {end:?}");
        for delivery in &deliveries {
            assert!(delivery.point.starts_with(victim.rootfs()), "{deliveries:?}");
            let path = delivery.point.strip_prefix(victim.rootfs()).unwrap().join("db");
            assert!(victim.read(path.to_str().unwrap()).unwrap() == scene.world.canary.as_bytes());
        }
    }
    assert!(scene.tally.delivered > 0 && scene.tally.delivered < scene.rounds(), "{}", scene.tally.delivered);
}

pub(super) fn choose<'a>(choices: &[&'a str]) -> &'a str {
    choices[fastrand::usize(..choices.len())]
}
