//! The settings of the gateway, `/etc/oci-secrets/gateway.toml`.
//!
//! `config/gateway.toml` explains every key. Settings are checked when they are loaded; only the files that they name are checked later.

mod issuer;

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::Path;

use serde::Deserialize;

pub use self::issuer::{IssuerKeysError, IssuerSettings, Signature};
use super::rule::{Rule, RuleError};
use crate::settings::{self, AbsolutePath, Connect, Documents, SettingsError};

/// Where the settings are, unless the command line says otherwise.
pub const SETTINGS_PATH: &str = "/etc/oci-secrets/gateway.toml";

/// Where the keys are documented.
pub const DOCUMENTS: Documents = Documents {
    example: "config/gateway.toml is an example to begin with",
    keys: "config/gateway.toml explains every key",
};

/// All settings, valid as a whole.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(try_from = "Keys")]
pub struct Settings {
    /// `listen`: the address to listen on, unless systemd passes a socket.
    pub listen: Option<SocketAddr>,
    /// `[tls]`: the server certificate.
    pub tls: Tls,
    /// `[connect]`: 1Password Connect, and the token that only the gateway has.
    pub connect: Connect,
    /// `[[issuer]]`: whose tokens are accepted.
    pub issuers: Vec<IssuerSettings>,
    /// `[[rule]]`: which identities may read what.
    pub rules: Vec<Rule>,
    /// `[limits]`: bounds on load.
    pub limits: Limits,
    /// `[metrics]`: where metrics are served, if they are.
    pub metrics: Option<Metrics>,
    /// `[audit]`: where records go in addition to the system log.
    pub audit: Audit,
}

impl Settings {
    /// Reads the settings from a file that only root or our own user can write.
    ///
    /// # Errors
    /// As [`settings::Settings::load`].
    pub fn load(path: &Path) -> Result<Settings, SettingsError> {
        settings::load(path)
    }

    /// Whether they differ in a key that only a restart applies.
    pub fn needs_restart(&self, running: &Settings) -> bool {
        (self.listen, &self.metrics) != (running.listen, &running.metrics)
    }

    /// What rules also match, although that may not be intended.
    pub fn warnings(&self) -> Vec<String> {
        let issuer = |rule: &Rule| self.issuers.iter().find(|issuer| issuer.url == rule.issuer);
        self.rules.iter().filter_map(|rule| Some(rule.warnings(issuer(rule)?.platform))).flatten().collect()
    }
}

/// The server certificate and its key.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Tls {
    /// The certificate and its intermediates, in PEM.
    pub certificate_file: AbsolutePath,
    /// The private key in PEM: a credential.
    pub key_file: AbsolutePath,
}

/// Bounds on load.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Limits {
    /// Open connections; beyond it, idle ones are closed.
    pub connections: NonZeroU32,
    /// Open connections from one IPv4 address or one IPv6 /64.
    pub connections_per_client: NonZeroU32,
    /// Authorized requests that are served at the same time; further ones are refused.
    pub requests: NonZeroU32,
    /// Requests of one identity that are served at the same time; further ones wait.
    pub requests_per_identity: NonZeroU32,
    /// Sustained requests per second of one identity.
    pub rate: NonZeroU32,
    /// Requests of one identity in a burst.
    pub burst: NonZeroU32,
}

impl Default for Limits {
    fn default() -> Limits {
        const fn count(count: u32) -> NonZeroU32 {
            match NonZeroU32::new(count) {
                Some(count) => count,
                None => NonZeroU32::MIN,
            }
        }
        Limits {
            connections: count(512),
            connections_per_client: count(128),
            requests: count(128),
            requests_per_identity: count(8),
            rate: count(20),
            burst: count(200),
        }
    }
}

/// Where records go in addition to the system log.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Audit {
    /// The file to append to.
    pub file: Option<AbsolutePath>,
    /// Whether they also go to standard output, which is where a container's log is taken from.
    pub stdout: bool,
}

/// Where metrics are served.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metrics {
    /// A separate address: plain http, without authentication.
    pub listen: SocketAddr,
}

/// The settings as they are written, before the checks of each rule against its issuer.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    listen: Option<SocketAddr>,
    tls: Tls,
    connect: Connect,
    #[serde(default, rename = "issuer")]
    issuers: Vec<IssuerSettings>,
    #[serde(default, rename = "rule")]
    rules: Vec<Rule>,
    #[serde(default)]
    limits: Limits,
    metrics: Option<Metrics>,
    #[serde(default)]
    audit: Audit,
}

impl TryFrom<Keys> for Settings {
    type Error = GatewaySettingsError;

    fn try_from(keys: Keys) -> Result<Settings, GatewaySettingsError> {
        for (at, issuer) in keys.issuers.iter().enumerate() {
            if keys.issuers.iter().take(at).any(|other| other.url == issuer.url) {
                return Err(GatewaySettingsError::IssuerTwice { number: at + 1 });
            }
        }
        for (at, rule) in keys.rules.iter().enumerate() {
            let number = at + 1;
            if keys.rules.iter().take(at).any(|other| other.name == rule.name) {
                return Err(GatewaySettingsError::RuleTwice { number });
            }
            let issuer = keys.issuers.iter().find(|issuer| issuer.url == rule.issuer);
            let issuer = issuer.ok_or(GatewaySettingsError::NoIssuer { number })?;
            rule.check(issuer.platform).map_err(|reason| GatewaySettingsError::Rule { number, reason })?;
        }
        let Keys { listen, tls, connect, issuers, rules, limits, metrics, audit } = keys;
        Ok(Settings { listen, tls, connect, issuers, rules, limits, metrics, audit })
    }
}

/// Why settings are not valid as a whole. The first issuer or rule has the number 1.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are named for what they hold")]
pub enum GatewaySettingsError {
    /// Which of the two applies to a token?
    #[error("issuer {number}: another has the same url")]
    IssuerTwice { number: usize },
    /// Records could not distinguish them.
    #[error("rule {number}: another has the same name")]
    RuleTwice { number: usize },
    /// A rule for tokens that are never accepted.
    #[error("rule {number}: no [[issuer]] has this url")]
    NoIssuer { number: usize },
    /// A rule that is not valid.
    #[error("rule {number}: {reason}")]
    Rule { number: usize, reason: RuleError },
}
