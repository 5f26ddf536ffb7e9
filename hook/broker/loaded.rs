//! What serves starts, made from the settings and the files that they name.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use super::identity::{Identities, Identity};
use super::source::{Fetches, Payer, Sample, Shared, Snapshot};
use super::users::Users;
use crate::container::{Annotations, Pod};
use crate::fault::{Class, Fault};
use crate::nri;
use crate::retry::Deadline;
use crate::seal::kek::Keks;
use crate::settings::{Caller, Settings};
use crate::source::SourceError;

/// The source of all starts, whatever version of the settings they have. It is opened by the first start that needs it.
#[derive(Default)]
pub struct SourceCell(RefCell<Option<Shared>>);

impl SourceCell {
    /// The source for one start, whose id goes with the requests that it causes.
    ///
    /// # Errors
    /// It cannot be opened; the next start tries again.
    pub fn for_start(&self, settings: &Settings, start: &str) -> Result<Shared, SourceError> {
        self.with(settings, |source| source.for_start(start))
    }

    /// The source for an update of a running container: nothing will do that was fetched before these fetches began.
    ///
    /// # Errors
    /// As for [`SourceCell::for_start`].
    pub fn for_update(&self, settings: &Settings, start: &str, fetches: &Arc<Fetches>) -> Result<Shared, SourceError> {
        self.with(settings, |source| source.for_update(start, fetches))
    }

    /// The source for what no start needs.
    ///
    /// # Errors
    /// As for [`SourceCell::for_start`].
    pub fn shared(&self, settings: &Settings) -> Result<Shared, SourceError> {
        self.with(settings, Shared::clone)
    }

    fn with(&self, settings: &Settings, of: impl Fn(&Shared) -> Shared) -> Result<Shared, SourceError> {
        let mut source = self.0.borrow_mut();
        match &*source {
            Some(source) => Ok(of(source)),
            None => Ok(of(source.insert(Shared::open(settings)?))),
        }
    }

    /// Uses other settings from now on. A source that they make unusable is opened again by the next start, which then reports why.
    pub fn reload(&self, settings: &Settings) {
        let mut source = self.0.borrow_mut();
        if source.as_ref().is_some_and(|source| source.reload(settings).is_err()) {
            *source = None;
        }
    }

    /// Forgets all values, if it is open.
    pub fn forget(&self) {
        if let Some(source) = &*self.0.borrow() {
            source.forget();
        }
    }

    /// Its metrics, if it is open.
    pub fn metrics(&self) -> Vec<Sample> {
        self.0.borrow().as_ref().map(Shared::metrics).unwrap_or_default()
    }

    /// Its state, if it is open.
    pub fn snapshot(&self) -> Option<Snapshot> {
        self.0.borrow().as_ref().map(Shared::snapshot)
    }
}

/// One version of the settings, with what outlives a start: clients of KMSs, with their connections and access tokens.
pub struct Loaded<'s> {
    /// The settings.
    pub settings: &'s Settings,
    /// The users that grants name.
    pub users: Users,
    /// The source.
    pub source: Rc<SourceCell>,
    /// The pods of the host.
    pub identities: Identities<'s>,
    keks: RefCell<Keks<'s>>,
}

impl<'s> Loaded<'s> {
    /// Knows the settings; what they name is opened by the first start that needs it.
    pub fn new(settings: &'s Settings, source: Rc<SourceCell>, nri: Option<Arc<nri::State>>) -> Loaded<'s> {
        let users = Users::of(&settings.grants);
        let identities = Identities::new(nri, settings);
        Loaded { settings, users, source, identities, keks: RefCell::new(Keks::new(settings)) }
    }

    /// The user whose share the requests of a start count for; `None` if it is root's.
    pub fn payer(&self, uid: u32) -> Option<Payer> {
        (uid != 0).then(|| Payer { uid, parts: self.users.count() + 1 })
    }

    /// What is known of the pod of a container that this user has started.
    pub async fn identity(&self, uid: u32, container: &str, annotations: &Annotations, deadline: Deadline) -> Identity {
        match uid {
            0 => self.identities.of(container, annotations, self.settings, deadline).await,
            // Any other user could name the container of a pod as its own.
            _ => Identity::default(),
        }
    }

    /// The same, as far as it is known without a question to the API server.
    pub fn known_identity(&self, uid: u32, container: &str) -> Identity {
        if uid == 0 { self.identities.known(container) } else { Identity::default() }
    }

    /// Who asks, for grants.
    pub fn caller<'c>(&'c self, uid: u32, pod: Option<&'c Pod>) -> Caller<'c> {
        match (uid, pod) {
            (0, Some(pod)) => Caller::Pod(pod),
            (0, None) => Caller::Root,
            _ => Caller::User { uid, names: self.users.names(uid) },
        }
    }

    /// The KEKs for one start, with the clients of all.
    pub fn keks(&self) -> Keks<'s> {
        self.keks.borrow().for_another_start()
    }

    /// Makes new clients for the next starts, after a failure that a connection, a token or a child process may be the reason of.
    /// Returns whether it has.
    pub fn failed(&self, error: &dyn Fault) -> bool {
        let may_help = !matches!(error.class(), Class::NotFound | Class::Data);
        if may_help {
            *self.keks.borrow_mut() = Keks::new(self.settings);
        }
        may_help
    }
}
