//! Calls of Cloud KMS's REST interface, in the shapes of Google's client, and over HTTP/2: all calls share one connection.
//!
//! Google's client forces HTTP/1.1 (<https://github.com/googleapis/google-cloud-rust/issues/4298>), where each call that is under way
//! needs a connection of its own. A connection costs a TLS handshake, which is more work than the call. Ours also follows no redirection,
//! reads no more than an answer can have, and puts no word of a request into an error.

use std::time::Duration;

use bytes::Bytes;
use google_cloud_gax::error::rpc::Status;
use reqwest::header::{CONTENT_TYPE, HeaderMap};
use reqwest::{Client, Method, Response, StatusCode, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};
use zeroize::Zeroizing;

use super::error::{CallError, again};
use super::status::KmsStatus;
use crate::dns::Alias;
use crate::http_client::{self, innermost};
use crate::retry::{Deadline, Failure};
use crate::settings::ServerUrl;
use crate::tls::TlsError;

/// Where Cloud KMS is, unless the settings name another address.
const SERVER: &str = "https://cloudkms.googleapis.com";

/// Its name on servers of Google that serve all APIs.
const NAME: &str = "cloudkms.googleapis.com";

/// More than any answer has: a plaintext of 64 KiB in base64, or the words of an error.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;

/// How long a call waits for the connection that is made for all of them, before it makes its own.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long a connection that nothing uses is relied on: less than clients and servers keep it.
const KEPT: Duration = Duration::from_secs(30);

/// A Cloud KMS server.
pub(super) struct Api {
    client: Client,
    base: Url,
    /// Its address, as messages name it.
    server: String,
    /// When the connection was used last, if there was one; locked while it is made.
    connection: Mutex<Option<Instant>>,
}

impl Api {
    /// Makes the client, which reads the system's certificates. Nothing is sent.
    ///
    /// # Errors
    /// The client cannot be made.
    pub(super) fn new(endpoint: Option<&ServerUrl>) -> Option<Api> {
        let mut base = match endpoint {
            Some(endpoint) => endpoint.as_url().clone(),
            None => Url::parse(SERVER).ok()?,
        };
        let server = base.origin().ascii_serialization();
        let mut client = http_client::builder_by_proxy(base.scheme(), None);
        if let Some(host) = base.host_str().filter(|host| serves_all_apis(host)).map(ToOwned::to_owned) {
            client = client.dns_resolver(Alias(host));
            base.set_host(Some(NAME)).ok()?;
        }
        Some(Api { client: client.build().ok()?, base, server, connection: Mutex::default() })
    }

    /// The server's address, as messages name it.
    pub(super) fn server(&self) -> &str {
        &self.server
    }

    /// Makes the connection, unless there is one: calls that begin meanwhile wait for it, as each would make its own. The question is
    /// an unauthenticated one; what it fails of, the first call reports.
    pub(super) async fn connect(&self, deadline: Deadline) {
        let mut connection = self.connection.lock().await;
        // Nothing is saved without TLS, with which there is no HTTP/2 either.
        if self.base.scheme() == "http" || connection.is_some_and(|used| used.elapsed() < KEPT) {
            return;
        }
        let question = self.client.request(Method::HEAD, self.base.clone()).send();
        if let Ok(Ok(_)) = timeout(deadline.remaining(), question).await {
            *connection = Some(Instant::now());
        }
    }

    /// Makes one call of a method of a resource, with the headers that prove who we are.
    pub(super) async fn call<T: DeserializeOwned>(
        &self,
        resource: &str,
        method: &str,
        identity: HeaderMap,
        request: &impl Serialize,
    ) -> Result<T, Failure<CallError>> {
        let body = serde_json::to_vec(request).map_err(|_| Failure::Final(CallError::NotKms))?;
        if let Ok(mut connection) = timeout(PATIENCE, self.connection.lock()).await
            && let Some(used) = &mut *connection
        {
            *used = Instant::now();
        }
        let url = self.url(&format!("{resource}:{method}"));
        let request = self.client.post(url).headers(identity).header(CONTENT_TYPE, "application/json").body(body);
        let response = request.send().await.map_err(lost)?;
        let status = response.status();
        let answer = read(response).await?;
        if !status.is_success() {
            return Err(refused(status, &answer));
        }
        serde_json::from_slice(&answer).map_err(|_| Failure::Final(CallError::NotKms))
    }

    fn url(&self, path: &str) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().push("v1").extend(path.split('/'));
        }
        url
    }
}

/// Whether a host is one of Google's that answers for each API by the API's name: `private.googleapis.com`, or an endpoint of Private
/// Service Connect. Those of one location answer for Cloud KMS by their own.
fn serves_all_apis(host: &str) -> bool {
    let Some(name) = host.strip_suffix(".googleapis.com") else { return false };
    match name.split('.').collect::<Vec<_>>().as_slice() {
        ["cloudkms"] | ["cloudkms", _, "rep"] => false,
        [name] => !name.ends_with("-cloudkms"),
        _ => true,
    }
}

async fn read(response: Response) -> Result<Zeroizing<Vec<u8>>, Failure<CallError>> {
    let body = http_client::read(response, ANSWER_BYTES_MAX).await.map_err(lost)?;
    body.ok_or(Failure::Final(CallError::NotKms))
}

/// A server whose certificate is wrong now will not have a better one at once.
fn lost(error: reqwest::Error) -> Failure<CallError> {
    match TlsError::of(&error) {
        Some(problem) => Failure::Final(CallError::Tls(problem)),
        None => again(CallError::Unreachable(innermost(&error))),
    }
}

/// Why there is no result: what Cloud KMS says, or that it was not Cloud KMS that answered.
fn refused(status: StatusCode, answer: &[u8]) -> Failure<CallError> {
    let Ok(refusal) = Status::try_from(&Bytes::copy_from_slice(answer)) else {
        let error = CallError::Http(status.as_u16());
        let may_pass =
            status.is_server_error() || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT);
        return if may_pass { again(error) } else { Failure::Final(error) };
    };
    let refusal = KmsStatus::of(&refusal);
    match () {
        () if refusal.is_corrupt() => again(CallError::Corrupt),
        () if refusal.is_transient() => again(CallError::Status(refusal.into())),
        () => Failure::Final(CallError::Status(refusal.into())),
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::pin::pin;

    use futures_util::future::{Either, join, select};
    use serde_json::{Value, json};
    use tokio::net::TcpListener;

    use super::*;
    use crate::settings::Permission;

    #[tokio::test]
    async fn a_connection_that_is_never_made_does_not_hold_up_calls_for_ever() {
        crate::tls::install();
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let api = Api::new(Some(&ServerUrl::parse(&url, Permission::Refuse).unwrap())).unwrap();
        let server = async {
            // The first connection gets no answer, and any other one is closed.
            let _first = listener.accept().await.unwrap();
            loop {
                drop(listener.accept().await.unwrap());
            }
        };
        let connect = async {
            api.connect(Deadline::after(Duration::from_secs(3600))).await;
            unreachable!("there is no answer")
        };
        let request = json!({});
        let call = api.call::<Value>("projects/p", "decrypt", HeaderMap::new(), &request);
        let (others, call) = (pin!(join(server, connect)), pin!(call));
        let outcome = match timeout(PATIENCE * 30, select(others, call)).await.unwrap() {
            Either::Right((outcome, _)) => outcome,
            Either::Left(_) => unreachable!("the server never ends"),
        };
        assert!(matches!(outcome, Err(Failure::Transient { error: CallError::Unreachable(_), .. })));
    }

    #[test]
    fn only_servers_of_all_apis_are_asked_by_the_name_of_the_api() {
        for (host, is_one) in [
            ("private.googleapis.com", true),
            ("restricted.googleapis.com", true),
            ("cloudkms-acme.p.googleapis.com", true),
            ("cloudkms.googleapis.com", false),
            ("cloudkms.europe-west3.rep.googleapis.com", false),
            ("us-central1-cloudkms.googleapis.com", false),
            ("private.googleapis.com.example", false),
            ("kms.example", false),
        ] {
            assert_eq!(serves_all_apis(host), is_one, "{host}");
        }
    }
}
