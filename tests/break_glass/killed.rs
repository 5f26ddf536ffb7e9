//! kill -9 at every step: no secret in the plain, no use that the ledger does not know.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use super::support::container::Container;
use super::{CANARY, DB, Desk, NOBODY, RECIPIENT, succeeded};

/// How much longer each try lives than the one before; debug builds need some 100 ms for each command.
const STEP: Duration = Duration::from_millis(12);
const TRIES_MAX: u32 = 60;

/// Kills the command later and later until it comes to its end, looking around after each time.
fn kill_it(mut command: impl FnMut() -> (Command, Vec<u8>), mut look: impl FnMut(bool)) {
    for tries in 0..TRIES_MAX {
        let (mut command, input) = command();
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let _ = std::io::Write::write_all(&mut child.stdin.take().unwrap(), &input);
        sleep(STEP * tries);
        let _ = child.kill();
        let ended = child.wait().unwrap().success();
        look(ended);
        if ended {
            return;
        }
    }
    panic!("it never came to its end");
}

#[test]
fn sealing_leaves_a_whole_file_or_none_and_nothing_plain() {
    let Some(desk) = Desk::new() else { return };
    let file = desk.file("new");
    let command = || {
        let _ = fs::remove_file(&file);
        let mut command = desk.host.program("oci-secrets");
        command.args(["break-glass", "seal", "--grants", "agents", "--recipient", RECIPIENT, "--out", &file]);
        (command, Vec::new())
    };
    kill_it(command, |_| {
        assert_eq!(desk.leaks(), Vec::<PathBuf>::new());
        if desk.host.path("new").exists() {
            desk.succeeds(&["break-glass", "inspect", &file]);
        }
    });
}

#[test]
fn opening_and_closing_leave_a_whole_store_or_none() {
    let Some(desk) = Desk::new() else { return };
    let (file, key) = (desk.file("sealed"), desk.file("key"));
    let is_open = || PathBuf::from("/run/oci-secrets/break-glass/emergency").exists();
    desk.connect_is(desk.stand_in.connect(), NOBODY);
    let open = || {
        if is_open() {
            desk.succeeds(&["break-glass", "close"]);
        }
        let mut command = desk.host.program("oci-secrets");
        command.args(["break-glass", "open", &file, "--identity", &key, "--reason", "x", "--for", "1h", "--yes"]);
        (command, Vec::new())
    };
    let mut uses = 0;
    kill_it(open, |_| {
        assert_eq!(desk.leaks(), Vec::<PathBuf>::new());
        if is_open() {
            assert_eq!(desk.start(&[DB]), (0, vec![format!("{CANARY}-db")]), "it is whole");
            uses += 1;
        }
    });
    assert!(uses > 0);
    let close = || {
        if !is_open() {
            succeeded(desk.open("1h", &[]));
        }
        let mut command = desk.host.program("oci-secrets");
        command.args(["break-glass", "close"]);
        (command, Vec::new())
    };
    kill_it(close, |_| {
        assert_eq!(desk.leaks(), Vec::<PathBuf>::new());
        assert!(desk.owed().contains(DB), "the ledger is whole");
        desk.events();
    });
    assert!(!is_open());
}

#[test]
fn a_container_that_has_a_secret_is_in_the_ledger() {
    let Some(desk) = Desk::new() else { return };
    desk.connect_is(desk.stand_in.connect(), NOBODY);
    succeeded(desk.open("1h", &[]));
    let (mut containers, mut delivered) = (Vec::new(), 0);
    let uses = || {
        let ledger = fs::read_to_string(desk.host.path("state/ledger")).unwrap_or_default();
        let line = ledger.lines().find_map(|line| line.trim().strip_prefix("\"uses\": ")).map(str::to_owned);
        line.map_or(0, |uses| uses.trim_end_matches(',').parse().unwrap())
    };
    for tries in 0..TRIES_MAX {
        let container = Container::create();
        let state = container.state([("run.secrets/secret".to_owned(), DB.to_owned())]);
        let mut child =
            desk.host.program("oci-secrets-hook").stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), &state).unwrap();
        // Tries of Connect, with their pauses, take most of the time.
        sleep(Duration::from_millis(u64::from(tries) * 35));
        let _ = child.kill();
        let ended = child.wait().unwrap().success();
        delivered += u64::from(container.has_secrets());
        assert!(uses() >= delivered, "a use is lost");
        assert_eq!(desk.leaks(), Vec::<PathBuf>::new());
        containers.push(container);
        if ended {
            break;
        }
    }
    assert!(delivered > 0);
    let recorded = desk.kinds().iter().filter(|kind| *kind == "use").count();
    assert!(recorded as u64 >= uses(), "each use is recorded before it is entered");
}
