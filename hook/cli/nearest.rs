//! Suggests the nearest reference for one that does not exist.

use crate::fault::AnyFault;
use crate::nearest::nearest;
use crate::reference::Reference;
use crate::resolve::ResolveError;
use crate::retry::Deadline;
use crate::source::{Source, SourceError};

/// Adds the nearest existing reference, if there is one, to the error of one that does not exist.
pub(super) async fn with_nearest(error: ResolveError, source: &dyn Source, deadline: Deadline) -> AnyFault {
    AnyFault::from(match error {
        ResolveError::Fetch { file, reference, source: missing, .. } => {
            let names = source.siblings(&missing, &reference, deadline).await;
            let nearest = near(&missing, &reference, &names);
            ResolveError::Fetch { file, reference, nearest, source: missing }
        }
        unsealed => unsealed,
    })
}

/// The reference with the nearest of these names instead of the one that was not found.
fn near(missing: &SourceError, reference: &Reference, names: &[String]) -> Option<String> {
    let mut segments = [Some(reference.vault()), Some(reference.item()), reference.section(), Some(reference.field())];
    let [vault, item, section, field] = &mut segments;
    let wrong = match missing {
        SourceError::NoVault { .. } => vault,
        SourceError::NoItem { .. } => item,
        SourceError::NoSection { .. } => section,
        SourceError::NoField { .. } => field,
        _ => return None,
    };
    *wrong = nearest(wrong.as_ref()?, names.iter().map(String::as_str));
    wrong.as_ref()?;
    Some(format!("op://{}", segments.into_iter().flatten().collect::<Vec<_>>().join("/")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nearest(reference: &str, missing: SourceError, names: &[&str]) -> Option<String> {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        near(&missing, &reference.parse().unwrap(), &names)
    }

    #[test]
    fn takes_the_nearest_name_in_the_place_of_the_wrong_one() {
        let no_vault = || SourceError::NoVault { vault: "AgentVualt".into() };
        assert_eq!(
            nearest("op://AgentVualt/db/key", no_vault(), &["Archive", "AgentVault"]).unwrap(),
            "op://AgentVault/db/key"
        );
        let no_item = SourceError::NoItem { item: "key".into(), vault: "v".into() };
        assert_eq!(nearest("op://v/OpenAi/key", no_item, &["anthropic", "openai"]).unwrap(), "op://v/openai/key");
        let no_section = SourceError::NoSection { section: "prd".into(), item: "db".into() };
        assert_eq!(nearest("op://v/db/prd/db", no_section, &["prod", "test"]).unwrap(), "op://v/db/prod/db");
        let no_field = SourceError::NoField { field: "db".into(), item: "db".into(), nearest: None };
        assert_eq!(nearest("op://v/db/prod/pasword", no_field, &["password"]).unwrap(), "op://v/db/prod/password");
    }

    #[test]
    fn takes_none_that_is_not_near() {
        let no_vault = || SourceError::NoVault { vault: "AgentVault".into() };
        assert_eq!(nearest("op://AgentVault/db/key", no_vault(), &["Billing"]), None);
        assert_eq!(nearest("op://AgentVault/db/key", no_vault(), &[]), None);
        assert_eq!(nearest("op://v/i/f", SourceError::NoKeyFormats, &["v"]), None);
    }
}
