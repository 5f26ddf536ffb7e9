//! The gateway as a service: limits, signals, socket activation, and errors at start.

use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::StandIn;
use crate::support::gateway::{Gateway, Install, read};
use crate::support::with_mode;
use crate::{Site, filtered, issuer, rule, vault_path};

#[test]
fn a_reload_applies_new_rules_and_invalid_settings_change_nothing() {
    let mut site = Site::granting(&["op://AgentVault/*"]);
    assert_eq!(site.get("/v1/vaults").json().as_array().unwrap().len(), 1);
    let issuer = issuer(&site.stand_in, "github", "github");
    site.gateway.install().write(&format!("{issuer}[[rule]]\nname = 'x'\n"));
    let message = site.gateway.reload("error: the previous settings stay in effect: ");
    assert!(message.contains("gateway.toml: line ") && message.ends_with("rule: missing field `issuer`"), "{message}");
    assert_eq!(site.get("/v1/vaults").status, 200);

    site.gateway.install().write(&format!("{issuer}{}", rule(&site.stand_in, &["op://Shapes/*"])));
    site.gateway.install().certify();
    site.gateway.reload("note: reloaded the settings");
    // The client trusts only the new certificate, so the gateway uses it.
    assert_eq!(site.get("/v1/vaults").json()[0]["name"], "Shapes");
    let keys = site.stand_in.requests().iter().filter(|request| request["path"] == "/github/.well-known/jwks").count();
    assert_eq!(keys, 1, "cached keys of an issuer survive a reload");
}

#[test]
fn metrics_are_served_only_on_their_own_address() {
    let stand_in = StandIn::start(&[]);
    let rules = format!("{}{}", issuer(&stand_in, "github", "github"), rule(&stand_in, &["op://AgentVault/*"]));
    let install = Install::new(&stand_in, &format!("{rules}[metrics]\nlisten = '127.0.0.1:0'\n"));
    let command = install.program();
    let mut gateway = Gateway::run(command, install);
    let monitoring = gateway.wait_for_line("metrics are on ");
    let metrics = || {
        let mut stream = TcpStream::connect(&monitoring).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
        String::from_utf8(read(stream).body).unwrap()
    };
    assert_eq!(gateway.get("/v1/vaults", &stand_in.mint("github", &Value::Null)).status, 200);
    gateway.get("/v1/vaults", "x");
    gateway.install().write("no settings");
    gateway.reload("the previous settings stay in effect");
    let text = metrics();
    for line in [
        "oci_secrets_gateway_requests_total{outcome=\"allowed\"} 1",
        "oci_secrets_gateway_requests_total{outcome=\"not-a-token\"} 1",
        "oci_secrets_gateway_reloads_total{outcome=\"failure\"} 1",
        "oci_secrets_gateway_settings_current 0",
        &format!("oci_secrets_gateway_issuer_requests{{issuer=\"{}\"}} 1", stand_in.issuer("github")),
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in {text}");
    }
    assert_eq!(gateway.get("/metrics", "").status, 404);
}

#[test]
fn rate_limits_apply_per_identity() {
    let stand_in = StandIn::start(&[]);
    let others = rule(&stand_in, &["op://Shapes/*"])
        .replace("'deploy'", "'others'")
        .replace("refs/heads/main", "refs/heads/other");
    let rules = [
        issuer(&stand_in, "github", "github"),
        rule(&stand_in, &["op://AgentVault/*"]),
        others,
        "[limits]\nrate = 1\nburst = 5\n".to_owned(),
    ];
    let gateway = Gateway::start(&stand_in, &rules.concat());
    let token = stand_in.mint("github", &Value::Null);
    let statuses: Vec<u16> = (0..12).map(|_| gateway.get("/v1/vaults", &token).status).collect();
    assert!(statuses[..5].iter().all(|status| *status == 200) && statuses.contains(&429), "{statuses:?}");
    let record = gateway.audit().into_iter().find(|record| record["status"] == 429).unwrap();
    assert_eq!((&record["reason"], &record["rules"]), (&json!("too-many"), &json!(["deploy"])));
    let other = json!({ "claims": { "ref": "refs/heads/other", "sub": "repo:acme/app:ref:refs/heads/other" } });
    assert_eq!(gateway.get("/v1/vaults", &stand_in.mint("github", &other)).status, 200);
}

#[test]
fn idle_connections_of_one_client_do_not_shut_out_others() {
    let stand_in = StandIn::start(&[]);
    let limits = "[limits]\nconnections = 8\nconnections-per-client = 6\n";
    let rules = [issuer(&stand_in, "github", "github"), rule(&stand_in, &["op://AgentVault/*"]), limits.to_owned()];
    let gateway = Gateway::start(&stand_in, &rules.concat());
    let token = stand_in.mint("github", &Value::Null);
    let heartbeat = b"GET /heartbeat HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut idle: Vec<_> = [1, 2]
        .iter()
        .flat_map(|last| (0..12).map(move |_| [127, 0, 0, *last]))
        .map(|from| {
            let mut connection = gateway.connect_from(from.into());
            connection.write_all(heartbeat).unwrap();
            assert_ne!(connection.read(&mut [0; 1024]).unwrap(), 0);
            connection
        })
        .collect();
    for _ in 0..3 {
        assert_eq!(gateway.get("/v1/vaults", &token).status, 200);
    }
    let mut other = gateway.connect_from([127, 0, 0, 3].into());
    other.write_all(heartbeat).unwrap();
    assert_ne!(other.read(&mut [0; 1024]).unwrap(), 0);
    // The newest idle connection is still open, the oldest is not.
    let mut is_open = |at: usize| {
        let _ = idle[at].write_all(heartbeat);
        matches!(idle[at].read(&mut [0; 1024]), Ok(1..))
    };
    assert!(is_open(23) && !is_open(0) && !is_open(12));
}

#[test]
fn requests_beyond_the_limit_are_denied_immediately() {
    let stand_in = StandIn::start(&[]);
    let rules = [
        issuer(&stand_in, "github", "github"),
        rule(&stand_in, &["op://Faults/*"]),
        "[limits]\nrequests = 1\n".to_owned(),
    ];
    let gateway = Gateway::start(&stand_in, &rules.concat());
    let token = stand_in.mint("github", &Value::Null);
    let faults = "/v1/vaults/faults00000000000000000000/items";
    let id =
        gateway.get(&filtered(faults, "title eq \"slow-1000\""), &token).json()[0]["id"].as_str().unwrap().to_owned();
    thread::scope(|scope| {
        let slow = scope.spawn(|| gateway.get(&format!("{faults}/{id}"), &token).status);
        while !stand_in.requests().iter().any(|request| request["path"].as_str().unwrap().ends_with(&id)) {
            thread::sleep(Duration::from_millis(5));
        }
        let answer = gateway.get("/v1/vaults", &token);
        assert_eq!((answer.status, &gateway.audit().pop().unwrap()["reason"]), (503, &json!("busy")));
        assert_eq!(slow.join().unwrap(), 200);
    });
}

#[test]
fn shuts_down_after_pending_requests() {
    let mut site = Site::granting(&["op://Faults/*"]);
    let faults = "/v1/vaults/faults00000000000000000000/items";
    let id = site.get(&filtered(faults, "title eq \"slow-500\"")).json()[0]["id"].as_str().unwrap().to_owned();
    let token = site.mint(Value::Null);
    let mut idle = site.gateway.connect();
    idle.write_all(b"GET /heartbeat HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    assert_ne!(idle.read(&mut [0; 1024]).unwrap(), 0);
    thread::scope(|scope| {
        let slow = scope.spawn(|| site.gateway.get(&format!("{faults}/{id}"), &token).status);
        while !site.stand_in.requests().iter().any(|request| request["path"].as_str().unwrap().ends_with(&id)) {
            thread::sleep(Duration::from_millis(5));
        }
        site.gateway.signal(Signal::TERM);
        assert_eq!(slow.join().unwrap(), 200);
    });
    assert_eq!(site.gateway.wait().code(), Some(0));
}

#[test]
fn supports_socket_activation_and_sd_notify() {
    // As systemd does: a listening socket as descriptor 3, and the PID in the environment.
    const SYSTEMD: &str = "
import os, socket, sys
passed = socket.create_server(('127.0.0.1', 0))
os.dup2(passed.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid()), NOTIFY_SOCKET=sys.argv[1], LD_PRELOAD='', SSL_CERT_FILE='/nowhere')
os.execv(sys.argv[2], sys.argv[2:])
";
    let stand_in = StandIn::start(&[]);
    let rules = format!("{}{}", issuer(&stand_in, "github", "github"), rule(&stand_in, &["op://AgentVault/*"]));
    let install = Install::new(&stand_in, &rules);
    let settings = fs::read_to_string(install.path("gateway.toml")).unwrap().replace("listen = '127.0.0.1:0'\n", "");
    with_mode(&install.path("gateway.toml"), settings.as_bytes(), 0o644);
    let systemd = UnixDatagram::bind(install.path("notify")).unwrap();
    let program = install.program();
    let mut command = Command::new("python3");
    command.args(["-c", SYSTEMD]).arg(install.path("notify")).arg(program.get_program()).args(program.get_args());
    let mut gateway = Gateway::run(command, install);
    let mut state = [0; 64];
    let length = systemd.recv(&mut state).unwrap();
    assert_eq!(&state[..length], b"READY=1");
    assert_eq!(gateway.get("/v1/vaults", &stand_in.mint("github", &Value::Null)).status, 200);
    let environment = fs::read(format!("/proc/{}/environ", gateway.pid())).unwrap();
    assert!(!String::from_utf8_lossy(&environment).contains("SSL_CERT_FILE"));
    gateway.signal(Signal::TERM);
    let length = systemd.recv(&mut state).unwrap();
    assert_eq!(&state[..length], b"STOPPING=1");
    assert_eq!(gateway.wait().code(), Some(0));
}

#[test]
fn refuses_unsafe_settings_and_reports_why() {
    let stand_in = StandIn::start(&[]);
    let good = format!("{}{}", issuer(&stand_in, "github", "github"), rule(&stand_in, &["op://AgentVault/*"]));
    let install = Install::new(&stand_in, &good);
    let check = |code: i32, message: &str| {
        let output = install.program().arg("--check").output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{stderr}");
        assert!(stderr.contains(message), "{stderr} lacks {message}");
    };
    check(0, "");
    with_mode(&install.path("connect-token"), b"token", 0o644);
    check(77, "connect-token: mode is 0644, others can read it\noci-secrets-gateway: hint: chmod 0600 ");
    with_mode(&install.path("connect-token"), b"token", 0o600);
    for (text, message) in [
        (
            good.replace("repository = 'acme/app'", "repository = '*'"),
            "rule 1: claims: it is for everybody: expected one of repository, ",
        ),
        (good.replace("'65123'", "65123"), "rule 1: claims.repository_owner_id: this claim is a string"),
        (
            good.replace(&stand_in.issuer("github"), &format!("{}/", stand_in.issuer("github"))),
            &format!("url: tokens name their issuer as {:?}", stand_in.issuer("github")),
        ),
        (good.replace("acme/app", "acme-*"), "\"*\" stands for one whole segment"),
        (
            good.replace("op://AgentVault/*", "op://*/deploy/password"),
            "\"*\" can stand for vaults or items only at the end",
        ),
        (good.replace("'oci-secrets'", "''"), "audience: it must not be empty"),
        (format!("{good}{good}"), "issuer 2: another has the same url"),
        (good.replacen("http://", "https://", 1), "rule 1: no [[issuer]] has this url"),
        (good.replace("127.0.0.1", "issuer.example"), "url: plain http to a host other than loopback"),
        (good.replace("audience", "algorithms = ['HS256']\naudience"), "expected one of `RS256`, `ES256`, `EdDSA`"),
        (good.replace("audience", "max-lifetime = '48h'\naudience"), "expected a duration from \"1m\" to \"24h\""),
        (format!("{good}[limits]\nrate = 0\n"), "limits.rate: "),
    ] {
        install.write(&text);
        check(78, message);
    }
    // A generic issuer may have a trailing slash in its name; this one does not.
    let generic = good.replace("kind = 'github'", "kind = 'generic'").replace("claims = {", "claims = { sub = 'job',");
    install.write(&generic);
    check(0, "");
    install.write(&generic.replace(&stand_in.issuer("github"), &format!("{}/", stand_in.issuer("github"))));
    check(78, &format!("/\" calls itself {:?}", stand_in.issuer("github")));
    // `jwks-url` does not make the name right.
    let with_slash = generic.replace(&stand_in.issuer("github"), &format!("{}/", stand_in.issuer("github")));
    let keys = format!("jwks-url = '{}/keys'\naudience", stand_in.issuer("github"));
    install.write(&with_slash.replacen("audience", &keys, 1));
    check(78, &format!("/\" calls itself {:?}", stand_in.issuer("github")));
    install.write(&generic.replace(&stand_in.issuer("github"), "http://127.0.0.1:9"));
    check(0, "note: cannot check the issuer http://127.0.0.1:9: no connection");
    install.write(&good.replace("repository_owner_id = '65123', ", ""));
    check(0, "rule deploy: names can be given up and taken by others: add repository_owner_id or repository_id");
    install.write(&good);
    with_mode(&install.path("gateway.key"), b"no key", 0o600);
    check(78, "cannot find a private key in ");
}

#[test]
fn denies_requests_that_cannot_be_recorded() {
    let stand_in = StandIn::start(&[]);
    let rules = format!("{}{}", issuer(&stand_in, "github", "github"), rule(&stand_in, &["op://AgentVault/*"]));
    let install = Install::new(&stand_in, &format!("stdout = true\n{rules}"));
    let mut command = install.program();
    command.stdout(OpenOptions::new().write(true).open("/dev/full").unwrap());
    let gateway = Gateway::run(command, install);
    let answer = gateway.get(&vault_path("/items"), &stand_in.mint("github", &Value::Null));
    assert_eq!((answer.status, answer.json()["message"].as_str()), (503, Some("the audit trail cannot be written")));
}
