//! Sealed files for an emergency, and the identities that open them.

use std::sync::LazyLock;

use age::secrecy::ExposeSecret as _;
use bolero::ValueGenerator;
use bolero::generator::bolero_generator::driver::Driver;
use oci_secrets::break_glass::Kept;
use oci_secrets::break_glass::file::{Ask, Header, Recipient, SealedFile, identities, seal};
use oci_secrets::report;
use oci_secrets::secret::Secret;
use zeroize::Zeroizing;

use crate::engine::check;
use crate::generate::{Near, list, near, near_text, once_in, pick};

const MAGIC: &str = "oci-secrets break-glass v1";
const BLOCK_END: &str = "-----END AGE ENCRYPTED FILE-----\n";

static FILES: LazyLock<Files> = LazyLock::new(Files::new);

#[test]
fn a_file_opens_to_what_was_sealed_with_its_header_or_not_at_all() {
    assert!(FILES.sealed.iter().all(|(text, header, secrets)| open(text.as_bytes(), header) == Some(secrets.clone())));
    check!(1500).with_generator(Recombined(near(&FILES.texts(), &["\n", "A", "=", MAGIC]))).for_each(|text| {
        for (_, header, secrets) in &FILES.sealed {
            assert!(open(text, header).is_none_or(|opened| opened == *secrets));
        }
    });
}

#[test]
fn a_header_is_printed_as_it_was_parsed() {
    let words = ["null", "\"*\"", "\"threshold\":2,", "\"created\":", "9999-12-31", "op://", "-1", "[", "]", "{}", ","];
    check!(8000).with_generator(near_text(&FILES.texts(), &words)).for_each(|text| {
        let Ok(file) = SealedFile::parse(text.as_bytes()) else { return };
        let printed = serde_json::to_string(&file.header).unwrap();
        assert_eq!(serde_json::from_str::<Header>(&printed).unwrap(), file.header);
        let line: serde_json::Value = serde_json::from_str(text.lines().nth(1).unwrap()).unwrap();
        assert_eq!(line["secrets"].as_array().unwrap().len(), file.header.secrets.len());
        assert!(file.header.secrets.iter().all(|kept| kept.reference.starts_with("op://")));
        assert!(file.header.threshold.is_none_or(|threshold| threshold >= 2));
        assert_eq!(text.matches(BLOCK_END.trim_end()).count() > 1, file.header.threshold.is_some());
    });
}

#[test]
fn errors_of_identities_do_not_quote_them() {
    let key = &FILES.keys[0];
    let seeds = [
        format!("# created: 2026-01-01\n{key}\n"),
        format!("-----BEGIN OPENSSH PRIVATE KEY-----\n{key}\n-----END OPENSSH PRIVATE KEY-----\n"),
        format!("age-encryption.org/v1\n-> scrypt {key} 18\n{key}\n--- {key}\n"),
        format!("AGE-PLUGIN-NONE-{key}\n"),
    ];
    let words = ["\n", "#", " ", "AGE-SECRET-KEY-1", "AGE-PLUGIN-", "-----BEGIN ", "age-encryption.org/", "é", "\r"];
    let secret = key.strip_prefix("AGE-SECRET-KEY-1").unwrap();
    check!(6000).with_generator(near(&seeds, &words)).for_each(|content| {
        if let Err(error) = identities(content, "key.txt", Silent) {
            let message = report::chain(&error);
            let parts = secret.as_bytes().windows(10);
            assert!(parts.into_iter().all(|part| !message.contains(str::from_utf8(part).unwrap())), "{message}");
        }
    });
}

/// What a file with this header opens to, with the identities of all operators.
fn open(text: &[u8], header: &Header) -> Option<Vec<Vec<u8>>> {
    let file = SealedFile::parse(text).ok().filter(|file| file.header == *header)?;
    let keys = FILES.keys.iter().flat_map(|key| identities(key.as_bytes(), "key.txt", Silent).unwrap());
    let secrets = file.open(&keys.collect::<Vec<_>>()).ok()?;
    Some(secrets.iter().map(|secret| secret.expose().to_vec()).collect())
}

/// Files of the same operators.
struct Files {
    keys: Vec<String>,
    /// The text, the header, and the secrets.
    sealed: Vec<(String, Header, Vec<Vec<u8>>)>,
}

impl Files {
    fn new() -> Files {
        let keys = [(); 3].map(|()| age::x25519::Identity::generate());
        let recipient = |key: &age::x25519::Identity| Recipient::parse(&key.to_public().to_string(), Silent).unwrap();
        let recipients: Vec<Recipient> = keys.iter().map(recipient).collect();
        let file = |threshold, secrets: [&[u8]; 2]| {
            let kept = |reference: &str| Kept { reference: reference.into(), item: "i".into(), version: 3 };
            let header = Header {
                created: "2026-01-02T03:04:05Z".parse().unwrap(),
                expires: "2026-04-02T03:04:05Z".parse().unwrap(),
                hosts: vec!["*".into()],
                threshold,
                recipients: recipients.iter().map(|recipient| recipient.name().to_owned()).collect(),
                // Each header is one file's.
                secrets: vec![kept("op://v/i/f"), kept(&format!("op://v/{}/g", secrets[0].len()))],
            };
            let values = secrets.map(|bytes| Secret::new(bytes.to_vec()));
            (seal(&header, &values, &recipients).unwrap(), header, secrets.map(<[u8]>::to_vec).to_vec())
        };
        Files {
            keys: keys.iter().map(|key| key.to_string().expose_secret().to_owned()).collect(),
            sealed: vec![file(None, [b"one", b"two"]), file(None, [b"third", b""]), file(Some(2), [b"fourth", b"\n"])],
        }
    }

    fn texts(&self) -> Vec<&str> {
        self.sealed.iter().map(|(text, ..)| text.as_str()).collect()
    }
}

/// The header of one file before blocks of others, or bytes near one file.
struct Recombined(Near);

impl ValueGenerator for Recombined {
    type Output = Vec<u8>;

    fn generate<D: Driver>(&self, driver: &mut D) -> Option<Vec<u8>> {
        if once_in(driver, 3)? {
            return self.0.generate(driver);
        }
        let after_header = |text: &'static str| text.splitn(3, '\n').nth(2).unwrap();
        let blocks: Vec<&str> =
            FILES.texts().into_iter().flat_map(|text| after_header(text).split_inclusive(BLOCK_END)).collect();
        let header = pick(driver, &FILES.texts())?.lines().nth(1)?.to_owned();
        let blocks = list(driver, 4, |driver| pick(driver, &blocks).copied())?.concat();
        Some(format!("{MAGIC}\n{header}\n{blocks}").into_bytes())
    }
}

/// An operator who does not answer.
#[derive(Clone)]
struct Silent;

impl Ask for Silent {
    fn passphrase(&self, _: &str) -> Option<Zeroizing<String>> {
        None
    }

    fn line(&self, _: &str) -> Option<String> {
        None
    }

    fn show(&self, _: &str) {}
}
