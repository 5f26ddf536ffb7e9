//! `[[issuer]]`: whose tokens are accepted.

use std::time::Duration;

use serde::{Deserialize, Deserializer};

use crate::gateway::platform::Platform;
use crate::settings::{self, AbsolutePath, Permission, ServerUrl, ServerUrlError};

const LEEWAY_MAX: Duration = Duration::from_secs(300);
const LIFETIME_MIN: Duration = Duration::from_secs(60);
const LIFETIME_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// An issuer whose tokens are accepted, and under which conditions.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "IssuerKeys")]
pub struct IssuerSettings {
    /// The `iss` of its tokens, below which its discovery document is.
    pub url: String,
    /// `kind`: the platform, which gives the claims their meaning.
    pub platform: Platform,
    /// The `aud` that its tokens must have, and no other.
    pub audience: String,
    /// The algorithms of its signatures; the default is those of its discovery document.
    pub algorithms: Option<Vec<Signature>>,
    /// The address of its keys; the default is that of its discovery document.
    pub jwks_url: Option<ServerUrl>,
    /// Certificates, in PEM, to trust instead of the public roots.
    pub ca_file: Option<AbsolutePath>,
    /// How far its clock and ours may differ; at most 5 min.
    pub leeway: Duration,
    /// The longest lifetime of a token; from 1 min to 24 h.
    pub max_lifetime: Duration,
}

/// The accepted signature algorithms: none that a holder of the public key can forge.
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

/// `[[issuer]]` as it is written, before the checks across its keys.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct IssuerKeys {
    url: String,
    #[serde(default, rename = "kind")]
    platform: Platform,
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
        check_url(&keys.url, keys.platform)?;
        if keys.audience.is_empty() {
            return Err(IssuerKeysError::NoAudience);
        }
        if keys.algorithms.as_ref().is_some_and(Vec::is_empty) {
            return Err(IssuerKeysError::NoAlgorithm);
        }
        let IssuerKeys { url, platform, audience, algorithms, jwks_url, ca_file, leeway, max_lifetime } = keys;
        Ok(IssuerSettings { url, platform, audience, algorithms, jwks_url, ca_file, leeway, max_lifetime })
    }
}

/// The URL is compared with the `iss` of tokens byte by byte, so another spelling of it would match no token.
fn check_url(text: &str, platform: Platform) -> Result<(), IssuerKeysError> {
    let url = ServerUrl::parse(text, Permission::Refuse).map_err(|reason| IssuerKeysError::Url { reason })?;
    let segments = url.as_url().path().split('/').filter(|segment| !segment.is_empty());
    let mut expected = url.as_url().origin().ascii_serialization();
    expected.extend(segments.flat_map(|segment| ["/", segment]));
    // Auth0 and others end their name with a slash; GitHub and GitLab do not.
    if platform == Platform::Generic && text.ends_with('/') && !text.ends_with("//") {
        expected.push('/');
    }
    if text == expected { Ok(()) } else { Err(IssuerKeysError::Spelling { expected }) }
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

/// Why `[[issuer]]` is not valid.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are named for what they hold")]
pub enum IssuerKeysError {
    /// It is not the address of a server, or not a safe one.
    #[error("url: {reason}")]
    Url { reason: ServerUrlError },
    /// It is the address of a server, but not as an issuer writes it.
    #[error("url: tokens name their issuer as {expected:?}")]
    Spelling { expected: String },
    /// No audience.
    #[error("audience: it must not be empty, or every token would match")]
    NoAudience,
    /// An empty list.
    #[error("algorithms: expected at least one")]
    NoAlgorithm,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_a_url_only_as_tokens_spell_it() {
        let check = |url: &str, platform| match check_url(url, platform) {
            Ok(()) => "ok".to_owned(),
            Err(error) => error.to_string(),
        };
        for url in ["https://i.example", "https://i.example/a/b", "https://i.example:8443/a", "http://127.0.0.1:1/x"] {
            for platform in [Platform::GitHub, Platform::GitLab, Platform::Generic] {
                assert_eq!(check(url, platform), "ok", "{url}");
            }
        }
        for url in ["https://i.example/", "https://i.example/a/"] {
            assert_eq!(check(url, Platform::Generic), "ok");
            let expected = format!("url: tokens name their issuer as {:?}", url.strip_suffix('/').unwrap());
            assert_eq!(check(url, Platform::GitHub), expected);
            assert_eq!(check(url, Platform::GitLab), expected);
        }
        for (url, expected) in [
            ("https://i.example//", "https://i.example"),
            ("https://i.example//a", "https://i.example/a"),
            ("https://i.example/a//b/", "https://i.example/a/b"),
            ("https://I.example", "https://i.example"),
            ("https://i.example:443", "https://i.example"),
            ("https://i.example/a/../b", "https://i.example/b"),
            ("https:/i.example", "https://i.example"),
            (" https://i.example", "https://i.example"),
        ] {
            let expected = format!("url: tokens name their issuer as {expected:?}");
            assert_eq!(check(url, Platform::GitHub), expected, "{url}");
        }
        assert_eq!(
            check("https://i.example//", Platform::Generic),
            "url: tokens name their issuer as \"https://i.example\""
        );
    }
}
