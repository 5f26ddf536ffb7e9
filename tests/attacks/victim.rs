//! The attacked container, as a runtime has created it when it calls its hooks: a process in its own mount namespace.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};
use oci_secrets::container::{Mount, Mounts};
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, mount_bind, mount_change};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::scene::TITLE;
use crate::support::sandbox;

/// A container that is being created. Dropping it ends its process and removes its files.
pub(crate) struct Victim {
    pub(crate) id: String,
    pub(crate) process: Child,
    /// Still set after the process has exited.
    namespace: File,
    bundle: Arc<TempDir>,
}

impl Victim {
    /// A container whose root filesystem `image` fills.
    pub(crate) fn new(image: impl FnOnce(&Path)) -> Victim {
        Victim::mounted(image, |_| ())
    }

    /// The same, with additional mounts. Both closures get the path of the root filesystem.
    pub(crate) fn mounted(image: impl FnOnce(&Path), mounts: impl FnOnce(&Path) + Send) -> Victim {
        Victim::propagating(Path::new(sandbox::DIRECTORY), MountPropagationFlags::PRIVATE, image, mounts)
    }

    /// The same, with its bundle in this directory, and with this propagation of the initial mounts.
    pub(crate) fn propagating(
        directory: &Path,
        propagation: MountPropagationFlags,
        image: impl FnOnce(&Path),
        mounts: impl FnOnce(&Path) + Send,
    ) -> Victim {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let id = format!("victim-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let bundle = tempfile::Builder::new().prefix("bundle").tempdir_in(directory).unwrap();
        let rootfs = bundle.path().join("rootfs");
        fs::create_dir(&rootfs).unwrap();
        image(&rootfs);
        fs::write(bundle.path().join("config.json"), spec().to_string()).unwrap();
        Victim::begin(id, Arc::new(bundle), propagation, mounts)
    }

    /// Another container of the same id and bundle.
    pub(crate) fn twin(&self) -> Victim {
        Victim::begin(self.id.clone(), Arc::clone(&self.bundle), MountPropagationFlags::PRIVATE, |_| ())
    }

    fn begin(
        id: String,
        bundle: Arc<TempDir>,
        propagation: MountPropagationFlags,
        mounts: impl FnOnce(&Path) + Send,
    ) -> Victim {
        let rootfs = bundle.path().join("rootfs");
        let process = in_thread(|| {
            unshare(CloneFlags::CLONE_NEWNS).unwrap();
            if !propagation.is_empty() {
                mount_change("/", propagation | MountPropagationFlags::REC).unwrap();
            }
            mount_bind(&rootfs, &rootfs).unwrap();
            mounts(&rootfs);
            start_process()
        });
        let namespace = File::open(format!("/proc/{}/ns/mnt", process.id())).unwrap();
        Victim { id, process, namespace, bundle }
    }

    pub(crate) fn bundle(&self) -> &Path {
        self.bundle.path()
    }

    pub(crate) fn rootfs(&self) -> PathBuf {
        self.bundle.path().join("rootfs")
    }

    /// The state that a runtime gives to the hook.
    pub(crate) fn state(&self) -> Value {
        let reference = |field: &str| format!("op://AgentVault/{TITLE}/{field}");
        json!({
            "ociVersion": "1.0.2",
            "id": self.id,
            "status": "creating",
            "pid": self.process.id(),
            "bundle": self.bundle(),
            "annotations": { "run.secrets/db": reference("db"), "run.secrets/key": reference("key") },
        })
    }

    /// Runs a closure in the container's mount namespace, where the root filesystem has the same path as on the host.
    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        in_thread(|| {
            unshare(CloneFlags::CLONE_FS).unwrap();
            setns(&self.namespace, CloneFlags::CLONE_NEWNS).unwrap();
            work()
        })
    }

    /// Every delivery in the container's mount namespace.
    pub(crate) fn deliveries(&self) -> Vec<Mount> {
        let mounts = self.inside(mounts);
        mounts.iter().filter(|mount| mount.source == "oci-secrets").cloned().collect()
    }

    /// Reads a file by its path in the container, relative to the root filesystem.
    pub(crate) fn read(&self, path: &str) -> std::io::Result<Vec<u8>> {
        let rootfs = self.rootfs();
        self.inside(|| {
            let root = File::open(rootfs)?;
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            let mut content = Vec::new();
            let file = loop {
                match openat2(&root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT) {
                    // A mount was added concurrently.
                    Err(Errno::AGAIN) => {}
                    opened => break opened?,
                }
            };
            std::io::Read::read_to_end(&mut File::from(file), &mut content)?;
            Ok(content)
        })
    }

    /// Kills the process, and waits until its PID is free.
    pub(crate) fn end(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Starts another process with this PID in the container's mount namespace, unless other processes always get the PID.
    pub(crate) fn join_as(&self, number: u32) -> Option<Child> {
        self.inside(|| {
            let attempt = |_| {
                fs::write("/proc/sys/kernel/ns_last_pid", (number - 1).to_string()).unwrap();
                let mut child = start_process();
                if child.id() == number {
                    return Some(child);
                }
                child.kill().unwrap();
                child.wait().unwrap();
                None
            };
            (0..20).find_map(attempt)
        })
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The mounts that this thread sees.
pub(crate) fn mounts() -> Mounts {
    Mounts::parse(&fs::read("/proc/thread-self/mountinfo").unwrap()).unwrap()
}

/// Runs a closure in a new thread, which inherits the namespaces of this one and can change them.
fn in_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| scope.spawn(work).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn start_process() -> Child {
    let mut sleep = Command::new("sleep");
    sleep.arg("600").env_clear().env("PATH", sandbox::PATH);
    sleep.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

fn spec() -> Value {
    json!({
        "ociVersion": "1.0.2",
        "process": { "user": { "uid": 1000, "gid": 1000 }, "args": ["true"], "cwd": "/" },
        "root": { "path": "rootfs" },
        "linux": { "namespaces": [{ "type": "mount" }] },
    })
}
