//! A start through the broker: it decides, resolves, fills and records; the hook finds the container and attaches.

use std::os::fd::OwnedFd;
use std::path::Path;

use super::created::Created;
use super::done::Done;
use crate::broker::client::{Connection, Reply};
use crate::broker::protocol::{Image, Place, Refusal, Stage, StartRequest, Unready};
use crate::container::{Annotations, FileName, ImageError, Requests, State};
use crate::deliver::{Frozen, Hold};
use crate::fault::AnyFault;
use crate::settings::{BrokerAddress, Settings};
use crate::start::Start;

/// Delivers the requests through the broker. What the hook itself finds wrong with the container is sent, too: the broker decides
/// which of several reasons is reported, and records it.
pub(super) fn deliver(
    broker: BrokerAddress,
    state: &State,
    annotations: Annotations,
    image: Option<ImageError>,
    settings: &Settings,
    start: &Start,
) -> Result<Done, AnyFault> {
    // First, so that the broker accepts the connection while this process finds the container.
    let connection = Connection::open(broker, settings.deliver.deadline);
    let created = match find(state, &annotations) {
        Ok(None) => return Ok(Done::Nothing),
        Ok(Some(created)) => Ok(created),
        Err(unready) => Err(unready),
    };
    let connection = connection?;
    let request = request(state, &annotations, image, &created, start);
    let process = created.as_ref().ok().map(|created| created.process.pidfd());
    let (delivery, created) = match (connection.ask(request, process)?, created) {
        (Reply::Nothing, _) => return Ok(Done::Nothing),
        (Reply::Refused(refusal), _) => return Ok(Done::Recorded(Err(refusal.into()))),
        (Reply::Delivery(delivery), Ok(created)) => (delivery, created),
        (Reply::Delivery(_), Err(unready)) => return Err(unready.refusal.into()),
    };
    let attached = attach(&created, &delivery.files, delivery.mount);
    let recorded = delivery.pending.report(attached.as_ref().err().map(|error| Refusal::of(&**error)));
    if let Ok(hold) = &attached
        && !matches!(recorded, Ok(Ok(())))
    {
        // The broker may not know. If this fails, what holds the files ends with the container, which does not start.
        let _ = hold.destroy();
    }
    // Whatever became of the record: a delivery that failed is reported as such.
    Ok(Done::Recorded(attached.map(drop).and(recorded?.map_err(AnyFault::from))))
}

fn request(
    state: &State,
    annotations: &Annotations,
    image: Option<ImageError>,
    created: &Result<Created, Unready>,
    start: &Start,
) -> StartRequest {
    let found = created.as_ref().ok();
    StartRequest {
        start: start.record.start.clone(),
        container: state.id().unwrap_or_default().to_owned(),
        bundle: state.bundle().unwrap_or(Path::new("")).to_owned(),
        annotations: annotations.values().clone(),
        image: match image {
            None => Image::Annotations(annotations.image().clone()),
            Some(error) => Image::Unknown(Refusal::of(&error)),
        },
        user: found.and_then(|created| created.spec.user).map(Into::into),
        label: found.and_then(|created| created.spec.mount_label.clone()),
        places: found.map(|created| Place::all(&created.carried.placeholders())).unwrap_or_default(),
        unready: created.as_ref().err().cloned(),
        milliseconds: 0,
    }
}

/// Finds the container, for the owner that its annotations request.
fn find(state: &State, annotations: &Annotations) -> Result<Option<Created>, Unready> {
    let unready = |stage| move |error: AnyFault| Unready { stage, refusal: Refusal::of(&*error) };
    state.id().and(state.bundle()).map_err(|error| unready(Stage::State)(error.into()))?;
    let owner = Requests::from_annotations(annotations).ok().flatten().and_then(|requests| requests.owner);
    Created::find(state, owner).map_err(unready(Stage::Container))
}

fn attach(created: &Created, files: &[FileName], mount: OwnedFd) -> Result<Hold, AnyFault> {
    let frozen = Frozen::received(mount, files, created.owner, &created.carried.placeholders())?;
    Ok(frozen.attach(&created.carried, &created.process, &created.spec)?)
}
