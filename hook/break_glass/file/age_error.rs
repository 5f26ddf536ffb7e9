//! Errors of age.

use age::plugin::ResolveError;
use age::{DecryptError, EncryptError};

use crate::excerpt::Excerpt;
use crate::fault::{Class, Fault};

/// Why age cannot encrypt or decrypt.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are named for what they hold")]
pub enum AgeError {
    /// None of the identities belongs to a recipient.
    #[error("no identity matches a recipient")]
    NoMatch,
    /// An encrypted identity with a wrong passphrase, or none.
    #[error("the passphrase does not decrypt the identity")]
    Passphrase,
    /// A modified or truncated file.
    #[error("it is damaged")]
    Damaged,
    /// A plugin that is not on the PATH.
    #[error("cannot find the plugin {} on the PATH", Excerpt(program))]
    NoPlugin { program: String },
    /// A plugin reported an error.
    #[error("an age plugin reports {}", Excerpt(message))]
    Plugin { message: String },
    /// Recipients that age does not combine, such as post-quantum recipients with others.
    #[error("age cannot combine these recipients")]
    Incompatible,
}

impl Fault for AgeError {
    fn class(&self) -> Class {
        match self {
            // A plugin usually reports a missing card or a wrong PIN.
            AgeError::NoMatch | AgeError::Passphrase | AgeError::Plugin { .. } => Class::NotPermitted,
            AgeError::Damaged => Class::Data,
            AgeError::NoPlugin { .. } => Class::Settings,
            AgeError::Incompatible => Class::CommandLine,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            AgeError::NoMatch => "`oci-secrets break-glass inspect` lists its recipients",
            AgeError::NoPlugin { .. } => "install the plugin on this host, or use a key that needs none",
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

impl From<EncryptError> for AgeError {
    fn from(error: EncryptError) -> AgeError {
        match error {
            EncryptError::IncompatibleRecipients { .. } | EncryptError::MixedRecipientAndPassphrase => {
                AgeError::Incompatible
            }
            EncryptError::PluginResolve(error) => error.into(),
            other => AgeError::Plugin { message: other.to_string() },
        }
    }
}

impl From<DecryptError> for AgeError {
    fn from(error: DecryptError) -> AgeError {
        match error {
            DecryptError::NoMatchingKeys => AgeError::NoMatch,
            DecryptError::KeyDecryptionFailed | DecryptError::ExcessiveWork { .. } => AgeError::Passphrase,
            DecryptError::PluginResolve(error) => error.into(),
            error @ DecryptError::Plugin(_) => AgeError::Plugin { message: error.to_string() },
            _ => AgeError::Damaged,
        }
    }
}

impl From<ResolveError> for AgeError {
    fn from(error: ResolveError) -> AgeError {
        match error {
            ResolveError::MissingPlugin { binary_name } => AgeError::NoPlugin { program: binary_name },
            other => AgeError::Plugin { message: other.to_string() },
        }
    }
}
