//! Errors of break-glass.

use super::channel::ChannelError;
use super::file::{IdentityError, RecipientError, SealedError};
use super::ledger::LedgerError;
use super::lock::LockError;
use super::store::StoreError;
use super::time;
use crate::excerpt::Excerpt;
use crate::fault::{Class, Fault};
use crate::reference::Reference;
use crate::resolve::ResolveError;

/// Why an action of break-glass fails.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are the objects that the messages name")]
pub enum BreakGlassError {
    /// The caller is not the host's root.
    #[error("refusing to use break-glass: it requires root on the host")]
    NotRoot,
    /// There is neither a terminal nor `--yes`.
    #[error("refusing to open {}: it was not confirmed", Excerpt(file))]
    NotConfirmed { file: String },
    /// A sealed file.
    #[error("cannot use {}", Excerpt(file))]
    Sealed { file: String, source: SealedError },
    /// A sealed file that expired.
    #[error("refusing to use {}: it expired on {}", Excerpt(file), expired.strftime("%Y-%m-%d"))]
    Expired { file: String, expired: jiff::Timestamp },
    /// A sealed file for other hosts.
    #[error("refusing to use {}: it is for {}, and this host is {}", Excerpt(file), Excerpt(&hosts.join(", ")), Excerpt(host))]
    OtherHost { file: String, hosts: Vec<String>, host: String },
    /// A recipient.
    #[error("cannot seal for a recipient")]
    Recipient { source: RecipientError },
    /// A recipient is named twice.
    #[error("duplicate recipient {}", Excerpt(name))]
    SameRecipient { name: String },
    /// Nothing to seal.
    #[error("refusing to seal nothing: no sealed value matches")]
    Nothing,
    /// A grant that is not in the settings.
    #[error("the settings have no grant named {}", Excerpt(name))]
    NoGrant { name: String },
    /// A line that is not a reference.
    #[error("cannot use {} line {line}", Excerpt(file))]
    References { file: String, line: usize, source: crate::reference::ReferenceError },
    /// A computed value, which cannot be stored.
    #[error("cannot seal {reference}: a value with a query is computed, not stored")]
    Computed { reference: Reference },
    /// A file that cannot be read or written.
    #[error("cannot {verb} {}", Excerpt(file))]
    File {
        verb: &'static str,
        file: String,
        #[source]
        errno: crate::errno::Errno,
    },
    /// An identity.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Too few operators.
    #[error("refusing to open {}: expected {expected} operators, found {found}", Excerpt(file))]
    Operators { file: String, expected: usize, found: usize },
    /// A reference that the sealed file does not hold.
    #[error("{} does not contain {reference}", Excerpt(file))]
    NotInFile { file: String, reference: Reference },
    /// A duration that cannot be parsed, or is too long.
    #[error("cannot use {}: expected a duration from \"1s\" to \"{max}\"", Excerpt(found))]
    Duration { found: String, max: &'static str },
    /// A reference that the open store does not hold.
    #[error("the open emergency does not contain {reference}")]
    NotKept { reference: Reference, source: ResolveError },
    /// A secret whose rotation is overdue.
    #[error(
        "refusing to deliver {reference}: an emergency used it on {}, and its rotation was due by {}",
        time(used),
        time(due)
    )]
    Overdue { reference: Reference, used: jiff::Timestamp, due: jiff::Timestamp },
    /// A secret without a pending rotation.
    #[error("{reference} is not in the ledger")]
    NotPending { reference: Reference },
    /// A sealed file with other versions than 1Password.
    #[error("{stale} of {secrets} secrets in {} differ from 1Password", Excerpt(file))]
    Stale { file: String, stale: usize, secrets: usize },
    /// A sealed file that is too old.
    #[error("{} is {days} days old, expected at most {max}", Excerpt(file))]
    Old { file: String, days: i64, max: i64 },
    /// A request to the source or the KMS.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// The record of an action.
    #[error("refusing to use break-glass without a record")]
    Channel(#[from] ChannelError),
    /// The record of an end.
    #[error("the emergency is over, but its end cannot be recorded")]
    Unrecorded { source: ChannelError },
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The lock.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Fault for BreakGlassError {
    fn class(&self) -> Class {
        match self {
            BreakGlassError::NotRoot
            | BreakGlassError::NotConfirmed { .. }
            | BreakGlassError::Expired { .. }
            | BreakGlassError::OtherHost { .. }
            | BreakGlassError::Operators { .. }
            | BreakGlassError::Overdue { .. } => Class::NotPermitted,
            BreakGlassError::SameRecipient { .. } | BreakGlassError::Duration { .. } => Class::CommandLine,
            BreakGlassError::NoGrant { .. } | BreakGlassError::File { .. } => Class::Settings,
            BreakGlassError::Nothing | BreakGlassError::NotInFile { .. } | BreakGlassError::NotPending { .. } => {
                Class::NotFound
            }
            BreakGlassError::References { .. }
            | BreakGlassError::Computed { .. }
            | BreakGlassError::Stale { .. }
            | BreakGlassError::Old { .. } => Class::Data,
            BreakGlassError::NotKept { .. } => Class::Unavailable,
            BreakGlassError::Sealed { source, .. } => source.class(),
            BreakGlassError::Recipient { source } => source.class(),
            BreakGlassError::Identity(error) => error.class(),
            BreakGlassError::Resolve(error) => error.class(),
            BreakGlassError::Channel(error) | BreakGlassError::Unrecorded { source: error } => error.class(),
            BreakGlassError::Ledger(error) => error.class(),
            BreakGlassError::Lock(error) => error.class(),
            BreakGlassError::Store(error) => error.class(),
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            BreakGlassError::NotRoot => "run it with sudo",
            BreakGlassError::NotConfirmed { .. } => "run it on a terminal, or pass `--yes`",
            BreakGlassError::Expired { .. } | BreakGlassError::Stale { .. } | BreakGlassError::Old { .. } => {
                "create a new file: `oci-secrets break-glass seal`"
            }
            BreakGlassError::OtherHost { .. } => {
                "`oci-secrets break-glass seal --host NAME` names hosts, `--host '*'` all"
            }
            BreakGlassError::NoGrant { .. } => "add `name` to the grant in the settings",
            BreakGlassError::Operators { .. } => "pass `--operator NAME` once for each operator",
            BreakGlassError::Overdue { reference, .. } => {
                return Some(format!(
                    "store a new value in 1Password, or `oci-secrets break-glass rotation waive {reference} --reason TEXT`"
                ));
            }
            BreakGlassError::Unrecorded { .. } => {
                "`oci-secrets break-glass close` records it when the channel accepts records"
            }
            BreakGlassError::NotPending { .. } => {
                "`oci-secrets break-glass status` lists the secrets that must be rotated"
            }
            BreakGlassError::References { source, .. } => return source.hint().map(str::to_owned),
            BreakGlassError::Sealed { source, .. } => return source.hint(),
            BreakGlassError::Recipient { source } => return source.hint(),
            BreakGlassError::Identity(error) => return error.hint(),
            BreakGlassError::Resolve(error) => return error.hint(),
            BreakGlassError::Channel(error) => return error.hint(),
            BreakGlassError::Ledger(error) => return error.hint(),
            BreakGlassError::Lock(error) => return error.hint(),
            BreakGlassError::Store(error) => return error.hint(),
            _ => return None,
        };
        Some(hint.to_owned())
    }

    fn is_for_users(&self) -> bool {
        matches!(self, BreakGlassError::Resolve(error) if error.is_for_users())
    }
}
