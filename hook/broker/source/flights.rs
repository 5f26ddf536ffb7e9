//! Requests that are being made, so that others who want the same answer can wait for it.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Instant;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use tokio::sync::oneshot;

use crate::source::SourceError;

/// An answer, which all that wait for it share.
pub(super) type Outcome<T> = Result<Arc<T>, SourceError>;

/// The requests for things of one kind, by what they ask for.
pub(super) struct Flights<K, T> {
    flights: HashMap<K, Flight<T>>,
    count: u64,
}

/// A request that is being made.
pub(super) struct Flight<T> {
    pub(super) began: Instant,
    /// The start that it is made for.
    pub(super) start: Option<Arc<str>>,
    /// None if the request ended without an outcome.
    pub(super) outcome: Shared<BoxFuture<'static, Option<Outcome<T>>>>,
    number: u64,
}

/// The duty to end a flight.
pub(super) struct Pilot<K, T> {
    key: K,
    number: u64,
    sender: oneshot::Sender<Outcome<T>>,
}

impl<K: Clone + Eq + Hash, T: Send + Sync + 'static> Flights<K, T> {
    pub(super) fn new() -> Flights<K, T> {
        Flights { flights: HashMap::new(), count: 0 }
    }

    /// A request for the same that is being made.
    pub(super) fn join(&self, key: &K) -> Option<Flight<T>> {
        self.flights.get(key).cloned()
    }

    /// Begins a request, which others can join until it ends.
    pub(super) fn begin(&mut self, key: K, began: Instant, start: Option<Arc<str>>) -> (Flight<T>, Pilot<K, T>) {
        let (sender, receiver) = oneshot::channel();
        self.count += 1;
        let outcome = receiver.map(Result::ok).boxed().shared();
        let flight = Flight { began, start, outcome, number: self.count };
        self.flights.insert(key.clone(), flight.clone());
        (flight, Pilot { key, number: self.count, sender })
    }

    /// Ends a request: nothing can join it from now on. The outcome is to be sent afterwards. Returns whether it was one of these, and
    /// not of a source that was replaced.
    pub(super) fn end(&mut self, pilot: &Pilot<K, T>) -> bool {
        let is_ours = self.flights.get(&pilot.key).is_some_and(|flight| flight.number == pilot.number);
        if is_ours {
            self.flights.remove(&pilot.key);
        }
        is_ours
    }

    /// Nothing can join what is being made. Those that wait for it still get its outcome.
    pub(super) fn leave(&mut self) {
        self.flights.clear();
    }

    pub(super) fn len(&self) -> usize {
        self.flights.len()
    }
}

impl<K, T> Pilot<K, T> {
    /// Sends the outcome to all starts that wait.
    pub(super) fn send(self, outcome: Outcome<T>) {
        // They may have ended.
        let _ = self.sender.send(outcome);
    }
}

impl<T> Clone for Flight<T> {
    fn clone(&self) -> Flight<T> {
        Flight { began: self.began, start: self.start.clone(), outcome: self.outcome.clone(), number: self.number }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What can happen to the requests for two things, in any order: they are changed behind one lock, and nothing waits while holding it.
    #[derive(Clone, Copy, Debug)]
    enum Event {
        /// A start requests one of them: it joins a request, or begins one.
        Want(usize),
        /// The oldest request of them that runs ends, and is answered.
        Answer(usize),
        /// It ends without an outcome: its thread panicked.
        Lose(usize),
        /// The settings name another source: what runs is of no use for later starts.
        Renew,
    }

    const EVENTS: [Event; 7] = [
        Event::Want(0),
        Event::Want(1),
        Event::Answer(0),
        Event::Answer(1),
        Event::Lose(0),
        Event::Lose(1),
        Event::Renew,
    ];

    /// A start that waits, and the number of the request whose outcome it has to get.
    struct Waiting {
        flight: Flight<u64>,
        request: u64,
    }

    /// Runs a sequence, and checks what each start gets.
    fn run(events: &[Event]) {
        let mut flights = Flights::<usize, u64>::new();
        let (mut pilots, mut waiting) = ([Vec::new(), Vec::new()], Vec::<Waiting>::new());
        // The request for each thing that another start can join.
        let (mut joinable, mut requests) = ([None; 2], 0);
        let mut outcomes = HashMap::new();
        for event in events {
            match *event {
                Event::Want(key) => {
                    let flight = flights.join(&key);
                    assert_eq!(flight.is_some(), joinable[key].is_some(), "{events:?}");
                    let flight = flight.unwrap_or_else(|| {
                        requests += 1;
                        joinable[key] = Some(requests);
                        let (flight, pilot) = flights.begin(key, Instant::now(), None);
                        pilots[key].push((requests, pilot));
                        flight
                    });
                    waiting.push(Waiting { flight, request: joinable[key].unwrap() });
                }
                Event::Answer(key) | Event::Lose(key) if !pilots[key].is_empty() => {
                    let (request, pilot) = pilots[key].remove(0);
                    assert_eq!(flights.end(&pilot), joinable[key] == Some(request), "{events:?}");
                    joinable[key] = joinable[key].filter(|joinable| *joinable != request);
                    if matches!(event, Event::Answer(_)) {
                        pilot.send(Ok(Arc::new(request)));
                        outcomes.insert(request, request);
                    } else {
                        drop(pilot);
                    }
                }
                Event::Answer(_) | Event::Lose(_) => {}
                Event::Renew => {
                    flights.leave();
                    joinable = [None; 2];
                }
            }
            assert_eq!(flights.len(), joinable.iter().flatten().count(), "{events:?}");
        }
        let running: Vec<u64> = pilots.iter().flatten().map(|(request, _)| *request).collect();
        for Waiting { flight, request } in waiting {
            let outcome = flight.outcome.now_or_never().map(|outcome| outcome.map(|outcome| *outcome.unwrap()));
            let expected = (!running.contains(&request)).then(|| outcomes.get(&request).copied());
            assert_eq!(outcome, expected, "{events:?}");
        }
    }

    #[test]
    fn each_start_gets_the_outcome_of_its_request_in_every_order_of_events() {
        let mut sequences = vec![Vec::new()];
        for _ in 0..6 {
            let longer = |events: &Vec<Event>| EVENTS.map(|event| [events.as_slice(), &[event]].concat());
            sequences = sequences.iter().flat_map(longer).collect();
            sequences.iter().for_each(|events| run(events));
        }
    }
}
