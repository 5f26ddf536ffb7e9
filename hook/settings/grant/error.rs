//! Why a container may not have a reference.

use std::fmt;

use crate::container::{Contradiction, IMAGE_HINT, Value, Why};
use crate::excerpt::Excerpt;
use crate::fault::{Class, Fault};
use crate::reference::Reference;
use crate::settings::Pattern;

/// What a container has where a grant expects something else: outside text.
#[derive(Debug, PartialEq, Eq)]
pub struct Found {
    text: Option<String>,
    ignored: Option<Why>,
}

impl Found {
    pub(super) fn of(value: Value<'_>) -> Found {
        let (text, ignored) = match value {
            Value::Absent => (None, None),
            Value::Counts(text) => (Some(text.to_owned()), None),
            Value::Ignored(text, why) => (Some(text.to_owned()), Some(why)),
        };
        Found { text, ignored }
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.text {
            None => f.write_str("none"),
            Some(text) => Excerpt(text).fmt(f),
        }?;
        self.ignored.map_or(Ok(()), |why| write!(f, ", {why}"))
    }
}

/// Why a container may not have a reference.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "fields are named for what they hold")]
pub enum GrantError {
    /// No grant names it in this spelling.
    #[error("refusing to grant {reference}: no grant names it")]
    NoGrant { reference: Reference, nearest: Option<String>, user: Option<String> },
    /// A grant names it, but for other containers.
    #[error("refusing to grant {reference}: expected annotation {key} = \"{expected}\", found {found}")]
    Annotation { reference: Reference, key: String, expected: Pattern, found: Found },
    /// A grant names it, but for pods of another namespace.
    #[error("refusing to grant {reference}: expected namespace \"{expected}\", found {found}")]
    Namespace { reference: Reference, expected: Pattern, found: Found },
    /// A grant names it, but for pods of another service account.
    #[error("refusing to grant {reference}: expected service account \"{expected}\", found {found}")]
    ServiceAccount { reference: Reference, expected: Pattern, found: Found },
    /// A grant names it, but for pods with another label.
    #[error("refusing to grant {reference}: expected label {key} = \"{expected}\", found {found}")]
    Label { reference: Reference, key: String, expected: Pattern, found: Found },
    /// A grant names it for pods with an identity, and that of this one is not known.
    #[error("refusing to grant {reference}: the identity of its pod is not known")]
    Unidentified { reference: Reference, missing: MissingIdentity },
    /// A grant names it for pods of a namespace, and the container's annotations name several.
    #[error("refusing to grant {reference}")]
    Contradiction { reference: Reference, source: Contradiction },
    /// A grant names it, but for containers of a user, and this one is root's.
    #[error("refusing to grant {reference}: expected a container of user {}, found one of root", Excerpt(.expected))]
    User { reference: Reference, expected: String },
    /// A grant gives it to this container, but only to its own user.
    #[error("refusing to grant {reference}: its grant does not allow run.secrets.owner")]
    Owner { reference: Reference },
}

/// What is not known of the pod of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MissingIdentity {
    /// Which one it is.
    Pod,
    /// Its service account, on which alone a grant depends.
    ServiceAccount,
}

impl GrantError {
    /// Whether a grant depends on the pod's service account alone, which is not known.
    pub fn needs_service_account(&self) -> bool {
        matches!(self, GrantError::Unidentified { missing: MissingIdentity::ServiceAccount, .. })
    }

    /// How close a grant came; what is not known may give it. Of equal refusals, the last is reported.
    pub(super) fn closeness(&self) -> u8 {
        match self {
            GrantError::NoGrant { .. } => 0,
            GrantError::Owner { .. } => 2,
            GrantError::Unidentified { .. } => 3,
            _ => 1,
        }
    }
}

impl Fault for GrantError {
    fn class(&self) -> Class {
        Class::NotPermitted
    }

    fn hint(&self) -> Option<String> {
        match self {
            GrantError::NoGrant { nearest: Some(nearest), .. } => {
                Some(format!("did you mean {nearest}, which a grant names? names are case-sensitive"))
            }
            GrantError::NoGrant { reference, nearest: None, user } => Some(format!(
                "a grant in the settings must list \"{}\" or \"op://{}/*\" under `references`{}",
                reference.as_str(),
                reference.vault(),
                user.as_ref().map(|user| format!(", with to = {{ user = {user:?} }}")).unwrap_or_default()
            )),
            GrantError::Annotation { found, .. } if found.ignored == Some(Why::OfImage) => Some(IMAGE_HINT.into()),
            GrantError::Annotation { found, .. } if found.ignored.is_some() => {
                Some("to = { namespace = … } in the grant is for containerd and for CRI-O".into())
            }
            GrantError::User { .. } => Some(
                "a grant with `user` is for hooks of that user that ask the broker; see its `to` in the settings"
                    .into(),
            ),
            GrantError::Unidentified { .. } => Some(
                "grants with `service-account` or `labels` need a broker with [nri] in its settings, and `socket` under [broker] in those of the hook"
                    .into(),
            ),
            GrantError::Annotation { .. }
            | GrantError::Namespace { .. }
            | GrantError::ServiceAccount { .. }
            | GrantError::Label { .. } => {
                Some("the grant is for other containers; see its `to` in the settings".into())
            }
            GrantError::Contradiction { .. } => None,
            GrantError::Owner { .. } => Some("drop the annotation, or add owner = \"allow\" to the grant".into()),
        }
    }

    fn is_for_users(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_what_a_container_says_about_itself() {
        let found = Found::of(Value::Counts(&"\u{1b}".repeat(1000))).to_string();
        assert!(found.chars().all(|c| !c.is_control()) && found.ends_with("…\""), "{found}");
    }
}
