//! The identities that open a sealed file.

use std::io;

use age::armor::ArmoredReader;
use age::secrecy::ExposeSecret;
use age::{Decryptor, IdentityFile};
use zeroize::Zeroizing;

use super::age_error::AgeError;
use super::ask::{Ask, Asking};
use super::recipient::Recipient;
use crate::excerpt::Excerpt;
use crate::fault::{Class, Fault};

/// The limit for the scrypt work factor of an encrypted identity file, as a power of two: some ten seconds.
const WORK_FACTOR_MAX: u8 = 22;

/// A private key, or a plugin that has one.
pub struct Identity(Box<dyn age::Identity>);

impl Identity {
    pub(super) fn as_age(&self) -> &dyn age::Identity {
        &*self.0
    }
}

/// Reads the identities of one file: native or plugin identities of age, possibly encrypted with a passphrase, or an SSH private key.
///
/// # Errors
/// If it holds none, or the passphrase is missing.
pub fn identities(content: &[u8], name: &str, ask: impl Ask) -> Result<Vec<Identity>, IdentityError> {
    let none = |_| IdentityError::None { name: name.to_owned() };
    let age_error = |source: age::DecryptError| IdentityError::Age { name: name.to_owned(), source: source.into() };
    let asking = Asking(ask);
    let content = content.trim_ascii_start();
    if content.starts_with(b"age-encryption.org/") || content.starts_with(b"-----BEGIN AGE ENCRYPTED FILE-----") {
        let decryptor = Decryptor::new(ArmoredReader::new(content)).map_err(age_error)?;
        let encrypted = age::encrypted::EncryptedIdentity::new(decryptor, asking, Some(WORK_FACTOR_MAX));
        let file = encrypted.ok_or_else(|| none(()))?.decrypt(Some(name)).map_err(age_error)?;
        return Ok(boxed(file.into_identities().map_err(age_error)?));
    }
    if content.starts_with(b"-----BEGIN ") {
        let key = age::ssh::Identity::from_buffer(content, Some(name.to_owned())).map_err(|_| none(()))?;
        if matches!(key, age::ssh::Identity::Unsupported(_)) {
            return Err(none(()));
        }
        return Ok(vec![Identity(Box::new(key.with_callbacks(asking)))]);
    }
    let file = IdentityFile::from_buffer(content).map_err(|_: io::Error| none(()))?;
    let identities = boxed(file.with_callbacks(asking).into_identities().map_err(age_error)?);
    if identities.is_empty() { Err(none(())) } else { Ok(identities) }
}

/// Generates a key pair for one file.
pub(super) fn generate() -> (Recipient, Zeroizing<String>) {
    let identity = age::x25519::Identity::generate();
    let text = Zeroizing::new(identity.to_string().expose_secret().to_owned());
    (Recipient::native(identity.to_public()), text)
}

/// Parses a native identity.
pub(super) fn native(text: &[u8]) -> Option<Identity> {
    let identity = str::from_utf8(text).ok()?.parse::<age::x25519::Identity>().ok()?;
    Some(Identity(Box::new(identity)))
}

fn boxed(identities: Vec<Box<dyn age::Identity + Send + Sync>>) -> Vec<Identity> {
    identities.into_iter().map(|identity| Identity(identity)).collect()
}

/// Why there are no identities.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are named for what they hold")]
pub enum IdentityError {
    /// No identity that age knows.
    #[error("{} contains no identity that age supports", Excerpt(name))]
    None { name: String },
    /// age cannot use it.
    #[error("cannot use the identity {}", Excerpt(name))]
    Age { name: String, source: AgeError },
}

impl Fault for IdentityError {
    fn class(&self) -> Class {
        match self {
            IdentityError::None { .. } => Class::Data,
            IdentityError::Age { source, .. } => source.class(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            IdentityError::None { .. } => None,
            IdentityError::Age { source, .. } => source.hint(),
        }
    }
}
