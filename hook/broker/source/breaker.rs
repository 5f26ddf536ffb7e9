//! A circuit breaker: a source that does not answer is given time, instead of more requests.
//!
//! ```text
//! closed ──FAILURES failures in a row──► open ──pause is over──► probing ──success──► closed
//!                                          ▲                        │
//!                                          └──────failure, longer pause
//! ```
//!
//! While it is open, calls fail at once with the last cause. After the pause one call is the probe; the others still fail. The pause is
//! varied, so that the hosts of a pool do not probe together. Every answer closes the breaker, a refusal, too.

use std::time::{Duration, Instant};

/// How many failures in a row open it. Each of them has used its own tries and deadline.
pub(super) const FAILURES: u32 = 3;

const PAUSE_FIRST: Duration = Duration::from_secs(1);

/// The longest pause, before it is varied. It bounds how long starts fail after the source is back.
const PAUSE_MAX: Duration = Duration::from_secs(15);

/// The state; `C` is the cause of a failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Breaker<C> {
    /// Calls are made.
    Closed { failures: u32 },
    /// No call is made before this time.
    Open { until: Instant, pause: Duration, cause: C },
    /// One call is being made. If it reports nothing until this time, another one is the probe.
    Probing { until: Instant, pause: Duration, cause: C },
}

/// Whether a call may be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Admission<C> {
    Granted,
    /// It is the only one.
    Probe,
    Refused(C),
}

impl<C: Clone> Breaker<C> {
    pub(super) fn new() -> Breaker<C> {
        Breaker::Closed { failures: 0 }
    }

    /// Whether a call with this deadline may be made.
    pub(super) fn admit(&mut self, now: Instant, deadline: Duration) -> Admission<C> {
        match self {
            Breaker::Closed { .. } => Admission::Granted,
            Breaker::Open { until, pause, cause } | Breaker::Probing { until, pause, cause } if now >= *until => {
                *self = Breaker::Probing { until: now + deadline, pause: *pause, cause: cause.clone() };
                Admission::Probe
            }
            Breaker::Open { cause, .. } | Breaker::Probing { cause, .. } => Admission::Refused(cause.clone()),
        }
    }

    /// The source has answered.
    pub(super) fn succeeded(&mut self) {
        *self = Breaker::new();
    }

    /// The source has not answered a call; `jitter` is from 0 to 1. Whether this opens the breaker, which was closed.
    pub(super) fn failed(&mut self, is_probe: bool, now: Instant, jitter: f64, cause: C) -> bool {
        let pause = match self {
            Breaker::Closed { failures } if *failures + 1 < FAILURES => {
                *failures += 1;
                return false;
            }
            Breaker::Closed { .. } => PAUSE_FIRST,
            Breaker::Probing { pause, .. } if is_probe => (*pause * 2).min(PAUSE_MAX),
            // A call from before it opened.
            Breaker::Open { .. } | Breaker::Probing { .. } => return false,
        };
        let opens = matches!(self, Breaker::Closed { .. });
        *self = Breaker::Open { until: now + pause.mul_f64(0.5 + jitter), pause, cause };
        opens
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(10);

    /// What can happen to a breaker.
    #[derive(Clone, Copy, Debug)]
    enum Event {
        Call,
        Succeeds,
        /// A call that was granted fails.
        Fails,
        ProbeFails,
        Wait(Duration),
    }

    const EVENTS: [Event; 8] = [
        Event::Call,
        Event::Succeeds,
        Event::Fails,
        Event::ProbeFails,
        Event::Wait(Duration::from_millis(400)),
        Event::Wait(Duration::from_secs(2)),
        Event::Wait(DEADLINE),
        Event::Wait(Duration::from_secs(60)),
    ];

    /// A model with what an observer knows: the failures in a row, the running probe, and since when it is open.
    #[derive(Clone)]
    struct World {
        breaker: Breaker<u32>,
        now: Instant,
        in_a_row: u32,
        probe_until: Option<Instant>,
        refused_until: Option<Instant>,
    }

    impl World {
        fn step(&mut self, event: Event, jitter: f64) {
            match event {
                Event::Wait(time) => self.now += time,
                Event::Call => match self.breaker.admit(self.now, DEADLINE) {
                    Admission::Granted => assert!(self.in_a_row < FAILURES, "granted after {} failures", self.in_a_row),
                    Admission::Probe => {
                        assert!(self.in_a_row >= FAILURES, "a probe after {} failures", self.in_a_row);
                        assert!(self.probe_until.is_none_or(|until| self.now >= until), "two probes at once");
                        assert!(self.refused_until.is_none_or(|until| self.now >= until), "a probe too early");
                        self.probe_until = Some(self.now + DEADLINE);
                    }
                    Admission::Refused(cause) => {
                        assert!(self.in_a_row >= FAILURES, "refused after {} failures", self.in_a_row);
                        assert_eq!(cause, FAILURES, "the cause is that of the failure that opened it");
                    }
                },
                Event::Succeeds => {
                    self.breaker.succeeded();
                    (self.in_a_row, self.probe_until, self.refused_until) = (0, None, None);
                }
                Event::Fails => {
                    let opens = self.breaker.failed(false, self.now, jitter, FAILURES);
                    self.in_a_row += 1;
                    assert_eq!(opens, self.in_a_row == FAILURES);
                    if opens {
                        self.refused_until = Some(self.now + PAUSE_FIRST.mul_f64(0.5));
                    }
                }
                Event::ProbeFails if self.probe_until.is_some() => {
                    assert!(!self.breaker.failed(true, self.now, jitter, FAILURES));
                    self.probe_until = None;
                    self.refused_until = Some(self.now + PAUSE_FIRST);
                }
                Event::ProbeFails => {}
            }
            // It never stays open: after the longest pause and deadline, a call is made.
            let mut later = self.breaker.clone();
            let end = self.now + PAUSE_MAX.mul_f64(1.5).max(DEADLINE);
            assert!(!matches!(later.admit(end, DEADLINE), Admission::Refused(_)));
        }
    }

    /// Every sequence of events up to a length, without those that lead to a state that was seen with as many events left.
    #[test]
    fn keeps_its_promises_in_every_sequence_of_events() {
        fn explore(world: &World, left: u32, jitter: f64, begin: Instant, seen: &mut HashSet<String>) {
            let World { breaker, now, in_a_row, probe_until, refused_until } = world;
            let age = |time: &Option<Instant>| time.map(|time| time.saturating_duration_since(*now));
            let key = format!(
                "{breaker:?} {:?} {in_a_row} {:?} {:?} {left}",
                *now - begin,
                age(probe_until),
                age(refused_until)
            );
            if left == 0 || !seen.insert(key) {
                return;
            }
            for event in EVENTS {
                let mut next = world.clone();
                next.step(event, jitter);
                explore(&next, left - 1, jitter, begin, seen);
            }
        }
        let mut states = 0;
        for jitter in [0.0, 0.5, 1.0] {
            let (now, mut seen) = (Instant::now(), HashSet::new());
            let world = World { breaker: Breaker::new(), now, in_a_row: 0, probe_until: None, refused_until: None };
            explore(&world, 9, jitter, now, &mut seen);
            states += seen.len();
        }
        assert!(states > 5_000, "only {states} states were seen");
    }

    #[test]
    fn the_pause_doubles_up_to_a_limit_and_is_varied() {
        let pause = |probes: u32, jitter: f64| {
            let (mut breaker, mut now) = (Breaker::new(), Instant::now());
            for _ in 0..FAILURES {
                breaker.failed(false, now, jitter, ());
            }
            for _ in 0..probes {
                now += Duration::from_secs(60);
                assert_eq!(breaker.admit(now, DEADLINE), Admission::Probe);
                breaker.failed(true, now, jitter, ());
            }
            match breaker {
                Breaker::Open { until, .. } => (until - now).as_millis(),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!([0, 1, 2, 9].map(|probes| pause(probes, 0.5)), [1000, 2000, 4000, 15_000]);
        assert_eq!((pause(0, 0.0), pause(0, 1.0)), (500, 1500));
    }
}
