//! Why Cloud KMS cannot be used, as Google's `reason` and status codes say, each with its remedy.

use std::fmt;
use std::time::Duration;

use google_cloud_gax::error::rpc::Code;

use super::identity::{GoogleRefusal, IdentityError};
use super::status::{KeyState, KmsStatus, Reason};
use crate::dns::NoNameServer;
use crate::fault::{Class, Fault};
use crate::retry::{Failure, GaveUp, Seconds, Tries};
use crate::seal::kek::KekError;
use crate::seal::kek::service::{Call, Operation, ServiceError, quoted, shown};
use crate::tls::TlsError;

/// Why one call failed, without a word of the client's own.
pub(super) enum CallError {
    /// The sums do not agree: something between us and the KMS changed bytes.
    Corrupt,
    /// Cloud KMS answered with an error.
    Status(Box<KmsStatus>),
    /// Something else answered, with this HTTP status.
    Http(u16),
    /// No identity could be had.
    Identity(GoogleRefusal),
    /// Cloud KMS was not reached.
    Unreachable(String),
    /// No TLS connection could be made.
    Tls(TlsError),
    /// The answer was not Cloud KMS's JSON.
    NotKms,
}

/// A failure after which another try may succeed.
pub(super) fn again(error: CallError) -> Failure<CallError> {
    Failure::Transient { error, retry_after: None }
}

/// The error of a call that was given up.
pub(super) fn describe(call: Call<'_>, gave_up: GaveUp<CallError>, who: &Caller<'_>) -> CloudKmsError {
    let GaveUp { tries, within, last } = gave_up;
    let Call { key, server, operation } = call;
    let of_service = match last {
        None if !who.is_identified => return CloudKmsError::no_identity(who.token_server, within, tries),
        Some(CallError::Identity(refusal @ GoogleRefusal::Lost { .. })) => {
            let server = who.token_server.to_owned();
            return CloudKmsError::NoIdentity { refusal, server, within: None, tries };
        }
        Some(CallError::Identity(refusal)) => return CloudKmsError::Refused { refusal },
        Some(CallError::Corrupt) => return CloudKmsError::Corrupt { key, tries },
        Some(CallError::Status(status)) => return of_status(*status, key, operation, tries, who),
        None => ServiceError::NoAnswer { key, server, within, tries },
        Some(CallError::Http(429)) => ServiceError::Quota { key, message: None, tries },
        Some(CallError::Http(code)) => {
            let status = code.to_string();
            ServiceError::Answered { key, status, message: None, tries, class: Class::Unavailable }
        }
        Some(CallError::Unreachable(cause)) => ServiceError::Unreachable { key, server, cause, tries },
        Some(CallError::Tls(problem)) => ServiceError::Tls { key, server, problem },
        Some(CallError::NotKms) => ServiceError::NotKms { key, kms: "Cloud KMS" },
    };
    CloudKmsError::Service(of_service)
}

/// Who makes the call.
pub(super) struct Caller<'a> {
    /// Our identity as IAM policies name it.
    pub(super) member: &'a str,
    /// The service that gives the access token.
    pub(super) token_server: &'a str,
    /// Whether there was an access token: a call that then gets no answer waits for the KMS.
    pub(super) is_identified: bool,
}

fn of_status(status: KmsStatus, key: String, operation: Operation<'_>, tries: u32, who: &Caller<'_>) -> CloudKmsError {
    let KmsStatus { code, reason, message, project, version } = status;
    let message = shown(&message);
    let permission = match operation {
        Operation::Wrap => "cryptoKeyEncrypter",
        _ => "cryptoKeyDecrypter",
    };
    let answered = |key, message, class| {
        CloudKmsError::Service(ServiceError::Answered { key, status: code.name().to_owned(), message, tries, class })
    };
    match (reason, code) {
        (Reason::Scope, _) => CloudKmsError::Scope { key },
        (Reason::Denied, _) => CloudKmsError::Denied { key, role: permission, member: who.member.to_owned() },
        (Reason::ApiDisabled, _) => CloudKmsError::ApiDisabled { key, project },
        (Reason::Billing, _) => CloudKmsError::Billing { key, project },
        (Reason::QuotaProject, _) => CloudKmsError::QuotaProject { key, project, member: who.member.to_owned() },
        (Reason::Perimeter, _) => CloudKmsError::Perimeter { key, message },
        (Reason::Account, _) => CloudKmsError::Account { key, member: who.member.to_owned() },
        (Reason::Location, _) => CloudKmsError::Location { key },
        (Reason::State(state), _) => CloudKmsError::State { key, state, version },
        (Reason::NotDecrypted, _) => CloudKmsError::Service(operation.not_decrypted(key)),
        (Reason::Credentials, _) | (Reason::Other, Code::Unauthenticated) => {
            CloudKmsError::Service(ServiceError::Unauthenticated { key, message })
        }
        (Reason::Quota, _) | (Reason::Other, Code::ResourceExhausted) => {
            CloudKmsError::Service(ServiceError::Quota { key, message, tries })
        }
        (Reason::Other, Code::NotFound) => CloudKmsError::Service(ServiceError::NoKey { key }),
        (Reason::Other, Code::PermissionDenied | Code::FailedPrecondition) => {
            answered(key, message, Class::NotPermitted)
        }
        (Reason::Other, Code::InvalidArgument) => answered(key, message, operation.class_of_refusal()),
        (Reason::Other, _) => answered(key, message, Class::Unavailable),
    }
}

/// Why Cloud KMS cannot be used.
#[derive(Debug, thiserror::Error)]
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
    #[error("cannot get an access token from Google: {}{}{}", refusal.of_server(server), Within(*within), Tries(*tries))]
    NoIdentity { refusal: GoogleRefusal, server: String, within: Option<Duration>, tries: u32 },
    /// The service that hands out access tokens refused.
    #[error("cannot get an access token from Google: {refusal}")]
    Refused { refusal: GoogleRefusal },
    /// What every KMS can answer.
    #[error(transparent)]
    Service(#[from] ServiceError),
    /// The identity has no role on the key.
    #[error("{key} may not be used by our identity")]
    Denied { key: String, role: &'static str, member: String },
    /// The access token may not be used for Cloud KMS, whatever the roles.
    #[error("{key} may not be used with our access token, which lacks the scope of Cloud KMS")]
    Scope { key: String },
    /// The service account is disabled or deleted.
    #[error("{key} may not be used by our identity: the account is disabled or deleted")]
    Account { key: String, member: String },
    /// The version that wrapped the data key is not enabled; to wrap, the primary one.
    #[error("{key} {state} in {}", version.as_ref().map_or("the version that is needed".into(), |version| format!("version {version}")))]
    State { key: String, state: KeyState, version: Option<String> },
    /// The key is elsewhere.
    #[error("{key} is asked for in another location than its name says")]
    Location { key: String },
    /// The project does not use Cloud KMS.
    #[error("{key} is used by a project in which Cloud KMS is not turned on")]
    ApiDisabled { key: String, project: Option<String> },
    /// The project has no account to bill.
    #[error("{key} is used by a project that has no billing account")]
    Billing { key: String, project: Option<String> },
    /// The project that our calls are counted for is not ours to use.
    #[error("{key} is used on the quota of a project that our identity may not use")]
    QuotaProject { key: String, project: Option<String>, member: String },
    /// A perimeter of VPC Service Controls.
    #[error("{key} is in a VPC Service Controls perimeter that refuses us{}", quoted(message.as_deref()))]
    Perimeter { key: String, message: Option<String> },
    /// Bytes were changed on the way.
    #[error("the answer of {key} does not agree with its CRC32C sum{}", Tries(*tries))]
    Corrupt { key: String, tries: u32 },
}

impl CloudKmsError {
    /// The error if the service that hands out access tokens did not answer at all.
    pub(super) fn no_identity(server: &str, within: Duration, tries: u32) -> CloudKmsError {
        let refusal = GoogleRefusal::Lost { server: None, cause: None };
        CloudKmsError::NoIdentity { refusal, server: server.to_owned(), within: Some(within), tries }
    }
}

impl Fault for CloudKmsError {
    fn class(&self) -> Class {
        match self {
            CloudKmsError::Identity(error) => error.class(),
            CloudKmsError::Service(error) => error.class(),
            CloudKmsError::NoNameServer(_) => Class::Settings,
            CloudKmsError::State { state: KeyState::Pending, .. }
            | CloudKmsError::Client
            | CloudKmsError::NoIdentity { .. }
            | CloudKmsError::Corrupt { .. } => Class::Unavailable,
            CloudKmsError::Location { .. } => Class::Data,
            CloudKmsError::Refused { .. }
            | CloudKmsError::Denied { .. }
            | CloudKmsError::Scope { .. }
            | CloudKmsError::Account { .. }
            | CloudKmsError::State { .. }
            | CloudKmsError::ApiDisabled { .. }
            | CloudKmsError::Billing { .. }
            | CloudKmsError::QuotaProject { .. }
            | CloudKmsError::Perimeter { .. } => Class::NotPermitted,
        }
    }

    fn hint(&self) -> Option<String> {
        let of = |project: &Option<String>| project.clone().unwrap_or_else(|| "PROJECT".into());
        Some(match self {
            CloudKmsError::Identity(error) => return error.hint(),
            CloudKmsError::NoNameServer(_) => "add a `nameserver` line for a server that this host may ask".into(),
            CloudKmsError::Refused { refusal } | CloudKmsError::NoIdentity { refusal, .. } => refusal.hint().into(),
            CloudKmsError::Denied { key, role, member } => {
                let command = gcloud(key, "keys add-iam-policy-binding");
                let role = format!("--role roles/cloudkms.{role} --member {member}");
                format!("{command} {role}; Google says the same of keys that do not exist")
            }
            CloudKmsError::Scope { .. } => {
                "gcloud compute instances set-service-account INSTANCE --scopes cloud-platform, while the machine is stopped; a GKE node pool is made again with --scopes cloud-platform".into()
            }
            CloudKmsError::Account { member, .. } => {
                format!("gcloud iam service-accounts enable {}", member.trim_start_matches("serviceAccount:"))
            }
            CloudKmsError::State { key, state, version } => return state.hint(key, version.as_deref()),
            CloudKmsError::Location { .. } => {
                "`gcloud kms keys list --location LOCATION --keyring RING` shows where it is; `endpoint` under [gcp-kms] may be of one region".into()
            }
            CloudKmsError::ApiDisabled { project, .. } => {
                format!("gcloud services enable cloudkms.googleapis.com --project {}", of(project))
            }
            CloudKmsError::Billing { project, .. } => {
                format!("gcloud billing projects link {} --billing-account ACCOUNT", of(project))
            }
            CloudKmsError::QuotaProject { project, member, .. } => format!(
                "gcloud projects add-iam-policy-binding {} --role roles/serviceusage.serviceUsageConsumer --member {member}",
                of(project)
            ),
            CloudKmsError::Perimeter { .. } => {
                "an ingress rule of the perimeter must allow our identity or this host's network to call cloudkms.googleapis.com".into()
            }
            CloudKmsError::Service(ServiceError::Quota { .. }) => {
                "ask Google for more \"Cryptographic requests\" per minute, a quota of Cloud KMS by project and region".into()
            }
            CloudKmsError::Service(ServiceError::Unauthenticated { .. }) => GoogleRefusal::Other.hint().into(),
            CloudKmsError::Service(error) => return error.hint(),
            CloudKmsError::Client | CloudKmsError::Corrupt { .. } => return None,
        })
    }
}

impl From<CloudKmsError> for KekError {
    fn from(error: CloudKmsError) -> KekError {
        KekError::OfKind(error.into())
    }
}

impl KeyState {
    fn hint(self, key: &str, version: Option<&str>) -> Option<String> {
        let version = version.unwrap_or("VERSION");
        match self {
            KeyState::Disabled => Some(gcloud(key, &format!("keys versions enable {version} --key"))),
            KeyState::DestroyScheduled => Some(
                gcloud(key, &format!("keys versions restore {version} --key"))
                    + ", then `enable` in place of `restore`",
            ),
            KeyState::Destroyed => Some("nothing opens values of this version any more: seal the secrets again".into()),
            KeyState::Pending => Some(gcloud(key, &format!("keys versions describe {version} --key"))),
        }
    }
}

/// A command of gcloud on this key, with all that names it.
fn gcloud(key: &str, verb: &str) -> String {
    match key.split('/').collect::<Vec<_>>().as_slice() {
        [_, _, _, project, _, location, _, ring, _, key] => {
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
