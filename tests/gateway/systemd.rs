//! The units in `packaging/systemd` under the real systemd, installed by the commands of `packaging/docs/gateway.md` unchanged.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::filtered;
use crate::support::gateway::AUDIENCE;
use crate::support::machine::Machine;
use crate::support::systemd::Systemd;
use crate::support::{StandIn, with_mode};

/// The limit for the exposure level of `systemd-analyze security`, in tenths: the gateway needs network sockets.
const EXPOSURE_MAX: &str = "12";

const UNIT: &str = "oci-secrets-gateway.service";
const AUDIT: &str = "/var/log/oci-secrets-gateway/audit.jsonl";
const FAULTS: &str = "/v1/vaults/faults00000000000000000000/items";

#[test]
fn the_units_work_as_installed_by_the_guide() {
    let Some(_machine) = Machine::enter() else { return };
    let Some(systemd) = Systemd::boot() else { return };
    let site = Site::install(&systemd);
    assert_eq!(systemd.succeeds("systemctl", &["is-active", UNIT]), "active\n");
    assert_eq!(site.get("/v1/vaults"), 200);
    assert_eq!(site.records(), 1, "it can write its audit file");

    // The sandbox of the units is in effect.
    systemd.succeeds("systemd-analyze", &["verify", "--man=no", UNIT, "oci-secrets-gateway.socket"]);
    systemd.succeeds("systemd-analyze", &["security", &format!("--threshold={EXPOSURE_MAX}"), UNIT]);
    let pid = systemd.succeeds("systemctl", &["show", "--property", "MainPID", "--value", UNIT]);
    let status = fs::read_to_string(systemd.path(&format!("/proc/{}/status", pid.trim()))).unwrap();
    for line in ["Name:\toci-secrets-gat", "CapEff:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"] {
        assert!(status.lines().any(|found| found == line), "{line} is not in {status}");
    }

    // A reload reports invalid settings, and applies valid ones.
    let good = fs::read_to_string(systemd.path("/etc/oci-secrets/gateway.toml")).unwrap();
    site.settings(&format!("{good}nonsense = 1\n"));
    assert!(!systemd.run("systemctl", &["reload", UNIT]).status.success());
    assert_eq!(site.get("/v1/vaults"), 200);
    site.settings(&good.replace("refs/heads/main", "refs/heads/other"));
    systemd.succeeds("systemctl", &["reload", UNIT]);
    while site.get("/v1/vaults") != 403 {
        thread::sleep(Duration::from_millis(20));
    }
    site.settings(&good);
    systemd.succeeds("systemctl", &["reload", UNIT]);
    while site.get("/v1/vaults") != 200 {
        thread::sleep(Duration::from_millis(20));
    }

    // It shuts down after pending requests, and its socket starts it again.
    let slow = site.curl(&filtered(FAULTS, "title eq \"slow-500\""), &["--fail"]).output().unwrap();
    let slow: Value = serde_json::from_slice(&slow.stdout).unwrap();
    let slow = slow[0]["id"].as_str().unwrap();
    thread::scope(|scope| {
        let under_way = scope.spawn(|| site.get(&format!("{FAULTS}/{slow}")));
        while !site.stand_in.requests().iter().any(|request| request["path"].as_str().unwrap().ends_with(slow)) {
            thread::sleep(Duration::from_millis(5));
        }
        systemd.succeeds("systemctl", &["stop", UNIT]);
        assert_eq!(under_way.join().unwrap(), 200);
    });
    let result = systemd.succeeds("systemctl", &["show", "--property", "Result,ActiveState", "--value", UNIT]);
    assert_eq!(result, "success\ninactive\n");
    assert_eq!(site.get("/v1/vaults"), 200);
    assert_eq!(systemd.succeeds("systemctl", &["is-active", UNIT]), "active\n");
    let journal = systemd.succeeds("journalctl", &["--identifier", "oci-secrets-gateway", "--output", "cat"]);
    assert!(journal.lines().any(|line| line.starts_with("{\"schema\":1,")), "{journal}");
}

/// A gateway in namespaces with systemd, in front of a stand-in.
struct Site<'a> {
    systemd: &'a Systemd,
    stand_in: StandIn,
    directory: TempDir,
}

impl Site<'_> {
    /// Installs it by the commands of the guide, with the settings of `config/gateway.toml` for this stand-in.
    fn install(systemd: &Systemd) -> Site<'_> {
        let directory = tempfile::tempdir().unwrap();
        let stand_in = StandIn::start(&["--dir", directory.path().to_str().unwrap(), "--tls"]);
        let site = Site { systemd, stand_in, directory };
        let sources = Path::new(env!("CARGO_MANIFEST_DIR"));
        let destination = |path: &str| systemd.path("/srv").join(path);
        for path in ["packaging/systemd", "config", "bin", "tools"] {
            fs::create_dir_all(destination(path)).unwrap();
        }
        for file in fs::read_dir(sources.join("packaging/systemd")).unwrap() {
            let file = file.unwrap();
            fs::copy(file.path(), destination("packaging/systemd").join(file.file_name())).unwrap();
        }
        let program = StandIn::program().ancestors().nth(2).unwrap().join("oci-secrets-gateway");
        fs::copy(program, destination("bin/oci-secrets-gateway")).unwrap();
        let settings = fs::read_to_string(sources.join("config/gateway.toml")).unwrap();
        fs::write(destination("config/gateway.toml"), site.adapted(&settings)).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate =
            CertificateParams::new(["secrets.acme.example".to_owned()]).unwrap().self_signed(&key).unwrap();
        for path in [destination("gateway.crt"), site.directory.path().join("gateway.crt")] {
            fs::write(path, certificate.pem()).unwrap();
        }
        fs::write(destination("gateway.key"), key.serialize_pem()).unwrap();
        fs::copy(site.stand_in.ca_file().unwrap(), systemd.path("/etc/ca.pem")).unwrap();
        with_mode(&destination("tools/sudo"), b"#!/bin/sh\nexec \"$@\"\n", 0o755);
        with_mode(&destination("tools/op"), format!("#!/bin/sh\necho '{}'\n", site.stand_in.token()).as_bytes(), 0o755);

        let guide = fs::read_to_string(sources.join("packaging/docs/gateway.md")).unwrap();
        let (_, guide) = guide.split_once("\n## Install\n").unwrap();
        let lines = guide.lines().skip_while(|line| !line.starts_with("    "));
        let commands: String =
            lines.take_while(|line| line.starts_with("    ")).flat_map(|line| [line, "\n"]).collect();
        assert!(commands.contains("systemctl enable --now"), "{commands}");
        let script = format!("set -eu\ncd /srv\nPATH=/srv/tools:$PATH\nbin=/srv/bin\n{commands}");
        systemd.succeeds("bash", &["-o", "pipefail", "-c", &script]);
        site
    }

    fn adapted(&self, settings: &str) -> String {
        let replaced = [
            ("https://connect.internal:8443", self.stand_in.connect()),
            ("https://token.actions.githubusercontent.com", &self.stand_in.issuer("github")),
            ("https://secrets.acme.example", AUDIENCE),
            ("#ca-file = \"/etc/oci-secrets/connect-ca.pem\"", "ca-file = \"/etc/ca.pem\""),
            ("#ca-file = \"/etc/oci-secrets/issuer-ca.pem\"", "ca-file = \"/etc/ca.pem\""),
            ("#file = \"/var/log", "file = \"/var/log"),
            ("\"op://CI/deploy/*\"", "\"op://Faults/*\""),
        ];
        replaced.iter().fold(settings.to_owned(), |settings, (from, to)| {
            assert!(settings.contains(from), "{from} is not in config/gateway.toml");
            settings.replace(from, to)
        })
    }

    fn settings(&self, text: &str) {
        fs::write(self.systemd.path("/etc/oci-secrets/gateway.toml"), text).unwrap();
    }

    /// How a request is answered.
    fn get(&self, path: &str) -> u16 {
        let output = self.curl(path, &["--output", "/dev/null", "--write-out", "%{http_code}"]).output().unwrap();
        String::from_utf8(output.stdout).unwrap().parse().unwrap()
    }

    fn curl(&self, path: &str, arguments: &[&str]) -> Command {
        let token = self.stand_in.mint("github", &json!({}));
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--resolve", "secrets.acme.example:8443:127.0.0.1", "--cacert"]);
        curl.arg(self.directory.path().join("gateway.crt")).args(arguments).stdin(Stdio::null());
        curl.arg("--header").arg(format!("Authorization: Bearer {token}"));
        curl.arg(format!("https://secrets.acme.example:8443{path}"));
        curl
    }

    fn records(&self) -> usize {
        fs::read_to_string(self.systemd.path(AUDIT)).unwrap().lines().count()
    }
}
