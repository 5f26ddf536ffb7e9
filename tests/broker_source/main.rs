//! The source that the starts of a broker share, against the stand-in, whose requests are counted.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking, its helpers too"
)]

mod breaker;
mod coalescing;
mod documented;
mod ids;
mod killed;
mod known;
mod op;
mod outage;
mod sharing;
#[path = "../support/mod.rs"]
mod support;

use std::path::PathBuf;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use oci_secrets::broker::source::Shared;
use oci_secrets::fault::{Class, Fault as _};
use oci_secrets::reference::Reference;
use oci_secrets::retry::Deadline;
use oci_secrets::settings::Settings;
use oci_secrets::source::{Field, Source, SourceError};
use serde_json::{Value, json};
use support::front::Front;
use support::{AGENT_VAULT, StandIn, with_mode};
use tempfile::TempDir;

/// The prefix of every plain value of these tests.
const CANARY: &str = "canary-9d2e";

const DB: &str = "op://AgentVault/db/password";

const PATIENCE: Duration = Duration::from_secs(20);

/// A stand-in, a server in front of it, and the settings of a broker.
struct Site {
    stand_in: StandIn,
    front: Front,
    directory: TempDir,
}

impl Site {
    fn new() -> Site {
        oci_secrets::tls::install();
        let stand_in = StandIn::start(&[]);
        let site = Site { front: Front::to(stand_in.connect()), stand_in, directory: tempfile::tempdir().unwrap() };
        site.write_token(site.stand_in.token());
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write_token(&self, token: &str) {
        with_mode(&self.path("token"), token.as_bytes(), 0o600);
    }

    /// The settings, with these lines of `[broker]` and `[outage]`.
    fn settings(&self, broker: &str, outage: &str) -> Settings {
        let (url, token, sealed) = (self.front.url(), self.path("token"), self.path("sealed"));
        let connect = format!("[connect]\nurl = {url:?}\ntoken-file = {token:?}\n");
        let text = format!("{connect}[broker]\n{broker}\n[outage]\ndirectory = {sealed:?}\n{outage}\n");
        text.parse().unwrap()
    }

    fn open(&self) -> Shared {
        self.open_with("")
    }

    fn open_with(&self, broker: &str) -> Shared {
        Shared::open(&self.settings(broker, "")).unwrap()
    }

    /// Stores an item with one field, `password`.
    fn store(&self, title: &str, value: &str) -> String {
        self.stand_in.create_item(AGENT_VAULT, title, &[("", "password", value)])
    }

    /// Changes an item of `AgentVault`.
    fn patch(&self, id: &str, path: &str, value: &str) {
        let change = json!([{ "op": "replace", "path": path, "value": value }]);
        self.stand_in.request("PATCH", &format!("/v1/vaults/{AGENT_VAULT}/items/{id}"), &change);
    }

    /// Sets the value of the first field.
    fn change(&self, id: &str, value: &str) {
        self.patch(id, "/fields/0/value", value);
    }

    fn delete(&self, id: &str) {
        self.stand_in.request("DELETE", &format!("/v1/vaults/{AGENT_VAULT}/items/{id}"), &Value::Null);
    }

    /// The paths that the subject asked for, with their filters.
    fn requests(&self) -> Vec<String> {
        let ours =
            |request: &Value| request["user_agent"].as_str().is_some_and(|agent| agent.starts_with("oci-secrets/"));
        let text =
            |request: &Value| format!("{}?{}", request["path"].as_str().unwrap(), request["query"].as_str().unwrap());
        self.stand_in.requests().iter().filter(|request| ours(request)).map(text).collect()
    }

    /// The number of requests that something causes.
    fn cost(&self, action: impl FnOnce()) -> usize {
        let before = self.requests().len();
        action();
        self.requests().len() - before
    }
}

fn reference(text: &str) -> Reference {
    text.parse().unwrap()
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// Fetches one reference as a start does.
async fn fetch_within(source: &dyn Source, text: &str, deadline: Duration) -> Result<Field, SourceError> {
    let reference = reference(text);
    let references = [&reference];
    let mut answers = source.fetch(&references, Deadline::after(deadline));
    answers.next().await.unwrap().outcome
}

fn fetch(source: &Shared, text: &str) -> Result<Field, SourceError> {
    block_on(fetch_within(source, text, PATIENCE))
}

fn value(source: &Shared, text: &str) -> String {
    fetch(source, text).unwrap_or_else(|error| panic!("{text}: {error}")).value.to_string()
}

fn class(source: &Shared, text: &str) -> Class {
    let outcome = fetch(source, text);
    outcome.err().unwrap_or_else(|| panic!("{text} was answered")).class()
}

/// Fetches all of them at the same time, as starts with ids from 0 on do.
fn fetch_all(source: &Shared, texts: &[&str]) -> Vec<Result<Field, SourceError>> {
    let starts: Vec<Shared> = (0..texts.len()).map(|number| source.for_start(&format!("start-{number}"))).collect();
    block_on(join_all(starts.iter().zip(texts).map(|(start, text)| fetch_within(start, text, PATIENCE))))
}

fn metric(source: &Shared, name: &str) -> u64 {
    let samples = source.metrics();
    samples.iter().find(|sample| sample.name == name).unwrap_or_else(|| panic!("no metric {name}")).value
}

/// The text of a sealed value. Nothing here opens it.
fn sealed(number: u32) -> String {
    format!("sealed:v1 local-kek:trial {number:04}")
}
