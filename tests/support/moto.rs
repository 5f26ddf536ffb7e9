//! moto, an independent implementation of AWS.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

use serde_json::Value;

use super::python;

/// moto as a process, which ends with its standard input: when this is dropped, or when this process ends.
pub(crate) struct Moto {
    child: Child,
    ready: Value,
}

impl Moto {
    /// Starts it with these arguments, which `moto_server.py` describes; `None` if there is no moto.
    pub(crate) fn start(arguments: &[&str]) -> Option<Moto> {
        let mut command = python::client("moto_server.py")?;
        let mut child = command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ready = serde_json::from_str(&line).expect("moto ended before it was ready");
        Some(Moto { child, ready })
    }

    /// Its URL on loopback.
    pub(crate) fn url(&self) -> &str {
        self.ready["url"].as_str().unwrap()
    }

    /// A key by its alias, and another by its id.
    pub(crate) fn keks(&self) -> [String; 2] {
        [&self.ready["alias"], &self.ready["keys"][1]].map(|name| format!("aws-kms://{}", name.as_str().unwrap()))
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}
