//! Servers with sealed values, and ways to fetch them.

use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use serde_json::json;
use tempfile::TempDir;

use crate::measure::timed;
use crate::support::host::{Host, KEY_RING};
use crate::support::machine::{METADATA, Machine};
use crate::support::{AGENT_VAULT, StandIn};

const ITEMS: usize = 8;
const FIELDS: usize = 8;
pub(crate) const SECRET: &[u8] = b"a password of about as many bytes";

/// The kind of Google credentials.
#[derive(Clone, Copy)]
pub(crate) enum Identity {
    /// A key with which the client signs its own tokens.
    ServiceAccount,
    /// One more request, over plain http.
    MetadataServer,
}

/// 1Password Connect with [`ITEMS`] items of [`FIELDS`] sealed values each, and Cloud KMS.
pub(crate) struct Vault {
    pub(crate) host: Host,
    pub(crate) stand_in: StandIn,
    identity: Identity,
    directory: TempDir,
    /// The URL of one item, and of its KEK.
    item_url: String,
    kek_url: String,
}

impl Vault {
    pub(crate) fn fill(machine: &Machine, identity: Identity, latency: Duration) -> Vault {
        let directory = tempfile::Builder::new().prefix("bench").tempdir().unwrap();
        let (dir, latency) = (directory.path().to_str().unwrap(), latency.as_millis().to_string());
        let arguments = ["--dir", dir, "--tls", "--latency", &latency, "--service-account", "--metadata", METADATA];
        let stand_in = StandIn::start(&arguments);
        machine.trust(&stand_in.ca_file().unwrap());
        let credentials = match identity {
            Identity::ServiceAccount => format!("credentials-file = \"{dir}/service-account.json\""),
            Identity::MetadataServer => String::new(),
        };
        let host = Host::new(&stand_in, &format!("{credentials}\nendpoint = \"{}\"", stand_in.kms()));

        // As below /run, where the broker keeps it: a disk would take longer than the rest of its work.
        fs::create_dir(host.path("containers")).unwrap();
        mount("tmpfs", host.path("containers"), "tmpfs", MountFlags::empty(), Some(c"mode=700")).unwrap();

        let mut vault = Vault {
            host,
            identity,
            item_url: String::new(),
            kek_url: format!("{}/v1/{}/prod", stand_in.kms(), KEY_RING.trim_start_matches("gcp-kms://")),
            stand_in,
            directory,
        };
        for item in 0..ITEMS {
            vault.create_item(item);
        }
        vault
    }

    /// The annotations that request one secret.
    pub(crate) fn one(&self) -> Vec<(String, String)> {
        vec![request(0, 0)]
    }

    /// The annotations that request every secret.
    pub(crate) fn many(&self) -> Vec<(String, String)> {
        (0..ITEMS).flat_map(|item| (0..FIELDS).map(move |field| request(item, field))).collect()
    }

    /// The duration of fetching one item and one data key with curl, which knows the item's id, and has a token if the client signs its
    /// own.
    pub(crate) fn curls(&self) -> Duration {
        let token = match self.identity {
            Identity::ServiceAccount => Duration::ZERO,
            Identity::MetadataServer => self.curl(&["-H", "Metadata-Flavor: Google", METADATA_TOKEN]),
        };
        let ca_file = self.path("ca.pem");
        let authorization = format!("@{}", self.path("authorization").display());
        let body = format!("@{}", self.path("decrypt.json").display());
        let item = self.curl(&["--cacert", ca_file.to_str().unwrap(), "-H", &authorization, &self.item_url]);
        let decrypt = format!("{}:decrypt", self.kek_url);
        let kek = self.curl(&[
            "-H",
            &authorization,
            "-H",
            "Content-Type: application/json",
            "--data-binary",
            &body,
            &decrypt,
        ]);
        token + item + kek
    }

    fn curl(&self, arguments: &[&str]) -> Duration {
        timed(Command::new("curl").args(["-sS", "--fail", "-o", "/dev/null"]).args(arguments), &[])
    }

    /// How long the item and the data key take on connections that are open: the time of a request that curl sends after another one.
    pub(crate) fn answers(&self) -> Duration {
        let (ca_file, body) = (self.path("ca.pem"), format!("@{}", self.path("decrypt.json").display()));
        let decrypt = format!("{}:decrypt", self.kek_url);
        let data = ["-H", "Content-Type: application/json", "--data-binary", &body];
        self.second(&["--cacert", ca_file.to_str().unwrap()], &self.item_url) + self.second(&data, &decrypt)
    }

    fn second(&self, arguments: &[&str], url: &str) -> Duration {
        let authorization = format!("@{}", self.path("authorization").display());
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--fail", "-o", "/dev/null", "-o", "/dev/null", "-w", "%{num_connects} %{time_total}\n"]);
        let output = curl.args(["-H", &authorization]).args(arguments).args([url, url]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let seconds = text.lines().nth(1).and_then(|line| line.strip_prefix("0 ")).unwrap().parse().unwrap();
        Duration::from_secs_f64(seconds)
    }

    /// Seals the values of an item, and writes the request bodies for curl to files.
    fn create_item(&mut self, item: usize) {
        let sealed: Vec<(String, String)> =
            (0..FIELDS).map(|field| (format!("field-{field}"), self.seal(item, field))).collect();
        let fields: Vec<(&str, &str, &str)> =
            sealed.iter().map(|(label, value)| ("", label.as_str(), value.as_str())).collect();
        let id = self.stand_in.create_item(AGENT_VAULT, &format!("item-{item}"), &fields);
        self.item_url = format!("{}/v1/vaults/{AGENT_VAULT}/items/{id}", self.stand_in.connect());

        let envelope = BASE64_STANDARD.decode(sealed[0].1.rsplit(' ').next().unwrap()).unwrap();
        let bytes = usize::try_from(u32::from_be_bytes(*envelope.first_chunk().unwrap())).unwrap();
        let body = json!({ "ciphertext": BASE64_STANDARD.encode(&envelope[4..4 + bytes]) });
        fs::write(self.path("decrypt.json"), body.to_string()).unwrap();
        fs::write(self.path("authorization"), format!("Authorization: Bearer {}", self.stand_in.token())).unwrap();
    }

    fn seal(&self, item: usize, field: usize) -> String {
        let (_, reference) = request(item, field);
        let output =
            self.host.oci_secrets(&["seal", "--kek", &format!("{KEY_RING}/prod"), "--for", &reference], SECRET);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

impl Drop for Vault {
    fn drop(&mut self) {
        unmount(self.host.path("containers"), UnmountFlags::DETACH).unwrap();
    }
}

const METADATA_TOKEN: &str =
    "http://metadata.google.internal/computeMetadata/v1/instance/service-accounts/default/token";

fn request(item: usize, field: usize) -> (String, String) {
    (format!("run.secrets/{item}-{field}"), format!("op://AgentVault/item-{item}/field-{field}"))
}

impl Identity {
    /// The baseline of the hook.
    pub(crate) fn curls(self) -> &'static str {
        match self {
            Identity::ServiceAccount => "2 curl: item, decrypt",
            Identity::MetadataServer => "3 curl: token, item, decrypt",
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Identity::ServiceAccount => "service account",
            Identity::MetadataServer => "metadata server",
        })
    }
}
