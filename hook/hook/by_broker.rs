//! A start through the broker: it decides, resolves, fills and records; the hook finds the container and attaches.

use std::os::fd::OwnedFd;
use std::path::Path;

use super::created::Created;
use super::done::Done;
use crate::broker::client::{Connection, Reply};
use crate::broker::protocol::{Found, Image, Place, Refusal, StartRequest};
use crate::container::{Annotations, FileName, ImageError, Requests, Spec, State};
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
    // First, so that the broker accepts the connection meanwhile.
    let connection = Connection::open(broker, settings.deliver.deadline);
    let spec = state.bundle().map(Spec::load);
    let may_have_files = matches!(&spec, Ok(Ok(spec)) if spec.hooks.deliveries().len() > 1);
    let owner = Requests::from_annotations(&annotations).ok().flatten().and_then(|requests| requests.owner);
    let find = || Created::find(state, spec?, owner);
    let send = || connection?.request(request(state, &annotations, image, start));
    let (requested, created) = match may_have_files {
        // What another entry of the spec's hooks has delivered is not fetched again.
        true => match find() {
            Ok(None) => return Ok(Done::Nothing),
            created => (send()?, created),
        },
        // The broker resolves while this process finds the container.
        false => (send()?, find()),
    };
    let Some(created) = created.transpose() else { return Ok(Done::Nothing) };
    let process = created.as_ref().ok().map(|created| created.process.pidfd());
    let (delivery, created) = match (requested.ask(&found(&created), process)?, created) {
        (Reply::Nothing, _) => return Ok(Done::Nothing),
        (Reply::Refused(refusal), _) => return Ok(Done::Recorded(Err(refusal.into()))),
        (Reply::Delivery(delivery), Ok(created)) => (delivery, created),
        (Reply::Delivery(_), Err(error)) => return Err(error),
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

fn request(state: &State, annotations: &Annotations, image: Option<ImageError>, start: &Start) -> StartRequest {
    StartRequest {
        start: start.record.start.clone(),
        container: state.id().unwrap_or_default().to_owned(),
        bundle: state.bundle().unwrap_or(Path::new("")).to_owned(),
        annotations: annotations.values().clone(),
        image: match image {
            None => Image::Annotations(annotations.image().clone()),
            Some(error) => Image::Unknown(Refusal::of(&error)),
        },
        unusable: state.id().and(state.bundle()).err().map(|error| Refusal::of(&error)),
        milliseconds: 0,
    }
}

fn found(created: &Result<Created, AnyFault>) -> Found {
    match created {
        Ok(created) => Found::Container {
            user: created.spec.user.map(Into::into),
            label: created.spec.mount_label.clone(),
            places: Place::all(&created.carried.placeholders()),
        },
        Err(error) => Found::Refused(Refusal::of(&**error)),
    }
}

fn attach(created: &Created, files: &[FileName], mount: OwnedFd) -> Result<Hold, AnyFault> {
    let frozen = Frozen::received(mount, files, created.owner, &created.carried.placeholders())?;
    Ok(frozen.attach(&created.carried, &created.process, &created.spec)?)
}
