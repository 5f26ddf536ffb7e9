//! What an operator revokes: which item that is, and what is recorded of it.

use futures_util::stream::StreamExt as _;

use super::super::blocking::blocking;
use super::super::error::PROGRAM;
use super::super::loaded::Loaded;
use super::super::protocol::Order;
use super::super::revoked::{ListError, Revocation, Revocations, Revoked};
use super::super::source::Fetches;
use super::state::State;
use crate::audit::{AuditError, Event, RevocationRecord, Trail};
use crate::fault::{Class, Fault};
use crate::reference::Reference;
use crate::retry::Deadline;
use crate::settings::Settings;
use crate::source::Source as _;

/// The longest reason, in bytes, so that records and answers stay small.
const REASON_BYTES_MAX: usize = 1024;

/// The longest id of a container, in bytes.
const ID_BYTES_MAX: usize = 1024;

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
        since: jiff::Timestamp::now(),
        reason: reason.to_owned(),
        item: None,
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
    blocking(move || Revocations::change(&path, |list| list.extract_if(.., |one| is_meant(one, &revoked)).collect()))
        .await
}

/// Whether an order can mean a revocation: that of a container may begin with the id.
pub(super) fn is_meant(revocation: &Revocation, revoked: &Revoked) -> bool {
    match (revoked, &revocation.revoked) {
        (Revoked::Reference(reference), _) => revocation.names(reference),
        (Revoked::Container(prefix), Revoked::Container(id)) => id.starts_with(prefix),
        (Revoked::Container(_), Revoked::Reference(_)) => false,
    }
}

/// The item of a reference, and its version: what the source says, else what containers have.
pub(super) async fn item(
    reference: &str,
    of_containers: Vec<(String, u64)>,
    loaded: &Loaded<'_>,
) -> Option<(String, u64)> {
    let of_source = item_of_source(reference, loaded).await;
    let newest = || of_containers.iter().max_by_key(|(_, version)| *version).cloned();
    let (item, version) = of_source.or_else(newest)?;
    let of_item = of_containers.iter().filter(|(other, _)| *other == item).map(|(_, version)| *version);
    let newest = of_item.fold(version, u64::max);
    Some((item, newest))
}

async fn item_of_source(reference: &str, loaded: &Loaded<'_>) -> Option<(String, u64)> {
    let reference: Reference = reference.parse().ok()?;
    let id = format!("{:016x}", fastrand::u64(..));
    let source = loaded.source.for_update(loaded.settings, &id, &Fetches::begin()).ok()?;
    let references = [&reference];
    let fetched = source.fetch(&references, Deadline::after(loaded.settings.deliver.deadline)).next().await;
    let field = fetched?.outcome.ok()?;
    field.item_id.zip(field.version)
}

/// The item and version that a container has for a reference.
pub(super) fn item_of_container(reference: &str, state: &State) -> Option<(String, u64)> {
    let reading = state.readings.iter().find(|reading| reading.reference == reference)?;
    reading.item.clone().zip(reading.version)
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
    /// It is not clear which one is meant.
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
