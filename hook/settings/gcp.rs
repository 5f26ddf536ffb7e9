//! `[gcp-kms]`: which of the ways there are to be known to Google Cloud.

use serde::Deserialize;

use super::{AbsolutePath, ServerUrl, TokenSource};

/// What a provider's name begins with where Google's Security Token Service is asked for it.
const AUDIENCE_START: &str = "//iam.googleapis.com/";

/// How to reach Google Cloud KMS.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(try_from = "Keys")]
pub struct GcpKms {
    /// A service account, `external_account` or impersonation file: a credential. Without it, and without a token of another
    /// issuer, the metadata server is asked.
    pub credentials_file: Option<AbsolutePath>,
    /// A token of another issuer, which is exchanged.
    pub federation: Option<Federation>,
    /// Where Cloud KMS is, if not at Google's public address.
    pub endpoint: Option<ServerUrl>,
}

/// A token of another issuer, and what it is exchanged for.
#[derive(Clone, Debug, PartialEq)]
pub struct Federation {
    /// The workload identity provider, as Google's Security Token Service knows it.
    pub audience: String,
    /// Where the token comes from.
    pub token: TokenSource,
    /// The email of the service account that we then become; without it, we are ourselves.
    pub service_account: Option<String>,
}

impl GcpKms {
    /// Whether the endpoint may see an access token: not over plain `http`, which is for stand-ins on this host.
    pub fn sends_credentials(&self) -> bool {
        !self.endpoint.as_ref().is_some_and(ServerUrl::is_plain)
    }
}

/// `[gcp-kms]` as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Keys {
    credentials_file: Option<AbsolutePath>,
    workload_identity_provider: Option<String>,
    token: Option<TokenSource>,
    service_account: Option<String>,
    endpoint: Option<ServerUrl>,
}

impl TryFrom<Keys> for GcpKms {
    type Error = GcpKeysError;

    fn try_from(keys: Keys) -> Result<GcpKms, GcpKeysError> {
        let Keys { credentials_file, endpoint, service_account, .. } = keys;
        let federation = match (keys.workload_identity_provider, keys.token) {
            (None, None) if service_account.is_none() => None,
            (Some(_), Some(_)) if credentials_file.is_some() => return Err(GcpKeysError::Several),
            (Some(provider), Some(token)) => {
                if service_account.as_deref().is_some_and(|email| !is_email(email)) {
                    return Err(GcpKeysError::ServiceAccount);
                }
                Some(Federation { audience: audience(&provider)?, token, service_account })
            }
            _ => return Err(GcpKeysError::Half),
        };
        Ok(GcpKms { credentials_file, federation, endpoint })
    }
}

/// A provider is named as `gcloud iam workload-identity-pools providers describe` names it.
fn audience(provider: &str) -> Result<String, GcpKeysError> {
    match provider.split('/').collect::<Vec<_>>().as_slice() {
        ["projects", project, "locations", "global", "workloadIdentityPools", pool, "providers", name]
            if [project, pool, name].into_iter().all(|part| is_word(part)) =>
        {
            Ok(format!("{AUDIENCE_START}{provider}"))
        }
        _ => Err(GcpKeysError::Provider),
    }
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// It becomes a part of a URL, and must not leave its place there.
fn is_email(text: &str) -> bool {
    let is_domain = |domain: &str| domain.split('.').all(is_word);
    text.split_once('@').is_some_and(|(name, domain)| is_word(name) && is_domain(domain))
}

/// Why the keys do not say who we are.
#[derive(Debug, thiserror::Error)]
enum GcpKeysError {
    #[error("expected either `credentials-file`, or `workload-identity-provider` and what belongs to it")]
    Several,
    #[error("`workload-identity-provider` and `token` belong together; `service-account` needs both")]
    Half,
    #[error(
        "workload-identity-provider: expected projects/<number>/locations/global/workloadIdentityPools/<pool>/providers/<provider>"
    )]
    Provider,
    #[error("service-account: expected the email of a service account")]
    ServiceAccount,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;

    const PROVIDER: &str = "projects/1/locations/global/workloadIdentityPools/ci/providers/github";

    fn gcp(keys: &str) -> Result<GcpKms, String> {
        let settings = format!("[gcp-kms]\n{keys}").parse::<Settings>().map_err(|error| error.to_string())?;
        Ok(settings.gcp_kms)
    }

    #[test]
    fn a_token_of_another_issuer_is_exchanged_at_a_provider() {
        let keys = format!("workload-identity-provider = '{PROVIDER}'\ntoken = {{ file = '/t' }}");
        let federation = gcp(&keys).unwrap().federation.unwrap();
        assert_eq!(federation.audience, format!("//iam.googleapis.com/{PROVIDER}"));
        let email = "service-account = 'ci@acme.iam.gserviceaccount.com'";
        assert!(gcp(&format!("{keys}\n{email}")).unwrap().federation.unwrap().service_account.is_some());
    }

    #[test]
    fn two_ways_or_half_of_one_are_refused() {
        let provider = format!("workload-identity-provider = '{PROVIDER}'");
        let token = "token = { file = '/t' }";
        for (keys, reason) in [
            (provider.clone(), "belong together"),
            (token.to_owned(), "belong together"),
            ("service-account = 'ci@acme.example'".to_owned(), "needs both"),
            (format!("{provider}\n{token}\ncredentials-file = '/c'"), "either `credentials-file`"),
            (format!("workload-identity-provider = 'hunter2'\n{token}"), "expected projects/<number>/"),
            (format!("{provider}\n{token}\nservice-account = 'hunter2/../x@y'"), "expected the email"),
        ] {
            let message = gcp(&keys).unwrap_err();
            assert!(message.contains(reason) && !message.contains("hunter2"), "{keys}: {message}");
        }
    }
}
