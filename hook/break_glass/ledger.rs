//! The ledger: the secrets that an emergency has used, each until it is rotated.
//!
//! It is a JSON file next to a random key. It holds a used value only as its HMAC-SHA-256 under that key, to compare
//! later values with it. The file is replaced atomically, and synced to disk before a container gets its secret: a crash at any
//! moment leaves the old ledger or the new one, and no use is lost.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use ring::hmac;
use ring::rand::{SecureRandom as _, SystemRandom};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::Kept;
use super::lock::Locked;
use crate::errno::Errno;
use crate::fault::{Class, Fault};
use crate::harden::is_root_of_the_host;
use crate::hex::hex;
use crate::secret::Secret;
use crate::settings::file::{self, FileError};

const LEDGER: &str = "ledger";
const KEY: &str = "ledger-key";
const SCHEMA: u8 = 1;
const KEY_BYTES: usize = 32;
const LEDGER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Every secret that was used and is not rotated yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ledger {
    schema: u8,
    /// By reference, without its query.
    pub pending: BTreeMap<String, PendingRotation>,
}

/// One secret that was used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PendingRotation {
    /// The item's id.
    pub item: String,
    /// The newest of the item's versions that were used.
    pub version: u64,
    /// The keyed hashes of the values that were used.
    values: BTreeSet<String>,
    /// The emergency that used it last.
    pub emergency: String,
    /// When it was first used.
    pub first_used: Timestamp,
    /// When it was last used.
    pub last_used: Timestamp,
    /// The number of containers that got it.
    pub uses: u64,
    /// When the grace period ends. It begins with the first normal start that requests the secret, or with the end of the emergency.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub due: Option<Timestamp>,
}

impl Default for Ledger {
    fn default() -> Ledger {
        Ledger { schema: SCHEMA, pending: BTreeMap::new() }
    }
}

impl Ledger {
    /// Reads the ledger. Without a ledger, no secret must be rotated.
    ///
    /// # Errors
    /// If it cannot be read or trusted. Then it is unknown which secrets must be rotated.
    pub fn read(directory: &Path) -> Result<Ledger, LedgerError> {
        let path = directory.join(LEDGER);
        match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Ledger::default()),
            // Only the host's root opens emergencies and can read the directory. If root is denied access, a security module does
            // that, and the content of the ledger is unknown.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied && !is_root_of_the_host() => {
                return Ok(Ledger::default());
            }
            _ => {}
        }
        let bytes = file::read(&path, file::Kind::Credential, LEDGER_BYTES_MAX)
            .map_err(|source| LedgerError::File { source })?;
        let ledger: Ledger = serde_json::from_slice(&bytes).map_err(|_| LedgerError::Damaged { path: path.clone() })?;
        if ledger.schema == SCHEMA { Ok(ledger) } else { Err(LedgerError::Damaged { path }) }
    }

    /// Replaces the ledger, and returns when it is synced to disk.
    ///
    /// # Errors
    /// If it cannot be written. Then the old ledger remains.
    pub fn write(&self, lock: &Locked) -> Result<(), LedgerError> {
        let bytes = serde_json::to_vec_pretty(self).map_err(|source| LedgerError::Encode { source })?;
        replace(lock, LEDGER, &bytes)
    }

    /// Adds one use of a secret.
    pub fn enter(&mut self, kept: &Kept, value: String, emergency: &str, now: Timestamp) {
        let pending = self.pending.entry(kept.reference.clone()).or_insert_with(|| PendingRotation {
            item: kept.item.clone(),
            version: kept.version,
            values: BTreeSet::new(),
            emergency: emergency.to_owned(),
            first_used: now,
            last_used: now,
            uses: 0,
            due: None,
        });
        pending.item.clone_from(&kept.item);
        pending.version = pending.version.max(kept.version);
        pending.values.insert(value);
        emergency.clone_into(&mut pending.emergency);
        pending.last_used = now;
        pending.uses += 1;
    }

    /// Begins the grace period of every secret for which it has not begun. Returns whether there was one.
    pub fn begin_grace(&mut self, grace: Duration, now: Timestamp) -> bool {
        let waiting = self.pending.values_mut().filter(|pending| pending.due.is_none());
        waiting.map(|pending| pending.due = Some(after(now, grace))).count() > 0
    }
}

impl PendingRotation {
    /// Whether 1Password has a newer item or version with another value. A source that reports neither an item nor a version never has.
    pub fn is_rotated(&self, item: Option<&str>, version: Option<u64>, value: Option<&str>) -> bool {
        let is_newer = item.is_some_and(|item| item != self.item) || version > Some(self.version);
        is_newer && value.is_some_and(|value| !self.values.contains(value))
    }

    /// Begins the grace period, unless it has begun, and returns its end.
    pub fn due(&mut self, grace: Duration, now: Timestamp) -> Timestamp {
        *self.due.get_or_insert_with(|| after(now, grace))
    }

    /// Whether the grace period is over.
    pub fn is_overdue(&self, now: Timestamp) -> bool {
        self.due.is_some_and(|due| due <= now)
    }
}

fn after(now: Timestamp, grace: Duration) -> Timestamp {
    let grace = SignedDuration::try_from(grace).unwrap_or(SignedDuration::MAX);
    now.saturating_add(grace).unwrap_or(Timestamp::MAX)
}

/// Hashes values under the ledger's key.
pub struct Hasher(hmac::Key);

impl Hasher {
    /// Reads the key, if there is one.
    ///
    /// # Errors
    /// If it cannot be read or trusted.
    pub fn read(directory: &Path) -> Result<Option<Hasher>, LedgerError> {
        let path = directory.join(KEY);
        if matches!(fs::symlink_metadata(&path), Err(error) if error.kind() == io::ErrorKind::NotFound) {
            return Ok(None);
        }
        let bytes =
            file::read(&path, file::Kind::Credential, KEY_BYTES).map_err(|source| LedgerError::File { source })?;
        if bytes.len() == KEY_BYTES { Ok(Some(Hasher::new(&bytes))) } else { Err(LedgerError::Damaged { path }) }
    }

    /// Reads the key, or creates one.
    ///
    /// # Errors
    /// If it cannot be read, trusted or written.
    pub fn make(lock: &Locked) -> Result<Hasher, LedgerError> {
        if let Some(hasher) = Hasher::read(lock.directory())? {
            return Ok(hasher);
        }
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        SystemRandom::new().fill(&mut *bytes).map_err(|_| LedgerError::NoRandom)?;
        replace(lock, KEY, &*bytes)?;
        Ok(Hasher::new(&*bytes))
    }

    fn new(bytes: &[u8]) -> Hasher {
        Hasher(hmac::Key::new(hmac::HMAC_SHA256, bytes))
    }

    /// The keyed hash of a value. It differs between references.
    pub fn hash(&self, reference: &str, secret: &Secret) -> String {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(reference.as_bytes());
        context.update(&[0]);
        context.update(secret.expose());
        hex(context.sign().as_ref())
    }
}

/// Replaces a file atomically, and returns when it is synced to disk.
pub(super) fn replace(lock: &Locked, name: &str, content: &[u8]) -> Result<(), LedgerError> {
    let path = lock.directory().join(name);
    let new = lock.directory().join(format!("{name}.new"));
    let write = || {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&new, &path)?;
        File::open(lock.directory())?.sync_all()
    };
    write().map_err(|error: io::Error| LedgerError::Write { path: path.clone(), errno: error.into() })
}

/// Why the ledger cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are the objects that the messages name")]
pub enum LedgerError {
    /// The ledger, or its key, cannot be read or trusted.
    #[error("cannot use the ledger")]
    File { source: FileError },
    /// The file is not in the format that this program writes.
    #[error("cannot use the ledger: {} is damaged", path.display())]
    Damaged { path: PathBuf },
    /// The file cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        path: PathBuf,
        #[source]
        errno: Errno,
    },
    /// The ledger is not JSON.
    #[error("cannot encode the ledger")]
    Encode { source: serde_json::Error },
    /// getrandom(2) failed.
    #[error("the kernel returned no random bytes")]
    NoRandom,
}

impl Fault for LedgerError {
    fn class(&self) -> Class {
        match self {
            LedgerError::File { source } => source.class(),
            LedgerError::Damaged { .. } => Class::Settings,
            LedgerError::Write { .. } | LedgerError::NoRandom => Class::Kernel,
            LedgerError::Encode { .. } => Class::Bug,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            LedgerError::File { source } => source.hint(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFERENCE: &str = "op://AgentVault/db/password";

    fn kept(version: u64) -> Kept {
        Kept { reference: REFERENCE.into(), item: "item".into(), version }
    }

    fn secret(text: &str) -> Secret {
        Secret::new(text.as_bytes().to_vec())
    }

    fn lock(directory: &Path) -> Locked {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(Locked::take(directory)).unwrap()
    }

    fn now() -> Timestamp {
        "2026-01-02T03:04:05Z".parse().unwrap()
    }

    #[test]
    fn a_secret_is_rotated_when_version_and_value_differ() {
        let hasher = Hasher::new(&[7; KEY_BYTES]);
        let hash = |text: &str| hasher.hash(REFERENCE, &secret(text));
        let mut ledger = Ledger::default();
        ledger.enter(&kept(3), hash("one"), "e", now());
        ledger.enter(&kept(4), hash("two"), "e", now());
        let pending = &ledger.pending[REFERENCE];
        assert_eq!((pending.uses, pending.version), (2, 4));
        assert!(pending.is_rotated(Some("item"), Some(5), Some(&hash("three"))));
        assert!(!pending.is_rotated(Some("item"), Some(4), Some(&hash("three"))), "the version is not newer");
        assert!(!pending.is_rotated(Some("item"), Some(5), Some(&hash("one"))), "the value was used");
        assert!(!pending.is_rotated(Some("item"), Some(5), None), "the key is missing");
        assert!(!pending.is_rotated(None, None, Some(&hash("three"))), "the source reports no version");
        assert!(pending.is_rotated(Some("another item"), Some(1), Some(&hash("three"))));
        assert_ne!(hash("one"), hasher.hash("op://AgentVault/db/user", &secret("one")));
    }

    #[test]
    fn the_grace_period_begins_once() {
        let mut ledger = Ledger::default();
        ledger.enter(&kept(3), "hash".into(), "e", now());
        assert!(ledger.begin_grace(Duration::from_secs(60), now()));
        let due = ledger.pending[REFERENCE].due.unwrap();
        assert_eq!(due, now() + SignedDuration::from_secs(60));
        ledger.enter(&kept(3), "hash".into(), "e", now());
        assert!(!ledger.begin_grace(Duration::from_secs(600), now()));
        assert_eq!(ledger.pending.get_mut(REFERENCE).unwrap().due(Duration::from_secs(600), now()), due);
    }

    #[test]
    fn a_written_ledger_is_read_again_and_holds_no_value() {
        let directory = tempfile::tempdir().unwrap();
        let lock = lock(directory.path());
        assert_eq!(Ledger::read(directory.path()).unwrap(), Ledger::default());
        let hasher = Hasher::make(&lock).unwrap();
        let mut ledger = Ledger::default();
        ledger.enter(&kept(3), hasher.hash(REFERENCE, &secret("canary-secret")), "e", now());
        ledger.write(&lock).unwrap();
        assert_eq!(Ledger::read(directory.path()).unwrap(), ledger);
        let again = Hasher::make(&lock).unwrap();
        assert_eq!(again.hash("x", &secret("y")), hasher.hash("x", &secret("y")));
        assert!(!fs::read_to_string(directory.path().join(LEDGER)).unwrap().contains("canary"));
        fs::write(directory.path().join(LEDGER), "{").unwrap();
        assert!(matches!(Ledger::read(directory.path()), Err(LedgerError::Damaged { .. })));
    }
}
