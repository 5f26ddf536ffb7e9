//! Grants by the identity of pods: what the runtime reports through NRI, and the service account that the API server knows.

use std::time::Duration;

use oci_secrets::broker::client::Connection;
use oci_secrets::broker::protocol::Selection;
use oci_secrets::nri::api::PodSandbox;
use rustix::process::Signal;
use serde_json::Value;

use crate::cluster::Cluster;
use crate::nri_runtime::Plugin;
use crate::scene;
use crate::support::broker::Broker;
use crate::support::container::{Container, ID};
use crate::world::{REFERENCE, World, code_and_lines};

/// The deadline of an answer.
const PATIENCE: Duration = Duration::from_secs(60);

const TO_BILLING: &str = r#"to = { namespace = "agents", service-account = "billing", labels = { app = "billing" } }"#;

/// A host, and a cluster of which it is a node.
struct Scene {
    world: World,
    cluster: Cluster,
}

impl Scene {
    /// `None` without root.
    fn begin(to: &str) -> Option<Scene> {
        let world = World::begin()?;
        let cluster = Cluster::begin(&world.host, to);
        Some(Scene { world, cluster })
    }

    fn broker(&self, pod: &PodSandbox) -> (Broker, Plugin) {
        self.cluster.broker(&self.world.host, pod)
    }

    fn record(&self) -> Value {
        self.world.records().pop().unwrap()
    }
}

/// The code and the lines of a start. Its annotations claim everything that a grant could ask for.
fn start(broker: &Broker) -> (i32, Vec<String>) {
    let container = Container::create();
    let forged = [
        ("run.secrets/db", REFERENCE),
        ("io.kubernetes.cri.sandbox-namespace", "agents"),
        ("io.kubernetes.cri.sandbox-name", "billing-0"),
        ("service-account", "billing"),
        ("app", "billing"),
    ];
    let state = container.state(forged.map(|(key, value)| (key.to_owned(), value.to_owned())));
    let outcome = code_and_lines(&broker.hook(&state));
    assert_eq!(container.has_secrets(), outcome.0 == 0);
    outcome
}

#[test]
fn delivers_to_the_pod_of_a_grant_and_asks_once_for_each_pod() {
    let Some(scene) = Scene::begin(TO_BILLING) else { return };
    let pod = scene.cluster.pod("billing-0", "billing", &[("app", "billing")]);
    let (broker, _plugin) = scene.broker(&pod);
    for _ in 0..3 {
        assert_eq!(start(&broker), (0, vec![]));
    }
    assert_eq!(scene.cluster.requests_for_pods(), 1);
    let record = scene.record();
    assert_eq!(record["decision"], "delivered");
    assert_eq!(record["pod"]["namespace"], "agents");
    assert_eq!(record["pod"]["name"], "billing-0");
    assert_eq!(record["pod"]["uid"], pod.uid);
    assert_eq!(record["pod"]["service_account"], "billing");
    // What the annotations claim decided nothing.
    assert_eq!(record["annotations"], serde_json::json!({}));
}

#[test]
fn refuses_other_pods_whatever_their_annotations_claim() {
    let Some(scene) = Scene::begin(TO_BILLING) else { return };
    let labels: &[(&str, &str)] = &[("app", "billing")];
    let renamed = |pod: PodSandbox| PodSandbox { namespace: "web".into(), ..pod };
    let other_uid = |pod: PodSandbox| PodSandbox { uid: "7c1e".into(), ..pod };
    for (pod, expected, asked) in [
        (scene.cluster.pod("a", "default", labels), "expected service account \"billing\", found \"default\"", 1),
        (scene.cluster.pod("b", "billing", &[]), "expected label app = \"billing\", found none", 0),
        (renamed(scene.cluster.pod("c", "billing", labels)), "expected namespace \"agents\", found \"web\"", 0),
        (
            other_uid(scene.cluster.pod("d", "billing", labels)),
            "the identity of its pod is not known: cannot look up the service account of pod \"agents/d\": the API server has another pod of this name, with another uid",
            1,
        ),
    ] {
        let before = scene.cluster.requests_for_pods();
        let (broker, _plugin) = scene.broker(&pod);
        let (code, lines) = start(&broker);
        assert_eq!(code, 77, "{lines:?}");
        assert!(lines[0].ends_with(&format!("refusing to grant {REFERENCE}: {expected}")), "{lines:?}");
        assert_eq!(scene.cluster.requests_for_pods() - before, asked, "{expected}");
        assert_eq!(
            (&scene.record()["decision"], &scene.record()["pod"]["name"]),
            (&"refused".into(), &pod.name.into())
        );
    }
}

#[test]
fn a_container_that_the_runtime_has_not_reported_has_no_identity() {
    let Some(scene) = Scene::begin(TO_BILLING) else { return };
    let broker = Broker::start(&scene.world.host);
    let (code, lines) = start(&broker);
    assert_eq!(code, 69, "{lines:?}");
    assert!(lines[0].ends_with("no runtime has registered the broker's NRI plugin"), "{lines:?}");
    let _plugin = scene.cluster.synchronize(None);
    let (code, lines) = start(&broker);
    assert_eq!(code, 77, "{lines:?}");
    assert!(lines[0].ends_with("the runtime has reported no pod with this container"), "{lines:?}");
}

/// The outage of the API server is none of 1Password's: neither stored values nor an emergency take its place.
#[test]
fn an_api_server_that_refuses_or_does_not_answer_is_reported() {
    let Some(scene) = Scene::begin(TO_BILLING) else { return };
    let server = scene.cluster.api.kubernetes().to_owned();
    let closed = "https://127.0.0.1:1";
    for (name, address, token, code, expected) in [
        ("status-503", &*server, "", 69, format!("{server} answers with HTTP status 503")),
        ("billing-0", closed, "", 69, format!("cannot connect to {closed}: Connection refused (ECONNREFUSED)")),
        ("half-closed", &*server, "", 69, format!("lost the connection to {server}: ")),
        (
            "status-403",
            &*server,
            "",
            77,
            format!("{server} does not allow the token to get pods of namespace \"agents\""),
        ),
        ("status-404", &*server, "", 77, format!("{server} has no such pod (HTTP status 404)")),
        ("huge", &*server, "", 78, format!("the answer of {server} is too large")),
        ("not-json", &*server, "", 78, format!("the answer of {server} is not a pod")),
        ("redirect", &*server, "", 78, format!("{server} answers with HTTP status 302, which")),
        ("billing-1", &*server, "foreign", 77, format!("{server} does not accept the token (HTTP status 401)")),
    ] {
        scene.cluster.set(&scene.world.host, TO_BILLING, address);
        let token = if token.is_empty() { scene.cluster.api.kubernetes_token() } else { token };
        scene.world.host.write("kubernetes-token", token.as_bytes(), 0o600);
        let pod = scene.cluster.pod(name, "billing", &[("app", "billing")]);
        let (broker, _plugin) = scene.broker(&pod);
        let (found, lines) = start(&broker);
        assert_eq!(found, code, "{name}: {lines:?}");
        let prefix = format!("cannot look up the service account of pod \"agents/{name}\": {expected}");
        assert!(lines[0].contains(&prefix), "{name}: {lines:?}");
        assert_eq!(scene.world.connect_reads(), 0, "1Password was asked");
    }
}

#[test]
fn a_token_that_is_renewed_is_used() {
    let Some(scene) = Scene::begin(TO_BILLING) else { return };
    let pod = scene.cluster.pod("billing-0", "billing", &[("app", "billing")]);
    let (broker, _plugin) = scene.broker(&pod);
    scene.world.host.write("kubernetes-token", b"expired", 0o600);
    assert_eq!(start(&broker).0, 77);
    scene.world.host.write("kubernetes-token", scene.cluster.api.kubernetes_token().as_bytes(), 0o600);
    assert_eq!(start(&broker), (0, vec![]));
}

#[test]
fn explains_whose_pod_a_container_is() {
    let Some(scene) = Scene::begin(TO_BILLING) else { return };
    let pod = scene.cluster.pod("billing-0", "billing", &[("app", "billing")]);
    let (broker, _plugin) = scene.broker(&pod);
    let connection = Connection::open(broker.socket(), PATIENCE).unwrap();
    let (found, unknown) = connection.pod(ID).unwrap();
    let found = found.unwrap();
    assert_eq!((found.uid, found.service_account.as_deref(), unknown), (pod.uid, Some("billing"), None));
}

/// What is not known is neither a removed grant nor a given one. Revocation needs no identity.
#[test]
fn a_grant_that_depends_on_an_unknown_pod_is_not_listed_as_removed() {
    let Some(scene) = scene::Scene::begin() else { return };
    let host = &scene.world.host;
    let cluster = Cluster::begin(host, TO_BILLING);
    let pod = cluster.pod("billing-0", "billing", &[("app", "billing")]);
    let container = Container::create();
    let running = |broker: &Broker| {
        let connection = Connection::open(broker.socket(), PATIENCE).unwrap();
        connection.running(Selection::default(), false).unwrap().0.pop()
    };
    let ungranted = |broker: &Broker| {
        scene::wait_until("the containers of the broker before", || running(broker).is_some());
        running(broker).unwrap().ungranted
    };

    let (broker, plugin) = cluster.broker(host, &pod);
    scene.start(&broker, &container, &[]);
    assert_eq!(ungranted(&broker), None);
    drop((broker, plugin));

    // Its runtime has registered no plugin, or is still reporting what runs.
    let broker = Broker::start(host);
    assert_eq!(ungranted(&broker), None);
    let mut plugin = cluster.configure();
    assert_eq!(ungranted(&broker), None);
    scene.rotate(1);
    assert_eq!(scene.refresh(&broker).0, 71);
    assert_eq!(scene::pair(&container), [scene.secret(0), scene.secret(0)]);
    plugin.synchronize(&[], &[]);
    let listed = ungranted(&broker).unwrap();
    assert!(listed.ends_with("the runtime has reported no pod with this container"), "{listed}");
    drop((broker, plugin));

    // The API server was not asked since the restart; what the runtime has reported is enough to know that the grant is for other pods.
    let (broker, plugin) = cluster.broker(host, &pod);
    assert_eq!(ungranted(&broker), None);
    drop((broker, plugin));
    let other = PodSandbox { namespace: "web".into(), ..pod };
    let (broker, plugin) = cluster.broker(host, &other);
    let listed = ungranted(&broker).unwrap();
    assert!(listed.ends_with("expected namespace \"agents\", found \"web\""), "{listed}");
    drop((broker, plugin));

    let broker = Broker::start(host);
    let (code, text) = scene.command(&broker, &["revoke", "--container", &ID[..12], "--reason", "stolen"]);
    assert!(code == 0 && text.contains("2 files removed"), "{code}: {text}");
    assert!(scene::ITEMS.iter().all(|item| !scene::target(&container).join(item).exists()));
}

/// The kept answer of the API server is the old broker's; what the runtime has reported was, too.
#[test]
fn an_update_is_decided_by_the_identity_that_the_pod_has_then() {
    let Some(scene) = scene::Scene::begin() else { return };
    let host = &scene.world.host;
    let cluster = Cluster::begin(host, TO_BILLING);
    let server = cluster.api.kubernetes().to_owned();
    let pod = cluster.pod("billing-0", "billing", &[("app", "billing")]);
    let container = Container::create();
    let has = |number: u32| assert_eq!(scene::pair(&container), [scene.secret(number), scene.secret(number)]);
    let keeps = |broker: &Broker, expected: &str| {
        let (code, text) = scene.refresh(broker);
        assert!(code == 71 && text.contains("it keeps them") && text.contains(expected), "{code}: {text}");
        has(0);
        let record = scene.last_update();
        assert_eq!(record["decision"], "not-updated");
        assert!(record["refusal"]["message"].as_str().unwrap().contains(expected), "{record}");
    };

    let (broker, plugin) = cluster.broker(host, &pod);
    scene.start(&broker, &container, &[]);
    has(0);
    scene.rotate(1);
    drop((broker, plugin));

    // The next broker knows no pod before the runtime has reported all of them.
    let broker = Broker::start(host);
    keeps(&broker, "no runtime has registered the broker's NRI plugin");
    let plugin = cluster.synchronize(None);
    keeps(&broker, "the runtime has reported no pod with this container");
    drop((broker, plugin));

    // Without the API server, the identity is not known.
    cluster.set(host, TO_BILLING, "https://127.0.0.1:1");
    let (broker, _plugin) = cluster.broker(host, &pod);
    keeps(&broker, "cannot connect to https://127.0.0.1:1");
    // Nor are the settings those of the start.
    let reloads = |to: &str, expected: &str| {
        cluster.set(host, to, &server);
        broker.signal(Signal::HUP);
        scene::wait_until("the reload", || scene.refresh(&broker).1.contains(expected));
    };
    let other = TO_BILLING.replace(r#"service-account = "billing""#, r#"service-account = "other""#);
    reloads(&other, "expected service account \"other\", found \"billing\"");
    keeps(&broker, "expected service account \"other\", found \"billing\"");

    reloads(TO_BILLING, "generation 2");
    has(1);
    let record = scene.last_update();
    assert_eq!((&record["decision"], &record["pod"]["service_account"]), (&"updated".into(), &"billing".into()));
    // Once at the start, and once with each settings that have another answer to keep.
    assert_eq!(cluster.requests_for_pods(), 3);
}
