//! Grants: which containers may have which references.

mod containers;
mod error;
mod reference_pattern;

use std::collections::BTreeSet;

use serde::Deserialize;

use self::containers::Containers;
use super::{Pattern, Permission};
use crate::container::{Annotations, Pod, Value};
use crate::reference::Reference;

pub use self::error::{Found, GrantError, MissingIdentity};
pub use self::reference_pattern::{ReferencePattern, ReferencePatternError};

/// All grants of the settings. Without one that matches, a request is refused.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Vec<Grant>")]
pub struct Grants(Vec<Grant>);

/// Who starts the container that requests a reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller<'a> {
    /// The hook that reads these settings itself, or one of root's.
    Root,
    /// The same, for a container of a pod that is known otherwise than from its annotations.
    Pod(&'a Pod),
    /// A hook of another user, who can set every annotation.
    User {
        /// The user.
        uid: u32,
        /// All names by which grants are for this user.
        names: &'a [String],
    },
}

impl Caller<'_> {
    /// Whether grants to this user are for the caller.
    fn is(self, user: &str) -> bool {
        matches!(self, Caller::User { names, .. } if names.iter().any(|name| name == user))
    }

    /// The user as messages name it: by number, if no grant names this user.
    fn user(self) -> Option<String> {
        match self {
            Caller::Root | Caller::Pod(_) => None,
            Caller::User { uid, names } => Some(names.first().cloned().unwrap_or_else(|| uid.to_string())),
        }
    }
}

/// One rule: these containers may have these references.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    #[serde(default)]
    name: Option<String>,
    references: Vec<ReferencePattern>,
    #[serde(default)]
    to: Containers,
    #[serde(default)]
    owner: Permission,
}

impl Grants {
    /// Finds the first grant that gives `reference` to a container with these annotations.
    ///
    /// `wants_owner`: the container requests an owner other than its own user.
    ///
    /// # Errors
    /// No grant does; the refusal is that of the grant that came closest.
    pub fn decide(
        &self,
        reference: &Reference,
        annotations: &Annotations,
        wants_owner: bool,
        caller: Caller<'_>,
    ) -> Result<&Grant, GrantError> {
        let mut refusal = GrantError::NoGrant { reference: reference.clone(), meant: None, user: caller.user() };
        for grant in self.0.iter().filter(|grant| grant.may_be_known_to(caller) && grant.names(reference)) {
            match grant.admit(reference, annotations, wants_owner, caller) {
                Ok(()) => return Ok(grant),
                Err(closer) if closer.closeness() >= refusal.closeness() => refusal = closer,
                Err(_) => {}
            }
        }
        if let (GrantError::NoGrant { meant, .. }, Caller::Root | Caller::Pod(_)) = (&mut refusal, caller) {
            *meant = self.nearest(reference);
        }
        Err(refusal)
    }

    /// The reference that a grant names and that is nearest to one that none names, if one is near.
    fn nearest(&self, reference: &Reference) -> Option<String> {
        let patterns = self.0.iter().flat_map(|grant| &grant.references);
        let near = patterns.filter_map(|pattern| pattern.nearest(reference.as_str()));
        near.max_by(|(_, one), (_, other)| one.total_cmp(other)).map(|(meant, _)| meant)
    }

    /// All of them, in their order.
    pub fn iter(&self) -> impl Iterator<Item = &Grant> {
        self.0.iter()
    }

    /// Whether one of them names references in a vault of this name or id.
    pub fn name_vault(&self, vault: &str) -> bool {
        self.0.iter().flat_map(|grant| &grant.references).any(|pattern| pattern.names_vault(vault))
    }

    /// Adds the grants of another file, unless one of their names is taken: then it is returned.
    pub(super) fn append(&mut self, Grants(more): Grants) -> Result<(), String> {
        let taken = more.iter().filter_map(|grant| grant.name.as_deref()).find(|name| self.named(name).is_some());
        if let Some(name) = taken {
            return Err(name.to_owned());
        }
        self.0.extend(more);
        Ok(())
    }

    /// The grant of this name.
    pub fn named(&self, name: &str) -> Option<&Grant> {
        self.0.iter().find(|grant| grant.name.as_deref() == Some(name))
    }
}

impl TryFrom<Vec<Grant>> for Grants {
    type Error = SameName;

    fn try_from(grants: Vec<Grant>) -> Result<Grants, SameName> {
        let mut names = BTreeSet::new();
        let mut all = grants.iter().filter_map(|grant| grant.name.as_deref());
        if all.all(|name| names.insert(name)) { Ok(Grants(grants)) } else { Err(SameName) }
    }
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
    fn may_be_known_to(&self, caller: Caller<'_>) -> bool {
        !matches!(caller, Caller::User { .. }) || self.user().is_some_and(|user| caller.is(user))
    }

    /// Gives a reference that it names to a container with these annotations.
    ///
    /// # Errors
    /// It is for other containers, or does not allow the owner that is asked for.
    fn admit(
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
                return Err(GrantError::NoGrant { reference, meant: None, user });
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

/// Two grants of one name, of which a command could mean either.
#[derive(Debug, thiserror::Error)]
#[error("two grants have the same name")]
pub struct SameName;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::Fault as _;

    const NAMESPACE: &str = "io.kubernetes.cri.sandbox-namespace";

    fn grants(text: &str) -> Grants {
        text.parse::<crate::settings::Settings>().unwrap().grants
    }

    fn reference(text: &str) -> Reference {
        text.parse().unwrap()
    }

    fn annotations(pairs: &[(&str, &str)]) -> Annotations {
        Annotations::new(pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect())
    }

    #[test]
    fn gives_nothing_without_a_grant() {
        let database = reference("op://Agents/database/password");
        let refusal = Grants::default().decide(&database, &annotations(&[]), false, Caller::Root).unwrap_err();
        assert_eq!(refusal.to_string(), "refusing to grant op://Agents/database/password: no grant names it");
    }

    #[test]
    fn matches_the_reference_as_it_is_asked_for_without_its_query() {
        let grants = grants("[[grant]]\nreferences = ['op://Agents/*/one-time password']");
        let decide = |text| grants.decide(&reference(text), &annotations(&[]), false, Caller::Root).is_ok();
        assert!(decide("op://Agents/github/one-time password?attribute=otp"));
        assert!(!decide("op://agents/github/one-time password"));
        assert!(!decide("op://Agents/github/login/one-time password"));
    }

    #[test]
    fn suggests_the_nearest_reference_that_a_grant_names() {
        let grants =
            grants("[[grant]]\nreferences = ['op://AgentVault/*', 'op://Billing/*/key', 'op://Ops/db/admin/password']");
        let hint =
            |text| grants.decide(&reference(text), &annotations(&[]), false, Caller::Root).unwrap_err().hint().unwrap();
        for (text, meant) in [
            ("op://AgentVualt/db/password", "op://AgentVault/db/password"),
            ("op://agentvault/db/prod/password", "op://AgentVault/db/prod/password"),
            ("op://Billing/stripe/keys", "op://Billing/stripe/key"),
            ("op://Biling/stripe/key", "op://Billing/stripe/key"),
            ("op://Ops/db/admn/password", "op://Ops/db/admin/password"),
        ] {
            assert_eq!(hint(text), format!("did you mean {meant}, which a grant names? names are case-sensitive"));
        }
        for text in ["op://Other/db/password", "op://Ops/db/password", "op://Billing/stripe/secret"] {
            assert!(hint(text).starts_with("a grant in the settings must list"), "{}", hint(text));
        }
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

    #[test]
    fn knows_which_vaults_are_used() {
        let grants = grants("[[grant]]\nreferences = ['op://Agents/db/*', 'op://b/i/f']");
        assert!(grants.name_vault("Agents") && grants.name_vault("b"));
        assert!(!grants.name_vault("agents") && !grants.name_vault("db") && !grants.name_vault("*"));
        for any in ["op://*", "op://*/db/password"] {
            assert!(self::grants(&format!("[[grant]]\nreferences = ['{any}']")).name_vault("Agents"));
        }
        assert!(!Grants::default().name_vault("Agents"));
    }

    #[test]
    fn another_owner_needs_a_grant_that_allows_it() {
        let closed = "[[grant]]\nreferences = ['op://Agents/*']\n";
        let open = "[[grant]]\nreferences = ['op://Agents/*']\nowner = 'allow'\n";
        let others = "[[grant]]\nreferences = ['op://Agents/*']\nto = { annotations = { team = 'b' } }\n";
        let database = reference("op://Agents/database/password");
        let decide = |text: &str| grants(text).decide(&database, &annotations(&[]), true, Caller::Root).map(|_| ());
        assert_eq!(decide(open), Ok(()));
        assert_eq!(decide(&format!("{closed}{open}")), Ok(()));
        assert_eq!(decide(closed), Err(GrantError::Owner { reference: database.clone() }));
        assert_eq!(decide(&format!("{closed}{others}")), Err(GrantError::Owner { reference: database.clone() }));
        assert_eq!(decide(&format!("{others}{closed}")), Err(GrantError::Owner { reference: database.clone() }));
    }

    #[test]
    fn a_name_is_of_one_grant() {
        let grant = |name: &str| format!("[[grant]]\nname = '{name}'\nreferences = ['op://Agents/{name}/*']\n");
        let grants = grants(&(grant("a") + &grant("b")));
        let patterns: Vec<&str> = grants.named("b").unwrap().references().map(Pattern::as_str).collect();
        assert_eq!((patterns, grants.named("c")), (vec!["op://Agents/b/*"], None));
        let error = (grant("a") + &grant("a")).parse::<crate::settings::Settings>().unwrap_err();
        assert_eq!(error.to_string(), "line 1: grant: two grants have the same name");
    }

    #[test]
    fn refuses_a_restriction_that_restricts_nothing() {
        let refusal = |to: &str| {
            let text = format!("[[grant]]\nreferences = ['op://Agents/*']\nto = {to}");
            text.parse::<crate::settings::Settings>().unwrap_err().to_string()
        };
        for nothing in ["{ annotations = {} }", "{}"] {
            assert!(
                refusal(nothing).contains("\"to\" has none of `user`, `namespace`, `service-account`"),
                "{nothing}"
            );
        }
        assert!(refusal("{ namespaces = 'a' }").contains("unknown field"));
        for alone in ["{ service-account = 'billing' }", "{ labels = { app = 'billing' } }"] {
            assert!(refusal(alone).contains("need `namespace` next to them"), "{alone}");
        }
        let user = "{ user = 'alice', namespace = 'agents', service-account = 'billing' }";
        assert!(refusal(user).contains("not those of a `user`"));
    }

    fn pod(namespace: &str, account: Option<&str>, labels: &[(&str, &str)]) -> Pod {
        Pod {
            namespace: namespace.to_owned(),
            name: "billing-0".to_owned(),
            uid: "7c1e".to_owned(),
            service_account: account.map(str::to_owned),
            labels: labels.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect(),
        }
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

    /// The API server must be asked wherever its answer can decide, whatever other grants refuse; and a grant that depends on a pod that is not
    /// known yet was not removed.
    #[test]
    fn another_refusal_does_not_hide_that_the_identity_decides() {
        let by_account = "[[grant]]\nreferences = ['op://Agents/*']\nowner = 'allow'\nto = { namespace = 'agents', service-account = 'billing' }\n";
        let all = "[[grant]]\nreferences = ['op://Agents/*']\n";
        let other = "[[grant]]\nreferences = ['op://Agents/*']\nto = { namespace = 'web' }\n";
        let pod = pod("agents", None, &[]);
        for text in [
            format!("{by_account}{all}{other}"),
            format!("{all}{by_account}{other}"),
            format!("{other}{all}{by_account}"),
        ] {
            let grants = grants(&text);
            let decided =
                grants.decide(&reference("op://Agents/db/p"), &annotations(&[]), true, Caller::Pod(&pod)).unwrap_err();
            assert!(decided.needs_service_account(), "{text}");
            let decided =
                grants.decide(&reference("op://Agents/db/p"), &annotations(&[]), true, Caller::Root).unwrap_err();
            assert!(matches!(decided, GrantError::Unidentified { missing: MissingIdentity::Pod, .. }), "{text}");
        }
    }

    #[test]
    fn a_grant_to_a_user_is_for_containers_of_that_user_alone() {
        let all = "[[grant]]\nreferences = ['op://Agents/*']\n";
        let of_alice = format!("{all}to = {{ user = 'alice' }}\n");
        let names = ["alice", "1001"].map(str::to_owned);
        let alice = Caller::User { uid: 1001, names: &names };
        let database = reference("op://Agents/database/password");
        let decide = |text: &str, caller| {
            let outcome = grants(text).decide(&database, &annotations(&[]), false, caller).map(|_| ());
            outcome.map_err(|refusal| refusal.to_string())
        };
        let refusal = |rest: &str| Err(format!("refusing to grant op://Agents/database/password: expected {rest}"));
        assert_eq!(decide(&of_alice, alice), Ok(()));
        assert_eq!(decide(&format!("{all}{of_alice}"), alice), Ok(()));
        assert_eq!(decide(&format!("{all}{of_alice}"), Caller::Root), Ok(()));
        let of_root = refusal("a container of user \"alice\", found one of root");
        assert_eq!(decide(&of_alice, Caller::Root), of_root);
        // What a user is refused is the same, whatever others may have.
        let none = Err("refusing to grant op://Agents/database/password: no grant names it".to_owned());
        let bob = Caller::User { uid: 1002, names: &[] };
        for (text, caller) in [(&*of_alice, bob), (all, bob), ("", bob), (all, alice), ("", alice)] {
            assert_eq!(decide(text, caller), none, "{text}");
        }
        let hint = Grants::default().decide(&database, &annotations(&[]), false, bob).unwrap_err().hint().unwrap();
        assert!(hint.ends_with("under `references`, with to = { user = \"1002\" }"), "{hint}");
    }
}
