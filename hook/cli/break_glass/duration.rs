//! Durations on the command line.

use std::time::Duration;

use crate::break_glass::BreakGlassError;

/// A duration as `4h` or `90d`.
pub(super) fn duration(text: &str, max_hours: i64, max: &'static str) -> Result<Duration, BreakGlassError> {
    let wrong = || BreakGlassError::Duration { found: text.to_owned(), max };
    let span: jiff::Span = text.parse().map_err(|_| wrong())?;
    let duration = span.to_duration(jiff::SpanRelativeTo::days_are_24_hours()).map_err(|_| wrong())?;
    let range = jiff::SignedDuration::from_secs(1)..=jiff::SignedDuration::from_hours(max_hours);
    if range.contains(&duration) { Duration::try_from(duration).map_err(|_| wrong()) } else { Err(wrong()) }
}
