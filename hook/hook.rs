//! The hook: one container start.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::audit::{Record, Trail};
use crate::break_glass::ending;
use crate::break_glass::fallback::{self, Taken, Unanswered, normal_deadline};
use crate::break_glass::rotation::{self, Findings};
use crate::container::{Owner, Process, Request, RequestError, Requests, Spec, State};
use crate::deliver::{Carried, Frozen, Tmpfs, TmpfsOptions, preflight};
use crate::errno::{Errno, SyscallError};
use crate::excerpt::Excerpt;
use crate::fault::{AnyFault, Class, Fault};
use crate::resolve::{Outcome, ResolveError, Resolved, resolve, resolve_each};
use crate::retry::Deadline;
use crate::seal::kek::Keks;
use crate::settings::{Grants, SETTINGS_PATH, Settings, StaticToken};
use crate::token::static_token::{Shown, Use};
use crate::{break_glass, harden, report, source, tls};

/// How the hook calls itself in messages.
pub const PROGRAM: &str = "oci-secrets-hook";

const HELP: &str = "\
OCI createRuntime hook: reads a container's state on standard input and delivers the
secrets that its annotations request as files below /run/secrets.

Usage: oci-secrets-hook [--settings PATH] < state.json

  --settings PATH  the settings file [default: /etc/oci-secrets/settings.toml]
  --version        print the version
  --help           print this help
";

/// Runs the hook that the process was started as.
pub fn run() -> ExitCode {
    report::install_panic_hook(PROGRAM);
    if let Err(source) = harden::harden() {
        return report::failed(PROGRAM, None, &HookError::Environment { source });
    }
    let settings = match Call::parse(std::env::args_os().skip(1)) {
        Ok(Call::Start { settings }) => settings,
        Ok(Call::Print(text)) => return print(&text),
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

/// One container start: nothing for a container that asks for nothing, else all of its secrets or an error.
fn start(state: &State, settings: &Path) -> Result<(), AnyFault> {
    if state.is_sandbox() {
        return Ok(());
    }
    let requests = Requests::from_annotations(state.annotations());
    let Some(requests) = requests.transpose() else {
        return Ok(());
    };
    harden::lock_memory();
    let mut record = Record::begin(PROGRAM);
    let mut trail = Trail::default();
    let outcome = deliver_to(state, requests, settings, &mut record, &mut trail);
    match &outcome {
        Ok(()) => record.delivered(),
        Err(error) => record.refused(&**error),
    }
    let Err(error) = trail.write(&record) else {
        return outcome;
    };
    // A start that cannot be recorded must not happen; a refusal stands either way. The system log has what it came to.
    let error = outcome.err().unwrap_or(error.into());
    record.refused(&*error);
    let _ = Trail::default().write(&record);
    Err(error)
}

/// Everything between the requests and their delivery. What can be said of a refusal is recorded as soon as it is known.
fn deliver_to(
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
    let owner = process.host_owner(owner(&requests, &spec)?)?;
    record.phase_ends("read");

    let secrets = secrets(&requests.files, &settings, record)?;
    record.resolved(&secrets);
    warn_of_keks_for_trials(state, &secrets);
    record.phase_ends("resolve");

    let delivery = fill(&secrets, owner, carried, &spec, &settings)?;
    drop(secrets);
    delivery.attach(&process, &spec)?;
    record.phase_ends("deliver");
    Ok(())
}

/// The annotations on whose account every request was granted.
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

/// Who shall own the files, in the container's ids.
fn owner(requests: &Requests, spec: &Spec) -> Result<Owner, HookError> {
    requests.owner.or(spec.user).ok_or(HookError::NoOwner)
}

/// The normal way to secrets; while an emergency is open, what it holds stands in for what nobody answers for.
fn secrets<'a>(
    requests: &'a [Request],
    settings: &Settings,
    record: &mut Record,
) -> Result<Vec<Resolved<'a>>, AnyFault> {
    // What is wrong with an emergency must not keep the normal way from being tried.
    let emergency = ending::find(settings).unwrap_or_else(|error| {
        report::warn(PROGRAM, &report::chain(&error));
        None
    });
    tls::install();
    let source = source::open_for(settings, &record.start)?;
    let keks = Keks::new(settings);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| HookError::Runtime { errno: error.into() })?;
    let (plaintext, deadline) = (settings.deliver.plaintext, settings.deliver.deadline);
    let outcome = runtime.block_on(async {
        if emergency.is_none() {
            let resolved = resolve(requests, &*source, &keks, plaintext, Deadline::after(deadline)).await;
            return resolved.map(|secrets| (secrets, Vec::new()));
        }
        let deadline = Deadline::after(normal_deadline(deadline));
        sort(resolve_each(requests, &*source, &keks, plaintext, deadline).await)
    });
    // What is still under way must not hold up the container.
    runtime.shutdown_background();
    if let Some(conditions) = &settings.static_token
        && let Some(shown) = source.static_token()
    {
        record.static_token = Some(look_at(&shown, conditions, &record.container));
    }
    let (mut secrets, unanswered) = outcome?;
    let findings = rotation::check(&secrets, settings.break_glass.rotation.then, settings)?;
    tell(&findings, &record.container);
    if !unanswered.is_empty() {
        secrets.extend(kept(unanswered, settings, record)?);
    }
    Ok(secrets)
}

/// How a token that stays the same was used for this start. Whoever looks after the host is told what was not expected.
fn look_at(shown: &Shown, conditions: &StaticToken, container: &str) -> Use {
    let used = Use::of(shown, conditions);
    for anomaly in used.anomalies() {
        report::warn(PROGRAM, &format!("container {container}: the token of {} was used: {anomaly}", shown.origin));
    }
    used
}

/// Secrets that came, and requests that nobody answered. Any other failure stands, whatever an emergency holds.
fn sort(outcomes: Vec<Outcome<'_>>) -> Result<(Vec<Resolved<'_>>, Vec<Unanswered<'_>>), ResolveError> {
    let (mut secrets, mut unanswered) = (Vec::new(), Vec::new());
    for (request, outcome) in outcomes {
        match outcome {
            Ok(secret) => secrets.extend(secret),
            Err(failure) if failure.class() == Class::Unavailable => unanswered.push((request, failure)),
            Err(failure) => return Err(failure),
        }
    }
    Ok((secrets, unanswered))
}

/// What an emergency holds for requests that nobody answered.
fn kept<'a>(
    unanswered: Vec<Unanswered<'a>>,
    settings: &Settings,
    record: &mut Record,
) -> Result<Vec<Resolved<'a>>, AnyFault> {
    let taken = fallback::take(unanswered, &record.container, &record.bundle, settings)?;
    let Taken { secrets, account } = match taken {
        fallback::Answer::Taken(taken) => taken,
        fallback::Answer::Over(failure) => return Err(failure.into()),
    };
    for secret in &secrets {
        let (id, reference, reason) = (&record.container, &secret.request.reference, Excerpt(&account.reason));
        let text = format!("container {id}: break-glass: {reference} comes from emergency {} ({reason})", account.id);
        report::warn(PROGRAM, &text);
    }
    record.emergency = Some(account.id);
    Ok(secrets)
}

/// Tells the system log what is owed for secrets that an emergency used.
fn tell(findings: &Findings, container: &str) {
    for reference in &findings.changed {
        report::warn(PROGRAM, &format!("{reference} is changed: nothing is owed for it any longer"));
    }
    for (reference, due) in &findings.owed {
        let due = break_glass::time(due);
        report::warn(
            PROGRAM,
            &format!("container {container}: {reference} was used in an emergency: change it before {due}"),
        );
    }
    if let Some(error) = &findings.unrecorded {
        report::warn(PROGRAM, &format!("what is changed stays in the ledger: {}", report::chain(error)));
    }
}

fn fill(
    secrets: &[Resolved<'_>],
    owner: Owner,
    carried: Carried,
    spec: &Spec,
    settings: &Settings,
) -> Result<Frozen, AnyFault> {
    let options = TmpfsOptions {
        files: secrets.len(),
        bytes: secrets.iter().map(|secret| secret.secret.expose().len()).sum(),
        label: spec.mount_label.as_deref(),
        noswap: settings.deliver.noswap,
    };
    let tmpfs = Tmpfs::create(&options, carried)?;
    for secret in secrets {
        tmpfs.write(&secret.request.file, &secret.secret, owner)?;
    }
    Ok(tmpfs.freeze()?)
}

fn warn_of_keks_for_trials(state: &State, secrets: &[Resolved<'_>]) {
    let mut keks: Vec<&str> =
        secrets.iter().filter_map(|s| s.kek.as_ref()).filter(|kek| kek.kind().for_trials).map(|k| k.as_str()).collect();
    keks.sort_unstable();
    keks.dedup();
    for kek in keks {
        let id = state.id().unwrap_or_default();
        report::warn(PROGRAM, &format!("container {id}: {kek} is a key file on this host, for trials and tests only"));
    }
}

/// What the command line asks for.
enum Call {
    Start { settings: PathBuf },
    Print(String),
}

impl Call {
    fn parse(mut arguments: impl Iterator<Item = OsString>) -> Result<Call, HookError> {
        let mut settings = PathBuf::from(SETTINGS_PATH);
        while let Some(argument) = arguments.next() {
            match argument.to_str() {
                Some("--settings") => settings = arguments.next().map(PathBuf::from).ok_or(HookError::NoValue)?,
                Some("--version") => return Ok(Call::Print(format!("{PROGRAM} {}\n", env!("CARGO_PKG_VERSION")))),
                Some("--help") => return Ok(Call::Print(HELP.to_owned())),
                _ => return Err(HookError::Argument { found: argument.to_string_lossy().into_owned() }),
            }
        }
        Ok(Call::Start { settings })
    }
}

fn print(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report::failed(PROGRAM, None, &HookError::Output { errno: error.into() }),
    }
}

/// Why the hook fails before it has a start to refuse, or for want of an owner.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are named for what they hold")]
pub enum HookError {
    /// An argument that the hook does not have.
    #[error("unknown argument {found:.120?}")]
    Argument { found: String },
    /// `--settings` at the end of the command line.
    #[error("--settings needs a path")]
    NoValue,
    /// The inherited environment cannot be removed.
    #[error("refusing to go on with an environment of others")]
    Environment { source: SyscallError },
    /// Neither the spec nor an annotation names an owner.
    #[error("cannot tell who shall own the secrets: the spec has no process.user")]
    NoOwner,
    /// Standard output.
    #[error("cannot write the output")]
    Output {
        #[source]
        errno: Errno,
    },
    /// The asynchronous runtime.
    #[error("cannot prepare for the network")]
    Runtime {
        #[source]
        errno: Errno,
    },
}

impl Fault for HookError {
    fn class(&self) -> Class {
        match self {
            HookError::Argument { .. } | HookError::NoValue => Class::CommandLine,
            HookError::NoOwner => Class::Data,
            HookError::Environment { .. } | HookError::Output { .. } | HookError::Runtime { .. } => Class::Kernel,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            HookError::Argument { .. } | HookError::NoValue => "`oci-secrets-hook --help` shows the arguments",
            HookError::Environment { .. } => "give the hook `env` with PATH alone, as config/hooks.d has it",
            HookError::NoOwner => {
                "set process.user in the spec, or request an owner with the annotation run.secrets.owner"
            }
            HookError::Output { .. } | HookError::Runtime { .. } => return None,
        };
        Some(hint.to_owned())
    }
}
