//! `gcp-kms://…`: Google Cloud KMS, through Google's own client.
//!
//! Three things are ours because the client leaves them to its callers: the deadline around every call (its own are 49 to 180 s),
//! the tries, and the check of the CRC32C sums of what is sent and received. Its errors are never printed: those of its
//! identities can quote the file that holds a token, and those of the API the request.

use std::cell::Cell;

use futures_util::FutureExt;
use google_cloud_auth::errors::CredentialsError;
use google_cloud_gax::error::Error as ApiError;
use google_cloud_gax::options::RequestOptionsBuilder;
use google_cloud_gax::retry_policy::NeverRetry;
use google_cloud_kms::client::KeyManagementService;
use zeroize::Zeroizing;

use super::gcp_error::{self, CallError, Caller, CloudKmsError};
use super::gcp_identity::{GoogleRefusal, Identity, IdentityError};
use super::gcp_metadata::METADATA_SERVER;
use super::gcp_status::KmsStatus;
use super::ramp::Ramp;
use super::service::{Call, Operation};
use super::{Abilities, Decrypted, Kek, KekError, KekFuture, KekKind, Unwrapped, Version};
use crate::dns;
use crate::http_client::innermost;
use crate::retry::{Deadline, Failure, GaveUp};
use crate::seal::envelope::DataKey;
use crate::secret::Secret;
use crate::settings::{GcpKms, Settings};
use crate::tls::TlsError;

/// Google Cloud KMS.
pub const KIND: KekKind = KekKind {
    scheme: "gcp-kms://",
    form: "gcp-kms://projects/<project>/locations/<location>/keyRings/<ring>/cryptoKeys/<key>",
    to_unwrap: "grant roles/cloudkms.cryptoKeyDecrypter on the key to the identity of this host",
    for_trials: false,
    is_name,
    open,
};

/// Where Cloud KMS is, unless the settings name another address.
const SERVER: &str = "https://cloudkms.googleapis.com";

const MAY_WRAP: &str = "cloudkms.cryptoKeyVersions.useToEncrypt";
const MAY_UNWRAP: &str = "cloudkms.cryptoKeyVersions.useToDecrypt";

/// A client of Cloud KMS, with the identity that the settings give it.
struct CloudKms {
    client: KeyManagementService,
    /// Its address, as messages name it.
    server: String,
    identity: Identity,
    /// Whether there was an access token: a call that then gets no answer waits for the KMS.
    identified: Cell<bool>,
    /// Google's client speaks HTTP/1.1: calls at the same time are connections at the same time.
    ramp: Ramp,
}

/// Reads the credentials file and makes the client. Nothing is sent, unless the metadata server has to say what Google it is in.
fn open(settings: &Settings, deadline: Deadline) -> KekFuture<'_, Box<dyn Kek + '_>> {
    let client = async move {
        let client = deadline.retry(async || CloudKms::new(&settings.gcp_kms).await.map_err(Failure::Final)).await;
        let no_answer = |within, tries| CloudKmsError::no_identity(METADATA_SERVER, within, tries);
        let client =
            client.map_err(|GaveUp { tries, within, last }| last.unwrap_or_else(|| no_answer(within, tries)))?;
        Ok(Box::new(client) as Box<dyn Kek>)
    };
    client.boxed_local()
}

impl CloudKms {
    async fn new(settings: &GcpKms) -> Result<CloudKms, CloudKmsError> {
        // An endpoint that is a stand-in on loopback is all that is asked.
        if settings.sends_credentials() {
            dns::require_name_server()?;
        }
        let identity = Identity::of(settings)?;
        let mut builder = KeyManagementService::builder()
            .with_credentials(identity.credentials.clone())
            .with_retry_policy(NeverRetry);
        let mut server = SERVER.to_owned();
        if let Some(endpoint) = &settings.endpoint {
            builder = builder.with_endpoint(endpoint.to_string());
            server = endpoint.as_url().origin().ascii_serialization();
        }
        let client = builder.build().await.map_err(|_| CloudKmsError::Client)?;
        Ok(CloudKms { client, server, identity, identified: Cell::default(), ramp: Ramp::default() })
    }

    /// Gets an access token, which the client keeps for its later calls.
    async fn identify(&self) -> Result<(), Failure<CallError>> {
        self.identity.credentials.headers(Default::default()).await.map_err(|error| identity_failure(&error))?;
        self.identified.set(true);
        Ok(())
    }

    /// Makes calls until one is answered, each after an access token was had: what its service says is not the KMS's word.
    async fn call<T>(
        &self,
        name: &str,
        operation: Operation<'_>,
        deadline: Deadline,
        call: impl AsyncFn() -> Result<T, Failure<CallError>>,
    ) -> Result<T, KekError> {
        // Google's client would ask for it, and keep the reason to itself if there is none.
        if let Some(tokens) = &self.identity.tokens {
            tokens.current(deadline).await.map_err(|error| CloudKmsError::from(IdentityError::from(error)))?;
        }
        let attempt = async || {
            self.identify().await?;
            match (call().await, &self.identity.remembered) {
                (Err(Failure::Final(CallError::Status(status))), Some(remembered)) if status.refuses_credentials() => {
                    remembered.forget();
                    self.identify().await?;
                    call().await
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
        let call = Call { key: format!("{}{name}", KIND.scheme), server: self.server.clone(), operation };
        Err(gcp_error::describe(call, gave_up, &caller).into())
    }

    async fn encrypt(&self, name: &str, data_key: &DataKey) -> Result<Vec<u8>, Failure<CallError>> {
        let plaintext = data_key.serialized();
        let request =
            self.client.encrypt().set_name(name).set_plaintext(plaintext.to_vec()).set_plaintext_crc32c(sum(plaintext));
        let answer = request.with_retry_policy(NeverRetry).send().await.map_err(failure)?;
        let sums_agree = answer.verified_plaintext_crc32c && answer.ciphertext_crc32c == Some(sum(&answer.ciphertext));
        if sums_agree { Ok(answer.ciphertext.to_vec()) } else { Err(again(CallError::Corrupt)) }
    }

    async fn decrypt(
        &self,
        name: &str,
        ciphertext: &[u8],
        associated_data: &[u8],
    ) -> Result<(Zeroizing<Vec<u8>>, Version), Failure<CallError>> {
        let _turn = self.ramp.turn().await;
        let request = self
            .client
            .decrypt()
            .set_name(name)
            .set_ciphertext(ciphertext.to_vec())
            .set_ciphertext_crc32c(sum(ciphertext))
            .set_additional_authenticated_data(associated_data.to_vec())
            .set_additional_authenticated_data_crc32c(sum(associated_data));
        let answer = request.with_retry_policy(NeverRetry).send().await.map_err(failure)?;
        if answer.plaintext_crc32c != Some(sum(&answer.plaintext)) {
            return Err(again(CallError::Corrupt));
        }
        // Cloud KMS does not name the version that it decrypted with, only whether it is the primary one.
        let name = if answer.used_primary { "primary" } else { "not primary" };
        let version = Version { name: Some(name.to_owned()), is_old: !answer.used_primary };
        Ok((Zeroizing::new(answer.plaintext.to_vec()), version))
    }

    /// Asks which of the two permissions we have; the question itself needs none.
    async fn permissions(&self, name: &str) -> Result<Abilities, Failure<CallError>> {
        let request = self.client.test_iam_permissions().set_resource(name).set_permissions([MAY_WRAP, MAY_UNWRAP]);
        let answer = request.with_retry_policy(NeverRetry).send().await.map_err(failure)?;
        let may = |permission: &str| answer.permissions.iter().any(|granted| granted == permission);
        Ok(Abilities { wrap: may(MAY_WRAP), unwrap: may(MAY_UNWRAP) })
    }
}

impl Kek for CloudKms {
    fn wrap<'a>(&'a self, name: &'a str, data_key: &'a DataKey, deadline: Deadline) -> KekFuture<'a, Vec<u8>> {
        async move { self.call(name, Operation::Wrap, deadline, async || self.encrypt(name, data_key).await).await }
            .boxed_local()
    }

    fn unwrap<'a>(&'a self, name: &'a str, wrapped: &'a [u8], deadline: Deadline) -> KekFuture<'a, Unwrapped> {
        let unwrap = async move {
            let call = async || self.decrypt(name, wrapped, &[]).await;
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
            let call = async || self.decrypt(name, ciphertext, associated_data.as_bytes()).await;
            let (mut secret, version) =
                self.call(name, Operation::Decrypt { bound: associated_data }, deadline, call).await?;
            Ok(Decrypted { secret: Secret::new(std::mem::take(&mut *secret)), version })
        };
        decrypt.boxed_local()
    }

    fn describe<'a>(&'a self, name: &'a str, deadline: Deadline) -> KekFuture<'a, Abilities> {
        async move { self.call(name, Operation::Describe, deadline, async || self.permissions(name).await).await }
            .boxed_local()
    }

    fn prepare(&self, deadline: Deadline) -> KekFuture<'_, ()> {
        async move { self.call("*", Operation::Identify, deadline, async || Ok(())).await }.boxed_local()
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

fn failure(error: ApiError) -> Failure<CallError> {
    if let Some(status) = error.status() {
        let status = KmsStatus::of(status);
        return match () {
            () if status.is_corrupt() => again(CallError::Corrupt),
            () if status.is_transient() => again(CallError::Status(status.into())),
            () => Failure::Final(CallError::Status(status.into())),
        };
    }
    if error.is_authentication() {
        let unknown = Failure::Final(CallError::Identity(GoogleRefusal::Other));
        return identity_error(&error).map_or(unknown, identity_failure);
    }
    match error.http_status_code() {
        Some(code) if code >= 500 || code == 429 || code == 408 => again(CallError::Http(code)),
        Some(code) => Failure::Final(CallError::Http(code)),
        None if error.is_deserialization() => Failure::Final(CallError::NotKms),
        None => match TlsError::of(&error) {
            Some(problem) => Failure::Final(CallError::Tls(problem)),
            None => again(CallError::Unreachable(innermost(&error))),
        },
    }
}

fn identity_failure(error: &CredentialsError) -> Failure<CallError> {
    match GoogleRefusal::of(error) {
        lost @ GoogleRefusal::Lost { .. } => again(CallError::Identity(lost)),
        refusal => Failure::Final(CallError::Identity(refusal)),
    }
}

fn identity_error(error: &ApiError) -> Option<&CredentialsError> {
    std::error::Error::source(error)?.downcast_ref()
}

fn again(error: CallError) -> Failure<CallError> {
    Failure::Transient { error, retry_after: None }
}
