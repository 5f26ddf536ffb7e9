//! A token that a program prints.
//!
//! It gets neither our environment nor our standard input, and speaks through one pipe. Whoever does not wait for its end any
//! longer kills it, and what it has started.

use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::time::sleep;
use zeroize::Zeroizing;

use super::{TOKEN_BYTES_MAX, Token, TokenError};
use crate::settings::Command;
use crate::settings::file;

/// Where it finds other programs.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How often it is looked whether it has ended.
const PAUSE: Duration = Duration::from_millis(2);

/// What it may see of our environment: where the files of a user are.
const HOME: &str = "HOME";

/// Whether it can be run, and nobody but root and our own user could have put it there.
pub(super) fn check(command: &Command) -> Result<(), TokenError> {
    file::require_program(&command.program).map_err(|source| TokenError::Program { source })
}

/// Runs it to its end.
pub(super) async fn run(command: &Command) -> Result<Token, TokenError> {
    check(command)?;
    let program = || command.program.to_path_buf();
    let not_started = |error: std::io::Error| TokenError::Start { program: program(), errno: error.into() };
    let mut running = Running::start(command).map_err(not_started)?;
    // Room for all of it avoids copies that stay behind in memory.
    let mut printed = Zeroizing::new(Vec::with_capacity(TOKEN_BYTES_MAX + 1));
    running.read(&mut printed).await.map_err(not_started)?;
    if printed.len() > TOKEN_BYTES_MAX {
        return Err(TokenError::TooMuch { program: program() });
    }
    let status = running.end().await.map_err(not_started)?;
    if status.success() {
        return Token::new(&printed);
    }
    let ending = match (status.signal(), status.code()) {
        (Some(signal), _) => format!("signal {signal}"),
        (_, code) => format!("exit code {}", code.unwrap_or_default()),
    };
    Err(TokenError::Failed { program: program(), ending })
}

/// The program, for as long as this lives.
struct Running {
    child: Child,
    is_over: bool,
}

impl Running {
    fn start(command: &Command) -> std::io::Result<Running> {
        let child = std::process::Command::new(&*command.program)
            .args(&command.arguments)
            .env_clear()
            .env("PATH", PATH)
            .envs(std::env::var_os(HOME).map(|home| (HOME, home)))
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Running { child, is_over: false })
    }

    /// All that it prints, and one byte more than a token can have.
    async fn read(&mut self, printed: &mut Vec<u8>) -> std::io::Result<usize> {
        let output = self.child.stdout.take().map(OwnedFd::from).ok_or(std::io::ErrorKind::BrokenPipe)?;
        Receiver::from_owned_fd(output)?.take(TOKEN_BYTES_MAX as u64 + 1).read_to_end(printed).await
    }

    /// Who has closed its output is about to be gone.
    async fn end(&mut self) -> std::io::Result<ExitStatus> {
        let pid = WaitId::Pid(Pid::from_child(&self.child));
        while waitid(pid.clone(), WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT)?.is_none() {
            sleep(PAUSE).await;
        }
        self.kill()
    }

    /// Ends what is left of its group. Until it is waited for, nobody else can have its number.
    fn kill(&mut self) -> std::io::Result<ExitStatus> {
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        self.is_over = true;
        self.child.wait()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.is_over {
            let _ = self.kill();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Instant;

    use tokio::time::timeout;

    use super::*;

    fn shell(script: &str) -> Command {
        Command::try_from(["/bin/sh", "-c", script].map(ToOwned::to_owned).to_vec()).unwrap()
    }

    fn block_on<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
    }

    #[test]
    fn a_token_is_all_that_it_prints() {
        assert_eq!(block_on(run(&shell("echo canary; echo no >&2"))).unwrap().expose(), b"canary");
        assert!(matches!(block_on(run(&shell("echo two; echo lines"))), Err(TokenError::NotALine)));
        assert!(matches!(block_on(run(&shell("true"))), Err(TokenError::NotALine)));
        assert!(matches!(block_on(run(&shell("cat /dev/zero"))), Err(TokenError::TooMuch { .. })));
    }

    #[test]
    fn one_that_fails_has_no_token() {
        for (script, expected) in [("echo canary; exit 3", "exit code 3"), ("echo canary; kill -9 $$", "signal 9")] {
            let error = block_on(run(&shell(script))).err();
            assert!(matches!(&error, Some(TokenError::Failed { ending, .. }) if ending == expected), "{error:?}");
        }
    }

    #[test]
    fn it_sees_no_variable_but_two() {
        let token =
            block_on(run(&shell("env | cut -d= -f1 | grep -vE '^(PATH|HOME|PWD|SHLVL|_)$' || echo none"))).unwrap();
        assert_eq!(token.expose_text(), "none");
    }

    #[test]
    fn whoever_does_not_wait_leaves_nobody_behind() {
        let directory = tempfile::tempdir().unwrap();
        let pids = directory.path().join("pids");
        let script = format!("sleep 1000 & echo $$ $! >{0}.new && mv {0}.new {0} && wait", pids.display());
        block_on(async {
            let command = shell(&script);
            let mut running = std::pin::pin!(run(&command));
            while !pids.exists() {
                assert!(timeout(PAUSE, &mut running).await.is_err());
            }
        });
        let begin = Instant::now();
        for pid in std::fs::read_to_string(&pids).unwrap().split_whitespace() {
            let state = || std::fs::read_to_string(Path::new("/proc").join(pid).join("stat")).ok();
            while state().is_some_and(|state| !state.contains(") Z ")) {
                assert!(begin.elapsed() < Duration::from_secs(10), "{pid} is still there");
                std::thread::yield_now();
            }
        }
    }
}
