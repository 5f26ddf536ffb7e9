//! What the process of a container reports of its files, into a directory of the host. It reports no secret.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use ring::digest::{SHA256, digest};

/// Reports once, in one step.
pub(super) const SCRIPT: &str = r": >/marks/started
{
    cd /run/secrets && stat -c '%a %u:%g %n' * && busybox sha256sum *
    grep ' /run/secrets ' /proc/self/mounts | busybox cut -d ' ' -f 3,4
} >/marks/report 2>&1
mv /marks/report /marks/seen";

/// Whether the process has begun.
pub(super) fn has_begun(marks: &Path) -> bool {
    marks.join("started").exists()
}

/// Whether the process has reported.
pub(super) fn has_reported(marks: &Path) -> bool {
    marks.join("seen").exists()
}

/// Compares what the process has reported with the files that it requested, if it has. Returns what is wrong.
pub(super) fn difference(marks: &Path, owner: (u32, u32), files: &[(&str, &[u8])]) -> Option<String> {
    let report = fs::read_to_string(marks.join("seen")).ok()?;
    let mut expected = String::new();
    for (name, _) in files {
        let _ = writeln!(expected, "400 {}:{} {name}", owner.0, owner.1);
    }
    for (name, content) in files {
        let sum: String = digest(&SHA256, content).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        let _ = writeln!(expected, "{sum}  {name}");
    }
    let mount = report.strip_prefix(&expected).and_then(|mount| mount.strip_suffix('\n')?.strip_prefix("tmpfs "));
    let has = |option| mount.is_some_and(|mount| mount.split(',').any(|found| found == option));
    let is_whole = ["ro", "nosuid", "nodev", "noexec"].into_iter().all(has);
    (!is_whole).then_some(report)
}
