//! Resolves requests to secrets: fetches sealed values and unseals them, under one deadline.

use std::collections::BTreeMap;
use std::future::{pending, ready};
use std::mem::take;
use std::pin::pin;
use std::ptr;

use futures_util::future::{Either, select};
use futures_util::stream::{Stream, StreamExt, iter, once};

use crate::container::{FILES_MAX, FileName, Request, Requests};
use crate::fault::{Class, Fault};
use crate::reference::Reference;
use crate::retry::Deadline;
use crate::seal::kek::{KekUri, Keks};
use crate::seal::{SealError, SealedValue, is_sealed};
use crate::secret::Secret;
use crate::settings::Permission;
use crate::source::{Earlier, Fetched, Field, Source, SourceError};
use crate::template::{RENDERED_BYTES_MAX, RenderError};

/// The secret of one request, and its origin.
pub struct Resolved<'a> {
    /// The request.
    pub request: &'a Request,
    /// The plaintext.
    pub secret: Secret,
    /// The item's id, if the source reports it.
    pub item_id: Option<String>,
    /// The field's id, if the source reports it.
    pub field_id: Option<String>,
    /// The item's version, if the source reports it.
    pub item_version: Option<u64>,
    /// The KEK that unsealed it. A plain value has none.
    pub kek: Option<KekUri>,
    /// The KEK's version, if the KMS reports it.
    pub kek_version: Option<String>,
    /// Whether it came from an emergency.
    pub kept: bool,
    /// When and for whom the value was fetched, if not for this start.
    pub earlier: Option<Earlier>,
}

/// The files of one container: values of references, and templates that are rendered with them.
pub struct Files<'a> {
    values: Vec<(&'a FileName, &'a Secret)>,
    rendered: Vec<(&'a FileName, Secret)>,
}

impl<'a> Files<'a> {
    /// Renders the files of these requests. A template that misses the secret of an optional reference is left out.
    ///
    /// # Errors
    /// The files would be too large.
    pub fn render(requests: &'a Requests, secrets: &'a [Resolved<'a>]) -> Result<Files<'a>, RenderFileError> {
        let is_value = |secret: &&Resolved<'_>| !requests.templates.contains_key(&secret.request.file);
        let values = secrets.iter().filter(is_value).map(|secret| (&secret.request.file, &secret.secret)).collect();
        let parts: BTreeMap<_, _> =
            secrets.iter().map(|one| ((&one.request.file, &one.request.reference), &one.secret)).collect();
        let (mut rendered, mut left) = (Vec::with_capacity(requests.templates.len()), RENDERED_BYTES_MAX);
        for (file, template) in &requests.templates {
            let content = template.render(|reference| parts.get(&(file, reference)).copied(), left);
            let content = content.map_err(|source| RenderFileError { file: file.clone(), source })?;
            left -= content.as_ref().map_or(0, |content| content.expose().len());
            rendered.extend(content.map(|content| (file, content)));
        }
        Ok(Files { values, rendered })
    }

    /// The name and the content of each file.
    pub fn list(&self) -> Vec<(&FileName, &Secret)> {
        let rendered = self.rendered.iter().map(|(file, content)| (*file, content));
        self.values.iter().copied().chain(rendered).collect()
    }
}

/// A file that cannot be rendered.
#[derive(Debug, thiserror::Error)]
#[error("cannot render \"{file}\"")]
pub struct RenderFileError {
    file: FileName,
    source: RenderError,
}

impl Fault for RenderFileError {
    fn class(&self) -> Class {
        self.source.class()
    }

    fn is_for_users(&self) -> bool {
        true
    }
}

/// A request and its outcome. A missing optional one has no secret.
pub type Outcome<'a> = (&'a Request, Result<Option<Resolved<'a>>, ResolveError>);

/// Fetches and unseals all requests, in any order. Each value is unsealed when it arrives, and the KEKs are prepared while the source
/// is asked, so that the time does not grow with the number of secrets.
///
/// Optional requests whose item or field is missing are left out.
///
/// # Errors
/// The first failure. What was fetched by then is zeroed.
pub async fn resolve<'a>(
    requests: &'a [Request],
    source: &dyn Source,
    keks: &Keks<'_>,
    plaintext: Permission,
    deadline: Deadline,
) -> Result<Vec<Resolved<'a>>, ResolveError> {
    let all = async {
        let mut secrets = Vec::with_capacity(requests.len());
        let references = references(requests);
        let mut outcomes = outcomes(requests, &references, source, keks, plaintext, deadline);
        while let Some((_, outcome)) = outcomes.next().await {
            secrets.extend(outcome?);
        }
        Ok(secrets)
    };
    while_preparing(keks, deadline, all).await
}

/// The same, but after a failure it continues, and returns the outcome of each request.
pub async fn resolve_each<'a>(
    requests: &'a [Request],
    source: &dyn Source,
    keks: &Keks<'_>,
    plaintext: Permission,
    deadline: Deadline,
) -> Vec<Outcome<'a>> {
    let references = references(requests);
    let all = outcomes(requests, &references, source, keks, plaintext, deadline).collect();
    while_preparing(keks, deadline, all).await
}

fn references(requests: &[Request]) -> Vec<&Reference> {
    requests.iter().map(|request| &request.reference).collect()
}

fn outcomes<'a, 'b>(
    requests: &'a [Request],
    references: &'b [&'b Reference],
    source: &'b dyn Source,
    keks: &'b Keks<'_>,
    plaintext: Permission,
    deadline: Deadline,
) -> impl Stream<Item = Outcome<'a>> + Unpin + 'b
where
    'a: 'b,
{
    let opened = source.fetch(references, deadline).map(move |Fetched { index, outcome }| async move {
        let request = requests.get(index)?;
        let outcome = match outcome {
            Ok(field) => open(request, field, keks, plaintext, deadline).await.map(Some),
            Err(error) if request.optional && is_missing(&error) => Ok(None),
            Err(source) => Err(ResolveError::fetch(request, source)),
        };
        Some((request, outcome))
    });
    with_unanswered(opened.buffer_unordered(FILES_MAX).filter_map(ready), requests)
}

/// Adds a failure for each request without an outcome: if a source forgot one, its container would start without the file.
fn with_unanswered<'a>(
    outcomes: impl Stream<Item = Outcome<'a>> + Unpin,
    requests: &'a [Request],
) -> impl Stream<Item = Outcome<'a>> + Unpin {
    let mut left: Vec<&Request> = requests.iter().collect();
    outcomes.map(Some).chain(once(ready(None))).flat_map(move |outcome| {
        iter(match outcome {
            Some(outcome) => {
                left.retain(|request| !ptr::eq(*request, outcome.0));
                vec![outcome]
            }
            None => {
                take(&mut left).into_iter().map(|request| (request, Err(ResolveError::unanswered(request)))).collect()
            }
        })
    })
}

/// Prepares the KEKs until the work is done.
async fn while_preparing<T>(keks: &Keks<'_>, deadline: Deadline, work: impl Future<Output = T>) -> T {
    let prepared = async {
        keks.prepare(deadline).await;
        pending().await
    };
    match select(pin!(work), pin!(prepared)).await {
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
    let Field { value, item_id, field_id, version: item_version, earlier } = field;
    if plaintext == Permission::Allow && !is_sealed(&value) {
        let secret = Secret::new(value.as_bytes().to_vec());
        return Ok(Resolved {
            request,
            secret,
            item_id,
            field_id,
            item_version,
            kek: None,
            kek_version: None,
            kept: false,
            earlier,
        });
    }
    let unseal = async { value.parse::<SealedValue>()?.unseal(&request.reference, keks, deadline).await };
    let unsealed = unseal.await.map_err(|source| ResolveError::unseal(request, source))?;
    let (kek, kek_version) = (Some(unsealed.kek), unsealed.kek_version.name);
    let secret = unsealed.secret;
    Ok(Resolved { request, secret, item_id, field_id, item_version, kek, kek_version, kept: false, earlier })
}

/// Whether the item or its field does not exist. A missing vault is a mistake in the reference instead.
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
#[expect(missing_docs, reason = "fields are named for what they hold")]
pub enum ResolveError {
    /// Its field could not be fetched.
    #[error("cannot resolve \"{file}\": {reference}")]
    Fetch { file: FileName, reference: Reference, nearest: Option<String>, source: SourceError },
    /// Its value does not open.
    #[error("cannot unseal \"{file}\"")]
    Unseal { file: FileName, reference: Reference, source: SealError },
    /// The source returned neither its field nor a reason.
    #[error("cannot resolve \"{file}\": the source returned nothing for {reference}")]
    Unanswered { file: FileName, reference: Reference },
}

impl Fault for ResolveError {
    fn class(&self) -> Class {
        match self {
            ResolveError::Fetch { source, .. } => source.class(),
            ResolveError::Unseal { source, .. } => source.class(),
            ResolveError::Unanswered { .. } => Class::Bug,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            ResolveError::Fetch { nearest: Some(nearest), .. } => {
                Some(format!("did you mean {nearest}? names are case-sensitive"))
            }
            ResolveError::Fetch { source, .. } => source.hint(),
            ResolveError::Unseal { source, reference, .. } => source.hint_for(reference),
            ResolveError::Unanswered { .. } => None,
        }
    }

    fn is_for_users(&self) -> bool {
        matches!(self, ResolveError::Fetch { nearest: None, source, .. } if source.is_for_users())
    }
}

impl ResolveError {
    fn fetch(request: &Request, source: SourceError) -> ResolveError {
        ResolveError::Fetch { file: request.file.clone(), reference: request.reference.clone(), nearest: None, source }
    }

    /// A request that has neither a secret nor a failure.
    pub fn unanswered(request: &Request) -> ResolveError {
        ResolveError::Unanswered { file: request.file.clone(), reference: request.reference.clone() }
    }

    fn unseal(request: &Request, source: SealError) -> ResolveError {
        ResolveError::Unseal { file: request.file.clone(), reference: request.reference.clone(), source }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use futures_util::FutureExt;
    use futures_util::stream::{LocalBoxStream, empty};

    use super::*;
    use crate::settings::Settings;
    use crate::token::static_token::Shown;

    /// A source that forgets what it was asked for.
    struct Forgetful;

    impl Source for Forgetful {
        fn fetch<'a>(&'a self, _references: &'a [&'a Reference], _deadline: Deadline) -> LocalBoxStream<'a, Fetched> {
            empty().boxed_local()
        }

        fn static_token(&self) -> Option<Shown> {
            None
        }
    }

    #[test]
    fn a_request_without_an_answer_is_a_failure() {
        let request = |file: &str, optional| Request {
            file: file.parse().unwrap(),
            reference: "op://v/i/f".parse().unwrap(),
            optional,
        };
        let requests = [request("a", false), request("b", true)];
        let settings = Settings::default();
        let keks = Keks::new(&settings);
        let deadline = Deadline::after(std::time::Duration::from_secs(60));
        let all = resolve(&requests, &Forgetful, &keks, Permission::Refuse, deadline).now_or_never().unwrap();
        assert!(matches!(all, Err(ResolveError::Unanswered { .. })));
        let each = resolve_each(&requests, &Forgetful, &keks, Permission::Refuse, deadline).now_or_never().unwrap();
        let failed = each.iter().filter(|(_, outcome)| matches!(outcome, Err(ResolveError::Unanswered { .. })));
        assert_eq!(failed.map(|(request, _)| request.file.to_string()).collect::<BTreeSet<_>>().len(), requests.len());
    }
}
