//! Requests for secrets outside of a container.

use crate::container::Request;
use crate::reference::Reference;

/// A request as a container would make it. Its file is never written; messages show the name of the field.
pub(super) fn request(reference: Reference) -> Option<Request> {
    let field = reference.as_str().rsplit('/').next().and_then(|field| field.parse().ok());
    let file = field.or_else(|| "secret".parse().ok())?;
    Some(Request { file, reference, optional: false })
}
