//! The hook: one container start.

use std::io;
use std::path::Path;
use std::process::ExitCode;

use self::annotations::{check_annotations, granted, of_image, requests};
use self::call::Call;
use self::error::HookError;
use crate::audit::{Record, Trail};
use crate::break_glass;
use crate::container::{Annotations, ImageError, Process, Request, Requests, Spec, State};
use crate::deliver::{Carried, CarryError, DeliveryOptions, Frozen, preflight};
use crate::fault::AnyFault;
use crate::resolve::Resolved;
use crate::seal::kek::Keks;
use crate::settings::Settings;
use crate::source::{self, Source};
use crate::token::static_token::Use;
use crate::{harden, report, tls};

mod annotations;
mod call;
mod error;

pub use self::call::PROGRAM;

/// Runs the hook with the command line and the standard input of this process.
pub fn run() -> ExitCode {
    report::install_panic_hook(PROGRAM);
    if let Err(source) = harden::harden() {
        return report::failed(PROGRAM, None, &HookError::Environment { source });
    }
    let call = match Call::parse(std::env::args_os().skip(1)) {
        Ok(Call::Print(text)) => return call::print(&text),
        Ok(call) => call,
        Err(error) => return report::failed(PROGRAM, None, &error),
    };
    let state = match State::receive(io::stdin()) {
        Ok(state) => state,
        Err(error) => return report::failed(PROGRAM, None, &error),
    };
    let outcome = match &call {
        Call::Start { settings } => start(&state, settings),
        _ => check_annotations(&state),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report::failed(PROGRAM, state.id().ok(), &*error),
    }
}

/// One container start: without requests nothing happens, otherwise the container gets all of its secrets, or an error and no secret.
fn start(state: &State, settings: &Path) -> Result<(), AnyFault> {
    let annotations = Annotations::new(state.annotations().clone());
    if matches!(Requests::from_annotations(&annotations), Ok(None)) {
        return Ok(());
    }
    let (annotations, image) = of_image(annotations, state);
    if annotations.is_sandbox() {
        return Ok(());
    }
    harden::lock_memory();
    let mut record = Record::begin(PROGRAM);
    record.container = state.id().unwrap_or_default().to_owned();
    let mut trail = Trail::default();
    let outcome = match deliver(state, annotations, image, settings, &mut record, &mut trail) {
        // The record of the call that delivered is the record of this start.
        Ok(Done::Nothing) => return Ok(()),
        Ok(Done::Delivered) => {
            record.delivered();
            Ok(())
        }
        Err(error) => {
            record.refused(&*error);
            Err(error)
        }
    };
    let Err(unrecorded) = trail.write(&record) else {
        return outcome;
    };
    // A start that cannot be recorded is refused, which is recorded wherever that is possible.
    let error = outcome.err().unwrap_or(unrecorded.into());
    record.refused(&*error);
    if trail.write(&record).is_err() {
        let _ = Trail::default().write(&record);
    }
    Err(error)
}

/// Delivers the requests. The record is filled on the way, so that the record of a refusal shows how far the start came.
fn deliver(
    state: &State,
    annotations: Annotations,
    image: Option<ImageError>,
    settings: &Path,
    record: &mut Record,
    trail: &mut Trail,
) -> Result<Done, AnyFault> {
    let settings = Settings::load(settings)?;
    *trail = Trail::open(&settings.audit, settings.deliver.deadline)?;
    state.id()?;
    record.bundle = state.bundle()?.to_owned();
    if let Ok(Some(requested)) = Requests::from_annotations(&annotations) {
        record.requests(&requested.files);
    }
    let (annotations, requests) = requests(annotations, image, settings.deliver.image_annotations)?;
    let Some(requests) = requests else { return Ok(Done::Nothing) };
    record.requests(&requests.files);
    record.annotations = granted(&settings.grants, &requests, &annotations)?;
    let process = Process::open(state.pid()?)?;
    let spec = Spec::load(&record.bundle)?;
    preflight(&spec)?;
    let carried = match Carried::find(&process, &spec.rootfs) {
        Err(CarryError::Delivered) if spec.hooks.deliveries().len() > 1 => return Ok(Done::Nothing),
        found => found?,
    };
    let owner = process.host_owner(requests.owner.or(spec.user).ok_or(HookError::NoOwner)?)?;
    record.phase_ends("read");

    let secrets = resolve(&requests.files, &settings, record)?;
    record.resolved(&secrets);
    warn_of_trial_keks(&secrets, record);
    record.phase_ends("resolve");

    let options = DeliveryOptions { owner, label: spec.mount_label.as_deref(), noswap: settings.deliver.noswap };
    let files: Vec<_> = secrets.iter().map(Resolved::file).collect();
    let delivery = Frozen::filled(&files, &options, carried)?;
    drop(secrets);
    delivery.attach(&process, &spec)?;
    record.phase_ends("deliver");
    Ok(Done::Delivered)
}

/// What a call of the hook came to.
enum Done {
    Delivered,
    /// There is no request for this container, or another entry of the spec's hooks has delivered.
    Nothing,
}

/// Fetches and unseals the secrets of all requests.
fn resolve<'a>(
    requests: &'a [Request],
    settings: &Settings,
    record: &mut Record,
) -> Result<Vec<Resolved<'a>>, AnyFault> {
    tls::install();
    let source = source::open_for(settings, &record.start)?;
    let keks = Keks::new(settings);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| HookError::Runtime { errno: error.into() })?;
    let resolved = runtime.block_on(break_glass::resolve(requests, &*source, &keks, settings, record));
    // Work that is still in progress must not delay the container.
    runtime.shutdown_background();
    record_static_token(&*source, settings, record);
    Ok(resolved?)
}

/// Notes how a static token was used, and logs what the settings do not expect.
fn record_static_token(source: &dyn Source, settings: &Settings, record: &mut Record) {
    if let Some(conditions) = &settings.static_token
        && let Some(shown) = source.static_token()
    {
        let used = Use::of(&shown, conditions);
        for anomaly in used.anomalies() {
            let text = format!("container {}: the token of {} was used: {anomaly}", record.container, shown.origin);
            report::warn(PROGRAM, &text);
        }
        record.static_token = Some(used);
    }
}

fn warn_of_trial_keks(secrets: &[Resolved<'_>], record: &Record) {
    let mut keks: Vec<&str> =
        secrets.iter().filter_map(|s| s.kek.as_ref()).filter(|kek| kek.kind().for_trials).map(|k| k.as_str()).collect();
    keks.sort_unstable();
    keks.dedup();
    for kek in keks {
        let id = &record.container;
        report::warn(PROGRAM, &format!("container {id}: {kek} is a key file on this host, for trials and tests only"));
    }
}
