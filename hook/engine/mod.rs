//! Container engines: what makes each of them call the hook, and whether it will. One file for each.

mod bundle;
mod cdi;
mod containerd;
mod containers_conf;
mod crio;
mod docker;
mod error;
mod file;
mod hooks_d;
mod hooks_dir;
mod host;
pub mod inspect;
mod podman;
#[cfg(test)]
mod testing;

pub use self::bundle::{BundleError, add_hook, has_hook};
pub use self::error::EngineError;
pub use self::file::{Change, InstallError, Outcome};
pub use self::host::{Calls, HOOK_PATH, Hook, Host, version};
use crate::container::{Manager, author_chooses, is_hook, is_identity};

/// A program that starts containers, and calls the hook if its configuration says so.
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

    /// What makes it call the hook: the files, in the order in which they are to be written.
    ///
    /// The host as it would be then is read as [`Engine::calls`] reads it, so that no file is written without an effect.
    ///
    /// # Errors
    /// When a file that would be changed cannot be understood or says otherwise, or the files would have no effect.
    pub fn install(self, host: &Host, hook: &Hook) -> Result<Vec<Change>, EngineError> {
        if !is_hook(&hook.path) {
            return Err(EngineError::Name { path: hook.path.clone() });
        }
        let changes = match self {
            Engine::Podman => podman::install(host, hook)?,
            Engine::Crio => crio::install(host, hook)?,
            Engine::Containerd => containerd::install(host, hook)?,
            Engine::Docker => docker::install(host, hook)?,
            Engine::Cdi => cdi::install(host, hook),
        };
        match self.calls(&host.with(&changes)) {
            Ok(Calls { by, caution }) if by.is_empty() => {
                Err(EngineError::NoEffect { engine: self.name(), reason: caution })
            }
            // The programs may still be installed.
            Ok(_) | Err(EngineError::Hook { .. } | EngineError::Wrapper { .. }) => Ok(changes),
            Err(error) => Err(error),
        }
    }

    /// The removal of what [`Engine::install`] wrote, in the order in which it is to be done. The hook's program comes after all of it:
    /// an engine that is configured to call a missing program may start containers without their secrets, and report nothing.
    ///
    /// # Errors
    /// When a file cannot be understood, or is not as it was written.
    pub fn uninstall(self, host: &Host) -> Result<Vec<Change>, EngineError> {
        match self {
            Engine::Podman => podman::uninstall(host),
            Engine::Crio => crio::uninstall(host),
            Engine::Containerd => containerd::uninstall(host),
            Engine::Docker => docker::uninstall(host),
            Engine::Cdi => cdi::uninstall(host),
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

    /// Whether the author of a pod can choose the value of this annotation, and the value counts for grants.
    pub fn pod_author_chooses(self, host: &Host, key: &str) -> bool {
        author_chooses(key)
            && match (self, is_identity(key)) {
                (Engine::Crio, is_identity) => !is_identity || Manager::Crio.sets(key),
                (Engine::Containerd, true) => Manager::Containerd.sets(key),
                (Engine::Containerd, false) => containerd::passes_pod_annotation(host, key),
                (Engine::Podman | Engine::Docker | Engine::Cdi, _) => false,
            }
    }
}
