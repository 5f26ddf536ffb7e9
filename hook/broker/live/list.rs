//! What is said of the running containers.

use super::super::error::PROGRAM;
use super::super::identity::Identity;
use super::super::loaded::Loaded;
use super::super::protocol::{Answer, RUNNING_MAX, Selection};
use super::super::source::Sample;
use super::registry::Live;
use super::running::Running;
use super::summary::{Summary, shortened};
use crate::fault::Class;
use crate::report;
use crate::start::Start;

impl Live {
    /// These containers, as an answer. Those come first with which something is wrong: the others may not fit.
    pub fn list(&self, selection: &Selection, loaded: &Loaded<'_>) -> Answer {
        let selected = self.select(selection);
        let mut containers: Vec<Summary> = selected.iter().map(|running| summary(running, loaded)).collect();
        containers.sort_by_key(|container| (container.error.is_none(), container.ungranted.is_none()));
        containers.truncate(RUNNING_MAX);
        Answer::Running { containers, count: selected.len() }
    }

    /// All metrics.
    pub fn metrics(&self) -> Vec<Sample> {
        let sample = |name, help, is_counter, value| Sample { name, help, is_counter, value };
        let all = self.select(&Selection::default()).len();
        let running = self.select(&Selection { live: true, ..Selection::default() });
        let failing = running.iter().filter(|running| running.state().error.is_some()).count();
        let oldest = running.iter().map(|running| running.unchecked_for().as_secs()).max().unwrap_or_default();
        let [updated, unchanged, failed] = &self.updates;
        let [removed, not_removed] = &self.removals;
        vec![
            sample("live_containers", "Running containers that are updated", false, running.len() as u64),
            sample("running_containers", "Running containers that have files", false, all as u64),
            sample("withdrawals", "Removals of files from running containers", true, removed.get()),
            sample("withdrawals_failed", "Removals of files that failed", true, not_removed.get()),
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

/// What is said of one container, with what its grants say now.
fn summary(running: &Running, loaded: &Loaded<'_>) -> Summary {
    let mut summary = running.summary();
    let state = running.state();
    let has_files = !state.is_withdrawn && state.removed.len() < state.readings.len();
    if has_files {
        let (annotations, image) = state.asked.image.clone().of(state.asked.annotations.clone());
        let mut start = Start::begin(PROGRAM, &state.container);
        let Identity { pod, unknown } = loaded.known_identity(state.asked.uid, &state.container);
        let caller = loaded.caller(state.asked.uid, pod.as_ref());
        let decided = start.decide(annotations, image, loaded.settings, caller, unknown);
        // A grant that depends on what is not known now was not removed.
        let refusal = decided.err().filter(|error| error.class() != Class::Unavailable);
        summary.ungranted = refusal.map(|error| shortened(report::chain(&*error)));
    }
    summary.error = summary.error.map(shortened);
    summary
}
