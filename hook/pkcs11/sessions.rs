//! Sessions with the tokens of a module: one for each call that is under way, as a session serves one call at a time.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use cryptoki::context::Pkcs11;
use cryptoki::error::{Error, RvError};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::AuthPin;

use super::Pkcs11Error;
use super::call::map_error;

/// The sessions of a module, logged in.
pub(super) struct Sessions {
    module: Pkcs11,
    pin: Option<AuthPin>,
    /// By slot.
    open: Mutex<BTreeMap<u64, Open>>,
    /// A call has ended.
    ended: Condvar,
}

/// The sessions with one token.
#[derive(Default)]
struct Open {
    idle: Vec<Session>,
    under_way: usize,
    /// All sessions are logged in with the first. A token that refused the PIN is not asked again: it counts.
    login: Option<Result<(), Pkcs11Error>>,
}

impl Sessions {
    pub(super) fn new(module: Pkcs11, pin: Option<AuthPin>) -> Sessions {
        Sessions { module, pin, open: Mutex::default(), ended: Condvar::new() }
    }

    /// Makes a call in a session that no other call has. Where the token has no more of them, it waits for one.
    pub(super) fn call<T>(
        &self,
        slot: Slot,
        call: impl FnOnce(&Session) -> Result<T, Pkcs11Error>,
    ) -> Result<T, Pkcs11Error> {
        let session = self.take(slot)?;
        let outcome = call(&session);
        let is_usable = !matches!(outcome, Err(Pkcs11Error::Gone { .. }));
        self.end(slot, is_usable.then_some(session));
        outcome
    }

    fn take(&self, slot: Slot) -> Result<Session, Pkcs11Error> {
        let mut all = self.lock();
        loop {
            let open = all.entry(slot.id()).or_default();
            if let Some(Err(trouble)) = &open.login {
                return Err(trouble.clone());
            }
            let session = match open.idle.pop().map_or_else(|| self.module.open_ro_session(slot), Ok) {
                Ok(session) => session,
                Err(Error::Pkcs11(RvError::SessionCount, _)) if open.under_way > 0 => {
                    all = self.ended.wait(all).unwrap_or_else(PoisonError::into_inner);
                    continue;
                }
                Err(error) => return Err(map_error(error)),
            };
            open.login.get_or_insert_with(|| self.log_in(slot, &session)).clone()?;
            open.under_way += 1;
            return Ok(session);
        }
    }

    fn end(&self, slot: Slot, session: Option<Session>) {
        let mut all = self.lock();
        let open = all.entry(slot.id()).or_default();
        open.under_way -= 1;
        open.idle.extend(session);
        if open.under_way == 0 && open.idle.is_empty() {
            // With its last session, the login ends.
            open.login = None;
        }
        self.ended.notify_one();
    }

    /// Logs in, unless a wrong PIN could be the last: every container that starts would try it.
    fn log_in(&self, slot: Slot, session: &Session) -> Result<(), Pkcs11Error> {
        let Some(pin) = &self.pin else { return Ok(()) };
        let info = self.module.get_token_info(slot).map_err(map_error)?;
        if info.user_pin_locked() {
            return Err(Pkcs11Error::PinLocked);
        }
        if info.user_pin_final_try() {
            return Err(Pkcs11Error::LastTry);
        }
        match session.login(UserType::User, Some(pin)) {
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Ok(()),
            Err(Error::Pkcs11(RvError::PinIncorrect | RvError::PinInvalid | RvError::PinLenRange, _)) => {
                Err(Pkcs11Error::Pin)
            }
            Err(Error::Pkcs11(RvError::PinLocked, _)) => Err(Pkcs11Error::PinLocked),
            Err(error) => Err(map_error(error)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
