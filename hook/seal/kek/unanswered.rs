//! The KMSs that have not answered, for callers that would each wait for them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use tokio::time::Instant;

use super::kind::KekError;
use crate::fault::{Class, Fault as _};
use crate::retry::Deadline;

/// A KMS that has not answered for this part of a deadline is not asked again. One that fails at once costs little, and is.
const PART: u32 = 3;

/// The failures of KMSs that did not answer, by KEK. Clones share them.
#[derive(Clone, Default)]
pub struct Unanswered(Rc<RefCell<BTreeMap<String, KekError>>>);

impl Unanswered {
    /// Makes a call, unless an earlier one to the same KEK had no answer. Then it fails as that one did.
    pub(super) async fn ask<T>(
        &self,
        kek: &str,
        deadline: Deadline,
        call: impl Future<Output = Result<T, KekError>>,
    ) -> Result<T, KekError> {
        let earlier = self.0.borrow().get(kek).cloned();
        if let Some(error) = earlier {
            return Err(error);
        }
        let asked = Instant::now();
        let outcome = call.await;
        if let Err(error) = &outcome
            && error.class() == Class::Unavailable
            && asked.elapsed() >= deadline.total() / PART
        {
            self.0.borrow_mut().insert(kek.to_owned(), error.clone());
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::ready;
    use std::time::Duration;

    use tokio::time::sleep;

    use super::*;
    use crate::fault::Fault;

    #[derive(Debug, thiserror::Error)]
    #[error("no answer")]
    struct Failure(Class);

    impl Fault for Failure {
        fn class(&self) -> Class {
            self.0
        }
    }

    /// How many of three calls are made, if each takes so long and fails with this class.
    fn calls(class: Class, time: Duration) -> u32 {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let (unanswered, made) = (Unanswered::default(), Cell::new(0));
            for _ in 0..3 {
                let call = async {
                    made.set(made.get() + 1);
                    sleep(time).await;
                    Err::<(), _>(KekError::OfKind(Failure(class).into()))
                };
                let error =
                    unanswered.ask("local-kek:a", Deadline::after(Duration::from_secs(9)), call).await.unwrap_err();
                assert_eq!((error.to_string().as_str(), error.class()), ("no answer", class));
            }
            let call = ready(Ok(()));
            assert!(unanswered.ask("local-kek:b", Deadline::after(Duration::from_secs(9)), call).await.is_ok());
            made.get()
        })
    }

    #[test]
    fn a_kms_that_does_not_answer_is_asked_once() {
        assert_eq!(calls(Class::Unavailable, Duration::from_secs(3)), 1);
    }

    #[test]
    fn a_kms_that_answers_or_fails_at_once_is_asked_again() {
        assert_eq!(calls(Class::Unavailable, Duration::from_secs(1)), 3);
        assert_eq!(calls(Class::NotPermitted, Duration::from_secs(3)), 3);
    }
}
