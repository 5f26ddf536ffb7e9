//! Where sealed values are fetched from.

pub mod connect;
mod error;
mod item;
pub mod nearest;
pub mod op;

use futures_util::future::{LocalBoxFuture, ready};
use futures_util::stream::LocalBoxStream;
use zeroize::Zeroizing;

use crate::reference::Reference;
use crate::retry::Deadline;
use crate::settings::{self, Settings, SourceName};
use crate::token::static_token::Shown;
use connect::Connect;
use op::{Op, Session};

pub use error::SourceError;

/// Opens the source that the settings choose. Nothing is sent or run yet.
///
/// `session` is the desktop session of the person who calls, whom `op` may ask.
///
/// # Errors
/// If the settings choose none, or its files cannot be used.
pub fn open(settings: &Settings, session: Option<Session>) -> Result<Box<dyn Source>, SourceError> {
    open_as(settings, session, Connect::open)
}

/// Opens it for a container's start: Connect is told the id of the start, and nobody is there who could unlock an app.
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

/// A place that knows the fields which references name.
pub trait Source {
    /// Fetches the fields of `references`, each item once, and yields every field as it arrives, in no particular order.
    fn fetch<'a>(&'a self, references: &'a [&'a Reference], deadline: Deadline) -> LocalBoxStream<'a, Fetched>;

    /// The token that it was shown, if it is one that stays the same.
    fn static_token(&self) -> Option<Shown>;

    /// The names of what is in the place of what this error says is missing, for a person who mistyped it; none if the source does not
    /// list any.
    fn names_beside<'a>(
        &'a self,
        _missing: &'a SourceError,
        _reference: &'a Reference,
        _deadline: Deadline,
    ) -> LocalBoxFuture<'a, Vec<String>> {
        Box::pin(ready(Vec::new()))
    }
}

/// The answer for one reference.
pub struct Fetched {
    /// Which of the references it answers, by index.
    pub index: usize,
    /// Its field, or why there is none.
    pub outcome: Result<Field, SourceError>,
}

/// The value of one field and where it was found.
pub struct Field {
    /// The text stored in 1Password: a sealed value, unless someone stored a plain one.
    pub value: Zeroizing<String>,
    /// The item's id, whatever the reference called it; `op` does not tell.
    pub item_id: Option<String>,
    /// The item's version, which grows with every edit; `op` does not tell.
    pub version: Option<u64>,
}
