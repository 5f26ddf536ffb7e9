//! The container's first process, by descriptor: its mount namespace, its mounts, its owners.

use std::fs::File;
use std::io::Seek;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::fstat;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::id_map::{IdMapError, IdMaps, valid};
use super::{Mounts, MountsError, Owner, Procfs, ProcfsError, procfs, sandboxed};
use crate::errno::{SyscallError, failed};
use crate::fault::{Class, Fault};

/// What a process is called that CRIU makes into that of a checkpoint, until it is done.
const RESTORER: &[u8] = b"criu\n";

/// The container's first process and its namespaces.
///
/// All of it was taken while one and the same process lived, whatever becomes of its number.
#[derive(Debug)]
pub struct Process {
    pidfd: OwnedFd,
    namespaces: Namespaces,
}

#[derive(Debug)]
struct Namespaces {
    mount: File,
    mountinfo: File,
    /// `None` if the user namespace is our own, where ids need no translation.
    ids: Option<IdMaps>,
}

impl Process {
    /// Takes hold of a process and its namespaces.
    ///
    /// # Errors
    /// When it is gone, when the kernel refuses, or when its mount namespace is our own: a container without one of its own
    /// would leave its secrets on the host. When it is being restored from a checkpoint: runc calls its hooks before the
    /// container's mounts are there, and CRIU then brings the files of the checkpoint. When it is not the container's, but that of a
    /// sandboxed runtime.
    pub fn open(pid: Pid) -> Result<Process, ProcessError> {
        let procfs = Procfs::open()?;
        // Before the pidfd: a thread has none.
        if let Some(runtime) = sandboxed::runtime(&procfs, pid) {
            return Err(ProcessError::Sandboxed { runtime });
        }
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(|errno| match errno {
            rustix::io::Errno::SRCH => ProcessError::Gone,
            other => failed(format!("pidfd_open({})", pid.as_raw_nonzero()))(other).into(),
        })?;
        Process::new(&procfs, pidfd, pid)
    }

    /// Takes hold of the process of a pidfd that another process has sent.
    ///
    /// # Errors
    /// As [`Process::open`]; or it is another descriptor, or of a process that this process namespace does not have.
    pub fn of_pidfd(pidfd: OwnedFd) -> Result<Process, ProcessError> {
        let procfs = Procfs::open()?;
        match procfs.pid(&pidfd)? {
            Some(-1) => Err(ProcessError::Gone),
            Some(pid @ 1..) => Process::new(&procfs, pidfd, Pid::from_raw(pid).ok_or(ProcessError::NoPidfd)?),
            _ => Err(ProcessError::NoPidfd),
        }
    }

    fn new(procfs: &Procfs, pidfd: OwnedFd, pid: Pid) -> Result<Process, ProcessError> {
        let namespaces = Namespaces::open(procfs, pid);
        // First the files, then the proof that they are this process's: a pidfd, unlike a number, never becomes another's.
        if !is_alive(&pidfd) {
            return Err(ProcessError::Gone);
        }
        Ok(Process { pidfd, namespaces: namespaces? })
    }

    /// Its pidfd.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// The ids of its user namespace; `None` if that is our own.
    pub fn ids(&self) -> Option<&IdMaps> {
        self.namespaces.ids.as_ref()
    }

    /// Whether the process still runs; `false` as soon as it has ended, reaped or not.
    pub fn is_alive(&self) -> bool {
        is_alive(&self.pidfd)
    }

    /// Its mount namespace, for `setns`; the descriptor keeps the namespace even when the process has ended.
    pub fn mount_namespace(&self) -> BorrowedFd<'_> {
        self.namespaces.mount.as_fd()
    }

    /// The mounts of its mount namespace at this moment.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn mounts(&self) -> Result<Mounts, ProcessError> {
        let mut file = &self.namespaces.mountinfo;
        let content = file.rewind().and_then(|()| procfs::read(file)).map_err(failed(r#"read("mountinfo")"#))?;
        Ok(Mounts::parse(&content)?)
    }

    /// The ids of our user namespace for an owner in the container's.
    ///
    /// # Errors
    /// When the container's user namespace has no such user or group.
    pub fn host_owner(&self, owner: Owner) -> Result<Owner, ProcessError> {
        let (uid, gid) = match &self.namespaces.ids {
            None => (valid(owner.uid), valid(owner.gid)),
            Some(ids) => ids.outside(owner),
        };
        Ok(Owner {
            uid: uid.ok_or(ProcessError::UnmappedUid { uid: owner.uid })?,
            gid: gid.ok_or(ProcessError::UnmappedGid { gid: owner.gid })?,
        })
    }

    /// The container's root in ids of our user namespace, `None` if both user namespaces are the same.
    ///
    /// A filesystem of the container's user namespace lets only such users create anything (`EOVERFLOW` otherwise).
    ///
    /// # Errors
    /// When the container's user namespace has no root.
    pub fn foreign_root(&self) -> Result<Option<Owner>, ProcessError> {
        let root = self.namespaces.ids.is_some().then(|| self.host_owner(Owner { uid: 0, gid: 0 }));
        root.transpose()
    }

    /// Whether an owner in ids of our user namespace has ids in the container's.
    pub fn has_owner(&self, owner: Owner) -> bool {
        self.namespaces.ids.as_ref().is_none_or(|ids| ids.have_owner(owner))
    }
}

impl Namespaces {
    fn open(procfs: &Procfs, pid: Pid) -> Result<Namespaces, ProcessError> {
        let of = |name: &str| format!("{}/{name}", pid.as_raw_nonzero());
        if procfs.read(&of("comm"))? == RESTORER {
            return Err(ProcessError::Restored);
        }
        let mount = procfs.file(&of("ns/mnt"))?;
        if is_same(&mount, &procfs.file("self/ns/mnt")?)? {
            return Err(ProcessError::OwnMountNamespace);
        }
        let user_is_ours = is_same(&procfs.file(&of("ns/user"))?, &procfs.file("self/ns/user")?)?;
        Ok(Namespaces {
            mount,
            mountinfo: procfs.file(&of("mountinfo"))?,
            // This process's own map is shown in ids of the parent namespace, in which the files are not owned.
            ids: (!user_is_ours).then(|| IdMaps::read(procfs, pid)).transpose()?,
        })
    }
}

/// A process's pidfd becomes readable when it ends.
fn is_alive(pidfd: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
    matches!(poll(&mut fds, Some(&Timespec::default())), Ok(0))
}

fn is_same(one: &File, other: &File) -> Result<bool, SyscallError> {
    let one = fstat(one).map_err(failed("fstat(namespace)"))?;
    let other = fstat(other).map_err(failed("fstat(namespace)"))?;
    Ok((one.st_dev, one.st_ino) == (other.st_dev, other.st_ino))
}

/// Why the container's process cannot be used.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are named for what they hold")]
pub enum ProcessError {
    /// It has ended.
    #[error("the container's process has ended")]
    Gone,
    /// Another descriptor than a process's was sent, or the process lives in another process namespace.
    #[error("cannot use the descriptor of the container's process: it is of no process that can be seen from here")]
    NoPidfd,
    /// The container was configured without a mount namespace.
    #[error("refusing to enter the container: it has no mount namespace of its own")]
    OwnMountNamespace,
    /// It comes from a checkpoint.
    #[error("refusing to enter the container: it is being restored from a checkpoint, which has files of its own")]
    Restored,
    /// It runs on a kernel of its own.
    #[error(
        "refusing to deliver to a container of {runtime}: its sandbox has a kernel and mounts of its own, which the hook cannot reach"
    )]
    Sandboxed { runtime: &'static str },
    /// A user id that the container's user namespace lacks.
    #[error("cannot map uid {uid}: the container's user namespace has no such id")]
    UnmappedUid { uid: u32 },
    /// A group id that the container's user namespace lacks.
    #[error("cannot map gid {gid}: the container's user namespace has no such id")]
    UnmappedGid { gid: u32 },
    /// The ids of its user namespace.
    #[error(transparent)]
    IdMap(#[from] IdMapError),
    /// `/proc` did not answer.
    #[error(transparent)]
    Procfs(#[from] ProcfsError),
    /// A system call failed.
    #[error(transparent)]
    Syscall(#[from] SyscallError),
    /// The list of mounts is not what the manual describes.
    #[error(transparent)]
    Mounts(#[from] MountsError),
}

impl Fault for ProcessError {
    fn class(&self) -> Class {
        match self {
            ProcessError::OwnMountNamespace
            | ProcessError::Restored
            | ProcessError::NoPidfd
            | ProcessError::Sandboxed { .. } => Class::NotPermitted,
            ProcessError::Gone | ProcessError::UnmappedUid { .. } | ProcessError::UnmappedGid { .. } => Class::Data,
            ProcessError::IdMap(_) | ProcessError::Procfs(_) | ProcessError::Syscall(_) | ProcessError::Mounts(_) => {
                Class::Kernel
            }
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            ProcessError::OwnMountNamespace => "give the spec a namespace of type \"mount\"",
            ProcessError::Sandboxed { .. } => {
                "run it with runc or crun; in Kubernetes, with a runtimeClassName of such a handler"
            }
            ProcessError::UnmappedUid { .. } | ProcessError::UnmappedGid { .. } => {
                "map the id in the container's user namespace, or run its process as one that is mapped"
            }
            ProcessError::Syscall(error) => return error.hint(),
            _ => return None,
        };
        Some(hint.to_owned())
    }

    fn is_for_users(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{WaitId, WaitIdOptions, waitid};
    use std::os::unix::process::CommandExt as _;
    use std::process::{Child, Command};

    fn pid(child: &Child) -> Pid {
        Pid::from_child(child)
    }

    /// A process in namespaces of its own.
    fn unshared(arguments: &[&str]) -> Child {
        started(Command::new("unshare").args(arguments).args(["sleep", "60"]), "sleep")
    }

    /// Waits until the command has become the program of this name.
    fn started(command: &mut Command, name: &str) -> Child {
        let mut child = command.spawn().unwrap();
        let comm = format!("/proc/{}/comm", child.id());
        while std::fs::read_to_string(&comm).unwrap().trim_end() != name {
            assert_eq!(child.try_wait().unwrap(), None, "{command:?} failed");
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        child
    }

    fn end(mut child: Child) {
        child.kill().unwrap();
        child.wait().unwrap();
    }

    fn is_root() -> bool {
        let root = rustix::process::geteuid().is_root();
        if !root {
            eprintln!("skipped: not root");
        }
        root
    }

    #[test]
    fn takes_a_process_by_its_pidfd_alone() {
        if !is_root() {
            return;
        }
        let child = unshared(&["--mount"]);
        let pidfd = pidfd_open(pid(&child), PidfdFlags::empty()).unwrap();
        let process = Process::of_pidfd(pidfd).unwrap();
        assert!(process.is_alive());
        let again = process.pidfd().try_clone_to_owned().unwrap();
        end(child);
        assert!(matches!(Process::of_pidfd(again), Err(ProcessError::Gone)));
        let other = File::open("/dev/null").unwrap().into();
        assert!(matches!(Process::of_pidfd(other), Err(ProcessError::NoPidfd)));
    }

    #[test]
    fn refuses_a_process_in_our_own_mount_namespace() {
        let child = Command::new("sleep").arg("60").spawn().unwrap();
        assert!(matches!(Process::open(pid(&child)), Err(ProcessError::OwnMountNamespace)));
        end(child);
    }

    #[test]
    fn refuses_a_process_that_has_ended() {
        let mut child = Command::new("true").spawn().unwrap();
        let ended_but_not_reaped = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        waitid(WaitId::Pid(pid(&child)), ended_but_not_reaped).unwrap();
        assert!(matches!(Process::open(pid(&child)), Err(ProcessError::Gone)));
        child.wait().unwrap();
        assert!(matches!(Process::open(pid(&child)), Err(ProcessError::Gone)));
    }

    #[test]
    fn sees_the_mounts_of_the_process_and_its_end() {
        if !is_root() {
            return;
        }
        let mut child = unshared(&["--mount"]);
        let process = Process::open(pid(&child)).unwrap();
        let before = process.mounts().unwrap().iter().count();
        let mount = format!("--mount=/proc/{}/ns/mnt", child.id());
        let status = Command::new("nsenter").args([&mount, "mount", "-t", "tmpfs", "none", "/mnt"]).status();
        assert!(status.unwrap().success());
        assert_eq!(process.mounts().unwrap().iter().count(), before + 1);
        assert_eq!(process.host_owner(Owner { uid: 7, gid: 8 }).unwrap(), Owner { uid: 7, gid: 8 });
        let unmapped = Owner { uid: 0, gid: u32::MAX };
        assert!(matches!(process.host_owner(unmapped), Err(ProcessError::UnmappedGid { gid: u32::MAX })));
        assert_eq!(process.foreign_root().unwrap(), None);
        assert!(process.is_alive());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!process.is_alive());
    }

    #[test]
    fn maps_the_ids_of_another_user_namespace() {
        if !is_root() {
            return;
        }
        let child = unshared(&["--mount", "--user"]);
        std::fs::write(format!("/proc/{}/uid_map", child.id()), "0 1000 10").unwrap();
        std::fs::write(format!("/proc/{}/gid_map", child.id()), "0 2000 10").unwrap();
        let process = Process::open(pid(&child)).unwrap();
        assert_eq!(process.host_owner(Owner { uid: 3, gid: 4 }).unwrap(), Owner { uid: 1003, gid: 2004 });
        assert_eq!(process.foreign_root().unwrap(), Some(Owner { uid: 1000, gid: 2000 }));
        assert!(matches!(process.host_owner(Owner { uid: 10, gid: 0 }), Err(ProcessError::UnmappedUid { uid: 10 })));
        assert!(matches!(process.host_owner(Owner { uid: 0, gid: 10 }), Err(ProcessError::UnmappedGid { gid: 10 })));
        end(child);
    }

    #[test]
    fn maps_ids_through_a_user_namespace_in_another_one() {
        if !is_root() {
            return;
        }
        let outer = unshared(&["--user"]);
        for map in ["uid_map", "gid_map"] {
            std::fs::write(format!("/proc/{}/{map}", outer.id()), "0 1000 100").unwrap();
        }
        let in_outer = || {
            let mut nsenter = Command::new("nsenter");
            nsenter.args(["--target", &outer.id().to_string(), "--user"]);
            nsenter
        };
        let inner = started(in_outer().args(["unshare", "--mount", "--user", "sleep", "60"]), "sleep");
        let of_inner = format!("/proc/{}", inner.id());
        let script = "echo 0 10 5 >$0/uid_map; echo 0 20 5 >$0/gid_map";
        assert!(in_outer().args(["sh", "-ec", script, &of_inner]).status().unwrap().success());
        let process = Process::open(pid(&inner)).unwrap();
        assert_eq!(process.host_owner(Owner { uid: 3, gid: 4 }).unwrap(), Owner { uid: 1013, gid: 1024 });
        end(inner);
        end(outer);
    }

    #[test]
    fn refuses_the_process_of_a_sandboxed_runtime() {
        let child = started(Command::new("sleep").arg0("runsc-sandbox").arg("60"), "sleep");
        // The kernel names the process before it shows the arguments.
        while !std::fs::read(format!("/proc/{}/cmdline", child.id())).unwrap().starts_with(b"runsc") {
            std::thread::yield_now();
        }
        let error = Process::open(pid(&child)).unwrap_err();
        assert!(matches!(error, ProcessError::Sandboxed { runtime: "gVisor" }), "{error:?}");
        end(child);
    }

    /// CRIU does not run everywhere; this is what is seen of a process that it has forked for `runc restore`.
    #[test]
    fn refuses_a_process_that_is_being_restored() {
        if !is_root() {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let criu = directory.path().join("criu");
        std::fs::copy("/bin/sleep", &criu).unwrap();
        let child = started(Command::new("unshare").arg("--mount").arg(&criu).arg("60"), "criu");
        let error = Process::open(pid(&child)).unwrap_err();
        assert!(matches!(error, ProcessError::Restored), "{error:?}");
        end(child);
    }
}
