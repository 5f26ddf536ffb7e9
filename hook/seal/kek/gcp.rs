//! `gcp-kms://…`: Google Cloud KMS, through Google's own client.
//!
//! Three things are ours because the client leaves them to its callers: the deadline around every call (its own are 49 to 180 s),
//! the tries, and the check of the CRC32C sums of what is sent and received. Its errors are never printed: those of its
//! identities can quote the file that holds a token, and those of the API the request.

use std::cell::Cell;
use std::fmt;
use std::time::Duration;

use futures_util::FutureExt;
use google_cloud_auth::errors::CredentialsError;
use google_cloud_gax::error::Error as ApiError;
use google_cloud_gax::error::rpc::Code;
use google_cloud_gax::options::RequestOptionsBuilder;
use google_cloud_gax::retry_policy::NeverRetry;
use google_cloud_kms::client::KeyManagementService;
use zeroize::Zeroizing;

use super::gcp_identity::{GoogleRefusal, Identity, IdentityError};
use super::ramp::Ramp;
use super::service::ServiceError;
use super::{Abilities, Decrypted, Kek, KekError, KekFuture, Kind, Unwrapped, Version};
use crate::dns::{self, NoNameServer};
use crate::fault::{Class, Fault};
use crate::retry::{Deadline, Failure, GaveUp, Seconds, Tries};
use crate::seal::envelope::DataKey;
use crate::secret::Secret;
use crate::settings::{GcpKms, Settings};

/// Google Cloud KMS.
pub const KIND: Kind = Kind {
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
    client: KeyManagementService,
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
        let no_answer = |within, tries| CloudKmsError::NoIdentity { within: Some(within), tries };
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
        if let Some(endpoint) = &settings.endpoint {
            builder = builder.with_endpoint(endpoint.to_string());
        }
        let client = builder.build().await.map_err(|_| CloudKmsError::Client)?;
        Ok(CloudKms { client, identity, identified: Cell::default(), ramp: Ramp::default() })
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
                (Err(Failure::Final(CallError::Status(Code::Unauthenticated))), Some(remembered)) => {
                    remembered.forget();
                    self.identify().await?;
                    call().await
                }
                (answer, _) => answer,
            }
        };
        Ok(deadline.retry(attempt).await.map_err(|gave_up| describe(name, gave_up, self.identified.get()))?)
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
        async move { self.call(name, deadline, async || self.encrypt(name, data_key).await).await }.boxed_local()
    }

    fn unwrap<'a>(&'a self, name: &'a str, wrapped: &'a [u8], deadline: Deadline) -> KekFuture<'a, Unwrapped> {
        let unwrap = async move {
            let (mut key, version) = self.call(name, deadline, async || self.decrypt(name, wrapped, &[]).await).await?;
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
            let (mut secret, version) = self.call(name, deadline, call).await?;
            Ok(Decrypted { secret: Secret::new(std::mem::take(&mut *secret)), version })
        };
        decrypt.boxed_local()
    }

    fn describe<'a>(&'a self, name: &'a str, deadline: Deadline) -> KekFuture<'a, Abilities> {
        async move { self.call(name, deadline, async || self.permissions(name).await).await }.boxed_local()
    }

    fn prepare(&self, deadline: Deadline) -> KekFuture<'_, ()> {
        async move { self.call("*", deadline, async || Ok(())).await }.boxed_local()
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

/// Why one call failed, without a word of the client's own.
enum CallError {
    /// The sums do not agree: something between us and the KMS changed bytes.
    Corrupt,
    /// Cloud KMS answered with an error.
    Status(Code),
    /// It answered with an error whose kind only its text shows.
    Known(Known),
    /// Something else answered, with this HTTP status.
    Http(u16),
    /// No identity could be had.
    Identity(GoogleRefusal),
    /// Cloud KMS was not reached.
    Unreachable,
    /// The answer was not Cloud KMS's JSON.
    NotKms,
}

/// What Cloud KMS says in words alone.
#[derive(Clone, Copy)]
enum Known {
    Disabled,
    Destroyed,
    Location,
    ApiDisabled,
}

/// Words of Cloud KMS, in lower case, and what they mean.
const KNOWN: [(&str, Known); 5] = [
    ("current state is: disabled", Known::Disabled),
    ("current state is: destroy", Known::Destroyed),
    ("was sent to location", Known::Location),
    ("service_disabled", Known::ApiDisabled),
    ("api has not been used", Known::ApiDisabled),
];

fn failure(error: ApiError) -> Failure<CallError> {
    if let Some(status) = error.status() {
        let words = status.message.to_ascii_lowercase();
        if let Some((_, known)) = KNOWN.into_iter().find(|(word, _)| words.contains(word)) {
            return Failure::Final(CallError::Known(known));
        }
        let transient = matches!(
            status.code,
            Code::Unavailable
                | Code::ResourceExhausted
                | Code::Internal
                | Code::DeadlineExceeded
                | Code::Aborted
                | Code::Unknown
        );
        let error = CallError::Status(status.code);
        return if transient { again(error) } else { Failure::Final(error) };
    }
    if error.is_authentication() {
        let unknown = Failure::Final(CallError::Identity(GoogleRefusal::Other));
        return identity_error(&error).map_or(unknown, identity_failure);
    }
    match error.http_status_code() {
        Some(code) if code >= 500 || code == 429 || code == 408 => again(CallError::Http(code)),
        Some(code) => Failure::Final(CallError::Http(code)),
        None if error.is_deserialization() => Failure::Final(CallError::NotKms),
        None => again(CallError::Unreachable),
    }
}

fn identity_failure(error: &CredentialsError) -> Failure<CallError> {
    match GoogleRefusal::of(error) {
        GoogleRefusal::Lost => again(CallError::Identity(GoogleRefusal::Lost)),
        refusal => Failure::Final(CallError::Identity(refusal)),
    }
}

fn identity_error(error: &ApiError) -> Option<&CredentialsError> {
    std::error::Error::source(error)?.downcast_ref()
}

fn again(error: CallError) -> Failure<CallError> {
    Failure::Transient { error, retry_after: None }
}

fn describe(name: &str, GaveUp { tries, within, last }: GaveUp<CallError>, identified: bool) -> CloudKmsError {
    let key = format!("{}{name}", KIND.scheme);
    let of_service = match last {
        None if !identified => return CloudKmsError::NoIdentity { within: Some(within), tries },
        Some(CallError::Identity(GoogleRefusal::Lost)) => return CloudKmsError::NoIdentity { within: None, tries },
        Some(CallError::Identity(refusal)) => return CloudKmsError::Refused { refusal },
        Some(CallError::Corrupt) => return CloudKmsError::Corrupt { key, tries },
        Some(CallError::Known(Known::Disabled)) => return CloudKmsError::Disabled { key },
        Some(CallError::Known(Known::Destroyed)) => return CloudKmsError::Destroyed { key },
        Some(CallError::Known(Known::Location)) => return CloudKmsError::Location { key },
        Some(CallError::Known(Known::ApiDisabled)) => return CloudKmsError::ApiDisabled { key },
        None => ServiceError::NoAnswer { key, within, tries },
        Some(CallError::Status(Code::PermissionDenied)) => ServiceError::Denied { key },
        Some(CallError::Status(Code::Unauthenticated)) => ServiceError::Unauthenticated { key },
        Some(CallError::Status(Code::NotFound)) => ServiceError::NoKey { key },
        Some(CallError::Status(Code::FailedPrecondition)) => ServiceError::NotEnabled { key },
        Some(CallError::Status(Code::InvalidArgument)) => ServiceError::NotWrappedByKey { key },
        Some(CallError::Status(Code::ResourceExhausted) | CallError::Http(429)) => ServiceError::Quota { key, tries },
        Some(CallError::Status(code)) => ServiceError::Status { key, status: code.name().to_owned(), tries },
        Some(CallError::Http(code)) => ServiceError::Status { key, status: code.to_string(), tries },
        Some(CallError::Unreachable) => ServiceError::Unreachable { key, tries },
        Some(CallError::NotKms) => ServiceError::NotKms { key, kms: "Cloud KMS" },
    };
    CloudKmsError::Service(of_service)
}

/// Why Cloud KMS cannot be used.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are named for what they hold")]
pub enum CloudKmsError {
    /// The settings name no usable identity.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Names cannot be looked up.
    #[error("cannot ask Google Cloud KMS")]
    NoNameServer(#[from] NoNameServer),
    /// The client cannot be made.
    #[error("cannot prepare the Cloud KMS client")]
    Client,
    /// The service that hands out access tokens was not reached.
    #[error("cannot get an access token from Google: no answer{}{}", Within(*within), Tries(*tries))]
    NoIdentity { within: Option<Duration>, tries: u32 },
    /// The service that hands out access tokens refused.
    #[error("cannot get an access token from Google: {refusal}")]
    Refused { refusal: GoogleRefusal },
    /// What every KMS can answer.
    #[error(transparent)]
    Service(#[from] ServiceError),
    /// The version that wrapped the data key is disabled; to wrap, the primary one.
    #[error("{key} is disabled in the version that is needed")]
    Disabled { key: String },
    /// That version is destroyed, or about to be.
    #[error("{key} is destroyed in the version that is needed, or will be")]
    Destroyed { key: String },
    /// The key is elsewhere.
    #[error("{key} is asked for in another location than its name says")]
    Location { key: String },
    /// The project does not use Cloud KMS.
    #[error("{key} is used by a project in which Cloud KMS is not turned on")]
    ApiDisabled { key: String },
    /// Bytes were changed on the way.
    #[error("the answer of {key} does not agree with its CRC32C sum{}", Tries(*tries))]
    Corrupt { key: String, tries: u32 },
}

impl Fault for CloudKmsError {
    fn class(&self) -> Class {
        match self {
            CloudKmsError::Identity(error) => error.class(),
            CloudKmsError::Service(error) => error.class(),
            CloudKmsError::NoNameServer(_) => Class::Settings,
            CloudKmsError::Refused { .. }
            | CloudKmsError::Disabled { .. }
            | CloudKmsError::Destroyed { .. }
            | CloudKmsError::ApiDisabled { .. } => Class::NotPermitted,
            CloudKmsError::Location { .. } => Class::Data,
            CloudKmsError::Client | CloudKmsError::NoIdentity { .. } | CloudKmsError::Corrupt { .. } => {
                Class::Unavailable
            }
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            CloudKmsError::Identity(error) => return error.hint(),
            CloudKmsError::Service(ServiceError::Denied { key }) => {
                let command = gcloud(key, "keys add-iam-policy-binding");
                let role = "--role roles/cloudkms.cryptoKeyDecrypter (to seal: cryptoKeyEncrypter) --member US";
                return Some(format!("{command} {role}; Google says the same of keys that do not exist"));
            }
            CloudKmsError::Disabled { key } | CloudKmsError::Service(ServiceError::NotEnabled { key }) => {
                return Some(format!("{} VERSION", gcloud(key, "keys versions enable --key")));
            }
            CloudKmsError::Destroyed { key } => {
                let command = gcloud(key, "keys versions restore --key");
                return Some(format!(
                    "{command} VERSION, while it is only scheduled; then nothing opens the value any more"
                ));
            }
            CloudKmsError::NoNameServer(_) => "add a `nameserver` line for a server that this host may ask",
            CloudKmsError::Location { .. } => {
                "`gcloud kms keys list --location LOCATION --keyring RING` shows where it is; `endpoint` under [gcp-kms] may be of one region"
            }
            CloudKmsError::ApiDisabled { .. } => "gcloud services enable cloudkms.googleapis.com --project PROJECT",
            CloudKmsError::Service(ServiceError::Quota { .. }) => {
                "ask Google for more \"Cryptographic requests\" per minute, a quota of Cloud KMS by project and region"
            }
            CloudKmsError::Refused { refusal } => refusal.hint(),
            CloudKmsError::NoIdentity { .. } => GoogleRefusal::Lost.hint(),
            CloudKmsError::Service(ServiceError::Unauthenticated { .. }) => GoogleRefusal::Other.hint(),
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

impl From<CloudKmsError> for KekError {
    fn from(error: CloudKmsError) -> KekError {
        KekError::OfKind(error.into())
    }
}

/// A command of gcloud on this key, with all that names it.
fn gcloud(key: &str, verb: &str) -> String {
    match key.trim_start_matches(KIND.scheme).split('/').collect::<Vec<_>>().as_slice() {
        [_, project, _, location, _, ring, _, key] => {
            format!("gcloud kms {verb} {key} --keyring {ring} --location {location} --project {project}")
        }
        _ => format!("gcloud kms {verb}"),
    }
}

/// A deadline as the end of a message, if there was one.
struct Within(Option<Duration>);

impl fmt::Display for Within {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |within| write!(f, " within {}", Seconds(within)))
    }
}
