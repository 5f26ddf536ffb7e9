//! Two brokers change one container, in every order, and each is killed after every step.
//!
//! Two run for a while when one replaces the other. Each changes containers only while it has the lock of the directory, so that what they do
//! is a sequence of turns. A turn here has the steps of the real one, on a container of numbers, and the real [`State`].

use std::collections::BTreeSet;

use serde_json::json;

use super::state::{Next, State};
use crate::deliver::DeliveryId;

/// What a turn finds to do, after it has continued with the state and removed what is revoked.
#[derive(Clone, Copy, Debug)]
enum Turn {
    Nothing,
    Update,
    Revoke,
}

/// A turn of one of both brokers: after so many steps it is killed, if it has not ended. Or no state can be written in it.
#[derive(Clone, Copy, Debug)]
struct Run {
    broker: usize,
    turn: Turn,
    steps: usize,
    can_write: bool,
}

/// The most steps before those of a turn: three to continue, and three to remove what is revoked.
const STEPS_BEFORE: usize = 6;

/// More than any turn has.
const ALL_STEPS: usize = 16;

const REFERENCE: &str = "op://v/i/f";

/// The broker was killed.
struct Killed;

/// A container, and what is on the disk of its host.
struct Host {
    /// The mounts at the target, the topmost last.
    mounts: Vec<DeliveryId>,
    /// Those whose files were removed.
    emptied: Vec<DeliveryId>,
    next: u64,
    /// Whether it has been signalled since its files have changed.
    is_signalled: bool,
    disk: State,
    is_revoked: bool,
}

/// One turn, and how many steps it has left.
struct Broker<'h> {
    host: &'h mut Host,
    run: Run,
}

fn delivery(number: u64) -> DeliveryId {
    serde_json::from_value(json!({ "device": 1, "mount": number })).unwrap()
}

fn started() -> State {
    let state = json!({ "start": "0123456789abcdef", "container": "c1", "bundle": "/b", "pid": 1, "start_time": "7", "generation": 1,
        "asked": { "annotations": {}, "image": { "annotations": {} }, "uid": 0, "owner": { "uid": 1, "gid": 2 }, "root": null, "label": null },
        "since": "2026-05-04T10:00:00Z", "delivery": delivery(1), "next": null, "error": null, "is_stuck": false, "readings": [] });
    serde_json::from_value(state).unwrap()
}

impl Broker<'_> {
    fn step(&mut self) -> Result<(), Killed> {
        self.run.steps = self.run.steps.checked_sub(1).ok_or(Killed)?;
        Ok(())
    }

    fn write(&mut self, state: &State) -> Result<bool, Killed> {
        self.step()?;
        if self.run.can_write {
            self.host.disk = state.clone();
        }
        Ok(self.run.can_write)
    }

    fn signal(&mut self) -> Result<(), Killed> {
        self.step()?;
        self.host.is_signalled = true;
        Ok(())
    }

    /// The whole turn of a broker that has this state in its memory, or none yet.
    fn take_turn(&mut self, own: Option<State>) -> Result<State, Killed> {
        let mut state = self.begin(own)?;
        if matches!(self.run.turn, Turn::Revoke) {
            self.step()?;
            self.host.is_revoked = true;
        }
        if self.host.is_revoked && state.removed.is_empty() {
            self.remove(&mut state)?;
        }
        if matches!(self.run.turn, Turn::Update) {
            self.update(&mut state)?;
        }
        Ok(state)
    }

    /// `Live::begin_turn`, with `Running::restore` or `Running::adopt`.
    fn begin(&mut self, own: Option<State>) -> Result<State, Killed> {
        let (disk, is_new) = (self.host.disk.clone(), own.is_none());
        let mut state = match own {
            Some(own) if !disk.supersedes(&own) => return Ok(own),
            _ => disk,
        };
        if let Some(next) = &state.next {
            let to = next.delivery;
            self.step()?;
            let is_in_place = self.host.complete(state.delivery, to);
            if state.settle(is_in_place) {
                self.signal()?;
            }
        }
        if is_new {
            self.write(&state)?;
        }
        Ok(state)
    }

    /// `update::replace`.
    fn update(&mut self, state: &mut State) -> Result<(), Killed> {
        let found = state.delivery;
        // `Current::find`.
        if !self.host.mounts.contains(&found) {
            return Ok(());
        }
        self.host.next += 1;
        let next = delivery(self.host.next);
        let removed = self.host.is_revoked.then(|| REFERENCE.to_owned()).into_iter().collect::<BTreeSet<_>>();
        state.next = Some(Next { delivery: next, readings: Vec::new(), removed });
        if !self.write(state)? {
            state.next = None;
            return Ok(());
        }
        self.step()?;
        self.host.mount_beneath(found, next);
        self.step()?;
        self.host.unmount(found);
        assert!(state.settle(true));
        self.signal()?;
        self.write(state).map(drop)
    }

    /// `remove::remove`.
    fn remove(&mut self, state: &mut State) -> Result<(), Killed> {
        self.step()?;
        if !self.host.mounts.contains(&state.delivery) {
            return Ok(());
        }
        if !self.host.emptied.contains(&state.delivery) {
            self.host.emptied.push(state.delivery);
            self.host.is_signalled = false;
        }
        state.removed.insert(REFERENCE.to_owned());
        state.generation += 1;
        self.signal()?;
        self.write(state).map(drop)
    }
}

impl Host {
    fn mount_beneath(&mut self, current: DeliveryId, new: DeliveryId) {
        let at = self.mounts.iter().position(|mount| *mount == current).unwrap();
        self.mounts.insert(at, new);
        if self.is_revoked {
            self.emptied.push(new);
        }
    }

    fn unmount(&mut self, mount: DeliveryId) {
        self.mounts.retain(|one| *one != mount);
        self.is_signalled = false;
    }

    /// `deliver::complete`.
    fn complete(&mut self, from: DeliveryId, to: DeliveryId) -> bool {
        if self.mounts.windows(2).any(|pair| pair == [to, from]) {
            self.unmount(from);
        }
        self.mounts.contains(&to)
    }

    fn check(&self, state: &State, runs: &[Run]) {
        assert_eq!(self.mounts, [state.delivery], "{runs:?}");
        assert!(self.is_signalled, "it has other files and was not signalled: {runs:?}");
        assert!(!self.is_revoked || self.emptied.contains(&state.delivery), "it has a revoked file: {runs:?}");
    }
}

/// Runs the turns, and then that of a broker which continues.
fn check(runs: &[Run]) {
    let disk = started();
    let mut host = Host {
        mounts: vec![disk.delivery],
        emptied: Vec::new(),
        next: 1,
        is_signalled: true,
        disk: disk.clone(),
        is_revoked: false,
    };
    let mut brokers = [Some(disk), None];
    let last = Run { broker: 1, turn: Turn::Nothing, steps: ALL_STEPS, can_write: true };
    for run in runs.iter().chain([&last]) {
        let generation = host.disk.generation;
        let own = brokers[run.broker].take();
        let ended = Broker { host: &mut host, run: *run }.take_turn(own);
        assert!(host.disk.generation >= generation, "{runs:?}");
        if let Ok(state) = ended {
            host.check(&state, runs);
            brokers[run.broker] = Some(state);
        }
    }
    let mut restarted = Broker { host: &mut host, run: last };
    let state = restarted.take_turn(None).unwrap_or_else(|Killed| panic!("{runs:?}"));
    host.check(&state, runs);
    assert_eq!((host.disk.delivery, host.disk.next.is_none()), (state.delivery, true), "{runs:?}");
}

#[test]
fn a_container_has_one_whole_set_of_files_and_its_signal_in_every_order_of_turns_and_deaths() {
    let mut turns = Vec::new();
    for broker in [0, 1] {
        for (turn, own) in [(Turn::Nothing, 0), (Turn::Update, 5), (Turn::Revoke, 1)] {
            turns.extend((0..=STEPS_BEFORE + own).map(|steps| Run { broker, turn, steps, can_write: true }));
            turns.push(Run { broker, turn, steps: ALL_STEPS, can_write: false });
        }
    }
    for one in &turns {
        for two in &turns {
            turns.iter().for_each(|three| check(&[*one, *two, *three]));
        }
    }
}
