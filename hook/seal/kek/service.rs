//! Errors that every KMS in the network has in common.

use std::time::Duration;

use crate::fault::{Class, Fault};
use crate::retry::{Seconds, Tries};

/// Why the KMS does not do what it is asked.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// No answer within the deadline.
    #[error("{key} did not answer within {}{}", Seconds(*within), Tries(*tries))]
    NoAnswer { key: String, within: Duration, tries: u32 },
    /// The connection could not be made, or broke.
    #[error("cannot reach {key}{}", Tries(*tries))]
    Unreachable { key: String, tries: u32 },
    /// What says who we are is not accepted.
    #[error("{key} refuses our credentials")]
    Unauthenticated { key: String },
    /// The identity may not use the key.
    #[error("{key} may not be used by our identity")]
    Denied { key: String },
    /// There is no such key.
    #[error("{key} does not exist")]
    NoKey { key: String },
    /// It, or the version that wrapped the data key, is disabled or about to be destroyed.
    #[error("{key} is not enabled")]
    NotEnabled { key: String },
    /// Another key wrapped the data key, or it was changed.
    #[error("{key} did not wrap this value's data key, or it was changed since")]
    NotWrappedByKey { key: String },
    /// Too many requests, for longer than we can wait.
    #[error("{key} is over its quota{}", Tries(*tries))]
    Quota { key: String, tries: u32 },
    /// Any other error.
    #[error("{key} answered {status:.60}{}", Tries(*tries))]
    Status { key: String, status: String, tries: u32 },
    /// Something else answered.
    #[error("{key} did not answer with the JSON of {kms}")]
    NotKms { key: String, kms: &'static str },
}

impl Fault for ServiceError {
    fn class(&self) -> Class {
        match self {
            ServiceError::Unauthenticated { .. } | ServiceError::Denied { .. } | ServiceError::NotEnabled { .. } => {
                Class::NotPermitted
            }
            ServiceError::NoKey { .. } | ServiceError::NotWrappedByKey { .. } => Class::Data,
            ServiceError::NoAnswer { .. }
            | ServiceError::Unreachable { .. }
            | ServiceError::Quota { .. }
            | ServiceError::Status { .. }
            | ServiceError::NotKms { .. } => Class::Unavailable,
        }
    }
}
