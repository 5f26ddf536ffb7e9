//! Where a token comes from.

use std::fmt;
use std::path::PathBuf;

use crate::settings::TokenSource;

/// Who gave a token, as messages name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A file with a static token.
    Static(PathBuf),
    /// A file whose token is renewed.
    File(PathBuf),
    /// GitHub Actions.
    Github,
    /// GitLab CI, in a variable.
    Gitlab(String),
    /// A program.
    Command(PathBuf),
    /// A variable of the caller.
    Environment(&'static str),
}

impl Origin {
    /// Who gives the tokens of a source.
    pub fn of(source: &TokenSource) -> Origin {
        match source {
            TokenSource::Static(path) => Origin::Static(path.to_path_buf()),
            TokenSource::File(path) => Origin::File(path.to_path_buf()),
            TokenSource::GithubOidc { .. } => Origin::Github,
            TokenSource::GitlabIdToken(variable) => Origin::Gitlab(variable.as_str().to_owned()),
            TokenSource::Command(command) => Origin::Command(command.program.to_path_buf()),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Static(path) | Origin::File(path) | Origin::Command(path) => path.display().fmt(f),
            Origin::Github => f.write_str("GitHub Actions"),
            Origin::Gitlab(name) => write!(f, "GitLab CI in {name}"),
            Origin::Environment(name) => f.write_str(name),
        }
    }
}

/// What can be done about a token, by where it comes from.
impl Origin {
    /// The hint for a token that the server does not accept.
    pub fn unauthorized_hint(&self) -> String {
        match self {
            Origin::Static(_) => "put a valid token into the token-file: `op connect token create` makes one".into(),
            Origin::Environment(name) => format!("put a valid token into {name}: `op connect token create` makes one"),
            Origin::File(path) => format!(
                "issuer and audience of the token in {} must be among those that the server takes, and clocks be right",
                path.display()
            ),
            Origin::Github => {
                "`audience` of github-oidc in the settings must be the one that the gateway expects for GitHub's tokens"
                    .into()
            }
            Origin::Gitlab(name) => {
                format!(
                    "`id_tokens: {name}: aud:` of the job in .gitlab-ci.yml must be the audience that the gateway expects"
                )
            }
            Origin::Command(program) => {
                format!(
                    "issuer and audience of what {} prints must be among those that the server takes",
                    program.display()
                )
            }
        }
    }

    /// The hint for a file with a token that does not exist.
    pub fn missing_hint(&self) -> Option<String> {
        match self {
            Origin::Static(path) => Some(format!(
                "`op connect token create NAME --server SERVER --vault VAULT` prints one: store it there, and chmod 0600 {}",
                path.display()
            )),
            Origin::File(path) => {
                Some(format!("what renews the token must write {} before a container starts", path.display()))
            }
            _ => None,
        }
    }

    /// The hint for a token that the server accepts, but not for this request.
    pub fn forbidden_hint(&self) -> String {
        match self {
            Origin::Static(_) | Origin::Environment(_) => "give the token access to the vault: `op connect token create --vault`",
            Origin::Github => {
                "no rule of the gateway is for this repository, ref, workflow and `environment:` of the job; pull requests have a ref of their own"
            }
            Origin::Gitlab(_) => {
                "no rule of the gateway is for this project, ref and `environment:` of the job; merge requests have a ref of their own"
            }
            Origin::File(_) | Origin::Command(_) => "no rule of the gateway is for what the token claims",
        }
        .to_owned()
    }

    /// The hint for a token that has expired.
    pub(super) fn expired_hint(&self) -> String {
        match self {
            Origin::Static(_) => "put a new token into the token-file: `op connect token create` makes one".into(),
            Origin::Environment(name) => format!("put a new token into {name}: `op connect token create` makes one"),
            Origin::File(path) => format!("what writes {} must write a new one in time", path.display()),
            Origin::Github => "this host's clock may be wrong".into(),
            Origin::Gitlab(_) => {
                "it lasts as long as `timeout:` of the job in .gitlab-ci.yml, else 5 minutes: set it, or resolve earlier"
                    .into()
            }
            Origin::Command(program) => format!("{} must print a new one", program.display()),
        }
    }
}
