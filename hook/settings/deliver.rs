//! `[deliver]`: how secrets reach the container.

use std::time::Duration;

use serde::Deserialize;

use super::{DEADLINE, Permission, duration};

/// How secrets reach the container.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Deliver {
    /// The deadline of a start, network included; from 100 ms to 2 min.
    #[serde(deserialize_with = "duration::deadline")]
    pub deadline: Duration,
    /// Whether a value that is not sealed may be delivered.
    pub plaintext: Permission,
    /// Whether a kernel without `noswap` is accepted.
    pub noswap: Noswap,
    /// Whether annotations that the container's image has, too, count.
    #[serde(rename = "image-annotations")]
    pub image_annotations: Permission,
}

impl Default for Deliver {
    fn default() -> Deliver {
        Deliver {
            deadline: DEADLINE,
            plaintext: Permission::Refuse,
            noswap: Noswap::Prefer,
            image_annotations: Permission::Refuse,
        }
    }
}

/// What to do before Linux 6.4, where a tmpfs can be swapped out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Noswap {
    /// Deliver without it.
    #[default]
    Prefer,
    /// Deliver nothing.
    Require,
}
