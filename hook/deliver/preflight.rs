//! What a spec must not do to the target: as it is written, before anything is fetched; and once the delivery is attached, as the
//! image's symlinks make it.

use std::os::fd::BorrowedFd;
use std::path::{Component, Path, PathBuf};

use rustix::io::Errno;

use super::error::{AttachError, PreflightError};
use super::{TARGET, target};
use crate::container::{Procfs, Spec};
use crate::errno::failed;

/// Refuses a spec by which the runtime would hide or weaken the delivery after the hooks have run.
///
/// Paths are compared as they are written, with `/var/run` read as `/run`; what the image's symlinks make of them is looked at
/// when there is something to cover.
///
/// # Errors
/// When a masked or read-only path covers `/run/secrets` or a file in it, or when the spec mounts a read-only tmpfs there: runc
/// makes that read-only by path, afterwards, and would strip nosuid, nodev and noexec from ours.
pub fn preflight(spec: &Spec) -> Result<(), PreflightError> {
    if spec.joins_mounts {
        return Err(PreflightError::JoinedMounts);
    }
    let covers = |path: &&PathBuf| covers_target(path);
    if let Some(path) = spec.masked_paths.iter().find(covers) {
        return Err(PreflightError::Masked { path: path.clone() });
    }
    if let Some(path) = spec.readonly_paths.iter().find(covers) {
        return Err(PreflightError::ReadOnlyPath { path: path.clone() });
    }
    match read_only_tmpfs(spec).find(|destination| normal(destination) == Path::new(TARGET)) {
        Some(destination) => Err(PreflightError::ReadOnlyTmpfs { destination: destination.clone() }),
        None => Ok(()),
    }
}

/// The same for an attached delivery, of which `target` is the path in this thread's mount namespace: every path is resolved as the
/// runtime will do it.
pub(super) fn require_uncovered(
    procfs: &Procfs,
    rootfs: BorrowedFd<'_>,
    target: &Path,
    spec: &Spec,
) -> Result<(), AttachError> {
    let is_met = |path: &Path, meets: fn(&Path, &Path) -> bool| match target::open_any(rootfs, path) {
        // The runtime passes over what is not there.
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
        // Where a link of /proc or a circle leads is not known: it may be here.
        Err(Errno::LOOP | Errno::XDEV) => Ok(true),
        Err(errno) => Err(AttachError::Syscall(failed("openat2(maskedPaths)")(errno))),
        Ok(found) => Ok(meets(&procfs.path(found)?, target)),
    };
    let covers: fn(&Path, &Path) -> bool = |path, target| path.starts_with(target) || target.starts_with(path);
    for path in &spec.masked_paths {
        if is_met(path, covers)? {
            return Err(PreflightError::Masked { path: path.clone() }.into());
        }
    }
    for path in &spec.readonly_paths {
        if is_met(path, covers)? {
            return Err(PreflightError::ReadOnlyPath { path: path.clone() }.into());
        }
    }
    for destination in read_only_tmpfs(spec) {
        if is_met(destination, |path, target| path == target)? {
            return Err(PreflightError::ReadOnlyTmpfs { destination: destination.clone() }.into());
        }
    }
    Ok(())
}

/// Where the spec mounts a tmpfs that the runtime makes read-only after the hooks have run.
fn read_only_tmpfs(spec: &Spec) -> impl Iterator<Item = &PathBuf> {
    let is_read_only = |mount: &&oci_spec::runtime::Mount| {
        let options = mount.options().iter().flatten();
        mount.typ().as_deref() == Some("tmpfs") && options.into_iter().any(|option| option == "ro")
    };
    spec.mounts.iter().filter(is_read_only).map(|mount| mount.destination())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deliver::Carried;
    use crate::deliver::testing::{Container, frozen, is_root};
    use std::fs::{create_dir, create_dir_all};
    use std::os::unix::fs::symlink;

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
    fn follows_the_symlinks_of_the_image_to_the_target() {
        if !is_root() {
            return;
        }
        let image = |rootfs: &Path| {
            create_dir_all(rootfs.join("srv")).unwrap();
            create_dir(rootfs.join("elsewhere")).unwrap();
            symlink("/srv", rootfs.join("run")).unwrap();
            symlink("../run/secrets", rootfs.join("elsewhere/link")).unwrap();
            symlink("/elsewhere/circle", rootfs.join("elsewhere/circle")).unwrap();
        };
        let attach = |spec: Spec| {
            let container = Container::start(image, "true");
            let spec = Spec { rootfs: container.rootfs(), ..spec };
            let attached = frozen().attach(&Carried::default(), &container.process(), &spec);
            let mounts = container.process().mounts().unwrap();
            assert_eq!(
                mounts.iter().filter(|mount| mount.source == "oci-secrets").count(),
                usize::from(attached.is_ok())
            );
            attached.map_err(|error| error.to_string())
        };
        let covering =
            ["/srv", "/srv/secrets", "/elsewhere/link", "/elsewhere/link/db", "/elsewhere/../srv", "/elsewhere/circle"];
        for path in covering {
            let masked = attach(spec(&format!(r#""linux":{{"maskedPaths":["{path}"]}}"#)));
            assert_eq!(masked.unwrap_err(), PreflightError::Masked { path: path.into() }.to_string());
            let read_only = attach(spec(&format!(r#""linux":{{"readonlyPaths":["{path}"]}}"#)));
            assert_eq!(read_only.unwrap_err(), PreflightError::ReadOnlyPath { path: path.into() }.to_string());
        }
        for path in ["/elsewhere", "/elsewhere/link/none", "/elsewhere/link/db/none", "/nowhere", "/srv/other"] {
            attach(spec(&format!(r#""linux":{{"maskedPaths":["{path}"],"readonlyPaths":["{path}"]}}"#))).unwrap();
        }
        let tmpfs = |at: &str| format!(r#""mounts":[{{"destination":"{at}","type":"tmpfs","options":["ro"]}}]"#);
        let destination = "/elsewhere/link".into();
        let refusal = PreflightError::ReadOnlyTmpfs { destination }.to_string();
        assert_eq!(attach(spec(&tmpfs("/elsewhere/link"))).unwrap_err(), refusal);
        attach(spec(&tmpfs("/srv"))).unwrap();
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
