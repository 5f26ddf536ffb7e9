//! Every kind of AWS credentials, and the error messages when they are refused, which contain no secret.
//!
//! The settings are those of production: the AWS client uses the names of its services, and the fixed addresses of the metadata server
//! and the agents. Each test runs in its own namespaces, where these lead to moto, or to a stand-in that refuses.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking, its helpers too")]

mod support;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use support::container::Container;
use support::host::{Host, run};
use support::machine::{AGENTS, METADATA, Machine};
use support::moto::Moto;
use support::{AGENT_VAULT, StandIn, with_mode};
use tempfile::TempDir;

const REFERENCE: &str = "op://AgentVault/database/password";
const SECRET: &[u8] = b"canary";
const KEK: &str = "aws-kms://arn:aws:kms:eu-central-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab";

/// The deadline of the settings, plus the run time of a process.
const PATIENCE: Duration = Duration::from_millis(2000 + 1500);

/// A user's keys, a role that is assumed with them, a role without an answer, and an incomplete profile.
const PROFILES: &str = "\
[default]
aws_access_key_id = AKIASTANDINUSER
aws_secret_access_key = hunter2-user
[agents]
role_arn = arn:aws:iam::123456789012:role/agents
source_profile = default
[silent]
role_arn = arn:aws:iam::123456789012:role/silent
source_profile = default
[half]
aws_access_key_id = AKIASTANDINUSER
";

#[test]
fn authenticates_with_every_kind_of_credentials() {
    let Some(aws) = Aws::start(&["--metadata", AGENTS[0]]) else { return };
    let _others = [AGENTS[1], METADATA].map(|address| StandIn::start(&["--metadata", address]));
    for service in ["kms", "sts"] {
        aws.machine.name(&format!("{service}.eu-central-1.amazonaws.com"), "127.0.0.2");
    }
    let (log, pem) = (aws.path("log"), aws.path("server.pem"));
    let [log, pem] = [&log, &pem].map(|path| path.to_str().unwrap());
    let Some(moto) = Moto::start(&["--https", "127.0.0.2:443", pem, "--log", log]) else { return };
    let [_, kek] = moto.keks();

    for (keys, signed_by) in [
        (aws.profile("default"), &["kms AKIASTANDINUSER"][..]),
        (aws.profile("agents"), &["sts AKIASTANDINUSER", "kms ASIA"]),
        (aws.web_identity("agents", &aws.subject_token()), &["kms ASIA"]),
        ("container-credentials = \"http://169.254.170.2/v2/credentials/task\"".into(), &["kms ASIASTANDIN"]),
        (aws.pod_identity(&aws.subject_token()), &["kms ASIASTANDIN"]),
        (String::new(), &["kms ASIASTANDIN"]),
    ] {
        let host = aws.host(&kek, &keys);
        let sealed = aws.seal(&host, &kek);
        assert!(sealed.status.success(), "{keys}: {}", text(&sealed));
        fs::write(log, "").unwrap();
        aws.stand_in.create_item(AGENT_VAULT, "database", &[("", "password", text_of(&sealed.stdout).trim_end())]);
        let container = Container::create();
        let output = host.hook(&container.state([("run.secrets/password".into(), REFERENCE.into())]));
        assert!(output.status.success(), "{keys}: {}", text(&output));
        assert_eq!(container.secret("password"), SECRET);
        let signed = fs::read_to_string(log).unwrap();
        let signed: Vec<&str> = signed.lines().collect();
        let agree = signed.len() == signed_by.len() && signed.iter().zip(signed_by).all(|(is, of)| is.starts_with(of));
        assert!(agree, "{keys}: {signed:?}");
        aws.assert_holds_no_secret(&fs::read_to_string(host.path("audit")).unwrap());
        aws.stand_in.request("POST", "/stand-in/reset", &serde_json::Value::Null);
    }
}

#[test]
fn reports_why_a_role_is_refused() {
    let Some(aws) = Aws::start(&["--identity-port", "443"]) else { return };
    aws.machine.name("sts.eu-central-1.amazonaws.com", "127.0.0.1");
    // The expiry of these tokens cannot be parsed, so they are sent. A token whose expiry is known to be past is not sent.
    let expired = "eyJhbGciOiJSUzI1NiJ9..eyJleHAiOjF9.standin-subject-token";
    let forged = "eyJhbGciOiJSUzI1NiJ9.e30.standin-subject-token-forged";
    for (keys, code, words) in [
        (aws.web_identity("agents", expired), 77, "the web identity token has expired"),
        (aws.web_identity("agents", forged), 77, "the web identity token is not accepted"),
        (aws.web_identity("agents", &aws.subject_token()), 77, "the role may not be assumed by us"),
        (aws.profile("agents"), 77, "the role may not be assumed by us"),
        (aws.profile("other"), 78, "the file has no such profile"),
        (aws.profile("half"), 78, "or one without credentials that can be used"),
        (
            aws.web_identity("status-503", &aws.subject_token()),
            69,
            "no answer from https://sts.eu-central-1.amazonaws.com",
        ),
        (aws.web_identity("reset", &aws.subject_token()), 69, "no answer from https://sts.eu-central-1.amazonaws.com"),
        (
            aws.web_identity("silent", &aws.subject_token()),
            69,
            "no answer from https://sts.eu-central-1.amazonaws.com (3 tries)",
        ),
        (aws.profile("silent"), 69, "no answer from https://sts.eu-central-1.amazonaws.com (3 tries)"),
        (
            aws.web_identity("html-502", &aws.subject_token()),
            69,
            "no answer from https://sts.eu-central-1.amazonaws.com",
        ),
    ] {
        aws.is_refused(&keys, code, words);
    }
}

#[test]
fn reports_why_an_agent_refuses() {
    let Some(aws) = Aws::start(&["--metadata", AGENTS[1]]) else { return };
    aws.is_refused(&aws.pod_identity("standin-subject-token-of-another-pod"), 77, "the agent refuses us");
    let unreachable = "container-credentials = \"http://169.254.170.2/v2/credentials/task\"";
    aws.is_refused(unreachable, 69, "no answer");
    let readable = aws.write("readable", "standin-subject-token", 0o644);
    let keys = format!("container-credentials = \"https://agent\"\ncontainer-token-file = {readable:?}");
    let refused = aws.seal(&aws.host(KEK, &keys), KEK);
    assert!(text(&refused).contains("readable: mode is 0644, others can read it"), "{}", text(&refused));
}

#[test]
fn reports_a_missing_role_and_ignores_the_environment() {
    let Some(aws) = Aws::start(&["--metadata", METADATA, "--metadata-fault", "no-role"]) else { return };
    aws.is_refused("", 77, "the machine has no role");
    let host = aws.host(KEK, "");
    let mut command = aws.command(&host, KEK);
    command.env("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:1").env("AWS_EC2_METADATA_DISABLED", "true");
    let message = text(&run(&mut command, SECRET));
    assert!(message.contains("the machine has no role"), "{message}");
}

#[test]
fn a_metadata_server_without_an_answer_takes_at_most_the_deadline() {
    for (fault, code, words) in [
        ("status-403", 77, "the metadata server refuses us"),
        ("silent", 69, "no answer"),
        ("status-500", 69, "no answer"),
    ] {
        // A thread, because entering the namespaces cannot be undone.
        let case = move || {
            let Some(aws) = Aws::start(&["--metadata", METADATA, "--metadata-fault", fault]) else { return };
            aws.is_refused("", code, words);
        };
        std::thread::spawn(case).join().unwrap();
    }
    let Some(aws) = Aws::start(&[]) else { return };
    aws.is_refused("", 69, "no answer");
}

/// Namespaces with a stand-in that refuses.
struct Aws {
    machine: Machine,
    stand_in: StandIn,
    directory: TempDir,
}

impl Aws {
    /// Moves this thread into new namespaces; `None` if that is not possible.
    fn start(arguments: &[&str]) -> Option<Aws> {
        let machine = Machine::enter()?;
        let directory = tempfile::Builder::new().prefix("aws").tempdir().unwrap();
        let stand_in = StandIn::start(&[&["--dir", directory.path().to_str().unwrap(), "--tls"], arguments].concat());
        machine.trust(&stand_in.ca_file().unwrap());
        Some(Aws { machine, stand_in, directory })
    }

    /// A host with one KEK, and credentials from these keys of `[aws-kms]`.
    fn host(&self, kek: &str, keys: &str) -> Host {
        Host::with_kek(&self.stand_in, kek, &format!("[aws-kms]\n{keys}"))
    }

    fn profile(&self, name: &str) -> String {
        let file = self.write("profiles", PROFILES, 0o600);
        format!("profile-file = {file:?}\nprofile = {name:?}\nregion = \"eu-central-1\"")
    }

    fn web_identity(&self, role: &str, token: &str) -> String {
        let name = format!("token-{}", fs::read_dir(self.directory.path()).unwrap().count());
        let file = self.write(&name, &format!("{token}\n"), 0o600);
        let role = format!("arn:aws:iam::123456789012:role/{role}");
        format!("web-identity-token-file = {file:?}\nrole-arn = {role:?}\nregion = \"eu-central-1\"")
    }

    fn pod_identity(&self, token: &str) -> String {
        let file = self.write("pod-token", token, 0o600);
        format!("container-credentials = \"http://169.254.170.23/v1/credentials\"\ncontainer-token-file = {file:?}")
    }

    fn seal(&self, host: &Host, kek: &str) -> Output {
        run(&mut self.command(host, kek), SECRET)
    }

    fn command(&self, host: &Host, kek: &str) -> Command {
        let mut command = host.program("oci-secrets");
        command.args(["seal", "--kek", kek, "--for", REFERENCE]);
        command
    }

    fn is_refused(&self, keys: &str, code: i32, words: &str) {
        let begin = Instant::now();
        let output = self.seal(&self.host(KEK, keys), KEK);
        assert!(begin.elapsed() < PATIENCE, "{keys}: took {:?}", begin.elapsed());
        let message = text(&output);
        assert_eq!(output.status.code(), Some(code), "{keys}: {message}");
        assert!(message.contains("cannot get credentials from AWS: ") && message.contains(words), "{message}");
        assert!(message.contains("hint: ") && output.stdout.is_empty(), "{keys}: {message}");
        self.assert_holds_no_secret(&message);
    }

    fn assert_holds_no_secret(&self, text: &str) {
        for secret in ["hunter2", "standin-access-token", "standin-subject-token", "AKIA", "ASIA"] {
            assert!(!text.contains(secret), "{text}");
        }
    }

    fn subject_token(&self) -> String {
        fs::read_to_string(self.path("subject-token")).unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, content: &str, mode: u32) -> PathBuf {
        with_mode(&self.path(name), content.as_bytes(), mode);
        self.path(name)
    }
}

fn text(output: &Output) -> String {
    text_of(&output.stderr)
}

fn text_of(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
