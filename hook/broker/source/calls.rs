//! Requests to the source, each of which answers all starts that wait for the same.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use futures_util::StreamExt as _;
use jiff::Timestamp;
use tokio::sync::oneshot;

use super::counters::{Counters, count};
use super::fetches::{Answers, Fetches, join};
use super::flights::{Flight, Pilot};
use super::opened::Client;
use super::state::{FieldAnswer, ItemAnswer, ItemKey, Payer, State};
use super::worker::Worker;
use crate::reference::Reference;
use crate::retry::Deadline;
use crate::source::connect::{Connect, ListedItem};
use crate::source::op::Op;
use crate::source::{Fetched, Field, Source as _, SourceError};

/// The shared state, and the thread on which the source is asked.
pub(super) struct Calls {
    state: Mutex<State>,
    worker: Worker,
    pub(super) counters: Counters,
}

/// How the answer for a reference comes.
pub(super) enum Begun {
    /// It is there.
    Done(Result<Field, SourceError>),
    /// As a field of an item that was asked for.
    Item(Flight<ItemAnswer>),
    /// It was asked for.
    Field(Flight<FieldAnswer>),
}

impl Begun {
    /// Whether the request for it was made before this.
    pub(super) fn is_of_another_start(&self, asked: Instant) -> bool {
        match self {
            Begun::Done(_) => false,
            Begun::Item(flight) => flight.began < asked,
            Begun::Field(flight) => flight.began < asked,
        }
    }
}

/// A field, and when it was asked for.
pub(super) type Arrived = Result<(Field, Instant, Timestamp), SourceError>;

/// Who asks, since when, and until when.
#[derive(Clone)]
pub(super) struct Call {
    pub(super) start: Option<Arc<str>>,
    pub(super) payer: Option<Payer>,
    pub(super) asked: Instant,
    pub(super) deadline: Deadline,
    /// If nothing will do that was fetched before: what was fetched since.
    pub(super) fetches: Option<Arc<Fetches>>,
}

impl Calls {
    pub(super) fn new(state: State, worker: Worker) -> Calls {
        Calls { state: Mutex::new(state), worker, counters: Counters::default() }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn worker(&self) -> &Worker {
        &self.worker
    }

    /// Begins to answer references: from what is known, by a request that is being made, or by a new one.
    pub(super) fn begin(self: &Arc<Calls>, references: &[&Reference], call: &Call) -> Vec<Begun> {
        let now = call.asked;
        let (mut admitted, mut batch) = (None, Vec::new());
        let mut state = self.state();
        let max_age = state.config.max_age;
        let mut begun = Vec::with_capacity(references.len());
        for &reference in references {
            count(&self.counters.fetches);
            if let Some(field) = state.known.sealed(reference, max_age, now).filter(|_| call.fetches.is_none()) {
                count(&self.counters.fresh);
                begun.push(Begun::Done(Ok(field)));
                continue;
            }
            if let Some(missing) = state.known.missing(reference, now).filter(|_| call.fetches.is_none()) {
                count(&self.counters.missing);
                begun.push(Begun::Done(Err(missing)));
                continue;
            }
            let key = (reference.vault().to_owned(), reference.item().to_owned());
            let joined = match &state.opened.client {
                Client::Connect(_) => join(call.items(), &state.items, &key).map(Begun::Item),
                Client::Op(_) => join(call.fields(), &state.fields, reference).map(Begun::Field),
            };
            if let Some(joined) = joined {
                if joined.is_of_another_start(now) {
                    count(&self.counters.coalesced);
                }
                begun.push(joined);
                continue;
            }
            if let Err(refused) = state.require_share(call.payer, now, &self.counters) {
                begun.push(Begun::Done(Err(refused)));
                continue;
            }
            let admission = admitted.get_or_insert_with(|| state.admit(now, call.deadline, &self.counters));
            let is_probe = match admission {
                Ok(is_probe) => *is_probe,
                Err(refused) => {
                    begun.push(Begun::Done(Err(refused.clone())));
                    continue;
                }
            };
            state.spend_share(call.payer, now);
            begun.push(match &state.opened.client {
                Client::Connect(connect) => {
                    let connect = connect.clone();
                    let (flight, pilot) = state.items.begin(key.clone(), now, call.start.clone());
                    call.items().iter().for_each(|answers| answers.keep(&key, &flight));
                    self.ask_connect(connect, reference.clone(), key, pilot, is_probe, call.clone());
                    Begun::Item(flight)
                }
                Client::Op(_) => {
                    let (flight, pilot) = state.fields.begin(reference.clone(), now, call.start.clone());
                    call.fields().iter().for_each(|answers| answers.keep(reference, &flight));
                    batch.push((reference.clone(), pilot));
                    Begun::Field(flight)
                }
            });
        }
        if let (Client::Op(op), Some(Ok(is_probe))) = (&state.opened.client, admitted) {
            self.ask_op(op.clone(), batch, is_probe, call.clone());
        }
        begun
    }

    fn ask_connect(
        self: &Arc<Calls>,
        connect: Connect,
        reference: Reference,
        (vault, title): ItemKey,
        pilot: Pilot<ItemKey, ItemAnswer>,
        is_probe: bool,
        call: Call,
    ) {
        let calls = self.clone();
        self.worker.run(move || async move {
            let connect = for_start(connect, &call);
            let fetched = Timestamp::now();
            let outcome = connect.fetch_item(&vault, &title, call.deadline).await;
            let sealed = {
                let mut state = calls.state();
                let is_of_source = state.items.end(&pilot);
                if is_of_source {
                    state.ended(outcome.as_ref().err(), is_probe, &calls.counters);
                }
                state.sealed.clone().filter(|_| is_of_source)
            };
            // Before a start gets the refusal, and even if no start waits for it.
            if let (Err(refusal), Some(sealed)) = (&outcome, &sealed) {
                sealed.refused(&reference, refusal);
            }
            pilot.send(outcome.map(|item| Arc::new(ItemAnswer { item, at: call.asked, fetched })));
        });
    }

    /// Lists the items of a vault.
    pub(super) async fn list(self: &Arc<Calls>, vault: String, call: &Call) -> Result<Vec<ListedItem>, SourceError> {
        let (connect, is_probe) = {
            let mut state = self.state();
            // Before it is admitted: it may be admitted as the probe, whose outcome the breaker waits for.
            let Client::Connect(connect) = &state.opened.client else { return Err(SourceError::NoConnect) };
            let connect = for_start(connect.clone(), call);
            (connect, state.admit(call.asked, call.deadline, &self.counters)?)
        };
        let (sender, receiver) = oneshot::channel();
        let (calls, deadline) = (self.clone(), call.deadline);
        self.worker.run(move || async move {
            let outcome = connect.items(&vault, deadline).await;
            calls.state().ended(outcome.as_ref().err(), is_probe, &calls.counters);
            // The caller may have ended.
            let _ = sender.send(outcome);
        });
        receiver.await.unwrap_or_else(|_| Err(self.state().opened.client.no_answer(deadline.total())))
    }

    /// Asks for the content of a file, which an item names only.
    pub(super) fn ask_for_file(
        self: &Arc<Calls>,
        reference: &Reference,
        item: Arc<ItemAnswer>,
        call: &Call,
    ) -> Option<Flight<FieldAnswer>> {
        let mut state = self.state();
        if let Some(flight) = join(call.fields(), &state.fields, reference) {
            return Some(flight);
        }
        let Client::Connect(connect) = &state.opened.client else { return None };
        let connect = connect.clone();
        let (flight, pilot) = state.fields.begin(reference.clone(), call.asked, call.start.clone());
        call.fields().iter().for_each(|answers| answers.keep(reference, &flight));
        let (calls, reference, call) = (self.clone(), reference.clone(), call.clone());
        self.worker.run(move || async move {
            let outcome = for_start(connect, &call).field(&item.item, &reference, call.deadline).await;
            let mut state = calls.state();
            if state.fields.end(&pilot) {
                state.ended(outcome.as_ref().err(), false, &calls.counters);
            }
            drop(state);
            let (at, fetched) = (item.at, item.fetched);
            pilot.send(outcome.map(|field| Arc::new(FieldAnswer { field, at, fetched })));
        });
        Some(flight)
    }

    fn ask_op(
        self: &Arc<Calls>,
        op: Arc<Op>,
        batch: Vec<(Reference, Pilot<Reference, FieldAnswer>)>,
        is_probe: bool,
        call: Call,
    ) {
        if batch.is_empty() {
            return;
        }
        let calls = self.clone();
        self.worker.run(move || async move {
            let (references, pilots): (Vec<Reference>, Vec<_>) = batch.into_iter().unzip();
            let asked: Vec<&Reference> = references.iter().collect();
            let mut pilots: HashMap<usize, _> = pilots.into_iter().enumerate().collect();
            let (at, fetched, mut has_failed) = (call.asked, Timestamp::now(), false);
            let mut answers = op.fetch(&asked, call.deadline);
            while let Some(Fetched { index, outcome }) = answers.next().await {
                let (Some(pilot), Some(reference)) = (pilots.remove(&index), references.get(index)) else { continue };
                let sealed = {
                    let mut state = calls.state();
                    let is_of_source = state.fields.end(&pilot);
                    // One run counts as one request, however many references it was for.
                    if is_of_source && (outcome.is_ok() || !std::mem::replace(&mut has_failed, true)) {
                        state.ended(outcome.as_ref().err(), is_probe, &calls.counters);
                    }
                    state.sealed.clone().filter(|_| is_of_source)
                };
                if let (Err(refusal), Some(sealed)) = (&outcome, &sealed) {
                    sealed.refused(reference, refusal);
                }
                pilot.send(outcome.map(|field| Arc::new(FieldAnswer { field, at, fetched })));
            }
        });
    }

    /// Notes the answer for a reference to a request of this time: for other starts, and for an outage.
    pub(super) fn learn(
        self: &Arc<Calls>,
        reference: &Reference,
        arrived: &Arrived,
        began: Instant,
        start: Option<&Arc<str>>,
    ) {
        let mut state = self.state();
        // The settings may name another source by now.
        if !state.has_asked(began) {
            return;
        }
        let (sealed, max_age) = (state.sealed.clone(), state.config.max_age);
        match arrived {
            Ok((field, at, fetched)) => {
                state.known.remember(reference, field, (*at, *fetched), start.cloned(), max_age);
            }
            Err(refusal) => state.known.refused(reference, refusal, began),
        }
        drop(state);
        let Some(sealed) = sealed else { return };
        match arrived {
            Ok((field, at, fetched)) => {
                if let Some(change) = sealed.change(reference, field, (*at, *fetched), start.map(AsRef::as_ref)) {
                    self.worker.run(move || async move {
                        // In the order in which they were begun.
                        let _ = tokio::task::spawn_blocking(move || sealed.write(&change)).await;
                    });
                }
            }
            Err(refusal) => sealed.refused(reference, refusal),
        }
    }
}

impl Call {
    fn items(&self) -> Option<&Answers<ItemKey, ItemAnswer>> {
        self.fetches.as_deref().map(|fetches| &fetches.items)
    }

    fn fields(&self) -> Option<&Answers<Reference, FieldAnswer>> {
        self.fetches.as_deref().map(|fetches| &fetches.fields)
    }
}

/// The client with the id of the start that causes the request.
fn for_start(connect: Connect, call: &Call) -> Connect {
    match &call.start {
        Some(start) => connect.for_start(start),
        None => connect,
    }
}
