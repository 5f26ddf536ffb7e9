//! Requests for secrets outside of a container.

use crate::container::{FileName, Request};
use crate::reference::Reference;

/// A request as a container would make it. Its file is never written; messages show the name of the field.
pub(super) fn request(reference: &Reference) -> Request {
    let file = reference.field().parse().unwrap_or_else(|_| FileName::secret());
    Request { file, reference: reference.clone(), optional: false }
}
