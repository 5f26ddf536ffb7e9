//! One running container.

use std::cell::{Cell, Ref, RefCell};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::sync::Mutex;

use super::super::peer::start_time;
use super::error::LiveError;
use super::state::State;
use super::summary::Summary;
use crate::container::{Process, ProcessError, Procfs};
use crate::deliver::{Hold, complete};
use crate::errno::{Errno, failed};
use crate::report;
use crate::source::connect::ListedItem;

/// How long after a failure it is tried again to remove files whose time is over.
const WITHDRAW_AGAIN: Duration = Duration::from_secs(10);

/// A container that has files of this broker, or of the one before.
pub(super) struct Running {
    /// Held while its files change.
    pub(super) busy: Mutex<()>,
    /// A second mount of its files, by which they can be removed whatever the container has done to its own.
    hold: RefCell<Option<Arc<Hold>>>,
    withdraw_failed: Cell<Option<Instant>>,
    pidfd: OwnedFd,
    state: RefCell<State>,
    /// What was listed when optional references were missing.
    pub(super) missing: RefCell<BTreeMap<String, Vec<ListedItem>>>,
    checked: Cell<Option<(Instant, Timestamp)>>,
    known_since: Instant,
}

impl Running {
    /// A container that was started.
    pub(super) fn new(state: State, process: &Process, hold: Arc<Hold>) -> Result<Running, LiveError> {
        let pidfd = process.pidfd().try_clone_to_owned().map_err(|error| failed("dup(pidfd)")(Errno::from(error)))?;
        let running = Running::with(state, pidfd);
        running.is_current();
        running.keep(hold);
        Ok(running)
    }

    /// A container of the broker before; `None` if it has ended. An update that was interrupted is ended.
    pub(super) fn restore(state: State) -> Result<Option<Running>, LiveError> {
        let Some(pid) = Pid::from_raw(state.pid).filter(|_| state.pid > 0) else { return Ok(None) };
        let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { return Ok(None) };
        // First the descriptor, then the proof that it is of the same process.
        if start_time(&Procfs::open()?, state.pid).as_ref() != Some(&state.start_time) {
            return Ok(None);
        }
        let running = Running::with(state, pidfd);
        running.end_interrupted();
        Ok(Some(running))
    }

    /// Continues after another broker, if that has updated the container since.
    pub(super) fn adopt(&self, state: State) {
        let is_newer = state.supersedes(&self.state());
        if is_newer {
            self.hold.take();
            self.change(|own| *own = state);
            self.end_interrupted();
        }
    }

    fn end_interrupted(&self) {
        if let Err(error) = self.complete() {
            self.change(|state| state.error = Some(report::chain(&error)));
        }
    }

    fn with(state: State, pidfd: OwnedFd) -> Running {
        let (missing, checked) = (RefCell::default(), Cell::default());
        Running {
            busy: Mutex::default(),
            hold: RefCell::default(),
            withdraw_failed: Cell::default(),
            pidfd,
            state: RefCell::new(state),
            missing,
            checked,
            known_since: Instant::now(),
        }
    }

    fn complete(&self) -> Result<(), LiveError> {
        let Some(next) = self.state().next.clone() else { return Ok(()) };
        let is_in_place = match self.process() {
            Ok(process) => complete(self.state().delivery, next.delivery, &process)?,
            Err(ProcessError::Gone) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        if self.state.borrow_mut().settle(is_in_place) {
            self.hold.take();
            let signal = self.state().signal();
            signal.into_iter().for_each(|signal| self.signal(signal));
        }
        Ok(())
    }

    /// Holds its files from now on, and no earlier ones.
    pub(super) fn keep(&self, hold: Arc<Hold>) {
        self.hold.replace(Some(hold));
    }

    /// What holds its files, if that is known.
    pub(super) fn hold(&self) -> Option<Arc<Hold>> {
        self.hold.borrow().clone()
    }

    /// Whether its files are to be removed now because their time is over.
    pub(super) fn is_due(&self) -> bool {
        let is_tried = self.withdraw_failed.get().is_some_and(|at| at.elapsed() < WITHDRAW_AGAIN);
        self.state().withdrawn_in() == Some(Duration::ZERO) && !is_tried
    }

    /// Notes that they could not be removed.
    pub(super) fn withdraw_later(&self) {
        self.withdraw_failed.set(Some(Instant::now()));
    }

    pub(super) fn state(&self) -> Ref<'_, State> {
        self.state.borrow()
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.borrow_mut());
    }

    /// Its first process, with its namespaces.
    pub(super) fn process(&self) -> Result<Process, ProcessError> {
        let pidfd = self.pidfd.try_clone().map_err(|error| failed("dup(pidfd)")(Errno::from(error)))?;
        Process::of_pidfd(pidfd)
    }

    /// Sends a signal to its first process. One that has ended needs none.
    pub(super) fn signal(&self, signal: Signal) {
        let _ = pidfd_send_signal(&self.pidfd, signal);
    }

    /// Notes that its files are current.
    pub(super) fn is_current(&self) {
        self.checked.set(Some((Instant::now(), Timestamp::now())));
    }

    /// Since when its files are not known to be current.
    pub(super) fn unchecked_for(&self) -> Duration {
        self.checked.get().map_or(self.known_since, |(at, _)| at).elapsed()
    }

    /// Whether it has ended: then its pidfd is readable.
    pub(super) fn has_ended(&self) -> bool {
        !matches!(poll(&mut [PollFd::new(&self.pidfd, PollFlags::IN)], Some(&Timespec::default())), Ok(0))
    }

    pub(super) fn summary(&self) -> Summary {
        let state = self.state();
        Summary {
            container: state.container.clone(),
            pid: state.pid,
            generation: state.generation,
            since: state.since,
            checked: self.checked.get().map(|(_, at)| at),
            error: state.error.clone(),
            live: state.is_live(),
            removed: state.removed.len(),
            withdrawn_in: state.withdraw_at.map(|_| state.withdrawn_in().unwrap_or_default().as_secs()),
            ungranted: None,
        }
    }
}
