//! The ids that names of vaults and items had when they were last looked up.
//!
//! A remembered id saves requests, and is verified against the item that it leads to: title, vault and state must be what the reference
//! asks for, or the names are looked up again. Two changes do not show in an item: another item that has the same title now, and a vault
//! whose name was given to another. So a remembered id is confirmed by lookups after [`CONFIRMED_FOR`].

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Mutex as AsyncMutex;
use tokio::time::Instant;

use crate::source::SourceError;

/// How long an id is used without a lookup of the name. A second item of one title is found after this time at the latest.
pub const CONFIRMED_FOR: Duration = Duration::from_secs(30);

/// The most names that are remembered. Containers with a grant for a whole vault choose the names.
const NAMES_MAX: usize = 4096;

/// The remembered ids of one server.
#[derive(Default)]
pub(super) struct Ids {
    vaults: Mutex<HashMap<String, VaultCell>>,
    items: Mutex<HashMap<(String, String), ItemIds>>,
}

/// A vault that several calls may wait for: one of them looks it up.
pub(super) type VaultCell = Arc<AsyncMutex<Option<VaultLookup>>>;

/// The outcome of the last lookup of a vault, and when it ended.
pub(super) struct VaultLookup {
    pub(super) at: Instant,
    pub(super) outcome: Result<String, SourceError>,
}

/// The ids of an item and its vault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ItemIds {
    pub(super) vault: String,
    pub(super) item: String,
    /// When the names were looked up.
    pub(super) confirmed: Instant,
}

impl ItemIds {
    pub(super) fn is_confirmed(&self) -> bool {
        self.confirmed.elapsed() < CONFIRMED_FOR
    }
}

impl Ids {
    pub(super) fn vault(&self, name: &str) -> VaultCell {
        let mut vaults = lock(&self.vaults);
        make_room(&mut vaults);
        vaults.entry(name.to_owned()).or_default().clone()
    }

    pub(super) fn item(&self, vault: &str, title: &str) -> Option<ItemIds> {
        lock(&self.items).get(&(vault.to_owned(), title.to_owned())).cloned()
    }

    pub(super) fn remember(&self, vault: &str, title: &str, ids: ItemIds) {
        let mut items = lock(&self.items);
        make_room(&mut items);
        items.insert((vault.to_owned(), title.to_owned()), ids);
    }

    pub(super) fn forget(&self, vault: &str, title: &str) {
        lock(&self.items).remove(&(vault.to_owned(), title.to_owned()));
    }

    /// The number of items whose ids are remembered.
    pub(super) fn len(&self) -> usize {
        lock(&self.items).len()
    }
}

/// Forgets all rather than a choice: they cost one lookup each.
fn make_room<K: Hash + Eq, V>(names: &mut HashMap<K, V>) {
    if names.len() >= NAMES_MAX {
        names.clear();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_bounded() {
        let ids = Ids::default();
        let known = ItemIds { vault: "v".into(), item: "i".into(), confirmed: Instant::now() };
        for number in 0..3 * NAMES_MAX {
            ids.remember("v", &number.to_string(), known.clone());
            ids.vault(&number.to_string());
            assert!(ids.len() <= NAMES_MAX && lock(&ids.vaults).len() <= NAMES_MAX);
        }
        assert_eq!(ids.item("v", &(3 * NAMES_MAX - 1).to_string()), Some(known));
    }
}
