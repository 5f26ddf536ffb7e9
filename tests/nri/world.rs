//! A node: containerd, brokers, and a vault.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use oci_secrets::broker::client::Connection;
use oci_secrets::nri::Snapshot;
use serde_json::{Value, json};

use crate::containerd::{Containerd, write_base_spec};
use crate::support::broker::{Broker, write_hook_settings};
use crate::support::cri::{self, Pod};
use crate::support::host::{Host, LOCAL_KEK};
use crate::support::journal::Journal;
use crate::support::{AGENT_VAULT, StandIn, sandbox};

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Prints the files, and whether they are mounted: here, and in the pod's own container, whose process is the first in the pod.
pub(crate) const LIST: &str = "cd /run/secrets && for file in *; do echo $file=$(cat $file); done
for process in self 1; do echo $(grep -c /run/secrets /proc/$process/mountinfo); done";

/// Prints `0` alone where there are no secrets. Its errors are discarded, as they may be logged before or after what it prints.
pub(crate) const NONE: &str = "ls -A /run/secrets 2>/dev/null; grep -c /run/secrets /proc/self/mountinfo; true";

pub(crate) struct World {
    stand_in: StandIn,
    host: Host,
    pub(crate) journal: Journal,
    pub(crate) containerd: Containerd,
}

impl World {
    pub(crate) fn begin() -> World {
        let journal = Journal::listen();
        let stand_in = StandIn::start(&[]);
        let host = Host::new(&stand_in, "");
        let root = Path::new(sandbox::DIRECTORY).join("containerd");
        write_base_spec(&root, &host.path("hook.toml"));
        let containerd = Containerd::start(&root);
        cri::import(&containerd.socket(), &root.join("image"));
        let settings = fs::read_to_string(host.settings()).unwrap();
        let settings = settings.replace("references =", "to = { namespace = \"agents\" }\nreferences =");
        // The plugin in all brokers makes hooks ask the first one.
        let nri = format!(
            "[nri]\nsocket = {:?}\nhook = {:?}\nhook-settings = {:?}\n",
            containerd.nri_socket(),
            sandbox::HOOK,
            host.path("hook.toml")
        );
        host.write("broker.toml", format!("{settings}{nri}").as_bytes(), 0o644);
        write_hook_settings(&host.path("hook.toml"), &host.path("broker.sock"), "");
        World { stand_in, host, journal, containerd }
    }

    /// Stores a value in an item, and returns its reference.
    pub(crate) fn store(&self, title: &str, value: &str) -> String {
        let reference = format!("op://AgentVault/{title}/password");
        let sealed = self.host.oci_secrets(&["seal", "--kek", LOCAL_KEK, "--for", &reference], value.as_bytes());
        assert!(sealed.status.success(), "{sealed:?}");
        let sealed = String::from_utf8(sealed.stdout).unwrap();
        self.stand_in.create_item(AGENT_VAULT, title, &[("", "password", sealed.trim())]);
        reference
    }

    /// Starts a broker, and waits until it is registered.
    pub(crate) fn broker(&self) -> Broker {
        self.broker_named("broker")
    }

    /// Another one, at a socket of its own.
    pub(crate) fn broker_named(&self, name: &str) -> Broker {
        let socket = self.host.path(&format!("{name}.sock"));
        let broker =
            Broker::start_with(self.host.path("broker.toml"), &socket, &self.host.path(&format!("{name}-hook.toml")));
        wait_until_registered(&broker, 1);
        broker
    }

    /// The decisions that were recorded about the items of a pod, by their title.
    pub(crate) fn decisions(&self, title: &str) -> Vec<String> {
        let text = fs::read_to_string(self.host.path("audit")).unwrap_or_default();
        let records =
            text.lines().filter(|line| line.contains(title)).map(|line| serde_json::from_str::<Value>(line).unwrap());
        records.map(|record| record["decision"].as_str().unwrap().to_owned()).collect()
    }

    /// A directory that containers see at `/marks`.
    pub(crate) fn marks(&self) -> PathBuf {
        let marks = Path::new(sandbox::DIRECTORY).join("marks");
        fs::create_dir_all(&marks).unwrap();
        marks
    }

    /// Runs a pod with these annotations.
    pub(crate) fn run(&self, name: &str, annotations: &Value, containers: &[(&str, &str)]) -> Pod {
        self.run_with(name, containers, json!({ "annotations": annotations }))
    }

    pub(crate) fn run_with(&self, name: &str, containers: &[(&str, &str)], more: Value) -> Pod {
        cri::run(&self.containerd.socket(), name, containers, more)
    }
}

/// What a broker shows of its plugin.
pub(crate) fn state(broker: &Broker) -> Snapshot {
    Connection::open(broker.socket(), PATIENCE).unwrap().status().unwrap().nri.unwrap()
}

/// Waits until a broker is registered, and was so this often.
pub(crate) fn wait_until_registered(broker: &Broker, times: u64) -> Snapshot {
    wait_until(broker, |state| state.runtime.is_some() && state.registrations >= times)
}

pub(crate) fn wait_until(broker: &Broker, reached: impl Fn(&Snapshot) -> bool) -> Snapshot {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let state = state(broker);
        if reached(&state) {
            return state;
        }
        assert!(Instant::now() < deadline, "{state:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
