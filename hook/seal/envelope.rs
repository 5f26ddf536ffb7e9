//! The envelope: a secret under a data key, and the data key under a KEK.
//!
//! The bytes are those of Tink's `KmsEnvelopeAead` with an AES-256-GCM data key, so that Tink in any language makes and opens them:
//!
//! ```text
//! length of the wrapped data key (4 bytes, big-endian) | wrapped data key | IV (12) | ciphertext | tag (16)
//! ```
//!
//! What is wrapped is Tink's serialized `AesGcmKey`: the two bytes `1a 20`, then the 32 key bytes. The associated data is bound to
//! the secret's ciphertext; the KEK sees none. The wire format is described in
//! [Tink's documentation](https://developers.google.com/tink/wire-format).

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, MAX_TAG_LEN, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

use crate::fault::{Class, Fault};
use crate::secret::Secret;

/// The longest wrapped data key that Tink reads.
pub const WRAPPED_BYTES_MAX: usize = 4096;

const LENGTH_BYTES: usize = 4;
const KEY_BYTES: usize = 32;
/// Protocol Buffers: field 3 (`key_value`), length-delimited, 32 bytes. Field 1 (`version`) is 0 and so left out.
const KEY_PREFIX: [u8; 2] = [0x1a, 0x20];

/// The bytes of an envelope, whose parts are known to be there.
pub struct Envelope {
    bytes: Vec<u8>,
    /// Where the wrapped data key ends and the IV begins.
    wrapped_end: usize,
}

/// A data key, as Tink serializes it: what a KEK wraps.
pub struct DataKey(Zeroizing<Vec<u8>>);

impl Envelope {
    /// Finds the parts of an envelope.
    ///
    /// # Errors
    /// If it is cut short, or its length field cannot be right.
    pub fn parse(bytes: Vec<u8>) -> Result<Envelope, EnvelopeError> {
        let length = bytes.first_chunk().map(|length| u32::from_be_bytes(*length)).ok_or(EnvelopeError::Truncated)?;
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length == 0 || length > WRAPPED_BYTES_MAX {
            return Err(EnvelopeError::WrappedLength);
        }
        let wrapped_end = LENGTH_BYTES + length;
        if bytes.len() < wrapped_end + NONCE_LEN + MAX_TAG_LEN {
            return Err(EnvelopeError::Truncated);
        }
        Ok(Envelope { bytes, wrapped_end })
    }

    /// Encrypts a secret under a data key that was wrapped before.
    ///
    /// # Errors
    /// If there are no random bytes, or the wrapped key is longer than Tink reads.
    pub fn seal(
        secret: &Secret,
        wrapped: Vec<u8>,
        data_key: &DataKey,
        associated_data: &[u8],
    ) -> Result<Envelope, EnvelopeError> {
        let length = match u32::try_from(wrapped.len()) {
            Ok(length) if length > 0 && wrapped.len() <= WRAPPED_BYTES_MAX => length,
            _ => return Err(EnvelopeError::WrappedLength),
        };
        let mut bytes =
            Vec::with_capacity(LENGTH_BYTES + wrapped.len() + NONCE_LEN + secret.expose().len() + MAX_TAG_LEN);
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(&wrapped);
        bytes.extend_from_slice(&encrypt(data_key.key()?, secret.expose(), associated_data)?);
        Ok(Envelope { bytes, wrapped_end: LENGTH_BYTES + wrapped.len() })
    }

    /// Decrypts the secret.
    ///
    /// # Errors
    /// If the data key is not an AES-256-GCM key, or anything has changed since the secret was sealed: AES-GCM does not say what.
    pub fn open(&self, data_key: &DataKey, associated_data: &[u8]) -> Result<Secret, EnvelopeError> {
        let sealed = self.bytes.get(self.wrapped_end..).unwrap_or_default();
        decrypt(data_key.key()?, sealed, associated_data).map(Secret::new).ok_or(EnvelopeError::Authentication)
    }

    /// The same secret under the same data key, which was wrapped again.
    ///
    /// # Errors
    /// If the wrapped key is longer than Tink reads.
    pub fn rewrapped(&self, wrapped: &[u8]) -> Result<Envelope, EnvelopeError> {
        let length = match u32::try_from(wrapped.len()) {
            Ok(length) if length > 0 && wrapped.len() <= WRAPPED_BYTES_MAX => length,
            _ => return Err(EnvelopeError::WrappedLength),
        };
        let sealed = self.bytes.get(self.wrapped_end..).unwrap_or_default();
        let bytes = [&length.to_be_bytes(), wrapped, sealed].concat();
        Ok(Envelope { bytes, wrapped_end: LENGTH_BYTES + wrapped.len() })
    }

    /// The wrapped data key.
    pub fn wrapped(&self) -> &[u8] {
        self.bytes.get(LENGTH_BYTES..self.wrapped_end).unwrap_or_default()
    }

    /// The whole envelope.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl DataKey {
    /// Makes a new key of random bytes.
    ///
    /// # Errors
    /// If the kernel gives none.
    pub fn generate() -> Result<DataKey, EnvelopeError> {
        let mut serialized = Zeroizing::new(KEY_PREFIX.to_vec());
        serialized.extend_from_slice(&random::<KEY_BYTES>()?);
        Ok(DataKey(serialized))
    }

    /// Takes what a KEK unwrapped.
    pub fn from_serialized(serialized: Vec<u8>) -> DataKey {
        DataKey(Zeroizing::new(serialized))
    }

    /// What a KEK wraps.
    pub fn serialized(&self) -> &[u8] {
        &self.0
    }

    fn key(&self) -> Result<&[u8; KEY_BYTES], EnvelopeError> {
        self.0.strip_prefix(&KEY_PREFIX).and_then(|key| key.try_into().ok()).ok_or(EnvelopeError::DataKeyKind)
    }
}

/// AES-256-GCM under a random IV: `IV | ciphertext | tag`.
///
/// # Errors
/// If there are no random bytes.
pub fn encrypt(key: &[u8; KEY_BYTES], plaintext: &[u8], associated_data: &[u8]) -> Result<Vec<u8>, EnvelopeError> {
    let iv = random::<NONCE_LEN>()?;
    let mut ciphertext = Zeroizing::new(Vec::with_capacity(plaintext.len() + MAX_TAG_LEN));
    ciphertext.extend_from_slice(plaintext);
    aes_256_gcm(key)?
        .seal_in_place_append_tag(Nonce::assume_unique_for_key(iv), Aad::from(associated_data), &mut *ciphertext)
        .map_err(|_| EnvelopeError::TooLong)?;
    Ok([iv.as_slice(), &ciphertext].concat())
}

/// Opens what [`encrypt`] made; `None` if the key, the associated data or any byte is another.
pub fn decrypt(key: &[u8; KEY_BYTES], sealed: &[u8], associated_data: &[u8]) -> Option<Vec<u8>> {
    let (iv, ciphertext) = sealed.split_first_chunk::<NONCE_LEN>()?;
    let mut plaintext = Zeroizing::new(ciphertext.to_vec());
    let nonce = Nonce::assume_unique_for_key(*iv);
    let bytes = aes_256_gcm(key).ok()?.open_in_place(nonce, Aad::from(associated_data), &mut plaintext).ok()?.len();
    plaintext.truncate(bytes);
    Some(std::mem::take(&mut *plaintext))
}

/// Random bytes from the kernel.
///
/// # Errors
/// If it gives none.
pub fn random<const BYTES: usize>() -> Result<[u8; BYTES], EnvelopeError> {
    let mut bytes = [0; BYTES];
    SystemRandom::new().fill(&mut bytes).map_err(|_| EnvelopeError::NoRandom)?;
    Ok(bytes)
}

fn aes_256_gcm(key: &[u8; KEY_BYTES]) -> Result<LessSafeKey, EnvelopeError> {
    UnboundKey::new(&AES_256_GCM, key).map(LessSafeKey::new).map_err(|_| EnvelopeError::DataKeyKind)
}

/// Why an envelope could not be made, read or opened.
#[derive(Debug, thiserror::Error)]
pub enum EnvelopeError {
    /// Fewer bytes than its parts need.
    #[error("the envelope is cut short")]
    Truncated,
    /// The length field says 0 or more than Tink allows, or the KEK wrapped into as much.
    #[error("the envelope's wrapped data key is not between 1 and {WRAPPED_BYTES_MAX} bytes long")]
    WrappedLength,
    /// What the KEK unwrapped is not Tink's AES-256-GCM key.
    #[error("the data key is not an AES-256-GCM key")]
    DataKeyKind,
    /// AES-GCM refused.
    #[error("it was sealed for another reference or KEK, or has been changed since")]
    Authentication,
    /// More than AES-GCM takes.
    #[error("the secret is too long")]
    TooLong,
    /// The kernel gave no random bytes.
    #[error("the kernel gives no random bytes")]
    NoRandom,
}

impl Fault for EnvelopeError {
    fn class(&self) -> Class {
        match self {
            EnvelopeError::NoRandom => Class::Kernel,
            EnvelopeError::Truncated
            | EnvelopeError::WrappedLength
            | EnvelopeError::DataKeyKind
            | EnvelopeError::Authentication
            | EnvelopeError::TooLong => Class::Data,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRAPPED: [u8; 3] = [7, 7, 7];

    fn sealed(data_key: &DataKey) -> Vec<u8> {
        Envelope::seal(&Secret::new(b"canary".to_vec()), WRAPPED.to_vec(), data_key, b"ad").unwrap().bytes
    }

    #[test]
    fn opens_what_it_sealed() {
        let data_key = DataKey::generate().unwrap();
        let envelope = Envelope::parse(sealed(&data_key)).ok().unwrap();
        assert_eq!(envelope.wrapped(), WRAPPED);
        assert_eq!(envelope.open(&data_key, b"ad").ok().unwrap().expose(), b"canary");
    }

    #[test]
    fn opens_an_empty_secret() {
        let data_key = DataKey::generate().unwrap();
        let bytes = Envelope::seal(&Secret::new(Vec::new()), WRAPPED.to_vec(), &data_key, b"").unwrap().bytes;
        assert!(Envelope::parse(bytes).ok().unwrap().open(&data_key, b"").ok().unwrap().expose().is_empty());
    }

    #[test]
    fn a_flipped_bit_in_any_byte_is_noticed() {
        let data_key = DataKey::generate().unwrap();
        let good = sealed(&data_key);
        for index in 0..good.len() {
            let mut bad = good.clone();
            bad[index] ^= 1;
            let opened = Envelope::parse(bad).and_then(|e| {
                if e.wrapped() == WRAPPED { e.open(&data_key, b"ad") } else { Err(EnvelopeError::Truncated) }
            });
            assert!(opened.is_err(), "byte {index}");
        }
    }

    #[test]
    fn any_truncation_is_noticed() {
        let data_key = DataKey::generate().unwrap();
        let good = sealed(&data_key);
        for length in 0..good.len() {
            let opened = Envelope::parse(good[..length].to_vec()).and_then(|e| e.open(&data_key, b"ad"));
            assert!(opened.is_err(), "{length} bytes");
        }
    }

    #[test]
    fn another_context_does_not_open() {
        let data_key = DataKey::generate().unwrap();
        let envelope = Envelope::parse(sealed(&data_key)).ok().unwrap();
        assert!(matches!(envelope.open(&data_key, b"other"), Err(EnvelopeError::Authentication)));
        assert!(matches!(envelope.open(&DataKey::generate().unwrap(), b"ad"), Err(EnvelopeError::Authentication)));
    }

    #[test]
    fn only_aes_256_gcm_keys_are_taken() {
        let envelope = Envelope::parse(sealed(&DataKey::generate().unwrap())).ok().unwrap();
        let aes_128 = DataKey::from_serialized([&[0x1a, 0x10][..], &[0; 16]].concat());
        assert!(matches!(envelope.open(&aes_128, b"ad"), Err(EnvelopeError::DataKeyKind)));
    }
}
