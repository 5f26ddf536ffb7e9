//! The age of a static token.
//!
//! A token of Connect says when it was issued, one of a service account does not; and every file was written at some time. Where both are
//! known the earlier counts: a copy, or `touch`, makes a file new and not the token, and the claims of a token are not verified here.
//! A user who may write to the file may set its time, so its age guards against forgetting, not against root.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::fault::{Class, Fault};
use crate::token::Origin;

/// How far clocks may be apart.
pub(in crate::token) const SKEW: SignedDuration = SignedDuration::from_secs(30);

/// The issue time of a token, if known.
pub fn earliest(said: Option<Timestamp>, written: Option<Timestamp>) -> Option<Timestamp> {
    [said, written].into_iter().flatten().min()
}

/// Whether a token may still be used.
///
/// # Errors
/// If it is older than that, or its age is unknown.
pub fn check(made: Option<Timestamp>, max_age: Option<Duration>, origin: &Origin) -> Result<(), OutdatedError> {
    let Some(max) = max_age else { return Ok(()) };
    let Some(made) = made else { return Err(OutdatedError::Unknown { origin: origin.clone() }) };
    let age = age(made);
    if age < -SKEW {
        return Err(OutdatedError::InFuture { origin: origin.clone(), made });
    }
    if Duration::try_from(age).is_ok_and(|age| age > max) {
        return Err(OutdatedError::TooOld { origin: origin.clone(), age, max });
    }
    Ok(())
}

/// How old something is by now.
pub fn age(made: Timestamp) -> SignedDuration {
    Timestamp::now().duration_since(made)
}

/// A duration as a person reads it, `31h 12m`: without what is below a minute, unless that is all.
pub fn rounded(duration: SignedDuration) -> String {
    let seconds = duration.as_secs();
    let shown = if seconds < 60 { seconds } else { seconds - seconds % 60 };
    format!("{:#}", SignedDuration::from_secs(shown))
}

/// Why a token is not used on account of its age.
#[derive(Clone, Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are named for what they hold")]
pub enum OutdatedError {
    /// It should have been changed by now.
    #[error("refusing to use the token of {origin}: it is {} old, expected at most {}", rounded(*age), rounded_max(*max))]
    TooOld { origin: Origin, age: SignedDuration, max: Duration },
    /// It would stay new for ever.
    #[error("refusing to use the token of {origin}: it is of {made:.0}, which is still to come")]
    InFuture { origin: Origin, made: Timestamp },
    /// It says nothing, and is in no file.
    #[error("refusing to use the token of {origin}: its age is unknown")]
    Unknown { origin: Origin },
}

impl Fault for OutdatedError {
    fn class(&self) -> Class {
        Class::NotPermitted
    }

    fn hint(&self) -> Option<String> {
        Some(self.hint_with("`op connect token create` makes one"))
    }
}

impl OutdatedError {
    /// The hint, with the command that makes a new token.
    pub fn hint_with(&self, command: &str) -> String {
        match self {
            OutdatedError::TooOld { origin, .. } => format!("put a new token into {origin}: {command}"),
            OutdatedError::InFuture { .. } => "the clock of this host, or of who wrote the file, is wrong".into(),
            OutdatedError::Unknown { .. } => {
                "put it into a file, whose modification time shows its age: `token-file` under [connect] or `service-account-token-file` under [op]"
                    .into()
            }
        }
    }
}

fn rounded_max(max: Duration) -> String {
    SignedDuration::try_from(max).map(rounded).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    fn ago(seconds: i64) -> Option<Timestamp> {
        Some(Timestamp::now() - SignedDuration::from_secs(seconds))
    }

    fn check_of(made: Option<Timestamp>) -> Result<(), String> {
        check(made, Some(DAY), &Origin::Static("/t".into())).map_err(|error| error.to_string())
    }

    #[test]
    fn the_earlier_of_two_times_counts() {
        let (before, after) = (ago(200), ago(100));
        assert_eq!(earliest(before, after), before);
        assert_eq!(earliest(after, before), before);
        assert_eq!((earliest(None, after), earliest(None, None)), (after, None));
    }

    #[test]
    fn a_token_is_used_until_its_age_is_reached() {
        assert_eq!(check_of(ago(24 * 60 * 60 - 60)), Ok(()));
        let old = "refusing to use the token of /t: it is 24h 1m old, expected at most 24h";
        assert_eq!(check_of(ago(24 * 60 * 60 + 61)), Err(old.into()));
    }

    #[test]
    fn one_of_an_age_that_cannot_be_is_not_used() {
        assert_eq!(check_of(ago(-20)), Ok(()), "clocks differ");
        assert!(check_of(ago(-60)).unwrap_err().ends_with(", which is still to come"));
        assert!(check_of(None).unwrap_err().ends_with("its age is unknown"));
        assert!(check(None, None, &Origin::Github).is_ok(), "no maximum age");
    }
}
