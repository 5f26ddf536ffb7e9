//! A token that a program prints.
//!
//! It gets neither this process's environment nor any input. A caller that stops waiting kills it and its children.

use std::os::unix::process::ExitStatusExt;

use super::{TOKEN_BYTES_MAX, Token, TokenError};
use crate::child;
use crate::settings::Command;
use crate::settings::file;

/// Where it finds other programs.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What it may see of our environment: where the files of a user are.
const HOME: &str = "HOME";

/// Whether it can be run, and only root or the current user could have put it there.
pub(super) fn check(command: &Command) -> Result<(), TokenError> {
    file::require_program(&command.program).map_err(|source| TokenError::Program { source })
}

/// Runs it to its end.
pub(super) async fn run(command: &Command) -> Result<Token, TokenError> {
    check(command)?;
    let program = || command.program.to_path_buf();
    let mut words = std::process::Command::new(&*command.program);
    words.args(&command.arguments).env_clear().env("PATH", PATH).current_dir("/");
    words.envs(std::env::var_os(HOME).map(|home| (HOME, home)));
    let answer = match child::run(&mut words, b"", TOKEN_BYTES_MAX).await {
        Ok(Some(answer)) => answer,
        Ok(None) => return Err(TokenError::TooMuch { program: program(), limit: TOKEN_BYTES_MAX }),
        Err(error) => return Err(TokenError::Start { program: program(), errno: error.into() }),
    };
    if answer.status.success() {
        return Token::new(&answer.output);
    }
    let ending = match (answer.status.signal(), answer.status.code()) {
        (Some(signal), _) => format!("signal {signal}"),
        (_, code) => format!("exit code {}", code.unwrap_or_default()),
    };
    Err(TokenError::Failed { program: program(), ending })
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::{Duration, Instant};

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
                assert!(timeout(Duration::from_millis(5), &mut running).await.is_err());
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
