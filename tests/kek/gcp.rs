//! Google Cloud KMS: the stand-in.

use std::net::TcpListener;

use oci_secrets::fault::{Class, Fault as _};

use crate::support::host::{KEY_RING, run};
use crate::support::{StandIn, python};
use crate::{Case, Failure, Fixture, REFERENCE, SECRET, unseal};

/// Tests that only this kind has.
pub(crate) const CASES: [Case; 1] = [("unseals_a_value_of_the_google_client", opens_what_the_kms_encrypted)];

struct CloudKms(StandIn);

pub(crate) fn fixture() -> Option<Box<dyn Fixture>> {
    Some(Box::new(CloudKms(StandIn::start(&[]))))
}

impl Fixture for CloudKms {
    fn settings(&self) -> String {
        settings(self.0.kms())
    }

    fn keks(&self) -> [String; 2] {
        [format!("{KEY_RING}/prod"), format!("{KEY_RING}/hsm")]
    }

    fn failure(&self, failure: Failure) -> (String, String, Class) {
        let kek = |name| format!("{KEY_RING}/{name}");
        match failure {
            Failure::Unreachable => (settings(&unreachable()), kek("prod"), Class::Unavailable),
            Failure::Slow => (self.settings(), kek("silent"), Class::Unavailable),
            Failure::Denied => (self.settings(), kek("denied"), Class::NotPermitted),
        }
    }

    fn secrets(&self) -> Vec<String> {
        vec![self.0.token().to_owned()]
    }
}

fn settings(endpoint: &str) -> String {
    format!("keks = [\"{KEY_RING}/*\"]\n[gcp-kms]\nendpoint = \"{endpoint}\"\n")
}

/// The URL of a port on which no server listens.
pub(crate) fn unreachable() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

/// Encrypts as `gcloud kms encrypt --additional-authenticated-data-file` does.
fn opens_what_the_kms_encrypted(fixture: &dyn Fixture) {
    let [kek, _] = fixture.keks();
    let settings = fixture.settings();
    let endpoint = settings.rsplit('"').nth(1).unwrap();
    let encrypt = |associated_data: &str| {
        let mut client = python::client("kms_encrypt.py")?;
        let name = kek.strip_prefix("gcp-kms://").unwrap();
        let output = run(client.args(["gcp", endpoint, name, associated_data]), SECRET);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Some(format!("sealed:v1/direct {kek} {}", String::from_utf8(output.stdout).unwrap()))
    };
    let Some(line) = encrypt(&format!("sealed:v1 {kek} {REFERENCE}")) else { return };
    assert_eq!(unseal(fixture, &line, REFERENCE).unwrap(), SECRET);
    assert_eq!(unseal(fixture, &line, "op://AgentVault/other/password").unwrap_err().class(), Class::Data);
    assert_eq!(unseal(fixture, &line.replace("/direct", ""), REFERENCE).unwrap_err().class(), Class::Data);
    let unbound = encrypt("").unwrap();
    assert_eq!(unseal(fixture, &unbound, REFERENCE).unwrap_err().class(), Class::Data);
}
