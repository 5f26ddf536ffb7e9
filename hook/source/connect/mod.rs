//! 1Password Connect, over HTTP(S).
//!
//! Connect knows vaults, items and files by id, and lists them by exact name; it knows nothing of references. So a reference costs
//! up to three requests, one after another: the vault's id, the item's id, the item. The ids are remembered as long as the process runs
//! ([`ids`]), so that the next answer costs one request. `client` is how it is asked, `response` what it answers, `locate` how
//! names become items.
//!
//! [Connect's OpenAPI description](https://github.com/1Password/connect/tree/main/docs/openapi) is the source of the paths and shapes.

pub mod activity;
mod client;
pub mod edit;
pub mod ids;
mod locate;
mod names;
mod response;
mod user_agent;

use std::collections::BTreeMap;

use futures_util::future::{LocalBoxFuture, join_all};
use futures_util::stream::{FuturesUnordered, LocalBoxStream, StreamExt, iter};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::item::{Item, Named, is_active};
use super::{Fetched, Field, Source, SourceError};
use crate::reference::Reference;
use crate::retry::Deadline;
use crate::token::static_token::Shown;

pub use self::client::Connect;
pub use self::response::ANSWER_BYTES_MAX;

/// One vault that the token may see.
#[derive(Deserialize)]
pub struct Vault {
    /// Its id.
    pub id: String,
    /// Its name; not unique.
    #[serde(default)]
    pub name: String,
}

/// An item as it was fetched, with all of its fields.
pub struct FetchedItem {
    vault_id: String,
    item: Item,
}

impl FetchedItem {
    fn field_of(&self, id: String, value: Zeroizing<String>) -> Field {
        let field_id = Some(id).filter(|id| !id.is_empty());
        Field { value, item_id: Some(self.item.id.clone()), field_id, version: Some(self.item.version), earlier: None }
    }
}

/// An item in the list of a vault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedItem {
    /// Its id.
    pub id: String,
    /// Its title; not unique.
    pub title: String,
    /// Its version.
    pub version: u64,
}

impl Connect {
    /// The items of a vault that are in use, by one request if the id of the vault is known.
    ///
    /// # Errors
    /// If there is no such vault, or more than one; or as for every request.
    pub async fn items(&self, vault: &str, deadline: Deadline) -> Result<Vec<ListedItem>, SourceError> {
        #[derive(Deserialize)]
        struct Summary {
            id: String,
            #[serde(default)]
            title: String,
            #[serde(default)]
            version: u64,
            state: Option<String>,
        }
        let vault_id = self.shared_vault_id(vault, deadline).await?;
        let items = self.get::<Vec<Summary>>(&["vaults", &vault_id, "items"], None, deadline).await;
        let items = items.map_err(|refusal| self.error(refusal, format!("the items of vault \"{vault}\"")))?;
        let in_use = items.into_iter().filter(|item| is_active(item.state.as_deref()));
        Ok(in_use.map(|Summary { id, title, version, .. }| ListedItem { id, title, version }).collect())
    }

    /// The vaults that the token may see.
    ///
    /// # Errors
    /// As for every request: no answer, a refusal, or something that is not Connect's.
    pub async fn vaults(&self, deadline: Deadline) -> Result<Vec<Vault>, SourceError> {
        self.get(&["vaults"], None, deadline).await.map_err(|refusal| self.error(refusal, "its list of vaults".into()))
    }

    /// Fetches the item that references name by this vault and title.
    ///
    /// # Errors
    /// If there is no such item, or more than one; or as for every request.
    pub async fn fetch_item(&self, vault: &str, title: &str, deadline: Deadline) -> Result<FetchedItem, SourceError> {
        let (vault_id, item) = self.locate(vault, title, deadline).await?;
        Ok(FetchedItem { vault_id, item })
    }

    /// The field of an item that a reference names; none if it is a file, whose content [`Connect::field`] fetches.
    ///
    /// # Errors
    /// If there is no such field, or more than one.
    pub fn value(fetched: &FetchedItem, reference: &Reference) -> Result<Option<Field>, SourceError> {
        Ok(match fetched.item.select(reference)? {
            Named::Value { id, value } => Some(fetched.field_of(id, value)),
            Named::File(_) => None,
        })
    }

    /// The field of an item that a reference names. Only for a file a request is sent.
    ///
    /// # Errors
    /// As for [`Connect::value`], and if the file cannot be fetched.
    pub async fn field(
        &self,
        fetched: &FetchedItem,
        reference: &Reference,
        deadline: Deadline,
    ) -> Result<Field, SourceError> {
        let (id, value) = match fetched.item.select(reference)? {
            Named::Value { id, value } => (id, value),
            Named::File(id) => {
                let content = self.file(&fetched.vault_id, &fetched.item.id, &id, reference, deadline).await?;
                (id, content)
            }
        };
        Ok(fetched.field_of(id, value))
    }

    /// The number of items whose ids are remembered.
    pub fn remembered_ids(&self) -> usize {
        self.ids.len()
    }

    async fn fields(
        &self,
        vault: &str,
        item: &str,
        wanted: &[(usize, &Reference)],
        deadline: Deadline,
    ) -> Vec<Fetched> {
        match self.fetch_item(vault, item, deadline).await {
            Ok(item) => {
                let field = async |&(index, reference): &(usize, &Reference)| Fetched {
                    index,
                    outcome: self.field(&item, reference, deadline).await,
                };
                join_all(wanted.iter().map(field)).await
            }
            // All references of the item fail alike.
            Err(error) => {
                let fetched = |&(index, _): &(usize, &Reference)| Fetched { index, outcome: Err(error.clone()) };
                wanted.iter().map(fetched).collect()
            }
        }
    }

    /// The content of a file, by a path made of ids: the `content_path` that the item states is never followed.
    async fn file(
        &self,
        vault_id: &str,
        item_id: &str,
        file_id: &str,
        reference: &Reference,
        deadline: Deadline,
    ) -> Result<Zeroizing<String>, SourceError> {
        let path = ["vaults", vault_id, "items", item_id, "files", file_id, "content"];
        let what = || format!("file \"{}\" of item \"{}\"", reference.field(), reference.item());
        let body = self.ask(&path, None, deadline).await.map_err(|refusal| self.error(refusal, what()))?;
        match std::str::from_utf8(&body) {
            Ok(text) => Ok(Zeroizing::new(text.to_owned())),
            Err(_) => Err(SourceError::NotText { file: reference.field().into(), item: reference.item().into() }),
        }
    }
}

impl Source for Connect {
    fn static_token(&self) -> Option<Shown> {
        self.shown()
    }

    fn siblings<'a>(
        &'a self,
        missing: &'a SourceError,
        reference: &'a Reference,
        deadline: Deadline,
    ) -> LocalBoxFuture<'a, Vec<String>> {
        // If the names cannot be listed, the original error is reported.
        let names = async move { self.list_beside(missing, reference, deadline).await.unwrap_or_default() };
        Box::pin(names)
    }

    fn fetch<'a>(&'a self, references: &'a [&'a Reference], deadline: Deadline) -> LocalBoxStream<'a, Fetched> {
        let mut items: BTreeMap<(&str, &str), Vec<(usize, &Reference)>> = BTreeMap::new();
        for (index, &reference) in references.iter().enumerate() {
            items.entry((reference.vault(), reference.item())).or_default().push((index, reference));
        }
        let items: FuturesUnordered<_> = items
            .into_iter()
            .map(move |((vault, item), wanted)| async move { self.fields(vault, item, &wanted, deadline).await })
            .collect();
        items.flat_map(iter).boxed_local()
    }
}
