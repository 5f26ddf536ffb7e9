//! Whose container it is: its pod, as the runtime has reported it, and the pod's service account, as the API server knows it.

use std::sync::Arc;

use crate::container::{Annotations, Pod};
use crate::fault::{AnyFault, Class, Fault};
use crate::kubernetes::{KubernetesError, ServiceAccounts};
use crate::nri;
use crate::retry::Deadline;
use crate::settings::Settings;
use crate::start::Start;

/// The pods of a host, with one version of the settings.
pub struct Identities<'s> {
    nri: Option<Arc<nri::State>>,
    accounts: ServiceAccounts<'s>,
}

/// What is known of the pod of a container, and why not more.
#[derive(Default)]
pub struct Identity {
    /// The pod.
    pub pod: Option<Pod>,
    /// Why it, or its service account, is not known.
    pub unknown: Option<AnyFault>,
}

impl<'s> Identities<'s> {
    /// Those that a plugin knows.
    pub fn new(nri: Option<Arc<nri::State>>, settings: &'s Settings) -> Identities<'s> {
        Identities { nri, accounts: ServiceAccounts::new(&settings.kubernetes) }
    }

    /// The pod of a container, and its service account if a request depends on it.
    pub async fn of(
        &self,
        container: &str,
        annotations: &Annotations,
        settings: &Settings,
        deadline: Deadline,
    ) -> Identity {
        let identity = self.pod(container);
        match &identity.pod {
            Some(pod) if Start::needs_service_account(annotations, settings, pod) => {
                self.with_service_account(identity, deadline).await
            }
            _ => identity,
        }
    }

    /// All that can be known of the pod of a container.
    pub async fn all_of(&self, container: &str, deadline: Deadline) -> Identity {
        self.with_service_account(self.pod(container), deadline).await
    }

    /// What is known of the pod of a container without a question to the API server.
    pub fn known(&self, container: &str) -> Identity {
        let identity = self.pod(container);
        let Some(pod) = identity.pod else { return identity };
        let service_account = self.accounts.kept(&pod.uid);
        let unknown = service_account.is_none().then(|| IdentityError::NotAsked.into());
        Identity { pod: Some(Pod { service_account, ..pod }), unknown }
    }

    async fn with_service_account(&self, identity: Identity, deadline: Deadline) -> Identity {
        let Some(pod) = identity.pod else { return identity };
        match self.accounts.of(&pod, deadline).await {
            Ok(account) => Identity { pod: Some(Pod { service_account: Some(account), ..pod }), unknown: None },
            Err(source) => {
                let unknown = IdentityError::ServiceAccount { pod: pod.to_string(), source };
                Identity { pod: Some(pod), unknown: Some(unknown.into()) }
            }
        }
    }

    fn pod(&self, container: &str) -> Identity {
        match self.find(container) {
            Ok(pod) => Identity { pod: Some(pod), unknown: None },
            Err(error) => Identity { pod: None, unknown: Some(error.into()) },
        }
    }

    fn find(&self, container: &str) -> Result<Pod, IdentityError> {
        let state = self.nri.as_deref().ok_or(IdentityError::NoNri)?;
        match state.pods.place(container) {
            Some(placed) => {
                let nri::Pod { namespace, name, uid, labels, .. } = (*placed.pod).clone();
                Ok(Pod { namespace, name, uid, labels, service_account: None })
            }
            None if state.snapshot().runtime.is_none() => Err(IdentityError::NotRegistered),
            None => Err(IdentityError::NoPod),
        }
    }
}

/// Why the pod of a container, or its service account, is not known.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// No runtime reports its pods.
    #[error("the settings of the broker have no `socket` under [nri]")]
    NoNri,
    /// None does so now.
    #[error("no runtime has registered the broker's NRI plugin")]
    NotRegistered,
    /// It has not reported this container.
    #[error("the runtime has reported no pod with this container")]
    NoPod,
    /// Only the API server has it, and it was not asked.
    #[error("the API server was not asked for the service account of the pod")]
    NotAsked,
    /// The API server.
    #[error("cannot look up the service account of pod {pod}")]
    ServiceAccount {
        /// The pod.
        pod: String,
        /// The reason.
        source: KubernetesError,
    },
}

impl Fault for IdentityError {
    fn class(&self) -> Class {
        match self {
            IdentityError::NoNri | IdentityError::NoPod => Class::NotPermitted,
            IdentityError::NotRegistered | IdentityError::NotAsked => Class::Unavailable,
            IdentityError::ServiceAccount { source, .. } => source.class(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            IdentityError::NoNri => Some("grants with `service-account` or `labels` need `socket` under [nri]".into()),
            IdentityError::NotRegistered => Some("`oci-secrets check` shows why".into()),
            IdentityError::NoPod => Some(
                "grants with `service-account` or `labels` are for pods of the runtime at the socket of [nri]".into(),
            ),
            IdentityError::NotAsked => None,
            IdentityError::ServiceAccount { source, .. } => source.hint(),
        }
    }
}
