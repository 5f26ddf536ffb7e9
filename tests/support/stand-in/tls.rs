//! A certificate for the stand-in, made at each start and signed by an authority of its own.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose, date_time_ymd};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::PrivateKeyDer;
use tokio_rustls::TlsAcceptor;

use crate::file;

/// Loopback, and the names of Google's and AWS's services, for clients that reach them there through a hosts file.
const NAMES: [&str; 8] = [
    "localhost",
    "127.0.0.1",
    "cloudkms.googleapis.com",
    "oauth2.googleapis.com",
    "sts.googleapis.com",
    "iamcredentials.googleapis.com",
    "kms.eu-central-1.amazonaws.com",
    "sts.eu-central-1.amazonaws.com",
];

/// Makes a certificate and writes the authority that signed it to `ca.pem` in `dir`; and for another server that stands in for one,
/// certificate and key to `server.pem`.
pub(crate) fn acceptor(dir: &Path, expired: bool) -> io::Result<TlsAcceptor> {
    let Certificate { authority, pem, acceptor } = Certificate::make(expired);
    fs::write(dir.join("ca.pem"), authority)?;
    file::write_private(&dir.join("server.pem"), &pem)?;
    Ok(acceptor)
}

/// The certificate of a server that is renewed while it serves: clients can trust the authority of the next one before.
#[derive(Default)]
pub(crate) struct Renewal {
    next: Option<TlsAcceptor>,
    current: Option<TlsAcceptor>,
}

impl Renewal {
    /// Makes the next certificate, and returns the authority that signed it.
    pub(crate) fn prepare(&mut self) -> String {
        let Certificate { authority, acceptor, .. } = Certificate::make(false);
        self.next = Some(acceptor);
        authority
    }

    /// Uses the next certificate from the next connection on.
    pub(crate) fn renew(&mut self) {
        self.current = self.next.take().or(self.current.take());
    }

    /// What accepts the next connection, unless it is still the first certificate.
    pub(crate) fn current(&self) -> Option<TlsAcceptor> {
        self.current.clone()
    }
}

/// A certificate and its key, and the authority that signed it, which nothing else knows.
struct Certificate {
    authority: String,
    pem: String,
    acceptor: TlsAcceptor,
}

impl Certificate {
    fn make(expired: bool) -> Certificate {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.distinguished_name.push(rcgen::DnType::CommonName, "stand-in authority");
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();

        let mut params = CertificateParams::new(NAMES.map(str::to_owned)).unwrap();
        params.use_authority_key_identifier_extension = true;
        if expired {
            params.not_before = date_time_ymd(2019, 1, 1);
            params.not_after = date_time_ymd(2020, 1, 1);
        }
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &authority).unwrap();
        let pem = [certificate.pem(), key.serialize_pem()].concat();

        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
            .unwrap();
        config.ticketer = ring::Ticketer::new().unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Certificate { authority: authority.pem(), pem, acceptor: TlsAcceptor::from(Arc::new(config)) }
    }
}
