//! The record of a revocation, or of its end.

use serde::Serialize;

use super::AuditError;
use super::record::SCHEMA;
use super::recorded::Recorded;
use crate::syslog::{CONTAINER, Field};

/// The record of what an operator has revoked, or allowed again. The removal from each container has a record of its own.
#[derive(Serialize)]
pub struct RevocationRecord {
    #[serde(skip)]
    program: &'static str,
    schema: u8,
    /// RFC 3339, UTC.
    time: String,
    event: Event,
    /// The reference, if one is revoked.
    #[serde(skip_serializing_if = "Option::is_none")]
    reference: Option<String>,
    /// The id of the container, if all of its files are revoked.
    #[serde(skip_serializing_if = "Option::is_none")]
    container: Option<String>,
    /// Why, in the operator's words.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// The login uid of the operator, if there was a login.
    #[serde(skip_serializing_if = "Option::is_none")]
    login_uid: Option<u32>,
}

/// What was done.
#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// It gets revoked.
    Revoke,
    /// It is allowed again.
    RevokeEnd,
}

impl RevocationRecord {
    /// The record of a program.
    pub fn new(
        program: &'static str,
        event: Event,
        (reference, container): (Option<String>, Option<String>),
        reason: Option<String>,
        login_uid: Option<u32>,
    ) -> RevocationRecord {
        let time = jiff::Timestamp::now().to_string();
        RevocationRecord { program, schema: SCHEMA, time, event, reference, container, reason, login_uid }
    }
}

impl Recorded for RevocationRecord {
    fn program(&self) -> &'static str {
        self.program
    }

    fn line(&self) -> Result<String, AuditError> {
        serde_json::to_string(self).map_err(|source| AuditError::Encode { source })
    }

    fn fields(&self) -> Vec<Field<'_>> {
        let event = match self.event {
            Event::Revoke => "revoke",
            Event::RevokeEnd => "revoke-end",
        };
        let event = Some(("OCI_SECRETS_DECISION", event));
        let container = self.container.as_deref().map(|id| (CONTAINER, id));
        let reference = self.reference.as_deref().map(|reference| ("OCI_SECRETS_REFERENCE", reference));
        [event, container, reference].into_iter().flatten().map(|(name, value)| Field { name, value }).collect()
    }
}
