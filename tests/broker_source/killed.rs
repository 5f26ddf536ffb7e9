//! A broker that is killed while it stores values.

use std::collections::BTreeMap;
use std::env;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use oci_secrets::broker::source::sealed_files::{SealedFile, SealedFiles};

const DIRECTORY: &str = "OCI_SECRETS_TEST_SEALED";
const TEST: &str = "killed::every_value_is_whole_whenever_the_writer_is_killed";
const ROUNDS: u64 = 40;
const REFERENCES: u64 = 8;
const SIGKILL: i32 = 9;

#[test]
fn every_value_is_whole_whenever_the_writer_is_killed() {
    if let Some(directory) = env::var_os(DIRECTORY) {
        write_for_ever(&SealedFiles::new(Path::new(&directory)));
    }
    let directory = tempfile::tempdir().unwrap();
    let files = SealedFiles::new(&directory.path().join("sealed"));
    let mut before: BTreeMap<String, u64> = BTreeMap::new();
    for round in 0..ROUNDS {
        let mut writer = Command::new(env::current_exe().unwrap())
            .args(["--exact", TEST, "--nocapture"])
            .env(DIRECTORY, files.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        sleep(Duration::from_millis(20 + 7 * (round % 13)));
        writer.kill().unwrap();
        assert_eq!(writer.wait().unwrap().signal(), Some(SIGKILL), "it ended by itself");
        let names = std::fs::read_dir(files.path()).map_or(0, Iterator::count);
        let stored = files.list().unwrap();
        assert!(names <= stored.len() + 1, "of {names} files at most one is not complete");
        let mut after = BTreeMap::new();
        for file in stored {
            let version = file.item_version.unwrap();
            assert_eq!(file.value, value(version), "{}", file.reference);
            after.insert(file.reference, version);
        }
        for (reference, version) in &before {
            assert!(after.get(reference).is_some_and(|now| now >= version), "{reference} went back");
        }
        before = after;
        files.remove_incomplete().unwrap();
        assert_eq!(std::fs::read_dir(files.path()).map_or(0, Iterator::count), before.len());
    }
    assert_eq!(before.len() as u64, REFERENCES, "the writer wrote");
}

fn write_for_ever(files: &SealedFiles) -> ! {
    let first = files.list().unwrap().iter().filter_map(|file| file.item_version).max().unwrap_or(0);
    for version in first + 1.. {
        let mut file = SealedFile::new("s", &format!("op://v/{}/f", version % REFERENCES), &value(version));
        file.item_version = Some(version);
        files.write(&file).unwrap();
    }
    unreachable!("u64 is large")
}

/// Of another length for each version, so that a mixture of two shows.
fn value(version: u64) -> String {
    let length = 100 + (version * 37 % 2000) as usize;
    format!("sealed:v1 local-kek:trial {}", version.to_string().repeat(length))
}
