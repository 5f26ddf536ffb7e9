//! The units in `packaging/systemd` under the real systemd, installed by the commands of `packaging/docs/broker.md`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::support::machine::Machine;
use crate::support::systemd::Systemd;
use crate::support::{AGENT_VAULT, StandIn, program};
use crate::world::REFERENCE;

const UNIT: &str = "oci-secrets-broker.service";
const GUIDE: &str = include_str!("../../packaging/docs/broker.md");

/// The limit for the exposure level of `systemd-analyze security`, in tenths: it makes file systems, and looks at other processes.
const EXPOSURE_MAX: &str = "40";

/// Starts a container as a runtime does, with more annotations, runs a command, and prints its file.
const START: &str = r#"
mkdir -p /srv/bundle/rootfs && cd /srv/bundle
printf '{"ociVersion":"1.0.2","process":{"user":{"uid":1000,"gid":1000}},"root":{"path":"rootfs"}}' >config.json
coproc CONTAINER { exec unshare -m --propagation private sh -c 'mount --bind rootfs rootfs && cd rootfs && echo && exec cat'; }
read -r <&"${CONTAINER[0]}"
printf '{"id":"c1","pid":%s,"bundle":"/srv/bundle","annotations":{"run.secrets/db":"%s"%s}}' "$CONTAINER_PID" "$1" "$2" |
    env -i PATH=/usr/bin /usr/bin/oci-secrets-hook || exit
eval "$3" >&2 || exit
# Not the last command, which bash would run in its own place: the container ends with bash.
cat "/proc/$CONTAINER_PID/root/srv/bundle/rootfs/run/secrets/db"
exit $?
"#;

struct Site<'s> {
    systemd: &'s Systemd,
    canary: String,
    _stand_in: StandIn,
    _directory: TempDir,
}

impl Site<'_> {
    fn install(systemd: &Systemd) -> Site<'_> {
        let directory = tempfile::tempdir().unwrap();
        let stand_in = StandIn::start(&["--dir", directory.path().to_str().unwrap()]);
        for name in ["oci-secrets", "oci-secrets-hook", "oci-secrets-broker"] {
            let path = systemd.path("/usr/bin").join(name);
            fs::copy(program(name), &path).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        for unit in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/systemd")).unwrap() {
            let unit = unit.unwrap();
            fs::copy(unit.path(), systemd.path("/etc/systemd/system").join(unit.file_name())).unwrap();
        }
        let write = |path: &str, content: &str, mode: u32| {
            let path = systemd.path("/etc/oci-secrets").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        };
        write("keks/trial", &"k".repeat(32), 0o600);
        write("token", stand_in.token(), 0o600);
        let settings = format!(
            "keks = [\"local-kek:trial\"]\n[connect]\nurl = {:?}\ntoken-file = \"/etc/oci-secrets/token\"\n\
             [broker]\nsocket = \"/run/oci-secrets/broker.sock\"\n[[grant]]\nreferences = [\"op://AgentVault/*\"]\n",
            stand_in.connect()
        );
        write("settings.toml", &settings, 0o644);
        let canary = format!("canary-{:016x}", fastrand::u64(..));
        let seal = format!("printf %s {canary} | oci-secrets seal --kek local-kek:trial --for {REFERENCE}");
        let sealed = systemd.succeeds("bash", &["-c", &seal]);
        stand_in.create_item(AGENT_VAULT, "db", &[("", "password", sealed.lines().next().unwrap().trim())]);
        Site { systemd, canary, _stand_in: stand_in, _directory: directory }
    }

    fn starts(&self) {
        let output = self.systemd.run("bash", &["-c", START, "bash", REFERENCE, "", ""]);
        assert!(output.status.success(), "{output:?}");
        assert_eq!(String::from_utf8_lossy(&output.stdout), self.canary);
    }

    /// Starts a container, and gives it a new value.
    fn updates(&self) {
        let new = format!("{}-new", self.canary);
        let seal = format!("oci-secrets seal --kek local-kek:trial --for {REFERENCE} --write --overwrite");
        let update =
            format!("printf %s {new} | {seal} && oci-secrets refresh && oci-secrets refresh | grep 'generation 2'");
        let live = r#","run.secrets.update":"live","run.secrets.on-update":"signal:CONT""#;
        let output = self.systemd.run("bash", &["-c", START, "bash", REFERENCE, live, &update]);
        assert!(output.status.success(), "{output:?}");
        assert_eq!(String::from_utf8_lossy(&output.stdout), new);
    }

    fn main_pid(&self) -> String {
        let pid = self.systemd.succeeds("systemctl", &["show", "--property", "MainPID", "--value", UNIT]);
        pid.trim().to_owned()
    }
}

#[test]
fn the_units_serve_starts_as_installed_by_the_guide() {
    let Some(_machine) = Machine::enter() else { return };
    let Some(systemd) = Systemd::boot() else { return };
    let site = Site::install(&systemd);
    let enable = "systemctl enable --now oci-secrets-broker.socket";
    assert!(GUIDE.contains(enable));
    systemd.succeeds("bash", &["-c", enable]);
    // The first start starts the broker.
    site.starts();
    assert_eq!(systemd.succeeds("systemctl", &["is-active", UNIT]), "active\n");
    let checked = systemd.run("oci-secrets", &["check"]);
    let checked = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(checked.contains("broker: the hook asks the one at /run/oci-secrets/broker.sock: version "), "{checked}");

    systemd
        .succeeds("systemd-analyze", &["verify", UNIT, "oci-secrets-broker.socket", "oci-secrets-broker-users.socket"]);
    systemd.succeeds("systemd-analyze", &["security", &format!("--threshold={EXPOSURE_MAX}"), UNIT]);
    let status = fs::read_to_string(systemd.path(&format!("/proc/{}/status", site.main_pid()))).unwrap();
    for line in ["NoNewPrivs:\t1", "Seccomp:\t2"] {
        assert!(status.lines().any(|found| found == line), "{line} is not in {status}");
    }

    systemd.succeeds("systemctl", &["reload", UNIT]);
    site.starts();
    systemd.succeeds("systemctl", &["restart", UNIT]);
    site.starts();
    // A broker that is stopped or killed is started by the next start.
    systemd.succeeds("systemctl", &["stop", UNIT]);
    site.starts();
    let pid = site.main_pid();
    systemd.succeeds("kill", &["-KILL", &pid]);
    let deadline = Instant::now() + Duration::from_secs(30);
    while site.main_pid() == pid && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    site.starts();
    // The unit may do what an update needs.
    site.updates();
    let journal = systemd.succeeds("journalctl", &["--identifier", "oci-secrets-hook", "--output", "cat"]);
    let records = journal.lines().filter(|line| line.starts_with("{\"schema\":1,")).count();
    assert_eq!(records, 6, "{journal}");
}
