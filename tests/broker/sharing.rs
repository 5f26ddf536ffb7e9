//! Containers that share items.

use std::fs;

use rustix::process::Signal;
use serde_json::json;

use crate::scene::{ITEMS, Scene, pair, wait_until};
use crate::support::broker::Broker;
use crate::support::container::Container;
use crate::support::front::Mode;
use crate::support::host::KEY_RING;

const CONTAINERS: usize = 5;

/// How many requests of the broker were sent to a service, with this in their path.
fn sent(scene: &Scene, service: &str, part: &str) -> usize {
    let requests = scene.world.stand_in.requests();
    let is_one = |request: &&serde_json::Value| {
        request["service"] == service
            && request["method"] != "PATCH"
            && request["path"].as_str().is_some_and(|path| path.contains(part))
    };
    requests.iter().filter(is_one).count()
}

#[test]
fn an_update_of_all_costs_one_request_for_each_item_and_one_call_of_the_kms_for_each_key() {
    let Some((scene, _kms)) = Scene::with_kms() else { return };
    let broker = Broker::start(&scene.world.host);
    let containers: Vec<Container> = (0..CONTAINERS).map(|_| Container::create()).collect();
    containers.iter().for_each(|container| scene.start(&broker, container, &[]));
    for number in 1..=2 {
        scene.rotate(number);
        let before = (sent(&scene, "connect", "/items/"), sent(&scene, "kms", ":decrypt"));
        let (code, text) = scene.refresh(&broker);
        assert_eq!(code, 0, "{text}");
        let after = (sent(&scene, "connect", "/items/"), sent(&scene, "kms", ":decrypt"));
        assert_eq!((after.0 - before.0, after.1 - before.1), (2, 2));
        for container in &containers {
            assert_eq!(pair(container), [scene.secret(number), scene.secret(number)]);
        }
    }
    // Each record says for which update a value was fetched that another one shares.
    let updates: Vec<_> = scene.world.records().into_iter().filter(|one| one["decision"] == "updated").collect();
    assert_eq!(updates.len(), 2 * CONTAINERS);
    let first = updates.iter().find(|one| one["secrets"][0].get("fetched_for").is_none()).unwrap();
    assert!(updates.iter().any(|one| one["secrets"][0]["fetched_for"] == first["start"]), "{updates:?}");
}

/// Updates are made eight at a time.
#[test]
fn a_kms_that_does_not_answer_one_update_is_not_asked_by_the_next_ones() {
    const MANY: usize = 20;
    /// Both keys of the first container, each until its deadline.
    const CALLS_MAX: u64 = 8;
    let Some((scene, kms)) = Scene::with_kms() else { return };
    let broker = Broker::start(&scene.world.host);
    let containers: Vec<Container> = (0..MANY).map(|_| Container::create()).collect();
    containers.iter().for_each(|container| scene.start(&broker, container, &[]));
    scene.rotate(1);
    kms.set(Mode::Silent);
    let before = kms.connections();
    let (code, text) = scene.refresh(&broker);
    assert!(code == 71 && text.matches("it keeps them: cannot unseal").count() == MANY, "{code}: {text}");
    let calls = kms.connections() - before;
    assert!((1..=CALLS_MAX).contains(&calls), "{calls} calls");
    // The next turn asks it again.
    kms.set(Mode::Forward);
    let (code, text) = scene.refresh(&broker);
    assert_eq!(code, 0, "{text}");
    assert!(containers.iter().all(|container| pair(container) == [scene.secret(1), scene.secret(1)]));
}

/// One that the KMS itself opens.
#[test]
fn a_value_of_the_kms_own_form_is_decrypted_once_for_all() {
    let Some((scene, _kms)) = Scene::with_kms() else { return };
    let broker = Broker::start(&scene.world.host);
    let containers: Vec<Container> = (0..CONTAINERS).map(|_| Container::create()).collect();
    containers.iter().for_each(|container| scene.start(&broker, container, &[]));
    let encode = |text: &str| base64::Engine::encode(&base64::prelude::BASE64_STANDARD, text);
    let kek = format!("{KEY_RING}/prod");
    let name = kek.strip_prefix("gcp-kms://").unwrap();
    for (at, item) in ITEMS.iter().enumerate() {
        let bound = format!("sealed:v1 {kek} op://AgentVault/{item}/password");
        let plain = json!({ "plaintext": encode(&scene.secret(7)), "additionalAuthenticatedData": encode(&bound) });
        let answer = scene.world.stand_in.request_kms("POST", &format!("/v1/{name}:encrypt"), &plain);
        scene.replace(at, &format!("sealed:v1/direct {kek} {}", answer["ciphertext"].as_str().unwrap()));
    }
    let before = sent(&scene, "kms", ":decrypt");
    assert_eq!(scene.refresh(&broker).0, 0);
    assert_eq!(sent(&scene, "kms", ":decrypt") - before, 2);
    assert!(containers.iter().all(|container| pair(container) == [scene.secret(7), scene.secret(7)]));
}

/// What is decided for each container is shared with none.
#[test]
fn an_update_shares_nothing_with_a_container_without_a_grant() {
    let Some(scene) = Scene::begin() else { return };
    let broker = Broker::start(&scene.world.host);
    let (granted, other) = (Container::create(), Container::create());
    scene.start(&broker, &granted, &[("team", "a")]);
    scene.start(&broker, &other, &[("team", "b")]);
    let settings = fs::read_to_string(scene.world.host.settings()).unwrap();
    let narrow = settings.replace("[[grant]]\n", "[[grant]]\nto = { annotations = { team = \"a\" } }\n");
    assert_ne!(narrow, settings);
    scene.world.host.write("settings.toml", narrow.as_bytes(), 0o644);
    broker.signal(Signal::HUP);
    wait_until("the reload", || scene.refresh(&broker).0 == 71);
    scene.rotate(1);
    let (code, text) = scene.refresh(&broker);
    assert!(code == 71 && text.contains("generation 2") && text.contains("it keeps them: refusing"), "{code}: {text}");
    assert_eq!(pair(&granted), [scene.secret(1), scene.secret(1)]);
    assert_eq!(pair(&other), [scene.secret(0), scene.secret(0)]);
}
