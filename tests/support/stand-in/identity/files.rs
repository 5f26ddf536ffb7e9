//! Google credentials files of every supported type.

use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::jwt::PublicKey;
use super::{PROJECT, PROVIDERS, SERVICE_ACCOUNT, SUBJECT_TOKEN, SUBJECT_TOKEN_BEARER};
use crate::file;

/// Writes the files of workload identity federation into `dir`:
///
/// - `external-account-file.json`: the foreign token is in the file `subject-token`;
/// - `external-account-url.json`: the foreign token is served at a URL;
/// - `external-account-impersonated.json`: the same as the first, and then a service account is impersonated;
/// - `impersonated.json`: impersonation with the first as source;
/// - `impersonated-denied.json`: the same, but it is not allowed.
pub(crate) fn write(dir: &Path, url: &str) -> io::Result<()> {
    let dir = dir.canonicalize()?;
    let subject_token = dir.join("subject-token");
    file::write_private(&subject_token, SUBJECT_TOKEN)?;

    let from_file = external_account(url, json!({ "file": subject_token }));
    let from_url = external_account(
        url,
        json!({
            "url": format!("{url}/subject-token"),
            "headers": { "Authorization": format!("Bearer {SUBJECT_TOKEN_BEARER}") },
            "format": { "type": "json", "subject_token_field_name": "value" },
        }),
    );
    let mut then_impersonated = from_file.clone();
    then_impersonated["service_account_impersonation_url"] = impersonation_url(url, SERVICE_ACCOUNT).into();
    let denied = SERVICE_ACCOUNT.replace("agents@", "denied@");
    for (name, content) in [
        ("external-account-file.json", &from_file),
        ("external-account-url.json", &from_url),
        ("external-account-impersonated.json", &then_impersonated),
        ("impersonated.json", &impersonated(url, SERVICE_ACCOUNT, &from_file)),
        ("impersonated-denied.json", &impersonated(url, &denied, &from_file)),
    ] {
        file::write_private(&dir.join(name), &format!("{content:#}\n"))?;
    }
    Ok(())
}

/// Generates the service account's key, which takes a moment, and writes it to `service-account.json` in `dir`.
pub(crate) fn write_service_account(dir: &Path, url: &str) -> io::Result<PublicKey> {
    let private_key = generate_key()?;
    let content = json!({
        "type": "service_account",
        "project_id": PROJECT,
        "private_key_id": "stand-in",
        "private_key": private_key,
        "client_email": SERVICE_ACCOUNT,
        "client_id": "1",
        "token_uri": format!("{url}/token"),
        "universe_domain": "googleapis.com",
    });
    file::write_private(&dir.join("service-account.json"), &format!("{content:#}\n"))?;
    Ok(PublicKey::of(&private_key))
}

fn external_account(url: &str, credential_source: Value) -> Value {
    json!({
        "type": "external_account",
        "audience": format!("{PROVIDERS}stand-in"),
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "token_url": format!("{url}/v1/token"),
        "credential_source": credential_source,
        "universe_domain": "googleapis.com",
    })
}

fn impersonated(url: &str, email: &str, source: &Value) -> Value {
    json!({
        "type": "impersonated_service_account",
        "service_account_impersonation_url": impersonation_url(url, email),
        "source_credentials": source,
        "universe_domain": "googleapis.com",
    })
}

fn impersonation_url(url: &str, email: &str) -> String {
    format!("{url}/v1/projects/-/serviceAccounts/{email}:generateAccessToken")
}

/// A new RSA key in PKCS #8 and PEM, from the `openssl` command: ring does not make RSA keys.
pub(super) fn generate_key() -> io::Result<String> {
    let output = Command::new("openssl")
        .args(["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| io::Error::new(error.kind(), format!("cannot run openssl: {error}")))?;
    String::from_utf8(output.stdout).map_err(io::Error::other)
}
