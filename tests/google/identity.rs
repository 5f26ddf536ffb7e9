//! Every kind of Google credentials, and the error messages when they are refused, which contain no secret.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::support::AGENT_VAULT;
use crate::support::container::Container;
use crate::support::host::{Host, KEY_RING};
use crate::{Google, PROVIDER, REFERENCE, SECRET, text, with_long_deadline};

#[test]
fn authenticates_with_every_kind_of_credentials_file() {
    let Some(google) = Google::start(&[]) else { return };
    for file in [
        "service-account.json",
        "external-account-file.json",
        "external-account-url.json",
        "external-account-impersonated.json",
        "impersonated.json",
    ] {
        google.opens_what_it_seals(&google.host(file));
    }
}

#[test]
fn exchanges_the_token_of_a_ci_job_or_of_a_file() {
    let Some(google) = Google::start(&["--identity-port", "443"]) else { return };
    let provider = format!("workload-identity-provider = \"{PROVIDER}\"");
    let github =
        format!("{provider}\ntoken = {{ github-oidc = {{ audience = \"https://iam.googleapis.com/{PROVIDER}\" }} }}");
    let gitlab = format!("{provider}\ntoken = {{ gitlab-id-token = \"GCP_TOKEN\" }}");
    let file = format!("{provider}\ntoken = {{ file = {:?} }}", google.path("renewed"));
    let account = "service-account = \"agents@stand-in.iam.gserviceaccount.com\"";
    for gcp_kms in [&github, &gitlab, &file, &format!("{github}\n{account}"), &format!("{file}\n{account}")] {
        google.stand_in.request("POST", "/stand-in/reset", &Value::Null);
        google.write("renewed", google.mint("kubernetes").as_bytes(), 0o600);
        let host = with_long_deadline(google.host_with(gcp_kms));
        let sealed = google.in_job(&host, &["seal", "--kek", &format!("{KEY_RING}/prod"), "--for", REFERENCE], SECRET);
        assert!(sealed.status.success(), "{}", text(&sealed));
        let opened = google.in_job(&host, &["unseal", "--for", REFERENCE], &sealed.stdout);
        assert_eq!(opened.stdout, SECRET, "{}", text(&opened));
        let asked = |path: &str| google.stand_in.requests().iter().filter(|request| request["path"] == path).count();
        // An exchange for a file's token is cached for the next process. Each process requests the token of a job.
        let exchanges = if gcp_kms.contains("file") { 1 } else { 2 };
        assert_eq!(asked("/v1/token"), exchanges, "{gcp_kms}");
        assert_eq!(asked("/github/request"), if gcp_kms.contains("github") { 2 } else { 0 }, "{gcp_kms}");
    }
}

#[test]
fn reports_why_a_token_cannot_be_exchanged() {
    let Some(google) = Google::start(&["--identity-port", "443"]) else { return };
    let provider = format!("workload-identity-provider = \"{PROVIDER}\"");
    let source = |token: &str| google.host_with(&format!("{provider}\ntoken = {token}"));
    let github = source("{ github-oidc = { audience = \"a\" } }");
    google.is_refused(&github, 78, "no token for Google: cannot get a token from GitHub Actions: ACTIONS_ID");
    google.is_refused(&source("{ gitlab-id-token = \"GCP_TOKEN\" }"), 78, "GCP_TOKEN is not set");
    let expired = google.stand_in.mint("kubernetes", &json!({ "claims": { "exp": 1_700_000_000 } }));
    let expired = google.write("expired", expired.as_bytes(), 0o600);
    google.is_refused(&source(&format!("{{ file = {expired:?} }}")), 77, "it expired at 2023-11-14");
    let silent = source("{ command = [\"/bin/sleep\", \"1000\"] }");
    google.is_refused(&silent, 69, "cannot get a token: /bin/sleep did not answer within 2 s");
    let other = format!("workload-identity-provider = \"{}\"", PROVIDER.replace("123456", "654321"));
    let renewed = google.write("renewed", google.mint("kubernetes").as_bytes(), 0o600);
    let other = google.host_with(&format!("{other}\ntoken = {{ file = {renewed:?} }}"));
    google.is_refused(&other, 77, "no workload identity provider has this audience");
}

#[test]
fn uses_the_metadata_server_without_a_credentials_file() {
    let Some(google) = Google::start(&[]) else { return };
    google.opens_what_it_seals(&google.host_with(""));
    assert!(google.stand_in.requests().iter().any(|request| request["service"] == "metadata"));
}

#[test]
fn the_hook_delivers_and_records_no_token() {
    let Some(google) = Google::start(&[]) else { return };
    let host = google.host("external-account-impersonated.json");
    let sealed = String::from_utf8(google.seal(&host).stdout).unwrap();
    google.stand_in.create_item(AGENT_VAULT, "database", &[("", "password", sealed.trim_end())]);
    let container = Container::create();
    let output = host.hook(&container.state([("run.secrets/password".into(), REFERENCE.into())]));
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(container.secret("password"), SECRET);
    let audit = fs::read_to_string(host.path("audit")).unwrap();
    assert!(audit.contains("primary"), "{audit}");
    google.assert_holds_no_secret(&audit);
}

#[test]
fn caches_a_token_until_it_expires_for_one_principal_only() {
    let Some(google) = Google::start(&[]) else { return };
    let host = |file: &str, name: &str, seconds: i64| {
        let end = jiff::Timestamp::now().as_second() + seconds;
        let claims = BASE64_URL_SAFE_NO_PAD.encode(json!({ "exp": end, "sub": name }).to_string());
        let token = format!("eyJhbGciOiJSUzI1NiJ9.{claims}.standin-subject-token");
        let source = json!({ "file": google.write(name, token.as_bytes(), 0o600) });
        with_long_deadline(google.changed(file, &json!({ "credential_source": source })))
    };
    // The number of token exchanges by two or more processes.
    let exchanges = |host: &Host| {
        google.stand_in.request("POST", "/stand-in/reset", &Value::Null);
        google.opens_what_it_seals(host);
        google.stand_in.requests().iter().filter(|request| request["path"] == "/v1/token").count()
    };
    let first = host("external-account-file.json", "first", 3600);
    assert_eq!(exchanges(&first), 1);
    // After its reset the stand-in refuses the cached token: the token is exchanged again, once.
    assert_eq!(exchanges(&first), 1);
    assert_eq!(
        exchanges(&host("external-account-file.json", "second", 3600)),
        1,
        "the cached token of another subject was used"
    );
    assert_eq!(
        exchanges(&host("external-account-impersonated.json", "second", 3600)),
        1,
        "the cached token of another account was used"
    );
    assert_eq!(
        exchanges(&host("external-account-file.json", "short", 20)),
        2,
        "the token may expire before it is used"
    );
    let files = || fs::read_dir("/run/oci-secrets").unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    assert_eq!(files().len(), 3);
    assert!(files().iter().all(|path| fs::metadata(path).unwrap().permissions().mode() & 0o777 == 0o600));
    let third = host("external-account-file.json", "third", 3600);
    fs::set_permissions("/run/oci-secrets", Permissions::from_mode(0o750)).unwrap();
    assert_eq!(exchanges(&third), 2, "others can see the directory");
    fs::remove_dir_all("/run/oci-secrets").unwrap();
    let elsewhere = google.path("no-tmpfs");
    fs::create_dir(&elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, "/run/oci-secrets").unwrap();
    assert_eq!(exchanges(&third), 2, "a link was followed");
}

#[test]
fn reports_that_impersonation_is_denied() {
    let Some(google) = Google::start(&[]) else { return };
    google.is_refused(&google.host("impersonated-denied.json"), 77, "may not be impersonated by us");
}

#[test]
fn reports_why_the_pool_refuses_a_token() {
    let Some(google) = Google::start(&[]) else { return };
    let expired = google.write("expired", b"eyJhbGciOiJSUzI1NiJ9.eyJleHAiOjF9.standin-subject-token", 0o600);
    let forged = google.write("forged", b"eyJhbGciOiJSUzI1NiJ9.eyJleHAiOjJ9.standin-forged", 0o600);
    for (change, words) in [
        (json!({ "audience": "//iam.googleapis.com/another" }), "no workload identity provider has this audience"),
        (json!({ "credential_source": { "file": expired } }), "the subject token has expired"),
        (json!({ "credential_source": { "file": forged } }), "the subject token or key is not accepted"),
    ] {
        google.is_refused(&google.changed("external-account-file.json", &change), 77, words);
    }
}

#[test]
fn reports_an_unknown_service_account() {
    let Some(google) = Google::start(&[]) else { return };
    let change = json!({ "client_email": "other@stand-in.iam.gserviceaccount.com" });
    google.is_refused(&google.changed("service-account.json", &change), 77, "refuses our credentials");
}

#[test]
fn names_the_service_account_that_lacks_a_role() {
    let Some(google) = Google::start(&[]) else { return };
    for file in ["service-account.json", "external-account-impersonated.json"] {
        let host = google.host(file);
        let output = host.oci_secrets(&["seal", "--kek", &format!("{KEY_RING}/denied"), "--for", REFERENCE], SECRET);
        let hint = text(&output);
        assert!(hint.contains("--role roles/cloudkms.cryptoKeyEncrypter --member serviceAccount:"), "{hint}");
        assert!(hint.contains(".iam.gserviceaccount.com;"), "{hint}");
    }
}

#[test]
fn does_not_print_a_token_file_that_it_cannot_parse() {
    let Some(google) = Google::start(&[]) else { return };
    let token = json!({ "value": google.subject_token() }).to_string();
    let source = json!({
        "file": google.write("json-token", token.as_bytes(), 0o600),
        "format": { "type": "json", "subject_token_field_name": "other" },
    });
    let change = json!({ "credential_source": source });
    google.is_refused(&google.changed("external-account-file.json", &change), 77, "the credentials are refused");
}

#[test]
fn refuses_credentials_that_others_can_read() {
    let Some(google) = Google::start(&[]) else { return };
    let token = google.write("readable", google.subject_token().as_bytes(), 0o644);
    let change = json!({ "credential_source": { "file": token } });
    google.is_refused(
        &google.changed("external-account-file.json", &change),
        77,
        "readable: mode is 0644, others can read it",
    );
    google.write("readable.json", &fs::read(google.path("service-account.json")).unwrap(), 0o644);
    google.is_refused(&google.host("readable.json"), 77, "readable.json: mode is 0644, others can read it");
}

#[test]
fn a_token_service_without_an_answer_takes_at_most_the_deadline() {
    let Some(google) = Google::start(&[]) else { return };
    let audience = google.file("external-account-file.json")["audience"].as_str().unwrap().to_owned();
    let (pool, _) = audience.rsplit_once('/').unwrap();
    for provider in ["silent", "status-503", "reset"] {
        let change = json!({ "audience": format!("{pool}/{provider}") });
        google.is_not_reached(&google.changed("external-account-file.json", &change));
    }
}

#[test]
fn a_silent_metadata_server_takes_at_most_the_deadline() {
    let Some(google) = Google::start(&["--metadata-fault", "silent"]) else { return };
    google.is_not_reached(&google.host_with(""));
}

#[test]
fn reports_a_missing_metadata_server_within_the_deadline() {
    let Some(google) = Google::start(&["--metadata", "127.0.0.1:0"]) else { return };
    google.is_not_reached(&google.host_with(""));
}
