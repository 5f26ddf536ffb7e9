//! What all containers share: the stand-in for 1Password, a KEK, the system log.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use serde_json::json;

use crate::support::journal::Journal;
use crate::support::sandbox;
use crate::support::{AGENT_VAULT, StandIn};
use crate::user;

/// A key file on this host.
pub(crate) const KEK: &str = "local-kek:trial";

pub(crate) struct World {
    pub(crate) stand_in: StandIn,
    pub(crate) journal: Journal,
    /// The settings that values are sealed with.
    settings: PathBuf,
}

impl World {
    pub(crate) fn shared() -> &'static World {
        static WORLD: LazyLock<World> = LazyLock::new(World::begin);
        &WORLD
    }

    fn begin() -> World {
        let directory = Path::new(sandbox::DIRECTORY);
        let world = World {
            stand_in: StandIn::start(&[]),
            journal: Journal::listen(),
            settings: directory.join("settings.toml"),
        };
        fs::create_dir(directory.join("keks")).unwrap();
        write_credential(&directory.join("token"), world.stand_in.token());
        fs::write(&world.settings, world.settings(directory, "")).unwrap();
        let made = world.oci_secrets(&["kek", "new", KEK], b"");
        assert_eq!(made.trim(), KEK);
        // The same for a user without root.
        fs::create_dir(user::home().join("keks")).unwrap();
        for file in ["token", "keks/trial"] {
            fs::copy(directory.join(file), user::home().join(file)).unwrap();
        }
        let config = user::home().join(".config/oci-secrets");
        fs::create_dir_all(&config).unwrap();
        fs::write(config.join("settings.toml"), world.settings(user::home(), "")).unwrap();
        user::give(user::home(), user::ID);
        world
    }

    /// Settings that grant all of AgentVault to every container, with the credentials in this directory; `more` continues the
    /// grant, and may add tables.
    pub(crate) fn settings(&self, credentials: &Path, more: &str) -> String {
        let (connect, directory) = (self.stand_in.connect(), credentials.display());
        format!(
            r#"keks = ["{KEK}"]
[connect]
url = "{connect}"
token-file = "{directory}/token"
[local-kek]
directory = "{directory}/keks"
[[grant]]
references = ["op://AgentVault/*"]
{more}"#
        )
    }

    /// Stores an item in AgentVault, each field sealed for its name, and returns its id.
    pub(crate) fn store(&self, title: &str, fields: &[(&str, &[u8])]) -> String {
        let sealed: Vec<String> = fields.iter().map(|(name, value)| self.seal(title, name, value)).collect();
        let fields: Vec<_> = fields.iter().zip(&sealed).map(|((name, _), value)| ("", *name, value.as_str())).collect();
        self.stand_in.create_item(AGENT_VAULT, title, &fields)
    }

    /// Gives the first field of an item a new value, as a person does who rotates a secret.
    pub(crate) fn rotate(&self, item: &str, title: &str, field: &str, value: &[u8]) {
        let change = json!([{ "op": "replace", "path": "/fields/0/value", "value": self.seal(title, field, value) }]);
        let changed = self.stand_in.request("PATCH", &format!("/v1/vaults/{AGENT_VAULT}/items/{item}"), &change);
        assert_eq!(changed["id"], item, "{changed}");
    }

    fn seal(&self, title: &str, field: &str, value: &[u8]) -> String {
        let reference = format!("op://AgentVault/{title}/{field}");
        self.oci_secrets(&["seal", "--kek", KEK, "--for", &reference], value).trim().to_owned()
    }

    /// What the command prints, which must end well.
    pub(crate) fn oci_secrets(&self, arguments: &[&str], input: &[u8]) -> String {
        let mut child = Command::new(env!("CARGO_BIN_EXE_oci-secrets"))
            .arg("--settings")
            .arg(&self.settings)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "oci-secrets {arguments:?}: {}", output.status);
        String::from_utf8(output.stdout).unwrap()
    }
}

fn write_credential(path: &Path, content: &str) {
    fs::write(path, content).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}
