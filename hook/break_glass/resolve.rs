//! Resolving the secrets of one container start, in an emergency or not.
//!
//! The source and the KMS are always tried first. Only requests that meet an outage are served from the open emergency;
//! any other failure is returned. Without an emergency and with an empty ledger this is [`resolve`](crate::resolve::resolve) and two `open`
//! calls that fail.

use jiff::Timestamp;

use super::channel::Event;
use super::ending;
use super::ledger::Hasher;
use super::rotation::{self, Findings};
use super::session::Session;
use super::store::{Account, Emergency, Status, StoreError};
use super::{BreakGlassError, time};
use crate::audit::Record;
use crate::container::Request;
use crate::excerpt::Excerpt;
use crate::fault::{Class, Fault as _};
use crate::report;
use crate::resolve::{Outcome, ResolveError, Resolved, resolve as resolve_all, resolve_each};
use crate::retry::Deadline;
use crate::seal::kek::Keks;
use crate::settings::Settings;
use crate::source::{Source, Standing};

/// A request that the source or the KMS did not answer, and the failure.
type Unanswered<'a> = (&'a Request, ResolveError);

/// Resolves all requests until this deadline, and adds to the record which secrets came from an emergency.
///
/// # Errors
/// The first failure; or the failure of the emergency; or that a secret with an overdue rotation is refused.
pub async fn resolve<'a>(
    requests: &'a [Request],
    source: &dyn Source,
    keks: &Keks<'_>,
    settings: &Settings,
    deadline: Deadline,
    record: &mut Record,
) -> Result<Vec<Resolved<'a>>, BreakGlassError> {
    // A damaged emergency must not prevent normal container starts.
    let emergency = ending::find(settings).await.unwrap_or_else(|error| {
        report::warn(record.program, &report::chain(&error));
        None
    });
    let plaintext = settings.deliver.plaintext;
    let (mut secrets, unanswered) = match emergency {
        None => (resolve_all(requests, source, keks, plaintext, deadline).await?, Vec::new()),
        // The other half is for the emergency.
        Some(_) => partition(resolve_each(requests, source, keks, plaintext, deadline.half()).await)?,
    };
    let findings = rotation::check(&secrets, settings.break_glass.rotation.then, settings).await?;
    log(&findings, record);
    if !unanswered.is_empty() {
        secrets.extend(Session::begin(settings).await?.take(unanswered, record).await?);
    }
    Ok(secrets)
}

/// Separates the secrets from the requests without an answer. Any other failure is returned.
fn partition(outcomes: Vec<Outcome<'_>>) -> Result<(Vec<Resolved<'_>>, Vec<Unanswered<'_>>), ResolveError> {
    let (mut secrets, mut unanswered) = (Vec::new(), Vec::new());
    for (request, outcome) in outcomes {
        match outcome {
            Ok(secret) => secrets.extend(secret),
            Err(failure) if is_outage(&failure) => unanswered.push((request, failure)),
            Err(failure) => return Err(failure),
        }
    }
    Ok((secrets, unanswered))
}

/// Whether a failure is an outage of the source or the KMS. An emergency is the decision of operators, so that an unclear answer of the
/// source is one, too.
fn is_outage(failure: &ResolveError) -> bool {
    match failure {
        ResolveError::Fetch { source, .. } => matches!(source.standing(), Standing::Outage | Standing::Unclear),
        ResolveError::Unseal { .. } => failure.class() == Class::Unavailable,
        ResolveError::Unanswered { .. } => false,
    }
}

/// Logs which secrets must be rotated after an emergency, and which were.
fn log(findings: &Findings, record: &Record) {
    for reference in &findings.rotated {
        report::warn(record.program, &format!("{reference} was rotated, and is removed from the ledger"));
    }
    for (reference, due) in &findings.pending {
        let (id, due) = (&record.container, time(due));
        let text = format!("container {id}: {reference} was used in an emergency: rotate it before {due}");
        report::warn(record.program, &text);
    }
    if let Some(error) = &findings.unrecorded {
        report::warn(record.program, &format!("rotated secrets remain in the ledger: {}", report::chain(error)));
    }
}

impl Session<'_> {
    /// Takes secrets from the open emergency. Before any is returned, the use is recorded, and the ledger is synced to disk.
    async fn take<'a>(
        &mut self,
        unanswered: Vec<Unanswered<'a>>,
        record: &mut Record,
    ) -> Result<Vec<Resolved<'a>>, BreakGlassError> {
        let open = match Emergency::current()? {
            Some(emergency) if emergency.status()? == Status::Open => Some(emergency),
            _ => None,
        };
        let cause = unanswered.first().map(|(_, failure)| report::chain(failure)).unwrap_or_default();
        let Some(emergency) = open else {
            // The emergency ended meanwhile: return the failure.
            return Err(unanswered.into_iter().next().map_or(StoreError::Over.into(), |(_, failure)| failure.into()));
        };
        let (mut secrets, mut used) = (Vec::new(), Vec::new());
        for (request, failure) in unanswered {
            // A value that a query computes, such as a one-time password, is not stored.
            let reference = request.reference.as_str();
            let found = if request.reference.query().is_none() { emergency.secret(reference)? } else { None };
            let Some((secret, kept)) = found else {
                return Err(BreakGlassError::NotKept { reference: request.reference.clone(), source: failure });
            };
            let (item_id, item_version) = (Some(kept.item.clone()), Some(kept.version));
            secrets.push(Resolved {
                request,
                secret,
                item_id,
                field_id: None,
                item_version,
                kek: None,
                kek_version: None,
                kept: true,
                earlier: None,
            });
            used.push(kept.clone());
        }
        let Account { id, reason, .. } = emergency.account();
        let (container, bundle) = (record.container.as_str(), record.bundle.as_path());
        self.record(Event::Use { emergency: id, container, bundle, secrets: &used, cause }).await?;

        let (hasher, now) = (Hasher::make(&self.lock)?, Timestamp::now());
        for (resolved, kept) in secrets.iter().zip(&used) {
            self.ledger.enter(kept, hasher.hash(&kept.reference, &resolved.secret), id, now);
        }
        self.ledger.write(&self.lock)?;
        for kept in &used {
            let (reference, reason) = (&kept.reference, Excerpt(reason));
            let text = format!("container {container}: break-glass: {reference} comes from emergency {id} ({reason})");
            report::warn(record.program, &text);
        }
        record.emergency = Some(id.clone());
        Ok(secrets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::Request;
    use crate::fault::{AnyFault, Fault};
    use crate::seal::SealError;
    use crate::seal::kek::KekError;
    use crate::source::SourceError;
    use crate::source::samples::failures;

    /// A failure of a KMS.
    #[derive(Debug, thiserror::Error)]
    #[error("of the KMS")]
    struct OfKms(Class);

    impl Fault for OfKms {
        fn class(&self) -> Class {
            self.0
        }
    }

    fn request() -> Request {
        Request { file: "db".parse().unwrap(), reference: "op://v/i/f".parse().unwrap(), optional: false }
    }

    /// Whether a start with this failure next to a secret that was resolved takes a secret from the emergency.
    fn is_bridged(failure: impl Fn(&Request) -> ResolveError) -> bool {
        let (one, other) = (request(), request());
        match partition(vec![(&one, Ok(None)), (&other, Err(failure(&other)))]) {
            Ok((_, unanswered)) => {
                assert_eq!(unanswered.len(), 1);
                true
            }
            Err(_) => false,
        }
    }

    fn of_source(source: &SourceError) -> impl Fn(&Request) -> ResolveError {
        move |request| {
            let (file, reference) = (request.file.clone(), request.reference.clone());
            ResolveError::Fetch { file, reference, nearest: None, source: source.clone() }
        }
    }

    #[test]
    fn no_refusal_of_the_source_opens_an_emergency() {
        for failure in failures() {
            let expected = matches!(failure.standing(), Standing::Outage | Standing::Unclear);
            assert_eq!(is_bridged(of_source(&failure)), expected, "{failure:?}");
            let is_answer = matches!(failure.class(), Class::NotFound | Class::Data | Class::NotPermitted);
            assert!(!is_answer || !expected, "{failure:?}");
        }
    }

    #[test]
    fn no_refusal_of_the_kms_opens_an_emergency() {
        let unsealed = |source: fn() -> SealError| {
            is_bridged(move |request: &Request| {
                let (file, reference) = (request.file.clone(), request.reference.clone());
                ResolveError::Unseal { file, reference, source: source() }
            })
        };
        let of_kms = |class: Class| {
            is_bridged(move |request: &Request| {
                let (file, reference) = (request.file.clone(), request.reference.clone());
                let source = SealError::Kek { source: KekError::OfKind(AnyFault::from(OfKms(class))) };
                ResolveError::Unseal { file, reference, source }
            })
        };
        for code in 0..=255 {
            let Some(class) = Class::of_code(code) else { continue };
            assert_eq!(of_kms(class), class == Class::Unavailable, "{class:?}");
        }
        for refusal in [
            || SealError::Plaintext,
            || SealError::Form,
            || SealError::Base64,
            || SealError::Empty,
            || SealError::Kek { source: KekError::NotListed { kek: "k".into() } },
            || SealError::Kek { source: KekError::EnvelopesOnly },
        ] {
            assert!(!unsealed(refusal), "{}", refusal());
        }
        let unanswered = |request: &Request| ResolveError::Unanswered {
            file: request.file.clone(),
            reference: request.reference.clone(),
        };
        assert!(!is_bridged(unanswered));
    }
}
