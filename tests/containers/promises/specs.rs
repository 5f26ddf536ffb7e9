//! What only a spec can say, and engines seldom do.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::container::Container;
use crate::engine::Engine;
use crate::spec::Twist;
use crate::support::sandbox;
use crate::world::World;

pub(super) fn hooks_of_others_may_come_before_and_after(world: &World, engine: Engine) {
    let mut container = container(world);
    // The one before has mounted a tmpfs at /run by the time that ours is called.
    let rootfs = container.rootfs();
    fs::create_dir(rootfs.join("run")).unwrap();
    let mount = format!("nsenter --mount=/proc/$pid/ns/mnt mount -t tmpfs none {}/run", rootfs.display());
    let before = other(&container, "before", &mount);
    let after = other(&container, "after", "true");
    container.twists.push(Twist::Spec(Box::new(move |spec| {
        let hooks = spec["hooks"]["createRuntime"].as_array_mut().unwrap();
        hooks.insert(0, json!({ "path": before }));
        hooks.push(json!({ "path": after }));
    })));
    let ended = container.run(engine, "grep -c ' /run tmpfs' /proc/self/mounts; cat /run/secrets/db");
    assert_eq!(ended.text(), "1\nhunter2");
    for name in ["before", "after"] {
        assert!(container.directory.join(name).with_extension("ran").exists(), "{name}");
    }
}

pub(super) fn the_hook_may_be_called_at_two_stages(world: &World, engine: Engine) {
    let mut container = container(world);
    container.twists.push(Twist::Spec(Box::new(|spec| {
        spec["hooks"]["prestart"] = spec["hooks"]["createRuntime"].clone();
    })));
    let ended = container.run(engine, "ls -A /run/secrets; cat /run/secrets/db; touch /run/secrets/x 2>&1");
    assert_eq!(String::from_utf8_lossy(&ended.stdout), "db\nhunter2touch: /run/secrets/x: Read-only file system\n");
}

pub(super) fn the_root_may_be_moved_instead_of_pivoted(world: &World, engine: Engine) {
    let mut container = container(world);
    container.twists.push(Twist::NoPivot);
    assert_eq!(container.run(engine, "cat /run/secrets/db").text(), "hunter2");
}

pub(super) fn mounts_of_the_root_may_propagate(world: &World, engine: Engine) {
    for propagation in ["private", "rprivate", "slave", "rslave", "shared", "rshared"] {
        let mut container = container(world);
        container
            .twists
            .push(Twist::Spec(Box::new(move |spec| spec["linux"]["rootfsPropagation"] = json!(propagation))));
        let running = container.start(engine, "cat /run/secrets/db && echo && echo ready && cat");
        assert_eq!(running.printed, "hunter2\n", "{propagation}");
        let host = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!host.contains("- tmpfs oci-secrets"), "{propagation}: {host}");
        running.end();
    }
}

pub(super) fn a_mount_namespace_of_others_is_refused(world: &World, engine: Engine) {
    let mut container = container(world);
    let mut other = Command::new("unshare");
    let mut other = other.args(["--mount", "sh", "-c", "echo; exec sleep 60"]).stdout(Stdio::piped()).spawn().unwrap();
    // Before, it is in the namespace of this process.
    other.stdout.take().unwrap().read_exact(&mut [0]).unwrap();
    let path = format!("/proc/{}/ns/mnt", other.id());
    container.twists.push(Twist::Spec(Box::new(move |spec| {
        let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.iter_mut().find(|namespace| namespace["type"] == "mount").unwrap()["path"] = json!(path);
    })));
    container.write(engine, "true");
    let output = engine.command(&["run", "--bundle"]).arg(&container.directory).arg(&container.name).output().unwrap();
    other.kill().unwrap();
    other.wait().unwrap();
    assert!(!output.status.success(), "{output:?}");
    let record = world.journal.records(&container.name).pop().unwrap();
    let message = "refusing to deliver to /run/secrets: the spec joins a mount namespace of others";
    assert_eq!((&record["decision"], &record["refusal"]["message"]), (&"refused".into(), &message.into()));
}

pub(super) fn groups_of_the_user_do_not_open_the_files(world: &World, engine: Engine) {
    let mut container = container(world);
    container.annotate("run.secrets.owner", "2000:2001");
    container.settings = Some("owner = 'allow'\n".to_owned());
    container.twists.push(Twist::Spec(Box::new(|spec| {
        spec["process"]["user"]["additionalGids"] = json!([2001, 3000]);
    })));
    let ended = container.run(engine, "id -G; cat /run/secrets/db 2>&1; true");
    assert_eq!(ended.text(), "1001 2001 3000\ncat: can't open '/run/secrets/db': Permission denied\n");
}

pub(super) fn a_spec_without_a_user_is_refused(world: &World, engine: Engine) {
    let mut container = container(world);
    container.twists.push(Twist::Spec(Box::new(|spec: &mut Value| {
        spec["process"].as_object_mut().unwrap().remove("user");
    })));
    let refused = container.refused(engine);
    let message = "no owner for the secrets: the spec has no process.user";
    assert_eq!((refused.code, &*refused.message), (65, message));
}

/// Its containers run, if they request nothing.
pub(super) fn a_sandboxed_runtime_is_refused(world: &World, engine: Engine) {
    let mut silent = Container::new(world);
    let marks = silent.marks();
    let ended = silent.run(engine, "touch /marks/ran");
    assert!(ended.status.success() && marks.join("ran").exists(), "{ended:?}");

    let refused = container(world).refused(engine);
    let message = "refusing to deliver to a container of gVisor: its sandbox has a kernel and mounts of its own, which the hook cannot reach";
    assert_eq!((refused.code, &*refused.message), (77, message));
    let said = &refused.ended.stderr;
    assert!(said.contains(message) && said.contains("oci-secrets-hook: hint: run it with runc or crun"), "{said}");
}

/// A container that asks for one file.
fn container(world: &World) -> Container<'_> {
    let mut container = Container::new(world);
    container.secret("db", b"hunter2");
    container
}

/// A hook that leaves a mark, then does something with the container's `$pid`.
fn other(container: &Container<'_>, name: &str, script: &str) -> PathBuf {
    let path = container.directory.join(name);
    let mark = path.with_extension("ran");
    let read = r#"pid=$(sed -n 's/.*"pid": *\([0-9]*\).*/\1/p')"#;
    let path_variable = sandbox::PATH;
    let text =
        format!("#!/bin/sh\nset -e\nPATH={path_variable}\n{read}\n{script}\n: >{}\n", Path::new(&mark).display());
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}
