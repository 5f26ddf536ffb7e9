//! Grants: which containers may have which references.

mod containers;
mod error;
mod reference_pattern;

use std::collections::BTreeSet;

use serde::Deserialize;

use self::containers::Containers;
use super::{Pattern, Permission};
use crate::container::{Annotations, Value};
use crate::reference::Reference;

pub use self::error::{Found, GrantError};
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
            Caller::Root => None,
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
                Err(closer) if !matches!(refusal, GrantError::Owner { .. }) => refusal = closer,
                Err(_) => {}
            }
        }
        if let (GrantError::NoGrant { meant, .. }, Caller::Root) = (&mut refusal, caller) {
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
        caller == Caller::Root || self.user().is_some_and(|user| caller.is(user))
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
            (None, Caller::Root) => {}
            (Some(user), _) if caller.is(user) => {}
            (Some(user), Caller::Root) => {
                return Err(GrantError::User { reference: reference.clone(), expected: user.to_owned() });
            }
            (_, Caller::User { .. }) => {
                let (reference, user) = (reference.clone(), caller.user());
                return Err(GrantError::NoGrant { reference, meant: None, user });
            }
        }
        if let Some(expected) = &self.to.namespace {
            let contradiction = |source| GrantError::Contradiction { reference: reference.clone(), source };
            let found = annotations.namespace().map_err(contradiction)?;
            if !found.is_some_and(|namespace| expected.matches(namespace)) {
                let found = Found::of(found.map_or(Value::Absent, Value::Counts));
                return Err(GrantError::Namespace { reference: reference.clone(), expected: expected.clone(), found });
            }
        }
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
        Ok(())
    }
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
                refusal(nothing).contains("\"to\" has neither `user` nor `namespace` nor `annotations`"),
                "{nothing}"
            );
        }
        assert!(refusal("{ namespaces = 'a' }").contains("unknown field"));
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
