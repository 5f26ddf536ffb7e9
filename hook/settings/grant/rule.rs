//! One grant: whether it gives a reference to a container.

use serde::Deserialize;

use super::caller::Caller;
use super::containers::Containers;
use super::error::{Found, GrantError, MissingIdentity};
use super::reference_pattern::ReferencePattern;
use crate::container::{Annotations, Pod, Value};
use crate::reference::Reference;
use crate::settings::{Pattern, Permission};

/// One rule: these containers may have these references.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    #[serde(default)]
    pub(super) name: Option<String>,
    pub(super) references: Vec<ReferencePattern>,
    #[serde(default)]
    to: Containers,
    #[serde(default)]
    owner: Permission,
}

impl Grant {
    /// The annotations that it requires.
    pub fn annotations(&self) -> impl Iterator<Item = (&str, &Pattern)> {
        self.to.annotations.iter().map(|(key, pattern)| (key.as_str(), pattern))
    }

    /// The pod's namespace that it requires.
    pub fn namespace(&self) -> Option<&Pattern> {
        self.to.namespace.as_ref()
    }

    /// The service account of the pod that it requires.
    pub fn service_account(&self) -> Option<&Pattern> {
        self.to.service_account.as_ref()
    }

    /// The labels of the pod that it requires.
    pub fn labels(&self) -> impl Iterator<Item = (&str, &Pattern)> {
        self.to.labels.iter().map(|(key, pattern)| (key.as_str(), pattern))
    }

    /// Whether it is for pods that are known from the runtime alone.
    pub fn is_identity(&self) -> bool {
        self.to.is_identity()
    }

    /// The user for whose containers alone it is.
    pub fn user(&self) -> Option<&str> {
        self.to.user.as_deref()
    }

    /// The patterns of references that it gives.
    pub fn references(&self) -> impl Iterator<Item = &Pattern> {
        self.references.iter().map(ReferencePattern::pattern)
    }

    /// Whether it lists a reference, for some containers or for all.
    pub fn names(&self, reference: &Reference) -> bool {
        self.references().any(|pattern| pattern.matches(reference.as_str()))
    }

    /// Whether a refusal may be about this grant: a user must not learn which grants others have.
    pub(super) fn may_be_known_to(&self, caller: Caller<'_>) -> bool {
        !matches!(caller, Caller::User { .. }) || self.user().is_some_and(|user| caller.is(user))
    }

    /// Gives a reference that it names to a container with these annotations.
    ///
    /// # Errors
    /// It is for other containers, or does not allow the owner that is asked for.
    pub(super) fn admit(
        &self,
        reference: &Reference,
        annotations: &Annotations,
        wants_owner: bool,
        caller: Caller<'_>,
    ) -> Result<(), GrantError> {
        match (self.user(), caller) {
            (None, Caller::Root | Caller::Pod(_)) => {}
            (Some(user), _) if caller.is(user) => {}
            (Some(user), Caller::Root | Caller::Pod(_)) => {
                return Err(GrantError::User { reference: reference.clone(), expected: user.to_owned() });
            }
            (_, Caller::User { .. }) => {
                let (reference, user) = (reference.clone(), caller.user());
                return Err(GrantError::NoGrant { reference, nearest: None, user });
            }
        }
        let pod = match caller {
            Caller::Pod(pod) => Some(pod),
            Caller::Root | Caller::User { .. } => None,
        };
        self.admit_namespace(reference, annotations, pod)?;
        self.admit_labels(reference, pod)?;
        for (key, expected) in &self.to.annotations {
            let found = annotations.value(key);
            if !matches!(found, Value::Counts(value) if expected.matches(value)) {
                return Err(GrantError::Annotation {
                    reference: reference.clone(),
                    key: key.clone(),
                    expected: expected.clone(),
                    found: Found::of(found),
                });
            }
        }
        if wants_owner && self.owner == Permission::Refuse {
            return Err(GrantError::Owner { reference: reference.clone() });
        }
        self.admit_service_account(reference, pod)
    }

    /// By annotations, or for a grant by identity by what is known of the pod. What is known of it never contradicts a grant by annotations.
    fn admit_namespace(
        &self,
        reference: &Reference,
        annotations: &Annotations,
        pod: Option<&Pod>,
    ) -> Result<(), GrantError> {
        let Some(expected) = &self.to.namespace else { return Ok(()) };
        let require = |found: Option<&str>| match found.is_some_and(|namespace| expected.matches(namespace)) {
            true => Ok(()),
            false => Err(GrantError::Namespace {
                reference: reference.clone(),
                expected: expected.clone(),
                found: Found::of(found.map_or(Value::Absent, Value::Counts)),
            }),
        };
        match pod {
            None if self.is_identity() => return Err(unidentified(reference, MissingIdentity::Pod)),
            None => {}
            Some(pod) => require(Some(&pod.namespace))?,
        }
        if self.is_identity() {
            return Ok(());
        }
        let contradiction = |source| GrantError::Contradiction { reference: reference.clone(), source };
        require(annotations.namespace().map_err(contradiction)?)
    }

    fn admit_labels(&self, reference: &Reference, pod: Option<&Pod>) -> Result<(), GrantError> {
        for (key, expected) in &self.to.labels {
            let found = pod.and_then(|pod| pod.labels.get(key)).map(String::as_str);
            if !found.is_some_and(|value| expected.matches(value)) {
                return Err(GrantError::Label {
                    reference: reference.clone(),
                    key: key.clone(),
                    expected: expected.clone(),
                    found: Found::of(found.map_or(Value::Absent, Value::Counts)),
                });
            }
        }
        Ok(())
    }

    /// The last condition: the API server is asked for it only if it decides.
    fn admit_service_account(&self, reference: &Reference, pod: Option<&Pod>) -> Result<(), GrantError> {
        let Some(expected) = &self.to.service_account else { return Ok(()) };
        match pod.and_then(|pod| pod.service_account.as_deref()) {
            None => Err(unidentified(reference, MissingIdentity::ServiceAccount)),
            Some(found) if expected.matches(found) => Ok(()),
            Some(found) => Err(GrantError::ServiceAccount {
                reference: reference.clone(),
                expected: expected.clone(),
                found: Found::of(Value::Counts(found)),
            }),
        }
    }
}

fn unidentified(reference: &Reference, missing: MissingIdentity) -> GrantError {
    GrantError::Unidentified { reference: reference.clone(), missing }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::grant::testkit::{NAMESPACE, annotations, grants, pod, reference};

    #[test]
    fn matches_the_reference_as_it_is_asked_for_without_its_query() {
        let grants = grants("[[grant]]\nreferences = ['op://Agents/*/one-time password']");
        let decide = |text| grants.decide(&reference(text), &annotations(&[]), false, Caller::Root).is_ok();
        assert!(decide("op://Agents/github/one-time password?attribute=otp"));
        assert!(!decide("op://agents/github/one-time password"));
        assert!(!decide("op://Agents/github/login/one-time password"));
    }

    #[test]
    fn gives_only_to_containers_with_every_annotation() {
        let grants = grants(&format!(
            "[[grant]]\nreferences = ['op://Agents/*']\nto = {{ annotations = {{ '{NAMESPACE}' = 'agents', team = '*' }} }}"
        ));
        let database = reference("op://Agents/database/password");
        let decide = |pairs: &[(&str, &str)]| grants.decide(&database, &annotations(pairs), false, Caller::Root);
        let granted = decide(&[(NAMESPACE, "agents"), ("team", "a")]).unwrap();
        assert_eq!(granted.annotations().map(|(key, _)| key).collect::<Vec<_>>(), [NAMESPACE, "team"]);
        assert!(decide(&[(NAMESPACE, "agents"), ("team", "")]).is_err());
        assert_eq!(
            decide(&[(NAMESPACE, "agents")]).unwrap_err().to_string(),
            "refusing to grant op://Agents/database/password: expected annotation team = \"*\", found none"
        );
        assert!(
            decide(&[(NAMESPACE, "web\n"), ("team", "a")])
                .unwrap_err()
                .to_string()
                .ends_with("expected annotation io.kubernetes.cri.sandbox-namespace = \"agents\", found \"web\\n\"")
        );
    }

    #[test]
    fn a_namespace_is_what_the_engine_at_hand_says() {
        let grants = grants("[[grant]]\nreferences = ['op://Agents/*']\nto = { namespace = 'agents' }");
        let database = reference("op://Agents/database/password");
        let crio = [("io.container.manager", "cri-o"), ("io.kubernetes.cri-o.ContainerType", "container")];
        let decide = |pairs: &[(&str, &str)]| {
            grants
                .decide(&database, &annotations(pairs), false, Caller::Root)
                .map(|_| ())
                .map_err(|refusal| refusal.to_string())
        };
        let of_pod = |namespace| ("io.kubernetes.pod.namespace", namespace);
        assert_eq!(decide(&[(NAMESPACE, "agents")]), Ok(()));
        assert_eq!(decide(&[crio[0], crio[1], of_pod("agents")]), Ok(()));
        let refused = "refusing to grant op://Agents/database/password".to_owned();
        assert_eq!(decide(&[]), Err(format!("{refused}: expected namespace \"agents\", found none")));
        assert_eq!(
            decide(&[crio[0], crio[1], of_pod("other")]),
            Err(format!("{refused}: expected namespace \"agents\", found \"other\""))
        );
        assert_eq!(decide(&[crio[0], crio[1], of_pod("other"), (NAMESPACE, "agents")]), Err(refused.clone()));
        assert_eq!(decide(&[of_pod("agents")]), Err(refused));
    }

    #[test]
    fn an_annotation_counts_only_if_the_engine_at_hand_sets_it() {
        let to = format!("to = {{ annotations = {{ '{NAMESPACE}' = 'agents' }} }}");
        let grants = grants(&format!("[[grant]]\nreferences = ['op://Agents/*']\n{to}"));
        let crio = [("io.container.manager", "cri-o"), ("io.kubernetes.cri-o.ContainerType", "container")];
        let forged = annotations(&[crio[0], crio[1], (NAMESPACE, "agents")]);
        let refusal =
            grants.decide(&reference("op://Agents/database/password"), &forged, false, Caller::Root).unwrap_err();
        assert!(refusal.to_string().ends_with("found \"agents\", which CRI-O does not set"), "{refusal}");
    }

    /// Every grant for pods, by what is known of a pod. `?`: the API server must be asked.
    #[test]
    fn a_grant_by_identity_is_for_pods_with_all_of_it() {
        let app = [("app", "billing")];
        let pods = [
            ("unknown", None),
            ("billing", Some(pod("agents", Some("billing"), &app))),
            ("not asked", Some(pod("agents", None, &app))),
            ("other account", Some(pod("agents", Some("default"), &app))),
            ("no label", Some(pod("agents", Some("billing"), &[]))),
            ("other label", Some(pod("agents", Some("billing"), &[("app", "web")]))),
            ("other namespace", Some(pod("web", Some("billing"), &app))),
        ];
        // An author of pods who can set every annotation.
        let forged = [(NAMESPACE, "agents"), ("service-account", "billing"), ("app", "billing")];
        for (to, expected) in [
            ("{ namespace = 'agents', service-account = 'billing', labels = { app = 'billing' } }", "-+?----"),
            ("{ namespace = 'agents', service-account = 'billing' }", "-+?-++-"),
            ("{ namespace = 'agents', labels = { app = 'billing' } }", "-+++---"),
            ("{ namespace = '*', labels = { app = '*' } }", "-+++-++"),
            ("{ namespace = '*', service-account = '*' }", "-+?++++"),
            ("{ namespace = 'agents', service-account = 'billing', annotations = { team = 'a' } }", "-------"),
            // By the annotations of containerd, and what is known of the pod may only forbid it.
            ("{ namespace = 'agents' }", "++++++-"),
        ] {
            let grants = grants(&format!("[[grant]]\nreferences = ['op://Agents/*']\nto = {to}"));
            let database = reference("op://Agents/database/password");
            let decide = |annotations: &Annotations, pod: &Option<Pod>| {
                let caller = pod.as_ref().map_or(Caller::Root, Caller::Pod);
                match grants.decide(&database, annotations, false, caller) {
                    Ok(_) => '+',
                    Err(refusal) if refusal.needs_service_account() => '?',
                    Err(_) => '-',
                }
            };
            let (none, forged) = (annotations(&[]), annotations(&forged));
            let found: String = pods.iter().map(|(_, pod)| decide(&forged, pod)).collect();
            assert_eq!(found, expected, "{to}");
            if grants.iter().all(Grant::is_identity) {
                let without: String = pods.iter().map(|(_, pod)| decide(&none, pod)).collect();
                assert_eq!(without, expected, "annotations change nothing: {to}");
            }
        }
    }

    #[test]
    fn what_is_known_of_a_pod_gives_nothing_to_users() {
        let grants = grants(
            "[[grant]]\nreferences = ['op://Agents/*']\nto = { namespace = 'agents', labels = { app = 'billing' } }",
        );
        let caller = Caller::User { uid: 1001, names: &[] };
        let refusal =
            grants.decide(&reference("op://Agents/db/password"), &annotations(&[]), false, caller).unwrap_err();
        assert!(matches!(refusal, GrantError::NoGrant { .. }), "{refusal}");
    }

    #[test]
    fn a_refusal_by_identity_says_what_is_missing() {
        let grants = grants(
            "[[grant]]\nreferences = ['op://Agents/*']\nto = { namespace = 'agents', service-account = 'billing', labels = { app = 'billing' } }",
        );
        let refusal = |caller: Caller<'_>| {
            let database = reference("op://Agents/database/password");
            grants.decide(&database, &annotations(&[]), false, caller).unwrap_err().to_string()
        };
        let app = [("app", "billing")];
        for (pod, expected) in [
            (pod("web", Some("billing"), &app), "expected namespace \"agents\", found \"web\""),
            (pod("agents", Some("billing"), &[]), "expected label app = \"billing\", found none"),
            (pod("agents", Some("default"), &app), "expected service account \"billing\", found \"default\""),
            (pod("agents", None, &app), "the identity of its pod is not known"),
        ] {
            assert_eq!(
                refusal(Caller::Pod(&pod)),
                format!("refusing to grant op://Agents/database/password: {expected}")
            );
        }
        assert!(refusal(Caller::Root).ends_with("the identity of its pod is not known"));
    }
}
