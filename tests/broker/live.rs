//! Updates of running containers.

use std::fs::{self, File};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use rustix::process::Signal;
use serde_json::json;

use crate::scene::{ITEMS, Scene, pair, read_pair, target, wait_until};
use crate::support::broker::Broker;
use crate::support::container::{Container, ID};
use crate::support::front::Mode;

/// How many updates readers watch, and how many brokers are killed; the environment can ask for more, as it does for a release.
const SWAPS: u32 = 60;
const ROUNDS: u32 = 24;

/// A number that the environment can set.
pub(crate) fn count_of(name: &str, default: u32) -> u32 {
    std::env::var(name).ok().and_then(|count| count.parse().ok()).unwrap_or(default)
}

#[test]
fn a_change_reaches_a_running_container_within_a_period() {
    let Some(scene) = Scene::begin() else { return };
    scene.settings("1s");
    let broker = Broker::start(&scene.world.host);
    let container = Container::create();
    scene.start(&broker, &container, &[]);
    assert_eq!(pair(&container), [scene.secret(0), scene.secret(0)]);
    scene.rotate(1);
    wait_until("the change", || pair(&container) == [scene.secret(1), scene.secret(1)]);
    wait_until("the record", || scene.last_update()["decision"] == "updated");
    let records = scene.world.records();
    let start = records.iter().find(|record| record["decision"] == "delivered").unwrap();
    let update = scene.last_update();
    assert_eq!(update["update"]["of"], start["start"]);
    assert_ne!(update["start"], start["start"]);
    assert_eq!(update["secrets"][0]["item"], scene.items[0].as_str());
    let (code, text) = scene.command(&broker, &["check"]);
    assert!(text.contains("updates 1 running container"), "{code}: {text}");
}

#[test]
fn readers_never_see_a_missing_file_or_a_mixed_set() {
    let Some(scene) = Scene::begin() else { return };
    let broker = Broker::start(&scene.world.host);
    let container = Container::create();
    scene.start(&broker, &container, &[]);
    let is_over = AtomicBool::new(false);
    let swaps = count_of("OCI_SECRETS_TEST_SWAPS", SWAPS);
    std::thread::scope(|scope| {
        let by_directory = scope.spawn(|| {
            let mut seen = 0;
            while !is_over.load(Ordering::Relaxed) {
                let directory = File::open(target(&container)).unwrap();
                let [first, second] = read_pair(&directory);
                assert_eq!(first, second, "a mixed set");
                assert_eq!(fs::read_dir(target(&container)).unwrap().count(), 2);
                seen += 1;
            }
            seen
        });
        let by_path = scope.spawn(|| {
            let mut seen = 0;
            while !is_over.load(Ordering::Relaxed) {
                for item in ITEMS {
                    let text = fs::read_to_string(target(&container).join(item)).expect("a file is missing");
                    assert!(text.starts_with(&scene.world.canary), "part of a file");
                    seen += 1;
                }
            }
            seen
        });
        // An open directory keeps the set that it had, whole.
        let first = File::open(target(&container)).unwrap();
        for number in 1..=swaps {
            // The pair changes in one update: the broker looks for changes when it is asked alone.
            scene.rotate(number);
            let (code, text) = scene.refresh(&broker);
            assert_eq!(code, 0, "{text}");
            assert_eq!(pair(&container), [scene.secret(number), scene.secret(number)]);
            assert!(!by_directory.is_finished() && !by_path.is_finished(), "a reader has failed");
        }
        assert_eq!(read_pair(&first), [scene.secret(0), scene.secret(0)]);
        is_over.store(true, Ordering::Relaxed);
        assert!(by_directory.join().unwrap() > 0 && by_path.join().unwrap() > 0);
    });
    assert_eq!(scene.last_update()["update"]["generation"], swaps + 1);
    let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", container.pid())).unwrap();
    assert_eq!(mounts.matches(" oci-secrets ").count(), 1, "{mounts}");
}

#[test]
fn after_any_failure_the_files_stay_and_the_reason_is_shown() {
    let Some(scene) = Scene::begin() else { return };
    let broker = Broker::start(&scene.world.host);
    let container = Container::create();
    scene.start(&broker, &container, &[]);
    let old = [scene.secret(0), scene.secret(0)];
    let fails = |cause: &str, code: i32| {
        let records = scene.world.records().len();
        for _ in 0..2 {
            let (found, text) = scene.refresh(&broker);
            assert!(found == code && text.contains(cause), "{found}: {text}");
            assert_eq!(pair(&container), old);
        }
        let (record, now) = (scene.last_update(), scene.world.records().len());
        // The same reason is recorded once.
        assert_eq!(now, records + 1, "{record}");
        assert_eq!((&record["decision"], &record["update"]["generation"]), (&json!("not-updated"), &json!(1)));
        assert!(record["refusal"]["message"].as_str().unwrap().contains(cause), "{record}");
    };
    // A value that does not open, next to a good one.
    scene.rotate_one(0, 1);
    scene.replace(1, &scene.sealed(ITEMS[0], 1));
    fails("cannot unseal \"pair-b\"", 71);
    // A grant that was removed.
    let settings = fs::read_to_string(scene.world.host.settings()).unwrap();
    let other = settings.replace("op://AgentVault/*", "op://Other/*");
    scene.world.host.write("settings.toml", other.as_bytes(), 0o644);
    broker.signal(Signal::HUP);
    wait_until("the reload", || scene.refresh(&broker).1.contains("no grant names it"));
    fails_again(&scene, &broker, &old, &container);
    scene.world.host.write("settings.toml", settings.as_bytes(), 0o644);
    broker.signal(Signal::HUP);
    scene.rotate(2);
    wait_until("the update", || {
        scene.refresh(&broker);
        pair(&container) == [scene.secret(2), scene.secret(2)]
    });
    let (code, text) = scene.refresh(&broker);
    assert!(code == 0 && text.contains("generation 2"), "{text}");
}

fn fails_again(scene: &Scene, broker: &Broker, old: &[String; 2], container: &Container) {
    let (code, text) = scene.refresh(broker);
    assert!(code == 71 && text.contains("no grant names it"), "{text}");
    assert_eq!(pair(container), *old);
    assert_eq!(scene.last_update()["decision"], "not-updated");
}

#[test]
fn a_killed_broker_leaves_the_whole_old_or_the_whole_new_set_and_the_next_one_continues() {
    let Some(scene) = Scene::begin() else { return };
    let container = Container::create();
    let mut broker = Broker::start(&scene.world.host);
    scene.start(&broker, &container, &[]);
    let measured = Instant::now();
    assert_eq!(scene.refresh(&broker).0, 0);
    let duration = measured.elapsed();
    let rounds = count_of("OCI_SECRETS_TEST_ROUNDS", ROUNDS);
    for round in 1..=rounds {
        let before = pair(&container);
        let after = [scene.secret(round), scene.secret(round)];
        scene.rotate(round);
        std::thread::scope(|scope| {
            scope.spawn(|| scene.refresh(&broker));
            std::thread::sleep(duration * (round % 12) / 8);
            broker.signal(Signal::KILL);
        });
        drop(broker);
        let found = pair(&container);
        assert!(found == before || found == after, "round {round}");
        broker = Broker::start(&scene.world.host);
        let found = pair(&container);
        assert!(found == before || found == after, "round {round}");
        let (code, text) = scene.refresh(&broker);
        assert!(code == 0 && text.contains(&ID[..12]), "{code}: {text}");
        assert_eq!(pair(&container), after);
        let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", container.pid())).unwrap();
        assert_eq!(mounts.matches(" oci-secrets ").count(), 1, "round {round}: {mounts}");
    }
    assert_eq!(scene.states(), 1);
    drop(container);
    wait_until("the end", || scene.states() == 0);
}

/// As in a rolling update: the old one serves its starts to their end.
#[test]
fn brokers_that_overlap_take_turns_and_the_new_one_continues() {
    let Some(scene) = Scene::begin() else { return };
    scene.settings("1s");
    let old = Broker::start(&scene.world.host);
    let container = Container::create();
    scene.start(&old, &container, &[]);
    let new = old.replaced(scene.world.host.settings());
    let follows = |number: u32| {
        scene.rotate(number);
        wait_until("the change", || pair(&container) == [scene.secret(number), scene.secret(number)]);
        // By either of them, while the other may have its turn.
        assert_eq!(scene.refresh(&new).0, 0);
    };
    (1..=3).for_each(follows);
    assert!(old.terminate().success());
    follows(4);
    let records = scene.world.records();
    assert!(records.iter().all(|record| record["decision"] != "not-updated"), "{records:?}");
    // More than five, if a broker looked between the changes of the two fields.
    let listed = scene.refresh(&new).1;
    let generation = listed.split_once("generation ").and_then(|(_, rest)| rest.split_once(',')?.0.parse::<u32>().ok());
    assert!(generation >= Some(5), "{listed}");
    let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", container.pid())).unwrap();
    assert_eq!(mounts.matches(" oci-secrets ").count(), 1, "{mounts}");
}

#[test]
fn the_first_process_gets_a_signal_only_if_bytes_have_changed() {
    let Some(scene) = Scene::begin() else { return };
    let broker = Broker::start(&scene.world.host);
    let container = Container::trapping("HUP");
    scene.start(&broker, &container, &[("run.secrets.on-update", "signal:HUP")]);
    // A new version of the item with the same secret.
    scene.rotate(0);
    assert_eq!(scene.refresh(&broker).0, 0);
    assert_eq!(scene.last_update()["decision"], "unchanged");
    assert_eq!(container.trapped(), 0);
    for number in 1..=3 {
        scene.rotate(number);
        assert_eq!(scene.refresh(&broker).0, 0);
        wait_until("the signal", || container.trapped() == number as usize);
    }
}

#[test]
fn refuses_live_updates_of_a_source_that_lists_no_versions() {
    let Some(scene) = Scene::begin() else { return };
    let host = &scene.world.host;
    let settings = fs::read_to_string(host.settings()).unwrap();
    host.write("settings.toml", format!("source = \"op\"\n{settings}\n[op]\n").as_bytes(), 0o644);
    let broker = Broker::start(host);
    let container = Container::create();
    let output = broker.hook(&scene.state(&container, &[]));
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(78), "{text}");
    assert!(text.contains("run.secrets.update needs 1Password Connect as the source"), "{text}");
    assert!(!container.has_secrets());
}

/// A start could use what is stored for an outage; an update would put an older value in the place of a newer one.
#[test]
fn an_update_uses_nothing_that_is_stored_for_an_outage() {
    let Some(scene) = Scene::begin() else { return };
    let front = crate::outage::prepare(&scene.world);
    let broker = Broker::start(&scene.world.host);
    let container = Container::create();
    scene.start(&broker, &container, &[]);
    crate::outage::stored(&scene.world, ITEMS.len());
    let old = pair(&container);
    scene.rotate(1);
    front.set(Mode::Close);
    let (code, text) = scene.refresh(&broker);
    assert!(code == 71 && text.contains("it keeps them: cannot resolve"), "{code}: {text}");
    assert_eq!((scene.last_update()["decision"].as_str(), pair(&container)), (Some("not-updated"), old));
    // A start still can.
    let another = Container::create();
    scene.start(&broker, &another, &[]);
    front.set(Mode::Forward);
    wait_until("the source", || scene.refresh(&broker).0 == 0);
    assert_eq!(pair(&container), [scene.secret(1), scene.secret(1)]);
}

#[test]
fn refuses_live_updates_without_the_broker() {
    let Some(scene) = Scene::begin() else { return };
    let container = Container::create();
    let state = scene.state(&container, &[]);
    let output = crate::support::host::run(&mut scene.world.host.program("oci-secrets-hook"), &state);
    assert_eq!(output.status.code(), Some(78), "{output:?}");
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("run.secrets.update needs the broker") && text.contains("hint:"), "{text}");
    assert!(!container.has_secrets());
}
