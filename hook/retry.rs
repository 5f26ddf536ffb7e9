//! Calls that are tried again, inside one deadline.
//!
//! A server that answers with an error is asked [`TRIES_MAX`] times. A server that cannot be connected to is tried until the deadline: at
//! boot, the network or the server may come up seconds later.

use std::fmt;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

/// The most tries that reach the server.
pub const TRIES_MAX: u32 = 4;

/// The pause after the first failed try; it doubles with each further one, and is then varied by half of itself so that many
/// starts that failed together do not come back together.
const PAUSE_FIRST: Duration = Duration::from_millis(100);

/// The longest pause, before it is varied.
const PAUSE_MAX: Duration = Duration::from_secs(1);

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

    /// Half of it: the rest of the time is for something else.
    pub fn half(self) -> Deadline {
        Deadline { end: Instant::now() + self.remaining() / 2, total: self.total / 2 }
    }

    /// Calls `attempt` until it succeeds, fails for good, has reached the server [`TRIES_MAX`] times, or the deadline has come.
    ///
    /// # Errors
    /// The number of tries that reached the server, and its last answer, if there was one. A try that was under way at the deadline is
    /// dropped, its connection with it.
    pub async fn retry<T, E>(self, attempt: impl AsyncFnMut() -> Result<T, Failure<E>>) -> Result<T, GaveUp<E>> {
        self.run(self.total / TRIES_IN_DEADLINE, TRIES_MAX, attempt).await
    }

    /// Calls `attempt` until it has reached the server once, for calls that must not be repeated. It has until `patience` is over.
    ///
    /// # Errors
    /// As for [`Deadline::retry`]; after a transient failure, or none, the server may have done what it was asked.
    pub async fn send_once<T, E>(
        self,
        patience: Duration,
        attempt: impl AsyncFnMut() -> Result<T, Failure<E>>,
    ) -> Result<T, GaveUp<E>> {
        self.run(patience, 1, attempt).await
    }

    async fn run<T, E>(
        self,
        patience: Duration,
        tries_max: u32,
        mut attempt: impl AsyncFnMut() -> Result<T, Failure<E>>,
    ) -> Result<T, GaveUp<E>> {
        let (mut tries, mut pause) = (0, PAUSE_FIRST);
        loop {
            let (last, wait) = match timeout(self.remaining().min(patience), attempt()).await {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(Failure::Final(error))) => {
                    return Err(GaveUp { tries: tries + 1, within: self.total, last: Some(error) });
                }
                Ok(Err(Failure::NotSent(error))) => (Some(error), vary(pause)),
                Ok(Err(Failure::Transient { error, retry_after })) => {
                    tries += 1;
                    (Some(error), retry_after.unwrap_or_else(|| vary(pause)))
                }
                Err(_elapsed) => {
                    tries += 1;
                    (None, Duration::ZERO)
                }
            };
            if tries == tries_max || wait >= self.remaining() {
                return Err(GaveUp { tries, within: self.total, last });
            }
            sleep(wait).await;
            pause = (pause * 2).min(PAUSE_MAX);
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
    /// There was no connection, so that nothing was sent. It may come later.
    NotSent(E),
    /// Another try may succeed.
    Transient {
        /// What the other side answered.
        error: E,
        /// How long it asked us to wait.
        retry_after: Option<Duration>,
    },
}

impl<E> Failure<E> {
    /// Why it failed, for callers that do not try again.
    pub fn into_error(self) -> E {
        match self {
            Failure::Final(error) | Failure::NotSent(error) | Failure::Transient { error, .. } => error,
        }
    }
}

/// A call that did not succeed.
pub struct GaveUp<E> {
    /// How often the server was reached; 0 if there was no connection.
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

/// A duration as messages spell it, to a hundredth of a second: `10 s`, `0.5 s`. What is left of a deadline is seldom round.
pub struct Seconds(pub Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} s", (self.0.as_secs_f64() * 100.0).round() / 100.0)
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
    fn durations_are_spelled_to_a_hundredth_of_a_second() {
        for (milliseconds, expected) in [(10_000, "10 s"), (9_499, "9.5 s"), (4_750, "4.75 s"), (300, "0.3 s")] {
            assert_eq!(Seconds(Duration::from_millis(milliseconds)).to_string(), expected);
        }
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
    fn a_server_that_cannot_be_reached_is_tried_until_the_deadline() {
        let refused = async || Err::<(), _>(Failure::NotSent("refused"));
        let (gave_up, waited) = block_on(async {
            let begin = Instant::now();
            (Deadline::after(Duration::from_secs(10)).retry(refused).await, begin.elapsed())
        });
        assert!(matches!(gave_up, Err(GaveUp { tries: 0, last: Some("refused"), .. })));
        assert!((8..=10).contains(&waited.as_secs()), "{waited:?}");
    }

    #[test]
    fn what_must_not_be_repeated_is_sent_once() {
        let mut sent = 0;
        let mut connections = 0;
        let gave_up = block_on(async {
            let attempt = async || {
                connections += 1;
                if connections < 3 {
                    return Err(Failure::NotSent("refused"));
                }
                sent += 1;
                Err::<(), _>(Failure::Transient { error: "500", retry_after: None })
            };
            let deadline = Deadline::after(Duration::from_secs(10));
            deadline.send_once(Duration::from_secs(5), attempt).await
        });
        assert!(matches!(gave_up, Err(GaveUp { tries: 1, last: Some("500"), .. })));
        assert_eq!((sent, connections), (1, 3));
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
