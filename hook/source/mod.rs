//! Where sealed values are fetched from.

pub mod connect;
mod item;
pub mod op;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{LocalBoxFuture, ready};
use futures_util::stream::LocalBoxStream;
use zeroize::Zeroizing;

use crate::reference::Reference;
use crate::retry::{Deadline, Seconds, Tries};
use crate::settings::{self, FileError, Settings, SourceName};
use crate::token::static_token::Shown;
use crate::token::{Origin, TokenError};
use connect::Connect;
use op::{Op, OpError, Session};

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

/// Why a field could not be fetched.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SourceError {
    /// The settings name no source.
    #[error("the settings have neither [connect] nor [op]")]
    NoSource,
    /// The settings name two, and do not choose.
    #[error("the settings have [connect] and [op], and no `source` that chooses")]
    NotChosen,
    /// Connect is chosen, and is nowhere.
    #[error("the settings have no [connect]")]
    NoConnect,
    /// No vault of this name or id, or none that the token may see.
    #[error("no vault \"{vault}\"")]
    NoVault {
        /// As the reference names it.
        vault: String,
    },
    /// Several vaults of one name.
    #[error("{count} vaults are named \"{vault}\"")]
    ManyVaults {
        /// As the reference names it.
        vault: String,
        /// How many there are.
        count: usize,
    },
    /// No item of this title or id.
    #[error("no item \"{item}\" in vault \"{vault}\"")]
    NoItem {
        /// As the reference names it.
        item: String,
        /// As the reference names it.
        vault: String,
    },
    /// Only archived or deleted items have this title or id.
    #[error("item \"{item}\" in vault \"{vault}\" is archived or deleted")]
    ArchivedItem {
        /// As the reference names it.
        item: String,
        /// As the reference names it.
        vault: String,
    },
    /// Several items of one title.
    #[error("{count} items in vault \"{vault}\" are titled \"{item}\"")]
    ManyItems {
        /// As the reference names it.
        item: String,
        /// As the reference names it.
        vault: String,
        /// How many there are.
        count: usize,
    },
    /// No section of this label or id in the item.
    #[error("no section \"{section}\" in item \"{item}\"")]
    NoSection {
        /// As the reference names it.
        section: String,
        /// As the reference names it.
        item: String,
    },
    /// No field or file of this label or id in the item (or its section).
    #[error("no field \"{field}\" in item \"{item}\"")]
    NoField {
        /// As the reference names it.
        field: String,
        /// As the reference names it.
        item: String,
    },
    /// Several fields or files of one label.
    #[error("{count} fields in item \"{item}\" are labelled \"{field}\"")]
    ManyFields {
        /// As the reference names it.
        field: String,
        /// As the reference names it.
        item: String,
        /// How many there are.
        count: usize,
    },
    /// The field exists, but nothing is stored in it.
    #[error("field \"{field}\" of item \"{item}\" is empty")]
    NoValue {
        /// As the reference names it.
        field: String,
        /// As the reference names it.
        item: String,
    },
    /// The field is a file whose content is not text, and so no sealed value.
    #[error("file \"{file}\" of item \"{item}\" is not text")]
    NotText {
        /// As the reference names it.
        file: String,
        /// As the reference names it.
        item: String,
    },
    /// The source cannot do what the reference's query asks.
    #[error("1Password Connect cannot convert keys, so ?ssh-format is not supported")]
    NoKeyFormats,
    /// The source has not heard of our token.
    #[error("{server} refuses the token: 401 Unauthorized")]
    Unauthorized {
        /// The source's address.
        server: String,
        /// Who gave the token.
        origin: Origin,
    },
    /// The token is good, but not for this.
    #[error("the token may not read {what}: 403 Forbidden")]
    Forbidden {
        /// A vault or an item of one.
        what: String,
        /// Who gave the token.
        origin: Origin,
    },
    /// Nobody answered in time.
    #[error("{server} did not answer within {}{}", Seconds(*within), Tries(*tries))]
    NoAnswer {
        /// The source's address.
        server: String,
        /// The deadline for everything.
        within: Duration,
        /// How often it was asked.
        tries: u32,
    },
    /// Someone else changed the field after it was read.
    #[error("{field} has changed since it was read")]
    Changed {
        /// Where it is.
        field: String,
    },
    /// Connect says yes, and does not do it.
    #[error("{field} is not what was stored in it")]
    NotStored {
        /// Where it is.
        field: String,
    },
    /// The connection could not be made, or broke.
    #[error("cannot reach {server}: {cause}{}", Tries(*tries))]
    Unreachable {
        /// The source's address.
        server: String,
        /// What broke in the end.
        cause: String,
        /// How often it was tried.
        tries: u32,
    },
    /// Too many requests, for longer than we can wait.
    #[error("{server} limits our requests: 429 Too Many Requests{}", Tries(*tries))]
    Limited {
        /// The source's address.
        server: String,
        /// How often it was asked.
        tries: u32,
    },
    /// A redirection, which is never followed: it would take the token to another place.
    #[error("refusing to follow {server} elsewhere: it answered {status}")]
    Redirected {
        /// The source's address.
        server: String,
        /// The status it answered with.
        status: u16,
    },
    /// A status that leaves nothing to be done here.
    #[error("{server} answered {}{}", status_line(*status), Tries(*tries))]
    Status {
        /// The source's address.
        server: String,
        /// The status it answered with.
        status: u16,
        /// How often it was asked.
        tries: u32,
    },
    /// More bytes than any item has.
    #[error("{server} answered with more than {limit} bytes")]
    TooLarge {
        /// The source's address.
        server: String,
        /// The most that is read.
        limit: usize,
    },
    /// Something that is not Connect's JSON.
    #[error("{server} did not answer with the JSON of 1Password Connect, at line {line} column {column}")]
    NotConnect {
        /// The source's address.
        server: String,
        /// Where it stops to be.
        line: usize,
        /// Where it stops to be.
        column: usize,
    },
    /// The token file or the file of certificates cannot be read, or others can.
    #[error("cannot use the files of [connect]")]
    File {
        /// What is wrong with it.
        source: FileError,
    },
    /// There is no token.
    #[error("cannot show 1Password Connect who we are")]
    Token {
        /// Why.
        source: TokenError,
    },
    /// The certificates in `ca-file` cannot be used.
    #[error("cannot use the certificates in ca-file")]
    UnusableCertificates {
        /// The library's account.
        source: Arc<reqwest::Error>,
    },
    /// The HTTP client cannot be made.
    #[error("cannot prepare TLS")]
    NoClient {
        /// The library's account.
        source: Arc<reqwest::Error>,
    },
    /// What `op` says, or how it fails.
    #[error(transparent)]
    Op(#[from] OpError),
}

fn status_line(status: u16) -> String {
    match reqwest::StatusCode::from_u16(status).ok().and_then(|s| s.canonical_reason()) {
        Some(reason) => format!("{status} {reason}"),
        None => status.to_string(),
    }
}
