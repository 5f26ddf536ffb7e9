//! Why AWS KMS cannot be used, as the code of its error says, each with its remedy.

use super::refusal::AwsRefusal;
use crate::excerpt::Excerpt;
use crate::fault::{Class, Fault};
use crate::retry::{GaveUp, Tries};
use crate::seal::kek::KekError;
use crate::seal::kek::service::{Call, Operation, ServiceError, quoted, shown};
use crate::settings::FileError;
use crate::tls::{CaFileError, TlsError};
use crate::token::TokenError;

/// Why one call failed, without a word of the client's own.
pub(super) enum CallError {
    /// KMS, or who stands for it, answered with an error.
    Answered(KmsError),
    /// No identity could be had.
    Identity(AwsRefusal),
    /// KMS was not reached.
    Unreachable(String),
    /// No TLS connection could be made.
    Tls(TlsError),
    /// The answer was not KMS's JSON.
    NotKms,
}

/// An error that KMS answered.
pub(super) struct KmsError {
    /// `AccessDeniedException`; the HTTP status where there is none.
    pub(super) code: String,
    pub(super) message: String,
    pub(super) status: u16,
}

impl KmsError {
    /// Whether another try may succeed.
    pub(super) fn is_transient(&self) -> bool {
        self.status >= 500 || self.status == 429 || self.is_quota() || self.code == "KeyUnavailableException"
    }

    fn is_quota(&self) -> bool {
        self.code.contains("Throttling") || self.code == "LimitExceededException"
    }
}

/// The error of a call that was given up.
pub(super) fn describe(call: Call<'_>, gave_up: GaveUp<CallError>, who: Caller<'_>) -> AwsError {
    let GaveUp { tries, within, last } = gave_up;
    let Call { key, server, operation } = call;
    let of_service = match last {
        None if !who.is_identified => {
            let (refusal, server) = (AwsRefusal::Lost { cause: None }, who.credentials_server.to_owned());
            return AwsError::Identity { refusal, server, tries };
        }
        Some(CallError::Identity(refusal)) => {
            return AwsError::Identity { refusal, server: who.credentials_server.to_owned(), tries };
        }
        None => ServiceError::NoAnswer { key, server, within, tries },
        Some(CallError::Unreachable(cause)) => ServiceError::Unreachable { key, server, cause, tries },
        Some(CallError::Tls(problem)) => ServiceError::Tls { key, server, problem },
        Some(CallError::NotKms) => ServiceError::NotKms { key, kms: "AWS KMS" },
        Some(CallError::Answered(error)) => return of_code(&error, key, operation, tries),
    };
    AwsError::Service(of_service)
}

/// Who makes the call.
pub(super) struct Caller<'a> {
    /// Where the credentials come from.
    pub(super) credentials_server: &'a str,
    /// Whether there were credentials: a call that then gets no answer waits for the KMS.
    pub(super) is_identified: bool,
}

fn of_code(error: &KmsError, key: String, operation: Operation<'_>, tries: u32) -> AwsError {
    let words = error.message.to_ascii_lowercase();
    let message = shown(&error.message);
    let is_of_clock = words.contains("signature expired") || words.contains("signature not yet current");
    let answered = |key, message, class| {
        let status = error.code.clone();
        AwsError::Service(ServiceError::Answered { key, status, message, tries, class })
    };
    match error.code.as_str() {
        "AccessDeniedException" => {
            let action = if let Operation::Wrap = operation { "kms:Encrypt" } else { "kms:Decrypt" };
            AwsError::Denied { key, action, denial: Denial::of(&error.message) }
        }
        "NotFoundException" => AwsError::NoKey { key },
        "DisabledException" => AwsError::State { key, state: KeyState::Disabled },
        "KMSInvalidStateException" if words.contains("pending deletion") => {
            AwsError::State { key, state: KeyState::PendingDeletion }
        }
        "KMSInvalidStateException" if words.contains("pending import") => {
            AwsError::State { key, state: KeyState::PendingImport }
        }
        "KMSInvalidStateException" if words.contains("unavailable") => {
            AwsError::State { key, state: KeyState::Unavailable }
        }
        "InvalidKeyUsageException" => AwsError::Usage { key },
        "InvalidCiphertextException" => AwsError::Service(operation.not_decrypted(key)),
        "IncorrectKeyException" => AwsError::Service(ServiceError::NotWrappedByKey { key }),
        "ExpiredTokenException" | "ExpiredToken" => AwsError::Expired { key },
        "RequestExpired" | "InvalidSignatureException" | "SignatureDoesNotMatch" if is_of_clock => {
            AwsError::Clock { key }
        }
        "UnrecognizedClientException"
        | "InvalidClientTokenId"
        | "InvalidSignatureException"
        | "SignatureDoesNotMatch" => AwsError::Keys { key },
        "IncompleteSignature" | "MissingAuthenticationToken" | "NotAuthorized" => {
            AwsError::Service(ServiceError::Unauthenticated { key, message })
        }
        "OptInRequired" => AwsError::Region { key },
        _ if error.is_quota() => AwsError::Service(ServiceError::Quota { key, message, tries }),
        _ if error.is_transient() => answered(key, message, Class::Unavailable),
        "KMSInvalidStateException" => answered(key, message, Class::NotPermitted),
        "ValidationException" | "InvalidGrantTokenException" => answered(key, message, operation.class_of_refusal()),
        _ => answered(key, message, Class::Unavailable),
    }
}

/// Who is denied, and why, in AWS's words: `User: ARN is not authorized to perform: … because …`.
#[derive(Debug)]
pub struct Denial {
    who: Option<String>,
    why: Option<String>,
    is_explicit: bool,
}

impl Denial {
    fn of(message: &str) -> Denial {
        let who = message.strip_prefix("User: ").and_then(|rest| rest.split_once(" is not authorized"));
        let of_deny = || message.find("an explicit deny").and_then(|start| message.get(start..));
        let why = message.split_once(" because ").map(|(_, why)| why).or_else(of_deny);
        let whole = why.is_none() && who.is_none();
        Denial {
            who: who.and_then(|(who, _)| shown(who)),
            why: why.or(whole.then_some(message)).and_then(shown),
            is_explicit: message.contains("explicit deny"),
        }
    }

    fn identity(&self) -> String {
        self.who.as_ref().map_or_else(|| "our identity".into(), |who| format!("our identity, {}", Excerpt(who)))
    }
}

/// A state in which a key cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyState {
    /// It can be enabled.
    #[error("is disabled")]
    Disabled,
    /// It can be saved until its time has come.
    #[error("is scheduled to be deleted")]
    PendingDeletion,
    /// It has no material.
    #[error("waits for its key material to be imported")]
    PendingImport,
    /// Its custom key store is not connected.
    #[error("is unavailable: its custom key store is not connected")]
    Unavailable,
}

/// Why AWS KMS cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AwsError {
    /// A file that says who we are cannot be read, or others can.
    #[error("cannot use the AWS credentials")]
    File { source: FileError },
    /// The file with authorities to trust.
    #[error("cannot use `ca-file` under [aws-kms]")]
    Authorities { source: FileError },
    /// The authorities in it.
    #[error("cannot use `ca-file` under [aws-kms]")]
    CaFile { source: CaFileError },
    /// The client cannot be made.
    #[error("cannot prepare the AWS KMS client")]
    Client,
    /// There is no token of the other issuer.
    #[error("no token for AWS")]
    Token { source: TokenError },
    /// There are no credentials.
    #[error("cannot get credentials from AWS: {}{}", refusal.of_server(server), Tries(*tries))]
    Identity { refusal: AwsRefusal, server: String, tries: u32 },
    /// What every KMS can answer.
    #[error(transparent)]
    Service(#[from] ServiceError),
    /// The identity may not use the key.
    #[error("{key} may not be used by {}{}", denial.identity(), quoted(denial.why.as_deref()))]
    Denied { key: String, action: &'static str, denial: Denial },
    /// There is no such key.
    #[error("{key} does not exist")]
    NoKey { key: String },
    /// The key is not enabled.
    #[error("{key} {state}")]
    State { key: String, state: KeyState },
    /// An asymmetric key, or one for signatures.
    #[error("{key} is not a key that encrypts and decrypts")]
    Usage { key: String },
    /// Temporary credentials whose time is over.
    #[error("{key} refuses our credentials: they have expired")]
    Expired { key: String },
    /// AWS's clock and ours differ.
    #[error("{key} refuses our credentials: the time of the signature is not that of AWS")]
    Clock { key: String },
    /// Keys that AWS does not know, or whose secret is another.
    #[error("{key} refuses our credentials: the keys are not valid")]
    Keys { key: String },
    /// A region that the account does not use.
    #[error("{key} is in a region that is not enabled for our account")]
    Region { key: String },
}

impl Fault for AwsError {
    fn class(&self) -> Class {
        match self {
            AwsError::File { source } | AwsError::Authorities { source } => source.class(),
            AwsError::CaFile { source } => source.class(),
            AwsError::Token { source } => source.class(),
            AwsError::Identity { refusal: AwsRefusal::Lost { .. }, .. } | AwsError::Client => Class::Unavailable,
            AwsError::Identity { refusal: AwsRefusal::Profile, .. }
            | AwsError::Usage { .. }
            | AwsError::Clock { .. } => Class::Settings,
            AwsError::NoKey { .. } => Class::Data,
            AwsError::Identity { .. }
            | AwsError::Denied { .. }
            | AwsError::State { .. }
            | AwsError::Expired { .. }
            | AwsError::Keys { .. }
            | AwsError::Region { .. } => Class::NotPermitted,
            AwsError::Service(error) => error.class(),
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            AwsError::File { source } | AwsError::Authorities { source } => return source.hint(),
            AwsError::CaFile { source } => return source.hint(),
            AwsError::Token { source } => return source.hint(),
            AwsError::Identity { refusal, .. } => refusal.hint().into(),
            AwsError::Denied { denial: Denial { is_explicit: true, .. }, action, .. } => {
                format!("a policy denies {action}, and no other can allow it: change that statement")
            }
            AwsError::Denied { action, .. } => format!("allow {action} on the key to our role, in the key's policy or in IAM"),
            AwsError::NoKey { key } => aws("describe-key --key-id", key) + " shows whether account and region are right",
            AwsError::State { key, state: KeyState::Disabled } => aws("enable-key --key-id", key),
            AwsError::State { key, state: KeyState::PendingDeletion } => {
                aws("cancel-key-deletion --key-id", key) + ", then `enable-key` in place of `cancel-key-deletion`"
            }
            AwsError::State { key, state: KeyState::PendingImport } => {
                aws("get-parameters-for-import --key-id", key) + " begins the import of the same key material"
            }
            AwsError::State { state: KeyState::Unavailable, .. } => {
                "aws kms connect-custom-key-store --custom-key-store-id ID".into()
            }
            AwsError::Usage { .. } => "`aws kms create-key` makes one, whose key spec is SYMMETRIC_DEFAULT".into(),
            AwsError::Expired { .. } => "what writes the temporary credentials under [aws-kms] must renew them".into(),
            AwsError::Clock { .. } => "`timedatectl` shows whether this host's clock is right".into(),
            AwsError::Keys { .. } => AwsRefusal::Keys.hint().into(),
            AwsError::Region { key } => format!("aws account enable-region --region-name {}", region(key)),
            AwsError::Service(ServiceError::Unauthenticated { .. }) => AwsRefusal::Other.hint().into(),
            AwsError::Service(ServiceError::Quota { .. }) => {
                "ask AWS for a higher \"Cryptographic operations (symmetric) request rate\", a quota of KMS by account and region".into()
            }
            AwsError::Service(error) => return error.hint(),
            AwsError::Client => return None,
        })
    }
}

impl From<AwsError> for KekError {
    fn from(error: AwsError) -> KekError {
        KekError::OfKind(error.into())
    }
}

/// A command of AWS's tool on this key.
fn aws(verb: &str, key: &str) -> String {
    let arn = key.split_once("://").map_or(key, |(_, arn)| arn);
    format!("aws kms {verb} {arn} --region {}", region(key))
}

/// The region in the ARN of a key.
pub(super) fn region(key: &str) -> &str {
    key.split(':').rev().nth(2).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "aws-kms://arn:aws:kms:eu-central-1:123456789012:key/1234";

    fn of(code: &str, message: &str, operation: Operation<'_>) -> AwsError {
        let error = KmsError { code: code.into(), message: message.into(), status: 400 };
        of_code(&error, KEY.into(), operation, 1)
    }

    #[test]
    fn a_denial_shows_who_and_why() {
        let message = "User: arn:aws:sts::123456789012:assumed-role/agents/i-0 is not authorized to perform: kms:Decrypt on \
            resource: arn:aws:kms:eu-central-1:123456789012:key/1234 because no identity-based policy allows the kms:Decrypt action";
        let error = of("AccessDeniedException", message, Operation::Unwrap).to_string();
        assert!(error.contains("our identity, \"arn:aws:sts::123456789012:assumed-role/agents/i-0\""), "{error}");
        assert!(error.ends_with(": \"no identity-based policy allows the kms:Decrypt action\""), "{error}");
        let denied = of("AccessDeniedException", "x because of an explicit deny", Operation::Wrap);
        assert!(denied.hint().is_some_and(|hint| hint.starts_with("a policy denies kms:Encrypt")));
    }

    #[test]
    fn the_class_of_a_refusal_depends_on_what_was_asked() {
        let class = |operation| of("ValidationException", "no", operation).class();
        assert_eq!((class(Operation::Wrap), class(Operation::Unwrap)), (Class::Settings, Class::Data));
    }

    #[test]
    fn the_region_is_that_of_the_key() {
        assert_eq!((region(KEY), region("aws-kms://*")), ("eu-central-1", ""));
    }
}
