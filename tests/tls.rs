//! Error messages for TLS certificates that cannot be verified: each is a settings error, and not an outage.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking, its helpers too")]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use support::StandIn;
use support::host::Host;

const SETTINGS: Option<i32> = Some(78);

#[test]
fn an_invalid_certificate_is_a_settings_error() {
    let authority = authority();
    for (params, words) in [
        (expired(), "its certificate expired at 2020-01-01T00:00:00Z"),
        (future(), "its certificate is not valid before 2999-01-01T00:00:00Z"),
        (named("other.test"), "its certificate is not valid for this name, but for \"other.test\""),
        (for_clients(), "its certificate is not for servers"),
    ] {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &authority).unwrap();
        let error = check(certificate.der().clone(), &key, authority.pem().as_bytes());
        assert!(error.contains(words), "{words}: {error}");
    }
}

#[test]
fn explains_a_self_signed_ca_certificate() {
    let mut params = named("localhost");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let error = check(certificate.der().clone(), &key, certificate.pem().as_bytes());
    assert!(error.contains("its certificate is that of an authority, not of a server"), "{error}");
    assert!(error.contains("hint: give the server a certificate without CA:TRUE"), "{error}");
}

#[test]
fn explains_an_untrusted_authority() {
    let key = KeyPair::generate().unwrap();
    let certificate = named("localhost").signed_by(&key, &authority()).unwrap();
    let error = check(certificate.der().clone(), &key, authority().pem().as_bytes());
    assert!(error.contains("signed by an authority that is not trusted"), "{error}");
    assert!(error.contains("hint: `ca-file` in the settings"), "{error}");
}

#[test]
fn explains_a_ca_file_without_certificates() {
    let authority = authority();
    let key = KeyPair::generate().unwrap();
    let certificate = named("localhost").signed_by(&key, &authority).unwrap();
    for ca_file in [
        authority.der().to_vec(),
        Vec::new(),
        b"# nothing\n".to_vec(),
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_vec(),
    ] {
        let error = check(certificate.der().clone(), &key, &ca_file);
        assert!(error.contains("cannot use `ca-file` under [connect]: "), "{error}");
        assert!(error.contains("holds no certificate in PEM that can be used"), "{error}");
    }
}

/// Runs a command against a server with this certificate, and returns its error output.
fn check(certificate: CertificateDer<'static>, key: &KeyPair, ca_file: &[u8]) -> String {
    let stand_in = StandIn::start(&[]);
    let host = Host::new(&stand_in, "");
    host.write("ca.pem", ca_file, 0o644);
    let port = serve(certificate, key);
    let settings = fs::read_to_string(host.settings()).unwrap();
    let tls = format!("url = \"https://localhost:{port}\"\nca-file = {:?}", host.path("ca.pem"));
    let settings = settings.replace(&format!("url = \"{}\"", stand_in.connect()), &tls);
    fs::write(host.settings(), settings).unwrap();
    let output = host.oci_secrets(&["rewrap", "--to", "local-kek:trial", "--vault", "AgentVault"], b"");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), SETTINGS, "{text}");
    text
}

/// Starts a server with this certificate, which runs until the test ends.
fn serve(certificate: CertificateDer<'static>, key: &KeyPair) -> u16 {
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut stream = StreamOwned::new(connection, socket);
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n");
        }
    });
    port
}

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn named(name: &str) -> CertificateParams {
    CertificateParams::new(vec![name.to_owned()]).unwrap()
}

fn expired() -> CertificateParams {
    let mut params = named("localhost");
    (params.not_before, params.not_after) = (date_time_ymd(2019, 1, 1), date_time_ymd(2020, 1, 1));
    params
}

fn future() -> CertificateParams {
    let mut params = named("localhost");
    (params.not_before, params.not_after) = (date_time_ymd(2999, 1, 1), date_time_ymd(3000, 1, 1));
    params
}

fn for_clients() -> CertificateParams {
    let mut params = named("localhost");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params
}
