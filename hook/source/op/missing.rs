//! Which references lead nowhere, in a fixed number of runs.
//!
//! `op inject` ends at the first of them and names no other, so that each would cost a run, and a share of the service account's
//! hourly limit. Instead, the items of each vault are listed, and those that are asked for are read at once. Only names are looked at:
//! the values come from `op inject`, as always.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Op;
use super::refusal::OpRefusal;
use crate::child::Ended;
use crate::reference::Reference;
use crate::retry::Deadline;
use crate::source::SourceError;
use crate::source::item::Item;

/// What `op item get` reads from its standard input.
const LISTED_ITEMS: &str = "-";

impl Op {
    /// The references that lead nowhere, each with its error; `None` if `op` does not list.
    pub(super) async fn find_missing(
        &self,
        wanted: &[(usize, &Reference)],
        deadline: Deadline,
    ) -> Option<Vec<(usize, SourceError)>> {
        let mut listed: BTreeMap<&str, Option<Vec<Value>>> = BTreeMap::new();
        for (_, reference) in wanted {
            if !listed.contains_key(reference.vault()) {
                listed.insert(reference.vault(), self.list(reference.vault(), deadline).await?);
            }
        }
        let summary = |reference: &Reference| {
            let items = listed.get(reference.vault())?.as_ref()?;
            items.iter().find(|item| is_named(item, reference.item()))
        };
        let mut summaries: Vec<&Value> = Vec::new();
        for found in wanted.iter().filter_map(|(_, reference)| summary(reference)) {
            if !summaries.contains(&found) {
                summaries.push(found);
            }
        }
        let items = self.items(&summaries, deadline).await?;
        let missing = wanted.iter().filter_map(|(index, reference)| {
            let [vault, item] = [reference.vault(), reference.item()].map(str::to_owned);
            let error = match (listed.get(reference.vault())?, summary(reference)) {
                (None, _) => SourceError::NoVault { vault },
                (Some(_), None) => SourceError::NoItem { item, vault },
                (Some(_), Some(summary)) => {
                    let read = items.iter().find(|item| Some(item.id.as_str()) == summary["id"].as_str())?;
                    read.missing_whatever_case(reference)?
                }
            };
            Some((*index, error))
        });
        Some(missing.collect())
    }

    /// The items of a vault, without their fields; none if there is no such vault.
    async fn list(&self, vault: &str, deadline: Deadline) -> Option<Option<Vec<Value>>> {
        let arguments = ["item", "list", &format!("--vault={vault}"), "--format=json"];
        let answer = self.run(&arguments, b"", deadline).await.ok()?;
        if answer.status.success() {
            return serde_json::from_slice(&answer.output).ok().map(Some);
        }
        match OpRefusal::read(&answer) {
            OpRefusal::OfOne(missing) if missing.is_vault() => Some(None),
            _ => None,
        }
    }

    /// Items, as `op` lists them, with their fields.
    async fn items(&self, summaries: &[&Value], deadline: Deadline) -> Option<Vec<Item>> {
        if summaries.is_empty() {
            return Some(Vec::new());
        }
        let input = serde_json::to_vec(summaries).ok()?;
        let arguments = ["item", "get", LISTED_ITEMS, "--format=json"];
        let Ended { status, output, .. } = self.run(&arguments, &input, deadline).await.ok()?;
        let items = serde_json::Deserializer::from_slice(&output).into_iter::<Item>();
        items.collect::<Result<Vec<Item>, _>>().ok().filter(|_| status.success())
    }
}

/// Whether an item has this name or id. `op` finds names whatever their case.
fn is_named(item: &Value, name: &str) -> bool {
    let is = |member: &str| item[member].as_str().is_some_and(|found| found.to_lowercase() == name.to_lowercase());
    is("title") || is("id")
}
