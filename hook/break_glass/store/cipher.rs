//! The encryption of the store, under a key that is derived from two halves.

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Salt};
use zeroize::Zeroizing;

use super::error::StoreError;
use crate::break_glass::Kept;
use crate::break_glass::keyring::KEY_BYTES;
use crate::secret::Secret;

/// HKDF's `info`: the purpose of the derived key.
const PURPOSE: &[u8] = b"oci-secrets break-glass store";

/// AES-256-GCM. A key encrypts each secret once, so its index is a unique nonce.
pub(super) struct Cipher<'a> {
    pub(super) key: &'a [u8; KEY_BYTES],
    pub(super) bound: &'a [u8],
}

impl Cipher<'_> {
    pub(super) fn seal(&self, index: usize, kept: &Kept, secret: &Secret) -> Result<Zeroizing<Vec<u8>>, StoreError> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(secret.expose().len() + AES_256_GCM.tag_len()));
        bytes.extend_from_slice(secret.expose());
        let (key, aad) = (self.key()?, self.associated_data(kept));
        key.seal_in_place_append_tag(nonce(index), aad, &mut *bytes).map_err(|_| StoreError::Damaged)?;
        Ok(bytes)
    }

    pub(super) fn open(&self, index: usize, kept: &Kept, mut sealed: Zeroizing<Vec<u8>>) -> Result<Secret, StoreError> {
        let (key, aad) = (self.key()?, self.associated_data(kept));
        let opened = key.open_in_place(nonce(index), aad, &mut sealed).map_err(|_| StoreError::Damaged)?;
        Ok(Secret::new(opened.to_vec()))
    }

    fn key(&self) -> Result<LessSafeKey, StoreError> {
        UnboundKey::new(&AES_256_GCM, self.key).map(LessSafeKey::new).map_err(|_| StoreError::Damaged)
    }

    fn associated_data(&self, kept: &Kept) -> Aad<Vec<u8>> {
        Aad::from([self.bound, b"\n", kept.reference.as_bytes()].concat())
    }
}

fn nonce(index: usize) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    for (to, from) in bytes.iter_mut().rev().zip(index.to_le_bytes()) {
        *to = from;
    }
    Nonce::assume_unique_for_key(bytes)
}

/// Derives the key of the store. Neither half alone reveals anything about it.
pub(super) fn derive(half: &[u8], expiring: &[u8; KEY_BYTES]) -> Result<Zeroizing<[u8; KEY_BYTES]>, StoreError> {
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    let derived = Salt::new(HKDF_SHA256, half).extract(expiring);
    let filled = derived.expand(&[PURPOSE], HKDF_SHA256).and_then(|output| output.fill(&mut *key));
    filled.map(|()| key).map_err(|_| StoreError::Damaged)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::break_glass::keyring::random_key;

    #[test]
    fn neither_half_of_the_key_opens_a_secret() {
        let (half, expiring) = (random_key().unwrap(), random_key().unwrap());
        let kept = Kept { reference: "op://AgentVault/db/password".into(), item: "item".into(), version: 1 };
        let key = derive(&*half, &expiring).unwrap();
        let secret = Secret::new(b"canary-secret".to_vec());
        let sealed = Cipher { key: &key, bound: b"bound" }.seal(0, &kept, &secret).unwrap();
        let open = |key: &[u8; KEY_BYTES]| Cipher { key, bound: b"bound" }.open(0, &kept, sealed.clone());
        assert!(open(&key).unwrap().expose() == b"canary-secret");
        let zero = [0; KEY_BYTES];
        for other in [expiring, half.clone(), derive(&zero, &half).unwrap(), derive(&*half, &zero).unwrap()] {
            assert!(matches!(open(&other), Err(StoreError::Damaged)));
        }
    }
}
