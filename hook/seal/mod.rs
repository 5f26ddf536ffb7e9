//! Sealed values: what 1Password stores instead of a secret.
//!
//! ```text
//! sealed:v1 <KEK URI> <base64 of the envelope>
//! sealed:v1/direct <KEK URI> <base64 of what the KMS's own tool printed>
//! ```
//!
//! One line of text that fits any 1Password field and that a person can recognise. The envelope is in [`envelope`], the keys that
//! open it in [`kek`]. The value is bound to the reference that it was sealed for and to its KEK: moved to another item, or
//! pointed at another KEK, it does not open. The second form is for beginning with the tools that one has: the KMS sees the secret
//! itself, and takes little of it.

pub mod envelope;
pub mod kek;

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use crate::fault::{Class, Fault};
use crate::reference::Reference;
use crate::retry::Deadline;
use crate::secret::Secret;
use envelope::{DataKey, Envelope, EnvelopeError};
use kek::{KekError, KekUri, KekUriError, Keks, Version};

/// What every sealed value begins with, whatever its version.
const MARK: &str = "sealed:";
const VERSION: &str = "sealed:v1";
const VERSION_DIRECT: &str = "sealed:v1/direct";

/// A sealed value: which KEK opens it, and what it opens.
pub struct SealedValue {
    kek: KekUri,
    body: Body,
}

enum Body {
    /// The secret under a data key, and that under the KEK.
    Envelope(Envelope),
    /// The secret under the KEK, as the KMS's own tool leaves it.
    Direct(Vec<u8>),
}

/// A secret, and what its audit record says of how it was opened.
pub struct Unsealed {
    /// The plaintext.
    pub secret: Secret,
    /// The KEK that opened it.
    pub kek: KekUri,
    /// The version of the KEK, if the KMS returns it.
    pub kek_version: Version,
}

impl SealedValue {
    /// Seals a secret for one reference under a fresh data key.
    ///
    /// # Errors
    /// If the KEK does not wrap the data key.
    pub async fn seal(
        secret: &Secret,
        kek: KekUri,
        reference: &Reference,
        keks: &Keks<'_>,
        deadline: Deadline,
    ) -> Result<SealedValue, SealError> {
        let envelope_error = |source| SealError::Envelope { source };
        let data_key = DataKey::generate().map_err(envelope_error)?;
        let wrapped = keks.wrap(&kek, &data_key, deadline).await.map_err(|source| SealError::Kek { source })?;
        let associated_data = associated_data(&kek, reference);
        let envelope =
            Envelope::seal(secret, wrapped, &data_key, associated_data.as_bytes()).map_err(envelope_error)?;
        Ok(SealedValue { kek, body: Body::Envelope(envelope) })
    }

    /// Opens the value for the reference as the container asks for it.
    ///
    /// # Errors
    /// If the KEK does not unwrap the data key, or the value was sealed for another reference or KEK, was changed since, or is empty.
    pub async fn unseal(
        self,
        reference: &Reference,
        keks: &Keks<'_>,
        deadline: Deadline,
    ) -> Result<Unsealed, SealError> {
        let (secret, kek_version) = self.open(reference, keks, deadline).await?;
        if secret.expose().is_empty() {
            return Err(SealError::Empty);
        }
        Ok(Unsealed { secret, kek: self.kek, kek_version })
    }

    async fn open(
        &self,
        reference: &Reference,
        keks: &Keks<'_>,
        deadline: Deadline,
    ) -> Result<(Secret, Version), SealError> {
        let kek_error = |source| SealError::Kek { source };
        let associated_data = associated_data(&self.kek, reference);
        match &self.body {
            Body::Envelope(envelope) => {
                let unwrapped = keks.unwrap(&self.kek, envelope.wrapped(), deadline).await.map_err(kek_error)?;
                let secret = envelope.open(&unwrapped.data_key, associated_data.as_bytes());
                Ok((secret.map_err(|source| SealError::Envelope { source })?, unwrapped.version.clone()))
            }
            Body::Direct(ciphertext) => {
                let decrypted = keks.decrypt(&self.kek, ciphertext, &associated_data, deadline).await;
                let decrypted = decrypted.map_err(kek_error)?;
                Ok((Secret::new(decrypted.secret.expose().to_vec()), decrypted.version.clone()))
            }
        }
    }
}

impl SealedValue {
    /// The KEK that opens it.
    pub fn kek(&self) -> &KekUri {
        &self.kek
    }

    /// Whether the value is in the KMS's own form, in which the KMS sees the secret.
    pub fn is_direct(&self) -> bool {
        matches!(self.body, Body::Direct(_))
    }

    /// Whether its KEK has a newer version than the one that wrapped it, if the KMS returns versions. The secret stays closed, which is why
    /// nothing can be said of a value in the KMS's own form.
    ///
    /// # Errors
    /// If the KEK does not unwrap the data key.
    pub async fn is_old(&self, keks: &Keks<'_>, deadline: Deadline) -> Result<bool, SealError> {
        let Body::Envelope(envelope) = &self.body else { return Ok(false) };
        let unwrapped = keks.unwrap(&self.kek, envelope.wrapped(), deadline).await;
        Ok(unwrapped.map_err(|source| SealError::Kek { source })?.version.is_old)
    }

    /// Wraps the data key again, with the newest version of its KEK, or seals the secret under another KEK, for the one of these references
    /// that opens it. What comes out has been opened again.
    ///
    /// # Errors
    /// If the value does not open by any of the references, or a KEK does not do its part.
    pub async fn rewrap(
        self,
        to: &KekUri,
        references: &[Reference],
        keks: &Keks<'_>,
        deadline: Deadline,
    ) -> Result<Rewrapped, SealError> {
        let kek_error = |source| SealError::Kek { source };
        if let (true, Body::Envelope(envelope)) = (self.kek == *to, &self.body) {
            let unwrapped = keks.unwrap(&self.kek, envelope.wrapped(), deadline).await.map_err(kek_error)?;
            if !unwrapped.version.is_old {
                return Ok(Rewrapped::Current(self));
            }
            let wrapped = keks.wrap(to, &unwrapped.data_key, deadline).await.map_err(kek_error)?;
            let again = keks.unwrap(to, &wrapped, deadline).await.map_err(kek_error)?;
            if again.data_key.serialized() != unwrapped.data_key.serialized() {
                return Err(SealError::NotTheSame);
            }
            let envelope = envelope.rewrapped(&wrapped).map_err(|source| SealError::Envelope { source })?;
            return Ok(Rewrapped::Moved(SealedValue { kek: self.kek, body: Body::Envelope(envelope) }));
        }
        let mut refusal = SealError::Plaintext;
        for reference in references {
            match self.open(reference, keks, deadline).await {
                Ok((secret, _)) => {
                    let moved = SealedValue::seal(&secret, to.clone(), reference, keks, deadline).await?;
                    // What opens is what was sealed: its tag says so.
                    moved.open(reference, keks, deadline).await?;
                    return Ok(Rewrapped::Moved(moved));
                }
                // Only this can mean that it was sealed for another spelling.
                Err(error @ SealError::Envelope { source: EnvelopeError::Authentication }) => refusal = error,
                Err(error) if matches!(self.body, Body::Direct(_)) => refusal = error,
                Err(error) => return Err(error),
            }
        }
        Err(refusal)
    }
}

/// What [`SealedValue::rewrap`] did.
pub enum Rewrapped {
    /// Nothing was to be done.
    Current(SealedValue),
    /// The value under the new KEK, or the new version of its own.
    Moved(SealedValue),
}

/// Whether a field's text is, or means to be, a sealed value. Anything else is plaintext.
pub fn is_sealed(text: &str) -> bool {
    text.trim_ascii_start().starts_with(MARK)
}

fn is_version(text: &str) -> bool {
    let version = text.strip_prefix(MARK);
    version.is_some_and(|version| version.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'/'))
}

impl FromStr for SealedValue {
    type Err = SealError;

    /// Reads one line. Space around it, as it comes with copying by hand, is passed over.
    fn from_str(text: &str) -> Result<SealedValue, SealError> {
        let mut parts = text.trim_ascii().split(' ');
        let is_direct = match parts.next() {
            Some(VERSION) => false,
            Some(VERSION_DIRECT) => true,
            Some(version) if is_version(version) => {
                return Err(SealError::Version { found: version.to_owned() });
            }
            // Another character than a space after the version: the rest, which may have a PIN, is not quoted.
            Some(version) if version.starts_with(MARK) => return Err(SealError::Form),
            _ => return Err(SealError::Plaintext),
        };
        let (Some(kek), Some(body), None) = (parts.next(), parts.next(), parts.next()) else {
            return Err(SealError::Form);
        };
        let kek = kek.parse().map_err(|source| SealError::KekUri { source })?;
        let bytes = BASE64_STANDARD.decode(body).map_err(|_| SealError::Base64)?;
        let body = if is_direct {
            Body::Direct(bytes)
        } else {
            Body::Envelope(Envelope::parse(bytes).map_err(|source| SealError::Envelope { source })?)
        };
        Ok(SealedValue { kek, body })
    }
}

impl fmt::Display for SealedValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (version, bytes) = match &self.body {
            Body::Envelope(envelope) => (VERSION, envelope.as_bytes()),
            Body::Direct(bytes) => (VERSION_DIRECT, bytes.as_slice()),
        };
        write!(f, "{version} {} {}", self.kek, BASE64_STANDARD.encode(bytes))
    }
}

/// What a value is bound to: its prefix, and the reference without its query, as the trusted side spells it.
fn associated_data(kek: &KekUri, reference: &Reference) -> String {
    format!("{VERSION} {kek} {}", reference.as_str())
}

/// Why a sealed value could not be made or opened.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are named for what they hold")]
pub enum SealError {
    /// The field holds something that is not sealed.
    #[error("the field holds a value that is not sealed")]
    Plaintext,
    /// A format of the future, or a typing error.
    #[error("the sealed value is of version {found:.40?}, this program knows \"sealed:v1\" and \"sealed:v1/direct\"")]
    Version { found: String },
    /// Not three words.
    #[error("the sealed value is not of the form \"sealed:v1 <KEK URI> <base64>\"")]
    Form,
    /// The third word is not base64, or was cut off within a group of four characters.
    #[error("the sealed value's envelope is not base64")]
    Base64,
    /// The second word is not the URI of a KEK.
    #[error("the sealed value names no KEK that this program knows")]
    KekUri { source: KekUriError },
    /// The envelope cannot be read or opened.
    #[error("the sealed value does not open")]
    Envelope { source: EnvelopeError },
    /// An empty secret. `oci-secrets seal` does not seal one, other programs can.
    #[error("the sealed value contains an empty secret")]
    Empty,
    /// What a KEK gave back is not what it was given.
    #[error("the rewrapped key does not match the original")]
    NotTheSame,
    /// The KEK cannot be used.
    #[error(transparent)]
    Kek { source: KekError },
}

impl Fault for SealError {
    fn class(&self) -> Class {
        match self {
            SealError::Kek { source } => source.class(),
            SealError::Envelope { source } => source.class(),
            SealError::NotTheSame => Class::Unavailable,
            SealError::Plaintext
            | SealError::Version { .. }
            | SealError::Form
            | SealError::Base64
            | SealError::Empty
            | SealError::KekUri { .. } => Class::Data,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            SealError::Version { .. } => Some("a newer oci-secrets may have sealed it".into()),
            SealError::Form
            | SealError::Base64
            | SealError::Envelope { source: EnvelopeError::Truncated | EnvelopeError::WrappedLength } => {
                Some("store the whole line that `oci-secrets seal` prints".into())
            }
            SealError::Kek { source } => source.hint(),
            SealError::Plaintext
            | SealError::KekUri { .. }
            | SealError::Empty
            | SealError::NotTheSame
            | SealError::Envelope { .. } => None,
        }
    }
}

impl SealError {
    /// The hint for a value of this reference.
    pub fn hint_for(&self, reference: &Reference) -> Option<String> {
        let reference = reference.as_str();
        match self {
            SealError::Plaintext => {
                Some(format!("seal it for this reference: oci-secrets seal --kek URI --for \"{reference}\""))
            }
            SealError::Empty => {
                Some(format!("seal the secret again: oci-secrets seal --kek URI --for \"{reference}\""))
            }
            SealError::Envelope { source: EnvelopeError::Authentication } => Some(format!(
                "a value opens only by the reference it was sealed for, in the same spelling: here \"{reference}\""
            )),
            other => other.hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> SealError {
        text.parse::<SealedValue>().err().unwrap()
    }

    #[test]
    fn tells_a_plain_value_from_a_sealed_one_of_another_version() {
        assert!(matches!(refusal("hunter2"), SealError::Plaintext));
        assert!(matches!(refusal("sealed:v2 local-kek:x AAAA"), SealError::Version { .. }));
        assert!(matches!(refusal("sealed:v1/other local-kek:x AAAA"), SealError::Version { .. }));
        assert!(is_sealed(" sealed:v9"));
        assert!(!is_sealed("Sealed:v1"));
    }

    #[test]
    fn quotes_nothing_but_a_version() {
        for odd in ["sealed:v1\u{a0}pkcs11:token=t?pin-value=1234", "sealed:v1\tlocal-kek:x", "sealed:v1,canary"] {
            assert!(matches!(refusal(odd), SealError::Form), "{odd}");
        }
    }

    #[test]
    fn names_the_part_that_is_wrong() {
        assert!(matches!(refusal("sealed:v1 local-kek:x"), SealError::Form));
        assert!(matches!(refusal("sealed:v1 local-kek:x AA AA"), SealError::Form));
        assert!(matches!(refusal("sealed:v1  local-kek:x AAAA"), SealError::Form));
        assert!(matches!(refusal("sealed:v1 vault:x AAAA"), SealError::KekUri { .. }));
        assert!(matches!(refusal("sealed:v1 local-kek:x A"), SealError::Base64));
        assert!(matches!(refusal("sealed:v1 local-kek:x AAAA"), SealError::Envelope { .. }));
    }
}
