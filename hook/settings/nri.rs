//! `[nri]`: the plugin by which containerd and CRI-O call the hook.

use serde::Deserialize;

use super::AbsolutePath;

const HOOK: &str = "/usr/libexec/oci/hooks.d/oci-secrets-hook";

/// How the broker adds the hook to containers.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Nri {
    /// The NRI socket of the runtime; off if absent.
    pub socket: Option<AbsolutePath>,
    /// The hook, as a path of the host.
    pub hook: AbsolutePath,
    /// The settings of the hook, as a path of the host, if they are not its default ones.
    pub hook_settings: Option<AbsolutePath>,
}

impl Default for Nri {
    fn default() -> Nri {
        Nri { socket: None, hook: AbsolutePath(HOOK.into()), hook_settings: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;

    fn parse(lines: &str) -> Result<Nri, String> {
        let settings = format!("[nri]\n{lines}").parse::<Settings>();
        settings.map(|settings| settings.nri).map_err(|error| error.to_string())
    }

    #[test]
    fn is_off_unless_a_socket_is_named() {
        assert_eq!(parse("").unwrap(), Nri::default());
        assert_eq!(Settings::default().nri.socket, None);
        assert!(parse("socket = '/var/run/nri/nri.sock'").unwrap().socket.is_some());
        for lines in ["socket = 'nri.sock'", "hook = 'oci-secrets-hook'", "index = '10'"] {
            assert!(parse(lines).is_err(), "{lines}");
        }
    }
}
