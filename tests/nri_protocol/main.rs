//! The broker as an NRI plugin, towards a runtime that does what no runtime at hand does: newer versions, broken messages, restarts.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a test fails by panicking, its helpers too"
)]

mod runtime;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use oci_secrets::broker::client::Connection;
use oci_secrets::nri::Snapshot;
use oci_secrets::nri::api::{
    Container, ContainerAdjustment, ContainerRequest, CreateContainerResponse, Hook, Hooks, PodSandbox,
    StateChangeEvent, SynchronizeRequest, SynchronizeResponse, ValidateContainerAdjustmentRequest,
    ValidateContainerAdjustmentResponse,
};
use oci_secrets::nri::trunk::PLUGIN;
use oci_secrets::nri::ttrpc::{Code, MESSAGE_BYTES_MAX};
use runtime::{Plugin, Runtime, create};
use support::broker::Broker;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(60);

const HOOK: &str = "/opt/oci-secrets/oci-secrets-hook";

/// CreateContainer, RemoveContainer and RemovePodSandbox.
const EVENTS: i32 = 0x8 | 0x400 | 0x4;
const VALIDATE: i32 = 0x2000;

/// Where a runtime and brokers meet. `None` without root, which the broker needs.
struct Site {
    directory: TempDir,
}

impl Site {
    fn new() -> Option<Site> {
        if !rustix::process::geteuid().is_root() {
            support::skip("the broker requires root");
            return None;
        }
        Some(Site { directory: tempfile::Builder::new().prefix("nri").tempdir().unwrap() })
    }

    fn runtime(&self) -> Runtime {
        Runtime::listen(&self.path("nri.sock"))
    }

    fn broker(&self, name: &str) -> Broker {
        let settings = self.path(&format!("{name}.toml"));
        let text = format!("[nri]\nsocket = {:?}\nhook = {HOOK:?}\n", self.path("nri.sock"));
        support::with_mode(&settings, text.as_bytes(), 0o644);
        let (socket, hook_settings) = (self.path(&format!("{name}.sock")), self.path(&format!("{name}-hook.toml")));
        Broker::start_with(settings, &socket, &hook_settings)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

fn state(broker: &Broker) -> Snapshot {
    let connection = Connection::open(broker.socket(), PATIENCE).unwrap();
    connection.status().unwrap().nri.unwrap()
}

fn wait_until(broker: &Broker, reached: impl Fn(&Snapshot) -> bool) -> Snapshot {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let state = state(broker);
        if reached(&state) {
            return state;
        }
        assert!(Instant::now() < deadline, "{state:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn texts(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// A pod with two requests, one of them for the container `app`.
fn pod() -> PodSandbox {
    PodSandbox {
        id: "pod".into(),
        name: "billing".into(),
        namespace: "agents".into(),
        annotations: texts(&[("run.secrets/db", "op://a/b/c"), ("app.run.secrets/x", "op://a/b/d"), ("team", "red")]),
        ..PodSandbox::default()
    }
}

fn container(name: &str) -> Container {
    Container { id: name.into(), pod_sandbox_id: "pod".into(), name: name.into(), ..Container::default() }
}

fn request(pod: PodSandbox, container: Container) -> ContainerRequest {
    ContainerRequest { pod: Some(pod), container: Some(container) }
}

/// The hooks of a container, by path.
fn hooks(container: &Container) -> Vec<&str> {
    let hooks = container.hooks.iter().flat_map(|hooks| &hooks.create_runtime);
    hooks.map(|hook| hook.path.as_str()).collect()
}

fn is_served(plugin: &mut Plugin) {
    let created = create(std::slice::from_mut(plugin), &pod(), &container("app")).unwrap();
    assert_eq!(hooks(&created), [HOOK]);
}

#[test]
fn adds_the_hook_and_the_requests_of_a_pod_to_each_of_its_containers_and_to_no_other() {
    let Some(site) = Site::new() else { return };
    let (runtime, broker) = (site.runtime(), site.broker("broker"));
    let mut plugins = [runtime.admit()];
    assert_eq!(plugins[0].name, "10-oci-secrets");
    for name in ["app", "sidecar"] {
        let created = create(&mut plugins, &pod(), &container(name)).unwrap();
        assert_eq!(hooks(&created), [HOOK]);
        let keys: Vec<&str> = created.annotations.keys().map(String::as_str).collect();
        assert_eq!(keys, ["app.run.secrets/x", "run.secrets/db"]);
    }
    let other = PodSandbox { annotations: texts(&[("team", "red")]), ..pod() };
    let created = create(&mut plugins, &other, &container("app")).unwrap();
    assert!(hooks(&created).is_empty() && created.annotations.is_empty());
    let snapshot = state(&broker);
    assert_eq!((snapshot.adjusted, snapshot.refused, snapshot.registrations), (2, 0, 1));
    assert_eq!(snapshot.runtime.unwrap().name, "stand-in");
}

#[test]
fn two_instances_of_a_rolling_update_do_not_conflict() {
    let Some(site) = Site::new() else { return };
    let runtime = site.runtime();
    let (old, _new) = (site.broker("old"), site.broker("new"));
    let mut plugins = [runtime.admit(), runtime.admit()];
    let created = create(&mut plugins, &pod(), &container("app")).unwrap();
    assert_eq!((hooks(&created), created.annotations.len()), (vec![HOOK], 2));
    // The old one ends; the runtime notices it with the next event.
    assert!(old.terminate().success());
    let left = plugins.iter_mut().find_map(|plugin| {
        let created = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| is_served(plugin)));
        created.ok()
    });
    assert!(left.is_some());
}

#[test]
fn a_hook_that_the_base_spec_has_is_not_added_again() {
    let Some(site) = Site::new() else { return };
    let (runtime, _broker) = (site.runtime(), site.broker("broker"));
    let hook = Hook { path: "/usr/libexec/oci/hooks.d/oci-secrets-hook".into(), ..Hook::default() };
    let hooks_of_spec = Hooks { create_runtime: vec![hook.clone()], ..Hooks::default() };
    let with_hook = Container { hooks: Some(hooks_of_spec), ..container("app") };
    let created = create(&mut [runtime.admit()], &pod(), &with_hook).unwrap();
    assert_eq!((hooks(&created), created.annotations.len()), (vec![hook.path.as_str()], 2));
}

#[test]
fn registers_again_with_a_runtime_that_was_restarted() {
    let Some(site) = Site::new() else { return };
    let broker = site.broker("broker");
    let cause = wait_until(&broker, |state| state.cause.is_some()).cause.unwrap();
    assert!(cause.contains("nri.sock: No such file (ENOENT)"), "{cause}");
    for restarts in 1..4 {
        let runtime = site.runtime();
        let mut plugin = runtime.admit();
        is_served(&mut plugin);
        assert_eq!(wait_until(&broker, |state| state.runtime.is_some()).registrations, restarts);
        drop((plugin, runtime));
        wait_until(&broker, |state| state.runtime.is_none());
    }
}

#[test]
fn subscribes_to_validation_where_the_runtime_knows_it() {
    let Some(site) = Site::new() else { return };
    let (runtime, broker) = (site.runtime(), site.broker("broker"));
    // containerd 2.2 and CRI-O 1.34 to 1.36 know it, and do not report the version of their NRI.
    for (name, version, nri, events) in [
        ("containerd", "1.7.24~ds1", "", EVENTS),
        ("containerd", "2.1.9+ds1", "", EVENTS),
        ("containerd", "unknown", "", EVENTS),
        ("containerd", "v2.2.0", "", EVENTS | VALIDATE),
        ("containerd", "2.2.7+ds1", "", EVENTS | VALIDATE),
        ("containerd", "v2.3.4", "0.12.0", EVENTS | VALIDATE),
        ("cri-o", "1.33.5", "", EVENTS),
        ("cri-o", "1.34.0", "", EVENTS | VALIDATE),
        ("other", "v9.9.9", "", EVENTS),
        ("other", "v9.9.9", "unknown", EVENTS),
        ("other", "v1", "0.9.3", EVENTS),
        ("other", "v1", "0.10.0", EVENTS | VALIDATE),
        ("other", "v1", "v0.12.1", EVENTS | VALIDATE),
        ("containerd", "v9.0.0", "0.9.0", EVENTS),
        ("other", "v1", "1.0.0", EVENTS | VALIDATE),
    ] {
        let mut plugin = runtime.accept();
        assert_eq!(plugin.configure_as(name, version, nri), events, "{name} {version} {nri:?}");
        plugin.synchronize(&[], &[]);
        let validates = wait_until(&broker, |state| state.runtime.is_some()).runtime.unwrap().validates;
        assert_eq!(validates, events != EVENTS);
        drop(plugin);
        wait_until(&broker, |state| state.runtime.is_none());
    }
}

#[test]
fn refuses_a_container_without_the_hook() {
    let Some(site) = Site::new() else { return };
    let (runtime, broker) = (site.runtime(), site.broker("broker"));
    let mut plugin = runtime.accept();
    assert_eq!(plugin.configure("0.12.0"), EVENTS | VALIDATE);
    plugin.synchronize(&[], &[]);
    let created: CreateContainerResponse = plugin.call("CreateContainer", &request(pod(), container("app"))).unwrap();
    let complete = created.adjust.unwrap();
    let mut validate = |pod: PodSandbox, adjust: Option<ContainerAdjustment>| {
        let request = ValidateContainerAdjustmentRequest { pod: Some(pod), container: Some(container("app")), adjust };
        let answer: ValidateContainerAdjustmentResponse = plugin.call("ValidateContainerAdjustment", &request).unwrap();
        answer.reject.then_some(answer.reason)
    };
    assert_eq!(validate(pod(), Some(complete.clone())), None);
    let message = "the container requests secrets, and no plugin has added the hook of oci-secrets";
    assert_eq!(validate(pod(), None).unwrap(), message);
    assert_eq!(validate(pod(), Some(ContainerAdjustment { hooks: None, ..complete.clone() })).unwrap(), message);
    let message = "the container lacks the annotation \"app.run.secrets/x\" of its pod";
    assert_eq!(validate(pod(), Some(ContainerAdjustment { annotations: texts(&[]), ..complete })).unwrap(), message);
    assert_eq!(validate(PodSandbox::default(), None), None);
    assert_eq!(state(&broker).refused, 3);
}

#[test]
fn containers_that_run_without_the_hook_are_counted_whatever_the_parts_in_which_they_are_reported() {
    let Some(site) = Site::new() else { return };
    let (runtime, broker) = (site.runtime(), site.broker("broker"));
    let mut plugin = runtime.accept();
    plugin.configure("");
    let part = SynchronizeRequest { pods: vec![pod()], containers: vec![container("app")], more: true };
    assert!(plugin.call::<SynchronizeResponse>("Synchronize", &part).unwrap().more);
    assert_eq!(state(&broker).runtime, None, "the lists go on");
    plugin.synchronize(&[], &[container("sidecar")]);
    assert_eq!(wait_until(&broker, |state| state.runtime.is_some()).started_without, 2);
}

#[test]
fn a_call_that_cannot_be_used_is_an_error_and_the_next_one_is_served() {
    let Some(site) = Site::new() else { return };
    let (runtime, _broker) = (site.runtime(), site.broker("broker"));
    let mut plugin = runtime.admit();
    // With an answer, the runtime refuses the container. Without one, it would create it.
    let mut code = |method: &str, payload: &[u8]| {
        let status = plugin.call_with::<CreateContainerResponse>(method, payload.to_vec()).unwrap_err();
        is_served(&mut plugin);
        status.code
    };
    assert_eq!(code("CreateContainer", b"\xff\xff\xff"), Code::InvalidArgument as i32);
    assert_eq!(code("CreateContainer", b"\x0a\x05\x12\x03\xff\xfe\xfd"), Code::InvalidArgument as i32, "not UTF-8");
    assert_eq!(code("CreateContainer", b""), Code::InvalidArgument as i32, "no container");
    assert_eq!(code("NoSuchMethod", b""), Code::Unimplemented as i32);
    // A call that is larger than the protocol allows, in frames that are not.
    let stream = plugin.next_stream();
    let length = MESSAGE_BYTES_MAX + 1;
    let head = [&(length as u32).to_be_bytes()[..], &stream.to_be_bytes(), &[1, 0]].concat();
    plugin.send(PLUGIN, &head);
    for part in vec![0; length].chunks(1 << 20) {
        plugin.send(PLUGIN, part);
    }
    let status = plugin.answer::<CreateContainerResponse>(stream).unwrap_err();
    assert_eq!(status.code, Code::ResourceExhausted as i32);
    is_served(&mut plugin);
    // A frame of another connection is not for us.
    plugin.send(77, b"x");
    is_served(&mut plugin);
}

#[test]
fn a_frame_that_breaks_the_protocol_ends_the_connection_and_not_the_broker() {
    let Some(site) = Site::new() else { return };
    let (runtime, broker) = (site.runtime(), site.broker("broker"));
    let mut plugin = runtime.admit();
    plugin.send_bytes(&[0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff]);
    plugin.wait_until_closed();
    let mut plugin = runtime.admit();
    is_served(&mut plugin);
    assert_eq!(state(&broker).registrations, 2);
}

/// Older runtimes report a removal as a change of state.
#[test]
fn a_container_has_a_pod_until_one_of_both_is_removed() {
    let Some(site) = Site::new() else { return };
    let (runtime, broker) = (site.runtime(), site.broker("broker"));
    let mut plugin = runtime.admit();
    let has_pod = || Connection::open(broker.socket(), PATIENCE).unwrap().pod("app").unwrap().0.is_some();
    let change = |event| StateChangeEvent { event, pod: Some(pod()), container: Some(container("app")) };
    for method in ["RemoveContainer", "RemovePodSandbox"] {
        is_served(&mut plugin);
        assert!(has_pod(), "{method}");
        plugin.call::<CreateContainerResponse>(method, &request(pod(), container("app"))).unwrap();
        assert!(!has_pod(), "{method}");
    }
    for (event, is_removed) in [(1, false), (11, true), (3, true)] {
        is_served(&mut plugin);
        plugin.call::<CreateContainerResponse>("StateChange", &change(event)).unwrap();
        assert_eq!(has_pod(), !is_removed, "event {event}");
    }
}

#[test]
fn changes_without_a_method_of_their_own_and_a_shutdown_are_acknowledged() {
    let Some(site) = Site::new() else { return };
    let (runtime, _broker) = (site.runtime(), site.broker("broker"));
    let mut plugin = runtime.admit();
    for event in [3, 11, 1, 99, -1] {
        let change = StateChangeEvent { event, pod: Some(pod()), container: Some(container("app")) };
        assert_eq!(plugin.call::<CreateContainerResponse>("StateChange", &change), Ok(Default::default()));
    }
    for method in ["RemoveContainer", "RemovePodSandbox", "Shutdown"] {
        let change = request(pod(), container("app"));
        assert_eq!(plugin.call::<CreateContainerResponse>(method, &change), Ok(Default::default()));
    }
    is_served(&mut plugin);
}
