//! How much of the broker each user may take.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::settings::Broker;

/// What a request may take without a share of the common memory.
const SMALL_BYTES: usize = 64 << 10;
/// What all larger requests may take together.
const LARGE_BYTES: usize = 8 << 20;
const KIB: usize = 1024;

/// The longest wait for a share of the common memory.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// Open connections by user, and the memory for large requests.
pub struct Limits {
    open: RefCell<HashMap<u32, u32>>,
    memory: Arc<Semaphore>,
}

/// One open connection, which is counted until this is dropped.
pub struct Slot {
    limits: Rc<Limits>,
    uid: u32,
}

/// A share of the common memory; `None` for a small request.
pub type Share = Option<OwnedSemaphorePermit>;

impl Default for Limits {
    fn default() -> Limits {
        Limits { open: RefCell::default(), memory: Arc::new(Semaphore::new(LARGE_BYTES / KIB)) }
    }
}

impl Limits {
    /// Admits a connection of this user; `None` if there are too many. Those of root are limited only by the number of all.
    pub fn admit(self: &Rc<Limits>, uid: u32, settings: &Broker) -> Option<Slot> {
        let mut open = self.open.borrow_mut();
        let (all, own) = (open.values().sum::<u32>(), open.get(&uid).copied().unwrap_or_default());
        // A few places stay root's, whatever users do.
        let (all_max, own_max) = match uid {
            0 => (settings.connections.get(), u32::MAX),
            _ => (settings.connections.get() / 4 * 3, settings.connections_per_user.get()),
        };
        if all >= all_max || own >= own_max {
            return None;
        }
        open.insert(uid, own + 1);
        Some(Slot { limits: Rc::clone(self), uid })
    }

    /// How many connections are open.
    pub fn connections(&self) -> u32 {
        self.open.borrow().values().sum()
    }

    /// The memory for a request of this length.
    pub async fn memory(&self, bytes: usize) -> Option<Share> {
        if bytes <= SMALL_BYTES {
            return Some(None);
        }
        let share = Arc::clone(&self.memory).acquire_many_owned(u32::try_from(bytes / KIB).ok()?);
        timeout(WAIT_MAX, share).await.ok()?.ok().map(Some)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut open = self.limits.open.borrow_mut();
        if let Some(count) = open.get_mut(&self.uid) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.uid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(lines: &str) -> Broker {
        format!("[broker]\n{lines}").parse::<crate::settings::Settings>().unwrap().broker
    }

    #[test]
    fn one_user_never_shuts_out_root_or_another() {
        let (limits, settings) = (Rc::new(Limits::default()), settings("connections = 8\nconnections-per-user = 4"));
        let alice: Vec<_> = (0..5).map(|_| limits.admit(1000, &settings)).collect();
        assert_eq!(alice.iter().flatten().count(), 4);
        let bob: Vec<_> = (0..5).map(|_| limits.admit(1001, &settings)).collect();
        assert_eq!(bob.iter().flatten().count(), 2);
        let root: Vec<_> = (0..5).map(|_| limits.admit(0, &settings)).collect();
        assert_eq!(root.iter().flatten().count(), 2);
        drop(alice);
        assert_eq!(limits.connections(), 4);
        assert!(limits.admit(1000, &settings).is_some());
        drop((bob, root));
        assert!(limits.open.borrow().is_empty());
    }

    #[test]
    fn large_requests_share_a_bounded_memory() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let limits = Limits::default();
            let large = limits.memory(6 << 20).await.unwrap();
            assert!(large.is_some() && limits.memory(6 << 20).await.is_none());
            assert!(limits.memory(SMALL_BYTES).await.unwrap().is_none());
            drop(large);
            assert!(limits.memory(6 << 20).await.unwrap().is_some());
        });
    }
}
