//! Every kind of Google credentials, and the error messages when they are refused, which contain no secret.
//!
//! Google's client uses the CA certificates of the system, and the fixed address of the metadata server: each test runs in its own
//! namespaces.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking, its helpers too")]

mod support;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Output;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use support::container::Container;
use support::host::{Host, KEY_RING, run};
use support::machine::{METADATA, Machine};
use support::{AGENT_VAULT, StandIn};
use tempfile::TempDir;

const REFERENCE: &str = "op://AgentVault/database/password";
const SECRET: &[u8] = b"canary";

/// The workload identity provider of the stand-in.
const PROVIDER: &str = "projects/123456/locations/global/workloadIdentityPools/stand-in/providers/stand-in";

/// The deadline of the settings, plus the run time of a process.
const PATIENCE: Duration = Duration::from_millis(2000 + 1500);

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
fn all_calls_of_a_start_share_the_connection_that_it_makes_first() {
    let Some(google) = Google::start(&[]) else { return };
    let host = with_long_deadline(google.host("service-account.json"));
    let references: Vec<(String, String)> =
        (0..32).map(|number| (format!("field-{number}"), format!("op://AgentVault/database/field-{number}"))).collect();
    let seal = |reference: &str| {
        let arguments = ["seal", "--kek", &format!("{KEY_RING}/prod"), "--for", reference];
        String::from_utf8(host.oci_secrets(&arguments, SECRET).stdout).unwrap()
    };
    let sealed: Vec<String> = references.iter().map(|(_, reference)| seal(reference)).collect();
    let names = references.iter().map(|(name, _)| name.as_str());
    let fields: Vec<(&str, &str, &str)> =
        names.zip(&sealed).map(|(name, value)| ("", name, value.trim_end())).collect();
    google.stand_in.create_item(AGENT_VAULT, "database", &fields);
    let container = Container::create();
    let before = google.stand_in.requests().len();
    let requests = references.into_iter().map(|(name, reference)| (format!("run.secrets/{name}"), reference));
    let output = host.hook(&container.state(requests));
    assert!(output.status.success(), "{}", text(&output));
    let all = google.stand_in.requests();
    let kms: Vec<&Value> = all[before..].iter().filter(|request| request["service"] == "kms").collect();
    assert_eq!(kms.len(), 33);
    assert_eq!((&kms[0]["method"], &kms[0]["authorization"]), (&json!("HEAD"), &json!(false)));
    assert!(kms.iter().all(|request| request["connection"] == kms[0]["connection"]), "{kms:?}");
}

#[test]
fn the_command_reaches_the_kms_through_a_proxy_and_the_hook_does_not() {
    let Some(google) = Google::start(&[]) else { return };
    let host = google.host("service-account.json");
    let proxied = |program: &str| {
        let mut command = host.program(program);
        // Nothing listens there.
        command.env("HTTPS_PROXY", "http://127.0.0.1:1");
        command
    };
    let seal = ["seal", "--kek", &format!("{KEY_RING}/prod"), "--for", REFERENCE];
    let refused = run(proxied("oci-secrets").args(seal), SECRET);
    assert_eq!(refused.status.code(), Some(69), "{}", text(&refused));
    let sealed = String::from_utf8(google.seal(&host).stdout).unwrap();
    google.stand_in.create_item(AGENT_VAULT, "database", &[("", "password", sealed.trim_end())]);
    let container = Container::create();
    let state = container.state([("run.secrets/password".into(), REFERENCE.into())]);
    let output = run(&mut proxied("oci-secrets-hook"), &state);
    assert!(output.status.success(), "{}", text(&output));
}

#[test]
fn a_redirection_is_not_followed() {
    let Some(google) = Google::start(&[]) else { return };
    let host = google.host("service-account.json");
    let output = host.oci_secrets(&["seal", "--kek", &format!("{KEY_RING}/redirect"), "--for", REFERENCE], SECRET);
    assert_eq!(output.status.code(), Some(69), "{}", text(&output));
    assert_eq!(google.stand_in.hits(), 0);
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
fn a_private_address_of_google_is_asked_by_the_name_of_the_api() {
    let Some(google) = Google::start(&[]) else { return };
    // The certificate of the stand-in is not for this name.
    let private = google.stand_in.kms().replace("127.0.0.1", "private.googleapis.com");
    let credentials = format!("credentials-file = {:?}", google.path("service-account.json"));
    google.opens_what_it_seals(&Host::new(&google.stand_in, &format!("{credentials}\nendpoint = {private:?}")));
}

#[test]
fn reports_a_certificate_for_another_name() {
    let Some(google) = Google::start(&[]) else { return };
    let other = google.stand_in.kms().replace("127.0.0.1", "kms.example");
    let host = Host::new(
        &google.stand_in,
        &format!("credentials-file = {:?}\nendpoint = {other:?}", google.path("service-account.json")),
    );
    google.is_refused(&host, 78, "cannot connect to https://kms.example:");
    google.is_refused(&host, 78, "its certificate is not valid for this name");
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

/// Sets a long deadline for tests that count requests: on a loaded machine, a request may time out and be retried.
fn with_long_deadline(host: Host) -> Host {
    let settings = fs::read_to_string(host.settings()).unwrap().replace("deadline = \"2s\"", "deadline = \"1m\"");
    host.write("settings.toml", settings.as_bytes(), 0o644);
    host
}

/// Namespaces with the required Google services: over TLS, and with a Cloud KMS that requires tokens.
struct Google {
    stand_in: StandIn,
    directory: TempDir,
}

impl Google {
    /// Moves this thread into new namespaces; `None` if that is not possible.
    fn start(arguments: &[&str]) -> Option<Google> {
        let machine = Machine::enter()?;
        let directory = tempfile::Builder::new().prefix("google").tempdir().unwrap();
        let dir = directory.path().to_str().unwrap();
        let mut all = vec!["--dir", dir, "--tls", "--kms-auth", "--service-account"];
        if !arguments.contains(&"--metadata") {
            all.extend(["--metadata", METADATA]);
        }
        all.extend(arguments);
        let stand_in = StandIn::start(&all);
        machine.name("sts.googleapis.com", "127.0.0.1");
        machine.name("iamcredentials.googleapis.com", "127.0.0.1");
        machine.name("kms.example", "127.0.0.1");
        machine.name("private.googleapis.com", "127.0.0.1");
        machine.trust(&stand_in.ca_file().unwrap());
        Some(Google { stand_in, directory })
    }

    /// A host with this credentials file of the stand-in.
    fn host(&self, credentials: &str) -> Host {
        self.host_with(&format!("credentials-file = {:?}", self.path(credentials)))
    }

    fn host_with(&self, gcp_kms: &str) -> Host {
        Host::new(&self.stand_in, &format!("{gcp_kms}\nendpoint = \"{}\"", self.stand_in.kms()))
    }

    /// A host with a credentials file in which these members are replaced.
    fn changed(&self, credentials: &str, members: &Value) -> Host {
        let mut file = self.file(credentials);
        file.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
        self.write("changed.json", file.to_string().as_bytes(), 0o600);
        self.host("changed.json")
    }

    fn seal(&self, host: &Host) -> Output {
        host.oci_secrets(&["seal", "--kek", &format!("{KEY_RING}/prod"), "--for", REFERENCE], SECRET)
    }

    /// Runs `oci-secrets` in a CI job that can request tokens of GitHub Actions, and has one of GitLab CI.
    fn in_job(&self, host: &Host, arguments: &[&str], input: &[u8]) -> Output {
        let mut command = host.program("oci-secrets");
        command
            .args(arguments)
            .env("ACTIONS_ID_TOKEN_REQUEST_URL", format!("{}/request?x=y", self.stand_in.issuer("github")));
        command.env("ACTIONS_ID_TOKEN_REQUEST_TOKEN", self.stand_in.request_token());
        run(command.env("GCP_TOKEN", self.mint("gitlab")), input)
    }

    /// A token for the provider.
    fn mint(&self, issuer: &str) -> String {
        let audience = format!("https://iam.googleapis.com/{PROVIDER}");
        self.stand_in.mint(issuer, &json!({ "claims": { "aud": audience } }))
    }

    fn opens_what_it_seals(&self, host: &Host) {
        let sealed = self.seal(host);
        assert!(sealed.status.success(), "{}", text(&sealed));
        let opened = host.oci_secrets(&["unseal", "--for", REFERENCE], &sealed.stdout);
        assert_eq!(opened.stdout, SECRET, "{}", text(&opened));
    }

    fn is_refused(&self, host: &Host, code: i32, words: &str) {
        let begin = Instant::now();
        let output = self.seal(host);
        assert!(begin.elapsed() < PATIENCE, "took {:?}", begin.elapsed());
        assert_eq!(output.status.code(), Some(code), "{}", text(&output));
        assert!(text(&output).contains(words), "{}", text(&output));
        assert!(output.stdout.is_empty());
        self.assert_holds_no_secret(&text(&output));
    }

    fn is_not_reached(&self, host: &Host) {
        self.is_refused(host, 69, "cannot get an access token from Google: no answer from http");
    }

    fn assert_holds_no_secret(&self, text: &str) {
        let service_account = self.file("service-account.json");
        let private_key = service_account["private_key"].as_str().unwrap();
        for secret in ["standin-access-token", "standin-subject-token", &self.subject_token(), &private_key[60..120]] {
            assert!(!text.contains(secret), "{text}");
        }
    }

    fn subject_token(&self) -> String {
        fs::read_to_string(self.path("subject-token")).unwrap()
    }

    /// A credentials file of the stand-in's directory.
    fn file(&self, name: &str) -> Value {
        serde_json::from_slice(&fs::read(self.path(name)).unwrap()).unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, content: &[u8], mode: u32) -> PathBuf {
        fs::write(self.path(name), content).unwrap();
        fs::set_permissions(self.path(name), Permissions::from_mode(mode)).unwrap();
        self.path(name)
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
