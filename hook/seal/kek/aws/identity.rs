//! The identity of this host at AWS: found once in a start, where the settings say, and never in the environment.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_config::imds;
use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider, future};
use aws_runtime::env_config::file::{EnvConfigFileKind, EnvConfigFiles};
use aws_sdk_kms::config::retry::RetryConfig;
use aws_sdk_kms::config::{BehaviorVersion, Region, SharedHttpClient};
use aws_smithy_async::rt::sleep::TokioSleep;
use serde::Deserialize;
use tokio::sync::OnceCell;
use zeroize::Zeroizing;

use super::refusal::AwsRefusal;
use crate::http_client;
use crate::retry::Deadline;
use crate::settings::file;
use crate::settings::{AwsIdentity, AwsKms, ServerUrl};
use crate::token::{self, Tokens};

const CREDENTIALS_BYTES_MAX: usize = 64 * 1024;

/// The name that distinguishes sessions of a role in CloudTrail.
const SESSION_NAME: &str = "oci-secrets";

/// The metadata server, which the client would let the environment move.
const METADATA_URL: &str = "http://169.254.169.254";

/// Where it has the role's name, and below it the credentials.
const ROLES_PATH: &str = "/latest/meta-data/iam/security-credentials/";

/// Who we are, once it is asked for.
pub(super) struct Identity {
    provider: SharedCredentialsProvider,
    /// Those of another issuer, which are exchanged for a role.
    tokens: Option<Arc<Tokens>>,
    found: OnceCell<Credentials>,
    /// The service that is asked for them, as messages name it.
    server: String,
    /// What a refusal means that says nothing else.
    otherwise: AwsRefusal,
}

impl Identity {
    /// Checks the files with credentials or tokens. A plain-http endpoint on loopback is a stand-in: it gets no credentials.
    ///
    /// # Errors
    /// If a file cannot be used, or others can, or there will be no token.
    pub(super) fn of(settings: &AwsKms, http: &SharedHttpClient) -> Result<Identity, token::TokenError> {
        let check = |path: &Path| {
            file::check(path, file::Kind::Credential).map_err(|source| token::TokenError::File { source })
        };
        let mut tokens = None;
        let config = ProviderConfig::empty()
            .with_http_client(http.clone())
            .with_sleep_impl(TokioSleep::new())
            .with_retry_config(RetryConfig::disabled());
        let provider = match &settings.identity {
            _ if !settings.sends_credentials() => {
                SharedCredentialsProvider::new(Credentials::new("none", "none", None, None, "stand-in"))
            }
            AwsIdentity::Profile { file, profile, region } => {
                check(file)?;
                let files = EnvConfigFiles::builder().with_file(EnvConfigFileKind::Credentials, &**file).build();
                let config = config.with_region(region.clone().map(Region::new));
                let provider = ProfileFileCredentialsProvider::builder().configure(&config).profile_files(files);
                SharedCredentialsProvider::new(provider.profile_name(profile).build())
            }
            AwsIdentity::WebIdentity { token, role, region } => {
                let of_issuer = Arc::new(Tokens::open(token)?);
                tokens = Some(of_issuer.clone());
                let (sts, role) = (sts(region, http), role.clone());
                SharedCredentialsProvider::new(WebIdentity { sts, tokens: of_issuer, role })
            }
            AwsIdentity::Container { url, token_file } => {
                token_file.as_deref().map(check).transpose()?;
                let token_file = token_file.as_deref().map(ToOwned::to_owned);
                SharedCredentialsProvider::new(Container { url: url.clone(), token_file })
            }
            AwsIdentity::Instance => {
                let client = imds::Client::builder().configure(&config).max_attempts(1);
                // It is a URL, so the client takes it.
                let client = client.clone().endpoint(METADATA_URL).unwrap_or(client).build();
                SharedCredentialsProvider::new(Instance(client))
            }
        };
        let otherwise = match settings.identity {
            AwsIdentity::Profile { .. } => AwsRefusal::Profile,
            _ => AwsRefusal::Other,
        };
        Ok(Identity { provider, tokens, found: OnceCell::new(), server: server(&settings.identity), otherwise })
    }

    /// Credentials, asked for once.
    ///
    /// # Errors
    /// If there are none.
    pub(super) async fn get(&self) -> Result<Credentials, AwsRefusal> {
        let credentials = self.found.get_or_try_init(|| self.provider.provide_credentials()).await;
        credentials.cloned().map_err(|error| AwsRefusal::of(&error, &self.otherwise))
    }

    /// Has the token that will be exchanged, if one is and has not been.
    ///
    /// # Errors
    /// If there is none.
    pub(super) async fn has_token(&self, deadline: Deadline) -> Result<(), token::TokenError> {
        match &self.tokens {
            Some(tokens) if !self.is_known() => tokens.current(deadline).await.map(drop),
            _ => Ok(()),
        }
    }

    /// The service that is asked for credentials.
    pub(super) fn server(&self) -> &str {
        &self.server
    }

    /// Whether there are credentials: a call that then gets no answer waits for the KMS.
    pub(super) fn is_known(&self) -> bool {
        self.found.initialized()
    }
}

fn server(identity: &AwsIdentity) -> String {
    match identity {
        AwsIdentity::Profile { region: Some(region), .. } | AwsIdentity::WebIdentity { region, .. } => {
            format!("https://sts.{region}.amazonaws.com")
        }
        AwsIdentity::Profile { region: None, .. } => "the token service of AWS".into(),
        AwsIdentity::Container { url, .. } => url.as_url().origin().ascii_serialization(),
        AwsIdentity::Instance => METADATA_URL.into(),
    }
}

/// A role, for a token of another issuer.
#[derive(Debug)]
struct WebIdentity {
    sts: aws_sdk_sts::Client,
    tokens: Arc<Tokens>,
    role: String,
}

/// The token service of a region.
fn sts(region: &str, http: &SharedHttpClient) -> aws_sdk_sts::Client {
    let config = aws_sdk_sts::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .http_client(http.clone())
        .sleep_impl(TokioSleep::new())
        .retry_config(RetryConfig::disabled())
        .region(Region::new(region.to_owned()));
    aws_sdk_sts::Client::from_conf(config.build())
}

impl WebIdentity {
    async fn load(&self) -> Result<Credentials, CredentialsError> {
        // Why there is none was reported before.
        let token = self.tokens.get().await.map_err(|_| CredentialsError::not_loaded_no_source())?;
        let request = self.sts.assume_role_with_web_identity().role_arn(&self.role).role_session_name(SESSION_NAME);
        let answer =
            request.web_identity_token(token.expose_text()).send().await.map_err(CredentialsError::provider_error)?;
        let found = answer.credentials.ok_or_else(CredentialsError::not_loaded_no_source)?;
        let (key, secret, token) = (found.access_key_id, found.secret_access_key, found.session_token);
        Ok(Credentials::new(key, secret, Some(token), None, "web identity"))
    }
}

/// The agent of ECS or of EKS Pod Identity, next to a container.
#[derive(Debug)]
struct Container {
    url: ServerUrl,
    token_file: Option<PathBuf>,
}

impl Container {
    async fn load(&self) -> Result<Credentials, CredentialsError> {
        let client = http_client::builder_for(self.url.as_url().scheme(), None)
            .build()
            .map_err(CredentialsError::provider_error)?;
        let mut request = client.get(self.url.as_url().clone());
        if let Some(path) = &self.token_file {
            request = request.header(reqwest::header::AUTHORIZATION, credential(path)?.as_str());
        }
        let response = request.send().await.map_err(CredentialsError::provider_error)?;
        if !response.status().is_success() {
            let refusal = match response.status() {
                status if status.is_server_error() => AwsRefusal::Lost { cause: Some(status.to_string()) },
                _ => AwsRefusal::Agent,
            };
            return Err(CredentialsError::provider_error(refusal));
        }
        let body =
            http_client::read(response, CREDENTIALS_BYTES_MAX).await.map_err(CredentialsError::provider_error)?;
        credentials(&body.ok_or_else(CredentialsError::not_loaded_no_source)?)
    }
}

/// The metadata server of a machine, by IMDSv2.
#[derive(Debug)]
struct Instance(imds::Client);

impl Instance {
    async fn load(&self) -> Result<Credentials, CredentialsError> {
        let ask = async |path: &str| self.0.get(path).await.map_err(CredentialsError::provider_error);
        let roles = ask(ROLES_PATH).await?;
        let role = roles.as_ref().lines().next().unwrap_or_default();
        let answer = Zeroizing::new(String::from(ask(&format!("{ROLES_PATH}{role}")).await?));
        credentials(answer.as_bytes())
    }
}

/// What agents and metadata servers answer.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HttpAnswer {
    code: Option<String>,
    access_key_id: Option<String>,
    secret_access_key: Option<Zeroizing<String>>,
    token: Option<Zeroizing<String>>,
}

fn credentials(answer: &[u8]) -> Result<Credentials, CredentialsError> {
    let answer = serde_json::from_slice::<HttpAnswer>(answer).map_err(|_| CredentialsError::not_loaded_no_source())?;
    let token = answer.token.map(|token| token.to_string());
    match (answer.access_key_id, answer.secret_access_key, answer.code.as_deref()) {
        (Some(id), Some(key), _) => Ok(Credentials::new(id, key.to_string(), token, None, "agent")),
        (_, _, Some("AssumeRoleUnauthorizedAccess")) => Err(CredentialsError::provider_error(AwsRefusal::Role)),
        _ => Err(CredentialsError::not_loaded_no_source()),
    }
}

/// What a file says that holds one credential, which may have been renewed since it was checked.
fn credential(path: &Path) -> Result<Zeroizing<String>, CredentialsError> {
    let unusable = CredentialsError::invalid_configuration;
    let bytes = file::read(path, file::Kind::Credential, CREDENTIALS_BYTES_MAX).map_err(unusable)?;
    let text = str::from_utf8(bytes.trim_ascii()).map_err(CredentialsError::invalid_configuration)?;
    Ok(Zeroizing::new(text.to_owned()))
}

impl ProvideCredentials for WebIdentity {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.load())
    }
}

impl ProvideCredentials for Instance {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.load())
    }
}

impl ProvideCredentials for Container {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.load())
    }
}
