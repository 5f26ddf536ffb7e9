//! Tokens that say who we are, from wherever the settings say that they come.
//!
//! A token is used until it expires, and then fetched again. A token that has expired by its own claim is not sent; the claim is not
//! verified here, so it can only make a token expire. Tokens are kept in memory only.

mod bearer;
mod command;
mod error;
mod github;
mod origin;
pub mod static_token;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::Mutex;
use zeroize::Zeroizing;

use crate::retry::{Deadline, Failure, GaveUp};
use crate::settings::file;
use crate::settings::{TokenFile, TokenSource, Variable};
use static_token::token_age;

pub use self::bearer::{TOKEN_BYTES_MAX, Token};
pub use self::error::TokenError;
pub use self::origin::Origin;
use self::static_token::token_age::SKEW;

/// How long a token is used that does not say how long it lasts.
const UNKNOWN_LIFE: SignedDuration = SignedDuration::from_secs(60);

/// The tokens of one source.
pub struct Tokens {
    origin: Origin,
    supply: Supply,
}

/// Where the next token comes from.
enum Supply {
    /// A static token and its conditions, which a long-lived process checks at each use.
    Fixed { token: Arc<Token>, made: Option<Timestamp>, expires: Option<Timestamp>, max_age: Option<Duration> },
    /// Each lasts for a while.
    Renewed { source: TokenSource, held: Mutex<Option<Held>> },
}

/// A token, and until when it is used again.
struct Held {
    token: Arc<Token>,
    until: Timestamp,
}

impl Tokens {
    /// Looks at what can be looked at before a token is needed: a file is read, a variable or a program is there. Nothing is sent, nothing is run.
    ///
    /// # Errors
    /// If it is certain that there will be no token.
    pub fn open(source: &TokenSource) -> Result<Tokens, TokenError> {
        let held = match source {
            TokenSource::Static(file) => return Tokens::of_file(file, source),
            TokenSource::File(path) => {
                let token = fresh(read(path, kind(source))?, source)?;
                Some(Held { token: Arc::new(token), until: Timestamp::MIN })
            }
            TokenSource::GithubOidc { .. } => github::Endpoint::find().map(|_| None)?,
            TokenSource::GitlabIdToken(variable) => fresh(of_variable(variable)?, source).map(|_| None)?,
            TokenSource::Command(command) => command::check(command).map(|()| None)?,
        };
        let supply = Supply::Renewed { source: source.clone(), held: Mutex::new(held) };
        Ok(Tokens { origin: Origin::of(source), supply })
    }

    /// A static token.
    pub fn of(token: Token, origin: Origin) -> Tokens {
        let (made, expires) = (token.issued(), token.expires());
        Tokens { origin, supply: Supply::Fixed { token: Arc::new(token), made, expires, max_age: None } }
    }

    /// The static token in a file, unless it is too old.
    fn of_file(file: &TokenFile, source: &TokenSource) -> Result<Tokens, TokenError> {
        let (token, written) = read_dated(file, kind(source))?;
        let (token, origin) = (fresh(token, source)?, Origin::of(source));
        let made = token_age::earliest(token.issued(), written);
        token_age::check(made, file.max_age, &origin)?;
        let (expires, max_age) = (token.expires(), file.max_age);
        Ok(Tokens { origin, supply: Supply::Fixed { token: Arc::new(token), made, expires, max_age } })
    }

    /// Who gives them, as messages name it.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The token that was there when they were opened, if they come from a file.
    pub fn at_hand(&self) -> Option<Arc<Token>> {
        match &self.supply {
            Supply::Fixed { token, .. } => Some(token.clone()),
            Supply::Renewed { held, .. } => held.try_lock().ok()?.as_ref().map(|held| held.token.clone()),
        }
    }

    /// Whether the token is static, and its issue time, if known.
    pub fn fixed(&self) -> Option<Option<Timestamp>> {
        match &self.supply {
            Supply::Fixed { made, .. } => Some(*made),
            Supply::Renewed { .. } => None,
        }
    }

    /// A token that has not expired.
    ///
    /// # Errors
    /// If there is none, or none in time.
    pub async fn current(&self, deadline: Deadline) -> Result<Arc<Token>, TokenError> {
        deadline.retry(async || self.get().await).await.map_err(|GaveUp { tries, within, last }| match last {
            Some(TokenError::Unreachable { server, cause, .. }) => TokenError::Unreachable { server, cause, tries },
            Some(TokenError::Status { server, status, .. }) => TokenError::Status { server, status, tries },
            Some(error) => error,
            None => TokenError::NoAnswer { origin: self.origin.to_string(), within, tries },
        })
    }

    /// The same, in one try. Concurrent callers wait for its result.
    ///
    /// # Errors
    /// If there is none; the failure says whether another try can help.
    pub async fn get(&self) -> Result<Arc<Token>, Failure<TokenError>> {
        let (source, held) = match &self.supply {
            Supply::Fixed { token, made, expires, max_age } => {
                if let Some(end) = expires.filter(|end| is_over(*end)) {
                    return Err(Failure::Final(TokenError::Expired { origin: self.origin.clone(), end }));
                }
                let checked = token_age::check(*made, *max_age, &self.origin);
                return checked.map(|()| token.clone()).map_err(|error| Failure::Final(error.into()));
            }
            Supply::Renewed { source, held } => (source, held),
        };
        let mut held = held.lock().await;
        if let Some(held) = held.as_ref().filter(|held| held.until > Timestamp::now()) {
            return Ok(held.token.clone());
        }
        let token = match source {
            TokenSource::Static(file) => read(file, kind(source)).map_err(Failure::Final)?,
            TokenSource::File(path) => read(path, kind(source)).map_err(Failure::Final)?,
            TokenSource::GitlabIdToken(variable) => of_variable(variable).map_err(Failure::Final)?,
            TokenSource::GithubOidc { audience } => {
                github::Endpoint::find().map_err(Failure::Final)?.ask(audience).await?
            }
            TokenSource::Command(command) => command::run(command).await.map_err(Failure::Final)?,
        };
        let token = Arc::new(fresh(token, source).map_err(Failure::Final)?);
        *held = is_costly(source).then(|| Held { until: until(&token), token: token.clone() });
        Ok(token)
    }
}

/// Whether a token takes more than a look at where it is.
fn is_costly(source: &TokenSource) -> bool {
    matches!(source, TokenSource::GithubOidc { .. } | TokenSource::Command(_))
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tokens of {}", self.origin)
    }
}

/// A file whose token is renewed may be one that Kubernetes projects, which the pod's own group can read.
fn kind(source: &TokenSource) -> file::Kind {
    match source {
        TokenSource::File(_) => file::Kind::Projected,
        _ => file::Kind::Credential,
    }
}

fn read(path: &Path, kind: file::Kind) -> Result<Token, TokenError> {
    read_dated(path, kind).map(|(token, _)| token)
}

/// The token of a file, and when the file was written.
fn read_dated(path: &Path, kind: file::Kind) -> Result<(Token, Option<Timestamp>), TokenError> {
    let (bytes, written) =
        file::read_dated(path, kind, TOKEN_BYTES_MAX).map_err(|source| TokenError::File { source })?;
    Ok((Token::new(&bytes)?, written.and_then(|written| Timestamp::try_from(written).ok())))
}

fn of_variable(variable: &Variable) -> Result<Token, TokenError> {
    let unset = || TokenError::NoGitlabVariable { name: variable.as_str().to_owned() };
    let value = std::env::var(variable.as_str()).map(Zeroizing::new).map_err(|_| unset())?;
    if value.is_empty() { Err(unset()) } else { Token::new(value.as_bytes()) }
}

/// The token, unless its time is over.
fn fresh(token: Token, source: &TokenSource) -> Result<Token, TokenError> {
    match token.expires() {
        Some(end) if is_over(end) => Err(TokenError::Expired { origin: Origin::of(source), end }),
        _ => Ok(token),
    }
}

fn is_over(end: Timestamp) -> bool {
    end + SKEW <= Timestamp::now()
}

fn until(token: &Token) -> Timestamp {
    token.expires().map_or_else(|| Timestamp::now() + UNKNOWN_LIFE, |end| end - SKEW)
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::prelude::BASE64_URL_SAFE_NO_PAD;

    use super::*;

    fn token(text: &str) -> Token {
        Token::new(text.as_bytes()).unwrap()
    }

    fn with_claims(claims: &str) -> Token {
        token(&format!("e30.{}.c2ln", BASE64_URL_SAFE_NO_PAD.encode(claims)))
    }

    #[test]
    fn tells_when_it_expires() {
        let expires = |claims| with_claims(claims).expires().map(|end| end.to_string());
        assert_eq!(expires(r#"{"iss":"x","exp":4102444800}"#).as_deref(), Some("2100-01-01T00:00:00Z"));
        assert_eq!(expires(r#"{"exp":4102444800.5}"#).as_deref(), Some("2100-01-01T00:00:00Z"));
        assert_eq!(expires(r#"{"exp":"soon"}"#), None);
        assert_eq!(expires("{}"), None);
        assert!(token("not.a.JWT").expires().is_none());
    }

    #[test]
    fn cannot_smuggle_a_header() {
        for text in ["good\r\nX-Evil: 1", "two words", "", " \n", "caf\u{e9}"] {
            assert!(matches!(Token::new(text.as_bytes()), Err(TokenError::NotALine)), "{text:?}");
        }
        assert_eq!(token(" good\n").bearer().unwrap(), "Bearer good");
    }

    #[test]
    fn a_static_token_is_checked_at_each_use() {
        let now = Timestamp::now();
        let use_it = |seconds: i64, max_age| {
            let token = with_claims(&format!("{{\"exp\":{}}}", now.as_second() + seconds));
            let (expires, made) = (token.expires(), now.checked_sub(SignedDuration::from_hours(2)).ok());
            let supply = Supply::Fixed { token: Arc::new(token), made, expires, max_age };
            let tokens = Tokens { origin: Origin::Static("/t".into()), supply };
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(tokens.get()).map(drop).map_err(Failure::into_error)
        };
        assert!(use_it(60, None).is_ok());
        assert!(matches!(use_it(-60, None), Err(TokenError::Expired { .. })));
        assert!(use_it(60, Some(Duration::from_secs(3 * 60 * 60))).is_ok());
        assert!(matches!(use_it(60, Some(Duration::from_secs(60 * 60))), Err(TokenError::Outdated(_))));
    }

    #[test]
    fn one_whose_time_is_over_is_not_used() {
        let source = TokenSource::GithubOidc { audience: "a".parse().unwrap() };
        let at = |seconds: i64| with_claims(&format!("{{\"exp\":{}}}", Timestamp::now().as_second() + seconds));
        assert!(fresh(at(60), &source).is_ok());
        assert!(fresh(at(-10), &source).is_ok(), "clocks differ");
        assert!(matches!(fresh(at(-60), &source), Err(TokenError::Expired { origin: Origin::Github, .. })));
        assert!(until(&at(10)) < Timestamp::now(), "it is not kept for another call");
    }
}
