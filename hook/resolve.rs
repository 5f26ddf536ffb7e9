//! Requests become secrets: source and seal together, under one deadline.

use std::future::pending;
use std::pin::pin;

use futures_util::future::{Either, select};
use futures_util::stream::StreamExt;

use crate::container::{FILES_MAX, FileName, Request};
use crate::reference::Reference;
use crate::retry::Deadline;
use crate::seal::kek::{KekUri, Keks};
use crate::seal::{SealError, SealedValue, is_sealed};
use crate::secret::Secret;
use crate::settings::Permission;
use crate::source::{Fetched, Field, Source, SourceError};

/// One request's secret, and where it came from.
pub struct Resolved<'a> {
    /// What was asked for.
    pub request: &'a Request,
    /// The plaintext.
    pub secret: Secret,
    /// The item's id, as far as the source tells.
    pub item_id: Option<String>,
    /// The item's version, as far as the source tells.
    pub item_version: Option<u64>,
    /// The KEK that opened it; `None` for a plain value.
    pub kek: Option<KekUri>,
    /// The KEK's version, as far as the KMS tells.
    pub kek_version: Option<String>,
}

/// Fetches and unseals all requests, in no particular order. Each value is unsealed as it arrives, and the KEKs are made ready
/// while the source is being asked, so that the time does not grow with the number of secrets.
///
/// Optional requests whose item or field is missing are left out.
///
/// # Errors
/// The first failure ends all: what was fetched by then is zeroed.
pub async fn resolve<'a>(
    requests: &'a [Request],
    source: &dyn Source,
    keks: &Keks<'_>,
    plaintext: Permission,
    deadline: Deadline,
) -> Result<Vec<Resolved<'a>>, ResolveError> {
    let references: Vec<&Reference> = requests.iter().map(|request| &request.reference).collect();
    let all = async {
        let mut secrets = Vec::with_capacity(requests.len());
        let mut opened = source
            .fetch(&references, deadline)
            .map(|Fetched { index, outcome }| async move {
                let Some(request) = requests.get(index) else {
                    return Ok(None);
                };
                match outcome {
                    Ok(field) => open(request, field, keks, plaintext, deadline).await.map(Some),
                    Err(error) if request.optional && is_missing(&error) => Ok(None),
                    Err(source) => Err(ResolveError::fetch(request, source)),
                }
            })
            .buffer_unordered(FILES_MAX);
        while let Some(secret) = opened.next().await {
            secrets.extend(secret?);
        }
        Ok(secrets)
    };
    let prepared = async {
        keks.prepare(deadline).await;
        pending().await
    };
    match select(pin!(all), pin!(prepared)).await {
        Either::Left((outcome, _)) | Either::Right((outcome, _)) => outcome,
    }
}

async fn open<'a>(
    request: &'a Request,
    field: Field,
    keks: &Keks<'_>,
    plaintext: Permission,
    deadline: Deadline,
) -> Result<Resolved<'a>, ResolveError> {
    let Field { value, item_id, version: item_version } = field;
    if plaintext == Permission::Allow && !is_sealed(&value) {
        let secret = Secret::new(value.as_bytes().to_vec());
        return Ok(Resolved { request, secret, item_id, item_version, kek: None, kek_version: None });
    }
    let unseal = async { value.parse::<SealedValue>()?.unseal(&request.reference, keks, deadline).await };
    let unsealed = unseal.await.map_err(|source| ResolveError::unseal(request, source))?;
    let (kek, kek_version) = (Some(unsealed.kek), unsealed.kek_version.name);
    Ok(Resolved { request, secret: unsealed.secret, item_id, item_version, kek, kek_version })
}

/// Whether there is nothing where the reference points. A vault that is not there is a mistake, not an absence.
pub fn is_missing(error: &SourceError) -> bool {
    matches!(
        error,
        SourceError::NoItem { .. }
            | SourceError::NoSection { .. }
            | SourceError::NoField { .. }
            | SourceError::NoValue { .. }
    )
}

/// Why a request has no secret.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// Its field could not be fetched.
    #[error("cannot resolve \"{file}\": {reference}")]
    Fetch {
        /// The file that was asked for.
        file: FileName,
        /// The reference that was asked for.
        reference: Reference,
        /// What the source says.
        source: SourceError,
    },
    /// Its value does not open.
    #[error("cannot unseal \"{file}\"")]
    Unseal {
        /// The file that was asked for.
        file: FileName,
        /// The reference that was asked for.
        reference: Reference,
        /// What the seal says.
        source: SealError,
    },
}

impl ResolveError {
    fn fetch(request: &Request, source: SourceError) -> ResolveError {
        ResolveError::Fetch { file: request.file.clone(), reference: request.reference.clone(), source }
    }

    fn unseal(request: &Request, source: SealError) -> ResolveError {
        ResolveError::Unseal { file: request.file.clone(), reference: request.reference.clone(), source }
    }
}
