//! Docker, whose daemon runs every container under the wrapper.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::LazyLock;

use serde_json::{Value, json};

use super::daemon::{Daemon, WRAPPER, write_runtime};
use super::{Driver, answer, program, root};
use crate::container::Container;
use crate::support::sandbox;
use crate::user;

/// As it is shipped; where the wrapper is found differs.
const CONFIG: &str = include_str!("../../../config/docker/daemon.json");

/// The first version that passes annotations on.
const ANNOTATIONS_SINCE: u32 = 24;

/// The set of requests of a container, for a Docker that passes no annotations on.
const SET: &str = "test";

/// Every container has settings of its own, in a directory that is called like its host.
const OWN_SETTINGS: &str = r#""$directory/$(jq -r .hostname "$bundle/config.json" 2>/dev/null)/settings.toml""#;

pub(super) static DOCKER: Docker = Docker;

pub(super) struct Docker;

static DAEMON: LazyLock<Daemon> = LazyLock::new(|| begin(PLAIN, &[]));
/// A daemon whose containers have a user namespace, with the subordinate ids of the user of the tests.
static REMAPPED: LazyLock<Daemon> = LazyLock::new(|| begin(REMAPPING, &["--userns-remap", user::NAME]));

const PLAIN: &str = "docker";
const REMAPPING: &str = "docker-remapping";

fn begin(name: &str, options: &[&str]) -> Daemon {
    let root = root(name);
    fs::create_dir_all(&root).unwrap();
    // The user of remapped ids must pass.
    for directory in [root.parent().unwrap(), &root] {
        fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).unwrap();
    }
    write_runtime(&root.join("runtime"), &OWN_SETTINGS.replace("$directory", sandbox::DIRECTORY));
    let mut config: Value = serde_json::from_str(CONFIG).unwrap();
    let runtimes = &mut config["runtimes"];
    runtimes["oci-secrets"]["path"] = json!(root.join("runtime"));
    runtimes[SET] = json!({ "path": root.join("runtime"), "runtimeArgs": ["--requests", SET] });
    for set in ["billing", "absent"] {
        let arguments = json!(["--hook", sandbox::HOOK, "--settings", settings(), "--requests", set]);
        runtimes[format!("oci-secrets-{set}")] = json!({ "path": WRAPPER, "runtimeArgs": arguments });
    }
    fs::write(root.join("daemon.json"), config.to_string()).unwrap();
    let path = |name: &str| root.join(name).to_str().unwrap().to_owned();
    let [config, pid, data, exec] = ["daemon.json", "pid", "data", "exec"].map(path);
    let (socket, no_network) = (socket(name), ["--iptables=false", "--ip6tables=false", "--bridge=none"]);
    let words = ["dockerd", "--config-file", &config, "--host", &socket, "--pidfile", &pid, "--data-root", &data];
    let words = [&words[..], &["--exec-root", &exec, "--storage-driver=vfs"], &no_network, options].concat();
    Daemon::start(&words, "", &root, || client(name, &["version"]))
}

fn socket(name: &str) -> String {
    format!("unix://{}/socket", root(name).display())
}

fn client(name: &str, verb: &[&str]) -> Command {
    // Of several clients, that of the daemon's own package.
    let packaged = Path::new("/usr/bin/docker");
    let mut command = program(if packaged.exists() { "/usr/bin/docker" } else { "docker" });
    command.args(["--host", &socket(name)]).args(verb);
    command
}

/// Whether `docker run` takes annotations.
pub(super) fn passes_annotations() -> bool {
    static PASSES: LazyLock<bool> = LazyLock::new(|| {
        let Some(dockerd) = sandbox::find("dockerd") else { return false };
        let output = Command::new(dockerd).arg("--version").output().unwrap();
        let version = String::from_utf8(output.stdout).unwrap();
        let major = version.trim_start_matches("Docker version ").split('.').next().unwrap().to_owned();
        major.parse::<u32>().unwrap() >= ANNOTATIONS_SINCE
    });
    *PASSES
}

/// The settings with the set `billing`, which a runtime of this name asks for.
pub(crate) fn settings() -> PathBuf {
    root(PLAIN).join("settings.toml")
}

/// Makes the container's root filesystem an image that is called as the container.
pub(crate) fn import(container: &Container<'_>) {
    import_with(container, DOCKER.command(&["import", "-", &container.name]));
}

/// Runs a script in a container of a daemon that maps ids.
pub(crate) fn run_remapped(container: &Container<'_>, script: &str) -> Output {
    LazyLock::force(&REMAPPED);
    import_with(container, client(REMAPPING, &["import", "-", &container.name]));
    let mut run = client(REMAPPING, &["run", "--rm", "--network=none", "--log-driver=none"]);
    run.args(["--hostname", &container.name, "--user", &format!("{}:{}", container.user.0, container.user.1)]);
    if passes_annotations() {
        run.args(
            container.annotations.iter().flat_map(|(key, value)| ["--annotation".into(), format!("{key}={value}")]),
        );
    } else if write_set(container) {
        run.args(["--runtime", SET]);
    }
    run.args([&container.name, "sh", "-c", script]).stdin(Stdio::null()).output().unwrap()
}

fn import_with(container: &Container<'_>, mut import: Command) {
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(container.rootfs()).args(["-c", "."]).stdout(Stdio::piped());
    let mut tar = tar.spawn().unwrap();
    let output = import.stdin(tar.stdout.take().unwrap()).output().unwrap();
    assert!(tar.wait().unwrap().success() && output.status.success(), "{output:?}");
}

impl Docker {
    fn start(&self, container: &Container<'_>, script: &str, how: &str) -> Command {
        import(container);
        let mut command = self.command(&["run", how, "--network=none", "--log-driver=none"]);
        command.args(["--name", &container.name, "--hostname", &container.name]);
        let (uid, gid) = container.user;
        command.args(["--user", &format!("{uid}:{gid}")]);
        if passes_annotations() {
            for (key, value) in &container.annotations {
                command.args(["--annotation", &format!("{key}={value}")]);
            }
        } else if write_set(container) {
            command.args(["--runtime", SET]);
        }
        command.args(container.twists.iter().flat_map(|twist| twist.docker_arguments()));
        command.args([&container.name, "sh", "-c", script]);
        command
    }
}

/// Writes the requests of a container into its settings, and returns whether there are any.
fn write_set(container: &Container<'_>) -> bool {
    let asked = container.annotations.iter().filter(|(key, _)| key.contains("run.secrets"));
    let asked: String = asked.map(|(key, value)| format!("{key:?} = {value:?}\n")).collect();
    if !asked.is_empty() {
        let settings = fs::read_to_string(container.settings_path()).unwrap();
        fs::write(container.settings_path(), format!("{settings}\n[requests.{SET}]\n{asked}")).unwrap();
    }
    !asked.is_empty()
}

impl Driver for Docker {
    fn programs(&self) -> &'static [&'static str] {
        &["busybox", "containerd", "docker", "dockerd", "jq", "runc", "tar"]
    }

    fn command(&self, verb: &[&str]) -> Command {
        LazyLock::force(&DAEMON);
        client(PLAIN, verb)
    }

    fn run(&self, container: &Container<'_>, script: &str) -> Command {
        self.start(container, script, "--interactive")
    }

    fn detach(&self, container: &Container<'_>, script: &str) -> Command {
        self.start(container, script, "--detach")
    }

    fn pid(&self, name: &str) -> u32 {
        answer(self.command(&["inspect", "--format", "{{.State.Pid}}", name])).parse().unwrap()
    }

    /// Its image goes with it.
    fn remove(&self, name: &str) -> Command {
        let client = self.command(&[]);
        let mut command = Command::new("sh");
        command.args([
            "-c",
            r#"name=$1; shift; "$@" rm --force --volumes "$name"; "$@" rmi --force "$name""#,
            "sh",
            name,
        ]);
        command.arg(client.get_program()).args(client.get_args()).env("HOME", sandbox::DIRECTORY);
        command
    }
}
