//! Whether the kernel can replace the delivery of a running container.

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, fsconfig_create, fsmount, fsopen, move_mount,
};

use super::TARGET;
use super::swap::BY_DESCRIPTOR;
use crate::fault::{Class, Fault};

/// Checks that the kernel can replace a delivery in a running container.
///
/// # Errors
/// Linux before 6.5 cannot; before 6.15 it cannot carry mounts over.
pub fn require_replace(carries: bool) -> Result<(), UnsupportedError> {
    let missing = "/nonexistent/oci-secrets";
    match move_mount(CWD, missing, CWD, "/", MoveMountFlags::MOVE_MOUNT_BENEATH) {
        Err(Errno::INVAL) => Err(UnsupportedError::Replace),
        // The flag is known; that there is no such mount is found out later.
        _ if !carries => Ok(()),
        _ => match mount_on_detached() {
            Err(Errno::INVAL) => Err(UnsupportedError::Carry),
            _ => Ok(()),
        },
    }
}

/// Mounts a tmpfs without a path on another one.
fn mount_on_detached() -> rustix::io::Result<()> {
    let tmpfs = || {
        let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_create(&context)?;
        fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
    };
    move_mount(tmpfs()?, "", tmpfs()?, "", BY_DESCRIPTOR)
}

/// Why a host cannot update running containers.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnsupportedError {
    /// The kernel is too old.
    #[error("cannot update the files of running containers: it needs Linux 6.5")]
    Replace,
    /// The kernel is too old for a container with mounts of its own.
    #[error("cannot update the files of a running container with mounts below {TARGET}: it needs Linux 6.15")]
    Carry,
}

impl Fault for UnsupportedError {
    fn class(&self) -> Class {
        Class::Kernel
    }

    fn hint(&self) -> Option<String> {
        Some("without the annotation run.secrets.update, the container keeps the files of its start".into())
    }
}
