//! A frozen tmpfs that another process has filled.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, RawMode, openat, statat};

use super::frozen::is_frozen;
use super::placeholders::Placeholders;
use super::{Frozen, TARGET};
use crate::container::{FileName, Owner, Procfs, ProcfsError};
use crate::errno::{SyscallError, failed};
use crate::fault::{Class, Fault};

impl Frozen {
    /// Takes a mount that the broker has sent, of which nothing is believed: it must be a frozen tmpfs without a path, with exactly these
    /// files of this owner and these placeholders.
    ///
    /// # Errors
    /// It is something else, or the kernel refuses.
    pub fn received(
        mount: OwnedFd,
        files: &[FileName],
        owner: Owner,
        placeholders: &Placeholders,
    ) -> Result<Frozen, ReceivedError> {
        if !is_frozen(&mount)? {
            return Err(ReceivedError::NotFrozen);
        }
        // A mount at `/` of this host has that path, too. From the container's mount namespace, the kernel does not move it.
        if Procfs::open()?.path(&mount)? != Path::new("/") {
            return Err(ReceivedError::NotDetached);
        }
        require_content(&mount, files, owner, placeholders)?;
        Ok(Frozen { mount })
    }
}

fn require_content(
    mount: &OwnedFd,
    files: &[FileName],
    owner: Owner,
    placeholders: &Placeholders,
) -> Result<(), ReceivedError> {
    let expected = files.iter().map(|file| OsStr::new(file.as_str()));
    let places = placeholders.iter().filter_map(|(path, _)| path.iter().next());
    let expected: BTreeSet<&OsStr> = expected.chain(places).collect();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = openat(mount, ".", flags, Mode::empty()).and_then(Dir::new).map_err(failed("open(tmpfs)"))?;
    let mut found = BTreeSet::new();
    for entry in directory {
        let entry = entry.map_err(failed("getdents(tmpfs)"))?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name != "." && name != ".." {
            found.insert(name.to_owned());
        }
    }
    if !found.iter().map(|name| name.as_os_str()).eq(expected) {
        return Err(ReceivedError::OtherFiles);
    }
    require_mode(mount, "", AtFlags::EMPTY_PATH, FileType::Directory, 0o555).map(drop)?;
    for file in files.iter().filter(|file| !placeholders.has(file)) {
        let (uid, gid) = require_mode(mount, file.as_str(), AtFlags::SYMLINK_NOFOLLOW, FileType::RegularFile, 0o400)?;
        if (uid, gid) != (owner.uid, owner.gid) {
            return Err(ReceivedError::OtherFiles);
        }
    }
    Ok(())
}

/// Requires the type and mode of a file, and returns its owner.
fn require_mode(
    mount: &OwnedFd,
    name: &str,
    flags: AtFlags,
    kind: FileType,
    mode: RawMode,
) -> Result<(u32, u32), ReceivedError> {
    let stat = statat(mount.as_fd(), name, flags).map_err(failed("fstatat(tmpfs)"))?;
    match (FileType::from_raw_mode(stat.st_mode), stat.st_mode & 0o7777) {
        found if found == (kind, mode) => Ok((stat.st_uid, stat.st_gid)),
        _ => Err(ReceivedError::OtherFiles),
    }
}

/// Why a mount that the broker has sent is not attached.
#[derive(Debug, thiserror::Error)]
pub enum ReceivedError {
    /// It is another file system, or can change.
    #[error("refusing to attach what the broker has sent: it is not a tmpfs that is ro,nosuid,nodev,noexec")]
    NotFrozen,
    /// It is mounted on this host, or a part of another mount.
    #[error("refusing to attach what the broker has sent: it is not a mount of its own without a path")]
    NotDetached,
    /// Its content is not what was requested.
    #[error("refusing to attach what the broker has sent: it does not hold exactly the files of {TARGET}")]
    OtherFiles,
    /// A system call failed.
    #[error(transparent)]
    Syscall(#[from] SyscallError),
    /// `/proc` did not answer.
    #[error(transparent)]
    Procfs(#[from] ProcfsError),
}

impl Fault for ReceivedError {
    fn class(&self) -> Class {
        match self {
            ReceivedError::NotFrozen | ReceivedError::NotDetached | ReceivedError::OtherFiles => Class::NotPermitted,
            ReceivedError::Syscall(_) | ReceivedError::Procfs(_) => Class::Kernel,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            ReceivedError::Syscall(error) => error.hint(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deliver::Carried;
    use crate::deliver::testing::{Container, NOTHING, frozen, frozen_for, is_root};
    use nix::sched::{CloneFlags, unshare};
    use rustix::fs::{CWD, open};
    use rustix::mount::{MountPropagationFlags, MoveMountFlags, mount_change, move_mount};

    const OWNER: Owner = Owner { uid: 1000, gid: 1001 };

    fn received(mount: OwnedFd, files: &[&str], owner: Owner, places: &Placeholders) -> Result<Frozen, String> {
        let files: Vec<FileName> = files.iter().map(|file| file.parse().unwrap()).collect();
        Frozen::received(mount, &files, owner, places).map_err(|error| error.to_string())
    }

    fn copy(frozen: &Frozen) -> OwnedFd {
        frozen.mount().try_clone_to_owned().unwrap()
    }

    #[test]
    fn takes_what_was_requested_and_nothing_else() {
        if !is_root() {
            return;
        }
        let none = Placeholders::default();
        let mut own = Placeholders::default();
        own.insert("kubernetes.io/token".as_ref(), true);
        received(copy(&frozen()), &["db"], OWNER, &none).unwrap();
        received(copy(&frozen_for(own.clone()).unwrap()), &["db"], OWNER, &own).unwrap();
        for (files, owner, places) in [
            (&["db", "other"][..], OWNER, &none),
            (&["other"], OWNER, &none),
            (&[], OWNER, &none),
            (&["db"], Owner { uid: 0, gid: 0 }, &none),
            (&["db"], OWNER, &own),
        ] {
            let refusal = received(copy(&frozen()), files, owner, places).unwrap_err();
            assert!(refusal.ends_with("it does not hold exactly the files of /run/secrets"), "{refusal}");
        }
    }

    #[test]
    fn refuses_other_descriptors() {
        if !is_root() {
            return;
        }
        let none = Placeholders::default();
        let refusal = |path: &str| {
            let opened = open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
            received(opened, &["db"], OWNER, &none).unwrap_err()
        };
        for path in ["/", "/proc", "/dev/null", "/etc/passwd"] {
            assert!(refusal(path).contains("it is not a tmpfs that is ro"), "{path}: {}", refusal(path));
        }
        let frozen = frozen();
        let file = openat(frozen.mount(), "db", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        assert!(received(file, &["db"], OWNER, &none).is_err());

        let mounted = tempfile::tempdir().unwrap();
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(frozen.mount(), "", CWD, mounted.path(), flags).unwrap();
        let refusal = received(copy(&frozen), &["db"], OWNER, &none).unwrap_err();
        rustix::mount::unmount(mounted.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
        assert!(refusal.ends_with("it is not a mount of its own without a path"), "{refusal}");
    }
    #[test]
    fn does_not_take_a_mount_at_the_root_of_this_host() {
        if !is_root() {
            return;
        }
        let container = Container::start(NOTHING, "true");
        let attach_mounted = || {
            unshare(CloneFlags::CLONE_NEWNS).unwrap();
            mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
            let frozen = frozen();
            move_mount(frozen.mount(), "", CWD, "/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).unwrap();
            let received = received(copy(&frozen), &["db"], OWNER, &Placeholders::default())?;
            let attached = received.attach(&Carried::default(), &container.process(), &container.spec());
            attached.map(drop).map_err(|error| error.to_string())
        };
        let refusal = std::thread::scope(|scope| scope.spawn(attach_mounted).join().unwrap()).unwrap_err();
        assert!(refusal.starts_with("move_mount(\"/run/secrets\")"), "{refusal}");
        assert!(!container.inside("/run/secrets/db").exists());
    }
}
