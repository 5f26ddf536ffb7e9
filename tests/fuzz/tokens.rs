//! Identity tokens and the keys of their issuers.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use bolero::ValueGenerator;
use bolero::generator::bolero_generator::driver::Driver;
use oci_secrets::gateway::json as strict;
use oci_secrets::gateway::key::{self, Key};
use oci_secrets::gateway::settings::IssuerSettings;
use oci_secrets::gateway::token::Unverified;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::{Map, Value, json};

use crate::CANARY;
use crate::engine::check;
use crate::generate::{count_names, names_in, near, near_text, odd, once_in, pick, set, up_to};

const ISSUER: &str = "https://i.example";
const AUDIENCE: &str = "gateway";
const HEADER: &str = r#"{"alg":"EdDSA","kid":"k"}"#;

#[test]
fn only_the_very_text_that_was_signed_is_a_token() {
    let issuer = Issuer::new();
    let signed = issuer.sign(HEADER, &claims().to_string());
    assert_eq!(issuer.verify(&signed), Ok(()));
    let words = [".", "=", "==", "-", "_", "A", "eyJhbGciOiJub25lIn0", "\n", " "];
    check!(8000).with_generator(near_text(&[&signed], &words)).for_each(|text| {
        assert!(*text == signed || issuer.verify(text).is_err(), "{text}");
    });
}

#[test]
fn a_signed_token_is_valid_only_with_the_claims_of_this_gateway() {
    let issuer = Issuer::new();
    check!(6000).with_generator(Claims).for_each(|claims| {
        if issuer.verify(&issuer.sign(HEADER, &claims.to_string())) != Ok(()) {
            return;
        }
        let seconds = |claim: &str| claims[claim].as_i64().unwrap();
        assert_eq!(claims["iss"], ISSUER);
        assert!(claims["aud"] == AUDIENCE || claims["aud"] == json!([AUDIENCE]));
        assert!(claims["sub"].as_str().is_some_and(|subject| !subject.is_empty()));
        let (now, leeway) = (now() as i64, 30);
        assert!(seconds("exp") + leeway > now && seconds("iat") <= now + leeway);
        assert!(seconds("exp") - seconds("iat") <= 3600);
        assert!(claims.get("nbf").is_none_or(|time| time.as_i64().unwrap() <= now + leeway));
    });
}

#[test]
fn a_signed_header_never_chooses_how_it_is_verified() {
    let issuer = Issuer::new();
    let claims = claims().to_string();
    let seeds = [
        HEADER,
        r#"{"alg":"none"}"#,
        r#"{"alg":"HS256","kid":"k"}"#,
        r#"{"alg":"EdDSA","kid":"k","crit":["b64"],"b64":false}"#,
        r#"{"alg":"EdDSA","kid":"k","jwk":{"kty":"OKP"},"jku":"https://elsewhere"}"#,
        r#"{"alg":"EdDSA","Alg":"none","kid":"k"}"#,
    ];
    let words = [r#""alg":"none","#, r#""crit":[],"#, r#""ALG":"EdDSA","#, "\\u0061", ",", "RS256", "ES256", "eddsa"];
    check!(8000).with_generator(near(&seeds, &words)).for_each(|header| {
        if issuer.verify(&issuer.sign_bytes(header, claims.as_bytes())) == Ok(()) {
            let header: Value = serde_json::from_slice(header).unwrap();
            assert_eq!(header["alg"], "EdDSA");
            assert!(header["kid"].is_string() && header.get("crit").is_none());
        }
    });
}

#[test]
fn refusals_do_not_quote_a_token() {
    let claims =
        json!({ "iss": ISSUER, "sub": CANARY, "aud": CANARY, "exp": CANARY, "iat": 1, "jti": CANARY }).to_string();
    let token = |header: &str| Issuer::new().sign(header, &claims);
    let seeds =
        [token(HEADER), token(&HEADER.replace("EdDSA", CANARY)), token(&HEADER.replace('k', CANARY)), CANARY.into()];
    let issuer = Issuer::new();
    check!(6000).with_generator(near_text(&seeds, &[".", "=", CANARY])).for_each(|text| {
        assert!(!issuer.verify(text).unwrap_err().contains(CANARY));
    });
}

#[test]
fn a_document_with_two_equal_names_is_refused() {
    let seeds = [r#"{"a":1,"b":{"c":[{"d":2,"e":"x"}]}}"#, r#"{"a":{"a":{}},"b":null}"#];
    let words = [r#""a":1,"#, r#""A":1,"#, r#""d":{},"#, "\"\\u0061\":1,", "\"ſ\":0,", "\"s\":0,", "{", "}", ","];
    check!(12_000).with_generator(near(&seeds, &words)).for_each(|text| {
        let Ok(parsed) = strict::parse(text) else { return };
        // What another parser keeps is the same, whichever of two members it prefers.
        assert_eq!(serde_json::from_slice::<Value>(text).unwrap(), parsed);
        assert_eq!(count_names(&parsed), names_in(text), "{}", String::from_utf8_lossy(text));
    });
}

#[test]
fn keys_are_those_of_signatures_that_are_verified() {
    key::install();
    check!(8000).with_generator(KeySet).for_each(|set| {
        let Some(keys) = Key::of_set(set) else { return };
        assert!(keys.len() <= 64);
        for key in keys {
            let verified = jsonwebtoken::crypto::verify("AAAA", b"message", &key.decoding, key.signature.algorithm());
            assert!(!verified.unwrap_or_default());
        }
    });
}

/// An issuer with one key.
struct Issuer {
    pair: Ed25519KeyPair,
    key: Key,
    settings: IssuerSettings,
}

impl Issuer {
    fn new() -> Issuer {
        key::install();
        let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
        let x = BASE64_URL_SAFE_NO_PAD.encode(pair.public_key());
        let set = json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "kid": "k", "x": x }] });
        let settings = serde_json::from_value(json!({ "url": ISSUER, "audience": AUDIENCE })).unwrap();
        Issuer { pair, key: Key::of_set(&set).unwrap().remove(0), settings }
    }

    fn sign(&self, header: &str, claims: &str) -> String {
        self.sign_bytes(header.as_bytes(), claims.as_bytes())
    }

    fn sign_bytes(&self, header: &[u8], claims: &[u8]) -> String {
        let [header, claims] = [header, claims].map(|part| BASE64_URL_SAFE_NO_PAD.encode(part));
        let message = format!("{header}.{claims}");
        let signature = BASE64_URL_SAFE_NO_PAD.encode(self.pair.sign(message.as_bytes()));
        format!("{message}.{signature}")
    }

    fn verify(&self, token: &str) -> Result<(), String> {
        let verified = Unverified::parse(token).and_then(|token| token.verify(&self.key, &self.settings));
        verified.map_err(|denial| denial.to_string())
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn claims() -> Value {
    json!({ "iss": ISSUER, "sub": "job", "aud": AUDIENCE, "iat": now() - 10, "exp": now() + 290 })
}

/// Claims, some of which are not what the gateway expects.
struct Claims;

impl ValueGenerator for Claims {
    type Output = Value;

    fn generate<D: Driver>(&self, driver: &mut D) -> Option<Value> {
        let mut claims = claims().as_object()?.clone();
        for _ in 0..up_to(driver, 3)? {
            let claim = *pick(driver, &["iss", "sub", "aud", "iat", "exp", "nbf", "jti"])?;
            let offsets = [-100_000, -3600, -31, -29, 0, 29, 31, 3000, 4000, i64::MIN / 2, i64::MAX / 2];
            let value = match up_to(driver, 5)? {
                0 => odd(driver)?,
                1 => json!([pick(driver, &[AUDIENCE, "other", ""])?, "other"]),
                2 => json!([AUDIENCE]),
                3 => Value::from(*pick(driver, &[ISSUER, "https://i.example/", "", AUDIENCE])?),
                _ => Value::from(now() as i64 + pick(driver, &offsets)?),
            };
            if once_in(driver, 8)? { drop(claims.remove(claim)) } else { drop(claims.insert(claim.to_owned(), value)) }
        }
        Some(claims.into())
    }
}

/// A set of keys.
struct KeySet;

impl ValueGenerator for KeySet {
    type Output = Value;

    fn generate<D: Driver>(&self, driver: &mut D) -> Option<Value> {
        let mut keys = Vec::new();
        for _ in 0..up_to(driver, 3)? {
            let mut key = Map::new();
            set(driver, &mut key, "kty", &["RSA", "EC", "OKP", "oct"])?;
            set(driver, &mut key, "crv", &["P-256", "P-384", "Ed25519", "X25519"])?;
            set(driver, &mut key, "kid", &["k", "", "../k"])?;
            set(driver, &mut key, "alg", &["RS256", "ES256", "EdDSA", "HS256", "none", "RSA-OAEP"])?;
            set(driver, &mut key, "use", &["sig", "enc", ""])?;
            for member in ["n", "e", "x", "y", "k"] {
                let long = "A".repeat(342);
                set(driver, &mut key, member, &["AQAB", "", "AA", "!", &long, &long[..43], "AQ"])?;
            }
            keys.push(if once_in(driver, 20)? { odd(driver)? } else { key.into() });
        }
        Some(if once_in(driver, 20)? { odd(driver)? } else { json!({ "keys": keys }) })
    }
}
