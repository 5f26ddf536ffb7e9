//! Updates of the running containers that follow changes.

use std::pin::pin;
use std::rc::Rc;

use futures_util::future::{Either, select};
use futures_util::stream::{StreamExt as _, iter};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::super::error::PROGRAM;
use super::super::loaded::Loaded;
use super::super::protocol::Selection;
use super::poll;
use super::registry::Live;
use super::running::Running;
use super::update::{self, Outcome, Sharing};
use crate::report;

/// How many containers are updated at the same time.
const UPDATES_MAX: usize = 8;

impl Live {
    /// Looks for changes once in each period, until there are other settings. The first time comes after a random part of a period, so that
    /// the hosts of a pool do not ask together.
    pub async fn update_periodically(&self, loaded: &Loaded<'_>, is_over: &Notify) {
        // What the broker before has left is there from the beginning, and so is what it did not remove.
        match self.begin_turn().await {
            Ok(_turn) => self.remove_revoked(loaded).await,
            Err(error) => report::warn(PROGRAM, &report::chain(&error)),
        }
        let period = loaded.settings.updates.period;
        let mut next = Instant::now() + period.mul_f64(fastrand::f64());
        loop {
            let pause = pin!(sleep_until(next));
            if let Either::Right(_) = select(pause, pin!(is_over.notified())).await {
                return;
            }
            // From the beginning of one look to that of the next. One that takes longer is not made up for.
            next = (next + period).max(Instant::now());
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
        let sharing = Sharing::begin(loaded);
        let update =
            async |running: Rc<Running>| match update::update(&running, &self.directory, loaded, &sharing).await {
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
