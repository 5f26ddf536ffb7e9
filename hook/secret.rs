//! The plaintext bytes of one secret.

use zeroize::Zeroizing;

/// The plaintext bytes of one secret; they are zeroed when it is dropped.
///
/// It has no `Debug`, `Clone`, `Display` or comparison, so that it can neither be printed nor copied by accident. Every place
/// that touches the bytes says [`expose`](Secret::expose).
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes ownership of the bytes.
    pub fn new(bytes: Vec<u8>) -> Secret {
        Secret(Zeroizing::new(bytes))
    }

    /// The bytes themselves. What is copied from here is the caller's to zero.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}
