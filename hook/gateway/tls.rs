//! The server certificate.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use super::settings::Tls;
use crate::fault::{Class, Fault};
use crate::settings::FileError;
use crate::settings::file::{self, Kind};

const PEM_BYTES_MAX: usize = 256 * 1024;

/// HTTP/1.1 alone: what one connection can ask for at once is then one thing.
const PROTOCOL: &[u8] = b"http/1.1";

/// Reads the certificate and its key.
///
/// # Errors
/// The files cannot be read, hold something else, or do not go together.
pub fn acceptor(settings: &Tls) -> Result<TlsAcceptor, TlsError> {
    let read = |path, kind| file::read(path, kind, PEM_BYTES_MAX).map_err(|source| TlsError::File { source });
    let (certificates, key) = (&*settings.certificate_file, &*settings.key_file);
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(certificates, Kind::Plain)?).collect();
    let chain = chain.ok().filter(|chain| !chain.is_empty());
    let chain = chain.ok_or_else(|| TlsError::NoCertificate { path: certificates.into() })?;
    let key = PrivateKeyDer::from_pem_slice(&read(key, Kind::Credential)?)
        .map_err(|_| TlsError::NoKey { path: key.into() })?;
    let unusable = |source| TlsError::Unusable { path: certificates.into(), source };
    let mut config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).map_err(unusable)?;
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Why there is no certificate to show.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are named for what they hold")]
pub enum TlsError {
    /// A file cannot be read, or is not trusted.
    #[error("cannot use the files of [tls]")]
    File { source: FileError },
    /// The certificate file has none.
    #[error("cannot find a certificate in {}: expected PEM", path.display())]
    NoCertificate { path: PathBuf },
    /// The key file has none.
    #[error("cannot find a private key in {}: expected PEM", path.display())]
    NoKey { path: PathBuf },
    /// The key is of another certificate, or of a kind that is not known.
    #[error("cannot use the certificate in {}", path.display())]
    Unusable { path: PathBuf, source: rustls::Error },
}

impl Fault for TlsError {
    fn class(&self) -> Class {
        match self {
            TlsError::File { source } => source.class(),
            _ => Class::Settings,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            TlsError::File { source } => source.hint(),
            _ => None,
        }
    }
}
