//! The log of the broker.

use crate::report;

/// The program that logs.
const PROGRAM: &str = "oci-secrets-broker";

/// Logs a warning.
pub(super) fn warn(message: &str) {
    report::warn(PROGRAM, message);
}
