//! The token by which 1Password Connect knows us.

use std::path::Path;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jiff::Timestamp;
use reqwest::header::HeaderValue;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use super::SourceError;
use crate::settings::file;

const TOKEN_BYTES_MAX: usize = 64 * 1024;

/// A Connect access token, as `op connect token create` prints it.
pub struct Token(Zeroizing<Vec<u8>>);

impl Token {
    /// Reads a token from its file; space around it is passed over.
    ///
    /// # Errors
    /// If the file cannot be read, or others can read it.
    pub fn read(path: &Path) -> Result<Token, SourceError> {
        let bytes =
            file::read(path, file::Kind::Credential, TOKEN_BYTES_MAX).map_err(|source| SourceError::File { source })?;
        Ok(Token::new(&bytes))
    }

    /// Takes a token's text; space around it is passed over.
    pub fn new(text: &[u8]) -> Token {
        Token(Zeroizing::new(text.trim_ascii().to_vec()))
    }

    /// When it expires, if it is a JWT and says so. It is not verified: only Connect can do that.
    pub fn expires(&self) -> Option<Timestamp> {
        #[derive(Deserialize)]
        struct Expiry {
            exp: i64,
        }
        self.claims::<Expiry>().and_then(|claims| Timestamp::from_second(claims.exp).ok())
    }

    /// Its id, if it is a JWT and has one: Connect's account of requests names the token by it.
    pub fn id(&self) -> Option<String> {
        #[derive(Deserialize)]
        struct Id {
            jti: String,
        }
        self.claims::<Id>().map(|claims| claims.jti)
    }

    fn claims<T: DeserializeOwned>(&self) -> Option<T> {
        let payload = self.0.split(|byte| *byte == b'.').nth(1)?;
        serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(payload).ok()?).ok()
    }

    /// The value of the `Authorization` header, which no library prints.
    pub(super) fn bearer(&self) -> Result<HeaderValue, SourceError> {
        let text = Zeroizing::new([b"Bearer ", self.0.as_slice()].concat());
        let mut value = HeaderValue::from_bytes(&text).map_err(|_| SourceError::UnusableToken)?;
        value.set_sensitive(true);
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(text: &str) -> Token {
        Token::new(text.as_bytes())
    }

    #[test]
    fn tells_when_it_expires_and_its_id() {
        let payload = BASE64_URL_SAFE_NO_PAD.encode(r#"{"iss":"com.1password.b5","exp":4102444800,"jti":"x1"}"#);
        let jwt = token(&format!("e30.{payload}.c2ln"));
        assert_eq!(jwt.expires().unwrap().to_string(), "2100-01-01T00:00:00Z");
        assert_eq!(jwt.id().unwrap(), "x1");
        assert!(token("e30.e30.c2ln").id().is_none());
        assert!(token("e30.e30.c2ln").expires().is_none());
        assert!(token("not a JWT").expires().is_none());
    }

    #[test]
    fn cannot_smuggle_a_header() {
        assert!(matches!(token("good\r\nX-Evil: 1").bearer(), Err(SourceError::UnusableToken)));
    }
}
