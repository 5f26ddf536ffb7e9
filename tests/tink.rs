//! Compatibility of sealed values with Google's Tink, by its Python library.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

mod support;

use std::process::Output;
use std::sync::OnceLock;

use support::host::{Host, KEY_RING, LOCAL_KEK, run};
use support::moto::Moto;
use support::{StandIn, python};

const REFERENCE: &str = "op://AgentVault/database/password";
const OTHER_REFERENCE: &str = "op://AgentVault/database/Password";
const SECRET: &[u8] = b"canary \x00 \xff\n of any bytes";

#[test]
fn unseals_values_that_tink_sealed() {
    let Some(tink) = Tink::shared() else { return };
    for kek in tink.keks() {
        let envelope = tink.run("seal", &kek, REFERENCE, SECRET);
        let opened = tink.unseal(&kek, REFERENCE, &succeeded(envelope));
        assert_eq!(succeeded(opened), SECRET, "{kek}");
    }
}

#[test]
fn tink_opens_values_that_we_sealed() {
    let Some(tink) = Tink::shared() else { return };
    for kek in tink.keks() {
        let sealed = tink.seal(&kek, REFERENCE, SECRET);
        let opened = tink.run("open", &kek, REFERENCE, &sealed);
        assert_eq!(succeeded(opened), SECRET, "{kek}");
    }
}

#[test]
fn refuses_a_value_of_tink_for_another_reference() {
    let Some(tink) = Tink::shared() else { return };
    for kek in tink.keks() {
        let envelope = tink.run("seal", &kek, OTHER_REFERENCE, SECRET);
        let refused = tink.unseal(&kek, REFERENCE, &succeeded(envelope));
        assert_eq!(refused.status.code(), Some(65), "{kek}");
        assert!(
            String::from_utf8_lossy(&refused.stderr).contains("it was sealed for another reference or KEK"),
            "{kek}"
        );
    }
}

#[test]
fn tink_refuses_a_value_for_another_reference() {
    let Some(tink) = Tink::shared() else { return };
    for kek in tink.keks() {
        let sealed = tink.seal(&kek, OTHER_REFERENCE, SECRET);
        let refused = tink.run("open", &kek, REFERENCE, &sealed);
        assert!(String::from_utf8_lossy(&refused.stderr).starts_with("Tink refuses: "), "{kek}");
        assert!(!refused.status.success() && refused.stdout.is_empty(), "{kek}");
    }
}

/// Tink and `oci-secrets` on one host, with the same KEKs.
struct Tink {
    stand_in: StandIn,
    moto: Moto,
    host: Host,
}

impl Tink {
    /// One instance for all tests, which ends with this process.
    fn shared() -> Option<&'static Tink> {
        static TINK: OnceLock<Option<Tink>> = OnceLock::new();
        TINK.get_or_init(Tink::start).as_ref()
    }

    /// `None` if there is no Python for Tink and moto.
    fn start() -> Option<Tink> {
        let (stand_in, moto) = (StandIn::start(&[]), Moto::start(&[])?);
        let tables = [("gcp-kms", stand_in.kms()), ("aws-kms", moto.url())];
        let tables: String = tables.map(|(name, url)| format!("[{name}]\nendpoint = {url:?}\n")).concat();
        Some(Tink { host: Host::with_kek(&stand_in, &moto.keks()[1], &tables), stand_in, moto })
    }

    fn keks(&self) -> [String; 3] {
        let [_, aws] = self.moto.keks();
        [format!("{KEY_RING}/prod"), aws, LOCAL_KEK.to_owned()]
    }

    /// Runs Tink to seal or open, with the associated data of a sealed value for this reference.
    fn run(&self, action: &str, kek: &str, reference: &str, input: &[u8]) -> Output {
        let mut client = python::client("tink_envelope.py").unwrap();
        client.args([action, kek, &format!("sealed:v1 {kek} {reference}"), "--gcp", self.stand_in.kms()]);
        run(client.args(["--aws", self.moto.url(), "--keks"]).arg(self.host.keks()), input)
    }

    /// Unseals an envelope in base64.
    fn unseal(&self, kek: &str, reference: &str, envelope: &[u8]) -> Output {
        let line = [format!("sealed:v1 {kek} ").as_bytes(), envelope].concat();
        self.host.oci_secrets(&["unseal", "--for", reference], &line)
    }

    /// Seals a secret, and returns the envelope in base64.
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
