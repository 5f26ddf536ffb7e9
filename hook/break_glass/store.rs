//! The store: the secrets of a sealed file while an emergency is open.
//!
//! It is a tmpfs of root's alone at `/run/oci-secrets/break-glass`, kept out of swap. It is filled while nothing leads to it and takes
//! its place as a whole, so that there is all of it or nothing, whenever its maker is killed.
//!
//! ```text
//! emergency       what is open, until when, why, by whom; the number of the key
//! 0, 1, 2 …       each secret under AES-256-GCM, bound to its reference and to `emergency`
//! ```
//!
//! The key is in the kernel alone (`keyring.rs`), which forgets it when the time is over. So the end needs nobody: no process
//! waits for it, and whatever is killed, what stays behind until somebody clears it away opens for nobody.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use jiff::Timestamp;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom as _, SystemRandom};
use rustix::fs::{AtFlags, CWD, FsWord, Mode, OFlags, fstat, fstatfs, mkdirat, openat, unlinkat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, UnmountFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, move_mount, unmount,
};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::Kept;
use super::keyring::{Forgotten, KEY_BYTES, KeyringError};
use super::lock::Locked;
use crate::errno::{SyscallError, failed};
use crate::fault::{Class, Fault};
use crate::secret::Secret;

const RUN: &str = "/run/oci-secrets";
const STORE: &str = "/run/oci-secrets/break-glass";
const EMERGENCY: &str = "emergency";

const TMPFS_MAGIC: FsWord = 0x0102_1994;
const RAMFS_MAGIC: FsWord = 0x8584_58f6;
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// What is open, and on whose account.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Account {
    /// A name for this emergency in all records.
    pub id: String,
    /// When it was opened.
    pub opened: Timestamp,
    /// When it is over.
    pub until: Timestamp,
    /// Why it was opened.
    pub reason: String,
    /// The ticket, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ticket: Option<String>,
    /// Who opened it.
    pub operators: Vec<String>,
    /// The SHA-256 of the sealed file.
    pub file: String,
    /// What is in the store.
    pub secrets: Vec<Kept>,
}

/// The file `emergency`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    account: Account,
    /// The same end on a clock that nobody can set back, in seconds since the machine started.
    until_uptime: u64,
    key: i32,
}

/// An emergency that is open.
pub struct Emergency {
    directory: OwnedFd,
    written: Written,
    /// The bytes of the file, to which the secrets are bound.
    bound: Vec<u8>,
}

impl Emergency {
    /// The emergency that has the place, be it over or not.
    ///
    /// # Errors
    /// If there is something else, or it cannot be read.
    pub fn at_place() -> Result<Option<Emergency>, StoreError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = match openat(CWD, STORE, flags, Mode::empty()) {
            Ok(directory) => directory,
            // A user without root sees none, and has none.
            Err(Errno::NOENT | Errno::ACCESS) => return Ok(None),
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

    /// Opens a store with these secrets, which are in the account's order.
    ///
    /// # Errors
    /// If one is open already, or the kernel refuses. Nothing is left behind.
    pub fn open(
        _lock: &Locked,
        account: Account,
        duration: Duration,
        secrets: &[Secret],
    ) -> Result<Emergency, StoreError> {
        if Emergency::at_place()?.is_some() {
            return Err(StoreError::IsOpen);
        }
        let seconds = duration.as_secs();
        let (key, bytes) = Forgotten::new(&format!("oci-secrets:break-glass:{}", account.id), seconds)?;
        let made = fill(account, uptime().saturating_add(seconds), key, &bytes, secrets).and_then(place);
        made.inspect_err(|_| key.forget())
    }

    /// Does what the kernel has a part in, and leaves nothing: a filesystem without a place, and a key that is forgotten at once.
    ///
    /// # Errors
    /// If the kernel refuses one of them.
    pub fn rehearse() -> Result<(), StoreError> {
        detached()?;
        let (key, _) = Forgotten::new("oci-secrets:rehearsal", 1)?;
        key.forget();
        Ok(())
    }

    /// What is open, and on whose account.
    pub fn account(&self) -> &Account {
        &self.written.account
    }

    /// The secret for a reference, if it is in the store.
    ///
    /// # Errors
    /// If its time is over by now, or it was changed.
    pub fn secret(&self, reference: &str) -> Result<Option<(Secret, &Kept)>, StoreError> {
        let Some(index) = self.account().secrets.iter().position(|kept| kept.reference == reference) else {
            return Ok(None);
        };
        let kept = self.account().secrets.get(index).ok_or(StoreError::Damaged)?;
        let key = Forgotten::of(self.written.key).read()?.filter(|_| !self.has_expired()).ok_or(StoreError::Over)?;
        let sealed = read(&self.directory, &index.to_string()).map_err(|errno| match errno {
            Errno::NOENT => StoreError::Over,
            other => failed("openat(secret)")(other).into(),
        })?;
        let secret = Cipher { key: &key, bound: &self.bound }.open(index, kept, sealed)?;
        Ok(Some((secret, kept)))
    }

    /// Destroys the secrets: the kernel forgets their key.
    pub fn forget(&self) {
        Forgotten::of(self.written.key).forget();
    }

    /// Clears away what is left of the store when its secrets are destroyed.
    ///
    /// # Errors
    /// If something stays behind.
    pub fn clear_away(&self) -> Result<(), StoreError> {
        for index in 0..self.account().secrets.len() {
            match unlinkat(&self.directory, index.to_string(), AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(failed("unlinkat(secret)")(errno).into()),
            }
        }
        match unlinkat(&self.directory, EMERGENCY, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(failed("unlinkat(emergency)")(errno).into()),
        }
        // Where the mount is not ours to remove, as in another mount namespace, it is empty all the same.
        let _ = unmount(STORE, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
        let _ = unlinkat(CWD, STORE, AtFlags::REMOVEDIR);
        Ok(())
    }

    /// How long it is still open.
    pub fn remaining(&self) -> Duration {
        let by_uptime = self.written.until_uptime.saturating_sub(uptime());
        let by_clock = self.account().until.as_second().saturating_sub(Timestamp::now().as_second());
        Duration::from_secs(by_uptime.min(u64::try_from(by_clock).unwrap_or_default()))
    }

    /// Whether its time is over.
    pub fn has_expired(&self) -> bool {
        self.remaining().is_zero()
    }

    /// Whether its secrets are gone: its time is over, or somebody began to end it.
    pub fn is_over(&self) -> bool {
        self.has_expired() || matches!(Forgotten::of(self.written.key).read(), Ok(None))
    }
}

/// A name for an emergency that no other has.
///
/// # Errors
/// If the kernel gives no random bytes.
pub fn new_id() -> Result<String, StoreError> {
    let mut bytes = [0; 6];
    SystemRandom::new().fill(&mut bytes).map_err(|_| KeyringError::NoRandom)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A store that nothing leads to yet.
struct Filled {
    mount: OwnedFd,
    emergency: Emergency,
}

fn fill(
    account: Account,
    until_uptime: u64,
    key: Forgotten,
    bytes: &[u8; KEY_BYTES],
    secrets: &[Secret],
) -> Result<Filled, StoreError> {
    let mount = detached()?;
    let written = Written { account, until_uptime, key: key.number() };
    let bound = serde_json::to_vec(&written).map_err(|_| StoreError::Damaged)?;
    let cipher = Cipher { key: bytes, bound: &bound };
    for (index, (secret, kept)) in secrets.iter().zip(&written.account.secrets).enumerate() {
        write(&mount, &index.to_string(), &cipher.seal(index, kept, secret)?)?;
    }
    write(&mount, EMERGENCY, &bound)?;
    let directory = mount.try_clone().map_err(failed("dup(store)"))?;
    Ok(Filled { mount, emergency: Emergency { directory, written, bound } })
}

/// Gives the store its place.
fn place(filled: Filled) -> Result<Emergency, StoreError> {
    for directory in [RUN, STORE] {
        match mkdirat(CWD, directory, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(failed(format!("mkdirat({directory:?})"))(errno).into()),
        }
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let target = openat(CWD, STORE, flags, Mode::empty()).map_err(failed("openat(store)"))?;
    let metadata = fstat(&target).map_err(failed("fstat(store)"))?;
    if metadata.st_uid != 0 || metadata.st_mode & 0o077 != 0 {
        return Err(StoreError::NotOurs);
    }
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(&filled.mount, "", &target, "", flags).map_err(failed("move_mount(store)"))?;
    Ok(filled.emergency)
}

/// A memory filesystem of root's alone that is never swapped out: a tmpfs with `noswap`, or before Linux 6.4 a ramfs, which never is.
fn detached() -> Result<OwnedFd, SyscallError> {
    let open = |name: &str| fsopen(name, FsOpenFlags::FSOPEN_CLOEXEC).map_err(failed(format!("fsopen({name:?})")));
    let mut context = open("tmpfs")?;
    if fsconfig_set_flag(&context, "noswap").is_err() {
        context = open("ramfs")?;
    }
    let set = |key: &str, value: &str| {
        fsconfig_set_string(&context, key, value).map_err(failed(format!("fsconfig({key:?})")))
    };
    set("source", "oci-secrets-break-glass")?;
    set("mode", "0700")?;
    fsconfig_create(&context).map_err(failed("fsconfig(FSCONFIG_CMD_CREATE)"))?;
    let attributes =
        MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(failed("fsmount"))
}

fn is_ours(directory: &OwnedFd) -> Result<bool, SyscallError> {
    let metadata = fstat(directory).map_err(failed("fstat(store)"))?;
    let kind = fstatfs(directory).map_err(failed("fstatfs(store)"))?.f_type;
    let is_memory = kind == TMPFS_MAGIC || kind == RAMFS_MAGIC;
    Ok(metadata.st_uid == 0 && metadata.st_mode & 0o077 == 0 && is_memory)
}

fn read(directory: impl AsFd, name: &str) -> Result<Zeroizing<Vec<u8>>, Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = File::from(openat(directory, name, flags, Mode::empty())?);
    let mut bytes = Zeroizing::new(Vec::new());
    file.take(FILE_BYTES_MAX)
        .read_to_end(&mut bytes)
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    Ok(bytes)
}

fn write(directory: impl AsFd, name: &str, content: &[u8]) -> Result<(), SyscallError> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(directory, name, flags, Mode::RUSR).map_err(failed("openat(store)"))?;
    File::from(file).write_all(content).map_err(failed("write(store)"))
}

/// Seconds since the machine started, those in which it slept included.
fn uptime() -> u64 {
    u64::try_from(clock_gettime(ClockId::Boottime).tv_sec).unwrap_or(u64::MAX)
}

/// AES-256-GCM under a key that seals each secret once, so that its index is nonce enough.
struct Cipher<'a> {
    key: &'a [u8; KEY_BYTES],
    bound: &'a [u8],
}

impl Cipher<'_> {
    fn seal(&self, index: usize, kept: &Kept, secret: &Secret) -> Result<Zeroizing<Vec<u8>>, StoreError> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(secret.expose().len() + AES_256_GCM.tag_len()));
        bytes.extend_from_slice(secret.expose());
        let (key, aad) = (self.key()?, self.associated_data(kept));
        key.seal_in_place_append_tag(nonce(index), aad, &mut *bytes).map_err(|_| StoreError::Damaged)?;
        Ok(bytes)
    }

    fn open(&self, index: usize, kept: &Kept, mut sealed: Zeroizing<Vec<u8>>) -> Result<Secret, StoreError> {
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

/// Why a store cannot be opened, used or cleared away.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is one.
    #[error("refusing to open a second emergency: one is open")]
    IsOpen,
    /// It ended while it was being used.
    #[error("the emergency is over")]
    Over,
    /// Something else is in its place.
    #[error("refusing to use {STORE}: it is not a memory filesystem of root's alone")]
    NotOurs,
    /// Its content is not what was written.
    #[error("{STORE} is damaged")]
    Damaged,
    /// The kernel does not keep its key.
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    /// A system call failed.
    #[error(transparent)]
    Syscall(#[from] SyscallError),
}

impl Fault for StoreError {
    fn class(&self) -> Class {
        match self {
            StoreError::IsOpen | StoreError::NotOurs => Class::NotPermitted,
            StoreError::Over => Class::Unavailable,
            StoreError::Damaged | StoreError::Keyring(_) | StoreError::Syscall(_) => Class::Kernel,
        }
    }

    fn hint(&self) -> Option<String> {
        matches!(self, StoreError::IsOpen)
            .then(|| "`oci-secrets break-glass status` shows which; `oci-secrets break-glass close` ends it".into())
    }
}
