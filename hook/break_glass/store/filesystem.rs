//! The filesystem of the store: in memory, never swapped out, for root only.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{FsWord, Mode, OFlags, fstat, fstatfs, openat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen,
};
use zeroize::Zeroizing;

use crate::errno::{SyscallError, failed};
use crate::run_directory::TMPFS_MAGIC;

/// Where it is mounted.
pub(super) const STORE: &str = "/run/oci-secrets/break-glass";

const RAMFS_MAGIC: FsWord = 0x8584_58f6;
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// A filesystem in memory for root only that is never swapped out: a tmpfs with `noswap`, or before Linux 6.4 a ramfs.
pub(super) fn detached() -> Result<OwnedFd, SyscallError> {
    let open = |name: &str| fsopen(name, FsOpenFlags::FSOPEN_CLOEXEC).map_err(failed(format!("fsopen({name:?})")));
    let mut context = open("tmpfs")?;
    if fsconfig_set_flag(&context, "noswap").is_err() {
        context = open("ramfs")?;
    }
    let set = |key: &str, value: &str| {
        fsconfig_set_string(&context, key, value).map_err(failed(format!("fsconfig({key:?})")))
    };
    set("source", "oci-secrets-break-glass")?;
    set("mode", "0700")?;
    fsconfig_create(&context).map_err(failed("fsconfig(FSCONFIG_CMD_CREATE)"))?;
    let attributes =
        MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(failed("fsmount"))
}

pub(super) fn is_ours(directory: &OwnedFd) -> Result<bool, SyscallError> {
    let metadata = fstat(directory).map_err(failed("fstat(store)"))?;
    let kind = fstatfs(directory).map_err(failed("fstatfs(store)"))?.f_type;
    let is_memory = kind == TMPFS_MAGIC || kind == RAMFS_MAGIC;
    Ok(metadata.st_uid == 0 && metadata.st_mode & 0o077 == 0 && is_memory)
}

pub(super) fn read(directory: impl AsFd, name: &str) -> Result<Zeroizing<Vec<u8>>, Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = File::from(openat(directory, name, flags, Mode::empty())?);
    let mut bytes = Zeroizing::new(Vec::new());
    file.take(FILE_BYTES_MAX)
        .read_to_end(&mut bytes)
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    Ok(bytes)
}

pub(super) fn write(directory: impl AsFd, name: &str, content: &[u8]) -> Result<(), SyscallError> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(directory, name, flags, Mode::RUSR).map_err(failed("openat(store)"))?;
    File::from(file).write_all(content).map_err(failed("write(store)"))
}
