//! The item that a reference names: by remembered ids if they are still right, else by lookups.

use futures_util::future::join3;
use reqwest::StatusCode;
use serde::Deserialize;
use tokio::time::{Instant, timeout};

use super::ids::{CONFIRMED_FOR, ItemIds, VaultLookup};
use super::response::RequestError;
use super::{Connect, Vault};
use crate::reference::is_id;
use crate::retry::Deadline;
use crate::source::item::{Item, is_active};
use crate::source::{SourceError, Standing};

/// A call shares the failure of a lookup that it has waited for, unless it has more than this share of its own deadline left.
const TIME_FOR_ANOTHER: u32 = 3;

#[derive(Deserialize)]
struct Summary {
    id: String,
    #[serde(default)]
    title: String,
    state: Option<String>,
}

/// The result of looking up a title.
enum Found {
    /// The reference has its id, by which it was fetched.
    Item(Box<Item>),
    /// Its id.
    Id(String),
}

impl Connect {
    /// The item that a reference names, and the id of its vault.
    pub(super) async fn locate(
        &self,
        vault: &str,
        title: &str,
        deadline: Deadline,
    ) -> Result<(String, Item), SourceError> {
        if let Some(ids) = self.ids.item(vault, title) {
            if let Some(item) = self.remembered(vault, title, &ids, deadline).await? {
                return Ok((ids.vault, item));
            }
            self.ids.forget(vault, title);
        }
        let confirmed = Instant::now();
        let vault_id = self.shared_vault_id(vault, deadline).await?;
        let item = match self.look_up(&vault_id, vault, title, deadline).await? {
            Found::Item(item) => *item,
            Found::Id(id) => self.by_id(&vault_id, vault, &id, title, deadline).await?,
        };
        if item.is_still(title, &item.id, &vault_id) {
            let ids = ItemIds { vault: vault_id.clone(), item: item.id.clone(), confirmed };
            self.ids.remember(vault, title, ids);
        }
        Ok((vault_id, item))
    }

    /// The item with remembered ids; none if the names have to be looked up. Ids that were not confirmed for a while are confirmed at the
    /// same time, so that the answer takes no longer.
    async fn remembered(
        &self,
        vault: &str,
        title: &str,
        ids: &ItemIds,
        deadline: Deadline,
    ) -> Result<Option<Item>, SourceError> {
        let path = ["vaults", &ids.vault, "items", &ids.item];
        let get = self.get::<Item>(&path, None, deadline);
        let fetched = if ids.is_confirmed() {
            get.await
        } else {
            let confirmed = Instant::now();
            let vault_id = self.shared_vault_id(vault, deadline);
            let looked_up = self.look_up(&ids.vault, vault, title, deadline);
            let (fetched, vault_id, looked_up) = join3(get, vault_id, looked_up).await;
            if vault_id? != ids.vault {
                return Ok(None);
            }
            match looked_up {
                Ok(Found::Item(item)) if item.id == ids.item => {}
                Ok(Found::Id(id)) if id == ids.item => {}
                Ok(_) => return Ok(None),
                Err(error) => return Err(error),
            }
            self.ids.remember(vault, title, ItemIds { confirmed, ..ids.clone() });
            fetched
        };
        match fetched {
            Ok(item) if item.is_still(title, &ids.item, &ids.vault) => Ok(Some(item)),
            Ok(_) => Ok(None),
            Err(RequestError::Status {
                status: StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST | StatusCode::FORBIDDEN,
                ..
            }) => Ok(None),
            Err(refusal) => Err(self.error(refusal, what(title, vault))),
        }
    }

    /// The id of a vault, looked up once for all that ask for it at the same time.
    pub(super) async fn shared_vault_id(&self, name: &str, deadline: Deadline) -> Result<String, SourceError> {
        let (asked, cell) = (Instant::now(), self.ids.vault(name));
        let mut last = timeout(deadline.remaining(), cell.lock()).await.map_err(|_| self.no_answer(deadline))?;
        let has_time = deadline.remaining() > deadline.total() / TIME_FOR_ANOTHER;
        let is_shared = |lookup: &VaultLookup| match &lookup.outcome {
            Ok(_) => lookup.at.elapsed() < CONFIRMED_FOR,
            Err(error) => lookup.at >= asked && !(has_time && error.standing() == Standing::Outage),
        };
        if let Some(lookup) = last.as_ref().filter(|lookup| is_shared(lookup)) {
            return lookup.outcome.clone();
        }
        let at = Instant::now();
        let outcome = self.vault_id(name, deadline).await;
        // An id is as old as the request, a failure as old as the answer.
        let at = if outcome.is_ok() { at } else { Instant::now() };
        *last = Some(VaultLookup { at, outcome: outcome.clone() });
        outcome
    }

    /// The id of the vault that a reference names: by id, then by name.
    pub(super) async fn vault_id(&self, name: &str, deadline: Deadline) -> Result<String, SourceError> {
        let what = || format!("vault \"{name}\"");
        let mut forbidden = None;
        if is_id(name) {
            match self.get::<Vault>(&["vaults", name], None, deadline).await {
                Ok(vault) => return Ok(vault.id),
                // A name can look like an id, so the last word is the search by name.
                Err(RequestError::Status { status: StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST, .. }) => {}
                Err(refusal @ RequestError::Status { status: StatusCode::FORBIDDEN, .. }) => forbidden = Some(refusal),
                Err(refusal) => return Err(self.error(refusal, what())),
            }
        }
        let filter = format!("name eq \"{name}\"");
        let mut found: Vec<Vault> =
            self.get(&["vaults"], Some(&filter), deadline).await.map_err(|refusal| self.error(refusal, what()))?;
        found.retain(|vault| vault.name == name);
        match (found.pop(), found.len(), forbidden) {
            (Some(vault), 0, _) => Ok(vault.id),
            (Some(_), others, _) => Err(SourceError::ManyVaults { vault: name.to_owned(), count: others + 1 }),
            (None, _, Some(refusal)) => Err(self.error(refusal, what())),
            (None, _, None) => Err(SourceError::NoVault { vault: name.to_owned() }),
        }
    }

    /// The item that a reference names, looked up: by id, then by title among those in use.
    pub(super) async fn item(
        &self,
        vault_id: &str,
        vault: &str,
        title: &str,
        deadline: Deadline,
    ) -> Result<Item, SourceError> {
        match self.look_up(vault_id, vault, title, deadline).await? {
            Found::Item(item) => Ok(*item),
            Found::Id(id) => self.by_id(vault_id, vault, &id, title, deadline).await,
        }
    }

    async fn by_id(
        &self,
        vault_id: &str,
        vault: &str,
        id: &str,
        title: &str,
        deadline: Deadline,
    ) -> Result<Item, SourceError> {
        let item = self.get(&["vaults", vault_id, "items", id], None, deadline).await;
        item.map_err(|refusal| self.error(refusal, what(title, vault)))
    }

    async fn look_up(
        &self,
        vault_id: &str,
        vault: &str,
        title: &str,
        deadline: Deadline,
    ) -> Result<Found, SourceError> {
        let mut archived = false;
        if is_id(title) {
            match self.get::<Item>(&["vaults", vault_id, "items", title], None, deadline).await {
                Ok(item) if item.is_active() => return Ok(Found::Item(Box::new(item))),
                Ok(_) => archived = true,
                Err(RequestError::Status { status: StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST, .. }) => {}
                Err(refusal) => return Err(self.error(refusal, what(title, vault))),
            }
        }
        let filter = format!("title eq \"{title}\"");
        let mut found: Vec<Summary> = self
            .get(&["vaults", vault_id, "items"], Some(&filter), deadline)
            .await
            .map_err(|refusal| self.error(refusal, what(title, vault)))?;
        found.retain(|item| item.title == title);
        archived |= !found.is_empty();
        found.retain(|item| is_active(item.state.as_deref()));
        let (item, vault) = (title.to_owned(), vault.to_owned());
        match (found.pop(), found.len()) {
            (Some(summary), 0) => Ok(Found::Id(summary.id)),
            (Some(_), others) => Err(SourceError::ManyItems { item, vault, count: others + 1 }),
            (None, _) if archived => Err(SourceError::ArchivedItem { item, vault }),
            (None, _) => Err(SourceError::NoItem { item, vault }),
        }
    }
}

fn what(title: &str, vault: &str) -> String {
    format!("item \"{title}\" of vault \"{vault}\"")
}
