//! A host in namespaces of its own, and the checks of each start.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use crate::support::container::Container;
use crate::support::host::{Host, LOCAL_KEK};
use crate::support::inject::{self, Fault, faults_of_message};
use crate::support::machine::Machine;
use crate::support::search::{Needle, pids};
use crate::support::{self, AGENT_VAULT, StandIn};

const FILES: [&str; 2] = ["db", "key"];

pub(crate) struct World {
    pub(crate) host: Host,
    canary: String,
    needle: Needle,
    /// How many starts failed.
    refused: Cell<usize>,
    _stand_in: StandIn,
    _machine: Machine,
}

impl World {
    /// A host whose vault holds two sealed secrets; `None` without root.
    pub(crate) fn begin() -> Option<World> {
        let machine = Machine::enter()?;
        let stand_in = StandIn::start(&[]);
        let host = Host::new(&stand_in, "");
        let canary = format!("canary-{:016x}", fastrand::u64(..));
        let sealed = FILES.map(|field| {
            let reference = format!("op://AgentVault/faulty/{field}");
            let sealed = host.oci_secrets(&["seal", "--kek", LOCAL_KEK, "--for", &reference], canary.as_bytes());
            assert!(sealed.status.success(), "{sealed:?}");
            String::from_utf8(sealed.stdout).unwrap().trim().to_owned()
        });
        let fields = [("", FILES[0], sealed[0].as_str()), ("", FILES[1], sealed[1].as_str())];
        stand_in.create_item(AGENT_VAULT, "faulty", &fields);
        let (needle, refused) = (Needle::new(&canary), Cell::new(0));
        Some(World { needle, refused, canary, host, _stand_in: stand_in, _machine: machine })
    }

    /// The state of a container that requests both secrets.
    pub(crate) fn state(container: &Container) -> Vec<u8> {
        container.state(FILES.map(|file| (format!("run.secrets/{file}"), format!("op://AgentVault/faulty/{file}"))))
    }

    /// How many starts were recorded as delivered.
    fn delivered(&self) -> usize {
        let text = fs::read_to_string(self.host.path("audit")).unwrap_or_default();
        let records = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap_or_default());
        records.filter(|record| record["decision"] == "delivered").count()
    }

    /// Starts a container with this hook, and returns whether it may start.
    ///
    /// # Panics
    /// If it has some of its secrets, or some are elsewhere.
    pub(crate) fn start(&self, hook: &mut Command) -> Output {
        let (container, mounts, recorded) = (Container::create(), mounts(), self.delivered());
        let output = inject::run(hook, &World::state(&container));
        let said = format!("{:?} {}", output.status, String::from_utf8_lossy(&output.stderr));
        if output.status.success() {
            for file in FILES {
                assert!(container.secret(file) == self.canary.as_bytes(), "not the secret: {file}: {said}");
            }
            assert_eq!(self.delivered(), recorded + 1, "delivered without a record: {said}");
            assert!(output.stderr.is_empty(), "{said}");
        } else {
            self.refused.set(self.refused.get() + 1);
            let is_killed = output.status.code().is_none();
            assert!(is_killed || !container.has_secrets(), "secrets in a container that does not start: {said}");
        }
        assert_eq!(mounts, self::mounts(), "a mount on the host: {said}");
        assert!(!self.needle.is_in(&output.stderr) && output.stdout.is_empty(), "printed: {said}");
        let mut leaks = Vec::new();
        for root in [self.host.path("."), PathBuf::from("/run"), container.rootfs()] {
            self.search(&root, &mut leaks);
        }
        assert_eq!(leaks, Vec::<PathBuf>::new(), "{said}");
        output
    }

    fn search(&self, directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            // The broker replaces its files meanwhile.
            let (path, Ok(kind)) = (entry.path(), entry.file_type()) else { continue };
            if kind.is_dir() {
                self.search(&path, found);
            } else if kind.is_file() && self.needle.is_in(fs::read(&path).unwrap_or_default()) {
                found.push(path);
            }
        }
    }

    /// Asserts that strace made calls fail: without a fault, no start does.
    pub(crate) fn has_refused_starts(&self) {
        assert!(self.refused.get() > 20, "{} starts failed", self.refused.get());
    }

    /// The names of the host's files.
    pub(crate) fn files(&self) -> BTreeSet<PathBuf> {
        let directories = [self.host.path("."), self.host.keks()];
        directories.iter().flat_map(|path| fs::read_dir(path).unwrap()).map(|entry| entry.unwrap().path()).collect()
    }

    /// The processes that this program has left behind.
    pub(crate) fn processes(&self, program: &str) -> Vec<u32> {
        let (program, settings) = (support::program(program), self.host.settings());
        pids(&[program.to_str().unwrap(), settings.to_str().unwrap()])
    }
}

/// Runs one test for each fault, and fails with all that went wrong.
pub(crate) fn for_each(faults: Vec<Fault>, test: impl Fn(&Fault) -> Option<String>) {
    let count = faults.len();
    let wrong: Vec<String> =
        faults.into_iter().filter_map(|fault| test(&fault).map(|wrong| format!("{fault:?}: {wrong}"))).collect();
    assert!(wrong.is_empty(), "{} of {count} faults:\n{}", wrong.len(), wrong.join("\n"));
    eprintln!("{count} faults");
}

/// What is wrong with a hook's start.
pub(crate) fn wrong_start(world: &World, hook: &mut Command, is_of_memory: bool) -> Option<String> {
    let started = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.start(hook)));
    match started {
        Err(panic) => Some(panic.downcast_ref::<String>().cloned().unwrap_or_default()),
        Ok(output) if output.status.success() => None,
        Ok(output) => faults_of_message("oci-secrets-hook", &output, is_of_memory),
    }
}

/// The mounts of this thread's namespace.
fn mounts() -> String {
    fs::read_to_string("/proc/thread-self/mountinfo").unwrap()
}
