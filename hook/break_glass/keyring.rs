//! A key that the kernel forgets in time, whatever becomes of us.
//!
//! It is kept in root's own keyring ([user-keyring(7)](https://man7.org/linux/man-pages/man7/user-keyring.7.html)) with a timeout: after it,
//! or a reboot, nobody can read the key, and what it sealed is lost. No process has to live for that, and no disk or swap has it.

use linux_keyutils::{Key, KeyError, KeyPermissionsBuilder, KeyRing, KeyRingIdentifier, Permission};
use ring::rand::{SecureRandom as _, SystemRandom};
use zeroize::Zeroizing;

/// The length of a key, in bytes.
pub(super) const KEY_BYTES: usize = 32;

/// A key in the kernel, by its number there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Forgotten(i32);

impl Forgotten {
    /// Makes a random key that is forgotten after so many seconds.
    pub(super) fn new(name: &str, seconds: u64) -> Result<(Forgotten, Zeroizing<[u8; KEY_BYTES]>), KeyringError> {
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        SystemRandom::new().fill(&mut *bytes).map_err(|_| KeyringError::NoRandom)?;
        let ring = KeyRing::from_special_id(KeyRingIdentifier::User, true)?;
        let key = ring.add_key(name, bytes.as_slice())?;
        let dressed = || {
            key.set_timeout(usize::try_from(seconds).unwrap_or(usize::MAX))?;
            // Whoever is root reads it, in a session of whatever kind: hooks run in those of an engine.
            key.set_perms(KeyPermissionsBuilder::builder().posessor(Permission::ALL).user(Permission::ALL).build())
        };
        match dressed() {
            Ok(()) => Ok((Forgotten(key.get_id().as_raw_id()), bytes)),
            Err(error) => {
                let _ = key.revoke();
                Err(error.into())
            }
        }
    }

    /// The key of this number.
    pub(super) fn of(number: i32) -> Forgotten {
        Forgotten(number)
    }

    /// Its number.
    pub(super) fn number(self) -> i32 {
        self.0
    }

    /// Reads it; `None` when it is forgotten.
    pub(super) fn read(self) -> Result<Option<Zeroizing<[u8; KEY_BYTES]>>, KeyringError> {
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        match self.key().read(&mut *bytes) {
            Ok(KEY_BYTES) => Ok(Some(bytes)),
            Ok(_) | Err(KeyError::KeyExpired | KeyError::KeyRevoked | KeyError::KeyDoesNotExist) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes the kernel forget it now.
    pub(super) fn forget(self) {
        // It fails where it is forgotten already.
        let _ = self.key().invalidate();
    }

    fn key(self) -> Key {
        Key::from_id(linux_keyutils::KeySerialId(self.0))
    }
}

/// Why the kernel keeps no key for us.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// No randomness.
    #[error("the kernel gives no random bytes")]
    NoRandom,
    /// No keyring, or none for us.
    #[error("the kernel keeps no key for root: {answer}")]
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

    #[test]
    fn is_forgotten_on_demand_and_in_time() {
        if !is_root_of_the_host() {
            return;
        }
        let name = |what: &str| format!("oci-secrets-test-{what}-{}", std::process::id());
        let (key, bytes) = Forgotten::new(&name("demand"), 60).unwrap();
        assert_eq!(key.read().unwrap().as_deref(), Some(&*bytes));
        key.forget();
        assert!(key.read().unwrap().is_none());

        let (key, _) = Forgotten::new(&name("time"), 1).unwrap();
        while key.read().unwrap().is_some() {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}
