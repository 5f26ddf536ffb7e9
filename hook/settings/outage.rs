//! `[outage]`: whether containers start with sealed values that were fetched earlier while the source does not answer.

use std::time::Duration;

use serde::{Deserialize, Deserializer};

use super::AbsolutePath;
use super::duration::duration;

const DIRECTORY: &str = "/var/lib/oci-secrets/sealed";

const SEALED_VALUES_FOR_MIN: Duration = Duration::from_secs(60);

const SEALED_VALUES_FOR_MAX: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// What the broker does while the source does not answer.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Outage {
    /// For how long a sealed value may be used after it was fetched; off if absent.
    #[serde(deserialize_with = "sealed_values_for")]
    pub sealed_values_for: Option<Duration>,
    /// Where they are stored.
    pub directory: AbsolutePath,
}

impl Default for Outage {
    fn default() -> Outage {
        Outage { sealed_values_for: None, directory: AbsolutePath(DIRECTORY.into()) }
    }
}

fn sealed_values_for<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let bounds = SEALED_VALUES_FOR_MIN..=SEALED_VALUES_FOR_MAX;
    duration(deserializer, bounds, "expected a duration from \"1m\" to \"168h\"").map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;

    fn parse(text: &str) -> Result<Outage, String> {
        let settings = format!("[outage]\n{text}").parse::<Settings>();
        settings.map(|settings| settings.outage).map_err(|error| error.to_string())
    }

    #[test]
    fn is_off_unless_a_duration_is_set() {
        assert_eq!(parse("").unwrap(), Outage::default());
        assert_eq!(Settings::default().outage.sealed_values_for, None);
        let set = parse("sealed-values-for = '12h'").unwrap().sealed_values_for;
        assert_eq!(set, Some(Duration::from_secs(12 * 60 * 60)));
        for text in ["0s", "59s", "169h", "soon"] {
            let refusal = parse(&format!("sealed-values-for = {text:?}")).unwrap_err();
            assert!(refusal.contains("expected a duration from \"1m\" to \"168h\""), "{text}: {refusal}");
        }
        assert!(parse("directory = 'sealed'").is_err());
    }
}
