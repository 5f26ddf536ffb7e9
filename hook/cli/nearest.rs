//! Suggests the nearest reference for one that does not exist.

use crate::fault::AnyFault;
use crate::reference::Reference;
use crate::resolve::ResolveError;
use crate::retry::Deadline;
use crate::source::{Source, SourceError};

/// The least similarity of a name and its misspelling; 1 means equal.
const SIMILARITY_MIN: f64 = 0.8;

/// Adds the nearest existing reference, if there is one, to the error of one that does not exist.
pub(super) async fn with_nearest(error: ResolveError, source: &dyn Source, deadline: Deadline) -> AnyFault {
    AnyFault::from(match error {
        ResolveError::Fetch { file, reference, source: missing, .. } => {
            let names = source.names_beside(&missing, &reference, deadline).await;
            let meant = nearest(&missing, &reference, &names);
            ResolveError::Fetch { file, reference, meant, source: missing }
        }
        unsealed => unsealed,
    })
}

/// The reference with the nearest of these names instead of the one that was not found.
fn nearest(missing: &SourceError, reference: &Reference, names: &[String]) -> Option<String> {
    let mut segments = [Some(reference.vault()), Some(reference.item()), reference.section(), Some(reference.field())];
    let [vault, item, section, field] = &mut segments;
    let wrong = match missing {
        SourceError::NoVault { .. } => vault,
        SourceError::NoItem { .. } => item,
        SourceError::NoSection { .. } => section,
        SourceError::NoField { .. } => field,
        _ => return None,
    };
    let mistyped = wrong.as_ref()?.to_lowercase();
    let similarity = |name: &str| strsim::jaro_winkler(&name.to_lowercase(), &mistyped);
    let nearest = names.iter().max_by(|one, other| similarity(one).total_cmp(&similarity(other)))?;
    *wrong = Some(nearest.as_str()).filter(|name| similarity(name) >= SIMILARITY_MIN);
    wrong.as_ref()?;
    Some(format!("op://{}", segments.into_iter().flatten().collect::<Vec<_>>().join("/")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meant(reference: &str, missing: SourceError, names: &[&str]) -> Option<String> {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        nearest(&missing, &reference.parse().unwrap(), &names)
    }

    #[test]
    fn takes_the_nearest_name_in_the_place_of_the_wrong_one() {
        let no_vault = || SourceError::NoVault { vault: "AgentVualt".into() };
        assert_eq!(
            meant("op://AgentVualt/db/key", no_vault(), &["Archive", "AgentVault"]).unwrap(),
            "op://AgentVault/db/key"
        );
        let no_item = SourceError::NoItem { item: "key".into(), vault: "v".into() };
        assert_eq!(meant("op://v/OpenAi/key", no_item, &["anthropic", "openai"]).unwrap(), "op://v/openai/key");
        let no_section = SourceError::NoSection { section: "prd".into(), item: "db".into() };
        assert_eq!(meant("op://v/db/prd/db", no_section, &["prod", "test"]).unwrap(), "op://v/db/prod/db");
        let no_field = SourceError::NoField { field: "db".into(), item: "db".into() };
        assert_eq!(meant("op://v/db/prod/pasword", no_field, &["password"]).unwrap(), "op://v/db/prod/password");
    }

    #[test]
    fn takes_none_that_is_not_near() {
        let no_vault = || SourceError::NoVault { vault: "AgentVault".into() };
        assert_eq!(meant("op://AgentVault/db/key", no_vault(), &["Billing"]), None);
        assert_eq!(meant("op://AgentVault/db/key", no_vault(), &[]), None);
        assert_eq!(meant("op://v/i/f", SourceError::NoKeyFormats, &["v"]), None);
    }
}
