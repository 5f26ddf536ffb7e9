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

    /// Ends a request: nothing can join it from now on. The outcome is to be sent afterwards.
    pub(super) fn end(&mut self, pilot: &Pilot<K, T>) {
        if self.flights.get(&pilot.key).is_some_and(|flight| flight.number == pilot.number) {
            self.flights.remove(&pilot.key);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.flights.len()
    }
}

impl<K, T> Pilot<K, T> {
    /// Sends the outcome to all that wait.
    pub(super) fn send(self, outcome: Outcome<T>) {
        // It does not matter if they are gone.
        let _ = self.sender.send(outcome);
    }
}

impl<T> Clone for Flight<T> {
    fn clone(&self) -> Flight<T> {
        Flight { began: self.began, start: self.start.clone(), outcome: self.outcome.clone(), number: self.number }
    }
}
