//! kill -9 at every step: no secret in the plain, no use that the ledger does not know, no act that the channel does not.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::support::container::Container;
use super::{CANARY, DB, Desk, NOBODY, RECIPIENT, succeeded};

/// How many times a command is killed, about, at moments that are spread over the time that it takes; each run has others.
const TRIES: u32 = 9;

/// A command, and what it is given on standard input.
type Call = (Command, Vec<u8>);

/// Runs a command to its end; then kills it later and later until it comes to its end again, looking around after each time.
fn kill_it(mut call: impl FnMut() -> Call, mut look: impl FnMut()) {
    let begin = Instant::now();
    assert!(run_for(call(), Duration::MAX), "it never came to its end");
    let step = begin.elapsed() / TRIES;
    look();
    for tries in 0_u32.. {
        let ended = run_for(call(), step.mul_f64(f64::from(tries) + fastrand::f64()));
        look();
        if ended {
            return;
        }
    }
}

/// Kills a command after this time; tells whether it had come to its end.
fn run_for((mut command, input): Call, time: Duration) -> bool {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let _ = std::io::Write::write_all(&mut child.stdin.take().unwrap(), &input);
    if time != Duration::MAX {
        sleep(time);
        let _ = child.kill();
    }
    child.wait().unwrap().success()
}

impl Desk {
    fn call(&self, arguments: &[&str]) -> Call {
        let mut command = self.host.program("oci-secrets");
        command.args(arguments);
        (command, Vec::new())
    }

    fn recorded(&self, kind: &str) -> usize {
        self.kinds().iter().filter(|recorded| *recorded == kind).count()
    }

    /// An emergency that was used and closed, and the ledger that it has left.
    fn used(&self) -> String {
        self.connect_is(self.stand_in.connect(), NOBODY);
        succeeded(self.open("1h", &[]));
        assert_eq!(self.start(&[DB]).0, 0);
        self.succeeds(&["break-glass", "close"]);
        self.connect_is(NOBODY, self.stand_in.connect());
        fs::read_to_string(self.host.path("state/ledger")).unwrap()
    }

    /// Kills what strikes the secret off, each time from this ledger on: it is not gone without a record.
    fn kill_who_strikes_off(&self, ledger: &str, kind: &str, mut call: impl FnMut() -> Call) {
        let (before, mut gone) = (self.recorded(kind), 0);
        let call = || {
            self.host.write("state/ledger", ledger.as_bytes(), 0o600);
            call()
        };
        kill_it(call, || {
            gone += usize::from(!self.owed().contains(DB));
            assert!(self.recorded(kind) >= before + gone, "{kind}");
            assert_eq!(self.leaks(), Vec::<PathBuf>::new());
        });
        assert!(gone > 1, "{kind}");
    }
}

fn is_open() -> bool {
    Path::new("/run/oci-secrets/break-glass/emergency").exists()
}

#[test]
fn sealing_leaves_a_whole_file_or_none_and_nothing_plain() {
    let Some(desk) = Desk::new() else { return };
    let file = desk.file("new");
    let call = || {
        let _ = fs::remove_file(&file);
        desk.call(&["break-glass", "seal", "--grants", "agents", "--recipient", RECIPIENT, "--out", &file])
    };
    kill_it(call, || {
        assert_eq!(desk.leaks(), Vec::<PathBuf>::new());
        if desk.host.path("new").exists() {
            desk.succeeds(&["break-glass", "inspect", &file]);
        }
    });
}

#[test]
fn opening_leaves_a_whole_store_or_none() {
    let Some(desk) = Desk::new() else { return };
    let (file, key) = (desk.file("sealed"), desk.file("key"));
    desk.connect_is(desk.stand_in.connect(), NOBODY);
    let call = || {
        if is_open() {
            desk.succeeds(&["break-glass", "close"]);
        }
        desk.call(&["break-glass", "open", &file, "--identity", &key, "--reason", "x", "--for", "1h", "--yes"])
    };
    let (mut opened, mut uses) = (0, 0);
    kill_it(call, || {
        assert_eq!(desk.leaks(), Vec::<PathBuf>::new());
        if is_open() {
            opened += 1;
            assert_eq!(desk.start(&[DB]), (0, vec![format!("{CANARY}-db")]), "it is whole");
            uses += 1;
        }
        assert!(desk.recorded("open") >= opened, "it is recorded first");
    });
    assert!(uses > 1);
}

#[test]
fn closing_destroys_the_secrets_and_is_recorded() {
    let Some(desk) = Desk::new() else { return };
    desk.connect_is(desk.stand_in.connect(), NOBODY);
    let call = || {
        if !is_open() {
            succeeded(desk.open("1h", &[]));
            assert_eq!(desk.start(&[DB]).0, 0);
        }
        desk.call(&["break-glass", "close"])
    };
    let (mut gone, mut begun) = (0, 0);
    kill_it(call, || {
        assert_eq!(desk.leaks(), Vec::<PathBuf>::new());
        assert!(desk.owed().contains(DB), "the ledger is whole");
        if is_open() && desk.start(&[DB]).0 != 0 {
            // It was killed in between; whoever finds what is left ends it.
            begun += 1;
            assert!(!is_open());
        }
        gone += usize::from(!is_open());
        assert!(desk.recorded("close") >= gone, "an end is not recorded");
        if !is_open() {
            assert!(!fs::read_to_string(desk.host.path("state/ledger")).unwrap().contains("\"due\": null"));
        }
    });
    assert!(gone > 1 && !is_open(), "{begun} of {gone} in two steps");
}

#[test]
fn a_container_that_has_a_secret_is_in_the_ledger() {
    let Some(desk) = Desk::new() else { return };
    desk.connect_is(desk.stand_in.connect(), NOBODY);
    succeeded(desk.open("1h", &[]));
    let (containers, mut delivered) = (std::cell::RefCell::new(Vec::new()), 0);
    let uses = || {
        let ledger = fs::read_to_string(desk.host.path("state/ledger")).unwrap_or_default();
        let line = ledger.lines().find_map(|line| line.trim().strip_prefix("\"uses\": ")).map(str::to_owned);
        line.map_or(0, |uses| uses.trim_end_matches(',').parse::<usize>().unwrap())
    };
    let call = || {
        let container = Container::create();
        let state = container.state([("run.secrets/secret".to_owned(), DB.to_owned())]);
        containers.borrow_mut().push(container);
        (desk.host.program("oci-secrets-hook"), state)
    };
    kill_it(call, || {
        delivered += usize::from(containers.borrow().last().unwrap().has_secrets());
        assert!(uses() >= delivered, "a use is lost");
        assert_eq!(desk.leaks(), Vec::<PathBuf>::new());
    });
    assert!(delivered > 1);
    assert!(desk.recorded("use") >= uses(), "each use is recorded before it is entered");
}

#[test]
fn nothing_is_struck_off_without_a_record() {
    let Some(desk) = Desk::new() else { return };
    let ledger = desk.used();
    desk.kill_who_strikes_off(&ledger, "waive", || {
        desk.call(&["break-glass", "rotation", "waive", DB, "--reason", "x"])
    });
    desk.rotate(&format!("{CANARY}-new"));
    desk.kill_who_strikes_off(&ledger, "rotated", || desk.call(&["break-glass", "rotation", "check"]));
    let mut containers = Vec::new();
    desk.kill_who_strikes_off(&ledger, "rotated", || {
        let container = Container::create();
        let state = container.state([("run.secrets/secret".to_owned(), DB.to_owned())]);
        containers.push(container);
        (desk.host.program("oci-secrets-hook"), state)
    });
}

#[test]
fn a_drill_leaves_nothing_but_its_record() {
    let Some(desk) = Desk::new() else { return };
    let (file, key) = (desk.file("sealed"), desk.file("key"));
    let mut ended = 0;
    kill_it(
        || desk.call(&["break-glass", "drill", &file, "--identity", &key]),
        || {
            assert_eq!(desk.leaks(), Vec::<PathBuf>::new());
            assert!(!Path::new("/run/oci-secrets").exists());
            assert!(!desk.host.path("state/ledger").exists());
            assert!(desk.kinds().iter().all(|kind| kind == "drill"));
            ended += 1;
        },
    );
    assert!(ended > 2 && desk.recorded("drill") >= 2, "those that came to their end are recorded");
    desk.leaves_no_trace();
}

/// What only reads cannot leave anything half done, whenever it is killed.
#[test]
fn who_only_looks_changes_nothing() {
    let Some(desk) = Desk::new() else { return };
    desk.used();
    succeeded(desk.open("1h", &[]));
    let content = || {
        let mut content = BTreeMap::new();
        for directory in [desk.host.path("."), desk.host.path("state"), "/run/oci-secrets/break-glass".into()] {
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
    let (file, glass) = (desk.file("sealed"), desk.file("glass"));
    for arguments in [
        &["break-glass", "inspect", &file][..],
        &["break-glass", "status"],
        &["break-glass", "status", "--json"],
        &["audit", "verify", &glass],
        &["audit", "show"],
        &["check"],
    ] {
        assert!(matches!(desk.host.oci_secrets(arguments, b"").status.code(), Some(0 | 1)), "{arguments:?}");
        assert_eq!(content(), before, "{arguments:?}");
    }
}
