//! What tests of grants have in common.

use super::Grants;
use crate::container::{Annotations, Pod};
use crate::reference::Reference;

pub(super) const NAMESPACE: &str = "io.kubernetes.cri.sandbox-namespace";

pub(super) fn grants(text: &str) -> Grants {
    text.parse::<crate::settings::Settings>().unwrap().grants
}

pub(super) fn reference(text: &str) -> Reference {
    text.parse().unwrap()
}

pub(super) fn annotations(pairs: &[(&str, &str)]) -> Annotations {
    Annotations::new(pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect())
}

pub(super) fn pod(namespace: &str, account: Option<&str>, labels: &[(&str, &str)]) -> Pod {
    Pod {
        namespace: namespace.to_owned(),
        name: "billing-0".to_owned(),
        uid: "7c1e".to_owned(),
        service_account: account.map(str::to_owned),
        labels: labels.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect(),
    }
}
