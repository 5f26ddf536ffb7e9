//! The examples in `packaging/examples` that need systemd, under the real one, unchanged. `tests/packages/system` runs the others.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

#[path = "support/mod.rs"]
mod support;

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::thread;
use std::time::Duration;

use support::machine::Machine;
use support::systemd::Systemd;
use support::{AGENT_VAULT, StandIn, program, with_mode};

/// How often something that systemd does by itself is looked for, every 10 ms.
const TRIES_MAX: usize = 3000;

const SECRET: &str = "canary-of-a-unit";

/// The unit that the example is for. It has a user of its own.
const AGENT: &str = "\
[Service]
User=daemon
RuntimeDirectory=agent
ExecStart=/bin/sh -c '(cat \"$CREDENTIALS_DIRECTORY/db-password\"; echo) >/run/agent/seen; exec sleep 600'
";

#[test]
fn a_unit_gets_its_secrets_as_credentials_or_does_not_start() {
    let Some(_machine) = Machine::enter() else { return };
    let Some(systemd) = Systemd::boot() else { return };
    let stand_in = StandIn::start(&[]);
    install(&systemd, &stand_in);
    let list = systemd.path("/etc/oci-secrets/units/agent.env");
    fs::write(&list, "export DB_PASSWORD=op://AgentVault/database/password\n").unwrap();

    systemd.succeeds("systemctl", &["start", "agent.service"]);
    let seen = systemd.path("/run/agent/seen");
    while !fs::read_to_string(&seen).is_ok_and(|line| line.ends_with('\n')) {
        thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(fs::read_to_string(&seen).unwrap(), format!("{SECRET}\n"));
    let files = systemd.path("/run/oci-secrets-files/agent");
    let mode = |path: &Path| fs::metadata(path).map(|metadata| (metadata.uid(), metadata.mode() & 0o777)).unwrap();
    assert_eq!((mode(&files), mode(&files.join("db-password")).0), ((0, 0o700), 0));

    // The files end with the unit.
    systemd.succeeds("systemctl", &["stop", "agent.service"]);
    for _ in 0..TRIES_MAX {
        if files.exists() {
            thread::sleep(Duration::from_millis(10));
        }
    }
    assert!(!files.exists());

    // Without its secrets, it does not start.
    fs::write(&list, "export DB_PASSWORD=op://AgentVault/database/missing\n").unwrap();
    fs::remove_file(&seen).unwrap_or_default();
    assert!(!systemd.run("systemctl", &["start", "agent.service"]).status.success());
    assert!(!systemd.run("systemctl", &["is-active", "agent.service"]).status.success());
    assert!(!seen.exists());
    let journal = systemd.succeeds("journalctl", &["--unit", "oci-secrets-files@agent.service", "--output", "cat"]);
    assert!(journal.contains("oci-secrets: error: ") && !journal.contains(SECRET), "{journal}");
}

/// Installs the command with settings for the stand-in, a unit, and the example for it; stores the secret.
fn install(systemd: &Systemd, stand_in: &StandIn) {
    fs::copy(program("oci-secrets"), systemd.path("/usr/bin/oci-secrets")).unwrap();
    fs::create_dir_all(systemd.path("/etc/oci-secrets/units")).unwrap();
    let settings = format!(
        r#"keks = ["local-kek:trial"]
[connect]
url = "{}"
token-file = "/etc/oci-secrets/token"
"#,
        stand_in.connect()
    );
    with_mode(&systemd.path("/etc/oci-secrets/settings.toml"), settings.as_bytes(), 0o644);
    with_mode(&systemd.path("/etc/oci-secrets/token"), stand_in.token().as_bytes(), 0o600);
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/examples/systemd");
    let units = systemd.path("/etc/systemd/system");
    fs::create_dir_all(units.join("agent.service.d")).unwrap();
    fs::copy(examples.join("oci-secrets-files@.service"), units.join("oci-secrets-files@.service")).unwrap();
    fs::copy(examples.join("agent.service.d-oci-secrets.conf"), units.join("agent.service.d/oci-secrets.conf"))
        .unwrap();
    fs::write(units.join("agent.service"), AGENT).unwrap();
    systemd.succeeds("systemctl", &["daemon-reload"]);

    systemd.succeeds("oci-secrets", &["kek", "new", "local-kek:trial"]);
    let seal =
        format!("printf %s {SECRET} | oci-secrets seal --kek local-kek:trial --for op://AgentVault/database/password");
    let sealed = systemd.succeeds("bash", &["-c", &format!("{seal} 2>/dev/null")]);
    stand_in.create_item(AGENT_VAULT, "database", &[("", "password", sealed.trim())]);
}
