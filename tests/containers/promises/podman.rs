//! What podman alone does.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::container::Container;
use crate::engine::Engine;
use crate::spec::Twist;
use crate::support::sandbox;
use crate::support::search::Needle;
use crate::support::{AGENT_VAULT, with_mode};
use crate::world::World;

/// The longest until a process that podman has started has read a file.
const READ_WITHIN: Duration = Duration::from_secs(60);

pub(super) fn what_install_writes_is_enough(world: &World, engine: Engine) {
    install(world, "podman");
    let mut container = Container::new(world);
    container.secret("db", b"hunter2");
    container.hooks = None;
    assert_eq!(container.run(engine, "cat /run/secrets/db").text(), "hunter2");
    let verdict = "calls the hook, as /usr/share/containers/oci/hooks.d/90-oci-secrets.json says";
    assert!(check(world).lines().any(|line| line.starts_with("ok       podman: ") && line.ends_with(verdict)));
}

pub(super) fn a_device_is_enough_without_hooks_d(world: &World, engine: Engine) {
    install(world, "cdi");
    let mut container = Container::new(world);
    container.secret("db", b"hunter2");
    container.hooks = None;
    container.twists.push(Twist::Podman(format!("--hooks-dir={}", empty(&container).display())));
    let script = "ls /run/secrets && cat /run/secrets/db";
    assert!(!container.run(engine, script).status.success(), "something else calls the hook");

    container.twists.push(Twist::Podman("--device=oci-secrets/hook=deliver".into()));
    assert_eq!(container.run(engine, script).text(), "db\nhunter2");
    assert!(check(world).contains("ok       cdi: the device of /etc/cdi/oci-secrets.json calls the hook\n"));
    let title = container.title("no-item");
    container.ask("other", &title, "password");
    let refused = container.refused(engine);
    assert_eq!(refused.code, 66);
}

pub(super) fn explain_tells_what_a_container_was_given(world: &World, engine: Engine) {
    let mut container = Container::new(world);
    let item = container.secret("db", b"hunter2");
    let (title, of_others) = (container.title("db"), container.title("of-others"));
    // A podman that knows where these tests keep their containers.
    let podman = engine.command(&["\"$@\""]);
    let words = [podman.get_program()].into_iter().chain(podman.get_args()).map(|word| word.to_str().unwrap());
    let words = words.collect::<Vec<_>>().join(" ");
    let programs = empty(&container);
    let script = format!("#!/bin/sh\nPATH={} HOME={} exec {words}\n", sandbox::PATH, sandbox::DIRECTORY);
    with_mode(&programs.join("podman"), script.as_bytes(), 0o755);
    let explain = |container: &Container<'_>| {
        let mut command = Command::new(sandbox::OCI_SECRETS);
        command.arg("--settings").arg(container.settings_path()).args(["explain", "--engine", "podman"]);
        let output =
            command.arg(&container.name).env("PATH", format!("{}:{}", programs.display(), sandbox::PATH)).output();
        let output = output.unwrap();
        let printed = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&printed).into_owned())
    };
    let running = container.start(engine, "echo ready; cat");
    let (code, printed) = explain(&container);
    for line in [
        "ok       grant: 1: \"op://AgentVault/*\" to every container".to_owned(),
        format!("ok       source: vault \"AgentVault\", item \"{title}\" ({item}, version 1), field \"password\""),
        "ok       seal: under local-kek:trial, which is listed; unsealed".to_owned(),
        "ok       file: /run/secrets/db, mode 0400, owner 1000:1001".to_owned(),
    ] {
        assert!(printed.lines().any(|each| each == line), "{line}\n{printed}");
    }
    assert_eq!(code, Some(0), "{printed}");
    assert!(!printed.contains("hunter2"));
    running.end();

    let mut container = Container::new(world);
    container.annotate("run.secrets/db", &format!("op://AgentVault/{of_others}/password"));
    container.write(engine, "true");
    let hooks = container.hooks.clone().unwrap();
    let mut create = engine.command(&["create", "--hooks-dir", hooks.to_str().unwrap(), "--name", &container.name]);
    create.args(["--network=none", "--annotation"]).arg(format!("run.secrets/db=op://AgentVault/{of_others}/password"));
    assert!(create.arg("--rootfs").arg(container.rootfs()).arg("true").output().unwrap().status.success());
    let (code, printed) = explain(&container);
    let _ = engine.command(&["rm", "--force", &container.name]).output();
    assert_eq!(code, Some(66), "{printed}");
    assert!(
        printed.contains(&format!("problem  source: no item \"{of_others}\" in vault \"AgentVault\"")),
        "{printed}"
    );
}

pub(super) fn the_references_of_an_envrc_are_words_of_its_command_line(world: &World, engine: Engine) {
    let mut container = Container::new(world);
    container.secret("openai-api-key", b"hunter2");
    container.secret("db", b"rose");
    container.annotations.clear();
    let (key, db) = (container.title("openai-api-key"), container.title("db"));
    let envrc = container.directory.join(".envrc");
    let lines = [
        format!("export OPENAI_API_KEY=\"op://AgentVault/{key}/password\""),
        "PATH_add bin".into(),
        format!("export DB='op://AgentVault/{db}/password' # of the agent"),
    ];
    fs::write(&envrc, lines.join("\n")).unwrap();
    let annotations = world.oci_secrets(&["annotate", envrc.to_str().unwrap()], b"");
    // Without quotes, as in `podman run $(oci-secrets annotate .envrc)`.
    let split = Command::new("sh").args(["-c", r#"printf '%s\n' $1"#, "sh", &annotations]).output().unwrap();
    let words = String::from_utf8(split.stdout).unwrap();
    container.twists.extend(words.lines().map(|word| Twist::Podman(word.into())));
    assert_eq!(container.twists.len(), 2, "{words}");
    let script = "cd /run/secrets && ls && cat db openai-api-key";
    assert_eq!(container.run(engine, script).text(), "db\nopenai-api-key\nrosehunter2");
}

pub(super) fn exec_is_given_what_the_container_has(world: &World, engine: Engine) {
    let mut container = Container::new(world);
    container.secret("db", b"hunter2");
    let running = container.start(engine, "echo ready; cat");
    let exec = |user: &str| {
        let mut command = engine.command(&["exec", "--user", user, &container.name, "cat", "/run/secrets/db"]);
        command.stdin(Stdio::null()).output().unwrap()
    };
    let of_owner = exec("1000:1001");
    assert_eq!(String::from_utf8_lossy(&of_owner.stdout), "hunter2", "{of_owner:?}");
    for other in ["1001:1001", "1001:1002"] {
        let of_other = exec(other);
        assert!(!of_other.status.success() && of_other.stdout.is_empty(), "{of_other:?}");
        assert!(String::from_utf8_lossy(&of_other.stderr).contains("Permission denied"), "{of_other:?}");
    }
    running.end();
}

pub(super) fn what_is_made_of_a_container_holds_no_secret(world: &World, engine: Engine) {
    let canary = format!("canary-{}", std::iter::repeat_with(fastrand::alphanumeric).take(32).collect::<String>());
    let mut container = Container::new(world);
    let image = Image::new(engine, &container);
    container.image = Some(image.0.clone());
    container.user = (0, 0);
    container.secret("db", canary.as_bytes());
    let running =
        container.start(engine, "echo of-the-container >/tmp/file; test -s /run/secrets/db && echo ready; cat");
    let name = &container.name;
    let changes = engine.ask(&["diff", name]);
    assert!(changes.contains("A /tmp/file") && !changes.contains("secrets/"), "{changes}");

    let committed = Image(format!("{}-committed", image.0), engine);
    engine.ask(&["commit", "--quiet", name, &committed.0]);
    let (needle, other) = (Needle::new(&canary), Needle::new("of-the-container"));
    for (verb, what) in [("export", name), ("save", &committed.0)] {
        let archive = container.directory.join(verb);
        engine.ask(&[verb, "--output", archive.to_str().unwrap(), what]);
        let archive = fs::read(archive).unwrap();
        assert!(other.is_in(&archive) && !needle.is_in(&archive), "{verb}");
    }
    for what in [name, &committed.0] {
        assert!(!needle.is_in(engine.ask(&["inspect", what])));
    }
    running.end();
    // Of the secrets there is an empty directory.
    container.image = Some(committed.0.clone());
    container.annotations.clear();
    assert_eq!(container.run(engine, "ls -A /run/secrets; cat /tmp/file").text(), "of-the-container\n");
}

pub(super) fn secrets_of_podmans_own_stay_beside_ours(world: &World, engine: Engine) {
    let mut container = Container::new(world);
    container.secret("db", b"hunter2");
    let name = format!("{}-own", container.name);
    let mut create = engine.command(&["secret", "create", &name, "-"]).stdin(Stdio::piped()).spawn().unwrap();
    create.stdin.take().unwrap().write_all(b"of podman").unwrap();
    assert!(create.wait().unwrap().success());
    container.twists.push(Twist::Podman(format!("--secret={name},uid=1000")));
    let ended = container.run(engine, &format!("cd /run/secrets && ls -A && cat db && cat {name}"));
    engine.ask(&["secret", "rm", &name]);
    assert_eq!(ended.text(), format!("db\n{name}\nhunter2of podman"));
}

pub(super) fn stop_and_start_bring_the_new_value(world: &World, engine: Engine) {
    let mut container = Container::new(world);
    let item = container.secret("db", b"old");
    let values = container.marks().join("values");
    let running = container.detach(engine, "cat /run/secrets/db >>/marks/values; exec sleep 300");
    let hooks = container.hooks.as_ref().unwrap().to_str().unwrap();
    // The process may read its file after podman has started it.
    let wait_until_read = |expected: &str| {
        let deadline = Instant::now() + READ_WITHIN;
        while fs::read_to_string(&values).unwrap_or_default() != expected && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(fs::read_to_string(&values).unwrap(), expected);
    };
    wait_until_read("old");
    engine.ask(&["stop", "--time=0", &container.name]);
    world.rotate(&item, &container.title("db"), "password", b"new");
    engine.ask(&["--hooks-dir", hooks, "start", &container.name]);
    wait_until_read("oldnew");
    engine.ask(&["stop", "--time=0", &container.name]);

    // A refused start does not run the process, and the caller gets the error.
    world.stand_in.request("DELETE", &format!("/v1/vaults/{AGENT_VAULT}/items/{item}"), &json!(null));
    let mut start = engine.command(&["--hooks-dir", hooks, "start", "--attach", &container.name]);
    let output = start.stdin(Stdio::null()).output().unwrap();
    assert!(!output.status.success() && !output.stderr.is_empty(), "{output:?}");
    assert_eq!(fs::read_to_string(&values).unwrap(), "oldnew");
    drop(running);
}

/// Makes every engine of this kind call the hook, as an operator does, with the settings of the world.
fn install(world: &World, kind: &str) {
    world.oci_secrets(&["install", "--engine", kind, "--write", "--hook", sandbox::HOOK], b"");
}

/// What `oci-secrets check` says.
fn check(world: &World) -> String {
    world.oci_secrets(&["check"], b"")
}

/// An empty directory.
pub(super) fn empty(container: &Container<'_>) -> PathBuf {
    let directory = container.directory.join("empty");
    fs::create_dir(&directory).unwrap();
    directory
}

/// Before 4.5.1, podman applies the annotations of an image to its containers.
pub(super) fn an_image_cannot_request_secrets(world: &World, engine: Engine) {
    let mut container = Container::new(world);
    container.secret("db", b"hunter2");
    let request = container.annotations.clone();
    let image = Image::new(engine, &container);
    let annotated = Image(format!("{}-annotated", image.0), engine);
    let file = container.directory.join("Containerfile");
    fs::write(&file, format!("FROM {}\n", image.0)).unwrap();
    let mut build = vec!["build".to_owned(), "--quiet".into(), "--tag".into(), annotated.0.clone(), "--file".into()];
    build.push(file.display().to_string());
    let workload = [("workload".to_owned(), "billing".to_owned())];
    for (key, value) in request.iter().map(|(key, value)| (key.clone(), value.clone())).chain(workload) {
        build.extend(["--annotation".to_owned(), format!("{key}={value}")]);
    }
    build.push(container.directory.display().to_string());
    engine.ask(&build.iter().map(String::as_str).collect::<Vec<_>>());
    container.image = Some(annotated.0.clone());

    // The request is the image's.
    container.annotations.clear();
    let script = "ls /run/secrets 2>/dev/null; true";
    let applies = engine.ask(&["--version"]).contains(" 4.3.");
    match applies {
        true => {
            let refused = container.refused(engine);
            assert_eq!(refused.code, 77);
            assert!(refused.message.contains("the image has it, too"), "{}", refused.message);
        }
        false => assert_eq!(container.run(engine, script).text(), ""),
    }

    // The request is the caller's, and what the grant requires is the image's.
    let mut container = Container::new(world);
    container.secret("db", b"hunter2");
    container.image = Some(annotated.0.clone());
    container.settings = Some("to = { annotations = { workload = \"billing\" } }".into());
    assert_eq!(container.refused(engine).code, 77);
    // Both are the caller's: an annotation that the image has, too, counts only if the settings say so.
    let allowed = "to = { annotations = { workload = \"billing\" } }\n[deliver]\nimage-annotations = \"allow\"";
    container.settings = Some(allowed.into());
    container.annotate("workload", "billing");
    assert_eq!(container.run(engine, "cat /run/secrets/db").text(), "hunter2");
}

/// The list of containers is in the runtime directory then. The hook refuses a container whose image it cannot look up.
pub(super) fn a_transient_store_delivers_secrets(world: &World, engine: Engine) {
    if !engine.ask(&["--help"]).contains("--transient-store") {
        // podman has none before 4.4; that of Debian 13 has.
        return;
    }
    let mut container = Container::new(world);
    container.secret("db", b"hunter2");
    let image = Image::new(engine, &container);
    container.image = Some(image.0.clone());
    container.twists.push(Twist::Podman("--transient-store".into()));
    assert_eq!(container.run(engine, "cat /run/secrets/db").text(), "hunter2");
}

/// The example of the document becomes a service that gives podman each annotation as it is written.
pub(super) fn a_quadlet_passes_its_annotations_on(world: &World, _: Engine) {
    const PAGE: &str = include_str!("../../../packaging/docs/engines.md");
    const GENERATOR: &str = "/usr/lib/systemd/system-generators/podman-system-generator";
    if !Path::new(GENERATOR).exists() {
        // podman has none before 4.4; that of Debian 13 has.
        return;
    }
    let example =
        PAGE.split("```ini\n").find(|block| block.starts_with("# /etc/containers/systemd/billing.container\n"));
    let example = example.unwrap().split("```").next().unwrap();
    let container = Container::new(world);
    let units = container.directory.join("units");
    fs::create_dir(&units).unwrap();
    fs::write(units.join("billing.container"), example).unwrap();
    let output = Command::new(GENERATOR).arg("--dryrun").env("QUADLET_UNIT_DIRS", &units).output().unwrap();
    let unit = String::from_utf8_lossy(&output.stdout).into_owned();
    let start = unit.lines().find(|line| line.starts_with("ExecStart=")).unwrap_or_else(|| panic!("{unit}"));
    let annotations = example.lines().filter_map(|line| line.strip_prefix("Annotation="));
    let annotations: Vec<String> = annotations.map(|pair| pair.trim_matches('"').to_owned()).collect();
    assert_eq!(annotations.len(), 3);
    for pair in annotations {
        assert!(start.contains(&format!(" --annotation {pair} ")), "{pair}: {start}");
    }
}

/// An image of a container's root filesystem. Dropping it removes it.
pub(super) struct Image(pub(super) String, Engine);

impl Image {
    pub(super) fn new(engine: Engine, container: &Container<'_>) -> Image {
        let archive = container.directory.join("rootfs.tar");
        let mut tar = Command::new("tar");
        tar.args(["--create", "--file"]).arg(&archive).arg("--directory").arg(container.rootfs()).arg(".");
        assert!(tar.status().unwrap().success());
        let image = Image(format!("localhost/image-of-{}", container.name), engine);
        engine.ask(&["import", "--quiet", archive.to_str().unwrap(), &image.0]);
        image
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let _ = self.1.command(&["image", "rm", "--force", &self.0]).stdin(Stdio::null()).output();
    }
}

pub(super) fn a_reference_or_template_under_another_key_is_refused(world: &World, engine: Engine) {
    for value in ["op://AgentVault/x/password", "password={{ op://AgentVault/x/password }}"] {
        let mut container = Container::new(world);
        let marks = container.marks();
        container.annotate("run.secret/db", value);
        let ended = container.run(engine, "touch /marks/ran");
        assert!(!ended.status.success() && !marks.join("ran").exists(), "{value}: {ended:?}");
    }
}
