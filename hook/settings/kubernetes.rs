//! `[kubernetes]`: the API server, which knows the service accounts of pods.

use serde::Deserialize;

use super::{AbsolutePath, ServerUrl};

/// Where Kubernetes puts the token and the authorities into a pod.
const TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";
const CA: &str = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt";

/// How the broker reaches the API server.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Kubernetes {
    /// Its address; that of the environment if absent.
    pub url: Option<ServerUrl>,
    /// The token of the broker's service account; read for each request.
    pub token_file: AbsolutePath,
    /// Certificates, in PEM, to trust instead of the public roots; read for each request.
    pub ca_file: AbsolutePath,
}

impl Default for Kubernetes {
    fn default() -> Kubernetes {
        Kubernetes { url: None, token_file: AbsolutePath(TOKEN.into()), ca_file: AbsolutePath(CA.into()) }
    }
}
