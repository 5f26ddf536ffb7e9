//! Why AWS gives this host no credentials.
//!
//! What the services answer is searched for words that show the kind of a refusal, and never printed: it can quote a token.

use std::error::Error;

use aws_config::imds::client::error::{ImdsError, TokenError};
use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_kms::error::{ConnectorError, SdkError};
use aws_sdk_sts::operation::assume_role::AssumeRoleError;
use aws_sdk_sts::operation::assume_role_with_web_identity::AssumeRoleWithWebIdentityError;
use zeroize::Zeroizing;

use crate::http_client::innermost;

/// Why there are no credentials.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AwsRefusal {
    /// The service was not reached, or is not well.
    #[error("no answer")]
    Lost { cause: Option<String> },
    /// The time of the token is over.
    #[error("the web identity token has expired")]
    Expired,
    /// Its issuer is not known to AWS, or its claims are refused.
    #[error("the web identity token is not accepted")]
    Token,
    /// The role does not trust us.
    #[error("the role may not be assumed by us")]
    Role,
    /// The keys of the profile are not valid.
    #[error("the keys of the profile are not accepted")]
    Keys,
    /// The file has no such profile, or it cannot be used.
    #[error("the file has no such profile, or one without credentials that can be used")]
    Profile,
    /// The agent refuses.
    #[error("the agent refuses us")]
    Agent,
    /// The metadata server refuses.
    #[error("the metadata server refuses us")]
    Metadata,
    /// The metadata server knows no role.
    #[error("the machine has no role")]
    NoRole,
    /// Anything else.
    #[error("we are refused, or unknown")]
    Other,
}

/// Words of AWS's client and services, in lower case, and what they mean; the first that is found counts.
const WORDS: [(&str, AwsRefusal); 7] = [
    ("expiredtoken", AwsRefusal::Expired),
    ("invalididentitytoken", AwsRefusal::Token),
    ("idprejectedclaim", AwsRefusal::Token),
    ("accessdenied", AwsRefusal::Role),
    ("invalidclienttokenid", AwsRefusal::Keys),
    ("signaturedoesnotmatch", AwsRefusal::Keys),
    ("request forbidden", AwsRefusal::Metadata),
];

impl AwsRefusal {
    /// What an error means, `otherwise` if it says nothing that is known.
    pub(super) fn of(error: &CredentialsError, otherwise: &AwsRefusal) -> AwsRefusal {
        let mut words = Zeroizing::new(String::new());
        let mut cause: Option<&(dyn Error + 'static)> = Some(error);
        while let Some(error) = cause {
            if let Some(refusal) = AwsRefusal::of_type(error) {
                return refusal;
            }
            words.push_str(&error.to_string().to_ascii_lowercase());
            cause = error.source();
        }
        let found = WORDS.into_iter().find(|(word, _)| words.contains(word));
        found.map_or_else(|| otherwise.clone(), |(_, refusal)| refusal)
    }

    /// The kind of an error, by its type and status.
    fn of_type(error: &(dyn Error + 'static)) -> Option<AwsRefusal> {
        let is_lost = |status: u16| {
            (status >= 500 || status == 429).then(|| AwsRefusal::Lost { cause: Some(status.to_string()) })
        };
        if let Some(refusal) = error.downcast_ref::<AwsRefusal>() {
            return Some(refusal.clone());
        }
        if error.is::<ConnectorError>() || error.is::<reqwest::Error>() {
            return Some(AwsRefusal::Lost { cause: Some(innermost(error)) });
        }
        match error.downcast_ref() {
            Some(ImdsError::IoError(_)) => return Some(AwsRefusal::Lost { cause: Some(innermost(error)) }),
            Some(ImdsError::ErrorResponse(answer)) => {
                let status = answer.response().status().as_u16();
                let refused = if status == 404 { AwsRefusal::NoRole } else { AwsRefusal::Metadata };
                return Some(is_lost(status).unwrap_or(refused));
            }
            _ => {}
        }
        let status = status_of::<AssumeRoleWithWebIdentityError>(error)
            .or_else(|| status_of::<AssumeRoleError>(error))
            .or_else(|| status_of::<TokenError>(error));
        status.and_then(is_lost)
    }

    /// What it says, where this service was asked.
    pub(super) fn of_server(&self, server: &str) -> String {
        match self {
            AwsRefusal::Lost { cause } => {
                let cause = cause.as_ref().map(|cause| format!(": {cause}")).unwrap_or_default();
                format!("{self} from {server}{cause}")
            }
            _ => self.to_string(),
        }
    }

    /// The one thing that can be done about it.
    pub(super) fn hint(&self) -> &'static str {
        match self {
            AwsRefusal::Lost { .. } => {
                "what the keys under [aws-kms] name is asked; without them, the metadata server of AWS's machines"
            }
            AwsRefusal::Expired => "what writes the web identity token must renew it, and this host's clock be right",
            AwsRefusal::Token => {
                "an OIDC provider in IAM must have the token's issuer, and its audience among its client ids"
            }
            AwsRefusal::Role => {
                "the role's trust policy must allow us to assume it, and its condition must have the token's own `sub`: `aws iam get-role` shows it"
            }
            AwsRefusal::Keys => "`aws iam list-access-keys` shows which keys there are; put one into `profile-file`",
            AwsRefusal::Profile => "`profile` under [aws-kms] in the settings names a section of `profile-file`",
            AwsRefusal::Agent => {
                "`container-credentials` and `container-token-file` are what ECS and EKS put into AWS_CONTAINER_CREDENTIALS_FULL_URI and AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"
            }
            AwsRefusal::Metadata => "aws ec2 modify-instance-metadata-options --http-endpoint enabled --instance-id ID",
            AwsRefusal::NoRole => {
                "aws ec2 associate-iam-instance-profile --iam-instance-profile Name=NAME --instance-id ID"
            }
            AwsRefusal::Other => "the keys under [aws-kms] in the settings say who we are",
        }
    }
}

/// The status of an answer to one kind of question.
fn status_of<E: Error + 'static>(error: &(dyn Error + 'static)) -> Option<u16> {
    Some(error.downcast_ref::<SdkError<E>>()?.raw_response()?.status().as_u16())
}
