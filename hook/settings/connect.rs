//! `[connect]`: the address of 1Password Connect, and the token for it.

use serde::Deserialize;

use super::{AbsolutePath, Permission, ServerUrl, ServerUrlError, TokenSource, token};

/// How to reach 1Password Connect.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "Keys")]
pub struct Connect {
    /// Its base address, below which `/v1` is.
    pub url: ServerUrl,
    /// Where its access token comes from.
    pub token: TokenSource,
    /// Certificates, in PEM, to trust instead of the public roots.
    pub ca_file: Option<AbsolutePath>,
}

/// `[connect]` as it is written: whether its address is safe depends on two keys.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Keys {
    url: String,
    token_file: Option<AbsolutePath>,
    token: Option<TokenSource>,
    ca_file: Option<AbsolutePath>,
    #[serde(default)]
    plain_http: Permission,
}

impl TryFrom<Keys> for Connect {
    type Error = ConnectKeysError;

    fn try_from(keys: Keys) -> Result<Connect, ConnectKeysError> {
        let url = match ServerUrl::parse(&keys.url, keys.plain_http) {
            Err(ServerUrlError::Plain) => Err(ConnectKeysError::Plain),
            Err(reason) => Err(ConnectKeysError::Url { reason }),
            Ok(url) if url.has_version() => Err(ConnectKeysError::Version),
            Ok(url) => Ok(url),
        }?;
        let token = token::one_of(keys.token_file, keys.token).ok_or(ConnectKeysError::Token)?;
        Ok(Connect { url, token, ca_file: keys.ca_file })
    }
}

/// Keys that do not say how to reach 1Password Connect.
#[derive(Debug, thiserror::Error)]
enum ConnectKeysError {
    #[error("url: {reason}")]
    Url { reason: ServerUrlError },
    #[error("url: plain http to a host other than loopback, expected https, or plain-http = \"allow\" next to it")]
    Plain,
    #[error("url: expected an address without /v1, which is added to it")]
    Version,
    #[error("expected one of `token-file` and `token`")]
    Token,
}
