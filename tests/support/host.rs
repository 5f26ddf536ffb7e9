//! What an operator installs on a host: settings, and the files that they name.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

use super::{StandIn, program, with_mode};

/// The key file of every host.
pub(crate) const LOCAL_KEK: &str = "local-kek:trial";

/// The key ring in the settings of every host.
pub(crate) const KEY_RING: &str = "gcp-kms://projects/acme/locations/europe/keyRings/agents/cryptoKeys";

/// A directory with settings that grant all of `AgentVault` to every container, and list KEKs.
pub(crate) struct Host {
    directory: TempDir,
}

impl Host {
    /// Installs what is needed to use a stand-in. `gcp_kms` is the content of `[gcp-kms]`; if it is empty, the host has only the key file.
    pub(crate) fn new(stand_in: &StandIn, gcp_kms: &str) -> Host {
        match gcp_kms {
            // Every program that may unseal prepares each listed KEK: a client for https reads the certificates of the system.
            "" => Host::with_keks(stand_in, &[LOCAL_KEK], ""),
            _ => Host::with_kek(stand_in, LOCAL_KEK, &format!("[gcp-kms]\n{gcp_kms}")),
        }
    }

    /// The same, with one more KEK and the tables that it needs.
    pub(crate) fn with_kek(stand_in: &StandIn, kek: &str, tables: &str) -> Host {
        Host::with_keks(stand_in, &[&format!("{KEY_RING}/*"), LOCAL_KEK, kek], tables)
    }

    fn with_keks(stand_in: &StandIn, keks: &[&str], tables: &str) -> Host {
        let host = Host { directory: tempfile::Builder::new().prefix("host").tempdir().unwrap() };
        fs::create_dir(host.keks()).unwrap();
        host.write("keks/trial", &[7; 32], 0o600);
        host.write("token", stand_in.token().as_bytes(), 0o600);
        let ca_file = stand_in.ca_file().map(|path| format!("ca-file = {path:?}\n")).unwrap_or_default();
        let settings = format!(
            r#"
keks = {keks:?}
[connect]
url = "{}"
token-file = {:?}
{ca_file}
{tables}
[local-kek]
directory = {:?}
[updates]
directory = {:?}
revoked = {:?}
[deliver]
deadline = "2s"
[[grant]]
references = ["op://AgentVault/*"]
[audit]
file = {:?}
"#,
            stand_in.connect(),
            host.path("token"),
            host.keks(),
            host.path("containers"),
            host.path("revoked.json"),
            host.path("audit"),
        );
        host.write("settings.toml", settings.as_bytes(), 0o644);
        host
    }

    /// The directory of the key files.
    pub(crate) fn keks(&self) -> PathBuf {
        self.path("keks")
    }

    /// The settings.
    pub(crate) fn settings(&self) -> PathBuf {
        self.path("settings.toml")
    }

    /// A file of this host.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes a file of this host.
    pub(crate) fn write(&self, name: &str, content: &[u8], mode: u32) {
        with_mode(&self.path(name), content, mode);
    }

    /// Runs `oci-secrets` with the settings, these arguments and this input.
    pub(crate) fn oci_secrets(&self, arguments: &[&str], input: &[u8]) -> Output {
        run(self.program("oci-secrets").args(arguments), input)
    }

    /// Runs the hook with the settings and this state.
    pub(crate) fn hook(&self, state: &[u8]) -> Output {
        run(&mut self.program("oci-secrets-hook"), state)
    }

    /// A program of this build, with the settings and no environment.
    pub(crate) fn program(&self, name: &str) -> Command {
        let mut command = Command::new(program(name));
        command.env_clear().arg("--settings").arg(self.settings());
        command
    }
}

/// Runs a command with this input to completion.
pub(crate) fn run(command: &mut Command, input: &[u8]) -> Output {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // The command may exit before it reads its input.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}
