//! Addresses of servers that get our credentials or hold sealed values.

use std::fmt;
use std::net::IpAddr;

use reqwest::Url;
use serde::Deserialize;

use super::Permission;

/// The base URL of a server: `https`, or plain `http` to loopback or where the settings allow it.
///
/// It has no user-info, query or fragment, so that it can be printed and joined to.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct ServerUrl(Url);

impl ServerUrl {
    /// Parses an address; with `plain` allowed, plain `http` may go to any host, else only to this one.
    ///
    /// # Errors
    /// It is no address of a server, or not a safe one. The error does not repeat it, as it may hold a password.
    pub fn parse(text: &str, plain: Permission) -> Result<ServerUrl, ServerUrlError> {
        let url = Url::parse(text).map_err(|_| ServerUrlError::NotAUrl)?;
        if !matches!(url.scheme(), "https" | "http") {
            return Err(ServerUrlError::Scheme);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(ServerUrlError::UserInfo);
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(ServerUrlError::QueryOrFragment);
        }
        if url.scheme() == "http" && plain == Permission::Refuse && !is_loopback(&url) {
            return Err(ServerUrlError::Plain);
        }
        Ok(ServerUrl(url))
    }

    /// The address, as HTTP clients take it.
    pub fn as_url(&self) -> &Url {
        &self.0
    }

    /// Whether it ends with the version of Connect's interface, which is added to each request.
    pub fn has_version(&self) -> bool {
        self.0.path().trim_end_matches('/').ends_with("/v1")
    }

    /// Whether it is plain `http`.
    pub fn is_plain(&self) -> bool {
        self.0.scheme() == "http"
    }
}

impl TryFrom<String> for ServerUrl {
    type Error = ServerUrlError;

    fn try_from(text: String) -> Result<ServerUrl, ServerUrlError> {
        ServerUrl::parse(&text, Permission::Refuse)
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// Why a text is not the address of a server.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServerUrlError {
    /// It does not parse.
    #[error("it is not a URL such as https://host:8443")]
    NotAUrl,
    /// `ftp:`, `file:` or another scheme.
    #[error("its scheme is not https or http")]
    Scheme,
    /// A user name or password before the host.
    #[error("it holds a user name or password")]
    UserInfo,
    /// `?` or `#`.
    #[error("it holds a query or fragment")]
    QueryOrFragment,
    /// Credentials would cross a network unprotected.
    #[error("plain http to a host other than loopback, expected https")]
    Plain,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<ServerUrl, ServerUrlError> {
        ServerUrl::try_from(text.to_owned())
    }

    #[test]
    fn takes_https_to_anyone_and_http_to_this_host() {
        for text in [
            "https://connect.internal:8443",
            "https://connect.internal/under/a/path/",
            "http://localhost:8080",
            "http://127.0.0.1:8080",
            "http://127.9.9.9",
            "http://[::1]:8080",
        ] {
            assert!(parse(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn refuses_http_to_other_hosts_unless_allowed() {
        for text in [
            "http://connect.internal:8080",
            "http://localhost.evil.example",
            "http://127.0.0.1.evil.example",
            "http://10.0.0.1",
            "http://0.0.0.0",
            "http://[::]",
            "http://[fe80::1]",
        ] {
            assert_eq!(parse(text), Err(ServerUrlError::Plain), "{text}");
            assert!(ServerUrl::parse(text, Permission::Allow).unwrap().is_plain(), "{text}");
        }
    }

    #[test]
    fn refuses_what_is_not_only_an_address() {
        assert_eq!(parse("connect.internal:8443"), Err(ServerUrlError::Scheme));
        assert_eq!(parse("connect"), Err(ServerUrlError::NotAUrl));
        assert_eq!(parse("https://"), Err(ServerUrlError::NotAUrl));
        assert_eq!(parse("file:///etc/passwd"), Err(ServerUrlError::Scheme));
        assert_eq!(parse("https://user@host"), Err(ServerUrlError::UserInfo));
        assert_eq!(parse("https://:password@host"), Err(ServerUrlError::UserInfo));
        assert_eq!(parse("https://host/?token=x"), Err(ServerUrlError::QueryOrFragment));
        assert_eq!(parse("https://host/#x"), Err(ServerUrlError::QueryOrFragment));
    }
}
