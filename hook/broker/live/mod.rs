//! Updates of running containers.
//!
//! ```text
//! start ── register ──► running ◄── poll: one list of each vault ──► update: decide ─► resolve ─► fill ─► record ─► replace ─► signal
//!                         state                 refresh ──────────────┘
//! ```
//!
//! | module | what it does |
//! |---|---|
//! | `state` | what outlives the broker: which container has which set of files, without a secret |
//! | `running` | one container: its process, its state |
//! | `poll` | which containers have other items than 1Password |
//! | `update` | the story of one update |
//!
//! The kernel's part is [`Frozen::replace`](crate::deliver::Frozen::replace).

mod error;
mod poll;
mod running;
mod state;
pub mod summary;
mod update;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::time::Duration;

use futures_util::future::{Either, select};
use futures_util::stream::{StreamExt as _, iter};
use tokio::sync::{Mutex, MutexGuard, Notify};
use tokio::task::spawn_local;
use tokio::time::sleep;

use super::blocking::blocking;
use super::error::PROGRAM;
use super::loaded::Loaded;
use super::protocol::{Answer, RUNNING_MAX, Selection};
use super::source::Sample;
use crate::container::Process;
use crate::deliver::{UnsupportedError, require_replace};
use crate::fault::{AnyFault, Class, Fault};
use crate::report;
use crate::settings::{Settings, SourceName};
use crate::source;

use self::running::Running;
use self::state::Directory;
use self::update::Outcome;

pub use self::error::LiveError;
pub use self::state::{Asked, State, readings};

/// How many containers are updated at the same time.
const UPDATES_MAX: usize = 8;

/// The share of the period by which a poll is early, so that the hosts of a pool do not poll together.
const JITTER: f64 = 0.2;

/// How long a container that has ended leaves its state.
const ENDED_PERIOD: Duration = Duration::from_secs(1);

/// The running containers that are updated.
pub struct Live {
    directory: Directory,
    running: RefCell<BTreeMap<String, Rc<Running>>>,
    /// Held while containers are updated, here and in other generations of the settings.
    turn: Mutex<()>,
    counts: [Cell<u64>; 3],
    /// Polls of vaults that failed.
    failed_polls: Cell<u64>,
}

/// The right to update containers, until it is dropped.
struct Turn<'a> {
    _here: MutexGuard<'a, ()>,
    _lock: OwnedFd,
}

/// Checks that a host can update the container that is being started.
///
/// # Errors
/// The kernel is too old, or the source reports no versions.
pub fn require(settings: &Settings, carries: bool) -> Result<(), AnyFault> {
    if source::chosen(settings)? == SourceName::Op {
        return Err(NoVersions.into());
    }
    Ok(require_replace(carries)?)
}

/// The source does not list versions.
#[derive(Debug, thiserror::Error)]
#[error("refusing to deliver files that follow changes: run.secrets.update needs 1Password Connect as the source")]
struct NoVersions;

impl Fault for NoVersions {
    fn class(&self) -> Class {
        Class::Settings
    }

    fn hint(&self) -> Option<String> {
        UnsupportedError::Replace.hint()
    }
}

impl Live {
    /// Updates of the containers whose states are in this directory, and of those that are registered.
    pub fn new(directory: &Path) -> Rc<Live> {
        let live = Live {
            directory: Directory::new(directory),
            running: RefCell::default(),
            turn: Mutex::default(),
            counts: Default::default(),
            failed_polls: Cell::default(),
        };
        let live = Rc::new(live);
        spawn_local(Live::forget_ended(Rc::downgrade(&live)));
        live
    }

    /// Waits until nothing else updates containers, and continues with those of a broker before, or of one that still ends.
    async fn begin_turn(&self) -> Result<Turn<'_>, LiveError> {
        let here = self.turn.lock().await;
        let directory = self.directory.clone();
        let (lock, states) = blocking(move || Ok::<_, LiveError>((directory.lock()?, directory.read()))).await?;
        for state in states {
            let known = self.running.borrow().get(&state.start).cloned();
            match known {
                Some(running) => running.adopt(state),
                None => self.restore(state),
            }
        }
        Ok(Turn { _here: here, _lock: lock })
    }

    fn restore(&self, state: State) {
        let (start, container) = (state.start.clone(), state.container.clone());
        match Running::restore(state) {
            Ok(Some(running)) => {
                let written = self.directory.write(&running.state());
                written.unwrap_or_else(|error| warn(&container, &error));
                self.add(running);
            }
            Ok(None) => self.directory.remove(&start),
            Err(error) => warn(&container, &error),
        }
    }

    /// Updates a container from now on.
    ///
    /// # Errors
    /// Its state cannot be written.
    pub fn register(&self, state: State, process: &Process) -> Result<(), LiveError> {
        let running = Running::new(state, process)?;
        self.directory.write(&running.state())?;
        self.add(running);
        Ok(())
    }

    /// Forgets a container.
    pub fn forget(&self, start: &str) {
        if self.running.borrow_mut().remove(start).is_some() {
            self.directory.remove(start);
        }
    }

    fn add(&self, running: Running) {
        let start = running.state().start.clone();
        self.running.borrow_mut().insert(start, Rc::new(running));
    }

    /// Forgets the containers that have ended, as long as the broker runs.
    async fn forget_ended(live: Weak<Live>) {
        while let Some(live) = live.upgrade() {
            for running in live.select(&Selection::default()).iter().filter(|running| running.has_ended()) {
                live.forget(&running.state().start);
            }
            drop(live);
            sleep(ENDED_PERIOD).await;
        }
    }

    /// Looks for changes in each period, until there are other settings.
    pub async fn update_periodically(&self, loaded: &Loaded<'_>, is_over: &Notify) {
        // What the broker before has left is there from the beginning.
        self.begin_turn().await.map_or_else(|error| report::warn(PROGRAM, &report::chain(&error)), drop);
        loop {
            let period = loaded.settings.updates.period;
            let pause = pin!(sleep(early(period)));
            if let Either::Right(_) = select(pause, pin!(is_over.notified())).await {
                return;
            }
            let turn = self.begin_turn().await;
            let _turn = match turn {
                Ok(turn) => turn,
                Err(error) => {
                    report::warn(PROGRAM, &report::chain(&error));
                    continue;
                }
            };
            let running = self.select(&Selection::default());
            if !running.is_empty() {
                let (changed, failed) = poll::changed(&running, loaded).await;
                self.failed_polls.set(self.failed_polls.get() + failed);
                self.update(changed, loaded).await;
            }
        }
    }

    /// Updates these containers now, whatever versions they have.
    pub async fn refresh(&self, selection: &Selection, loaded: &Loaded<'_>) {
        match self.begin_turn().await {
            Ok(_turn) => self.update(self.select(selection), loaded).await,
            Err(error) => {
                let text = report::chain(&error);
                self.select(selection)
                    .iter()
                    .for_each(|running| running.change(|state| state.error = Some(text.clone())));
            }
        }
    }

    async fn update(&self, running: Vec<Rc<Running>>, loaded: &Loaded<'_>) {
        let update = async |running: Rc<Running>| match update::update(&running, &self.directory, loaded).await {
            Outcome::Updated => self.count(0),
            Outcome::Unchanged => self.count(1),
            Outcome::Failed => self.count(2),
            Outcome::Ended => {}
        };
        iter(running).for_each_concurrent(UPDATES_MAX, update).await;
    }

    fn count(&self, outcome: usize) {
        self.counts.get(outcome).into_iter().for_each(|count| count.set(count.get() + 1));
    }

    fn select(&self, selection: &Selection) -> Vec<Rc<Running>> {
        let running = self.running.borrow();
        running.values().filter(|running| running.state().is_in(selection)).cloned().collect()
    }

    /// These containers, as an answer. Those whose last update failed come first: the others may not fit.
    pub fn list(&self, selection: &Selection) -> Answer {
        let mut selected = self.select(selection);
        selected.sort_by_key(|running| running.state().error.is_none());
        let containers = selected.iter().take(RUNNING_MAX).map(|running| running.summary()).collect();
        Answer::Running { containers, count: selected.len() }
    }

    /// All metrics.
    pub fn metrics(&self) -> Vec<Sample> {
        let sample = |name, help, is_counter, value| Sample { name, help, is_counter, value };
        let running = self.select(&Selection::default());
        let failing = running.iter().filter(|running| running.state().error.is_some()).count();
        let oldest = running.iter().map(|running| running.unchecked_for().as_secs()).max().unwrap_or_default();
        let [updated, unchanged, failed] = &self.counts;
        vec![
            sample("live_containers", "Running containers that are updated", false, running.len() as u64),
            sample("live_failing", "Running containers whose last update failed", false, failing as u64),
            sample("live_unchecked_seconds", "Longest time since a running container was current", false, oldest),
            sample("updates", "Updates of running containers", true, updated.get()),
            sample("updates_unchanged", "Updates that found the same files", true, unchanged.get()),
            sample("updates_failed", "Updates that failed", true, failed.get()),
            sample(
                "update_polls_failed",
                "Lists of vaults that the source did not return",
                true,
                self.failed_polls.get(),
            ),
        ]
    }
}

fn warn(container: &str, error: &LiveError) {
    report::warn(PROGRAM, &format!("container {container}: {}", report::chain(error)));
}

/// A period, shortened at random.
fn early(period: Duration) -> Duration {
    period.mul_f64(1.0 - JITTER * fastrand::f64())
}
