//! What the starts of a broker share, behind one lock, which is never held while something is waited for.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;

use super::breaker::{Admission, Breaker};
use super::budget::Budget;
use super::counters::{Counters, count};
use super::fields::Fields;
use super::flights::Flights;
use super::log;
use super::opened::{Config, Opened};
use super::sealed_values::SealedValues;
use crate::reference::Reference;
use crate::report;
use crate::retry::Deadline;
use crate::settings::Settings;
use crate::source::connect::FetchedItem;
use crate::source::{Field, SourceError, Standing};

/// The vault and the item, as references spell them.
pub(super) type ItemKey = (String, String);

/// An item, and when it was asked for.
pub(super) struct ItemAnswer {
    pub(super) item: FetchedItem,
    pub(super) at: Instant,
    pub(super) fetched: Timestamp,
}

/// A field, and when it was asked for.
pub(super) struct FieldAnswer {
    pub(super) field: Field,
    pub(super) at: Instant,
    pub(super) fetched: Timestamp,
}

/// A user other than root, whose starts may use one of so many equal parts of the budget.
#[derive(Clone, Copy, Debug)]
pub struct Payer {
    /// The user.
    pub uid: u32,
    /// The parts: one for each user that grants name, and one for root.
    pub parts: u32,
}

/// What a user pays for one request for an item: as many as `op` needs for an item that is named by its title, and Connect for one whose
/// ids are not known.
const ITEM_PRICE: u64 = 3;

pub(super) struct State {
    pub(super) config: Config,
    pub(super) opened: Opened,
    pub(super) items: Flights<ItemKey, ItemAnswer>,
    pub(super) fields: Flights<Reference, FieldAnswer>,
    pub(super) known: Fields,
    pub(super) breaker: Breaker<SourceError>,
    /// When the first request to this source could be made. Earlier ones asked another source.
    since: Instant,
    pub(super) budget: Budget,
    /// What users have spent of their shares of it.
    shares: HashMap<u32, Budget>,
    /// The requests that the budget has counted.
    counted: u64,
    pub(super) sealed: Option<Arc<SealedValues>>,
}

impl State {
    pub(super) fn open(settings: &Settings) -> Result<State, SourceError> {
        let config = Config::of(settings)?;
        Ok(State {
            opened: Opened::open(&config, None)?,
            items: Flights::new(),
            fields: Flights::new(),
            known: Fields::default(),
            breaker: Breaker::new(),
            since: Instant::now(),
            budget: Budget::new(config.requests_per_hour, Instant::now()),
            shares: HashMap::new(),
            counted: 0,
            sealed: SealedValues::open(&config.outage, &config.server()).map(Arc::new),
            config,
        })
    }

    /// Uses other settings. What was learned of a source is kept as long as it is the same source.
    pub(super) fn reload(&mut self, settings: &Settings) -> Result<(), SourceError> {
        let config = Config::of(settings)?;
        let is_same = config.server() == self.config.server();
        let opened = Opened::open(&config, is_same.then_some(&self.opened.client))?;
        if !is_same {
            (self.known, self.breaker, self.counted) = (Fields::default(), Breaker::new(), 0);
            self.items.leave();
            self.fields.leave();
            self.since = Instant::now();
        }
        if !is_same || config.outage != self.config.outage {
            self.sealed = SealedValues::open(&config.outage, &config.server()).map(Arc::new);
        }
        self.budget.set_limit(config.requests_per_hour);
        (self.config, self.opened) = (config, opened);
        Ok(())
    }

    /// Requires that a user has not used up its share of the budget, if there is a limit.
    pub(super) fn require_share(
        &mut self,
        payer: Option<Payer>,
        now: Instant,
        counters: &Counters,
    ) -> Result<(), SourceError> {
        let (Some(Payer { uid, parts }), Some(limit)) = (payer, self.budget.limit()) else { return Ok(()) };
        let Some(spent) = self.shares.get_mut(&uid) else { return Ok(()) };
        let share = limit / parts.max(1);
        spent.set_limit(Some(share));
        if spent.exhausted(now).is_none() {
            return Ok(());
        }
        count(&counters.over_budget);
        Err(SourceError::OverShare { uid, share, limit })
    }

    /// Charges a user for a request for an item.
    pub(super) fn spend_share(&mut self, payer: Option<Payer>, now: Instant) {
        if let Some(Payer { uid, .. }) = payer {
            self.shares.entry(uid).or_insert_with(|| Budget::new(None, now)).spend(now, ITEM_PRICE);
        }
    }

    /// Whether the source may be asked now, and if so, whether as the probe of the circuit breaker.
    pub(super) fn admit(&mut self, now: Instant, deadline: Deadline, counters: &Counters) -> Result<bool, SourceError> {
        self.count_requests(now);
        if let Some(limit) = self.budget.exhausted(now) {
            count(&counters.over_budget);
            return Err(SourceError::OverBudget { server: self.config.server(), limit });
        }
        if self.opened.is_outdated() {
            self.opened = Opened::open(&self.config, Some(&self.opened.client))?;
            count(&counters.reconnects);
        }
        match self.breaker.admit(now, deadline.remaining()) {
            Admission::Granted => Ok(false),
            Admission::Probe => {
                count(&counters.probes);
                Ok(true)
            }
            Admission::Refused(cause) => {
                count(&counters.paused);
                Err(SourceError::Paused { cause: Box::new(cause) })
            }
        }
    }

    /// Whether a request of this time was one to the source of these settings.
    pub(super) fn has_asked(&self, began: Instant) -> bool {
        began >= self.since
    }

    /// Notes whether the source has answered a request.
    pub(super) fn ended(&mut self, failure: Option<&SourceError>, is_probe: bool, counters: &Counters) {
        let now = Instant::now();
        self.count_requests(now);
        let Some((failure, standing)) = failure.map(|failure| (failure, failure.standing())) else {
            return self.answered();
        };
        match standing {
            Standing::Refusal => self.answered(),
            Standing::Local if !is_probe => self.opened.has_failed = true,
            Standing::Outage | Standing::Unclear | Standing::Local => {
                self.opened.has_failed = true;
                count(&counters.failures);
                if self.breaker.failed(is_probe, now, fastrand::f64(), failure.clone()) {
                    count(&counters.opened);
                    log::warn(&report::chain(&SourceError::Paused { cause: Box::new(failure.clone()) }));
                }
            }
        }
    }

    fn answered(&mut self) {
        if !matches!(self.breaker, Breaker::Closed { .. }) {
            log::warn(&format!("{} answers again", self.config.server()));
        }
        self.breaker.succeeded();
    }

    pub(super) fn count_requests(&mut self, now: Instant) {
        let sent = self.opened.client.requests_sent();
        self.budget.spend(now, sent.saturating_sub(self.counted));
        self.counted = sent;
    }

    /// The requests that were sent to this source.
    pub(super) fn requests_sent(&self) -> u64 {
        self.counted
    }
}
