//! The hook: one container start.

use std::io;
use std::path::Path;
use std::process::ExitCode;

use self::annotations::{check_annotations, of_image};
use self::call::Call;
use self::created::Created;
use self::done::Done;
use self::error::HookError;
use self::refusal::refuse;
use crate::audit::Trail;
use crate::container::{Annotations, ImageError, Request, Requests, Spec, State};
use crate::deliver::{DeliveryOptions, Frozen};
use crate::fault::AnyFault;
use crate::resolve::{Files, Resolved};
use crate::retry::Deadline;
use crate::seal::kek::Keks;
use crate::settings::{Caller, Settings};
use crate::start::Start;
use crate::{harden, report, source, tls};

mod annotations;
mod by_broker;
mod call;
mod created;
mod done;
mod error;
mod refusal;

pub use self::call::{HELP, PROGRAM};

/// Runs the hook with the command line and the standard input of this process.
pub fn run() -> ExitCode {
    report::install_panic_hook_with(PROGRAM, refusal::keep_panic);
    if let Err(source) = harden::harden() {
        return refuse(None, &HookError::Environment { source });
    }
    let call = match Call::parse(std::env::args_os().skip(1)) {
        Ok(Call::Print(text)) => return call::print(&text),
        Ok(call) => call,
        Err(error) => return refuse(None, &error),
    };
    let state = match State::receive(io::stdin()) {
        Ok(state) => state,
        Err(error) => return refuse(None, &error),
    };
    let outcome = match &call {
        Call::Start { settings } => start(&state, settings),
        _ => check_annotations(&state),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => refuse(Some(&state), &*error),
    }
}

/// One container start: without requests nothing happens, otherwise the container gets all of its secrets, or an error and no secret.
fn start(state: &State, settings: &Path) -> Result<(), AnyFault> {
    let annotations = Annotations::new(state.annotations().clone());
    let requested = Requests::from_annotations(&annotations);
    if matches!(requested, Ok(None)) {
        return Ok(());
    }
    let (annotations, image) = of_image(annotations, state);
    if annotations.is_sandbox() {
        return Ok(());
    }
    let mut start = Start::begin(PROGRAM, state.id().unwrap_or_default());
    // For the record of a start that fails before anything decides about them.
    if let Ok(Some(requested)) = requested {
        start.record.requests(&requested.files);
    }
    let outcome =
        Settings::load(settings).map_err(AnyFault::from).and_then(|settings| match settings.broker.address() {
            Some(broker) => by_broker::deliver(broker, state, annotations, image, &settings, &start),
            None => deliver(state, annotations, image, &settings, &mut start),
        });
    match outcome {
        Ok(Done::Delivered(hold)) => start.end(Ok(())).inspect_err(|_| {
            // If this fails, what holds them ends with the container, which does not start.
            let _ = hold.destroy();
        }),
        Ok(Done::Recorded(outcome)) => outcome,
        // The record of the call that delivered is the record of this start.
        Ok(Done::Nothing) => Ok(()),
        Err(error) => start.end(Err(error)),
    }
}

/// Delivers the requests without a broker. With one, no secret is in the memory of this process.
fn deliver(
    state: &State,
    annotations: Annotations,
    image: Option<ImageError>,
    settings: &Settings,
    start: &mut Start,
) -> Result<Done, AnyFault> {
    harden::lock_memory();
    start.trail = Trail::open(&settings.audit, settings.deliver.deadline)?;
    state.id()?;
    start.record.bundle = state.bundle()?.to_owned();
    let requests = start.decide(annotations, image.map(AnyFault::from), settings, Caller::Root, None)?;
    let Some(requests) = requests else { return Ok(Done::Nothing) };
    if requests.update.is_some() {
        return Err(HookError::NoBroker.into());
    }
    if requests.withdraw.is_some() {
        return Err(HookError::NoWithdrawal.into());
    }
    let spec = Spec::load(state.bundle()?);
    let Some(created) = Created::find(state, spec, requests.owner)? else { return Ok(Done::Nothing) };
    start.record.phase_ends("read");

    let secrets = resolve(&requests.files, settings, start)?;
    start.record.phase_ends("resolve");

    let label = created.spec.mount_label.as_deref();
    let options = DeliveryOptions { owner: created.owner, label, root: None, noswap: settings.deliver.noswap };
    let files = Files::render(&requests, &secrets)?;
    let delivery = Frozen::filled(&files.list(), &options, created.carried.placeholders())?;
    drop(files);
    drop(secrets);
    let hold = delivery.attach(&created.carried, &created.process, &created.spec)?;
    start.record.phase_ends("deliver");
    Ok(Done::Delivered(hold))
}

/// Fetches and unseals the secrets of all requests.
fn resolve<'a>(requests: &'a [Request], settings: &Settings, start: &mut Start) -> Result<Vec<Resolved<'a>>, AnyFault> {
    tls::install();
    let source = source::open_for(settings, &start.record.start)?;
    let keks = Keks::new(settings);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| HookError::Runtime { errno: error.into() })?;
    let deadline = Deadline::after(settings.deliver.deadline);
    let resolved = runtime.block_on(start.resolve(requests, &*source, &keks, settings, deadline));
    // Work that is still in progress must not delay the container.
    runtime.shutdown_background();
    Ok(resolved?)
}
