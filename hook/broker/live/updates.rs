//! Updates of the running containers that follow changes.

use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::{Either, select};
use futures_util::stream::{StreamExt as _, iter};
use tokio::sync::Notify;
use tokio::time::sleep;

use super::super::error::PROGRAM;
use super::super::loaded::Loaded;
use super::super::protocol::Selection;
use super::poll;
use super::registry::Live;
use super::running::Running;
use super::update::{self, Outcome};
use crate::report;

/// How many containers are updated at the same time.
const UPDATES_MAX: usize = 8;

/// The share of the period by which a poll is early, so that the hosts of a pool do not poll together.
const JITTER: f64 = 0.2;

impl Live {
    /// Looks for changes in each period, until there are other settings.
    pub async fn update_periodically(&self, loaded: &Loaded<'_>, is_over: &Notify) {
        // What the broker before has left is there from the beginning, and so is what it did not remove.
        match self.begin_turn().await {
            Ok(_turn) => self.remove_revoked(loaded).await,
            Err(error) => report::warn(PROGRAM, &report::chain(&error)),
        }
        loop {
            let period = loaded.settings.updates.period;
            let pause = pin!(sleep(early(period)));
            if let Either::Right(_) = select(pause, pin!(is_over.notified())).await {
                return;
            }
            let turn = self.begin_turn().await;
            let _turn = match turn {
                Ok(turn) => turn,
                Err(error) => {
                    report::warn(PROGRAM, &report::chain(&error));
                    continue;
                }
            };
            self.remove_revoked(loaded).await;
            let running = self.select(&Selection { live: true, ..Selection::default() });
            if !running.is_empty() {
                let (changed, failed) = poll::changed(&running, loaded).await;
                self.failed_polls.set(self.failed_polls.get() + failed);
                self.update(changed, loaded).await;
            }
        }
    }

    /// Updates these containers now, whatever versions they have.
    pub async fn refresh(&self, selection: &Selection, loaded: &Loaded<'_>) {
        match self.begin_turn().await {
            Ok(_turn) => self.update(self.select_live(selection), loaded).await,
            Err(error) => {
                let text = report::chain(&error);
                self.select_live(selection)
                    .iter()
                    .for_each(|running| running.change(|state| state.error = Some(text.clone())));
            }
        }
    }

    pub(super) async fn update(&self, running: Vec<Rc<Running>>, loaded: &Loaded<'_>) {
        let update = async |running: Rc<Running>| match update::update(&running, &self.directory, loaded).await {
            Outcome::Updated => self.count(0),
            Outcome::Unchanged => self.count(1),
            Outcome::Failed => self.count(2),
            Outcome::Ended => {}
        };
        iter(running).for_each_concurrent(UPDATES_MAX, update).await;
    }

    fn count(&self, outcome: usize) {
        self.updates.get(outcome).into_iter().for_each(|count| count.set(count.get() + 1));
    }
}

/// A period, shortened at random.
fn early(period: Duration) -> Duration {
    period.mul_f64(1.0 - JITTER * fastrand::f64())
}
