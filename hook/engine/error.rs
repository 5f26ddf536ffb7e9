//! Why an engine that should call the hook will not.

use std::path::PathBuf;

use crate::container::HOOK_NAME;
use crate::errno::Errno;
use crate::excerpt::Excerpt;
use crate::fault::{Class, Fault};
use crate::settings::FileError;

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
    /// A file of its configuration names a wrapper that does not run.
    #[error("{} names a runtime that cannot be called", .path.display())]
    Wrapper { path: PathBuf, source: FileError },
    /// A file of its configuration names the hook at a time that is too early or too late.
    #[error("{} calls the hook at {found}, not at createRuntime alone", .path.display())]
    Stage { path: PathBuf, found: String },
    /// A file of its configuration says otherwise than what would be written.
    #[error("refusing to change {}: its {key} says otherwise", .path.display())]
    Taken { path: PathBuf, key: String, remedy: &'static str },
    /// A hook of another name, which engines would call without `check` and the hook itself noticing.
    #[error("refusing to make an engine call {}: expected a program with the name {HOOK_NAME}", .path.display())]
    Name { path: PathBuf },
    /// No drop-in file would add our directory of hook files to those that are in effect.
    #[error("refusing to write files without an effect: {by} decides which hook directories are read, and does not name {}", .directory.display())]
    Overridden { directory: PathBuf, by: String },
    /// The engine would not call the hook.
    #[error("refusing to write files without an effect: {engine} would not call the hook{}", .reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default())]
    NoEffect { engine: &'static str, reason: Option<String> },
    /// A file that would be removed.
    #[error("refusing to remove {}: it is not as `oci-secrets install` wrote it", .path.display())]
    Edited { path: PathBuf },
    /// A file that a package of oci-secrets wrote.
    #[error("refusing to remove {}: it belongs to the package oci-secrets", .path.display())]
    Packaged { path: PathBuf },
    /// containerd does not print its default spec, from which the base spec is made.
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
            EngineError::Hook { source, .. } | EngineError::Wrapper { source, .. } => source.class(),
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
            EngineError::Wrapper { source, .. } => {
                return source.hint().or_else(|| Some("install oci-secrets-runtime where the file says".into()));
            }
            EngineError::Overridden { directory, .. } => {
                return Some(format!("add {} to the directories that it names, or remove them", directory.display()));
            }
            EngineError::Name { .. } => "by this name, a hook that is configured twice is recognized and called once",
            EngineError::Edited { .. } => {
                "remove by hand what makes the engine call the hook, before you remove the hook"
            }
            EngineError::Packaged { .. } => {
                "use the package manager: `apt remove oci-secrets`, `dnf remove oci-secrets`; `--engine` chooses another engine"
            }
            EngineError::Stage { .. } | EngineError::When { .. } | EngineError::Annotations { .. } => {
                "`oci-secrets install --engine NAME` shows the file as it should be"
            }
            EngineError::Taken { remedy, .. } => remedy,
            EngineError::NoBaseSpec { .. } => "ctr comes with containerd, and must be on the PATH",
            EngineError::NotDescribed { program: "ctr", .. } => {
                "`ctr containers ls` shows them; CONTAINERD_NAMESPACE=k8s.io is where those of Kubernetes are"
            }
            EngineError::NotDescribed { program: "crictl", .. } => {
                "`crictl ps -a` shows the containers of CRI-O, by id"
            }
            EngineError::NotDescribed { program: "podman", .. } => "`podman ps -a` shows the containers of this user",
            EngineError::NotDescribed { program: "docker", .. } => "`docker ps -a` shows the containers",
            _ => return None,
        };
        Some(hint.to_owned())
    }
}
