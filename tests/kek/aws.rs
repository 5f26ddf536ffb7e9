//! AWS KMS, which moto is; and servers that only refuse, or say nothing.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::OnceLock;
use std::thread;

use oci_secrets::fault::{Class, Fault as _};

use crate::gcp::nobody;
use crate::support::host::run;
use crate::support::moto::Moto;
use crate::support::python;
use crate::{Place, REFERENCE, SECRET, Situation, Trouble, unseal};

/// `kek::main` shows these, too.
pub(crate) const SITUATIONS: [Situation; 1] = [("opens_what_aws_s_own_client_encrypted", opens_what_the_kms_encrypted)];

/// One moto for all tests, which ends with this process.
static MOTO: OnceLock<Option<Moto>> = OnceLock::new();

struct AwsKms(&'static Moto);

pub(crate) fn place() -> Option<Box<dyn Place>> {
    let moto = MOTO.get_or_init(|| Moto::start(&[])).as_ref()?;
    Some(Box::new(AwsKms(moto)))
}

impl AwsKms {
    fn settings_at(&self, endpoint: &str) -> String {
        format!("keks = {:?}\n[aws-kms]\nendpoint = {endpoint:?}\n", self.keks())
    }
}

impl Place for AwsKms {
    fn settings(&self) -> String {
        self.settings_at(self.0.url())
    }

    fn keks(&self) -> [String; 2] {
        self.0.keks()
    }

    fn trouble(&self, trouble: Trouble) -> (String, String, Class) {
        let (endpoint, class) = match trouble {
            Trouble::Unreachable => (nobody(), Class::Unavailable),
            Trouble::Slow => (server(None), Class::Unavailable),
            Trouble::Denied => (server(Some("AccessDeniedException")), Class::NotPermitted),
        };
        (self.settings_at(&endpoint), self.keks()[0].clone(), class)
    }

    fn hides_which_keys_there_are(&self) -> bool {
        true
    }

    fn secrets(&self) -> Vec<String> {
        vec!["hunter2 said the server".into()]
    }
}

/// A server that answers every request with this error, or accepts connections and says nothing.
fn server(error: Option<&'static str>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        let mut silent = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let Some(error) = error else {
                silent.push(stream);
                continue;
            };
            let _ = stream.read(&mut [0; 16 * 1024]);
            let body = format!(r#"{{"__type":"{error}","message":"hunter2 said the server"}}"#);
            let head = "HTTP/1.1 400 Bad Request\r\nContent-Type: application/x-amz-json-1.1\r\nConnection: close";
            let _ = write!(stream, "{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        }
    });
    url
}

/// As `aws kms encrypt --encryption-context` does it.
fn opens_what_the_kms_encrypted(place: &dyn Place) {
    let [_, kek] = place.keks();
    let settings = place.settings();
    let endpoint = settings.rsplit('"').nth(1).unwrap();
    let arn = kek.strip_prefix("aws-kms://").unwrap();
    let mut client = python::client("kms_encrypt.py").unwrap();
    let output = run(client.args(["aws", endpoint, arn, &format!("sealed:v1 {kek} {REFERENCE}")]), SECRET);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let line = format!("sealed:v1/direct {kek} {}", String::from_utf8(output.stdout).unwrap());
    assert_eq!(unseal(place, &line, REFERENCE).unwrap(), SECRET);
    assert_eq!(unseal(place, &line, "op://AgentVault/other/password").unwrap_err().class(), Class::Data);
}
