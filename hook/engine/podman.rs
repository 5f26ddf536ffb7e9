//! Podman, which calls the hooks of the directories that containers.conf names.

use super::hooks_dir::Configured;
use super::{Calls, Change, EngineError, Hook, Host, containers_conf, hooks_d};

/// The files that make podman call the hook: for all users, or for one whose podman runs without root.
pub(super) fn install(host: &Host, hook: &Hook) -> Result<Vec<Change>, EngineError> {
    configured(host).install(host, hook)
}

/// The removal of these files.
pub(super) fn uninstall(host: &Host) -> Result<Vec<Change>, EngineError> {
    configured(host).uninstall(host)
}

/// The files by which podman will call the hook.
pub(super) fn calls(host: &Host) -> Result<Calls, EngineError> {
    configured(host).calls(host)
}

fn configured(host: &Host) -> Configured<'static> {
    let (directory, drop_ins) = match &host.user {
        None => (hooks_d::DIRECTORY.into(), "/etc/containers/containers.conf.d".into()),
        Some(user) => (user.join("containers/oci/hooks.d"), user.join("containers/containers.conf.d")),
    };
    Configured { in_effect: Box::new(containers_conf::in_effect), directory, drop_ins, table: "engine" }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::engine::testing::Root;

    const FILE: &str = "/usr/share/containers/oci/hooks.d/90-oci-secrets.json";

    /// Installs, and returns the files by which podman calls the hook then.
    fn installed(host: &Host, root: &Root) -> Vec<PathBuf> {
        let hook = Hook { path: root.program("oci-secrets-hook").into(), settings: None };
        install(host, &hook).unwrap().iter().for_each(|change| assert!(change.apply().is_ok()));
        let Calls { by, caution } = calls(host).unwrap();
        assert_eq!(caution, None);
        by
    }

    #[test]
    fn calls_what_was_installed_for_all_users() {
        let root = Root::new();
        assert_eq!(calls(&root.host).unwrap(), Calls::default());
        assert_eq!(installed(&root.host, &root), [root.host.path(FILE)]);
        assert!(!root.host.path("/etc").exists());
        uninstall(&root.host).unwrap().iter().for_each(|change| assert!(change.apply().is_ok()));
        assert_eq!(calls(&root.host).unwrap(), Calls::default());
    }

    #[test]
    fn calls_what_a_user_installed_besides_the_directories_of_the_host() {
        let root = Root::new();
        root.write("/etc/containers/containers.conf", "[engine]\nhooks_dir = ['/site']\n");
        root.write("/site/10-site.json", r#"{"version":"1.0.0","hook":{"path":"/bin/true"},"stages":["poststop"]}"#);
        for podman in [4, 5, 6] {
            let user = root.host.path(format!("/home/{podman}/.config"));
            let host = Host { user: Some(user.clone()), versions: [("podman", podman)].into(), ..root.host.clone() };
            let directory = user.join("containers/oci/hooks.d");
            for _ in 0..2 {
                assert_eq!(installed(&host, &root), [directory.join("90-oci-secrets.json")], "{podman}");
                assert_eq!(
                    containers_conf::in_effect(&host).unwrap().directories,
                    [PathBuf::from("/site"), directory.clone()]
                );
            }
        }
    }

    #[test]
    fn a_hooks_dir_of_others_stays_in_effect() {
        let root = Root::new();
        assert_eq!(installed(&root.host, &root).len(), 1);
        for (file, hooks_dir) in [
            ("containers.conf", "'/site', { append = true }"),
            ("containers.conf", "'/site'"),
            ("containers.conf.d/99-site.conf", "'/late'"),
        ] {
            root.write(&format!("/etc/containers/{file}"), &format!("[engine]\nhooks_dir = [{hooks_dir}]\n"));
            if !hooks_dir.contains("append") {
                let Calls { by, caution } = calls(&root.host).unwrap();
                let reason = caution.unwrap();
                assert!(by.is_empty() && reason.contains(file), "{reason}");
            }
            assert_eq!(installed(&root.host, &root), [root.host.path(FILE)], "{file}");
            let site = hooks_dir.split('\'').nth(1).unwrap();
            let directories = containers_conf::in_effect(&root.host).unwrap().directories;
            assert!(directories.contains(&PathBuf::from(site)), "{directories:?}");
        }
        let of_user = Host { containers_conf: Some(root.host.path("/instead")), ..root.host.clone() };
        root.write("/instead", "[engine]\nhooks_dir = ['/site']\n");
        let hook = Hook { path: "/h".into(), settings: None };
        assert!(
            matches!(install(&of_user, &hook), Err(EngineError::Overridden { by, .. }) if by.contains("CONTAINERS_CONF"))
        );
    }
}
