//! An outage, from its beginning to the rotation of the last used secret.

use std::fs;
use std::process::Command;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::support::StandIn;
use super::support::host::KEY_RING;
use super::{CANARY, DB, KEY, MAIL, Site, UNREACHABLE, at_terminal, seal, servers, succeeded};

/// The timeout for events that take seconds.
const PATIENCE: Duration = Duration::from_secs(60);
const PASSPHRASE: &str = "correct horse";

fn db() -> Vec<String> {
    vec![format!("{CANARY}-db")]
}

#[test]
fn used_secrets_must_be_rotated_after_an_outage() {
    let Some(site) = Site::new() else { return };
    assert_eq!(site.status(), 0);
    site.connect_is(site.stand_in.connect(), UNREACHABLE);
    assert_eq!(site.start(&[DB]).0, 69, "nothing is open");
    succeeded(site.open("1h", &["--ticket", "INC-1"]));
    assert_eq!(site.start(&[DB]), (0, db()));
    let start = site.last_start();
    assert_eq!((start["decision"].as_str(), &start["secrets"][0]["kept"]), (Some("break-glass"), &Value::Bool(true)));
    assert_eq!(site.pending().into_iter().collect::<Vec<_>>(), [DB]);
    assert_eq!(site.status(), 1);
    assert_eq!(site.open("1h", &[]).status.code(), Some(77), "one at a time");

    // Connect answers again during the emergency: the hook uses it first. `close` lists the pending rotations.
    site.connect_is(UNREACHABLE, site.stand_in.connect());
    assert_eq!(site.start(&[DB]), (0, db()));
    assert_eq!(site.last_start()["decision"], "delivered");
    let text = site.succeeds(&["break-glass", "close"]);
    assert!(text.contains("rotate before"), "{text}");
    assert!(!std::path::Path::new("/run/oci-secrets/break-glass").exists());
    let emergency = site.events()[0]["emergency"].as_str().unwrap().to_owned();
    let begin = Instant::now();
    while fs::read_to_string("/proc/keys").unwrap().contains(&emergency) {
        assert!(begin.elapsed() < PATIENCE, "the kernel still has the key");
        sleep(Duration::from_millis(20));
    }

    // The same value in a newer version is not a rotation.
    site.rotate(&format!("{CANARY}-db"));
    assert_eq!((site.start(&[DB]).0, site.status()), (0, 1));
    let ledger = fs::read_to_string(site.host.path("state/ledger")).unwrap();
    let due = ledger.lines().find(|line| line.contains("\"due\"")).unwrap();
    site.host.write("state/ledger", ledger.replace(due, "\"due\": \"2026-01-01T00:00:00Z\"").as_bytes(), 0o600);
    assert_eq!((site.start(&[DB]).0, site.status()), (77, 2), "the grace period is over");
    assert_eq!(site.start(&[MAIL]).0, 0, "a secret that was not used need not be rotated");
    site.settings("then = \"refuse\"", "then = \"warn\"");
    assert_eq!(site.start(&[DB]).0, 0);

    site.rotate(&format!("{CANARY}-new"));
    assert_eq!(site.start(&[DB]), (0, vec![format!("{CANARY}-new")]));
    assert_eq!(site.status(), 0);
    assert_eq!(site.kinds(), ["open", "use", "close", "rotated"]);
    assert_eq!(
        (&site.events()[0]["ticket"], &site.events()[1]["secrets"][0]["reference"]),
        (&"INC-1".into(), &DB.into())
    );
    site.leaves_no_trace();
}

#[test]
fn an_emergency_serves_every_outage_and_no_refusal() {
    let Some(site) = Site::new() else { return };
    let (connect, kms) = (site.stand_in.connect().to_owned(), site.stand_in.kms().to_owned());
    succeeded(site.open("1h", &[]));
    let mail = || vec![format!("{CANARY}-mail")];
    for broken in [servers::silent(), servers::status("500 Oh"), servers::status("503 Busy"), servers::garbage()] {
        site.connect_is(&connect, &broken);
        // Each of these gets at most half of this deadline.
        site.settings("deadline = \"2s\"", "deadline = \"500ms\"");
        assert_eq!(site.start(&[MAIL]), (0, mail()), "Connect");
        site.settings("deadline = \"500ms\"", "deadline = \"2s\"");
        site.connect_is(&broken, &connect);
        site.kms_is(&kms, &broken);
        assert_eq!(site.start(&[MAIL, DB]), (0, [mail(), db()].concat()), "the KMS");
        let secrets = site.last_start()["secrets"].clone();
        assert_eq!((&secrets[0]["kept"], &secrets[1]["kept"]), (&Value::Bool(true), &Value::Null), "per secret");
        site.kms_is(&broken, &kms);
    }
    assert!(!site.pending().contains(DB), "its KEK was always available");
    let causes: Vec<String> =
        site.events().iter().filter_map(|record| Some(record["cause"].as_str()?.to_owned())).collect();
    assert!(causes[0].contains("did not answer within 0.25 s"), "half of the deadline: {causes:#?}");
    site.connect_is(&connect, UNREACHABLE);
    site.kms_is(&kms, UNREACHABLE);
    assert_eq!(site.start(&[MAIL]), (0, mail()), "both");
    site.kms_is(UNREACHABLE, &kms);

    let directory = tempfile::tempdir().unwrap();
    let expired = StandIn::start(&["--tls-expired", "--dir", &directory.path().display().to_string()]);
    site.connect_is(
        UNREACHABLE,
        &format!("{}\"\nca-file = \"{}", expired.connect(), expired.ca_file().unwrap().display()),
    );
    assert_eq!(site.start(&[MAIL]), (0, mail()), "an expired certificate");
    site.connect_is(expired.connect(), &connect);

    // A refusal is final, also during an outage.
    let uses = site.kinds().len();
    site.kms_is(&kms, UNREACHABLE);
    assert_eq!(site.start(&[MAIL, "op://AgentVault/nothing/password"]).0, 66, "not found");
    site.kms_is(UNREACHABLE, &kms);
    site.host.write("token", site.stand_in.expired_token().as_bytes(), 0o600);
    assert_eq!(site.start(&[MAIL]).0, 77, "an expired token");
    site.host.write("token", b"e30.e30.e30", 0o600);
    assert_eq!(site.start(&[MAIL]).0, 77, "denied by Connect");
    site.host.write("token", site.stand_in.token().as_bytes(), 0o600);
    site.store("mail", &seal(&site.host, &format!("{KEY_RING}/decrypt-status-403"), MAIL, &format!("{CANARY}-mail")));
    assert_eq!(site.start(&[MAIL]).0, 77, "denied by the KMS");
    site.settings("references = [\"op://AgentVault/*\"]", "references = [\"op://AgentVault/db/*\"]");
    site.connect_is(&connect, UNREACHABLE);
    assert_eq!(site.start(&[MAIL]).0, 77, "not granted");
    assert_eq!(site.kinds().len(), uses);
    assert_eq!(site.start(&["op://AgentVault/db/user"]).0, 69, "not in the store");
}

#[test]
fn refuses_to_open_or_use_an_emergency_without_a_record() {
    let Some(site) = Site::new() else { return };
    let (glass, audit) =
        (format!("file = {:?}", site.host.path("glass")), format!("file = {:?}", site.host.path("audit")));
    site.settings(&format!("audit = {{ {glass} }}"), "");
    assert_eq!(site.open("1h", &[]).status.code(), Some(78), "no channel");
    site.settings("[break-glass]\n", &format!("[break-glass]\naudit = {{ {audit} }}\n"));
    assert_eq!(site.open("1h", &[]).status.code(), Some(78), "the channel is the audit file of starts");
    site.settings(&audit, "journal-namespace = \"absent\"");
    // The first match is the audit trail's.
    let settings = fs::read_to_string(site.host.settings()).unwrap();
    let settings = settings.replacen("journal-namespace = \"absent\"", &audit, 1).replacen(
        &format!("{{ {audit} }}"),
        "{ journal-namespace = \"absent\" }",
        1,
    );
    site.host.write("settings.toml", settings.as_bytes(), 0o644);
    assert_eq!(site.open("1h", &[]).status.code(), Some(71), "no such journal");

    // Nor without a ledger entry.
    let audited = fs::read_to_string(site.host.settings()).unwrap();
    site.settings("journal-namespace = \"absent\"", &glass);
    succeeded(site.open("1h", &[]));
    site.connect_is(site.stand_in.connect(), UNREACHABLE);
    fs::create_dir(site.host.path("state/ledger.new")).unwrap();
    assert_eq!(site.start(&[DB]).0, 71, "the ledger cannot be written");
    fs::remove_dir(site.host.path("state/ledger.new")).unwrap();
    site.succeeds(&["break-glass", "close"]);
    site.host.write("settings.toml", audited.as_bytes(), 0o644);

    site.host.write("page", b"#!/bin/sh\ncat >>\"$1\"; test ! -e \"$1.off\"\n", 0o700);
    let command = format!("command = [{:?}, {:?}]", site.host.path("page"), site.host.path("paged"));
    site.settings("journal-namespace = \"absent\"", &command);
    succeeded(site.open("1h", &[]));
    site.connect_is(site.stand_in.connect(), UNREACHABLE);
    site.host.write("paged.off", b"", 0o600);
    assert_eq!(site.start(&[DB]).0, 69, "the command accepted no record");
    assert!(site.pending().is_empty());
    fs::remove_file(site.host.path("paged.off")).unwrap();
    assert_eq!(site.start(&[DB]), (0, db()));
    // Then it also receives the records that it had refused.
    let paged = fs::read_to_string(site.host.path("paged")).unwrap();
    assert!(paged.contains("\"event\":\"open\"") && paged.matches("\"event\":\"use\"").count() >= 2, "{paged}");

    // Without a record, no secret is removed from the ledger.
    site.succeeds(&["break-glass", "close"]);
    site.connect_is(UNREACHABLE, site.stand_in.connect());
    site.rotate(&format!("{CANARY}-new"));
    site.host.write("paged.off", b"", 0o600);
    assert_eq!(site.start(&[DB]), (0, vec![format!("{CANARY}-new")]), "no emergency is needed");
    let waived = site.host.oci_secrets(&["break-glass", "rotation", "waive", DB, "--reason", "x"], b"");
    assert_eq!((waived.status.code(), site.pending().contains(DB)), (Some(69), true));
    fs::remove_file(site.host.path("paged.off")).unwrap();
    assert_eq!((site.start(&[DB]).0, site.pending().contains(DB)), (0, false));
    assert!(fs::read_to_string(site.host.path("paged")).unwrap().contains("\"event\":\"rotated\""));
    let verified = site.succeeds(&["audit", "verify", &site.file("paged")]);
    assert!(verified.contains("it repeats line"), "refused records are sent again: {verified}");
    site.leaves_no_trace();
}

#[test]
fn the_store_is_readable_by_root_only_and_never_swapped() {
    let Some(site) = Site::new() else { return };
    succeeded(site.open("1h", &["--only", DB]));
    let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    let mount = mounts.lines().find(|line| line.contains(" /run/oci-secrets/break-glass ")).unwrap();
    assert!(mount.contains("nosuid,nodev,noexec"), "{mount}");
    assert!(mount.contains(" - ramfs ") || mount.contains("noswap"), "{mount}");
    let names = |user: &str| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", user, "--clear-groups", "ls", "/run/oci-secrets/break-glass"]);
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    };
    assert_eq!(names("0"), "0\nemergency\nhalf-key\n", "a secret that `--only` does not name is missing");
    assert_eq!(names("1000"), "");
    site.connect_is(site.stand_in.connect(), UNREACHABLE);
    assert_eq!(site.start(&[DB, MAIL]).0, 69);
    assert!(site.pending().is_empty(), "all or nothing");
    site.leaves_no_trace();
}

#[test]
fn a_file_with_a_threshold_requires_several_operators() {
    let Some(site) = Site::new() else { return };
    let recipients: Vec<String> = (0..3)
        .map(|number| {
            let key = site.file(&format!("id-{number}"));
            let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f", &key]).status();
            assert!(made.unwrap().success());
            fs::read_to_string(format!("{key}.pub")).unwrap().trim().to_owned()
        })
        .collect();
    site.host.write("list", format!("# all\n{DB}\n").as_bytes(), 0o600);
    let (list, file) = (site.file("list"), site.file("of-two"));
    let mut arguments = vec!["break-glass", "seal", "--references", &list, "--out", &file, "--threshold", "2"];
    arguments.extend(recipients.iter().flat_map(|recipient| ["--recipient", recipient.as_str()]));
    site.succeeds(&arguments);
    assert!(site.host.oci_secrets(&arguments, b"").status.code() != Some(0), "the file exists already");

    let open = |identities: &[&str], operators: &[&str]| {
        let mut arguments = vec!["break-glass", "open", &file, "--reason", "x", "--for", "1h", "--yes"];
        let keys: Vec<String> = identities.iter().map(|key| site.file(key)).collect();
        arguments.extend(keys.iter().flat_map(|key| ["--identity", key.as_str()]));
        arguments.extend(operators.iter().flat_map(|name| ["--operator", name]));
        site.host.oci_secrets(&arguments, b"").status.code().unwrap()
    };
    assert_eq!(open(&["id-0", "id-2"], &["ada"]), 77, "one name");
    assert_eq!(open(&["id-0", "id-2"], &["ada", "ada"]), 77, "the same name twice");
    assert_eq!(open(&["id-0"], &["ada", "bob"]), 77, "one key");
    assert_eq!(open(&["id-0", "id-2"], &["ada", "bob"]), 0);
    assert_eq!(site.events()[0]["operators"], serde_json::json!(["ada", "bob"]));
    site.connect_is(site.stand_in.connect(), UNREACHABLE);
    assert_eq!(site.start(&[DB]), (0, db()));
    assert_eq!(site.start(&[MAIL]).0, 69, "the secret is not in this file");
}

#[test]
fn an_emergency_ends_on_time_even_if_processes_are_killed() {
    let Some(site) = Site::new() else { return };
    site.connect_is(site.stand_in.connect(), UNREACHABLE);
    succeeded(site.open("4s", &[]));
    kill_remover(&site.file("settings.toml"));
    let begin = Instant::now();
    let start_until_the_end = || {
        for delivered in 0.. {
            assert!(begin.elapsed() < PATIENCE, "the emergency does not end");
            match site.start(&[DB]) {
                (0, delivered) => assert_eq!(delivered, db()),
                (code, _) => {
                    assert_eq!(code, 69);
                    return delivered;
                }
            }
        }
        0
    };
    // Several at once, so that some are running when it ends.
    let delivered: u32 = thread::scope(|scope| {
        let starts: Vec<_> = (0..3).map(|_| scope.spawn(start_until_the_end)).collect();
        starts.into_iter().map(|start| start.join().unwrap()).sum()
    });
    assert!(delivered > 0);
    assert!(site.pending().contains(DB));
    // The last start may have begun before the end.
    assert_eq!(site.start(&[DB]).0, 69);
    assert!(!std::path::Path::new("/run/oci-secrets/break-glass/emergency").exists(), "the hook removes the store");
    let events = site.events();
    assert_eq!(
        (&events.last().unwrap()["event"], &events.last().unwrap()["expired"]),
        (&"close".into(), &Value::Bool(true))
    );

    assert_eq!(site.kinds().iter().filter(|kind| *kind == "close").count(), 1, "the end is recorded once");

    // Without any container start, the background process ends the emergency.
    succeeded(site.open("1s", &[]));
    let begin = Instant::now();
    while std::path::Path::new("/run/oci-secrets/break-glass").exists() {
        assert!(begin.elapsed() < PATIENCE, "the store is not removed");
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
    let Some(site) = Site::new() else { return };
    site.connect_is(site.stand_in.connect(), UNREACHABLE);
    succeeded(site.open("1h", &[]));
    assert_eq!(site.start(&[DB]), (0, db()));
    remove_the_key_from_the_keyring(site.events()[0]["emergency"].as_str().unwrap());
    assert_eq!(site.start(&[DB]).0, 69, "no secret without both halves of the key");
    let events = site.events();
    let close = events.last().unwrap();
    assert_eq!(
        (&close["event"], &close["expired"], &close["tampered"]),
        (&"close".into(), &false.into(), &true.into())
    );
    assert!(!std::path::Path::new("/run/oci-secrets/break-glass").exists());

    // `status` also reports it if no container starts in between. Now and then the background process is faster, and the record shows it.
    let is_reported = (0..10).any(|_| {
        succeeded(site.open("1h", &[]));
        remove_the_key_from_the_keyring(site.events().last().unwrap()["emergency"].as_str().unwrap());
        let status = site.host.oci_secrets(&["break-glass", "status"], b"");
        assert_eq!(site.events().last().unwrap()["tampered"], true, "{status:?}");
        String::from_utf8_lossy(&status.stderr).contains("removed its key from root's keyring")
    });
    assert!(is_reported);
    // `close` is not tampering.
    succeeded(site.open("1h", &[]));
    site.succeeds(&["break-glass", "close"]);
    assert_eq!(site.events().last().unwrap()["tampered"], Value::Null);
    site.leaves_no_trace();
}

/// A key file as `age -p` writes it, with a minimal work factor.
fn encrypted(key: &str) -> Vec<u8> {
    let mut recipient = age::scrypt::Recipient::new(PASSPHRASE.to_owned().into());
    recipient.set_work_factor(2);
    age::encrypt(&recipient, key.as_bytes()).unwrap()
}

/// Kills the process that `open` started, by its PID.
fn kill_remover(settings: &str) {
    let is_remover = |pid: &str| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        line.contains(settings) && line.contains("break-glass expire")
    };
    let pids = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    for pid in pids.filter(|pid| is_remover(pid)) {
        assert!(Command::new("kill").args(["-9", &pid]).status().unwrap().success());
    }
}

#[test]
fn a_drill_detects_a_stale_file_and_open_prompts_the_operator() {
    let Some(site) = Site::new() else { return };
    let (file, key) = (site.file("sealed"), site.file("key"));
    let drill = ["break-glass", "drill", &file, "--identity", &key];
    assert!(site.succeeds(&drill).contains("the file opens, and matches 1Password"));
    site.rotate(&format!("{CANARY}-new"));
    let stale = site.host.oci_secrets(&drill, b"");
    assert_eq!(stale.status.code(), Some(65));
    assert!(String::from_utf8_lossy(&stale.stdout).contains("version 1 in the file, 2 in 1Password"), "{stale:?}");
    assert_eq!(site.kinds(), ["drill", "drill"]);
    assert!(!std::path::Path::new("/run/oci-secrets/break-glass").exists());

    // On a terminal: the confirmation, and the passphrase of the key.
    site.host.write("locked", &encrypted(KEY), 0o600);
    let program = site.host.program("oci-secrets");
    let line = format!(
        "{} --settings {} break-glass open {file} --identity {} --reason x --for 1h",
        program.get_program().to_string_lossy(),
        site.file("settings.toml"),
        site.file("locked"),
    );
    let at_terminal = |typed: &str| at_terminal(&mut Command::new("script"), &line, typed);
    assert_eq!(at_terminal("no\n").0, 77);
    assert_eq!(at_terminal("open\nwrong\n").0, 77);
    let (code, text) = at_terminal(&format!("open\n{PASSPHRASE}\n"));
    assert_eq!(code, 0, "{text}");
    site.succeeds(&["break-glass", "close"]);
    site.leaves_no_trace();
    let unconfirmed =
        site.host.oci_secrets(&["break-glass", "open", &file, "--identity", &key, "--reason", "x", "--for", "1h"], b"");
    assert_eq!(unconfirmed.status.code(), Some(77), "it was not confirmed");
}
