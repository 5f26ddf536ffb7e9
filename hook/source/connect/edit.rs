//! What an operator changes in 1Password through Connect: the value of one field at a time.
//!
//! Each change is one request, which Connect makes as a whole or not at all; 1Password keeps the value that was there before. A change
//! is sent once, and counts as stored when it can be read: an answer can be lost after the change was stored, and Connect can show what
//! was there before for seconds.

use std::time::Duration;

use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::sleep;
use zeroize::Zeroizing;

use super::Connect;
use super::client::WriteError;
use crate::reference::{Reference, is_id};
use crate::retry::Deadline;
use crate::source::SourceError;
use crate::source::item::{Item, Named, is_active, or_default};

/// How long is waited before it is read again whether a change is stored.
const PAUSE: Duration = Duration::from_millis(200);

/// A field as it is stored.
pub struct StoredField {
    /// Where it is, in words: the first of its spellings that can be one.
    pub name: String,
    /// The references by which containers can ask for it: names and ids in every combination.
    pub spellings: Vec<Reference>,
    /// What is stored.
    pub value: Zeroizing<String>,
    vault_id: String,
    item_id: String,
    field_id: String,
}

/// What [`Connect::store`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// It made the item.
    NewItem,
    /// It added the field to an item.
    NewField,
    /// It replaced the field's value.
    Replaced,
}

#[derive(Deserialize)]
struct Listed {
    id: String,
    #[serde(default, deserialize_with = "or_default")]
    state: Option<String>,
}

impl Connect {
    /// Every field of the vault's items whose value is wanted. `patience` is for each request.
    ///
    /// # Errors
    /// If the vault cannot be read; an item that is gone by then is passed over.
    pub async fn fields_of(
        &self,
        vault: &str,
        wanted: fn(&str) -> bool,
        patience: Duration,
    ) -> Result<Vec<StoredField>, SourceError> {
        let vault_id = self.vault_id(vault, Deadline::after(patience)).await?;
        let what = || format!("vault \"{vault}\"");
        let items: Vec<Listed> = self.read(&["vaults", &vault_id, "items"], what(), Deadline::after(patience)).await?;
        let mut fields = Vec::new();
        for listed in items.into_iter().filter(|item| is_active(item.state.as_deref())) {
            let path = ["vaults", &vault_id, "items", &listed.id];
            let item: Item = match self.read(&path, what(), Deadline::after(patience)).await {
                Err(SourceError::Status { status: 404, .. }) => continue,
                item => item?,
            };
            for (field_id, paths, value) in item.values().filter(|(_, _, value)| wanted(value)) {
                let items = [&item.title, &item.id];
                let places = [vault, &vault_id].into_iter().flat_map(|vault| items.map(|item| (vault, item)));
                let spellings: Vec<Reference> = places
                    .flat_map(|(vault, item)| paths.iter().map(move |path| format!("op://{vault}/{item}/{path}")))
                    .filter_map(|text| text.parse().ok())
                    .collect();
                fields.push(StoredField {
                    name: spellings.first().map_or_else(|| format!("{}/{field_id}", item.id), |r| r.to_string()),
                    spellings,
                    value: value.clone(),
                    vault_id: vault_id.clone(),
                    item_id: item.id.clone(),
                    field_id: field_id.to_owned(),
                });
            }
        }
        Ok(fields)
    }

    /// Replaces the value of a field, if it is still the one that was read, and waits until it can be read.
    ///
    /// # Errors
    /// If it has changed since, or Connect does not show the new one. Then the old value is there, or, if an answer was lost, either.
    pub async fn replace(&self, field: &StoredField, value: &str, deadline: Deadline) -> Result<(), SourceError> {
        let path = ["vaults", &field.vault_id, "items", &field.item_id];
        let what = || format!("item of {}", field.name);
        let now: Item = self.read(&path, what(), deadline).await?;
        let is =
            |item: &Item, value: &str| item.values().any(|(id, _, found)| id == field.field_id && **found == *value);
        if !is(&now, &field.value) {
            return Err(SourceError::Changed { field: field.name.clone() });
        }
        let change = json!([{ "op": "replace", "path": format!("/fields/{}/value", field.field_id), "value": value }]);
        let sent = self.write(Method::PATCH, &path, &change, what(), deadline).await;
        let shows = async || Ok(is(&self.read(&path, what(), deadline).await?, value));
        self.confirm(sent, shows, &field.name, deadline).await
    }

    /// Waits until what was sent can be read.
    async fn confirm(
        &self,
        sent: Result<(), WriteError>,
        shows: impl AsyncFn() -> Result<bool, SourceError>,
        field: &str,
        deadline: Deadline,
    ) -> Result<(), SourceError> {
        let uncertain = match sent {
            Ok(()) => None,
            Err(WriteError::Refused(error)) => return Err(error),
            Err(WriteError::Uncertain(error)) => Some(error),
        };
        let field = field.to_owned();
        loop {
            match shows().await {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) if is_not_shown_yet(&error) => {}
                Err(_) if deadline.remaining() <= PAUSE => break,
                Err(error) => {
                    return Err(SourceError::Unconfirmed { field, cause: Box::new(uncertain.unwrap_or(error)) });
                }
            }
            if deadline.remaining() <= PAUSE {
                break;
            }
            sleep(PAUSE).await;
        }
        Err(match uncertain {
            Some(cause) => SourceError::Unconfirmed { field, cause: Box::new(cause) },
            None => SourceError::NotStored { field, within: deadline.total() },
        })
    }

    /// Whether the field that a reference names has a value.
    ///
    /// # Errors
    /// If that cannot be read.
    pub async fn has_value(&self, reference: &Reference, deadline: Deadline) -> Result<bool, SourceError> {
        let vault_id = self.vault_id(reference.vault(), deadline).await?;
        let item = self.item(&vault_id, reference.vault(), reference.item(), deadline).await;
        match item.and_then(|item| item.select(reference).map(drop)) {
            Ok(()) => Ok(true),
            Err(error) if is_not_shown_yet(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether a container that asks by this reference would be given this value.
    async fn shows(
        &self,
        vault_id: &str,
        reference: &Reference,
        value: &str,
        deadline: Deadline,
    ) -> Result<bool, SourceError> {
        let item = self.item(vault_id, reference.vault(), reference.item(), deadline).await?;
        Ok(matches!(item.select(reference)?, Named::Value { value: found, .. } if *found == value))
    }

    /// Stores a value in the field that a reference names, and waits until the reference leads to it; makes the field or the item where
    /// there is none.
    ///
    /// # Errors
    /// If the reference names several, or something in an item that is there and cannot be made, or Connect does not show the value.
    pub async fn store(&self, reference: &Reference, value: &str, deadline: Deadline) -> Result<Stored, SourceError> {
        let vault_id = self.vault_id(reference.vault(), deadline).await?;
        let what = || format!("item \"{}\" of vault \"{}\"", reference.item(), reference.vault());
        let field = |section: Option<Value>| {
            let mut field = json!({ "label": reference.field(), "type": "CONCEALED", "value": value });
            if let (Some(section), Some(members)) = (section, field.as_object_mut()) {
                members.insert("section".into(), section);
            }
            field
        };
        let item = match self.item(&vault_id, reference.vault(), reference.item(), deadline).await {
            Err(SourceError::NoItem { .. }) if !is_id(reference.item()) => {
                let section = reference.section().map(|label| json!({ "id": label, "label": label }));
                let item = json!({
                    "vault": { "id": vault_id },
                    "title": reference.item(),
                    "category": "PASSWORD",
                    "sections": section.iter().collect::<Vec<&Value>>(),
                    "fields": [field(section)],
                });
                let path = ["vaults", &vault_id, "items"];
                let sent = self.write(Method::POST, &path, &item, what(), deadline).await;
                let shows = async || self.shows(&vault_id, reference, value, deadline).await;
                self.confirm(sent, shows, reference.as_str(), deadline).await?;
                return Ok(Stored::NewItem);
            }
            item => item?,
        };
        let (change, stored) = match item.field_id(reference) {
            Ok(id) => {
                (json!({ "op": "replace", "path": format!("/fields/{id}/value"), "value": value }), Stored::Replaced)
            }
            Err(SourceError::NoField { .. }) => {
                let field = field(item.section_id(reference)?.map(|id| json!({ "id": id })));
                (json!({ "op": "add", "path": "/fields", "value": field }), Stored::NewField)
            }
            Err(error) => return Err(error),
        };
        let path = ["vaults", &vault_id, "items", &item.id];
        let sent = self.write(Method::PATCH, &path, &json!([change]), what(), deadline).await;
        let shows = async || self.shows(&vault_id, reference, value, deadline).await;
        self.confirm(sent, shows, reference.as_str(), deadline).await?;
        Ok(stored)
    }
}

/// Whether something is missing that a change may have made, and that Connect does not show yet.
fn is_not_shown_yet(error: &SourceError) -> bool {
    matches!(
        error,
        SourceError::NoItem { .. }
            | SourceError::NoSection { .. }
            | SourceError::NoField { .. }
            | SourceError::NoValue { .. }
            | SourceError::Status { status: 404, .. }
    )
}
