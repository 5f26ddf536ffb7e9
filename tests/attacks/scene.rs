//! The environment of one attack: a mount namespace, and the checks of each round.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sched::{CloneFlags, unshare};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::Value;

use crate::support::broker::Broker;
use crate::support::host::{Host, LOCAL_KEK};
use crate::support::journal::Journal;
use crate::support::sandbox;
use crate::support::search::Needle;
use crate::support::{AGENT_VAULT, StandIn};
use crate::victim::Victim;

/// The minimum number of rounds of each attack, on a hook alone and on one that asks a broker. What a container can attack is the same code
/// in both, so that the second may have fewer.
const ROUNDS: usize = 1000;
const ROUNDS_THROUGH_BROKER: usize = 250;

/// The timeout for any hook.
const PATIENCE: Duration = Duration::from_secs(30);

/// The item whose two fields every victim requests.
pub(crate) const TITLE: &str = "attacked";

/// Shared by all attacks: the stand-in for 1Password, the settings, the system log, and the secret.
pub(crate) struct World {
    pub(crate) stand_in: StandIn,
    pub(crate) host: Host,
    pub(crate) journal: Journal,
    pub(crate) canary: String,
    broker: Broker,
}

/// The outcomes of the rounds of an attack; the others were refused.
#[derive(Clone, Copy, Default)]
pub(crate) struct Tally {
    pub(crate) rounds: usize,
    pub(crate) delivered: usize,
    pub(crate) killed: usize,
}

/// The mount namespace of one thread, and the outcomes of its rounds.
pub(crate) struct Scene {
    pub(crate) world: &'static World,
    pub(crate) tally: Tally,
    /// A directory of the host that must stay empty.
    pub(crate) decoy: PathBuf,
    /// Whether its hooks ask the broker.
    pub(crate) broker: bool,
    /// The last measured duration of an undisturbed hook.
    duration: Duration,
    began: i64,
}

/// A running hook. Dropping it kills it.
pub(crate) struct Hook {
    pub(crate) child: Child,
    stdout: ChildStdout,
    stderr: ChildStderr,
}

/// The outcome of a hook.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl World {
    pub(crate) fn shared() -> &'static World {
        static WORLD: LazyLock<World> = LazyLock::new(World::begin);
        &WORLD
    }

    fn begin() -> World {
        let journal = Journal::listen();
        let stand_in = StandIn::start(&[]);
        let host = Host::new(&stand_in, "");
        let canary = format!("canary-{}", std::iter::repeat_with(fastrand::alphanumeric).take(32).collect::<String>());
        let broker = Broker::start(&host);
        let world = World { stand_in, host, journal, canary, broker };
        let [db, key] = ["db", "key"].map(|field| world.seal(TITLE, field));
        world.stand_in.create_item(AGENT_VAULT, TITLE, &[("", "db", &db), ("", "key", &key)]);
        world
    }

    /// The canary, sealed for a field.
    pub(crate) fn seal(&self, title: &str, field: &str) -> String {
        let reference = format!("op://AgentVault/{title}/{field}");
        let sealed = self.host.oci_secrets(&["seal", "--kek", LOCAL_KEK, "--for", &reference], self.canary.as_bytes());
        assert!(sealed.status.success(), "{sealed:?}");
        String::from_utf8(sealed.stdout).unwrap().trim().to_owned()
    }
}

impl Scene {
    /// Moves this thread into a new mount namespace.
    pub(crate) fn set(world: &'static World, broker: bool) -> Scene {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let decoy = tempfile::Builder::new().prefix("decoy").tempdir_in(sandbox::DIRECTORY).unwrap().keep();
        let began = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs().cast_signed();
        Scene { world, tally: Tally::default(), decoy, broker, duration: Duration::ZERO, began }
    }

    /// One round: the hook for this container, undisturbed.
    pub(crate) fn round(&mut self, victim: &Victim) -> Ended {
        let ended = self.meanwhile(victim.state(), Hook::end);
        self.judge(victim, &ended);
        ended
    }

    /// Runs the hook with this state during an action, and checks the host.
    pub(crate) fn meanwhile(&self, state: Value, happens: impl FnOnce(Hook) -> Ended) -> Ended {
        self.on_host(|| happens(self.hook(&state)))
    }

    /// Runs a hook that must leave the host's mounts as they are.
    pub(crate) fn on_host(&self, hook: impl FnOnce() -> Ended) -> Ended {
        let before = mountinfo();
        let ended = hook();
        assert_eq!(before, mountinfo(), "a mount on the host: {ended:?}");
        ended
    }

    /// Starts the hook with this state.
    pub(crate) fn hook(&self, state: &Value) -> Hook {
        Hook::start(&mut self.command(), state.to_string().as_bytes())
    }

    /// The hook as a runtime starts it.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_oci-secrets-hook"));
        command.arg("--settings").arg(self.settings()).env_clear().env("PATH", sandbox::PATH);
        command
    }

    /// The settings of its hooks.
    pub(crate) fn settings(&self) -> PathBuf {
        if self.broker { self.world.broker.hook_settings().to_owned() } else { self.world.host.settings() }
    }

    /// The minimum number of rounds.
    pub(crate) fn rounds(&self) -> usize {
        if self.broker { ROUNDS_THROUGH_BROKER } else { ROUNDS }
    }

    /// A moment of a hook's run: 0 is its start, and 1 is shortly after its end.
    pub(crate) fn moment(&mut self, part: f64) -> Duration {
        // Measured again periodically, because the speed of the machine varies.
        if self.tally.rounds.is_multiple_of(50) {
            let durations = [(); 3].map(|()| {
                let victim = Victim::new(|_| ());
                let begin = Instant::now();
                let ended = self.hook(&victim.state()).end();
                assert!(ended.status.success(), "{ended:?}");
                begin.elapsed()
            });
            self.duration = durations.into_iter().min().unwrap();
        }
        self.duration.mul_f64(part * 1.3)
    }

    /// Counts a round, and checks its outcome: all files at the one target, or none.
    pub(crate) fn judge(&mut self, victim: &Victim, ended: &Ended) {
        let deliveries = victim.deliveries();
        if self.count(victim, ended) {
            assert_eq!(deliveries.len(), 1, "{deliveries:?}");
            assert!(deliveries[0].point.starts_with(victim.rootfs()), "{deliveries:?}");
            for file in ["db", "key"] {
                let content = victim.read(&format!("/run/secrets/{file}")).unwrap();
                assert!(content == self.world.canary.as_bytes(), "another {file}: {deliveries:?}");
            }
        } else {
            assert!(deliveries.is_empty(), "{deliveries:?}: {ended:?}");
        }
    }

    /// Counts a round and checks that nothing appeared on the host. Returns whether the hook succeeded.
    pub(crate) fn count(&mut self, victim: &Victim, ended: &Ended) -> bool {
        self.tally.rounds += 1;
        match ended.status.code() {
            Some(0) => self.tally.delivered += 1,
            Some(70) => panic!("{}", ended.stderr),
            Some(64 | 65 | 66 | 69 | 71 | 77 | 78) => assert!(ended.stderr.starts_with("oci-secrets-hook: error: ")),
            Some(_) => panic!("{ended:?}"),
            None => self.tally.killed += 1,
        }
        assert!(!ended.status.success() || ended.stderr.is_empty(), "{}", ended.stderr);
        assert_eq!(ended.stdout, "");
        assert_eq!(self.canaries_below(victim.bundle()), Vec::<PathBuf>::new());
        assert_eq!(fs::read_dir(&self.decoy).unwrap().count(), 0, "a file was created on the host");
        ended.status.success()
    }

    /// The files below a directory of the host that contain the secret.
    fn canaries_below(&self, directory: &Path) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => found.extend(self.canaries_below(&entry.path())),
                Ok(kind) if kind.is_file() => {
                    let content = fs::read(entry.path()).unwrap_or_default();
                    let is_canary = |window: &[u8]| window == self.world.canary.as_bytes();
                    found.extend(content.windows(self.world.canary.len()).any(is_canary).then(|| entry.path()));
                }
                _ => {}
            }
        }
        found
    }

    /// Ends the attack, and checks that the secret is nowhere on the host and in no log.
    pub(crate) fn close(self) -> Tally {
        assert!(self.tally.rounds >= self.rounds(), "only {} rounds", self.tally.rounds);
        let canary = Needle::new(&self.world.canary);
        assert_eq!(canary.files(self.began), Vec::<PathBuf>::new());
        assert_eq!(canary.processes(), Vec::<PathBuf>::new());
        let log = self.world.journal.lines(&self.world.canary);
        assert!(log.is_empty(), "{log:?}");
        self.tally
    }
}

impl Hook {
    /// Starts a hook and writes its state.
    pub(crate) fn start(command: &mut Command, state: &[u8]) -> Hook {
        let mut hook = Hook::spawn(command.stdin(Stdio::piped()));
        // The hook may exit before it reads its input.
        let _ = hook.child.stdin.take().unwrap().write_all(state);
        hook
    }

    /// Starts a hook that has its standard input already.
    pub(crate) fn spawn(command: &mut Command) -> Hook {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        Hook { child, stdout, stderr }
    }

    /// Waits until it exits and its output is closed.
    pub(crate) fn end(mut self) -> Ended {
        let deadline = Instant::now() + PATIENCE;
        let stdout = read(&mut self.stdout, deadline);
        let stderr = read(&mut self.stderr, deadline);
        let status = self.child.wait().unwrap();
        Ended { status, stdout, stderr }
    }
}

impl Drop for Hook {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Ended {
    pub(crate) fn was_killed(&self) -> bool {
        self.status.signal().is_some()
    }
}

/// Reads to the end.
fn read(pipe: &mut (impl Read + AsFd), deadline: Instant) -> String {
    let mut content = Vec::new();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let ready = poll(&mut [PollFd::new(pipe, PollFlags::IN)], Some(&Timespec::try_from(left).unwrap())).unwrap();
        assert!(ready > 0, "the hook did not end by itself");
        let mut buffer = [0; 4096];
        match pipe.read(&mut buffer) {
            Ok(0) => return String::from_utf8(content).unwrap(),
            Ok(length) => content.extend_from_slice(&buffer[..length]),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Interrupted),
        }
    }
}

/// The mounts of this thread's namespace.
fn mountinfo() -> String {
    fs::read_to_string("/proc/thread-self/mountinfo").unwrap()
}
