//! The settings of the gateway, `/etc/oci-secrets/gateway.toml`.
//!
//! `config/gateway.toml` explains every key. As with those of the hook, what is loaded needs no further check, save for the files that
//! it names.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

use super::rule::{Rule, RuleError};
use crate::settings::{self, AbsolutePath, Connect, Documents, Permission, ServerUrl, ServerUrlError, SettingsError};

/// Where the settings are, unless the command line says otherwise.
pub const SETTINGS_PATH: &str = "/etc/oci-secrets/gateway.toml";

/// Where the keys are documented.
pub const DOCUMENTS: Documents = Documents {
    example: "config/gateway.toml is an example to begin with",
    keys: "config/gateway.toml explains every key",
};

const LEEWAY_MAX: Duration = Duration::from_secs(300);
const LIFETIME_MIN: Duration = Duration::from_secs(60);
const LIFETIME_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// All settings, valid as a whole.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(try_from = "Keys")]
pub struct Settings {
    /// `listen`: where to be reached, unless systemd passes a socket.
    pub listen: Option<SocketAddr>,
    /// `[tls]`: by what clients know the gateway.
    pub tls: Tls,
    /// `[connect]`: 1Password Connect, and the token that only the gateway has.
    pub connect: Connect,
    /// `[[issuer]]`: whose tokens are believed.
    pub issuers: Vec<IssuerSettings>,
    /// `[[rule]]`: which identities may have what.
    pub rules: Vec<Rule>,
    /// `[limits]`: how much may be asked.
    pub limits: Limits,
    /// `[metrics]`: where monitoring asks, if it does.
    pub metrics: Option<Metrics>,
    /// `[audit]`: where the record of each decision goes besides the system log.
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

    /// Whether it says otherwise about what only a new start can change.
    pub fn is_bound_otherwise(&self, other: &Settings) -> bool {
        (self.listen, &self.metrics, self.limits.connections)
            != (other.listen, &other.metrics, other.limits.connections)
    }

    /// What is valid, and yet may not be meant.
    pub fn warnings(&self) -> Vec<String> {
        let kind = |rule: &Rule| self.issuers.iter().find(|issuer| issuer.url == rule.issuer).map(|issuer| issuer.kind);
        self.rules.iter().filter_map(|rule| Some(rule.warnings(kind(rule)?))).flatten().collect()
    }
}

/// The certificate that clients are shown, and its key.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Tls {
    /// The certificate, and those between it and the authority, in PEM.
    pub certificate_file: AbsolutePath,
    /// The private key in PEM: a credential.
    pub key_file: AbsolutePath,
}

/// What an issuer is, and so what its claims mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// GitHub Actions.
    GitHub,
    /// GitLab CI.
    GitLab,
    /// Kubernetes, or any other.
    #[default]
    Generic,
}

/// Whose tokens are believed, and how far.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "IssuerKeys")]
pub struct IssuerSettings {
    /// The issuer's own name for itself: the `iss` of its tokens, and where its discovery document is.
    pub url: String,
    /// What it is.
    pub kind: Kind,
    /// The `aud` that its tokens must have.
    pub audience: String,
    /// The algorithms of its signatures; without, those of its discovery document.
    pub algorithms: Option<Vec<Signature>>,
    /// Where its keys are, if that is not to be asked of the discovery document.
    pub jwks_url: Option<ServerUrl>,
    /// Certificates, in PEM, to trust instead of the public roots.
    pub ca_file: Option<AbsolutePath>,
    /// How far its clock and ours may differ; at most 5 min.
    pub leeway: Duration,
    /// The longest life of a token; from 1 min to 24 h.
    pub max_lifetime: Duration,
}

/// The algorithms of signatures that are believed: none that a public key could forge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Signature {
    /// RSA, PKCS #1 v1.5, SHA-256.
    #[serde(rename = "RS256")]
    Rs256,
    /// ECDSA on P-256, SHA-256.
    #[serde(rename = "ES256")]
    Es256,
    /// Ed25519.
    #[serde(rename = "EdDSA")]
    EdDsa,
}

/// How much may be asked of the gateway.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Connections at once; more wait to be accepted.
    pub connections: NonZeroU32,
    /// Requests at once; more are turned away.
    pub requests: NonZeroU32,
    /// Requests of one identity in a second, over time.
    pub rate: NonZeroU32,
    /// Requests of one identity at once, after a pause.
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
        Limits { connections: count(512), requests: count(128), rate: count(20), burst: count(200) }
    }
}

/// Where the record of each decision goes besides the system log.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Audit {
    /// The file to append to.
    pub file: Option<AbsolutePath>,
    /// Whether it goes to standard output, too: where a container's log is taken from.
    pub stdout: bool,
}

/// Where monitoring asks.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metrics {
    /// An address of its own, over plain http and for everyone who reaches it.
    pub listen: SocketAddr,
}

/// The settings as they are written: whether a rule is good depends on its issuer.
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
            rule.check(issuer.kind).map_err(|reason| GatewaySettingsError::Rule { number, reason })?;
        }
        let Keys { listen, tls, connect, issuers, rules, limits, metrics, audit } = keys;
        Ok(Settings { listen, tls, connect, issuers, rules, limits, metrics, audit })
    }
}

/// `[[issuer]]` as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct IssuerKeys {
    url: String,
    #[serde(default)]
    kind: Kind,
    audience: String,
    algorithms: Option<Vec<Signature>>,
    jwks_url: Option<ServerUrl>,
    ca_file: Option<AbsolutePath>,
    #[serde(default = "default_leeway", deserialize_with = "leeway")]
    leeway: Duration,
    #[serde(default = "default_lifetime", deserialize_with = "lifetime")]
    max_lifetime: Duration,
}

impl TryFrom<IssuerKeys> for IssuerSettings {
    type Error = IssuerKeysError;

    fn try_from(keys: IssuerKeys) -> Result<IssuerSettings, IssuerKeysError> {
        // Kept as it is written, as the `iss` of its tokens is compared with it to the last byte.
        ServerUrl::parse(&keys.url, Permission::Refuse).map_err(|reason| IssuerKeysError::Url { reason })?;
        if keys.audience.is_empty() {
            return Err(IssuerKeysError::NoAudience);
        }
        if keys.algorithms.as_ref().is_some_and(Vec::is_empty) {
            return Err(IssuerKeysError::NoAlgorithm);
        }
        let IssuerKeys { url, kind, audience, algorithms, jwks_url, ca_file, leeway, max_lifetime } = keys;
        Ok(IssuerSettings { url, kind, audience, algorithms, jwks_url, ca_file, leeway, max_lifetime })
    }
}

fn default_leeway() -> Duration {
    Duration::from_secs(30)
}

fn default_lifetime() -> Duration {
    Duration::from_secs(60 * 60)
}

fn leeway<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    settings::duration(deserializer, Duration::ZERO..=LEEWAY_MAX, "expected a duration from \"0s\" to \"5m\"")
}

fn lifetime<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let expected = "expected a duration from \"1m\" to \"24h\"";
    settings::duration(deserializer, LIFETIME_MIN..=LIFETIME_MAX, expected)
}

/// A name by which the audit tells of a rule: short, and of letters, digits, `.`, `_` and `-`.
///
/// # Errors
/// It is not.
pub(super) fn name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    const NAME_BYTES_MAX: usize = 64;
    let name = String::deserialize(deserializer)?;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(is_plain) {
        return Ok(name);
    }
    Err(de::Error::custom("expected a name of 1 to 64 letters, digits, \".\", \"_\" and \"-\""))
}

/// Why settings do not hold together. Of several issuers or rules the first has the number 1.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are named for what they hold")]
pub enum GatewaySettingsError {
    /// Which of the two should be believed?
    #[error("issuer {number}: another has the same url")]
    IssuerTwice { number: usize },
    /// The audit could not tell them apart.
    #[error("rule {number}: another has the same name")]
    RuleTwice { number: usize },
    /// A rule for tokens that nobody believes.
    #[error("rule {number}: no [[issuer]] has this url")]
    NoIssuer { number: usize },
    /// A rule that is refused.
    #[error("rule {number}: {reason}")]
    Rule { number: usize, reason: RuleError },
}

/// Why an issuer's keys do not hold together.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are named for what they hold")]
pub enum IssuerKeysError {
    /// It has no address that is safe.
    #[error("url: {reason}")]
    Url { reason: ServerUrlError },
    /// No audience.
    #[error("audience: a token that is for nobody in particular would be for everyone")]
    NoAudience,
    /// An empty list.
    #[error("algorithms: expected at least one")]
    NoAlgorithm,
}
