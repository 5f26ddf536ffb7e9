//! The store: the secrets of a sealed file while an emergency is open.
//!
//! It is a tmpfs for root only at `/run/oci-secrets/break-glass`, without swap. It is filled while it is detached, and then mounted:
//! if the process that opens an emergency is killed, there is the complete store or none.
//!
//! ```text
//! emergency       the description of the emergency, its end, the serial number of the key in the kernel's keyring
//! half-key        32 random bytes
//! 0, 1, 2 …       each secret under AES-256-GCM, bound to its reference and to `emergency`
//! ```
//!
//! The key that decrypts the secrets is derived from two: one in the kernel's keyring (`keyring.rs`), which expires there, and
//! `half-key`. So an emergency ends even if no process of ours is running. A container that shares root's keyring can end an
//! emergency early, which is reported, but it cannot decrypt anything.

mod account;
mod cipher;
mod error;
mod filesystem;

use std::os::fd::OwnedFd;
use std::time::Duration;

use jiff::Timestamp;
use ring::rand::{SecureRandom as _, SystemRandom};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, fstat, mkdirat, openat, unlinkat};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, UnmountFlags, move_mount, unmount};
use rustix::time::{ClockId, clock_gettime};
use zeroize::Zeroizing;

use self::account::Written;
use self::cipher::{Cipher, derive};
use self::filesystem::{STORE, detached, is_ours, read, write};
use super::Kept;
use super::keyring::{Content, ExpiringKey, KEY_BYTES, KeyringError, random_key};
use super::lock::Locked;
use crate::errno::failed;
use crate::harden::is_root_of_the_host;
use crate::hex::{hex, random_id};
use crate::run_directory::{self, DIRECTORY};
use crate::secret::Secret;

pub use self::account::Account;
pub use self::error::StoreError;

const EMERGENCY: &str = "emergency";
const HALF_KEY: &str = "half-key";

/// The kernel may expire a key this much before the end by our clocks, which are read at another moment.
const CLOCK_MARGIN: Duration = Duration::from_secs(5);

/// An emergency, open or over.
pub struct Emergency {
    directory: OwnedFd,
    written: Written,
    /// The bytes of the file, to which the secrets are bound.
    bound: Vec<u8>,
}

/// The status of an emergency.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Its secrets can be decrypted.
    Open,
    /// Its duration has elapsed.
    Expired,
    /// Its secrets were destroyed, but its end is not recorded yet.
    Closing,
    /// Another process removed the key from the kernel's keyring before it expired: tampering.
    KeyRemoved,
}

/// The key of a store.
enum StoreKey {
    Bytes(Zeroizing<[u8; KEY_BYTES]>),
    Unusable(Status),
}

impl Emergency {
    /// Returns the emergency whose store is mounted, open or over.
    ///
    /// # Errors
    /// If another filesystem is mounted there, or the store cannot be read.
    pub fn current() -> Result<Option<Emergency>, StoreError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = match openat(CWD, STORE, flags, Mode::empty()) {
            Ok(directory) => directory,
            Err(Errno::NOENT) => return Ok(None),
            // Only the host's root opens emergencies. If a security module denies root access, it is unknown whether one is open.
            Err(Errno::ACCESS) if !is_root_of_the_host() => return Ok(None),
            Err(errno) => return Err(failed("openat(store)")(errno).into()),
        };
        let bytes = match read(&directory, EMERGENCY) {
            Ok(bytes) => bytes,
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(failed("openat(emergency)")(errno).into()),
        };
        if !is_ours(&directory)? {
            return Err(StoreError::NotOurs);
        }
        let written = serde_json::from_slice(&bytes).map_err(|_| StoreError::Damaged)?;
        Ok(Some(Emergency { directory, written, bound: bytes.to_vec() }))
    }

    /// Opens a store with these secrets, which are in the order of `account.secrets`.
    ///
    /// # Errors
    /// If one is open already, or a system call fails. Then neither a store nor a key remains.
    pub fn open(
        _lock: &Locked,
        account: Account,
        duration: Duration,
        secrets: &[Secret],
    ) -> Result<Emergency, StoreError> {
        if Emergency::current()?.is_some() {
            return Err(StoreError::IsOpen);
        }
        let seconds = duration.as_secs();
        let (key, bytes) = ExpiringKey::new(&format!("oci-secrets:break-glass:{}", account.id), seconds)?;
        let opened = fill(account, uptime().saturating_add(seconds), key, &bytes, secrets).and_then(mount);
        opened.inspect_err(|_| key.invalidate())
    }

    /// Makes the system calls that [`Emergency::open`] needs, and removes what they create.
    ///
    /// # Errors
    /// If one of them fails.
    pub fn rehearse() -> Result<(), StoreError> {
        detached()?;
        // Two keys of one name would be one key, which the second caller may not change.
        let (key, _) = ExpiringKey::new(&format!("oci-secrets:rehearsal:{}", random_id()), 1)?;
        key.invalidate();
        Ok(())
    }

    /// The description of the emergency.
    pub fn account(&self) -> &Account {
        &self.written.account
    }

    /// The secret for a reference, if it is in the store.
    ///
    /// # Errors
    /// If the emergency is over, or the store was modified.
    pub fn secret(&self, reference: &str) -> Result<Option<(Secret, &Kept)>, StoreError> {
        let Some(index) = self.account().secrets.iter().position(|kept| kept.reference == reference) else {
            return Ok(None);
        };
        let kept = self.account().secrets.get(index).ok_or(StoreError::Damaged)?;
        let key = match self.key()? {
            StoreKey::Bytes(key) => key,
            StoreKey::Unusable(_) => return Err(StoreError::Over),
        };
        let sealed = read(&self.directory, &index.to_string()).map_err(|errno| match errno {
            Errno::NOENT => StoreError::Over,
            other => failed("openat(secret)")(other).into(),
        })?;
        let secret = Cipher { key: &key, bound: &self.bound }.open(index, kept, sealed)?;
        Ok(Some((secret, kept)))
    }

    /// Destroys the secrets: both halves of their key are removed.
    ///
    /// The file is removed first. Only root on the host can remove it, so if the key is missing while the file exists, another process
    /// removed the key.
    pub fn destroy_key(&self) {
        let _ = unlinkat(&self.directory, HALF_KEY, AtFlags::empty());
        ExpiringKey::of(self.written.key).invalidate();
    }

    /// Removes the store after its key was destroyed.
    ///
    /// # Errors
    /// If a file cannot be removed.
    pub fn remove(&self) -> Result<(), StoreError> {
        let secrets = (0..self.account().secrets.len()).map(|index| index.to_string());
        for name in secrets.chain([HALF_KEY.to_owned(), EMERGENCY.to_owned()]) {
            match unlinkat(&self.directory, &name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(failed(format!("unlinkat({name:?})"))(errno).into()),
            }
        }
        // In another mount namespace the mount may remain, empty.
        let _ = unmount(STORE, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
        let _ = unlinkat(CWD, STORE, AtFlags::REMOVEDIR);
        Ok(())
    }

    /// The remaining duration.
    pub fn remaining(&self) -> Duration {
        let by_uptime = self.written.until_uptime.saturating_sub(uptime());
        let by_clock = self.account().until.as_second().saturating_sub(Timestamp::now().as_second());
        Duration::from_secs(by_uptime.min(u64::try_from(by_clock).unwrap_or_default()))
    }

    /// Whether the emergency is open, and if not, why.
    ///
    /// # Errors
    /// If the key or its file cannot be read.
    pub fn status(&self) -> Result<Status, StoreError> {
        Ok(match self.key()? {
            StoreKey::Bytes(_) => Status::Open,
            StoreKey::Unusable(status) => status,
        })
    }

    fn key(&self) -> Result<StoreKey, StoreError> {
        let remaining = self.remaining();
        if remaining.is_zero() {
            return Ok(StoreKey::Unusable(Status::Expired));
        }
        let half = match read(&self.directory, HALF_KEY) {
            Ok(half) => half,
            Err(Errno::NOENT) => return Ok(StoreKey::Unusable(Status::Closing)),
            Err(errno) => return Err(failed("openat(half-key)")(errno).into()),
        };
        match ExpiringKey::of(self.written.key).read()? {
            Content::Bytes(expiring) => derive(&half, &expiring).map(StoreKey::Bytes),
            Content::Missing if remaining > CLOCK_MARGIN => Ok(StoreKey::Unusable(Status::KeyRemoved)),
            Content::Missing | Content::Expired => Ok(StoreKey::Unusable(Status::Expired)),
        }
    }
}

/// A new, unique id for an emergency.
///
/// # Errors
/// If getrandom(2) fails.
pub fn new_id() -> Result<String, StoreError> {
    let mut bytes = [0; 6];
    SystemRandom::new().fill(&mut bytes).map_err(|_| KeyringError::NoRandom)?;
    Ok(hex(&bytes))
}

/// A filled store that is not mounted yet.
struct Filled {
    mount: OwnedFd,
    emergency: Emergency,
}

fn fill(
    account: Account,
    until_uptime: u64,
    key: ExpiringKey,
    expiring: &[u8; KEY_BYTES],
    secrets: &[Secret],
) -> Result<Filled, StoreError> {
    let mount = detached()?;
    let written = Written { account, until_uptime, key: key.serial() };
    let bound = serde_json::to_vec(&written).map_err(|_| StoreError::Damaged)?;
    let half = random_key()?;
    write(&mount, HALF_KEY, &*half)?;
    let cipher = Cipher { key: &*derive(&*half, expiring)?, bound: &bound };
    for (index, (secret, kept)) in secrets.iter().zip(&written.account.secrets).enumerate() {
        write(&mount, &index.to_string(), &cipher.seal(index, kept, secret)?)?;
    }
    write(&mount, EMERGENCY, &bound)?;
    let directory = mount.try_clone().map_err(failed("dup(store)"))?;
    Ok(Filled { mount, emergency: Emergency { directory, written, bound } })
}

/// Mounts the store at its path.
fn mount(filled: Filled) -> Result<Emergency, StoreError> {
    run_directory::create().map_err(failed(format!("mkdirat({DIRECTORY:?})")))?;
    match mkdirat(CWD, STORE, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(failed(format!("mkdirat({STORE:?})"))(errno).into()),
    }
    attach(&filled.mount).inspect_err(|_| {
        let _ = unlinkat(CWD, STORE, AtFlags::REMOVEDIR);
    })?;
    Ok(filled.emergency)
}

fn attach(mount: &OwnedFd) -> Result<(), StoreError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let target = openat(CWD, STORE, flags, Mode::empty()).map_err(failed("openat(store)"))?;
    let metadata = fstat(&target).map_err(failed("fstat(store)"))?;
    if metadata.st_uid != 0 || metadata.st_mode & 0o077 != 0 {
        return Err(StoreError::NotOurs);
    }
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(mount, "", &target, "", flags).map_err(failed("move_mount(store)"))?)
}

/// Seconds since boot, including suspend (`CLOCK_BOOTTIME`).
fn uptime() -> u64 {
    u64::try_from(clock_gettime(ClockId::Boottime).tv_sec).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::harden::is_root_of_the_host;

    #[test]
    fn rehearsals_at_the_same_time_do_not_disturb_each_other() {
        if !is_root_of_the_host() {
            return;
        }
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| (0..50).for_each(|_| Emergency::rehearse().unwrap()));
            }
        });
    }
}
