//! What pods get.

use serde_json::json;

use crate::containerd::WITH_BASE_SPEC;
use crate::world::{LIST, NONE, World, state, wait_until, wait_until_registered};

pub(crate) fn each_gets_its_own(world: &mut World) {
    let broker = world.broker();
    let [rose, sky] = [("own-rose", "canary-thorn"), ("own-sky", "canary-cloud")].map(|(t, v)| world.store(t, v));
    let requests = json!({ "red.run.secrets/rose": rose, "blue.run.secrets/sky": sky });
    let pod = world.run("own", &requests, &[("red", LIST), ("blue", LIST), ("green", NONE)]);
    assert_eq!(pod.printed("red"), ["rose=canary-thorn", "1", "0"]);
    assert_eq!(pod.printed("blue"), ["sky=canary-cloud", "1", "0"]);
    assert_eq!(pod.printed("green"), ["0"]);
    assert_eq!(state(&broker).adjusted, 3);

    let other = world.run("own-other", &json!({ "team": "red" }), &[("app", NONE)]);
    assert_eq!(other.printed("app"), ["0"]);
    assert_eq!(state(&broker).adjusted, 3, "a pod without requests is left alone");
    assert_eq!(world.decisions("own-"), ["delivered", "delivered"]);
}

pub(crate) fn init_and_second_attempt(world: &mut World) {
    let _broker = world.broker();
    let requests = json!({ "run.secrets/db": world.store("init-db", "canary-init") });
    let pod = world.run("init", &requests, &[("init", LIST), ("app", LIST), ("app#1", LIST)]);
    for container in ["init", "app", "app#1"] {
        assert_eq!(pod.printed(container), ["db=canary-init", "1", "0"], "{container}");
    }
    assert_eq!(world.decisions("init-db").len(), 3);
}

pub(crate) fn failing_hook(world: &mut World) {
    let _broker = world.broker();
    let requests = json!({
        "app.run.secrets/db": "op://AgentVault/failing-nothing/password",
        "other.run.secrets/db": world.store("failing-other", "canary-other"),
    });
    let marks = world.marks();
    let containers = [("app", "touch /marks/failing"), ("other", LIST)];
    let more = json!({ "annotations": requests, "mounts": { marks.to_str().unwrap(): "/marks" } });
    let pod = world.run_with("failing", &containers, more);
    let error = pod.error("app");
    assert!(error.contains("oci-secrets-hook: error: container ") && error.contains("no item"), "{error}");
    assert!(error.contains("oci-secrets-hook: hint: names are case-sensitive"), "{error}");
    assert!(!marks.join("failing").exists(), "the container never ran");
    assert_eq!(pod.printed("other"), ["db=canary-other", "1", "0"]);

    let typo = world.run("failing-typo", &json!({ "run.secret/db": "op://AgentVault/x/y" }), &[("app", LIST)]);
    let error = typo.error("app");
    assert!(error.contains("the nearest valid key is run.secrets/db"), "{error}");
}

pub(crate) fn base_spec(world: &mut World) {
    let _broker = world.broker();
    let requests = json!({ "run.secrets/db": world.store("base-db", "canary-base") });
    let more = json!({ "annotations": requests, "handler": WITH_BASE_SPEC });
    let pod = world.run_with("base", &[("app", LIST)], more);
    assert_eq!(pod.printed("app"), ["db=canary-base", "1", "0"]);
    assert_eq!(world.decisions("base-db"), ["delivered"]);
}

pub(crate) fn overlap(world: &mut World) {
    let old = world.broker_named("old");
    let new = world.broker();
    let requests = json!({ "run.secrets/db": world.store("overlap-db", "canary-overlap") });
    let pod = world.run("overlap", &requests, &[("app", LIST)]);
    assert_eq!(pod.printed("app"), ["db=canary-overlap", "1", "0"]);
    assert_eq!(world.decisions("overlap-db"), ["delivered"]);
    assert_eq!(state(&old).adjusted + state(&new).adjusted, 1, "one of them has found nothing to add");
    assert!(old.terminate().success());
    let pod = world.run("overlap-after", &requests, &[("app", LIST)]);
    assert_eq!(pod.printed("app"), ["db=canary-overlap", "1", "0"]);
}

pub(crate) fn restarted_containerd(world: &mut World) {
    let broker = world.broker();
    world.containerd.restart();
    wait_until_registered(&broker, 2);
    let requests = json!({ "run.secrets/db": world.store("restarted-db", "canary-restarted") });
    let pod = world.run("restarted", &requests, &[("app", LIST)]);
    assert_eq!(pod.printed("app"), ["db=canary-restarted", "1", "0"]);
    wait_until(&broker, |state| state.adjusted == 1);
}
