//! What the hook itself looks for in annotations, before any settings are read.

use crate::container::{Annotations, ImageError, State, annotations_of_image, refuse_misplaced};
use crate::fault::AnyFault;

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
