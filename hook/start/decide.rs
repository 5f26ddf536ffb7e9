//! The annotations of a container start: whose they are, what they request, and which grants allow it.

use std::collections::BTreeMap;

use crate::container::{Annotations, ImageError, NAMESPACE_KEYS, Requests, is_ours, is_reference};
use crate::fault::AnyFault;
use crate::settings::{Caller, GrantError, Grants, Permission};

/// The requests of a container. None of them may come from its image, unless the settings allow it.
pub(super) fn requests(
    annotations: Annotations,
    image: Option<AnyFault>,
    permission: Permission,
) -> Result<(Annotations, Option<Requests>), AnyFault> {
    let annotations = match (permission, image) {
        (Permission::Allow, _) => Annotations::new(annotations.values().clone()),
        (Permission::Refuse, Some(error)) => return Err(error),
        (Permission::Refuse, None) => annotations,
    };
    if let Some(key) = annotations.of_image(|key, value| is_ours(key) || is_reference(value)) {
        return Err(ImageError::Request { key: key.to_owned() }.into());
    }
    let requests = Requests::from_annotations(&annotations)?;
    Ok((annotations, requests))
}

/// The annotations that the grants of all requests depend on.
pub(super) fn granted(
    grants: &Grants,
    requests: &Requests,
    annotations: &Annotations,
    caller: Caller<'_>,
) -> Result<BTreeMap<String, String>, GrantError> {
    let mut used = BTreeMap::new();
    for request in &requests.files {
        let grant = grants.decide(&request.reference, annotations, requests.owner.is_some(), caller)?;
        let keys = grant.annotations().map(|(key, _)| key);
        let is_by_annotation = grant.namespace().is_some() && !grant.is_identity();
        let keys = keys.chain(is_by_annotation.then_some(NAMESPACE_KEYS).into_iter().flatten());
        used.extend(keys.filter_map(|key| Some((key.to_owned(), annotations.get(key)?.to_owned()))));
    }
    Ok(used)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::Pod;
    use crate::settings::Settings;

    /// A forged namespace in the record would look like the one that was compared.
    #[test]
    fn an_annotation_is_recorded_only_if_a_grant_depends_on_it() {
        let keys = ["io.kubernetes.cri.sandbox-namespace", "team"];
        let of_pod =
            [("run.secrets/x", "op://Agents/db/password"), (keys[0], "agents"), (keys[1], "a"), ("other", "b")];
        let annotations = Annotations::new(of_pod.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
        let requests = Requests::from_annotations(&annotations).unwrap().unwrap();
        let pod = Pod { namespace: "agents".into(), service_account: Some("billing".into()), ..Pod::default() };
        for (to, expected) in [
            ("{ namespace = 'agents', annotations = { team = 'a' } }", &keys[..]),
            ("{ namespace = 'agents' }", &keys[..1]),
            ("{ namespace = 'agents', service-account = 'billing', annotations = { team = 'a' } }", &keys[1..]),
            ("{ namespace = 'agents', service-account = 'billing' }", &[]),
        ] {
            let text = format!("[[grant]]\nreferences = ['op://Agents/*']\nto = {to}");
            let grants = text.parse::<Settings>().unwrap().grants;
            let recorded = granted(&grants, &requests, &annotations, Caller::Pod(&pod)).unwrap();
            assert!(recorded.keys().eq(expected), "{to}: {recorded:?}");
        }
    }
}
