//! What every test of the broker needs: a stand-in, a host with one sealed secret, and its audit trail.

use std::process::Output;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::container::Container;
use crate::support::front::Front;
use crate::support::host::{Host, LOCAL_KEK};
use crate::support::{AGENT_VAULT, StandIn};

/// The reference of the secret.
pub(crate) const REFERENCE: &str = "op://AgentVault/db/password";

pub(crate) struct World {
    pub(crate) stand_in: StandIn,
    pub(crate) host: Host,
    pub(crate) canary: String,
    /// Of a KMS.
    #[expect(dead_code, reason = "the programs read its files")]
    credentials: Option<TempDir>,
}

impl World {
    /// A host whose vault holds one sealed secret; `None` without root, which the broker needs.
    pub(crate) fn begin() -> Option<World> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: not root");
            return None;
        }
        let stand_in = StandIn::start(&[]);
        let host = Host::new(&stand_in, "");
        Some(World::of(stand_in, host))
    }

    /// The same with Cloud KMS as one more KEK, behind a server that can fail.
    pub(crate) fn with_kms() -> Option<(World, Front)> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: not root");
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let stand_in = StandIn::start(&["--dir", directory.path().to_str().unwrap(), "--service-account"]);
        let key = directory.path().join("service-account.json");
        let kms = Front::to(stand_in.kms());
        let host = Host::new(&stand_in, &format!("credentials-file = {key:?}\nendpoint = {:?}", kms.url()));
        Some((World { credentials: Some(directory), ..World::of(stand_in, host) }, kms))
    }

    fn of(stand_in: StandIn, host: Host) -> World {
        let canary = format!("canary-{:016x}", fastrand::u64(..));
        let sealed = host.oci_secrets(&["seal", "--kek", LOCAL_KEK, "--for", REFERENCE], canary.as_bytes());
        assert!(sealed.status.success(), "{sealed:?}");
        let sealed = String::from_utf8(sealed.stdout).unwrap();
        stand_in.create_item(AGENT_VAULT, "db", &[("", "password", sealed.trim())]);
        World { stand_in, host, canary, credentials: None }
    }

    /// The records of all starts so far.
    pub(crate) fn records(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.host.path("audit")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// How many values or items Connect was asked for.
    pub(crate) fn connect_reads(&self) -> usize {
        let requests = self.stand_in.requests();
        requests.iter().filter(|request| request["service"] == "connect" && request["method"] == "GET").count()
    }

    /// The decisions of all starts so far. A mark of a chain is no start.
    pub(crate) fn decisions(&self) -> Vec<String> {
        let records = self.records().into_iter().filter(|record| record.get("mark").is_none());
        records.map(|record| record["decision"].as_str().unwrap().to_owned()).collect()
    }
}

/// The state of a container that requests the secret as `db`.
pub(crate) fn state(container: &Container) -> Vec<u8> {
    container.state([("run.secrets/db".to_owned(), REFERENCE.to_owned())])
}

/// The exit code and the lines of what a hook printed.
pub(crate) fn code_and_lines(output: &Output) -> (i32, Vec<String>) {
    let text = String::from_utf8_lossy(&output.stderr);
    (output.status.code().unwrap_or(-1), text.lines().map(str::to_owned).collect())
}
