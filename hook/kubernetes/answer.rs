//! A pod as the API has it.

use serde::Deserialize;

use super::error::KubernetesError;
use crate::container::Pod;

/// What is read of a pod in the API.
#[derive(Deserialize)]
pub(super) struct Answer {
    metadata: Metadata,
    spec: Spec,
}

#[derive(Deserialize)]
struct Metadata {
    namespace: String,
    name: String,
    uid: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    #[serde(default)]
    service_account_name: String,
}

impl Answer {
    /// The service account, if it is the answer for this pod.
    pub(super) fn service_account_of(self, pod: &Pod) -> Result<String, KubernetesError> {
        let Metadata { namespace, name, uid } = self.metadata;
        if (&namespace, &name) != (&pod.namespace, &pod.name) {
            return Err(KubernetesError::OtherName);
        }
        if uid != pod.uid || uid.is_empty() {
            return Err(KubernetesError::OtherUid);
        }
        let account = self.spec.service_account_name;
        if account.is_empty() { Err(KubernetesError::NoServiceAccount) } else { Ok(account) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Pod {
        let [namespace, name, uid] = ["agents", "billing-0", "7c1e"].map(str::to_owned);
        Pod { namespace, name, uid, ..Pod::default() }
    }

    fn answer(metadata: &str, spec: &str) -> Result<String, KubernetesError> {
        let text =
            format!(r#"{{"kind":"Pod","metadata":{{{metadata},"labels":{{}}}},"spec":{{{spec}}},"status":{{}}}}"#);
        serde_json::from_str::<Answer>(&text).unwrap().service_account_of(&pod())
    }

    #[test]
    fn an_answer_is_for_one_pod_alone() {
        let own = r#""namespace":"agents","name":"billing-0","uid":"7c1e""#;
        let account = r#""serviceAccountName":"billing","nodeName":"n""#;
        assert_eq!(answer(own, account).unwrap(), "billing");
        assert!(matches!(answer(&own.replace("7c1e", "7c1f"), account), Err(KubernetesError::OtherUid)));
        assert!(matches!(answer(&own.replace("agents", "other"), account), Err(KubernetesError::OtherName)));
        assert!(matches!(answer(&own.replace("billing-0", "billing-1"), account), Err(KubernetesError::OtherName)));
        assert!(matches!(answer(own, r#""nodeName":"n""#), Err(KubernetesError::NoServiceAccount)));
        let nameless = Pod { uid: String::new(), ..pod() };
        let text =
            r#"{"metadata":{"namespace":"agents","name":"billing-0","uid":""},"spec":{"serviceAccountName":"x"}}"#;
        let of_no_uid = serde_json::from_str::<Answer>(text).unwrap().service_account_of(&nameless);
        assert!(matches!(of_no_uid, Err(KubernetesError::OtherUid)));
    }
}
