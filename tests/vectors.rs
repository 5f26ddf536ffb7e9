//! Wycheproof's test vectors for the cryptography that is called here: sealed values, the store of an emergency, and identity tokens.
//!
//! age's own vectors are tested next to the code that decrypts: `hook/break_glass/file/testkit.rs`.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking, its helpers too")]

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jsonwebtoken::crypto;
use oci_secrets::gateway::key::{self, Key};
use oci_secrets::seal::envelope::{DataKey, Envelope};
use ring::hkdf::{HKDF_SHA256, KeyType, Salt};
use serde_json::{Value, json};
use wycheproof::{TestResult, aead, ecdsa, eddsa, hkdf, rsa_pkcs1_verify};

#[test]
fn envelopes_open_only_if_key_iv_text_and_associated_data_are_right() {
    let set = aead::TestSet::load(aead::TestName::AesGcm).unwrap();
    // The one form that sealed values have: AES-256, 12 bytes of IV, 16 bytes of tag.
    let groups =
        set.test_groups.iter().filter(|group| (group.key_size, group.nonce_size, group.tag_size) == (256, 96, 128));
    let mut count = 0;
    for test in groups.flat_map(|group| &group.tests) {
        let data_key = DataKey::from_serialized([&[0x1a, 0x20], &test.key[..]].concat());
        let bytes = [&[0, 0, 0, 1, b'w'], &test.nonce[..], &test.ct[..], &test.tag[..]].concat();
        let opened = Envelope::parse(bytes).and_then(|envelope| envelope.open(&data_key, &test.aad));
        let opened = opened.ok().map(|secret| secret.expose().to_vec());
        let expected = (test.result == TestResult::Valid).then(|| test.pt.to_vec());
        assert_eq!(opened, expected, "{} {}", test.tc_id, test.comment);
        count += 1;
    }
    assert!(count > 60, "{count}");
}

#[test]
fn the_key_of_the_store_is_derived_as_hkdf_says() {
    struct Length(usize);
    impl KeyType for Length {
        fn len(&self) -> usize {
            self.0
        }
    }
    let set = hkdf::TestSet::load(hkdf::TestName::HkdfSha256).unwrap();
    for test in set.test_groups.iter().flat_map(|group| &group.tests) {
        let mut output = vec![0; test.size];
        let derived = Salt::new(HKDF_SHA256, &test.salt).extract(&test.ikm);
        let filled = derived.expand(&[&test.info], Length(test.size)).and_then(|derived| derived.fill(&mut output));
        let expected = (test.result == TestResult::Valid).then(|| test.okm.to_vec());
        assert_eq!(filled.ok().map(|()| output), expected, "{} {}", test.tc_id, test.comment);
    }
}

#[test]
fn an_rsa_signature_of_a_token_is_pkcs1_with_sha_256() {
    use rsa_pkcs1_verify::TestName as Name;
    for name in [Name::Rsa2048Sha256, Name::Rsa3072Sha256, Name::Rsa4096Sha256, Name::Rsa8192Sha256] {
        for group in rsa_pkcs1_verify::TestSet::load(name).unwrap().test_groups {
            let [n, e] = [&group.key.n, &group.key.e].map(|number| encode(without_zeros(number)));
            let key = key(json!({ "kty": "RSA", "n": n, "e": e }));
            for test in &group.tests {
                check(&key, &test.msg, &test.sig, test.result, &format!("{name:?} {} {}", test.tc_id, test.comment));
            }
        }
    }
}

#[test]
fn an_ecdsa_signature_of_a_token_is_two_numbers_of_p_256() {
    let set = ecdsa::TestSet::load(ecdsa::TestName::EcdsaSecp256r1Sha256P1363).unwrap();
    for group in set.test_groups {
        let (x, y) = (encode(&group.key.key[1..33]), encode(&group.key.key[33..65]));
        let key = key(json!({ "kty": "EC", "crv": "P-256", "x": x, "y": y }));
        for test in &group.tests {
            check(&key, &test.msg, &test.sig, test.result, &format!("{} {}", test.tc_id, test.comment));
        }
    }
}

#[test]
fn an_eddsa_signature_of_a_token_is_canonical() {
    for group in eddsa::TestSet::load(eddsa::TestName::Ed25519).unwrap().test_groups {
        let key = key(json!({ "kty": "OKP", "crv": "Ed25519", "x": encode(&group.key.pk) }));
        for test in &group.tests {
            check(&key, &test.msg, &test.sig, test.result, &format!("{} {}", test.tc_id, test.comment));
        }
    }
}

/// The key of a set that an issuer publishes.
fn key(mut jwk: Value) -> Key {
    key::install();
    jwk["kid"] = "k".into();
    Key::of_set(&json!({ "keys": [jwk] })).unwrap().remove(0)
}

/// Verifies a signature as that of a token.
fn check(key: &Key, message: &[u8], signature: &[u8], result: TestResult, test: &str) {
    let is_valid =
        crypto::verify(&encode(signature), message, &key.decoding, key.signature.algorithm()).unwrap_or(false);
    match result {
        TestResult::Valid => assert!(is_valid, "{test}"),
        TestResult::Invalid => assert!(!is_valid, "{test}"),
        // Such as an encoding that only old signers make.
        TestResult::Acceptable => {}
    }
}

fn encode(bytes: &[u8]) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

/// A number as a JWK has it.
fn without_zeros(number: &[u8]) -> &[u8] {
    &number[number.iter().take_while(|byte| **byte == 0).count()..]
}
