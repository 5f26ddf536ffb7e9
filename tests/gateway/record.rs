//! The contents of audit records.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::python;
use crate::{Site, filtered, vault_path};

#[test]
fn a_denial_records_only_claims_that_rules_use() {
    let site = Site::granting(&["op://AgentVault/ordinary/*"]);
    let fork = json!({
        "repository": "mallory/app", "ref": "x".repeat(300), "event_name": "pull_request", "actor": "canary-actor",
        "repository_owner_id": (0..40).map(|id| id.to_string()).collect::<Vec<_>>(),
    });
    let mut expired = fork.clone();
    expired["exp"] = 1_700_000_000.into();
    for (claims, reason, verified) in [(fork, "no-rule", true), (expired, "expired", false)] {
        assert!(site.gateway.get("/v1/vaults", &site.mint(json!({ "claims": claims }))).status >= 400);
        let record = site.last();
        assert_eq!((&record["reason"], &record["verified"]), (&json!(reason), &json!(verified)));
        let ids: Vec<String> = (0..16).map(|id| id.to_string()).collect();
        assert_eq!(
            record["claims"],
            json!({ "repository": "mallory/app", "ref": "x".repeat(120), "event_name": "pull_request", "repository_owner_id": ids })
        );
    }
    let stranger = site.mint(json!({ "claims": { "iss": "https://issuer.example", "sub": "canary-subject" } }));
    site.gateway.get("/v1/vaults", &stranger);
    assert_eq!((&site.last()["subject"], &site.last()["claims"]), (&json!("canary-subject"), &Value::Null));
    assert!(!site.gateway.audit_text().contains("canary-actor"));
}

#[test]
fn an_interrupted_write_damages_no_other_record() {
    let mut site = Site::granting(&["op://AgentVault/ordinary/*"]);
    fs::write(site.gateway.install().path("audit.jsonl"), "{\"schema\":1,\"ti").unwrap();
    site.gateway.reload("reloaded the settings");
    assert_eq!(site.get("/v1/vaults").status, 200);
    let text = site.gateway.audit_text();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!((lines.len(), lines[0]), (2, "{\"schema\":1,\"ti"));
    assert_eq!(serde_json::from_str::<Value>(lines[1]).unwrap()["decision"], "allowed");
}

#[test]
fn records_match_the_schema() {
    let site = Site::granting(&["op://AgentVault/ordinary/*", "op://Shapes/files/text.txt"]);
    let files = "/v1/vaults/shapes00000000000000000000/items/files000000000000000000000/files";
    let file = format!("{files}/textfile000000000000000000");
    for (path, status) in [
        (filtered("/v1/vaults", r#"name eq "AgentVault""#), 200),
        (vault_path(""), 200),
        (vault_path("/items"), 200),
        (vault_path("/items/zzzzzzzzzzzzzzzzzzzzzzzzzz"), 404),
        (files.to_owned(), 200),
        (file.clone(), 200),
        (format!("{file}/content"), 200),
        (vault_path("/items/.."), 400),
    ] {
        assert_eq!(site.get(&path).status, status, "{path}");
    }
    for body in [
        json!({ "claims": { "aud": "another" } }),
        json!({ "claims": { "ref": ["a", "b"] } }),
        json!({ "claims": { "jti": null, "event_name": null } }),
        json!({ "algorithm": "none" }),
    ] {
        site.gateway.get("/v1/vaults", &site.mint(body));
    }
    site.gateway.ask("PUT /v1/vaults HTTP/1.1\r\n");

    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/gateway-audit.schema.json");
    let schema: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let keys = |object: &Value| -> BTreeSet<String> { object.as_object().unwrap().keys().cloned().collect() };
    let recorded: BTreeSet<String> = site.gateway.audit().iter().flat_map(keys).collect();
    assert_eq!(recorded, keys(&schema["properties"]), "the schema describes exactly the recorded keys");
    if let Some(mut validator) = python::client("audit_schema.py") {
        let output = validator.arg(path).arg(site.gateway.install().path("audit.jsonl")).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(String::from_utf8_lossy(&output.stdout), "allowed denied\n");
    }
}
