//! Container engines: what makes each of them call the hook, and whether it will. One file for each.

mod bundle;
mod cdi;
mod containerd;
mod crio;
mod docker;
mod error;
mod file;
mod hooks_d;
mod host;
pub mod inspect;
mod podman;
#[cfg(test)]
mod testing;

pub use self::bundle::{BundleError, add_hook, has_hook};
pub use self::error::EngineError;
pub use self::file::{File, InstallError, Written};
pub use self::host::{Calls, HOOK_PATH, Hook, Host};
use crate::container::{Manager, author_chooses, is_identity};

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
