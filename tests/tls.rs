//! Certificates that no connection may be made with, against the client that asks 1Password: each is a settings error that says what is
//! wrong with it.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking, its helpers too")]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Command;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, CustomExtension, DnType, ExtendedKeyUsagePurpose,
    GeneralSubtree, IsCa, KeyPair, KeyUsagePurpose, NameConstraints, date_time_ymd,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
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
        let key = generate();
        let certificate = params.signed_by(&key, &authority).unwrap();
        let error = check(vec![certificate.der().clone()], &key, authority.pem().as_bytes());
        assert!(error.contains(words), "{words}: {error}");
    }
}

#[test]
fn explains_a_self_signed_ca_certificate() {
    let mut params = named("localhost");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = generate();
    let certificate = params.self_signed(&key).unwrap();
    let error = check(vec![certificate.der().clone()], &key, certificate.pem().as_bytes());
    assert!(error.contains("its certificate is that of an authority, not of a server"), "{error}");
    assert!(error.contains("hint: give the server a certificate without CA:TRUE"), "{error}");
}

#[test]
fn explains_an_untrusted_authority() {
    let key = generate();
    let certificate = named("localhost").signed_by(&key, &authority()).unwrap();
    let error = check(vec![certificate.der().clone()], &key, authority().pem().as_bytes());
    assert!(error.contains("signed by an authority that is not trusted"), "{error}");
    assert!(error.contains("hint: `ca-file` in the settings"), "{error}");
}

/// Chains that are wrong elsewhere than in the server's certificate, and certificates that other programs accept. An issuer that may not
/// issue the certificate is looked for no further, and is as one that is not trusted.
#[test]
fn refuses_what_the_rules_for_certificates_forbid() {
    let root = authority();
    let under = |params: CertificateParams| CertifiedIssuer::signed_by(params, generate(), &root).unwrap();
    let ca = || authority_params();
    let ca_with = |change: fn(&mut CertificateParams)| {
        let mut params = ca();
        change(&mut params);
        under(params)
    };
    let good = under(ca());
    let forbidding = ca_with(|params| {
        let subtrees = vec![GeneralSubtree::DnsName("localhost".into())];
        params.name_constraints = Some(NameConstraints { permitted_subtrees: Vec::new(), excluded_subtrees: subtrees });
    });
    let elsewhere = ca_with(|params| {
        let subtrees = vec![GeneralSubtree::DnsName("other.test".into())];
        params.name_constraints = Some(NameConstraints { permitted_subtrees: subtrees, excluded_subtrees: Vec::new() });
    });
    let old = ca_with(expire);
    let for_clients = ca_with(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]);
    let no_authority = ca_with(|params| params.is_ca = IsCa::ExplicitNoCa);
    let last = ca_with(|params| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)));
    let beyond = CertifiedIssuer::signed_by(ca(), generate(), &last).unwrap();
    // It has the name of the one that is trusted, and another key.
    let impostor = authority();
    let mut extended = named("localhost");
    let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, 99], vec![5, 0]);
    extension.set_criticality(true);
    extended.custom_extensions = vec![extension];
    let mut unnamed = CertificateParams::new(Vec::new()).unwrap();
    unnamed.distinguished_name.push(DnType::CommonName, "localhost");

    let chains: Vec<(&str, CertificateParams, &Signer<'_>, Vec<&Signer<'_>>, &str)> = vec![
        ("without the intermediate", named("localhost"), &good, vec![], "signed by an authority that is not trusted"),
        ("an intermediate that has expired", named("localhost"), &old, vec![&old], "expired at 2020-01-01T00:00:00Z"),
        (
            "an issuer that is no authority",
            named("localhost"),
            &no_authority,
            vec![&no_authority],
            "signed by an authority that is not trusted",
        ),
        (
            "an authority for clients",
            named("localhost"),
            &for_clients,
            vec![&for_clients],
            "signed by an authority that is not trusted",
        ),
        (
            "a longer chain than allowed",
            named("localhost"),
            &beyond,
            vec![&beyond, &last],
            "signed by an authority that is not trusted",
        ),
        (
            "a name that is excluded",
            named("localhost"),
            &forbidding,
            vec![&forbidding],
            "signed by an authority that is not trusted",
        ),
        (
            "a name that is not permitted",
            named("localhost"),
            &elsewhere,
            vec![&elsewhere],
            "signed by an authority that is not trusted",
        ),
        (
            "another key of the authority",
            named("localhost"),
            &impostor,
            vec![],
            "signed by an authority that is not trusted",
        ),
        ("a critical extension that is unknown", extended, &root, vec![], "an extension that must be understood"),
        ("a name in the subject alone", unnamed, &root, vec![], "not valid for this name"),
        ("a wildcard for what is below", named("*.localhost"), &root, vec![], "not valid for this name"),
        ("a wildcard for all", named("*"), &root, vec![], "not valid for this name"),
        ("a name that only begins so", named("localhost.other.test"), &root, vec![], "not valid for this name"),
        ("an address", named("127.0.0.1"), &root, vec![], "not valid for this name"),
    ];
    let mut unexpected = Vec::new();
    for (name, params, issuer, more, words) in chains {
        let key = generate();
        let certificate = params.signed_by(&key, issuer).unwrap();
        let chain = [certificate.der()].into_iter().chain(more.into_iter().map(|issuer| issuer.der())).cloned();
        let error = check(chain.collect(), &key, root.pem().as_bytes());
        if !error.contains("its certificate") || !error.contains(words) {
            unexpected.push(format!("{name}: {error}"));
        }
    }
    assert!(unexpected.is_empty(), "{}", unexpected.concat());
    // That the intermediate is not what is wrong.
    let key = generate();
    let certificate = named("localhost").signed_by(&key, &good).unwrap();
    let chain = vec![certificate.der().clone(), good.der().clone()];
    let (_, error) = ask(chain, &key, root.pem().as_bytes());
    assert!(error.contains("503 Service Unavailable"), "{error}");
}

/// Certificates that openssl makes: with keys, hashes and versions that are too old.
#[test]
fn refuses_certificates_that_are_too_weak() {
    let directory = tempfile::tempdir().unwrap();
    let openssl = |arguments: &str| {
        let mut command = Command::new("openssl");
        let output = command.args(arguments.split(' ')).current_dir(directory.path()).output().unwrap();
        assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let read = |name: &str| fs::read(directory.path().join(name)).unwrap();
    let key = generate();
    fs::write(directory.path().join("key.pem"), key.serialize_pem()).unwrap();
    fs::write(directory.path().join("names"), "subjectAltName=DNS:localhost").unwrap();
    for bits in [1024, 2048] {
        let new =
            format!("req -x509 -newkey rsa:{bits} -nodes -keyout ca{bits}.key -out ca{bits}.pem -subj /CN=ca -sha256");
        openssl(&format!("{new} -addext keyUsage=critical,keyCertSign"));
    }
    openssl("req -new -key key.pem -subj /CN=localhost -out request.pem");
    for (name, bits, options, words) in [
        ("a key of 1024 bits", 1024, "-sha256 -extfile names", "signed by an authority that is not trusted"),
        ("SHA-1", 2048, "-sha1 -extfile names", "not secure enough"),
        ("version 1", 2048, "-sha256", "another version than 3"),
        ("MD5", 2048, "-md5 -extfile names", "not secure enough"),
    ] {
        let sign = format!(
            "x509 -req -in request.pem -CA ca{bits}.pem -CAkey ca{bits}.key -CAcreateserial -days 9 -outform DER"
        );
        openssl(&format!("{sign} -out server.der {options}"));
        let error = check(vec![read("server.der").into()], &key, &read(&format!("ca{bits}.pem")));
        assert!(error.contains(words), "{name}: {error}");
    }
}

#[test]
fn explains_a_ca_file_without_certificates() {
    let authority = authority();
    let key = generate();
    let certificate = named("localhost").signed_by(&key, &authority).unwrap();
    for ca_file in [
        authority.der().to_vec(),
        Vec::new(),
        b"# nothing\n".to_vec(),
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_vec(),
    ] {
        let error = check(vec![certificate.der().clone()], &key, &ca_file);
        assert!(error.contains("cannot use `ca-file` under [connect]: "), "{error}");
        assert!(error.contains("holds no certificate in PEM that can be used"), "{error}");
    }
}

type Signer<'a> = CertifiedIssuer<'a, KeyPair>;

/// Runs a command against a server with this chain, which is a settings error, and returns its error output.
fn check(chain: Vec<CertificateDer<'static>>, key: &KeyPair, ca_file: &[u8]) -> String {
    let (code, text) = ask(chain, key, ca_file);
    assert_eq!(code, SETTINGS, "{text}");
    text
}

/// The exit code and the error output of a command that asks a server with this chain.
fn ask(chain: Vec<CertificateDer<'static>>, key: &KeyPair, ca_file: &[u8]) -> (Option<i32>, String) {
    let stand_in = StandIn::start(&[]);
    let host = Host::new(&stand_in, "");
    host.write("ca.pem", ca_file, 0o644);
    let port = serve(chain, key);
    let settings = fs::read_to_string(host.settings()).unwrap();
    let tls = format!("url = \"https://localhost:{port}\"\nca-file = {:?}", host.path("ca.pem"));
    let settings = settings.replace(&format!("url = \"{}\"", stand_in.connect()), &tls);
    fs::write(host.settings(), settings).unwrap();
    let output = host.oci_secrets(&["rewrap", "--to", "local-kek:trial", "--vault", "AgentVault"], b"");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Starts a server with this chain, which runs until the test ends.
fn serve(chain: Vec<CertificateDer<'static>>, key: &KeyPair) -> u16 {
    let provider = rustls::crypto::ring::default_provider();
    let key = provider.key_provider.load_private_key(PrivateKeyDer::Pkcs8(key.serialize_der().into())).unwrap();
    let certified = SingleCertAndKey::from(CertifiedKey::new(chain, key));
    let config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        // It presents what a server that parses its certificate would not.
        .with_cert_resolver(Arc::new(certified));
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

fn authority() -> Signer<'static> {
    CertifiedIssuer::self_signed(authority_params(), generate()).unwrap()
}

fn authority_params() -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

fn generate() -> KeyPair {
    KeyPair::generate().unwrap()
}

fn named(name: &str) -> CertificateParams {
    CertificateParams::new(vec![name.to_owned()]).unwrap()
}

fn expired() -> CertificateParams {
    let mut params = named("localhost");
    expire(&mut params);
    params
}

fn expire(params: &mut CertificateParams) {
    (params.not_before, params.not_after) = (date_time_ymd(2019, 1, 1), date_time_ymd(2020, 1, 1));
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
