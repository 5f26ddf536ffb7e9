//! Containers that are in the way of their own update, and keys that are.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process_group, prlimit};
use serde_json::json;

use crate::scene::{ITEMS, Scene, pair, target, wait_until};
use crate::support::broker::{self, Broker};
use crate::support::container::{Container, ID};
use crate::support::front::Mode;
use crate::support::{program, with_mode};

fn signal(container: &Container, signal: Signal) {
    kill_process_group(Pid::from_raw(container.pid().cast_signed()).unwrap(), signal).unwrap();
}

/// What `explain` says of the container, which an engine knows.
fn explained(scene: &Scene, broker: &Broker) -> String {
    let described = json!([{ "Id": ID, "OCIConfigPath": "", "Config": { "Annotations": {} } }]);
    let podman = format!("#!/bin/sh\necho '{described}'\n");
    with_mode(&scene.world.host.path("podman"), podman.as_bytes(), 0o755);
    let mut command = Command::new(program("oci-secrets"));
    command.env("PATH", format!("{}:/usr/bin:/bin", scene.world.host.path("").display()));
    command.arg("--settings").arg(broker.hook_settings()).args(["explain", "--engine", "podman", "agent"]);
    String::from_utf8(command.output().unwrap().stdout).unwrap()
}

/// A metric of the broker.
fn metric(scene: &Scene, name: &str) -> u64 {
    let text = broker::metrics(&scene.world.host.path("metrics.sock"));
    let name = format!("oci_secrets_broker_{name} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&name)).unwrap_or_else(|| panic!("no {name}: {text}"));
    line.trim().parse().unwrap()
}

#[test]
fn a_paused_container_is_updated_and_gets_its_signal_when_it_continues() {
    let Some(scene) = Scene::begin() else { return };
    let broker = Broker::start(&scene.world.host);
    let container = Container::trapping("HUP");
    scene.start(&broker, &container, &[("run.secrets.on-update", "signal:HUP")]);
    signal(&container, Signal::STOP);
    scene.rotate(1);
    let (code, text) = scene.refresh(&broker);
    assert!(code == 0 && text.contains("generation 2"), "{code}: {text}");
    assert_eq!(pair(&container), [scene.secret(1), scene.secret(1)]);
    assert_eq!(container.trapped(), 0);
    signal(&container, Signal::CONT);
    wait_until("the signal", || container.trapped() == 1);
}

/// The update waits for 1Password when its container ends.
#[test]
fn a_container_that_ends_during_its_update_leaves_nothing() {
    let Some(scene) = Scene::begin() else { return };
    let front = crate::outage::prepare(&scene.world);
    let broker = Broker::start(&scene.world.host);
    let (ended, other) = (Container::create(), Container::create());
    scene.start(&broker, &ended, &[]);
    scene.start(&broker, &other, &[]);
    scene.rotate(1);
    front.set(Mode::Silent);
    let before = front.connections();
    std::thread::scope(|scope| {
        let refreshed = scope.spawn(|| scene.refresh(&broker));
        wait_until("the request", || front.connections() > before);
        drop(ended);
        front.set(Mode::Forward);
        refreshed.join().unwrap();
    });
    wait_until("the end", || scene.states() == 1);
    wait_until("the update", || scene.refresh(&broker).0 == 0);
    assert_eq!(pair(&other), [scene.secret(1), scene.secret(1)]);
    let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", other.pid())).unwrap();
    assert_eq!(mounts.matches(" oci-secrets ").count(), 1, "{mounts}");
}

#[test]
fn a_key_that_cannot_be_used_keeps_the_old_files_until_it_can() {
    let Some(scene) = Scene::begin() else { return };
    let broker = Broker::start(&scene.world.host);
    let container = Container::create();
    scene.start(&broker, &container, &[]);
    scene.rotate(1);
    let (key, kept) = (scene.world.host.keks().join("trial"), scene.world.host.path("kept"));
    fs::rename(&key, &kept).unwrap();
    let (code, text) = scene.refresh(&broker);
    assert!(code == 71 && text.contains("it keeps them: cannot unseal"), "{code}: {text}");
    assert_eq!(pair(&container), [scene.secret(0), scene.secret(0)]);
    let record = scene.last_update();
    assert_eq!((&record["decision"], &record["update"]["generation"]), (&json!("not-updated"), &json!(1)));
    fs::rename(&kept, &key).unwrap();
    assert_eq!(scene.refresh(&broker).0, 0);
    assert_eq!(pair(&container), [scene.secret(1), scene.secret(1)]);
}

/// Descriptors run out at one step after another.
#[test]
fn an_error_of_the_kernel_at_any_step_leaves_the_whole_old_or_the_whole_new_set() {
    const STEPS: u32 = 24;
    let Some(scene) = Scene::begin() else { return };
    let broker = Broker::start(&scene.world.host);
    let container = Container::create();
    scene.start(&broker, &container, &[]);
    let pid = Pid::from_raw(broker.pid().cast_signed());
    // Of the broker as of this process.
    let maximum = getrlimit(Resource::Nofile).maximum;
    let limit = |current| prlimit(pid, Resource::Nofile, Rlimit { current, maximum }).unwrap();
    let (mut failed, mut updated) = (0, 0);
    for step in 1..=STEPS {
        let (old, new) = (pair(&container), [scene.secret(step), scene.secret(step)]);
        scene.rotate(step);
        let open = fs::read_dir(format!("/proc/{}/fd", broker.pid())).unwrap();
        let open: Vec<u64> = open.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok()).collect();
        // So many that are free are below the limit.
        let last = (0..).filter(|number| !open.contains(number)).nth(step as usize - 1).unwrap();
        let (code, text) = std::thread::scope(|scope| {
            let before = limit(Some(last + 1));
            let refreshed = scope.spawn(|| scene.refresh(&broker));
            // With too few of them it does not even accept the connection, until there are more again.
            let begin = Instant::now();
            while !refreshed.is_finished() && begin.elapsed() < Duration::from_millis(500) {
                std::thread::sleep(Duration::from_millis(1));
            }
            limit(before.current);
            refreshed.join().unwrap()
        });
        let found = pair(&container);
        match code {
            0 => assert_eq!(found, new, "step {step}: {text}"),
            _ => assert!(code == 71 && (found == old || found == new), "step {step}: {code}: {text}"),
        }
        *(if code == 0 { &mut updated } else { &mut failed }) += 1;
        let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", container.pid())).unwrap();
        assert_eq!(mounts.matches(" oci-secrets ").count(), 1, "step {step}: {mounts}");
    }
    assert!(failed > 0 && updated > 0, "{failed} failed, {updated} did not");
    let causes: BTreeSet<String> = (scene.world.records().iter())
        .filter_map(|record| Some(record["refusal"]["message"].as_str()?.to_owned()))
        .collect();
    assert!(causes.iter().any(|cause| cause.contains("Too many open files (EMFILE)")), "{causes:?}");
    assert_eq!(scene.refresh(&broker).0, 0);
    assert_eq!(pair(&container), [scene.secret(STEPS), scene.secret(STEPS)]);
}

/// The kernel says so to who watches a file: that its file system is gone.
#[test]
fn the_old_files_are_gone_when_the_last_descriptor_of_them_is_closed() {
    let Some(scene) = Scene::begin() else { return };
    let broker = Broker::start(&scene.world.host);
    let container = Container::create();
    scene.start(&broker, &container, &[]);
    for number in 1..=2 {
        let watch = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).unwrap();
        inotify::add_watch(&watch, target(&container).join(ITEMS[0]), WatchFlags::DELETE_SELF).unwrap();
        let open = File::open(target(&container).join(ITEMS[1])).unwrap();
        scene.rotate(number);
        assert_eq!(scene.refresh(&broker).0, 0);
        let is_gone = || {
            let mut buffer = [std::mem::MaybeUninit::uninit(); 512];
            let mut events = inotify::Reader::new(&watch, &mut buffer);
            std::iter::from_fn(|| events.next().ok().map(|event| event.events()))
                .any(|one| one.contains(ReadFlags::UNMOUNT))
        };
        assert!(!is_gone(), "although a file is open");
        assert_eq!(std::io::read_to_string(&open).unwrap(), scene.secret(number - 1));
        drop(open);
        wait_until("the end of the old files", is_gone);
    }
}

/// It is away for longer than the deadline of an update.
#[test]
fn a_kms_that_is_away_keeps_the_old_files_until_it_is_back() {
    let Some((scene, kms)) = Scene::with_kms() else { return };
    let settings = fs::read_to_string(scene.world.host.settings()).unwrap();
    let metrics = format!("[broker]\nmetrics = {:?}\n", scene.world.host.path("metrics.sock"));
    scene.world.host.write("settings.toml", (settings + &metrics).as_bytes(), 0o644);
    let broker = Broker::start(&scene.world.host);
    let container = Container::create();
    scene.start(&broker, &container, &[]);
    for (round, mode) in [(1, Mode::Close), (2, Mode::Silent), (3, Mode::Status("503 Service Unavailable"))] {
        let old = pair(&container);
        scene.rotate(round);
        kms.set(mode);
        let (code, text) = scene.refresh(&broker);
        assert!(code == 71 && text.contains("it keeps them: cannot unseal"), "{mode:?}: {code}: {text}");
        assert_eq!(pair(&container), old, "{mode:?}");
        let record = scene.last_update();
        assert_eq!(
            (&record["decision"], &record["update"]["generation"], &record["refusal"]["code"]),
            (&json!("not-updated"), &json!(round), &json!(69))
        );
        assert_eq!(metric(&scene, "live_failing"), 1);
        let cause = record["refusal"]["message"].as_str().unwrap();
        assert!(explained(&scene, &broker).contains(cause), "{}", explained(&scene, &broker));
        // The next turn delivers, whatever it was.
        kms.set(Mode::Forward);
        let (code, text) = scene.refresh(&broker);
        assert_eq!(code, 0, "{mode:?}: {text}");
        assert_eq!(pair(&container), [scene.secret(round), scene.secret(round)]);
        assert_eq!(metric(&scene, "live_failing"), 0);
        assert!(!explained(&scene, &broker).contains("keeps them"));
    }
    assert_eq!(metric(&scene, "updates_failed_total"), 3);
}

#[test]
fn check_lists_containers_whose_grant_was_removed_and_a_revocation_removes_their_files() {
    let Some(scene) = Scene::begin() else { return };
    let broker = Broker::start(&scene.world.host);
    let container = Container::create();
    scene.start(&broker, &container, &[]);
    let removed = || scene.command(&broker, &["check"]).1.contains("keeps files of a grant that was removed: refusing");
    assert!(!removed());
    let settings = fs::read_to_string(scene.world.host.settings()).unwrap();
    let other = settings.replace("op://AgentVault/*", "op://Other/*");
    scene.world.host.write("settings.toml", other.as_bytes(), 0o644);
    broker.signal(Signal::HUP);
    wait_until("the reload", removed);
    assert_eq!(pair(&container), [scene.secret(0), scene.secret(0)]);
    let (code, text) = scene.command(&broker, &["revoke", "--container", &ID[..12], "--reason", "no grant"]);
    assert_eq!(code, 0, "{text}");
    assert!(ITEMS.iter().all(|item| !target(&container).join(item).exists()));
    assert!(!removed());
}

#[test]
fn explain_shows_processes_that_hold_files_of_earlier_generations() {
    let Some(scene) = Scene::begin() else { return };
    let broker = Broker::start(&scene.world.host);
    let container = Container::create();
    scene.start(&broker, &container, &[]);
    // A process of the container, by its mount namespace, with an open file.
    let mut nsenter = Command::new("nsenter");
    let namespace = format!("--mount=/proc/{}/ns/mnt", container.pid());
    let file = container.rootfs().join("run/secrets").join(ITEMS[0]);
    let mut holder = nsenter.args([&namespace, "sh", "-c", "exec sleep 600 <\"$0\""]).arg(&file).spawn().unwrap();
    let opened = format!("/proc/{}/fd/0", holder.id());
    wait_until("the open file", || fs::read_link(&opened).is_ok_and(|path| path.ends_with(ITEMS[0])));
    let explained = || explained(&scene, &broker);
    let shown = format!("files of earlier generations are open in process {}", holder.id());
    assert!(!explained().contains(&shown), "{}", explained());
    scene.rotate(1);
    assert_eq!(scene.refresh(&broker).0, 0);
    assert!(explained().contains(&shown), "{}", explained());
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert!(!explained().contains("earlier generations"), "{}", explained());
}
