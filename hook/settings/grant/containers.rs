//! `to`: the containers that a grant is for.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::settings::Pattern;

/// The containers of a grant: all of root's, or those of a user, of a namespace and with all of these annotations.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Restriction")]
pub(super) struct Containers {
    pub(super) user: Option<String>,
    pub(super) namespace: Option<Pattern>,
    pub(super) annotations: BTreeMap<String, Pattern>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Restriction {
    user: Option<String>,
    namespace: Option<Pattern>,
    #[serde(default)]
    annotations: BTreeMap<String, Pattern>,
}

/// An empty `to` looks like a restriction and would be none.
impl TryFrom<Restriction> for Containers {
    type Error = NoRestriction;

    fn try_from(Restriction { user, namespace, annotations }: Restriction) -> Result<Containers, NoRestriction> {
        match user.is_none() && namespace.is_none() && annotations.is_empty() {
            true => Err(NoRestriction),
            false => Ok(Containers { user, namespace, annotations }),
        }
    }
}

/// A `to` without any condition.
#[derive(Debug, thiserror::Error)]
#[error("\"to\" has neither `user` nor `namespace` nor `annotations`; a grant to every container has no \"to\"")]
pub(super) struct NoRestriction;
