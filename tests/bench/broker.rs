//! Starts through the broker, next to starts without it; and the broker at a steady rate.

use std::fs;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns, unshare};
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::Signal;

use crate::PATH;
use crate::measure::{attempt, median, milliseconds, percentile, resident, row, times};
use crate::support::broker::{self, Broker};
use crate::support::container::Container;
use crate::support::host::Host;
use crate::support::machine::Machine;
use crate::vault::{Identity, Vault};

/// Starts a second, at a steady load.
const RATE: u32 = 200;
/// The threads that start them.
const STARTERS: u32 = 8;
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
            let container = Container::create();
            timed_hook(&broker, &container.state(annotations.iter().cloned()))
        };
        let rounds = if latency.is_zero() { 100 } else { 40 };
        let [cold, warm, all] =
            times(rounds, [&mut || crate::start(&vault.host, &one), &mut || through(&one), &mut || through(&many)])
                .map(median);
        println!("\nThrough the broker, servers that answer after {} ms", latency.as_millis());
        row("1 secret, without the broker", cold, None);
        row("1 secret", warm, Some((cold, FIRST_MOST)));
        row("64 secrets in 8 items", all, Some((warm, MANY_MOST)));
        if !latency.is_zero() {
            let most = 2 * latency + BEYOND_ANSWERS;
            let verdict = if warm <= most { "" } else { "  missed" };
            println!("  {:46} target <= {:.0} ms{verdict}", "1 secret, two answers and 3 ms", milliseconds(most));
        }
    }
}

/// Starts containers at [`RATE`] for `minutes`, while the broker is restarted, and its settings, certificate and token are replaced.
pub(crate) fn steady_load(minutes: f64) {
    let machine = Machine::enter().unwrap();
    let vault = Vault::fill(&machine, Identity::ServiceAccount, Duration::ZERO);
    let one = vault.one();
    let host = &vault.host;
    let socket = std::os::unix::net::UnixListener::bind(host.path("broker.sock")).unwrap();
    broker::write_hook_settings(&host.path("hook.toml"), &host.path("broker.sock"), "");
    let mut running = broker::activated(host.settings(), &socket);
    let total = (f64::from(RATE) * minutes * 60.0) as usize;
    let (next, failed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let begin = Instant::now();
    let (mut latencies, mut memory) = (Vec::new(), Vec::new());
    thread::scope(|scope| {
        let starters: Vec<_> = (0..STARTERS)
            .map(|_| {
                let (next, failed, one) = (Arc::clone(&next), Arc::clone(&failed), &one);
                scope.spawn(move || {
                    let (container, mut latencies) = (Container::create(), Vec::new());
                    let unmounter = Unmounter::of(&container);
                    let state = container.state(one.iter().cloned());
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= total {
                            return latencies;
                        }
                        let due = begin + Duration::from_secs_f64(number as f64 / f64::from(RATE));
                        thread::sleep(due.saturating_duration_since(Instant::now()));
                        let mut command = broker::hook(&host.path("hook.toml"));
                        match attempt(command.env("PATH", PATH), &state) {
                            Ok(_) => {
                                latencies.push(due.elapsed());
                                unmounter.unmount();
                            }
                            Err(message) => {
                                failed.fetch_add(1, Ordering::Relaxed);
                                println!("  {message}");
                            }
                        }
                    }
                })
            })
            .collect();
        let mut round = 0;
        while next.load(Ordering::Relaxed) < total {
            thread::sleep(Duration::from_secs(2));
            memory.push(resident(running.id()));
            round += 1;
            match round % 5 {
                0 => {
                    let old = std::mem::replace(&mut running, broker::activated(host.settings(), &socket));
                    broker::end(old);
                }
                2 => broker::signal(&running, Signal::HUP),
                3 => replace(host, "token"),
                _ => {}
            }
        }
        for starter in starters {
            latencies.extend(starter.join().unwrap());
        }
    });
    let took = begin.elapsed();
    broker::end(running);
    let records = fs::read_to_string(host.path("audit")).unwrap().lines().count();
    let failed = failed.load(Ordering::Relaxed);
    println!(
        "Through the broker, {RATE} starts a second for {minutes} min, with restarts, reloads and replaced tokens"
    );
    let rate = total as f64 / took.as_secs_f64();
    println!("  {:46} {rate:8.1} starts a second, {failed} failed, {records} records of {total}", "all starts");
    let shown = [median(latencies.clone()), percentile(&latencies, 99)].map(milliseconds);
    println!("  {:46} {:8.2} ms  p99 {:8.2} ms", "a start, from the time when it is due", shown[0], shown[1]);
    println!("  {:46} {:8.1} MiB", "the most memory of a broker", memory.iter().copied().fold(0.0, f64::max));
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
                let container = Container::create();
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

fn timed_hook(broker: &Broker, state: &[u8]) -> Duration {
    let mut command = broker::hook(broker.hook_settings());
    command.env("PATH", PATH).stdout(Stdio::null());
    attempt(&mut command, state).unwrap_or_else(|message| panic!("{message}"))
}

/// Puts a new file of the same content in the place of one of a host.
fn replace(host: &Host, name: &str) {
    let content = fs::read(host.path(name)).unwrap();
    host.write(&format!("{name}.new"), &content, 0o600);
    fs::rename(host.path(&format!("{name}.new")), host.path(name)).unwrap();
}

/// A thread in the mount namespace of a container, which makes it ready for another start.
struct Unmounter {
    requests: mpsc::Sender<()>,
    done: mpsc::Receiver<()>,
}

impl Unmounter {
    fn of(container: &Container) -> Unmounter {
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

    fn unmount(&self) {
        self.requests.send(()).unwrap();
        self.done.recv().unwrap();
    }
}
