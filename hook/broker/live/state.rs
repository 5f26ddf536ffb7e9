//! What outlives the broker: one file for each running container that it has delivered to, in a directory that only root can read. No file
//! holds a secret.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use rustix::fs::{CWD, FlockOperation, Mode, OFlags, flock, openat};
use rustix::process::Signal;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use super::super::error::PROGRAM;
use super::super::peer::start_time;
use super::super::protocol::{Ids, Image, REQUEST_BYTES_MAX, Selection, is_start_id};
use super::super::revoked::{Revocations, RevokedError, Value};
use super::error::LiveError;
use crate::audit::Record;
use crate::container::{Annotations, Owner, Process, ProcessError, Procfs, Request, Requests, Update};
use crate::deliver::DeliveryId;
use crate::excerpt::printable;
use crate::reference::Reference;
use crate::resolve::Resolved;
use crate::settings::file::{self, Kind};
use crate::whole_file::{self, Existing, INCOMPLETE};
use crate::{report, run_directory};

/// The largest state: what a request may contain, and its references twice more.
const STATE_BYTES_MAX: usize = 4 * REQUEST_BYTES_MAX;

/// The longest time that a state is being written.
const WRITE_TIME_MAX: Duration = Duration::from_secs(60);

/// A running container: what it has requested, and which set of files it has.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// The id of its start.
    pub start: String,
    /// Its id.
    pub container: String,
    pub(super) bundle: PathBuf,
    pub(super) asked: Asked,
    /// The number of its first process, and when that began.
    pub(super) pid: i32,
    pub(super) start_time: String,
    pub(super) generation: u64,
    pub(super) since: Timestamp,
    pub(super) delivery: DeliveryId,
    pub(super) readings: Vec<Reading>,
    /// What is being put in the place of the delivery.
    pub(super) next: Option<Next>,
    /// Why the last update failed.
    pub(super) error: Option<String>,
    /// Whether the kernel cannot update it.
    pub(super) is_stuck: bool,
    /// The references whose files were removed.
    #[serde(default)]
    pub(super) removed: BTreeSet<String>,
    /// When all files are removed, since the host was booted.
    #[serde(default)]
    pub(super) withdraw_at: Option<Duration>,
    /// Whether that was done.
    #[serde(default)]
    pub(super) is_withdrawn: bool,
}

/// What a container has asked for at its start.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
    /// Those of its image.
    pub image: Image,
    /// The user who has started it.
    pub uid: u32,
    /// The owner of its files, in ids of the host.
    #[serde(with = "owner")]
    pub owner: Owner,
    /// The owner of its directories.
    #[serde(with = "root")]
    pub root: Option<Owner>,
    /// The SELinux context.
    pub label: Option<String>,
}

/// One reference, and which field of which item it was read from. A missing optional one has no item.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reading {
    pub(super) reference: String,
    pub(super) item: Option<String>,
    #[serde(default)]
    pub(super) field: Option<String>,
    pub(super) version: Option<u64>,
}

/// A set of files that is being put in the place of another.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Next {
    pub(super) delivery: DeliveryId,
    pub(super) readings: Vec<Reading>,
    #[serde(default)]
    pub(super) removed: BTreeSet<String>,
}

impl State {
    /// The state of a container that was started.
    ///
    /// # Errors
    /// `/proc` does not say when its process began.
    pub fn new(
        record: &Record,
        asked: Asked,
        process: &Process,
        delivery: DeliveryId,
        readings: Vec<Reading>,
        withdraw: Option<Duration>,
    ) -> Result<State, LiveError> {
        let (pid, start_time) = number_and_start_time(process.pidfd())?;
        Ok(State {
            start: record.start.clone(),
            container: record.container.clone(),
            bundle: record.bundle.clone(),
            asked,
            pid,
            start_time,
            generation: 1,
            since: Timestamp::now(),
            delivery,
            readings,
            next: None,
            error: None,
            is_stuck: false,
            removed: BTreeSet::new(),
            withdraw_at: withdraw.map(|after| since_boot() + after),
            is_withdrawn: false,
        })
    }

    /// Whether its files follow changes.
    pub(super) fn is_live(&self) -> bool {
        Update::is_requested(&self.asked.annotations) && !self.is_withdrawn
    }

    /// What it requests.
    pub(super) fn requests(&self) -> Option<Requests> {
        Requests::from_annotations(&Annotations::new(self.asked.annotations.clone())).ok().flatten()
    }

    /// The time until all files are removed, if they are to be.
    pub(super) fn withdrawn_in(&self) -> Option<Duration> {
        let at = self.withdraw_at.filter(|_| !self.is_withdrawn)?;
        Some(at.saturating_sub(since_boot()))
    }

    /// The references that it has and that are revoked.
    pub(super) fn revoked(&self, revocations: &Revocations) -> BTreeSet<String> {
        let of_container = revocations.check_container(&self.container).is_err();
        // Where the source says which item it was, one without is missing.
        let says_items = self.readings.iter().any(|one| one.item.is_some());
        let had = self.readings.iter().filter(|one| one.item.is_some() || !says_items);
        let revoked = had.filter(|one| of_container || revocations.of(one.value()).is_some());
        revoked.map(|reading| reading.reference.clone()).collect()
    }

    /// Refuses a container that has what is revoked.
    ///
    /// # Errors
    /// It has.
    pub(super) fn check(&self, revocations: &Revocations) -> Result<(), RevokedError> {
        revocations.check_container(&self.container)?;
        self.readings.iter().filter(|one| one.item.is_some()).try_for_each(|one| revocations.check(one.value()))
    }

    /// Puts the next set of files in the place of the current one.
    pub(super) fn advance(&mut self, next: Next) {
        (self.delivery, self.readings, self.removed) = (next.delivery, next.readings, next.removed);
        (self.generation, self.since) = (self.generation + 1, Timestamp::now());
        (self.next, self.error) = (None, None);
    }

    /// The signal that its annotations request after an update.
    pub(super) fn signal(&self) -> Option<Signal> {
        self.requests()?.update?.signal
    }

    /// Whether it is selected.
    pub(super) fn is_in(&self, selection: &Selection) -> bool {
        let has = |reference: &String| self.readings.iter().any(|reading| reading.reference == *reference);
        selection.container.as_ref().is_none_or(|prefix| self.container.starts_with(prefix))
            && selection.reference.as_ref().is_none_or(has)
            && (!selection.live || self.is_live())
    }
}

impl Reading {
    /// The reference.
    pub(super) fn reference(&self) -> Option<Reference> {
        self.reference.parse().ok()
    }

    /// The value that it was, to a revocation.
    pub(super) fn value(&self) -> Value<'_> {
        Value {
            reference: &self.reference,
            item: self.item.as_deref(),
            field: self.field.as_deref(),
            version: self.version,
            is_of_source: true,
        }
    }
}

/// Which items the references of these requests were read from.
pub fn readings(requests: &[Request], resolved: &[Resolved<'_>]) -> Vec<Reading> {
    let mut readings: BTreeMap<&str, Reading> = BTreeMap::new();
    for request in requests {
        let reference = request.reference.as_str();
        let found = resolved.iter().find(|resolved| resolved.request.reference == request.reference);
        let reading = Reading {
            reference: reference.to_owned(),
            item: found.and_then(|one| one.item_id.clone()),
            field: found.and_then(|one| one.field_id.clone()),
            version: found.and_then(|one| one.item_version),
        };
        readings.insert(reference, reading);
    }
    readings.into_values().collect()
}

/// The time since the host was booted, which no clock that is set changes.
fn since_boot() -> Duration {
    Duration::try_from(clock_gettime(ClockId::Boottime)).unwrap_or_default()
}

/// The number of a process, and when it began.
fn number_and_start_time(pidfd: impl AsFd) -> Result<(i32, String), LiveError> {
    let procfs = Procfs::open()?;
    let pid = procfs.pid(pidfd)?.filter(|pid| *pid > 0).ok_or(ProcessError::Gone)?;
    Ok((pid, start_time(&procfs, pid).ok_or(ProcessError::Gone)?))
}

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

    /// Writes a state, in one step.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(super) fn write(&self, state: &State) -> Result<(), LiveError> {
        let written = || {
            self.create()?;
            whole_file::write(&self.0.join(&state.start), &serde_json::to_vec(state)?, Existing::Replace, |_| Ok(()))
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

/// An owner, as its ids.
mod owner {
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    use super::{Ids, Owner};

    pub(super) fn serialize<S: Serializer>(owner: &Owner, serializer: S) -> Result<S::Ok, S::Error> {
        Ids::from(*owner).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Owner, D::Error> {
        Ids::deserialize(deserializer).map(Owner::from)
    }
}

/// An owner that may be absent.
mod root {
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    use super::{Ids, Owner};

    pub(super) fn serialize<S: Serializer>(owner: &Option<Owner>, serializer: S) -> Result<S::Ok, S::Error> {
        owner.map(Ids::from).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Owner>, D::Error> {
        Ok(Option::<Ids>::deserialize(deserializer)?.map(Owner::from))
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
