//! Where NRI fails open, and where it does not: what `packaging/docs/kubernetes.md` lists. The validator, which closes the gaps, needs a
//! newer containerd than these tests have; `tests/nri_protocol` shows the plugin's part of it.

use std::panic::resume_unwind;
use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};

use oci_secrets::nri::api::{ConfigureRequest, Container, ContainerAdjustment, Event, PodSandbox};
use oci_secrets::nri::calls::Plugin;
use oci_secrets::nri::connection::{Name, serve};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::net::UnixStream;

use crate::containerd::{REQUEST_TIMEOUT, version};
use crate::world::{LIST, NONE, PATIENCE, World, wait_until_registered};

/// The first containerd whose plugins can validate.
const VALIDATES_SINCE: (u32, u32) = (2, 2);

fn requests(world: &World, title: &str) -> Value {
    json!({ "run.secrets/db": world.store(title, "canary-gap") })
}

/// Shows that a container that requests secrets starts without them. A newer containerd would refuse it.
fn starts_without(world: &World, name: &str, requests: &Value) {
    if version().unwrap() >= VALIDATES_SINCE {
        return println!("nri: {name}: not shown on a containerd that lets plugins validate");
    }
    assert_eq!(world.run(name, requests, &[("app", NONE)]).printed("app").last(), Some(&"0"), "{name}");
}

pub(crate) fn started_without(world: &mut World) {
    let requests = requests(world, "without-db");
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
    assert!(log.contains("closing plugin 20-fake, failed to handle CreateContainer request"), "{log}");
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
                serve(stream, Name { index: "20", name: "fake" }, PATIENCE, &mut fake).await.unwrap_err();
            });
        };
        let thread = thread::spawn(serve);
        receiver.recv_timeout(PATIENCE).unwrap();
        thread
    }
}

impl Plugin for Fake {
    fn configure(&mut self, _: ConfigureRequest) -> i32 {
        Event::CreateContainer.bit()
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
