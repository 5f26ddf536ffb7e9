//! Why there is no token.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::Origin;
use super::static_token::OutdatedError;
use crate::errno::Errno;
use crate::fault::{Class, Fault};
use crate::retry::{Seconds, Tries};
use crate::settings::FileError;
use crate::tls::TlsError;

/// Why there is no token.
#[derive(Clone, Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are named for what they hold")]
pub enum TokenError {
    /// The file cannot be read, or others can.
    #[error("cannot use the token's file")]
    File { source: FileError },
    /// What was found is no token.
    #[error("the token is not a line of ASCII text")]
    NotALine,
    /// Its time is over.
    #[error("refusing to send the token of {origin}: it expired at {end}")]
    Expired { origin: Origin, end: Timestamp },
    /// It is static, and too old.
    #[error(transparent)]
    Outdated(#[from] OutdatedError),
    /// We are in no job of GitHub Actions, or in one that may not ask for tokens.
    #[error("cannot get a token from GitHub Actions: {name} is not set")]
    NoGithubVariable { name: &'static str },
    /// The address in the environment is not one to which a token is sent.
    #[error("cannot get a token from GitHub Actions: {name} is not an https URL")]
    GithubUrl { name: &'static str },
    /// GitHub does not take what the runner gave us.
    #[error("cannot get a token from GitHub Actions: {server} refuses the job's request: {status}")]
    GithubRefused { server: String, status: u16 },
    /// We are in no job of GitLab CI, or in one without this token.
    #[error("cannot get a token from GitLab CI: {name} is not set")]
    NoGitlabVariable { name: String },
    /// No answer within the deadline.
    #[error("cannot get a token: {origin} did not answer within {}{}", Seconds(*within), Tries(*tries))]
    NoAnswer { origin: String, within: Duration, tries: u32 },
    /// The connection could not be made, or broke.
    #[error("cannot get a token: cannot reach {server}: {cause}{}", Tries(*tries))]
    Unreachable { server: String, cause: String, tries: u32 },
    /// No TLS connection can be made.
    #[error("cannot get a token: cannot connect to {server}: {problem}")]
    Tls { server: String, problem: TlsError },
    /// A status that leaves nothing to be done here.
    #[error("cannot get a token: {server} answered {status}{}", Tries(*tries))]
    Status { server: String, status: u16, tries: u32 },
    /// Something that is not the JSON of GitHub.
    #[error("cannot get a token: {server} did not answer with a token of GitHub Actions")]
    NotGithub { server: String },
    /// The HTTP client cannot be made.
    #[error("cannot prepare TLS")]
    NoClient { source: Arc<reqwest::Error> },
    /// The program may not be run, or is not there.
    #[error("cannot get a token from a command")]
    Program { source: FileError },
    /// The kernel does not run it.
    #[error("cannot run {}", program.display())]
    Start {
        program: PathBuf,
        #[source]
        errno: Errno,
    },
    /// It ended, and said that it has none.
    #[error("cannot get a token: {} ended with {ending}", program.display())]
    Failed { program: PathBuf, ending: String },
    /// It printed more than any token.
    #[error("cannot get a token: {} printed more than {limit} bytes", program.display())]
    TooMuch { program: PathBuf, limit: usize },
}

impl Fault for TokenError {
    fn class(&self) -> Class {
        match self {
            TokenError::File { source } | TokenError::Program { source } => source.class(),
            TokenError::NotALine
            | TokenError::NoGithubVariable { .. }
            | TokenError::GithubUrl { .. }
            | TokenError::NoGitlabVariable { .. }
            | TokenError::Start { .. } => Class::Settings,
            TokenError::Outdated(error) => error.class(),
            TokenError::Tls { problem, .. } => problem.class(),
            TokenError::Expired { .. } | TokenError::GithubRefused { .. } => Class::NotPermitted,
            TokenError::NoAnswer { .. }
            | TokenError::Unreachable { .. }
            | TokenError::Status { .. }
            | TokenError::NotGithub { .. }
            | TokenError::NoClient { .. }
            | TokenError::Failed { .. }
            | TokenError::TooMuch { .. } => Class::Unavailable,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            TokenError::File { source } | TokenError::Program { source } => return source.hint(),
            TokenError::NoGithubVariable { .. } => {
                "add `permissions: { id-token: write }` to the job in the workflow file; pull requests from forks cannot have it"
            }
            TokenError::GithubRefused { .. } => {
                "a job may ask for tokens until it ends, and only with `id-token: write`"
            }
            TokenError::NoGitlabVariable { name } => {
                return Some(format!(
                    "add `id_tokens: {{ {name}: {{ aud: \"URL OF THE GATEWAY\" }} }}` to the job in .gitlab-ci.yml"
                ));
            }
            TokenError::Expired { origin, .. } => return Some(origin.expired_hint()),
            TokenError::Outdated(error) => return error.hint(),
            TokenError::Tls { problem, .. } => return problem.hint(),
            TokenError::Failed { .. } | TokenError::TooMuch { .. } => {
                "run it by hand: it must print the token and nothing else, and has no variable but PATH and HOME"
            }
            _ => return None,
        };
        Some(hint.to_owned())
    }
}
