//! A host's engine configuration, as it is or as it would be after a change, and the hook as engines call it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Change, EngineError};

/// Where the hook is installed.
pub const HOOK_PATH: &str = "/usr/libexec/oci/hooks.d/oci-secrets-hook";

/// How the wrapper's file is called.
pub(super) const WRAPPER_NAME: &str = "oci-secrets-runtime";

/// By what an engine calls the hook.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Calls {
    /// The files; none if it does not.
    pub by: Vec<PathBuf>,
    /// What an operator may not expect of it; if it does not call the hook: why not, where a file of ours says that it should.
    pub caution: Option<String>,
}

/// Where engines have their configuration.
#[derive(Clone, Debug, Default)]
pub struct Host {
    /// The directory that is used as `/`.
    pub root: PathBuf,
    /// The configuration directory of a user whose engines run without root: `$XDG_CONFIG_HOME`.
    pub user: Option<PathBuf>,
    /// The id of the caller on the host.
    pub uid: u32,
    /// The configuration directory of root, which podman from 5 reads, too.
    pub of_root: Option<PathBuf>,
    /// `CONTAINERS_CONF` of the environment: what podman reads in place of its files.
    pub containers_conf: Option<PathBuf>,
    /// `CONTAINERS_CONF_OVERRIDE` of the environment: what podman reads after all others.
    pub containers_conf_override: Option<PathBuf>,
    /// The major versions of programs, where they are not asked for them.
    pub versions: BTreeMap<&'static str, u32>,
    /// Files as they would be.
    pub(super) changed: BTreeMap<PathBuf, Option<String>>,
}

/// The hook as an engine shall call it.
#[derive(Clone, Debug)]
pub struct Hook {
    /// The program.
    pub path: PathBuf,
    /// The settings, if they are not in their usual place.
    pub settings: Option<PathBuf>,
}

impl Hook {
    /// The options of the wrapper for it.
    pub(super) fn wrapper_arguments(&self) -> Vec<String> {
        let usual = (self.path != Path::new(HOOK_PATH)).then_some(("--hook", &self.path));
        let options = usual.into_iter().chain(self.settings.as_ref().map(|settings| ("--settings", settings)));
        options.flat_map(|(option, path)| [option.to_owned(), path.display().to_string()]).collect()
    }
}

impl Host {
    /// A host below this directory, whose engines run as root.
    pub fn below(root: PathBuf) -> Host {
        Host { root, ..Host::default() }
    }

    /// The host as it would be after these changes.
    #[must_use]
    pub fn with(&self, changes: &[Change]) -> Host {
        let mut host = self.clone();
        host.changed.extend(changes.iter().map(|change| (change.path.clone(), change.content.clone())));
        host
    }

    /// The host as it would be without these files.
    #[must_use]
    pub(super) fn without(&self, paths: &[PathBuf]) -> Host {
        let mut host = self.clone();
        host.changed.extend(paths.iter().map(|path| (path.clone(), None)));
        host
    }

    /// An absolute path on this host.
    pub(super) fn path(&self, absolute: impl AsRef<Path>) -> PathBuf {
        let absolute = absolute.as_ref();
        match absolute.starts_with(&self.root) {
            true => absolute.to_owned(),
            false => self.root.join(absolute.strip_prefix("/").unwrap_or(absolute)),
        }
    }

    /// The text of a file, `None` if there is no such file.
    pub(super) fn read(&self, path: &Path) -> Result<Option<String>, EngineError> {
        if let Some(text) = self.changed.get(path) {
            return Ok(text.clone());
        }
        match std::fs::read_to_string(path) {
            Ok(text) => Ok(Some(text)),
            Err(missing) if missing.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(EngineError::Read { path: path.into(), errno: error.into() }),
        }
    }

    /// The files in a directory, sorted by name; none if there is no such directory.
    pub(super) fn files(&self, directory: &Path) -> Result<Vec<PathBuf>, EngineError> {
        let on_disk = entries(directory)?.into_iter().filter(|(_, is_directory)| !is_directory).map(|(path, _)| path);
        Ok(self.with_changed(on_disk, |path| path.parent() == Some(directory)).into_iter().collect())
    }

    /// Those whose names end like this.
    pub(super) fn files_in(&self, directory: &Path, extension: &str) -> Result<Vec<PathBuf>, EngineError> {
        let mut files = self.files(directory)?;
        files.retain(|path| path.extension().is_some_and(|found| found == extension));
        Ok(files)
    }

    /// The files below a directory, in the order of their paths, directory by directory.
    pub(super) fn files_below(&self, directory: &Path) -> Result<Vec<PathBuf>, EngineError> {
        let (mut pending, mut on_disk) = (vec![directory.to_owned()], Vec::new());
        while let Some(next) = pending.pop() {
            for (path, is_directory) in entries(&next)? {
                if is_directory { pending.push(path) } else { on_disk.push(path) }
            }
        }
        Ok(self.with_changed(on_disk.into_iter(), |path| path.starts_with(directory)).into_iter().collect())
    }

    /// The paths without those of files that would be removed, and with those of files that would be added.
    fn with_changed(
        &self,
        on_disk: impl Iterator<Item = PathBuf>,
        is_there: impl Fn(&Path) -> bool,
    ) -> BTreeSet<PathBuf> {
        let added = self.changed.iter().filter(|(path, text)| text.is_some() && is_there(path));
        let mut paths: BTreeSet<PathBuf> = on_disk.chain(added.map(|(path, _)| path.clone())).collect();
        paths.retain(|path| self.changed.get(path).is_none_or(Option::is_some));
        paths
    }

    /// The major version of a program on the PATH.
    pub(super) fn major(&self, program: &'static str) -> Option<u32> {
        match self.versions.get(program) {
            None if self.root == Path::new("/") => version(program)?.split('.').next()?.parse().ok(),
            known => known.copied(),
        }
    }
}

/// The entries of a directory, and whether each is a directory itself, and no link to one; none if it does not exist.
fn entries(directory: &Path) -> Result<Vec<(PathBuf, bool)>, EngineError> {
    let failed = |error: std::io::Error| EngineError::Read { path: directory.into(), errno: error.into() };
    let entries = match std::fs::read_dir(directory) {
        Err(missing) if missing.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let entry = |entry: std::io::Result<std::fs::DirEntry>| {
        let entry = entry?;
        Ok((entry.path(), entry.file_type()?.is_dir()))
    };
    entries.map(entry).collect::<std::io::Result<_>>().map_err(failed)
}

/// The version that a program on the PATH prints: the first word that begins with a digit.
pub fn version(program: &str) -> Option<String> {
    let output = Command::new(program).arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let is_version = |word: &&str| word.trim_start_matches('v').starts_with(|c: char| c.is_ascii_digit());
    let word = text.split_whitespace().find(is_version)?;
    Some(word.trim_start_matches('v').trim_end_matches(',').to_owned())
}

/// Whether a program's path is that of the wrapper, wherever it is.
pub(super) fn is_wrapper(program: &str) -> bool {
    Path::new(program).file_name().is_some_and(|name| name == WRAPPER_NAME)
}
