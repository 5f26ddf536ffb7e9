//! `[aws-kms]`: which of the ways there are to be known to AWS.

use serde::Deserialize;

use super::{AbsolutePath, Permission, ServerUrl, ServerUrlError, TokenSource, token};

/// Where the agents of ECS and of EKS Pod Identity are: on the host itself, by plain http.
const AGENTS: [&str; 3] = ["169.254.170.2", "169.254.170.23", "[fd00:ec2::23]"];

/// How to reach AWS KMS.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(try_from = "Keys")]
pub struct AwsKms {
    /// Who we are.
    pub identity: AwsIdentity,
    /// Where AWS KMS is, if not at the public address of the key's region.
    pub endpoint: Option<ServerUrl>,
    /// Authorities that are trusted instead of the system's, for KMS and for what gives credentials over TLS.
    pub ca_file: Option<AbsolutePath>,
}

/// Who says who we are to AWS.
#[derive(Debug, Default, PartialEq)]
pub enum AwsIdentity {
    /// A profile of a file, as `aws configure` writes it: a credential.
    Profile {
        /// The file.
        file: AbsolutePath,
        /// Its section.
        profile: String,
        /// Where roles are assumed, if the profile does.
        region: Option<String>,
    },
    /// A token of another issuer, exchanged for a role.
    WebIdentity {
        /// Where the token comes from.
        token: TokenSource,
        /// The role's ARN.
        role: String,
        /// Where it is assumed.
        region: String,
    },
    /// The agent next to a container.
    Container {
        /// Its address.
        url: ServerUrl,
        /// The file with the credential that it requires.
        token_file: Option<AbsolutePath>,
    },
    /// The metadata server of the machine.
    #[default]
    Instance,
}

impl AwsIdentity {
    /// Where the token comes from that is exchanged for a role, if one is.
    pub fn token(&self) -> Option<&TokenSource> {
        match self {
            AwsIdentity::WebIdentity { token, .. } => Some(token),
            _ => None,
        }
    }
}

impl AwsKms {
    /// Whether the endpoint may see our credentials' signature: not over plain `http`, which is for stand-ins on this host.
    pub fn sends_credentials(&self) -> bool {
        !self.endpoint.as_ref().is_some_and(ServerUrl::is_plain)
    }
}

/// `[aws-kms]` as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Keys {
    profile_file: Option<AbsolutePath>,
    profile: Option<String>,
    web_identity_token_file: Option<AbsolutePath>,
    web_identity_token: Option<TokenSource>,
    role_arn: Option<String>,
    container_credentials: Option<String>,
    container_token_file: Option<AbsolutePath>,
    region: Option<String>,
    endpoint: Option<ServerUrl>,
    ca_file: Option<AbsolutePath>,
}

impl TryFrom<Keys> for AwsKms {
    type Error = AwsKeysError;

    fn try_from(keys: Keys) -> Result<AwsKms, AwsKeysError> {
        let Keys { profile_file, profile, role_arn, region, endpoint, ca_file, .. } = keys;
        let (container, container_token_file) = (keys.container_credentials, keys.container_token_file);
        let (token_file, token) = (keys.web_identity_token_file, keys.web_identity_token);
        if token_file.is_some() && token.is_some() {
            return Err(AwsKeysError::Several);
        }
        let identity = match (profile_file, token::one_of(token_file, token), container) {
            (Some(file), None, None) if role_arn.is_none() && container_token_file.is_none() => {
                AwsIdentity::Profile { file, profile: profile.unwrap_or_else(|| "default".into()), region }
            }
            (None, Some(token), None) if profile.is_none() && container_token_file.is_none() => {
                let (Some(role), Some(region)) = (role_arn, region) else { return Err(AwsKeysError::Role) };
                AwsIdentity::WebIdentity { token, role, region }
            }
            (None, None, Some(url)) if profile.is_none() && role_arn.is_none() && region.is_none() => {
                AwsIdentity::Container { url: agent(&url)?, token_file: container_token_file }
            }
            (None, None, None)
                if profile.is_none() && role_arn.is_none() && container_token_file.is_none() && region.is_none() =>
            {
                AwsIdentity::Instance
            }
            _ => return Err(AwsKeysError::Several),
        };
        Ok(AwsKms { identity, endpoint, ca_file })
    }
}

fn agent(text: &str) -> Result<ServerUrl, AwsKeysError> {
    let refused = |reason| AwsKeysError::Agent { reason };
    let url = ServerUrl::parse(text, Permission::Allow).map_err(refused)?;
    let is_agent = url.as_url().host_str().is_some_and(|host| AGENTS.contains(&host));
    if is_agent { Ok(url) } else { ServerUrl::parse(text, Permission::Refuse).map_err(refused) }
}

/// Why the keys do not say who we are.
#[derive(Debug, thiserror::Error)]
enum AwsKeysError {
    #[error(
        "expected one of `profile-file`, `web-identity-token-file`, `web-identity-token` and `container-credentials`, and what belongs to it"
    )]
    Several,
    #[error("a web identity token needs `role-arn` and `region`")]
    Role,
    #[error("container-credentials: {reason}")]
    Agent { reason: ServerUrlError },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;

    fn identity(keys: &str) -> Option<AwsIdentity> {
        Some(format!("[aws-kms]\n{keys}").parse::<Settings>().ok()?.aws_kms.identity)
    }

    #[test]
    fn one_way_to_be_known_is_taken_whole() {
        assert_eq!(identity(""), Some(AwsIdentity::Instance));
        assert!(
            matches!(identity("profile-file = \"/p\""), Some(AwsIdentity::Profile { profile, .. }) if profile == "default")
        );
        let role = "role-arn = \"arn:aws:iam::1:role/r\"\nregion = \"eu-central-1\"";
        let web = identity(&format!("web-identity-token-file = \"/t\"\n{role}"));
        assert!(matches!(web, Some(AwsIdentity::WebIdentity { token: TokenSource::Static(_), .. })));
        let job = identity(&format!("web-identity-token = {{ gitlab-id-token = \"AWS_TOKEN\" }}\n{role}"));
        assert!(job.is_some_and(|job| job.token().is_some_and(TokenSource::is_of_a_job)));
        let container = identity("container-credentials = \"http://169.254.170.2/v2/x\"");
        assert!(matches!(container, Some(AwsIdentity::Container { .. })));
    }

    #[test]
    fn two_ways_or_half_of_one_are_refused() {
        for keys in [
            "profile-file = \"/p\"\nweb-identity-token-file = \"/t\"",
            "web-identity-token-file = \"/t\"",
            "web-identity-token-file = \"/t\"\nrole-arn = \"r\"",
            "web-identity-token-file = \"/t\"\nweb-identity-token = { file = \"/t\" }\nrole-arn = \"r\"\nregion = \"x\"",
            "web-identity-token = { file = \"/t\" }",
            "role-arn = \"r\"",
            "profile = \"p\"",
            "region = \"eu-central-1\"",
            "container-token-file = \"/t\"",
            "container-credentials = \"http://169.254.169.254/x\"",
            "container-credentials = \"http://evil.example/x\"",
            "endpoint = \"http://evil.example\"",
            "secret-access-key = \"hunter2\"",
        ] {
            assert_eq!(identity(keys), None, "{keys}");
        }
    }
}
