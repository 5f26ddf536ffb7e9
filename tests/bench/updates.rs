//! Running containers that follow changes: what they cost without one, and how long one takes.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::json;

use crate::broker::{STARTERS, timed_hook};
use crate::support::broker::Broker;
use crate::support::container::Container;
use crate::support::host::{Host, LOCAL_KEK};
use crate::support::{AGENT_VAULT, StandIn, program};

/// The containers, and the items that they share.
const CONTAINERS: usize = 1000;
const ITEMS: usize = 10;

/// The default of `period` under `[updates]`.
const PERIOD: Duration = Duration::from_secs(60);
/// How many periods are measured.
const PERIODS: u32 = 2;

const REQUESTS_MOST: f64 = 2.0;
/// The most of one core, in percent.
const PROCESSOR_MOST: f64 = 1.0;
const ALL_MOST: Duration = Duration::from_secs(5);

/// The clock ticks of `/proc/<pid>/stat` in a second.
const TICKS: f64 = 100.0;

/// Starts the containers, waits, changes all items, and waits until all containers have them.
pub(crate) fn run() {
    // Each container takes two pipes here, and two descriptors of the broker.
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
    let stand_in = StandIn::start(&[]);
    let host = Host::new(&stand_in, "");
    // Where the states of containers are by default: in memory.
    let states = tempfile::Builder::new().prefix("bench").tempdir_in("/run").unwrap();
    let settings = fs::read_to_string(host.settings()).unwrap();
    let in_memory = settings.replace(host.path("containers").to_str().unwrap(), states.path().to_str().unwrap());
    host.write("settings.toml", in_memory.as_bytes(), 0o644);
    let items: Vec<String> = (0..ITEMS).map(|item| store(&stand_in, &host, item)).collect();
    let broker = Broker::start(&host);
    let containers: Vec<Container> = (0..CONTAINERS).map(|_| crate::container()).collect();
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..STARTERS {
            scope.spawn(|| {
                while let Some(container) = containers.get(next.fetch_add(1, Ordering::Relaxed)) {
                    timed_hook(&broker, &container.state(annotations()));
                }
            });
        }
    });
    println!("{CONTAINERS} running containers that share {ITEMS} items");

    let (requests, processor, begin) = (stand_in.requests().len(), seconds(broker.pid()), Instant::now());
    thread::sleep(PERIOD * PERIODS);
    let sent = (stand_in.requests().len() - requests) as f64 / f64::from(PERIODS);
    let used = 100.0 * (seconds(broker.pid()) - processor) / begin.elapsed().as_secs_f64();
    let verdict = |is_met: bool| if is_met { "" } else { "  missed" };
    println!(
        "  {:46} {sent:8.1}     target <= {REQUESTS_MOST}{}",
        "requests in a period",
        verdict(sent <= REQUESTS_MOST)
    );
    println!(
        "  {:46} {used:8.2} %   target < {PROCESSOR_MOST} %{}",
        "of one core, without changes",
        verdict(used < PROCESSOR_MOST)
    );

    let requests = stand_in.requests().len();
    for (number, item) in items.iter().enumerate() {
        let value = json!([{ "op": "replace", "path": "/fields/0/value", "value": sealed(&host, number, "new") }]);
        stand_in.request("PATCH", &format!("/v1/vaults/{AGENT_VAULT}/items/{item}"), &value);
    }
    let (processor, begin) = (seconds(broker.pid()), Instant::now());
    let mut refresh = Command::new(program("oci-secrets"));
    let output = refresh.arg("--settings").arg(broker.hook_settings()).arg("refresh").output().unwrap();
    let (took, processor) = (begin.elapsed(), seconds(broker.pid()) - processor);
    assert!(output.status.success(), "{output:?}");
    assert!(containers.iter().all(|container| container.secret("file-0") == b"new"), "not all have changed");
    let sent = stand_in.requests().len() - requests - ITEMS;
    println!(
        "  {:46} {:8.2} s   target < {} s{}",
        "all get new files",
        took.as_secs_f64(),
        ALL_MOST.as_secs(),
        verdict(took < ALL_MOST)
    );
    println!("  {:46} {processor:8.2} s", "processor time of the broker for that");
    println!("  {:46} {sent:8}", "requests for that");
}

fn reference(item: usize) -> String {
    format!("op://AgentVault/shared-{item}/password")
}

fn annotations() -> Vec<(String, String)> {
    let files = (0..ITEMS).map(|item| (format!("run.secrets/file-{item}"), reference(item)));
    files.chain([("run.secrets.update".to_owned(), "live".to_owned())]).collect()
}

fn sealed(host: &Host, item: usize, secret: &str) -> String {
    let output = host.oci_secrets(&["seal", "--kek", LOCAL_KEK, "--for", &reference(item)], secret.as_bytes());
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn store(stand_in: &StandIn, host: &Host, item: usize) -> String {
    stand_in.create_item(AGENT_VAULT, &format!("shared-{item}"), &[("", "password", &sealed(host, item, "old"))])
}

/// The processor time of a process, in seconds.
fn seconds(pid: u32) -> f64 {
    let stat = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / TICKS
}
