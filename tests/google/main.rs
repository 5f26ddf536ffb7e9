//! Google Cloud: who we are there, and how its KMS is reached.
//!
//! Google's client uses the CA certificates of the system, and the fixed address of the metadata server: each test runs in its own
//! namespaces.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking, its helpers too")]

mod connection;
mod identity;

#[path = "../support/mod.rs"]
mod support;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Output;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::StandIn;
use support::host::{Host, KEY_RING, run};
use support::machine::{METADATA, Machine};
use tempfile::TempDir;

const REFERENCE: &str = "op://AgentVault/database/password";
const SECRET: &[u8] = b"canary";

/// The workload identity provider of the stand-in.
const PROVIDER: &str = "projects/123456/locations/global/workloadIdentityPools/stand-in/providers/stand-in";

/// The deadline of the settings, plus the run time of a process.
const PATIENCE: Duration = Duration::from_millis(2000 + 1500);

/// Sets a long deadline for tests that count requests: on a loaded machine, a request may time out and be retried.
fn with_long_deadline(host: Host) -> Host {
    let settings = fs::read_to_string(host.settings()).unwrap().replace("deadline = \"2s\"", "deadline = \"1m\"");
    host.write("settings.toml", settings.as_bytes(), 0o644);
    host
}

/// Namespaces with the required Google services: over TLS, and with a Cloud KMS that requires tokens.
struct Google {
    stand_in: StandIn,
    directory: TempDir,
}

impl Google {
    /// Moves this thread into new namespaces; `None` if that is not possible.
    fn start(arguments: &[&str]) -> Option<Google> {
        let machine = Machine::enter()?;
        let directory = tempfile::Builder::new().prefix("google").tempdir().unwrap();
        let dir = directory.path().to_str().unwrap();
        let mut all = vec!["--dir", dir, "--tls", "--kms-auth", "--service-account"];
        if !arguments.contains(&"--metadata") {
            all.extend(["--metadata", METADATA]);
        }
        all.extend(arguments);
        let stand_in = StandIn::start(&all);
        machine.name("sts.googleapis.com", "127.0.0.1");
        machine.name("iamcredentials.googleapis.com", "127.0.0.1");
        machine.name("kms.example", "127.0.0.1");
        machine.name("private.googleapis.com", "127.0.0.1");
        machine.trust(&stand_in.ca_file().unwrap());
        Some(Google { stand_in, directory })
    }

    /// A host with this credentials file of the stand-in.
    fn host(&self, credentials: &str) -> Host {
        self.host_with(&format!("credentials-file = {:?}", self.path(credentials)))
    }

    fn host_with(&self, gcp_kms: &str) -> Host {
        Host::new(&self.stand_in, &format!("{gcp_kms}\nendpoint = \"{}\"", self.stand_in.kms()))
    }

    /// A host with a credentials file in which these members are replaced.
    fn changed(&self, credentials: &str, members: &Value) -> Host {
        let mut file = self.file(credentials);
        file.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
        self.write("changed.json", file.to_string().as_bytes(), 0o600);
        self.host("changed.json")
    }

    fn seal(&self, host: &Host) -> Output {
        host.oci_secrets(&["seal", "--kek", &format!("{KEY_RING}/prod"), "--for", REFERENCE], SECRET)
    }

    /// Runs `oci-secrets` in a CI job that can request tokens of GitHub Actions, and has one of GitLab CI.
    fn in_job(&self, host: &Host, arguments: &[&str], input: &[u8]) -> Output {
        let mut command = host.program("oci-secrets");
        command
            .args(arguments)
            .env("ACTIONS_ID_TOKEN_REQUEST_URL", format!("{}/request?x=y", self.stand_in.issuer("github")));
        command.env("ACTIONS_ID_TOKEN_REQUEST_TOKEN", self.stand_in.request_token());
        run(command.env("GCP_TOKEN", self.mint("gitlab")), input)
    }

    /// A token for the provider.
    fn mint(&self, issuer: &str) -> String {
        let audience = format!("https://iam.googleapis.com/{PROVIDER}");
        self.stand_in.mint(issuer, &json!({ "claims": { "aud": audience } }))
    }

    fn opens_what_it_seals(&self, host: &Host) {
        let sealed = self.seal(host);
        assert!(sealed.status.success(), "{}", text(&sealed));
        let opened = host.oci_secrets(&["unseal", "--for", REFERENCE], &sealed.stdout);
        assert_eq!(opened.stdout, SECRET, "{}", text(&opened));
    }

    fn is_refused(&self, host: &Host, code: i32, words: &str) {
        let begin = Instant::now();
        let output = self.seal(host);
        assert!(begin.elapsed() < PATIENCE, "took {:?}", begin.elapsed());
        assert_eq!(output.status.code(), Some(code), "{}", text(&output));
        assert!(text(&output).contains(words), "{}", text(&output));
        assert!(output.stdout.is_empty());
        self.assert_holds_no_secret(&text(&output));
    }

    fn is_not_reached(&self, host: &Host) {
        self.is_refused(host, 69, "cannot get an access token from Google: no answer from http");
    }

    fn assert_holds_no_secret(&self, text: &str) {
        let service_account = self.file("service-account.json");
        let private_key = service_account["private_key"].as_str().unwrap();
        for secret in ["standin-access-token", "standin-subject-token", &self.subject_token(), &private_key[60..120]] {
            assert!(!text.contains(secret), "{text}");
        }
    }

    fn subject_token(&self) -> String {
        fs::read_to_string(self.path("subject-token")).unwrap()
    }

    /// A credentials file of the stand-in's directory.
    fn file(&self, name: &str) -> Value {
        serde_json::from_slice(&fs::read(self.path(name)).unwrap()).unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, content: &[u8], mode: u32) -> PathBuf {
        fs::write(self.path(name), content).unwrap();
        fs::set_permissions(self.path(name), Permissions::from_mode(mode)).unwrap();
        self.path(name)
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
