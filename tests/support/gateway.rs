//! The gateway as a process, and requests to it.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair};
use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
use rustix::process::{Pid, Signal, kill_process};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::Value;
use tempfile::TempDir;

use super::{StandIn, with_mode};

/// The audience that tokens of the stand-in have.
pub(crate) const AUDIENCE: &str = "oci-secrets";

/// A gateway in front of the stand-in's Connect, as a process that ends when this is dropped.
pub(crate) struct Gateway {
    child: Child,
    stderr: BufReader<ChildStderr>,
    address: SocketAddr,
    install: Install,
}

/// What an operator installs for it.
pub(crate) struct Install {
    directory: TempDir,
    head: String,
}

/// A response.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// The lines of the head, without the date.
    pub(crate) head: Vec<String>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

impl Install {
    /// Settings with this Connect, a certificate for loopback, and the remaining sections in `rules`.
    pub(crate) fn new(stand_in: &StandIn, rules: &str) -> Install {
        let directory = tempfile::Builder::new().prefix("gateway").tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let head = format!(
            "listen = '127.0.0.1:0'\n[tls]\ncertificate-file = {:?}\nkey-file = {:?}\n[connect]\nurl = {:?}\n\
             token-file = {:?}\n[audit]\nfile = {:?}\n",
            path("gateway.crt"),
            path("gateway.key"),
            stand_in.connect(),
            path("connect-token"),
            path("audit.jsonl"),
        );
        let install = Install { directory, head };
        with_mode(&install.path("connect-token"), stand_in.token().as_bytes(), 0o600);
        install.certify();
        install.write(rules);
        install
    }

    /// Sets the CA file for Connect.
    pub(crate) fn trust(&self, authority: &Path) {
        let settings = fs::read_to_string(self.path("gateway.toml")).unwrap();
        let settings = settings.replace("[connect]\n", &format!("[connect]\nca-file = {authority:?}\n"));
        with_mode(&self.path("gateway.toml"), settings.as_bytes(), 0o644);
    }

    /// Creates a new certificate and key.
    pub(crate) fn certify(&self) {
        let key = KeyPair::generate().unwrap();
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let certificate = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
        with_mode(&self.path("gateway.crt"), certificate.pem().as_bytes(), 0o644);
        with_mode(&self.path("gateway.key"), key.serialize_pem().as_bytes(), 0o600);
    }

    /// Writes the settings.
    pub(crate) fn write(&self, rules: &str) {
        with_mode(&self.path("gateway.toml"), format!("{}{rules}", self.head).as_bytes(), 0o644);
    }

    /// The path of a file of the installation.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The program, with these settings and no environment.
    pub(crate) fn program(&self) -> Command {
        let mut command = Command::new(StandIn::program().ancestors().nth(2).unwrap().join("oci-secrets-gateway"));
        command.env_clear().arg("--settings").arg(self.path("gateway.toml"));
        command
    }
}

impl Gateway {
    /// Starts a gateway and waits until it listens.
    pub(crate) fn start(stand_in: &StandIn, rules: &str) -> Gateway {
        let install = Install::new(stand_in, rules);
        let command = install.program();
        Gateway::run(command, install)
    }

    /// Starts a gateway by this command, and waits until it listens.
    pub(crate) fn run(mut command: Command, install: Install) -> Gateway {
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let mut gateway = Gateway { child, stderr, address: SocketAddr::from(([127, 0, 0, 1], 0)), install };
        gateway.address = gateway.wait_for_line("listening on ").parse().unwrap();
        gateway
    }

    /// Waits for a line on standard error that contains this text, and returns the rest of the line.
    pub(crate) fn wait_for_line(&mut self, text: &str) -> String {
        let mut lines = String::new();
        loop {
            let mut line = String::new();
            assert_ne!(self.stderr.read_line(&mut line).unwrap(), 0, "the gateway ended: {lines}");
            if let Some((_, rest)) = line.split_once(text) {
                return rest.trim_end().to_owned();
            }
            lines.push_str(&line);
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    pub(crate) fn install(&self) -> &Install {
        &self.install
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a GET request with this token.
    pub(crate) fn get(&self, path: &str, token: &str) -> Answer {
        self.ask(&format!("GET {path} HTTP/1.1\r\nAuthorization: Bearer {token}\r\n"))
    }

    /// Sends this request, to which it adds `Host`, `Connection` and the final empty line.
    pub(crate) fn ask(&self, request: &str) -> Answer {
        let mut stream = self.connect();
        // The gateway may respond and close the connection before the request is complete.
        let _ = stream.write_all(format!("{request}Host: localhost\r\nConnection: close\r\n\r\n").as_bytes());
        read(stream)
    }

    /// A connection over TLS.
    pub(crate) fn connect(&self) -> StreamOwned<ClientConnection, TcpStream> {
        self.connect_from(Ipv4Addr::LOCALHOST)
    }

    /// A connection over TLS from this address on loopback.
    pub(crate) fn connect_from(&self, from: Ipv4Addr) -> StreamOwned<ClientConnection, TcpStream> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.install.path("gateway.crt")).unwrap()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from("localhost").unwrap();
        let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        bind(&socket, &SocketAddr::from((from, 0))).unwrap();
        connect(&socket, &self.address).unwrap();
        let stream = TcpStream::from(socket);
        StreamOwned::new(ClientConnection::new(Arc::new(config), name).unwrap(), stream)
    }

    /// All audit records, oldest first.
    pub(crate) fn audit(&self) -> Vec<Value> {
        self.audit_text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    pub(crate) fn audit_text(&self) -> String {
        fs::read_to_string(self.install.path("audit.jsonl")).unwrap()
    }

    /// Reloads the settings, and waits for a line with this text.
    pub(crate) fn reload(&mut self, text: &str) -> String {
        self.signal(Signal::HUP);
        self.wait_for_line(text)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads a response until the connection is closed.
pub(crate) fn read(mut stream: impl Read) -> Answer {
    let mut bytes = Vec::new();
    // A response is also complete if the connection is closed without a TLS `close_notify`.
    let _ = stream.read_to_end(&mut bytes);
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").expect("no answer");
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let mut lines = head.lines().map(str::to_owned);
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: lines.filter(|line| !line.starts_with("date:")).collect(), body: bytes[end + 4..].to_vec() }
}
