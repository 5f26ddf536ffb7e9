//! Key-encryption keys: keys in a KMS or HSM that wrap data keys and never leave it.
//!
//! Each kind is one file, of the same sections: its [`KekKind`], the client that implements [`Kek`], what a name may be, and an error
//! that knows whose fault it is and what can be done. A cloud is a folder, as it also has who we are there. A new kind is that file, its
//! line in [`KINDS`], a row in the README, and whatever settings it needs. `tests/kek` shows that every kind does the same.

pub mod aws;
pub mod gcp;
mod kind;
pub mod local;
pub mod pkcs11;
mod service;
mod unanswered;

use std::cell::{self, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;
use std::str::FromStr;

use futures_util::future::join_all;
use tokio::sync::OnceCell;

use super::envelope::DataKey;
use crate::fault::{Class, Fault};
use crate::retry::Deadline;
use crate::settings::Settings;

pub use self::kind::{Abilities, Decrypted, Kek, KekError, KekFuture, KekKind, Unwrapped, Version};
pub use self::unanswered::Unanswered;

/// The kinds of KEK.
pub const KINDS: [&KekKind; 4] = [&gcp::KIND, &aws::KIND, &pkcs11::KIND, &local::KIND];

/// The URI of a KEK, whose scheme is its kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KekUri {
    text: String,
    kind: &'static KekKind,
}

impl KekUri {
    /// The URI as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Its kind.
    pub fn kind(&self) -> &'static KekKind {
        self.kind
    }

    /// The name by which the KMS knows the key.
    pub fn name(&self) -> &str {
        self.text.strip_prefix(self.kind.scheme).unwrap_or_default()
    }
}

impl KekKind {
    /// The kind of a URI, or of a pattern of URIs.
    pub fn of(text: &str) -> Option<&'static KekKind> {
        KINDS.into_iter().find(|kind| text.starts_with(kind.scheme))
    }
}

impl FromStr for KekUri {
    type Err = KekUriError;

    fn from_str(text: &str) -> Result<KekUri, KekUriError> {
        // A query may contain a PIN, and is not printed.
        let shown = || text.split('?').next().unwrap_or_default().to_owned();
        let kind = KekKind::of(text).ok_or_else(|| KekUriError::Kind { found: shown(), schemes: schemes() })?;
        let uri = KekUri { text: text.to_owned(), kind };
        if (kind.is_name)(uri.name()) { Ok(uri) } else { Err(KekUriError::Form { found: shown(), form: kind.form }) }
    }
}

impl fmt::Display for KekUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// What is opened once, for all callers that wait for it: by KEK, ciphertext, and what that is bound to.
type Opened<T> = RefCell<BTreeMap<(String, Vec<u8>, String), Rc<OnceCell<Rc<T>>>>>;

/// The client for one kind.
type Client<'a> = (&'static KekKind, cell::OnceCell<Box<dyn Kek + 'a>>);

/// The KEKs that the settings list, each kind made ready when it is first needed.
pub struct Keks<'a> {
    settings: &'a Settings,
    clients: Rc<[Client<'a>; KINDS.len()]>,
    /// Data keys that were unwrapped, or are being: a value that is asked for twice costs one call.
    unwrapped: Opened<Unwrapped>,
    /// The same for values of the KMS's own form.
    decrypted: Opened<Decrypted>,
    /// The KMSs that are not asked again.
    unanswered: Option<Unanswered>,
}

impl<'a> Keks<'a> {
    /// Knows the settings, and does nothing yet.
    pub fn new(settings: &'a Settings) -> Keks<'a> {
        Keks::with(settings, Rc::new(KINDS.map(|kind| (kind, cell::OnceCell::new()))))
    }

    /// The same clients, with their connections and access tokens, for another start: it shares no data key with any other.
    #[must_use]
    pub fn for_another_start(&self) -> Keks<'a> {
        Keks::with(self.settings, Rc::clone(&self.clients))
    }

    fn with(settings: &'a Settings, clients: Rc<[Client<'a>; KINDS.len()]>) -> Keks<'a> {
        Keks { settings, clients, unwrapped: RefCell::default(), decrypted: RefCell::default(), unanswered: None }
    }

    /// The same, without asking a KMS again that has not answered one of those with the same list.
    #[must_use]
    pub fn without(self, unanswered: &Unanswered) -> Keks<'a> {
        Keks { unanswered: Some(unanswered.clone()), ..self }
    }

    /// Makes ready what the KEKs that are listed will need: clients, and access tokens. It can go on while 1Password is being asked.
    ///
    /// Errors are not reported here: the value that needs the KEK meets and reports them.
    pub async fn prepare(&self, deadline: Deadline) {
        let listed =
            |kind: &KekKind| self.settings.keks.iter().any(|pattern| KekKind::of(pattern.as_str()) == Some(kind));
        join_all(KINDS.into_iter().filter(|kind| listed(kind)).map(|kind| self.prepare_kind(kind, deadline))).await;
    }

    /// Makes ready what all KEKs of one kind need: our identity.
    ///
    /// # Errors
    /// If the credentials cannot be used, or give no access token.
    pub async fn prepare_kind(&self, kind: &'static KekKind, deadline: Deadline) -> Result<(), KekError> {
        self.client(kind)?.prepare(deadline).await
    }

    /// Wraps a data key.
    ///
    /// # Errors
    /// If the KEK is not listed in the settings, or the KMS does not wrap.
    pub async fn wrap(&self, kek: &KekUri, data_key: &DataKey, deadline: Deadline) -> Result<Vec<u8>, KekError> {
        self.listed(kek)?.wrap(kek.name(), data_key, deadline).await
    }

    /// Unwraps a data key, once.
    ///
    /// # Errors
    /// If the KEK is not listed in the settings, or the KMS does not unwrap.
    pub async fn unwrap(&self, kek: &KekUri, wrapped: &[u8], deadline: Deadline) -> Result<Rc<Unwrapped>, KekError> {
        let key = (kek.to_string(), wrapped.to_vec(), String::new());
        let cell = self.unwrapped.borrow_mut().entry(key).or_default().clone();
        let unwrap = async || {
            let call = async { self.listed(kek)?.unwrap(kek.name(), wrapped, deadline).await };
            self.ask(kek, deadline, call).await.map(Rc::new)
        };
        cell.get_or_try_init(unwrap).await.cloned()
    }

    /// Decrypts what the KMS's own tool encrypted, once.
    ///
    /// # Errors
    /// If the KEK is not listed in the settings, its kind has no such tool, or the KMS does not decrypt.
    pub async fn decrypt(
        &self,
        kek: &KekUri,
        ciphertext: &[u8],
        associated_data: &str,
        deadline: Deadline,
    ) -> Result<Rc<Decrypted>, KekError> {
        let key = (kek.to_string(), ciphertext.to_vec(), associated_data.to_owned());
        let cell = self.decrypted.borrow_mut().entry(key).or_default().clone();
        let decrypt = async || {
            let call = async { self.listed(kek)?.decrypt(kek.name(), ciphertext, associated_data, deadline).await };
            self.ask(kek, deadline, call).await.map(Rc::new)
        };
        cell.get_or_try_init(decrypt).await.cloned()
    }

    /// Returns what the host's identity may do with a KEK.
    ///
    /// # Errors
    /// If the KEK is not listed in the settings, or the KMS does not answer.
    pub async fn describe(&self, kek: &KekUri, deadline: Deadline) -> Result<Abilities, KekError> {
        self.listed(kek)?.describe(kek.name(), deadline).await
    }

    /// Makes a new KEK, which need not be listed yet.
    ///
    /// # Errors
    /// If KEKs of its kind are made elsewhere, there is one already, or none can be made.
    pub async fn create(&self, kek: &KekUri, deadline: Deadline) -> Result<(), KekError> {
        self.client(kek.kind)?.create(kek.name(), deadline).await
    }

    async fn ask<T>(
        &self,
        kek: &KekUri,
        deadline: Deadline,
        call: impl Future<Output = Result<T, KekError>>,
    ) -> Result<T, KekError> {
        match &self.unanswered {
            Some(unanswered) => unanswered.ask(kek.as_str(), deadline, call).await,
            None => call.await,
        }
    }

    fn listed(&self, kek: &KekUri) -> Result<&(dyn Kek + 'a), KekError> {
        if !self.settings.kek_is_listed(kek.as_str()) {
            return Err(KekError::NotListed { kek: kek.to_string() });
        }
        self.client(kek.kind)
    }

    fn client(&self, kind: &'static KekKind) -> Result<&(dyn Kek + 'a), KekError> {
        let client = self.clients.iter().find_map(|(of, client)| (*of == kind).then_some(client));
        let client = client.ok_or(KekError::MadeElsewhere)?;
        if let Some(open) = client.get() {
            return Ok(&**open);
        }
        let open = (kind.open)(self.settings)?;
        Ok(&**client.get_or_init(|| open))
    }
}

/// Why a text is not the URI of a KEK.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are named for what they hold")]
pub enum KekUriError {
    /// No kind of this name.
    #[error("{found:.120?} begins with none of {schemes}")]
    Kind { found: String, schemes: String },
    /// The kind is known, but its names look different.
    #[error("{found:.120?} is not of the form {form}")]
    Form { found: String, form: &'static str },
}

impl Fault for KekUriError {
    fn class(&self) -> Class {
        Class::Settings
    }
}

fn schemes() -> String {
    KINDS.map(|kind| format!("{:?}", kind.scheme)).join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_tells_kind_and_name() {
        for (kind, name) in [
            (&gcp::KIND, "projects/p/locations/l/keyRings/r/cryptoKeys/k"),
            (&aws::KIND, "arn:aws:kms:eu-central-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"),
            (&aws::KIND, "arn:aws-cn:kms:cn-north-1:123456789012:alias/agents/prod"),
            (&pkcs11::KIND, "token=t;object=k"),
            (&local::KIND, "trial"),
        ] {
            let uri: KekUri = format!("{}{name}", kind.scheme).parse().unwrap();
            assert_eq!((uri.kind(), uri.name()), (kind, name));
        }
    }

    #[test]
    fn a_name_that_would_leave_its_place_is_refused() {
        for text in [
            "gcp-kms://projects/p/locations/l/keyRings/r/cryptoKeys/k/cryptoKeyVersions/1",
            "gcp-kms://projects/p/locations/l/keyRings/r/cryptoKeys/..",
            "gcp-kms://projects/p/locations/l/keyRings/r/cryptoKeys/k?x",
            "gcp-kms://projects/p/locations/l/keyRings//cryptoKeys/k",
            "pkcs11:token=t;object=../k",
            "pkcs11:token=t;object=k?module-path=/tmp/evil.so",
            "aws-kms://arn:aws:kms:eu-central-1:123456789012:key/..",
            "aws-kms://arn:aws:kms:evil.example/:123456789012:key/k",
            "aws-kms://arn:aws:s3:eu-central-1:123456789012:key/k",
            "aws-kms://1234abcd-12ab-34cd-56ef-1234567890ab",
            "local-kek:../etc/shadow",
            "local-kek:.hidden",
            "local-kek:",
        ] {
            assert!(matches!(text.parse::<KekUri>(), Err(KekUriError::Form { .. })), "{text}");
        }
        let error = "pkcs11:token=t;object=k?pin-value=hunter2".parse::<KekUri>().unwrap_err();
        assert!(!error.to_string().contains("hunter2"), "{error}");
        assert!(matches!("vault:x".parse::<KekUri>(), Err(KekUriError::Kind { .. })));
    }
}
