//! One run of another program: through pipes alone, and in a process group of its own that does not outlive it.

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

/// The most that is kept of what it prints on standard error; the rest is read and dropped.
const COMPLAINT_BYTES_MAX: usize = 16 * 1024;

const CHUNK_BYTES: usize = 16 * 1024;

/// What it did.
pub struct Answer {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub output: Zeroizing<Vec<u8>>,
    /// The beginning of its standard error.
    pub complaint: Zeroizing<Vec<u8>>,
}

/// Runs a command to its end, with this input; `None` if it printed more than `bytes_max`. Whom it started and left behind in its
/// group is ended with it. Whoever drops this ends all of them.
///
/// # Errors
/// If it cannot be started, its pipes break, or a signal came that would end us: nobody of it is left then.
pub async fn run(command: &mut Command, input: &[u8], bytes_max: usize) -> io::Result<Option<Answer>> {
    // Declared first and so dropped last: a signal may end us only when the process is gone.
    let mut interrupts = Interrupts::prepare()?;
    let mut running = Running::start(command)?;
    // Not before, as the process would hold them back, too. One that comes in between ends us alone.
    interrupts.hold()?;
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
        let end = async {
            gone.readable().await?;
            // Whom it left behind may hold the pipes open for ever.
            kill_group(pid);
            Ok(())
        };
        match try_join4(write, output, complaint, end).await {
            Err(Stop::TooLarge) => Ok(None),
            Err(Stop::Io(error)) => Err(error),
            Ok(((), output, complaint, ())) => Ok(Some(Answer { status: self.end()?, output, complaint })),
        }
    }

    /// Ends whoever is left of the group.
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

/// Until the process is waited for, nobody else can have its number.
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

/// What Ctrl-C and `kill` send: another process group than ours does not hear of it.
struct Interrupts {
    signals: SigSet,
    /// No pipe, but as readable as one.
    come: Receiver,
    held: Option<Arc<Held>>,
}

impl Interrupts {
    fn prepare() -> io::Result<Interrupts> {
        let signals = signals_that_end_us();
        let come = SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        Ok(Interrupts { signals, come: Receiver::from_owned_fd_unchecked(come.into())?, held: None })
    }

    /// Holds them back for as long as this lives, and then lets them through.
    fn hold(&mut self) -> io::Result<()> {
        self.held = Some(Held::by_this_thread(&self.signals)?);
        Ok(())
    }

    /// Waits for one, and leaves it to be let through.
    async fn come(&self) -> io::Result<()> {
        self.come.readable().await
    }
}

/// The signals that this thread holds back, for all that it runs at the same time: the last of them lets them through.
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

/// Who handles a signal, as a service does that ends in its own time, or was told to ignore it, is left to that.
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

    #[test]
    fn is_not_held_up_by_whom_it_leaves_behind() {
        let patience = Duration::from_secs(60);
        let mut command = shell("sleep 1000 & echo canary");
        let ended = block_on(async { timeout(patience, run(&mut command, b"", 100)).await });
        assert_eq!(ended.unwrap().unwrap().unwrap().output.as_slice(), b"canary\n");
    }

    #[test]
    fn signals_are_held_back_until_the_last_of_several_has_ended() {
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
    fn a_signal_that_is_handled_is_left_to_its_handler() {
        block_on(async {
            let _handler = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup()).unwrap();
            assert!(!signals_that_end_us().contains(Signal::SIGHUP));
            assert!(signals_that_end_us().contains(Signal::SIGTERM));
        });
    }
}
