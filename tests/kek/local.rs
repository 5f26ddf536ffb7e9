//! Key files. They are reached where they are readable, and cannot make anyone wait.

use oci_secrets::fault::Class;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use tempfile::TempDir;

use crate::support::with_mode;
use crate::{Place, Trouble};

struct KeyFiles(TempDir);

pub(crate) fn place() -> Option<Box<dyn Place>> {
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

impl Place for KeyFiles {
    fn settings(&self) -> String {
        let names = ["one", "two", "denied", "slow", "missing"].map(|name| format!("local-kek:{name}"));
        format!("keks = {names:?}\n[local-kek]\ndirectory = {:?}\n", self.0.path())
    }

    fn keks(&self) -> [String; 2] {
        ["local-kek:one".into(), "local-kek:two".into()]
    }

    fn trouble(&self, trouble: Trouble) -> (String, String, Class) {
        let (name, class) = match trouble {
            Trouble::Unreachable => ("missing", Class::Settings),
            Trouble::Slow => ("slow", Class::Settings),
            Trouble::Denied => ("denied", Class::NotPermitted),
        };
        (self.settings(), format!("local-kek:{name}"), class)
    }

    fn secrets(&self) -> Vec<String> {
        vec!["o".repeat(32), "d".repeat(32)]
    }
}
