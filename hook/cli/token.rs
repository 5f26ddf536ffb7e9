//! `oci-secrets token`: the token by which a job of a CI system shows who it is, for a container that the job starts.

use std::io::{IsTerminal, stdout};
use std::process::ExitCode;

use zeroize::Zeroizing;

use super::error::CliError;
use super::{block_on, write_output};
use crate::fault::AnyFault;
use crate::settings::{Audience, Settings, TokenSource, Variable};
use crate::token::Tokens;

/// Print the identity token of the CI job that this runs in.
///
/// The hook has no environment in which it could look for one: let a step write it to a file on a tmpfs, which the settings name, shortly
/// before the container is started. Most tokens last for some minutes only.
#[derive(clap::Args)]
#[command(after_help = EXAMPLE)]
pub(super) struct Arguments {
    /// Ask GitHub Actions for a token for this audience.
    #[arg(long, value_name = "AUDIENCE", conflicts_with = "gitlab_id_token")]
    github_oidc: Option<Audience>,
    /// Take the token that GitLab CI has put into this variable.
    #[arg(long, value_name = "VARIABLE")]
    gitlab_id_token: Option<Variable>,
}

const EXAMPLE: &str = "\
Example: in a job of GitHub Actions

  oci-secrets token --github-oidc https://secrets.example |
      sudo install -D -m 0600 /dev/stdin /run/ci/connect-token";

pub(super) fn run(arguments: &Arguments) -> Result<ExitCode, AnyFault> {
    let source = match (&arguments.github_oidc, &arguments.gitlab_id_token) {
        (Some(audience), _) => TokenSource::GithubOidc { audience: audience.clone() },
        (None, Some(variable)) => TokenSource::GitlabIdToken(variable.clone()),
        (None, None) => {
            let message = "expected --github-oidc AUDIENCE or --gitlab-id-token VARIABLE".to_owned();
            return Err(CliError::CommandLine { message, tip: None }.into());
        }
    };
    let tokens = Tokens::open(&source)?;
    let token =
        block_on(&Settings::default(), async |deadline| tokens.current(deadline).await.map_err(AnyFault::from))?;
    let mut output = Zeroizing::new(token.expose().to_vec());
    if stdout().is_terminal() {
        output.push(b'\n');
    }
    write_output(&output)
}
