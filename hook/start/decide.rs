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
        let keys = keys.chain(grant.namespace().into_iter().flat_map(|_| NAMESPACE_KEYS));
        used.extend(keys.filter_map(|key| Some((key.to_owned(), annotations.get(key)?.to_owned()))));
    }
    Ok(used)
}
