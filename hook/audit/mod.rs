//! The audit trail: one line of JSON for every container start that requests secrets, delivered or refused.
//!
//! It records the requests, the container and the reason for the decision; never a value, and never its length.

mod append;
mod chain;
mod compare;
mod default_file;
mod entry;
mod error;
mod link;
mod record;
mod recorded;
mod revocation;
mod tail;
mod trail;
mod verify;

pub use self::append::append_line;
pub use self::chain::Chain;
pub use self::compare::{CommandRead, Comparison, Difference, compare};
pub use self::default_file::default_file;
pub use self::entry::{Act, Entry, Filter, Line, Reading};
pub use self::error::AuditError;
pub use self::link::{Hash, Link, NotAHash};
pub use self::record::{Record, Update, Withdrawal};
pub use self::revocation::{Event, RevocationRecord};
pub use self::trail::Trail;
pub use self::verify::{Finding, Note, Problem, Verdict, Verification};
