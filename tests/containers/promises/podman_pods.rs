//! Pods of podman.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Output, Stdio};

use serde_json::json;

use super::podman::Image;
use crate::container::Container;
use crate::engine::Engine;
use crate::spec::{MAPPED, Twist};
use crate::world::World;

pub(super) fn a_pod_gives_each_container_its_own(world: &World, engine: Engine) {
    let pod = Pod::new(engine, &["--share=ipc,net,uts"]);
    let mut red = pod.container(world);
    red.secret("red", b"rose");
    let mut blue = pod.container(world);
    blue.secret("blue", b"sky");
    let plain = pod.container(world);
    let script = "echo ready; cat >/dev/null; cd /run/secrets && ls -A && cat *; grep -c secrets /proc/self/mountinfo";
    let (red, blue) = (red.start(engine, script), blue.start(engine, script));
    assert_eq!(plain.run(engine, "ls /run; grep -c secrets /proc/self/mountinfo; true").text(), "0\n");
    assert!(!pod.mounts_of_infra().contains("secrets"));
    assert_eq!(red.end().text(), "red\nrose1\n");
    assert_eq!(blue.end().text(), "blue\nsky1\n");
}

pub(super) fn a_pod_may_have_a_user_namespace(world: &World, engine: Engine) {
    let mut container = Container::new(world);
    // Podman makes the pod's root the owner of what is in an image, but not of the way there in this kind of storage.
    let image = Image::new(engine, &container);
    let storage = engine.ask(&["info", "--format", "{{.Store.GraphRoot}}/vfs/dir"]);
    fs::set_permissions(storage, fs::Permissions::from_mode(0o711)).unwrap();
    let maps = Twist::UserNamespace.podman_arguments(engine.is_rootless());
    let pod = Pod::new(engine, &maps.iter().map(String::as_str).collect::<Vec<_>>());
    container.twists.push(pod.option());
    container.image = Some(image.0.clone());
    container.secret("db", b"hunter2");
    let running = container.start(engine, "stat -c %u:%g /run/secrets/db; cat /run/secrets/db; echo; echo ready; cat");
    let of_host = fs::metadata(format!("/proc/{}/root/run/secrets/db", running.pid())).unwrap();
    assert_eq!((of_host.uid(), of_host.gid()), (MAPPED.0 + 1000, MAPPED.0 + 1001));
    assert_eq!(running.printed, "1000:1001\nhunter2\n");
    running.end();
}

pub(super) fn a_pod_of_kube_play_gives_its_annotations_to_all(world: &World, engine: Engine) {
    let mut container = Container::new(world);
    container.secret("db", b"hunter2");
    let play = |mut container: Container<'_>| {
        let marks = container.marks();
        container.write(engine, "true");
        let image = Image::new(engine, &container);
        let part = |name: &str| {
            let script = format!("ls -A /run/secrets >/marks/{name} && cat /run/secrets/db >>/marks/{name}");
            let volume = json!([{ "name": "marks", "mountPath": "/marks" }]);
            json!({ "name": name, "image": image.0, "command": ["/bin/sh", "-c", script], "volumeMounts": volume })
        };
        let pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": { "name": format!("{}-pod", container.name), "annotations": container.annotations },
            "spec": {
                "restartPolicy": "Never",
                "containers": [part("one"), part("two")],
                "volumes": [{ "name": "marks", "hostPath": { "path": marks } }],
            },
        });
        let file = container.directory.join("pod.yaml");
        fs::write(&file, pod.to_string()).unwrap();
        let hooks = container.hooks.as_ref().unwrap().to_str().unwrap();
        let played = Pod::play(engine, &format!("{}-pod", container.name), hooks, &file);
        let marked = ["one", "two"].map(|name| fs::read_to_string(marks.join(name)).ok());
        (played, marked)
    };
    let (played, marked) = play(container);
    assert!(played.status.success(), "{played:?}");
    assert_eq!(marked, [Some("db\nhunter2".to_owned()), Some("db\nhunter2".to_owned())], "{played:?}");

    // Podman does not pass the name of a container to hooks: a request for one container by name matches none.
    let mut container = Container::new(world);
    container.annotate("one.run.secrets/db", "op://AgentVault/x/password");
    let (_, marked) = play(container);
    assert_eq!(marked, [None, None]);
    let lines = world.journal.lines("one.run.secrets/db");
    let message = "cannot use annotation \"one.run.secrets/db\": no annotation says which container this is";
    assert!(lines.iter().any(|line| line.priority == "3" && line.message.contains(message)), "{lines:?}");
}

/// A pod. Dropping it ends and removes it.
struct Pod {
    engine: Engine,
    name: String,
}

impl Pod {
    fn new(engine: Engine, arguments: &[&str]) -> Pod {
        let name = format!("pod-{}", fastrand::u64(..));
        let create = ["pod", "create", "--network=none", "--name", &name];
        engine.ask(&[&create[..], arguments].concat());
        Pod { engine, name }
    }

    /// Plays a pod from a file and waits until all of its containers have ended.
    fn play(engine: Engine, name: &str, hooks: &str, file: &Path) -> Output {
        let pod = Pod { engine, name: name.to_owned() };
        let play = ["--hooks-dir", hooks, "kube", "play", "--network=none", file.to_str().unwrap()];
        let output = engine.command(&play).stdin(Stdio::null()).output().unwrap();
        for part in ["one", "two"] {
            let part = format!("{}-{part}", pod.name);
            let _ = engine.command(&["wait", "--condition=exited", &part]).stdin(Stdio::null()).output();
        }
        output
    }

    /// A container that will be in this pod.
    fn container<'w>(&self, world: &'w World) -> Container<'w> {
        let mut container = Container::new(world);
        container.twists.push(self.option());
        container
    }

    /// What puts a container into this pod.
    fn option(&self) -> Twist {
        Twist::Podman(format!("--pod={}", self.name))
    }

    /// The mounts of the container that keeps the pod's namespaces.
    fn mounts_of_infra(&self) -> String {
        let infra = self.engine.ask(&["pod", "inspect", "--format", "{{.InfraContainerID}}", &self.name]);
        let pid = self.engine.ask(&["inspect", "--format", "{{.State.Pid}}", &infra]);
        fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap()
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        let _ = self.engine.command(&["pod", "rm", "--force", "--time=0", &self.name]).stdin(Stdio::null()).output();
    }
}
