//! Calls that are tried again, inside one deadline.

use std::fmt;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

/// How often a call is tried at most.
pub const TRIES_MAX: u32 = 4;

/// The pause after the first failed try; it doubles with each further one, and is then varied by half of itself so that many
/// starts that failed together do not come back together.
const PAUSE_FIRST: Duration = Duration::from_millis(100);

/// The share of the whole deadline after which a try without an answer is given up for another.
const TRIES_IN_DEADLINE: u32 = 3;

/// The moment at which everything must be done.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    end: Instant,
    total: Duration,
}

impl Deadline {
    /// The moment that is `total` from now.
    pub fn after(total: Duration) -> Deadline {
        Deadline { end: Instant::now() + total, total }
    }

    /// Calls `attempt` until it succeeds, fails for good, has been tried [`TRIES_MAX`] times, or the deadline has come.
    ///
    /// # Errors
    /// Says how often it was tried and what the last answer was, if there was one. A try that was under way at the deadline is
    /// dropped, its connection with it.
    pub async fn retry<T, E>(self, mut attempt: impl AsyncFnMut() -> Result<T, Failure<E>>) -> Result<T, GaveUp<E>> {
        let mut tries = 0;
        let mut pause = PAUSE_FIRST;
        loop {
            tries += 1;
            let patience = self.remaining().min(self.total / TRIES_IN_DEADLINE);
            let (last, wait) = match timeout(patience, attempt()).await {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(Failure::Final(error))) => {
                    return Err(GaveUp { tries, within: self.total, last: Some(error) });
                }
                Ok(Err(Failure::Transient { error, retry_after })) => {
                    (Some(error), retry_after.unwrap_or_else(|| vary(pause)))
                }
                Err(_elapsed) => (None, Duration::ZERO),
            };
            if tries == TRIES_MAX || wait >= self.remaining() {
                return Err(GaveUp { tries, within: self.total, last });
            }
            sleep(wait).await;
            pause *= 2;
        }
    }

    /// How long everything could take.
    pub fn total(self) -> Duration {
        self.total
    }

    /// How long it is until then.
    pub fn remaining(self) -> Duration {
        self.end.saturating_duration_since(Instant::now())
    }
}

/// Why a try failed, and whether another can help.
pub enum Failure<E> {
    /// Another try would have the same answer.
    Final(E),
    /// Another try may succeed.
    Transient {
        /// What the other side answered.
        error: E,
        /// How long it asked us to wait.
        retry_after: Option<Duration>,
    },
}

impl<E> Failure<E> {
    /// Why it failed, for who does not try again.
    pub fn into_error(self) -> E {
        match self {
            Failure::Final(error) | Failure::Transient { error, .. } => error,
        }
    }
}

/// A call that did not succeed.
pub struct GaveUp<E> {
    /// How often it was tried.
    pub tries: u32,
    /// The deadline it was under.
    pub within: Duration,
    /// The last answer; `None` if there was none.
    pub last: Option<E>,
}

/// A count of tries, as messages end with it: nothing for one, ` (3 tries)` for three.
pub struct Tries(pub u32);

impl fmt::Display for Tries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 > 1 { write!(f, " ({} tries)", self.0) } else { Ok(()) }
    }
}

/// A duration as messages spell it: `10 s`, `0.5 s`.
pub struct Seconds(pub Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} s", self.0.as_secs_f64())
    }
}

fn vary(pause: Duration) -> Duration {
    pause.mul_f64(0.5 + fastrand::f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(future)
    }

    #[test]
    fn a_final_failure_is_tried_once() {
        let gave_up = block_on(async {
            Deadline::after(Duration::from_secs(10)).retry(async || Err::<(), _>(Failure::Final("no"))).await
        });
        assert!(matches!(gave_up, Err(GaveUp { tries: 1, last: Some("no"), .. })));
    }

    #[test]
    fn a_transient_failure_is_tried_again_until_it_succeeds() {
        let mut tries = 0;
        let outcome = block_on(async {
            let attempt = async || {
                tries += 1;
                if tries < 3 { Err(Failure::Transient { error: "busy", retry_after: None }) } else { Ok("done") }
            };
            Deadline::after(Duration::from_secs(10)).retry(attempt).await
        });
        assert!(matches!(outcome, Ok("done")));
        assert_eq!(tries, 3);
    }

    #[test]
    fn tries_are_bounded() {
        let busy = async || Err::<(), _>(Failure::Transient { error: (), retry_after: None });
        let gave_up = block_on(async { Deadline::after(Duration::from_secs(100)).retry(busy).await });
        assert!(matches!(gave_up, Err(GaveUp { tries: TRIES_MAX, last: Some(()), .. })));
    }

    #[test]
    fn a_wait_beyond_the_deadline_is_not_begun() {
        let (gave_up, waited) = block_on(async {
            let begin = Instant::now();
            let limited = async || {
                Err::<(), _>(Failure::Transient { error: "later", retry_after: Some(Duration::from_secs(60)) })
            };
            (Deadline::after(Duration::from_secs(10)).retry(limited).await, begin.elapsed())
        });
        assert!(matches!(gave_up, Err(GaveUp { tries: 1, last: Some("later"), .. })));
        assert_eq!(waited, Duration::ZERO);
    }

    #[test]
    fn silence_ends_at_the_deadline() {
        let (gave_up, waited) = block_on(async {
            let begin = Instant::now();
            let silent = async || std::future::pending::<Result<(), Failure<()>>>().await;
            (Deadline::after(Duration::from_secs(9)).retry(silent).await, begin.elapsed())
        });
        assert!(matches!(gave_up, Err(GaveUp { tries: 3, last: None, .. })));
        assert!((9..=10).contains(&waited.as_secs()));
    }
}
