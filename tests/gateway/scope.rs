//! Objects that no rule grants are indistinguishable from missing ones.

use serde_json::{Value, json};

use crate::support::AGENT_VAULT;
use crate::support::gateway::Answer;
use crate::{Site, filtered, ids, vault_path};

const SHAPES: &str = "shapes00000000000000000000";
const DUPLICATES: &str = "duplicates0000000000000000";
const NOWHERE: &str = "zzzzzzzzzzzzzzzzzzzzzzzzzz";

#[test]
fn lists_and_items_contain_only_granted_objects() {
    let site = Site::granting(&["op://AgentVault/deploy/password", "op://AgentVault/deploy/prod/*"]);
    let fields = [("", "password", "canary-seen"), ("prod", "key", "canary-seen"), ("test", "key", "canary-hidden")];
    let deploy = site.stand_in.create_item(AGENT_VAULT, "deploy", &fields);
    let other = site.stand_in.create_item(AGENT_VAULT, "hidden", &[("", "password", "canary-hidden")]);

    let vaults = site.get("/v1/vaults").json();
    assert_eq!(
        vaults,
        json!([{ "id": AGENT_VAULT, "name": "AgentVault", "type": "USER_CREATED", "createdAt": "2026-01-02T03:04:05Z" }])
    );
    assert_eq!(site.last()["entries"], 1);
    assert_eq!(site.get(&vault_path("")).json(), vaults[0]);
    assert_eq!(ids(&site.get(&vault_path("/items")).json()), [deploy.as_str()]);
    let item = site.get(&vault_path(&format!("/items/{deploy}")));
    assert_eq!(item.json()["fields"].as_array().unwrap().len(), 2);
    let body = String::from_utf8(item.body).unwrap();
    assert!(body.contains("canary-seen") && !body.contains("hidden") && !body.contains("test"), "{body}");
    let record = site.last();
    assert_eq!((&record["decision"], &record["action"]), (&json!("allowed"), &json!("read-item")));
    assert_eq!(
        (&record["vault"], &record["item"], &record["item_version"]),
        (&json!(AGENT_VAULT), &json!(deploy), &json!(1))
    );
    assert_eq!(record["subject"], "repo:acme/app:ref:refs/heads/main");
    assert_eq!(
        record["claims"],
        json!({ "repository": "acme/app", "repository_owner_id": "65123", "ref": "refs/heads/main", "event_name": "push" })
    );
    assert_eq!(record["rules"], json!(["deploy"]));

    let everything =
        [site.get("/v1/vaults"), site.get(&vault_path("/items")), site.get(&vault_path(&format!("/items/{other}")))];
    for answer in everything {
        assert!(!String::from_utf8(answer.body).unwrap().contains("hidden"));
    }
}

#[test]
fn responses_for_hidden_and_missing_objects_are_identical() {
    let site = Site::granting(&["op://AgentVault/deploy/*", "op://Shapes/files/text.txt"]);
    let hidden = site.stand_in.create_item(AGENT_VAULT, "hidden", &[("", "password", "canary-hidden")]);
    let (absent, files) = (NOWHERE, "files000000000000000000000");
    assert_eq!(site.get("/v1/vaults").status, 200);
    for (seen, unseen) in [
        (format!("/v1/vaults/{DUPLICATES}"), format!("/v1/vaults/{absent}")),
        (format!("/v1/vaults/{DUPLICATES}/items"), format!("/v1/vaults/{absent}/items")),
        (format!("/v1/vaults/{DUPLICATES}/items/{hidden}"), format!("/v1/vaults/{absent}/items/{hidden}")),
        (vault_path(&format!("/items/{hidden}")), vault_path(&format!("/items/{absent}"))),
        (vault_path(&format!("/items/{hidden}/files")), vault_path(&format!("/items/{absent}/files"))),
        (
            vault_path(&format!("/items/{hidden}/files/{absent}/content")),
            vault_path(&format!("/items/{absent}/files/{absent}/content")),
        ),
        (
            format!("/v1/vaults/{SHAPES}/items/{files}/files/binaryfile0000000000000000/content"),
            format!("/v1/vaults/{SHAPES}/items/{files}/files/{absent}/content"),
        ),
        (
            format!("/v1/vaults/{SHAPES}/items/{files}/files/binaryfile0000000000000000?inline_files=true"),
            format!("/v1/vaults/{SHAPES}/items/{files}/files/{absent}?inline_files=true"),
        ),
    ] {
        let (seen_answer, unseen_answer) = (site.get(&seen), site.get(&unseen));
        assert_eq!(seen_answer.status, 404, "{seen}");
        assert_eq!(alike(seen_answer), alike(unseen_answer), "{seen}");
    }
}

#[test]
fn a_filter_reveals_no_hidden_object() {
    let site = Site::granting(&["op://AgentVault/ordinary/username"]);
    let items = vault_path("/items");
    let found = |path: &str, filter: &str| site.get(&filtered(path, filter)).json();
    assert_eq!(ids(&found(&items, r#"title eq "ordinary""#)).len(), 1);
    assert_eq!(ids(&found("/v1/vaults", r#"name eq "AgentVault""#)), [AGENT_VAULT]);
    let hidden = site.stand_in.create_item(AGENT_VAULT, "hidden", &[]);
    for filter in [r#"title eq "hidden""#, r#"title co "hid""#, r#"tag eq "agents""#, r#"title eq "nothing""#] {
        assert_eq!(found(&items, filter), json!([]), "{filter}");
        assert_eq!(site.last()["status"], 200);
    }
    for filter in [r#"name eq "Shapes""#, r#"title eq "Duplicates""#, r#"name eq "Nowhere""#] {
        assert_eq!(found("/v1/vaults", filter), json!([]), "{filter}");
    }
    for filter in [r#"title eq "ordinary" or title eq "hidden""#, r#"urls.href eq "https://example.com""#, "title pr"] {
        assert_eq!(found(&items, filter)["status"], 400, "{filter}");
    }
    let twice = format!("{}&filter=title%20eq%20%22ordinary%22", filtered(&items, r#"title eq "ordinary""#));
    assert_eq!(site.get(&twice).status, 400);
    assert_eq!(site.get(&vault_path(&format!("/items/{hidden}"))).status, 404);
}

#[test]
fn a_title_grants_all_items_of_that_title_and_an_id_grants_one() {
    let site = Site::granting(&["op://Duplicates/same title/*", "op://Duplicates/upper000000000000000000000/*"]);
    let items = site.get(&format!("/v1/vaults/{DUPLICATES}/items")).json();
    let mut found = ids(&items);
    found.sort_unstable();
    assert_eq!(found, ["same1000000000000000000000", "same2000000000000000000000", "upper000000000000000000000"]);
}

#[test]
fn files_are_granted_individually() {
    let site = Site::granting(&["op://Shapes/files/text.txt"]);
    let files = format!("/v1/vaults/{SHAPES}/items/files000000000000000000000/files");
    let list = site.get(&format!("{files}?inline_files=true")).json();
    assert_eq!(ids(&list), ["textfile000000000000000000"]);
    assert!(list[0]["content"].is_string());
    let content = site.get(&format!("{files}/textfile000000000000000000/content"));
    assert_eq!(content.body, b"The content of a text file.\n");
    assert!(content.head.iter().any(|line| line.starts_with("content-disposition: attachment")));
    assert_eq!(site.last()["file"], "textfile000000000000000000");
    assert_eq!(site.get(&format!("{files}/binaryfile0000000000000000")).status, 404);
}

#[test]
fn invalid_responses_of_connect_are_not_forwarded() {
    let site = Site::granting(&["op://Faults/*"]);
    let faults = "/v1/vaults/faults00000000000000000000/items";
    for (title, status) in [
        ("status-500", 500),
        ("retry-after-7", 429),
        ("status-401", 502),
        ("html-502", 502),
        ("redirect", 502),
        ("not-json", 502),
        ("deep-json", 502),
        ("huge", 502),
        ("half-closed", 503),
        ("reset", 503),
    ] {
        let id =
            site.get(&filtered(faults, &format!("title eq \"{title}\""))).json()[0]["id"].as_str().unwrap().to_owned();
        let answer = site.get(&format!("{faults}/{id}"));
        assert_eq!(answer.status, status, "{title}");
        assert_eq!(answer.json()["status"], status, "{title}");
    }
    assert_eq!(site.stand_in.hits(), 0);
}

/// A response without the requested ids.
fn alike(answer: Answer) -> (Vec<String>, String) {
    let mut body: Value = answer.json();
    let message = body["message"].as_str().unwrap().to_owned();
    let (what, rest) = message.split_at(message.find(' ').unwrap());
    body["message"] =
        format!("{what} {} not found", "x".repeat(rest.trim_end_matches(" not found").trim().len())).into();
    assert_eq!(body.to_string().len(), answer.body.len());
    (answer.head, body.to_string())
}
