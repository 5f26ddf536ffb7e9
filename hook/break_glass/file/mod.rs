//! The sealed file, which an operator keeps offline for an outage of 1Password or the KMS.
//!
//! ```text
//! oci-secrets break-glass v1
//! {"created":"…","expires":"…","hosts":["…"],"recipients":["age1…"],"secrets":[{"reference":"op://…","item":"…","version":3}]}
//! -----BEGIN AGE ENCRYPTED FILE-----        the secrets, for every recipient, or for the key that is split into shares
//! …
//! -----END AGE ENCRYPTED FILE-----
//! -----BEGIN AGE ENCRYPTED FILE-----        with a threshold: one share of that key for each recipient
//! …
//! ```
//!
//! It is text, and each block is an [age](https://age-encryption.org/v1) file, so `age` can decrypt it without this program. The
//! first block contains lines: the header above, byte for byte, then each secret in base64, in the header's order. Anyone can read and
//! change the header in front; opening the file verifies that it matches the encrypted one.
//!
//! With a threshold the first block is for an age identity that is generated for this file. The text of that identity,
//! `AGE-SECRET-KEY-1…`, is split by Shamir's scheme over GF(2⁸), byte by byte; a share is one line of base64: the point, then the values.
//!
//! age does not authenticate senders: anyone with the public keys can create a file. [`SealedFile::digest`] identifies a file.

mod age_error;
mod age_files;
mod ask;
mod identity;
mod recipient;
#[cfg(test)]
mod testkit;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use blahaj::{Share, Sharks};
use jiff::Timestamp;
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

pub use self::age_error::AgeError;
use self::age_files::{decrypt, encrypt};
pub use self::ask::Ask;
pub use self::identity::{Identity, IdentityError, identities};
pub use self::recipient::{Recipient, RecipientError};
use super::Kept;
use crate::excerpt::Excerpt;
use crate::fault::{Class, Fault};
use crate::hex::hex;
use crate::reference::Reference;
use crate::secret::Secret;

/// The largest sealed file, in bytes.
pub const SEALED_BYTES_MAX: usize = 16 * 1024 * 1024;

const MAGIC: &str = "oci-secrets break-glass v1";
const MAGIC_ANY_VERSION: &str = "oci-secrets break-glass ";
const BLOCK_END: &str = "-----END AGE ENCRYPTED FILE-----\n";

/// Matches every host name.
const ANY_HOST: &str = "*";

/// The header of a sealed file, which is not encrypted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// When the secrets were read.
    pub created: Timestamp,
    /// When the file expires.
    pub expires: Timestamp,
    /// The names of the hosts that may open it; `*` is any.
    pub hosts: Vec<String>,
    /// How many recipients must open it together, if more than one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threshold: Option<u8>,
    /// The recipients, as they were given.
    pub recipients: Vec<String>,
    /// The secrets, without values.
    pub secrets: Vec<Kept>,
}

impl Header {
    /// Whether the host of this name may open the file.
    pub fn is_for(&self, host: &str) -> bool {
        self.hosts.iter().any(|name| name == ANY_HOST || name == host)
    }

    /// How many recipients must open it together.
    pub fn operators(&self) -> usize {
        self.threshold.map_or(1, usize::from)
    }
}

/// A parsed sealed file, which is still encrypted.
pub struct SealedFile {
    /// The header, which is not authenticated until the file is opened.
    pub header: Header,
    header_line: String,
    payload: String,
    shares: Vec<String>,
    digest: String,
}

/// Seals secrets, which are in the header's order.
///
/// # Errors
/// If a recipient cannot be encrypted to, or the threshold does not match the number of recipients.
pub fn seal(header: &Header, secrets: &[Secret], recipients: &[Recipient]) -> Result<String, SealedError> {
    let header_line = serde_json::to_string(header).map_err(|source| SealedError::Encode { source })?;
    let mut payload = Zeroizing::new(format!("{header_line}\n"));
    for secret in secrets {
        let line = Zeroizing::new(BASE64_STANDARD.encode(secret.expose()));
        payload.push_str(&line);
        payload.push('\n');
    }
    let mut file = format!("{MAGIC}\n{header_line}\n");
    let Some(threshold) = header.threshold else {
        file.push_str(&encrypt(payload.as_bytes(), recipients.iter())?);
        return Ok(file);
    };
    if threshold < 2 || usize::from(threshold) > recipients.len() || recipients.len() > usize::from(u8::MAX) {
        return Err(SealedError::Threshold { threshold, recipients: recipients.len() });
    }
    let (recipient, identity) = identity::generate();
    file.push_str(&encrypt(payload.as_bytes(), [&recipient].into_iter())?);
    for (recipient, share) in recipients.iter().zip(Sharks(threshold).dealer(identity.as_bytes())) {
        let share = Zeroizing::new(Vec::from(&share));
        let line = Zeroizing::new(format!("{}\n", BASE64_STANDARD.encode(&share)));
        file.push_str(&encrypt(line.as_bytes(), [recipient].into_iter())?);
    }
    Ok(file)
}

impl SealedFile {
    /// Parses a file without decrypting it.
    ///
    /// # Errors
    /// If it is not a sealed file, or has another version.
    pub fn parse(bytes: &[u8]) -> Result<SealedFile, SealedError> {
        let text = str::from_utf8(bytes).map_err(|_| SealedError::Form)?;
        let (magic, rest) = text.split_once('\n').ok_or(SealedError::Form)?;
        match magic {
            MAGIC => {}
            other if other.starts_with(MAGIC_ANY_VERSION) => {
                return Err(SealedError::Version { found: other.to_owned() });
            }
            _ => return Err(SealedError::Form),
        }
        let (header_line, blocks) = rest.split_once('\n').ok_or(SealedError::Form)?;
        let header: Header = serde_json::from_str(header_line).map_err(|_| SealedError::Form)?;
        let mut blocks = blocks.split_inclusive(BLOCK_END).map(str::to_owned);
        let payload = blocks.next().ok_or(SealedError::Form)?;
        let shares: Vec<String> = blocks.collect();
        let expected = if header.threshold.is_some() { header.recipients.len() } else { 0 };
        let are_references = header.secrets.iter().all(|kept| kept.reference.parse::<Reference>().is_ok());
        if shares.len() != expected || header.threshold.is_some_and(|threshold| threshold < 2) || !are_references {
            return Err(SealedError::Form);
        }
        let digest = hex(digest(&SHA256, bytes).as_ref());
        Ok(SealedFile { header, header_line: header_line.to_owned(), payload, shares, digest })
    }

    /// The SHA-256 of the file, in hexadecimal. Operators compare it to check that they have the same file.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Opens the file; the secrets are in the header's order.
    ///
    /// # Errors
    /// If there are too few identities, or the encrypted header differs from the one in front.
    pub fn open(&self, identities: &[Identity]) -> Result<Vec<Secret>, SealedError> {
        let payload = match self.header.threshold {
            None => decrypt(&self.payload, identities)?,
            Some(threshold) => decrypt(&self.payload, &[self.recover_identity(threshold, identities)?])?,
        };
        let payload = str::from_utf8(&payload).map_err(|_| SealedError::Form)?;
        let mut lines = payload.lines();
        if lines.next() != Some(self.header_line.as_str()) {
            return Err(SealedError::OtherHeader);
        }
        let secrets: Option<Vec<Secret>> =
            lines.map(|line| BASE64_STANDARD.decode(line).ok().map(Secret::new)).collect();
        let secrets = secrets.ok_or(SealedError::Form)?;
        if secrets.len() == self.header.secrets.len() { Ok(secrets) } else { Err(SealedError::OtherHeader) }
    }

    /// Recovers the identity from the shares.
    fn recover_identity(&self, threshold: u8, identities: &[Identity]) -> Result<Identity, SealedError> {
        let mut shares = Vec::new();
        for block in &self.shares {
            let line = match decrypt(block, identities) {
                Ok(line) => line,
                Err(AgeError::NoMatch) => continue,
                Err(error) => return Err(error.into()),
            };
            let bytes = Zeroizing::new(BASE64_STANDARD.decode(line.trim_ascii()).map_err(|_| SealedError::Form)?);
            shares.push(Share::try_from(bytes.as_slice()).map_err(|_| SealedError::Form)?);
        }
        if shares.len() < usize::from(threshold) {
            return Err(SealedError::TooFew { found: shares.len(), threshold });
        }
        let identity = Zeroizing::new(Sharks(threshold).recover(&shares).map_err(|_| SealedError::Form)?);
        identity::native(&identity).ok_or(SealedError::OtherShares)
    }
}

/// Why a sealed file was not made or opened.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are named for what they hold")]
pub enum SealedError {
    /// Not written by `break-glass seal`, or truncated.
    #[error("it is not a complete sealed file")]
    Form,
    /// A newer format.
    #[error("its version is {}, expected \"{MAGIC}\"", Excerpt(found))]
    Version { found: String },
    /// A modified header.
    #[error("its header differs from the encrypted one")]
    OtherHeader,
    /// Shares of another key.
    #[error("the shares do not form its key")]
    OtherShares,
    /// Operators are missing.
    #[error("the identities decrypt {found} of the {threshold} required shares")]
    TooFew { found: usize, threshold: u8 },
    /// A threshold below 2 or above the number of recipients.
    #[error("expected a threshold from 2 to the number of recipients, found {threshold} of {recipients}")]
    Threshold { threshold: u8, recipients: usize },
    /// age cannot encrypt or decrypt.
    #[error(transparent)]
    Age(#[from] AgeError),
    /// The header is not JSON.
    #[error("cannot encode the header")]
    Encode { source: serde_json::Error },
}

impl Fault for SealedError {
    fn class(&self) -> Class {
        match self {
            SealedError::Age(error) => error.class(),
            SealedError::Threshold { .. } => Class::CommandLine,
            SealedError::TooFew { .. } => Class::NotPermitted,
            SealedError::Form
            | SealedError::Version { .. }
            | SealedError::OtherHeader
            | SealedError::OtherShares
            | SealedError::Encode { .. } => Class::Data,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            SealedError::Age(error) => error.hint(),
            SealedError::TooFew { .. } => Some("pass `--identity KEYFILE` for each operator".into()),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CANARY: &[u8] = b"canary-secret";

    fn kept(reference: &str) -> Kept {
        Kept { reference: reference.into(), item: "databaseitem00000000000000".into(), version: 3 }
    }

    fn header(threshold: Option<u8>, recipients: &[&Recipient]) -> Header {
        Header {
            created: "2026-01-02T03:04:05Z".parse().unwrap(),
            expires: "2026-04-02T03:04:05Z".parse().unwrap(),
            hosts: vec!["agents-1".into()],
            threshold,
            recipients: recipients.iter().map(|recipient| recipient.name().to_owned()).collect(),
            secrets: vec![kept("op://AgentVault/db/password"), kept("op://AgentVault/db/user")],
        }
    }

    fn pair() -> (Recipient, Identity) {
        let (recipient, identity) = identity::generate();
        (recipient, identity::native(identity.as_bytes()).unwrap())
    }

    fn secrets() -> Vec<Secret> {
        vec![Secret::new(CANARY.to_vec()), Secret::new(vec![0, 255, b'\n'])]
    }

    fn opened(text: &str, identities: &[Identity]) -> Result<Vec<Vec<u8>>, SealedError> {
        let secrets = SealedFile::parse(text.as_bytes())?.open(identities)?;
        Ok(secrets.iter().map(|secret| secret.expose().to_vec()).collect())
    }

    #[test]
    fn only_recipients_open_the_file() {
        let ((a, a_key), (b, b_key), (_, other)) = (pair(), pair(), pair());
        let text = seal(&header(None, &[&a, &b]), &secrets(), &[a, b]).unwrap();
        let expected = vec![CANARY.to_vec(), vec![0, 255, b'\n']];
        assert_eq!(opened(&text, &[a_key]).unwrap(), expected);
        assert_eq!(opened(&text, &[b_key]).unwrap(), expected);
        assert!(matches!(opened(&text, &[other]), Err(SealedError::Age(AgeError::NoMatch))));
        assert!(!text.contains(&BASE64_STANDARD.encode(CANARY)));
    }

    #[test]
    fn opening_requires_the_threshold_of_operators() {
        let pairs = [pair(), pair(), pair()];
        let (recipients, mut keys): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
        let text = seal(&header(Some(2), &recipients.iter().collect::<Vec<_>>()), &secrets(), &recipients).unwrap();
        let (third, second, first) = (keys.remove(2), keys.remove(1), keys.remove(0));
        assert_eq!(
            opened(&text, &[third]).unwrap_err().to_string(),
            "the identities decrypt 1 of the 2 required shares"
        );
        assert_eq!(opened(&text, &[first, second]).unwrap().len(), 2);
        let of_one = seal(&header(Some(2), &[&recipients[0]]), &secrets(), &recipients[..1]);
        assert!(matches!(of_one, Err(SealedError::Threshold { threshold: 2, recipients: 1 })));
    }

    #[test]
    fn refuses_a_modified_header() {
        let (recipient, key) = pair();
        let text = seal(&header(None, &[&recipient]), &secrets(), &[recipient]).unwrap();
        for (from, to) in [("agents-1", "agents-2"), ("\"version\":3", "\"version\":4"), ("2026-04", "2027-04")] {
            let changed = text.replacen(from, to, 1);
            assert_ne!(changed, text);
            assert!(matches!(opened(&changed, std::slice::from_ref(&key)), Err(SealedError::OtherHeader)), "{from}");
        }
    }

    #[test]
    fn refuses_a_truncated_file_and_a_newer_version() {
        let (recipient, key) = pair();
        let text = seal(&header(None, &[&recipient]), &secrets(), &[recipient]).unwrap();
        for length in [0, 10, 40, text.len() / 2, text.len() - 40] {
            assert!(opened(&text[..length], std::slice::from_ref(&key)).is_err(), "{length}");
        }
        let future = SealedFile::parse(text.replacen("v1", "v2", 1).as_bytes()).err().unwrap();
        assert!(matches!(future, SealedError::Version { .. }));
    }
}
