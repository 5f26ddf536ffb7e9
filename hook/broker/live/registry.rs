//! The running containers that the broker has delivered to.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::task::spawn_local;
use tokio::time::sleep;

use super::super::blocking::blocking;
use super::super::error::PROGRAM;
use super::super::protocol::Selection;
use super::directory::Directory;
use super::error::LiveError;
use super::running::Running;
use super::state::State;
use crate::container::Process;
use crate::deliver::{Hold, SwapError};
use crate::report;

/// How long a container that has ended leaves its state.
const ENDED_PERIOD: Duration = Duration::from_secs(1);

/// The most deliveries that one process may have: each takes descriptors of the broker. Two hooks of one container may run at the same time.
const DELIVERIES_MAX: usize = 4;

/// The running containers that have files.
pub struct Live {
    pub(super) directory: Directory,
    running: RefCell<BTreeMap<String, Rc<Running>>>,
    /// Held while containers are updated, here and in other generations of the settings.
    turn: Arc<Mutex<()>>,
    /// The turn of this broker, while it has it.
    current: RefCell<Weak<Turn>>,
    /// Updates that changed something, that did not, and that failed.
    pub(super) updates: [Cell<u64>; 3],
    /// Containers that lost files, and those that could not.
    pub(super) removals: [Cell<u64>; 2],
    /// Polls of vaults that failed.
    pub(super) failed_polls: Cell<u64>,
}

/// The right to change the files of containers, until it is dropped.
pub(super) struct Turn {
    _here: OwnedMutexGuard<()>,
    _lock: OwnedFd,
}

impl Live {
    /// Knows the containers whose states are in this directory, and those that are registered.
    pub fn new(directory: &Path) -> Rc<Live> {
        let live = Live {
            directory: Directory::new(directory),
            running: RefCell::default(),
            turn: Arc::default(),
            current: RefCell::default(),
            updates: Default::default(),
            removals: Default::default(),
            failed_polls: Cell::default(),
        };
        let live = Rc::new(live);
        spawn_local(Live::forget_ended(Rc::downgrade(&live)));
        live
    }

    /// Waits until nothing else updates containers, and continues with those of a broker before, or of one that still ends.
    pub(super) async fn begin_turn(&self) -> Result<Rc<Turn>, LiveError> {
        let here = Arc::clone(&self.turn).lock_owned().await;
        let directory = self.directory.clone();
        let (lock, states) = blocking(move || Ok::<_, LiveError>((directory.lock()?, directory.read()))).await?;
        for state in states {
            let known = self.running.borrow().get(&state.start).cloned();
            match known {
                Some(running) => running.adopt(state),
                None => self.restore(state),
            }
        }
        let turn = Rc::new(Turn { _here: here, _lock: lock });
        self.current.replace(Rc::downgrade(&turn));
        Ok(turn)
    }

    /// The same for what must not wait for updates that this broker is making. Each container is still changed by one of both at a time.
    pub(super) async fn share_turn(&self) -> Result<Rc<Turn>, LiveError> {
        let Some(turn) = self.current.borrow().upgrade() else { return self.begin_turn().await };
        let directory = self.directory.clone();
        // Another broker may have started containers meanwhile; what it did to those that are known here, it did before.
        for state in blocking(move || directory.read()).await {
            let is_known = self.running.borrow().contains_key(&state.start);
            if !is_known {
                self.restore(state);
            }
        }
        Ok(turn)
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

    /// Knows a container from now on: what is revoked afterwards is removed from it. The caller refuses it for what was revoked before,
    /// by [`State::check`].
    ///
    /// # Errors
    /// Its state cannot be written, or its process has too many deliveries. The caller then forgets it.
    pub async fn register(&self, state: &State, process: &Process, hold: Arc<Hold>) -> Result<(), LiveError> {
        let running = Running::new(state.clone(), process, hold)?;
        self.directory.write(&running.state())?;
        self.add(running);
        match self.destroy_unmounted(state).await? {
            count if count < DELIVERIES_MAX => Ok(()),
            count => Err(LiveError::TooMany { count }),
        }
    }

    /// Destroys what the same process got before and has unmounted, so that it cannot make the broker keep any number of deliveries. What
    /// it still has stays: two hooks of one container may run at the same time, and either files may be those on top. Returns how many stay.
    async fn destroy_unmounted(&self, state: &State) -> Result<usize, LiveError> {
        let is_same = |one: &State| (one.pid, &one.start_time) == (state.pid, &state.start_time);
        let mut earlier = self.select(&Selection::default());
        earlier.retain(|running| is_same(&running.state()) && running.state().start != state.start);
        let mut left = earlier.len();
        for running in earlier {
            let (delivery, process) = (running.state().delivery, running.process()?);
            let found = blocking(move || Hold::find(delivery, &process)).await;
            // A broker that was started since then has no hold: nothing leads it to what was unmounted.
            let is_destroyed = || running.hold().is_none_or(|hold| hold.destroy().is_ok());
            if matches!(found, Err(SwapError::Absent)) && is_destroyed() {
                let start = running.state().start.clone();
                self.forget(&start);
                left -= 1;
            }
        }
        Ok(left)
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

    pub(super) fn select(&self, selection: &Selection) -> Vec<Rc<Running>> {
        let running = self.running.borrow();
        running.values().filter(|running| running.state().is_in(selection)).cloned().collect()
    }

    /// Those that follow changes.
    pub(super) fn select_live(&self, selection: &Selection) -> Vec<Rc<Running>> {
        let mut running = self.select(selection);
        running.retain(|running| running.state().is_live());
        running
    }
}

fn warn(container: &str, error: &LiveError) {
    report::warn(PROGRAM, &format!("container {container}: {}", report::chain(error)));
}
