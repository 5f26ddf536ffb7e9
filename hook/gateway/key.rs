//! An issuer's keys, and the verification of signatures with ring. No algorithm that a holder of the public key can forge is
//! implemented.

use jsonwebtoken::crypto::{CryptoProvider, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{ErrorKind, new_error};
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind, EncodingKey};
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
    VerificationAlgorithm,
};
use serde_json::Value;

use super::settings::Signature;

/// The most keys of one issuer.
const KEYS_MAX: usize = 64;

/// The verifier of this process. It cannot sign, and has no HMAC.
static RING: CryptoProvider = CryptoProvider {
    signer_factory: |_: &Algorithm, _: &EncodingKey| Err(new_error(ErrorKind::UnsupportedAlgorithm)),
    verifier_factory: verifier,
    key_utils: KeyUtils::new_unimplemented(),
};

/// Installs ring as the verifier of tokens. Later calls have no effect.
pub fn install() {
    let _ = CryptoProvider::install_default(&RING);
}

impl Signature {
    /// The algorithm, as the library names it.
    pub fn algorithm(self) -> Algorithm {
        match self {
            Signature::Rs256 => Algorithm::RS256,
            Signature::Es256 => Algorithm::ES256,
            Signature::EdDsa => Algorithm::EdDSA,
        }
    }

    /// The algorithm of this name, if it is accepted.
    pub fn named(name: &str) -> Option<Signature> {
        match name {
            "RS256" => Some(Signature::Rs256),
            "ES256" => Some(Signature::Es256),
            "EdDSA" => Some(Signature::EdDsa),
            _ => None,
        }
    }
}

/// A public key for one algorithm, which the token cannot choose.
pub struct Key {
    /// The `kid` in tokens.
    pub id: String,
    /// The algorithm of its signatures.
    pub signature: Signature,
    /// The key.
    pub decoding: DecodingKey,
}

impl Key {
    /// The keys of a set (RFC 7517) that verify signatures; `None` if it is not a set. Keys of unknown or refused kinds are ignored.
    pub fn of_set(set: &Value) -> Option<Vec<Key>> {
        let keys = set.get("keys")?.as_array()?.iter();
        Some(keys.filter_map(|key| Key::of_jwk(&serde_json::from_value(key.clone()).ok()?)).take(KEYS_MAX).collect())
    }

    fn of_jwk(jwk: &Jwk) -> Option<Key> {
        let signature = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => Signature::Rs256,
            AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => Signature::Es256,
            AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => Signature::EdDsa,
            _ => return None,
        };
        let said = jwk.common.key_algorithm.map(|algorithm| algorithm.to_string());
        let is_for_signatures = matches!(jwk.common.public_key_use, None | Some(PublicKeyUse::Signature));
        if !is_for_signatures || said.is_some_and(|said| Signature::named(&said) != Some(signature)) {
            return None;
        }
        Some(Key { id: jwk.common.key_id.clone()?, signature, decoding: DecodingKey::from_jwk(jwk).ok()? })
    }
}

/// A key and its algorithm.
struct Verifier {
    algorithm: Algorithm,
    key: PublicKey,
}

enum PublicKey {
    Rsa { n: Vec<u8>, e: Vec<u8> },
    Bytes(&'static dyn VerificationAlgorithm, Vec<u8>),
}

fn verifier(algorithm: &Algorithm, key: &DecodingKey) -> jsonwebtoken::errors::Result<Box<dyn JwtVerifier>> {
    let key = match (algorithm, key.kind()) {
        (Algorithm::RS256, DecodingKeyKind::RsaModulusExponent { n, e }) => {
            PublicKey::Rsa { n: n.clone(), e: e.clone() }
        }
        (Algorithm::ES256, DecodingKeyKind::SecretOrDer(point)) => {
            PublicKey::Bytes(&ECDSA_P256_SHA256_FIXED, point.clone())
        }
        (Algorithm::EdDSA, DecodingKeyKind::SecretOrDer(point)) => PublicKey::Bytes(&ED25519, point.clone()),
        _ => return Err(new_error(ErrorKind::UnsupportedAlgorithm)),
    };
    Ok(Box::new(Verifier { algorithm: *algorithm, key }))
}

impl signature::Verifier<Vec<u8>> for Verifier {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), signature::Error> {
        let verified = match &self.key {
            PublicKey::Rsa { n, e } => {
                RsaPublicKeyComponents { n, e }.verify(&RSA_PKCS1_2048_8192_SHA256, message, signature)
            }
            PublicKey::Bytes(algorithm, bytes) => UnparsedPublicKey::new(*algorithm, bytes).verify(message, signature),
        };
        verified.map_err(|_| signature::Error::new())
    }
}

impl JwtVerifier for Verifier {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn accepts_only_public_keys_for_accepted_signatures() {
        let (n, x) = ("AQABAQABAQABAQABAQABAQABAQABAQAB", "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo");
        let rsa = json!({ "kty": "RSA", "kid": "a", "n": n, "e": "AQAB" });
        let with = |member: &str, value: &str| {
            let mut key = rsa.clone();
            key[member] = value.into();
            key
        };
        let taken = |key: Value| Key::of_set(&json!({ "keys": [key] })).unwrap().first().map(|key| key.signature);
        assert_eq!(taken(rsa.clone()), Some(Signature::Rs256));
        assert_eq!(taken(with("alg", "RS256")), Some(Signature::Rs256));
        assert_eq!(taken(json!({ "kty": "OKP", "kid": "a", "crv": "Ed25519", "x": x })), Some(Signature::EdDsa));
        assert_eq!(taken(json!({ "kty": "EC", "kid": "a", "crv": "P-256", "x": x, "y": x })), Some(Signature::Es256));
        for refused in [
            json!({ "kty": "oct", "kid": "a", "k": n, "alg": "HS256" }),
            json!({ "kty": "oct", "kid": "a", "k": n }),
            with("alg", "HS256"),
            with("alg", "RS512"),
            with("alg", "ES256"),
            with("use", "enc"),
            json!({ "kty": "EC", "kid": "a", "crv": "P-384", "x": x, "y": x }),
            json!({ "kty": "RSA", "n": n, "e": "AQAB" }),
            json!({ "kty": "RSA", "kid": "a", "n": "not base64!", "e": "AQAB" }),
            json!({ "kty": "of tomorrow", "kid": "a" }),
            json!("none"),
        ] {
            assert_eq!(taken(refused.clone()), None, "{refused}");
        }
    }

    #[test]
    fn an_unknown_key_does_not_affect_the_others() {
        let set = json!({ "keys": [1, { "kty": "x" }, { "kty": "RSA", "kid": "a", "n": "AQAB", "e": "AQAB" }] });
        assert_eq!(Key::of_set(&set).unwrap().len(), 1);
        assert!(Key::of_set(&json!([])).is_none() && Key::of_set(&json!({ "keys": "x" })).is_none());
    }

    #[test]
    fn no_key_verifies_another_algorithm() {
        let key = DecodingKey::from_secret(b"a public key, known to everyone");
        for algorithm in [Algorithm::HS256, Algorithm::RS256, Algorithm::PS256, Algorithm::ES384] {
            assert!(verifier(&algorithm, &key).is_err(), "{algorithm:?}");
        }
    }
}
