//! What can be written to a trail.

use serde::Serialize;

use super::AuditError;
use crate::syslog::Field;

/// What can be written to a trail.
pub trait Recorded: Serialize {
    /// The program that logs it.
    fn program(&self) -> &'static str;

    /// It as one line.
    ///
    /// # Errors
    /// If it is larger than readers of the trail accept.
    fn line(&self) -> Result<String, AuditError>;

    /// The fields by which journalctl can select it.
    fn fields(&self) -> Vec<Field<'_>>;
}
