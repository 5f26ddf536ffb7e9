//! Rewrapping sealed values under other keys and key versions. Interruption at any moment loses no value.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking, its helpers too")]

mod support;

use std::process::{Output, Stdio};
use std::thread::sleep;
use std::time::Duration;

use serde_json::{Value, json};
use support::host::{Host, KEY_RING, LOCAL_KEK};
use support::{AGENT_VAULT, StandIn};

const SECRET: &[u8] = b"hunter2";
const ITEMS: usize = 8;

#[test]
fn moves_one_value_to_another_key_and_its_newest_version() {
    let stand_in = StandIn::start(&[]);
    let host = host(&stand_in);
    let (kek, reference) = (format!("{KEY_RING}/rotated"), "op://AgentVault/database/password");
    let first = seal(&host, &kek, reference);
    let moved = succeeded(host.oci_secrets(&["rewrap", "--to", LOCAL_KEK, "--for", reference], first.as_bytes()));
    assert!(moved.starts_with(&format!("sealed:v1 {LOCAL_KEK} ")), "{moved}");
    assert_eq!(unseal(&host, reference, &moved), SECRET);

    let rewrap =
        |line: &str| succeeded(host.oci_secrets(&["rewrap", "--to", &kek, "--for", reference], line.as_bytes()));
    assert_eq!(rewrap(&first), first, "the value is already under the newest version");
    rotate(&stand_in, &kek);
    let second = rewrap(&first);
    assert_ne!(second, first);
    assert_eq!(unseal(&host, reference, &second), SECRET);
    assert_eq!(rewrap(&second), second);

    let other =
        host.oci_secrets(&["rewrap", "--to", LOCAL_KEK, "--for", "op://AgentVault/other/password"], first.as_bytes());
    assert_eq!((other.status.code(), other.stdout.len()), (Some(65), 0));
    let from = ["rewrap", "--to", LOCAL_KEK, "--from", &format!("{KEY_RING}/other"), "--for", reference];
    assert_eq!(succeeded(host.oci_secrets(&from, first.as_bytes())), first, "`--from` selects another key");
}

#[test]
fn moves_every_sealed_field_of_a_vault_and_no_other() {
    let stand_in = StandIn::start(&[]);
    let host = host(&stand_in);
    let kek = format!("{KEY_RING}/prod");
    let value = seal(&host, &kek, "op://AgentVault/one/password");
    let in_section = seal(&host, &kek, "op://AgentVault/one/prod/user");
    let lost = seal(&host, &kek, "op://AgentVault/elsewhere/password");
    let fields = [("", "password", value.trim()), ("prod", "user", in_section.trim()), ("", "plain", "no secret")];
    let one = stand_in.create_item(AGENT_VAULT, "one", &fields);
    let by_id = seal(&host, &kek, &format!("op://{AGENT_VAULT}/{one}/id"));
    patch(
        &stand_in,
        &one,
        &json!([{ "op": "add", "path": "/fields", "value": { "id": "id", "label": "x", "value": by_id.trim() } }]),
    );
    let two = stand_in.create_item(AGENT_VAULT, "two", &[("", "password", lost.trim())]);
    let before = [values(&stand_in, &one), values(&stand_in, &two)];

    let arguments = ["rewrap", "--to", LOCAL_KEK, "--vault", "AgentVault"];
    let others =
        host.oci_secrets(&[&arguments[..], &["--from", &format!("{KEY_RING}/elsewhere"), "--write"]].concat(), b"");
    assert!(
        String::from_utf8_lossy(&others.stdout).contains("0 moved, 0 current already, 4 under other keys, 0 failed")
    );
    assert_eq!([values(&stand_in, &one), values(&stand_in, &two)], before);

    let dry = host.oci_secrets(&arguments, b"");
    assert_eq!(dry.status.code(), Some(65), "{dry:?}");
    let report = String::from_utf8_lossy(&dry.stdout);
    assert!(report.contains("3 to move, 0 current already, 0 under other keys, 1 failed"), "{report}");
    assert!(report.contains("nothing is changed yet"), "{report}");
    assert_eq!([values(&stand_in, &one), values(&stand_in, &two)], before);

    let written = host.oci_secrets(&[&arguments[..], &["--write"]].concat(), b"");
    assert!(String::from_utf8_lossy(&written.stdout).contains("3 moved, 0 current"), "{written:?}");
    let after = values(&stand_in, &one);
    assert_eq!(after[2], "no secret");
    assert_eq!(values(&stand_in, &two), before[1], "a value that cannot be unsealed is unchanged");
    for (at, reference) in [
        (0, "op://AgentVault/one/password".to_owned()),
        (1, "op://AgentVault/one/prod/user".to_owned()),
        (3, format!("op://{AGENT_VAULT}/{one}/id")),
    ] {
        assert!(after[at].starts_with(&format!("sealed:v1 {LOCAL_KEK} ")), "{reference}");
        assert_eq!(unseal(&host, &reference, &after[at]), SECRET);
    }
    for output in [&dry, &written] {
        let text = [output.stdout.clone(), output.stderr.clone()].concat();
        assert!(!String::from_utf8_lossy(&text).contains("hunter2"));
    }
}

#[test]
fn refuses_a_rewrapped_value_that_does_not_unseal() {
    let stand_in = StandIn::start(&[]);
    let host = host(&stand_in);
    let (other, reference) = (format!("{KEY_RING}/other"), "op://AgentVault/database/password");
    let under_itself = seal(&host, &other, reference);
    rotate(&stand_in, &other);
    let under_another = seal(&host, LOCAL_KEK, reference);
    for (line, words) in [
        (under_itself, "the rewrapped key does not match the original"),
        (under_another, "the sealed value does not open"),
    ] {
        let refused = host.oci_secrets(&["rewrap", "--to", &other, "--for", reference], line.as_bytes());
        assert!(!refused.status.success() && refused.stdout.is_empty(), "{refused:?}");
        assert!(String::from_utf8_lossy(&refused.stderr).contains(words), "{refused:?}");
    }
}

#[test]
fn does_not_overwrite_a_concurrent_change() {
    let stand_in = StandIn::start(&[]);
    let host = host(&stand_in);
    let kek = format!("{KEY_RING}/slow-300");
    let value = seal(&host, &kek, "op://AgentVault/one/password");
    let item = stand_in.create_item(AGENT_VAULT, "one", &[("", "password", value.trim())]);
    let unwraps = || stand_in.requests().iter().filter(|r| r["path"].as_str().unwrap().ends_with(":decrypt")).count();
    let before = unwraps();
    let mut command = host.program("oci-secrets");
    command.args(["rewrap", "--to", LOCAL_KEK, "--vault", "AgentVault", "--write"]);
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    while unwraps() == before {
        sleep(Duration::from_millis(5));
    }
    let field = stand_in.request("GET", &format!("/v1/vaults/{AGENT_VAULT}/items/{item}"), &Value::Null);
    let path = format!("/fields/{}/value", field["fields"][0]["id"].as_str().unwrap());
    patch(&stand_in, &item, &json!([{ "op": "replace", "path": path, "value": "newer" }]));
    let output = child.wait_with_output().unwrap();
    assert!(
        String::from_utf8_lossy(&output.stdout).contains("0 moved, 0 current already, 0 under other keys, 1 failed")
    );
    assert_eq!(values(&stand_in, &item), ["newer"]);
}

#[test]
fn resumes_after_sigkill_without_losing_a_value() {
    let stand_in = StandIn::start(&["--latency", "3"]);
    let host = host(&stand_in);
    let items: Vec<(String, String)> = (0..ITEMS)
        .map(|index| {
            let reference = format!("op://AgentVault/item-{index}/password");
            let value = seal(&host, &format!("{KEY_RING}/prod"), &reference);
            (stand_in.create_item(AGENT_VAULT, &format!("item-{index}"), &[("", "password", value.trim())]), reference)
        })
        .collect();
    let moved = || {
        let opened = items.iter().map(|(item, reference)| {
            let value = values(&stand_in, item).remove(0);
            assert_eq!(unseal(&host, reference, &value), SECRET, "{reference} is lost");
            value.starts_with(&format!("sealed:v1 {LOCAL_KEK} "))
        });
        opened.filter(|is_moved| *is_moved).count()
    };
    let mut interrupted = 0;
    for after in (20..).step_by(15).take(60) {
        let mut command = host.program("oci-secrets");
        command.args([
            "rewrap",
            "--to",
            LOCAL_KEK,
            "--from",
            &format!("{KEY_RING}/prod"),
            "--vault",
            "AgentVault",
            "--write",
        ]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        sleep(Duration::from_millis(after));
        child.kill().unwrap();
        let ended = child.wait().unwrap().success();
        let moved = moved();
        interrupted += usize::from((1..ITEMS).contains(&moved));
        if ended && moved == ITEMS {
            break;
        }
    }
    assert_eq!(moved(), ITEMS);
    assert!(interrupted > 0, "no run was interrupted");
}

#[test]
fn seals_and_stores_in_one_step() {
    let stand_in = StandIn::start(&[]);
    let host = host(&stand_in);
    let kek = format!("{KEY_RING}/prod");
    for (reference, options, words) in [
        ("op://AgentVault/fresh/prod/password", &["--write"][..], "a new item"),
        ("op://AgentVault/fresh/prod/user", &["--write"], "a new field"),
        ("op://AgentVault/fresh/prod/password", &["--write", "--overwrite"], "whose value is replaced"),
    ] {
        let stored = host.oci_secrets(&[&["seal", "--kek", &kek, "--for", reference], options].concat(), SECRET);
        assert!(String::from_utf8_lossy(&stored.stderr).contains(words), "{stored:?}");
        let line = succeeded(stored);
        let items = stand_in.request(
            "GET",
            &format!("/v1/vaults/{AGENT_VAULT}/items?filter=title%20eq%20%22fresh%22"),
            &Value::Null,
        );
        assert_eq!(items.as_array().unwrap().len(), 1);
        assert!(values(&stand_in, items[0]["id"].as_str().unwrap()).contains(&line.trim().to_owned()));
        assert_eq!(unseal(&host, reference, &line), SECRET);
    }
}

fn host(stand_in: &StandIn) -> Host {
    Host::new(stand_in, &format!("endpoint = \"{}\"", stand_in.kms()))
}

fn seal(host: &Host, kek: &str, reference: &str) -> String {
    succeeded(host.oci_secrets(&["seal", "--kek", kek, "--for", reference], SECRET))
}

fn unseal(host: &Host, reference: &str, line: &str) -> Vec<u8> {
    host.oci_secrets(&["unseal", "--for", reference], line.as_bytes()).stdout
}

/// Adds a version to a key and makes it the primary one.
fn rotate(stand_in: &StandIn, kek: &str) {
    let name = kek.strip_prefix("gcp-kms://").unwrap();
    stand_in.request_kms("POST", &format!("/v1/{name}/cryptoKeyVersions"), &json!({}));
    stand_in.request_kms("POST", &format!("/v1/{name}:updatePrimaryVersion"), &json!({ "cryptoKeyVersionId": "2" }));
}

fn patch(stand_in: &StandIn, item: &str, change: &Value) {
    stand_in.request("PATCH", &format!("/v1/vaults/{AGENT_VAULT}/items/{item}"), change);
}

/// The values of the fields of an item, in order.
fn values(stand_in: &StandIn, item: &str) -> Vec<String> {
    let item = stand_in.request("GET", &format!("/v1/vaults/{AGENT_VAULT}/items/{item}"), &Value::Null);
    let fields = item["fields"].as_array().unwrap().iter();
    fields.map(|field| field["value"].as_str().unwrap_or_default().to_owned()).collect()
}

fn succeeded(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
