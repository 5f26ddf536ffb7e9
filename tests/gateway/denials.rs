//! Denied tokens and requests, each with its record.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::StandIn;
use crate::support::gateway::{AUDIENCE, Gateway};
use crate::{Site, issuer, vault_path};

#[test]
fn denies_and_records_each_insufficient_token() {
    let site = Site::granting(&["op://AgentVault/ordinary/*"]);
    let claims = |claims: Value| json!({ "claims": claims });
    let cases = [
        ("another branch", claims(json!({ "ref": "refs/heads/feature" })), 403, "no-rule"),
        ("a branch named like it", claims(json!({ "ref": "refs/heads/main/x" })), 403, "no-rule"),
        ("a tag named like it", claims(json!({ "ref": "refs/tags/main" })), 403, "no-rule"),
        ("a pull request of a fork", claims(pull_request()), 403, "no-rule"),
        ("a run on the base branch for a fork", claims(json!({ "event_name": "pull_request_target" })), 403, "no-rule"),
        ("a longer repository", claims(json!({ "repository": "acme/app-evil" })), 403, "no-rule"),
        ("a longer owner", claims(json!({ "repository": "acme-evil/app" })), 403, "no-rule"),
        ("another case", claims(json!({ "repository": "Acme/app" })), 403, "no-rule"),
        ("a homoglyph", claims(json!({ "repository": "\u{430}cme/app" })), 403, "no-rule"),
        ("the name under another owner's id", claims(json!({ "repository_owner_id": "99999" })), 403, "no-rule"),
        ("a claim that is missing", claims(json!({ "repository_owner_id": null })), 403, "no-rule"),
        ("expired", claims(json!({ "exp": seconds(-120), "iat": seconds(-420) })), 401, "expired"),
        ("not valid yet", claims(json!({ "nbf": seconds(600) })), 401, "not-yet-valid"),
        ("issued in the future", claims(json!({ "iat": seconds(600), "exp": seconds(900) })), 401, "not-yet-valid"),
        ("valid for a week", claims(json!({ "exp": seconds(7 * 86_400) })), 401, "long-lived"),
        ("valid without end", claims(json!({ "exp": null })), 401, "no-lifetime"),
        ("an expiry that is not a number", claims(json!({ "exp": "4102444800" })), 401, "no-lifetime"),
        ("a time that is not a number", claims(json!({ "nbf": "tomorrow" })), 401, "not-a-token"),
        ("without an issue time", claims(json!({ "iat": null })), 401, "no-lifetime"),
        ("another audience", claims(json!({ "aud": "https://github.com/acme" })), 401, "audience"),
        ("no audience", claims(json!({ "aud": null })), 401, "audience"),
        ("several audiences", claims(json!({ "aud": [AUDIENCE, "https://github.com/acme"] })), 401, "audience"),
        ("an empty list of audiences", claims(json!({ "aud": [] })), 401, "audience"),
        ("the audience twice", claims(json!({ "aud": [AUDIENCE, AUDIENCE] })), 401, "audience"),
        ("an audience in capitals", claims(json!({ "aud": AUDIENCE.to_uppercase() })), 401, "audience"),
        ("an event that anyone can cause", claims(json!({ "event_name": "workflow_run" })), 403, "no-rule"),
        ("a comment on an issue", claims(json!({ "event_name": "issue_comment" })), 403, "no-rule"),
        ("a fenced event in capitals", claims(json!({ "event_name": "PULL_REQUEST_TARGET" })), 403, "no-rule"),
        ("a fenced event in a list", claims(json!({ "event_name": ["pull_request_target"] })), 403, "no-rule"),
        ("an event in a list", claims(json!({ "event_name": ["push"] })), 403, "no-rule"),
        ("no event", claims(json!({ "event_name": null })), 403, "no-rule"),
        ("an id that is a number", claims(json!({ "repository_owner_id": 65123 })), 403, "no-rule"),
        ("a repository in a list", claims(json!({ "repository": ["acme/app"] })), 403, "no-rule"),
        ("an expiry with a fraction", claims(json!({ "exp": 4_102_444_800.5 })), 401, "no-lifetime"),
        (
            "an expiry that overflows",
            json!({ "claims": { "exp": null }, "raw-claims-members": "\"exp\":1e999" }),
            401,
            "not-a-token",
        ),
        ("a subject that is a number", claims(json!({ "sub": 7 })), 401, "not-a-token"),
        ("an id of the token that is a list", claims(json!({ "jti": ["x"] })), 401, "not-a-token"),
        ("a claim twice", json!({ "raw-claims-members": "\"repository\":\"mallory/app\"" }), 401, "not-a-token"),
        ("a claim twice, once escaped", json!({ "raw-claims-members": "\"\\u0061ud\":\"other\"" }), 401, "not-a-token"),
        (
            "a claim twice, once in capitals",
            json!({ "raw-claims-members": "\"Repository\":\"x\"" }),
            401,
            "not-a-token",
        ),
        (
            "a member twice within a claim",
            json!({ "raw-claims-members": "\"x\":{\"y\":1,\"y\":2}" }),
            401,
            "not-a-token",
        ),
        ("a member of the header twice", json!({ "raw-header-members": "\"alg\":\"none\"" }), 401, "not-a-token"),
        ("an issuer that is not trusted", claims(json!({ "iss": "https://issuer.example" })), 401, "issuer"),
        ("two issuers", claims(json!({ "iss": [site.stand_in.issuer("github"), "x"] })), 401, "not-a-token"),
        (
            "its issuer with a slash",
            claims(json!({ "iss": format!("{}/", site.stand_in.issuer("github")) })),
            401,
            "issuer",
        ),
        ("unsigned", json!({ "algorithm": "none" }), 401, "algorithm"),
        ("unsigned in capitals", json!({ "algorithm": "none", "header": { "alg": "NONE" } }), 401, "algorithm"),
        ("signed with the public key", json!({ "algorithm": "HS256" }), 401, "algorithm"),
        (
            "the same under the right name",
            json!({ "algorithm": "HS256", "header": { "alg": "RS256" } }),
            401,
            "signature",
        ),
        (
            "an algorithm of another key",
            json!({ "by": "es256", "header": { "kid": "github-key-1" } }),
            401,
            "unknown-key",
        ),
        ("of another issuer's key", json!({ "by": "github-other" }), 401, "unknown-key"),
        (
            "the same under this key's name",
            json!({ "by": "github-other", "header": { "kid": "github-key-1" } }),
            401,
            "signature",
        ),
        ("without a key's name", json!({ "header": { "kid": null } }), 401, "no-key-id"),
        ("an extension that must be known", json!({ "header": { "crit": ["b64"], "b64": false } }), 401, "not-a-token"),
        ("too large", claims(json!({ "padding": "x".repeat(9000) })), 401, "token-too-large"),
    ];
    let mut tokens = Vec::new();
    for (name, body, status, reason) in cases {
        let token = site.mint(body);
        let answer = site.gateway.get("/v1/vaults", &token);
        assert_eq!(answer.status, status, "{name}: {}", String::from_utf8_lossy(&answer.body));
        let record = site.last();
        assert_eq!((&record["decision"], &record["reason"]), (&json!("denied"), &json!(reason)), "{name}: {record}");
        assert_eq!(record["status"], status, "{name}");
        tokens.push(token);
    }
    assert_eq!(site.gateway.audit().len(), tokens.len());
    assert_eq!(site.gateway.get("/v1/vaults", &site.mint(Value::Null)).status, 200);
    let audit = site.gateway.audit_text();
    for part in tokens.iter().flat_map(|token| token.split('.').skip(1)).filter(|part| part.len() > 40) {
        assert!(!audit.contains(&part[..40]), "a token is in the audit");
    }
    assert!(site.stand_in.requests().iter().all(|request| request["service"] != "connect" || request["status"] == 200));
}

/// What other verifiers of tokens were made to accept: a key that the token brings or names, an algorithm that it chooses, a name of a key
/// that leads to a file or into a query, and texts that are no token in this form. Forged signatures are in tests/vectors.rs.
#[test]
fn accepts_no_token_of_known_attacks() {
    let site = Site::granting(&["op://AgentVault/ordinary/*"]);
    let genuine = site.mint(Value::Null);
    assert_eq!(site.gateway.get("/v1/vaults", &genuine).status, 200);
    let mut own_key = site.stand_in.keys("github-other")["keys"][0].clone();
    own_key["kid"] = "github-key-1".into();
    let elsewhere = site.stand_in.issuer("github-other") + "/.well-known/jwks";
    let forged = |member: &str, value: &Value| {
        site.mint(json!({ "by": "github-other", "header": { "kid": "github-key-1", member: value } }))
    };
    let mut attacks: Vec<(String, String, &[&str])> = vec![
        ("a key of its own".into(), forged("jwk", &own_key), &["signature"]),
        ("an address of keys".into(), forged("jku", &json!(elsewhere)), &["signature"]),
        ("an address of a certificate".into(), forged("x5u", &json!(elsewhere)), &["signature"]),
        ("a certificate of its own".into(), forged("x5c", &json!(["MIIB"])), &["signature"]),
    ];
    for algorithm in ["RS384", "RS512", "PS256", "PS512", "ES384", "ES256K", "HS384", "HS512", "none ", "nOnE", "rs256"]
    {
        let token = site.mint(json!({ "header": { "alg": algorithm } }));
        attacks.push((format!("the algorithm {algorithm}"), token, &["algorithm"]));
    }
    for algorithm in ["ES256", "EdDSA"] {
        let token = site.mint(json!({ "header": { "alg": algorithm } }));
        attacks.push((format!("the algorithm {algorithm} for an RSA key"), token, &["unknown-key", "key-pending"]));
    }
    for name in ["../../../../dev/null", "/dev/null", "' UNION SELECT 'x' --", "github-key-1\0", "github-key-1 ", "|id"]
    {
        let token = site.mint(json!({ "by": "github-other", "header": { "kid": name } }));
        attacks.push((format!("a key named {name}"), token, &["unknown-key", "key-pending"]));
    }
    let parts: Vec<&str> = genuine.split('.').collect();
    let [header, claims, signature] = parts[..] else { panic!("{genuine}") };
    let more = site.mint(json!({ "claims": { "jti": "another" } }));
    let other_signature = more.rsplit('.').next().unwrap();
    for (name, token, reasons) in [
        ("no signature", format!("{header}.{claims}."), &["signature"][..]),
        ("the signature of another token", format!("{header}.{claims}.{other_signature}"), &["signature"]),
        (
            "a signature that is cut off",
            format!("{header}.{claims}.{}", &signature[..signature.len() - 4]),
            &["signature"],
        ),
        ("a padded signature", format!("{header}.{claims}.{signature}=="), &["signature"]),
        (
            "the parts of an encrypted token",
            format!("{header}.{claims}.{signature}.{claims}.{signature}"),
            &["not-a-token"],
        ),
        ("no claims", format!("{header}..{signature}"), &["not-a-token"]),
        ("padded claims", format!("{header}.{claims}=.{signature}"), &["not-a-token"]),
        ("two parts", format!("{header}.{claims}"), &["not-a-token"]),
        (
            "the JSON form",
            json!({ "payload": claims, "protected": header, "signature": signature }).to_string(),
            &["not-a-token"],
        ),
    ] {
        attacks.push((name.to_owned(), token, reasons));
    }
    for (name, token, reasons) in attacks {
        let answer = site.gateway.get("/v1/vaults", &token);
        let record = site.last();
        assert!(matches!(answer.status, 401 | 503), "{name}: {}", answer.status);
        assert!(reasons.iter().any(|reason| record["reason"] == *reason), "{name}: {record}");
    }
    assert_eq!(site.gateway.get("/v1/vaults", &genuine).status, 200);
    let requests = site.stand_in.requests();
    let mut asked =
        requests.iter().filter(|request| request["user_agent"].as_str().unwrap().starts_with("oci-secrets"));
    assert!(asked.all(|request| !request["path"].as_str().unwrap().contains("github-other")), "{requests:?}");
}

#[test]
fn records_invalid_http_requests() {
    let site = Site::granting(&["op://AgentVault/ordinary/*"]);
    let mut connection = site.gateway.connect();
    connection.write_all(b"GET /v1/vaults\0 HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    while site.gateway.audit().is_empty() {
        thread::sleep(Duration::from_millis(5));
    }
    assert_eq!((&site.last()["reason"], &site.last()["status"]), (&json!("invalid"), &json!(400)));
}

#[test]
fn a_gitlab_ref_is_a_branch_unless_the_rule_says_otherwise() {
    let stand_in = StandIn::start(&[]);
    let rule = format!(
        "[[rule]]\nname = 'deploy'\nissuer = '{}'\nreferences = ['op://AgentVault/*']\n\
         claims = {{ project_path = 'acme/app', project_id = '20', ref = 'main' }}\n",
        stand_in.issuer("gitlab")
    );
    let gateway = Gateway::start(&stand_in, &format!("{}{rule}", issuer(&stand_in, "gitlab", "gitlab")));
    for (claims, status) in [
        (json!({}), 200),
        (json!({ "ref_type": "tag", "ref_path": "refs/tags/main" }), 403),
        (json!({ "pipeline_source": "merge_request_event" }), 403),
        (json!({ "ref_type": ["branch"] }), 403),
        (json!({ "project_id": 20 }), 403),
    ] {
        let token = stand_in.mint("gitlab", &json!({ "claims": claims }));
        assert_eq!(gateway.get("/v1/vaults", &token).status, status, "{claims}");
    }
}

#[test]
fn denies_and_records_an_oversized_request_head() {
    let site = Site::granting(&["op://AgentVault/ordinary/*"]);
    let mut connection = site.gateway.connect();
    let huge = format!("GET /v1/vaults HTTP/1.1\r\nAuthorization: Bearer {}\r\n\r\n", "x".repeat(200_000));
    // The response may be lost because the connection is reset; the record is not.
    let _ = connection.write_all(huge.as_bytes());
    while site.gateway.audit().is_empty() {
        thread::sleep(Duration::from_millis(5));
    }
    assert_eq!((&site.last()["reason"], &site.last()["status"]), (&json!("too-large"), &json!(431)));
}

#[test]
fn a_flood_of_denials_does_not_fill_the_audit() {
    let site = Site::granting(&["op://AgentVault/ordinary/*"]);
    site.stand_in.control_issuer("github", "fault", &json!({ "discovery": "status-503" }));
    // Without keys the gateway can neither accept a token nor deny it permanently.
    let token = site.mint(Value::Null);
    let mut connection = BufReader::new(site.gateway.connect());
    let mut statuses = BTreeMap::<String, usize>::new();
    for _ in 0..600 {
        let request = format!("GET /v1/vaults HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n");
        connection.get_mut().write_all(request.as_bytes()).unwrap();
        let (mut status, mut line, mut length) = (String::new(), String::new(), 0);
        connection.read_line(&mut status).unwrap();
        while line != "\r\n" {
            line.clear();
            connection.read_line(&mut line).unwrap();
            length = line.strip_prefix("content-length: ").map_or(length, |length| length.trim().parse().unwrap());
        }
        connection.read_exact(&mut vec![0; length]).unwrap();
        *statuses.entry(status.split(' ').nth(1).unwrap().to_owned()).or_default() += 1;
    }
    let recorded = site.gateway.audit().len();
    assert!(statuses["503"] >= 500 && statuses["429"] > 0, "{statuses:?}");
    assert_eq!((recorded, statuses.len()), (statuses["503"], 2));
}

#[test]
fn denies_malformed_tokens() {
    let site = Site::granting(&["op://AgentVault/ordinary/*"]);
    for (header, reason) in [
        ("", "no-token"),
        ("Authorization: Basic eDp4\r\n", "no-token"),
        ("Authorization: Bearer\r\n", "no-token"),
        ("Authorization: Bearer x\r\n", "not-a-token"),
        ("Authorization: Bearer ..\r\n", "not-a-token"),
        ("Authorization: Bearer a.b.c.d\r\n", "not-a-token"),
        ("Authorization: Bearer e30.e30.e30\r\n", "not-a-token"),
        ("Authorization: Bearer x\r\nAuthorization: Bearer y\r\n", "no-token"),
    ] {
        let answer = site.gateway.ask(&format!("GET /v1/vaults HTTP/1.1\r\n{header}"));
        assert_eq!(answer.status, 401, "{header}");
        assert_eq!(site.last()["reason"], reason, "{header}");
    }
    // Connect's own token is not an identity token.
    let answer = site.gateway.get("/v1/vaults", site.stand_in.token());
    assert_eq!((answer.status, &site.last()["reason"]), (401, &json!("issuer")));
}

#[test]
fn denies_every_method_except_get() {
    let site = Site::granting(&["op://AgentVault/*"]);
    let token = site.mint(Value::Null);
    let items = vault_path("/items");
    for method in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "HEAD", "PROPFIND"] {
        let answer = site.gateway.ask(&format!("{method} {items} HTTP/1.1\r\nAuthorization: Bearer {token}\r\n"));
        assert_eq!(answer.status, 405, "{method}");
        assert_eq!((&site.last()["reason"], &site.last()["method"]), (&json!("method"), &json!(method)));
        assert!(answer.head.contains(&"allow: GET".to_owned()), "{:?}", answer.head);
    }
    for path in [
        "/v1/activity".to_owned(),
        vault_path("/items/.."),
        vault_path("/../../activity"),
        vault_path("%2fitems"),
        vault_path("/items/%2e%2e/%2e%2e"),
        vault_path("//items"),
        "/v1/vaults/AgentVault/items".to_owned(),
    ] {
        let answer = site.gateway.get(&path, &token);
        assert!(matches!(answer.status, 400 | 404), "{path}: {}", answer.status);
    }
    for path in
        ["/", "/metrics", "/stand-in/requests", "/v2/vaults", "//v1/vaults", "/V1/vaults", "/v1x", "/%761/vaults"]
    {
        assert_eq!(site.gateway.get(path, &token).status, 404, "{path}");
        let record = site.last();
        assert_eq!((&record["path"], &record["reason"]), (&json!(path), &json!("not-found")), "{record}");
    }
    for (method, path) in [("POST", "/heartbeat"), ("HEAD", "/health")] {
        let answer = site.gateway.ask(&format!("{method} {path} HTTP/1.1\r\n"));
        assert_eq!((answer.status, &site.last()["path"]), (405, &json!(path)));
        assert!(answer.head.contains(&"allow: GET".to_owned()));
    }
    let asked = site.stand_in.requests();
    assert!(asked.iter().all(|request| request["service"] != "connect"), "{asked:?}");
}

/// A pull request of a fork, as GitHub describes it.
fn pull_request() -> Value {
    json!({
        "sub": "repo:acme/app:pull_request", "ref": "refs/pull/7/merge", "event_name": "pull_request",
        "head_ref": "main", "base_ref": "main", "actor": "mallory",
        "workflow_ref": "acme/app/.github/workflows/deploy.yml@refs/pull/7/merge",
    })
}

fn seconds(from_now: i64) -> i64 {
    jiff::Timestamp::now().as_second() + from_now
}
