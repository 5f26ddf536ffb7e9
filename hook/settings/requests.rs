//! `[requests.<name>]`: annotations for engines that pass none on.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::container::{Annotations, RequestError, Requests};

/// Annotations for containers of an engine that cannot pass any on.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(try_from = "BTreeMap<String, String>")]
pub struct RequestSet(BTreeMap<String, String>);

impl RequestSet {
    /// By key.
    pub fn annotations(&self) -> &BTreeMap<String, String> {
        &self.0
    }
}

impl TryFrom<BTreeMap<String, String>> for RequestSet {
    type Error = RequestSetError;

    fn try_from(annotations: BTreeMap<String, String>) -> Result<RequestSet, RequestSetError> {
        let annotations = Annotations::new(annotations);
        match Requests::from_annotations(&annotations)? {
            Some(_) => Ok(RequestSet(annotations.values().clone())),
            None => Err(RequestSetError { reason: "no file is requested".to_owned() }),
        }
    }
}

/// A set of requests that cannot be used. It names a key, never a value.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct RequestSetError {
    reason: String,
}

impl From<RequestError> for RequestSetError {
    fn from(error: RequestError) -> RequestSetError {
        let reason = match &error {
            RequestError::Key { source, .. } => format!("{error}: {source}"),
            RequestError::Reference { source, .. } => format!("{error}: {source}"),
            RequestError::Template { source, .. } => format!("{error}: {}", crate::report::chain(source)),
            RequestError::Owner { .. } => "run.secrets.owner: expected uid:gid in decimal".to_owned(),
            RequestError::Optional { .. } => "run.secrets.optional: expected names of requested files".to_owned(),
            RequestError::Update(_) => {
                "run.secrets.update: expected live; run.secrets.on-update: expected signal: and a name".to_owned()
            }
            _ => error.to_string(),
        };
        RequestSetError { reason }
    }
}
