//! A failure of a broker that Kubernetes runs: systemd, of which [`BrokerError`]'s hints are, knows nothing of it.

use std::error::Error;
use std::fmt;

use crate::broker::client::BrokerError;
use crate::fault::{AnyFault, Class, Fault};
use crate::settings;

/// A failure of a broker that is a pod.
#[derive(Debug)]
struct InPod {
    failure: BrokerError,
    namespace: String,
}

/// The failure of a broker, with a hint for what runs it.
pub(super) fn describe(failure: BrokerError, settings: &settings::Broker) -> AnyFault {
    match &settings.kubernetes_namespace {
        Some(namespace) => InPod { failure, namespace: namespace.clone() }.into(),
        None => failure.into(),
    }
}

impl fmt::Display for InPod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.failure.fmt(f)
    }
}

impl Error for InPod {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.failure.source()
    }
}

impl Fault for InPod {
    fn class(&self) -> Class {
        self.failure.class()
    }

    fn hint(&self) -> Option<String> {
        let pods = format!("`kubectl --namespace {} get pods --output wide`", self.namespace);
        match self.failure {
            BrokerError::Unreachable { .. } => Some(format!("{pods} shows whether its pod on this node is ready")),
            BrokerError::Silent { .. } | BrokerError::Ended { .. } => {
                Some(format!("the log of its pod on this node, which {pods} shows, has the reason"))
            }
            BrokerError::Version { .. } => Some(format!(
                "hook and broker must be of the same release: {pods} shows whether the update of this node is done"
            )),
            BrokerError::Answer { .. } | BrokerError::NotRoot { .. } | BrokerError::Request { .. } => {
                self.failure.hint()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::broker::client::Moment;

    #[test]
    fn a_hint_is_for_what_runs_the_broker() {
        let failures = || {
            let path = std::path::PathBuf::from("/b");
            [
                BrokerError::Unreachable { path: path.clone(), errno: rustix::io::Errno::NOENT.into() },
                BrokerError::Silent { path: path.clone(), within: Duration::from_secs(1) },
                BrokerError::Ended { path: path.clone(), moment: Moment::Answer },
                BrokerError::Version { path, found: 2 },
            ]
        };
        let mut settings = settings::Broker::default();
        for failure in failures() {
            let described = describe(failure, &settings).hint().unwrap();
            assert!(!described.contains("kubectl"), "{described}");
        }
        settings.kubernetes_namespace = Some("secrets".into());
        for failure in failures() {
            let (text, class, source) =
                (failure.to_string(), failure.class(), failure.source().map(ToString::to_string));
            let described = describe(failure, &settings);
            assert_eq!((described.to_string(), described.class()), (text, class));
            assert_eq!(described.source().map(ToString::to_string), source);
            let hint = described.hint().unwrap();
            assert!(hint.contains("`kubectl --namespace secrets get pods --output wide`"), "{hint}");
            assert!(!hint.contains("systemctl") && !hint.contains("journalctl"), "{hint}");
        }
    }
}
