//! Calls of a KMS in the network, and the errors that every such KMS has in common.

use std::time::Duration;

use crate::excerpt::{Excerpt, redacted};
use crate::fault::{Class, Fault};
use crate::retry::{Seconds, Tries};
use crate::tls::TlsError;

/// One call, as its errors name it.
pub(super) struct Call<'a> {
    /// The URI of the key.
    pub(super) key: String,
    /// The address of the KMS.
    pub(super) server: String,
    pub(super) operation: Operation<'a>,
}

/// What a KMS is asked to do.
#[derive(Clone, Copy)]
pub(super) enum Operation<'a> {
    /// Wrap a data key.
    Wrap,
    /// Unwrap it again.
    Unwrap,
    /// Decrypt a value of the KMS's own tool, which is bound to this text.
    Decrypt { bound: &'a str },
    /// Return what our identity may do.
    Describe,
    /// Get an identity; the KMS itself is not called.
    Identify,
}

impl Operation<'_> {
    /// The class of an error that the KMS reports with its own message: while sealing, the settings name a key that is not fit for it.
    pub(super) fn class_of_refusal(self) -> Class {
        match self {
            Operation::Unwrap | Operation::Decrypt { .. } => Class::Data,
            Operation::Wrap | Operation::Describe | Operation::Identify => Class::Settings,
        }
    }

    /// The error for a ciphertext that the key does not decrypt.
    pub(super) fn not_decrypted(self, key: String) -> ServiceError {
        match self {
            Operation::Decrypt { bound } => ServiceError::NotEncryptedByKey { key, bound: bound.to_owned() },
            _ => ServiceError::NotWrappedByKey { key },
        }
    }
}

/// A service's message, as errors show it: without words that may be credentials, ciphertexts or data keys.
pub(super) fn shown(message: &str) -> Option<String> {
    const WORD_CHARS_MAX: usize = 24;
    let is_base64 = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=' | '_' | '-');
    let is_bytes = |word: &str| {
        word.len() > WORD_CHARS_MAX
            && !word.starts_with("projects/")
            && word.bytes().any(|byte| byte.is_ascii_digit())
            && word.bytes().any(|byte| byte.is_ascii_uppercase())
            && word.bytes().any(|byte| byte.is_ascii_lowercase())
    };
    let mut text = String::new();
    let mut rest = message;
    while let Some(character) = rest.chars().next() {
        let length = rest.find(|c| !is_base64(c)).unwrap_or(rest.len());
        let (word, after) = rest.split_at(length.max(character.len_utf8()));
        text.push_str(if is_bytes(word) { "…" } else { word });
        rest = after;
    }
    let text = redacted(&text);
    (!text.is_empty()).then_some(text)
}

/// Why the KMS does not do what it is asked.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// No answer within the deadline.
    #[error("{key} did not answer at {server} within {}{}", Seconds(*within), Tries(*tries))]
    NoAnswer { key: String, server: String, within: Duration, tries: u32 },
    /// The connection could not be made, or broke.
    #[error("cannot reach {key} at {server}: {cause}{}", Tries(*tries))]
    Unreachable { key: String, server: String, cause: String, tries: u32 },
    /// No TLS connection can be made.
    #[error("cannot connect to {server} for {key}: {problem}")]
    Tls { key: String, server: String, problem: TlsError },
    /// What says who we are is not accepted.
    #[error("{key} refuses our credentials{}", quoted(message.as_deref()))]
    Unauthenticated { key: String, message: Option<String> },
    /// The identity may not use the key.
    #[error("{key} may not be used by our identity{}", quoted(message.as_deref()))]
    Denied { key: String, message: Option<String> },
    /// There is no such key.
    #[error("{key} does not exist")]
    NoKey { key: String },
    /// Another key wrapped the data key, or it was changed.
    #[error("{key} did not wrap this value's data key, or it was changed since")]
    NotWrappedByKey { key: String },
    /// Another key encrypted the value, for another reference, or it was changed.
    #[error(
        "{key} does not decrypt this value: it was encrypted under another key or with another context, or was changed since"
    )]
    NotEncryptedByKey { key: String, bound: String },
    /// Too many requests, for longer than we can wait.
    #[error("{key} is over its quota{}{}", quoted(message.as_deref()), Tries(*tries))]
    Quota { key: String, message: Option<String>, tries: u32 },
    /// Any other error, in the service's own words.
    #[error("{key} answered {status:.60}{}{}", quoted(message.as_deref()), Tries(*tries))]
    Answered { key: String, status: String, message: Option<String>, tries: u32, class: Class },
    /// Something else answered.
    #[error("{key} did not answer with the JSON of {kms}")]
    NotKms { key: String, kms: &'static str },
}

impl Fault for ServiceError {
    fn class(&self) -> Class {
        match self {
            ServiceError::Unauthenticated { .. } | ServiceError::Denied { .. } => Class::NotPermitted,
            ServiceError::NoKey { .. }
            | ServiceError::NotWrappedByKey { .. }
            | ServiceError::NotEncryptedByKey { .. } => Class::Data,
            ServiceError::Tls { problem, .. } => problem.class(),
            ServiceError::Answered { class, .. } => *class,
            ServiceError::NoAnswer { .. }
            | ServiceError::Unreachable { .. }
            | ServiceError::Quota { .. }
            | ServiceError::NotKms { .. } => Class::Unavailable,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            ServiceError::NoAnswer { server, .. } | ServiceError::Unreachable { server, .. } => {
                Some(format!("`curl {server}` tests the way there"))
            }
            ServiceError::Tls { problem, .. } => problem.hint(),
            ServiceError::NotEncryptedByKey { bound, .. } => {
                Some(format!("its context must be exactly this text, without a newline: {bound}"))
            }
            _ => None,
        }
    }
}

/// What a service says about its error, which is text from outside.
pub(super) fn quoted(message: Option<&str>) -> String {
    message.map(|message| format!(": {}", Excerpt(message))).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_of_a_service_shows_names_but_no_bytes() {
        for (message, expected) in [
            ("Permission 'cloudkms.cryptoKeyVersions.useToDecrypt' denied.", None),
            ("projects/acme-1/locations/europe-west1/keyRings/Ring1/cryptoKeys/prod is gone", None),
            ("User: arn:aws:sts::123456789012:assumed-role/agents/i-0123456789abcdef0 is not authorized", None),
            ("Invalid value at 'plaintext', \"GiC1aZ3x9QwErTyUiOpAsDfGhJkLzXcVbNm1234567890Ab==\"", Some("\"…\"")),
            ("é bad token ya29.canary", Some("é bad token …")),
        ] {
            let shown = shown(message).unwrap();
            assert!(shown == message || expected.is_some_and(|part| shown.contains(part)), "{shown}");
            assert!(!shown.contains("GiC1") && !shown.contains("canary"), "{shown}");
        }
        assert_eq!(shown("  "), None);
    }
}
