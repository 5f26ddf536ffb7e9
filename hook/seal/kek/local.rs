//! `local-kek:<name>`: a key file on this host.
//!
//! For trials and tests: the key is on the host whose containers it protects, so access to the host and to 1Password is enough. The
//! file holds 32 random bytes, and is owned by root with mode 0600. It wraps as Tink's AES-256-GCM does without a prefix:
//! `IV | ciphertext | tag`, with no associated data.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

use futures_util::FutureExt;
use futures_util::future::ready;
use zeroize::Zeroizing;

use super::{Abilities, Kek, KekError, KekFuture, KekKind, Unwrapped, Version};
use crate::errno::Errno;
use crate::fault::{Class, Fault};
use crate::retry::Deadline;
use crate::seal::envelope::{DataKey, EnvelopeError, decrypt, encrypt, random};
use crate::settings::Settings;
use crate::settings::file::{self, FileError};
use crate::whole_file::{self, Existing};

/// Key files on this host.
pub const KIND: KekKind = KekKind {
    scheme: "local-kek:",
    form: "local-kek:<name>, where a name is of a-z 0-9 . _ - and begins with a letter or digit",
    to_unwrap: "`oci-secrets kek new` makes a key file",
    for_trials: true,
    is_name,
    open,
};

/// The bytes of a key file.
pub const KEY_BYTES: usize = 32;

/// The key files of this host.
struct LocalKeks {
    directory: PathBuf,
}

/// Knows where the files are; none is read yet.
fn open(settings: &Settings) -> Result<Box<dyn Kek + '_>, KekError> {
    Ok(Box::new(LocalKeks { directory: settings.local_kek.directory().to_path_buf() }))
}

impl LocalKeks {
    /// Makes a key file of random bytes, and the directory if there is none. An existing key is never replaced.
    fn make(&self, name: &str) -> Result<(), KekError> {
        let path = self.directory.join(name);
        let key = Zeroizing::new(random::<KEY_BYTES>().map_err(|source| LocalKekError::Wrap { source })?);
        let write = || -> io::Result<()> {
            DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)?;
            whole_file::write(&path, &*key, Existing::Keep, |_| Ok(()))
        };
        Ok(write().map_err(|error| LocalKekError::Create { path: path.clone(), errno: error.into() })?)
    }

    fn with_key<T>(
        &self,
        name: &str,
        use_key: impl FnOnce(&[u8; KEY_BYTES]) -> Result<T, LocalKekError>,
    ) -> Result<T, KekError> {
        let path = self.directory.join(name);
        let bytes =
            file::read(&path, file::Kind::Credential, KEY_BYTES).map_err(|source| LocalKekError::File { source })?;
        let key = bytes.as_slice().try_into().map_err(|_| LocalKekError::Length { path })?;
        Ok(use_key(key)?)
    }
}

impl Kek for LocalKeks {
    fn wrap<'a>(&'a self, name: &'a str, data_key: &'a DataKey, _: Deadline) -> KekFuture<'a, Vec<u8>> {
        let wrap = |key: &_| encrypt(key, data_key.serialized(), &[]).map_err(|source| LocalKekError::Wrap { source });
        ready(self.with_key(name, wrap)).boxed_local()
    }

    fn unwrap<'a>(&'a self, name: &'a str, wrapped: &'a [u8], _: Deadline) -> KekFuture<'a, Unwrapped> {
        let unwrap = |key: &_| {
            let serialized =
                decrypt(key, wrapped, &[]).ok_or_else(|| LocalKekError::OtherKey { name: name.to_owned() })?;
            Ok(Unwrapped { data_key: DataKey::from_serialized(serialized), version: Version::default() })
        };
        ready(self.with_key(name, unwrap)).boxed_local()
    }

    fn describe<'a>(&'a self, name: &'a str, _: Deadline) -> KekFuture<'a, Abilities> {
        ready(self.with_key(name, |_| Ok(Abilities { wrap: true, unwrap: true }))).boxed_local()
    }

    fn create<'a>(&'a self, name: &'a str, _: Deadline) -> KekFuture<'a, ()> {
        ready(self.make(name)).boxed_local()
    }
}

/// Whether a key can have this name. It is a file name too, so it can neither leave the directory nor be hidden in it.
fn is_name(name: &str) -> bool {
    let first = name.bytes().next();
    first.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        && name.len() <= 64
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-'))
}

/// Why a key file cannot be used.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are named for what they hold")]
pub enum LocalKekError {
    /// It cannot be read, or others can.
    #[error("cannot use its key file")]
    File { source: FileError },
    /// It is not a key.
    #[error("key file {} does not hold {KEY_BYTES} bytes", path.display())]
    Length { path: PathBuf },
    /// A new key cannot be written.
    #[error("cannot make the key file {}", path.display())]
    Create {
        path: PathBuf,
        #[source]
        errno: Errno,
    },
    /// Another key wrapped the value, or its wrapped data key was changed.
    #[error("local-kek:{name} did not wrap this value's data key, or it was changed since")]
    OtherKey { name: String },
    /// The data key cannot be wrapped.
    #[error("cannot wrap the data key")]
    Wrap { source: EnvelopeError },
}

impl Fault for LocalKekError {
    fn class(&self) -> Class {
        match self {
            LocalKekError::File { source } => source.class(),
            LocalKekError::OtherKey { .. } | LocalKekError::Wrap { .. } => Class::Data,
            LocalKekError::Length { .. } | LocalKekError::Create { .. } => Class::Settings,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            LocalKekError::File { source } => {
                source.hint().or_else(|| Some("`oci-secrets kek new` makes a key file".to_owned()))
            }
            _ => None,
        }
    }
}

impl From<LocalKekError> for KekError {
    fn from(error: LocalKekError) -> KekError {
        KekError::OfKind(error.into())
    }
}
