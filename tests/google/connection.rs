//! How Cloud KMS is reached: one connection, certificates, proxies and private addresses.

use std::fs;

use rustix::mount::{MountFlags, mount};
use serde_json::{Value, json};

use crate::support::AGENT_VAULT;
use crate::support::container::Container;
use crate::support::host::{Host, KEY_RING, run};
use crate::{Google, REFERENCE, SECRET, text, with_long_deadline};

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
fn only_authorities_in_the_bundle_of_the_system_are_trusted() {
    const DIRECTORY: &str = "/etc/ssl/certs";
    let Some(google) = Google::start(&[]) else { return };
    let host = google.host("service-account.json");
    let bundle = format!("{DIRECTORY}/ca-certificates.crt");
    let (content, authority) = (fs::read(&bundle).unwrap(), fs::read(google.stand_in.ca_file().unwrap()).unwrap());
    let without = content.strip_suffix(authority.as_slice()).unwrap();
    mount("tmpfs", DIRECTORY, "tmpfs", MountFlags::empty(), None).unwrap();
    fs::write(&bundle, without).unwrap();
    fs::write(format!("{DIRECTORY}/other.pem"), &authority).unwrap();
    google.is_refused(&host, 78, "signed by an authority that is not trusted");
    // The directory counts if the caller of the command names it, or if there is no bundle.
    let mut named = host.program("oci-secrets");
    named.args(["seal", "--kek", &format!("{KEY_RING}/prod"), "--for", REFERENCE]).env("SSL_CERT_DIR", DIRECTORY);
    let sealed = run(&mut named, SECRET);
    assert!(sealed.status.success(), "{}", text(&sealed));
    fs::remove_file(&bundle).unwrap();
    google.opens_what_it_seals(&host);
}
