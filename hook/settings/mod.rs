//! The settings of this host, `/etc/oci-secrets/settings.toml`: the only place from which the hook takes orders.
//!
//! `config/settings.reference.toml` explains every key. What is wrong is found when the file is loaded, before a container waits for it; what
//! is loaded needs no further check, save for the files that it names, which [`mod@file`] checks when they are read.

mod audit;
mod aws;
mod break_glass;
mod broker;
mod connect;
mod deliver;
mod drop_in;
mod duration;
mod error;
pub mod file;
mod gcp;
mod grant;
mod kubernetes;
mod local_kek;
mod nri;
mod op;
mod outage;
mod parse;
mod path;
mod pattern;
mod permission;
mod pkcs11;
mod requests;
mod server;
mod static_token;
mod token;
mod updates;

use std::collections::BTreeMap;
use std::path::Path;
use std::str::FromStr;

use serde::Deserialize;
use serde::de::DeserializeOwned;

pub use self::audit::Audit;
pub use self::aws::{AwsIdentity, AwsKms};
pub use self::break_glass::{BreakGlass, Channel, ChannelCommand, Facility, NamespaceName, Overdue, Rotation};
pub use self::broker::{Broker, BrokerAddress, MetricsAddress};
pub use self::connect::Connect;
pub use self::deliver::{Deliver, Noswap};
pub use self::duration::{DEADLINE, duration};
pub use self::error::{Documents, SettingsError};
pub use self::file::{FileError, trust_as_in_user_namespace};
pub use self::gcp::{Federation, GcpKms};
pub use self::grant::{
    Caller, Found, Grant, GrantError, Grants, MissingIdentity, ReferencePattern, ReferencePatternError,
};
pub use self::kubernetes::Kubernetes;
pub use self::local_kek::LocalKek;
pub use self::nri::Nri;
pub use self::op::{Op, OpUnlock};
pub use self::outage::Outage;
pub use self::parse::{ParseError, parse};
pub use self::path::{AbsolutePath, RelativePath};
pub use self::pattern::{Pattern, PatternError};
pub use self::permission::Permission;
pub use self::pkcs11::Pkcs11;
pub use self::requests::{RequestSet, RequestSetError};
pub use self::server::{ServerUrl, ServerUrlError};
pub use self::static_token::{Hours, HoursError, Rate, StaticToken, TokenFile};
pub use self::token::{Audience, Command, TokenSource, TokenSourceError, Variable};
pub use self::updates::Updates;

/// Where the settings are, unless the command line says otherwise.
pub const SETTINGS_PATH: &str = "/etc/oci-secrets/settings.toml";

/// The largest settings file, in bytes.
pub const SETTINGS_BYTES_MAX: usize = 1 << 20;

/// All settings, valid as a whole.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Settings {
    /// `keks`: which KEKs sealed values may name.
    pub keks: Vec<Pattern>,
    /// `source`: which source is asked, where there is more than one.
    pub source: Option<SourceName>,
    /// `[connect]`: 1Password Connect; absent on a host with another source.
    pub connect: Option<Connect>,
    /// `[op]`: the 1Password CLI; absent on a host with another source.
    pub op: Option<Op>,
    /// `[static-token]`: the conditions on static tokens, if there are any.
    pub static_token: Option<StaticToken>,
    /// `[gcp-kms]`: Google Cloud KMS.
    pub gcp_kms: GcpKms,
    /// `[aws-kms]`: AWS KMS.
    pub aws_kms: AwsKms,
    /// `[pkcs11]`: HSMs.
    pub pkcs11: Pkcs11,
    /// `[local-kek]`: KEKs that are files, for trials and tests only.
    pub local_kek: LocalKek,
    /// `[deliver]`: how secrets reach the container.
    pub deliver: Deliver,
    /// `[[grant]]`: who may have what.
    #[serde(rename = "grant")]
    pub grants: Grants,
    /// `[requests.<name>]`: what containers of engines that cannot pass annotations on ask for.
    pub requests: BTreeMap<String, RequestSet>,
    /// `[audit]`: where the record of each start is written in addition to the system log.
    pub audit: Audit,
    /// `[break-glass]`: what an outage of 1Password or the KMS allows, and what it owes.
    pub break_glass: BreakGlass,
    /// `[broker]`: the daemon that resolves on behalf of the hook.
    pub broker: Broker,
    /// `[nri]`: the plugin by which containerd and CRI-O call the hook.
    pub nri: Nri,
    /// `[kubernetes]`: the API server, which knows the service accounts of pods.
    pub kubernetes: Kubernetes,
    /// `[outage]`: whether the broker uses sealed values that it fetched earlier while the source does not answer.
    pub outage: Outage,
    /// `[updates]`: how the broker updates the files of running containers.
    pub updates: Updates,
}

impl FromStr for Settings {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Settings, ParseError> {
        parse(text).map(Settings::with_ages)
    }
}

impl Settings {
    /// Reads the settings from a file that only root or our own user can write, for a program without an environment.
    ///
    /// # Errors
    /// As for [`Settings::load_in_job`]; or they take a token from the environment of a CI system's job.
    pub fn load(path: &Path) -> Result<Settings, SettingsError> {
        let settings = Settings::load_in_job(path)?;
        match settings.token_of_a_job() {
            Some(table) => Err(SettingsError::NoJob { path: path.into(), table }),
            None => Ok(settings),
        }
    }

    /// Reads the settings from a file that only root or our own user can write. What a CI system's job has in its environment they
    /// may name.
    ///
    /// # Errors
    /// The file cannot be read or trusted, or what it says is not valid. Messages name line and key, never a value: it may be a
    /// secret that was put in the wrong place.
    pub fn load_in_job(path: &Path) -> Result<Settings, SettingsError> {
        let mut settings: Settings = load(path).map(Settings::with_ages)?;
        settings.add_drop_ins(path)?;
        if settings.local_kek.directory.is_none() {
            let keks = path.parent().map(|directory| directory.join("keks"));
            settings.local_kek.directory =
                keks.and_then(|keks| AbsolutePath::try_from(std::path::absolute(keks).ok()?).ok());
        }
        Ok(settings)
    }

    /// Whether sealed values may be unsealed with this KEK.
    pub fn kek_is_listed(&self, uri: &str) -> bool {
        self.keks.iter().any(|pattern| pattern.matches(uri))
    }

    /// The table that takes a token from the environment of a CI system's job, if one does.
    pub fn token_of_a_job(&self) -> Option<&'static str> {
        let of_a_job = |token: Option<&TokenSource>| token.is_some_and(TokenSource::is_of_a_job);
        [
            ("connect", of_a_job(self.connect.as_ref().map(|connect| &connect.token))),
            ("gcp-kms", of_a_job(self.gcp_kms.federation.as_ref().map(|federation| &federation.token))),
            ("aws-kms", of_a_job(self.aws_kms.identity.token())),
        ]
        .into_iter()
        .find_map(|(table, of_a_job)| of_a_job.then_some(table))
    }

    /// Applies the maximum age of [`StaticToken`] to every file with a static token.
    fn with_ages(mut self) -> Settings {
        let max_age = self.static_token.as_ref().and_then(|conditions| conditions.max_age);
        if let Some(Connect { token: TokenSource::Static(file), .. }) = &mut self.connect {
            file.max_age = max_age;
        }
        if let Some(Op { unlock: OpUnlock::ServiceAccount { token_file }, .. }) = &mut self.op {
            token_file.max_age = max_age;
        }
        self
    }
}

/// Where sealed values are fetched from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SourceName {
    /// 1Password Connect.
    Connect,
    /// The 1Password CLI.
    Op,
}

/// Reads the settings of any program from a file that only root or our own user can write.
///
/// # Errors
/// As [`Settings::load`].
pub fn load<T: DeserializeOwned>(path: &Path) -> Result<T, SettingsError> {
    let bytes = file::read(path, file::Kind::Plain, SETTINGS_BYTES_MAX)?;
    let text = str::from_utf8(&bytes).map_err(|_| SettingsError::NotUtf8 { path: path.into() })?;
    parse(text).map_err(|source| SettingsError::Invalid { path: path.into(), source })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::time::Duration;

    use super::*;

    fn parse(text: &str) -> Settings {
        text.parse().unwrap()
    }

    #[test]
    fn reads_the_settings_of_a_host() {
        let settings = parse(
            r#"
            keks = ["gcp-kms://projects/acme/locations/europe-west1/keyRings/agents/cryptoKeys/*", "local-kek:trial"]
            [connect]
            url = "https://connect.internal:8443"
            token-file = "/etc/oci-secrets/connect-token"
            ca-file = "/etc/oci-secrets/connect-ca.pem"
            [gcp-kms]
            credentials-file = "/etc/oci-secrets/gcp.json"
            endpoint = "http://127.0.0.1:8085"
            [pkcs11]
            module = "/usr/lib/softhsm/libsofthsm2.so"
            pin-file = "/etc/oci-secrets/pin"
            environment = { SOFTHSM2_CONF = "/etc/softhsm2.conf" }
            [local-kek]
            directory = "/var/lib/keks"
            [deliver]
            deadline = "2500ms"
            plaintext = "allow"
            noswap = "require"
            [[grant]]
            references = ["op://AgentVault/*"]
            to = { annotations = { "io.kubernetes.cri.sandbox-namespace" = "agents" } }
            [audit]
            file = "/var/log/oci-secrets.jsonl"
            "#,
        );
        let connect = settings.connect.as_ref().unwrap();
        assert_eq!(connect.url.to_string(), "https://connect.internal:8443/");
        assert!(matches!(&connect.token, TokenSource::Static(path) if **path == *"/etc/oci-secrets/connect-token"));
        assert!(!settings.gcp_kms.sends_credentials());
        assert_eq!(settings.deliver.deadline, Duration::from_millis(2500));
        assert_eq!((settings.deliver.plaintext, settings.deliver.noswap), (Permission::Allow, Noswap::Require));
        assert_eq!(settings.local_kek.directory(), Path::new("/var/lib/keks"));
        assert_eq!(settings.pkcs11.environment.len(), 1);
        assert_eq!(&*settings.pkcs11.helper, Path::new("/usr/libexec/oci-secrets/oci-secrets-pkcs11"));
        assert!(settings.kek_is_listed("local-kek:trial"));
        assert!(settings.kek_is_listed("gcp-kms://projects/acme/locations/europe-west1/keyRings/agents/cryptoKeys/k"));
        assert!(!settings.kek_is_listed("gcp-kms://projects/evil/locations/europe-west1/keyRings/agents/cryptoKeys/k"));
    }

    #[test]
    fn an_empty_file_allows_nothing() {
        let settings = parse("");
        assert_eq!(settings, Settings::default());
        assert!(settings.connect.is_none());
        assert!(!settings.kek_is_listed("local-kek:trial"));
        assert_eq!(settings.deliver.plaintext, Permission::Refuse);
        assert!(settings.gcp_kms.sends_credentials());
    }

    #[test]
    fn only_a_file_is_chained() {
        assert!(parse("[audit]\nfile = \"/a\"\nchain = true").audit.chain);
        let error = "[audit]\nchain = true".parse::<Settings>().unwrap_err().to_string();
        assert!(error.contains("chain = true needs a file"), "{error}");
    }

    #[test]
    fn no_environment_changes_which_code_runs() {
        for name in ["LD_PRELOAD", "LD_LIBRARY_PATH", "GLIBC_TUNABLES", "GCONV_PATH", "A=B", ""] {
            let text = format!("[pkcs11.environment]\n{name:?} = \"/tmp/evil.so\"");
            assert!(text.parse::<Settings>().is_err(), "{name}");
        }
    }

    #[test]
    fn loads_a_file_that_only_we_can_write() {
        let directory = tempfile::TempDir::new().unwrap();
        let path = directory.path().join("settings.toml");
        let load = |bytes: &[u8], mode| {
            fs::write(&path, bytes).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            Settings::load(&path)
        };
        let loaded = load(b"keks = []", 0o644).unwrap();
        assert!(loaded.keks.is_empty());
        assert_eq!(
            loaded.local_kek.directory(),
            directory.path().join("keks"),
            "a user's keys are next to the user's settings"
        );
        let error = load(b"kek = []", 0o644).unwrap_err();
        assert_eq!(error.to_string(), format!("cannot parse {}", path.display()));
        assert!(matches!(error, SettingsError::Invalid { .. }));
        assert!(matches!(load(&[0xff], 0o644), Err(SettingsError::NotUtf8 { .. })));
        let error = load(b"", 0o666).unwrap_err();
        assert!(matches!(error, SettingsError::File(FileError::Writable { .. })));
    }
}
