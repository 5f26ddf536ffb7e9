//! What became of the starts.

use std::collections::BTreeMap;
use std::fmt;

use super::victim::{Draw, Victim};
use crate::engine::Engine;

/// What became of a start.
#[derive(Clone, Copy)]
pub(super) struct Outcome {
    /// Whether its victim was killed, and has not ended before.
    pub(super) is_killed: bool,
    /// Whether the process of the container has run.
    pub(super) has_run: bool,
    /// Whether the broker has recorded it.
    pub(super) is_recorded: bool,
    /// Whether the hook has recorded it by itself.
    pub(super) is_recorded_by_hook: bool,
}

#[derive(Default)]
struct Row {
    killed: u64,
    run: u64,
    recorded: u64,
    recorded_by_hook: u64,
}

#[derive(Default)]
pub(super) struct Tally {
    drawn: u64,
    undisturbed: u64,
    rows: BTreeMap<(Victim, Engine), Row>,
}

impl Tally {
    /// The number of the next start.
    pub(super) fn next(&mut self) -> u64 {
        self.drawn += 1;
        self.drawn - 1
    }

    pub(super) fn killed(&self) -> u64 {
        self.rows.values().map(|row| row.killed).sum()
    }

    pub(super) fn add(&mut self, draw: Draw, outcome: Outcome) {
        if !outcome.is_killed {
            self.undisturbed += 1;
            return;
        }
        let row = self.rows.entry((draw.victim, draw.engine)).or_default();
        row.killed += 1;
        row.run += u64::from(outcome.has_run);
        row.recorded += u64::from(outcome.is_recorded);
        row.recorded_by_hook += u64::from(outcome.is_recorded_by_hook);
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = ["killed", "whole", "not started", "record", "by hook"];
        writeln!(f, "{:<24}{:>8}{:>8}{:>13}{:>9}{:>9}", "", head[0], head[1], head[2], head[3], head[4])?;
        let mut line = |name: &str, row: &Row| {
            let Row { killed, run, recorded, recorded_by_hook } = row;
            writeln!(f, "{name:<24}{killed:>8}{run:>8}{:>13}{recorded:>9}{recorded_by_hook:>9}", killed - run)
        };
        let mut all = Row::default();
        for row in self.rows.values() {
            all.killed += row.killed;
            all.run += row.run;
            all.recorded += row.recorded;
            all.recorded_by_hook += row.recorded_by_hook;
        }
        line("all", &all)?;
        for ((victim, engine), row) in &self.rows {
            line(&format!("{victim:?}, {}", engine.name()).to_lowercase(), row)?;
        }
        writeln!(f, "{} others were not disturbed, and were delivered", self.undisturbed)
    }
}
