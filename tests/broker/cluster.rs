//! What is known of pods: a runtime's end of NRI, and an API server.

use std::collections::BTreeMap;
use std::fs;

use oci_secrets::nri::api::{Container, PodSandbox};
use tempfile::TempDir;

use crate::nri_runtime::{Plugin, Runtime};
use crate::support::StandIn;
use crate::support::broker::Broker;
use crate::support::container::ID;
use crate::support::host::Host;

/// A runtime and an API server, for the broker of a host.
pub(crate) struct Cluster {
    pub(crate) api: StandIn,
    files: TempDir,
    runtime: Runtime,
}

impl Cluster {
    /// Starts both, and names them in the settings of the host, with this `to` of its grant.
    pub(crate) fn begin(host: &Host, to: &str) -> Cluster {
        let files = tempfile::Builder::new().prefix("identity").tempdir().unwrap();
        let api = StandIn::start(&["--tls", "--dir", files.path().to_str().unwrap()]);
        host.write("kubernetes-token", api.kubernetes_token().as_bytes(), 0o600);
        let runtime = Runtime::listen(&files.path().join("nri.sock"));
        let cluster = Cluster { api, files, runtime };
        cluster.set(host, to, cluster.api.kubernetes());
        cluster
    }

    /// Writes the settings, with this grant and this address of the API server.
    pub(crate) fn set(&self, host: &Host, to: &str, api_server: &str) {
        let text = fs::read_to_string(host.settings()).unwrap();
        let base = text.split("\n[nri]").next().unwrap();
        let base: Vec<&str> = base.lines().filter(|line| !line.starts_with("to = ")).collect();
        let references = "references = [\"op://AgentVault/*\"]";
        let base = base.join("\n").replace(references, &format!("{references}\n{to}"));
        let [nri, ca] = ["nri.sock", "ca.pem"].map(|name| self.files.path().join(name));
        let token = host.path("kubernetes-token");
        let tables = format!(
            "\n[nri]\nsocket = {nri:?}\n[kubernetes]\nurl = \"{api_server}\"\ntoken-file = {token:?}\nca-file = {ca:?}\n"
        );
        host.write("settings.toml", (base + &tables).as_bytes(), 0o644);
    }

    /// Starts the broker, and reports the container to it as one of this pod.
    pub(crate) fn broker(&self, host: &Host, pod: &PodSandbox) -> (Broker, Plugin) {
        let broker = Broker::start(host);
        (broker, self.synchronize(Some(pod)))
    }

    /// Waits for the broker's plugin, which does not know yet what runs.
    pub(crate) fn configure(&self) -> Plugin {
        let mut plugin = self.runtime.accept();
        plugin.configure("");
        plugin
    }

    /// Waits for the broker's plugin, and reports the container to it as one of this pod, or that there is none.
    pub(crate) fn synchronize(&self, pod: Option<&PodSandbox>) -> Plugin {
        let mut plugin = self.configure();
        let container = |pod: &PodSandbox| Container {
            id: ID.into(),
            pod_sandbox_id: pod.id.clone(),
            name: "app".into(),
            ..Container::default()
        };
        let containers: Vec<Container> = pod.map(container).into_iter().collect();
        plugin.synchronize(pod.map_or(&[], std::slice::from_ref), &containers);
        plugin
    }

    /// A pod that the API server has, too.
    pub(crate) fn pod(&self, name: &str, account: &str, labels: &[(&str, &str)]) -> PodSandbox {
        PodSandbox {
            id: "pod".into(),
            name: name.into(),
            namespace: "agents".into(),
            uid: self.api.create_pod("agents", name, account),
            labels: map(labels),
            ..PodSandbox::default()
        }
    }

    /// How often the API server was asked for a pod.
    pub(crate) fn requests_for_pods(&self) -> usize {
        let requests = self.api.requests();
        requests.iter().filter(|r| r["method"] == "GET" && r["path"].as_str().unwrap().contains("/pods/")).count()
    }
}

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}
