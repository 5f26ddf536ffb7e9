//! What an operator revokes: which item that is, and what is recorded of it.

use std::sync::Arc;

use futures_util::stream::{StreamExt as _, iter};
use jiff::{SignedDuration, Timestamp};

use super::super::blocking::blocking;
use super::super::error::PROGRAM;
use super::super::loaded::Loaded;
use super::super::protocol::Order;
use super::super::revoked::{ListError, Revocation, Revocations, Revoked};
use super::super::source::Fetches;
use super::state::State;
use crate::audit::{AuditError, Event, RevocationRecord, Trail};
use crate::fault::{Class, Fault};
use crate::hex::random_id;
use crate::reference::Reference;
use crate::retry::Deadline;
use crate::settings::{Settings, SourceName};
use crate::source::{self, Source as _};

/// The longest reason, in bytes, so that records and answers stay small.
const REASON_BYTES_MAX: usize = 1024;

/// The longest id of a container, in bytes.
const ID_BYTES_MAX: usize = 1024;

/// How long after a revocation the source is asked in each period which field that is. One that does not exist has no answer.
const IDENTIFIED_WITHIN: SignedDuration = SignedDuration::from_hours(24);

/// For how many references the source is asked at the same time.
const REQUESTS_MAX: usize = 8;

/// A revocation of now, of any version.
pub(super) fn begin(order: &Order) -> Result<Revocation, RevokeError> {
    let reason = order.reason.as_deref().map(str::trim).filter(|reason| !reason.is_empty());
    let reason = reason.ok_or(RevokeError::NoReason)?;
    if reason.len() > REASON_BYTES_MAX {
        return Err(RevokeError::LongReason);
    }
    check(&order.revoked)?;
    Ok(Revocation {
        revoked: order.revoked.clone(),
        since: Timestamp::now(),
        reason: reason.to_owned(),
        item: None,
        field: None,
        version: None,
    })
}

/// Requires a reference, or what can be an id.
pub(super) fn check(revoked: &Revoked) -> Result<(), RevokeError> {
    match revoked {
        Revoked::Reference(text) if text.parse::<Reference>().is_err() => Err(RevokeError::Malformed),
        Revoked::Container(id) if id.is_empty() || id.len() > ID_BYTES_MAX => Err(RevokeError::Malformed),
        _ => Ok(()),
    }
}

/// Adds a revocation to the list, or replaces an earlier one of the same.
pub(super) async fn add(revocation: &Revocation, settings: &Settings) -> Result<(), ListError> {
    let (path, added) = (settings.updates.revoked.to_path_buf(), revocation.clone());
    blocking(move || {
        Revocations::change(&path, |list| {
            list.retain(|one| one.revoked != added.revoked);
            list.push(added);
        })
    })
    .await
}

/// Removes the revocations of this from the list, and returns them.
pub(super) async fn take(revoked: &Revoked, settings: &Settings) -> Result<Vec<Revocation>, ListError> {
    let (path, revoked) = (settings.updates.revoked.to_path_buf(), revoked.clone());
    blocking(move || Revocations::change(&path, |list| list.extract_if(.., |one| matches(one, &revoked)).collect()))
        .await
}

/// Whether an order can mean a revocation: that of a container may begin with the id.
pub(super) fn matches(revocation: &Revocation, revoked: &Revoked) -> bool {
    match (revoked, &revocation.revoked) {
        (Revoked::Reference(reference), _) => revocation.names(reference),
        (Revoked::Container(prefix), Revoked::Container(id)) => id.starts_with(prefix),
        (Revoked::Container(_), Revoked::Reference(_)) => false,
    }
}

/// Which field a reference is, and the version of its item.
#[derive(Clone)]
pub(super) struct Identified {
    item: String,
    field: Option<String>,
    version: u64,
}

impl Identified {
    /// What the source says, else what containers have.
    pub(super) async fn find(
        reference: &str,
        of_containers: Vec<Identified>,
        loaded: &Loaded<'_>,
    ) -> Option<Identified> {
        let of_source = Identified::of_source(reference, &Fetches::begin(), loaded).await;
        let newest = || of_containers.iter().max_by_key(|one| one.version).cloned();
        let found = of_source.or_else(newest)?;
        let of_item = of_containers.iter().filter(|one| one.item == found.item).map(|one| one.version);
        let version = of_item.fold(found.version, u64::max);
        Some(Identified { version, ..found })
    }

    async fn of_source(reference: &str, fetches: &Arc<Fetches>, loaded: &Loaded<'_>) -> Option<Identified> {
        let reference: Reference = reference.parse().ok()?;
        let id = random_id();
        let source = loaded.source.for_update(loaded.settings, &id, fetches).ok()?;
        let references = [&reference];
        let fetched = source.fetch(&references, Deadline::after(loaded.settings.deliver.deadline)).next().await;
        let field = fetched?.outcome.ok()?;
        Some(Identified { item: field.item_id?, field: field.field_id, version: field.version? })
    }

    /// What a container has for a reference.
    pub(super) fn of_container(reference: &str, state: &State) -> Option<Identified> {
        let reading = state.readings.iter().find(|reading| reading.reference == reference)?;
        Some(Identified { item: reading.item.clone()?, field: reading.field.clone(), version: reading.version? })
    }

    /// Notes which field is revoked, and until which version.
    pub(super) fn complete(self, revocation: &mut Revocation) {
        let Identified { item, field, version } = self;
        (revocation.item, revocation.field, revocation.version) = (Some(item), field, Some(version));
    }
}

/// Asks the source which fields those revocations are of that were made while it did not answer: containers may name them in another way.
/// Whatever version they have then is revoked until an end. Returns whether it has said so of any.
pub(super) async fn identify(revocations: &Revocations, loaded: &Loaded<'_>) -> Result<bool, ListError> {
    let is_recent = |one: &&Revocation| Timestamp::now().duration_since(one.since) < IDENTIFIED_WITHIN;
    let recent = revocations.iter().filter(|one| one.item.is_none()).filter(is_recent);
    let references: Vec<&str> = recent.filter_map(Revocation::reference).collect();
    if references.is_empty() || !source::chosen(loaded.settings).is_ok_and(|name| name == SourceName::Connect) {
        return Ok(false);
    }
    // Fields of one item cost one request, and a source that does not answer is not asked for all of them.
    let fetches = Fetches::begin();
    let ask = async |reference: &str| {
        let identified = Identified::of_source(reference, &fetches, loaded).await?;
        Some((reference.to_owned(), identified))
    };
    let asked = iter(references).map(ask).buffer_unordered(REQUESTS_MAX);
    let found: Vec<_> = asked.filter_map(async |one| one).collect().await;
    let (path, has_found) = (loaded.settings.updates.revoked.to_path_buf(), !found.is_empty());
    let note = move |list: &mut Vec<Revocation>| {
        for one in list.iter_mut().filter(|one| one.item.is_none()) {
            let same = found.iter().find(|(reference, _)| one.reference() == Some(reference));
            if let Some((_, Identified { item, field, .. })) = same {
                (one.item, one.field) = (Some(item.clone()), field.clone());
            }
        }
    };
    if has_found {
        blocking(move || Revocations::change(&path, note)).await?;
    }
    Ok(has_found)
}

/// Records what was done.
pub(super) async fn record(
    event: Event,
    revoked: &Revoked,
    reason: Option<String>,
    login_uid: Option<u32>,
    settings: &Settings,
) -> Result<(), AuditError> {
    let about = match revoked.clone() {
        Revoked::Reference(reference) => (Some(reference), None),
        Revoked::Container(id) => (None, Some(id)),
    };
    let record = RevocationRecord::new(PROGRAM, event, about, reason, login_uid);
    let (audit, deadline) = (settings.audit.clone(), settings.deliver.deadline);
    blocking(move || Trail::open(&audit, deadline)?.write(&record)).await
}

/// Why nothing is revoked, or allowed again.
#[derive(Debug, thiserror::Error)]
pub(super) enum RevokeError {
    /// Nobody would know later why.
    #[error("refusing to revoke without a reason")]
    NoReason,
    /// It goes into each record.
    #[error("refusing to revoke: the reason is longer than {REASON_BYTES_MAX} bytes")]
    LongReason,
    /// No command of ours sends it.
    #[error("refusing to revoke what is neither a reference nor the id of a container")]
    Malformed,
    /// There is no such container.
    #[error("no running container that the broker has delivered to has an id that begins with {prefix:.120?}")]
    NoContainer { prefix: String },
    /// The selection matches several.
    #[error("{count} containers have an id that begins with {prefix:.120?}")]
    Ambiguous { prefix: String, count: usize },
    /// There is nothing to end.
    #[error("{revoked} is not revoked")]
    NotRevoked { revoked: Revoked },
}

impl Fault for RevokeError {
    fn class(&self) -> Class {
        match self {
            RevokeError::NoReason | RevokeError::LongReason | RevokeError::Malformed => Class::Data,
            RevokeError::NoContainer { .. } | RevokeError::NotRevoked { .. } => Class::NotFound,
            RevokeError::Ambiguous { .. } => Class::CommandLine,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            RevokeError::Ambiguous { .. } => "give more of the id",
            RevokeError::NotRevoked { .. } => "`oci-secrets check` lists what is revoked",
            _ => return None,
        };
        Some(hint.to_owned())
    }
}
