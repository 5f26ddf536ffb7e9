//! A host's engine configuration, and the hook as engines call it.

use std::path::{Path, PathBuf};

use super::EngineError;

/// Where the hook is installed.
pub const HOOK_PATH: &str = "/usr/libexec/oci/hooks.d/oci-secrets-hook";

/// How the wrapper's file is called.
pub(super) const WRAPPER_NAME: &str = "oci-secrets-runtime";

/// By what an engine calls the hook.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Calls {
    /// The files; none if it does not.
    pub by: Vec<PathBuf>,
    /// What an operator may not expect of it.
    pub caution: Option<String>,
}

/// Where engines have their configuration.
#[derive(Clone, Debug)]
pub struct Host {
    /// The directory that is used as `/`.
    pub root: PathBuf,
    /// The configuration directory of a user whose engines run without root: `$XDG_CONFIG_HOME`.
    pub user: Option<PathBuf>,
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
    /// An absolute path on this host.
    pub(super) fn path(&self, absolute: &str) -> PathBuf {
        self.root.join(absolute.trim_start_matches('/'))
    }
}

/// Whether a program's path is that of the wrapper, wherever it is.
pub(super) fn is_wrapper(program: &str) -> bool {
    Path::new(program).file_name().is_some_and(|name| name == WRAPPER_NAME)
}

/// The files in a directory whose names end like this, sorted by name; none if there is no such directory.
pub(super) fn files_in(directory: &Path, extension: &str) -> Result<Vec<PathBuf>, EngineError> {
    let error = |error: std::io::Error| EngineError::Read { path: directory.into(), errno: error.into() };
    let entries = match std::fs::read_dir(directory) {
        Err(missing) if missing.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(error)?,
    };
    let paths: Result<Vec<PathBuf>, _> = entries.map(|entry| entry.map(|entry| entry.path())).collect();
    let mut paths = paths.map_err(error)?;
    paths.retain(|path| path.extension().is_some_and(|found| found == extension));
    paths.sort_unstable();
    Ok(paths)
}

/// The text of a file, `None` if there is no such file.
pub(super) fn read(path: &Path) -> Result<Option<String>, EngineError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(missing) if missing.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(EngineError::Read { path: path.into(), errno: error.into() }),
    }
}
