//! What outlives the broker: one file for each running container that it has delivered to, in a directory that only root can read.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{CWD, FlockOperation, Mode, OFlags, flock, openat};
use serde::Deserialize;

use super::super::error::PROGRAM;
use super::super::peer::start_time;
use super::super::protocol::{REQUEST_BYTES_MAX, is_start_id};
use super::error::LiveError;
use super::state::State;
use crate::container::Procfs;
use crate::excerpt::printable;
use crate::settings::file::{self, Kind};
use crate::whole_file::{self, INCOMPLETE};
use crate::{report, run_directory};

/// The largest state: what a request may contain, and its references twice more.
const STATE_BYTES_MAX: usize = 4 * REQUEST_BYTES_MAX;

/// The longest time that a state is being written.
const WRITE_TIME_MAX: Duration = Duration::from_secs(60);

/// The directory of the states.
#[derive(Clone)]
pub(super) struct Directory(PathBuf);

impl Directory {
    pub(super) fn new(path: &Path) -> Directory {
        Directory(path.to_owned())
    }

    /// All states that can be used. A file that another user could have written is none. What an interrupted write has left is removed, and
    /// whatever has another name than a state stays.
    pub(super) fn read(&self) -> Vec<State> {
        let Ok(entries) = fs::read_dir(&self.0) else { return Vec::new() };
        entries.filter_map(|entry| read(&entry.ok()?.path())).collect()
    }

    /// Waits until no other broker updates containers, and keeps them from it: two run for a while when one replaces the other.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(super) fn lock(&self) -> Result<OwnedFd, LiveError> {
        let locked = || {
            self.create()?;
            let directory = openat(CWD, &self.0, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
            flock(&directory, FlockOperation::LockExclusive)?;
            Ok(directory)
        };
        locked().map_err(|error: io::Error| LiveError::Write { path: self.0.clone(), errno: error.into() })
    }

    fn create(&self) -> io::Result<()> {
        if self.0.starts_with(run_directory::DIRECTORY) {
            run_directory::create()?;
        }
        DirBuilder::new().recursive(true).mode(0o700).create(&self.0)
    }

    /// Writes a state, in one step. It outlives the broker and not the container, so that starts wait for no disk.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(super) fn write(&self, state: &State) -> Result<(), LiveError> {
        let written = || {
            self.create()?;
            whole_file::replace_until_reboot(&self.0.join(&state.start), &serde_json::to_vec(state)?)
        };
        written().map_err(|error: io::Error| LiveError::Write { path: self.0.clone(), errno: error.into() })
    }

    /// Removes the state of a container that has ended.
    pub(super) fn remove(&self, start: &str) {
        let _ = fs::remove_file(self.0.join(start));
    }
}

/// Whether nothing writes a file any more: a start of another broker may.
fn is_abandoned(path: &Path) -> bool {
    let modified = fs::metadata(path).and_then(|metadata| metadata.modified());
    modified.is_ok_and(|at| at.elapsed().is_ok_and(|age| age > WRITE_TIME_MAX))
}

fn read(path: &Path) -> Option<State> {
    let name = path.file_name()?.to_str()?;
    if name.starts_with(INCOMPLETE) && is_abandoned(path) {
        let _ = fs::remove_file(path);
    }
    if !is_start_id(name) {
        return None;
    }
    let text = file::read(path, Kind::Plain, STATE_BYTES_MAX);
    let text = text.inspect_err(|error| report::warn(PROGRAM, &report::chain(error))).ok()?;
    let state = serde_json::from_slice(&text).ok().filter(|state: &State| state.start == name);
    if state.is_none() {
        match serde_json::from_slice::<OfAny>(&text) {
            // Another version can continue with it.
            Ok(other) if other.is_running() => report::warn(PROGRAM, &other.unknown()),
            _ => {
                report::warn(PROGRAM, &format!("{} is not the state of a container", path.display()));
                let _ = fs::remove_file(path);
            }
        }
    }
    state
}

/// What the states of all versions have.
#[derive(Deserialize)]
struct OfAny {
    container: String,
    pid: i32,
    start_time: String,
}

impl OfAny {
    fn is_running(&self) -> bool {
        self.pid > 0
            && Procfs::open().is_ok_and(|procfs| start_time(&procfs, self.pid).as_ref() == Some(&self.start_time))
    }

    fn unknown(&self) -> String {
        let container = printable(&self.container);
        format!(
            "container {container}: another version of the broker has written its state: this one neither updates it nor removes files from \
             it; restart the container"
        )
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// The first version had no removals.
    #[test]
    fn reads_the_state_that_an_earlier_version_has_written() {
        let directory = tempfile::tempdir().unwrap();
        let name = "0123456789abcdef";
        let state = r#"{"start":"0123456789abcdef","container":"c1","bundle":"/b","pid":1,"start_time":"7","generation":3,
            "asked":{"annotations":{"run.secrets/db":"op://v/i/f"},"image":{"annotations":{}},"uid":0,
                     "owner":{"uid":1,"gid":2},"root":null,"label":null},
            "since":"2026-05-04T10:00:00Z","delivery":{"device":5,"mount":6},"next":null,"error":null,"is_stuck":false,
            "readings":[{"reference":"op://v/i/f","item":"i","version":4}]}"#;
        let path = directory.path().join(name);
        fs::write(&path, state).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let [read] = Directory::new(directory.path()).read().try_into().unwrap_or_else(|_| panic!("it is not read"));
        assert_eq!((read.generation, read.readings[0].version, read.removed.len()), (3, Some(4), 0));
    }

    /// After a return to an earlier version, which must not forget what a later one can still remove.
    #[test]
    fn keeps_the_state_of_another_version_as_long_as_the_container_runs() {
        let directory = tempfile::tempdir().unwrap();
        let own = i32::try_from(std::process::id()).unwrap();
        let began = start_time(&Procfs::open().unwrap(), own).unwrap();
        for (name, start_time) in [("0123456789abcdef", began.as_str()), ("123456789abcdef0", "1")] {
            let state =
                serde_json::json!({ "start": name, "container": "c1", "pid": own, "start_time": start_time, "new": 1 });
            let path = directory.path().join(name);
            fs::write(&path, state.to_string()).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        }
        assert!(Directory::new(directory.path()).read().is_empty());
        let left: Vec<_> = fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["0123456789abcdef"]);
    }

    #[test]
    fn removes_only_files_of_its_own() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, mode: u32| {
            let path = directory.path().join(name);
            fs::write(&path, "{}").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        };
        let (state, writable) = ("0123456789abcdef", "123456789abcdef0");
        let incomplete = format!("{INCOMPLETE}1");
        for (name, mode) in [("settings.toml", 0o600), (state, 0o600), (writable, 0o666), (&incomplete, 0o600)] {
            write(name, mode);
        }
        let being_written = format!("{INCOMPLETE}2");
        write(&being_written, 0o600);
        let at = std::time::SystemTime::now() - 2 * WRITE_TIME_MAX;
        fs::File::open(directory.path().join(&incomplete)).unwrap().set_modified(at).unwrap();
        assert!(Directory::new(directory.path()).read().is_empty());
        let left = fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let left: std::collections::BTreeSet<_> = left.collect();
        assert_eq!(left, [being_written.as_str(), "settings.toml", writable].map(Into::into).into());
    }
}
