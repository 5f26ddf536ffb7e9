//! Which containers have other items than 1Password.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use futures_util::future::join_all;

use super::super::error::PROGRAM;
use super::super::loaded::Loaded;
use super::running::Running;
use super::state::Reading;
use crate::report;
use crate::retry::Deadline;
use crate::source::SourceError;
use crate::source::connect::ListedItem;

/// The items of each vault that was listed.
type Vaults = BTreeMap<String, Vec<ListedItem>>;

/// The containers to update, by one list of each vault, and how many lists have failed.
pub(super) async fn changed(running: &[Rc<Running>], loaded: &Loaded<'_>) -> (Vec<Rc<Running>>, u64) {
    let references = running.iter().flat_map(|running| running.state().readings.clone());
    let vaults: BTreeSet<String> = references.filter_map(|one| Some(one.reference()?.vault().to_owned())).collect();
    let (mut listed, mut failed) = (Vaults::new(), 0);
    let lists = vaults.into_iter().map(async |vault| (list(&vault, loaded).await, vault));
    for (outcome, vault) in join_all(lists).await {
        match outcome {
            Ok(items) => _ = listed.insert(vault, items),
            Err(error) => {
                failed += 1;
                report::note(PROGRAM, &format!("cannot look for changes: {}", report::chain(&error)));
            }
        }
    }
    let has_changed = |running: &&Rc<Running>| has_changed(running, &listed);
    (running.iter().filter(has_changed).cloned().collect(), failed)
}

async fn list(vault: &str, loaded: &Loaded<'_>) -> Result<Vec<ListedItem>, SourceError> {
    let source = loaded.source.shared(loaded.settings)?;
    source.items(vault, Deadline::after(loaded.settings.deliver.deadline)).await
}

/// Whether a container has something else than what is listed. What is not listed is not known.
fn has_changed(running: &Running, listed: &Vaults) -> bool {
    let (mut has_changed, mut is_known) = (false, true);
    let mut missing = running.missing.borrow_mut();
    let state = running.state();
    for reading in &state.readings {
        let Some(reference) = reading.reference() else { continue };
        let Some(items) = listed.get(reference.vault()) else {
            is_known = false;
            continue;
        };
        let found = matching(items, reference.item());
        // An item without the field of an optional reference causes one update, and not one in each period.
        // The same for what is revoked, until there is another version.
        let is_absent = reading.item.is_none() || state.removed.contains(&reading.reference);
        let is_same = match is_absent {
            false => is_read_from(reading, &found),
            true => found.is_empty() || missing.get(&reading.reference) == Some(&found),
        };
        has_changed |= !is_same;
        if is_absent {
            missing.insert(reading.reference.clone(), found);
        }
    }
    if is_known && !has_changed && state.error.is_none() {
        running.is_current();
    }
    has_changed || (is_known && state.error.is_some())
}

/// The items that a reference can mean: that with the id, else those with the title.
fn matching(items: &[ListedItem], name: &str) -> Vec<ListedItem> {
    match items.iter().find(|item| item.id == name) {
        Some(item) => vec![item.clone()],
        None => items.iter().filter(|item| item.title == name).cloned().collect(),
    }
}

fn is_read_from(reading: &Reading, found: &[ListedItem]) -> bool {
    match found {
        [one] => reading.item.as_ref() == Some(&one.id) && reading.version == Some(one.version),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(id: &str, title: &str, version: u64) -> ListedItem {
        ListedItem { id: id.into(), title: title.into(), version }
    }

    #[test]
    fn a_reference_means_an_item_by_id_before_title() {
        let items = [item("a", "db", 1), item("b", "a", 1), item("c", "two", 1), item("d", "two", 2)];
        assert_eq!(matching(&items, "a"), [items[0].clone()]);
        assert_eq!(matching(&items, "db"), [items[0].clone()]);
        assert_eq!(matching(&items, "two").len(), 2);
        assert!(matching(&items, "DB").is_empty());
    }

    #[test]
    fn another_version_another_item_or_none_is_a_change() {
        let reading = Reading {
            reference: "op://v/db/f".into(),
            item: Some("a".into()),
            field: Some("f".into()),
            version: Some(3),
        };
        assert!(is_read_from(&reading, &[item("a", "db", 3)]));
        for found in [vec![item("a", "db", 4)], vec![item("b", "db", 3)], vec![], vec![item("a", "db", 3); 2]] {
            assert!(!is_read_from(&reading, &found), "{found:?}");
        }
    }
}
