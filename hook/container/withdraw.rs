//! How long a container keeps its files.

use std::ops::RangeInclusive;
use std::time::Duration;

use jiff::SignedDuration;

/// From one second to a week.
const BOUNDS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(7 * 24 * 60 * 60);

/// Parses the value of `run.secrets.withdraw`.
pub(super) fn parse(text: &str) -> Option<Duration> {
    let duration = Duration::try_from(text.parse::<SignedDuration>().ok()?).ok()?;
    BOUNDS.contains(&duration).then_some(duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_a_duration_within_bounds() {
        for (text, seconds) in [("1s", 1), ("60s", 60), ("1m30s", 90), ("168h", 604_800)] {
            assert_eq!(parse(text), Some(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "60", "0s", "999ms", "169h", "-60s", "soon", "signal:HUP"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
