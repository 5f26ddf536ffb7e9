//! Sealed values are what Google's Tink makes and opens: its own library for Python does both.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

mod support;

use std::process::Output;

use support::host::{Host, KEY_RING, LOCAL_KEK, run};
use support::{StandIn, python};

const REFERENCE: &str = "op://AgentVault/database/password";
const OTHER_REFERENCE: &str = "op://AgentVault/database/Password";
const SECRET: &[u8] = b"canary \x00 \xff\n of any bytes";

#[test]
fn opens_what_tink_seals() {
    let tink = Tink::start();
    for kek in keks() {
        let Some(envelope) = tink.run("seal", &kek, REFERENCE, SECRET) else { return };
        let opened = tink.unseal(&kek, REFERENCE, &succeeded(envelope));
        assert_eq!(succeeded(opened), SECRET, "{kek}");
    }
}

#[test]
fn seals_what_tink_opens() {
    let tink = Tink::start();
    for kek in keks() {
        let sealed = tink.seal(&kek, REFERENCE, SECRET);
        let Some(opened) = tink.run("open", &kek, REFERENCE, &sealed) else { return };
        assert_eq!(succeeded(opened), SECRET, "{kek}");
    }
}

#[test]
fn refuses_what_tink_sealed_for_another_reference() {
    let tink = Tink::start();
    for kek in keks() {
        let Some(envelope) = tink.run("seal", &kek, OTHER_REFERENCE, SECRET) else { return };
        let refused = tink.unseal(&kek, REFERENCE, &succeeded(envelope));
        assert_eq!(refused.status.code(), Some(65), "{kek}");
        assert!(
            String::from_utf8_lossy(&refused.stderr).contains("it was sealed for another reference or KEK"),
            "{kek}"
        );
    }
}

#[test]
fn tink_refuses_what_was_sealed_for_another_reference() {
    let tink = Tink::start();
    for kek in keks() {
        let sealed = tink.seal(&kek, OTHER_REFERENCE, SECRET);
        let Some(refused) = tink.run("open", &kek, REFERENCE, &sealed) else { return };
        assert!(String::from_utf8_lossy(&refused.stderr).starts_with("Tink refuses: "), "{kek}");
        assert!(!refused.status.success() && refused.stdout.is_empty(), "{kek}");
    }
}

fn keks() -> [String; 2] {
    [format!("{KEY_RING}/prod"), LOCAL_KEK.to_owned()]
}

/// Tink and `oci-secrets` on one host, with the same KEKs.
struct Tink {
    stand_in: StandIn,
    host: Host,
}

impl Tink {
    fn start() -> Tink {
        let stand_in = StandIn::start(&[]);
        Tink { host: Host::new(&stand_in, &format!("endpoint = \"{}\"", stand_in.kms())), stand_in }
    }

    /// Lets Tink seal or open, bound to this reference as a sealed value is; `None` if there is no Tink.
    fn run(&self, action: &str, kek: &str, reference: &str, input: &[u8]) -> Option<Output> {
        let mut client = python::client("tink_envelope.py")?;
        client.args([action, kek, &format!("sealed:v1 {kek} {reference}"), "--kms", self.stand_in.kms(), "--keks"]);
        Some(run(client.arg(self.host.keks()), input))
    }

    /// Unseals an envelope that is in base64.
    fn unseal(&self, kek: &str, reference: &str, envelope: &[u8]) -> Output {
        let line = [format!("sealed:v1 {kek} ").as_bytes(), envelope].concat();
        self.host.oci_secrets(&["unseal", "--for", reference], &line)
    }

    /// Seals a secret, and gives back the envelope in base64.
    fn seal(&self, kek: &str, reference: &str, secret: &[u8]) -> Vec<u8> {
        let line = succeeded(self.host.oci_secrets(&["seal", "--kek", kek, "--for", reference], secret));
        let envelope = line.strip_prefix(format!("sealed:v1 {kek} ").as_bytes()).unwrap();
        envelope.trim_ascii_end().to_owned()
    }
}

fn succeeded(output: Output) -> Vec<u8> {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}
