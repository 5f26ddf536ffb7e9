//! The source that all starts of a broker share.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use futures_util::stream::{FuturesUnordered, LocalBoxStream, StreamExt as _};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use super::breaker::Breaker;
use super::calls::{Arrived, Begun, Call, Calls};
use super::counters::{Sample, count};
use super::fetches::Fetches;
use super::fields::Fields;
use super::flights::{Flight, Outcome};
use super::log;
use super::sealed_values::SealedValues;
use super::snapshot::{BreakerState, SealedSummary, Snapshot};
use super::state::{FieldAnswer, Payer, State};
use super::worker::Worker;
use crate::reference::Reference;
use crate::report;
use crate::retry::Deadline;
use crate::settings::Settings;
use crate::source::connect::{Connect, ListedItem};
use crate::source::{Earlier, Fetched, Field, Source, SourceError, Standing};
use crate::token::static_token::Shown;

/// The share of the deadline for the source if there are sealed values to go on with: the rest is for them and the KMS.
const SHARE_WITH_SEALED_VALUES: u32 = 2;

/// A start shares the failure of a request that others made, unless it has more than this share of its own deadline left.
const TIME_FOR_ANOTHER: u32 = 3;

/// How much longer than its own deadline a request is waited for, whose error says more than that there was no answer.
const GRACE: Duration = Duration::from_millis(200);

const EXPIRY_PERIOD: Duration = Duration::from_secs(60);

/// The source that all starts share: as a [`Source`] of its own, it fetches for any start; clones share everything.
#[derive(Clone)]
pub struct Shared {
    calls: Arc<Calls>,
    start: Option<Arc<str>>,
    payer: Option<Payer>,
    /// If nothing will do that was fetched before: what was fetched since.
    fetches: Option<Arc<Fetches>>,
    /// Whether the use of stored values was logged in this outage.
    has_logged: Arc<AtomicBool>,
}

impl Shared {
    /// Opens the source that the settings choose, and starts the thread on which it is asked. Nothing is sent yet.
    ///
    /// # Errors
    /// If the settings choose none, its files cannot be used, or there is no thread.
    pub fn open(settings: &Settings) -> Result<Shared, SourceError> {
        let worker = Worker::start().map_err(|error| SourceError::Runtime { errno: error.into() })?;
        let calls = Arc::new(Calls::new(State::open(settings)?, worker));
        let weak = Arc::downgrade(&calls);
        calls.worker().run(move || remove_expired(weak));
        Ok(Shared { calls, start: None, payer: None, fetches: None, has_logged: Arc::default() })
    }

    /// The source for one container's start, whose id goes with the requests that it causes.
    #[must_use]
    pub fn for_start(&self, start: &str) -> Shared {
        Shared { start: Some(start.into()), ..self.clone() }
    }

    /// The source for one start of this user, or of root.
    #[must_use]
    pub fn paid_by(self, payer: Option<Payer>) -> Shared {
        Shared { payer, ..self }
    }

    /// The same for an update of a running container, which gets nothing that was fetched before these fetches began.
    #[must_use]
    pub fn for_update(&self, start: &str, fetches: &Arc<Fetches>) -> Shared {
        Shared { fetches: Some(Arc::clone(fetches)), ..self.for_start(start) }
    }

    /// The items of a vault.
    ///
    /// # Errors
    /// If the source does not list them.
    pub async fn items(&self, vault: &str, deadline: Deadline) -> Result<Vec<ListedItem>, SourceError> {
        self.calls.list(vault.to_owned(), &self.call(deadline)).await
    }

    fn call(&self, deadline: Deadline) -> Call {
        let (start, fetches) = (self.start.clone(), self.fetches.clone());
        Call { start, payer: self.payer, asked: Instant::now(), deadline, fetches }
    }

    /// Uses other settings from now on. Ids, values, the budget and the state of the circuit breaker are kept if it is the same source.
    ///
    /// # Errors
    /// As for [`Shared::open`]. Then the settings from before are still used.
    pub fn reload(&self, settings: &Settings) -> Result<(), SourceError> {
        self.calls.state().reload(settings)
    }

    /// Forgets all values, and what is stored for an outage, which is to be removed from the disk afterwards.
    pub fn forget(&self) {
        let mut state = self.calls.state();
        state.known = Fields::default();
        if let Some(sealed) = &state.sealed {
            sealed.forget();
        }
    }

    /// All metrics.
    pub fn metrics(&self) -> Vec<Sample> {
        let mut samples = self.calls.counters.samples();
        let mut state = self.calls.state();
        state.count_requests(Instant::now());
        let mut add = |name, help, is_counter, value| samples.push(Sample { name, help, is_counter, value });
        add("source_requests", "Requests sent to the source", true, state.requests_sent());
        add("source_in_flight", "Requests that are being made", false, (state.items.len() + state.fields.len()) as u64);
        let is_open = !matches!(state.breaker, Breaker::Closed { .. });
        add("source_breaker_open", "1 if the source is not asked after repeated failures", false, is_open.into());
        if let Some(sealed) = &state.sealed {
            let written = sealed.written.load(Ordering::Relaxed);
            let removed = sealed.removed.load(Ordering::Relaxed);
            add("sealed_values", "Sealed values that may be used in an outage", false, sealed.summary().0 as u64);
            add("sealed_values_written", "Sealed values stored for an outage", true, written);
            add(
                "sealed_values_removed",
                "Sealed values removed because they were refused, replaced or too old",
                true,
                removed,
            );
        }
        samples
    }

    /// The state, for `check` and `explain`.
    pub fn snapshot(&self) -> Snapshot {
        let mut state = self.calls.state();
        let now = Instant::now();
        state.count_requests(now);
        let breaker = match &state.breaker {
            Breaker::Closed { failures } => BreakerState::Closed { failures: *failures },
            Breaker::Open { cause, .. } => BreakerState::Open { cause: report::chain(cause) },
            Breaker::Probing { cause, .. } => BreakerState::Probing { cause: report::chain(cause) },
        };
        let sealed = state.sealed.as_ref().map(|sealed| {
            let (values, oldest) = sealed.summary();
            SealedSummary { values, oldest }
        });
        Snapshot {
            server: state.config.server(),
            breaker,
            requests: state.budget.spent(now),
            requests_per_hour: state.budget.limit(),
            max_age_seconds: state.config.max_age.as_secs(),
            fresh: state.known.len(state.config.max_age, now),
            ids: state.opened.client.remembered_ids(),
            sealed,
        }
    }

    async fn answer(
        &self,
        (index, reference): (usize, &Reference),
        begun: Begun,
        call: Call,
        sealed: Option<Arc<SealedValues>>,
    ) -> Fetched {
        let is_shared = begun.is_of_another_start(call.asked);
        let mut outcome = self.wait(reference, begun, &call).await;
        // The request of another start had less time than this one.
        let has_time = call.deadline.remaining() > call.deadline.total() / TIME_FOR_ANOTHER;
        if is_shared && has_time && outcome.as_ref().is_err_and(is_outage) {
            let again = Call { asked: Instant::now(), ..call };
            if let Some(begun) = self.calls.begin(&[reference], &again).pop() {
                outcome = self.wait(reference, begun, &again).await;
            }
        }
        match outcome {
            Ok(field) => {
                if field.earlier.is_none() {
                    self.has_logged.store(false, Ordering::Relaxed);
                }
                Fetched { index, outcome: Ok(field) }
            }
            Err(error) => {
                let stored = sealed.filter(|_| is_outage(&error)).and_then(|sealed| sealed.read(reference));
                stored.iter().for_each(|_| self.log_outage(&error));
                Fetched { index, outcome: stored.ok_or(error) }
            }
        }
    }

    /// The answer for a reference, which is noted for other starts and for an outage.
    async fn wait(&self, reference: &Reference, begun: Begun, call: &Call) -> Result<Field, SourceError> {
        let (arrived, began, start) = match begun {
            Begun::Done(outcome) => return outcome,
            Begun::Field(flight) => self.field(flight, call).await,
            Begun::Item(flight) => {
                let (began, start) = (flight.began, flight.start.clone());
                let item = self.arrival(flight, call).await;
                match item.and_then(|item| Ok((Connect::value(&item.item, reference)?, item))) {
                    Err(error) => (Err(error), began, start),
                    Ok((Some(field), item)) => (Ok((field, item.at, item.fetched)), began, start),
                    Ok((None, item)) => match self.calls.ask_for_file(reference, item, call) {
                        Some(flight) => self.field(flight, call).await,
                        None => (Err(self.no_answer(call)), began, start),
                    },
                }
            }
        };
        self.calls.learn(reference, &arrived, began, start.as_ref());
        let (field, _, fetched) = arrived?;
        let start = start.map(|start| start.to_string());
        let earlier = (began < call.asked).then_some(Earlier { fetched, start, outage: false });
        Ok(Field { earlier, ..field })
    }

    async fn field(&self, flight: Flight<FieldAnswer>, call: &Call) -> (Arrived, Instant, Option<Arc<str>>) {
        let (began, start) = (flight.began, flight.start.clone());
        let arrived = self.arrival(flight, call).await;
        (arrived.map(|answer| (copy(&answer.field), answer.at, answer.fetched)), began, start)
    }

    async fn arrival<T>(&self, flight: Flight<T>, call: &Call) -> Outcome<T> {
        match timeout(call.deadline.remaining() + GRACE, flight.outcome).await {
            Ok(Some(outcome)) => outcome,
            Ok(None) | Err(_) => Err(self.no_answer(call)),
        }
    }

    fn no_answer(&self, call: &Call) -> SourceError {
        self.calls.state().opened.client.no_answer(call.deadline.total())
    }

    /// Logs once in an outage that stored values are used. The record of each start states which.
    fn log_outage(&self, cause: &SourceError) {
        count(&self.calls.counters.outage_values);
        if !self.has_logged.swap(true, Ordering::Relaxed) {
            let cause = report::chain(cause);
            log::warn(&format!("containers start with sealed values that were fetched earlier: {cause}"));
        }
    }
}

impl Source for Shared {
    fn static_token(&self) -> Option<Shown> {
        self.calls.state().opened.client.static_token()
    }

    fn fetch<'a>(&'a self, references: &'a [&'a Reference], deadline: Deadline) -> LocalBoxStream<'a, Fetched> {
        let sealed = self.calls.state().sealed.clone().filter(|_| self.fetches.is_none());
        let has_all = |sealed: &Arc<SealedValues>| references.iter().all(|reference| sealed.has(reference));
        let deadline = match sealed.as_ref().is_some_and(has_all) {
            true => Deadline::after(deadline.remaining() / SHARE_WITH_SEALED_VALUES),
            false => deadline,
        };
        let call = self.call(deadline);
        let begun = self.calls.begin(references, &call);
        let wanted = references.iter().copied().enumerate().zip(begun);
        let answers: FuturesUnordered<_> =
            wanted.map(|(wanted, begun)| self.answer(wanted, begun, call.clone(), sealed.clone())).collect();
        answers.boxed_local()
    }
}

fn is_outage(error: &SourceError) -> bool {
    error.standing() == Standing::Outage
}

fn copy(field: &Field) -> Field {
    let Field { value, item_id, field_id, version, earlier: _ } = field;
    let (value, item_id, field_id) = (value.clone(), item_id.clone(), field_id.clone());
    Field { value, item_id, field_id, version: *version, earlier: None }
}

/// Removes stored values when their time is over, until the source is dropped.
async fn remove_expired(calls: Weak<Calls>) {
    loop {
        sleep(EXPIRY_PERIOD).await;
        let Some(calls) = calls.upgrade() else { return };
        let sealed = calls.state().sealed.clone();
        if let Some(sealed) = sealed {
            let _ = spawn_blocking(move || sealed.remove_expired()).await;
        }
    }
}
