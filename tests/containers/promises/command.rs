//! What the command `oci-secrets` promises of a kernel.

use std::fs;
use std::process::Command;

use crate::container::Container;
use crate::engine::Engine;
use crate::support::sandbox;
use crate::user;
use crate::world::World;

pub(super) fn check_finds_no_problem(world: &World) {
    let container = Container::new(world);
    container.write(Engine::Crun, "true");
    let output = Command::new(sandbox::OCI_SECRETS)
        .env_clear()
        .env("PATH", sandbox::PATH)
        .arg("--settings")
        .arg(container.settings_path())
        .arg("check")
        .output()
        .unwrap();
    let findings = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{findings}");
    let kernel = findings.lines().find(|line| line.contains(" kernel: Linux ")).unwrap();
    assert_eq!(kernel.contains("a read-only tmpfs without swap can be made"), sandbox::kernel_has_noswap(), "{kernel}");
}

pub(super) fn run_gives_files_to_a_command_of_a_user_without_root(world: &World) {
    let title = Container::new(world).title("key");
    world.store(&title, &[("password", b"hunter2")]);
    let files = user::home().join(&title);
    fs::create_dir(&files).unwrap();
    user::give(&files, user::ID);
    let mut command = user::program(sandbox::OCI_SECRETS);
    command.env("DB_KEY", format!("op://AgentVault/{title}/password")).args(["run", "--files"]).arg(&files);
    command.args(["--", "sh", "-c", r#"cat "$0/db-key"; ! echo x 2>/dev/null >"$0/new""#]).arg(&files);
    let output = command.output().unwrap();
    assert!(output.status.success() && output.stdout == b"hunter2", "{output:?}");
    assert_eq!(fs::read_dir(&files).unwrap().count(), 0);
    assert!(!fs::read_to_string("/proc/self/mountinfo").unwrap().contains(&title));
}
