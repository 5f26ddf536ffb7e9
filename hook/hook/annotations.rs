//! The annotations of a container start: whose they are, what they request, and which grants allow it.

use std::collections::BTreeMap;

use crate::container::{
    Annotations, ImageError, NAMESPACE_KEYS, Requests, State, annotations_of_image, is_ours, is_reference,
    refuse_misplaced,
};
use crate::fault::AnyFault;
use crate::settings::{Grants, Permission};

/// The second entry of hooks.d, for containers that have a reference under a key that the first entry does not match.
pub(super) fn check_annotations(state: &State) -> Result<(), AnyFault> {
    let annotations = Annotations::new(state.annotations().clone());
    if annotations.is_sandbox() { Ok(()) } else { Ok(refuse_misplaced(&annotations)?) }
}

/// The annotations with those of the container's image, or why these are not known.
pub(super) fn of_image(annotations: Annotations, state: &State) -> (Annotations, Option<ImageError>) {
    match state.bundle().map(annotations_of_image) {
        Ok(Ok(image)) => (annotations.with_image(image), None),
        Ok(Err(error)) => (annotations, Some(error)),
        // A state without a bundle is refused later.
        Err(_) => (annotations, None),
    }
}

/// The requests of a container. None of them may come from its image, unless the settings allow it.
pub(super) fn requests(
    annotations: Annotations,
    image: Option<ImageError>,
    permission: Permission,
) -> Result<(Annotations, Option<Requests>), AnyFault> {
    let annotations = match (permission, image) {
        (Permission::Allow, _) => Annotations::new(annotations.values().clone()),
        (Permission::Refuse, Some(error)) => return Err(error.into()),
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
) -> Result<BTreeMap<String, String>, AnyFault> {
    let mut used = BTreeMap::new();
    for request in &requests.files {
        let grant = grants.decide(&request.reference, annotations, requests.owner.is_some())?;
        let keys = grant.annotations().map(|(key, _)| key);
        let keys = keys.chain(grant.namespace().into_iter().flat_map(|_| NAMESPACE_KEYS));
        used.extend(keys.filter_map(|key| Some((key.to_owned(), annotations.get(key)?.to_owned()))));
    }
    Ok(used)
}
