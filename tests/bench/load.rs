//! The broker at a steady rate, while it is restarted, and everything is replaced that an operator replaces.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::net::UnixListener;
use std::process::{Child, ExitCode};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::PATH;
use crate::broker::{STARTERS, Unmounter};
use crate::measure::{attempt, median, milliseconds, percentile, resident};
use crate::support::broker;
use crate::support::container::ID;
use crate::support::machine::Machine;
use crate::vault::{Identity, Vault};

/// Starts a second.
const RATE: u32 = 200;
/// The share of it that counts as kept: the last starts are waited for.
const RATE_SHARE_LEAST: f64 = 0.98;
/// The pause between what an operator does.
const PAUSE: Duration = Duration::from_secs(2);
/// The failures that are printed.
const FAILURES_SHOWN: usize = 10;

/// Starts containers at [`RATE`] for `minutes`, while an operator is busy. Whether each has succeeded and has one record decides about the
/// exit code; the rate does not.
pub(crate) fn steady_load(minutes: f64) -> ExitCode {
    let machine = Machine::enter().unwrap();
    let vault = Vault::fill(&machine, Identity::ServiceAccount, Duration::ZERO);
    let mut operator = Operator::begin(&vault);
    let load = Load {
        vault: &vault,
        total: (f64::from(RATE) * minutes * 60.0) as usize,
        next: AtomicUsize::new(0),
        begin: Instant::now(),
        failures: Mutex::default(),
    };
    let latencies: Vec<Duration> = thread::scope(|scope| {
        let starters: Vec<_> = (0..STARTERS).map(|_| scope.spawn(|| load.start_containers())).collect();
        while load.next.load(Ordering::Relaxed) < load.total {
            thread::sleep(PAUSE);
            operator.act();
        }
        starters.into_iter().flat_map(|starter| starter.join().unwrap()).collect()
    });
    let is_complete = load.report(minutes, &latencies);
    operator.end();
    if is_complete { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// All starts.
struct Load<'v> {
    vault: &'v Vault,
    total: usize,
    /// The number of the next one.
    next: AtomicUsize,
    begin: Instant,
    failures: Mutex<Vec<String>>,
}

impl Load<'_> {
    /// One thread's share: each start when it is due. Returns how long after that each was done.
    fn start_containers(&self) -> Vec<Duration> {
        let container = crate::container();
        let unmounter = Unmounter::of(&container);
        let state = String::from_utf8(container.state(self.vault.one())).unwrap();
        let mut latencies = Vec::new();
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= self.total {
                return latencies;
            }
            let due = self.begin + Duration::from_secs(1) * u32::try_from(number).unwrap() / RATE;
            thread::sleep(due.saturating_duration_since(Instant::now()));
            let mut hook = broker::hook(&self.vault.host.path("hook.toml"));
            match attempt(hook.env("PATH", PATH), state.replace(ID, &id(number)).as_bytes()) {
                Ok(_) => {
                    latencies.push(due.elapsed());
                    unmounter.unmount();
                }
                Err(message) => self.failures.lock().unwrap().push(message),
            }
        }
    }

    /// Prints the figures. Returns whether each start has succeeded and has one record.
    fn report(&self, minutes: f64, latencies: &[Duration]) -> bool {
        let took = self.begin.elapsed();
        let failures = self.failures.lock().unwrap();
        failures.iter().take(FAILURES_SHOWN).for_each(|message| print!("  {message}"));
        let (records, exact) = self.records();
        let rate = self.total as f64 / took.as_secs_f64();
        let verdict = |is_met: bool| if is_met { "" } else { "  missed" };
        let is_steady = verdict(rate > f64::from(RATE) * RATE_SHARE_LEAST);
        let is_complete = failures.is_empty() && exact == self.total && records == self.total;
        println!("Through the broker, {RATE} starts a second for {minutes} min");
        println!("  {:46} {rate:8.1} a second, target {RATE}{is_steady}", "starts");
        println!(
            "  {:46} {exact:8} of {}, {records} records, {} failed{}",
            "starts with one record",
            self.total,
            failures.len(),
            verdict(is_complete)
        );
        let [half, most] = [median(latencies.to_vec()), percentile(latencies, 99)].map(milliseconds);
        println!("  {:46} {half:8.2} ms  p99 {most:8.2} ms", "a start, from the time when it is due");
        is_complete
    }

    /// The number of records, and of starts that have exactly one, which says that they were delivered.
    fn records(&self) -> (usize, usize) {
        let text = fs::read_to_string(self.vault.host.path("audit")).unwrap();
        let records: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let mut decisions = BTreeMap::<&str, Vec<&Value>>::new();
        for record in &records {
            decisions.entry(record["container"].as_str().unwrap()).or_default().push(&record["decision"]);
        }
        let is_exact = |number: &usize| {
            decisions.get(&*id(*number)).is_some_and(|decisions| matches!(decisions[..], [one] if one == "delivered"))
        };
        (records.len(), (0..self.total).filter(is_exact).count())
    }
}

/// The id of the container of a start.
fn id(number: usize) -> String {
    format!("{number:016x}")
}

/// An operator who restarts the broker as systemd does, and replaces files without telling it.
struct Operator<'v> {
    vault: &'v Vault,
    socket: UnixListener,
    running: Option<Child>,
    /// The authority of the certificate of Connect.
    authority: String,
    done: [usize; 4],
    memory: f64,
}

impl Operator<'_> {
    fn begin(vault: &Vault) -> Operator<'_> {
        let host = &vault.host;
        let ca_file = vault.stand_in.ca_file().unwrap();
        let authority = fs::read_to_string(&ca_file).unwrap();
        host.write("ca.pem", authority.as_bytes(), 0o644);
        let settings = fs::read_to_string(host.settings()).unwrap();
        let settings = settings.replace(ca_file.to_str().unwrap(), host.path("ca.pem").to_str().unwrap());
        host.write("settings.toml", settings.as_bytes(), 0o644);
        let socket = UnixListener::bind(host.path("broker.sock")).unwrap();
        broker::write_hook_settings(&host.path("hook.toml"), &host.path("broker.sock"), "");
        let running = Some(broker::activated(host.settings(), &socket));
        Operator { vault, socket, running, authority, done: [0; 4], memory: 0.0 }
    }

    /// One of the acts, in turn.
    fn act(&mut self) {
        let running = self.running.as_ref().unwrap();
        self.memory = self.memory.max(resident(running.id()));
        let turn = self.done.iter().sum::<usize>() % self.done.len();
        match turn {
            0 => broker::signal(running, Signal::HUP),
            1 => self.replace_token(),
            2 => self.replace_certificate(),
            _ => self.restart(),
        }
        self.done[turn] += 1;
    }

    /// Until the next one listens, starts wait in the socket.
    fn restart(&mut self) {
        broker::end(self.running.take().unwrap());
        self.running = Some(broker::activated(self.vault.host.settings(), &self.socket));
    }

    fn replace_token(&self) {
        let stand_in = &self.vault.stand_in;
        let is_first = self.done[1].is_multiple_of(2);
        self.replace("token", if is_first { stand_in.limited_token() } else { stand_in.token() }, 0o600);
    }

    /// First the broker trusts both authorities, then Connect has a certificate of the new one, then the broker trusts that alone.
    fn replace_certificate(&mut self) {
        let stand_in = &self.vault.stand_in;
        let next = stand_in.request_kms("POST", "/stand-in/authority", &Value::Null);
        let next = next["authority"].as_str().unwrap().to_owned();
        self.replace("ca.pem", &[self.authority.as_str(), &next].concat(), 0o644);
        // A start that has read the file before must have its answer.
        thread::sleep(PAUSE);
        stand_in.request_kms("POST", "/stand-in/certificate", &Value::Null);
        self.replace("ca.pem", &next, 0o644);
        self.authority = next;
    }

    /// Puts a new file in the place of one of the host.
    fn replace(&self, name: &str, content: &str, mode: u32) {
        let (host, new) = (&self.vault.host, format!("{name}.new"));
        host.write(&new, content.as_bytes(), mode);
        fs::rename(host.path(&new), host.path(name)).unwrap();
    }

    fn end(self) {
        broker::end(self.running.unwrap());
        let [reloads, tokens, certificates, restarts] = self.done;
        println!(
            "  {restarts} restarts, {reloads} reloads, {tokens} replaced tokens, {certificates} replaced certificates"
        );
        println!("  {:46} {:8.1} MiB", "the most memory of a broker", self.memory);
    }
}
