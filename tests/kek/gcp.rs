//! Google Cloud KMS, which the stand-in is.

use std::net::TcpListener;

use oci_secrets::error::class::Class;

use crate::support::StandIn;
use crate::support::host::KEY_RING;
use crate::{Place, Trouble};

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
