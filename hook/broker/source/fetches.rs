//! What was fetched since a moment, for all updates that began then.
//!
//! A thousand containers that share an item cost one request: each of them may have what was asked for after the change was seen that
//! caused the updates. Nothing else that was fetched before will do, nor what another start asked for before that moment.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::flights::{Flight, Flights};
use super::state::{FieldAnswer, ItemAnswer, ItemKey};
use crate::reference::Reference;
use crate::source::Standing;

/// The most answers of each kind that are kept. Others are fetched again.
const ANSWERS_MAX: usize = 256;

/// The answers of the source since a moment. They are zeroed when this is dropped.
pub struct Fetches {
    pub(super) items: Answers<ItemKey, ItemAnswer>,
    pub(super) fields: Answers<Reference, FieldAnswer>,
}

impl Fetches {
    /// From now on.
    pub fn begin() -> Arc<Fetches> {
        let since = Instant::now();
        Arc::new(Fetches { items: Answers::since(since), fields: Answers::since(since) })
    }
}

/// The answers of one kind, by what was asked for.
pub(super) struct Answers<K, T> {
    since: Instant,
    flights: Mutex<HashMap<K, Flight<T>>>,
}

impl<K: Clone + Eq + Hash, T> Answers<K, T> {
    fn since(since: Instant) -> Answers<K, T> {
        Answers { since, flights: Mutex::default() }
    }

    /// Keeps the answer to a request.
    pub(super) fn keep(&self, key: &K, flight: &Flight<T>) {
        let mut flights = self.lock();
        if flights.len() < ANSWERS_MAX || flights.contains_key(key) {
            flights.insert(key.clone(), flight.clone());
        }
    }

    /// The answer, or the request that will have it. A source that did not answer is asked again.
    fn of(&self, key: &K) -> Option<Flight<T>> {
        let is_usable = |flight: &&Flight<T>| match flight.outcome.peek() {
            None | Some(Some(Ok(_))) => true,
            Some(Some(Err(error))) => error.standing() == Standing::Refusal,
            Some(None) => false,
        };
        self.lock().get(key).filter(is_usable).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, Flight<T>>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that is being made, or that was: of these answers, if nothing older will do.
pub(super) fn join<K: Clone + Eq + Hash, T: Send + Sync + 'static>(
    answers: Option<&Answers<K, T>>,
    flights: &Flights<K, T>,
    key: &K,
) -> Option<Flight<T>> {
    let flight = flights.join(key);
    let Some(answers) = answers else { return flight };
    let flight = flight.filter(|flight| flight.began >= answers.since);
    flight.iter().for_each(|flight| answers.keep(key, flight));
    answers.of(key)
}
