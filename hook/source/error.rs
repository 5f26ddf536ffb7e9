//! Why a field cannot be fetched.

use std::sync::Arc;
use std::time::Duration;

use super::op::OpError;
use crate::errno::Errno;
use crate::excerpt::Excerpt;
use crate::fault::{Class, Fault};
use crate::retry::{Seconds, Tries};
use crate::settings::FileError;
use crate::tls::{CaFileError, TlsError};
use crate::token::{Origin, TokenError};

/// Why a field could not be fetched.
#[derive(Clone, Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are named for what they hold")]
pub enum SourceError {
    /// The settings name no source.
    #[error("the settings have neither [connect] nor [op]")]
    NoSource,
    /// The settings name two, and do not choose.
    #[error("the settings have [connect] and [op], and no `source` that chooses")]
    NotChosen,
    /// Connect is chosen, and is nowhere.
    #[error("the settings have no [connect]")]
    NoConnect,
    /// No vault of this name or id, or none that the token may see.
    #[error("no vault \"{vault}\"")]
    NoVault { vault: String },
    /// Several vaults of one name.
    #[error("{count} vaults are named \"{vault}\"")]
    ManyVaults { vault: String, count: usize },
    /// No item of this title or id.
    #[error("no item \"{item}\" in vault \"{vault}\"")]
    NoItem { item: String, vault: String },
    /// Only archived or deleted items have this title or id.
    #[error("item \"{item}\" in vault \"{vault}\" is archived or deleted")]
    ArchivedItem { item: String, vault: String },
    /// Several items of one title.
    #[error("{count} items in vault \"{vault}\" are titled \"{item}\"")]
    ManyItems { item: String, vault: String, count: usize },
    /// No section of this label or id in the item.
    #[error("no section \"{section}\" in item \"{item}\"")]
    NoSection { section: String, item: String },
    /// No field or file of this label or id in the item (or its section).
    #[error("no field \"{field}\" in item \"{item}\"")]
    NoField { field: String, item: String, nearest: Option<String> },
    /// Several fields or files of one label.
    #[error("{count} fields in item \"{item}\" are labelled \"{field}\"")]
    ManyFields { field: String, item: String, count: usize },
    /// The field exists, but nothing is stored in it.
    #[error("field \"{field}\" of item \"{item}\" is empty")]
    NoValue { field: String, item: String },
    /// The field is not a one-time password.
    #[error("field \"{field}\" of item \"{item}\" is not a one-time password, so ?attribute=otp has no value")]
    NotOtp { field: String, item: String },
    /// The field is a file whose content is not text, and so no sealed value.
    #[error("file \"{file}\" of item \"{item}\" is not text")]
    NotText { file: String, item: String },
    /// The source cannot do what the reference's query asks.
    #[error("1Password Connect cannot convert keys, so ?ssh-format is not supported")]
    NoKeyFormats,
    /// The token is not accepted.
    #[error("{server} refuses the token: 401 Unauthorized{}", quoted(message.as_deref()))]
    Unauthorized { server: String, message: Option<String>, origin: Origin },
    /// The token is good, but not for this.
    #[error("the token may not read {what}: 403 Forbidden")]
    Forbidden { what: String, origin: Origin },
    /// No answer within the deadline.
    #[error("{server} did not answer within {}{}", Seconds(*within), Tries(*tries))]
    NoAnswer { server: String, within: Duration, tries: u32 },
    /// Someone else changed the field after it was read.
    #[error("{field} has changed since it was read")]
    Changed { field: String },
    /// Connect accepted a change, and does not show it.
    #[error("{field} does not show what was stored in it after {}", Seconds(*within))]
    NotStored { field: String, within: Duration },
    /// The answer to a change was lost, and reads do not show whether it was stored.
    #[error("cannot confirm that {field} is stored: {cause}")]
    Unconfirmed { field: String, cause: Box<SourceError> },
    /// No connection could be made until the deadline.
    #[error("cannot reach {server} within {}: {cause}", Seconds(*within))]
    Unreachable { server: String, cause: String, within: Duration },
    /// The connection broke.
    #[error("lost the connection to {server}: {cause}{}", Tries(*tries))]
    Broken { server: String, cause: String, tries: u32 },
    /// No TLS connection can be made.
    #[error("cannot connect to {server}: {problem}")]
    Tls { server: String, problem: TlsError },
    /// Too many requests, for longer than we can wait.
    #[error("{server} limits our requests: 429 Too Many Requests{}", Tries(*tries))]
    Limited { server: String, tries: u32 },
    /// A redirection, which is never followed: it would take the token to another place.
    #[error("refusing to follow {server} elsewhere: it answered {status}")]
    Redirected { server: String, status: u16 },
    /// A status that leaves nothing to be done here.
    #[error("{server} answered {}{}{}", status_line(*status), quoted(message.as_deref()), Tries(*tries))]
    Status { server: String, status: u16, tries: u32, message: Option<String> },
    /// More bytes than any item has.
    #[error("{server} answered with more than {limit} bytes")]
    TooLarge { server: String, limit: usize },
    /// Something that is not Connect's JSON.
    #[error("{server} did not answer with the JSON of 1Password Connect, at line {line} column {column}")]
    NotConnect { server: String, line: usize, column: usize },
    /// JSON of another form than Connect documents.
    #[error(
        "cannot read {what}: it is not in the form that 1Password Connect documents, at line {line} column {column}"
    )]
    Undecodable { what: String, line: usize, column: usize },
    /// The token file or the file of certificates cannot be read, or others can.
    #[error("cannot use the files of [connect]")]
    File { source: FileError },
    /// The file of the token cannot be read, or others can.
    #[error("cannot use the files of [connect]")]
    TokenFile { source: FileError, origin: Origin },
    /// There is no token.
    #[error("no token for 1Password Connect")]
    Token { source: TokenError },
    /// The certificates in `ca-file` cannot be used.
    #[error("cannot use `ca-file` under [connect]")]
    CaFile { source: CaFileError },
    /// A broker cannot start the thread on which it asks.
    #[error("cannot prepare for the network")]
    Runtime {
        #[source]
        errno: Errno,
    },
    /// The HTTP client cannot be made.
    #[error("cannot prepare TLS")]
    NoClient { source: Arc<reqwest::Error> },
    /// The source has failed several times in a row, and is given time.
    #[error("{cause}; after repeated failures it is asked again only every few seconds")]
    Paused { cause: Box<SourceError> },
    /// The requests that the settings allow per hour are used up.
    #[error("refusing to ask {server} again: `requests-per-hour` under [broker] allows {limit}")]
    OverBudget { server: String, limit: u32 },
    /// One user's part of the budget of the broker is spent.
    #[error(
        "refusing to ask 1Password again for uid {uid}: its share of `requests-per-hour` under [broker] is {share} of {limit}"
    )]
    OverShare { uid: u32, share: u32, limit: u32 },
    /// What `op` says, or how it fails.
    #[error(transparent)]
    Op(#[from] OpError),
}

impl Fault for SourceError {
    fn class(&self) -> Class {
        match self {
            SourceError::NoVault { .. }
            | SourceError::NoItem { .. }
            | SourceError::ArchivedItem { .. }
            | SourceError::NoSection { .. }
            | SourceError::NoField { .. }
            | SourceError::NoValue { .. } => Class::NotFound,
            SourceError::ManyVaults { .. }
            | SourceError::ManyItems { .. }
            | SourceError::ManyFields { .. }
            | SourceError::NotText { .. }
            | SourceError::NotOtp { .. }
            | SourceError::Undecodable { .. }
            | SourceError::NoKeyFormats
            | SourceError::Changed { .. } => Class::Data,
            SourceError::Unauthorized { .. } | SourceError::Forbidden { .. } => Class::NotPermitted,
            SourceError::File { source } | SourceError::TokenFile { source, .. } => source.class(),
            SourceError::Op(error) => error.class(),
            SourceError::Token { source } => source.class(),
            SourceError::Tls { problem, .. } => problem.class(),
            SourceError::CaFile { source } => source.class(),
            SourceError::Unconfirmed { cause, .. } | SourceError::Paused { cause } => cause.class(),
            SourceError::Runtime { .. } => Class::Kernel,
            SourceError::NoSource | SourceError::NotChosen | SourceError::NoConnect => Class::Settings,
            SourceError::NoAnswer { .. }
            | SourceError::Unreachable { .. }
            | SourceError::Broken { .. }
            | SourceError::Limited { .. }
            | SourceError::Redirected { .. }
            | SourceError::Status { .. }
            | SourceError::TooLarge { .. }
            | SourceError::NotConnect { .. }
            | SourceError::NotStored { .. }
            | SourceError::OverBudget { .. }
            | SourceError::OverShare { .. }
            | SourceError::NoClient { .. } => Class::Unavailable,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            SourceError::File { source } => return source.hint(),
            SourceError::TokenFile { source, origin } if source.is_missing() => return origin.missing_hint(),
            SourceError::TokenFile { source, .. } => return source.hint(),
            SourceError::Op(error) => return error.hint(),
            SourceError::Token { source } => return source.hint(),
            SourceError::Tls { problem, .. } => return problem.hint(),
            SourceError::CaFile { source } => return source.hint(),
            SourceError::Paused { cause } => return cause.hint(),
            SourceError::OverBudget { .. } | SourceError::OverShare { .. } => {
                "a longer `max-age` saves requests; raise `requests-per-hour` only if the account may have more"
            }
            SourceError::NoField { nearest: Some(nearest), .. } => {
                return Some(format!("did you mean \"{nearest}\"? names are case-sensitive"));
            }
            SourceError::NotOtp { .. } => "leave ?attribute=otp out, or name a field of the type one-time password",
            SourceError::Unconfirmed { .. } | SourceError::NotStored { .. } => {
                "look at the item in 1Password before another write, which could store the value twice"
            }
            SourceError::NoSource => {
                "add [connect] with `url` and `token-file`, or [op]; `oci-secrets` also takes OP_CONNECT_HOST and OP_CONNECT_TOKEN"
            }
            SourceError::NotChosen => {
                "add source = \"connect\" or source = \"op\" to the settings, above the first table"
            }
            SourceError::NoConnect => "add [connect] with `url` and `token-file`",
            SourceError::NoVault { .. } => {
                "names are case-sensitive; `oci-secrets check` shows which vaults the token can see"
            }
            SourceError::NoItem { .. } | SourceError::NoSection { .. } | SourceError::NoField { .. } => {
                "names are case-sensitive, and ids work instead of them"
            }
            SourceError::ArchivedItem { .. } => "restore the item in 1Password, or ask for another",
            SourceError::ManyVaults { .. } | SourceError::ManyItems { .. } | SourceError::ManyFields { .. } => {
                "use the id instead of the name: 1Password shows it under \"Copy UUID\""
            }
            SourceError::NoValue { .. } => "store a sealed value in the field: `oci-secrets seal` makes one",
            SourceError::Unauthorized { origin, .. } => return Some(origin.unauthorized_hint()),
            SourceError::Forbidden { origin, .. } => return Some(origin.forbidden_hint()),
            SourceError::Redirected { .. } => {
                "set `url` under [connect] in the settings to where Connect itself answers"
            }
            SourceError::Status { status: 400, server, message, .. } if expects_https(server, message.as_deref()) => {
                "the server expects https: change `url` under [connect] in the settings"
            }
            SourceError::Broken { server, cause, .. } if may_be_tls(server, cause) => {
                "the server may expect https: change `url` under [connect] in the settings"
            }
            SourceError::Status { status: 400, server, message: None, .. } if server.starts_with("http://") => {
                "the server may expect https: change `url` under [connect] in the settings"
            }
            SourceError::NotConnect { .. } => "`url` under [connect] in the settings may lead to something else",
            SourceError::NoAnswer { .. } | SourceError::Unreachable { .. } | SourceError::Broken { .. } => {
                "`url` under [connect] in the settings names the server; `curl URL/heartbeat` tests the way there"
            }
            _ => return None,
        };
        Some(hint.to_owned())
    }

    fn is_for_users(&self) -> bool {
        matches!(
            self,
            SourceError::NoVault { .. }
                | SourceError::NoItem { .. }
                | SourceError::ArchivedItem { .. }
                | SourceError::NoSection { .. }
                | SourceError::NoField { nearest: None, .. }
                | SourceError::NoValue { .. }
                | SourceError::NotOtp { .. }
                | SourceError::OverShare { .. }
        )
    }
}

/// Whether a server that was asked in plain HTTP answers that it speaks TLS, as those written in Go do.
fn expects_https(server: &str, message: Option<&str>) -> bool {
    server.starts_with("http://") && message.is_some_and(|message| message.to_ascii_lowercase().contains("https"))
}

/// Whether a server that was asked in plain HTTP may speak TLS: it answers with bytes that are no HTTP, or ends the connection.
fn may_be_tls(server: &str, cause: &str) -> bool {
    server.starts_with("http://")
        && ["HTTP version", "connection closed before message completed"].iter().any(|part| cause.contains(part))
}

/// What a server says about its status, which is text from outside.
fn quoted(message: Option<&str>) -> String {
    message.map(|message| format!(": {}", Excerpt(message))).unwrap_or_default()
}

fn status_line(status: u16) -> String {
    match reqwest::StatusCode::from_u16(status).ok().and_then(|s| s.canonical_reason()) {
        Some(reason) => format!("{status} {reason}"),
        None => status.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A 400 of Go's server, one of nginx, the bytes of a TLS alert, and the end of the connection.
    #[test]
    fn a_server_that_expects_https_is_recognised() {
        let status = |server: &str, message: Option<&str>| SourceError::Status {
            server: server.into(),
            status: 400,
            tries: 1,
            message: message.map(str::to_owned),
        };
        let broken = |cause: &str| SourceError::Broken { server: "http://h".into(), cause: cause.into(), tries: 1 };
        for error in [
            status("http://h", Some("Client sent an HTTP request to an HTTPS server.")),
            status("http://h", None),
            broken("invalid HTTP version parsed"),
            broken("connection closed before message completed"),
        ] {
            assert!(error.hint().unwrap().contains("https: change `url`"), "{error}");
        }
        for error in [status("https://h", None), status("http://h", Some("Invalid request"))] {
            assert_eq!(error.hint(), None, "{error}");
        }
        assert!(broken("Connection reset by peer (ECONNRESET)").hint().unwrap().contains("curl URL/heartbeat"));
    }
}
