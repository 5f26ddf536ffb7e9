//! What every kind of KEK does.

use std::future::ready;

use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;

use crate::fault::{AnyFault, Class, Fault};
use crate::retry::Deadline;
use crate::seal::envelope::DataKey;
use crate::secret::Secret;
use crate::settings::Settings;

/// A kind of KEK: how its URIs look, and how its client is made.
#[derive(Debug)]
pub struct KekKind {
    /// What its URIs begin with.
    pub scheme: &'static str,
    /// How its URIs look, in words for messages.
    pub form: &'static str,
    /// What gives us the right to unwrap, where we lack it.
    pub to_unwrap: &'static str,
    /// Whether it is for trials and tests only, and every use is worth a warning.
    pub for_trials: bool,
    /// Whether the KMS can have a key of this name, the URI without its scheme; and whether the name is safe to use.
    pub(super) is_name: fn(&str) -> bool,
    /// Makes the client, which knows all keys of its kind.
    pub(super) open: for<'a> fn(&'a Settings) -> Result<Box<dyn Kek + 'a>, KekError>,
}

/// The client of one kind of KEK.
pub trait Kek {
    /// Wraps a data key under the key of this name.
    fn wrap<'a>(&'a self, name: &'a str, data_key: &'a DataKey, deadline: Deadline) -> KekFuture<'a, Vec<u8>>;

    /// Unwraps a data key that the key of this name wrapped.
    fn unwrap<'a>(&'a self, name: &'a str, wrapped: &'a [u8], deadline: Deadline) -> KekFuture<'a, Unwrapped>;

    /// Decrypts what the KMS's own tool encrypted under the key of this name, bound to these associated data. By default there is no such
    /// tool.
    fn decrypt<'a>(
        &'a self,
        _name: &'a str,
        _ciphertext: &'a [u8],
        _associated_data: &'a str,
        _: Deadline,
    ) -> KekFuture<'a, Decrypted> {
        ready(Err(KekError::EnvelopesOnly)).boxed_local()
    }

    /// Returns what the host's identity may do with the key of this name, without doing it.
    fn describe<'a>(&'a self, name: &'a str, deadline: Deadline) -> KekFuture<'a, Abilities>;

    /// Gets what calls for any key will need and can be had before: an access token. By default there is no such thing.
    fn prepare(&self, _: Deadline) -> KekFuture<'_, ()> {
        ready(Ok(())).boxed_local()
    }

    /// Makes a key of this name. By default keys are made elsewhere, by the tools of the KMS.
    fn create<'a>(&'a self, _name: &'a str, _: Deadline) -> KekFuture<'a, ()> {
        ready(Err(KekError::MadeElsewhere)).boxed_local()
    }
}

/// What a KEK will have answered.
pub type KekFuture<'a, T> = LocalBoxFuture<'a, Result<T, KekError>>;

/// What our identity may do with a KEK.
pub struct Abilities {
    /// Seal.
    pub wrap: bool,
    /// Unseal.
    pub unwrap: bool,
}

/// A data key, and the version of the KEK that unwrapped it.
pub struct Unwrapped {
    /// The data key.
    pub data_key: DataKey,
    /// The KEK's version.
    pub version: Version,
}

/// A secret, and the version of the KEK that decrypted it.
pub struct Decrypted {
    /// The secret.
    pub secret: Secret,
    /// The KEK's version.
    pub version: Version,
}

/// The version of a KEK that was used, if the KMS returns it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Version {
    /// Its name, in the KMS's own words.
    pub name: Option<String>,
    /// Whether there is a newer one, which would be used to wrap.
    pub is_old: bool,
}

impl PartialEq for KekKind {
    fn eq(&self, other: &KekKind) -> bool {
        self.scheme == other.scheme
    }
}

impl Eq for KekKind {}

/// Why a KEK cannot be used.
#[derive(Clone, Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are named for what they hold")]
pub enum KekError {
    /// The settings do not name it.
    #[error("{kek} is not listed under `keks` in the settings")]
    NotListed { kek: String },
    /// Keys of its kind are made elsewhere.
    #[error("keys of this kind are made by the tools of their KMS")]
    MadeElsewhere,
    /// A value that its tool encrypted, of a kind that has none.
    #[error("a KEK of this kind opens envelopes only, no sealed:v1/direct")]
    EnvelopesOnly,
    /// What a kind says.
    #[error(transparent)]
    OfKind(AnyFault),
}

impl Fault for KekError {
    fn class(&self) -> Class {
        match self {
            KekError::NotListed { .. } => Class::NotPermitted,
            KekError::EnvelopesOnly => Class::Data,
            KekError::MadeElsewhere => Class::CommandLine,
            KekError::OfKind(error) => error.class(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            KekError::NotListed { kek } => Some(format!("add \"{kek}\" to `keks` in the settings, if it is yours")),
            KekError::EnvelopesOnly => None,
            KekError::MadeElsewhere => Some("`oci-secrets kek new --help` lists the kinds that it creates".into()),
            KekError::OfKind(error) => error.hint(),
        }
    }
}
