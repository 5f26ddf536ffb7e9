//! Podman without root: the user's own settings, and the user's own ids.

use std::fs;
use std::os::unix::fs::{MetadataExt, lchown};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::podman::empty;
use crate::container::Container;
use crate::engine::{Engine, Running};
use crate::spec::{MAPPED, Twist};
use crate::support::sandbox;
use crate::user;
use crate::world::World;

pub(super) fn what_install_writes_is_enough(world: &World, engine: Engine) {
    let oci_secrets = |arguments: &[&str]| {
        let output = user::program(sandbox::OCI_SECRETS).args(arguments).stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    oci_secrets(&["install", "--engine", "podman", "--hook", sandbox::HOOK, "--write"]);
    let mut container = Container::new(world);
    container.secret("db", b"hunter2");
    container.hooks = None;
    assert_eq!(container.run(engine, "cat /run/secrets/db").text(), "hunter2");

    let config = user::home().join(".config");
    let hook = config.join("containers/oci/hooks.d/90-oci-secrets.json");
    let calls = format!(": calls the hook, as {} says", hook.display());
    let settings = format!("settings: {}: yours", config.join("oci-secrets/settings.toml").display());
    let outside = oci_secrets(&["check"]);
    assert!(outside.contains(&calls) && outside.contains(&settings), "{outside}");
    assert!(outside.contains("mounts are not tested"), "{outside}");
    let inside = engine.ask(&["unshare", sandbox::OCI_SECRETS, "check"]);
    assert!(inside.contains(&calls) && inside.contains(&settings), "{inside}");
    assert!(inside.contains("a read-only tmpfs can be made"), "{inside}");
}

pub(super) fn a_device_that_names_the_users_settings_is_enough(world: &World, engine: Engine) {
    let mut container = Container::new(world);
    container.secret("db", b"hunter2");
    container.hooks = None;
    container.twists.push(Twist::Podman(format!("--hooks-dir={}", empty(&container).display())));
    let mut install = Command::new(sandbox::OCI_SECRETS);
    install.args(["install", "--engine", "cdi", "--hook", sandbox::HOOK, "--json", "--settings"]);
    let printed = install.arg(container.settings_path()).output().unwrap();
    let files: Value = serde_json::from_slice(&printed.stdout).unwrap();
    // A kind of its own, as other tests have other settings at the same time.
    let kind = format!("oci-secrets/{}", container.name);
    let device = files[0]["content"].as_str().unwrap().replace("oci-secrets/hook", &kind);
    fs::create_dir_all("/etc/cdi").unwrap();
    fs::write(format!("/etc/cdi/{}.json", container.name), device).unwrap();
    container.twists.push(Twist::Podman(format!("--device={kind}=deliver")));
    assert_eq!(container.run(engine, "cat /run/secrets/db").text(), "hunter2");
}

pub(super) fn the_user_may_keep_its_id(world: &World, engine: Engine) {
    // Podman's own user namespace, and one below it in which the user has the id that it has on the host.
    let keep_id = "--userns=keep-id";
    for (option, (uid, gid), of_host) in [
        ("--userns=host", (0, 0), user::ID),
        ("--userns=host", (1000, 1000), MAPPED.0 + 999),
        (keep_id, (user::ID, user::ID), user::ID),
        (keep_id, (0, 0), MAPPED.0),
    ] {
        let mut container = Container::new(world);
        container.secret("db", b"hunter2");
        container.user = (uid, gid);
        container.twists.push(Twist::Podman(option.to_owned()));
        let running =
            container.start(engine, "stat -c %u:%g /run/secrets/*; cat /run/secrets/*; echo; echo ready; cat");
        let file = fs::metadata(format!("/proc/{}/root/run/secrets/db", running.pid())).unwrap();
        assert_eq!((file.uid(), file.gid()), (of_host, of_host), "{option}");
        assert_eq!(running.printed, format!("{uid}:{gid}\nhunter2\n"));
        running.end();
    }
}

pub(super) fn run_may_belong_to_another_user_if_the_user_keeps_its_id(world: &World, engine: Engine) {
    let mut container = Container::new(world);
    container.secret("db", b"hunter2");
    container.user = (user::ID, user::ID);
    container.twists.push(Twist::Podman("--userns=keep-id".to_owned()));
    fs::create_dir(container.rootfs().join("run")).unwrap();
    container.owner_of_run = Some(MAPPED.0 + 1000);
    assert_eq!(container.run(engine, "cat /run/secrets/db").text(), "hunter2");
}

/// What root has made, through the broker. What the user's own hook has made belongs to the user's namespace, and so to such a container.
pub(super) fn a_privileged_container_cannot_change_what_root_has_made(world: &World, engine: Engine) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/make_writable.c");
    // The program that tests/containers/debian has built, where there is no compiler.
    let built = std::env::var_os("OCI_SECRETS_MAKE_WRITABLE");
    for option in ["--userns=host", "--userns=keep-id"] {
        let mut container = Container::new(world);
        container.secret("db", b"hunter2");
        container.user = (0, 0);
        container.twists.extend(["--privileged", option].map(|option| Twist::Podman(option.to_owned())));
        let program = container.rootfs().join("bin/make_writable");
        let mut make = Command::new(if built.is_some() { "cp" } else { "cc" });
        match &built {
            Some(built) => make.args([built.as_ref(), program.as_os_str()]),
            None => make.args(["-static", "-o"]).args([&program, &source]),
        };
        assert!(make.status().unwrap().success());
        let ended = container.run(engine, "make_writable /run/secrets db && cat /run/secrets/db");
        let writable = ended.text().matches("writable: ").count();
        match container.broker {
            true => assert_eq!(ended.text(), "20 attempts\nhunter2", "{option}"),
            false if option == "--userns=host" => assert!(writable > 5, "{ended:?}"),
            false => assert_eq!(writable, 0, "{ended:?}"),
        }
    }
}

pub(super) fn the_settings_of_root_are_refused(world: &World, engine: Engine) {
    let mut container = Container::new(world);
    container.secret("db", b"hunter2");
    container.write(engine, "true");
    let settings = container.settings_path();
    lchown(&settings, Some(0), Some(0)).unwrap();
    let ended = Running::start(engine, &container, "true").end();
    assert!(!ended.status.success(), "{ended:?}");
    let path = settings.display();
    let expected = format!(
        "refusing to use {path}: owner is uid 65534, as is everyone without an id in this user namespace, expected uid 0"
    );
    let lines = world.journal.lines(&path.to_string());
    assert!(lines.iter().any(|line| line.priority == "3" && line.message.ends_with(&expected)), "{lines:?}");
}
