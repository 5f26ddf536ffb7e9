//! Files that are taken out of the delivery of a container that runs.
//!
//! The tmpfs is writable while that happens, for us and for a process of the container that may write to a file of mode 0400. Whatever
//! leads to a removed file finds it empty: another mount of the tmpfs, a mount namespace of a process's own, an open descriptor.

use std::os::fd::AsFd as _;
use std::thread::sleep;
use std::time::Duration;

use rustix::fs::{
    Gid, Mode, OFlags, RenameFlags, ResolveFlags, Uid, fchmod, fchown, ftruncate, openat2, renameat_with,
};
use rustix::io::Errno;
use rustix::mount::OpenTreeFlags;

use super::current::{DeliveryId, SwapError, clone, open_current};
use super::frozen::Hold;
use super::site::inside_running;
use crate::container::{FileName, Process};
use crate::errno::{SyscallError, failed};

/// How often it is tried to make the tmpfs read-only again: a process of the container may have opened a file for writing meanwhile.
const FREEZES_MAX: u32 = 20;

const PAUSE: Duration = Duration::from_millis(5);

/// How the names of removed files begin, which no delivered file can have.
const REMOVED: &str = ".removed-";

impl Hold {
    /// Holds the delivery of a running container.
    ///
    /// # Errors
    /// The container has unmounted or covered it, or the kernel refuses.
    pub fn find(id: DeliveryId, container: &Process) -> Result<Hold, SwapError> {
        inside_running(container, |procfs| {
            let (found, _) = open_current(procfs, id)?;
            Ok(Hold { view: clone(&found, OpenTreeFlags::empty())? })
        })
    }

    /// Removes these files, as far as they are there, from every mount of the tmpfs. Open descriptors of them read nothing any more.
    ///
    /// An empty file that begins with a dot stays of each: the kernel makes no tmpfs read-only while a file without a name is open.
    ///
    /// # Errors
    /// When the kernel refuses. Files may then be left, or the tmpfs is not read-only.
    pub fn remove(&self, files: &[FileName]) -> Result<(), SwapError> {
        self.reconfigure("rw")?;
        let removed = files.iter().try_for_each(|file| self.remove_one(file));
        self.freeze().map_err(|source| SwapError::Thawed { source })?;
        Ok(removed?)
    }

    fn remove_one(&self, file: &FileName) -> Result<(), SyscallError> {
        let call = |call: &str| format!(r#"{call}("{file}")"#);
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS;
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = match openat2(&self.view, file.as_str(), flags, Mode::empty(), resolve) {
            Err(Errno::NOENT) => return Ok(()),
            opened => opened.map_err(failed(call("openat2")))?,
        };
        ftruncate(&opened, 0).map_err(failed(call("ftruncate")))?;
        fchmod(&opened, Mode::empty()).map_err(failed(call("fchmod")))?;
        fchown(&opened, Some(Uid::ROOT), Some(Gid::ROOT)).map_err(failed(call("fchown")))?;
        let view = self.view.as_fd();
        let mut numbers = 1..=u32::MAX;
        let renamed = numbers.find_map(|number| {
            let name = format!("{REMOVED}{number}");
            let renamed = renameat_with(view, file.as_str(), view, name, RenameFlags::NOREPLACE);
            (renamed != Err(Errno::EXIST)).then_some(renamed)
        });
        renamed.unwrap_or(Err(Errno::EXIST)).map_err(failed(call("renameat2")))
    }

    fn freeze(&self) -> Result<(), SyscallError> {
        let freeze = || self.reconfigure("ro");
        let mut outcome = freeze();
        for _ in 0..FREEZES_MAX {
            if outcome.is_ok() {
                break;
            }
            sleep(PAUSE);
            outcome = freeze();
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deliver::frozen::is_frozen;
    use crate::deliver::testing::{Container, NOTHING, delivered, frozen, is_root};
    use std::fs::{File, OpenOptions, read_dir, read_to_string};
    use std::io::ErrorKind;

    fn db() -> FileName {
        "db".parse().unwrap()
    }

    fn assert_gone(container: &Container, path: &str) {
        let error = read_to_string(container.inside(path)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{path}");
    }

    #[test]
    fn a_removed_file_is_empty_in_every_mount_and_for_open_descriptors() {
        if !is_root() {
            return;
        }
        let container = Container::start(NOTHING, "mkdir -p run/secrets/a copy; mount -t tmpfs x run/secrets/a");
        let id = delivered(&container);
        container.run("mount --bind run/secrets copy; mount -t tmpfs x run/secrets/a");
        let open = File::open(container.inside("/run/secrets/db")).unwrap();
        let hold = Hold::find(id, &container.process()).unwrap();
        for _ in 0..2 {
            hold.remove(&[db(), "other".parse().unwrap()]).unwrap();
            assert_gone(&container, "/run/secrets/db");
            assert_gone(&container, "/copy/db");
            assert_eq!(std::io::read_to_string(&open).unwrap(), "");
        }
        // The container's own mount is where it was.
        assert!(container.inside("/run/secrets/a").read_dir().is_ok());
        let left = read_dir(container.inside("/run/secrets")).unwrap().map(|entry| entry.unwrap().file_name());
        let mut left: Vec<_> = left.collect();
        left.sort();
        assert_eq!(left, [".removed-1", "a"]);
        assert!(is_frozen(File::open(container.inside("/run/secrets")).unwrap()).unwrap());
        let written =
            OpenOptions::new().write(true).create(true).truncate(false).open(container.inside("/run/secrets/x"));
        assert_eq!(written.unwrap_err().kind(), ErrorKind::ReadOnlyFilesystem);
    }

    #[test]
    fn a_hold_of_the_start_reaches_what_the_container_has_covered_or_unmounted() {
        if !is_root() {
            return;
        }
        let container = Container::start(NOTHING, "true");
        let id = delivered(&container);
        let hold = Hold::find(id, &container.process()).unwrap();
        let open = File::open(container.inside("/run/secrets/db")).unwrap();
        container.run("mount -t tmpfs x run/secrets");
        assert!(matches!(Hold::find(id, &container.process()), Err(SwapError::Covered)));
        hold.remove(&[db()]).unwrap();
        container.run("umount run/secrets");
        assert_gone(&container, "/run/secrets/db");
        container.run("umount --lazy run/secrets");
        assert!(matches!(Hold::find(id, &container.process()), Err(SwapError::Absent)));
        assert_eq!(std::io::read_to_string(open).unwrap(), "");
    }

    #[test]
    fn says_when_the_rest_cannot_be_made_read_only_again() {
        if !is_root() {
            return;
        }
        let (frozen, hold) = frozen().hold().unwrap();
        hold.reconfigure("rw").unwrap();
        let write = rustix::fs::openat(frozen.mount(), "db", OFlags::WRONLY, Mode::empty()).unwrap();
        let error = hold.remove(&[db()]).unwrap_err();
        assert!(matches!(error, SwapError::Thawed { .. }), "{error:?}");
        drop(write);
        hold.remove(&[]).unwrap();
        assert!(is_frozen(frozen.mount()).unwrap());
    }
}
