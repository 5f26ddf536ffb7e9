//! Where sealed values are fetched from.

pub mod connect;
mod error;
mod fetch;
pub mod item;
pub mod op;
#[cfg(test)]
pub(crate) mod samples;
mod standing;

use crate::settings::{self, Settings, SourceName};
use connect::Connect;
use op::{Op, Session};

pub use error::SourceError;
pub use fetch::{Earlier, Fetched, Field, Source};
pub use standing::Standing;

/// Opens the source that the settings choose. Nothing is sent or run yet.
///
/// `session` is the caller's desktop session, in which `op` may ask.
///
/// # Errors
/// If the settings choose none, or its files cannot be used.
pub fn open(settings: &Settings, session: Option<Session>) -> Result<Box<dyn Source>, SourceError> {
    open_as(settings, session, Connect::open)
}

/// Opens it for a container's start: Connect gets the id of the start, and no person can unlock an app.
///
/// # Errors
/// As for [`open`].
pub fn open_for(settings: &Settings, start: &str) -> Result<Box<dyn Source>, SourceError> {
    open_as(settings, None, |connect| Connect::open_for(connect, start))
}

fn open_as(
    settings: &Settings,
    session: Option<Session>,
    connect: impl FnOnce(&settings::Connect) -> Result<Connect, SourceError>,
) -> Result<Box<dyn Source>, SourceError> {
    match chosen(settings)? {
        SourceName::Connect => Ok(Box::new(connect(settings.connect.as_ref().ok_or(SourceError::NoConnect)?)?)),
        SourceName::Op => Ok(Box::new(Op::open(&settings.op.clone().unwrap_or_default(), session)?)),
    }
}

/// The source that the settings choose: by name, else the only one that they have.
///
/// # Errors
/// If they have none, or more than one and no name.
pub fn chosen(settings: &Settings) -> Result<SourceName, SourceError> {
    match (settings.source, &settings.connect, &settings.op) {
        (Some(name), _, _) => Ok(name),
        (None, Some(_), None) => Ok(SourceName::Connect),
        (None, None, Some(_)) => Ok(SourceName::Op),
        (None, Some(_), Some(_)) => Err(SourceError::NotChosen),
        (None, None, None) => Err(SourceError::NoSource),
    }
}
