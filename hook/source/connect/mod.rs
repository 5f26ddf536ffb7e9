//! 1Password Connect, over HTTP(S).
//!
//! Connect knows vaults, items and files by id, and lists them by exact name; it knows nothing of references. So a reference costs
//! up to three requests, one after another: the vault's id, the item's id, the item. Each vault and each item is asked for once
//! per start, and the items at the same time. `client` is how it is asked.
//!
//! [Connect's OpenAPI description](https://github.com/1Password/connect/tree/main/docs/openapi) is the source of the paths and shapes.

pub mod activity;
mod client;
pub mod edit;
mod names;
mod user_agent;

use std::collections::BTreeMap;

use futures_util::future::{LocalBoxFuture, join_all};
use futures_util::stream::{FuturesUnordered, LocalBoxStream, StreamExt, iter};
use reqwest::StatusCode;
use serde::Deserialize;
use tokio::sync::OnceCell;
use zeroize::Zeroizing;

use self::client::RequestError;
use super::item::{Item, Named, is_active};
use super::{Fetched, Field, Source, SourceError};
use crate::reference::{Reference, is_id};
use crate::retry::Deadline;
use crate::token::static_token::Shown;

pub use self::client::{ANSWER_BYTES_MAX, Connect};

/// One vault that the token may see.
#[derive(Deserialize)]
pub struct Vault {
    /// Its id.
    pub id: String,
    /// Its name; not unique.
    #[serde(default)]
    pub name: String,
}

#[derive(Deserialize)]
struct Summary {
    id: String,
    #[serde(default)]
    title: String,
    state: Option<String>,
}

impl Connect {
    /// The vaults that the token may see.
    ///
    /// # Errors
    /// As for every request: no answer, a refusal, or something that is not Connect's.
    pub async fn vaults(&self, deadline: Deadline) -> Result<Vec<Vault>, SourceError> {
        self.get(&["vaults"], None, deadline).await.map_err(|refusal| self.error(refusal, "its list of vaults".into()))
    }

    async fn fields(
        &self,
        vault: &VaultCell<'_>,
        item: &str,
        wanted: &[(usize, &Reference)],
        deadline: Deadline,
    ) -> Vec<Fetched> {
        let item = match vault.id(self, deadline).await {
            Ok(vault_id) => self.item(vault_id, vault.name, item, deadline).await.map(|found| (vault_id, found)),
            Err(error) => Err(error),
        };
        match item {
            Ok((vault_id, item)) => {
                let field = async |&(index, reference): &(usize, &Reference)| Fetched {
                    index,
                    outcome: self.field(vault_id, &item, reference, deadline).await,
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

    /// The item that a reference names: by id, then by title among those in use.
    pub(super) async fn item(
        &self,
        vault_id: &str,
        vault: &str,
        title: &str,
        deadline: Deadline,
    ) -> Result<Item, SourceError> {
        let what = || format!("item \"{title}\" of vault \"{vault}\"");
        let mut archived = false;
        if is_id(title) {
            match self.get::<Item>(&["vaults", vault_id, "items", title], None, deadline).await {
                Ok(item) if item.is_active() => return Ok(item),
                Ok(_) => archived = true,
                Err(RequestError::Status { status: StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST, .. }) => {}
                Err(refusal) => return Err(self.error(refusal, what())),
            }
        }
        let filter = format!("title eq \"{title}\"");
        let mut found: Vec<Summary> = self
            .get(&["vaults", vault_id, "items"], Some(&filter), deadline)
            .await
            .map_err(|refusal| self.error(refusal, what()))?;
        found.retain(|item| item.title == title);
        archived |= !found.is_empty();
        found.retain(|item| is_active(item.state.as_deref()));
        let (item, vault) = (title.to_owned(), vault.to_owned());
        let summary = match (found.pop(), found.len()) {
            (Some(summary), 0) => summary,
            (Some(_), others) => {
                return Err(SourceError::ManyItems { item, vault, count: others + 1 });
            }
            (None, _) if archived => return Err(SourceError::ArchivedItem { item, vault }),
            (None, _) => return Err(SourceError::NoItem { item, vault }),
        };
        self.get(&["vaults", vault_id, "items", &summary.id], None, deadline)
            .await
            .map_err(|refusal| self.error(refusal, what()))
    }

    async fn field(
        &self,
        vault_id: &str,
        item: &Item,
        reference: &Reference,
        deadline: Deadline,
    ) -> Result<Field, SourceError> {
        let value = match item.select(reference)? {
            Named::Value(value) => value,
            Named::File(id) => self.file(vault_id, &item.id, &id, reference, deadline).await?,
        };
        Ok(Field { value, item_id: Some(item.id.clone()), version: Some(item.version) })
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
        let mut vaults: BTreeMap<&str, VaultCell<'a>> = BTreeMap::new();
        let mut items: BTreeMap<(&str, &str), Vec<(usize, &Reference)>> = BTreeMap::new();
        for (index, &reference) in references.iter().enumerate() {
            vaults
                .entry(reference.vault())
                .or_insert_with(|| VaultCell { name: reference.vault(), id: OnceCell::new() });
            items.entry((reference.vault(), reference.item())).or_default().push((index, reference));
        }
        let vaults = std::rc::Rc::new(vaults);
        let items: FuturesUnordered<_> = items
            .into_iter()
            .map(|((vault, item), wanted)| {
                let vaults = vaults.clone();
                async move {
                    match vaults.get(vault) {
                        Some(vault) => self.fields(vault, item, &wanted, deadline).await,
                        None => Vec::new(),
                    }
                }
            })
            .collect();
        items.flat_map(iter).boxed_local()
    }
}

/// A vault that several items are waiting for: asked for once.
struct VaultCell<'a> {
    name: &'a str,
    id: OnceCell<String>,
}

impl VaultCell<'_> {
    async fn id(&self, connect: &Connect, deadline: Deadline) -> Result<&str, SourceError> {
        self.id.get_or_try_init(|| connect.vault_id(self.name, deadline)).await.map(String::as_str)
    }
}
