//! The memory for responses of Connect: bounded for each one and for all together.
//!
//! Each request may hold [`FREE_BYTES`] of a response. A larger one needs a share of [`LARGE_BYTES`], and waits for it. A response
//! holds its share until the client has received it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::denial::Denial;
use crate::source::connect::ANSWER_BYTES_MAX;

/// What a response may take without a share of the common budget.
pub const FREE_BYTES: usize = 128 * 1024;
/// What all larger responses may take together.
pub const LARGE_BYTES: usize = 48 * 1024 * 1024;

const WAIT_MAX: Duration = Duration::from_secs(5);
const KIB: usize = 1024;

/// The common budget, counted in KiB.
pub struct Budget(Arc<Semaphore>);

impl Default for Budget {
    fn default() -> Budget {
        Budget(Arc::new(Semaphore::new(LARGE_BYTES / KIB)))
    }
}

impl Budget {
    /// An empty buffer.
    pub fn buffer(&self) -> Buffer {
        Buffer { bytes: Vec::new(), share: None, budget: Arc::clone(&self.0) }
    }
}

/// Bytes of a response, and their share of the budget.
pub struct Buffer {
    bytes: Vec<u8>,
    share: Option<OwnedSemaphorePermit>,
    budget: Arc<Semaphore>,
}

impl Buffer {
    /// Appends bytes, for which it may have to wait.
    ///
    /// # Errors
    /// There are more than of any response, or the budget stays exhausted.
    pub async fn append(&mut self, bytes: &[u8]) -> Result<(), Denial> {
        self.provide(bytes.len()).await?;
        let length = self.bytes.len() + bytes.len();
        if length > self.bytes.capacity() {
            let capacity = (2 * self.bytes.capacity()).clamp(length, ANSWER_BYTES_MAX);
            self.bytes.reserve_exact(capacity - self.bytes.len());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    /// Makes sure that so many more bytes fit into what it may take.
    async fn provide(&mut self, more: usize) -> Result<(), Denial> {
        let length = self.bytes.len() + more;
        if length > ANSWER_BYTES_MAX {
            return Err(Denial::ConnectOdd);
        }
        if length > FREE_BYTES && self.share.is_none() {
            // All that it can need: of two that hold a part each, neither could get the rest.
            let share = Arc::clone(&self.budget).acquire_many_owned((ANSWER_BYTES_MAX / KIB) as u32);
            self.share = timeout(WAIT_MAX, share).await.ok().and_then(Result::ok);
            self.share.as_ref().ok_or(Denial::Busy)?;
        }
        Ok(())
    }

    /// Replaces the content by other bytes, which are no more, and gives back what they do not need.
    pub fn replace(&mut self, mut bytes: Vec<u8>) {
        bytes.shrink_to_fit();
        self.bytes = bytes;
        self.settle();
    }

    /// Gives back what the content does not need.
    pub fn settle(&mut self) {
        self.bytes.shrink_to_fit();
        let needed = self.bytes.len().div_ceil(KIB);
        if self.bytes.len() <= FREE_BYTES {
            self.share = None;
        } else if let Some(share) = &mut self.share {
            drop(share.split(share.num_permits().saturating_sub(needed)));
        }
    }

    /// The content.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Takes the content out; the share stays.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block_on<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap().block_on(work)
    }

    #[test]
    fn small_responses_need_no_share_and_large_ones_are_bounded_together() {
        block_on(async {
            let budget = Budget::default();
            let large = vec![b'x'; FREE_BYTES + 1];
            let mut held = Vec::new();
            for _ in 0..LARGE_BYTES / ANSWER_BYTES_MAX {
                let mut buffer = budget.buffer();
                buffer.append(&large).await.unwrap();
                held.push(buffer);
            }
            let mut small = budget.buffer();
            small.append(&vec![b'x'; FREE_BYTES]).await.unwrap();
            assert_eq!(small.append(b"x").await, Err(Denial::Busy));
            // What is complete keeps no more than it needs, and so makes way for others.
            held.iter_mut().for_each(Buffer::settle);
            assert_eq!(small.append(b"x").await, Ok(()));
            drop((held, small));
            assert_eq!(budget.0.available_permits(), LARGE_BYTES / KIB);
        });
    }

    #[test]
    fn a_response_has_a_limit() {
        block_on(async {
            let mut buffer = Budget::default().buffer();
            buffer.append(&vec![b'x'; ANSWER_BYTES_MAX]).await.unwrap();
            assert_eq!(buffer.append(b"x").await, Err(Denial::ConnectOdd));
        });
    }
}
