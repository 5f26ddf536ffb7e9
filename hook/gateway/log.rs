//! Messages to the operator: standard error, and the system log for errors.

use crate::fault::Fault;
use crate::report;

/// The name of the program in messages and records.
pub const PROGRAM: &str = "oci-secrets-gateway";

/// Reports what is no error, or one without consequences.
pub fn note(message: &str) {
    report::note(PROGRAM, message);
}

/// Reports an error that ends nothing, and its consequence.
pub fn error(consequence: &str, error: &dyn Fault) {
    report::print_error(PROGRAM, &format!("{consequence}: {}", report::chain(error)), error.hint().as_deref());
}
