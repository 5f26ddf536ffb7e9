//! `gcp-kms://…`: Google Cloud KMS, with Google's own clients of its identities and our own of the KMS (`api.rs`).
//!
//! Deadline and tries are ours, and so is the check of the CRC32C sums of what is sent and received, which Cloud KMS asks of its callers.
//! The errors of Google's clients are never printed: they can quote the file that holds a token.

mod api;
mod error;
mod identity;
mod metadata;
mod status;
mod token_cache;

use std::cell::Cell;

use futures_util::FutureExt;
use futures_util::future::join;
use google_cloud_auth::credentials::CacheableResource;
use google_cloud_auth::errors::CredentialsError;
use google_cloud_iam_v1::model::{TestIamPermissionsRequest, TestIamPermissionsResponse};
use google_cloud_kms::model::{DecryptRequest, DecryptResponse, EncryptRequest, EncryptResponse};
use reqwest::header::HeaderMap;
use zeroize::Zeroizing;

use self::api::Api;
use self::error::{CallError, Caller, CloudKmsError, again};
use self::identity::{GoogleRefusal, Identity, IdentityError};
use super::service::{Call, Operation};
use super::{Abilities, Decrypted, Kek, KekError, KekFuture, KekKind, Unwrapped, Version};
use crate::dns;
use crate::retry::{Deadline, Failure};
use crate::seal::envelope::DataKey;
use crate::secret::Secret;
use crate::settings::{GcpKms, Settings};

/// Google Cloud KMS.
pub const KIND: KekKind = KekKind {
    scheme: "gcp-kms://",
    form: "gcp-kms://projects/<project>/locations/<location>/keyRings/<ring>/cryptoKeys/<key>",
    to_unwrap: "grant roles/cloudkms.cryptoKeyDecrypter on the key to the identity of this host",
    for_trials: false,
    is_name,
    open,
};

const MAY_WRAP: &str = "cloudkms.cryptoKeyVersions.useToEncrypt";
const MAY_UNWRAP: &str = "cloudkms.cryptoKeyVersions.useToDecrypt";

/// A client of Cloud KMS, with the identity that the settings give it.
struct CloudKms {
    api: Api,
    identity: Identity,
    /// Whether there was an access token: a call that then gets no answer waits for the KMS.
    identified: Cell<bool>,
}

/// Reads the credentials file and makes the clients. Nothing is sent.
fn open(settings: &Settings) -> Result<Box<dyn Kek + '_>, KekError> {
    Ok(Box::new(CloudKms::new(&settings.gcp_kms)?))
}

impl CloudKms {
    fn new(settings: &GcpKms) -> Result<CloudKms, CloudKmsError> {
        // An endpoint that is a stand-in on loopback is all that is asked.
        if settings.sends_credentials() {
            dns::require_name_server()?;
        }
        let identity = Identity::of(settings)?;
        let api = Api::new(settings.endpoint.as_ref()).ok_or(CloudKmsError::Client)?;
        Ok(CloudKms { api, identity, identified: Cell::default() })
    }

    /// The headers with an access token, which Google's clients keep for later calls.
    async fn identify(&self) -> Result<HeaderMap, Failure<CallError>> {
        let headers = self.identity.credentials.headers(Default::default()).await;
        let CacheableResource::New { data, .. } = headers.map_err(|error| identity_failure(&error))? else {
            return Err(Failure::Final(CallError::Identity(GoogleRefusal::Other)));
        };
        self.identified.set(true);
        Ok(data)
    }

    /// Makes calls until one is answered, each after an access token was had: what its service says is not the KMS's word.
    async fn call<T>(
        &self,
        name: &str,
        operation: Operation<'_>,
        deadline: Deadline,
        call: impl AsyncFn(HeaderMap) -> Result<T, Failure<CallError>>,
    ) -> Result<T, KekError> {
        // Google's client would ask for it, and keep the reason to itself if there is none.
        if let Some(tokens) = &self.identity.tokens {
            tokens.current(deadline).await.map_err(|error| CloudKmsError::from(IdentityError::from(error)))?;
        }
        let attempt = async || {
            let identity = self.identify().await?;
            match (call(identity).await, &self.identity.remembered) {
                (Err(Failure::Final(CallError::Status(status))), Some(remembered)) if status.refuses_credentials() => {
                    remembered.forget();
                    call(self.identify().await?).await
                }
                (answer, _) => answer,
            }
        };
        let gave_up = match deadline.retry(attempt).await {
            Ok(answer) => return Ok(answer),
            Err(gave_up) => gave_up,
        };
        let Identity { member, token_server, .. } = &self.identity;
        let caller = Caller { member, token_server, is_identified: self.identified.get() };
        let call = Call { key: format!("{}{name}", KIND.scheme), server: self.api.server().to_owned(), operation };
        Err(error::describe(call, gave_up, &caller).into())
    }

    async fn encrypt(
        &self,
        name: &str,
        data_key: &DataKey,
        identity: HeaderMap,
    ) -> Result<Vec<u8>, Failure<CallError>> {
        let plaintext = data_key.serialized();
        let request = EncryptRequest::new().set_plaintext(plaintext.to_vec()).set_plaintext_crc32c(sum(plaintext));
        let answer: EncryptResponse = self.api.call(name, "encrypt", identity, &request).await?;
        let sums_agree = answer.verified_plaintext_crc32c && answer.ciphertext_crc32c == Some(sum(&answer.ciphertext));
        if sums_agree { Ok(answer.ciphertext.to_vec()) } else { Err(again(CallError::Corrupt)) }
    }

    async fn decrypt(
        &self,
        name: &str,
        ciphertext: &[u8],
        associated_data: &[u8],
        identity: HeaderMap,
    ) -> Result<(Zeroizing<Vec<u8>>, Version), Failure<CallError>> {
        let request = DecryptRequest::new()
            .set_ciphertext(ciphertext.to_vec())
            .set_ciphertext_crc32c(sum(ciphertext))
            .set_additional_authenticated_data(associated_data.to_vec())
            .set_additional_authenticated_data_crc32c(sum(associated_data));
        let answer: DecryptResponse = self.api.call(name, "decrypt", identity, &request).await?;
        if answer.plaintext_crc32c != Some(sum(&answer.plaintext)) {
            return Err(again(CallError::Corrupt));
        }
        // Cloud KMS does not name the version that it decrypted with, only whether it is the primary one.
        let name = if answer.used_primary { "primary" } else { "not primary" };
        let version = Version { name: Some(name.to_owned()), is_old: !answer.used_primary };
        Ok((Zeroizing::new(answer.plaintext.to_vec()), version))
    }

    /// Asks which of the two permissions we have; the question itself needs none.
    async fn permissions(&self, name: &str, identity: HeaderMap) -> Result<Abilities, Failure<CallError>> {
        let request = TestIamPermissionsRequest::new().set_permissions([MAY_WRAP, MAY_UNWRAP]);
        let answer: TestIamPermissionsResponse = self.api.call(name, "testIamPermissions", identity, &request).await?;
        let may = |permission: &str| answer.permissions.iter().any(|granted| granted == permission);
        Ok(Abilities { wrap: may(MAY_WRAP), unwrap: may(MAY_UNWRAP) })
    }
}

impl Kek for CloudKms {
    fn wrap<'a>(&'a self, name: &'a str, data_key: &'a DataKey, deadline: Deadline) -> KekFuture<'a, Vec<u8>> {
        let call = async |identity| self.encrypt(name, data_key, identity).await;
        async move { self.call(name, Operation::Wrap, deadline, call).await }.boxed_local()
    }

    fn unwrap<'a>(&'a self, name: &'a str, wrapped: &'a [u8], deadline: Deadline) -> KekFuture<'a, Unwrapped> {
        let unwrap = async move {
            let call = async |identity| self.decrypt(name, wrapped, &[], identity).await;
            let (mut key, version) = self.call(name, Operation::Unwrap, deadline, call).await?;
            Ok(Unwrapped { data_key: DataKey::from_serialized(std::mem::take(&mut *key)), version })
        };
        unwrap.boxed_local()
    }

    fn decrypt<'a>(
        &'a self,
        name: &'a str,
        ciphertext: &'a [u8],
        associated_data: &'a str,
        deadline: Deadline,
    ) -> KekFuture<'a, Decrypted> {
        let decrypt = async move {
            let call = async |identity| self.decrypt(name, ciphertext, associated_data.as_bytes(), identity).await;
            let (mut secret, version) =
                self.call(name, Operation::Decrypt { bound: associated_data }, deadline, call).await?;
            Ok(Decrypted { secret: Secret::new(std::mem::take(&mut *secret)), version })
        };
        decrypt.boxed_local()
    }

    fn describe<'a>(&'a self, name: &'a str, deadline: Deadline) -> KekFuture<'a, Abilities> {
        let call = async |identity| self.permissions(name, identity).await;
        async move { self.call(name, Operation::Describe, deadline, call).await }.boxed_local()
    }

    fn prepare(&self, deadline: Deadline) -> KekFuture<'_, ()> {
        let identify = self.call("*", Operation::Identify, deadline, async |_| Ok(()));
        async move { join(identify, self.api.connect(deadline)).await.0 }.boxed_local()
    }
}

/// Whether Cloud KMS can have a key of this name: `projects/*/locations/*/keyRings/*/cryptoKeys/*`, each part of the characters
/// that Google allows, so that a name cannot leave its place in a URL.
fn is_name(name: &str) -> bool {
    let is_part = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':'))
    };
    let parts: Vec<&str> = name.split('/').collect();
    match parts.as_slice() {
        ["projects", project, "locations", location, "keyRings", ring, "cryptoKeys", key] => {
            [project, location, ring, key].into_iter().all(|part| is_part(part))
        }
        _ => false,
    }
}

/// The CRC32C sum as the API carries it: 32 bits in a 64-bit integer.
fn sum(bytes: &[u8]) -> i64 {
    crc32c::crc32c(bytes).into()
}

fn identity_failure(error: &CredentialsError) -> Failure<CallError> {
    match GoogleRefusal::of(error) {
        lost @ GoogleRefusal::Lost { .. } => again(CallError::Identity(lost)),
        refusal => Failure::Final(CallError::Identity(refusal)),
    }
}
