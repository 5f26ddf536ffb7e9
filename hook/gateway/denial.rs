//! Why a request is refused: the message for its sender, the HTTP status, and the reason in records and metrics.

use std::time::Duration;

/// Why a request is refused. What is out of scope and what does not exist are not distinguished.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "fields are named for what they hold")]
pub enum Denial {
    /// No token.
    #[error("no bearer token provided")]
    NoToken,
    /// Longer than any token.
    #[error("the token is too large")]
    TokenTooLarge,
    /// Not three parts of base64, not the JSON of a token, or JSON that could be read in two ways.
    #[error("the bearer token is not a well-formed identity token")]
    NotAToken,
    /// Unsigned, or signed with an algorithm that is not accepted.
    #[error("the token is not signed with RS256, ES256 or EdDSA")]
    Algorithm,
    /// It has no `kid`.
    #[error("the token names no key")]
    NoKeyId,
    /// Its issuer is not in the settings.
    #[error("the token's issuer is not in the settings of the gateway")]
    Issuer,
    /// Its issuer has no such key.
    #[error("the token's issuer has no such key")]
    UnknownKey,
    /// The key did not sign it.
    #[error("invalid token signature")]
    Signature,
    /// Its audience is not this gateway alone.
    #[error("the token's audience is not this gateway alone")]
    Audience,
    /// `exp` is in the past.
    #[error("the token has expired")]
    Expired,
    /// `nbf` or `iat` is in the future.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// `iat` or `exp` is missing, or is not a whole number of seconds.
    #[error("the token does not state its lifetime in whole seconds")]
    NoLifetime,
    /// Longer than the settings allow.
    #[error("the token's lifetime is too long")]
    LongLived,
    /// Its issuer does not respond with its keys.
    #[error("the keys of the token's issuer cannot be fetched now")]
    IssuerDown,
    /// Its key is not in the cache, and the keys have been fetched too often to do it now.
    #[error("the token's key is not known yet")]
    KeyPending { after: Duration },
    /// It is genuine, and no rule admits it.
    #[error("no rule admits this identity")]
    NoRule,
    /// Too many requests of one identity, or refusals of one client.
    #[error("too many requests")]
    TooMany,
    /// Too many requests of all identities.
    #[error("too many requests at once")]
    Busy,
    /// It does not exist, or is not in scope.
    #[error("{what} not found")]
    NotFound { what: String },
    /// The request is malformed.
    #[error("{what}")]
    Invalid { what: &'static str },
    /// Any method but GET.
    #[error("method not allowed")]
    Method,
    /// The head of the request is too long.
    #[error("the request is too large")]
    TooLarge,
    /// 1Password Connect responds with a temporary error.
    #[error("1Password Connect responded with {status}")]
    ConnectBusy { status: u16, after: Option<Duration> },
    /// 1Password Connect does not respond.
    #[error("1Password Connect does not respond")]
    ConnectDown,
    /// 1Password Connect refuses the gateway's token, or its response cannot be used.
    #[error("the response of 1Password Connect cannot be used")]
    ConnectOdd,
    /// The decision could not be recorded.
    #[error("the audit trail cannot be written")]
    Audit,
}

impl Denial {
    /// The HTTP status, which is Connect's where Connect has one.
    pub fn status(&self) -> u16 {
        match self {
            Denial::NoToken
            | Denial::TokenTooLarge
            | Denial::NotAToken
            | Denial::Algorithm
            | Denial::NoKeyId
            | Denial::Issuer
            | Denial::UnknownKey
            | Denial::Signature
            | Denial::Audience
            | Denial::Expired
            | Denial::NotYetValid
            | Denial::NoLifetime
            | Denial::LongLived => 401,
            Denial::NoRule => 403,
            Denial::NotFound { .. } => 404,
            Denial::Invalid { .. } => 400,
            Denial::Method => 405,
            Denial::TooMany => 429,
            Denial::TooLarge => 431,
            Denial::ConnectBusy { status, .. } => *status,
            Denial::ConnectOdd => 502,
            Denial::IssuerDown | Denial::KeyPending { .. } | Denial::Busy | Denial::ConnectDown | Denial::Audit => 503,
        }
    }

    /// The reason in metrics and records.
    pub fn reason(&self) -> &'static str {
        match self {
            Denial::NoToken => "no-token",
            Denial::TokenTooLarge => "token-too-large",
            Denial::NotAToken => "not-a-token",
            Denial::Algorithm => "algorithm",
            Denial::NoKeyId => "no-key-id",
            Denial::Issuer => "issuer",
            Denial::UnknownKey => "unknown-key",
            Denial::Signature => "signature",
            Denial::Audience => "audience",
            Denial::Expired => "expired",
            Denial::NotYetValid => "not-yet-valid",
            Denial::NoLifetime => "no-lifetime",
            Denial::LongLived => "long-lived",
            Denial::IssuerDown => "issuer-down",
            Denial::KeyPending { .. } => "key-pending",
            Denial::NoRule => "no-rule",
            Denial::TooMany => "too-many",
            Denial::Busy => "busy",
            Denial::NotFound { .. } => "not-found",
            Denial::Invalid { .. } => "invalid",
            Denial::Method => "method",
            Denial::TooLarge => "too-large",
            Denial::ConnectBusy { .. } => "connect-busy",
            Denial::ConnectDown => "connect-down",
            Denial::ConnectOdd => "connect-odd",
            Denial::Audit => "audit",
        }
    }

    /// When another attempt can succeed.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Denial::TooMany | Denial::Busy | Denial::IssuerDown => Some(Duration::from_secs(1)),
            Denial::KeyPending { after } => Some(Duration::from_secs(after.as_secs_f64().ceil() as u64)),
            Denial::ConnectBusy { after, .. } => *after,
            _ => None,
        }
    }
}
