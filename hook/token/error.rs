//! Why there is no token.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::static_token::OutdatedError;
use super::{Origin, TOKEN_BYTES_MAX};
use crate::errno::Errno;
use crate::retry::{Seconds, Tries};
use crate::settings::FileError;

/// Why there is no token.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TokenError {
    /// The file cannot be read, or others can.
    #[error("cannot use the token's file")]
    File {
        /// What is wrong with it.
        source: FileError,
    },
    /// What was found is no token.
    #[error("the token is not a line of ASCII text")]
    NotALine,
    /// Its time is over.
    #[error("refusing to send the token of {origin}: it expired at {end}")]
    Expired {
        /// Who gave it.
        origin: Origin,
        /// When.
        end: Timestamp,
    },
    /// It stays the same, and is too old for that.
    #[error(transparent)]
    Outdated(#[from] OutdatedError),
    /// We are in no job of GitHub Actions, or in one that may not ask for tokens.
    #[error("cannot get a token from GitHub Actions: {name} is not set")]
    NoGithubVariable {
        /// The variable.
        name: &'static str,
    },
    /// The address in the environment is not one to which a token is sent.
    #[error("cannot get a token from GitHub Actions: {name} is not an https URL")]
    GithubUrl {
        /// The variable.
        name: &'static str,
    },
    /// GitHub does not take what the runner gave us.
    #[error("cannot get a token from GitHub Actions: {server} refuses the job's request: {status}")]
    GithubRefused {
        /// Its address.
        server: String,
        /// The status it answered with.
        status: u16,
    },
    /// We are in no job of GitLab CI, or in one without this token.
    #[error("cannot get a token from GitLab CI: {name} is not set")]
    NoGitlabVariable {
        /// The variable.
        name: String,
    },
    /// Nobody answered in time.
    #[error("cannot get a token: {origin} did not answer within {}{}", Seconds(*within), Tries(*tries))]
    NoAnswer {
        /// Who gives it.
        origin: String,
        /// The deadline for everything.
        within: Duration,
        /// How often it was asked.
        tries: u32,
    },
    /// The connection could not be made, or broke.
    #[error("cannot get a token: cannot reach {server}{}", Tries(*tries))]
    Unreachable {
        /// Its address.
        server: String,
        /// How often it was tried.
        tries: u32,
    },
    /// A status that leaves nothing to be done here.
    #[error("cannot get a token: {server} answered {status}{}", Tries(*tries))]
    Status {
        /// Its address.
        server: String,
        /// The status it answered with.
        status: u16,
        /// How often it was asked.
        tries: u32,
    },
    /// Something that is not the JSON of GitHub.
    #[error("cannot get a token: {server} did not answer with a token of GitHub Actions")]
    NotGithub {
        /// Its address.
        server: String,
    },
    /// The HTTP client cannot be made.
    #[error("cannot prepare TLS")]
    NoClient {
        /// The library's account.
        source: Arc<reqwest::Error>,
    },
    /// The program may not be run, or is not there.
    #[error("cannot get a token from a command")]
    Program {
        /// What is wrong with it.
        source: FileError,
    },
    /// The kernel does not run it.
    #[error("cannot run {}", program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// What the kernel answered.
        #[source]
        errno: Errno,
    },
    /// It ended, and said that it has none.
    #[error("cannot get a token: {} ended with {ending}", program.display())]
    Failed {
        /// The program.
        program: PathBuf,
        /// `exit code 1`, or `signal 9`.
        ending: String,
    },
    /// It printed more than any token.
    #[error("cannot get a token: {} printed more than {TOKEN_BYTES_MAX} bytes", program.display())]
    TooMuch {
        /// The program.
        program: PathBuf,
    },
}
