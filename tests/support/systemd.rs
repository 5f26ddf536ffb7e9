//! A container whose first process is systemd.

use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use super::skip;

/// The container, which `tests/support/systemd` describes. It ends when this is dropped.
pub(crate) struct Systemd {
    /// It waits for systemd, and systemd ends with it.
    child: Child,
    systemd: u32,
    cgroup: PathBuf,
    _directory: TempDir,
}

impl Systemd {
    /// Starts it; `None` if there is no systemd. The network, and so loopback, is that of this thread.
    pub(crate) fn boot() -> Option<Systemd> {
        if !Path::new("/lib/systemd/systemd").exists() {
            skip("systemd is missing");
            return None;
        }
        let directory = tempfile::Builder::new().prefix("systemd").tempdir().unwrap();
        // The unified hierarchy, or the v2 hierarchy of a hybrid setup.
        let hierarchy = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(Path::new);
        let hierarchy = hierarchy.into_iter().find(|path| path.join("cgroup.controllers").exists()).unwrap();
        let cgroup = hierarchy.join(directory.path().file_name().unwrap());
        let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/systemd"));
        let mut child = command.arg(directory.path()).arg(&cgroup).stdin(Stdio::null()).spawn().unwrap();
        let children = format!("/proc/{0}/task/{0}/children", child.id());
        let is_up = |systemd: u32| {
            let active = Command::new("systemctl").args(["is-active", "basic.target"]).within(systemd).output();
            active.unwrap().stdout == b"active\n"
        };
        loop {
            assert!(child.try_wait().unwrap().is_none(), "systemd has ended");
            let first = fs::read_to_string(&children).unwrap_or_default();
            let first = first.trim().parse().ok().filter(|first| is_systemd(*first) && is_up(*first));
            match first {
                Some(systemd) => return Some(Systemd { child, systemd, cgroup, _directory: directory }),
                None => thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    /// The path outside the container of a path inside.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        Path::new(&format!("/proc/{}/root", self.systemd)).join(path.trim_start_matches('/'))
    }

    /// Runs a program in the container to completion.
    pub(crate) fn run(&self, program: &str, arguments: &[&str]) -> Output {
        Command::new(program).args(arguments).within(self.systemd).output().unwrap()
    }

    /// The same, and asserts success and returns the output.
    pub(crate) fn succeeds(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.run(program, arguments);
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success(), "{program} {arguments:?}: {text}");
        text
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Its processes are still exiting.
        while let Err(error) = remove_cgroups(&self.cgroup)
            && error.kind() == ErrorKind::ResourceBusy
        {
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Whether the script has executed systemd.
fn is_systemd(pid: u32) -> bool {
    fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|program| program.file_name() == Some(OsStr::new("systemd")))
}

/// Removes a cgroup and its descendants. The interface files in them disappear with them.
fn remove_cgroups(cgroup: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(cgroup)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_cgroups(&entry.path())?;
        }
    }
    fs::remove_dir(cgroup)
}

trait Within {
    fn within(&self, systemd: u32) -> Command;
}

impl Within for Command {
    /// The same command in the namespaces of the container, without our environment.
    fn within(&self, systemd: u32) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &systemd.to_string(), "--mount", "--pid", "--ipc", "--uts", "--cgroup"]);
        command.arg(self.get_program()).args(self.get_args());
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("SYSTEMD_COLORS", "0");
        command.stdin(Stdio::null());
        command
    }
}
