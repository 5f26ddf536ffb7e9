//! What stands where a reference leads nowhere: for a person who has mistyped it.

use serde::Deserialize;

use super::Connect;
use crate::reference::Reference;
use crate::retry::Deadline;
use crate::source::SourceError;

#[derive(Deserialize)]
struct Titled {
    #[serde(default)]
    title: String,
}

impl Connect {
    /// The names next to the one that was not found: vaults, items of the vault, sections or fields of the item.
    ///
    /// # Errors
    /// As for every request.
    pub(super) async fn list_beside(
        &self,
        error: &SourceError,
        reference: &Reference,
        deadline: Deadline,
    ) -> Result<Vec<String>, SourceError> {
        if let SourceError::NoVault { .. } = error {
            return Ok(self.vaults(deadline).await?.into_iter().map(|vault| vault.name).collect());
        }
        let is_mistyped =
            matches!(error, SourceError::NoItem { .. } | SourceError::NoSection { .. } | SourceError::NoField { .. });
        if !is_mistyped {
            return Ok(Vec::new());
        }
        let vault = self.vault_id(reference.vault(), deadline).await?;
        if let SourceError::NoItem { .. } = error {
            let what = format!("the items of vault \"{}\"", reference.vault());
            let items: Vec<Titled> = self.read(&["vaults", &vault, "items"], what, deadline).await?;
            return Ok(items.into_iter().map(|item| item.title).collect());
        }
        let item = self.item(&vault, reference.vault(), reference.item(), deadline).await?;
        Ok(match error {
            SourceError::NoSection { .. } => item.section_names(),
            _ => item.field_names(),
        })
    }
}
