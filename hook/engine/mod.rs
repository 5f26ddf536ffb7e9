//! Container engines: what makes each of them call the hook, and whether it will. One file for each.

mod bundle;
mod cdi;
mod containerd;
mod crio;
mod docker;
mod file;
mod hooks_d;
pub mod inspect;
mod podman;
#[cfg(test)]
mod testing;

use std::path::{Path, PathBuf};

pub use self::bundle::{BundleError, add_hook, has_hook};
pub use self::file::{File, InstallError, Written};
use crate::errno::Errno;
use crate::excerpt::Excerpt;
use crate::fault::{Class, Fault};
use crate::settings::FileError;

/// Where the hook is installed.
pub const HOOK_PATH: &str = "/usr/libexec/oci/hooks.d/oci-secrets-hook";

/// How the wrapper's file is called.
const WRAPPER_NAME: &str = "oci-secrets-runtime";

/// Who starts containers, and calls the hook if it is told to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// Podman, by a file in hooks.d.
    Podman,
    /// CRI-O, by the same.
    Crio,
    /// containerd, by the spec that its pods begin with.
    Containerd,
    /// Docker, by the wrapper around its runtime.
    Docker,
    /// Any engine that knows the Container Device Interface, by a device.
    Cdi,
}

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
    /// What stands in the place of `/`.
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

impl Engine {
    /// All of them.
    pub const ALL: [Engine; 5] = [Engine::Podman, Engine::Crio, Engine::Containerd, Engine::Docker, Engine::Cdi];

    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Engine::Podman => "podman",
            Engine::Crio => "crio",
            Engine::Containerd => "containerd",
            Engine::Docker => "docker",
            Engine::Cdi => "cdi",
        }
    }

    /// The files that make it call the hook.
    ///
    /// # Errors
    /// When a file that would be changed cannot be understood, or says otherwise.
    pub fn files(self, host: &Host, hook: &Hook) -> Result<Vec<File>, EngineError> {
        match self {
            Engine::Podman => Ok(podman::files(host, hook)),
            Engine::Crio => Ok(crio::files(host, hook)),
            Engine::Containerd => containerd::files(host, hook),
            Engine::Docker => docker::files(host, hook),
            Engine::Cdi => Ok(cdi::files(host, hook)),
        }
    }

    /// By what it will call the hook, if it will.
    ///
    /// # Errors
    /// When a file that should make it call the hook cannot do so.
    pub fn calls(self, host: &Host) -> Result<Calls, EngineError> {
        match self {
            Engine::Podman => podman::calls(host),
            Engine::Crio => crio::calls(host),
            Engine::Containerd => containerd::calls(host),
            Engine::Docker => docker::calls(host),
            Engine::Cdi => cdi::calls(host),
        }
    }
}

impl Hook {
    /// What the wrapper has to be told of it.
    fn wrapper_arguments(&self) -> Vec<String> {
        let usual = (self.path != Path::new(HOOK_PATH)).then_some(("--hook", &self.path));
        let told = usual.into_iter().chain(self.settings.as_ref().map(|settings| ("--settings", settings)));
        told.flat_map(|(option, path)| [option.to_owned(), path.display().to_string()]).collect()
    }
}

impl Host {
    /// An absolute path on this host.
    fn path(&self, absolute: &str) -> PathBuf {
        self.root.join(absolute.trim_start_matches('/'))
    }
}

/// Whether a program's path is that of the wrapper, wherever it is.
fn is_wrapper(program: &str) -> bool {
    Path::new(program).file_name().is_some_and(|name| name == WRAPPER_NAME)
}

/// The files in a directory whose names end like this, sorted by name; none if there is no such directory.
fn files_in(directory: &Path, extension: &str) -> Result<Vec<PathBuf>, EngineError> {
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
fn read(path: &Path) -> Result<Option<String>, EngineError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(missing) if missing.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(EngineError::Read { path: path.into(), errno: error.into() }),
    }
}

/// Why an engine that should call the hook will not.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are named for what they hold")]
pub enum EngineError {
    /// A file or directory of its configuration.
    #[error("cannot read {}", .path.display())]
    Read {
        path: PathBuf,
        #[source]
        errno: Errno,
    },
    /// A file of its configuration is not in the format that it should be in.
    #[error("cannot use {}: {reason}", .path.display())]
    Format { path: PathBuf, reason: String },
    /// A file of its configuration names a hook that does not run.
    #[error("{} names a hook that cannot be called", .path.display())]
    Hook { path: PathBuf, source: FileError },
    /// A file of its configuration names the hook at a time that is too early or too late.
    #[error("{} calls the hook at {found}, not at createRuntime alone", .path.display())]
    Stage { path: PathBuf, found: String },
    /// A file of its configuration says otherwise than what would be written.
    #[error("refusing to change {}: its {key} says otherwise", .path.display())]
    Taken { path: PathBuf, key: String },
    /// containerd does not tell its own spec, of which the base spec is made.
    #[error("cannot make a base spec of what `ctr oci spec` prints: {reason}")]
    NoBaseSpec { reason: String },
    /// It does not describe a container.
    #[error("cannot learn of the container from {program}: {}", Excerpt(reason))]
    NotDescribed { program: &'static str, reason: String },
    /// The annotations that ask for secrets do not reach the containers.
    #[error("{} calls the hook, but pod_annotations of the runtime {handler} do not let run.secrets/*, *.run.secrets/* and run.secrets.* through", .path.display())]
    Annotations { path: PathBuf, handler: String },
    /// A file of its configuration calls the hook for others than the containers that need it.
    #[error("{} does not call the hook for every container with an annotation run.secrets/…", .path.display())]
    When { path: PathBuf },
}

impl Fault for EngineError {
    fn class(&self) -> Class {
        match self {
            EngineError::Hook { source, .. } => source.class(),
            EngineError::NotDescribed { .. } => Class::NotFound,
            _ => Class::Settings,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            EngineError::Hook { source, .. } => {
                return source.hint().or_else(|| {
                    Some(
                        "install the hook where the file says, or change the file: `oci-secrets install --hook PATH`"
                            .into(),
                    )
                });
            }
            EngineError::Stage { .. } | EngineError::When { .. } | EngineError::Annotations { .. } => {
                "`oci-secrets install` shows the file as it should be"
            }
            EngineError::Taken { .. } => "merge it by hand, as packaging/docs/engines.md describes",
            EngineError::NoBaseSpec { .. } => "ctr comes with containerd, and must be on the PATH",
            EngineError::NotDescribed { program: "ctr", .. } => {
                "`ctr containers ls` shows them; CONTAINERD_NAMESPACE=k8s.io is where those of Kubernetes are"
            }
            _ => return None,
        };
        Some(hint.to_owned())
    }
}
