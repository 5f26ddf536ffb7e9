//! `oci-secrets-gateway` in front of the stand-in for 1Password Connect, with tokens of the stand-in's issuers.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

mod clients;
mod denials;
mod issuers;
mod memory;
mod record;
mod scope;
mod service;
#[path = "../support/mod.rs"]
mod support;
mod systemd;

use serde_json::{Value, json};
use support::gateway::{AUDIENCE, Gateway};
use support::{AGENT_VAULT, StandIn};

/// A stand-in and a gateway with one rule, for the branch `main` of `acme/app`.
struct Site {
    stand_in: StandIn,
    gateway: Gateway,
}

impl Site {
    /// A site whose rule grants these references, with the issuer `github`.
    fn granting(references: &[&str]) -> Site {
        let stand_in = StandIn::start(&[]);
        let rules = format!("{}{}", issuer(&stand_in, "github", "github"), rule(&stand_in, references));
        let gateway = Gateway::start(&stand_in, &rules);
        Site { stand_in, gateway }
    }

    fn mint(&self, body: Value) -> String {
        self.stand_in.mint("github", &body)
    }

    fn get(&self, path: &str) -> support::gateway::Answer {
        self.gateway.get(path, &self.mint(Value::Null))
    }

    /// The record of the last request.
    fn last(&self) -> Value {
        self.gateway.audit().pop().expect("nothing was recorded")
    }
}

/// The settings for a trusted issuer.
fn issuer(stand_in: &StandIn, name: &str, kind: &str) -> String {
    format!("[[issuer]]\nurl = '{}'\nkind = '{kind}'\naudience = '{AUDIENCE}'\n", stand_in.issuer(name))
}

/// The rule for the branch `main` of `acme/app`.
fn rule(stand_in: &StandIn, references: &[&str]) -> String {
    format!(
        "[[rule]]\nname = 'deploy'\nissuer = '{}'\nreferences = {references:?}\n\
         claims = {{ repository = 'acme/app', repository_owner_id = '65123', ref = 'refs/heads/main' }}\n",
        stand_in.issuer("github")
    )
}

fn vault_path(rest: &str) -> String {
    format!("/v1/vaults/{AGENT_VAULT}{rest}")
}

/// A path with a filter.
fn filtered(path: &str, filter: &str) -> String {
    format!("{path}?filter={}", filter.replace(' ', "%20").replace('"', "%22"))
}

fn ids(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|entry| entry["id"].as_str().unwrap()).collect()
}

#[test]
fn health_requires_no_token() {
    let site = Site::granting(&["op://AgentVault/*"]);
    let health = site.gateway.ask("GET /health HTTP/1.1\r\n");
    assert_eq!(health.json()["dependencies"][0], json!({ "service": "connect", "status": "ACTIVE" }));
    assert_eq!(site.gateway.ask("GET /heartbeat HTTP/1.1\r\n").body, b".");
    assert!(site.gateway.audit().is_empty());
}
