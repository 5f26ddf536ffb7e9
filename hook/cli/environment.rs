//! The host and the settings of the user who runs the command.

use std::path::{Path, PathBuf};

use super::source;
use crate::engine::Host;
use crate::fault::AnyFault;
use crate::harden::is_root_of_the_host;
use crate::settings::{SETTINGS_PATH, Settings, SettingsError};

/// Whether this is the host's root, whose engines are everyone's. In a user namespace, as `podman unshare` makes one, root is a user
/// without root.
pub(super) fn is_root() -> bool {
    is_root_of_the_host()
}

/// Where the caller's engines have their configuration: those of root are the host's, those of another user are rootless.
pub(super) fn host() -> Host {
    let variable = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let config = || variable("XDG_CONFIG_HOME").or_else(|| Some(variable("HOME")?.join(".config")));
    let (user, of_root) = if is_root() { (None, config()) } else { (config(), None) };
    // In podman's user namespace, the user is root.
    let rootless = std::env::var("_CONTAINERS_ROOTLESS_UID").ok().and_then(|uid| uid.parse().ok());
    let mut host = Host::below(PathBuf::from("/"));
    (host.user, host.of_root) = (user, of_root);
    host.uid = rootless.unwrap_or_else(|| rustix::process::getuid().as_raw());
    host.containers_conf = variable("CONTAINERS_CONF");
    host.containers_conf_override = variable("CONTAINERS_CONF_OVERRIDE");
    host
}

/// The settings file, unless `--settings` names one: `oci-secrets/settings.toml` in the caller's own configuration directory, of root
/// in /etc.
pub(super) fn default_settings() -> PathBuf {
    host().user.map_or_else(|| SETTINGS_PATH.into(), |user| user.join("oci-secrets/settings.toml"))
}

/// The settings, or none if the default file is missing and the environment names a source: then the file is not needed.
pub(super) fn load(path: &Path) -> Result<Settings, AnyFault> {
    match Settings::load_in_job(path) {
        Err(SettingsError::File(error))
            if error.is_missing() && path == default_settings() && source::in_environment() =>
        {
            Ok(Settings::default())
        }
        loaded => Ok(loaded?),
    }
}
