//! The story of one update: decide, resolve, fill, record, replace, signal.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;

use rustix::process::Signal;

use super::super::blocking::blocking;
use super::super::error::PROGRAM;
use super::super::identity::Identity;
use super::super::loaded::Loaded;
use super::super::revoked::{Revocations, Value};
use super::super::source::Fetches;
use super::directory::Directory;
use super::running::Running;
use super::state::{Next, readings};
use crate::audit::{Trail, Update};
use crate::container::{Process, ProcessError};
use crate::deliver::{Current, DeliveryOptions, Frozen, Hold, SwapError};
use crate::fault::{AnyFault, Class, Fault};
use crate::report;
use crate::resolve::{Files, Resolved};
use crate::retry::Deadline;
use crate::seal::kek::{Keks, Unanswered};
use crate::start::Start;

/// What an update came to.
pub(super) enum Outcome {
    Updated,
    /// The files are the same.
    Unchanged,
    /// The container keeps the files that it has.
    Failed,
    /// There is no container any more, or it gets no files any more.
    Ended,
}

/// A set of files that is to take the place of another.
struct Prepared {
    frozen: Frozen,
    hold: Hold,
    current: Current,
    process: Process,
    next: Next,
    signal: Option<Signal>,
}

/// What updates share that began at the same time: each item is fetched once, and each data key is unwrapped once. A KMS that does not
/// answer one of them is not asked by the others. What each container may have is decided for each. All of it is zeroed when this is dropped.
pub(super) struct Sharing<'s> {
    fetches: Arc<Fetches>,
    keks: RefCell<Rc<Keks<'s>>>,
    unanswered: Unanswered,
}

impl<'s> Sharing<'s> {
    /// Of updates that begin now.
    pub(super) fn begin(loaded: &Loaded<'s>) -> Sharing<'s> {
        let unanswered = Unanswered::default();
        let keks = RefCell::new(Rc::new(loaded.keks().without(&unanswered)));
        Sharing { fetches: Fetches::begin(), keks, unanswered }
    }

    fn keks(&self) -> Rc<Keks<'s>> {
        Rc::clone(&self.keks.borrow())
    }

    /// Makes new clients, if they may be the reason of a failure.
    fn failed(&self, error: &dyn Fault, loaded: &Loaded<'s>) {
        if loaded.failed(error) {
            self.keks.replace(Rc::new(loaded.keks().without(&self.unanswered)));
        }
    }
}

/// Updates one container, or leaves it as it is.
pub(super) async fn update<'s>(
    running: &Running,
    directory: &Directory,
    loaded: &Loaded<'s>,
    sharing: &Sharing<'s>,
) -> Outcome {
    let _busy = running.busy.lock().await;
    let mut start = {
        let state = running.state();
        if !state.is_live() {
            return Outcome::Ended;
        }
        if state.is_stuck {
            return Outcome::Failed;
        }
        let mut start = Start::begin(PROGRAM, &state.container);
        start.record.bundle = state.bundle.clone();
        start.record.update = Some(Update { of: state.start.clone(), generation: state.generation });
        start
    };
    let prepared = prepare(running, (loaded, sharing), &mut start).await;
    let (start, recorded) = record(start, prepared).await;
    let outcome = match recorded {
        Ok(Some(prepared)) => replace(prepared, running, directory).await.map(|()| Outcome::Updated),
        Ok(None) => Ok(Outcome::Unchanged),
        Err(error) => Err(error),
    };
    let outcome = match outcome {
        Ok(outcome) => outcome,
        Err(error) => fail(running, start, error).await,
    };
    match outcome {
        // What has replaced the files has written the state.
        Outcome::Updated => running.is_current(),
        Outcome::Unchanged => {
            running.change(|state| state.error = None);
            running.is_current();
            write(running, directory);
        }
        Outcome::Failed | Outcome::Ended => write(running, directory),
    }
    outcome
}

/// Records that there are new files, or that they are the same.
async fn record(
    mut start: Start,
    prepared: Result<Option<Prepared>, AnyFault>,
) -> (Start, Result<Option<Prepared>, AnyFault>) {
    let prepared = match prepared {
        Ok(prepared) => prepared,
        Err(error) => return (start, Err(error)),
    };
    let has_changed = prepared.is_some();
    if has_changed && let Some(update) = &mut start.record.update {
        update.generation += 1;
    }
    let (start, recorded) = blocking(move || {
        let recorded = start.record_update(has_changed);
        (start, recorded)
    })
    .await;
    (start, recorded.map(|()| prepared))
}

/// Notes why there was no update. The same reason is recorded once, and not in each period.
async fn fail(running: &Running, mut start: Start, error: AnyFault) -> Outcome {
    if running.process().is_err_and(|error| matches!(error, ProcessError::Gone)) {
        return Outcome::Ended;
    }
    let text = report::chain(&*error);
    if running.state().error.as_ref() != Some(&text) {
        if let Some(update) = &mut start.record.update {
            update.generation = running.state().generation;
        }
        blocking(move || start.refuse(error)).await;
    }
    running.change(|state| (state.next, state.error) = (None, Some(text)));
    Outcome::Failed
}

/// Fills a tmpfs with the files that the container should have; `None` if it has them.
async fn prepare<'s>(
    running: &Running,
    (loaded, sharing): (&Loaded<'s>, &Sharing<'s>),
    start: &mut Start,
) -> Result<Option<Prepared>, AnyFault> {
    let (settings, state) = (loaded.settings, running.state().clone());
    let (audit, deadline) = (settings.audit.clone(), settings.deliver.deadline);
    start.trail = blocking(move || Trail::open(&audit, deadline)).await?;
    let (annotations, image) = state.asked.image.of(state.asked.annotations);
    let deadline = Deadline::after(deadline);
    let Identity { pod, unknown } = loaded.identity(state.asked.uid, &state.container, &annotations, deadline).await;
    let caller = loaded.caller(state.asked.uid, pod.as_ref());
    let requests = start.decide(annotations, image, settings, caller, unknown)?;
    let mut requests = requests.ok_or(UpdateFault::NoRequests)?;
    let revocations = Revocations::load(settings).await?;
    let is_revoked = revocations.check_container(&state.container).is_err();
    // An item that was removed from 1Password because it was revoked must not stop the other files.
    for request in &mut requests.files {
        let reference = request.reference.as_str();
        request.optional |= revocations.name_any([reference].into_iter()) || state.removed.contains(reference);
    }
    let process = running.process()?;
    let (process, current) = blocking(move || {
        let current = Current::find(state.delivery, &process)?;
        Ok::<_, SwapError>((process, current))
    })
    .await?;
    start.record.phase_ends("read");

    let source = loaded.source.for_update(settings, &start.record.start, &sharing.fetches)?;
    let (source, keks) = (source.paid_by(loaded.payer(state.asked.uid)), sharing.keks());
    let resolved = start.resolve_for_update(&requests.files, &source, &keks, settings, deadline).await;
    let mut secrets = resolved.inspect_err(|error| sharing.failed(error, loaded))?;
    start.record.phase_ends("resolve");

    let readings = readings(&requests.files, &secrets);
    let removed = revoked(&secrets, &revocations, is_revoked);
    start.record.revoked(|reference| removed.contains(reference));
    let left_out: BTreeSet<_> = secrets
        .iter()
        .filter(|one| removed.contains(one.request.reference.as_str()))
        .map(|one| one.request.file.clone())
        .collect();
    secrets.retain(|one| !left_out.contains(&one.request.file));
    let rendered = Files::render(&requests, &secrets)?;
    let contents = rendered.list();
    if current.has(&contents)? {
        running.change(|state| (state.readings, state.removed) = (readings, removed));
        return Ok(None);
    }
    let (owner, root, label) = (state.asked.owner, state.asked.root, state.asked.label.as_deref());
    let options = DeliveryOptions { owner, label, root, noswap: settings.deliver.noswap };
    let (frozen, hold) =
        Frozen::filled(&contents, &options, current.placeholders())?.hold().map_err(SwapError::from)?;
    let next = Next { delivery: frozen.id()?, readings, removed };
    let signal = requests.update.and_then(|update| update.signal);
    Ok(Some(Prepared { frozen, hold, current, process, next, signal }))
}

/// The references of these values that are revoked.
fn revoked(secrets: &[Resolved<'_>], revocations: &Revocations, is_of_container: bool) -> BTreeSet<String> {
    let is_revoked = |one: &&Resolved<'_>| is_of_container || revocations.of(Value::of(one)).is_some();
    secrets.iter().filter(is_revoked).map(|one| one.request.reference.as_str().to_owned()).collect()
}

/// Puts the files in their place. The state is written before that, so that another broker can end it.
async fn replace(prepared: Prepared, running: &Running, directory: &Directory) -> Result<(), AnyFault> {
    let Prepared { frozen, hold, current, process, next, signal } = prepared;
    running.change(|state| state.next = Some(next.clone()));
    directory.write(&running.state())?;
    let hold = Arc::new(hold);
    let held = Arc::clone(&hold);
    let replaced = blocking(move || frozen.replace(&held, &current, &process)).await;
    if replaced.is_ok() {
        running.keep(hold);
    }
    running.change(|state| match &replaced {
        Ok(()) => state.advance(next),
        Err(error) => (state.next, state.is_stuck) = (None, matches!(error, SwapError::Stuck { .. })),
    });
    replaced?;
    // Before the state is written: a broker that is killed before that leaves it to the next one to send it again.
    if let Some(signal) = signal {
        running.signal(signal);
    }
    write(running, directory);
    Ok(())
}

/// A state that cannot be written is that of the last update: the next broker updates the container again. One of a container that has
/// ended may have been removed before it was written.
pub(super) fn write(running: &Running, directory: &Directory) {
    if let Err(error) = directory.write(&running.state()) {
        report::warn(PROGRAM, &report::chain(&error));
    }
    if running.has_ended() {
        directory.remove(&running.state().start);
    }
}

/// What is wrong with a container that was started.
#[derive(Debug, thiserror::Error)]
enum UpdateFault {
    /// Its annotations were valid at its start.
    #[error("the annotations of the container request no file any more")]
    NoRequests,
}

impl Fault for UpdateFault {
    fn class(&self) -> Class {
        Class::Data
    }
}
