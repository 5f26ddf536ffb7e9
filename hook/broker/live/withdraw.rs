//! What is removed from running containers: what an operator revokes, and all files of a container when their time is over.

use std::collections::BTreeMap;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::{Either, select};
use futures_util::stream::{StreamExt as _, iter};
use tokio::sync::Notify;
use tokio::time::sleep;

use super::super::error::PROGRAM;
use super::super::loaded::Loaded;
use super::super::protocol::{Answer, Order, RUNNING_MAX, Selection, Withdrawal, Withdrawn};
use super::super::revoked::{ListError, Revocation, Revocations, Revoked};
use super::registry::Live;
use super::remove::{self, Cause};
use super::revoke::{self, Identified, RevokeError};
use super::running::Running;
use super::summary::shortened;
use crate::audit::Event;
use crate::fault::AnyFault;
use crate::report;
use crate::settings::Settings;

/// What became of containers, by the ids of their starts.
type Withdrawals = BTreeMap<String, Withdrawal>;

/// How many containers lose files at the same time.
const REMOVALS_MAX: usize = 8;

/// How often it is looked for files whose time is over.
const WITHDRAW_PERIOD: Duration = Duration::from_secs(1);

impl Live {
    /// Removes all files of the containers whose time is over, until there are other settings.
    pub async fn withdraw_periodically(&self, loaded: &Loaded<'_>, is_over: &Notify) {
        loop {
            let pause = pin!(sleep(WITHDRAW_PERIOD));
            if let Either::Right(_) = select(pause, pin!(is_over.notified())).await {
                return;
            }
            let due = || self.select(&Selection::default()).into_iter().filter(|running| running.is_due());
            if due().next().is_none() {
                continue;
            }
            match self.share_turn().await {
                Ok(_turn) => _ = self.remove(due().collect(), Cause::Time, loaded).await,
                Err(error) => report::warn(PROGRAM, &report::chain(&error)),
            }
        }
    }

    /// Removes what is revoked from the containers that have it.
    pub(super) async fn remove_revoked(&self, loaded: &Loaded<'_>) {
        let removed = async {
            let revocations = self.remove_listed(loaded).await?;
            // The same fields by other names, if the source says only now which fields those are.
            if revoke::identify(&revocations, loaded).await? {
                self.remove_listed(loaded).await?;
            }
            Ok::<_, ListError>(())
        };
        removed.await.unwrap_or_else(|error| report::warn(PROGRAM, &report::chain(&error)));
    }

    async fn remove_listed(&self, loaded: &Loaded<'_>) -> Result<Revocations, ListError> {
        let revocations = Revocations::load(loaded.settings).await?;
        let running = self.select(&Selection::default());
        self.remove(running, Cause::Revoked(&revocations), loaded).await;
        Ok(revocations)
    }

    /// Returns what became of those that had something to remove, by the ids of their starts.
    async fn remove(&self, running: Vec<Rc<Running>>, cause: Cause<'_>, loaded: &Loaded<'_>) -> Withdrawals {
        let remove = async |running: Rc<Running>| {
            let outcome = remove::remove(&running, &self.directory, cause, loaded.settings).await;
            let (files, error) = match outcome {
                remove::Outcome::Nothing => return None,
                remove::Outcome::Removed(files) => (files, None),
                remove::Outcome::Failed(files, error) => (files, Some(shortened(error))),
            };
            let count = if error.is_some() { &self.removals[1] } else { &self.removals[0] };
            count.set(count.get() + 1);
            let state = running.state();
            Some((state.start.clone(), Withdrawal { container: state.container.clone(), files, error }))
        };
        let outcomes = iter(running).map(remove).buffer_unordered(REMOVALS_MAX);
        outcomes.filter_map(async |outcome| outcome).collect().await
    }

    /// Revokes a reference, or all files of a container: first for starts, then in the containers that run.
    ///
    /// # Errors
    /// The order is ambiguous, or it cannot be stored.
    pub async fn revoke(&self, order: Order, loaded: &Loaded<'_>) -> Result<Answer, AnyFault> {
        let mut revocation = revoke::begin(&order)?;
        let turn = match &revocation.revoked {
            Revoked::Reference(_) => None,
            Revoked::Container(prefix) => {
                let turn = self.share_turn().await?;
                revocation.revoked = Revoked::Container(self.one_container(prefix)?);
                Some(turn)
            }
        };
        revoke::add(&revocation, loaded.settings).await?;
        let reason = Some(revocation.reason.clone());
        let recorded =
            revoke::record(Event::Revoke, &revocation.revoked, reason, order.login_uid, loaded.settings).await;
        let _turn = match turn {
            Some(turn) => turn,
            None => self.share_turn().await?,
        };
        let running = self.select(&Selection::default());
        let containers = if let Revoked::Reference(reference) = revocation.revoked.clone() {
            let had = running.iter().filter_map(|one| Identified::of_container(&reference, &one.state())).collect();
            // Files go at once; only then is the source asked which field that is, and which version it has.
            let first = self.remove_these(running.clone(), &revocation, loaded).await;
            if let Some(identified) = Identified::find(&reference, had, loaded).await {
                identified.complete(&mut revocation);
                revoke::add(&revocation, loaded.settings).await?;
            }
            // The same field by other names.
            with_later(first, self.remove_these(running, &revocation, loaded).await)
        } else {
            self.remove_these(running, &revocation, loaded).await
        };
        let mut containers: Vec<Withdrawal> = containers.into_values().collect();
        containers.sort_by_key(|one| one.error.is_none());
        let (count, failed) = (containers.len(), containers.iter().filter(|one| one.error.is_some()).count());
        containers.truncate(RUNNING_MAX);
        let unrecorded = recorded.err().map(|error| report::chain(&error));
        Ok(Answer::Withdrawn(Box::new(Withdrawn { revocation, containers, count, failed, unrecorded })))
    }

    async fn remove_these(
        &self,
        running: Vec<Rc<Running>>,
        revocation: &Revocation,
        loaded: &Loaded<'_>,
    ) -> Withdrawals {
        let revocations = Revocations::of_one(revocation.clone());
        self.remove(running, Cause::Revoked(&revocations), loaded).await
    }

    /// The id of the one container that has an id with this beginning.
    fn one_container(&self, prefix: &str) -> Result<String, RevokeError> {
        let selection = Selection { container: Some(prefix.to_owned()), ..Selection::default() };
        let running = self.select(&selection);
        let mut ids: Vec<String> = running.iter().map(|running| running.state().container.clone()).collect();
        ids.sort_unstable();
        ids.dedup();
        let prefix = prefix.to_owned();
        match (ids.pop(), ids.len()) {
            (None, _) => Err(RevokeError::NoContainer { prefix }),
            (Some(id), 0) => Ok(id),
            (Some(_), others) => Err(RevokeError::Ambiguous { prefix, count: others + 1 }),
        }
    }

    /// Allows something again, and gives it to the running containers that follow changes.
    ///
    /// # Errors
    /// It is not revoked, or it cannot be recorded that it is no longer.
    pub async fn end_revocation(&self, order: Order, loaded: &Loaded<'_>) -> Result<Answer, AnyFault> {
        revoke::check(&order.revoked)?;
        let listed = Revocations::load(loaded.settings).await?;
        if !listed.iter().any(|one| revoke::matches(one, &order.revoked)) {
            return Err(RevokeError::NotRevoked { revoked: order.revoked }.into());
        }
        // Without a record nothing is allowed.
        revoke::record(Event::RevokeEnd, &order.revoked, order.reason, order.login_uid, loaded.settings).await?;
        let revocations = revoke::take(&order.revoked, loaded.settings).await?;
        let _turn = self.begin_turn().await?;
        let mut running = self.select(&Selection::default());
        for one in running.iter().filter(|one| !one.state().is_live()) {
            // A file that could not be removed may stay now.
            one.change(|state| state.error = None);
        }
        running.retain(|one| one.state().is_live() && !one.state().removed.is_empty());
        self.update(running, loaded).await;
        Ok(Answer::Revocations { count: revocations.len(), revocations: first(revocations) })
    }
}

/// What became of each container after a second removal: another file of it may have gone, and one that could not be removed is tried again.
fn with_later(mut first: Withdrawals, later: Withdrawals) -> Withdrawals {
    for (start, mut one) in later {
        let before = first.get(&start).filter(|before| before.error.is_none() && one.error.is_none());
        one.files += before.map_or(0, |before| before.files);
        first.insert(start, one);
    }
    first
}

/// What is revoked, as an answer.
///
/// # Errors
/// The list cannot be read.
pub async fn revocations(settings: &Settings) -> Result<Answer, AnyFault> {
    let all: Vec<_> = Revocations::load(settings).await?.iter().cloned().collect();
    Ok(Answer::Revocations { count: all.len(), revocations: first(all) })
}

/// As many as an answer has room for.
fn first(mut revocations: Vec<Revocation>) -> Vec<Revocation> {
    revocations.truncate(RUNNING_MAX);
    revocations
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_that_keeps_a_file_by_another_name_is_not_reported_as_done() {
        let of = |files, error: Option<&str>| {
            let one = Withdrawal { container: "c1".into(), files, error: error.map(str::to_owned) };
            Withdrawals::from([("s1".to_owned(), one)])
        };
        let merged = |first, later| {
            let one = with_later(first, later).remove("s1").unwrap();
            (one.files, one.error)
        };
        assert_eq!(merged(of(1, None), of(2, None)), (3, None));
        assert_eq!(merged(of(1, None), of(2, Some("busy"))), (2, Some("busy".into())));
        assert_eq!(merged(of(1, Some("busy")), of(2, None)), (2, None));
        assert_eq!(merged(of(1, None), Withdrawals::new()), (1, None));
    }
}
