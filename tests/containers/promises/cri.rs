//! Pods, whose annotations reach all of their containers.

use std::collections::BTreeMap;

use crate::container::Container;
use crate::engine::Engine;
use crate::engine::containerd::{HANDLERS, run_pod, write_settings};
use crate::world::World;

const NAMESPACE: &str = "io.kubernetes.cri.sandbox-namespace";

/// Prints the files, and whether they are mounted: here, and in the pod's own container, whose process is the first in the pod.
const LIST: &str = "cd /run/secrets && for file in *; do echo $file=$(cat $file); done
for process in self 1; do echo $(grep -c /run/secrets /proc/$process/mountinfo); done";

pub(super) fn each_container_of_a_pod_gets_only_its_own(world: &World, _: Engine) {
    for handler in HANDLERS {
        let mut pod = pod(world);
        for (key, value) in [("red.run.secrets/rose", "thorn"), ("blue.run.secrets/sky", "cloud")] {
            ask(&mut pod, key, value);
        }
        let containers = [("red", LIST), ("blue", LIST), ("green", "ls /run/secrets; true")];
        let Some(ended) = run_pod(&pod.name, handler, &pod.annotations, None, &containers) else { return };
        assert_eq!(ended.printed("red"), ["rose=thorn", "1", "0"], "{handler}");
        assert_eq!(ended.printed("blue"), ["sky=cloud", "1", "0"], "{handler}");
        assert!(!ended.printed("green").iter().any(|line| line.contains("rose") || line.contains("sky")), "{handler}");

        // What is asked for without a name is for all.
        ask(&mut pod, "run.secrets/sky", "the sun");
        let all = [("red", LIST), ("blue", LIST)];
        let ended = run_pod(&format!("{}-all", pod.name), handler, &pod.annotations, None, &all).unwrap();
        assert_eq!(ended.printed("red"), ["rose=thorn", "sky=the sun", "1", "0"], "{handler}");
        assert_eq!(ended.printed("blue"), ["sky=cloud", "1", "0"], "{handler}");
        let records = world.journal.records(&pod.name);
        assert!(records.iter().all(|record| record["annotations"] == serde_json::json!({ NAMESPACE: "agents" })));
        assert_eq!(records.len(), 4, "{records:?}");
    }
}

pub(super) fn a_template_of_several_lines_becomes_one_file(world: &World, _: Engine) {
    for handler in HANDLERS {
        let mut pod = pod(world);
        let title = pod.title("database");
        world.store(&title, &[("username", b"app"), ("password", b"hunter2")]);
        let reference = |field: &str| format!("{{{{ op://AgentVault/{title}/{field} }}}}");
        let text = format!("user: {}\npassword: \"{}\"\n", reference("username"), reference("password"));
        pod.annotate("app.run.secrets/config.yaml", &text);
        let containers = [("app", "cat /run/secrets/config.yaml"), ("other", "ls /run/secrets; true")];
        let Some(ended) = run_pod(&pod.name, handler, &pod.annotations, None, &containers) else { return };
        assert_eq!(ended.printed("app"), ["user: app", "password: \"hunter2\""], "{handler}");
        assert!(!ended.printed("other").iter().any(|line| line.contains("config.yaml")), "{handler}");
    }
}

pub(super) fn a_failing_hook_stops_one_container_of_a_pod_and_says_why(world: &World, _: Engine) {
    for handler in HANDLERS {
        let mut pod = pod(world);
        ask(&mut pod, "other.run.secrets/db", "hunter2");
        let title = pod.title("no-item");
        pod.annotate("app.run.secrets/db", &format!("op://AgentVault/{title}/password"));
        let marks = pod.marks();
        let containers = [("app", "touch /marks/app"), ("other", "touch /marks/other; cat /run/secrets/db")];
        let Some(ended) = run_pod(&pod.name, handler, &pod.annotations, Some(&marks), &containers) else { return };
        let error = ended.error("app");
        assert!(error.contains("oci-secrets-hook: error: container ") && error.contains("no item"), "{error}");
        assert!(error.contains("oci-secrets-hook: hint: names are case-sensitive"), "{error}");
        assert!(!marks.join("app").exists());
        assert!(marks.join("other").exists());
        assert_eq!(ended.printed("other"), ["hunter2"]);
        assert!(world.journal.lines(&title).iter().any(|line| line.message.starts_with("error: container ")));
    }
}

/// A pod that asks for nothing, and the settings of all pods.
fn pod(world: &World) -> Container<'_> {
    write_settings(
        &world.settings(
            Engine::Cri.credentials(),
            &format!(r#"to = {{ annotations = {{ "{NAMESPACE}" = "agents" }} }}"#),
        ),
    );
    Container::new(world)
}

/// Keeps a value in an item of its own and lets the pod ask for it.
fn ask(pod: &mut Container<'_>, key: &str, value: &str) {
    let title = pod.title(&key.replace('/', "."));
    pod.world.store(&title, &[("password", value.as_bytes())]);
    pod.annotations.extend(BTreeMap::from([(key.to_owned(), format!("op://AgentVault/{title}/password"))]));
}
