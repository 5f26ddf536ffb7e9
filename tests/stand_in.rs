//! Tests of the stand-in itself.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

mod support;

use google_cloud_auth::credentials::{Credentials, external_account, impersonated, service_account};
use google_cloud_kms::client::KeyManagementService;
use serde_json::{Value, json};
use support::{AGENT_VAULT, StandIn, python};

#[test]
fn serves_the_items_that_tests_create() {
    let stand_in = StandIn::start(&[]);
    let id = stand_in.create_item(AGENT_VAULT, "database", &[("", "password", "canary"), ("tls", "key", "canary")]);
    let item = stand_in.request("GET", &format!("/v1/vaults/{AGENT_VAULT}/items/{id}"), &Value::Null);
    assert_eq!(item["title"], "database");
    assert_eq!(item["fields"][1]["section"]["id"], "tls");
    let requests = stand_in.requests();
    assert_eq!(requests.len(), 2);
    assert_eq!(requests[1]["authorization"], true);
}

#[test]
fn serves_a_fault_as_often_as_its_name_says() {
    let stand_in = StandIn::start(&[]);
    let vault = "/v1/vaults/faults00000000000000000000/items";
    let filter = "title%20eq%20%22status-503-twice-here%22";
    let found = stand_in.request("GET", &format!("{vault}?filter={filter}"), &Value::Null);
    let item = format!("{vault}/{}", found[0]["id"].as_str().unwrap());
    assert_eq!(stand_in.request("GET", &item, &Value::Null)["status"], 503);
    assert_eq!(stand_in.request("GET", &item, &Value::Null)["status"], 503);
    let item = stand_in.request("GET", &item, &Value::Null);
    assert_eq!(item["fields"][0]["value"], "canary-fault-value");

    let elsewhere = format!("/v1/vaults/{AGENT_VAULT}/items?filter=title%20eq%20%22status-503%22");
    assert_eq!(stand_in.request("GET", &elsewhere, &Value::Null)["status"], 503);
}

#[test]
fn refuses_filters_with_injected_conditions() {
    let stand_in = StandIn::start(&[]);
    for filter in ["title eq \"a\" or title eq \"b\"", "title eq \"it's\"", "title ne \"a\"", "title"] {
        let filter = filter.replace(' ', "%20").replace('"', "%22");
        let answer = stand_in.request("GET", &format!("/v1/vaults/{AGENT_VAULT}/items?filter={filter}"), &Value::Null);
        assert_eq!(answer["status"], 400, "{filter}");
    }
}

#[test]
fn patches_items_as_documented_by_connect() {
    let stand_in = StandIn::start(&[]);
    let id = stand_in.create_item(AGENT_VAULT, "patched", &[("", "first", "1"), ("", "second", "2")]);
    let path = format!("/v1/vaults/{AGENT_VAULT}/items/{id}");
    let item = stand_in.request("GET", &path, &Value::Null);
    let [first, second] = [0, 1].map(|index| item["fields"][index]["id"].as_str().unwrap());
    let operations = json!([
        { "op": "replace", "path": "/favorite", "value": true },
        { "op": "add", "path": "/tags", "value": ["a", "b"] },
        { "op": "remove", "path": "/tags/1" },
        { "op": "replace", "path": format!("/fields/{first}/value"), "value": "one" },
        { "op": "remove", "path": format!("/fields/{second}") },
        { "op": "add", "path": "/fields", "value": { "label": "third", "value": "3" } },
    ]);
    let item = stand_in.request("PATCH", &path, &operations);
    assert_eq!(item["version"], 2);
    assert_eq!(item["favorite"], true);
    assert_eq!(item["tags"], json!(["a"]));
    let values: Vec<_> = item["fields"].as_array().unwrap().iter().map(|field| &field["value"]).collect();
    assert_eq!(values, ["one", "3"]);

    let nowhere = json!([{ "op": "replace", "path": "/fields/none/value", "value": "x" }]);
    assert_eq!(stand_in.request("PATCH", &path, &nowhere)["status"], 400);
}

#[test]
fn serves_tls_with_a_certificate_of_its_ca() {
    let dir = tempfile::tempdir().unwrap();
    let stand_in = StandIn::start(&["--tls", "--dir", dir.path().to_str().unwrap()]);
    assert!(stand_in.connect().starts_with("https://"));
    let id = stand_in.create_item(AGENT_VAULT, "over tls", &[("", "password", "canary")]);
    let item = stand_in.request("GET", &format!("/v1/vaults/{AGENT_VAULT}/items/{id}"), &Value::Null);
    assert_eq!(item["title"], "over tls");
}

#[test]
fn is_compatible_with_the_1password_client() {
    drive("connect_client.py", &StandIn::start(&[]));
}

#[test]
fn is_compatible_with_the_google_kms_client() {
    drive("kms_client.py", &StandIn::start(&[]));
}

#[test]
fn is_compatible_with_the_google_auth_library() {
    let dir = tempfile::tempdir().unwrap();
    let arguments = ["--dir", dir.path().to_str().unwrap(), "--service-account", "--kms-auth"];
    drive("identity_client.py", &StandIn::start(&arguments));
}

#[test]
fn issues_identity_tokens_that_pyjwt_verifies() {
    drive("issuer_client.py", &StandIn::start(&[]));
}

#[test]
fn is_compatible_with_the_kubernetes_client() {
    let dir = tempfile::tempdir().unwrap();
    drive("kubernetes_client.py", &StandIn::start(&["--tls", "--dir", dir.path().to_str().unwrap()]));
}

#[tokio::test]
async fn is_compatible_with_the_google_rust_client() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let dir = tempfile::tempdir().unwrap();
    let stand_in = StandIn::start(&["--dir", dir.path().to_str().unwrap(), "--service-account", "--kms-auth"]);
    let file = |name| serde_json::from_slice::<Value>(&std::fs::read(dir.path().join(name)).unwrap()).unwrap();

    let service_account = service_account::Builder::new(file("service-account.json")).build().unwrap();
    assert_eq!(status(&stand_in, service_account).await, None);
    for name in ["external-account-file.json", "external-account-url.json", "external-account-impersonated.json"] {
        let credentials = external_account::Builder::new(file(name)).build().unwrap();
        assert_eq!(status(&stand_in, credentials).await, None, "{name}");
    }
    let credentials = impersonated::Builder::new(file("impersonated.json")).build().unwrap();
    assert_eq!(status(&stand_in, credentials).await, None);
    let anonymous = google_cloud_auth::credentials::anonymous::Builder::new().build();
    assert_eq!(status(&stand_in, anonymous).await, Some(401));
}

/// The HTTP status with which Cloud KMS refuses to encrypt for these credentials, or none.
async fn status(stand_in: &StandIn, credentials: Credentials) -> Option<u16> {
    let client = KeyManagementService::builder().with_endpoint(stand_in.kms()).with_credentials(credentials);
    let request = client.build().await.unwrap().encrypt();
    let key = "projects/p/locations/l/keyRings/r/cryptoKeys/k";
    let answer = request.set_name(key).set_plaintext("a secret").send().await;
    answer.err().map(|error| error.http_status_code().expect("no answer"))
}

/// Runs a Python client, which prints each of its checks.
fn drive(program: &str, stand_in: &StandIn) {
    if let Some(mut client) = python::client(program) {
        let status = client.arg(stand_in.ready().to_string()).status();
        assert!(status.unwrap().success(), "{program} found a difference");
    }
}
