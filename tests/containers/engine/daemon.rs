//! Daemons of engines, each of which ends with the tests, however those end.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::sandbox;

/// How long a daemon may need until it serves its clients.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs a daemon until its own standard input ends, as it does when the process that holds the other end is gone.
const LEASH: &str = r#"farewell=$1; shift; "$@" & daemon=$!; read -r _; eval "$farewell"; kill $daemon; wait $daemon"#;

/// A daemon and its resources. It is never dropped, because nothing would wait for its end.
pub(super) struct Daemon {
    _leash: Child,
}

impl Daemon {
    /// Starts the daemon that these words are and waits until the client is served. `farewell` is what a shell does before its end.
    pub(super) fn start(words: &[&str], farewell: &str, directory: &Path, client: impl Fn() -> Command) -> Daemon {
        let path = directory.join("log");
        let log = File::create(&path).unwrap();
        let mut leash = Command::new("sh");
        leash.args(["-c", LEASH, "sh", farewell]).args(words).current_dir("/");
        leash.env_clear().env("PATH", sandbox::PATH).env("HOME", directory);
        // A group of its own: what a terminal sends to the tests is not for it.
        leash.process_group(0).stdin(Stdio::piped()).stdout(log.try_clone().unwrap()).stderr(log);
        let daemon = Daemon { _leash: leash.spawn().unwrap() };
        let begin = Instant::now();
        while !client().stdin(Stdio::null()).output().unwrap().status.success() {
            assert!(begin.elapsed() < PATIENCE, "{words:?}: {}", fs::read_to_string(&path).unwrap());
            thread::sleep(Duration::from_millis(50));
        }
        daemon
    }
}

/// Writes a runtime for engines that give theirs no arguments: it finds its settings, and becomes the wrapper.
///
/// `settings` are words of a shell, which may use `$bundle`.
pub(super) fn write_runtime(path: &Path, settings: &str) {
    let script = format!(
        r#"#!/bin/sh
for word; do
    [ "$previous" != --bundle ] || bundle=$word
    previous=$word
done
exec {WRAPPER} --hook {} --settings {settings} "$@"
"#,
        sandbox::HOOK
    );
    fs::write(path, script).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

pub(super) const WRAPPER: &str = env!("CARGO_BIN_EXE_oci-secrets-runtime");
