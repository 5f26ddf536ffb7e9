//! Makes one system call of a program fail, by strace: the n-th of its kind in each thread.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use super::sandbox;

/// A run that takes longer has no deadline: those of the programs are a fraction of it.
const PATIENCE: Duration = Duration::from_secs(30);

/// With this variable, every call fails with every error. Otherwise one call of each kind does, and each error occurs.
const ALL: &str = "OCI_SECRETS_ALL_FAULTS";

/// The last call before ours that can fail: until then, the loader and the standard library report errors.
const LAST_OF_LIBRARIES: &str = "sigaltstack({";

/// What calls fail with. Calls that cannot fail, or whose failure the standard library takes for a broken process, are not listed:
/// `brk`, `munmap`, and the `fcntl` by which a debug build checks each descriptor that it closes. Nor is `close`: the kernel closes the
/// descriptor whatever it returns, and strace does not, so that a pipe stays open whose end somebody waits for.
///
/// Reads and writes do not fail with `EAGAIN`. The kernel returns it to a program that has to wait, and reports the end of the wait. strace
/// returns it where nothing is waited for, so that the report never comes. Calls for sockets, which never wait, do not fail with `EINTR`.
const ERRORS: &[(&str, &[&str])] = &[
    ("accept4", &["EMFILE", "ENFILE", "ENOMEM", "ECONNABORTED"]),
    ("access", &["EIO"]),
    ("bind", &["EADDRINUSE", "ENOMEM"]),
    ("chdir", &["EACCES", "EIO"]),
    ("chmod", &["EIO", "EPERM"]),
    ("clone", &["EAGAIN"]),
    ("clone3", &["EAGAIN", "ENOMEM"]),
    ("connect", &["ECONNREFUSED", "EACCES"]),
    ("epoll_create1", &["EMFILE", "ENOMEM"]),
    ("epoll_ctl", &["ENOSPC", "ENOMEM"]),
    ("epoll_wait", &["EINTR"]),
    ("epoll_pwait", &["EINTR"]),
    ("eventfd2", &["EMFILE", "ENOMEM"]),
    ("fallocate", &["ENOSPC", "EINTR"]),
    ("fchmod", &["EIO", "EPERM"]),
    ("fchown", &["EIO", "EPERM", "ENOSPC"]),
    ("fdatasync", &["EIO", "ENOSPC"]),
    ("flock", &["EINTR", "ENOLCK"]),
    ("fsconfig", &["EINVAL", "ENOMEM", "EPERM"]),
    ("fsmount", &["EMFILE", "ENOMEM", "EPERM"]),
    ("fsopen", &["EMFILE", "ENODEV", "ENOMEM", "EPERM"]),
    ("fspick", &["EMFILE", "ENOMEM", "EPERM"]),
    ("fstat", &["EIO"]),
    ("fstatfs", &["EIO", "EINTR"]),
    ("fsync", &["EIO", "ENOSPC"]),
    ("ftruncate", &["EINTR", "EIO", "ENOSPC"]),
    ("getdents64", &["EIO", "ENOENT"]),
    ("getrandom", &["EINTR"]),
    ("getpeername", &["ENOTCONN"]),
    ("getsockname", &["EACCES"]),
    ("getsockopt", &["EACCES"]),
    ("linkat", &["EIO", "ENOSPC"]),
    ("listen", &["EACCES"]),
    ("add_key", &["EDQUOT", "ENOMEM", "EPERM"]),
    ("keyctl", &["EDQUOT", "ENOMEM", "EPERM"]),
    ("lseek", &["EIO"]),
    ("madvise", &["EAGAIN", "EINVAL"]),
    ("mkdir", &["EROFS", "ENOSPC"]),
    ("mkdirat", &["EROFS", "ENOSPC"]),
    ("mlockall", &["ENOMEM", "EPERM"]),
    ("mmap", &["ENOMEM"]),
    ("mount", &["ENOMEM", "EPERM"]),
    ("mount_setattr", &["EINVAL", "EPERM"]),
    ("move_mount", &["EINVAL", "ENOMEM", "EPERM"]),
    ("mprotect", &["ENOMEM"]),
    ("mremap", &["ENOMEM"]),
    ("newfstatat", &["EIO", "ENOMEM"]),
    ("open", &["EMFILE", "ENFILE", "EINTR", "EIO", "ENOMEM"]),
    ("open_tree", &["EMFILE", "EINVAL", "ENOMEM"]),
    ("openat", &["EMFILE", "EINTR", "EIO", "ENOMEM", "EACCES", "ENOENT"]),
    ("openat2", &["EMFILE", "EINTR", "EAGAIN", "ENOMEM", "EACCES"]),
    ("pidfd_open", &["EMFILE", "ENOMEM", "ESRCH"]),
    ("poll", &["EINTR", "ENOMEM"]),
    ("ppoll", &["EINTR", "ENOMEM"]),
    ("prctl", &["EPERM"]),
    ("pread64", &["EINTR", "EIO"]),
    ("pwrite64", &["EINTR", "EIO", "ENOSPC"]),
    ("read", &["EINTR", "EIO", "ENOMEM"]),
    ("readlink", &["EIO", "EACCES", "ENOMEM"]),
    ("readlinkat", &["EIO", "ENOMEM"]),
    ("recvfrom", &["ECONNRESET", "ENOMEM"]),
    ("recvmsg", &["ECONNRESET", "ENOMEM"]),
    ("rename", &["EIO", "ENOSPC"]),
    ("renameat", &["EIO", "ENOSPC"]),
    ("renameat2", &["EIO", "ENOSPC"]),
    ("sched_getaffinity", &["EINVAL"]),
    ("sendmsg", &["EPIPE", "ENOBUFS"]),
    ("sendto", &["EPIPE", "ENOBUFS"]),
    ("setns", &["ENOMEM", "EPERM"]),
    ("setsockopt", &["ENOMEM"]),
    ("socket", &["EMFILE", "ENFILE", "ENOBUFS", "EACCES"]),
    ("socketpair", &["EMFILE", "ENFILE"]),
    ("statx", &["EIO", "ENOMEM", "EACCES"]),
    ("umount2", &["EINVAL", "EPERM"]),
    ("unlink", &["EIO"]),
    ("unlinkat", &["EIO"]),
    ("unshare", &["ENOMEM", "EPERM"]),
    ("write", &["EINTR", "EIO", "ENOSPC", "EPIPE"]),
    ("writev", &["EIO", "ECONNRESET"]),
];

/// One system call that fails.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    pub(crate) call: &'static str,
    nth: usize,
    error: &'static str,
}

impl Fault {
    /// The program of a command, in which the call fails.
    pub(crate) fn inject(&self, command: &Command) -> Command {
        let Fault { call, nth, error } = self;
        let (filter, fault) = (format!("trace={call}"), format!("inject={call}:error={error}:when={nth}"));
        // The kernel stops the program at this call alone, which makes it ten times as fast.
        traced(command, &["--seccomp-bpf", "-qq", "-o", "/dev/null", "-e", &filter, "-e", &fault])
    }

    /// Whether it takes memory from the program, which ends it without a message of ours.
    pub(crate) fn is_of_memory(&self) -> bool {
        ["mmap", "mremap", "mprotect"].contains(&self.call)
    }
}

/// The program of a command, of which strace writes all calls to a file.
pub(crate) fn logged(command: &Command, log: &Path) -> Command {
    // With the paths of descriptors, but without what is read and written, which has the secrets.
    traced(command, &["--quiet=attach,personality", "-y", "-s", "0", "-o", log.to_str().unwrap()])
}

/// strace as a grandchild: the program is the child, and the end of a process that it leaves behind need not be waited for.
fn traced(command: &Command, options: &[&str]) -> Command {
    let mut strace = Command::new(sandbox::find("strace").unwrap());
    strace.env_clear().args(["-D", "-f", "-e", "signal=none"]).args(options);
    strace.arg("--").arg(command.get_program()).args(command.get_args());
    strace.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    if let Some(directory) = command.get_current_dir() {
        strace.current_dir(directory);
    }
    strace
}

/// The faults of a logged run.
pub(crate) fn of_run(log: &Path) -> Vec<Fault> {
    let text = whole(log);
    let calls = Calls::of(&text);
    let is_all = std::env::var_os(ALL).is_some();
    let mut faults = Vec::new();
    for (call, errors) in ERRORS {
        let Some(kinds) = calls.0.get(*call) else { continue };
        let fault = |nth: usize, error| Fault { call, nth, error };
        if is_all {
            let nths: BTreeSet<usize> = kinds.values().flatten().copied().collect();
            faults.extend(nths.into_iter().flat_map(|nth| errors.iter().map(move |error| fault(nth, error))));
        } else {
            let first: Vec<usize> = kinds.values().map(|nths| nths[0]).collect();
            let tries = 0..first.len().max(errors.len());
            faults.extend(tries.map(|at| fault(first[at % first.len()], errors[at % errors.len()])));
        }
    }
    faults
}

/// The log, once the first of its processes has ended.
fn whole(log: &Path) -> String {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let text = String::from_utf8_lossy(&fs::read(log).unwrap_or_default()).into_owned();
        let first = text.split_whitespace().next().unwrap_or_default();
        if text.lines().any(|line| line.starts_with(first) && line.contains(" +++ exited with ")) {
            return text;
        }
        assert!(Instant::now() < deadline, "the program has not ended: {text}");
        sleep(Duration::from_millis(5));
    }
}

/// By name and by kind: the numbers of the calls in their threads.
struct Calls<'l>(BTreeMap<&'l str, BTreeMap<String, Vec<usize>>>);

impl<'l> Calls<'l> {
    fn of(log: &'l str) -> Calls<'l> {
        let (mut calls, mut counts) = (Calls(BTreeMap::new()), BTreeMap::<(&str, &str), usize>::new());
        let (mut is_ours, mut others) = (false, BTreeSet::new());
        for line in log.lines() {
            let Some((thread, call)) = line.split_once(' ') else { continue };
            let Some((name, arguments)) = call.trim_start().split_once('(') else { continue };
            // The program becomes another one, whose calls are not ours.
            if is_ours && name == "execve" {
                others.insert(thread);
            }
            if others.contains(thread) {
                continue;
            }
            let nth = counts.entry((name, thread)).or_default();
            *nth += 1;
            if is_ours {
                calls.0.entry(name).or_default().entry(kind(arguments)).or_default().push(*nth);
            }
            is_ours |= line.contains(LAST_OF_LIBRARIES);
        }
        assert!(is_ours, "no {LAST_OF_LIBRARIES}");
        calls
    }
}

/// The arguments without the numbers, addresses and random names that differ between runs, and between calls in the same place.
fn kind(arguments: &str) -> String {
    let arguments = arguments.rsplit_once(") = ").map_or(arguments, |(arguments, _)| arguments);
    let words = arguments.split_inclusive(|character: char| !character.is_ascii_alphanumeric());
    words.map(|word| if word.contains(|c: char| c.is_ascii_digit()) { "#" } else { word }).collect()
}

/// Runs a command with this input to completion.
///
/// # Panics
/// If it does not end.
pub(crate) fn run(command: &mut Command, input: &[u8]) -> Output {
    use std::os::unix::process::CommandExt as _;
    // A process that is left behind has these files open, too.
    let (stdout, stderr) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    command.stdout(stdout.try_clone().unwrap()).stderr(stderr.try_clone().unwrap());
    let mut child = command.process_group(0).stdin(Stdio::piped()).spawn().unwrap();
    // The command may exit before it reads its input.
    let _ = child.stdin.take().unwrap().write_all(input);
    let deadline = Instant::now() + PATIENCE;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            let _ = kill_process_group(Pid::from_child(&child), Signal::KILL);
            panic!("it does not end: {command:?}");
        }
        sleep(Duration::from_millis(1));
    }
    Output { status: child.wait().unwrap(), stdout: content(stdout), stderr: content(stderr) }
}

/// What was written to a file.
pub(crate) fn content(mut file: File) -> Vec<u8> {
    let mut bytes = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    bytes
}

/// What is wrong with the message of a program that has failed; its lines begin with `PROGRAM: `.
pub(crate) fn faults_of_message(program: &str, output: &Output, is_of_memory: bool) -> Option<String> {
    let text = String::from_utf8_lossy(&output.stderr);
    let errors = text.lines().filter(|line| line.starts_with(&format!("{program}: error: "))).count();
    // Where an allocation fails, the standard library aborts, and the loader has a code of its own.
    let is_aborted = is_of_memory && matches!(output.status.code(), None | Some(127));
    let is_reported = matches!(output.status.code(), Some(64 | 65 | 66 | 69 | 71 | 77 | 78)) && errors == 1;
    let is_fine = (is_aborted || is_reported && text.lines().count() <= 2) && !text.contains("bug of ours");
    (!is_fine).then(|| format!("{:?}: {text}", output.status))
}
