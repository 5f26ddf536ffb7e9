//! Grants: which containers may have which references.

mod caller;
mod containers;
mod error;
mod reference_pattern;
mod rule;
#[cfg(test)]
mod testkit;

use std::collections::BTreeSet;

use serde::Deserialize;

use crate::container::Annotations;
use crate::reference::Reference;

pub use self::caller::Caller;
pub use self::error::{Found, GrantError, MissingIdentity};
pub use self::reference_pattern::{ReferencePattern, ReferencePatternError};
pub use self::rule::Grant;

/// All grants of the settings. Without one that matches, a request is refused.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Vec<Grant>")]
pub struct Grants(Vec<Grant>);

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
        let mut refusal = GrantError::NoGrant { reference: reference.clone(), nearest: None, user: caller.user() };
        for grant in self.0.iter().filter(|grant| grant.may_be_known_to(caller) && grant.names(reference)) {
            match grant.admit(reference, annotations, wants_owner, caller) {
                Ok(()) => return Ok(grant),
                Err(closer) if closer.closeness() >= refusal.closeness() => refusal = closer,
                Err(_) => {}
            }
        }
        if let (GrantError::NoGrant { nearest, .. }, Caller::Root | Caller::Pod(_)) = (&mut refusal, caller) {
            *nearest = self.nearest(reference);
        }
        Err(refusal)
    }

    /// The reference that a grant names and that is nearest to one that none names, if one is near.
    fn nearest(&self, reference: &Reference) -> Option<String> {
        let patterns = self.0.iter().flat_map(|grant| &grant.references);
        let near = patterns.filter_map(|pattern| pattern.nearest(reference.as_str()));
        near.max_by(|(_, one), (_, other)| one.total_cmp(other)).map(|(nearest, _)| nearest)
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

/// Two grants of one name, of which a command could mean either.
#[derive(Debug, thiserror::Error)]
#[error("two grants have the same name")]
pub struct SameName;

#[cfg(test)]
mod tests {
    use super::testkit::{annotations, grants, pod, reference};
    use super::*;
    use crate::fault::Fault as _;
    use crate::settings::Pattern;

    #[test]
    fn gives_nothing_without_a_grant() {
        let database = reference("op://Agents/database/password");
        let refusal = Grants::default().decide(&database, &annotations(&[]), false, Caller::Root).unwrap_err();
        assert_eq!(refusal.to_string(), "refusing to grant op://Agents/database/password: no grant names it");
    }

    #[test]
    fn suggests_the_nearest_reference_that_a_grant_names() {
        let grants =
            grants("[[grant]]\nreferences = ['op://AgentVault/*', 'op://Billing/*/key', 'op://Ops/db/admin/password']");
        let hint =
            |text| grants.decide(&reference(text), &annotations(&[]), false, Caller::Root).unwrap_err().hint().unwrap();
        for (text, nearest) in [
            ("op://AgentVualt/db/password", "op://AgentVault/db/password"),
            ("op://agentvault/db/prod/password", "op://AgentVault/db/prod/password"),
            ("op://Billing/stripe/keys", "op://Billing/stripe/key"),
            ("op://Biling/stripe/key", "op://Billing/stripe/key"),
            ("op://Ops/db/admn/password", "op://Ops/db/admin/password"),
        ] {
            assert_eq!(hint(text), format!("did you mean {nearest}, which a grant names? names are case-sensitive"));
        }
        for text in ["op://Other/db/password", "op://Ops/db/password", "op://Billing/stripe/secret"] {
            assert!(hint(text).starts_with("a grant in the settings must list"), "{}", hint(text));
        }
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
