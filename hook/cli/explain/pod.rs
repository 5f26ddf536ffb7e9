//! The pod of a container, as the broker knows it.

use std::time::Duration;

use crate::broker::client::Connection;
use crate::cli::finding::Finding;
use crate::cli::is_root;
use crate::container::Pod;
use crate::reference::Reference;
use crate::settings::{BrokerAddress, Settings};

const SUBJECT: &str = "pod";

/// The broker may have to ask the API server.
const PATIENCE: Duration = Duration::from_secs(10);

/// The pod of a container, and what is said about it, if a grant that names one of these references depends on the pod's identity.
pub(super) fn of(
    container: &str,
    broker: BrokerAddress,
    references: &[&Reference],
    settings: &Settings,
) -> Option<(Option<Pod>, Finding)> {
    let mut grants = settings.grants.iter().filter(|grant| grant.is_identity());
    grants.find(|grant| references.iter().any(|reference| grant.names(reference)))?;
    if !is_root() {
        return Some((None, Finding::note(SUBJECT, "only root can ask the broker for the pod".into())));
    }
    Some(match Connection::open(broker, PATIENCE).and_then(|connection| connection.pod(container)) {
        Ok((pod, Some(unknown))) => (pod, Finding::problem(SUBJECT, &unknown)),
        Ok((Some(pod), None)) => {
            let finding = Finding::ok(SUBJECT, describe(&pod));
            (Some(pod), finding)
        }
        Ok((None, None)) => (None, Finding::ok(SUBJECT, "none".into())),
        Err(error) => (None, Finding::problem(SUBJECT, &error)),
    })
}

fn describe(pod: &Pod) -> String {
    let account = pod.service_account.as_ref().map(|account| format!(", service account {account:?}"));
    let labels = pod.labels.iter().map(|(key, value)| format!(", label {key} = {value:?}"));
    format!("{pod}, uid {:?}{}{}", pod.uid, account.unwrap_or_default(), labels.collect::<String>())
}
