//! Errors as Google's APIs return them (`google.rpc.Status`): the machine-readable reason first, words where Cloud KMS has nothing else.

use std::fmt;

use google_cloud_gax::error::rpc::{Code, Status, StatusDetails};

/// An error that Cloud KMS answered.
#[derive(Debug)]
pub(super) struct KmsStatus {
    pub(super) code: Code,
    pub(super) reason: Reason,
    pub(super) message: String,
    /// The project that the error is about.
    pub(super) project: Option<String>,
    /// The key version that the error is about.
    pub(super) version: Option<String>,
}

/// What an error is about, in as far as Google says so in a form that programs can read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// The access token lacks an OAuth scope.
    Scope,
    /// The identity lacks an IAM permission.
    Denied,
    /// The project does not use the API.
    ApiDisabled,
    /// The project has no billing account.
    Billing,
    /// The identity may not use the project that is billed.
    QuotaProject,
    /// VPC Service Controls.
    Perimeter,
    /// The service account is disabled or deleted.
    Account,
    /// The access token is missing, expired or of another type.
    Credentials,
    /// Too many requests.
    Quota,
    /// The request was sent to another location than the key's.
    Location,
    /// The version is not enabled.
    State(KeyState),
    /// The ciphertext is not one of this key, or has other associated data.
    NotDecrypted,
    /// Anything else.
    Other,
}

/// A state of a key version in which it cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyState {
    /// It can be enabled.
    Disabled,
    /// It can be restored until its time has come.
    DestroyScheduled,
    /// It is lost.
    Destroyed,
    /// Its material is being made or imported.
    Pending,
}

impl fmt::Display for KeyState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            KeyState::Disabled => "is disabled",
            KeyState::DestroyScheduled => "is scheduled to be destroyed",
            KeyState::Destroyed => "is destroyed",
            KeyState::Pending => "is not ready",
        })
    }
}

/// Reasons of `google.rpc.ErrorInfo`. <https://github.com/googleapis/googleapis/blob/master/google/api/error_reason.proto>
const REASONS: [(&str, Reason); 15] = [
    ("ACCESS_TOKEN_SCOPE_INSUFFICIENT", Reason::Scope),
    ("IAM_PERMISSION_DENIED", Reason::Denied),
    ("SERVICE_DISABLED", Reason::ApiDisabled),
    ("BILLING_DISABLED", Reason::Billing),
    ("USER_PROJECT_DENIED", Reason::QuotaProject),
    ("SECURITY_POLICY_VIOLATED", Reason::Perimeter),
    ("ACCOUNT_STATE_INVALID", Reason::Account),
    ("ACCESS_TOKEN_EXPIRED", Reason::Credentials),
    ("ACCESS_TOKEN_TYPE_UNSUPPORTED", Reason::Credentials),
    ("CREDENTIALS_MISSING", Reason::Credentials),
    ("RATE_LIMIT_EXCEEDED", Reason::Quota),
    ("RESOURCE_QUOTA_EXCEEDED", Reason::Quota),
    // Types of `google.rpc.PreconditionFailure`.
    ("KEY_DISABLED", Reason::State(KeyState::Disabled)),
    ("KEY_DESTROYED", Reason::State(KeyState::Destroyed)),
    ("KEY_DESTROY_SCHEDULED", Reason::State(KeyState::DestroyScheduled)),
];

/// Words of Cloud KMS, in lower case, where it gives no reason; the first that is found counts.
const WORDS: [(Code, &str, Reason); 9] = [
    (Code::FailedPrecondition, "current state is: disabled", Reason::State(KeyState::Disabled)),
    (Code::FailedPrecondition, "current state is: destroy_scheduled", Reason::State(KeyState::DestroyScheduled)),
    (Code::FailedPrecondition, "current state is: destroyed", Reason::State(KeyState::Destroyed)),
    (Code::FailedPrecondition, "current state is: pending_", Reason::State(KeyState::Pending)),
    (Code::FailedPrecondition, "api has not been used in", Reason::ApiDisabled),
    (Code::PermissionDenied, "api has not been used in", Reason::ApiDisabled),
    (Code::PermissionDenied, "permission 'cloudkms.", Reason::Denied),
    (Code::InvalidArgument, "was sent to location", Reason::Location),
    (Code::InvalidArgument, "decryption failed", Reason::NotDecrypted),
];

impl KmsStatus {
    pub(super) fn of(status: &Status) -> KmsStatus {
        let (mut named, mut project, mut subject) = (None, None, None);
        for detail in &status.details {
            match detail {
                StatusDetails::ErrorInfo(info) => {
                    named = named.or_else(|| by_name(&info.reason));
                    project = info.metadata.get("consumer").map(String::as_str).and_then(project_of);
                }
                StatusDetails::PreconditionFailure(failure) => {
                    if let Some(violation) = failure.violations.first() {
                        named = named.or_else(|| by_name(&violation.r#type));
                        subject = Some(violation.subject.as_str());
                    }
                }
                _ => {}
            }
        }
        KmsStatus {
            code: status.code,
            reason: named.or_else(|| by_words(status)).unwrap_or(Reason::Other),
            message: status.message.clone(),
            project,
            version: subject.and_then(version_of).or_else(|| version_of(&status.message)),
        }
    }

    /// Whether another try may succeed.
    pub(super) fn is_transient(&self) -> bool {
        self.reason == Reason::Quota
            || self.reason == Reason::Other
                && matches!(
                    self.code,
                    Code::Unavailable
                        | Code::ResourceExhausted
                        | Code::Internal
                        | Code::DeadlineExceeded
                        | Code::Aborted
                        | Code::Unknown
                )
    }

    /// Whether a new access token may be accepted.
    pub(super) fn refuses_credentials(&self) -> bool {
        self.reason == Reason::Credentials || self.reason == Reason::Other && self.code == Code::Unauthenticated
    }

    /// Whether Cloud KMS received other bytes than were sent.
    pub(super) fn is_corrupt(&self) -> bool {
        self.code == Code::InvalidArgument && self.message.contains("_crc32c did not match")
    }
}

fn by_name(name: &str) -> Option<Reason> {
    REASONS.into_iter().find_map(|(known, reason)| (known == name).then_some(reason))
}

fn by_words(status: &Status) -> Option<Reason> {
    let message = status.message.to_ascii_lowercase();
    let mut words = WORDS.into_iter().filter(|(code, ..)| *code == status.code);
    words.find_map(|(_, words, reason)| message.contains(words).then_some(reason))
}

/// A project as `gcloud` takes it: it becomes a word of a command.
fn project_of(consumer: &str) -> Option<String> {
    let project = consumer.strip_prefix("projects/")?;
    let is_name =
        !project.is_empty() && project.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b':' | b'.'));
    is_name.then(|| project.to_owned())
}

/// The number of the first key version in a text.
fn version_of(text: &str) -> Option<String> {
    let (_, rest) = text.split_once("/cryptoKeyVersions/")?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    (!digits.is_empty()).then_some(digits)
}

#[cfg(test)]
mod tests {
    use google_cloud_gax::error::rpc::Status;

    use super::*;

    fn status(json: &serde_json::Value) -> KmsStatus {
        let error = google_cloud_gax::error::Error::http(
            400,
            Default::default(),
            serde_json::json!({ "error": json }).to_string().into(),
        );
        KmsStatus::of(&Status::try_from(error.http_payload().unwrap()).unwrap())
    }

    #[test]
    fn every_reason_counts_before_the_code_and_the_words() {
        for (name, reason) in REASONS {
            let found = status(&serde_json::json!({
                "code": 403, "status": "PERMISSION_DENIED", "message": "Permission 'cloudkms.x' denied",
                "details": [{ "@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": name,
                    "domain": "googleapis.com", "metadata": { "consumer": "projects/123456" } }],
            }));
            assert_eq!((found.reason, found.project.as_deref()), (reason, Some("123456")), "{name}");
        }
    }

    #[test]
    fn an_unknown_reason_is_no_reason() {
        let found = status(&serde_json::json!({
            "code": 400, "status": "FAILED_PRECONDITION", "message": "The external key manager refused.",
            "details": [{ "@type": "type.googleapis.com/google.rpc.PreconditionFailure",
                "violations": [{ "type": "EXTERNAL_KEY", "subject": "projects/p" }] }],
        }));
        assert_eq!((found.reason, found.version), (Reason::Other, None));
    }

    #[test]
    fn words_count_only_with_their_code() {
        for (code, words, reason) in WORDS {
            let json = |code: Code| serde_json::json!({ "code": 400, "status": code.name(), "message": words });
            assert_eq!(status(&json(code)).reason, reason, "{words}");
            assert_eq!(status(&json(Code::Unavailable)).reason, Reason::Other, "{words}");
        }
    }

    #[test]
    fn a_project_or_version_cannot_end_the_command_that_it_is_shown_in() {
        assert_eq!(project_of("projects/acme; rm -rf /"), None);
        assert_eq!(version_of("x/cryptoKeyVersions/12;y").as_deref(), Some("12"));
    }
}
