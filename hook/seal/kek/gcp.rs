//! `gcp-kms://…`: Google Cloud KMS, through Google's own client.
//!
//! Three things are ours because the client leaves them to its callers: the deadline around every call (its own are 49 to 180 s),
//! the tries, and the check of the CRC32C sums of what is sent and received. Its errors are never printed: those of its
//! identities can quote the file that holds a token, and those of the API the request.

use std::cell::Cell;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use google_cloud_auth::credentials::subject_token::{Builder as SubjectToken, SubjectTokenProvider};
use google_cloud_auth::credentials::{Credentials, anonymous, external_account, impersonated, mds, service_account};
use google_cloud_auth::errors::{CredentialsError, SubjectTokenProviderError};
use google_cloud_gax::error::Error as ApiError;
use google_cloud_gax::error::rpc::Code;
use google_cloud_gax::options::RequestOptionsBuilder;
use google_cloud_gax::retry_policy::NeverRetry;
use google_cloud_kms::client::KeyManagementService;
use serde::Deserialize;
use serde_json::Value;
use zeroize::Zeroizing;

use super::ramp::Ramp;
use super::remembered::Remembered;
use super::{Abilities, Answer, Decrypted, Fault, Kek, KekError, Kind, KindError, Unwrapped, Version};
use crate::retry::{Deadline, Failure, GaveUp, Seconds, Tries};
use crate::seal::envelope::DataKey;
use crate::secret::Secret;
use crate::settings::file::{self, FileError};
use crate::settings::{Federation, GcpKms, Settings};
use crate::token::{TokenError, Tokens};

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

/// What a token of another issuer is to Google's Security Token Service.
const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";

const CREDENTIALS_BYTES_MAX: usize = 64 * 1024;

/// A client of Cloud KMS, with the identity that the settings give it.
struct CloudKms {
    client: KeyManagementService,
    credentials: Credentials,
    /// Those of another issuer, which are exchanged.
    tokens: Option<Arc<Tokens>>,
    /// What can be forgotten, if the token may be one of an earlier start.
    remembered: Option<Remembered>,
    /// Whether there was an access token: a call that then gets no answer waits for the KMS.
    identified: Cell<bool>,
    /// Google's client speaks HTTP/1.1: calls at the same time are connections at the same time.
    ramp: Ramp,
}

/// Reads the credentials file and makes the client. Nothing is sent, unless the metadata server has to say what Google it is in.
fn open(settings: &Settings, deadline: Deadline) -> Answer<'_, Box<dyn Kek + '_>> {
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
        let Identity { credentials, tokens, remembered } = Identity::of(settings)?;
        let mut builder =
            KeyManagementService::builder().with_credentials(credentials.clone()).with_retry_policy(NeverRetry);
        if let Some(endpoint) = &settings.endpoint {
            builder = builder.with_endpoint(endpoint.to_string());
        }
        let client = builder.build().await.map_err(|_| CloudKmsError::Client)?;
        Ok(CloudKms { client, credentials, tokens, remembered, identified: Cell::default(), ramp: Ramp::default() })
    }

    /// Gets an access token, which the client keeps for its later calls.
    async fn identify(&self) -> Result<(), Failure<CallError>> {
        self.credentials.headers(Default::default()).await.map_err(|error| identity_failure(&error))?;
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
        if let Some(tokens) = &self.tokens {
            tokens.current(deadline).await.map_err(no_token)?;
        }
        let attempt = async || {
            self.identify().await?;
            match (call().await, &self.remembered) {
                (Err(Failure::Final(CallError::Status(Code::Unauthenticated))), Some(remembered)) => {
                    remembered.forget();
                    self.identify().await?;
                    call().await
                }
                (answer, _) => answer,
            }
        };
        Ok(deadline.retry(attempt).await.map_err(|gave_up| told(name, gave_up, self.identified.get()))?)
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
    fn wrap<'a>(&'a self, name: &'a str, data_key: &'a DataKey, deadline: Deadline) -> Answer<'a, Vec<u8>> {
        async move { self.call(name, deadline, async || self.encrypt(name, data_key).await).await }.boxed_local()
    }

    fn unwrap<'a>(&'a self, name: &'a str, wrapped: &'a [u8], deadline: Deadline) -> Answer<'a, Unwrapped> {
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
    ) -> Answer<'a, Decrypted> {
        let decrypt = async move {
            let call = async || self.decrypt(name, ciphertext, associated_data.as_bytes()).await;
            let (mut secret, version) = self.call(name, deadline, call).await?;
            Ok(Decrypted { secret: Secret::new(std::mem::take(&mut *secret)), version })
        };
        decrypt.boxed_local()
    }

    fn describe<'a>(&'a self, name: &'a str, deadline: Deadline) -> Answer<'a, Abilities> {
        async move { self.call(name, deadline, async || self.permissions(name).await).await }.boxed_local()
    }

    fn prepare(&self, deadline: Deadline) -> Answer<'_, ()> {
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

/// Who we are to Google.
struct Identity {
    credentials: Credentials,
    tokens: Option<Arc<Tokens>>,
    remembered: Option<Remembered>,
}

impl Identity {
    /// Reads the files that say who we are. A plain-http endpoint on loopback is a stand-in: it is told nothing.
    fn of(settings: &GcpKms) -> Result<Identity, CloudKmsError> {
        if !settings.sends_credentials() {
            return Ok(Identity::plain(anonymous::Builder::new().build()));
        }
        if let Some(federation) = &settings.federation {
            return Identity::federated(federation);
        }
        match &settings.credentials_file {
            Some(path) => Identity::in_file(path),
            None => mds::Builder::default().build().map(Identity::plain).map_err(|_| CloudKmsError::MetadataServer),
        }
    }

    fn plain(credentials: Credentials) -> Identity {
        Identity { credentials, tokens: None, remembered: None }
    }

    /// Google's client asks us for the token that it exchanges.
    fn federated(federation: &Federation) -> Result<Identity, CloudKmsError> {
        let tokens = Arc::new(Tokens::open(&federation.token).map_err(no_token)?);
        let Federation { audience, service_account, .. } = federation.clone();
        let principal = format!("{audience} {}", service_account.as_deref().unwrap_or_default());
        let subject = Arc::new(Subject(tokens.clone()));
        let make = move || {
            let builder = external_account::ProgrammaticBuilder::new(subject.clone());
            let builder = builder.with_audience(&audience).with_subject_token_type(JWT);
            let builder = match &service_account {
                Some(email) => builder.with_target_principal(email),
                None => builder,
            };
            builder.build().ok()
        };
        let identity = |credentials, remembered| Identity { credentials, tokens: Some(tokens.clone()), remembered };
        match tokens.at_hand() {
            Some(token) => {
                let remembered = Remembered::new(make, None, principal.as_bytes(), token.expose());
                let remembered = remembered.ok_or(CloudKmsError::Client)?;
                Ok(identity(Credentials::from(remembered.clone()), Some(remembered)))
            }
            None => Ok(identity(make().ok_or(CloudKmsError::Client)?, None)),
        }
    }

    fn in_file(path: &std::path::Path) -> Result<Identity, CloudKmsError> {
        #[derive(Deserialize)]
        struct Typed {
            #[serde(rename = "type")]
            kind: String,
        }
        let path_text = || path.display().to_string();
        let unusable = || CloudKmsError::Credentials { path: path_text() };
        let bytes = file::read(path, file::Kind::Credential, CREDENTIALS_BYTES_MAX)
            .map_err(|source| CloudKmsError::File { source })?;
        let value: Value = serde_json::from_slice(&bytes).map_err(|_| unusable())?;
        let kind = Typed::deserialize(&value).map_err(|_| unusable())?.kind;
        let subject_token = subject_token(&value)?;
        let make: fn(Value) -> Option<Credentials> = match kind.as_str() {
            "service_account" => |value| service_account::Builder::new(value).build().ok(),
            "external_account" => |value| external_account::Builder::new(value).build().ok(),
            "impersonated_service_account" => |value| impersonated::Builder::new(value).build().ok(),
            _ => return Err(CloudKmsError::CredentialsKind { path: path_text(), found: kind }),
        };
        let Some(subject_token) = subject_token else {
            return make(value).map(Identity::plain).ok_or_else(unusable);
        };
        let universe = value.get("universe_domain").and_then(Value::as_str).map(ToOwned::to_owned);
        let remembered = Remembered::new(move || make(value.clone()), universe, &bytes, &subject_token);
        let remembered = remembered.ok_or_else(unusable)?;
        let credentials = Credentials::from(remembered.clone());
        Ok(Identity { credentials, tokens: None, remembered: Some(remembered) })
    }
}

/// What Google's client asks for the token of another issuer.
#[derive(Debug)]
struct Subject(Arc<Tokens>);

impl SubjectTokenProvider for Subject {
    type Error = NoSubjectToken;

    async fn subject_token(
        &self,
    ) -> Result<google_cloud_auth::credentials::subject_token::SubjectToken, NoSubjectToken> {
        match self.0.get().await {
            Ok(token) => Ok(SubjectToken::new(token.expose_text()).build()),
            Err(Failure::Final(_)) => Err(NoSubjectToken { is_transient: false }),
            Err(Failure::Transient { .. }) => Err(NoSubjectToken { is_transient: true }),
        }
    }
}

/// There is no token. Why, is told where it was first asked for.
#[derive(Debug, thiserror::Error)]
#[error("no subject token")]
struct NoSubjectToken {
    is_transient: bool,
}

impl SubjectTokenProviderError for NoSubjectToken {
    fn is_transient(&self) -> bool {
        self.is_transient
    }
}

fn no_token(error: TokenError) -> CloudKmsError {
    match error {
        TokenError::File { source } => CloudKmsError::File { source },
        source => CloudKmsError::Token { source },
    }
}

/// A subject token in a file is a credential like any other, though the client reads it by itself.
fn subject_token(credentials: &Value) -> Result<Option<Zeroizing<Vec<u8>>>, CloudKmsError> {
    let places = ["/credential_source/file", "/source_credentials/credential_source/file"];
    let path = places.into_iter().find_map(|place| credentials.pointer(place)).and_then(Value::as_str);
    let read = path.map(|path| file::read(path.as_ref(), file::Kind::Credential, CREDENTIALS_BYTES_MAX));
    read.transpose().map_err(|source| CloudKmsError::File { source })
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
    /// It answered with an error of which only its words tell the kind.
    Known(Known),
    /// Something else answered, with this HTTP status.
    Http(u16),
    /// No identity could be had.
    Identity(Unknown),
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

/// Why no identity could be had.
#[derive(Clone, Copy)]
enum Unknown {
    /// A service was not reached, or is not well.
    Lost,
    /// The pool does not know the provider that the file names.
    Audience,
    /// The time of the subject token is over.
    Expired,
    /// The subject token, or the key, is not accepted.
    Subject,
    /// The service account may not be impersonated.
    Impersonation,
    /// Anything else.
    Refused,
}

/// Words that Cloud KMS uses, in lower case, and what they tell.
const KNOWN: [(&str, Known); 5] = [
    ("current state is: disabled", Known::Disabled),
    ("current state is: destroy", Known::Destroyed),
    ("was sent to location", Known::Location),
    ("service_disabled", Known::ApiDisabled),
    ("api has not been used", Known::ApiDisabled),
];

/// Words that Google's identity services use, in lower case, and what they tell; the first that is found counts.
const REFUSALS: [(&str, Unknown); 5] = [
    ("invalid_target", Unknown::Audience),
    ("stale to sign-in", Unknown::Expired),
    ("expired", Unknown::Expired),
    ("invalid_grant", Unknown::Subject),
    ("getaccesstoken", Unknown::Impersonation),
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
        let unknown = Failure::Final(CallError::Identity(Unknown::Refused));
        return identity_error(&error).map_or(unknown, identity_failure);
    }
    match error.http_status_code() {
        Some(code) if code >= 500 || code == 429 || code == 408 => again(CallError::Http(code)),
        Some(code) => Failure::Final(CallError::Http(code)),
        None if error.is_deserialization() => Failure::Final(CallError::NotKms),
        None => again(CallError::Unreachable),
    }
}

/// What an error of the identities means. It quotes answers and files, so its words are looked at, and never passed on.
fn identity_failure(error: &CredentialsError) -> Failure<CallError> {
    if error.is_transient() {
        return again(CallError::Identity(Unknown::Lost));
    }
    let mut words = Zeroizing::new(String::new());
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        words.push_str(&error.to_string().to_ascii_lowercase());
        cause = error.source();
    }
    let found = REFUSALS.into_iter().find(|(word, _)| words.contains(word));
    Failure::Final(CallError::Identity(found.map_or(Unknown::Refused, |(_, identity)| identity)))
}

fn identity_error(error: &ApiError) -> Option<&CredentialsError> {
    std::error::Error::source(error)?.downcast_ref()
}

fn again(error: CallError) -> Failure<CallError> {
    Failure::Transient { error, retry_after: None }
}

fn told(name: &str, GaveUp { tries, within, last }: GaveUp<CallError>, identified: bool) -> CloudKmsError {
    let key = format!("{}{name}", KIND.scheme);
    match last {
        None if !identified => CloudKmsError::NoIdentity { within: Some(within), tries },
        None => CloudKmsError::NoAnswer { key, within, tries },
        Some(CallError::Corrupt) => CloudKmsError::Corrupt { key, tries },
        Some(CallError::Known(Known::Disabled)) => CloudKmsError::Disabled { key },
        Some(CallError::Known(Known::Destroyed)) => CloudKmsError::Destroyed { key },
        Some(CallError::Known(Known::Location)) => CloudKmsError::Location { key },
        Some(CallError::Known(Known::ApiDisabled)) => CloudKmsError::ApiDisabled { key },
        Some(CallError::Status(Code::PermissionDenied)) => CloudKmsError::Denied { key },
        Some(CallError::Status(Code::Unauthenticated)) => CloudKmsError::Unauthenticated { key },
        Some(CallError::Status(Code::NotFound)) => CloudKmsError::NoKey { key },
        Some(CallError::Status(Code::FailedPrecondition)) => CloudKmsError::NotEnabled { key },
        Some(CallError::Status(Code::InvalidArgument)) => CloudKmsError::NotWrappedByKey { key },
        Some(CallError::Status(Code::ResourceExhausted) | CallError::Http(429)) => CloudKmsError::Quota { key, tries },
        Some(CallError::Status(code)) => CloudKmsError::Status { key, status: code.name().to_owned(), tries },
        Some(CallError::Http(code)) => CloudKmsError::Status { key, status: code.to_string(), tries },
        Some(CallError::Identity(identity)) => match identity {
            Unknown::Lost => CloudKmsError::NoIdentity { within: None, tries },
            Unknown::Audience => CloudKmsError::WrongAudience,
            Unknown::Expired => CloudKmsError::SubjectExpired,
            Unknown::Subject => CloudKmsError::SubjectRefused,
            Unknown::Impersonation => CloudKmsError::NotImpersonated,
            Unknown::Refused => CloudKmsError::IdentityRefused,
        },
        Some(CallError::Unreachable) => CloudKmsError::Unreachable { key, tries },
        Some(CallError::NotKms) => CloudKmsError::NotKms { key },
    }
}

/// Why Cloud KMS cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CloudKmsError {
    /// The credentials file, or the subject token that it names, cannot be read, or others can.
    #[error("cannot use the Google credentials")]
    File {
        /// What is wrong with it.
        source: FileError,
    },
    /// There is no token of the other issuer.
    #[error("cannot show Google who we are")]
    Token {
        /// Why.
        source: TokenError,
    },
    /// The file is not what Google's tools write.
    #[error("{path} is not a Google credentials file that can be used")]
    Credentials {
        /// The file.
        path: String,
    },
    /// A kind of credentials that belongs to a person, or is not known.
    #[error(
        "{path} holds credentials of type {found:.40?}, expected service_account, external_account or impersonated_service_account"
    )]
    CredentialsKind {
        /// The file.
        path: String,
        /// The type.
        found: String,
    },
    /// No credentials file, and no use for the metadata server.
    #[error("cannot use the metadata server for credentials")]
    MetadataServer,
    /// The client cannot be made.
    #[error("cannot prepare the Cloud KMS client")]
    Client,
    /// The service that hands out access tokens was not reached.
    #[error("cannot get an access token from Google: no answer{}{}", Within(*within), Tries(*tries))]
    NoIdentity {
        /// The deadline, if there was silence until then.
        within: Option<Duration>,
        /// How often it was tried.
        tries: u32,
    },
    /// The service that hands out access tokens refused.
    #[error("cannot get an access token from Google: the credentials are refused")]
    IdentityRefused,
    /// The pool of workload identities has no such provider.
    #[error("cannot get an access token from Google: no workload identity provider has this audience")]
    WrongAudience,
    /// The subject token is too old.
    #[error("cannot get an access token from Google: the subject token has expired")]
    SubjectExpired,
    /// The subject token, or the service account's key, is refused.
    #[error("cannot get an access token from Google: the subject token or key is not accepted")]
    SubjectRefused,
    /// Impersonation is refused.
    #[error("cannot get an access token from Google: the service account may not be impersonated by us")]
    NotImpersonated,
    /// Nobody answered in time.
    #[error("{key} did not answer within {}{}", Seconds(*within), Tries(*tries))]
    NoAnswer {
        /// The KEK.
        key: String,
        /// The deadline for everything.
        within: Duration,
        /// How often it was asked.
        tries: u32,
    },
    /// The connection could not be made, or broke.
    #[error("cannot reach {key}{}", Tries(*tries))]
    Unreachable {
        /// The KEK.
        key: String,
        /// How often it was tried.
        tries: u32,
    },
    /// The access token is not accepted.
    #[error("{key} refuses our access token")]
    Unauthenticated {
        /// The KEK.
        key: String,
    },
    /// The identity may not use the key.
    #[error("{key} may not be used by our identity")]
    Denied {
        /// The KEK.
        key: String,
    },
    /// There is no such key.
    #[error("{key} does not exist")]
    NoKey {
        /// The KEK.
        key: String,
    },
    /// The version that wrapped the data key is disabled or destroyed.
    #[error("{key} is not enabled in the version that is needed")]
    NotEnabled {
        /// The KEK.
        key: String,
    },
    /// The version that wrapped the data key is disabled; to wrap, the primary one.
    #[error("{key} is disabled in the version that is needed")]
    Disabled {
        /// The KEK.
        key: String,
    },
    /// That version is destroyed, or about to be.
    #[error("{key} is destroyed in the version that is needed, or will be")]
    Destroyed {
        /// The KEK.
        key: String,
    },
    /// The key is elsewhere.
    #[error("{key} is asked for in another location than its name says")]
    Location {
        /// The KEK.
        key: String,
    },
    /// The project does not use Cloud KMS.
    #[error("{key} is used by a project in which Cloud KMS is not turned on")]
    ApiDisabled {
        /// The KEK.
        key: String,
    },
    /// Another key wrapped the data key, or it was changed.
    #[error("{key} did not wrap this value's data key, or it was changed since")]
    NotWrappedByKey {
        /// The KEK.
        key: String,
    },
    /// Too many requests, for longer than we can wait.
    #[error("{key} is over its quota{}", Tries(*tries))]
    Quota {
        /// The KEK.
        key: String,
        /// How often it was asked.
        tries: u32,
    },
    /// Any other error.
    #[error("{key} answered {status}{}", Tries(*tries))]
    Status {
        /// The KEK.
        key: String,
        /// Google's name of the status, or an HTTP status.
        status: String,
        /// How often it was asked.
        tries: u32,
    },
    /// Bytes were changed on the way.
    #[error("the answer of {key} does not agree with its CRC32C sum{}", Tries(*tries))]
    Corrupt {
        /// The KEK.
        key: String,
        /// How often it was asked.
        tries: u32,
    },
    /// Something else answered.
    #[error("{key} did not answer with the JSON of Cloud KMS")]
    NotKms {
        /// The KEK.
        key: String,
    },
}

impl KindError for CloudKmsError {
    fn fault(&self) -> Fault<'_> {
        match self {
            CloudKmsError::File { source } => Fault::File(source),
            CloudKmsError::Token { source } => Fault::Token(source),
            CloudKmsError::Credentials { .. } | CloudKmsError::CredentialsKind { .. } => Fault::Settings,
            CloudKmsError::IdentityRefused
            | CloudKmsError::WrongAudience
            | CloudKmsError::SubjectExpired
            | CloudKmsError::SubjectRefused
            | CloudKmsError::NotImpersonated
            | CloudKmsError::Disabled { .. }
            | CloudKmsError::Destroyed { .. }
            | CloudKmsError::ApiDisabled { .. }
            | CloudKmsError::Unauthenticated { .. }
            | CloudKmsError::Denied { .. }
            | CloudKmsError::NotEnabled { .. } => Fault::NotPermitted,
            CloudKmsError::NoKey { .. } | CloudKmsError::Location { .. } | CloudKmsError::NotWrappedByKey { .. } => {
                Fault::Data
            }
            _ => Fault::Unavailable,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            CloudKmsError::Denied { key } => {
                let command = gcloud(key, "keys add-iam-policy-binding");
                let role = "--role roles/cloudkms.cryptoKeyDecrypter (to seal: cryptoKeyEncrypter) --member US";
                return Some(format!("{command} {role}; Google says the same of keys that do not exist"));
            }
            CloudKmsError::Disabled { key } | CloudKmsError::NotEnabled { key } => {
                return Some(format!("{} VERSION", gcloud(key, "keys versions enable --key")));
            }
            CloudKmsError::Destroyed { key } => {
                let command = gcloud(key, "keys versions restore --key");
                return Some(format!(
                    "{command} VERSION, while it is only scheduled; then nothing opens the value any more"
                ));
            }
            CloudKmsError::Location { .. } => {
                "`gcloud kms keys list --location LOCATION --keyring RING` shows where it is; `endpoint` under [gcp-kms] may be of one region"
            }
            CloudKmsError::ApiDisabled { .. } => "gcloud services enable cloudkms.googleapis.com --project PROJECT",
            CloudKmsError::Quota { .. } => {
                "ask Google for more \"Cryptographic requests\" per minute, a quota of Cloud KMS by project and region"
            }
            CloudKmsError::WrongAudience => {
                "`gcloud iam workload-identity-pools create-cred-config` writes a `credentials-file` with the provider's audience"
            }
            CloudKmsError::SubjectExpired => {
                "what writes the subject token must renew it, and this host's clock be right"
            }
            CloudKmsError::SubjectRefused => {
                "issuer, audience and condition of the workload identity provider must allow the token; a service account's key must exist"
            }
            CloudKmsError::NotImpersonated => {
                "grant roles/iam.serviceAccountTokenCreator (iam.serviceAccounts.getAccessToken) on the service account to us"
            }
            CloudKmsError::IdentityRefused | CloudKmsError::Unauthenticated { .. } => {
                "`credentials-file` under [gcp-kms] in the settings names the identity"
            }
            CloudKmsError::NoIdentity { .. } => {
                "the services that `credentials-file` under [gcp-kms] names are asked; without it, the metadata server of Google's machines"
            }
            _ => return None,
        };
        Some(hint.to_owned())
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
