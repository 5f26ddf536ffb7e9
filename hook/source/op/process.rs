//! One run of `op`: through pipes alone, and in a process group of its own that does not outlive it.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::pin::pin;
use std::process::{Child, Command, ExitStatus, Stdio};

use futures_util::future::{Either, select, try_join3};
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::process::{Pid, PidfdFlags, kill_process_group, pidfd_open};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe::{Receiver, Sender};
use zeroize::Zeroizing;

/// The most that is kept of what it prints on standard error; the rest is read and dropped.
const COMPLAINT_BYTES_MAX: usize = 16 * 1024;

const CHUNK_BYTES: usize = 16 * 1024;

/// What it did.
pub(super) struct Answer {
    pub(super) status: ExitStatus,
    /// Its standard output.
    pub(super) output: Zeroizing<Vec<u8>>,
    /// The beginning of its standard error.
    pub(super) complaint: Zeroizing<Vec<u8>>,
}

/// Runs a command to its end, with this input; `None` if it printed more than `bytes_max`. Whoever drops this ends it, and everyone
/// whom it started.
pub(super) async fn run(command: &mut Command, input: &[u8], bytes_max: usize) -> io::Result<Option<Answer>> {
    // Declared first and so dropped last: a signal may end us only when the process is gone.
    let interrupts;
    let mut running = Running::start(command)?;
    interrupts = Interrupts::hold()?;
    let answered = pin!(running.answer(input, bytes_max));
    match select(answered, pin!(interrupts.come())).await {
        Either::Left((answer, _)) => answer,
        Either::Right((came, _)) => came.and(Err(rustix::io::Errno::INTR.into())),
    }
}

/// A process and its group, for as long as this lives.
struct Running {
    child: Child,
    is_over: bool,
}

impl Running {
    fn start(command: &mut Command) -> io::Result<Running> {
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok(Running { child: piped.process_group(0).spawn()?, is_over: false })
    }

    async fn answer(&mut self, input: &[u8], bytes_max: usize) -> io::Result<Option<Answer>> {
        let pid = Pid::from_child(&self.child);
        let gone = Receiver::from_owned_fd_unchecked(pidfd_open(pid, PidfdFlags::empty())?)?;
        let broken = || io::Error::from(rustix::io::Errno::PIPE);
        let mut stdin = Sender::from_owned_fd(OwnedFd::from(self.child.stdin.take().ok_or_else(broken)?))?;
        let mut stdout = Receiver::from_owned_fd(OwnedFd::from(self.child.stdout.take().ok_or_else(broken)?))?;
        let mut stderr = Receiver::from_owned_fd(OwnedFd::from(self.child.stderr.take().ok_or_else(broken)?))?;

        let write = async {
            // Who ends before reading everything says on standard error why.
            let _ = stdin.write_all(input).await;
            drop(stdin);
            Ok(())
        };
        let complaint = async {
            let mut complaint = Zeroizing::new(Vec::new());
            while let Some(chunk) = chunk(&mut stderr).await? {
                let room = COMPLAINT_BYTES_MAX.saturating_sub(complaint.len());
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
        match try_join3(write, output, complaint).await {
            Err(Stop::TooLarge) => Ok(None),
            Err(Stop::Io(error)) => Err(error),
            Ok(((), output, complaint)) => {
                gone.readable().await?;
                Ok(Some(Answer { status: self.end()?, output, complaint }))
            }
        }
    }

    /// Ends whoever is left of the group. Until the process is waited for, nobody else can have its number.
    fn end(&mut self) -> io::Result<ExitStatus> {
        let _ = kill_process_group(Pid::from_child(&self.child), rustix::process::Signal::KILL);
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

/// What Ctrl-C and `kill` send, held back for as long as this lives, and then let through: another process group than ours does not
/// hear of it.
struct Interrupts {
    before: SigSet,
    /// No pipe, but as readable as one.
    come: Receiver,
}

impl Interrupts {
    fn hold() -> io::Result<Interrupts> {
        let held = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
        let come = SignalFd::with_flags(&held, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        let come = Receiver::from_owned_fd_unchecked(come.into())?;
        let before = held.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
        Ok(Interrupts { before, come })
    }

    /// Waits for one, and leaves it to be let through.
    async fn come(&self) -> io::Result<()> {
        self.come.readable().await
    }
}

impl Drop for Interrupts {
    fn drop(&mut self) {
        let _ = self.before.thread_set_mask();
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
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
    fn hands_over_input_and_takes_output_of_any_size() {
        let input = vec![b'x'; 1 << 20];
        let answer = block_on(run(&mut shell("cat; echo no >&2; exit 3"), &input, 1 << 20)).unwrap().unwrap();
        assert!(*answer.output == input);
        assert_eq!((answer.complaint.as_slice(), answer.status.code()), (&b"no\n"[..], Some(3)));
        let answer = block_on(run(&mut shell("exec <&-; head -c 1000000 /dev/zero >&2"), &input, 0)).unwrap().unwrap();
        assert_eq!(answer.complaint.len(), COMPLAINT_BYTES_MAX);
    }

    #[test]
    fn stops_at_more_than_is_asked_for() {
        assert!(block_on(run(&mut shell("cat /dev/zero"), b"", 1 << 20)).unwrap().is_none());
    }

    #[test]
    fn leaves_nobody_behind() {
        let directory = tempfile::tempdir().unwrap();
        let pids = directory.path().join("pids");
        // It is waited for by whoever started it, and that by the kernel.
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
}
