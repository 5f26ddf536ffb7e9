//! The story of one start, on the broker's side.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join;
use tokio::time::Instant;

use super::blocking::blocking;
use super::connection::Connection;
use super::identity::Identity;
use super::live::{self, Asked, Live, State};
use super::loaded::Loaded;
use super::peer::Peer;
use super::protocol::{Answer, Place, Receipt, Refusal, Report, Stage, StartRequest, Unready, is_start_id};
use super::revoked::{Revocations, Value};
use super::source::Fetches;
use super::wire::Descriptor;
use crate::audit::Trail;
use crate::container::{Annotations, HOOK_NAME, Owner, Process, Request, Requests};
use crate::deliver::{DeliveryOptions, Frozen, Hold};
use crate::errno::SyscallError;
use crate::fault::{AnyFault, Class, Fault};
use crate::resolve::{Files, Resolved};
use crate::retry::Deadline;
use crate::seal::kek::Keks;
use crate::start::Start;

/// The part of the hook's patience that is left for sending, attaching and recording: one in so many.
const MARGIN: u32 = 10;
const MARGIN_MAX: Duration = Duration::from_millis(500);

/// How long a hook may take to report, beyond its own deadline.
const REPORT_GRACE: Duration = Duration::from_secs(1);

/// What a start came to, as metrics count it.
pub type Outcome = &'static str;

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
    process: Option<Descriptor>,
    loaded: &Loaded<'_>,
    live: &Live,
) -> Outcome {
    let patience = Duration::from_millis(request.milliseconds).min(loaded.settings.deliver.deadline + MARGIN_MAX);
    let until = Instant::now() + patience;
    let mut start = Start::begin(HOOK_NAME, &request.container);
    let filled = match fill(peer, request, process, loaded, patience, &mut start).await {
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
    let _ = connection.send(&Answer::Refused(refusal(peer, id, &*error)), None).await;
    "refused"
}

/// The error as this peer may know it.
fn refusal(peer: &Peer, start: String, error: &dyn Fault) -> Refusal {
    match peer.is_root() || error.is_for_users() {
        true => Refusal::of(error),
        false => Refusal::of(&Withheld { class: error.class(), start }),
    }
}

/// Decides, resolves and fills. `None` if the annotations request nothing for this container.
async fn fill(
    peer: &Peer,
    request: StartRequest,
    process: Option<Descriptor>,
    loaded: &Loaded<'_>,
    patience: Duration,
    start: &mut Start,
) -> Result<Option<Filled>, AnyFault> {
    let settings = loaded.settings;
    let (audit, deadline) = (settings.audit.clone(), settings.deliver.deadline);
    let revoked = settings.updates.revoked.to_path_buf();
    let files = blocking(move || (Trail::open(&audit, deadline), Revocations::read(&revoked)));
    // Meanwhile, on this thread.
    let container = async { process.map(|descriptor| peer.container(descriptor)) };
    let ((trail, revocations), process) = join(files, container).await;
    // For the record of a start that fails before anything decides about them.
    if let Ok(Some(requested)) = Requests::from_annotations(&Annotations::new(request.annotations.clone())) {
        start.record.requests(&requested.files);
    }
    start.trail = trail?;
    start.record.start = valid_id(request.start)?;
    if let Some(Unready { stage: Stage::State, refusal }) = &request.unready {
        return Err(refusal.clone().into());
    }
    start.record.bundle = request.bundle;
    let asked = (request.annotations.clone(), request.image.clone());
    let (annotations, image) = request.image.of(request.annotations);
    let deadline = Deadline::after(deadline.min(patience.saturating_sub((patience / MARGIN).min(MARGIN_MAX))));
    let Identity { pod, unknown } = loaded.identity(peer.uid, &request.container, &annotations, deadline).await;
    let caller = loaded.caller(peer.uid, pod.as_ref());
    let Some(requests) = start.decide(annotations, image, settings, caller, unknown)? else { return Ok(None) };
    if requests.update.is_some() {
        live::require(settings, !request.places.is_empty())?;
    }
    if let Some(Unready { refusal, .. }) = request.unready {
        return Err(refusal.into());
    }
    let revocations = revocations?;
    revocations.check_container(&start.record.container)?;
    let process = process.ok_or(RequestFault::NoProcess)??;
    let owner = requests.owner.or(request.user.map(Owner::from)).ok_or(RequestFault::NoOwner)?;
    let owner = process.host_owner(owner)?;
    let places = Place::placeholders(request.places)?;
    start.record.phase_ends("read");

    let keks = loaded.keks();
    let secrets = resolve(start, &requests.files, &revocations, (loaded, &keks, peer.uid), deadline).await;
    let secrets = secrets.inspect_err(|error| _ = loaded.failed(&**error))?;
    secrets.iter().try_for_each(|one| revocations.check(Value::of(one)))?;
    start.record.phase_ends("resolve");

    // To the container's users, the directories belong to their root, as in a tmpfs that the user's own hook makes.
    let root = if peer.is_root() { None } else { process.foreign_root()? };
    let label = request.label.as_deref();
    let options = DeliveryOptions { owner, label, root, noswap: settings.deliver.noswap };
    let rendered = Files::render(&requests, &secrets)?;
    let contents = rendered.list();
    let filled = Frozen::filled(&contents, &options, places)?;
    let (frozen, hold) = filled.hold().map_err(|source| RequestFault::Hold { source })?;
    let files = contents.iter().map(|(name, _)| name.to_string()).collect();
    let (annotations, image) = asked;
    let asked = Asked { annotations, image, uid: peer.uid, owner, root, label: request.label.clone() };
    let (delivery, readings) = (frozen.id()?, live::readings(&requests.files, &secrets));
    let state = State::new(&start.record, asked, &process, delivery, readings, requests.withdraw)?;
    Ok(Some(Filled { frozen, hold: Arc::new(hold), files, state, process }))
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
        Ok(()) => connection.receive::<Report>(until + REPORT_GRACE).await,
        Err(error) => Err(error),
    };
    start.record.phase_ends("deliver");
    let has_hook_refused = matches!(report, Ok(Report::Refused(_)));
    let (outcome, refused) = match report {
        Ok(Report::Attached) if !connection.is_over() => (Ok(()), "refused"),
        Ok(Report::Refused(refusal)) => (Err(refusal.into()), "refused"),
        Ok(Report::Attached) => (Err(RequestFault::HookEnded.into()), "lost"),
        Err(error) => (Err(RequestFault::of(&error).into()), "lost"),
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

/// A reason that is not for every user of the host: it can name servers, paths, and what others have asked for.
#[derive(Debug, thiserror::Error)]
#[error("the broker cannot deliver: the record of start {start} has the reason, for root")]
struct Withheld {
    class: Class,
    start: String,
}

impl Fault for Withheld {
    fn class(&self) -> Class {
        self.class
    }

    fn hint(&self) -> Option<String> {
        Some("root of this host reads it with `oci-secrets audit show`".into())
    }
}

/// What is wrong with a request that no hook of ours sends, or with the hook afterwards.
#[derive(Debug, thiserror::Error)]
enum RequestFault {
    /// The id of the start.
    #[error("the request has no valid id")]
    Id,
    /// The container's process.
    #[error("the request has no descriptor of the container's process")]
    NoProcess,
    /// Neither the spec nor an annotation names an owner.
    #[error("no owner for the secrets: the spec has no process.user")]
    NoOwner,
    /// The tmpfs.
    #[error("cannot keep hold of the tmpfs")]
    Hold { source: SyscallError },
    /// The hook was killed, or gave up.
    #[error("the hook ended before the record of the start was written")]
    HookEnded,
    /// The hook is silent.
    #[error("the hook did not report in time what became of the files")]
    NoReport,
    /// Something else was sent.
    #[error("the hook did not report what became of the files, but sent something else")]
    OddReport,
}

impl RequestFault {
    fn of(error: &io::Error) -> RequestFault {
        match error.kind() {
            io::ErrorKind::TimedOut => RequestFault::NoReport,
            io::ErrorKind::InvalidData => RequestFault::OddReport,
            _ => RequestFault::HookEnded,
        }
    }
}

impl Fault for RequestFault {
    fn class(&self) -> Class {
        match self {
            RequestFault::Id | RequestFault::NoProcess | RequestFault::NoOwner => Class::Data,
            RequestFault::Hold { .. } => Class::Kernel,
            RequestFault::HookEnded | RequestFault::NoReport | RequestFault::OddReport => Class::Unavailable,
        }
    }

    fn is_for_users(&self) -> bool {
        !matches!(self, RequestFault::Hold { .. })
    }
}
