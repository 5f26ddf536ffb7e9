//! `to`: the containers that a grant is for.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::settings::Pattern;

/// The containers of a grant: all of root's, or those of a user, of a namespace and with all of these annotations, or those of pods with
/// this identity.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Restriction")]
pub(super) struct Containers {
    pub(super) user: Option<String>,
    pub(super) namespace: Option<Pattern>,
    pub(super) service_account: Option<Pattern>,
    pub(super) labels: BTreeMap<String, Pattern>,
    pub(super) annotations: BTreeMap<String, Pattern>,
}

impl Containers {
    /// Whether the pod must be known from the runtime, and its annotations do not count as its namespace.
    pub(super) fn is_identity(&self) -> bool {
        self.service_account.is_some() || !self.labels.is_empty()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Restriction {
    user: Option<String>,
    namespace: Option<Pattern>,
    service_account: Option<Pattern>,
    #[serde(default)]
    labels: BTreeMap<String, Pattern>,
    #[serde(default)]
    annotations: BTreeMap<String, Pattern>,
}

impl TryFrom<Restriction> for Containers {
    type Error = RestrictionError;

    fn try_from(restriction: Restriction) -> Result<Containers, RestrictionError> {
        let Restriction { user, namespace, service_account, labels, annotations } = restriction;
        let containers = Containers { user, namespace, service_account, labels, annotations };
        match &containers {
            empty if *empty == Containers::default() => Err(RestrictionError::Empty),
            identity if identity.is_identity() && identity.namespace.is_none() => Err(RestrictionError::NoNamespace),
            identity if identity.is_identity() && identity.user.is_some() => Err(RestrictionError::User),
            _ => Ok(containers),
        }
    }
}

/// A `to` that does not say which containers a grant is for.
#[derive(Debug, thiserror::Error)]
pub(super) enum RestrictionError {
    /// It looks like a restriction, and would be none.
    #[error(
        "\"to\" has none of `user`, `namespace`, `service-account`, `labels` and `annotations`; a grant to every container has no \"to\""
    )]
    Empty,
    /// Anyone can choose the name of a service account, or labels, in a namespace of their own.
    #[error("`service-account` and `labels` in \"to\" need `namespace` next to them")]
    NoNamespace,
    /// A user other than root chooses the id of a container, by which the pod is found.
    #[error("`service-account` and `labels` in \"to\" are for pods, which are not those of a `user`")]
    User,
}

#[cfg(test)]
mod tests {
    #[test]
    fn refuses_a_restriction_that_restricts_nothing() {
        let refusal = |to: &str| {
            let text = format!("[[grant]]\nreferences = ['op://Agents/*']\nto = {to}");
            text.parse::<crate::settings::Settings>().unwrap_err().to_string()
        };
        for nothing in ["{ annotations = {} }", "{}"] {
            assert!(
                refusal(nothing).contains("\"to\" has none of `user`, `namespace`, `service-account`"),
                "{nothing}"
            );
        }
        assert!(refusal("{ namespaces = 'a' }").contains("unknown field"));
        for alone in ["{ service-account = 'billing' }", "{ labels = { app = 'billing' } }"] {
            assert!(refusal(alone).contains("need `namespace` next to them"), "{alone}");
        }
        let user = "{ user = 'alice', namespace = 'agents', service-account = 'billing' }";
        assert!(refusal(user).contains("not those of a `user`"));
    }
}
