//! What every source does.

use futures_util::future::{LocalBoxFuture, ready};
use futures_util::stream::LocalBoxStream;
use jiff::Timestamp;
use zeroize::Zeroizing;

use super::SourceError;
use crate::reference::Reference;
use crate::retry::Deadline;
use crate::token::static_token::Shown;

/// A place that knows the fields which references name.
pub trait Source {
    /// Fetches the fields of `references`, each item once, and yields every field as it arrives, in no particular order.
    fn fetch<'a>(&'a self, references: &'a [&'a Reference], deadline: Deadline) -> LocalBoxStream<'a, Fetched>;

    /// The token that it was shown, if it is static.
    fn static_token(&self) -> Option<Shown>;

    /// The existing names next to the one that this error says is missing, for a suggestion; none if the source does not
    /// list any.
    fn siblings<'a>(
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
    /// The item's id, whatever the reference called it; `op` does not return it.
    pub item_id: Option<String>,
    /// The field's id, whatever the reference called it; `op` does not return it.
    pub field_id: Option<String>,
    /// The item's version, which grows with every edit; `op` does not return it.
    pub version: Option<u64>,
    /// When and for whom it was fetched, if not for the caller; see [`Earlier`].
    pub earlier: Option<Earlier>,
}

/// Where a value comes from that the caller did not fetch itself: a broker shares fetches between starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Earlier {
    /// When the source returned it.
    pub fetched: Timestamp,
    /// The id of the start that it was fetched for, if there was one.
    pub start: Option<String>,
    /// Whether it is used because the source does not answer.
    pub outage: bool,
}
