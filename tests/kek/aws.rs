//! AWS KMS: moto, and servers that refuse every request or do not answer.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::OnceLock;
use std::thread;

use oci_secrets::fault::{Class, Fault as _};

use crate::gcp::unreachable;
use crate::support::host::run;
use crate::support::moto::Moto;
use crate::support::python;
use crate::{Case, Failure, Fixture, REFERENCE, SECRET, unseal};

/// Tests that only this kind has.
pub(crate) const CASES: [Case; 1] = [("unseals_a_value_of_the_aws_client", opens_what_the_kms_encrypted)];

/// One moto for all tests, which ends with this process.
static MOTO: OnceLock<Option<Moto>> = OnceLock::new();

struct AwsKms(&'static Moto);

pub(crate) fn fixture() -> Option<Box<dyn Fixture>> {
    let moto = MOTO.get_or_init(|| Moto::start(&[])).as_ref()?;
    Some(Box::new(AwsKms(moto)))
}

impl AwsKms {
    fn settings_at(&self, endpoint: &str) -> String {
        format!("keks = {:?}\n[aws-kms]\nendpoint = {endpoint:?}\n", self.keks())
    }
}

impl Fixture for AwsKms {
    fn settings(&self) -> String {
        self.settings_at(self.0.url())
    }

    fn keks(&self) -> [String; 2] {
        self.0.keks()
    }

    fn failure(&self, failure: Failure) -> (String, String, Class) {
        let (endpoint, class) = match failure {
            Failure::Unreachable => (unreachable(), Class::Unavailable),
            Failure::Slow => (server(None), Class::Unavailable),
            Failure::Denied => (server(Some("AccessDeniedException")), Class::NotPermitted),
        };
        (self.settings_at(&endpoint), self.keks()[0].clone(), class)
    }

    fn hides_the_existence_of_keys(&self) -> bool {
        true
    }

    fn secrets(&self) -> Vec<String> {
        vec!["hunter2".into()]
    }
}

/// A server that answers every request with this error, or without one does not answer.
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
            let body = format!(r#"{{"__type":"{error}","message":"token ya29.hunter2 is not allowed"}}"#);
            let head = "HTTP/1.1 400 Bad Request\r\nContent-Type: application/x-amz-json-1.1\r\nConnection: close";
            let _ = write!(stream, "{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        }
    });
    url
}

/// Encrypts as `aws kms encrypt --encryption-context` does.
fn opens_what_the_kms_encrypted(fixture: &dyn Fixture) {
    let [_, kek] = fixture.keks();
    let settings = fixture.settings();
    let endpoint = settings.rsplit('"').nth(1).unwrap();
    let arn = kek.strip_prefix("aws-kms://").unwrap();
    let mut client = python::client("kms_encrypt.py").unwrap();
    let output = run(client.args(["aws", endpoint, arn, &format!("sealed:v1 {kek} {REFERENCE}")]), SECRET);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let line = format!("sealed:v1/direct {kek} {}", String::from_utf8(output.stdout).unwrap());
    assert_eq!(unseal(fixture, &line, REFERENCE).unwrap(), SECRET);
    assert_eq!(unseal(fixture, &line, "op://AgentVault/other/password").unwrap_err().class(), Class::Data);
}
