//! How much of the broker each user may take.

use std::collections::HashMap;
use std::mem::ManuallyDrop;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use crate::settings::Broker;

/// What a request may take without a share of the memory for large ones.
const SMALL_BYTES: usize = 64 << 10;
/// What all larger requests of root may take together.
const ROOT_BYTES: usize = 8 << 20;
/// What all larger requests of other users may take together, and those of one of them.
const USERS_BYTES: usize = 4 << 20;
const USER_BYTES: usize = 512 << 10;
const KIB: usize = 1024;

/// The longest wait for a share of the memory.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// How often a connection of the same user is served, after so many at once. A container start of podman takes longer than this.
const INTERVAL: Duration = Duration::from_millis(100);
const AT_ONCE: u32 = 100;

/// How many connections that are not admitted may take their time to close.
const REFUSED_MAX: usize = 64;

/// What users have taken.
pub struct Limits {
    users: Mutex<HashMap<u32, Taken>>,
    root_memory: Arc<Semaphore>,
    users_memory: Arc<Semaphore>,
    refused: Arc<Semaphore>,
}

/// What one user has taken.
struct Taken {
    connections: u32,
    /// The turns that were given, as the time until which they last at one in each interval.
    turns_until: Instant,
    memory: Arc<Semaphore>,
}

/// One open connection, which is counted until everything is closed that belongs to it: a user who keeps the broker waiting takes
/// connections from no other.
pub struct Slot {
    count: Option<Count>,
    turn: Instant,
    memory: Arc<Semaphore>,
    closing: Mutex<Vec<OwnedFd>>,
}

/// One connection of a user.
struct Count {
    limits: Arc<Limits>,
    uid: u32,
}

/// Shares of the memory for large requests; `None` for a small request.
pub type Share = Option<[OwnedSemaphorePermit; 2]>;

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            users: Mutex::default(),
            root_memory: memory(ROOT_BYTES),
            users_memory: memory(USERS_BYTES),
            refused: Arc::new(Semaphore::new(REFUSED_MAX)),
        }
    }
}

fn memory(bytes: usize) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(bytes / KIB))
}

impl Limits {
    /// Admits a connection of this user; `None` if there are too many. Those of root are limited only by the number of all.
    pub fn admit(self: &Arc<Limits>, uid: u32, settings: &Broker) -> Option<Slot> {
        let (now, mut users) = (Instant::now(), self.users());
        users.retain(|_, taken| taken.connections > 0 || taken.turns_until > now);
        let all = users.values().map(|taken| taken.connections).sum::<u32>();
        let own = users.get(&uid).map_or(0, |taken| taken.connections);
        // A few places stay root's, whatever users do.
        let (all_max, own_max, bytes) = match uid {
            0 => (settings.connections.get(), u32::MAX, ROOT_BYTES),
            _ => (settings.connections.get() / 4 * 3, settings.connections_per_user.get(), USER_BYTES),
        };
        if all >= all_max || own >= own_max {
            return None;
        }
        let new = || Taken { connections: 0, turns_until: now, memory: memory(bytes) };
        let taken = users.entry(uid).or_insert_with(new);
        taken.connections += 1;
        let turn = if uid == 0 { now } else { taken.next_turn(now) };
        let memory = Arc::clone(&taken.memory);
        Some(Slot { count: Some(Count { limits: Arc::clone(self), uid }), turn, memory, closing: Mutex::default() })
    }

    /// Closes a connection of this user that is not admitted. While too many of them keep their threads waiting, this waits, and with it
    /// the socket that users connect to; root has its own.
    pub async fn refuse(&self, uid: u32, connection: impl Send + 'static) {
        if uid != 0 {
            let connection = ManuallyDrop::new(connection);
            let place = Arc::clone(&self.refused).acquire_owned().await;
            close(uid, (ManuallyDrop::into_inner(connection), place));
        }
    }

    /// How many connections are open.
    pub fn connections(&self) -> u32 {
        self.users().values().map(|taken| taken.connections).sum()
    }

    fn users(&self) -> MutexGuard<'_, HashMap<u32, Taken>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    fn next_turn(&mut self, now: Instant) -> Instant {
        self.turns_until = self.turns_until.max(now) + INTERVAL;
        self.turns_until.checked_sub(INTERVAL * AT_ONCE).unwrap_or(now)
    }
}

impl Slot {
    /// When the connection is to be served.
    pub fn turn(&self) -> Instant {
        self.turn
    }

    /// Takes what is to be closed at the end of the connection.
    pub fn close_later(&self, descriptor: OwnedFd) {
        self.closing.lock().unwrap_or_else(PoisonError::into_inner).push(descriptor);
    }

    /// The memory for a request of this length.
    pub async fn memory(&self, bytes: usize) -> Option<Share> {
        if bytes <= SMALL_BYTES {
            return Some(None);
        }
        let (size, count) = (u32::try_from(bytes / KIB).ok()?, self.count.as_ref()?);
        let all = if count.uid == 0 { &count.limits.root_memory } else { &count.limits.users_memory };
        // First of the user's own: what a user waits for is kept from no other.
        let shares = async {
            let own = Arc::clone(&self.memory).acquire_many_owned(size).await.ok()?;
            Some([own, Arc::clone(all).acquire_many_owned(size).await.ok()?])
        };
        timeout(WAIT_MAX, shares).await.ok()?.map(Some)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let closing = std::mem::take(self.closing.get_mut().unwrap_or_else(PoisonError::into_inner));
        if let Some(count) = self.count.take() {
            close(count.uid, (closing, count));
        }
    }
}

/// Closes what a user has sent. A file of a FUSE file system of the user's, or a socket that lingers, can keep the thread that closes it waiting
/// for ever, as can a connection in which such a descriptor is left: what is not of root is closed by a thread of its own.
fn close(uid: u32, closing: impl Send + 'static) {
    if uid == 0 {
        return;
    }
    // Without a thread it stays open.
    let closing = ManuallyDrop::new(closing);
    let close = move || drop(ManuallyDrop::into_inner(closing));
    let _ = std::thread::Builder::new().name("closing".to_owned()).stack_size(64 << 10).spawn(close);
}

impl Drop for Count {
    fn drop(&mut self) {
        if let Some(taken) = self.limits.users().get_mut(&self.uid) {
            taken.connections -= 1;
        }
    }
}

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Slot").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(lines: &str) -> Broker {
        format!("[broker]\n{lines}").parse::<crate::settings::Settings>().unwrap().broker
    }

    /// Waits until threads have closed what they close.
    fn until(condition: impl Fn() -> bool) {
        let begin = std::time::Instant::now();
        while !condition() {
            assert!(begin.elapsed() < Duration::from_secs(60));
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn in_paused_time(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(test);
    }

    #[test]
    fn one_user_never_shuts_out_root_or_another() {
        let (limits, settings) = (Arc::new(Limits::default()), settings("connections = 8\nconnections-per-user = 4"));
        let alice: Vec<_> = (0..5).map(|_| limits.admit(1000, &settings)).collect();
        assert_eq!(alice.iter().flatten().count(), 4);
        let bob: Vec<_> = (0..5).map(|_| limits.admit(1001, &settings)).collect();
        assert_eq!(bob.iter().flatten().count(), 2);
        let root: Vec<_> = (0..5).map(|_| limits.admit(0, &settings)).collect();
        assert_eq!(root.iter().flatten().count(), 2);
        drop(alice);
        until(|| limits.connections() == 4);
        assert!(limits.admit(1000, &settings).is_some());
        drop((bob, root));
        until(|| limits.connections() == 0);
    }

    #[test]
    fn connections_that_cannot_be_closed_take_a_bounded_number_of_threads() {
        /// Waits in `drop` until its sender is dropped, as a descriptor of a file system that does not answer.
        struct Stuck(std::sync::mpsc::Receiver<()>);
        impl Drop for Stuck {
            fn drop(&mut self) {
                let _ = self.0.recv();
            }
        }
        in_paused_time(async {
            let limits = Limits::default();
            let (mut senders, mut stuck): (Vec<_>, Vec<_>) = (0..=REFUSED_MAX)
                .map(|_| std::sync::mpsc::channel())
                .map(|(sender, ends)| (sender, Stuck(ends)))
                .unzip();
            let last = stuck.pop().unwrap();
            for connection in stuck {
                limits.refuse(1000, connection).await;
            }
            limits.refuse(0, ()).await;
            let mut waiting = std::pin::pin!(limits.refuse(1000, last));
            assert!(timeout(WAIT_MAX, waiting.as_mut()).await.is_err(), "another thread");
            senders.remove(0);
            waiting.await;
        });
    }

    #[test]
    fn a_user_who_asks_all_the_time_waits_and_others_do_not() {
        in_paused_time(async {
            let (limits, settings) = (Arc::new(Limits::default()), settings(""));
            let turn = |uid| {
                let turn = limits.admit(uid, &settings).unwrap().turn();
                until(|| limits.connections() == 0);
                turn.saturating_duration_since(Instant::now())
            };
            assert!((0..AT_ONCE).all(|_| turn(1000).is_zero()));
            assert_eq!((turn(1000), turn(1000)), (INTERVAL, INTERVAL * 2));
            assert!((0..2 * AT_ONCE).all(|_| turn(0).is_zero()) && turn(1001).is_zero());
            tokio::time::advance(INTERVAL * 3).await;
            assert_eq!((turn(1000), turn(1000)), (Duration::ZERO, INTERVAL));
            tokio::time::advance(INTERVAL * AT_ONCE * 2).await;
            drop(limits.admit(0, &settings));
            assert_eq!(limits.users().len(), 1, "users who ask no more are forgotten");
        });
    }

    #[test]
    fn large_requests_share_a_bounded_memory_and_no_user_takes_that_of_another() {
        in_paused_time(async {
            let (limits, settings) = (Arc::new(Limits::default()), settings(""));
            let [root, alice, bob] = [0, 1000, 1001].map(|uid| limits.admit(uid, &settings).unwrap());
            let large = root.memory(6 << 20).await.unwrap();
            assert!(large.is_some() && root.memory(6 << 20).await.is_none());
            assert!(root.memory(SMALL_BYTES).await.unwrap().is_none());
            let own = alice.memory(USER_BYTES).await.unwrap();
            assert!(own.is_some() && alice.memory(USER_BYTES).await.is_none());
            let others: Vec<Slot> = (2000..2008).map(|uid| limits.admit(uid, &settings).unwrap()).collect();
            let mut shares = Vec::new();
            for other in &others {
                shares.extend(other.memory(USER_BYTES).await);
            }
            assert_eq!(shares.len() + 1, USERS_BYTES / USER_BYTES);
            assert!(bob.memory(USER_BYTES).await.is_none());
            drop((large, own));
            assert!(root.memory(6 << 20).await.unwrap().is_some() && bob.memory(USER_BYTES).await.unwrap().is_some());
        });
    }
}
