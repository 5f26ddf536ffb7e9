//! Issuers that rotate their keys, do not respond, respond slowly, or send invalid responses.

use std::io::Write as _;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::StandIn;
use crate::support::gateway::Gateway;
use crate::{Site, issuer, rule};

#[test]
fn rotated_keys_interrupt_no_client() {
    let site = Site::granting(&["op://AgentVault/ordinary/*"]);
    let before = site.mint(Value::Null);
    assert_eq!(site.gateway.get("/v1/vaults", &before).status, 200);
    site.stand_in.control_issuer("github", "rotate", &json!({}));
    let after = site.mint(Value::Null);
    assert_eq!(site.gateway.get("/v1/vaults", &after).status, 200);
    assert_eq!(site.gateway.get("/v1/vaults", &before).status, 200);

    // A withdrawn key is removed at the next fetch of the keys, which an unknown key triggers.
    site.stand_in.control_issuer("github", "rotate", &json!({ "keep": false }));
    assert_eq!(site.gateway.get("/v1/vaults", &site.mint(Value::Null)).status, 200);
    // The limit for fetches is reached, so the denial is not permanent.
    assert_eq!(site.gateway.get("/v1/vaults", &after).status, 503);
    assert_eq!(site.last()["reason"], "key-pending");
    assert_eq!(request_count(&site, "jwks"), 3);
}

#[test]
fn keys_of_another_server_or_issuer_are_not_accepted() {
    let site = site_with(9);
    // The issuer's own keys, but on another host.
    let elsewhere = site.stand_in.issuer("github-0").replace("127.0.0.1", "localhost") + "/.well-known/jwks";
    let signed_by = |algorithms: [&str; 1]| json!({ "id_token_signing_alg_values_supported": algorithms });
    let cases = [
        ("keys on another server", "discovery", json!({ "jwks_uri": elsewhere }), 503, "issuer-down"),
        ("keys over plain http", "discovery", json!({ "jwks_uri": "http://keys.example/keys" }), 503, "issuer-down"),
        ("another's document", "discovery", json!({ "issuer": "https://issuer.example" }), 503, "issuer-down"),
        ("no set of keys", "jwks", json!("keys"), 503, "issuer-down"),
        ("a duplicate set of keys", "jwks", json!({ "raw": r#"{"keys":[],"keys":[]}"# }), 503, "issuer-down"),
        (
            "a key with a member twice",
            "jwks",
            json!({ "raw": r#"{"keys":[{"kid":"a","\u006bid":"b"}]}"# }),
            503,
            "issuer-down",
        ),
        ("keys for an algorithm that is not accepted", "discovery", signed_by(["HS256"]), 401, "unknown-key"),
        (
            "a symmetric key",
            "jwks",
            json!({ "keys": [{ "kty": "oct", "kid": "github-key-1", "k": "eA" }] }),
            401,
            "unknown-key",
        ),
        ("no keys", "jwks", json!({ "keys": [] }), 401, "unknown-key"),
    ];
    for (at, (name, document, content, status, reason)) in cases.iter().enumerate() {
        let issuer = format!("github-{at}");
        site.stand_in.control_issuer(&issuer, document, content);
        let answer = site.gateway.get("/v1/vaults", &site.stand_in.mint(&issuer, &Value::Null));
        assert_eq!((answer.status, &site.last()["reason"]), (*status, &json!(reason)), "{name}");
    }

    // Keys of another issuer with the same key ids: the cached verification of the genuine key does not apply to them.
    let genuine = site.mint(Value::Null);
    let mut keys = site.stand_in.keys("github-other");
    keys["keys"][0]["kid"] = "github-key-1".into();
    site.stand_in.control_issuer("github", "jwks", &keys);
    assert_eq!(site.gateway.get("/v1/vaults", &genuine).status, 401);
    assert_eq!(site.last()["reason"], "signature");
}

#[test]
fn an_issuer_that_does_not_respond_affects_only_unknown_keys() {
    let site = Site::granting(&["op://AgentVault/ordinary/*"]);
    let token = site.mint(Value::Null);
    for fault in ["status-503", "reset"] {
        site.stand_in.control_issuer("github", "fault", &json!({ "discovery": fault }));
        let answer = site.gateway.get("/v1/vaults", &token);
        assert_eq!((answer.status, &site.last()["reason"]), (503, &json!("issuer-down")), "{fault}");
        assert!(answer.head.iter().any(|line| line == "retry-after: 1"));
    }
    site.stand_in.control_issuer("github", "fault", &json!({ "discovery": null }));
    assert_eq!(site.gateway.get("/v1/vaults", &token).status, 200);
    site.stand_in.control_issuer("github", "fault", &json!({ "discovery": "status-503", "jwks": "status-503" }));
    assert_eq!(site.gateway.get("/v1/vaults", &token).status, 200);
}

#[test]
fn hostile_responses_of_an_issuer_are_bounded() {
    let faults = ["huge", "not-json", "deep-json", "wrong-type", "half-closed", "redirect", "silent"];
    let site = site_with(faults.len());
    for (at, fault) in faults.iter().enumerate() {
        let issuer = format!("github-{at}");
        site.stand_in.control_issuer(&issuer, "fault", &json!({ "jwks": fault }));
        let answer = site.gateway.get("/v1/vaults", &site.stand_in.mint(&issuer, &Value::Null));
        assert_eq!((answer.status, &site.last()["reason"]), (503, &json!("issuer-down")), "{fault}");
    }
    assert_eq!(site.stand_in.hits(), 0);
}

#[test]
fn concurrent_waiters_cause_one_request_to_a_slow_issuer() {
    let site = Site::granting(&["op://AgentVault/ordinary/*"]);
    site.stand_in.control_issuer("github", "fault", &json!({ "jwks": "slow-300" }));
    let token = site.mint(Value::Null);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| assert_eq!(site.gateway.get("/v1/vaults", &token).status, 200));
        }
    });
    assert_eq!(request_count(&site, "jwks"), 1);
}

#[test]
fn made_up_keys_cause_few_requests_and_delay_a_new_key_by_seconds() {
    let site = Site::granting(&["op://AgentVault/ordinary/*"]);
    let mut statuses = Vec::new();
    for number in 0..30 {
        let token = site.mint(json!({ "header": { "kid": format!("made-up-{number}") } }));
        statuses.push(site.gateway.get("/v1/vaults", &token).status);
    }
    assert_eq!(statuses[..3], [401; 3]);
    assert!(statuses[3..].iter().filter(|status| **status == 503).count() >= 25, "{statuses:?}");
    assert_eq!(site.last()["reason"], "key-pending");
    assert!(request_count(&site, "jwks") <= 5);
    assert_eq!(site.gateway.get("/v1/vaults", &site.mint(Value::Null)).status, 200);

    // A genuine new key is refused at first, and accepted after the time in `Retry-After`.
    site.stand_in.control_issuer("github", "rotate", &json!({}));
    let token = site.mint(Value::Null);
    let answer = site.gateway.get("/v1/vaults", &token);
    let after = answer.head.iter().find_map(|line| line.strip_prefix("retry-after: "));
    let after: u64 = after.unwrap_or("0").parse().unwrap();
    assert!(answer.status == 503 && after <= 5, "{answer:?}");
    thread::sleep(Duration::from_secs(after));
    assert_eq!(site.gateway.get("/v1/vaults", &token).status, 200);
}

#[test]
fn a_silent_issuer_does_not_shut_out_clients_of_others() {
    let stand_in = StandIn::start(&[]);
    let rules = [
        issuer(&stand_in, "github", "github"),
        issuer(&stand_in, "github-silent", "github"),
        rule(&stand_in, &["op://AgentVault/ordinary/*"]),
        "[limits]\nrequests = 2\n".to_owned(),
    ];
    let gateway = Gateway::start(&stand_in, &rules.concat());
    stand_in.control_issuer("github-silent", "fault", &json!({ "discovery": "silent" }));
    let token = stand_in.mint("github", &Value::Null);
    // More waiting requests than the limit for concurrent requests.
    let waiting: Vec<_> = (0..8)
        .map(|number| {
            let made_up = stand_in.mint("github-silent", &json!({ "header": { "kid": format!("made-up-{number}") } }));
            let mut connection = gateway.connect();
            let request =
                format!("GET /v1/vaults HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {made_up}\r\n\r\n");
            connection.write_all(request.as_bytes()).unwrap();
            connection
        })
        .collect();
    while !stand_in.requests().iter().any(|request| request["path"].as_str().unwrap().starts_with("/github-silent")) {
        thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(gateway.get("/v1/vaults", &token).status, 200);
    drop(waiting);
}

#[test]
fn accepts_each_kind_of_issuer_for_its_own_rules() {
    let stand_in = StandIn::start(&[]);
    let mut rules = rule(&stand_in, &["op://AgentVault/ordinary/*"]);
    let others = [
        ("gitlab", "project_path = 'acme/app', project_id = '20', ref_protected = 'true'"),
        ("kubernetes", "'kubernetes.io/namespace' = 'agents', sub = 'system:serviceaccount:agents:deployer'"),
        ("es256", "sub = 'job'"),
        ("eddsa", "sub = 'job'"),
    ];
    rules.push_str(&issuer(&stand_in, "github", "github"));
    for (name, claims) in others {
        let kind = if name == "gitlab" { name } else { "generic" };
        rules.push_str(&issuer(&stand_in, name, kind));
        let url = stand_in.issuer(name);
        rules.push_str(&format!(
            "[[rule]]\nname = '{name}'\nissuer = '{url}'\nclaims = {{ {claims} }}\nreferences = ['op://Shapes/*']\n"
        ));
    }
    let gateway = Gateway::start(&stand_in, &rules);
    for (name, _) in others {
        let vaults = gateway.get("/v1/vaults", &stand_in.mint(name, &Value::Null)).json();
        assert_eq!(vaults[0]["name"], "Shapes", "{name}: {vaults}");
        assert_eq!(gateway.audit().pop().unwrap()["rules"], json!([name]));
    }
    // Claims that match the rule of another issuer.
    let forged = stand_in.mint(
        "es256",
        &json!({ "claims": { "sub": "system:serviceaccount:agents:deployer",
        "kubernetes.io": { "namespace": "agents" }, "repository": "acme/app" } }),
    );
    assert_eq!(gateway.get("/v1/vaults", &forged).status, 403);
    // The name of one issuer with the signature of another trusted issuer.
    for (header, reason) in [(json!({}), "unknown-key"), (json!({ "kid": "github-key-1" }), "signature")] {
        let forged = stand_in.mint("github", &json!({ "by": "gitlab", "header": header }));
        assert_eq!(gateway.get("/v1/vaults", &forged).status, 401);
        assert_eq!(gateway.audit().pop().unwrap()["reason"], reason);
    }
}

/// A site with this number of additional issuers, `github-0` and so on.
fn site_with(issuers: usize) -> Site {
    let stand_in = StandIn::start(&[]);
    let more = (0..issuers).map(|at| issuer(&stand_in, &format!("github-{at}"), "github"));
    let rules: Vec<String> =
        more.chain([issuer(&stand_in, "github", "github"), rule(&stand_in, &["op://AgentVault/ordinary/*"])]).collect();
    let gateway = Gateway::start(&stand_in, &rules.concat());
    Site { stand_in, gateway }
}

/// The number of requests to the issuer for this path.
fn request_count(site: &Site, what: &str) -> usize {
    let requests = site.stand_in.requests();
    requests.iter().filter(|request| request["path"].as_str().unwrap().ends_with(what)).count()
}
