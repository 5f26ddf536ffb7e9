//! What a frozen tmpfs looks like.

use std::os::fd::AsFd;

use rustix::fs::StatVfsMountFlags;

use crate::errno::{SyscallError, failed};
use crate::run_directory::TMPFS_MAGIC;

/// Whether a descriptor leads to a tmpfs as [`Tmpfs::freeze`](super::Tmpfs::freeze) leaves it.
pub(super) fn is_frozen(descriptor: impl AsFd) -> Result<bool, SyscallError> {
    let expected =
        StatVfsMountFlags::RDONLY | StatVfsMountFlags::NOSUID | StatVfsMountFlags::NODEV | StatVfsMountFlags::NOEXEC;
    let filesystem = rustix::fs::fstatfs(&descriptor).map_err(failed("fstatfs(tmpfs)"))?;
    let flags = rustix::fs::fstatvfs(&descriptor).map_err(failed("fstatfs(tmpfs)"))?.f_flag;
    Ok(filesystem.f_type == TMPFS_MAGIC && flags.contains(expected))
}
