//! A user of the tests' own, whose engines run without root.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, lchown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};

use crate::engine;
use crate::spec::MAPPED;

/// The user's id, and the id of the only group.
pub(crate) const ID: u32 = 54_321;

/// The user's name.
pub(crate) const NAME: &str = "containers-test";
const HOME: &str = "/run/containers-test/home";

/// The directory of the user's that takes the place of what is root's alone.
pub(crate) fn home() -> &'static Path {
    Path::new(HOME)
}

/// Makes the user known to this mount namespace, with subordinate ids: those of [`MAPPED`].
pub(crate) fn add() {
    let subordinate = format!("{NAME}:{}:{}\n", MAPPED.0, MAPPED.1);
    for (file, line) in [
        ("/etc/passwd", format!("{NAME}:x:{ID}:{ID}::{HOME}:/bin/sh\n")),
        ("/etc/group", format!("{NAME}:x:{ID}:\n")),
        ("/etc/subuid", subordinate.clone()),
        ("/etc/subgid", subordinate),
    ] {
        fs::OpenOptions::new().append(true).create(true).open(file).unwrap().write_all(line.as_bytes()).unwrap();
    }
    fs::create_dir_all(runtime()).unwrap();
    fs::set_permissions(runtime(), fs::Permissions::from_mode(0o700)).unwrap();
    give(home(), ID);
    // As systemd-logind makes it.
    let own = format!("/run/user/{ID}");
    fs::create_dir_all(&own).unwrap();
    fs::set_permissions(&own, fs::Permissions::from_mode(0o700)).unwrap();
    give(Path::new(&own), ID);
}

/// A program of the user's, with a time limit, in a small environment.
pub(crate) fn program(name: &str) -> Command {
    let mut command = engine::program(name);
    command.env("HOME", HOME).env("XDG_RUNTIME_DIR", runtime()).uid(ID).gid(ID);
    command
}

/// Makes somebody the owner of a directory and of all that is in it.
pub(crate) fn give(path: &Path, id: u32) {
    lchown(path, Some(id), Some(id)).unwrap();
    if path.symlink_metadata().unwrap().is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            give(&entry.unwrap().path(), id);
        }
    }
}

/// Ends the process by which podman keeps the user's namespaces, and which would outlast the tests.
pub(crate) fn leave() {
    let pid = fs::read_to_string(runtime().join("libpod/tmp/pause.pid")).unwrap_or_default();
    if let Some(pid) = pid.trim().parse().ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, Signal::KILL);
    }
}

fn runtime() -> PathBuf {
    home().join("runtime")
}
