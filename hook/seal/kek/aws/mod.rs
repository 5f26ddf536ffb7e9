//! `aws-kms://arn:…`: AWS KMS, through AWS's own client.
//!
//! The encryption context is empty, as Tink has it: what a value is bound to is bound in the envelope. Deadline and tries are ours.
//! The client's errors are never printed: they can quote a request. `identity.rs` finds out who we are.

mod error;
mod identity;
mod ramp;
mod refusal;

use std::error::Error;

use aws_sdk_kms::Client;
use aws_sdk_kms::config::retry::RetryConfig;
use aws_sdk_kms::config::{BehaviorVersion, Region, SharedHttpClient, StalledStreamProtectionConfig};
use aws_sdk_kms::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_kms::primitives::Blob;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore, rustls_provider::CryptoMode};
use aws_smithy_runtime_api::client::dns::{DnsFuture, ResolveDns, ResolveDnsError};
use futures_util::FutureExt;

use self::error::{AwsError, CallError, Caller, KmsError, region};
use self::identity::Identity;
use self::ramp::Ramp;
use self::refusal::AwsRefusal;
use super::service::{Call, Operation};
use super::{Abilities, Decrypted, Kek, KekError, KekFuture, KekKind, Unwrapped, Version};
use crate::dns::Resolver;
use crate::http_client::innermost;
use crate::retry::{Deadline, Failure, GaveUp};
use crate::seal::envelope::DataKey;
use crate::secret::Secret;
use crate::settings::file;
use crate::settings::{AwsKms, Settings};
use crate::tls::{self, TlsError};
use crate::token::TokenError;

/// AWS KMS.
pub const KIND: KekKind = KekKind {
    scheme: "aws-kms://",
    form: "aws-kms://arn:aws:kms:<region>:<account>:key/<id>, or alias/<name> at the end",
    to_unwrap: "allow kms:Decrypt on the key to the role of this host",
    for_trials: false,
    is_name,
    open,
};

/// What associated data are called in the encryption context of values that AWS's own tool encrypted.
const CONTEXT_KEY: &str = "associated-data";

/// A ciphertext that is none: what is asked with it is whether it would be looked at.
const NO_CIPHERTEXT: &[u8] = b"none";

/// Clients of AWS KMS, with the identity that the settings give them.
struct Aws<'a> {
    settings: &'a AwsKms,
    http: SharedHttpClient,
    identity: Identity,
    /// The service speaks HTTP/1.1: calls at the same time are connections at the same time.
    ramp: Ramp,
}

/// Makes the HTTP client, which reads the system's certificates. Nothing is sent yet.
fn open(settings: &Settings) -> Result<Box<dyn Kek + '_>, KekError> {
    let settings = &settings.aws_kms;
    let http = aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring));
    let http = http.tls_context(trust(settings)?).build_with_resolver(Names(Resolver::default()));
    let identity = Identity::of(settings, &http).map_err(no_token)?;
    Ok(Box::new(Aws { settings, http, identity, ramp: Ramp::default() }))
}

/// The authorities to trust: those of `ca-file`, else the system's.
fn trust(settings: &AwsKms) -> Result<TlsContext, AwsError> {
    let pem = match &settings.ca_file {
        Some(path) => {
            let pem = file::read(path, file::Kind::Plain, tls::CA_BYTES_MAX)
                .map_err(|source| AwsError::Authorities { source })?;
            // AWS's client would panic at the first connection.
            tls::authorities(path, &pem).map_err(|source| AwsError::CaFile { source })?;
            Some(pem.to_vec())
        }
        None => tls::system_bundle().filter(|pem| tls::are_certificates(pem)),
    };
    let store = pem.map_or_else(TrustStore::default, |pem| TrustStore::empty().with_pem_certificate(pem));
    TlsContext::builder().with_trust_store(store).build().map_err(|_| AwsError::Client)
}

/// How AWS's client resolves names.
#[derive(Clone, Debug)]
struct Names(Resolver);

impl ResolveDns for Names {
    fn resolve_dns<'a>(&'a self, name: &'a str) -> DnsFuture<'a> {
        DnsFuture::new(async move { self.0.resolve(name).await.map_err(ResolveDnsError::new) })
    }
}

impl Aws<'_> {
    /// A client for the region of this key. The identity is had before, so that its errors are not the call's.
    async fn client(&self, arn: &str) -> Result<Client, Failure<CallError>> {
        let credentials = self.identity.get().await.map_err(no_identity)?;
        let mut config = aws_sdk_kms::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .http_client(self.http.clone())
            .credentials_provider(credentials)
            .region(Region::new(region(arn).to_owned()))
            .retry_config(RetryConfig::disabled())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
        if let Some(endpoint) = &self.settings.endpoint {
            config = config.endpoint_url(endpoint.to_string());
        }
        Ok(Client::from_conf(config.build()))
    }

    /// The address of KMS in the region of this key, as messages name it.
    fn server(&self, arn: &str) -> String {
        match &self.settings.endpoint {
            Some(endpoint) => endpoint.as_url().origin().ascii_serialization(),
            None if arn.starts_with("arn:aws-cn:") => format!("https://kms.{}.amazonaws.com.cn", region(arn)),
            None => format!("https://kms.{}.amazonaws.com", region(arn)),
        }
    }

    async fn encrypt(&self, arn: &str, data_key: &DataKey) -> Result<Vec<u8>, Failure<CallError>> {
        let request = self.client(arn).await?.encrypt().key_id(arn).plaintext(Blob::new(data_key.serialized()));
        let answer = request.send().await.map_err(failure)?;
        answer.ciphertext_blob.map(Blob::into_inner).ok_or(Failure::Final(CallError::NotKms))
    }

    async fn decrypt(
        &self,
        arn: &str,
        ciphertext: &[u8],
        associated_data: Option<&str>,
    ) -> Result<(Vec<u8>, Version), Failure<CallError>> {
        let client = self.client(arn).await?;
        let _turn = self.ramp.turn().await;
        let mut request = client.decrypt().key_id(arn).ciphertext_blob(Blob::new(ciphertext));
        if let Some(text) = associated_data {
            request = request.encryption_context(CONTEXT_KEY, text);
        }
        let answer = request.send().await.map_err(failure)?;
        let plaintext = answer.plaintext.ok_or(Failure::Final(CallError::NotKms))?;
        // AWS names the material that it used, and not whether it is the current one.
        Ok((plaintext.into_inner(), Version { name: answer.key_material_id, is_old: false }))
    }

    /// Asks for both without having them done. A refusal for another reason than our rights is an answer that we have them.
    async fn permissions(&self, arn: &str) -> Result<Abilities, Failure<CallError>> {
        let client = self.client(arn).await?;
        let encrypt = client.encrypt().key_id(arn).plaintext(Blob::new([0])).dry_run(true);
        let wrap = may(encrypt.send().await.map(drop).map_err(failure))?;
        let decrypt = client.decrypt().key_id(arn).ciphertext_blob(Blob::new(NO_CIPHERTEXT)).dry_run(true);
        let unwrap = may(decrypt.send().await.map(drop).map_err(failure))?;
        Ok(Abilities { wrap, unwrap })
    }

    fn answer<'a, T: 'a>(
        &'a self,
        name: &'a str,
        operation: Operation<'a>,
        deadline: Deadline,
        call: impl Future<Output = Result<T, GaveUp<CallError>>> + 'a,
    ) -> KekFuture<'a, T> {
        let answer = async move {
            // AWS's client would ask for it, and keep the reason to itself if there is none.
            self.identity.has_token(deadline).await.map_err(no_token)?;
            call.await.map_err(|gave_up| {
                let caller =
                    Caller { credentials_server: self.identity.server(), is_identified: self.identity.is_known() };
                let call = Call { key: format!("{}{name}", KIND.scheme), server: self.server(name), operation };
                error::describe(call, gave_up, caller).into()
            })
        };
        answer.boxed_local()
    }
}

impl Kek for Aws<'_> {
    fn wrap<'a>(&'a self, name: &'a str, data_key: &'a DataKey, deadline: Deadline) -> KekFuture<'a, Vec<u8>> {
        self.answer(name, Operation::Wrap, deadline, deadline.retry(async || self.encrypt(name, data_key).await))
    }

    fn unwrap<'a>(&'a self, name: &'a str, wrapped: &'a [u8], deadline: Deadline) -> KekFuture<'a, Unwrapped> {
        let call = async || {
            let (key, version) = self.decrypt(name, wrapped, None).await?;
            Ok(Unwrapped { data_key: DataKey::from_serialized(key), version })
        };
        async move { self.answer(name, Operation::Unwrap, deadline, deadline.retry(call)).await }.boxed_local()
    }

    fn decrypt<'a>(
        &'a self,
        name: &'a str,
        ciphertext: &'a [u8],
        associated_data: &'a str,
        deadline: Deadline,
    ) -> KekFuture<'a, Decrypted> {
        let call = async || {
            let (secret, version) = self.decrypt(name, ciphertext, Some(associated_data)).await?;
            Ok(Decrypted { secret: Secret::new(secret), version })
        };
        let operation = Operation::Decrypt { bound: associated_data };
        async move { self.answer(name, operation, deadline, deadline.retry(call)).await }.boxed_local()
    }

    fn describe<'a>(&'a self, name: &'a str, deadline: Deadline) -> KekFuture<'a, Abilities> {
        self.answer(name, Operation::Describe, deadline, deadline.retry(async || self.permissions(name).await))
    }

    fn prepare(&self, deadline: Deadline) -> KekFuture<'_, ()> {
        let call = deadline.retry(async || self.identity.get().await.map(drop).map_err(no_identity));
        self.answer("*", Operation::Identify, deadline, call)
    }
}

fn may(asked: Result<(), Failure<CallError>>) -> Result<bool, Failure<CallError>> {
    match asked {
        Ok(()) => Ok(true),
        Err(Failure::Final(CallError::Answered(error))) => match error.code.as_str() {
            "DryRunOperationException" | "InvalidCiphertextException" => Ok(true),
            "AccessDeniedException" => Ok(false),
            _ => Err(Failure::Final(CallError::Answered(error))),
        },
        Err(failure) => Err(failure),
    }
}

/// Whether AWS can have a key of this name: the ARN of a key or an alias, of the characters that AWS allows in it.
fn is_name(name: &str) -> bool {
    let is_word = |text: &str, more: &str| {
        !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || more.contains(c))
    };
    match name.split(':').collect::<Vec<_>>().as_slice() {
        ["arn", partition, "kms", region, account, key] => {
            let key = match key.split_once('/') {
                Some(("key", id)) => is_word(id, ""),
                Some(("alias", name)) => is_word(name, "_/"),
                _ => false,
            };
            let is_account = account.len() == 12 && account.bytes().all(|byte| byte.is_ascii_digit());
            partition.starts_with("aws") && is_word(partition, "") && is_word(region, "") && is_account && key
        }
        _ => false,
    }
}

fn failure<E: ProvideErrorMetadata + Error + 'static>(error: SdkError<E>) -> Failure<CallError> {
    match error {
        SdkError::ServiceError(answer) => {
            let status = answer.raw().status().as_u16();
            let code = answer.err().code().map_or_else(|| status.to_string(), ToOwned::to_owned);
            let message = answer.err().message().unwrap_or_default().to_owned();
            let error = KmsError { code, message, status };
            if error.is_transient() {
                again(CallError::Answered(error))
            } else {
                Failure::Final(CallError::Answered(error))
            }
        }
        SdkError::ResponseError(_) => Failure::Final(CallError::NotKms),
        other => match TlsError::of(&other) {
            Some(problem) => Failure::Final(CallError::Tls(problem)),
            None => again(CallError::Unreachable(innermost(&other))),
        },
    }
}

fn no_token(error: TokenError) -> AwsError {
    match error {
        TokenError::File { source } => AwsError::File { source },
        source => AwsError::Token { source },
    }
}

fn no_identity(refusal: AwsRefusal) -> Failure<CallError> {
    match refusal {
        AwsRefusal::Lost { .. } => again(CallError::Identity(refusal)),
        _ => Failure::Final(CallError::Identity(refusal)),
    }
}

fn again(error: CallError) -> Failure<CallError> {
    Failure::Transient { error, retry_after: None }
}
