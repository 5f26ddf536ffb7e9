//! How many calls of one start are under way at the same time.

use std::cell::{Cell, OnceCell};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

/// How many calls begin at once.
const CALLS_FIRST: usize = 4;

/// How many calls are under way at the most.
const CALLS_MAX: usize = 64;

/// The time in which that number doubles. A KMS that answers within it is called again on connections that exist.
const STEP: Duration = Duration::from_millis(4);

/// A slow start: few calls at first, and as many as there are within a few steps.
///
/// Each call that is under way needs a connection of its own, and a connection costs a TLS handshake, which is more work than the
/// call. Where answers are quick, few connections serve all calls sooner than many would; where they are slow, the calls must all go
/// out at once, or the time would grow with their number.
#[derive(Default)]
pub(super) struct Ramp {
    begun: OnceCell<Instant>,
    under_way: Cell<usize>,
    ended: Notify,
}

/// The right to one call, until it is dropped.
pub(super) struct Turn<'a>(&'a Ramp);

impl Ramp {
    /// Waits for the right to make a call.
    pub(super) async fn turn(&self) -> Turn<'_> {
        while self.under_way.get() >= self.width() {
            let _ = timeout(STEP, self.ended.notified()).await;
        }
        self.under_way.set(self.under_way.get() + 1);
        Turn(self)
    }

    fn width(&self) -> usize {
        let steps = self.begun.get_or_init(Instant::now).elapsed().div_duration_f64(STEP) as u32;
        CALLS_FIRST.saturating_mul(2usize.saturating_pow(steps)).min(CALLS_MAX)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.under_way.set(self.0.under_way.get() - 1);
        self.0.ended.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;
    use tokio::time::sleep;

    use super::*;

    /// Makes calls that take so long, and tells how long all took and how many were under way at the most.
    fn run(calls: usize, each: Duration) -> (Duration, usize) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let (ramp, begin_to_end, most) = (Ramp::default(), Cell::new(Duration::ZERO), Cell::new(0));
        runtime.block_on(async {
            let begin = Instant::now();
            let call = async || {
                let _turn = ramp.turn().await;
                most.set(most.get().max(ramp.under_way.get()));
                sleep(each).await;
            };
            join_all((0..calls).map(|_| call())).await;
            begin_to_end.set(begin.elapsed());
        });
        (begin_to_end.get(), most.get())
    }

    #[test]
    fn quick_answers_are_served_by_few_connections() {
        let (_, most) = run(64, Duration::from_millis(1));
        assert!(most <= 4 * CALLS_FIRST, "{most}");
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
}
