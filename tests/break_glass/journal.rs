//! Real journals: each record arrives, and the records form a chain when they are read back.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use rustix::mount::{MountFlags, mount, mount_bind};
use serde_json::Value;

use super::support::container::Container;
use super::support::skip;
use super::{DB, Site, UNREACHABLE, succeeded};

const JOURNALD: &str = "/lib/systemd/systemd-journald";
const NAMESPACE: &str = "glass";

/// The journals of a machine, without the rest of systemd.
struct Journals(Vec<Child>);

impl Journals {
    /// Starts the default journal and that of our namespace. Their files, and `/dev` with the syslog socket, are on tmpfs.
    fn start() -> Option<Journals> {
        if !fs::exists(JOURNALD).unwrap() {
            skip(&format!("{JOURNALD} is missing"));
            return None;
        }
        mount("tmpfs", "/var/log", "tmpfs", MountFlags::empty(), None).unwrap();
        fs::create_dir_all("/run/log/journal").unwrap();
        fs::create_dir("/run/devices").unwrap();
        mount_bind("/dev", "/run/devices").unwrap();
        mount("tmpfs", "/dev", "tmpfs", MountFlags::empty(), Some(c"mode=755")).unwrap();
        for device in ["null", "zero", "urandom", "kmsg", "fd"] {
            symlink(format!("/run/devices/{device}"), format!("/dev/{device}")).unwrap();
        }
        symlink("/run/systemd/journal/dev-log", "/dev/log").unwrap();
        let start = |arguments: &[&str]| Command::new(JOURNALD).args(arguments).stderr(Stdio::null()).spawn().unwrap();
        let mut journals = Journals(vec![start(&[]), start(&[NAMESPACE])]);
        let sockets = ["/run/systemd/journal/socket", "/run/systemd/journal.glass/socket"];
        for (journal, socket) in journals.0.iter_mut().zip(sockets) {
            while !fs::exists(socket).unwrap() {
                assert!(journal.try_wait().unwrap().is_none(), "{JOURNALD} does not run here");
                sleep(Duration::from_millis(10));
            }
        }
        Some(journals)
    }
}

impl Drop for Journals {
    fn drop(&mut self) {
        for journal in &mut self.0 {
            let _ = journal.kill();
            let _ = journal.wait();
        }
    }
}

/// The output of `journalctl` with these arguments, after the journal has processed all pending messages.
fn journal(arguments: &[&str]) -> String {
    let command = |arguments: &[&str]| succeeded(Command::new("journalctl").args(arguments).output().unwrap());
    let namespace: Vec<&str> =
        arguments.iter().copied().filter(|argument| argument.starts_with("--namespace")).collect();
    command(&[&namespace[..], &["--sync"]].concat());
    command(&[arguments, &["--no-pager", "--quiet"]].concat())
}

fn verified(site: &Site, lines: &str) {
    succeeded(site.host.oci_secrets(&["audit", "verify", "-"], lines.as_bytes()));
}

#[test]
fn journals_receive_records_of_starts_and_of_break_glass() {
    let Some(site) = Site::new() else { return };
    let Some(_journals) = Journals::start() else { return };
    site.settings("[audit]\n", "[audit]\nchain = true\n");
    let file = format!("audit = {{ file = {:?} }}", site.host.path("glass"));
    let channel = format!("audit = {{ journal-namespace = {NAMESPACE:?} }}");
    site.settings(&file, &channel);
    succeeded(site.open("1h", &[]));
    site.connect_is(site.stand_in.connect(), UNREACHABLE);
    let container = Container::create();
    let state = container.state([("run.secrets/secret".to_owned(), DB.to_owned())]);
    assert!(site.host.hook(&state).status.success());
    site.succeeds(&["break-glass", "close"]);

    // The channel: every action, and a chain that begins with a mark.
    let namespace = format!("--namespace={NAMESPACE}");
    let arguments = [namespace.as_str(), "--identifier=oci-secrets-break-glass", "--output=cat"];
    let lines = journal(&arguments);
    let records: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let kinds: Vec<&str> = records.iter().filter_map(|record| record["event"].as_str()).collect();
    assert_eq!(kinds, ["open", "use", "close"]);
    verified(&site, &lines);
    let without_use: String =
        lines.lines().filter(|line| !line.contains("\"use\"")).map(|line| format!("{line}\n")).collect();
    assert_eq!(site.host.oci_secrets(&["audit", "verify", "-"], without_use.as_bytes()).status.code(), Some(65));

    // The default journal: the start is found by its fields; records form a chain; warnings are logged.
    let id = serde_json::from_slice::<Value>(&state).unwrap()["id"].as_str().unwrap().to_owned();
    let by_container = journal(&[&format!("OCI_SECRETS_CONTAINER={id}"), "--output=json"]);
    let entries: Vec<Value> = by_container.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let start = entries.iter().find(|entry| !entry["OCI_SECRETS_DECISION"].is_null()).unwrap();
    assert_eq!(
        [
            &start["OCI_SECRETS_DECISION"],
            &start["OCI_SECRETS_REFERENCE"],
            &start["SYSLOG_FACILITY"],
            &start["PRIORITY"]
        ],
        ["break-glass", DB, "10", "6"]
    );
    let record: Value = serde_json::from_str(start["MESSAGE"].as_str().unwrap()).unwrap();
    assert_eq!(record["start"], start["OCI_SECRETS_START"]);
    let trail = journal(&["--identifier=oci-secrets-hook", "--priority=info..info", "--output=cat"]);
    verified(&site, &trail);
    let warnings = journal(&["--identifier=oci-secrets-hook", "--priority=warning", "--output=cat"]);
    assert!(warnings.contains(&format!("break-glass: {DB} comes from emergency")), "{warnings}");

    // The same with syslog. Records that the new channel has not received are sent first.
    site.settings(&channel, "audit = { syslog-facility = \"local3\" }");
    fs::remove_file(site.host.path("state/channel-sent")).unwrap();
    site.succeeds(&["break-glass", "rotation", "waive", DB, "--reason", "x"]);
    let lines = journal(&["SYSLOG_FACILITY=19", "--identifier=oci-secrets-break-glass", "--output=cat"]);
    assert_eq!(lines.lines().count(), 5, "{lines}");
    verified(&site, &lines);
    site.leaves_no_trace();
}

/// Many requests of a container result in a record that is larger than a datagram.
#[test]
fn a_record_larger_than_a_datagram_reaches_the_journal() {
    const MISSING: usize = 700;
    let Some(site) = Site::new() else { return };
    let Some(_journals) = Journals::start() else { return };
    site.settings(&format!("[audit]\nfile = {:?}", site.host.path("audit")), "");
    site.settings("deadline = \"2s\"", "deadline = \"30s\"");
    let names: Vec<String> = (0..MISSING).map(|number| format!("missing-{number}")).collect();
    let missing = names.iter().map(|name| {
        (format!("run.secrets/{name}"), format!("op://AgentVault/db/a-field-with-a-name-that-no-item-has/{name}"))
    });
    let more = [("run.secrets/secret".to_owned(), DB.to_owned()), ("run.secrets.optional".to_owned(), names.join(","))];
    let container = Container::create();
    let state = container.state(missing.chain(more));
    let output = site.host.hook(&state);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let id = serde_json::from_slice::<Value>(&state).unwrap()["id"].as_str().unwrap().to_owned();
    let entries = journal(&[&format!("OCI_SECRETS_CONTAINER={id}"), "--output=cat", "--all"]);
    let record: Value = serde_json::from_str(entries.lines().last().unwrap()).unwrap();
    assert_eq!(
        (record["decision"].as_str(), record["secrets"].as_array().unwrap().len()),
        (Some("delivered"), MISSING + 1)
    );
}

#[test]
fn command_line_errors_are_not_logged() {
    let Some(site) = Site::new() else { return };
    let Some(_journals) = Journals::start() else { return };
    let log = || journal(&["--identifier=oci-secrets", "--output=cat"]);
    for (arguments, code) in [(&["--canary"][..], 64), (&["audit", "show", "--since", "canary"], 64)] {
        assert_eq!(site.host.oci_secrets(arguments, b"").status.code(), Some(code));
    }
    assert_eq!(log(), "");
    assert_eq!(site.host.oci_secrets(&["audit", "show", "missing"], b"").status.code(), Some(66));
    assert!(log().contains("cannot read the audit file missing"), "other errors are logged");
}
