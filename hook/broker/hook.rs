//! The hook: one container start.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use self::call::Call;
use self::error::HookError;
use crate::audit::{Record, Trail};
use crate::break_glass;
use crate::container::{Process, Request, RequestError, Requests, Spec, State};
use crate::deliver::{Carried, DeliveryOptions, Frozen, preflight};
use crate::fault::AnyFault;
use crate::resolve::Resolved;
use crate::seal::kek::Keks;
use crate::settings::{Grants, Settings};
use crate::source::{self, Source};
use crate::token::static_token::Use;
use crate::{harden, report, tls};

mod call;
mod error;

/// The name of the program in messages.
pub const PROGRAM: &str = "oci-secrets-hook";

/// Runs the hook with the command line and the standard input of this process.
pub fn run() -> ExitCode {
    report::own_up_to_bugs(PROGRAM);
    if let Err(source) = harden::harden() {
        return report::failed(PROGRAM, None, &HookError::Environment { source });
    }
    let settings = match Call::parse(std::env::args_os().skip(1)) {
        Ok(Call::Start { settings }) => settings,
        Ok(Call::Print(text)) => return call::print(&text),
        Err(error) => return report::failed(PROGRAM, None, &error),
    };
    let state = match State::receive(io::stdin()) {
        Ok(state) => state,
        Err(error) => return report::failed(PROGRAM, None, &error),
    };
    match start(&state, &settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report::failed(PROGRAM, state.id().ok(), &*error),
    }
}

/// One container start: without requests nothing happens, otherwise the container gets all of its secrets, or an error and no secret.
fn start(state: &State, settings: &Path) -> Result<(), AnyFault> {
    if state.is_sandbox() {
        return Ok(());
    }
    let Some(requests) = Requests::from_annotations(state.annotations()).transpose() else {
        return Ok(());
    };
    harden::lock_memory();
    let mut record = Record::begin(PROGRAM);
    let mut trail = Trail::default();
    let outcome = deliver(state, requests, settings, &mut record, &mut trail);
    match &outcome {
        Ok(()) => record.delivered(),
        Err(error) => record.refused(&**error),
    }
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
    requests: Result<Requests, RequestError>,
    settings: &Path,
    record: &mut Record,
    trail: &mut Trail,
) -> Result<(), AnyFault> {
    let settings = Settings::load(settings)?;
    *trail = Trail::open(&settings.audit, settings.deliver.deadline)?;
    record.container = state.id()?.to_owned();
    record.bundle = state.bundle()?.to_owned();
    let requests = requests?;
    record.requests(&requests.files);
    record.annotations = granted(&settings.grants, &requests, state.annotations())?;
    let process = Process::open(state.pid()?)?;
    let spec = Spec::load(&record.bundle)?;
    preflight(&spec)?;
    let carried = Carried::find(&process, &spec.rootfs)?;
    let owner = process.host_owner(requests.owner.or(spec.user).ok_or(HookError::NoOwner)?)?;
    record.phase_ends("read");

    let secrets = resolve(&requests.files, &settings, record)?;
    record.resolved(&secrets);
    warn_of_trial_keks(&secrets, record);
    record.phase_ends("resolve");

    let options =
        DeliveryOptions { owner, label: spec.mount_label.as_deref(), noswap: settings.deliver.noswap };
    let files: Vec<_> = secrets.iter().map(Resolved::file).collect();
    let delivery = Frozen::filled(&files, &options, carried)?;
    drop(secrets);
    delivery.attach(&process, &spec)?;
    record.phase_ends("deliver");
    Ok(())
}

/// The annotations that the grants of all requests depend on.
fn granted(
    grants: &Grants,
    requests: &Requests,
    annotations: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, AnyFault> {
    let mut used = BTreeMap::new();
    for request in &requests.files {
        let grant = grants.decide(&request.reference, annotations, requests.owner.is_some())?;
        let keys = grant.annotations().filter_map(|(key, _)| annotations.get_key_value(key));
        used.extend(keys.map(|(key, value)| (key.clone(), value.clone())));
    }
    Ok(used)
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
    // A thread that still waits for a name server must not delay the container.
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
