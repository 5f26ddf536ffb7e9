//! Removes files of a running container: what is revoked, or all of them when their time is over.
//!
//! Nothing is resolved and nothing is mounted for it: it works while 1Password and the KMS do not answer, and on each kernel.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::super::blocking::blocking;
use super::super::error::PROGRAM;
use super::super::revoked::{Revocation, Revocations};
use super::directory::Directory;
use super::running::Running;
use super::state::State;
use super::update::write;
use crate::audit::{AuditError, Record, Trail, Update, Withdrawal};
use crate::container::{FileName, Request};
use crate::deliver::{Hold, SwapError};
use crate::report;
use crate::settings::Settings;
use crate::start::Start;

/// Why files are removed.
#[derive(Clone, Copy)]
pub(super) enum Cause<'a> {
    Revoked(&'a Revocations),
    Time,
}

/// What became of it.
pub(super) enum Outcome {
    /// The container has none of these files, or has ended.
    Nothing,
    /// So many files were removed.
    Removed(usize),
    /// So many files are still there, or it was not recorded that they are not.
    Failed(usize, String),
}

/// What is to be removed.
struct Plan {
    references: BTreeSet<String>,
    requests: Vec<Request>,
    withdrawal: Withdrawal,
}

/// Removes what has to be removed.
pub(super) async fn remove(running: &Running, directory: &Directory, cause: Cause<'_>, settings: &Settings) -> Outcome {
    let _busy = running.busy.lock().await;
    let plan = Plan::of(&running.state(), cause).filter(|_| !running.has_ended());
    let Some(plan) = plan else { return Outcome::Nothing };
    let files: BTreeSet<&FileName> = plan.requests.iter().map(|request| &request.file).collect();
    let files: Vec<FileName> = files.into_iter().cloned().collect();
    let count = files.len();
    let mut record = record(running, &plan);
    if let Err(error) = take_out(running, files).await {
        if running.has_ended() {
            return Outcome::Nothing;
        }
        running.withdraw_later();
        let text = report::chain(&error);
        if running.state().error.as_ref() != Some(&text) {
            record.refused(&error);
            // It is in the answer, too.
            let _ = write_record(record, settings).await;
        }
        running.change(|state| state.error = Some(text.clone()));
        return Outcome::Failed(count, text);
    }
    running.change(|state| {
        state.removed.extend(plan.references);
        state.is_withdrawn |= matches!(cause, Cause::Time);
        (state.generation, state.since, state.error) = (state.generation + 1, jiff::Timestamp::now(), None);
    });
    if let Some(update) = &mut record.update {
        update.generation = running.state().generation;
    }
    record.withdrawn();
    let recorded = write_record(record, settings).await;
    let signal = running.state().signal();
    signal.into_iter().for_each(|signal| running.signal(signal));
    // Only then: a broker that is killed before that leaves it to the next one to remove what is left, to record it, and to send the signal.
    write(running, directory);
    match recorded {
        Ok(()) => Outcome::Removed(count),
        Err(error) => {
            let text = format!("removed, and not recorded: {}", report::chain(&error));
            report::warn(PROGRAM, &format!("container {}: {text}", running.state().container));
            Outcome::Failed(count, text)
        }
    }
}

impl Plan {
    /// What a container has that has to be removed; `None` if there is nothing.
    fn of(state: &State, cause: Cause<'_>) -> Option<Plan> {
        let references = match cause {
            Cause::Revoked(revocations) => state.revoked(revocations),
            Cause::Time if state.is_withdrawn => return None,
            Cause::Time => state.readings.iter().map(|reading| reading.reference.clone()).collect(),
        };
        let references: BTreeSet<String> = references.difference(&state.removed).cloned().collect();
        let withdrawal = match cause {
            Cause::Time => Withdrawal::Time,
            Cause::Revoked(_) if references.is_empty() => return None,
            Cause::Revoked(revocations) => Withdrawal::Revoked { reason: reason(state, &references, revocations) },
        };
        let mut requests = state.requests()?.files;
        requests.retain(|request| references.contains(request.reference.as_str()));
        Some(Plan { references, requests, withdrawal })
    }
}

/// The reason of the first revocation.
fn reason(state: &State, references: &BTreeSet<String>, revocations: &Revocations) -> String {
    let is_cause = |revocation: &&Revocation| {
        let removed = state.readings.iter().filter(|reading| references.contains(&reading.reference));
        revocation.is_of_container(&state.container) || removed.into_iter().any(|one| revocation.covers(one.value()))
    };
    let found = revocations.iter().find(is_cause);
    found.map(|revocation| revocation.reason.clone()).unwrap_or_default()
}

/// Removes the files.
async fn take_out(running: &Running, files: Vec<FileName>) -> Result<(), SwapError> {
    let hold = match running.hold() {
        Some(hold) => hold,
        None => {
            let (delivery, process) = (running.state().delivery, running.process()?);
            let hold = blocking(move || Hold::find(delivery, &process)).await?;
            let hold = Arc::new(hold);
            running.keep(Arc::clone(&hold));
            hold
        }
    };
    blocking(move || hold.remove(&files)).await
}

fn record(running: &Running, plan: &Plan) -> Record {
    let state = running.state();
    let mut record = Start::begin(PROGRAM, &state.container).record;
    record.bundle = state.bundle.clone();
    record.update = Some(Update { of: state.start.clone(), generation: state.generation });
    record.withdrawal = Some(plan.withdrawal.clone());
    record.requests(&plan.requests);
    record
}

/// Writes a record where the settings say, or else wherever that is possible.
async fn write_record(record: Record, settings: &Settings) -> Result<(), AuditError> {
    let (audit, deadline) = (settings.audit.clone(), settings.deliver.deadline);
    blocking(move || {
        let written = Trail::open(&audit, deadline).and_then(|mut trail| trail.write(&record));
        written.inspect_err(|_| _ = Trail::default().write(&record))
    })
    .await
}
