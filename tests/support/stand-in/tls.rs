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
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.distinguished_name.push(rcgen::DnType::CommonName, "stand-in authority");
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    fs::write(dir.join("ca.pem"), authority.pem())?;

    let mut params = CertificateParams::new(NAMES.map(str::to_owned)).unwrap();
    params.use_authority_key_identifier_extension = true;
    if expired {
        params.not_before = date_time_ymd(2019, 1, 1);
        params.not_after = date_time_ymd(2020, 1, 1);
    }
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &authority).unwrap();
    file::write_private(&dir.join("server.pem"), &[certificate.pem(), key.serialize_pem()].concat())?;

    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
        .unwrap();
    config.ticketer = ring::Ticketer::new().unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
