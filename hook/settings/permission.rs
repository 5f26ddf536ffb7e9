//! What an operator must allow.

use serde::Deserialize;

/// Whether something that is refused by default is allowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Permission {
    /// It is refused.
    #[default]
    Refuse,
    /// It is allowed.
    Allow,
}
