//! Which way a start takes, and how the broker is.

use std::time::Duration;

use crate::broker::client::Connection;
use crate::broker::live::summary::Summary;
use crate::broker::protocol::{Selection, Status};
use crate::broker::revoked::Revocation;
use crate::broker::source::BreakerState;
use crate::cli::check::{held, nri};
use crate::cli::finding::Finding;
use crate::cli::source::Choice;
use crate::cli::{is_root, refresh, revoke};
use crate::deliver::require_replace;
use crate::fault::{AnyFault, Class};
use crate::report;
use crate::settings::Settings;

const SUBJECT: &str = "broker";

const UPDATES: &str = "updates";

const REVOKED: &str = "revoked";

/// A broker that works answers at once.
const PATIENCE: Duration = Duration::from_secs(5);

/// Whether the hook asks a broker, and the state of the broker and of its NRI plugin, which only root gets.
pub(in crate::cli) fn findings(settings: &Settings) -> Vec<Finding> {
    let Some(broker) = settings.broker.address() else { return Vec::new() };
    let way = format!("the hook asks the one at {}", broker.socket.display());
    if !is_root() {
        return vec![Finding::note(SUBJECT, format!("{way}, which returns its state to root alone"))];
    }
    match Connection::open(broker, PATIENCE).and_then(Connection::status) {
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
        let Some(broker) = settings.broker.address() else { return (Deciding::Own(settings), None) };
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
        let Ok(status) = Connection::open(broker, PATIENCE).and_then(Connection::status) else {
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
    let broker = settings.broker.address().filter(|_| is_root())?;
    if let Err(error) = require_replace(false) {
        return Some(Finding::note(UPDATES, error.to_string()));
    }
    let mounts = match require_replace(true) {
        Ok(()) => "",
        Err(_) => ", without mounts below /run/secrets",
    };
    let can = format!("the kernel can update the files of running containers{mounts}");
    // Whether it answers is said above.
    let live = Selection { live: true, ..Selection::default() };
    let listed = Connection::open(broker, PATIENCE).and_then(|broker| broker.running(live, false));
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

/// What is revoked, which only root gets.
pub(in crate::cli) fn revocations(settings: &Settings) -> Vec<Revocation> {
    let broker = settings.broker.address().filter(|_| is_root());
    let ask = |broker| Connection::open(broker, PATIENCE).ok()?.revocations(None).ok();
    broker.and_then(ask).unwrap_or_default().0
}

/// What is revoked, and which containers have files that should not be there.
pub(in crate::cli) fn withdrawn(settings: &Settings) -> Vec<Finding> {
    let Some(broker) = settings.broker.address().filter(|_| is_root()) else { return Vec::new() };
    // Whether it answers is said above.
    let ask = || Connection::open(broker.clone(), PATIENCE);
    let revocations = match ask().map_err(AnyFault::from).and_then(|broker| broker.revocations(None)) {
        Ok((revocations, _)) => revocations.iter().map(|one| Finding::note(REVOKED, revoke::describe(one))).collect(),
        Err(error) if error.class() == Class::Unavailable => Vec::new(),
        Err(error) => vec![Finding::problem(REVOKED, &*error)],
    };
    let running = ask().and_then(|broker| broker.running(Selection::default(), false)).unwrap_or_default().0;
    let kept = running.iter().filter(|one| !one.live && one.error.is_some()).map(|one| {
        let advice = "stop the container; the broker tries again in each period".to_owned();
        Finding::warning(REVOKED, refresh::describe(one), advice)
    });
    let ungranted = running.iter().filter_map(of_removed_grant);
    revocations.into_iter().chain(kept).chain(ungranted).collect()
}

/// A container that has files which the settings would not give it now.
fn of_removed_grant(container: &Summary) -> Option<Finding> {
    let id = refresh::short_id(&container.container);
    let detail = format!("container {id} keeps files of a grant that was removed: {}", container.ungranted.as_ref()?);
    let advice = format!("`oci-secrets revoke --container {id} --reason …` removes them");
    Some(Finding::warning("grants", detail, advice))
}

/// Which files a running container has, if the broker has delivered them.
pub(in crate::cli) fn running(id: &str, settings: &Settings) -> Vec<Finding> {
    let found = state_of(id, settings).into_iter();
    let of_one = |container: Summary| [Some(of_state(&container)), of_removed_grant(&container), held(&container)];
    found.flat_map(of_one).flatten().collect()
}

/// Whether processes of a container still have files that are not its current ones.
fn held(container: &Summary) -> Option<Finding> {
    let processes = held::processes(container.pid);
    let (first, rest) = processes.split_first()?;
    let rest = if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
    Some(Finding::note(UPDATES, format!("files of earlier generations are open in process {first}{rest}")))
}

fn state_of(id: &str, settings: &Settings) -> Option<Summary> {
    let broker = settings.broker.address().filter(|_| is_root())?;
    let selection = Selection { container: Some(id.to_owned()), ..Selection::default() };
    let listed = Connection::open(broker, PATIENCE).and_then(|broker| broker.running(selection, false));
    listed.ok()?.0.pop()
}

fn of_state(container: &Summary) -> Finding {
    let detail = refresh::state(container);
    match (&container.error, container.live) {
        (None, _) => Finding::ok(UPDATES, detail),
        (Some(_), true) => Finding::warning(UPDATES, detail, "`oci-secrets refresh` tries again".into()),
        (Some(_), false) => Finding::warning(UPDATES, detail, "stop the container".into()),
    }
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
