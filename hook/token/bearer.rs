//! A token and its claims.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jiff::Timestamp;
use reqwest::header::HeaderValue;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::TokenError;

/// The most bytes of a token, and of what it comes in.
pub const TOKEN_BYTES_MAX: usize = 64 * 1024;

/// A token: a line of text, most often a JSON web token.
pub struct Token(Zeroizing<Vec<u8>>);

impl Token {
    /// Takes a token; space around it is passed over.
    ///
    /// # Errors
    /// If it is not one line of ASCII.
    pub fn new(bytes: &[u8]) -> Result<Token, TokenError> {
        let token = bytes.trim_ascii();
        match token.iter().all(u8::is_ascii_graphic) && !token.is_empty() {
            true => Ok(Token(Zeroizing::new(token.to_vec()))),
            false => Err(TokenError::NotALine),
        }
    }

    /// When it expires, if it is a JWT and says so.
    pub fn expires(&self) -> Option<Timestamp> {
        self.claims()?.exp
    }

    /// When it was issued, if it is a JWT and says so.
    pub fn issued(&self) -> Option<Timestamp> {
        self.claims()?.iat
    }

    /// Its id, if it is a JWT and has one: Connect's account of requests names the token by it.
    pub fn id(&self) -> Option<String> {
        self.claims()?.jti
    }

    /// Its bytes, to be handed to who shall check it.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// The same, as text.
    pub fn expose_text(&self) -> &str {
        // It is ASCII, or it would not be a token.
        str::from_utf8(&self.0).unwrap_or_default()
    }

    /// The value of the `Authorization` header, which no library prints.
    ///
    /// # Errors
    /// None: what is a token can stand in a header.
    pub fn bearer(&self) -> Result<HeaderValue, TokenError> {
        let text = Zeroizing::new([b"Bearer ", self.0.as_slice()].concat());
        let mut value = HeaderValue::from_bytes(&text).map_err(|_| TokenError::NotALine)?;
        value.set_sensitive(true);
        Ok(value)
    }

    fn claims(&self) -> Option<Claims> {
        let payload = self.0.split(|byte| *byte == b'.').nth(1)?;
        let payload = Zeroizing::new(BASE64_URL_SAFE_NO_PAD.decode(payload).ok()?);
        serde_json::from_slice(&payload).ok()
    }
}

/// The claims of a token, which the server that gets it verifies.
#[derive(Deserialize)]
struct Claims {
    #[serde(default, deserialize_with = "seconds")]
    exp: Option<Timestamp>,
    #[serde(default, deserialize_with = "seconds")]
    iat: Option<Timestamp>,
    jti: Option<String>,
}

/// Seconds since 1970, which may have a fraction. What is no time is passed over, and left to who checks the token.
fn seconds<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
    let seconds = serde_json::Value::deserialize(deserializer)?;
    Ok(seconds.as_f64().and_then(|seconds| Timestamp::from_second(seconds as i64).ok()))
}
