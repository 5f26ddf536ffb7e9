//! The service accounts of pods, which the API server of Kubernetes knows and a runtime does not.
//!
//! One request for each pod: its uid and its service account never change, so that an answer is kept. It needs the right to get pods,
//! and no other.

mod answer;
mod api_server;
mod error;

use std::cell::RefCell;
use std::collections::VecDeque;

use self::api_server::ApiServer;
use crate::container::Pod;
use crate::retry::Deadline;
use crate::settings;

pub use self::api_server::VARIABLES;
pub use self::error::KubernetesError;

/// The most service accounts that are kept. A node has some hundreds of pods.
const KEPT_MAX: usize = 1024;

/// The service accounts of pods.
pub struct ServiceAccounts<'s> {
    settings: &'s settings::Kubernetes,
    /// Uids and service accounts, the newest last.
    kept: RefCell<VecDeque<(String, String)>>,
}

impl<'s> ServiceAccounts<'s> {
    /// Knows none. Nothing is sent or read yet.
    pub fn new(settings: &'s settings::Kubernetes) -> ServiceAccounts<'s> {
        ServiceAccounts { settings, kept: RefCell::default() }
    }

    /// The service account of a pod.
    ///
    /// # Errors
    /// The API server does not answer or refuses, or it has another pod of this name.
    pub async fn of(&self, pod: &Pod, deadline: Deadline) -> Result<String, KubernetesError> {
        if let Some(account) = self.kept(&pod.uid) {
            return Ok(account);
        }
        let answer = ApiServer::open(self.settings)?.pod(pod, deadline).await?;
        let account = answer.service_account_of(pod)?;
        self.keep(&pod.uid, &account);
        Ok(account)
    }

    /// The service account of a pod with this uid, if it was asked for before.
    pub fn kept(&self, uid: &str) -> Option<String> {
        self.kept.borrow().iter().find(|(kept, _)| kept == uid).map(|(_, account)| account.clone())
    }

    fn keep(&self, uid: &str, account: &str) {
        let mut kept = self.kept.borrow_mut();
        if kept.len() == KEPT_MAX {
            kept.pop_front();
        }
        kept.push_back((uid.to_owned(), account.to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_bounded() {
        let settings = settings::Kubernetes::default();
        let accounts = ServiceAccounts::new(&settings);
        for uid in 0..=KEPT_MAX {
            accounts.keep(&uid.to_string(), "billing");
        }
        assert_eq!((accounts.kept("0"), accounts.kept("1")), (None, Some("billing".to_owned())));
        assert_eq!(accounts.kept.borrow().len(), KEPT_MAX);
    }
}
