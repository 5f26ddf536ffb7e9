//! A system call that fails while an emergency is opened.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use super::killed::is_open;
use super::support::inject::{self, Fault, faults_of_message};
use super::{CANARY, DB, Site, servers};

#[test]
fn an_emergency_is_opened_as_a_whole_or_not_at_all_whichever_call_fails() {
    let Some(site) = Site::new() else { return };
    // An outage whose retries take no time, unlike that of a server that cannot be connected to.
    site.connect_is(site.stand_in.connect(), &servers::status("503 Busy\r\nRetry-After: 0"));
    let (file, key, log) = (site.file("sealed"), site.file("key"), site.host.path("log"));
    let mut open = site.host.program("oci-secrets");
    open.args(["break-glass", "open", &file, "--identity", &key, "--reason", "x", "--for", "1h", "--yes"]);
    assert!(inject::run(&mut inject::logged(&open, &log), b"").status.success());
    assert_eq!(site.start(&[DB]), (0, vec![format!("{CANARY}-db")]));
    site.succeeds(&["break-glass", "close"]);
    let names = || -> BTreeSet<PathBuf> {
        let directories = [site.host.path("state"), site.host.path("."), PathBuf::from("/run/oci-secrets")];
        directories.iter().flat_map(|path| fs::read_dir(path).unwrap()).map(|entry| entry.unwrap().path()).collect()
    };
    let (before, failed) = (names(), Cell::new(0));
    let test = |fault: &Fault| {
        let output = inject::run(&mut fault.inject(&open), b"");
        let (is_open, leaks) = (is_open(), site.leaks());
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        if is_open {
            let started = site.start(&[DB]);
            site.succeeds(&["break-glass", "close"]);
            if started != (0, vec![format!("{CANARY}-db")]) {
                return Some(format!("a start: {}: {message}", started.0));
            }
        }
        if output.status.success() && !is_open || !leaks.is_empty() || names() != before {
            return Some(format!("open: {is_open}, {leaks:?}, {:?}: {message}", names()));
        }
        if output.status.success() {
            return None;
        }
        failed.set(failed.get() + 1);
        faults_of_message("oci-secrets", &output, fault.is_of_memory())
    };
    let mut faults = inject::of_run(&log);
    // Only from the child process that is the remover, until it has started: from there it cannot fail.
    faults.retain(|fault| fault.call != "recvfrom");
    let count = faults.len();
    let wrong: Vec<String> =
        faults.iter().filter_map(|fault| test(fault).map(|wrong| format!("{fault:?}: {wrong}"))).collect();
    assert!(wrong.is_empty(), "{} of {count} faults:\n{}", wrong.len(), wrong.join("\n"));
    // Without a fault, each run succeeds.
    assert!(failed.get() > 20, "{} of {count} runs failed", failed.get());
}
