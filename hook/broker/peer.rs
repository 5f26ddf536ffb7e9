//! Who is at the other end of a connection, and which containers are theirs.
//!
//! root of the host speaks for every container. Another user speaks for containers in user namespaces that hold no ids but those of the
//! user: the ids of the container's namespace must all be ids of the namespace in which the hook runs, as the initial namespace shows
//! both, and the kernel lets a user map only ids that are the user's, by `/etc/subuid` or by being the user's own.

use std::fs::metadata;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;

use nix::errno::Errno;
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::{PeerCredentials, PeerPidfd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Pid;

use super::wire::Descriptor;
use crate::container::{IdMaps, Process, ProcessError, Procfs, ProcfsError};
use crate::errno::{SyscallError, failed};
use crate::fault::{Class, Fault};

/// The process that has connected, as the kernel knows it.
pub struct Peer {
    /// Its user.
    pub uid: u32,
    pid: i32,
    identity: Identity,
}

/// What distinguishes a process from a later one with its number.
enum Identity {
    /// From Linux 6.5 on.
    Pidfd(OwnedFd),
    /// The field `starttime` of `/proc/<pid>/stat`; `None` if the process has ended.
    StartTime(Option<String>),
}

impl Peer {
    /// Asks the kernel, at once after the connection was accepted.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn of(socket: &impl AsFd) -> Result<Peer, PeerError> {
        let credentials = getsockopt(socket, PeerCredentials).map_err(failed("getsockopt(SO_PEERCRED)"))?;
        let pid = credentials.pid();
        let identity = match getsockopt(socket, PeerPidfd) {
            Ok(pidfd) => Identity::Pidfd(pidfd),
            Err(Errno::ENOPROTOOPT) => Identity::StartTime(start_time(&Procfs::open()?, pid)),
            // It has ended: its number may be another's already.
            Err(_) => Identity::StartTime(None),
        };
        Ok(Peer { uid: credentials.uid(), pid, identity })
    }

    /// Whether it is root of this host.
    pub fn is_root(&self) -> bool {
        self.uid == 0
    }

    /// Takes the process of a container for which this peer may speak.
    ///
    /// # Errors
    /// It is another user's, or has ended.
    pub fn container(&self, descriptor: Descriptor) -> Result<Process, PeerError> {
        let procfs = Procfs::open()?;
        let pid = descriptor.borrow().map(|descriptor| procfs.pid(descriptor)).transpose()?.flatten();
        let pidfd = pid.and_then(|_| descriptor.into_owned()).ok_or(ProcessError::NoPidfd)?;
        let process = Process::of_pidfd(pidfd)?;
        if self.is_root() {
            return Ok(process);
        }
        let own = self.ids()?;
        match process.ids() {
            Some(ids) if own.have_user(self.uid) && own.cover(ids) => Ok(process),
            _ => Err(PeerError::Foreign { uid: self.uid }),
        }
    }

    /// The ids of the user namespace in which this peer runs.
    fn ids(&self) -> Result<IdMaps, PeerError> {
        let procfs = Procfs::open()?;
        let pid = Pid::from_raw(self.pid).filter(|_| self.pid > 0).ok_or(PeerError::Gone)?;
        let namespace =
            |of: &str| metadata(format!("/proc/{of}/ns/user")).map(|namespace| (namespace.dev(), namespace.ino()));
        let theirs = namespace(&self.pid.to_string()).map_err(|_| PeerError::Gone)?;
        let ids = IdMaps::read(&procfs, pid).map_err(ProcessError::from)?;
        let user = uid(&procfs, self.pid);
        // First what is said of its number, then the proof that the number is still its own.
        if !self.is_alive(&procfs) || user != Some(self.uid) {
            return Err(PeerError::Gone);
        }
        // No user can make a namespace that has root of the host: one that has was made for something else.
        if namespace("self").map_err(failed("stat(\"/proc/self/ns/user\")"))? == theirs || ids.have_user(0) {
            return Err(PeerError::Outside { uid: self.uid });
        }
        Ok(ids)
    }

    fn is_alive(&self, procfs: &Procfs) -> bool {
        match &self.identity {
            Identity::Pidfd(pidfd) => {
                matches!(poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&Timespec::default())), Ok(0))
            }
            Identity::StartTime(time) => time.is_some() && start_time(procfs, self.pid) == *time,
        }
    }
}

/// When a process began.
pub(super) fn start_time(procfs: &Procfs, pid: i32) -> Option<String> {
    let stat = procfs.read(&format!("{pid}/stat")).ok()?;
    let text = String::from_utf8_lossy(&stat);
    // The name, in parentheses, may contain anything.
    let (_, fields) = text.rsplit_once(')')?;
    fields.split_whitespace().nth(19).map(str::to_owned)
}

/// The real user of a process.
fn uid(procfs: &Procfs, pid: i32) -> Option<u32> {
    let status = procfs.read(&format!("{pid}/status")).ok()?;
    let text = String::from_utf8_lossy(&status);
    text.lines().find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().next()?.parse().ok())
}

/// Why a peer gets nothing.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are named for what they hold")]
pub enum PeerError {
    /// The process that has connected is no more.
    #[error("the process that has asked has ended")]
    Gone,
    /// A user's process that is no hook of a container engine.
    #[error("refusing to answer uid {uid}: it asks from outside of a user namespace of its own")]
    Outside { uid: u32 },
    /// The container is not the peer's.
    #[error("refusing to deliver to the container: its process is not in a user namespace of uid {uid}")]
    Foreign { uid: u32 },
    /// The container's process.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// A system call failed.
    #[error(transparent)]
    Syscall(#[from] SyscallError),
    /// `/proc` did not answer.
    #[error(transparent)]
    Procfs(#[from] ProcfsError),
}

impl Fault for PeerError {
    fn class(&self) -> Class {
        match self {
            PeerError::Gone | PeerError::Outside { .. } | PeerError::Foreign { .. } => Class::NotPermitted,
            PeerError::Process(error) => error.class(),
            PeerError::Syscall(_) | PeerError::Procfs(_) => Class::Kernel,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            PeerError::Outside { .. } => Some("the broker serves the hooks of root and of rootless podman".into()),
            PeerError::Process(error) => error.hint(),
            PeerError::Syscall(error) => error.hint(),
            _ => None,
        }
    }

    fn is_for_users(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn knows_its_own_process_by_either_way() {
        let (one, other) = UnixStream::pair().unwrap();
        let peer = Peer::of(&one).unwrap();
        assert_eq!((peer.uid, peer.pid), (rustix::process::getuid().as_raw(), std::process::id().cast_signed()));
        let procfs = Procfs::open().unwrap();
        assert!(peer.is_alive(&procfs));
        let time = start_time(&procfs, peer.pid);
        assert!(time.as_ref().is_some_and(|time| time.parse::<u64>().is_ok()), "{time:?}");
        for (time, is_alive) in [(time, true), (Some("1".to_owned()), false), (None, false)] {
            let peer = Peer { identity: Identity::StartTime(time), uid: 0, pid: peer.pid };
            assert_eq!(peer.is_alive(&procfs), is_alive);
        }
        drop(other);
    }
}
