//! Why a request gets nothing, what its sender is told, and what the audit is.

use std::time::Duration;

/// Why a request gets nothing. What is out of scope and what does not exist is one and the same here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "fields are named for what they hold")]
pub enum Denial {
    /// No token.
    #[error("no bearer token provided")]
    NoToken,
    /// Longer than any token.
    #[error("the token is too large")]
    TokenTooLarge,
    /// Not of three parts, or not JSON in them.
    #[error("the bearer token is no identity token")]
    NotAToken,
    /// Unsigned, or signed by what a public key could forge.
    #[error("the token is not signed by RS256, ES256 or EdDSA")]
    Algorithm,
    /// It does not say with which key it is signed.
    #[error("the token names no key")]
    NoKeyId,
    /// Its issuer is not in the settings.
    #[error("the token's issuer is not trusted here")]
    Issuer,
    /// Its issuer has no such key.
    #[error("the token's issuer has no such key")]
    UnknownKey,
    /// The key did not sign it.
    #[error("invalid token signature")]
    Signature,
    /// It is for others.
    #[error("the token is for another audience")]
    Audience,
    /// Its time is over.
    #[error("the token has expired")]
    Expired,
    /// Its time is to come.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// It does not say when it was made, or when it ends.
    #[error("the token does not say how long it lives")]
    NoLifetime,
    /// It could be used again for too long.
    #[error("the token lives too long")]
    LongLived,
    /// Its issuer does not tell its keys.
    #[error("the token's issuer does not tell its keys")]
    IssuerDown,
    /// It is genuine, and no rule is for it.
    #[error("no rule is for this identity")]
    NoRule,
    /// Too many requests of one identity, or refusals of one address.
    #[error("too many requests")]
    TooMany,
    /// Too many requests of all.
    #[error("too many requests at once")]
    Busy,
    /// It does not exist, or is not in scope.
    #[error("{what} not found")]
    NotFound { what: String },
    /// It could not even exist.
    #[error("{what}")]
    Invalid { what: &'static str },
    /// Reading is all that there is.
    #[error("method not allowed")]
    Method,
    /// The head of the request is longer than any.
    #[error("the request is too large")]
    TooLarge,
    /// 1Password Connect asks us to come back later.
    #[error("1Password Connect answered {status}")]
    ConnectBusy { status: u16, after: Option<Duration> },
    /// 1Password Connect does not answer.
    #[error("1Password Connect does not answer")]
    ConnectDown,
    /// 1Password Connect does not take our token, or answers what it should not.
    #[error("1Password Connect does not answer as it should")]
    ConnectOdd,
    /// The decision could not be recorded.
    #[error("the audit trail cannot be kept")]
    Audit,
}

impl Denial {
    /// The HTTP status, as Connect has it where it has one.
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
            Denial::IssuerDown | Denial::Busy | Denial::ConnectDown | Denial::Audit => 503,
        }
    }

    /// What metrics and the audit call it.
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

    /// When it makes sense to come back.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Denial::TooMany | Denial::Busy | Denial::IssuerDown => Some(Duration::from_secs(1)),
            Denial::ConnectBusy { after, .. } => *after,
            _ => None,
        }
    }
}
