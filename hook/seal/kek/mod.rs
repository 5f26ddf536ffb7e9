//! Key-encryption keys: keys in a KMS that wrap data keys and never leave it.
//!
//! Each kind is one file with one type that implements [`Kek`], one variant of [`Kind`], and one line in [`Keks`].

pub mod gcp;
pub mod local;
mod ramp;

use std::fmt;
use std::str::FromStr;

use futures_util::future::LocalBoxFuture;
use tokio::sync::OnceCell;

use super::envelope::DataKey;
use crate::retry::Deadline;
use crate::settings::Settings;
use gcp::{CloudKms, CloudKmsError};
use local::{LocalKekError, LocalKeks};

/// A kind of KEK: a client that knows all keys of its kind.
pub trait Kek {
    /// Wraps a data key under the key of this name.
    fn wrap<'a>(&'a self, name: &'a str, data_key: &'a DataKey, deadline: Deadline) -> Answer<'a, Vec<u8>>;

    /// Unwraps a data key that the key of this name wrapped.
    fn unwrap<'a>(&'a self, name: &'a str, wrapped: &'a [u8], deadline: Deadline) -> Answer<'a, Unwrapped>;

    /// Tells what our identity may do with the key of this name, without doing it.
    fn describe<'a>(&'a self, name: &'a str, deadline: Deadline) -> Answer<'a, Abilities>;
}

/// What a KEK will have answered.
pub type Answer<'a, T> = LocalBoxFuture<'a, Result<T, KekError>>;

/// What our identity may do with a KEK.
pub struct Abilities {
    /// Seal.
    pub wrap: bool,
    /// Unseal.
    pub unwrap: bool,
}

/// A data key, and what the KMS tells of the KEK that unwrapped it.
pub struct Unwrapped {
    /// The data key.
    pub data_key: DataKey,
    /// The KEK's version, in the KMS's own words.
    pub version: Option<String>,
}

/// The address of a KEK, whose first part tells its kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KekUri {
    text: String,
    kind: Kind,
}

/// The kinds of KEK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `gcp-kms://projects/…/cryptoKeys/…`: Google Cloud KMS.
    Gcp,
    /// `local-kek:<name>`: a key file on this host, for trials and tests.
    Local,
}

impl KekUri {
    /// The URI as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Its kind.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The name by which the KMS knows the key.
    pub fn name(&self) -> &str {
        self.text.strip_prefix(self.kind.scheme()).unwrap_or_default()
    }
}

impl Kind {
    const ALL: [Kind; 2] = [Kind::Gcp, Kind::Local];

    /// What the URIs of this kind begin with.
    pub fn scheme(self) -> &'static str {
        match self {
            Kind::Gcp => gcp::SCHEME,
            Kind::Local => local::SCHEME,
        }
    }

    fn is_name(self, name: &str) -> bool {
        match self {
            Kind::Gcp => gcp::is_name(name),
            Kind::Local => local::is_name(name),
        }
    }

    fn form(self) -> &'static str {
        match self {
            Kind::Gcp => gcp::FORM,
            Kind::Local => local::FORM,
        }
    }
}

impl FromStr for KekUri {
    type Err = KekUriError;

    fn from_str(text: &str) -> Result<KekUri, KekUriError> {
        let unknown = || KekUriError::Kind { found: text.to_owned() };
        let kind = Kind::ALL.into_iter().find(|kind| text.starts_with(kind.scheme())).ok_or_else(unknown)?;
        let uri = KekUri { text: text.to_owned(), kind };
        if kind.is_name(uri.name()) {
            Ok(uri)
        } else {
            Err(KekUriError::Form { found: text.to_owned(), form: kind.form() })
        }
    }
}

impl fmt::Display for KekUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The KEKs that the settings list, each kind made ready when it is first needed.
pub struct Keks<'a> {
    settings: &'a Settings,
    gcp: OnceCell<CloudKms>,
    local: LocalKeks,
}

impl<'a> Keks<'a> {
    /// Knows the settings, and does nothing yet.
    pub fn new(settings: &'a Settings) -> Keks<'a> {
        Keks { settings, gcp: OnceCell::new(), local: LocalKeks::new(&settings.local_kek.directory) }
    }

    /// Makes ready what a KEK that is listed will need: clients, and access tokens. It can go on while 1Password is being asked.
    ///
    /// Errors are not told here: they are met again, and told, by the value that needs the KEK.
    pub async fn prepare(&self, deadline: Deadline) {
        if self.settings.keks.iter().any(|pattern| pattern.as_str().starts_with(gcp::SCHEME)) {
            let _ = self.identify(deadline).await;
        }
    }

    /// Makes sure that we have an identity for Google Cloud KMS.
    ///
    /// # Errors
    /// If the credentials cannot be used, or give no access token.
    pub async fn identify(&self, deadline: Deadline) -> Result<(), KekError> {
        Ok(self.gcp(deadline).await?.identify(deadline).await?)
    }

    /// Wraps a data key.
    ///
    /// # Errors
    /// If the KEK is not listed in the settings, or the KMS does not wrap.
    pub async fn wrap(&self, kek: &KekUri, data_key: &DataKey, deadline: Deadline) -> Result<Vec<u8>, KekError> {
        self.open(kek, deadline).await?.wrap(kek.name(), data_key, deadline).await
    }

    /// Unwraps a data key.
    ///
    /// # Errors
    /// If the KEK is not listed in the settings, or the KMS does not unwrap.
    pub async fn unwrap(&self, kek: &KekUri, wrapped: &[u8], deadline: Deadline) -> Result<Unwrapped, KekError> {
        self.open(kek, deadline).await?.unwrap(kek.name(), wrapped, deadline).await
    }

    /// Tells what our identity may do with a KEK.
    ///
    /// # Errors
    /// If the KEK is not listed in the settings, or the KMS does not tell.
    pub async fn describe(&self, kek: &KekUri, deadline: Deadline) -> Result<Abilities, KekError> {
        self.open(kek, deadline).await?.describe(kek.name(), deadline).await
    }

    async fn open(&self, kek: &KekUri, deadline: Deadline) -> Result<&dyn Kek, KekError> {
        if !self.settings.kek_is_listed(kek.as_str()) {
            return Err(KekError::NotListed { kek: kek.to_string() });
        }
        match kek.kind() {
            Kind::Gcp => Ok(self.gcp(deadline).await?),
            Kind::Local => Ok(&self.local),
        }
    }

    async fn gcp(&self, deadline: Deadline) -> Result<&CloudKms, KekError> {
        self.gcp.get_or_try_init(|| CloudKms::open(&self.settings.gcp_kms, deadline)).await.map_err(KekError::Gcp)
    }
}

/// Why a text is not the URI of a KEK.
#[derive(Debug, thiserror::Error)]
pub enum KekUriError {
    /// No kind of this name.
    #[error("{found:.120?} begins with neither \"gcp-kms://\" nor \"local-kek:\"")]
    Kind {
        /// The text.
        found: String,
    },
    /// The kind is known, but its names look different.
    #[error("{found:.120?} is not of the form {form}")]
    Form {
        /// The text.
        found: String,
        /// How URIs of this kind look.
        form: &'static str,
    },
}

/// Why a KEK cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KekError {
    /// The settings do not name it.
    #[error("{kek} is not listed under `keks` in the settings")]
    NotListed {
        /// Its URI.
        kek: String,
    },
    /// Google Cloud KMS.
    #[error(transparent)]
    Gcp(#[from] CloudKmsError),
    /// A key file.
    #[error(transparent)]
    Local(#[from] LocalKekError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_tells_kind_and_name() {
        let uri: KekUri = "gcp-kms://projects/p/locations/l/keyRings/r/cryptoKeys/k".parse().unwrap();
        assert_eq!((uri.kind(), uri.name()), (Kind::Gcp, "projects/p/locations/l/keyRings/r/cryptoKeys/k"));
        let uri: KekUri = "local-kek:trial".parse().unwrap();
        assert_eq!((uri.kind(), uri.name()), (Kind::Local, "trial"));
    }

    #[test]
    fn a_name_that_would_leave_its_place_is_refused() {
        for text in [
            "gcp-kms://projects/p/locations/l/keyRings/r/cryptoKeys/k/cryptoKeyVersions/1",
            "gcp-kms://projects/p/locations/l/keyRings/r/cryptoKeys/..",
            "gcp-kms://projects/p/locations/l/keyRings/r/cryptoKeys/k?x",
            "gcp-kms://projects/p/locations/l/keyRings//cryptoKeys/k",
            "local-kek:../etc/shadow",
            "local-kek:.hidden",
            "local-kek:",
        ] {
            assert!(matches!(text.parse::<KekUri>(), Err(KekUriError::Form { .. })), "{text}");
        }
        assert!(matches!("aws-kms://arn".parse::<KekUri>(), Err(KekUriError::Kind { .. })));
    }
}
