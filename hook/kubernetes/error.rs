//! Why the service account of a pod is not known.

use std::path::PathBuf;
use std::time::Duration;

use crate::fault::{Class, Fault};
use crate::retry::Seconds;
use crate::settings::FileError;
use crate::tls::{CaFileError, TlsError};

/// Why the service account of a pod is not known.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are named for what they hold")]
pub enum KubernetesError {
    /// Neither the settings nor the environment name it.
    #[error("no address of the Kubernetes API server")]
    NoAddress,
    /// The token or the authorities cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file of the token holds something else.
    #[error("{} holds no token", path.display())]
    NoToken { path: PathBuf },
    /// The authorities cannot be used.
    #[error(transparent)]
    CaFile(#[from] CaFileError),
    /// The client cannot be made.
    #[error("cannot prepare for HTTP: {cause}")]
    NoClient { cause: String },
    /// Nothing listens there, or it cannot be reached.
    #[error("cannot connect to {server}: {cause}")]
    NoConnection { server: String, cause: String },
    /// It does not answer.
    #[error("{server} did not answer within {}", Seconds(*.within))]
    NoAnswer { server: String, within: Duration },
    /// The connection broke.
    #[error("lost the connection to {server}: {cause}")]
    Broken { server: String, cause: String },
    /// It answers that it cannot serve now.
    #[error("{server} answers with HTTP status {status}")]
    Busy { server: String, status: u16 },
    /// Its certificate cannot be trusted.
    #[error("cannot trust {server}")]
    Tls { server: String, source: TlsError },
    /// 401.
    #[error("{server} does not accept the token (HTTP status 401)")]
    Unauthorized { server: String },
    /// 403.
    #[error("{server} does not allow the token to get pods of namespace {namespace:?} (HTTP status 403)")]
    Forbidden { server: String, namespace: String },
    /// 404.
    #[error("{server} has no such pod (HTTP status 404)")]
    NoPod { server: String },
    /// Any other status.
    #[error("{server} answers with HTTP status {status}, which is not expected of an API server")]
    Unexpected { server: String, status: u16 },
    /// The answer is too large.
    #[error("the answer of {server} is too large")]
    TooLarge { server: String },
    /// The answer is not a pod.
    #[error("the answer of {server} is not a pod")]
    NotAPod { server: String },
    /// The answer is of another pod, or the pod has a name that no object of Kubernetes has.
    #[error("the name of the pod is not that of a pod in the API")]
    OtherName,
    /// Another pod has the name now.
    #[error("the API server has another pod of this name, with another uid")]
    OtherUid,
    /// The pod has none.
    #[error("the pod has no service account")]
    NoServiceAccount,
}

impl Fault for KubernetesError {
    fn class(&self) -> Class {
        match self {
            KubernetesError::NoConnection { .. }
            | KubernetesError::NoAnswer { .. }
            | KubernetesError::Broken { .. }
            | KubernetesError::Busy { .. } => Class::Unavailable,
            KubernetesError::File(error) => error.class(),
            KubernetesError::CaFile(error) => error.class(),
            KubernetesError::Tls { source, .. } => source.class(),
            KubernetesError::NoAddress
            | KubernetesError::NoToken { .. }
            | KubernetesError::NoClient { .. }
            | KubernetesError::Unexpected { .. }
            | KubernetesError::TooLarge { .. }
            | KubernetesError::NotAPod { .. } => Class::Settings,
            KubernetesError::Unauthorized { .. }
            | KubernetesError::Forbidden { .. }
            | KubernetesError::NoPod { .. }
            | KubernetesError::OtherName
            | KubernetesError::OtherUid
            | KubernetesError::NoServiceAccount => Class::NotPermitted,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            KubernetesError::NoAddress => {
                "set `url` under [kubernetes] in the settings of the broker; in a pod, the environment names it"
            }
            KubernetesError::File(error) => return error.hint(),
            KubernetesError::CaFile(error) => return error.hint(),
            KubernetesError::Tls { .. } => {
                "`ca-file` under [kubernetes] in the settings names the authorities to trust"
            }
            KubernetesError::NoToken { .. } | KubernetesError::Unauthorized { .. } => {
                "`token-file` under [kubernetes] in the settings must hold a valid token of a service account of this cluster"
            }
            KubernetesError::Forbidden { .. } => {
                "the broker's service account needs a ClusterRole with the verb get on pods, and a ClusterRoleBinding"
            }
            KubernetesError::NoPod { .. } | KubernetesError::OtherUid => {
                "the pod was deleted, or is a static pod, which has another uid in the API; the kubelet starts its successor by itself"
            }
            KubernetesError::Unexpected { .. } | KubernetesError::NotAPod { .. } => {
                "`url` under [kubernetes] in the settings must be that of a Kubernetes API server"
            }
            _ => return None,
        };
        Some(hint.to_owned())
    }
}
