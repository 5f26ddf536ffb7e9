//! How the files of a container follow changes while it runs.

use std::collections::BTreeMap;

use rustix::process::Signal;

use super::key::{ON_UPDATE, UPDATE};
use crate::excerpt::Excerpt;

/// The value of `run.secrets.update`.
const LIVE: &str = "live";

/// How the value of `run.secrets.on-update` begins.
const SIGNAL: &str = "signal:";

/// The signals that an application may have a use for, by name.
const BY_NAME: [(&str, Signal); 9] = [
    ("ALRM", Signal::ALARM),
    ("CONT", Signal::CONT),
    ("HUP", Signal::HUP),
    ("INT", Signal::INT),
    ("QUIT", Signal::QUIT),
    ("TERM", Signal::TERM),
    ("USR1", Signal::USR1),
    ("USR2", Signal::USR2),
    ("WINCH", Signal::WINCH),
];

/// Their names, for messages.
const SIGNALS: &str = "ALRM, CONT, HUP, INT, QUIT, TERM, USR1, USR2, WINCH";

/// The files follow changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Update {
    /// What is sent to the container's first process afterwards.
    pub signal: Option<Signal>,
}

impl Update {
    /// Whether annotations request it, in whatever form.
    pub fn is_requested(annotations: &BTreeMap<String, String>) -> bool {
        annotations.contains_key(UPDATE)
    }

    /// Parses the values of both annotations.
    pub(super) fn parse(update: Option<&str>, on_update: Option<&str>) -> Result<Option<Update>, UpdateError> {
        match (update, on_update) {
            (None, None) => Ok(None),
            (None, Some(_)) => Err(UpdateError::NoUpdate),
            (Some(LIVE), None) => Ok(Some(Update { signal: None })),
            (Some(LIVE), Some(text)) => {
                let signal = signal(text).ok_or_else(|| UpdateError::OnUpdate { value: text.to_owned() })?;
                Ok(Some(Update { signal: Some(signal) }))
            }
            (Some(other), _) => Err(UpdateError::Update { value: other.to_owned() }),
        }
    }
}

fn signal(text: &str) -> Option<Signal> {
    let name = text.strip_prefix(SIGNAL)?;
    BY_NAME.into_iter().find_map(|(known, signal)| (known == name).then_some(signal))
}

/// Why the annotations cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "fields are named for what they hold")]
pub enum UpdateError {
    /// Another value than the one that there is.
    #[error("cannot use annotation \"{UPDATE}\": expected {LIVE}, found {}", Excerpt(.value))]
    Update { value: String },
    /// Something else than a signal.
    #[error("cannot use annotation \"{ON_UPDATE}\": expected {SIGNAL} and one of {SIGNALS}, found {}", Excerpt(.value))]
    OnUpdate { value: String },
    /// There will be no update.
    #[error("cannot use annotation \"{ON_UPDATE}\": there are no updates without {UPDATE}={LIVE}")]
    NoUpdate,
}

impl UpdateError {
    /// The annotation that is wrong.
    pub(super) fn key(&self) -> &'static str {
        match self {
            UpdateError::Update { .. } => UPDATE,
            UpdateError::OnUpdate { .. } | UpdateError::NoUpdate => ON_UPDATE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_what_is_listed_and_nothing_else() {
        assert_eq!(SIGNALS, BY_NAME.map(|(name, _)| name).join(", "));
        assert_eq!(Update::parse(None, None), Ok(None));
        assert_eq!(Update::parse(Some("live"), None), Ok(Some(Update { signal: None })));
        let signal = Some(Signal::HUP);
        assert_eq!(Update::parse(Some("live"), Some("signal:HUP")), Ok(Some(Update { signal })));
        for value in ["", "Live", "yes", "live "] {
            assert_eq!(Update::parse(Some(value), None), Err(UpdateError::Update { value: value.into() }));
        }
        for value in ["", "HUP", "signal:SIGHUP", "signal:KILL", "signal:hup", "signal:1", "exec:/bin/true"] {
            assert_eq!(Update::parse(Some("live"), Some(value)), Err(UpdateError::OnUpdate { value: value.into() }));
        }
        assert_eq!(Update::parse(None, Some("signal:HUP")), Err(UpdateError::NoUpdate));
    }
}
