//! What the broker knows of a running container that it has delivered to. It holds no secret.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use rustix::process::Signal;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use super::super::peer::start_time;
use super::super::protocol::{Ids, Image, Selection};
use super::super::revoked::{Revocations, RevokedError, Value};
use super::error::LiveError;
use crate::audit::Record;
use crate::container::{Annotations, Owner, Process, ProcessError, Procfs, Request, Requests, Update};
use crate::deliver::DeliveryId;
use crate::reference::Reference;
use crate::resolve::Resolved;

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
    pub fn check(&self, revocations: &Revocations) -> Result<(), RevokedError> {
        revocations.check_container(&self.container)?;
        self.readings.iter().filter(|one| one.item.is_some()).try_for_each(|one| revocations.check(one.value()))
    }

    /// Whether another broker has changed the container since it was in this one's state.
    pub(super) fn supersedes(&self, own: &State) -> bool {
        self.generation > own.generation || (self.generation == own.generation && self.next.is_some())
    }

    /// Ends an update that was interrupted, by whether its set of files is in place. Returns whether the container has other files by it.
    pub(super) fn settle(&mut self, is_in_place: bool) -> bool {
        let next = self.next.take().filter(|_| is_in_place);
        let has_changed = next.is_some();
        next.into_iter().for_each(|next| self.advance(next));
        has_changed
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
