//! Requests to the API server of Kubernetes.

use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderValue};
use reqwest::{Client, Response, StatusCode, Url};
use zeroize::Zeroizing;

use super::answer::Answer;
use super::error::KubernetesError;
use crate::container::Pod;
use crate::http_client::{self, builder_for, innermost};
use crate::retry::{Deadline, Failure, GaveUp};
use crate::settings::{self, Permission, ServerUrl, file};
use crate::tls::{self, TlsError};
use crate::token::{TOKEN_BYTES_MAX, Token};

const HOST: &str = "KUBERNETES_SERVICE_HOST";
const PORT: &str = "KUBERNETES_SERVICE_PORT";

/// The variables in which each pod has the address of the API server.
pub const VARIABLES: &[&str] = &[HOST, PORT];

/// The most that is read of an answer. A pod has at most 1.5 MiB in the store of Kubernetes.
const ANSWER_BYTES_MAX: usize = 4 << 20;

/// The API server, with the token and the authorities of this moment: both are renewed while a program runs.
pub(super) struct ApiServer {
    client: Client,
    base: Url,
    bearer: HeaderValue,
}

impl ApiServer {
    /// Reads the files of the settings. Nothing is sent yet.
    pub(super) fn open(settings: &settings::Kubernetes) -> Result<ApiServer, KubernetesError> {
        let url = match &settings.url {
            Some(url) => url.clone(),
            None => of_environment(|name| std::env::var(name).ok())?,
        };
        let token = file::read(&settings.token_file, file::Kind::Projected, TOKEN_BYTES_MAX)?;
        let bearer = Token::new(&token).and_then(|token| token.bearer());
        let bearer = bearer.map_err(|_| KubernetesError::NoToken { path: settings.token_file.to_path_buf() })?;
        let authorities = || {
            let pem = file::read(&settings.ca_file, file::Kind::Plain, tls::CA_BYTES_MAX)?;
            Ok::<_, KubernetesError>(tls::authorities(&settings.ca_file, &pem)?)
        };
        let authorities = (!url.is_plain()).then(authorities).transpose()?;
        let client = builder_for(url.as_url().scheme(), authorities).build();
        let client = client.map_err(|error| KubernetesError::NoClient { cause: innermost(&error) })?;
        Ok(ApiServer { client, base: url.as_url().clone(), bearer })
    }

    /// Reads a pod.
    pub(super) async fn pod(&self, pod: &Pod, deadline: Deadline) -> Result<Answer, KubernetesError> {
        let url = url_of(&self.base, pod)?;
        let attempt = async || {
            let request = self.client.get(url.clone()).header(AUTHORIZATION, self.bearer.clone());
            let response = request.header(ACCEPT, "application/json").send().await.map_err(|e| self.broken(e))?;
            match response.status() {
                StatusCode::OK => self.read(response).await,
                status => Err(self.refused(status, pod)),
            }
        };
        let body = deadline.retry(attempt).await.map_err(|GaveUp { within, last, .. }| match last {
            None => KubernetesError::NoAnswer { server: self.server(), within },
            Some(error) => error,
        })?;
        serde_json::from_slice(&body).map_err(|_| KubernetesError::NotAPod { server: self.server() })
    }

    fn refused(&self, status: StatusCode, pod: &Pod) -> Failure<KubernetesError> {
        let server = self.server();
        match status {
            StatusCode::UNAUTHORIZED => Failure::Final(KubernetesError::Unauthorized { server }),
            StatusCode::FORBIDDEN => {
                Failure::Final(KubernetesError::Forbidden { server, namespace: pod.namespace.clone() })
            }
            StatusCode::NOT_FOUND => Failure::Final(KubernetesError::NoPod { server }),
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => transient(server, status),
            status if status.is_server_error() => transient(server, status),
            status => Failure::Final(KubernetesError::Unexpected { server, status: status.as_u16() }),
        }
    }

    fn broken(&self, error: reqwest::Error) -> Failure<KubernetesError> {
        let (server, cause) = (self.server(), innermost(&error));
        match TlsError::of(&error) {
            Some(source) => Failure::Final(KubernetesError::Tls { server, source }),
            None if error.is_connect() => Failure::NotSent(KubernetesError::NoConnection { server, cause }),
            None => Failure::Transient { error: KubernetesError::Broken { server, cause }, retry_after: None },
        }
    }

    async fn read(&self, response: Response) -> Result<Zeroizing<Vec<u8>>, Failure<KubernetesError>> {
        let body = http_client::read(response, ANSWER_BYTES_MAX).await.map_err(|error| self.broken(error))?;
        body.ok_or_else(|| Failure::Final(KubernetesError::TooLarge { server: self.server() }))
    }

    /// The address as messages name it.
    fn server(&self) -> String {
        self.base.origin().ascii_serialization()
    }
}

fn url_of(base: &Url, Pod { namespace, name, .. }: &Pod) -> Result<Url, KubernetesError> {
    // A segment that names no object would be dropped, and another object be read.
    if [namespace, name].into_iter().any(|name| matches!(name.as_str(), "" | "." | "..")) {
        return Err(KubernetesError::OtherName);
    }
    let mut url = base.clone();
    let path = url.path_segments_mut().map(|mut path| {
        path.pop_if_empty().extend(["api", "v1", "namespaces", namespace, "pods", name]);
    });
    path.map_err(|()| KubernetesError::NoAddress)?;
    Ok(url)
}

fn transient(server: String, status: StatusCode) -> Failure<KubernetesError> {
    Failure::Transient { error: KubernetesError::Busy { server, status: status.as_u16() }, retry_after: None }
}

/// The address that Kubernetes gives to every pod.
fn of_environment(variable: impl Fn(&str) -> Option<String>) -> Result<ServerUrl, KubernetesError> {
    let (Some(host), Some(port)) = (variable(HOST), variable(PORT)) else { return Err(KubernetesError::NoAddress) };
    // An IPv6 address has colons of its own.
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    ServerUrl::parse(&format!("https://{host}:{port}"), Permission::Refuse).map_err(|_| KubernetesError::NoAddress)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_of_a_pod_names_the_api_server() {
        let of = |host: &str, port: &str| {
            let variable = |name: &str| Some((if name == HOST { host } else { port }).to_owned());
            of_environment(variable).map(|url| url.to_string()).ok()
        };
        assert_eq!(of("10.96.0.1", "443").as_deref(), Some("https://10.96.0.1/"));
        assert_eq!(of("fd00::1", "6443").as_deref(), Some("https://[fd00::1]:6443/"));
        assert_eq!((of("", "443"), of("h", "x"), of("user@h", "1")), (None, None, None));
        assert!(matches!(of_environment(|_| None), Err(KubernetesError::NoAddress)));
    }

    #[test]
    fn a_name_is_one_segment_of_the_path() {
        let base = Url::parse("https://h/under/").unwrap();
        let url = |namespace: &str, name: &str| {
            let pod = Pod { namespace: namespace.into(), name: name.into(), ..Pod::default() };
            url_of(&base, &pod).map(|url| url.path().to_owned()).ok()
        };
        assert_eq!(url("agents", "billing-0").as_deref(), Some("/under/api/v1/namespaces/agents/pods/billing-0"));
        assert_eq!(url("a/../b", "c?d").as_deref(), Some("/under/api/v1/namespaces/a%2F..%2Fb/pods/c%3Fd"));
        assert_eq!((url("..", "billing-0"), url("agents", "."), url("", "x")), (None, None, None));
    }
}
