//! Google Cloud KMS, which the stand-in is.

use std::net::TcpListener;

use oci_secrets::fault::{Class, Fault as _};

use crate::support::host::{KEY_RING, run};
use crate::support::{StandIn, python};
use crate::{Place, REFERENCE, SECRET, Situation, Trouble, unseal};

/// `kek::main` shows these, too.
pub(crate) const SITUATIONS: [Situation; 1] =
    [("opens_what_google_s_own_client_encrypted", opens_what_the_kms_encrypted)];

struct CloudKms(StandIn);

pub(crate) fn place() -> Option<Box<dyn Place>> {
    Some(Box::new(CloudKms(StandIn::start(&[]))))
}

impl Place for CloudKms {
    fn settings(&self) -> String {
        settings(self.0.kms())
    }

    fn keks(&self) -> [String; 2] {
        [format!("{KEY_RING}/prod"), format!("{KEY_RING}/hsm")]
    }

    fn trouble(&self, trouble: Trouble) -> (String, String, Class) {
        let kek = |name| format!("{KEY_RING}/{name}");
        match trouble {
            Trouble::Unreachable => (settings(&nobody()), kek("prod"), Class::Unavailable),
            Trouble::Slow => (self.settings(), kek("silent"), Class::Unavailable),
            Trouble::Denied => (self.settings(), kek("denied"), Class::NotPermitted),
        }
    }

    fn secrets(&self) -> Vec<String> {
        vec![self.0.token().to_owned()]
    }
}

fn settings(endpoint: &str) -> String {
    format!("keks = [\"{KEY_RING}/*\"]\n[gcp-kms]\nendpoint = \"{endpoint}\"\n")
}

/// An address at which nobody listens.
pub(crate) fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

/// As `gcloud kms encrypt --additional-authenticated-data-file` does it.
fn opens_what_the_kms_encrypted(place: &dyn Place) {
    let [kek, _] = place.keks();
    let settings = place.settings();
    let endpoint = settings.rsplit('"').nth(1).unwrap();
    let encrypt = |associated_data: &str| {
        let mut client = python::client("kms_encrypt.py")?;
        let name = kek.strip_prefix("gcp-kms://").unwrap();
        let output = run(client.args(["gcp", endpoint, name, associated_data]), SECRET);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Some(format!("sealed:v1/direct {kek} {}", String::from_utf8(output.stdout).unwrap()))
    };
    let Some(line) = encrypt(&format!("sealed:v1 {kek} {REFERENCE}")) else { return };
    assert_eq!(unseal(place, &line, REFERENCE).unwrap(), SECRET);
    assert_eq!(unseal(place, &line, "op://AgentVault/other/password").unwrap_err().class(), Class::Data);
    assert_eq!(unseal(place, &line.replace("/direct", ""), REFERENCE).unwrap_err().class(), Class::Data);
    let unbound = encrypt("").unwrap();
    assert_eq!(unseal(place, &unbound, REFERENCE).unwrap_err().class(), Class::Data);
}
