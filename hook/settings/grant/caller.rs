//! Who starts the container that requests a reference.

use crate::container::Pod;

/// Who starts the container that requests a reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller<'a> {
    /// The hook that reads these settings itself, or one of root's.
    Root,
    /// The same, for a container of a pod that is known otherwise than from its annotations.
    Pod(&'a Pod),
    /// A hook of another user, who can set every annotation.
    User {
        /// The user.
        uid: u32,
        /// All names by which grants are for this user.
        names: &'a [String],
    },
}

impl Caller<'_> {
    /// Whether grants to this user are for the caller.
    pub(super) fn is(self, user: &str) -> bool {
        matches!(self, Caller::User { names, .. } if names.iter().any(|name| name == user))
    }

    /// The user as messages name it: by number, if no grant names this user.
    pub(super) fn user(self) -> Option<String> {
        match self {
            Caller::Root | Caller::Pod(_) => None,
            Caller::User { uid, names } => Some(names.first().cloned().unwrap_or_else(|| uid.to_string())),
        }
    }
}
