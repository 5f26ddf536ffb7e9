//! `[updates]`: how the files of running containers follow changes, and what is revoked.

use std::time::Duration;

use serde::{Deserialize, Deserializer};

use super::AbsolutePath;
use super::duration::duration;

const PERIOD: Duration = Duration::from_secs(60);

const PERIOD_MIN: Duration = Duration::from_secs(1);

const PERIOD_MAX: Duration = Duration::from_secs(24 * 60 * 60);

const DIRECTORY: &str = "/run/oci-secrets/containers";

const REVOKED: &str = "/var/lib/oci-secrets/revoked.json";

/// How the broker updates running containers.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Updates {
    /// How often the source is asked for changes.
    #[serde(deserialize_with = "period")]
    pub period: Duration,
    /// Where the broker keeps which containers it has delivered to.
    pub directory: AbsolutePath,
    /// Where the broker keeps what is revoked.
    pub revoked: AbsolutePath,
}

impl Default for Updates {
    fn default() -> Updates {
        Updates { period: PERIOD, directory: AbsolutePath(DIRECTORY.into()), revoked: AbsolutePath(REVOKED.into()) }
    }
}

fn period<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    duration(deserializer, PERIOD_MIN..=PERIOD_MAX, "expected a duration from \"1s\" to \"24h\"")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;

    #[test]
    fn changes_are_looked_for_within_bounds() {
        let updates = |text: &str| format!("[updates]\n{text}").parse::<Settings>().map(|settings| settings.updates);
        assert_eq!(updates("").unwrap(), Updates::default());
        assert_eq!(updates("period = \"1s\"").unwrap().period, PERIOD_MIN);
        for period in ["0s", "25h", "x"] {
            assert!(updates(&format!("period = {period:?}")).is_err(), "{period}");
        }
    }
}
