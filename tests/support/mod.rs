//! Shared code of integration tests: the stand-in as a process, and items in its vaults.

#![allow(dead_code, reason = "each test uses a part of it")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

pub(crate) mod broker;
pub(crate) mod container;
pub(crate) mod cri;
pub(crate) mod front;
pub(crate) mod gateway;
pub(crate) mod host;
pub(crate) mod inject;
pub(crate) mod journal;
pub(crate) mod machine;
pub(crate) mod moto;
pub(crate) mod python;
pub(crate) mod sandbox;
pub(crate) mod search;
pub(crate) mod systemd;

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use rustix::process::{Pid, Signal, kill_process};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::{Value, json};

/// The vault `AgentVault`, where tests create their items.
pub(crate) const AGENT_VAULT: &str = "agentvault0000000000000000";

/// The stand-in for 1Password Connect and Google Cloud, as a process that ends when this is dropped.
///
/// Its services are described in `tests/support/stand-in/main.rs`.
pub(crate) struct StandIn {
    child: Child,
    ready: Value,
}

impl StandIn {
    /// Starts the stand-in with these arguments and waits until it is ready.
    ///
    /// # Panics
    /// If the program has not been built: `cargo test` does, `cargo test --test NAME` does not.
    pub(crate) fn start(arguments: &[&str]) -> StandIn {
        let program = StandIn::program();
        let mut child =
            Command::new(&program).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap_or_else(
                |error| panic!("cannot start {}: {error}; cargo build --example stand-in", program.display()),
            );
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ready = serde_json::from_str(&line).expect("the stand-in ended before it was ready");
        StandIn { child, ready }
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// The path of the stand-in.
    pub(crate) fn program() -> PathBuf {
        program("examples/stand-in")
    }

    /// The line of JSON that the stand-in printed when it was ready: every address and token.
    pub(crate) fn ready(&self) -> &Value {
        &self.ready
    }

    /// The URL of 1Password Connect.
    pub(crate) fn connect(&self) -> &str {
        self.member("connect")
    }

    /// The URL of Cloud KMS.
    pub(crate) fn kms(&self) -> &str {
        self.member("kms")
    }

    /// The URL of Google's identity endpoints.
    pub(crate) fn identity(&self) -> &str {
        self.member("identity")
    }

    /// The URL of the metadata server.
    pub(crate) fn metadata(&self) -> &str {
        self.member("metadata")
    }

    /// The URL of an issuer of identity tokens: the first part of its name, as in `github-forks`, is its platform.
    pub(crate) fn issuer(&self, name: &str) -> String {
        format!("{}/{name}", self.member("issuers"))
    }

    /// The bearer token with which a job of GitHub Actions requests an identity token.
    pub(crate) fn request_token(&self) -> &str {
        self.member("id_token_request_token")
    }

    /// A token of an issuer, for the audience `oci-secrets`; the body has the differences from the default one.
    pub(crate) fn mint(&self, issuer: &str, body: &Value) -> String {
        let minted = self.control_issuer(issuer, "mint", body);
        minted["token"].as_str().expect("the stand-in minted no token").to_owned()
    }

    /// The published keys of a GitHub issuer.
    pub(crate) fn keys(&self, issuer: &str) -> Value {
        self.request_at(self.member("issuers"), "GET", &format!("/{issuer}/.well-known/jwks"), &Value::Null)
    }

    /// Controls an issuer: `mint`, `rotate`, `fault`, `discovery` or `jwks`; see `stand-in/identity/issuer`.
    pub(crate) fn control_issuer(&self, issuer: &str, action: &str, body: &Value) -> Value {
        self.request_at(self.member("issuers"), "POST", &format!("/stand-in/issuers/{issuer}/{action}"), body)
    }

    /// The URL of the API server of Kubernetes.
    pub(crate) fn kubernetes(&self) -> &str {
        self.member("kubernetes")
    }

    /// The token with which a broker may get pods.
    pub(crate) fn kubernetes_token(&self) -> &str {
        self.member("kubernetes_token")
    }

    /// Creates a pod and returns its uid.
    pub(crate) fn create_pod(&self, namespace: &str, name: &str, service_account: &str) -> String {
        let pod = json!({ "metadata": { "name": name }, "spec": { "serviceAccountName": service_account } });
        let (path, token) = (format!("/api/v1/namespaces/{namespace}/pods"), self.member("kubernetes_admin_token"));
        let created = self.request_with(token, self.kubernetes(), "POST", &path, &pod);
        created["metadata"]["uid"].as_str().expect("the stand-in refused the pod").to_owned()
    }

    /// The CA certificate of its servers, if they use https.
    pub(crate) fn ca_file(&self) -> Option<PathBuf> {
        self.connect().starts_with("https").then(|| PathBuf::from(self.member("dir")).join("ca.pem"))
    }

    /// A Connect token with access to every vault.
    pub(crate) fn token(&self) -> &str {
        self.member("token")
    }

    /// A Connect token with access to `AgentVault` only.
    pub(crate) fn limited_token(&self) -> &str {
        self.member("limited_token")
    }

    /// An expired Connect token.
    pub(crate) fn expired_token(&self) -> &str {
        self.member("expired_token")
    }

    /// Creates an item in a vault and returns its id. Each field is `(section, label, value)`; an empty section is none.
    pub(crate) fn create_item(&self, vault: &str, title: &str, fields: &[(&str, &str, &str)]) -> String {
        let mut sections: Vec<&str> =
            fields.iter().map(|field| field.0).filter(|section| !section.is_empty()).collect();
        sections.sort_unstable();
        sections.dedup();
        let item = json!({
            "vault": { "id": vault },
            "title": title,
            "category": "LOGIN",
            "sections": sections.iter().map(|label| json!({ "id": label, "label": label })).collect::<Value>(),
            "fields": fields.iter().map(|(section, label, value)| {
                let mut field = json!({ "type": "CONCEALED", "label": label, "value": value });
                if !section.is_empty() {
                    field["section"] = json!({ "id": section });
                }
                field
            }).collect::<Value>(),
        });
        let created = self.request("POST", &format!("/v1/vaults/{vault}/items"), &item);
        created["id"].as_str().expect("the stand-in refused the item").to_owned()
    }

    /// Every request since the start, oldest first: `service`, `method`, `path`, `query`, `authorization`, `status`.
    pub(crate) fn requests(&self) -> Vec<Value> {
        self.request("GET", "/stand-in/requests", &Value::Null).as_array().unwrap().clone()
    }

    /// How many requests have followed a redirect.
    pub(crate) fn hits(&self) -> u64 {
        self.request("GET", "/stand-in/hits", &Value::Null)["hits"].as_u64().unwrap()
    }

    /// Sends a request with the valid token to Connect, and returns the body of the response.
    pub(crate) fn request(&self, method: &str, path: &str, body: &Value) -> Value {
        self.request_at(self.connect(), method, path, body)
    }

    /// Sends a request to Cloud KMS, and returns the body of the response.
    pub(crate) fn request_kms(&self, method: &str, path: &str, body: &Value) -> Value {
        self.request_at(self.kms(), method, path, body)
    }

    fn request_at(&self, url: &str, method: &str, path: &str, body: &Value) -> Value {
        self.request_with(self.token(), url, method, path, body)
    }

    fn request_with(&self, token: &str, url: &str, method: &str, path: &str, body: &Value) -> Value {
        let (scheme, host) = url.split_once("://").unwrap();
        let body = body.to_string();
        let head = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n");
        let framing = format!("Connection: close\r\nContent-Length: {}\r\n\r\n", body.len());
        let request = [head, framing, body].concat();
        let stream = TcpStream::connect(host).unwrap();
        let response = match scheme {
            "https" => exchange(self.tls(stream), &request),
            _ => exchange(stream, &request),
        };
        let (_, body) = response.split_once("\r\n\r\n").unwrap();
        serde_json::from_str(body).unwrap_or_default()
    }

    fn tls(&self, stream: TcpStream) -> StreamOwned<ClientConnection, TcpStream> {
        let mut roots = RootCertStore::empty();
        let authority = CertificateDer::from_pem_file(self.ca_file().unwrap()).unwrap();
        roots.add(authority).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from("localhost").unwrap();
        StreamOwned::new(ClientConnection::new(Arc::new(config), name).unwrap(), stream)
    }

    fn member(&self, name: &str) -> &str {
        self.ready[name].as_str().unwrap_or_else(|| panic!("the stand-in printed no {name}"))
    }
}

impl Drop for StandIn {
    /// Ends the stand-in by closing its standard input.
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// The path of a program of this build: cargo puts it into `target/<profile>`, above the `deps` or `examples` of the running test.
pub(crate) fn program(name: &str) -> PathBuf {
    std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join(name)
}

/// Writes a file with this mode.
pub(crate) fn with_mode(path: &Path, content: &[u8], mode: u32) {
    fs::write(path, content).unwrap();
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// Prints that a test is skipped, and the reason. In CI that is a failure.
///
/// # Panics
/// In CI.
pub(crate) fn skip(reason: &str) {
    assert!(std::env::var_os("CI").is_none(), "{reason}");
    // Not by eprintln!, whose output the harness discards when a test passes.
    let _ = writeln!(std::io::stderr(), "skipped: {reason}");
}

fn exchange(mut stream: impl Read + Write, request: &str) -> String {
    let mut response = String::new();
    stream.write_all(request.as_bytes()).unwrap();
    stream.read_to_string(&mut response).unwrap();
    response
}
