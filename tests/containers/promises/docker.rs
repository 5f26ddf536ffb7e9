//! What Docker alone does with a container.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Output, Stdio};

use crate::container::Container;
use crate::engine::{Engine, docker};
use crate::spec::Twist;
use crate::support::search::{self, Needle};
use crate::world::World;

pub(super) fn exec_sees_the_files(world: &World, engine: Engine) {
    let container = asking(world);
    let _running = container.detach(engine, "exec sleep 300");
    let exec = |user: &str| tried(engine, &["exec", "--user", user, &container.name, "cat", "/run/secrets/db"]);
    assert_eq!(exec("1000").stdout, b"hunter2");
    let other = exec("1002");
    assert!(!other.status.success() && other.stdout.is_empty(), "{other:?}");
}

/// By `userns-remap`; `/run` of the image belongs to a user of its services.
pub(super) fn ids_may_be_remapped(world: &World, engine: Engine) {
    let mut container = asking(world);
    fs::create_dir(container.rootfs().join("run")).unwrap();
    container.owner_of_run = Some(1000);
    container.write(engine, "");
    let output = docker::run_remapped(&container, "stat -c %u:%g /run /run/secrets/db; cat /run/secrets/db");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "1000:1000\n1000:1001\nhunter2", "{output:?}");
}

pub(super) fn restart_brings_the_new_value(world: &World, engine: Engine) {
    let mut container = Container::new(world);
    let item = container.secret("db", b"old");
    let running = container.detach(engine, "exec sleep 300");
    let found = || {
        let process = format!("/proc/{}", running.pid());
        (fs::read_to_string(format!("{process}/root/run/secrets/db")).unwrap(), running.pid())
    };
    let (old, before) = found();
    assert_eq!(old, "old");
    world.rotate(&item, &container.title("db"), "password", b"new");
    engine.ask(&["restart", "--time=0", &container.name]);
    let (new, after) = found();
    assert!(new == "new" && before != after, "{new} {before} {after}");
}

/// Copies, images, layers and descriptions of a running container: its files are in none of them.
pub(super) fn what_docker_keeps_holds_no_secret(world: &World, engine: Engine) {
    let mut container = asking(world);
    // Who may write to the image, so that there is something to be kept.
    container.user = (0, 0);
    let running = container.detach(engine, "echo kept >/tmp/x; exec sleep 300");
    let name = container.name.as_str();
    assert_eq!(fs::read(format!("/proc/{}/root/run/secrets/db", running.pid())).unwrap(), b"hunter2");

    let copied = tried(engine, &["cp", &format!("{name}:/run/secrets/db"), "-"]);
    assert!(!copied.status.success(), "{copied:?}");
    // The empty directory is what the image gets.
    let changed = engine.ask(&["diff", name]);
    let changed: BTreeSet<&str> = changed.lines().filter(|line| line.contains("/run")).collect();
    assert_eq!(changed, BTreeSet::from(["A /run", "A /run/secrets"]));
    let image = format!("{name}-committed");
    engine.ask(&["commit", name, &image]);

    let secret = Needle::new("hunter2");
    let kept = [
        tried(engine, &["cp", &format!("{name}:/run"), "-"]),
        tried(engine, &["export", name]),
        tried(engine, &["save", &image]),
        tried(engine, &["inspect", name]),
        tried(engine, &["history", "--no-trunc", &image]),
        tried(engine, &["inspect", &image]),
    ];
    for output in kept {
        assert!(output.status.success() && !output.stdout.is_empty(), "{output:?}");
        assert!(!secret.is_in(&output.stdout));
    }
    assert!(Needle::new("kept").is_in(tried(engine, &["export", name]).stdout), "an export without what was written");
    engine.ask(&["rmi", &image]);
    drop(running);
    assert_eq!(search::mount_namespaces(name), BTreeSet::new());
}

pub(super) fn a_tmpfs_of_its_own_mode_at_run_secrets_is_covered(world: &World, engine: Engine) {
    let mut container = asking(world);
    container.twists.push(Twist::DockerMount("type=tmpfs,destination=/run/secrets,tmpfs-mode=0400"));
    let ended = container.run(engine, "ls -A /run/secrets; cat /run/secrets/db");
    assert_eq!(ended.text(), "db\nhunter2");
}

pub(super) fn the_name_of_the_runtime_chooses_the_requests(world: &World, engine: Engine) {
    let container = with_set(world);
    let output = run_as(engine, &container, "oci-secrets-billing", &["cat", "/run/secrets/db"]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "hunter2", "{output:?}");
}

pub(super) fn a_set_that_the_settings_lack_stops_the_container_and_says_why(world: &World, engine: Engine) {
    let mut container = with_set(world);
    let marks = container.marks();
    let output = run_as(engine, &container, "oci-secrets-absent", &["touch", "/marks/ran"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && !marks.join("ran").exists(), "{output:?}");
    assert!(stderr.contains("oci-secrets-runtime: the settings have no [requests.absent]"), "{stderr}");
    let log = world.journal.lines("[requests.absent]");
    assert!(log.iter().any(|line| line.program == "oci-secrets-runtime" && line.priority == "3"), "{log:?}");
}

/// A container with one secret.
fn asking(world: &World) -> Container<'_> {
    let mut container = Container::new(world);
    container.secret("db", b"hunter2");
    container
}

/// A container whose image is in Docker, and settings with a set of requests for it.
fn with_set(world: &World) -> Container<'_> {
    let container = Container::new(world);
    let title = container.title("db");
    world.store(&title, &[("password", b"hunter2")]);
    docker::import(&container);
    let set = format!("[requests.billing]\n\"run.secrets/db\" = \"op://AgentVault/{title}/password\"");
    fs::write(docker::settings(), world.settings(Engine::Docker.credentials(), &set)).unwrap();
    container
}

/// Runs a container under a runtime that `daemon.json` names.
fn run_as(engine: Engine, container: &Container<'_>, runtime: &str, words: &[&str]) -> Output {
    let marks = container.twists.iter().flat_map(|twist| twist.docker_arguments());
    let mut command = engine.command(&["run", "--rm", "--network=none", "--runtime", runtime]);
    command.args(marks).arg(&container.name).args(words).stdin(Stdio::null()).output().unwrap()
}

/// What comes of a verb.
fn tried(engine: Engine, verb: &[&str]) -> Output {
    engine.command(verb).stdin(Stdio::null()).output().unwrap()
}
