//! Where NRI fails open, and where it does not: what `packaging/docs/kubernetes.md` lists.
//!
//! The two validators, which close the gaps, need containerd 2.2: no suite of Debian has it yet, and older ones show the gaps.
//! `tests/nri_protocol` shows the plugin's part of it.

use std::panic::resume_unwind;
use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};

use oci_secrets::nri::api::{ConfigureRequest, Container, ContainerAdjustment, Event, PodSandbox};
use oci_secrets::nri::calls::Plugin;
use oci_secrets::nri::connection::{Name, serve};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::net::UnixStream;

use crate::containerd::{REQUEST_TIMEOUT, validates};
use crate::world::{LIST, NONE, PATIENCE, World, wait_until_registered};

/// The annotation by which a pod requires the plugin; older runtimes ignore it.
const REQUIRED: &str = "required-plugins.noderesource.dev";

fn requests(world: &World, title: &str) -> Value {
    json!({ "run.secrets/db": world.store(title, "canary-gap"), REQUIRED: "[\"oci-secrets\"]" })
}

/// Shows that a container that requests secrets starts without them, or where the runtime validates, that it does not start.
fn starts_without(world: &World, name: &str, requests: &Value) {
    let pod = world.run(name, requests, &[("app", NONE)]);
    if !validates() {
        assert_eq!(pod.printed("app"), ["0"], "{name}");
        return;
    }
    let error = pod.error("app");
    let is_refused =
        error.contains("required plugin \"oci-secrets\" not present") || error.contains("validator plugin");
    assert!(is_refused, "{name}: {error}");
}

pub(crate) fn started_without(world: &mut World) {
    // Without the annotation, no validator refuses it.
    let requests = json!({ "run.secrets/db": world.store("without-db", "canary-gap") });
    let stays = json!({ "annotations": requests, "stays": true });
    world.run_with("without", &[("app", "sleep 600"), ("other", "sleep 600")], stays);
    world.run_with("without-any", &[("app", "sleep 600")], json!({ "stays": true }));
    let broker = world.broker();
    assert_eq!(wait_until_registered(&broker, 1).started_without, 2);
    let lines = world.journal.lines("run without the hook");
    assert!(lines.iter().any(|line| line.message.contains("agents/without/app") && line.priority == "4"), "{lines:?}");
    let pod = world.run("without-not", &requests, &[("app", LIST)]);
    assert_eq!(pod.printed("app"), ["db=canary-gap", "1", "0"]);
}

pub(crate) fn stopped(world: &mut World) {
    let broker = world.broker();
    let requests = requests(world, "stopped-db");
    broker.signal(Signal::STOP);
    starts_without(world, "stopped", &requests);
    broker.signal(Signal::CONT);
    // It notices that it was given up, and comes back.
    wait_until_registered(&broker, 2);
    let pod = world.run("stopped-after", &requests, &[("app", LIST)]);
    assert_eq!(pod.printed("app"), ["db=canary-gap", "1", "0"]);
    assert!(broker.terminate().success());
    starts_without(world, "stopped-gone", &requests);
}

pub(crate) fn ends_during_event(world: &mut World) {
    let requests = requests(world, "ends-db");
    for (name, failure) in [("ends", Failure::End), ("late", Failure::Late)] {
        let plugin = Fake::register(world, failure);
        starts_without(world, name, &requests);
        assert_eq!(plugin.join().is_ok(), matches!(failure, Failure::Late));
    }
    let log = world.containerd.log();
    assert!(log.contains("closing plugin 20-oci-secrets, failed to handle CreateContainer request"), "{log}");
}

/// How a plugin fails while the runtime waits for its answer.
#[derive(Clone, Copy)]
enum Failure {
    /// Its process ends.
    End,
    /// It takes longer than the runtime waits.
    Late,
}

/// A plugin that fails.
struct Fake {
    failure: Failure,
    synchronized: Sender<()>,
}

impl Fake {
    /// Registers it, and returns what waits for its end.
    fn register(world: &World, failure: Failure) -> JoinHandle<()> {
        let (socket, (synchronized, receiver)) = (world.containerd.nri_socket(), channel());
        let serve = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let stream = UnixStream::connect(socket).await.unwrap();
                let mut fake = Fake { failure, synchronized };
                serve(stream, Name { index: "20", name: "oci-secrets" }, PATIENCE, &mut fake).await.unwrap_err();
            });
        };
        let thread = thread::spawn(serve);
        receiver.recv_timeout(PATIENCE).unwrap();
        thread
    }
}

impl Plugin for Fake {
    fn configure(&mut self, _: ConfigureRequest) -> i32 {
        let validation = if validates() { Event::ValidateContainerAdjustment.bit() } else { 0 };
        Event::CreateContainer.bit() | validation
    }

    fn synchronize(&mut self, _: Vec<PodSandbox>, _: Vec<Container>) {
        self.synchronized.send(()).unwrap();
    }

    fn create_container(&mut self, _: PodSandbox, _: Container) -> Option<ContainerAdjustment> {
        match self.failure {
            // The socket is closed, as at the end of a process.
            Failure::End => resume_unwind(Box::new("the end")),
            Failure::Late => thread::sleep(2 * REQUEST_TIMEOUT),
        }
        None
    }

    fn validate(&mut self, _: &PodSandbox, _: &Container, _: Option<&ContainerAdjustment>) -> Result<(), String> {
        Ok(())
    }

    fn container_removed(&mut self, _: &str) {}

    fn pod_removed(&mut self, _: &str) {}
}
