//! How many requests are served at the same time: of all identities, and of each.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::denial::Denial;

/// How long a request waits for one of its identity to end.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// Slots for requests, a number of them for each key.
pub struct Slots<K> {
    all: Arc<Semaphore>,
    per_key: usize,
    keys: RefCell<HashMap<K, Arc<Semaphore>>>,
}

/// The slot of one request, which is free again when this is dropped.
pub struct Slot(#[expect(dead_code, reason = "held until it is dropped")] [OwnedSemaphorePermit; 2]);

impl<K: Hash + Eq> Slots<K> {
    /// So many slots in total, of which one key has at most `per_key`.
    pub fn new(all: u32, per_key: u32) -> Slots<K> {
        let size = |count: u32| usize::try_from(count).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        Slots { all: Arc::new(Semaphore::new(size(all))), per_key: size(per_key), keys: RefCell::default() }
    }

    /// A slot for this key. Further requests of one key wait; if all slots are taken, none does.
    ///
    /// # Errors
    /// There is none.
    pub async fn take(&self, key: K) -> Result<Slot, Denial> {
        let own = {
            let mut keys = self.keys.borrow_mut();
            // Only what is in use is kept.
            keys.retain(|_, slots| Arc::strong_count(slots) > 1);
            Arc::clone(keys.entry(key).or_insert_with(|| Arc::new(Semaphore::new(self.per_key))))
        };
        let own = timeout(WAIT_MAX, own.acquire_owned()).await.ok().and_then(Result::ok).ok_or(Denial::TooMany)?;
        let any = Arc::clone(&self.all).try_acquire_owned().map_err(|_| Denial::Busy)?;
        Ok(Slot([own, any]))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn one_identity_waits_for_its_own_requests_and_no_other_does() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let slots = Slots::new(4, 2);
            let first = slots.take("a").await.unwrap();
            let _second = slots.take("a").await.unwrap();
            assert!(slots.take("a").now_or_never().is_none());
            let others = [slots.take("b").await.unwrap(), slots.take("c").await.unwrap()];
            assert_eq!(slots.take("d").await.err(), Some(Denial::Busy));
            assert_eq!(slots.take("a").await.err(), Some(Denial::TooMany));
            drop((first, others));
            assert!(slots.take("a").await.is_ok());
            assert_eq!(slots.keys.borrow().len(), 1);
        });
    }
}
