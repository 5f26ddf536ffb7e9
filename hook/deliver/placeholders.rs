//! Places in a delivery for what is carried over into it.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use crate::container::FileName;
use crate::fault::{Class, Fault};

/// The most places of one delivery.
const PLACES_MAX: usize = 4096;

/// The longest path of a place, in bytes.
const PATH_BYTES_MAX: usize = 1024;

/// The empty files (`false`) and directories (`true`) of a delivery, each after its parent.
///
/// Every path leads from the root of the delivery downwards.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placeholders(BTreeMap<PathBuf, bool>);

impl Placeholders {
    /// Takes places that another process names.
    ///
    /// # Errors
    /// A path leads elsewhere, or lies in a file or in no place; or there are too many.
    pub fn received(places: impl IntoIterator<Item = (PathBuf, bool)>) -> Result<Placeholders, PlaceholdersError> {
        let mut placeholders = Placeholders::default();
        for (path, is_directory) in places {
            let is_downward = path.components().all(|part| matches!(part, Component::Normal(_)))
                && path.file_name().is_some()
                && path.as_os_str().len() <= PATH_BYTES_MAX;
            if !is_downward || placeholders.0.len() == PLACES_MAX {
                return Err(PlaceholdersError);
            }
            placeholders.0.insert(path, is_directory);
        }
        let in_directory = |path: &PathBuf| match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => placeholders.0.get(parent) == Some(&true),
            _ => true,
        };
        if placeholders.0.keys().all(in_directory) { Ok(placeholders) } else { Err(PlaceholdersError) }
    }

    /// Adds a place and the directories above it.
    pub(super) fn insert(&mut self, path: &Path, is_directory: bool) {
        let parents = path.ancestors().skip(1).filter(|parent| !parent.as_os_str().is_empty());
        self.0.extend(parents.map(|parent| (parent.to_owned(), true)));
        self.0.insert(path.to_owned(), is_directory);
    }

    /// All places, each after its parent.
    pub fn iter(&self) -> impl Iterator<Item = (&Path, bool)> {
        self.0.iter().map(|(path, is_directory)| (path.as_path(), *is_directory))
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the name is taken in the delivery.
    pub(super) fn has(&self, name: &FileName) -> bool {
        self.0.contains_key(Path::new(name.as_str()))
    }
}

/// Places that no container has.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the places for what is carried over are not paths below /run/secrets, or more than {PLACES_MAX}")]
pub struct PlaceholdersError;

impl Fault for PlaceholdersError {
    fn class(&self) -> Class {
        Class::Data
    }

    fn is_for_users(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(places: &[(&str, bool)]) -> Result<Placeholders, PlaceholdersError> {
        Placeholders::received(places.iter().map(|(path, is_directory)| (PathBuf::from(path), *is_directory)))
    }

    #[test]
    fn accepts_what_a_container_has() {
        let mut own = Placeholders::default();
        own.insert(Path::new("kubernetes.io/serviceaccount"), true);
        own.insert(Path::new("token"), false);
        let sent = own.iter().map(|(path, is_directory)| (path.to_owned(), is_directory)).collect::<Vec<_>>();
        assert_eq!(Placeholders::received(sent), Ok(own.clone()));
        assert!(own.has(&"token".parse().unwrap()) && own.has(&"kubernetes.io".parse().unwrap()));
        assert!(!own.has(&"serviceaccount".parse().unwrap()));
    }

    #[test]
    fn refuses_paths_that_lead_elsewhere() {
        let long = "x".repeat(PATH_BYTES_MAX + 1);
        for path in ["", "/", "/etc", "..", "../etc", "a/../../etc", "./a", long.as_str()] {
            assert_eq!(received(&[("a", true), (path, true)]), Err(PlaceholdersError), "{path}");
        }
        assert_eq!(received(&[("a/b", true)]), Err(PlaceholdersError));
        assert_eq!(received(&[("a", false), ("a/b", true)]), Err(PlaceholdersError));
        let many = (0..=PLACES_MAX).map(|number| (number.to_string().into(), true));
        assert_eq!(Placeholders::received(many), Err(PlaceholdersError));
    }
}
