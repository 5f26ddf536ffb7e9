//! Durations within bounds.

use std::ops::RangeInclusive;
use std::time::Duration;

use serde::Deserializer;
use serde::de::{self, Deserialize as _};

/// How long everything may take, unless the settings say otherwise.
pub const DEADLINE: Duration = Duration::from_secs(10);

const DEADLINE_MIN: Duration = Duration::from_millis(100);

const DEADLINE_MAX: Duration = Duration::from_secs(120);

pub(super) fn deadline<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    duration(deserializer, DEADLINE_MIN..=DEADLINE_MAX, "expected a duration from \"100ms\" to \"2m\"")
}

/// Parses a duration within bounds; `expected` is the message if it is not.
///
/// # Errors
/// If it is no duration or out of bounds.
pub fn duration<'de, D: Deserializer<'de>>(
    deserializer: D,
    bounds: RangeInclusive<Duration>,
    expected: &str,
) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse::<jiff::SignedDuration>()
        .ok()
        .and_then(|duration| Duration::try_from(duration).ok())
        .filter(|duration| bounds.contains(duration))
        .ok_or_else(|| de::Error::custom(expected))
}
