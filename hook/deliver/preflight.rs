//! What a spec must not do to the target, checked before anything is fetched.

use std::path::{Component, Path, PathBuf};

use super::TARGET;
use crate::container::Spec;

/// Refuses a spec by which the runtime would hide or weaken the delivery after the hooks have run.
///
/// Paths are compared as they are written, with `/var/run` read as `/run`; what the image's symlinks make of them is not
/// looked at.
///
/// # Errors
/// When a masked or read-only path covers `/run/secrets` or a file in it, or when the spec mounts a read-only tmpfs there: runc
/// makes that read-only by path, afterwards, and would strip nosuid, nodev and noexec from ours.
pub fn preflight(spec: &Spec) -> Result<(), PreflightError> {
    let covers = |path: &&PathBuf| covers_target(path);
    if let Some(path) = spec.masked_paths.iter().find(covers) {
        return Err(PreflightError::Masked { path: path.clone() });
    }
    if let Some(path) = spec.readonly_paths.iter().find(covers) {
        return Err(PreflightError::ReadOnlyPath { path: path.clone() });
    }
    let mut at_target = spec.mounts.iter().filter(|mount| normal(mount.destination()) == Path::new(TARGET));
    let is_ro_tmpfs = |mount: &oci_spec::runtime::Mount| {
        let options = mount.options().iter().flatten();
        mount.typ().as_deref() == Some("tmpfs") && options.into_iter().any(|option| option == "ro")
    };
    match at_target.find(|mount| is_ro_tmpfs(mount)) {
        Some(mount) => Err(PreflightError::ReadOnlyTmpfs { destination: mount.destination().clone() }),
        None => Ok(()),
    }
}

/// Whether a path is the target, above it or below it.
fn covers_target(path: &Path) -> bool {
    let path = normal(path);
    path.starts_with(TARGET) || Path::new(TARGET).starts_with(path)
}

/// The absolute path without `.`, `..` and repeated slashes, and with `/run` for `/var/run`.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => normal.push(name),
            Component::ParentDir => drop(normal.pop()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    match normal.strip_prefix("/var/run") {
        Ok(below) => Path::new("/run").join(below),
        Err(_) => normal,
    }
}

/// Why a spec cannot have a delivery.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PreflightError {
    /// A masked path over, at or below the target.
    #[error("refusing to deliver to {TARGET}: linux.maskedPaths has {}, which would hide the files", .path.display())]
    Masked {
        /// As the spec spells it.
        path: PathBuf,
    },
    /// A read-only path over, at or below the target.
    #[error("refusing to deliver to {TARGET}: linux.readonlyPaths has {}, which would mount over the files", .path.display())]
    ReadOnlyPath {
        /// As the spec spells it.
        path: PathBuf,
    },
    /// A read-only tmpfs exactly at the target.
    #[error("refusing to deliver to {TARGET}: the spec mounts a read-only tmpfs at {}", .destination.display())]
    ReadOnlyTmpfs {
        /// As the spec spells it.
        destination: PathBuf,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(json: &str) -> Spec {
        let bundle = tempfile::tempdir().unwrap();
        let json = format!(r#"{{"root":{{"path":"rootfs"}},{json}}}"#);
        std::fs::write(bundle.path().join("config.json"), json).unwrap();
        Spec::load(bundle.path()).unwrap()
    }

    fn paths(field: &str, path: &str) -> Result<(), PreflightError> {
        preflight(&spec(&format!(r#""linux":{{"{field}":["/proc/kcore","{path}"]}}"#)))
    }

    #[test]
    fn refuses_paths_over_at_and_below_the_target() {
        let covering = [
            "/",
            "/run",
            "/run/secrets",
            "/run/secrets/",
            "/run/secrets/db",
            "/var/run",
            "/var/run/secrets",
            "//run/./x/../secrets",
            "run/secrets",
        ];
        for path in covering {
            assert_eq!(paths("maskedPaths", path), Err(PreflightError::Masked { path: path.into() }));
            assert_eq!(paths("readonlyPaths", path), Err(PreflightError::ReadOnlyPath { path: path.into() }));
        }
    }

    #[test]
    fn leaves_other_paths_alone() {
        for path in ["/proc/sys", "/run/secretsx", "/run/lock", "/var", "/var/runs"] {
            assert_eq!(paths("maskedPaths", path), Ok(()), "{path}");
        }
    }

    #[test]
    fn refuses_a_read_only_tmpfs_exactly_at_the_target() {
        let mount = |destination: &str, kind: &str, option: &str| {
            let mount = format!(r#"{{"destination":"{destination}","type":"{kind}","options":["nosuid","{option}"]}}"#);
            preflight(&spec(&format!(r#""mounts":[{mount}]"#)))
        };
        for destination in ["/run/secrets", "/var/run/secrets/"] {
            let destination_path = destination.into();
            let refusal = PreflightError::ReadOnlyTmpfs { destination: destination_path };
            assert_eq!(mount(destination, "tmpfs", "ro"), Err(refusal));
        }
        assert_eq!(mount("/run/secrets", "tmpfs", "rw"), Ok(()));
        assert_eq!(mount("/run/secrets", "bind", "ro"), Ok(()));
        assert_eq!(mount("/run", "tmpfs", "ro"), Ok(()));
    }
}
