//! The state: the JSON that a runtime writes to a hook's standard input.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Pid;
use serde::Deserialize;

use super::null_is_empty;
use crate::json;

use crate::fault::{Class, Fault};

/// The longest state that is read, in bytes.
pub const STATE_BYTES_MAX: u64 = 4 << 20;

/// The size, in bytes, of the first buffer, which most states fit in.
const STATE_BYTES_USUAL: usize = 8 * 1024;

/// The timeout for the whole state. crun and youki start a hook's own timeout only after they have written it.
pub const STATE_DEADLINE: Duration = Duration::from_secs(5);

/// What a runtime writes about the container that it is creating.
///
/// Only four fields are read, because runtimes disagree about others: crun's `ociVersion` is not a version, and its `status` not
/// always one of the specification's. A missing field is an error only when it is used: a container without requests starts
/// whatever its state lacks.
///
/// See the [runtime specification](https://github.com/opencontainers/runtime-spec/blob/main/runtime.md#state).
#[derive(Debug, Deserialize)]
pub struct State {
    #[serde(default, deserialize_with = "null_is_empty")]
    id: String,
    pid: Option<i32>,
    #[serde(default, deserialize_with = "null_is_empty")]
    bundle: PathBuf,
    #[serde(default, deserialize_with = "null_is_empty")]
    annotations: BTreeMap<String, String>,
}

impl State {
    /// Reads the state from a pipe, for at most [`STATE_DEADLINE`].
    ///
    /// # Errors
    /// As [`State::read`], and when the input has not ended by then.
    pub fn receive(pipe: impl AsFd) -> Result<State, StateError> {
        State::read(TimedReader { pipe: pipe.as_fd(), deadline: Instant::now() + STATE_DEADLINE })
    }

    /// Reads the state to the end of the input, at most [`STATE_BYTES_MAX`] bytes.
    ///
    /// # Errors
    /// When the input cannot be read, is longer, or is not a state.
    pub fn read(input: impl Read) -> Result<State, StateError> {
        let mut text = Vec::with_capacity(STATE_BYTES_USUAL);
        input.take(STATE_BYTES_MAX + 1).read_to_end(&mut text).map_err(|source| match source.kind() {
            ErrorKind::TimedOut => StateError::Late,
            _ => StateError::Read { source },
        })?;
        if text.len() as u64 > STATE_BYTES_MAX {
            return Err(StateError::TooLong);
        }
        json::from_slice(&text).map_err(|source| StateError::Json { source })
    }

    /// The container's id.
    ///
    /// # Errors
    /// When the state has none.
    pub fn id(&self) -> Result<&str, StateError> {
        Some(self.id.as_str()).filter(|id| !id.is_empty()).ok_or(StateError::NoId)
    }

    /// The container's first process, in the process namespace of the runtime.
    ///
    /// # Errors
    /// When the state names none, or 0 as crun does in `createContainer` hooks.
    pub fn pid(&self) -> Result<Pid, StateError> {
        self.pid.filter(|pid| *pid > 0).and_then(Pid::from_raw).ok_or(StateError::NoPid)
    }

    /// The absolute path of the directory that holds the container's `config.json`.
    ///
    /// # Errors
    /// When the state names none, or a relative one, which no two runtimes would resolve alike.
    pub fn bundle(&self) -> Result<&Path, StateError> {
        match self.bundle.as_path() {
            bundle if bundle.as_os_str().is_empty() => Err(StateError::NoBundle),
            bundle if bundle.is_relative() => Err(StateError::RelativeBundle),
            bundle => Ok(bundle),
        }
    }

    /// The annotations of the container and, in Kubernetes, of its pod.
    pub fn annotations(&self) -> &BTreeMap<String, String> {
        &self.annotations
    }
}

/// A pipe that is read until a deadline.
struct TimedReader<'p> {
    pipe: BorrowedFd<'p>,
    deadline: Instant,
}

impl Read for TimedReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(&self.pipe, PollFlags::IN)], Some(&left))? {
            0 => Err(ErrorKind::TimedOut.into()),
            _ => Ok(rustix::io::read(self.pipe, buffer)?),
        }
    }
}

/// Why a state cannot be used.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are named for what they hold")]
pub enum StateError {
    /// Standard input failed.
    #[error("cannot read the state")]
    Read { source: io::Error },
    /// The input has not come to its end.
    #[error("cannot read the state: it has no end after {} s", STATE_DEADLINE.as_secs())]
    Late,
    /// More input than any container's state has.
    #[error("cannot read the state: longer than {} MiB", STATE_BYTES_MAX >> 20)]
    TooLong,
    /// Not JSON that every runtime reads alike, or a field of another type than the specification's.
    #[error("cannot parse the state")]
    Json { source: serde_json::Error },
    /// `id` is missing or empty.
    #[error("the state has no id")]
    NoId,
    /// `pid` is missing or not positive.
    #[error("the state has no pid")]
    NoPid,
    /// `bundle` is missing or empty.
    #[error("the state has no bundle")]
    NoBundle,
    /// `bundle` does not begin with `/`.
    #[error("the state's bundle is not an absolute path")]
    RelativeBundle,
}

impl Fault for StateError {
    fn class(&self) -> Class {
        Class::Data
    }

    fn hint(&self) -> Option<String> {
        matches!(self, StateError::NoPid).then(|| {
            "runc, crun and youki from 0.6 pass the pid to a createRuntime hook: use no other stage, and no older youki".into()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn state(json: &str) -> State {
        State::read(json.as_bytes()).unwrap()
    }

    /// They are what each runtime gave to a `createRuntime` hook; only pids and ids were changed, and the paths of bundles.
    #[test]
    fn reads_the_state_of_every_runtime() {
        const ID: &str = "4f2a9c1b77de00114f2a9c1b77de00114f2a9c1b77de00114f2a9c1b77de0011";
        let states = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/states");
        let files: Vec<PathBuf> = states.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(files.len() > 10);
        for file in files {
            let state = State::read(std::fs::File::open(&file).unwrap()).unwrap();
            assert!(["database", ID].contains(&state.id().unwrap()), "{file:?}");
            assert_eq!(state.pid().unwrap().as_raw_nonzero().get(), 4711, "{file:?}");
            let bundle = state.bundle().unwrap().to_str().unwrap();
            assert!(bundle.contains(state.id().unwrap()), "{file:?}");
            assert_eq!(state.annotations()["run.secrets/db"], "op://AgentVault/database/password", "{file:?}");
        }
    }

    #[test]
    fn misses_a_field_only_when_it_is_asked_for() {
        let bare = state(r#"{"annotations":null}"#);
        assert!(bare.annotations().is_empty());
        assert!(matches!(bare.id(), Err(StateError::NoId)));
        assert!(matches!(bare.pid(), Err(StateError::NoPid)));
        assert!(matches!(bare.bundle(), Err(StateError::NoBundle)));
        assert!(matches!(state(r#"{"pid":0}"#).pid(), Err(StateError::NoPid)));
        assert!(matches!(state(r#"{"pid":-1}"#).pid(), Err(StateError::NoPid)));
        assert!(matches!(state(r#"{"bundle":"b/c"}"#).bundle(), Err(StateError::RelativeBundle)));
    }

    #[test]
    fn refuses_endless_input() {
        assert!(matches!(State::read(io::repeat(b' ')), Err(StateError::TooLong)));
        let zeros = std::fs::File::open("/dev/zero").unwrap();
        assert!(matches!(State::receive(zeros), Err(StateError::TooLong)));
    }

    #[test]
    fn reads_a_pipe_until_it_is_closed_or_too_late() {
        let (reader, mut writer) = io::pipe().unwrap();
        let begin = Instant::now();
        let state = std::thread::spawn(move || State::receive(reader));
        writer.write_all(br#"{"id":"c"}"#).unwrap();
        assert!(matches!(state.join().unwrap(), Err(StateError::Late)));
        assert!(begin.elapsed() >= STATE_DEADLINE);

        let (reader, mut writer) = io::pipe().unwrap();
        writer.write_all(br#"{"id":"c"}"#).unwrap();
        drop(writer);
        assert_eq!(State::receive(reader).unwrap().id().unwrap(), "c");
    }

    #[test]
    fn refuses_what_is_not_a_state() {
        for json in ["", "[]", "{", r#"{"annotations":{"k":1}}"#, "{} {}"] {
            assert!(matches!(State::read(json.as_bytes()), Err(StateError::Json { .. })), "{json}");
        }
    }

    #[test]
    fn refuses_a_state_that_parsers_read_in_different_ways() {
        for json in [
            r#"{"annotations":{"run.secrets/a":"op://v/i/f"},"annotations":{}}"#,
            r#"{"Annotations":{"run.secrets/a":"op://v/i/f"}}"#,
            r#"{"annotations":{"run.secrets/a":"op://v/i/f","run.secrets/a":"op://v/i/g"}}"#,
            r#"{"id":"a","ID":"b"}"#,
            r#"{"PID":1}"#,
            r#"{"bundle":"/a","bundle":"/b"}"#,
            r#"{"extra":{"a":1,"a":2}}"#,
        ] {
            assert!(matches!(State::read(json.as_bytes()), Err(StateError::Json { .. })), "{json}");
        }
        assert_eq!(state(r#"{"annotations":{"Team":"a","team":"b"}}"#).annotations().len(), 2);
    }
}
