//! How many calls to a KMS are under way at the same time.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

/// How many calls begin at once.
const CALLS_FIRST: usize = 4;

/// How many calls are under way at the most.
const CALLS_MAX: usize = 64;

/// How long an answer takes to be a slow one. A KMS that answers sooner is called again on connections that exist.
const SLOW: Duration = Duration::from_millis(4);

/// How long connections stay open that nothing uses: less than clients and servers keep them.
const KEPT: Duration = Duration::from_secs(30);

/// A slow start: few calls at first, and twice as many each time that answers are waited for.
///
/// Each call that is under way needs a connection of its own, and a connection costs a TLS handshake, which is more work than the
/// call. Where answers are quick, few connections serve all calls sooner than many would; where they are slow, the calls must all go
/// out at once, or the time would grow with their number. So while a call is waited for, another one begins.
///
/// A client that is kept between starts also has the connections of earlier calls: as many calls begin at once.
#[derive(Default)]
pub(super) struct Ramp {
    /// The number of connections, and when the last call began.
    connections: Cell<Option<(usize, Instant)>>,
    /// When the calls that are under way have begun, in this order.
    under_way: RefCell<Vec<Instant>>,
    ended: Notify,
}

/// The right to one call, until it is dropped.
pub(super) struct Turn<'a> {
    ramp: &'a Ramp,
    begun: Instant,
}

impl Ramp {
    /// Waits for the right to make a call.
    pub(super) async fn turn(&self) -> Turn<'_> {
        while let Some(later) = self.wait_until() {
            let _ = timeout_at(later, self.ended.notified()).await;
        }
        let begun = Instant::now();
        let connections = self.connections(begun);
        let mut under_way = self.under_way.borrow_mut();
        under_way.push(begun);
        self.connections.set(Some((connections.max(under_way.len()), begun)));
        Turn { ramp: self, begun }
    }

    /// When it is to be looked at again; `None` if a call may begin now.
    fn wait_until(&self) -> Option<Instant> {
        let under_way = self.under_way.borrow();
        let now = Instant::now();
        if under_way.len() < self.connections(now) {
            return None;
        }
        let slow = under_way.partition_point(|begun| *begun + SLOW <= now);
        let may_begin = under_way.len() < CALLS_MAX && under_way.len() - slow < slow.max(CALLS_FIRST);
        (!may_begin).then(|| under_way.get(slow).map_or(now, |begun| *begun) + SLOW)
    }

    /// How many connections exist.
    fn connections(&self, now: Instant) -> usize {
        self.connections.get().filter(|(_, used)| now < *used + KEPT).map_or(0, |(connections, _)| connections)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut under_way = self.ramp.under_way.borrow_mut();
        if let Some(at) = under_way.iter().position(|begun| *begun == self.begun) {
            under_way.remove(at);
        }
        self.ramp.ended.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use futures_util::future::join_all;
    use tokio::time::sleep;

    use super::*;

    /// Makes calls that take this long, and returns the total time and the highest number of concurrent calls.
    fn run(calls: usize, each: Duration) -> (Duration, usize) {
        paused(run_on(&Ramp::default(), calls, each))
    }

    fn paused<T>(future: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(future)
    }

    async fn run_on(ramp: &Ramp, calls: usize, each: Duration) -> (Duration, usize) {
        let (begin, most) = (Instant::now(), Cell::new(0));
        let call = async || {
            let _turn = ramp.turn().await;
            most.set(most.get().max(ramp.under_way.borrow().len()));
            sleep(each).await;
        };
        join_all((0..calls).map(|_| call())).await;
        (begin.elapsed(), most.get())
    }

    #[test]
    fn quick_answers_are_served_by_few_connections() {
        let (_, most) = run(64, SLOW - Duration::from_millis(1));
        assert_eq!(most, CALLS_FIRST);
    }

    #[test]
    fn slow_answers_are_waited_for_together() {
        let (took, most) = run(64, Duration::from_millis(100));
        assert!(took < Duration::from_millis(200), "{took:?}");
        assert!(most > 32, "{most}");
    }

    #[test]
    fn no_more_than_the_most_are_under_way() {
        assert_eq!(run(500, Duration::from_millis(100)).1, CALLS_MAX);
    }

    #[test]
    fn calls_begin_at_once_while_the_connections_of_earlier_ones_are_kept() {
        let slow = SLOW * 3;
        paused(async {
            let ramp = Ramp::default();
            let (took, connections) = run_on(&ramp, 64, slow).await;
            assert!(took > slow + SLOW * 2 && connections > CALLS_FIRST, "{took:?}, {connections}");
            sleep(KEPT / 2).await;
            assert_eq!(run_on(&ramp, connections, slow).await.0, slow);
            sleep(KEPT).await;
            assert!(run_on(&ramp, connections, slow).await.0 > slow);
        });
    }
}
