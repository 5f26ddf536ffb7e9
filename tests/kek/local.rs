//! Key files. Reading them never blocks.

use oci_secrets::fault::Class;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use tempfile::TempDir;

use crate::support::with_mode;
use crate::{Failure, Fixture};

struct KeyFiles(TempDir);

pub(crate) fn fixture() -> Option<Box<dyn Fixture>> {
    let files = KeyFiles(TempDir::new().unwrap());
    files.write("one", 0o600);
    files.write("two", 0o600);
    files.write("denied", 0o644);
    mknodat(CWD, files.0.path().join("slow"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    Some(Box::new(files))
}

impl KeyFiles {
    fn write(&self, name: &str, mode: u32) {
        with_mode(&self.0.path().join(name), &[name.as_bytes()[0]; 32], mode);
    }
}

impl Fixture for KeyFiles {
    fn settings(&self) -> String {
        let names = ["one", "two", "denied", "slow", "missing"].map(|name| format!("local-kek:{name}"));
        format!("keks = {names:?}\n[local-kek]\ndirectory = {:?}\n", self.0.path())
    }

    fn keks(&self) -> [String; 2] {
        ["local-kek:one".into(), "local-kek:two".into()]
    }

    fn failure(&self, failure: Failure) -> (String, String, Class) {
        let (name, class) = match failure {
            Failure::Unreachable => ("missing", Class::Settings),
            Failure::Slow => ("slow", Class::Settings),
            Failure::Denied => ("denied", Class::NotPermitted),
        };
        (self.settings(), format!("local-kek:{name}"), class)
    }

    fn secrets(&self) -> Vec<String> {
        vec!["o".repeat(32), "d".repeat(32)]
    }
}
