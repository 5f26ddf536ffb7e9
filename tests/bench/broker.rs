//! Starts through the broker, next to starts without it; many at the same time; and the broker's memory.

use std::fs;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, setns, unshare};
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::Signal;
use serde_json::Value;

use crate::PATH;
use crate::measure::{attempt, median, milliseconds, resident, row, times};
use crate::support::broker::{self, Broker};
use crate::support::container::Container;
use crate::support::machine::Machine;
use crate::vault::{Identity, Vault};

/// The threads that start containers.
pub(crate) const STARTERS: usize = 8;
/// Starts for one item at the same time.
const SIMULTANEOUS: usize = 100;
/// The most memory of the broker, in MiB.
const MEMORY_MOST: f64 = 24.0;
const FIRST_MOST: f64 = 0.3;
const MANY_MOST: f64 = 1.3;
/// What a warm start may take beyond two answers.
const BEYOND_ANSWERS: Duration = Duration::from_millis(3);

/// Warm starts next to cold ones.
pub(crate) fn warm_starts(machine: &Machine) {
    for latency in [Duration::ZERO, Duration::from_millis(10)] {
        let vault = Vault::fill(machine, Identity::ServiceAccount, latency);
        let (one, many) = (vault.one(), vault.many());
        let broker = Broker::start(&vault.host);
        let through = |annotations: &[(String, String)]| {
            let container = crate::container();
            timed_hook(&broker, &container.state(annotations.iter().cloned()))
        };
        let rounds = if latency.is_zero() { 100 } else { 40 };
        let [cold, warm, all] =
            times(rounds, [&mut || crate::start(&vault.host, &one), &mut || through(&one), &mut || through(&many)])
                .map(median);
        println!("\nThrough the broker, servers that answer after {} ms", latency.as_millis());
        row("1 secret, without the broker", cold, None);
        let [first, many] = if latency.is_zero() {
            [Some((cold, FIRST_MOST)), None]
        } else {
            // Each secret is a call of the KMS: what that costs this machine counts only where there is nothing to wait for.
            [None, Some((warm, MANY_MOST))]
        };
        row("1 secret", warm, first);
        row("64 secrets in 8 items", all, many);
        if !latency.is_zero() {
            let [answers] = times(rounds, [&mut || vault.answers()]).map(median);
            let beyond = warm.saturating_sub(answers);
            let verdict = if beyond <= BEYOND_ANSWERS { "" } else { "  missed" };
            row("both answers, on open connections", answers, None);
            println!(
                "  {:46} {:8.2} ms          target <= {:.0} ms{verdict}",
                "1 secret, beyond both answers",
                milliseconds(beyond),
                milliseconds(BEYOND_ANSWERS)
            );
        }
    }
}

/// Many starts for one item while 1Password does not answer, and then does.
pub(crate) fn simultaneous_starts(machine: &Machine) {
    let vault = Vault::fill(machine, Identity::ServiceAccount, Duration::ZERO);
    let settings = fs::read_to_string(vault.host.settings()).unwrap();
    let socket = vault.host.path("metrics.sock");
    let settings = settings.replace("deadline = \"2s\"", "deadline = \"60s\"");
    vault.host.write("settings.toml", format!("{settings}[broker]\nmetrics = {socket:?}\n").as_bytes(), 0o644);
    let broker = Broker::start(&vault.host);
    broker::write_hook_settings(broker.hook_settings(), broker.socket(), "[deliver]\ndeadline = \"60s\"\n");
    let containers: Vec<Container> = (0..SIMULTANEOUS).map(|_| crate::container()).collect();
    let one = vault.one();
    vault.stand_in.signal(Signal::STOP);
    thread::scope(|scope| {
        for container in &containers {
            scope.spawn(|| timed_hook(&broker, &container.state(one.iter().cloned())));
        }
        let waiting = format!("oci_secrets_broker_source_coalesced_total {}\n", SIMULTANEOUS - 1);
        while !broker::metrics(&socket).contains(&waiting) {
            thread::sleep(Duration::from_millis(5));
        }
        vault.stand_in.signal(Signal::CONT);
    });
    let requests = vault.stand_in.requests();
    let is_item = |request: &&Value| {
        let path = request["path"].as_str().unwrap_or_default();
        request["method"] == "GET" && path.contains("/items/") && request["user_agent"].to_string().contains("(start ")
    };
    let fetches = requests.iter().filter(is_item).count();
    let verdict = if fetches == 1 { "" } else { "  missed" };
    println!("\n{SIMULTANEOUS} starts for one item at the same time");
    println!("  {:46} {fetches:8}     target 1{verdict}", "requests for the item");
}

/// The memory of one broker over this many starts.
pub(crate) fn memory(starts: usize) {
    let machine = Machine::enter().unwrap();
    let vault = Vault::fill(&machine, Identity::ServiceAccount, Duration::ZERO);
    let broker = Broker::start(&vault.host);
    let one = vault.one();
    let (next, samples) = (AtomicUsize::new(0), std::sync::Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..STARTERS {
            scope.spawn(|| {
                let container = crate::container();
                let unmounter = Unmounter::of(&container);
                let state = container.state(one.iter().cloned());
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= starts {
                        return;
                    }
                    timed_hook(&broker, &state);
                    unmounter.unmount();
                    if number.is_multiple_of(starts.div_ceil(40)) {
                        samples.lock().unwrap().push((number, resident(broker.pid())));
                    }
                }
            });
        }
    });
    let mut samples = samples.into_inner().unwrap();
    samples.sort_unstable_by_key(|(number, _)| *number);
    let half = samples.len() / 2;
    let most = |samples: &[(usize, f64)]| samples.iter().map(|(_, memory)| *memory).fold(0.0, f64::max);
    let (first, second) = (most(&samples[..half]), most(&samples[half..]));
    let verdict = if second <= MEMORY_MOST && second <= first * 1.02 { "" } else { "  missed" };
    println!("Memory of the broker over {starts} starts");
    println!("  {:46} {first:8.1} MiB", "the most in the first half");
    println!(
        "  {:46} {second:8.1} MiB          target <= {MEMORY_MOST} MiB, without growth{verdict}",
        "the most in the second half"
    );
}

pub(crate) fn timed_hook(broker: &Broker, state: &[u8]) -> Duration {
    let mut command = broker::hook(broker.hook_settings());
    command.env("PATH", PATH).stdout(Stdio::null());
    attempt(&mut command, state).unwrap_or_else(|message| panic!("{message}"))
}

/// A thread in the mount namespace of a container, which makes it ready for another start.
pub(crate) struct Unmounter {
    requests: mpsc::Sender<()>,
    done: mpsc::Receiver<()>,
}

impl Unmounter {
    pub(crate) fn of(container: &Container) -> Unmounter {
        let namespace = fs::File::open(format!("/proc/{}/ns/mnt", container.pid())).unwrap();
        let target = container.rootfs().join("run/secrets");
        let ((requests, received), (finished, done)) = (mpsc::channel(), mpsc::channel());
        thread::spawn(move || {
            unshare(CloneFlags::CLONE_FS).unwrap();
            setns(namespace, CloneFlags::CLONE_NEWNS).unwrap();
            while let Ok(()) = received.recv() {
                unmount(&target, UnmountFlags::DETACH).unwrap();
                finished.send(()).unwrap();
            }
        });
        Unmounter { requests, done }
    }

    pub(crate) fn unmount(&self) {
        self.requests.send(()).unwrap();
        self.done.recv().unwrap();
    }
}
