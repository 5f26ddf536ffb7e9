//! Break-glass before, during and after an outage, with the real programs.
//!
//! Each test runs in its own mount and network namespaces, so that other processes do not see its emergency. It requires root.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking, its helpers too"
)]

mod faults;
mod journal;
mod killed;
mod live;
mod outage;
mod plugin;
mod servers;

#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};
use support::container::Container;
use support::host::{Host, KEY_RING, LOCAL_KEK, run};
use support::machine::Machine;
use support::search::Needle;
use support::{AGENT_VAULT, StandIn};

/// The prefix of every secret of these tests.
const CANARY: &str = "canary-3f1c";

/// A URL on which no server listens.
const UNREACHABLE: &str = "http://127.0.0.1:9";

/// A host with two secrets, a sealed file of both, and the key to it.
struct Site {
    _machine: Machine,
    stand_in: StandIn,
    host: Host,
    /// The ids of the items, by title.
    items: [(&'static str, String); 2],
    needle: Needle,
}

const DB: &str = "op://AgentVault/db/password";
const MAIL: &str = "op://AgentVault/mail/password";

impl Site {
    /// Prepares the host for an outage. `None` without root.
    fn new() -> Option<Site> {
        let machine = Machine::enter()?;
        let stand_in = StandIn::start(&[]);
        let host = Host::new(&stand_in, &format!("endpoint = \"{}\"", stand_in.kms()));
        fs::create_dir(host.path("state")).unwrap();
        let site =
            Site { _machine: machine, items: items(&stand_in, &host), stand_in, host, needle: Needle::new(CANARY) };
        site.settings(
            "references = [\"op://AgentVault/*\"]",
            "name = \"agents\"\nreferences = [\"op://AgentVault/*\"]",
        );
        let channel = format!("{{ file = {:?} }}", site.host.path("glass"));
        site.append(&format!(
            "[break-glass]\naudit = {channel}\nrotation = {{ grace = \"24h\", then = \"refuse\" }}\ndirectory = {:?}\n",
            site.host.path("state")
        ));
        site.host.write("key", KEY.as_bytes(), 0o600);
        site.succeeds(&[
            "break-glass",
            "seal",
            "--grants",
            "agents",
            "--recipient",
            RECIPIENT,
            "--out",
            &site.file("sealed"),
        ]);
        Some(site)
    }

    fn file(&self, name: &str) -> String {
        self.host.path(name).display().to_string()
    }

    /// Replaces a part of the settings.
    fn settings(&self, from: &str, to: &str) {
        let before = fs::read_to_string(self.host.settings()).unwrap();
        let after = before.replacen(from, to, 1);
        assert_ne!(before, after, "{from}");
        self.host.write("settings.toml", after.as_bytes(), 0o644);
    }

    fn append(&self, text: &str) {
        let settings = fs::read_to_string(self.host.settings()).unwrap() + text;
        self.host.write("settings.toml", settings.as_bytes(), 0o644);
    }

    fn connect_is(&self, from: &str, to: &str) {
        self.settings(&format!("url = \"{from}\""), &format!("url = \"{to}\""));
    }

    fn kms_is(&self, from: &str, to: &str) {
        self.settings(&format!("endpoint = \"{from}\""), &format!("endpoint = \"{to}\""));
    }

    fn open(&self, duration: &str, more: &[&str]) -> Output {
        let (file, key) = (self.file("sealed"), self.file("key"));
        let arguments =
            ["break-glass", "open", &file, "--identity", &key, "--reason", "an outage", "--for", duration, "--yes"];
        self.host.oci_secrets(&[&arguments[..], more].concat(), b"")
    }

    fn succeeds(&self, arguments: &[&str]) -> String {
        succeeded(self.host.oci_secrets(arguments, b""))
    }

    /// Starts a container that requests these references, and returns the hook's exit code and the delivered secrets.
    fn start(&self, references: &[&str]) -> (i32, Vec<String>) {
        let container = Container::create();
        let files: Vec<String> = (0..references.len()).map(|at| format!("secret-{at}")).collect();
        let pairs = files
            .iter()
            .zip(references)
            .map(|(file, reference)| (format!("run.secrets/{file}"), (*reference).to_owned()));
        let output = self.host.hook(&container.state(pairs));
        let code = output.status.code().unwrap();
        let messages = String::from_utf8_lossy(&output.stderr);
        assert!(!messages.contains(CANARY), "{messages}");
        let delivered = || files.iter().map(|file| String::from_utf8(container.secret(file)).unwrap()).collect();
        (code, if code == 0 { delivered() } else { Vec::new() })
    }

    /// The references in the ledger.
    fn pending(&self) -> BTreeSet<String> {
        let Ok(bytes) = fs::read(self.host.path("state/ledger")) else { return BTreeSet::new() };
        let ledger: Value = serde_json::from_slice(&bytes).unwrap();
        ledger["pending"].as_object().unwrap().keys().cloned().collect()
    }

    /// The records of the channel, after its chain was verified.
    fn events(&self) -> Vec<Value> {
        self.succeeds(&["audit", "verify", &self.file("glass")]);
        let text = fs::read_to_string(self.host.path("glass")).unwrap();
        let records = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        records.filter(|record| record.get("event").is_some()).collect()
    }

    fn kinds(&self) -> Vec<String> {
        self.events().iter().map(|record| record["event"].as_str().unwrap().to_owned()).collect()
    }

    /// The last record of a start.
    fn last_start(&self) -> Value {
        let text = fs::read_to_string(self.host.path("audit")).unwrap();
        serde_json::from_str(text.lines().last().unwrap()).unwrap()
    }

    fn status(&self) -> i32 {
        self.host.oci_secrets(&["break-glass", "status"], b"").status.code().unwrap()
    }

    /// Stores a new value for the database.
    fn rotate(&self, value: &str) {
        self.store("db", &seal(&self.host, LOCAL_KEK, DB, value));
    }

    /// Replaces the sealed value of the item with this title.
    fn store(&self, title: &str, sealed: &str) {
        let (_, id) = self.items.iter().find(|(of, _)| *of == title).unwrap();
        let path = format!("/v1/vaults/{AGENT_VAULT}/items/{id}");
        let item = self.stand_in.request("GET", &path, &Value::Null);
        let field = item["fields"][0]["id"].as_str().unwrap();
        let patch = json!([{ "op": "replace", "path": format!("/fields/{field}/value"), "value": sealed }]);
        self.stand_in.request("PATCH", &path, &patch);
    }

    /// Files of the host and of `/run`, and processes, that contain a secret.
    fn leaks(&self) -> Vec<PathBuf> {
        let mut found = self.needle.processes();
        for root in [self.host.path("."), PathBuf::from("/run")] {
            self.search(&root, &mut found);
        }
        found
    }

    /// Asserts that there are no leaks, also in files that changed since the host was prepared.
    fn leaves_no_trace(&self) {
        let since = fs::metadata(self.host.path("keks")).unwrap().ctime();
        assert_eq!([self.leaks(), self.needle.files(since)].concat(), Vec::<PathBuf>::new());
    }

    fn search(&self, directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let path = entry.path();
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => self.search(&path, found),
                Ok(kind) if kind.is_file() && self.needle.is_in(fs::read(&path).unwrap_or_default()) => {
                    found.push(path);
                }
                _ => {}
            }
        }
    }
}

impl Drop for Site {
    /// Kernel keys outlive the namespaces: closing the emergency removes them.
    fn drop(&mut self) {
        if Path::new("/run/oci-secrets/break-glass").exists() {
            self.host.oci_secrets(&["break-glass", "close"], b"");
        }
    }
}

/// A key that only these tests use.
const KEY: &str = "AGE-SECRET-KEY-1GQ9778VQXMMJVE8SK7J6VT8UJ4HDQAJUVSFCWCM02D8GEWQ72PVQ2Y5J33\n";
const RECIPIENT: &str = "age1t7rxyev2z3rw82stdlrrepyc39nvn86l5078zqkf5uasdy86jp6svpy7pa";

fn items(stand_in: &StandIn, host: &Host) -> [(&'static str, String); 2] {
    let db = seal(host, LOCAL_KEK, DB, &format!("{CANARY}-db"));
    let mail = seal(host, &format!("{KEY_RING}/prod"), MAIL, &format!("{CANARY}-mail"));
    [("db", db), ("mail", mail)]
        .map(|(title, value)| (title, stand_in.create_item(AGENT_VAULT, title, &[("", "password", &value)])))
}

fn seal(host: &Host, kek: &str, reference: &str, value: &str) -> String {
    let output = host.oci_secrets(&["seal", "--kek", kek, "--for", reference], value.as_bytes());
    succeeded(output).trim().to_owned()
}

fn succeeded(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!text.contains(CANARY), "{text}");
    text
}

/// Runs a command line on a terminal of `script(1)` with this input. Returns the exit code and the output.
fn at_terminal(script: &mut Command, line: &str, typed: &str) -> (i32, String) {
    let output = run(script.args(["-qec", line, "/dev/null"]), typed.as_bytes());
    (output.status.code().unwrap(), String::from_utf8_lossy(&output.stdout).into_owned())
}
