//! The tmpfs while nothing leads to it: created, filled, frozen.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Uid, chmodat, chownat, mkdirat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen,
};

use super::TARGET;
use super::frozen::{Frozen, is_frozen, reconfigure};
use super::placeholders::Placeholders;
use super::site::SOURCE;
use crate::container::{FileName, Owner, Procfs, ProcfsError};
use crate::errno::{SyscallError, failed};
use crate::fault::{Class, Fault};
use crate::secret::Secret;
use crate::settings::Noswap;

/// A tmpfs without a path, which still takes files.
///
/// Dropping it destroys the files.
#[derive(Debug)]
pub struct Tmpfs {
    context: OwnedFd,
    mount: OwnedFd,
    noswap: bool,
    placeholders: Placeholders,
}

/// The size and mount options of a tmpfs.
#[derive(Clone, Copy, Debug)]
pub struct TmpfsOptions<'a> {
    /// How many files it will hold.
    pub files: usize,
    /// How many bytes they will hold in all.
    pub bytes: usize,
    /// The SELinux context of its files, the spec's `linux.mountLabel`; ignored by a kernel that runs without SELinux.
    pub label: Option<&'a str>,
    /// The owner of its directories, in ids of our own user namespace, if that is not our own user.
    pub root: Option<Owner>,
    /// What to do when its pages cannot be kept out of swap.
    pub noswap: Noswap,
}

impl Tmpfs {
    /// Creates a tmpfs: nosuid, nodev, noexec, a root directory of mode 0555, a place for everything that will be carried over
    /// into it, of the size that the options give.
    ///
    /// # Errors
    /// When the kernel refuses or is too old. Nothing is left behind.
    pub fn create(options: &TmpfsOptions<'_>, placeholders: Placeholders) -> Result<Tmpfs, TmpfsError> {
        let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).map_err(|errno| match errno {
            Errno::NOSYS => TmpfsError::NoMountApi,
            other => failed(r#"fsopen("tmpfs")"#)(other).into(),
        })?;
        set(&context, "source", SOURCE)?;
        set(&context, "size", &options.size_bytes().to_string())?;
        set(&context, "nr_inodes", &options.inodes(placeholders.len()).to_string())?;
        set(&context, "mode", "0555")?;
        if let Some(label) = options.label {
            set_label(&context, label)?;
        }
        if let Some(Owner { uid, gid }) = options.root {
            set(&context, "uid", &uid.to_string())?;
            set(&context, "gid", &gid.to_string())?;
        }
        let noswap = set_noswap(&context, options.noswap)?;
        fsconfig_create(&context).map_err(failed("fsconfig(FSCONFIG_CMD_CREATE)"))?;
        let attributes =
            MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let mount = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(failed("fsmount"))?;
        let tmpfs = Tmpfs { context, mount, noswap, placeholders };
        tmpfs.make_placeholders(options.root)?;
        Ok(tmpfs)
    }

    fn make_placeholders(&self, root: Option<Owner>) -> Result<(), SyscallError> {
        for (path, is_directory) in self.placeholders.iter() {
            if is_directory {
                let mode = Mode::from(0o555);
                mkdirat(&self.mount, path, mode).map_err(failed("mkdirat(placeholder)"))?;
                // Whatever the umask: the container's users must get through to what is mounted below.
                chmodat(&self.mount, path, mode, AtFlags::empty()).map_err(failed("chmodat(placeholder)"))?;
                if let Some(Owner { uid, gid }) = root {
                    let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
                    let flags = AtFlags::SYMLINK_NOFOLLOW;
                    chownat(&self.mount, path, uid, gid, flags).map_err(failed("fchownat(placeholder)"))?;
                }
            } else {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file = rustix::fs::openat(&self.mount, path, flags, Mode::empty());
                file.map_err(failed("openat(placeholder)"))?;
            }
        }
        Ok(())
    }

    /// Whether its pages are kept out of swap.
    pub fn noswap(&self) -> bool {
        self.noswap
    }

    /// Writes one file of mode 0400. The owner's ids are those of the hook's user namespace.
    ///
    /// # Errors
    /// When the container has something of its own by that name, when the file exists, or when the kernel refuses. The tmpfs may
    /// then hold part of the file and is of no more use.
    pub fn write(&self, name: &FileName, secret: &Secret, owner: Owner) -> Result<(), TmpfsError> {
        if self.placeholders.has(name) {
            return Err(TmpfsError::Taken { name: name.clone() });
        }
        let call = |call: &str| format!(r#"{call}("{name}")"#);
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.mount, name.as_str(), flags, Mode::RUSR | Mode::WUSR);
        let mut file = File::from(file.map_err(failed(call("openat")))?);
        file.write_all(secret.expose()).map_err(failed(call("write")))?;
        let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
        rustix::fs::fchown(&file, Some(uid), Some(gid)).map_err(failed(call("fchown")))?;
        rustix::fs::fchmod(&file, Mode::RUSR).map_err(failed(call("fchmod")))?;
        Ok(())
    }

    /// Makes the superblock read-only: only who has the rights of the hook in the hook's user namespace could undo it.
    ///
    /// # Errors
    /// When the kernel refuses, or does not do what it said. The files are destroyed.
    pub fn freeze(self) -> Result<Frozen, TmpfsError> {
        reconfigure(&self.context, "ro", self.noswap)?;
        if !is_frozen(&self.mount)? {
            return Err(TmpfsError::NotFrozen);
        }
        Ok(Frozen { mount: self.mount })
    }
}

/// How the files of a delivery are kept.
#[derive(Clone, Copy, Debug)]
pub struct DeliveryOptions<'a> {
    /// The owner of every file, in ids of our own user namespace.
    pub owner: Owner,
    /// The SELinux context; see [`TmpfsOptions::label`].
    pub label: Option<&'a str>,
    /// The owner of the directories; see [`TmpfsOptions::root`].
    pub root: Option<Owner>,
    /// What to do if the pages cannot be kept out of swap.
    pub noswap: Noswap,
}

impl Frozen {
    /// Creates a tmpfs for these files, writes them and freezes it.
    ///
    /// # Errors
    /// As for [`Tmpfs::create`], [`Tmpfs::write`] and [`Tmpfs::freeze`]. The files are destroyed.
    pub fn filled(
        files: &[(&FileName, &Secret)],
        options: &DeliveryOptions<'_>,
        placeholders: Placeholders,
    ) -> Result<Frozen, TmpfsError> {
        let DeliveryOptions { owner, label, root, noswap } = *options;
        let bytes = files.iter().map(|(_, secret)| secret.expose().len()).sum();
        let tmpfs = Tmpfs::create(&TmpfsOptions { files: files.len(), bytes, label, root, noswap }, placeholders)?;
        for (name, secret) in files {
            tmpfs.write(name, secret, owner)?;
        }
        tmpfs.freeze()
    }
}

impl TmpfsOptions<'_> {
    /// Every file fills whole pages. Never 0, which would mean no limit.
    fn size_bytes(&self) -> usize {
        let page = rustix::param::page_size();
        let pages = (self.bytes / page).saturating_add(self.files).saturating_add(1);
        pages.saturating_mul(page)
    }

    /// The files, the placeholders and the root directory, twice: since Linux 6.6 a label that a security module gives to a file
    /// is charged to the same limit, at less than one inode a file.
    fn inodes(&self, placeholders: usize) -> usize {
        self.files.saturating_add(placeholders).saturating_add(1).saturating_mul(2)
    }
}

fn set(context: &OwnedFd, key: &str, value: &str) -> Result<(), SyscallError> {
    // Without the value: the size would reveal the length of the secrets.
    fsconfig_set_string(context, key, value).map_err(failed(format!(r#"fsconfig("{key}")"#)))
}

fn set_label(context: &OwnedFd, label: &str) -> Result<(), TmpfsError> {
    let Err(errno) = fsconfig_set_string(context, "context", label) else {
        return Ok(());
    };
    let filesystems = Procfs::open()?.read("filesystems")?;
    let runs_selinux = String::from_utf8_lossy(&filesystems).contains("selinuxfs");
    if errno == Errno::INVAL && !runs_selinux {
        return Ok(());
    }
    Err(failed(format!("fsconfig(\"context\", {label:?})"))(errno).into())
}

/// Whether the tmpfs will be kept out of swap.
fn set_noswap(context: &OwnedFd, noswap: Noswap) -> Result<bool, TmpfsError> {
    match (fsconfig_set_flag(context, "noswap"), noswap) {
        (Ok(()), _) => Ok(true),
        (Err(Errno::INVAL), Noswap::Prefer) => Ok(false),
        (Err(Errno::INVAL), Noswap::Require) => Err(TmpfsError::NoNoswap),
        (Err(other), _) => Err(failed(r#"fsconfig("noswap")"#)(other).into()),
    }
}

/// Why a tmpfs could not be made, filled or frozen.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are named for what they hold")]
pub enum TmpfsError {
    /// The kernel has no mount API.
    #[error("cannot create a tmpfs: fsopen is not implemented; Linux 5.6 is the oldest that is supported")]
    NoMountApi,
    /// Swap cannot be turned off and must be.
    #[error("cannot keep a tmpfs out of swap: noswap needs Linux 6.4 and a hook outside of user namespaces")]
    NoNoswap,
    /// The container has a file or directory of its own where a secret was to be written.
    #[error("refusing to deliver \"{name}\": the container has a {TARGET}/{name} of its own")]
    Taken { name: FileName },
    /// The kernel said that the tmpfs is read-only, and it is not.
    #[error("refusing to deliver a tmpfs that is not ro,nosuid,nodev,noexec")]
    NotFrozen,
    /// A system call failed.
    #[error(transparent)]
    Syscall(#[from] SyscallError),
    /// `/proc` could not say whether the kernel runs SELinux.
    #[error(transparent)]
    Procfs(#[from] ProcfsError),
}

impl Fault for TmpfsError {
    fn class(&self) -> Class {
        match self {
            TmpfsError::Taken { .. } => Class::Data,
            TmpfsError::NoMountApi
            | TmpfsError::NoNoswap
            | TmpfsError::NotFrozen
            | TmpfsError::Syscall(_)
            | TmpfsError::Procfs(_) => Class::Kernel,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            TmpfsError::Taken { .. } => "request another file name, or leave the container's own file out",
            TmpfsError::NoNoswap => {
                "noswap = \"prefer\" under [deliver] in the settings goes on without; then keep swap off or encrypted"
            }
            TmpfsError::Syscall(error) => return error.hint(),
            _ => return None,
        };
        Some(hint.to_owned())
    }

    fn is_for_users(&self) -> bool {
        matches!(self, TmpfsError::Taken { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deliver::testing::is_root;
    use std::error::Error;
    use std::io::Read;
    use std::os::unix::fs::MetadataExt;

    const OPTIONS: TmpfsOptions<'_> =
        TmpfsOptions { files: 2, bytes: 5000, label: None, root: None, noswap: Noswap::Prefer };
    const OWNER: Owner = Owner { uid: 1000, gid: 1001 };

    fn write(tmpfs: &Tmpfs, name: &str, content: &[u8]) -> Result<(), TmpfsError> {
        tmpfs.write(&name.parse().unwrap(), &Secret::new(content.to_vec()), OWNER)
    }

    fn open(mount: &OwnedFd, name: &str, flags: OFlags) -> Result<File, Errno> {
        rustix::fs::openat(mount, name, flags | OFlags::CLOEXEC, Mode::RUSR).map(File::from)
    }

    #[test]
    fn has_room_for_whole_pages_and_never_for_nothing() {
        let page = rustix::param::page_size();
        let size = |files, bytes| TmpfsOptions { files, bytes, ..OPTIONS }.size_bytes();
        assert_eq!(size(0, 0), page);
        assert!(size(3, 3 * page) >= 3 * page && size(2, page + 1) >= 3 * page);
        assert_eq!(TmpfsOptions { files: usize::MAX, ..OPTIONS }.inodes(1), usize::MAX);
    }

    #[test]
    fn holds_what_was_written_and_no_longer_changes() {
        if !is_root() {
            return;
        }
        let tmpfs = Tmpfs::create(&OPTIONS, Placeholders::default()).unwrap();
        write(&tmpfs, "one", b"first").unwrap();
        write(&tmpfs, "two", &[7; 4995]).unwrap();
        let frozen = tmpfs.freeze().unwrap();

        let mut file = open(&frozen.mount, "one", OFlags::RDONLY).unwrap();
        let metadata = file.metadata().unwrap();
        assert_eq!((metadata.uid(), metadata.gid(), metadata.mode()), (1000, 1001, 0o100_400));
        let mut content = String::new();
        file.read_to_string(&mut content).unwrap();
        assert_eq!(content, "first");

        assert_eq!(open(&frozen.mount, "one", OFlags::WRONLY).unwrap_err(), Errno::ROFS);
        assert_eq!(open(&frozen.mount, "new", OFlags::CREATE | OFlags::WRONLY).unwrap_err(), Errno::ROFS);
        assert_eq!(rustix::fs::fchmod(&file, Mode::RWXU).unwrap_err(), Errno::ROFS);
    }

    #[test]
    fn refuses_a_second_file_of_the_same_name() {
        if !is_root() {
            return;
        }
        let tmpfs = Tmpfs::create(&OPTIONS, Placeholders::default()).unwrap();
        write(&tmpfs, "one", b"first").unwrap();
        let error = write(&tmpfs, "one", b"second").unwrap_err();
        assert_eq!(error.to_string(), r#"openat("one")"#);
        assert_eq!(error.source().unwrap().to_string(), "File exists (EEXIST)");
    }

    #[test]
    fn has_no_room_for_more_than_was_announced() {
        if !is_root() {
            return;
        }
        let tmpfs = Tmpfs::create(&OPTIONS, Placeholders::default()).unwrap();
        let error = write(&tmpfs, "big", &[0; 1 << 20]).unwrap_err();
        assert_eq!(error.to_string(), r#"write("big")"#);
    }

    #[test]
    fn ignores_a_label_where_there_is_no_selinux() {
        let selinux = std::fs::read_to_string("/proc/filesystems").unwrap().contains("selinuxfs");
        if !is_root() || selinux {
            return;
        }
        let label = Some("system_u:object_r:container_file_t:s0:c1,c2");
        let tmpfs = Tmpfs::create(&TmpfsOptions { label, ..OPTIONS }, Placeholders::default()).unwrap();
        write(&tmpfs, "one", b"first").unwrap();
        tmpfs.freeze().unwrap();
    }
}
