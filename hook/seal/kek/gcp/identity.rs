//! Who we are to Google: what the settings say, or the metadata server.
//!
//! The errors of Google's client can quote the file that holds a token and the answers of its services: their words are looked at,
//! and never passed on.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use google_cloud_auth::credentials::subject_token::{Builder as SubjectToken, SubjectTokenProvider};
use google_cloud_auth::credentials::{Credentials, anonymous, external_account, impersonated, service_account};
use google_cloud_auth::errors::{CredentialsError, SubjectTokenProviderError};
use serde::Deserialize;
use serde_json::Value;
use zeroize::Zeroizing;

use super::metadata::{METADATA_SERVER, MetadataServer};
use super::token_cache::TokenCache;
use crate::fault::{Class, Fault};
use crate::http_client::innermost;
use crate::retry::Failure;
use crate::settings::file::{self, FileError};
use crate::settings::{Federation, GcpKms};
use crate::token::{TokenError, Tokens};

/// What a token of another issuer is to Google's Security Token Service.
const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";

const CREDENTIALS_BYTES_MAX: usize = 64 * 1024;

/// The service that exchanges tokens of other issuers.
const TOKEN_SERVER: &str = "https://sts.googleapis.com";

/// The service that gives access tokens of a service account to those who may impersonate it.
const IMPERSONATION_SERVER: &str = "https://iamcredentials.googleapis.com";

/// How IAM policies name a service account whose email is not known here.
const UNKNOWN_MEMBER: &str = "serviceAccount:EMAIL";

/// Who we are to Google.
pub(super) struct Identity {
    /// What has an access token, or gets one.
    pub(super) credentials: Credentials,
    /// Those of another issuer, which are exchanged.
    pub(super) tokens: Option<Arc<Tokens>>,
    /// What can be forgotten, if the access token may be one of an earlier start.
    pub(super) remembered: Option<TokenCache>,
    /// How IAM policies name us.
    pub(super) member: String,
    /// The service that gives the access token.
    pub(super) token_server: String,
}

impl Identity {
    /// Reads the files with credentials. A plain-http endpoint on loopback is a stand-in: it gets no credentials.
    ///
    /// # Errors
    /// If a file cannot be used, or others can, or there will be no token.
    pub(super) fn of(settings: &GcpKms) -> Result<Identity, IdentityError> {
        if !settings.sends_credentials() {
            return Ok(Identity::plain(anonymous::Builder::new().build(), UNKNOWN_MEMBER.into(), ""));
        }
        if let Some(federation) = &settings.federation {
            return Identity::federated(federation);
        }
        match &settings.credentials_file {
            Some(path) => Identity::in_file(path),
            None => {
                let server = MetadataServer::new().map_err(|_| IdentityError::MetadataServer)?;
                Ok(Identity::plain(server.into(), UNKNOWN_MEMBER.into(), METADATA_SERVER))
            }
        }
    }

    fn plain(credentials: Credentials, member: String, token_server: &str) -> Identity {
        Identity { credentials, tokens: None, remembered: None, member, token_server: token_server.to_owned() }
    }

    /// Google's client asks us for the token that it exchanges.
    fn federated(federation: &Federation) -> Result<Identity, IdentityError> {
        let tokens = Arc::new(Tokens::open(&federation.token)?);
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
        let identity = |credentials, remembered| Identity {
            credentials,
            tokens: Some(tokens.clone()),
            remembered,
            member: federation
                .service_account
                .as_deref()
                .map_or_else(|| principal_of(&federation.audience), service_account_member),
            token_server: TOKEN_SERVER.to_owned(),
        };
        match tokens.at_hand() {
            Some(token) => {
                let remembered = TokenCache::new(make, principal.as_bytes(), token.expose());
                let remembered = remembered.ok_or(IdentityError::Exchange)?;
                Ok(identity(Credentials::from(remembered.clone()), Some(remembered)))
            }
            None => Ok(identity(make().ok_or(IdentityError::Exchange)?, None)),
        }
    }

    fn in_file(path: &Path) -> Result<Identity, IdentityError> {
        #[derive(Deserialize)]
        struct Typed {
            #[serde(rename = "type")]
            kind: String,
        }
        let path_text = || path.display().to_string();
        let unusable = || IdentityError::Credentials { path: path_text() };
        let bytes = file::read(path, file::Kind::Credential, CREDENTIALS_BYTES_MAX)?;
        let value: Value = serde_json::from_slice(&bytes).map_err(|_| unusable())?;
        let kind = Typed::deserialize(&value).map_err(|_| unusable())?.kind;
        let subject_token = subject_token(&value)?;
        let member = member(&value);
        let token_server = if kind == "external_account" { TOKEN_SERVER } else { IMPERSONATION_SERVER };
        let make: fn(Value) -> Option<Credentials> = match kind.as_str() {
            "service_account" => |value| service_account::Builder::new(value).build().ok(),
            "external_account" => |value| external_account::Builder::new(value).build().ok(),
            "impersonated_service_account" => |value| impersonated::Builder::new(value).build().ok(),
            _ => return Err(IdentityError::CredentialsKind { path: path_text(), found: kind }),
        };
        let Some(subject_token) = subject_token else {
            let credentials = make(value).ok_or_else(unusable)?;
            return Ok(Identity::plain(credentials, member, token_server));
        };
        let remembered = TokenCache::new(move || make(value.clone()), &bytes, &subject_token);
        let remembered = remembered.ok_or_else(unusable)?;
        let credentials = Credentials::from(remembered.clone());
        let token_server = token_server.to_owned();
        Ok(Identity { credentials, tokens: None, remembered: Some(remembered), member, token_server })
    }
}

/// How IAM policies name the identity of a credentials file.
fn member(credentials: &Value) -> String {
    let text = |name: &str| credentials.get(name).and_then(Value::as_str);
    // …/serviceAccounts/EMAIL:generateAccessToken
    let impersonated = text("service_account_impersonation_url").and_then(|url| {
        let (_, name) = url.rsplit_once('/')?;
        name.strip_suffix(":generateAccessToken")
    });
    match (impersonated.or(text("client_email")), text("audience")) {
        (Some(email), _) => service_account_member(email),
        (None, Some(audience)) => principal_of(audience),
        (None, None) => UNKNOWN_MEMBER.to_owned(),
    }
}

/// How IAM policies name a service account. It is shown as a word of a command.
fn service_account_member(email: &str) -> String {
    let is_word = email.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'@' | b'.' | b'-' | b'_'));
    if is_word { format!("serviceAccount:{email}") } else { UNKNOWN_MEMBER.to_owned() }
}

/// How IAM policies name a subject of a workload identity pool.
fn principal_of(audience: &str) -> String {
    let pool = audience.trim_start_matches("//iam.googleapis.com/").split("/providers/").next().unwrap_or_default();
    let is_word = pool.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'-'));
    let pool = if is_word { pool } else { "POOL" };
    format!("principal://iam.googleapis.com/{pool}/subject/SUBJECT")
}

/// A subject token in a file is a credential like any other, though the client reads it by itself.
fn subject_token(credentials: &Value) -> Result<Option<Zeroizing<Vec<u8>>>, FileError> {
    let places = ["/credential_source/file", "/source_credentials/credential_source/file"];
    let path = places.into_iter().find_map(|place| credentials.pointer(place)).and_then(Value::as_str);
    path.map(|path| file::read(path.as_ref(), file::Kind::Credential, CREDENTIALS_BYTES_MAX)).transpose()
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
            Err(Failure::NotSent(_) | Failure::Transient { .. }) => Err(NoSubjectToken { is_transient: true }),
        }
    }
}

/// There is no token. The reason is reported where it was first requested.
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

/// Why Google gives us no access token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GoogleRefusal {
    /// A service was not reached, or is not well.
    #[error("no answer")]
    Lost { server: Option<String>, cause: Option<String> },
    /// The pool of workload identities has no such provider.
    #[error("no workload identity provider has this audience")]
    Audience,
    /// The time of the subject token is over.
    #[error("the subject token has expired")]
    Expired,
    /// The subject token, or the service account's key, is refused.
    #[error("the subject token or key is not accepted")]
    Subject,
    /// Impersonation is refused.
    #[error("the service account may not be impersonated by us")]
    Impersonation,
    /// Anything else.
    #[error("the credentials are refused")]
    Other,
}

/// Words of Google's identity services, in lower case, and what they mean; the first that is found counts.
const WORDS: [(&str, GoogleRefusal); 5] = [
    ("invalid_target", GoogleRefusal::Audience),
    ("stale to sign-in", GoogleRefusal::Expired),
    ("expired", GoogleRefusal::Expired),
    ("invalid_grant", GoogleRefusal::Subject),
    ("getaccesstoken", GoogleRefusal::Impersonation),
];

impl GoogleRefusal {
    /// What an error means.
    pub(super) fn of(error: &CredentialsError) -> GoogleRefusal {
        if error.is_transient() {
            return GoogleRefusal::lost(error);
        }
        let mut words = Zeroizing::new(String::new());
        let mut cause: Option<&(dyn Error + 'static)> = Some(error);
        while let Some(error) = cause {
            words.push_str(&error.to_string().to_ascii_lowercase());
            cause = error.source();
        }
        let found = WORDS.into_iter().find(|(word, _)| words.contains(word));
        found.map_or(GoogleRefusal::Other, |(_, refusal)| refusal)
    }

    /// The server that was asked, and why there was no connection.
    fn lost(error: &CredentialsError) -> GoogleRefusal {
        let mut cause: Option<&(dyn Error + 'static)> = Some(error);
        while let Some(error) = cause {
            if let Some(request) = error.downcast_ref::<reqwest::Error>() {
                let server = request.url().map(|url| url.origin().ascii_serialization());
                return GoogleRefusal::Lost { server, cause: (!request.is_status()).then(|| innermost(request)) };
            }
            cause = error.source();
        }
        GoogleRefusal::Lost { server: None, cause: None }
    }

    /// What it says, where this service was asked.
    pub(super) fn of_server(&self, asked: &str) -> String {
        match self {
            GoogleRefusal::Lost { server, cause } => {
                let server = server.as_deref().unwrap_or(asked);
                let cause = cause.as_ref().map(|cause| format!(": {cause}")).unwrap_or_default();
                format!("{self} from {server}{cause}")
            }
            _ => self.to_string(),
        }
    }

    /// The one thing that can be done about it.
    pub(super) fn hint(&self) -> &'static str {
        match self {
            GoogleRefusal::Lost { .. } => {
                "the services that `credentials-file` under [gcp-kms] names are asked; without it, the metadata server of Google's machines"
            }
            GoogleRefusal::Audience => {
                "`gcloud iam workload-identity-pools create-cred-config` writes a `credentials-file` with the provider's audience"
            }
            GoogleRefusal::Expired => "what writes the subject token must renew it, and this host's clock be right",
            GoogleRefusal::Subject => {
                "issuer, audience and condition of the workload identity provider must allow the token; a service account's key must exist"
            }
            GoogleRefusal::Impersonation => {
                "grant roles/iam.serviceAccountTokenCreator (iam.serviceAccounts.getAccessToken) on the service account to us"
            }
            GoogleRefusal::Other => "`credentials-file` under [gcp-kms] in the settings names the identity",
        }
    }
}

/// Why the settings name no usable identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The credentials file, or the subject token that it names, cannot be read, or others can.
    #[error("cannot use the Google credentials")]
    File {
        #[from]
        source: FileError,
    },
    /// There is no token of the other issuer.
    #[error("no token for Google")]
    Token { source: TokenError },
    /// The file is not what Google's tools write.
    #[error("{path} is not a Google credentials file that can be used")]
    Credentials { path: String },
    /// A kind of credentials that belongs to a person, or is not known.
    #[error(
        "{path} holds credentials of type {found:.40?}, expected service_account, external_account or impersonated_service_account"
    )]
    CredentialsKind { path: String, found: String },
    /// No credentials file, and no use for the metadata server.
    #[error("cannot use the metadata server for credentials")]
    MetadataServer,
    /// Nothing can be prepared that exchanges tokens.
    #[error("cannot prepare the exchange of tokens with Google")]
    Exchange,
}

impl Fault for IdentityError {
    fn class(&self) -> Class {
        match self {
            IdentityError::File { source } => source.class(),
            IdentityError::Token { source } => source.class(),
            IdentityError::Credentials { .. } | IdentityError::CredentialsKind { .. } => Class::Settings,
            IdentityError::MetadataServer | IdentityError::Exchange => Class::Unavailable,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            IdentityError::File { source } => source.hint(),
            IdentityError::Token { source } => source.hint(),
            IdentityError::CredentialsKind { found, .. } if found.ends_with("authorized_user") => Some(
                "`gcloud auth application-default login --impersonate-service-account EMAIL` writes one that can be used: it names a service account, not a person"
                    .into(),
            ),
            IdentityError::Credentials { .. } | IdentityError::CredentialsKind { .. } => Some(
                "`gcloud iam workload-identity-pools create-cred-config` writes a file of type external_account".into(),
            ),
            IdentityError::MetadataServer | IdentityError::Exchange => None,
        }
    }
}

impl From<TokenError> for IdentityError {
    fn from(error: TokenError) -> IdentityError {
        match error {
            TokenError::File { source } => IdentityError::File { source },
            source => IdentityError::Token { source },
        }
    }
}
