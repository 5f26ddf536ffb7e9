//! Runs the transcripts next to this file: commands and their output.
//!
//! A transcript is a text file. `# …` is a comment; `$ …` is a command, run by bash in a fresh directory after `setup.bash`; the lines
//! below it are everything it prints on either stream, and `[exit N]` its exit code unless that is 0. In what it prints, addresses
//! and the directory are replaced by the variables that the commands know them by. With `UPDATE=1` in the environment, the
//! transcripts are rewritten with the actual output: review the diff.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test fails by panicking, its helpers too")]

#[path = "../support/mod.rs"]
mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Condvar, Mutex};

use nix::sched::{CloneFlags, unshare};
use regex::Regex;
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change};
use support::StandIn;

/// What makes a transcript one of the hook.
const OF_THE_HOOK: [&str; 4] = ["$ start ", "| hook\n", "$ with_key ", "; start "];

#[test]
fn transcripts_match_the_output() {
    replay(|_| true, Way::Direct, std::env::var_os("UPDATE").is_some());
}

/// The same messages, exit codes and records, line by line, if the hook asks a broker.
#[test]
fn transcripts_of_the_hook_match_through_the_broker() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    // What the hook says of a broker has no other way. What it keeps of a broker that does not start is that alone.
    let is_of_broker = |text: &str| text.contains("$ ask_at ") || text.contains("explain --last");
    let is_of_hook = |text: &str| OF_THE_HOOK.iter().any(|part| text.contains(part)) && !is_of_broker(text);
    replay(is_of_hook, Way::Broker, false);
}

/// How the hook of a transcript resolves.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    Direct,
    Broker,
}

fn replay(is_wanted: impl Fn(&str) -> bool, way: Way, update: bool) {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli");
    let mut transcripts: Vec<PathBuf> = fs::read_dir(&here).unwrap().map(|entry| entry.unwrap().path()).collect();
    transcripts.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    transcripts.retain(|path| is_wanted(&fs::read_to_string(path).unwrap()));
    transcripts.sort();
    assert!(!transcripts.is_empty(), "no transcripts in {}", here.display());

    let mut wrong = 0;
    let sessions: Vec<_> =
        transcripts.into_iter().map(|path| (std::thread::spawn(read_and_replay(&path, way)), path)).collect();
    let count = sessions.len();
    for (session, path) in sessions {
        let (expected, actual) = session.join().unwrap();
        if expected == actual {
            continue;
        }
        if update {
            fs::write(&path, &actual).unwrap();
        } else {
            wrong += 1;
            eprintln!("{}:\n{}", path.display(), difference(&expected, &actual));
        }
    }
    assert_eq!(wrong, 0, "of {count} transcripts, this many do not match");
}

#[test]
fn records_match_the_schema() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let Some(mut validator) = support::python::client("audit_schema.py") else {
        return;
    };
    isolate_host_state();
    let session = Session::begin(Way::Direct);
    for command in [
        "settings '[audit]' \"file = \\\"$DIR/a\\\"\" 'chain = true'; oci-secrets kek new local-kek:trial",
        "item db password \"$(printf canary | oci-secrets seal --kek local-kek:trial --for op://AgentVault/db/password)\"",
        "start run.secrets/db=op://AgentVault/db/password",
        "printf torn >>a; start run.secrets/db=op://AgentVault/db/nothing || start run.secrets/db=op://No/item/field",
        "grep -vx torn a >b",
        "settings '[audit]' \"file = \\\"$DIR/b\\\"\" '[static-token]' 'addresses = [\"192.0.2.7\"]' 'rate = { starts = 9, within = \"1h\" }'",
        "start run.secrets/db=op://AgentVault/db/password",
        "settings '[audit]' \"file = \\\"$DIR/b\\\"\"; with_key prod; start run.secrets/..=op://No/item/field",
    ] {
        session.run(command);
    }
    let files = ["b", "glass"].map(|name| session.directory.path().join(name));
    let mut kinds = "begins delivered refused resumes\n";
    if rustix::process::geteuid().is_root() {
        record_an_outage(&session);
        kinds = "begins break-glass close delivered drill open refused resumes rotated use waive\n";
    }
    let output = validator
        .arg(here.join("config/audit.schema.json"))
        .args(files.iter().filter(|file| file.exists()))
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(String::from_utf8_lossy(&output.stdout), kinds);
}

/// Adds a record of every action of break-glass to the file `glass`, and the record of a start in the emergency to `b`.
fn record_an_outage(session: &Session) {
    for command in [
        "settings '[audit]' \"file = \\\"$DIR/b\\\"\" '[break-glass]' \"audit = { file = \\\"$DIR/glass\\\" }\" \"directory = \\\"$DIR/state\\\"\"",
        "sed -i 's|^references = .*|&\\nname = \"agents\"|' settings.toml; age-keygen -o key; cp settings.toml normal",
        "item mail password \"$(printf canary | oci-secrets seal --kek local-kek:trial --for op://AgentVault/mail/password)\"",
        "oci-secrets break-glass seal --grants agents --recipient \"$(age-keygen -y key)\" --out sealed",
        "oci-secrets break-glass drill sealed --identity key; oci-secrets break-glass drill sealed --identity token",
        "sed -i 's|^url = .*|url = \"http://127.0.0.1:9\"|' settings.toml",
        "oci-secrets break-glass open sealed --identity key --reason x --ticket y --operator ada --for 1h --yes",
        "start run.secrets/db=op://AgentVault/db/password run.secrets/mail=op://AgentVault/mail/password",
        "oci-secrets break-glass close; oci-secrets break-glass rotation waive op://AgentVault/mail/password --reason x",
        "cp normal settings.toml; printf canary-2 | oci-secrets seal --kek local-kek:trial --for op://AgentVault/db/password --write --overwrite",
        "start run.secrets/db=op://AgentVault/db/password",
    ] {
        session.run(command);
    }
}

/// The transcripts contain each command of the page, unchanged.
#[test]
fn the_transcripts_run_every_command_of_the_outage_page() {
    const PAGE: &str = include_str!("../../packaging/docs/outage.md");
    const TRANSCRIPTS: [&str; 2] = [include_str!("outage.txt"), include_str!("cache.txt")];
    let joined: Vec<String> = PAGE.split("\\\n").map(|part| part.trim().to_owned()).collect();
    let page = joined.join(" ");
    let commands: Vec<&str> = page.lines().filter_map(|line| line.trim().strip_prefix("$ ")).collect();
    assert!(commands.len() >= 10, "{commands:?}");
    for command in commands {
        let is_typed = |line: &str| line.starts_with("$ ") && line.contains(command.trim_start_matches("sudo "));
        assert!(TRANSCRIPTS.iter().flat_map(|transcript| transcript.lines()).any(is_typed), "{command}");
    }
}

fn read_and_replay(path: &Path, way: Way) -> impl FnOnce() -> (String, String) + 'static {
    let expected = fs::read_to_string(path).unwrap();
    move || {
        let _turn = Turn::take();
        isolate_host_state();
        let actual = Session::begin(way).replay(&expected);
        (expected, actual)
    }
}

/// One of the transcripts that are replayed at the same time. More would wait for each other longer than the deadlines that they show.
struct Turn;

static TURNS: (Mutex<usize>, Condvar) = (Mutex::new(8), Condvar::new());

impl Turn {
    fn take() -> Turn {
        let (left, freed) = &TURNS;
        *freed.wait_while(left.lock().unwrap(), |left| *left == 0).unwrap() -= 1;
        Turn
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *TURNS.0.lock().unwrap() += 1;
        TURNS.1.notify_one();
    }
}

/// Mounts an empty `/run/oci-secrets`, `/dev/shm` and `/var/log` for this thread, and hides the system logs: transcripts share no
/// emergency, no directory of `op`, no count of starts and no audit file.
fn isolate_host_state() {
    if rustix::process::geteuid().is_root() {
        fs::create_dir_all("/run/oci-secrets").unwrap();
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
        mount("tmpfs", "/run/oci-secrets", "tmpfs", MountFlags::empty(), Some(c"mode=0700")).unwrap();
        mount("tmpfs", "/dev/shm", "tmpfs", MountFlags::empty(), Some(c"mode=1777")).unwrap();
        mount("tmpfs", "/var/log", "tmpfs", MountFlags::empty(), Some(c"mode=0755")).unwrap();
        for log in ["/run/systemd/journal/socket", "/dev/log"].into_iter().filter_map(|log| fs::canonicalize(log).ok())
        {
            mount_bind("/dev/null", &log).unwrap();
        }
    }
}

/// One directory, one stand-in, and the commands of one transcript.
struct Session {
    directory: tempfile::TempDir,
    stand_in: StandIn,
    way: Way,
}

impl Session {
    fn begin(way: Way) -> Session {
        let directory = tempfile::Builder::new().prefix("transcript").tempdir().unwrap();
        Session { stand_in: StandIn::start(&[]), directory, way }
    }

    /// The transcript with the same comments and commands, and the actual output of each command.
    fn replay(&self, expected: &str) -> String {
        let mut seen = String::new();
        let mut lines = expected.lines().peekable();
        while let Some(line) = lines.next() {
            seen.push_str(line);
            seen.push('\n');
            if let Some(command) = line.strip_prefix("$ ") {
                let actual = self.run(command);
                // The expected output ends before the next command or comment, and the empty lines before it.
                let (mut gap, mut expected) = (0, String::new());
                while let Some(line) = lines.next_if(|line| !line.starts_with("# ") && !line.starts_with("$ ")) {
                    gap = if line.is_empty() { gap + 1 } else { 0 };
                    expected.push_str(line);
                    expected.push('\n');
                }
                // How often `op` is called is the broker's own affair: tests/broker_source counts that.
                if self.way == Way::Broker && command.contains("op.calls") {
                    seen.push_str(&expected);
                } else {
                    seen.push_str(&actual);
                    seen.push_str(&"\n".repeat(gap));
                }
            }
        }
        seen
    }

    fn run(&self, command: &str) -> String {
        let setup = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/setup.bash");
        let hook = Path::new(env!("CARGO_BIN_EXE_oci-secrets-hook"));
        let binaries = hook.parent().unwrap().display();
        let output = Command::new("bash")
            .args(["-c", &format!("exec 2>&1; source {}; {command}", setup.display())])
            .current_dir(self.directory.path())
            .env_clear()
            .env("PATH", format!("{binaries}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"))
            .env("DIR", self.directory.path())
            .envs((self.way == Way::Broker).then_some(("BROKER", "1")))
            .env("CONNECT", self.stand_in.connect())
            .env("KMS", self.stand_in.kms())
            .env("TOKEN", self.stand_in.token())
            .env("LIMITED_TOKEN", self.stand_in.limited_token())
            .env("EXPIRED_TOKEN", self.stand_in.expired_token())
            .env("ISSUERS", self.stand_in.issuer(""))
            .env("REQUEST_TOKEN", self.stand_in.request_token())
            .output()
            .unwrap();
        let mut text = self.with_variables(&String::from_utf8_lossy(&output.stdout));
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        match output.status.code() {
            Some(0) => {}
            code => text.push_str(&format!("[exit {}]\n", code.unwrap_or(-1))),
        }
        text
    }

    fn with_variables(&self, text: &str) -> String {
        // `check` has lines for the engines that this host has.
        let total = Regex::new("of [0-9]+ checks found").unwrap();
        // How often a silent service was asked depends on the load of the host.
        let tries = Regex::new(r"(within [0-9.]+ s) \((?:[0-9]+|…) tries\)").unwrap();
        tries
            .replace_all(&total.replace_all(text, "of … checks found"), "$1")
            .replace(&self.directory.path().display().to_string(), "$DIR")
            .replace(self.stand_in.connect(), "$CONNECT")
            .replace(self.stand_in.connect().trim_start_matches("http://"), "${CONNECT#http://}")
            .replace(self.stand_in.kms(), "$KMS")
            .replace(self.stand_in.issuer("").trim_end_matches('/'), "$ISSUERS")
    }
}

fn difference(expected: &str, actual: &str) -> String {
    let mut text = String::new();
    let (expected, actual): (Vec<&str>, Vec<&str>) = (expected.lines().collect(), actual.lines().collect());
    let same_before = expected.iter().zip(&actual).take_while(|(a, b)| a == b).count();
    let command = expected.iter().take(same_before + 1).rfind(|line| line.starts_with("$ "));
    text.push_str(&format!("  {}\n", command.unwrap_or(&"(at the beginning)")));
    for line in expected.iter().skip(same_before).take(6) {
        text.push_str(&format!("  expected {line}\n"));
    }
    for line in actual.iter().skip(same_before).take(6) {
        text.push_str(&format!("  actual   {line}\n"));
    }
    text
}
