//! How long a runtime waits for the plugin, while the broker has nothing else to do and while it resolves many starts.
//!
//! A runtime gives a plugin two seconds. A plugin that is slow delays every container of the node before that.

use std::collections::BTreeMap;
use std::fs;
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use oci_secrets::nri::api::{
    Container, ContainerRequest, CreateContainerResponse, PodSandbox, ValidateContainerAdjustmentRequest,
    ValidateContainerAdjustmentResponse,
};

use crate::broker::timed_hook;
use crate::measure::{median, milliseconds, percentile};
use crate::nri_runtime::{Plugin, Runtime};
use crate::support::broker::{self, Broker};
use crate::support::container;
use crate::support::machine::Machine;
use crate::vault::{Identity, Vault};

/// The containers that are created, each with three events.
const CREATED: usize = 1000;
/// Starts at the same time.
const STARTS: usize = 200;
const SECRETS: usize = 8;
/// The pods of a full node, and their containers.
const PODS: usize = 250;
const CONTAINERS: usize = 500;

/// The longest answer to an event.
const ANSWER_MOST: Duration = Duration::from_millis(50);
/// The pause between two containers.
const PAUSE: Duration = Duration::from_millis(1);

/// Measures each event of a node that is full and idle, and then of one that starts containers.
pub(crate) fn events(machine: &Machine) {
    let vault = Vault::fill(machine, Identity::ServiceAccount, Duration::from_millis(10));
    let socket = vault.host.path("nri.sock");
    let runtime = Runtime::listen(&socket);
    let settings =
        fs::read_to_string(vault.host.settings()).unwrap().replace("deadline = \"2s\"", "deadline = \"60s\"");
    vault.host.write("settings.toml", format!("{settings}[nri]\nsocket = {socket:?}\n").as_bytes(), 0o644);
    let broker = Broker::start(&vault.host);
    broker::write_hook_settings(broker.hook_settings(), broker.socket(), "[deliver]\ndeadline = \"60s\"\n");
    let mut plugin = runtime.accept();
    plugin.configure("0.12.0");
    let begin = Instant::now();
    plugin.synchronize(&(0..PODS).map(pod).collect::<Vec<_>>(), &(0..CONTAINERS).map(created).collect::<Vec<_>>());
    println!("\nThe NRI plugin of the broker, on a node with {PODS} pods");
    report("Synchronize", &[begin.elapsed()]);
    report("3 events for each of 1000 containers", &answers(&mut plugin, || true));

    let containers: Vec<container::Container> = (0..STARTS).map(|_| crate::container()).collect();
    let requests: Vec<(String, String)> = vault.many().into_iter().take(SECRETS).collect();
    let start = |container: &container::Container| timed_hook(&broker, &container.state(requests.iter().cloned()));
    let times = thread::scope(|scope| {
        let starts: Vec<_> = containers.iter().map(|container| scope.spawn(|| start(container))).collect();
        answers(&mut plugin, || starts.iter().all(ScopedJoinHandle::is_finished))
    });
    report(&format!("while {STARTS} starts get {SECRETS} secrets each"), &times);
}

/// The durations of the answers for [`CREATED`] containers, and for more until something else is done.
fn answers(plugin: &mut Plugin, is_done: impl Fn() -> bool) -> Vec<Duration> {
    let mut times = Vec::new();
    let mut number = 0;
    while number < CREATED || !is_done() {
        let (pod, container) = (pod(number % PODS), created(number));
        let request = ContainerRequest { pod: Some(pod.clone()), container: Some(container.clone()) };
        let mut timed = |begin: Instant| times.push(begin.elapsed());
        let begin = Instant::now();
        let answer: CreateContainerResponse = plugin.call("CreateContainer", &request).unwrap();
        timed(begin);
        let adjust = answer.adjust;
        let validate = ValidateContainerAdjustmentRequest { pod: Some(pod), container: Some(container), adjust };
        let begin = Instant::now();
        let verdict: ValidateContainerAdjustmentResponse =
            plugin.call("ValidateContainerAdjustment", &validate).unwrap();
        timed(begin);
        assert!(!verdict.reject, "{}", verdict.reason);
        let begin = Instant::now();
        let _: CreateContainerResponse = plugin.call("RemoveContainer", &request).unwrap();
        timed(begin);
        number += 1;
        thread::sleep(PAUSE);
    }
    times
}

fn report(name: &str, times: &[Duration]) {
    let most = times.iter().max().unwrap();
    let [half, late, last] = [median(times.to_vec()), percentile(times, 99), *most].map(milliseconds);
    let verdict = if *most <= ANSWER_MOST { "" } else { "  missed" };
    println!(
        "  {name:46} {half:8.2} ms  p99 {late:6.2} ms  most {last:6.2} ms of {}  target <= {} ms{verdict}",
        times.len(),
        ANSWER_MOST.as_millis()
    );
}

/// A pod that requests secrets.
fn pod(number: usize) -> PodSandbox {
    let requests = (0..8).map(|file| (format!("run.secrets/{file}"), format!("op://AgentVault/item-{file}/field-0")));
    let more = (0..16).map(|other| (format!("example.com/{other}"), "x".repeat(64)));
    PodSandbox {
        id: format!("pod-{number}"),
        name: format!("billing-{number}"),
        namespace: "agents".to_owned(),
        uid: format!("{number:036}"),
        labels: BTreeMap::from([("app".to_owned(), "billing".to_owned())]),
        annotations: requests.chain(more).collect(),
    }
}

/// One of the two containers of a pod.
fn created(number: usize) -> Container {
    Container {
        id: format!("{number:064}"),
        pod_sandbox_id: format!("pod-{}", number % PODS),
        name: format!("app-{}", number / PODS),
        ..Container::default()
    }
}
