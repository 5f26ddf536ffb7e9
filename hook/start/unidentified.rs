//! A refusal for want of the pod's identity, with the reason why it is not known.

use crate::fault::{AnyFault, Class, Fault};
use crate::settings::GrantError;

/// A refusal for want of the pod's identity.
#[derive(Debug, thiserror::Error)]
#[error("{refusal}")]
pub struct Unidentified {
    refusal: GrantError,
    source: AnyFault,
}

impl Unidentified {
    /// The refusal of the grants, and why what it misses is not known.
    pub(super) fn explain(refusal: GrantError, unknown: Option<AnyFault>) -> AnyFault {
        match (refusal, unknown) {
            (refusal @ GrantError::Unidentified { .. }, Some(source)) => Unidentified { refusal, source }.into(),
            (refusal, _) => refusal.into(),
        }
    }
}

/// Another attempt can succeed if the reason goes away: an API server that does not answer is [`Class::Unavailable`].
impl Fault for Unidentified {
    fn class(&self) -> Class {
        self.source.class()
    }

    fn hint(&self) -> Option<String> {
        self.source.hint()
    }
}
