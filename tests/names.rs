//! Name resolution with `/etc/hosts` and `resolv.conf`, in the process and without libraries of the host.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking, its helpers too")]

mod support;

use std::fs;
use std::net::{IpAddr, UdpSocket};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use oci_secrets::dns::{ResolveError, Resolver};
use support::container::Container;
use support::host::{Host, run};
use support::machine::Machine;
use support::{AGENT_VAULT, StandIn, skip};

const REFERENCE: &str = "op://AgentVault/database/password";
const PROVIDER: &str = "projects/123456/locations/global/workloadIdentityPools/stand-in/providers/stand-in";

/// Files that getaddrinfo(3) opens, also in a static program.
const NSS_FILES: [&str; 5] = ["nsswitch.conf", "libnss_", "gai.conf", "libresolv", "host.conf"];

#[test]
fn name_resolution_loads_no_library_of_the_host() {
    let Some(machine) = Machine::enter() else { return };
    if Command::new("strace").arg("--version").output().is_err() {
        return skip("strace");
    }
    machine.replace("/etc/nsswitch.conf", "hosts: files systemd myhostname dns\n");
    machine.replace("/etc/resolv.conf", "nameserver 127.0.0.53\n");
    // reqwest's own resolver, which Google's client uses, asks for the IPv6 address of a name that has an IPv4 one in /etc/hosts.
    let _server = NameServer::start("127.0.0.53");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let arguments = ["--tls", "--dir", path.to_str().unwrap(), "--identity-port", "443"];
    let stand_in = StandIn::start(&arguments);
    machine.trust(&path.join("ca.pem"));
    for name in ["cloudkms", "sts", "iamcredentials", "oauth2"] {
        machine.name(&format!("{name}.googleapis.com"), "127.0.0.1");
    }
    // Connect, Google's token service and KMS, and a job's token are all addressed by name.
    let endpoint = stand_in.kms().replace("127.0.0.1", "localhost");
    let gcp_kms = format!(
        "endpoint = {endpoint:?}\nworkload-identity-provider = {PROVIDER:?}\n\
         token = {{ file = {:?} }}",
        path.join("renewed")
    );
    support::with_mode(&path.join("renewed"), stand_in.mint("kubernetes", &google_claims()).as_bytes(), 0o600);
    let host = Host::new(&stand_in, &gcp_kms);
    let settings = fs::read_to_string(host.settings()).unwrap().replace("https://127.0.0.1", "https://localhost");
    fs::write(host.settings(), settings).unwrap();
    let kek = format!("{}/prod", support::host::KEY_RING);
    let traced = |program: &str, arguments: &[&str], input: &[u8]| {
        let trace = path.join("trace");
        let command = host.program(program);
        let mut strace = Command::new("strace");
        strace.args(["-f", "-qq", "-e", "trace=open,openat,connect", "-o"]).arg(&trace).arg(command.get_program());
        let output = run(strace.args(command.get_args()).args(arguments).env_clear(), input);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let trace = fs::read_to_string(trace).unwrap();
        assert!(trace.contains("\"/etc/hosts\""), "{trace}");
        for file in NSS_FILES {
            assert!(!trace.contains(file), "{file}: {trace}");
        }
        output
    };
    let sealed = traced("oci-secrets", &["seal", "--kek", &kek, "--for", REFERENCE], b"canary");
    let sealed = String::from_utf8(sealed.stdout).unwrap();
    stand_in.create_item(AGENT_VAULT, "database", &[("", "password", sealed.trim_end())]);
    let container = Container::create();
    traced("oci-secrets-hook", &[], &container.state([("run.secrets/password".into(), REFERENCE.into())]));
    assert_eq!(container.secret("password"), b"canary");
}

fn google_claims() -> serde_json::Value {
    serde_json::json!({ "claims": { "aud": format!("https://iam.googleapis.com/{PROVIDER}") } })
}

#[test]
fn ndots_determines_the_order_of_search_domains() {
    let Some(machine) = Machine::enter() else { return };
    let server = NameServer::start("127.0.0.1");
    machine.replace("/etc/resolv.conf", "nameserver 127.0.0.1\nsearch one.test two.test\noptions ndots:2\n");
    assert_eq!(resolve("connect"), Ok(vec!["192.0.2.2".into()]));
    assert_eq!(server.take_queried(), ["connect.one.test.", "connect.two.test."]);
    assert_eq!(resolve("a.b.known.test"), Ok(vec!["192.0.2.3".into()]));
    assert_eq!(server.take_queried(), ["a.b.known.test."]);
    assert_eq!(resolve("nowhere"), Err("host \"nowhere\" does not exist".into()));
}

#[test]
fn names_in_the_hosts_file_cause_no_query() {
    let Some(machine) = Machine::enter() else { return };
    machine.name("Pinned.test", "192.0.2.9");
    // The file is not valid UTF-8 from here on.
    fs::OpenOptions::new()
        .append(true)
        .open("/etc/hosts")
        .and_then(|mut hosts| std::io::Write::write_all(&mut hosts, b"# caf\xe9\n2001:db8::9 after.test\n"))
        .unwrap();
    let server = NameServer::start("127.0.0.1");
    machine.replace("/etc/resolv.conf", "nameserver 127.0.0.1\n");
    assert_eq!(resolve("pinned.TEST"), Ok(vec!["192.0.2.9".into()]));
    assert_eq!(resolve("after.test"), Ok(vec!["2001:db8::9".into()]));
    assert_eq!(resolve("localhost"), Ok(vec!["127.0.0.1".into()]));
    assert!(server.take_queried().is_empty());
}

#[test]
fn resolves_ipv4_and_ipv6_addresses() {
    let Some(machine) = Machine::enter() else { return };
    let _server = NameServer::start("127.0.0.1");
    machine.replace("/etc/resolv.conf", "nameserver 127.0.0.1\n");
    assert_eq!(resolve("both.test"), Ok(vec!["2001:db8::1".into(), "192.0.2.1".into()]));
    assert_eq!(resolve("six.test"), Ok(vec!["2001:db8::6".into()]));
}

#[test]
fn falls_back_to_the_next_name_server() {
    let Some(machine) = Machine::enter() else { return };
    let _silent = UdpSocket::bind("127.0.0.2:53").unwrap();
    let _server = NameServer::start("127.0.0.1");
    machine.replace("/etc/resolv.conf", "nameserver 127.0.0.2\nnameserver 127.0.0.1\n");
    let begin = Instant::now();
    assert_eq!(resolve("both.test").map(|found| found.len()), Ok(2));
    assert!(begin.elapsed() < Duration::from_millis(3000), "{:?}", begin.elapsed());
}

#[test]
fn queries_localhost_without_a_name_server_and_rereads_resolv_conf() {
    let Some(machine) = Machine::enter() else { return };
    machine.replace("/etc/resolv.conf", "# nothing\n");
    let resolver = Resolver::default();
    let found = || block_on(resolver.resolve("both.test")).map(|found| found.len());
    assert!(found().is_err());
    let _server = NameServer::start("127.0.0.1");
    assert_eq!(found().unwrap(), 2);
    let other = NameServer::start("127.0.0.3");
    fs::write("/etc/resolv.conf", "nameserver 127.0.0.3\nsearch one.test\n").unwrap();
    assert_eq!(block_on(resolver.resolve("both.test")).unwrap().len(), 2);
    assert!(!other.take_queried().is_empty());
}

fn resolve(host: &str) -> Result<Vec<Address>, String> {
    let found = block_on(Resolver::default().resolve(host));
    found.map(|found| found.into_iter().map(Address).collect()).map_err(|error| error.to_string())
}

#[derive(Debug, PartialEq)]
struct Address(IpAddr);

impl From<&str> for Address {
    fn from(text: &str) -> Address {
        Address(text.parse().unwrap())
    }
}

fn block_on<T>(work: impl Future<Output = Result<T, ResolveError>>) -> Result<T, ResolveError> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

/// A name server with a few names. It records the names of all queries, in lower case.
struct NameServer {
    queried: Arc<Mutex<Vec<String>>>,
}

impl NameServer {
    fn start(address: &str) -> NameServer {
        let socket = UdpSocket::bind((address, 53)).unwrap();
        let queried = Arc::new(Mutex::new(Vec::<String>::new()));
        let server = NameServer { queried: Arc::clone(&queried) };
        std::thread::spawn(move || {
            let mut query = [0; 512];
            while let Ok((length, client)) = socket.recv_from(&mut query) {
                let (name, kind, end) = question(&query[..length]);
                let mut queried = queried.lock().unwrap();
                if !queried.contains(&name) {
                    queried.push(name.clone());
                }
                let _ = socket.send_to(&answer(&query[..end], &name, kind), client);
            }
        });
        server
    }

    /// The names in queries since the last call, without duplicates.
    fn take_queried(&self) -> Vec<String> {
        std::mem::take(&mut self.queried.lock().unwrap())
    }
}

/// The name and type in a query, and the offset of the end of its question (RFC 1035, section 4.1.2).
fn question(query: &[u8]) -> (String, u16, usize) {
    let (mut name, mut at) = (String::new(), 12);
    while query[at] != 0 {
        let end = at + 1 + usize::from(query[at]);
        name += &String::from_utf8_lossy(&query[at + 1..end]).to_lowercase();
        name.push('.');
        at = end;
    }
    (name, u16::from_be_bytes([query[at + 1], query[at + 2]]), at + 5)
}

/// The response to a query that ends with its question.
fn answer(question: &[u8], name: &str, kind: u16) -> Vec<u8> {
    const A: u16 = 1;
    const AAAA: u16 = 28;
    let addresses: &[&str] = match name {
        "both.test." => &["192.0.2.1", "2001:db8::1"],
        "six.test." => &["2001:db8::6"],
        "connect.two.test." => &["192.0.2.2"],
        "a.b.known.test." => &["192.0.2.3"],
        _ => &[],
    };
    let data = addresses.iter().filter_map(|address| match (kind, address.parse().unwrap()) {
        (A, IpAddr::V4(address)) => Some(address.octets().to_vec()),
        (AAAA, IpAddr::V6(address)) => Some(address.octets().to_vec()),
        _ => None,
    });
    let data: Vec<Vec<u8>> = data.collect();
    let nx_domain = u8::from(addresses.is_empty()) * 3;
    let mut answer = question.to_vec();
    answer[2..4].copy_from_slice(&[0x85, 0x80 | nx_domain]);
    answer[4..12].copy_from_slice(&[0, 1, 0, data.len() as u8, 0, 0, 0, 0]);
    for data in data {
        answer.extend([0xc0, 12, 0, kind as u8, 0, 1, 0, 0, 0, 60, 0, data.len() as u8]);
        answer.extend(data);
    }
    answer
}
