//! What a call of the hook came to.

use crate::deliver::Hold;
use crate::fault::AnyFault;

/// What a call of the hook came to, if it did not fail.
pub(super) enum Done {
    /// The files, until the record is written.
    Delivered(Hold),
    /// The broker has written the record, of this outcome.
    Recorded(Result<(), AnyFault>),
    /// There is no request for this container, or another entry of the spec's hooks has delivered.
    Nothing,
}
