//! The source that all starts of a broker share.

use crate::settings::Settings;
use crate::source::{self, Source, SourceError};

/// Opens the source that the settings choose, for every start until the settings are loaded again.
///
/// # Errors
/// As for [`source::open`].
pub fn open(settings: &Settings) -> Result<Box<dyn Source>, SourceError> {
    source::open(settings, None)
}
