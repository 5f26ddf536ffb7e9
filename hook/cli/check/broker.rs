//! Which way a start takes, and how the broker is.

use std::time::Duration;

use crate::broker::client::Connection;
use crate::broker::live::summary::Summary;
use crate::broker::protocol::{Selection, Status};
use crate::broker::source::BreakerState;
use crate::cli::check::nri;
use crate::cli::finding::Finding;
use crate::cli::source::Choice;
use crate::cli::{is_root, refresh};
use crate::deliver::require_replace;
use crate::report;
use crate::settings::Settings;

const SUBJECT: &str = "broker";

const UPDATES: &str = "updates";

/// A broker that works answers at once.
const PATIENCE: Duration = Duration::from_secs(5);

/// Whether the hook asks a broker, and what that says of itself and of its NRI plugin. Only root is told.
pub(in crate::cli) fn findings(settings: &Settings) -> Vec<Finding> {
    let Some(socket) = settings.broker.socket.as_deref() else { return Vec::new() };
    let way = format!("the hook asks the one at {}", socket.display());
    if !is_root() {
        return vec![Finding::note(SUBJECT, format!("{way}, which tells its state to root alone"))];
    }
    match Connection::open(socket, PATIENCE).and_then(Connection::status) {
        Ok(status) => [of_status(&way, &status)].into_iter().chain(status.nri.as_ref().map(nri::finding)).collect(),
        Err(error) => vec![Finding::problem(SUBJECT, &error)],
    }
}

/// Whose settings have the grants, the credentials and the keys for a start.
pub(in crate::cli) enum Deciding {
    /// These: they name no broker, or it may use them, too.
    Own(Settings),
    /// The broker's, as these have no credentials.
    Broker(Settings),
    /// The broker's, which this process cannot read.
    Unknown,
}

impl Deciding {
    /// The settings that decide, and what is to be said of them.
    pub(in crate::cli) fn of(settings: Settings, choice: &Choice) -> (Deciding, Option<Finding>) {
        let Some(socket) = settings.broker.socket.as_deref() else { return (Deciding::Own(settings), None) };
        if settings.connect.is_some() || settings.op.is_some() {
            return (Deciding::Own(settings), None);
        }
        let unknown = |why: &str| {
            let detail = format!("grants, credentials and keys are the broker's, and are not tested: {why}");
            (Deciding::Unknown, Some(Finding::note("settings", detail)))
        };
        if !is_root() {
            return unknown("only root can read them");
        }
        // Why it does not answer is a finding of its own.
        let Ok(status) = Connection::open(socket, PATIENCE).and_then(Connection::status) else {
            return unknown("it does not answer");
        };
        match Settings::load(&status.settings) {
            Ok(theirs) => {
                let finding = Finding::ok("settings", format!("{}, of the broker", status.settings.display()));
                (Deciding::Broker(choice.over(theirs)), Some(finding))
            }
            // It may run in a container, with files of its own.
            Err(error) => unknown(&report::chain(&error)),
        }
    }

    /// These settings, if they can be read.
    pub(in crate::cli) fn settings(&self) -> Option<&Settings> {
        match self {
            Deciding::Own(settings) | Deciding::Broker(settings) => Some(settings),
            Deciding::Unknown => None,
        }
    }
}

/// Whether running containers can be updated, and which keep old files.
pub(in crate::cli) fn updates(settings: &Settings) -> Option<Finding> {
    let socket = settings.broker.socket.as_deref().filter(|_| is_root())?;
    if let Err(error) = require_replace(false) {
        return Some(Finding::note(UPDATES, error.to_string()));
    }
    let mounts = match require_replace(true) {
        Ok(()) => "",
        Err(_) => ", without mounts below /run/secrets",
    };
    let can = format!("the kernel can update the files of running containers{mounts}");
    // Whether it answers is said above.
    let listed = Connection::open(socket, PATIENCE).and_then(|broker| broker.running(Selection::default(), false));
    let (containers, count) = listed.unwrap_or_default();
    let failing: Vec<&Summary> = containers.iter().filter(|container| container.error.is_some()).collect();
    let containers = counted(count, "running container");
    Some(match failing.first() {
        None => Finding::ok(UPDATES, format!("{can}; the broker updates {containers}")),
        Some(first) => {
            let detail = format!("{} of {containers} keep old files: {}", failing.len(), refresh::describe(first));
            Finding::warning(UPDATES, detail, "`oci-secrets refresh` tries again, and lists all of them".into())
        }
    })
}

/// Which files a running container has, if the broker updates it.
pub(in crate::cli) fn running(id: &str, settings: &Settings) -> Option<Finding> {
    let socket = settings.broker.socket.as_deref().filter(|_| is_root())?;
    let selection = Selection { container: Some(id.to_owned()), reference: None };
    let listed = Connection::open(socket, PATIENCE).and_then(|broker| broker.running(selection, false));
    let container = listed.ok()?.0.pop()?;
    let detail = refresh::state(&container);
    Some(match container.error {
        None => Finding::ok(UPDATES, detail),
        Some(_) => Finding::warning(UPDATES, detail, "`oci-secrets refresh` tries again".into()),
    })
}

fn of_status(way: &str, status: &Status) -> Finding {
    let Status { version, settings, grants, source, .. } = status;
    let detail = format!("{way}: version {version}, {} of {}", counted(*grants, "grant"), settings.display());
    let Some(source) = source else {
        return Finding::ok(SUBJECT, format!("{detail}; no start has needed the source yet"));
    };
    let limit = source.requests_per_hour.map(|limit| format!(" of {limit}")).unwrap_or_default();
    let sealed = source.sealed.as_ref();
    let sealed = sealed.map(|sealed| format!(", {} for an outage", counted(sealed.values, "sealed value")));
    let detail = format!(
        "{detail}; {}{limit} requests to {} in an hour; cached: {}, {}{}",
        source.requests,
        source.server,
        counted(source.fresh, "value"),
        counted(source.ids, "id"),
        sealed.unwrap_or_default()
    );
    match &source.breaker {
        BreakerState::Closed { .. } => Finding::ok(SUBJECT, format!("{detail}; the circuit breaker is closed")),
        BreakerState::Open { cause } | BreakerState::Probing { cause } => {
            let detail = format!("{detail}; the circuit breaker is open: {cause}");
            Finding::warning(SUBJECT, detail, "starts fail until the source answers a probe".into())
        }
    }
}

fn counted(count: usize, of: &str) -> String {
    format!("{count} {of}{}", if count == 1 { "" } else { "s" })
}
