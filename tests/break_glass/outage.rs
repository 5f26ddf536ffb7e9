//! The outage, from its first minute to the last secret that was changed.

use std::fs;
use std::process::Command;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::support::StandIn;
use super::support::host::KEY_RING;
use super::{CANARY, DB, Desk, KEY, MAIL, NOBODY, at_terminal, seal, servers, succeeded};

/// How long an end is waited for that comes in seconds.
const PATIENCE: Duration = Duration::from_secs(60);
const PASSPHRASE: &str = "correct horse";

fn db() -> Vec<String> {
    vec![format!("{CANARY}-db")]
}

#[test]
fn used_secrets_must_be_rotated_after_an_outage() {
    let Some(desk) = Desk::new() else { return };
    assert_eq!(desk.status(), 0);
    desk.connect_is(desk.stand_in.connect(), NOBODY);
    assert_eq!(desk.start(&[DB]).0, 69, "nothing is open");
    succeeded(desk.open("1h", &["--ticket", "INC-1"]));
    assert_eq!(desk.start(&[DB]), (0, db()));
    let start = desk.last_start();
    assert_eq!((start["decision"].as_str(), &start["secrets"][0]["kept"]), (Some("break-glass"), &Value::Bool(true)));
    assert_eq!(desk.owed().into_iter().collect::<Vec<_>>(), [DB]);
    assert_eq!(desk.status(), 1);
    assert_eq!(desk.open("1h", &[]).status.code(), Some(77), "one at a time");

    // It comes back in mid-use: the normal way is tried first, and the debt is told.
    desk.connect_is(NOBODY, desk.stand_in.connect());
    assert_eq!(desk.start(&[DB]), (0, db()));
    assert_eq!(desk.last_start()["decision"], "delivered");
    let told = desk.succeeds(&["break-glass", "close"]);
    assert!(told.contains("to be changed before"), "{told}");
    assert!(!std::path::Path::new("/run/oci-secrets/break-glass").exists());
    let emergency = desk.events()[0]["emergency"].as_str().unwrap().to_owned();
    let begin = Instant::now();
    while fs::read_to_string("/proc/keys").unwrap().contains(&emergency) {
        assert!(begin.elapsed() < PATIENCE, "the kernel still has the key");
        sleep(Duration::from_millis(20));
    }

    // The same value under a newer version is no change.
    desk.rotate(&format!("{CANARY}-db"));
    assert_eq!((desk.start(&[DB]).0, desk.status()), (0, 1));
    let ledger = fs::read_to_string(desk.host.path("state/ledger")).unwrap();
    let due = ledger.lines().find(|line| line.contains("\"due\"")).unwrap();
    desk.host.write("state/ledger", ledger.replace(due, "\"due\": \"2026-01-01T00:00:00Z\"").as_bytes(), 0o600);
    assert_eq!((desk.start(&[DB]).0, desk.status()), (77, 2), "the time of grace is over");
    assert_eq!(desk.start(&[MAIL]).0, 0, "what was not used is not owed");
    desk.settings("then = \"refuse\"", "then = \"warn\"");
    assert_eq!(desk.start(&[DB]).0, 0);

    desk.rotate(&format!("{CANARY}-new"));
    assert_eq!(desk.start(&[DB]), (0, vec![format!("{CANARY}-new")]));
    assert_eq!(desk.status(), 0);
    assert_eq!(desk.kinds(), ["open", "use", "close", "rotated"]);
    assert_eq!(
        (&desk.events()[0]["ticket"], &desk.events()[1]["secrets"][0]["reference"]),
        (&"INC-1".into(), &DB.into())
    );
    desk.leaves_no_trace();
}

#[test]
fn every_kind_of_outage_is_met_and_no_refusal_is() {
    let Some(desk) = Desk::new() else { return };
    let (connect, kms) = (desk.stand_in.connect().to_owned(), desk.stand_in.kms().to_owned());
    succeeded(desk.open("1h", &[]));
    let mail = || vec![format!("{CANARY}-mail")];
    for broken in [servers::silent(), servers::status("500 Oh"), servers::status("503 Busy"), servers::garbage()] {
        desk.connect_is(&connect, &broken);
        // Whatever it is, it is waited for no longer than half of this.
        desk.settings("deadline = \"2s\"", "deadline = \"500ms\"");
        assert_eq!(desk.start(&[MAIL]), (0, mail()), "Connect");
        desk.settings("deadline = \"500ms\"", "deadline = \"2s\"");
        desk.connect_is(&broken, &connect);
        desk.kms_is(&kms, &broken);
        assert_eq!(desk.start(&[MAIL, DB]), (0, [mail(), db()].concat()), "the KMS");
        let secrets = desk.last_start()["secrets"].clone();
        assert_eq!((&secrets[0]["kept"], &secrets[1]["kept"]), (&Value::Bool(true), &Value::Null), "each by itself");
        desk.kms_is(&broken, &kms);
    }
    assert!(!desk.owed().contains(DB), "its KEK was there all the time");
    let causes: Vec<String> =
        desk.events().iter().filter_map(|record| Some(record["cause"].as_str()?.to_owned())).collect();
    assert!(causes[0].contains("did not answer within 0.25 s"), "half of the deadline: {causes:#?}");
    desk.connect_is(&connect, NOBODY);
    desk.kms_is(&kms, NOBODY);
    assert_eq!(desk.start(&[MAIL]), (0, mail()), "both");
    desk.kms_is(NOBODY, &kms);

    let directory = tempfile::tempdir().unwrap();
    let expired = StandIn::start(&["--tls-expired", "--dir", &directory.path().display().to_string()]);
    desk.connect_is(NOBODY, &format!("{}\"\nca-file = \"{}", expired.connect(), expired.ca_file().unwrap().display()));
    assert_eq!(desk.start(&[MAIL]), (0, mail()), "a certificate that expired");
    desk.connect_is(expired.connect(), &connect);

    // A refusal stands, beside an outage too.
    let uses = desk.kinds().len();
    desk.kms_is(&kms, NOBODY);
    assert_eq!(desk.start(&[MAIL, "op://AgentVault/nothing/password"]).0, 66, "not found");
    desk.kms_is(NOBODY, &kms);
    desk.host.write("token", desk.stand_in.expired_token().as_bytes(), 0o600);
    assert_eq!(desk.start(&[MAIL]).0, 77, "a token that expired");
    desk.host.write("token", b"e30.e30.e30", 0o600);
    assert_eq!(desk.start(&[MAIL]).0, 77, "denied by Connect");
    desk.host.write("token", desk.stand_in.token().as_bytes(), 0o600);
    desk.store("mail", &seal(&desk.host, &format!("{KEY_RING}/decrypt-status-403"), MAIL, &format!("{CANARY}-mail")));
    assert_eq!(desk.start(&[MAIL]).0, 77, "denied by the KMS");
    desk.settings("references = [\"op://AgentVault/*\"]", "references = [\"op://AgentVault/db/*\"]");
    desk.connect_is(&connect, NOBODY);
    assert_eq!(desk.start(&[MAIL]).0, 77, "not granted");
    assert_eq!(desk.kinds().len(), uses);
    assert_eq!(desk.start(&["op://AgentVault/db/user"]).0, 69, "not in the store");
}

#[test]
fn without_a_record_nothing_is_opened_or_used() {
    let Some(desk) = Desk::new() else { return };
    let (glass, audit) =
        (format!("file = {:?}", desk.host.path("glass")), format!("file = {:?}", desk.host.path("audit")));
    desk.settings(&format!("audit = {{ {glass} }}"), "");
    assert_eq!(desk.open("1h", &[]).status.code(), Some(78), "no channel");
    desk.settings("[break-glass]\n", &format!("[break-glass]\naudit = {{ {audit} }}\n"));
    assert_eq!(desk.open("1h", &[]).status.code(), Some(78), "the same as that of starts");
    desk.settings(&audit, "journal-namespace = \"nobody\"");
    // The first is that of the trail.
    let settings = fs::read_to_string(desk.host.settings()).unwrap();
    let settings = settings.replacen("journal-namespace = \"nobody\"", &audit, 1).replacen(
        &format!("{{ {audit} }}"),
        "{ journal-namespace = \"nobody\" }",
        1,
    );
    desk.host.write("settings.toml", settings.as_bytes(), 0o644);
    assert_eq!(desk.open("1h", &[]).status.code(), Some(71), "no such journal");

    // Nor without a place in the ledger.
    let audited = fs::read_to_string(desk.host.settings()).unwrap();
    desk.settings("journal-namespace = \"nobody\"", &glass);
    succeeded(desk.open("1h", &[]));
    desk.connect_is(desk.stand_in.connect(), NOBODY);
    fs::create_dir(desk.host.path("state/ledger.new")).unwrap();
    assert_eq!(desk.start(&[DB]).0, 71, "the ledger cannot be written");
    fs::remove_dir(desk.host.path("state/ledger.new")).unwrap();
    desk.succeeds(&["break-glass", "close"]);
    desk.host.write("settings.toml", audited.as_bytes(), 0o644);

    desk.host.write("page", b"#!/bin/sh\ncat >>\"$1\"; test ! -e \"$1.off\"\n", 0o700);
    let command = format!("command = [{:?}, {:?}]", desk.host.path("page"), desk.host.path("paged"));
    desk.settings("journal-namespace = \"nobody\"", &command);
    succeeded(desk.open("1h", &[]));
    desk.connect_is(desk.stand_in.connect(), NOBODY);
    desk.host.write("paged.off", b"", 0o600);
    assert_eq!(desk.start(&[DB]).0, 69, "the command took no record");
    assert!(desk.owed().is_empty());
    fs::remove_file(desk.host.path("paged.off")).unwrap();
    assert_eq!(desk.start(&[DB]), (0, db()));
    // It got what it had not taken, too, and the two refused openings.
    let paged = fs::read_to_string(desk.host.path("paged")).unwrap();
    assert!(paged.contains("\"event\":\"open\"") && paged.matches("\"event\":\"use\"").count() >= 2, "{paged}");

    // Nor is anything struck off.
    desk.succeeds(&["break-glass", "close"]);
    desk.connect_is(NOBODY, desk.stand_in.connect());
    desk.rotate(&format!("{CANARY}-new"));
    desk.host.write("paged.off", b"", 0o600);
    assert_eq!(desk.start(&[DB]), (0, vec![format!("{CANARY}-new")]), "no emergency is needed for it");
    let waived = desk.host.oci_secrets(&["break-glass", "rotation", "waive", DB, "--reason", "x"], b"");
    assert_eq!((waived.status.code(), desk.owed().contains(DB)), (Some(69), true));
    fs::remove_file(desk.host.path("paged.off")).unwrap();
    assert_eq!((desk.start(&[DB]).0, desk.owed().contains(DB)), (0, false));
    assert!(fs::read_to_string(desk.host.path("paged")).unwrap().contains("\"event\":\"rotated\""));
    let verified = desk.succeeds(&["audit", "verify", &desk.file("paged")]);
    assert!(verified.contains("once more"), "what it did not take came again: {verified}");
    desk.leaves_no_trace();
}

#[test]
fn the_store_is_for_root_alone_and_never_swapped() {
    let Some(desk) = Desk::new() else { return };
    succeeded(desk.open("1h", &["--only", DB]));
    let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    let mount = mounts.lines().find(|line| line.contains(" /run/oci-secrets/break-glass ")).unwrap();
    assert!(mount.contains("nosuid,nodev,noexec"), "{mount}");
    assert!(mount.contains(" - ramfs ") || mount.contains("noswap"), "{mount}");
    let names = |user: &str| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", user, "--clear-groups", "ls", "/run/oci-secrets/break-glass"]);
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    };
    assert_eq!(names("0"), "0\nemergency\nhalf-key\n", "a secret that `--only` does not name is not there");
    assert_eq!(names("1000"), "");
    desk.connect_is(desk.stand_in.connect(), NOBODY);
    assert_eq!(desk.start(&[DB, MAIL]).0, 69);
    assert!(desk.owed().is_empty(), "all or nothing");
    desk.leaves_no_trace();
}

#[test]
fn a_file_of_several_operators_takes_several() {
    let Some(desk) = Desk::new() else { return };
    let recipients: Vec<String> = (0..3)
        .map(|number| {
            let key = desk.file(&format!("id-{number}"));
            let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f", &key]).status();
            assert!(made.unwrap().success());
            fs::read_to_string(format!("{key}.pub")).unwrap().trim().to_owned()
        })
        .collect();
    desk.host.write("list", format!("# all\n{DB}\n").as_bytes(), 0o600);
    let (list, file) = (desk.file("list"), desk.file("of-two"));
    let mut arguments = vec!["break-glass", "seal", "--references", &list, "--out", &file, "--threshold", "2"];
    arguments.extend(recipients.iter().flat_map(|recipient| ["--recipient", recipient.as_str()]));
    desk.succeeds(&arguments);
    assert!(desk.host.oci_secrets(&arguments, b"").status.code() != Some(0), "the file is there already");

    let open = |identities: &[&str], operators: &[&str]| {
        let mut arguments = vec!["break-glass", "open", &file, "--reason", "x", "--for", "1h", "--yes"];
        let keys: Vec<String> = identities.iter().map(|key| desk.file(key)).collect();
        arguments.extend(keys.iter().flat_map(|key| ["--identity", key.as_str()]));
        arguments.extend(operators.iter().flat_map(|name| ["--operator", name]));
        desk.host.oci_secrets(&arguments, b"").status.code().unwrap()
    };
    assert_eq!(open(&["id-0", "id-2"], &["ada"]), 77, "one name");
    assert_eq!(open(&["id-0", "id-2"], &["ada", "ada"]), 77, "the same name twice");
    assert_eq!(open(&["id-0"], &["ada", "bob"]), 77, "one key");
    assert_eq!(open(&["id-0", "id-2"], &["ada", "bob"]), 0);
    assert_eq!(desk.events()[0]["operators"], serde_json::json!(["ada", "bob"]));
    desk.connect_is(desk.stand_in.connect(), NOBODY);
    assert_eq!(desk.start(&[DB]), (0, db()));
    assert_eq!(desk.start(&[MAIL]).0, 69, "it is not in this file");
}

#[test]
fn an_emergency_ends_in_time_whatever_is_killed() {
    let Some(desk) = Desk::new() else { return };
    desk.connect_is(desk.stand_in.connect(), NOBODY);
    succeeded(desk.open("4s", &[]));
    kill_who_waits(&desk.file("settings.toml"));
    let begin = Instant::now();
    let start_until_it_is_over = || {
        for delivered in 0.. {
            assert!(begin.elapsed() < PATIENCE, "it does not end");
            match desk.start(&[DB]) {
                (0, got) => assert_eq!(got, db()),
                (code, _) => {
                    assert_eq!(code, 69);
                    return delivered;
                }
            }
        }
        0
    };
    // Several at once, so that some are in the middle of it when it ends.
    let delivered: u32 = thread::scope(|scope| {
        let starts: Vec<_> = (0..3).map(|_| scope.spawn(start_until_it_is_over)).collect();
        starts.into_iter().map(|start| start.join().unwrap()).sum()
    });
    assert!(delivered > 0);
    assert!(desk.owed().contains(DB));
    // The last one may have begun in time.
    assert_eq!(desk.start(&[DB]).0, 69);
    assert!(!std::path::Path::new("/run/oci-secrets/break-glass/emergency").exists(), "the hook clears it away");
    let events = desk.events();
    assert_eq!(
        (&events.last().unwrap()["event"], &events.last().unwrap()["expired"]),
        (&"close".into(), &Value::Bool(true))
    );

    assert_eq!(desk.kinds().iter().filter(|kind| *kind == "close").count(), 1, "one of them records it");

    // And without any container: who waits ends it.
    succeeded(desk.open("1s", &[]));
    let begin = Instant::now();
    while std::path::Path::new("/run/oci-secrets/break-glass").exists() {
        assert!(begin.elapsed() < PATIENCE, "nobody clears it away");
        sleep(Duration::from_millis(50));
    }
}

/// Invalidates every key of a store in root's keyring, as a container with uid 0 and without a user namespace can.
fn remove_the_key_from_the_keyring(emergency: &str) {
    let keys = fs::read_to_string("/proc/keys").unwrap();
    let key = keys.lines().find(|line| line.contains(emergency)).unwrap();
    let serial = i32::from_str_radix(key.split(' ').next().unwrap(), 16).unwrap();
    linux_keyutils::Key::from_id(linux_keyutils::KeySerialId(serial)).invalidate().unwrap();
}

#[test]
fn a_removed_key_ends_the_emergency_and_is_reported_as_tampering() {
    let Some(desk) = Desk::new() else { return };
    desk.connect_is(desk.stand_in.connect(), NOBODY);
    succeeded(desk.open("1h", &[]));
    assert_eq!(desk.start(&[DB]), (0, db()));
    remove_the_key_from_the_keyring(desk.events()[0]["emergency"].as_str().unwrap());
    assert_eq!(desk.start(&[DB]).0, 69, "no secret without both halves of the key");
    let events = desk.events();
    let close = events.last().unwrap();
    assert_eq!(
        (&close["event"], &close["expired"], &close["tampered"]),
        (&"close".into(), &false.into(), &true.into())
    );
    assert!(!std::path::Path::new("/run/oci-secrets/break-glass").exists());

    // An operator sees it, too, if no container starts in between; an end by `close` is no tampering.
    succeeded(desk.open("1h", &[]));
    remove_the_key_from_the_keyring(desk.events().last().unwrap()["emergency"].as_str().unwrap());
    let status = desk.host.oci_secrets(&["break-glass", "status"], b"");
    assert!(String::from_utf8_lossy(&status.stderr).contains("removed its key from root's keyring"), "{status:?}");
    succeeded(desk.open("1h", &[]));
    desk.succeeds(&["break-glass", "close"]);
    assert_eq!(desk.events().last().unwrap()["tampered"], Value::Null);
    desk.leaves_no_trace();
}

/// A key file as `age -p` writes it, but with next to no work.
fn locked(key: &str) -> Vec<u8> {
    let mut recipient = age::scrypt::Recipient::new(PASSPHRASE.to_owned().into());
    recipient.set_work_factor(2);
    age::encrypt(&recipient, key.as_bytes()).unwrap()
}

/// Ends what `open` started, by its id.
fn kill_who_waits(settings: &str) {
    let is_it = |id: &str| {
        let line = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        line.contains(settings) && line.contains("break-glass expire")
    };
    let ids = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    for id in ids.filter(|id| is_it(id)) {
        assert!(Command::new("kill").args(["-9", &id]).status().unwrap().success());
    }
}

#[test]
fn a_drill_tells_a_stale_file_and_an_operator_is_asked() {
    let Some(desk) = Desk::new() else { return };
    let (file, key) = (desk.file("sealed"), desk.file("key"));
    let drill = ["break-glass", "drill", &file, "--identity", &key];
    assert!(desk.succeeds(&drill).contains("the file opens, and is as 1Password is now"));
    desk.rotate(&format!("{CANARY}-new"));
    let stale = desk.host.oci_secrets(&drill, b"");
    assert_eq!(stale.status.code(), Some(65));
    assert!(String::from_utf8_lossy(&stale.stdout).contains("version 1 in the file, 2 in 1Password"), "{stale:?}");
    assert_eq!(desk.kinds(), ["drill", "drill"]);
    assert!(!std::path::Path::new("/run/oci-secrets/break-glass").exists());

    // At a terminal: the word, and the passphrase of the key.
    desk.host.write("locked", &locked(KEY), 0o600);
    let program = desk.host.program("oci-secrets");
    let line = format!(
        "{} --settings {} break-glass open {file} --identity {} --reason x --for 1h",
        program.get_program().to_string_lossy(),
        desk.file("settings.toml"),
        desk.file("locked"),
    );
    let at_terminal = |typed: &str| at_terminal(&mut Command::new("script"), &line, typed);
    assert_eq!(at_terminal("no\n").0, 77);
    assert_eq!(at_terminal("open\nwrong\n").0, 77);
    let (code, told) = at_terminal(&format!("open\n{PASSPHRASE}\n"));
    assert_eq!(code, 0, "{told}");
    desk.succeeds(&["break-glass", "close"]);
    desk.leaves_no_trace();
    let unasked =
        desk.host.oci_secrets(&["break-glass", "open", &file, "--identity", &key, "--reason", "x", "--for", "1h"], b"");
    assert_eq!(unasked.status.code(), Some(77), "it was not confirmed");
}
