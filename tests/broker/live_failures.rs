//! Containers that are in the way of their own update, and keys that are.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::json;

use crate::live::{ITEMS, Scene, pair, target, wait_until};
use crate::support::broker::Broker;
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
    let mut socket = UnixStream::connect(scene.world.host.path("metrics.sock")).unwrap();
    socket.write_all(b"GET /metrics HTTP/1.1\r\nHost: broker\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    socket.read_to_string(&mut text).unwrap();
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
