//! What serves starts, made from the settings and the files that they name.

use std::cell::RefCell;
use std::rc::Rc;

use super::source;
use super::users::Users;
use crate::fault::{Class, Fault};
use crate::seal::kek::Keks;
use crate::settings::Settings;
use crate::source::{Source, SourceError};

/// One version of the settings, with all that outlives a start: connections, access tokens, sealed values.
pub struct Loaded<'s> {
    /// The settings.
    pub settings: &'s Settings,
    /// The users that grants name.
    pub users: Users,
    source: RefCell<Option<Rc<dyn Source>>>,
    keks: RefCell<Keks<'s>>,
}

impl<'s> Loaded<'s> {
    /// Knows the settings; what they name is opened by the first start that needs it.
    pub fn new(settings: &'s Settings) -> Loaded<'s> {
        let users = Users::of(&settings.grants);
        Loaded { settings, users, source: RefCell::default(), keks: RefCell::new(Keks::new(settings)) }
    }

    /// The source of all starts.
    ///
    /// # Errors
    /// It cannot be opened; the next start tries again.
    pub fn source(&self) -> Result<Rc<dyn Source>, SourceError> {
        let mut source = self.source.borrow_mut();
        match &*source {
            Some(source) => Ok(Rc::clone(source)),
            None => Ok(Rc::clone(source.insert(source::open(self.settings)?.into()))),
        }
    }

    /// The KEKs for one start, with the clients of all.
    pub fn keks(&self) -> Keks<'s> {
        self.keks.borrow().for_another_start()
    }

    /// Makes new clients for the next starts, after a failure that a connection, a token or a child process may be the reason of.
    pub fn failed(&self, error: &dyn Fault) {
        if !matches!(error.class(), Class::NotFound | Class::Data) {
            *self.keks.borrow_mut() = Keks::new(self.settings);
        }
    }
}
