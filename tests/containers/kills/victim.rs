//! Which process of a start is killed, and when.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};

use crate::engine::Engine;
use crate::support::sandbox;

/// The engines of these starts.
pub(super) const ENGINES: [Engine; 4] = [Engine::Runc, Engine::Crun, Engine::PodmanRunc, Engine::PodmanCrun];

/// One process of a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Victim {
    Hook,
    Broker,
    Runtime,
    Podman,
    Conmon,
}

/// What is drawn for a start.
#[derive(Clone, Copy, Debug)]
pub(super) struct Draw {
    #[expect(dead_code, reason = "failures print it")]
    pub(super) seed: u64,
    pub(super) engine: Engine,
    pub(super) victim: Victim,
    /// The part of the usual life of the process after which it is killed. It is more than 1 for the moments after that, too.
    pub(super) moment: f64,
}

impl Draw {
    /// Hook, broker, runtime and engine are drawn equally often. Podman takes many times as long as a runtime alone, so it is drawn less often.
    pub(super) fn new(seed: u64, engines: &[Engine]) -> Draw {
        let mut random = fastrand::Rng::with_seed(seed);
        let kinds = [Some(Victim::Hook), Some(Victim::Broker), Some(Victim::Runtime), None];
        let (podman, runtimes): (Vec<Engine>, Vec<Engine>) = engines.iter().partition(|engine| engine.is_podman());
        let victim = random.choice(kinds).filter(|victim| victim.is_some() || !podman.is_empty()).flatten();
        let is_podman = !podman.is_empty() && (victim.is_none() || random.u8(..4) == 0);
        let engine = random.choice(if is_podman { podman } else { runtimes }).unwrap();
        let victim = match victim {
            Some(victim) => victim,
            None if is_podman => random.choice([Victim::Podman, Victim::Conmon]).unwrap(),
            None => Victim::Runtime,
        };
        Draw { seed, engine, victim, moment: random.f64() * 1.1 }
    }
}

/// A process that was found.
pub(super) struct Found(OwnedFd);

impl Found {
    /// Waits for its end, for at most this time. Returns whether it has ended.
    pub(super) fn ends_within(&self, time: Duration) -> bool {
        let deadline = Instant::now() + time;
        loop {
            let rest = Timespec::try_from(deadline.saturating_duration_since(Instant::now())).unwrap();
            if let Ok(ready) = poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&rest)) {
                return ready > 0;
            }
        }
    }

    pub(super) fn kill(&self) {
        let _ = pidfd_send_signal(&self.0, Signal::KILL);
    }
}

/// Waits until the victim in the start of a container exists, which this command makes. For the broker, which always exists, it is the hook.
/// `None` if the command ends before.
pub(super) fn wait_for(draw: Draw, name: &str, command: &mut Child) -> Option<Found> {
    loop {
        let has_ended = command.try_wait().unwrap().is_some();
        let found = find(draw, name, command.id());
        if found.is_some() || has_ended {
            return found;
        }
        thread::sleep(Duration::from_micros(500));
    }
}

fn find(draw: Draw, name: &str, command: u32) -> Option<Found> {
    let processes: Vec<Process> = processes().collect();
    let is_conmon = |process: &&Process| process.program() == "conmon" && process.has(name);
    let conmon = || processes.iter().rfind(is_conmon);
    let runtime = runtime(draw.engine);
    let found = match draw.victim {
        Victim::Hook | Victim::Broker => {
            processes.iter().find(|process| process.program() == "oci-secrets-hook" && process.has(name))
        }
        Victim::Conmon => conmon(),
        Victim::Podman => {
            processes.iter().find(|process| process.program() == "podman" && process.parent() == Some(command))
        }
        Victim::Runtime => {
            let parent = if draw.engine.is_podman() { conmon()?.pid } else { command };
            processes.iter().find(|process| process.program() == runtime && process.parent() == Some(parent))
        }
    }?;
    // First the descriptor, then the proof that it is of the same process.
    let descriptor = pidfd_open(Pid::from_raw(found.pid.cast_signed())?, PidfdFlags::empty()).ok()?;
    (Process::read(found.pid)?.words == found.words).then_some(Found(descriptor))
}

/// Ends what a killed podman, or a killed process of it, has left of a container with these names: `podman rm` knows nothing of what one makes
/// without the other, such as a container that never starts.
pub(super) fn end_orphans(engine: Engine, names: &[String]) {
    let name = &names[0];
    let conmon = || processes().find(|process| process.program() == "conmon" && process.has(name));
    while let Some(conmon) = conmon() {
        // It must not start another one meanwhile.
        conmon.signal(Signal::STOP);
        processes().filter(|process| process.parent() == Some(conmon.pid)).for_each(|child| child.signal(Signal::KILL));
        conmon.signal(Signal::KILL);
    }
    for id in &names[1..] {
        // The state of the runtime is where podman keeps it: at the runtime's default.
        let mut delete = Command::new(sandbox::find(runtime(engine)).unwrap());
        let _ = delete.env_clear().env("PATH", sandbox::PATH).args(["delete", "--force", id]).output();
        // crun 1.8 removes a state that was half written without ending what it is of.
        processes().filter(|process| process.has(id)).for_each(|init| init.signal(Signal::KILL));
    }
}

fn runtime(engine: Engine) -> &'static str {
    engine.name().rsplit('/').next().unwrap()
}

/// Whether something still works on the start of a container with one of these names, other than conmon and what is in the container.
pub(super) fn is_anything_acting(names: &[String]) -> bool {
    let is_acting = |process: Process| process.program() != "conmon" && names.iter().any(|name| process.has(name));
    processes().filter(|process| !process.is_in_container()).any(is_acting)
}

/// A process, and the words of its command line.
struct Process {
    pid: u32,
    words: Vec<String>,
}

impl Process {
    fn read(pid: u32) -> Option<Process> {
        let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let words = line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned());
        Some(Process { pid, words: words.collect() })
    }

    /// The name of the program, as its command line begins.
    fn program(&self) -> &str {
        let path = self.words.first().map_or("", String::as_str);
        Path::new(path).file_name().and_then(|name| name.to_str()).unwrap_or_default()
    }

    /// Whether the command line contains this text.
    fn has(&self, text: &str) -> bool {
        self.words.iter().any(|word| word.contains(text))
    }

    fn signal(&self, signal: Signal) {
        let _ = kill_process(Pid::from_raw(self.pid.cast_signed()).unwrap(), signal);
    }

    /// Whether it has a number in another namespace, too.
    fn is_in_container(&self) -> bool {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap_or_default();
        let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
        numbers.is_some_and(|numbers| numbers.split_whitespace().count() > 1)
    }

    fn parent(&self) -> Option<u32> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).ok()?;
        stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
    }
}

/// All processes.
fn processes() -> impl Iterator<Item = Process> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries.filter_map(|entry| Process::read(entry.file_name().to_str()?.parse().ok()?))
}
