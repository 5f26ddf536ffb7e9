//! The steps of one container start that the hook and the broker have in common: decide, resolve, record.

mod decide;
mod unidentified;

use crate::audit::{Record, Trail};
use crate::break_glass::{self, BreakGlassError};
use crate::container::{Annotations, Pod, Request, Requests};
use crate::fault::AnyFault;
use crate::report;
use crate::resolve::{ResolveError, Resolved, resolve};
use crate::retry::Deadline;
use crate::seal::kek::Keks;
use crate::settings::{Caller, Settings};
use crate::source::Source;
use crate::token::static_token::Use;

pub use self::unidentified::Unidentified;

/// One start of a container that requests secrets. Its record is filled on the way, so that the record of a refusal shows how far the
/// start came.
pub struct Start {
    /// The record.
    pub record: Record,
    /// The destination of the record, which is opened before any secret is fetched, so that a broken one is detected.
    pub trail: Trail,
}

impl Start {
    /// Begins a start of this container, for records of this program.
    pub fn begin(program: &'static str, container: &str) -> Start {
        let mut record = Record::begin(program);
        record.container = container.to_owned();
        Start { record, trail: Trail::default() }
    }

    /// The requests that the container's grants allow; `None` if there is none for this container.
    ///
    /// `image`: why the annotations of its image are not known. `unknown`: why its pod, or the service account of its pod, is not.
    ///
    /// # Errors
    /// An annotation cannot be used, or a request is not granted.
    pub fn decide(
        &mut self,
        annotations: Annotations,
        image: Option<AnyFault>,
        settings: &Settings,
        caller: Caller<'_>,
        unknown: Option<AnyFault>,
    ) -> Result<Option<Requests>, AnyFault> {
        if let Caller::Pod(pod) = caller {
            self.record.pod = Some(pod.clone());
        }
        if let Ok(Some(requested)) = Requests::from_annotations(&annotations) {
            self.record.requests(&requested.files);
        }
        let (annotations, requests) = decide::requests(annotations, image, settings.deliver.image_annotations)?;
        let Some(requests) = requests else { return Ok(None) };
        self.record.requests(&requests.files);
        let granted = decide::granted(&settings.grants, &requests, &annotations, caller);
        self.record.annotations = granted.map_err(|error| Unidentified::explain(error, unknown))?;
        Ok(Some(requests))
    }

    /// Whether a request depends on the service account of this pod alone, which is not known yet.
    pub fn needs_service_account(annotations: &Annotations, settings: &Settings, pod: &Pod) -> bool {
        let requested = decide::requests(annotations.clone(), None, settings.deliver.image_annotations);
        let Ok((annotations, Some(requests))) = requested else { return false };
        let wants_owner = requests.owner.is_some();
        requests.files.iter().any(|request| {
            let decision = settings.grants.decide(&request.reference, &annotations, wants_owner, Caller::Pod(pod));
            decision.is_err_and(|refusal| refusal.needs_service_account())
        })
    }

    /// Fetches and unseals the secrets of all requests.
    ///
    /// # Errors
    /// As for [`break_glass::resolve()`].
    pub async fn resolve<'r>(
        &mut self,
        requests: &'r [Request],
        source: &dyn Source,
        keks: &Keks<'_>,
        settings: &Settings,
        deadline: Deadline,
    ) -> Result<Vec<Resolved<'r>>, BreakGlassError> {
        let resolved = break_glass::resolve(requests, source, keks, settings, deadline, &mut self.record).await;
        self.note(resolved, source, settings)
    }

    /// The same for an update of a running container, which gets nothing from an emergency.
    ///
    /// # Errors
    /// As for [`resolve::resolve()`](crate::resolve::resolve()).
    pub async fn resolve_for_update<'r>(
        &mut self,
        requests: &'r [Request],
        source: &dyn Source,
        keks: &Keks<'_>,
        settings: &Settings,
        deadline: Deadline,
    ) -> Result<Vec<Resolved<'r>>, ResolveError> {
        let resolved = resolve(requests, source, keks, settings.deliver.plaintext, deadline).await?;
        self.record.resolved(&resolved);
        Ok(resolved)
    }

    /// The same for a start that gets nothing from an emergency.
    ///
    /// # Errors
    /// As for [`resolve::resolve()`](crate::resolve::resolve()).
    pub async fn resolve_of_source<'r>(
        &mut self,
        requests: &'r [Request],
        source: &dyn Source,
        keks: &Keks<'_>,
        settings: &Settings,
        deadline: Deadline,
    ) -> Result<Vec<Resolved<'r>>, ResolveError> {
        let resolved = resolve(requests, source, keks, settings.deliver.plaintext, deadline).await;
        self.note(resolved, source, settings)
    }

    fn note<'r, E>(
        &mut self,
        resolved: Result<Vec<Resolved<'r>>, E>,
        source: &dyn Source,
        settings: &Settings,
    ) -> Result<Vec<Resolved<'r>>, E> {
        self.record_static_token(source, settings);
        let resolved = resolved?;
        self.record.resolved(&resolved);
        self.warn_of_trial_keks(&resolved);
        Ok(resolved)
    }

    /// Writes the record of an update, before a container gets new files.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn record_update(&mut self, has_changed: bool) -> Result<(), AnyFault> {
        self.record.updated(has_changed);
        Ok(self.trail.write(&self.record)?)
    }

    /// Writes the record of the whole start, and returns its outcome: a start that cannot be recorded is refused.
    ///
    /// # Errors
    /// The start was refused.
    pub fn end(mut self, outcome: Result<(), AnyFault>) -> Result<(), AnyFault> {
        if let Err(error) = outcome {
            return Err(self.refuse(error));
        }
        self.record.delivered();
        self.trail.write(&self.record).map_err(|unrecorded| self.refuse(unrecorded.into()))
    }

    /// Writes the record of a refusal, wherever that is possible, and returns its reason.
    pub fn refuse(mut self, error: AnyFault) -> AnyFault {
        self.record.refused(&*error);
        if self.trail.write(&self.record).is_err() {
            let _ = Trail::default().write(&self.record);
        }
        error
    }

    /// Notes how a static token was used, and logs what the settings do not expect.
    fn record_static_token(&mut self, source: &dyn Source, settings: &Settings) {
        if let Some(conditions) = &settings.static_token
            && let Some(shown) = source.static_token()
        {
            let used = Use::of(&shown, conditions);
            for anomaly in used.anomalies() {
                self.warn(&format!("the token of {} was used: {anomaly}", shown.origin));
            }
            self.record.static_token = Some(used);
        }
    }

    fn warn_of_trial_keks(&self, secrets: &[Resolved<'_>]) {
        let of_trials = secrets.iter().filter_map(|s| s.kek.as_ref()).filter(|kek| kek.kind().for_trials);
        let mut keks: Vec<&str> = of_trials.map(|kek| kek.as_str()).collect();
        keks.sort_unstable();
        keks.dedup();
        for kek in keks {
            self.warn(&format!("{kek} is a key file on this host, for trials and tests only"));
        }
    }

    fn warn(&self, text: &str) {
        report::warn(self.record.program, &format!("container {}: {text}", self.record.container));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// As the decision itself, it counts annotations of an image only if the settings do.
    #[test]
    fn the_service_account_is_needed_only_where_it_decides() {
        let texts = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
        };
        let to = "{ namespace = 'agents', service-account = 'billing', annotations = { team = 'a' } }";
        let settings = |permission| -> Settings {
            let text = format!(
                "[deliver]\nimage-annotations = '{permission}'\n[[grant]]\nreferences = ['op://Agents/*']\nto = {to}"
            );
            text.parse().unwrap()
        };
        let request = ("run.secrets/x", "op://Agents/db/password");
        let own = Annotations::new(texts(&[request, ("team", "a")]));
        let of_image = own.clone().with_image(texts(&[("team", "a")]));
        let other = Annotations::new(texts(&[request, ("team", "b")]));
        let pod = Pod { namespace: "agents".into(), ..Pod::default() };
        let elsewhere = Pod { namespace: "web".into(), ..Pod::default() };
        for (annotations, permission, pod, expected) in [
            (&own, "refuse", &pod, true),
            (&own, "refuse", &elsewhere, false),
            (&other, "refuse", &pod, false),
            (&of_image, "refuse", &pod, false),
            (&of_image, "allow", &pod, true),
        ] {
            let needed = Start::needs_service_account(annotations, &settings(permission), pod);
            assert_eq!(needed, expected, "{annotations:?} {permission} {pod}");
        }
    }
}
