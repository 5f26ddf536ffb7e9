//! A key that expires in the kernel, even if every process of ours is killed.
//!
//! It is in root's user keyring ([user-keyring(7)](https://man7.org/linux/man-pages/man7/user-keyring.7.html)) with a timeout. After
//! the timeout, or a reboot, no process can read it. It is never on a disk or in swap.
//!
//! Every process with uid 0 in the initial user namespace shares this keyring, those of a container without a user namespace
//! included. Such a process can read the key and remove it. So the key alone decrypts nothing (`store.rs`), its removal is detected,
//! and its permissions prevent changes to its bytes and its timeout.

use linux_keyutils::{Key, KeyError, KeyPermissionsBuilder, KeyRing, KeyRingIdentifier, Permission};
use ring::rand::{SecureRandom as _, SystemRandom};
use zeroize::Zeroizing;

/// The length of a key, in bytes.
pub(super) const KEY_BYTES: usize = 32;

/// A key in the kernel's keyring, by its serial number.
#[derive(Clone, Copy, Debug)]
pub(super) struct ExpiringKey(i32);

/// The state of a key with a given serial number.
pub(super) enum Content {
    /// The key.
    Bytes(Zeroizing<[u8; KEY_BYTES]>),
    /// An expired key. A few minutes later the kernel garbage-collects it.
    Expired,
    /// No such key, or a revoked or invalidated one.
    Missing,
}

impl ExpiringKey {
    /// Adds a random key with a timeout in seconds.
    pub(super) fn new(name: &str, seconds: u64) -> Result<(ExpiringKey, Zeroizing<[u8; KEY_BYTES]>), KeyringError> {
        let bytes = random_key()?;
        let ring = KeyRing::from_special_id(KeyRingIdentifier::User, true)?;
        let key = ring.add_key(name, bytes.as_slice())?;
        let configured = || {
            key.set_timeout(usize::try_from(seconds).unwrap_or(usize::MAX))?;
            // By uid, not by session: hooks run in the session of an engine. Invalidating takes SEARCH.
            let used = || Permission::VIEW | Permission::READ | Permission::SEARCH;
            key.set_perms(KeyPermissionsBuilder::builder().posessor(used()).user(used()).build())
        };
        match configured() {
            Ok(()) => Ok((ExpiringKey(key.get_id().as_raw_id()), bytes)),
            Err(error) => {
                let _ = key.invalidate();
                Err(error.into())
            }
        }
    }

    /// The key with this serial number.
    pub(super) fn of(serial: i32) -> ExpiringKey {
        ExpiringKey(serial)
    }

    /// Its serial number.
    pub(super) fn serial(self) -> i32 {
        self.0
    }

    /// Reads it.
    pub(super) fn read(self) -> Result<Content, KeyringError> {
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        match self.key().read(&mut *bytes) {
            Ok(KEY_BYTES) => Ok(Content::Bytes(bytes)),
            Err(KeyError::KeyExpired) => Ok(Content::Expired),
            Ok(_) | Err(KeyError::KeyRevoked | KeyError::KeyDoesNotExist) => Ok(Content::Missing),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes it from the kernel. This fails only if it is gone already.
    pub(super) fn invalidate(self) {
        let _ = self.key().invalidate();
    }

    fn key(self) -> Key {
        Key::from_id(linux_keyutils::KeySerialId(self.0))
    }
}

/// Random bytes for a key.
pub(super) fn random_key() -> Result<Zeroizing<[u8; KEY_BYTES]>, KeyringError> {
    let mut bytes = Zeroizing::new([0; KEY_BYTES]);
    SystemRandom::new().fill(&mut *bytes).map_err(|_| KeyringError::NoRandom)?;
    Ok(bytes)
}

/// Why the kernel does not store a key.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// getrandom(2) failed.
    #[error("the kernel returned no random bytes")]
    NoRandom,
    /// keyctl(2) or add_key(2) failed.
    #[error("cannot store a key in root's keyring: {answer}")]
    Kernel { answer: String },
}

impl From<KeyError> for KeyringError {
    fn from(error: KeyError) -> KeyringError {
        KeyringError::Kernel { answer: format!("{error:?}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harden::is_root_of_the_host;

    fn key(what: &str, seconds: u64) -> (ExpiringKey, Zeroizing<[u8; KEY_BYTES]>) {
        ExpiringKey::new(&format!("oci-secrets-test-{what}-{}", std::process::id()), seconds).unwrap()
    }

    #[test]
    fn a_key_ends_on_demand_and_by_its_timeout() {
        if !is_root_of_the_host() {
            return;
        }
        let (demand, bytes) = key("demand", 60);
        assert!(matches!(demand.read(), Ok(Content::Bytes(read)) if read == bytes));
        demand.invalidate();
        assert!(matches!(demand.read(), Ok(Content::Missing)));

        let (timeout, _) = key("time", 1);
        while matches!(timeout.read().unwrap(), Content::Bytes(_)) {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    #[test]
    fn no_process_changes_a_key_or_its_timeout() {
        if !is_root_of_the_host() {
            return;
        }
        let (key, bytes) = key("fixed", 60);
        assert!(key.key().update(&[0; KEY_BYTES]).is_err());
        assert!(key.key().set_timeout(3600).is_err());
        assert!(matches!(key.read(), Ok(Content::Bytes(read)) if read == bytes));
        key.invalidate();
    }
}
