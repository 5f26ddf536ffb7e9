//! The story of one start, on the broker's side.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::try_join;
use tokio::time::Instant;

use super::blocking::blocking;
use super::connection::Connection;
use super::identity::Identity;
use super::live::{self, Asked, Live, State};
use super::loaded::Loaded;
use super::peer::Peer;
use super::protocol::{Answer, Found, Place, Receipt, Refusal, Report, StartRequest, is_start_id};
use super::revoked::{Revocations, Value};
use super::source::Fetches;
use super::start_error::{Awaited, RequestFault, Withheld};
use crate::audit::Trail;
use crate::container::{Annotations, HOOK_NAME, Owner, Process, Request, Requests};
use crate::deliver::{DeliveryOptions, Frozen, Hold, Placeholders};
use crate::fault::{AnyFault, Fault};
use crate::resolve::{Files, Resolved};
use crate::retry::Deadline;
use crate::seal::kek::Keks;
use crate::settings::Settings;
use crate::start::Start;

/// The part of the hook's patience that is left for sending, attaching and recording: one in so many.
const MARGIN: u32 = 10;
const MARGIN_MAX: Duration = Duration::from_millis(500);

/// How long a hook may take to report, beyond its own deadline.
const REPORT_GRACE: Duration = Duration::from_secs(1);

/// What a start came to, as metrics count it.
pub type Outcome = &'static str;

/// A container that may have a delivery.
struct Container {
    process: Process,
    /// Who will own the files, in ids of the host.
    owner: Owner,
    /// Who will own the directories, if that is not root of the host.
    root: Option<Owner>,
    label: Option<String>,
    places: Placeholders,
}

/// A delivery that was filled, and the names of its files.
struct Filled {
    frozen: Frozen,
    hold: Arc<Hold>,
    files: Vec<String>,
    /// The container.
    state: State,
    process: Process,
}

/// Serves one request to its end: whatever happens to the hook, there is one record.
pub async fn serve(
    connection: &Connection,
    peer: &Peer,
    request: StartRequest,
    loaded: &Loaded<'_>,
    live: &Live,
) -> Outcome {
    let patience = Duration::from_millis(request.milliseconds).min(loaded.settings.deliver.deadline + MARGIN_MAX);
    let until = Instant::now() + patience;
    let mut start = Start::begin(HOOK_NAME, &request.container);
    let filled = match fill(connection, peer, request, loaded, (patience, until), &mut start).await {
        Ok(Some(filled)) => filled,
        Ok(None) => {
            // A hook that is gone has started nothing.
            let _ = connection.send(&Answer::Nothing, None).await;
            return "nothing";
        }
        Err(error) => return refuse(connection, peer, start, error).await,
    };
    deliver(connection, peer, filled, start, until, (loaded, live)).await
}

/// Records that there is no delivery, and says why.
async fn refuse(connection: &Connection, peer: &Peer, start: Start, error: AnyFault) -> Outcome {
    let id = start.record.start.clone();
    let error = blocking(move || start.refuse(error)).await;
    // A hook that is gone starts nothing.
    match connection.send(&Answer::Refused(refusal(peer, id, &*error)), None).await {
        Ok(()) => "refused",
        Err(_) => "lost",
    }
}

/// The error as this peer may know it.
fn refusal(peer: &Peer, start: String, error: &dyn Fault) -> Refusal {
    match peer.is_root() || error.is_for_users() {
        true => Refusal::of(error),
        false => Refusal::of(&Withheld { class: error.class(), start }),
    }
}

/// Decides, resolves while the hook finds the container, and fills. `None` if the annotations request nothing for this container.
async fn fill(
    connection: &Connection,
    peer: &Peer,
    request: StartRequest,
    loaded: &Loaded<'_>,
    (patience, until): (Duration, Instant),
    start: &mut Start,
) -> Result<Option<Filled>, AnyFault> {
    let settings = loaded.settings;
    let (audit, deadline) = (settings.audit.clone(), settings.deliver.deadline);
    let revoked = settings.updates.revoked.to_path_buf();
    let (trail, revocations) = blocking(move || (Trail::open(&audit, deadline), Revocations::read(&revoked))).await;
    // For the record of a start that fails before anything decides about them.
    if let Ok(Some(requested)) = Requests::from_annotations(&Annotations::new(request.annotations.clone())) {
        start.record.requests(&requested.files);
    }
    start.trail = trail?;
    start.record.start = valid_id(request.start)?;
    if let Some(refusal) = request.unusable {
        return Err(refusal.into());
    }
    start.record.bundle = request.bundle;
    let asked = (request.annotations.clone(), request.image.clone());
    let (annotations, image) = request.image.of(request.annotations);
    let deadline = Deadline::after(deadline.min(patience.saturating_sub((patience / MARGIN).min(MARGIN_MAX))));
    let Identity { pod, unknown } = loaded.identity(peer.uid, &request.container, &annotations, deadline).await;
    let caller = loaded.caller(peer.uid, pod.as_ref());
    let Some(requests) = start.decide(annotations, image, settings, caller, unknown)? else { return Ok(None) };
    let revocations = revocations?;
    revocations.check_container(&start.record.container)?;
    start.record.phase_ends("read");

    let keks = loaded.keks();
    let resolve = resolve(start, &requests.files, &revocations, (loaded, &keks, peer.uid), deadline);
    let resolve = resolve.map(|secrets| Ok(secrets.inspect_err(|error| _ = loaded.failed(&**error))));
    // What is wrong with the container is the reason, and waits for no secret.
    let found = container(connection, peer, &requests, settings, until);
    let (secrets, Container { process, owner, root, label, places }) = try_join(resolve, found).await?;
    let secrets = secrets?;
    secrets.iter().try_for_each(|one| revocations.check(Value::of(one)))?;
    start.record.phase_ends("resolve");

    let options = DeliveryOptions { owner, label: label.as_deref(), root, noswap: settings.deliver.noswap };
    let rendered = Files::render(&requests, &secrets)?;
    let contents = rendered.list();
    let filled = Frozen::filled(&contents, &options, places)?;
    let (frozen, hold) = filled.hold().map_err(|source| RequestFault::Hold { source })?;
    let files = contents.iter().map(|(name, _)| name.to_string()).collect();
    let (annotations, image) = asked;
    let asked = Asked { annotations, image, uid: peer.uid, owner, root, label };
    let (delivery, readings) = (frozen.id()?, live::readings(&requests.files, &secrets));
    let state = State::new(&start.record, asked, &process, delivery, readings, requests.withdraw)?;
    Ok(Some(Filled { frozen, hold: Arc::new(hold), files, state, process }))
}

/// Receives what the hook has found of the container, and takes hold of its process.
async fn container(
    connection: &Connection,
    peer: &Peer,
    requests: &Requests,
    settings: &Settings,
    until: Instant,
) -> Result<Container, AnyFault> {
    let received = connection.receive::<Found>(until).await;
    let (found, process) = received.map_err(|error| RequestFault::of(&error, Awaited::Container))?;
    let (user, label, places) = match found {
        Found::Container { user, label, places } => (user, label, places),
        Found::Refused(refusal) => return Err(refusal.into()),
    };
    if requests.update.is_some() {
        live::require(settings, !places.is_empty())?;
    }
    let process = peer.container(process.ok_or(RequestFault::NoProcess)?)?;
    let owner = requests.owner.or(user.map(Owner::from)).ok_or(RequestFault::NoOwner)?;
    let owner = process.host_owner(owner)?;
    // To the container's users, the directories belong to their root, as in a tmpfs that the user's own hook makes.
    let root = if peer.is_root() { None } else { process.foreign_root()? };
    Ok(Container { owner, root, label, places: Place::placeholders(places)?, process })
}

/// Fetches and unseals the secrets. What is revoked may come from the source alone, which knows whether there is a newer version.
async fn resolve<'r>(
    start: &mut Start,
    requests: &'r [Request],
    revocations: &Revocations,
    (loaded, keks, uid): (&Loaded<'_>, &Keks<'_>, u32),
    deadline: Deadline,
) -> Result<Vec<Resolved<'r>>, AnyFault> {
    let (settings, id) = (loaded.settings, start.record.start.clone());
    if revocations.name_any(requests.iter().map(|request| request.reference.as_str())) {
        let source = loaded.source.for_update(settings, &id, &Fetches::begin())?.paid_by(loaded.payer(uid));
        return Ok(start.resolve_of_source(requests, &source, keks, settings, deadline).await?);
    }
    let source = loaded.source.for_start(settings, &id)?.paid_by(loaded.payer(uid));
    Ok(start.resolve(requests, &source, keks, settings, deadline).await?)
}

/// Sends a delivery, waits for what becomes of it, and records that. Files that are not attached, or not recorded, are destroyed
/// wherever they are.
async fn deliver(
    connection: &Connection,
    peer: &Peer,
    filled: Filled,
    mut start: Start,
    until: Instant,
    (loaded, live): (&Loaded<'_>, &Live),
) -> Outcome {
    let answer = Answer::Delivery { files: filled.files };
    let sent = connection.send(&answer, Some(filled.frozen.mount())).await;
    drop(filled.frozen);
    let report = match sent {
        Ok(()) => connection.receive(until + REPORT_GRACE).await.map(|(report, _)| report),
        Err(error) => Err(error),
    };
    start.record.phase_ends("deliver");
    let has_hook_refused = matches!(report, Ok(Report::Refused(_)));
    let (outcome, refused) = match report {
        Ok(Report::Attached) if !connection.is_over() => (Ok(()), "refused"),
        Ok(Report::Refused(refusal)) => (Err(refusal.into()), "refused"),
        Ok(Report::Attached) => (Err(RequestFault::HookEnded.into()), "lost"),
        Err(error) => (Err(RequestFault::of(&error, Awaited::Files).into()), "lost"),
    };
    let id = start.record.start.clone();
    let outcome = match outcome {
        Ok(()) => live.register(&filled.state, &filled.process, Arc::clone(&filled.hold)).await.map_err(AnyFault::from),
        refused => refused,
    };
    let (state, revoked) = (filled.state, loaded.settings.updates.revoked.to_path_buf());
    let end = move || {
        // Whatever is revoked from now on is removed from a container that is registered.
        let checked = outcome.and_then(|()| Ok(state.check(&Revocations::read(&revoked)?)?));
        start.end(checked)
    };
    match blocking(end).await {
        Ok(()) => {
            let _ = connection.send(&Receipt::Recorded, None).await;
            "delivered"
        }
        Err(error) => {
            live.forget(&id);
            // If this fails, what holds them ends with the container, which does not start.
            let _ = filled.hold.destroy();
            // A hook may have attached them without its report arriving. It must not take the record of a refusal for that of a success.
            let receipt = match has_hook_refused {
                true => Receipt::Recorded,
                false => Receipt::Refused(refusal(peer, id, &*error)),
            };
            let _ = connection.send(&receipt, None).await;
            refused
        }
    }
}

fn valid_id(start: String) -> Result<String, RequestFault> {
    if is_start_id(&start) { Ok(start) } else { Err(RequestFault::Id) }
}
