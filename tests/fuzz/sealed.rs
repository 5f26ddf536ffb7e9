//! Sealed values, envelopes, files for an emergency, and the names of keys.

use std::sync::LazyLock;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use oci_secrets::pkcs11::{KeyUri, Request};
use oci_secrets::report;
use oci_secrets::seal::SealedValue;
use oci_secrets::seal::envelope::{DataKey, Envelope};
use oci_secrets::secret::Secret;

use crate::CANARY;
use crate::engine::check;
use crate::generate::{near, near_text};

const ASSOCIATED_DATA: &[u8] = b"sealed:v1 local-kek:k op://v/i/f";
const WRAPPED: &[u8] = b"wrapped data key";
const KEY: [u8; 34] = {
    let mut key = [9; 34];
    (key[0], key[1]) = (0x1a, 0x20);
    key
};

static ENVELOPE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let secret = Secret::new(CANARY.as_bytes().to_vec());
    Envelope::seal(&secret, WRAPPED.to_vec(), &data_key(), ASSOCIATED_DATA).unwrap().as_bytes().to_vec()
});

#[test]
fn a_sealed_value_is_printed_as_it_was_parsed() {
    let envelope = BASE64_STANDARD.encode(&*ENVELOPE);
    let canary = BASE64_STANDARD.encode(CANARY);
    let seeds = [
        format!("sealed:v1 local-kek:k {envelope}"),
        format!("sealed:v1/direct gcp-kms://projects/p/locations/l/keyRings/r/cryptoKeys/k {canary}"),
        format!(" sealed:v1 pkcs11:token=t;object=k {envelope}\n"),
        format!("sealed:v2 local-kek:k {canary}"),
        format!("sealed:v1 local-kek:k?pin-value={CANARY} {canary}"),
    ];
    let words = [" ", "  ", "\t", "=", "==", "+", "/", "sealed:v1", "?", "\u{a0}"];
    check!(16_000).with_generator(near_text(&seeds, &words)).for_each(|text| {
        match text.parse::<SealedValue>() {
            Ok(value) => assert_eq!(value.to_string(), text.trim_ascii()),
            Err(error) => {
                let message = report::chain(&error);
                // Ciphertext may be quoted, if no space is before it; a PIN never.
                assert!(!message.contains("?pin-value="), "{message}");
            }
        }
    });
}

#[test]
fn an_envelope_opens_only_with_the_bytes_that_were_sealed() {
    let words = ["\0\0\0\0", "\0\0\u{10}\u{1}", "\0\0\0\u{1}", "\u{7f}\u{7f}\u{7f}\u{7f}"];
    check!(16_000).with_generator(near(&[&*ENVELOPE], &words)).for_each(|bytes| {
        let Ok(envelope) = Envelope::parse(bytes.clone()) else { return };
        assert_eq!(envelope.as_bytes(), bytes);
        let end = 4 + envelope.wrapped().len();
        assert_eq!(bytes[..4], (envelope.wrapped().len() as u32).to_be_bytes());
        assert_eq!(&bytes[4..end], envelope.wrapped());
        let opened = envelope.open(&data_key(), ASSOCIATED_DATA);
        let is_sealed = bytes[end..] == ENVELOPE[4 + WRAPPED.len()..];
        assert_eq!(opened.is_ok_and(|secret| secret.expose() == CANARY.as_bytes()), is_sealed);
        assert!(envelope.open(&data_key(), b"sealed:v1 local-kek:k op://v/i/g").is_err());
        let moved = envelope.rewrapped(b"other").unwrap();
        assert_eq!(moved.open(&data_key(), ASSOCIATED_DATA).is_ok(), is_sealed);
    });
}

#[test]
fn a_key_of_a_token_is_named_by_decoded_attributes() {
    check!(8000).with_type().for_each(|(token, object, id): &(String, String, Vec<u8>)| {
        let encode = |bytes: &[u8]| bytes.iter().map(|byte| format!("%{byte:02X}")).collect::<String>();
        let [token_text, object_text] = [token, object].map(|text| encode(text.as_bytes()));
        let parsed =
            KeyUri::parse(&format!("token={token_text};object={object_text};id={};type=secret-key", encode(id)));
        let is_usable = |bytes: &[u8]| !bytes.is_empty() && !bytes.contains(&0);
        let is_valid = is_usable(token.as_bytes()) && is_usable(object.as_bytes()) && is_usable(id);
        let (token, object, id) = (Some(token.clone()), Some(object.clone()), Some(id.clone()));
        assert_eq!(parsed, is_valid.then(|| KeyUri { token, object, id, ..KeyUri::default() }));
    });
}

#[test]
fn a_key_of_a_token_is_never_named_in_part() {
    let seeds =
        ["token=t;object=k", "serial=1;id=%01%ff;manufacturer=m;model=x", "token=a%20b;object=k;type=secret-key"];
    let words = [";", "=", "%", "%00", "%2", "?", "pin-value=", "module-path=", "/", "token=", "&", "é"];
    check!(16_000).with_generator(near_text(&seeds, &words)).for_each(|text| {
        let Some(uri) = KeyUri::parse(text) else { return };
        assert!((uri.token.is_some() || uri.serial.is_some()) && (uri.object.is_some() || uri.id.is_some()));
        const NAMES: [&str; 7] = ["token", "manufacturer", "model", "serial", "object", "id", "type"];
        assert!(text.split(';').all(|attribute| NAMES.contains(&attribute.split('=').next().unwrap())));
        assert!(!text.contains(['?', '/', '&']), "{text}");
    });
}

#[test]
fn a_request_to_the_helper_is_sent_again_as_it_was() {
    let seeds = [
        r#"{"id":1,"key":{"token":"t","object":"k"},"job":{"Wrap":[1,2,255]}}"#,
        r#"{"id":2,"key":{"serial":"s","id":[0]},"job":"Describe"}"#,
        r#"{"id":3,"key":{"token":"t","object":"k"},"job":{"Unwrap":[]}}"#,
    ];
    let words = ["null", "256", "-1", "\"Create\"", "[", "{}", "\\u0000", "18446744073709551616"];
    check!(8000).with_generator(near(&seeds, &words)).for_each(|line| {
        let Ok(request) = serde_json::from_slice::<Request>(line) else { return };
        let printed = serde_json::to_string(&request).unwrap();
        let again: Request = serde_json::from_str(&printed).unwrap();
        assert_eq!((again.key, serde_json::to_string(&request).unwrap()), (request.key, printed));
    });
}

fn data_key() -> DataKey {
    DataKey::from_serialized(KEY.to_vec())
}
