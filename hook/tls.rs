//! TLS: the process's one provider, authorities to trust, and what is wrong with a server's certificate.
//!
//! reqwest and Google's clients are built without a provider of their own. aws-lc-rs, their usual default, seeds its entropy for
//! 23 to 38 ms in every process, which a container start would wait for.

use std::env;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use reqwest::Certificate;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::{AlertDescription, CertificateError, RootCertStore};

use crate::excerpt::Excerpt;
use crate::fault::{Class, Fault};

/// The most that is read of a `ca-file`.
pub const CA_BYTES_MAX: usize = 1024 * 1024;

/// Makes ring the provider of every TLS connection of this process. Later calls change nothing.
pub fn install() {
    // The only error is that a provider is installed already, and no other is in the tree.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// The certificates of a `ca-file`, which are trusted instead of the public roots.
///
/// # Errors
/// If the file holds none in PEM, or one that is no certificate.
pub fn authorities(path: &Path, pem: &[u8]) -> Result<Vec<Certificate>, CaFileError> {
    let found = certificates(pem).and_then(|found| found.iter().map(|der| Certificate::from_der(der).ok()).collect());
    found.ok_or_else(|| CaFileError { path: path.to_owned() })
}

/// Whether a text in PEM holds certificates, and nothing that only looks like one.
pub fn are_certificates(pem: &[u8]) -> bool {
    certificates(pem).is_some()
}

fn certificates(pem: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().ok()?;
    let (usable, _) = RootCertStore::empty().add_parsable_certificates(found.iter().cloned());
    (usable > 0 && usable == found.len()).then_some(found)
}

/// The authorities that the system trusts: those of its bundle, as `update-ca-certificates` and `update-ca-trust` write it. What is no
/// certificate is left out.
///
/// Libraries also read the directory beside it, which has the same certificates in 300 files: a container start would wait for that longer
/// than for everything else. None if there is no bundle, or the caller of the command names a directory.
pub fn system_authorities() -> Option<Vec<Certificate>> {
    let found = usable(&system_bundle()?);
    (!found.is_empty()).then_some(found)
}

fn usable(pem: &[u8]) -> Vec<Certificate> {
    let found = CertificateDer::pem_slice_iter(pem).filter_map(Result::ok);
    let usable = found.filter(|der| RootCertStore::empty().add(der.clone()).is_ok());
    usable.filter_map(|der| Certificate::from_der(&der).ok()).collect()
}

/// The bundle of [`system_authorities`].
pub fn system_bundle() -> Option<Vec<u8>> {
    match env::var_os(openssl_probe::ENV_CERT_DIR) {
        Some(_) => None,
        None => fs::read(openssl_probe::probe().cert_file?).ok(),
    }
}

/// A `ca-file` that cannot be used.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{} holds no certificate in PEM that can be used", path.display())]
pub struct CaFileError {
    path: PathBuf,
}

impl Fault for CaFileError {
    fn class(&self) -> Class {
        Class::Settings
    }

    fn hint(&self) -> Option<String> {
        let path = self.path.display();
        Some(format!("`openssl x509 -in {path}` tests it; with `-inform der -out FILE.pem` it converts DER to PEM"))
    }
}

/// Why no TLS connection can be made to a server that answers. Another try would fail alike.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TlsError {
    /// The certificate's time is over.
    #[error("its certificate expired{}", at(*end, " at "))]
    Expired {
        /// When.
        end: Option<Timestamp>,
    },
    /// The certificate's time has not come.
    #[error("its certificate is not valid{}", at(*begin, " before "))]
    InFuture {
        /// From when on it is.
        begin: Option<Timestamp>,
    },
    /// The certificate was signed by an authority that is not trusted here.
    #[error("its certificate is signed by an authority that is not trusted")]
    UnknownIssuer,
    /// The certificate is for other names.
    #[error("its certificate is not valid for this name{}", names(presented))]
    Name {
        /// The names in it.
        presented: Vec<String>,
    },
    /// The certificate is one of an authority.
    #[error("its certificate is that of an authority, not of a server")]
    Authority,
    /// The certificate is for clients, or for something else.
    #[error("its certificate is not for servers")]
    Purpose,
    /// The certificate was withdrawn.
    #[error("its certificate is revoked")]
    Revoked,
    /// The certificate is wrong in another way.
    #[error("its certificate cannot be used: {cause}")]
    Certificate {
        /// The library's word for it.
        cause: String,
    },
    /// The server does not speak TLS.
    #[error("it does not speak TLS")]
    NotTls,
    /// The server speaks TLS, and refuses.
    #[error("it ends the TLS handshake: {alert}")]
    Refused {
        /// Its alert.
        alert: String,
    },
    /// Server and client agree on nothing, or the server breaks the protocol.
    #[error("the TLS handshake fails: {cause}")]
    Handshake {
        /// The library's word for it.
        cause: String,
    },
}

impl TlsError {
    /// The TLS error in the causes of an error, if there is one.
    pub fn of(error: &(dyn Error + 'static)) -> Option<TlsError> {
        let mut cause = Some(error);
        while let Some(error) = cause {
            if let Some(error) = error.downcast_ref::<rustls::Error>() {
                return Some(TlsError::from(error));
            }
            let inside_io = error.downcast_ref::<std::io::Error>().and_then(|io| io.get_ref());
            cause = inside_io.map(|inner| inner as &(dyn Error + 'static)).or(error.source());
        }
        None
    }
}

impl From<&rustls::Error> for TlsError {
    fn from(error: &rustls::Error) -> TlsError {
        match error {
            rustls::Error::InvalidCertificate(error) => TlsError::from(error),
            rustls::Error::InvalidMessage(_) => TlsError::NotTls,
            rustls::Error::AlertReceived(AlertDescription::UnknownCA) => TlsError::UnknownIssuer,
            rustls::Error::AlertReceived(alert) => TlsError::Refused { alert: format!("{alert:?}") },
            other => TlsError::Handshake { cause: other.to_string() },
        }
    }
}

impl From<&CertificateError> for TlsError {
    fn from(error: &CertificateError) -> TlsError {
        use CertificateError as E;
        match error {
            E::Expired => TlsError::Expired { end: None },
            E::ExpiredContext { not_after, .. } => TlsError::Expired { end: time(*not_after) },
            E::NotValidYet => TlsError::InFuture { begin: None },
            E::NotValidYetContext { not_before, .. } => TlsError::InFuture { begin: time(*not_before) },
            // An authority that was made again has the name of the one before, and another key.
            E::UnknownIssuer | E::BadSignature => TlsError::UnknownIssuer,
            E::NotValidForName => TlsError::Name { presented: Vec::new() },
            E::NotValidForNameContext { presented, .. } => TlsError::Name { presented: presented.clone() },
            E::InvalidPurpose | E::InvalidPurposeContext { .. } => TlsError::Purpose,
            E::Revoked => TlsError::Revoked,
            // webpki has no variant of rustls for this one, which `openssl req -x509` makes by default.
            E::Other(other) if other.to_string() == "CaUsedAsEndEntity" => TlsError::Authority,
            other => TlsError::Certificate { cause: cause(other) },
        }
    }
}

/// What is wrong with a certificate or its chain. rustls passes some of webpki's errors on by their names alone.
fn cause(error: &CertificateError) -> String {
    use CertificateError as E;
    let named = match error {
        E::UnsupportedSignatureAlgorithmContext { .. } | E::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            Some("the algorithm of a signature is not secure enough")
        }
        E::Other(other) => match other.to_string().as_str() {
            "UnsupportedCriticalExtension" => Some("it has an extension that must be understood, and is unknown"),
            "UnsupportedCertVersion" => Some("it is of another version than 3"),
            _ => None,
        },
        _ => None,
    };
    named.map_or_else(|| error.to_string(), str::to_owned)
}

impl Fault for TlsError {
    /// A certificate is part of how servers are set up: to wait does not help.
    fn class(&self) -> Class {
        Class::Settings
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            TlsError::Expired { .. } => {
                "renew the server's certificate; `date` shows whether this host's clock is right"
            }
            TlsError::InFuture { .. } => "`date` shows whether this host's clock is right",
            TlsError::UnknownIssuer => {
                "`ca-file` in the settings names the certificates of authorities to trust; those of the system are in the bundle that update-ca-certificates or update-ca-trust writes"
            }
            TlsError::Name { .. } => "use a name of the certificate in the URL, or a certificate for the URL's name",
            TlsError::Authority => {
                "give the server a certificate without CA:TRUE: openssl req -x509 -addext basicConstraints=critical,CA:FALSE"
            }
            TlsError::NotTls => "the URL may need another port, or http in place of https",
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

fn time(time: UnixTime) -> Option<Timestamp> {
    Timestamp::from_second(i64::try_from(time.as_secs()).ok()?).ok()
}

fn at(time: Option<Timestamp>, before: &str) -> String {
    time.map(|time| format!("{before}{time:.0}")).unwrap_or_default()
}

/// What a server presents is text from outside.
fn names(presented: &[String]) -> String {
    const NAMES_MAX: usize = 3;
    // rustls writes them as `DnsName("host")`.
    let name = |text: &String| {
        let inner = text.strip_prefix("DnsName(\"").and_then(|text| text.strip_suffix("\")"));
        Excerpt(inner.unwrap_or(text)).to_string()
    };
    let names: Vec<String> = presented.iter().take(NAMES_MAX).map(name).collect();
    if names.is_empty() { String::new() } else { format!(", but for {}", names.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_certificate_in_the_bundle_hides_no_other() {
        let certificate = |name: &str| {
            let key = rcgen::KeyPair::generate().unwrap();
            rcgen::CertificateParams::new([name.to_owned()]).unwrap().self_signed(&key).unwrap().pem()
        };
        let block = |content: &str| format!("-----BEGIN CERTIFICATE-----\n{content}\n-----END CERTIFICATE-----\n");
        let bundle =
            [certificate("first"), block("AAAA"), block("not base64"), "text\n".to_owned(), certificate("second")];
        assert_eq!(usable(bundle.concat().as_bytes()).len(), 2);
        assert_eq!(usable(b"").len(), 0);
    }
}
