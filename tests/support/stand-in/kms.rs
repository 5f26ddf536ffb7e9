//! Google Cloud KMS v1 over REST: symmetric encryption. Keys exist from their first use.
//!
//! Keys are derived from their names, so that ciphertexts decrypt after a restart. The prefix of a key's last segment selects a fault;
//! every fault of [`crate::fault`] is also a key. With the prefix `decrypt-`, the fault affects only decryption.
//!
//! | key | fault |
//! |---|---|
//! | `disabled…`, `destroyed…`, `scheduled…`, `pending…` | the version is not enabled: `FAILED_PRECONDITION` |
//! | `external…` | `FAILED_PRECONDITION` without a known reason |
//! | `denied…` | `PERMISSION_DENIED` with the reason `IAM_PERMISSION_DENIED` |
//! | `forbidden…` | `PERMISSION_DENIED` without a known reason |
//! | a key of [`REASONS`] | an error with this reason |
//! | `elsewhere…` | `INVALID_ARGUMENT`: the key is in another location |
//! | `purpose…` | `INVALID_ARGUMENT`: the key is for signatures |
//! | `missing…` | `NOT_FOUND` |
//! | `wrong-crc…` | decryption returns another `plaintextCrc32c` |
//! | `flip…` | decryption returns another plaintext with the right `plaintextCrc32c` |
//! | `other…` | decryption returns another plaintext with its own `plaintextCrc32c` |
//! | `unverified-crc…` | the checksums of a request are not verified |
//! | `wrong-ciphertext-crc…` | encryption returns another `ciphertextCrc32c` |
//! | `hsm…` | nothing, its protection level is `HSM` |

use std::collections::HashMap;
use std::sync::Mutex;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use base64::prelude::BASE64_STANDARD;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use ring::{digest, hmac};
use serde_json::{Value, json};

use crate::google::Refusal;
use crate::http::{self, Request, Response};

/// The prefix of every ciphertext; the key's version and the nonce follow.
const MAGIC: &[u8] = b"standin-kms";

/// Errors of Google's API infrastructure, as it words them, by the prefix of the key.
const REASONS: [(&str, u16, &str, &str); 9] = [
    (
        "api-off",
        403,
        "SERVICE_DISABLED",
        "Cloud Key Management Service (KMS) API has not been used in project 123456 before or it is disabled.",
    ),
    ("scope", 403, "ACCESS_TOKEN_SCOPE_INSUFFICIENT", "Request had insufficient authentication scopes."),
    ("billing", 403, "BILLING_DISABLED", "This API method requires billing to be enabled."),
    ("quota-project", 403, "USER_PROJECT_DENIED", "Caller does not have required permission to use project 123456."),
    (
        "perimeter",
        403,
        "SECURITY_POLICY_VIOLATED",
        "Request is prohibited by organization's policy. vpcServiceControlsUniqueIdentifier: 1a2b3c",
    ),
    ("account", 401, "ACCOUNT_STATE_INVALID", "The account associated with the authentication credentials is invalid."),
    ("expired", 401, "ACCESS_TOKEN_EXPIRED", "Request had invalid authentication credentials."),
    ("rate", 429, "RATE_LIMIT_EXCEEDED", "Quota exceeded for quota metric 'Cryptographic requests' per minute."),
    ("suspended", 403, "CONSUMER_SUSPENDED", "Permission denied: Consumer 'projects/123456' has been suspended."),
];

const PLAINTEXT_BYTES_MAX: usize = 64 * 1024;
const TIME: &str = "2026-01-02T03:04:05Z";

/// The states of a version that is not enabled, by the prefix of the key.
const STATES: [(&str, &str); 4] = [
    ("disabled", "DISABLED"),
    ("destroyed", "DESTROYED"),
    ("scheduled", "DESTROY_SCHEDULED"),
    ("pending", "PENDING_GENERATION"),
];

/// All key rings.
#[derive(Default)]
pub(crate) struct Kms {
    /// The versions of the keys that have more than one.
    versions: Mutex<HashMap<String, Versions>>,
}

/// The versions of a key, numbered from 1.
#[derive(Clone, Copy)]
struct Versions {
    newest: u32,
    /// The primary version, which encrypts.
    primary: u32,
}

/// A key by its resource name: `projects/*/locations/*/keyRings/*/cryptoKeys/*`.
struct Key<'a> {
    name: &'a str,
    /// The last segment, which selects a fault.
    id: &'a str,
    versions: Versions,
}

/// The result of a request: the body of the response, or an error.
type Answer = Result<Value, Refusal>;

impl Kms {
    pub(crate) fn reset(&self) {
        self.versions.lock().unwrap().clear();
    }

    pub(crate) fn answer(&self, request: &Request) -> Response {
        let method = request.method.as_str();
        let Some((resource, verb)) = split(&request.path) else {
            return Refusal::unknown_path().into();
        };
        let Some((name, below)) = split_key(resource) else {
            return Refusal::unknown_path().into();
        };
        let key = Key { name, id: name.rsplit('/').next().unwrap_or_default(), versions: self.versions(name) };
        let body = request.json();
        let answer = match (method, below, verb) {
            ("POST", "", "encrypt") => key.encrypt(&body),
            ("POST", "", "decrypt") => key.decrypt(&body),
            ("POST", "", "testIamPermissions") => Ok(key.test_permissions(&body)),
            ("GET", "", "") => key.check("cryptoKeys.get").map(|()| key.describe()),
            ("GET", "cryptoKeyVersions", "") => key.check("cryptoKeys.get").map(|()| key.list_versions()),
            ("POST", "cryptoKeyVersions", "") => {
                key.check("cryptoKeyVersions.create").map(|()| self.create_version(&key))
            }
            ("POST", "", "updatePrimaryVersion") => {
                key.check("cryptoKeys.update").and_then(|()| self.update_primary(key, &body))
            }
            _ => Err(Refusal::unknown_path()),
        };
        answer.map_or_else(Response::from, |body| http::json(200, &body))
    }

    fn versions(&self, key: &str) -> Versions {
        let first = Versions { newest: 1, primary: 1 };
        self.versions.lock().unwrap().get(key).copied().unwrap_or(first)
    }

    fn create_version(&self, key: &Key<'_>) -> Value {
        let versions = Versions { newest: key.versions.newest + 1, ..key.versions };
        self.versions.lock().unwrap().insert(key.name.to_owned(), versions);
        key.describe_version(versions.newest)
    }

    fn update_primary(&self, mut key: Key<'_>, request: &Value) -> Answer {
        let version = request["cryptoKeyVersionId"].as_str().and_then(|id| id.parse().ok());
        let version = version.filter(|version| (1..=key.versions.newest).contains(version));
        key.versions.primary = version.ok_or_else(|| Refusal::new(404, "CryptoKeyVersion not found."))?;
        self.versions.lock().unwrap().insert(key.name.to_owned(), key.versions);
        Ok(key.describe())
    }
}

/// The part of a key's name that can select a fault.
pub(crate) fn name_asked_for(request: &Request) -> Option<String> {
    let (resource, verb) = split(&request.path)?;
    let id = split_key(resource)?.0.rsplit('/').next()?;
    match id.strip_prefix("decrypt-") {
        Some(fault) => (verb == "decrypt").then(|| fault.to_owned()),
        None => Some(id.to_owned()),
    }
}

impl Key<'_> {
    fn encrypt(&self, request: &Value) -> Answer {
        self.check_use("useToEncrypt")?;
        let plaintext = bytes(request, "plaintext")?;
        let aad = bytes(request, "additionalAuthenticatedData")?;
        if plaintext.len() > PLAINTEXT_BYTES_MAX {
            return Err(Refusal::new(400, "The plaintext is too large: at most 65536 bytes can be encrypted."));
        }
        let plaintext_verified = self.verify_sum(request, "plaintextCrc32c", "plaintext", &plaintext)?;
        let aad_verified =
            self.verify_sum(request, "additionalAuthenticatedDataCrc32c", "additional_authenticated_data", &aad)?;
        let ciphertext = self.seal(plaintext, &aad);
        let sum = crc32c::crc32c(&ciphertext) ^ u32::from(self.id.starts_with("wrong-ciphertext-crc"));
        Ok(json!({
            "name": self.version_name(self.versions.primary),
            "ciphertext": BASE64_STANDARD.encode(ciphertext),
            "ciphertextCrc32c": sum.to_string(),
            "verifiedPlaintextCrc32c": plaintext_verified,
            "verifiedAdditionalAuthenticatedDataCrc32c": aad_verified,
            "protectionLevel": self.protection_level(),
        }))
    }

    fn decrypt(&self, request: &Value) -> Answer {
        self.check_use("useToDecrypt")?;
        let ciphertext = bytes(request, "ciphertext")?;
        let aad = bytes(request, "additionalAuthenticatedData")?;
        self.verify_sum(request, "ciphertextCrc32c", "ciphertext", &ciphertext)?;
        self.verify_sum(request, "additionalAuthenticatedDataCrc32c", "additional_authenticated_data", &aad)?;
        let (mut plaintext, version) = self.open(&ciphertext, &aad)?;
        let wrong = self.fault("useToDecrypt");
        if let Some(byte) = plaintext.last_mut().filter(|_| wrong.starts_with("other")) {
            *byte ^= 1;
        }
        let sum = crc32c::crc32c(&plaintext) ^ u32::from(wrong.starts_with("wrong-crc"));
        if let Some(byte) = plaintext.first_mut().filter(|_| wrong.starts_with("flip")) {
            *byte ^= 1;
        }
        Ok(json!({
            "plaintext": BASE64_STANDARD.encode(plaintext),
            "plaintextCrc32c": sum.to_string(),
            "usedPrimary": version == self.versions.primary,
            "protectionLevel": self.protection_level(),
        }))
    }

    fn seal(&self, mut plaintext: Vec<u8>, aad: &[u8]) -> Vec<u8> {
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).unwrap();
        let key = self.material(self.versions.primary);
        key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(aad), &mut plaintext).unwrap();
        [MAGIC, &self.versions.primary.to_be_bytes(), &nonce, &plaintext].concat()
    }

    /// The plaintext and the version that sealed it.
    fn open(&self, ciphertext: &[u8], aad: &[u8]) -> Result<(Vec<u8>, u32), Refusal> {
        let invalid = || Refusal::new(400, "Decryption failed: the ciphertext is invalid.");
        let rest = ciphertext.strip_prefix(MAGIC).ok_or_else(invalid)?;
        let (version, rest) = rest.split_first_chunk().ok_or_else(invalid)?;
        let (nonce, sealed) = rest.split_first_chunk().ok_or_else(invalid)?;
        let version = u32::from_be_bytes(*version);
        let (nonce, mut sealed) = (Nonce::assume_unique_for_key(*nonce), sealed.to_vec());
        let opened = self.material(version).open_in_place(nonce, Aad::from(aad), &mut sealed);
        let wrong_key = |_| Refusal::new(400, "Decryption failed: verify that 'name' refers to the correct CryptoKey.");
        Ok((opened.map_err(wrong_key)?.to_vec(), version))
    }

    /// The key's bytes, derived from its name and version.
    fn material(&self, version: u32) -> LessSafeKey {
        let seed = hmac::Key::new(hmac::HMAC_SHA256, digest::digest(&digest::SHA256, MAGIC).as_ref());
        let bytes = hmac::sign(&seed, self.version_name(version).as_bytes());
        LessSafeKey::new(UnboundKey::new(&AES_256_GCM, bytes.as_ref()).unwrap())
    }

    /// Whether the request has a valid checksum; an invalid one is an error.
    fn verify_sum(&self, request: &Value, name: &str, of: &str, bytes: &[u8]) -> Result<bool, Refusal> {
        let sum = match &request[name] {
            Value::Null => return Ok(false),
            // 64-bit integers are strings in Google's JSON.
            Value::String(text) => text.parse().ok(),
            number => number.as_u64(),
        };
        if sum != Some(crc32c::crc32c(bytes).into()) {
            let message = format!("The checksum in field {of}_crc32c did not match the data in field {of}.");
            return Err(Refusal::new(400, message));
        }
        Ok(!self.id.starts_with("unverified-crc"))
    }

    /// Refuses to use the key's primary version if the key's name selects that. The permission is `useToEncrypt` or `useToDecrypt`.
    fn check_use(&self, permission: &str) -> Result<(), Refusal> {
        let fault = self.fault(permission);
        for (word, state) in STATES {
            if fault.starts_with(word) {
                return Err(Refusal::not_enabled(&self.version_name(self.versions.primary), state));
            }
        }
        self.refuse(fault, &format!("cloudkms.cryptoKeyVersions.{permission}"))
    }

    fn check(&self, permission: &str) -> Result<(), Refusal> {
        self.refuse(self.fault(permission), &format!("cloudkms.{permission}"))
    }

    fn refuse(&self, fault: &str, permission: &str) -> Result<(), Refusal> {
        if fault.starts_with("missing") {
            return Err(Refusal::new(404, format!("CryptoKey {} not found.", self.name)));
        }
        if fault.starts_with("elsewhere") {
            let message = "The request concerns location 'europe' but was sent to location 'global'.";
            return Err(Refusal::new(400, message));
        }
        if fault.starts_with("purpose") {
            let message = format!("The request requires purpose ENCRYPT_DECRYPT, {} has ASYMMETRIC_SIGN.", self.name);
            return Err(Refusal::new(400, message));
        }
        if fault.starts_with("external") {
            let message = "The external key manager refused the request: \u{1b}[2Jtoken ya29.canary is not known.";
            return Err(Refusal::new(400, message).named("FAILED_PRECONDITION"));
        }
        if fault.starts_with("forbidden") {
            return Err(Refusal::new(403, "The caller is not allowed to do this on Sundays."));
        }
        if let Some((_, status, reason, message)) = REASONS.into_iter().find(|(word, ..)| fault.starts_with(word)) {
            return Err(Refusal::with_reason(status, reason, message));
        }
        if fault.starts_with("denied") {
            return Err(Refusal::denied("cloudkms.googleapis.com", permission, self.name));
        }
        Ok(())
    }

    /// The fault that the name selects for requests with this permission.
    fn fault(&self, permission: &str) -> &str {
        match self.id.strip_prefix("decrypt-") {
            Some(fault) if permission == "useToDecrypt" => fault,
            Some(_) => "",
            None => self.id,
        }
    }

    fn test_permissions(&self, request: &Value) -> Value {
        match self.check_use("useToDecrypt") {
            Ok(()) => json!({ "permissions": request["permissions"] }),
            Err(_) => json!({}),
        }
    }

    fn describe(&self) -> Value {
        json!({
            "name": self.name,
            "primary": self.describe_version(self.versions.primary),
            "purpose": "ENCRYPT_DECRYPT",
            "createTime": TIME,
            "versionTemplate": {
                "protectionLevel": self.protection_level(),
                "algorithm": "GOOGLE_SYMMETRIC_ENCRYPTION",
            },
            "destroyScheduledDuration": "2592000s",
        })
    }

    fn list_versions(&self) -> Value {
        let versions: Value = (1..=self.versions.newest).map(|version| self.describe_version(version)).collect();
        json!({ "cryptoKeyVersions": versions, "totalSize": self.versions.newest })
    }

    fn describe_version(&self, version: u32) -> Value {
        let fault = self.fault("useToDecrypt");
        let state = STATES.into_iter().find(|(word, _)| fault.starts_with(word)).map_or("ENABLED", |(_, state)| state);
        json!({
            "name": self.version_name(version),
            "state": state,
            "protectionLevel": self.protection_level(),
            "algorithm": "GOOGLE_SYMMETRIC_ENCRYPTION",
            "createTime": TIME,
            "generateTime": TIME,
        })
    }

    fn version_name(&self, version: u32) -> String {
        format!("{}/cryptoKeyVersions/{version}", self.name)
    }

    fn protection_level(&self) -> &'static str {
        if self.id.starts_with("hsm") { "HSM" } else { "SOFTWARE" }
    }
}

/// Splits a path into the resource and the verb after its colon.
fn split(path: &str) -> Option<(&str, &str)> {
    let resource = path.strip_prefix("/v1/")?;
    Some(resource.split_once(':').unwrap_or((resource, "")))
}

/// Splits a resource into the name of its key and what is below the key.
fn split_key(resource: &str) -> Option<(&str, &str)> {
    let segments: Vec<&str> = resource.split('/').collect();
    let ["projects", _, "locations", _, "keyRings", _, "cryptoKeys", id, ..] = segments[..] else {
        return None;
    };
    let end = segments[..7].iter().map(|segment| segment.len() + 1).sum::<usize>() + id.len();
    let (name, below) = resource.split_at(end);
    (!id.is_empty()).then_some((name, below.trim_start_matches('/')))
}

/// The bytes of a field; none if it is absent. Google accepts both alphabets of base64, with or without padding.
fn bytes(request: &Value, name: &str) -> Result<Vec<u8>, Refusal> {
    const LENIENT: GeneralPurpose = GeneralPurpose::new(
        &alphabet::STANDARD,
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
    );
    let text = match &request[name] {
        Value::Null => "",
        Value::String(text) => text,
        _ => {
            return Err(Refusal::new(400, format!("Invalid value at '{name}' (TYPE_BYTES)")));
        }
    };
    let decoded = LENIENT.decode(text.replace('-', "+").replace('_', "/"));
    decoded.map_err(|_| Refusal::new(400, format!("Invalid value at '{name}' (TYPE_BYTES), Base64 decoding failed")))
}
