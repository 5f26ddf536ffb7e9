//! SIGKILL at every step: no plaintext secret remains, every use is in the ledger, and every action is in the channel.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::support::container::Container;
use super::{CANARY, DB, RECIPIENT, Site, UNREACHABLE, succeeded};

/// About how many times a command is killed, at random moments spread over its run time.
const TRIES: u32 = 9;

/// A command and its standard input.
type Call = (Command, Vec<u8>);

/// Runs a command to completion. Then runs and kills it repeatedly, each time later, until it completes again. Checks after each run.
fn kill_repeatedly(mut call: impl FnMut() -> Call, mut check: impl FnMut()) {
    let begin = Instant::now();
    assert!(run_for(call(), Duration::MAX), "the command failed");
    let step = begin.elapsed() / TRIES;
    check();
    for tries in 0_u32.. {
        let completed = run_for(call(), step.mul_f64(f64::from(tries) + fastrand::f64()));
        check();
        if completed {
            return;
        }
    }
}

/// Kills a command after this time, and returns whether it had completed.
fn run_for((mut command, input): Call, time: Duration) -> bool {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let _ = std::io::Write::write_all(&mut child.stdin.take().unwrap(), &input);
    if time != Duration::MAX {
        sleep(time);
        let _ = child.kill();
    }
    child.wait().unwrap().success()
}

impl Site {
    fn call(&self, arguments: &[&str]) -> Call {
        let mut command = self.host.program("oci-secrets");
        command.args(arguments);
        (command, Vec::new())
    }

    fn recorded(&self, kind: &str) -> usize {
        self.kinds().iter().filter(|recorded| *recorded == kind).count()
    }

    /// Opens, uses and closes an emergency, and returns the resulting ledger.
    fn use_emergency(&self) -> String {
        self.connect_is(self.stand_in.connect(), UNREACHABLE);
        succeeded(self.open("1h", &[]));
        assert_eq!(self.start(&[DB]).0, 0);
        self.succeeds(&["break-glass", "close"]);
        self.connect_is(UNREACHABLE, self.stand_in.connect());
        fs::read_to_string(self.host.path("state/ledger")).unwrap()
    }

    /// Kills a command that removes the secret from this ledger, and checks that each removal has a record.
    fn kill_removal(&self, ledger: &str, kind: &str, mut call: impl FnMut() -> Call) {
        let (before, mut removed) = (self.recorded(kind), 0);
        let call = || {
            self.host.write("state/ledger", ledger.as_bytes(), 0o600);
            call()
        };
        kill_repeatedly(call, || {
            removed += usize::from(!self.pending().contains(DB));
            assert!(self.recorded(kind) >= before + removed, "{kind}");
            assert_eq!(self.leaks(), Vec::<PathBuf>::new());
        });
        assert!(removed > 1, "{kind}");
    }
}

pub(crate) fn is_open() -> bool {
    Path::new("/run/oci-secrets/break-glass/emergency").exists()
}

#[test]
fn killing_seal_leaves_a_complete_file_or_none_and_no_plaintext() {
    let Some(site) = Site::new() else { return };
    let file = site.file("new");
    let call = || {
        let _ = fs::remove_file(&file);
        site.call(&["break-glass", "seal", "--grants", "agents", "--recipient", RECIPIENT, "--out", &file])
    };
    kill_repeatedly(call, || {
        assert_eq!(site.leaks(), Vec::<PathBuf>::new());
        if site.host.path("new").exists() {
            site.succeeds(&["break-glass", "inspect", &file]);
        }
    });
}

#[test]
fn killing_open_leaves_a_complete_store_or_none() {
    let Some(site) = Site::new() else { return };
    let (file, key) = (site.file("sealed"), site.file("key"));
    site.connect_is(site.stand_in.connect(), UNREACHABLE);
    let call = || {
        if is_open() {
            site.succeeds(&["break-glass", "close"]);
        }
        site.call(&["break-glass", "open", &file, "--identity", &key, "--reason", "x", "--for", "1h", "--yes"])
    };
    let (mut opened, mut uses) = (0, 0);
    kill_repeatedly(call, || {
        assert_eq!(site.leaks(), Vec::<PathBuf>::new());
        if is_open() {
            opened += 1;
            assert_eq!(site.start(&[DB]), (0, vec![format!("{CANARY}-db")]), "the store is complete");
            uses += 1;
        }
        assert!(site.recorded("open") >= opened, "opening is recorded first");
    });
    assert!(uses > 1);
}

#[test]
fn killing_close_leaves_no_unrecorded_end() {
    let Some(site) = Site::new() else { return };
    site.connect_is(site.stand_in.connect(), UNREACHABLE);
    let call = || {
        if !is_open() {
            succeeded(site.open("1h", &[]));
            assert_eq!(site.start(&[DB]).0, 0);
        }
        site.call(&["break-glass", "close"])
    };
    let (mut ended, mut incomplete) = (0, 0);
    kill_repeatedly(call, || {
        assert_eq!(site.leaks(), Vec::<PathBuf>::new());
        assert!(site.pending().contains(DB), "the ledger is complete");
        if is_open() && site.start(&[DB]).0 != 0 {
            // It was killed in between; the next start ends the emergency.
            incomplete += 1;
            assert!(!is_open());
        }
        ended += usize::from(!is_open());
        assert!(site.recorded("close") >= ended, "an end is not recorded");
        if !is_open() {
            assert!(!fs::read_to_string(site.host.path("state/ledger")).unwrap().contains("\"due\": null"));
        }
    });
    assert!(ended > 1 && !is_open(), "{incomplete} of {ended} in two steps");
}

#[test]
fn killing_the_hook_loses_no_use_from_the_ledger() {
    let Some(site) = Site::new() else { return };
    site.connect_is(site.stand_in.connect(), UNREACHABLE);
    succeeded(site.open("1h", &[]));
    let (containers, mut delivered) = (std::cell::RefCell::new(Vec::new()), 0);
    let uses = || {
        let ledger = fs::read_to_string(site.host.path("state/ledger")).unwrap_or_default();
        let line = ledger.lines().find_map(|line| line.trim().strip_prefix("\"uses\": ")).map(str::to_owned);
        line.map_or(0, |uses| uses.trim_end_matches(',').parse::<usize>().unwrap())
    };
    let call = || {
        let container = Container::create();
        let state = container.state([("run.secrets/secret".to_owned(), DB.to_owned())]);
        containers.borrow_mut().push(container);
        (site.host.program("oci-secrets-hook"), state)
    };
    kill_repeatedly(call, || {
        delivered += usize::from(containers.borrow().last().unwrap().has_secrets());
        assert!(uses() >= delivered, "a use is lost");
        assert_eq!(site.leaks(), Vec::<PathBuf>::new());
    });
    assert!(delivered > 1);
    assert!(site.recorded("use") >= uses(), "each use is recorded before it is added to the ledger");
}

#[test]
fn killing_a_removal_from_the_ledger_leaves_its_record() {
    let Some(site) = Site::new() else { return };
    let ledger = site.use_emergency();
    site.kill_removal(&ledger, "waive", || site.call(&["break-glass", "rotation", "waive", DB, "--reason", "x"]));
    site.rotate(&format!("{CANARY}-new"));
    site.kill_removal(&ledger, "rotated", || site.call(&["break-glass", "rotation", "check"]));
    let mut containers = Vec::new();
    site.kill_removal(&ledger, "rotated", || {
        let container = Container::create();
        let state = container.state([("run.secrets/secret".to_owned(), DB.to_owned())]);
        containers.push(container);
        (site.host.program("oci-secrets-hook"), state)
    });
}

#[test]
fn killing_a_drill_leaves_only_its_record() {
    let Some(site) = Site::new() else { return };
    let (file, key) = (site.file("sealed"), site.file("key"));
    let mut runs = 0;
    kill_repeatedly(
        || site.call(&["break-glass", "drill", &file, "--identity", &key]),
        || {
            assert_eq!(site.leaks(), Vec::<PathBuf>::new());
            assert!(!Path::new("/run/oci-secrets").exists());
            assert!(!site.host.path("state/ledger").exists());
            assert!(site.kinds().iter().all(|kind| kind == "drill"));
            runs += 1;
        },
    );
    assert!(runs > 2 && site.recorded("drill") >= 2, "completed drills are recorded");
    site.leaves_no_trace();
}

/// Commands that only read cannot leave a partial change when they are killed.
#[test]
fn read_only_commands_change_no_file() {
    let Some(site) = Site::new() else { return };
    site.use_emergency();
    succeeded(site.open("1h", &[]));
    let content = || {
        let mut content = BTreeMap::new();
        for directory in [site.host.path("."), site.host.path("state"), "/run/oci-secrets/break-glass".into()] {
            let files =
                fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
            content.extend(files.map(|path| {
                let (bytes, metadata) = (fs::read(&path).unwrap(), fs::metadata(&path).unwrap());
                (path, (bytes, metadata.modified().unwrap()))
            }));
        }
        content
    };
    let before = content();
    let (file, glass) = (site.file("sealed"), site.file("glass"));
    for arguments in [
        &["break-glass", "inspect", &file][..],
        &["break-glass", "status"],
        &["break-glass", "status", "--json"],
        &["audit", "verify", &glass],
        &["audit", "show"],
        &["check"],
    ] {
        assert!(matches!(site.host.oci_secrets(arguments, b"").status.code(), Some(0 | 1)), "{arguments:?}");
        assert_eq!(content(), before, "{arguments:?}");
    }
}
