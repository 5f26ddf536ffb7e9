//! What the operator has revoked: references, and containers. Starts and updates get nothing of it.
//!
//! The list is a file of root, so that it survives a restart and a reboot. It is read for each start. A list that others could have
//! written, or that cannot be read, refuses all starts.

mod revocation;

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rustix::fs::{FlockOperation, flock};

use super::blocking::blocking;
use crate::errno::Errno;
use crate::excerpt::Excerpt;
use crate::fault::{Class, Fault};
use crate::settings::Settings;
use crate::settings::file::{self, FileError, Kind};
use crate::whole_file::{self, Existing};

pub use self::revocation::{Revocation, Revoked, Value};

/// The largest list.
const LIST_BYTES_MAX: usize = 4 << 20;

/// The most revocations, so that no list becomes too large.
const REVOCATIONS_MAX: usize = 1000;

/// All revocations.
#[derive(Debug, Default)]
pub struct Revocations(Vec<Revocation>);

impl Revocations {
    /// Reads the list. There is none before the first revocation.
    ///
    /// # Errors
    /// Others could have written it, or it is no list.
    pub fn read(path: &Path) -> Result<Revocations, ListError> {
        match file::read(path, Kind::Plain, LIST_BYTES_MAX) {
            Err(error) if error.is_missing() => Ok(Revocations::default()),
            Err(source) => Err(ListError::File { source }),
            Ok(text) => match serde_json::from_slice(&text) {
                Ok(list) => Ok(Revocations(list)),
                Err(_) => Err(ListError::Form { path: path.to_owned() }),
            },
        }
    }

    /// The same on another thread.
    ///
    /// # Errors
    /// As for [`Revocations::read`].
    pub async fn load(settings: &Settings) -> Result<Revocations, ListError> {
        let path = settings.updates.revoked.to_path_buf();
        blocking(move || Revocations::read(&path)).await
    }

    /// A list of one.
    pub fn of_one(revocation: Revocation) -> Revocations {
        Revocations(vec![revocation])
    }

    /// Changes the list, while no other broker does.
    ///
    /// # Errors
    /// It cannot be read or written, or becomes too long.
    pub fn change<T>(path: &Path, change: impl FnOnce(&mut Vec<Revocation>) -> T) -> Result<T, ListError> {
        let failed = |error: io::Error| ListError::Write { path: path.to_owned(), errno: error.into() };
        let directory = whole_file::directory(path);
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
        let lock = File::open(directory).map_err(failed)?;
        flock(&lock, FlockOperation::LockExclusive).map_err(|errno| failed(errno.into()))?;
        let Revocations(mut list) = Revocations::read(path)?;
        let outcome = change(&mut list);
        if list.len() > REVOCATIONS_MAX {
            return Err(ListError::TooMany);
        }
        let text = serde_json::to_vec_pretty(&list).map_err(|error| failed(error.into()))?;
        whole_file::write(path, &text, Existing::Replace, |_| Ok(())).map_err(failed)?;
        Ok(outcome)
    }

    /// Each of them.
    pub fn iter(&self) -> std::slice::Iter<'_, Revocation> {
        self.0.iter()
    }

    /// The first that withdraws this value.
    pub fn of(&self, value: Value<'_>) -> Option<&Revocation> {
        self.iter().find(|revocation| revocation.covers(value))
    }

    /// Whether one of these references is revoked, as it is spelled.
    pub fn name_any<'a>(&self, mut references: impl Iterator<Item = &'a str>) -> bool {
        references.any(|reference| self.iter().any(|revocation| revocation.names(reference)))
    }

    /// Refuses a container that is revoked.
    ///
    /// # Errors
    /// It is.
    pub fn check_container(&self, id: &str) -> Result<(), RevokedError> {
        self.iter().find(|revocation| revocation.is_of_container(id)).map_or(Ok(()), |found| Err(found.into()))
    }

    /// Refuses a value that is revoked.
    ///
    /// # Errors
    /// It is.
    pub fn check(&self, value: Value<'_>) -> Result<(), RevokedError> {
        let refused = |found| RevokedError { reference: Some(value.reference.to_owned()), ..RevokedError::from(found) };
        self.of(value).map_or(Ok(()), |found| Err(refused(found)))
    }
}

/// A start that is refused because what it requests is revoked.
#[derive(Debug, thiserror::Error)]
#[error("refusing to deliver {}: it was revoked at {since:.0}: {}", self.what(), Excerpt(.reason))]
pub struct RevokedError {
    revoked: Revoked,
    /// How the container spells it.
    reference: Option<String>,
    since: Timestamp,
    reason: String,
    version: Option<u64>,
}

impl RevokedError {
    fn what(&self) -> String {
        match (&self.reference, &self.revoked) {
            (Some(reference), _) | (None, Revoked::Reference(reference)) => reference.clone(),
            (None, container) => format!("to {container}"),
        }
    }
}

impl From<&Revocation> for RevokedError {
    fn from(Revocation { revoked, since, reason, version, .. }: &Revocation) -> RevokedError {
        let (revoked, reason) = (revoked.clone(), reason.clone());
        RevokedError { revoked, reference: None, since: *since, reason, version: *version }
    }
}

impl Fault for RevokedError {
    fn class(&self) -> Class {
        Class::NotPermitted
    }

    fn hint(&self) -> Option<String> {
        let end = match &self.revoked {
            Revoked::Reference(reference) => format!("`oci-secrets revoke --end {reference}` allows it again"),
            Revoked::Container(id) => format!("`oci-secrets revoke --end --container {id}` allows it again"),
        };
        let change = |version| format!("a version of the item after {version} is delivered: change it in 1Password; ");
        Some(format!("{}{end}", self.version.map(change).unwrap_or_default()))
    }
}

/// Why the list cannot be used.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are named for what they hold")]
pub enum ListError {
    /// It cannot be read, or others could have written it.
    #[error("cannot read what is revoked")]
    File { source: FileError },
    /// It is something else.
    #[error("cannot read what is revoked: {} is not a list of revocations", path.display())]
    Form { path: PathBuf },
    /// It cannot be written.
    #[error("cannot write what is revoked to {}", path.display())]
    Write {
        path: PathBuf,
        #[source]
        errno: Errno,
    },
    /// There are more than an operator keeps track of.
    #[error("cannot revoke more than {REVOCATIONS_MAX} references and containers")]
    TooMany,
}

impl Fault for ListError {
    fn class(&self) -> Class {
        match self {
            ListError::File { source } => source.class(),
            ListError::Form { .. } => Class::Settings,
            ListError::Write { .. } => Class::Kernel,
            ListError::TooMany => Class::Data,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            ListError::File { source } => source.hint(),
            ListError::Form { .. } => {
                Some("restore it from a backup: without it, what was revoked is delivered".into())
            }
            ListError::TooMany => Some("`oci-secrets revoke --end` removes those whose items have new versions".into()),
            ListError::Write { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::revocation::tests::revocation;
    use super::*;

    #[test]
    fn an_error_says_what_is_revoked_as_the_container_spells_it() {
        let text = |error: &RevokedError| error.to_string().split(": it was").next().unwrap().to_owned();
        let of_reference = revocation(Some(3));
        assert_eq!(text(&RevokedError::from(&of_reference)), "refusing to deliver op://v/db/password");
        let value = Value {
            reference: "op://v/i/password",
            item: Some("i"),
            field: Some("f"),
            version: Some(3),
            is_of_source: true,
        };
        let refused = Revocations::of_one(of_reference).check(value).unwrap_err();
        assert_eq!(text(&refused), "refusing to deliver op://v/i/password");
        let of_container = Revocation { revoked: Revoked::Container("c1".into()), ..revocation(None) };
        let refused = Revocations::of_one(of_container).check_container("c1").unwrap_err();
        assert_eq!(text(&refused), "refusing to deliver to container c1");
    }

    #[test]
    fn a_list_that_others_could_have_written_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("deep/revoked.json");
        assert_eq!(Revocations::read(&path).unwrap().iter().count(), 0);
        Revocations::change(&path, |list| list.push(revocation(None))).unwrap();
        assert_eq!(Revocations::read(&path).unwrap().0, [revocation(None)]);
        let mode = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        mode(0o622);
        assert!(matches!(Revocations::read(&path), Err(ListError::File { .. })));
        mode(0o600);
        std::fs::write(&path, "[{}]").unwrap();
        assert!(matches!(Revocations::read(&path), Err(ListError::Form { .. })));
        assert!(matches!(Revocations::change(&path, |_| ()), Err(ListError::Form { .. })));
    }

    #[test]
    fn a_list_that_is_too_long_is_not_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("revoked.json");
        let many = |count| vec![revocation(None); count];
        Revocations::change(&path, |list| *list = many(REVOCATIONS_MAX)).unwrap();
        assert!(matches!(Revocations::change(&path, |list| list.push(revocation(None))), Err(ListError::TooMany)));
        assert_eq!(Revocations::read(&path).unwrap().iter().count(), REVOCATIONS_MAX);
    }
}
