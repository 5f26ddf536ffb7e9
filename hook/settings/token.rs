//! Where a token comes from that says who we are: to 1Password Connect, to Google Cloud, to AWS.

use serde::Deserialize;

use super::{AbsolutePath, TokenFile};

/// The most characters of an audience.
const AUDIENCE_CHARACTERS_MAX: usize = 256;

/// Where a token comes from.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum TokenSource {
    /// A file with a static token, as `token-file` names it.
    #[serde(skip)]
    Static(TokenFile),
    /// A file whose token someone renews, as Kubernetes does with those that it projects: read at each use.
    File(AbsolutePath),
    /// The identity token of a job of GitHub Actions, which its runner asks for.
    GithubOidc {
        /// The audience.
        audience: Audience,
    },
    /// The identity token of a job of GitLab CI, in a variable of its environment.
    GitlabIdToken(Variable),
    /// What a program prints.
    Command(Command),
}

impl TokenSource {
    /// Whether only the job of a CI system has what it takes: an environment, of which the hook has none.
    pub fn is_of_a_job(&self) -> bool {
        matches!(self, TokenSource::GithubOidc { .. } | TokenSource::GitlabIdToken(_))
    }
}

/// Of two keys that say where the token is, the one that is there; `None` if it is neither or both.
pub(super) fn one_of(token_file: Option<AbsolutePath>, token: Option<TokenSource>) -> Option<TokenSource> {
    match (token_file, token) {
        (Some(path), None) => Some(TokenSource::Static(path.into())),
        (None, token) => token,
        (Some(_), Some(_)) => None,
    }
}

/// The audience of a token: the server that verifies it expects its own name there.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Audience(String);

impl Audience {
    /// The audience as it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Audience {
    type Error = TokenSourceError;

    fn try_from(text: String) -> Result<Audience, TokenSourceError> {
        let is_one = (1..=AUDIENCE_CHARACTERS_MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
        if is_one { Ok(Audience(text)) } else { Err(TokenSourceError::Audience) }
    }
}

impl std::str::FromStr for Audience {
    type Err = TokenSourceError;

    fn from_str(text: &str) -> Result<Audience, TokenSourceError> {
        Audience::try_from(text.to_owned())
    }
}

/// The name of an environment variable.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Variable(String);

impl Variable {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Variable {
    type Error = TokenSourceError;

    fn try_from(text: String) -> Result<Variable, TokenSourceError> {
        let is_name = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
            && text.bytes().next().is_some_and(|byte| !byte.is_ascii_digit());
        if is_name { Ok(Variable(text)) } else { Err(TokenSourceError::Variable) }
    }
}

impl std::str::FromStr for Variable {
    type Err = TokenSourceError;

    fn from_str(text: &str) -> Result<Variable, TokenSourceError> {
        Variable::try_from(text.to_owned())
    }
}

/// A program and its arguments.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Vec<String>")]
pub struct Command {
    /// The program.
    pub program: AbsolutePath,
    /// Its arguments.
    pub arguments: Vec<String>,
}

impl TryFrom<Vec<String>> for Command {
    type Error = TokenSourceError;

    fn try_from(words: Vec<String>) -> Result<Command, TokenSourceError> {
        if words.iter().any(|word| word.contains('\0')) {
            return Err(TokenSourceError::Command);
        }
        let mut words = words.into_iter();
        let program = words.next().and_then(|program| AbsolutePath::try_from(std::path::PathBuf::from(program)).ok());
        Ok(Command { program: program.ok_or(TokenSourceError::Command)?, arguments: words.collect() })
    }
}

/// Why a text does not say where a token comes from.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenSourceError {
    /// It is empty, too long, or holds what no audience does.
    #[error(
        "expected an audience, as https://secrets.example: at most {AUDIENCE_CHARACTERS_MAX} characters, no spaces"
    )]
    Audience,
    /// It cannot be the name of a variable.
    #[error("expected the name of an environment variable")]
    Variable,
    /// It names no program.
    #[error("expected the absolute path of a program, and its arguments")]
    Command,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;

    fn token(keys: &str) -> Result<TokenSource, String> {
        let text = format!("[connect]\nurl = 'https://h'\n{keys}");
        let settings = text.parse::<Settings>().map_err(|error| error.to_string())?;
        Ok(settings.connect.unwrap().token)
    }

    #[test]
    fn a_token_comes_from_one_place() {
        assert!(matches!(token("token-file = '/t'"), Ok(TokenSource::Static(_))));
        assert!(matches!(token("token = { file = '/t' }"), Ok(TokenSource::File(_))));
        let github = token("token = { github-oidc = { audience = 'https://secrets.example' } }").unwrap();
        assert!(github.is_of_a_job());
        assert!(token("token = { gitlab-id-token = 'OCI_SECRETS_TOKEN' }").unwrap().is_of_a_job());
        let Ok(TokenSource::Command(command)) = token("token = { command = ['/usr/bin/token', '-v'] }") else {
            panic!("no command")
        };
        assert_eq!(command.arguments, ["-v"]);
        for keys in ["", "token-file = '/t'\ntoken = { file = '/t' }"] {
            assert_eq!(token(keys).unwrap_err(), "line 1: connect: expected one of `token-file` and `token`");
        }
    }

    #[test]
    fn refuses_what_names_no_place_and_does_not_repeat_it() {
        for (source, reason) in [
            ("{ file = 'hunter2' }", "expected an absolute path"),
            ("{ github-oidc = { audience = '' } }", "expected an audience"),
            ("{ github-oidc = { audience = 'hunter2 ' } }", "expected an audience"),
            ("{ github-oidc = {} }", "missing field `audience`"),
            ("{ github-oidc = { audience = 'a', hunter = 2 } }", "unexpected keys in table: hunter"),
            ("{ gitlab-id-token = 'hunter 2' }", "expected the name of an environment variable"),
            ("{ gitlab-id-token = '2hunter' }", "expected the name of an environment variable"),
            ("{ command = [] }", "expected the absolute path of a program"),
            ("{ command = ['hunter2'] }", "expected the absolute path of a program"),
            ("{ command = ['/t', \"hunter2\\u0000\"] }", "expected the absolute path of a program"),
            ("{ environment = 'hunter2' }", "expected one of `file`, `github-oidc`, `gitlab-id-token`, `command`"),
            ("'hunter2'", "expected"),
        ] {
            let message = token(&format!("token = {source}")).unwrap_err();
            assert!(message.contains(reason) && !message.contains("hunter2"), "{source}: {message}");
        }
    }
}
