//! Runs another program: with pipes for its standard streams, and in a process group that ends with it.

use std::cell::RefCell;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::pin::pin;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Weak};

use futures_util::future::{Either, select, try_join4};
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::process::{Pid, PidfdFlags, kill_process_group, pidfd_open};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe::{Receiver, Sender};
use zeroize::Zeroizing;

/// The most that is kept of its standard error. The rest is read and discarded.
const STDERR_BYTES_MAX: usize = 16 * 1024;

const CHUNK_BYTES: usize = 16 * 1024;

/// The result of a program that ended.
pub struct Ended {
    /// Its exit status.
    pub status: ExitStatus,
    /// Its standard output.
    pub output: Zeroizing<Vec<u8>>,
    /// The beginning of its standard error.
    pub complaint: Zeroizing<Vec<u8>>,
}

/// Runs a command to its end, with this input. The result is `None` if it printed more than `bytes_max`. Processes that it left in
/// its group are killed when it ends; all of them are killed if the future is dropped.
///
/// # Errors
/// If it cannot be started, its pipes break, or this process received a signal that ends it. The whole group is killed then.
pub async fn run(command: &mut Command, input: &[u8], bytes_max: usize) -> io::Result<Option<Ended>> {
    // Declared first and so dropped last: a signal may end this process only after the program is gone.
    let mut interrupts = Interrupts::prepare()?;
    let mut running = Running::start(command)?;
    // Not earlier, as the program would inherit the blocked signals. One that arrives in between ends this process alone.
    interrupts.hold()?;
    let answered = pin!(running.answer(input, bytes_max));
    match select(answered, pin!(interrupts.received())).await {
        Either::Left((answer, _)) => answer,
        Either::Right((received, _)) => received.and(Err(rustix::io::Errno::INTR.into())),
    }
}

/// A process and its group. Dropping it kills both.
struct Running {
    child: Child,
    is_over: bool,
}

impl Running {
    fn start(command: &mut Command) -> io::Result<Running> {
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok(Running { child: piped.process_group(0).spawn()?, is_over: false })
    }

    async fn answer(&mut self, input: &[u8], bytes_max: usize) -> io::Result<Option<Ended>> {
        let pid = Pid::from_child(&self.child);
        let gone = Receiver::from_owned_fd_unchecked(pidfd_open(pid, PidfdFlags::empty())?)?;
        let broken = || io::Error::from(rustix::io::Errno::PIPE);
        let mut stdin = Sender::from_owned_fd(OwnedFd::from(self.child.stdin.take().ok_or_else(broken)?))?;
        let mut stdout = Receiver::from_owned_fd(OwnedFd::from(self.child.stdout.take().ok_or_else(broken)?))?;
        let mut stderr = Receiver::from_owned_fd(OwnedFd::from(self.child.stderr.take().ok_or_else(broken)?))?;

        let write = async {
            // A program that ends without reading everything says why on standard error.
            let _ = stdin.write_all(input).await;
            drop(stdin);
            Ok(())
        };
        let complaint = async {
            let mut complaint = Zeroizing::new(Vec::new());
            while let Some(chunk) = chunk(&mut stderr).await? {
                let room = STDERR_BYTES_MAX.saturating_sub(complaint.len());
                complaint.extend(chunk.iter().take(room));
            }
            Ok(complaint)
        };
        let output = async {
            let mut output = Zeroizing::new(Vec::new());
            while let Some(chunk) = chunk(&mut stdout).await? {
                if output.len() + chunk.len() > bytes_max {
                    return Err(Stop::TooLarge);
                }
                output.extend_from_slice(&chunk);
            }
            Ok(output)
        };
        let end = async {
            gone.readable().await?;
            // A process that it left behind may keep the pipes open.
            kill_group(pid);
            Ok(())
        };
        match try_join4(write, output, complaint, end).await {
            Err(Stop::TooLarge) => Ok(None),
            Err(Stop::Io(error)) => Err(error),
            Ok(((), output, complaint, ())) => Ok(Some(Ended { status: self.end()?, output, complaint })),
        }
    }

    /// Kills what is left of the group.
    fn end(&mut self) -> io::Result<ExitStatus> {
        kill_group(Pid::from_child(&self.child));
        self.is_over = true;
        self.child.wait()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.is_over {
            let _ = self.end();
        }
    }
}

/// Until the leader is waited for, no other process can have its id.
fn kill_group(leader: Pid) {
    let _ = kill_process_group(leader, rustix::process::Signal::KILL);
}

/// Why reading ends before the process does.
enum Stop {
    TooLarge,
    Io(io::Error),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Stop {
        Stop::Io(error)
    }
}

async fn chunk(pipe: &mut Receiver) -> Result<Option<Zeroizing<Vec<u8>>>, Stop> {
    let mut chunk = Zeroizing::new(vec![0; CHUNK_BYTES]);
    let length = pipe.read(&mut chunk).await?;
    chunk.truncate(length);
    Ok((length > 0).then_some(chunk))
}

/// The signals of Ctrl-C and `kill`. The terminal does not send them to the program's process group.
struct Interrupts {
    signals: SigSet,
    /// A signalfd, which is readable like a pipe.
    queue: Receiver,
    held: Option<Arc<Held>>,
}

impl Interrupts {
    fn prepare() -> io::Result<Interrupts> {
        let signals = signals_that_end_us();
        let queue = SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        Ok(Interrupts { signals, queue: Receiver::from_owned_fd_unchecked(queue.into())?, held: None })
    }

    /// Blocks them until this is dropped.
    fn hold(&mut self) -> io::Result<()> {
        self.held = Some(Held::by_this_thread(&self.signals)?);
        Ok(())
    }

    /// Waits for one. It stays pending until the signals are unblocked.
    async fn received(&self) -> io::Result<()> {
        self.queue.readable().await
    }
}

/// The blocked signals of this thread. Several programs that run at the same time share it; the last one unblocks them.
struct Held {
    before: SigSet,
}

impl Held {
    fn by_this_thread(signals: &SigSet) -> io::Result<Arc<Held>> {
        thread_local! {
            static HELD: RefCell<Weak<Held>> = const { RefCell::new(Weak::new()) };
        }
        HELD.with_borrow_mut(|held| match held.upgrade() {
            Some(held) => Ok(held),
            None => {
                let new = Arc::new(Held { before: signals.thread_swap_mask(SigmaskHow::SIG_BLOCK)? });
                *held = Arc::downgrade(&new);
                Ok(new)
            }
        })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.before.thread_set_mask();
    }
}

/// Signals that this process handles or ignores are left alone.
fn signals_that_end_us() -> SigSet {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let set = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        u64::from_str_radix(line.trim_start_matches(':').trim(), 16).ok()
    };
    let kept = set("SigIgn").unwrap_or_default() | set("SigCgt").unwrap_or_default();
    let ends_us = |signal: &Signal| kept & (1 << (*signal as i32 - 1)) == 0;
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().filter(ends_us).collect()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use tokio::time::timeout;

    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    fn block_on<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
    }

    #[test]
    fn passes_input_and_output_of_any_size() {
        let input = vec![b'x'; 1 << 20];
        let answer = block_on(run(&mut shell("cat; echo no >&2; exit 3"), &input, 1 << 20)).unwrap().unwrap();
        assert!(*answer.output == input);
        assert_eq!((answer.complaint.as_slice(), answer.status.code()), (&b"no\n"[..], Some(3)));
        let answer = block_on(run(&mut shell("exec <&-; head -c 1000000 /dev/zero >&2"), &input, 0)).unwrap().unwrap();
        assert_eq!(answer.complaint.len(), STDERR_BYTES_MAX);
    }

    #[test]
    fn stops_at_more_output_than_allowed() {
        assert!(block_on(run(&mut shell("cat /dev/zero"), b"", 1 << 20)).unwrap().is_none());
    }

    #[test]
    fn kills_the_whole_group() {
        let directory = tempfile::tempdir().unwrap();
        let pids = directory.path().join("pids");
        let script = format!("sleep 1000 & echo $$ $! >{0}.new && mv {0}.new {0} && wait", pids.display());
        block_on(async {
            let mut command = shell(&script);
            let mut running = pin!(run(&mut command, b"", 0));
            while !pids.exists() {
                assert!(timeout(Duration::from_millis(5), &mut running).await.is_err());
            }
        });
        for pid in fs::read_to_string(&pids).unwrap().split_whitespace() {
            let state = || fs::read_to_string(format!("/proc/{pid}/stat")).ok().filter(|stat| !stat.contains(") Z "));
            let patience = Instant::now() + Duration::from_secs(10);
            while state().is_some() {
                assert!(Instant::now() < patience, "{pid} is left behind");
                std::thread::yield_now();
            }
        }
    }

    #[test]
    fn a_process_left_behind_does_not_delay_the_end() {
        let patience = Duration::from_secs(60);
        let mut command = shell("sleep 1000 & echo canary");
        let ended = block_on(async { timeout(patience, run(&mut command, b"", 100)).await });
        assert_eq!(ended.unwrap().unwrap().unwrap().output.as_slice(), b"canary\n");
    }

    #[test]
    fn signals_are_blocked_until_the_last_of_several_programs_has_ended() {
        let end_is_held = || SigSet::thread_get_mask().unwrap().contains(Signal::SIGTERM);
        let hold = || {
            let mut interrupts = block_on(async { Interrupts::prepare().unwrap() });
            interrupts.hold().unwrap();
            interrupts
        };
        let (first, second) = (hold(), hold());
        assert!(end_is_held());
        drop(first);
        assert!(end_is_held());
        drop(second);
        assert!(!end_is_held());
        drop(hold());
        assert!(!end_is_held());
    }

    #[test]
    fn handled_signals_are_left_to_their_handlers() {
        block_on(async {
            let _handler = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup()).unwrap();
            assert!(!signals_that_end_us().contains(Signal::SIGHUP));
            assert!(signals_that_end_us().contains(Signal::SIGTERM));
        });
    }
}
