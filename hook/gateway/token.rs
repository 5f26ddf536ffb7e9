//! Identity tokens: from a header of a request to claims that can be believed.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jsonwebtoken::Validation;
use jsonwebtoken::errors::ErrorKind;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::denial::Denial;
use super::key::Key;
use super::settings::{IssuerSettings, Signature};

/// The longest token. Those of the platforms are below 3 KiB.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// What a token says about itself before anything of it is believed.
pub struct Unverified<'a> {
    text: &'a str,
    /// The key that it says it is signed with.
    pub key_id: String,
    /// The algorithm that it says it is signed by.
    pub signature: Signature,
    /// The issuer that it says it is of.
    pub issuer: String,
    /// Whom it says it is about.
    pub subject: String,
    /// All that it says.
    pub claims: Map<String, Value>,
}

/// The first part of a token.
#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    crit: Option<Value>,
}

impl<'a> Unverified<'a> {
    /// Takes a token apart.
    ///
    /// # Errors
    /// It has not the form of one, or can never be believed.
    pub fn parse(text: &'a str) -> Result<Unverified<'a>, Denial> {
        if text.len() > TOKEN_BYTES_MAX {
            return Err(Denial::TokenTooLarge);
        }
        let mut parts = text.split('.');
        let (Some(header), Some(_), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
            return Err(Denial::NotAToken);
        };
        let header = BASE64_URL_SAFE_NO_PAD.decode(header).map_err(|_| Denial::NotAToken)?;
        let header: Header = serde_json::from_slice(&header).map_err(|_| Denial::NotAToken)?;
        let signature = Signature::named(&header.alg).ok_or(Denial::Algorithm)?;
        // Extensions that must be understood, and are not.
        if header.crit.is_some() {
            return Err(Denial::NotAToken);
        }
        let key_id = header.kid.ok_or(Denial::NoKeyId)?;
        let claims: Map<String, Value> =
            jsonwebtoken::dangerous::insecure_decode_claims(text).map_err(|_| Denial::NotAToken)?;
        let name =
            |claim: &str| claims.get(claim).map(|name| name.as_str().map(str::to_owned).ok_or(Denial::NotAToken));
        let (issuer, subject) = (name("iss").ok_or(Denial::NotAToken)??, name("sub").transpose()?.unwrap_or_default());
        Ok(Unverified { text, key_id, signature, issuer, subject, claims })
    }

    /// The claims of a token that this key has signed, for us, and whose time it is.
    ///
    /// # Errors
    /// One of these it is not.
    pub fn verify(&self, key: &Key, issuer: &IssuerSettings) -> Result<Map<String, Value>, Denial> {
        let mut validation = Validation::new(key.signature.algorithm());
        validation.leeway = issuer.leeway.as_secs();
        validation.validate_nbf = true;
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        validation.set_issuer(&[&issuer.url]);
        validation.set_audience(&[&issuer.audience]);
        let claims: Map<String, Value> =
            jsonwebtoken::decode(self.text, &key.decoding, &validation).map_err(|error| denial(error.kind()))?.claims;
        check_lifetime(&claims, issuer)?;
        Ok(claims)
    }
}

/// A token that lives long could be used again for as long.
fn check_lifetime(claims: &Map<String, Value>, issuer: &IssuerSettings) -> Result<(), Denial> {
    let seconds = |claim: &str| claims.get(claim).and_then(Value::as_f64).ok_or(Denial::NoLifetime);
    let (issued, expires) = (seconds("iat")?, seconds("exp")?);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    if issued > now + issuer.leeway.as_secs_f64() {
        return Err(Denial::NotYetValid);
    }
    if expires - issued > issuer.max_lifetime.as_secs_f64() {
        return Err(Denial::LongLived);
    }
    Ok(())
}

fn denial(error: &ErrorKind) -> Denial {
    match error {
        ErrorKind::InvalidAlgorithm | ErrorKind::UnsupportedAlgorithm => Denial::Algorithm,
        ErrorKind::ExpiredSignature => Denial::Expired,
        ErrorKind::ImmatureSignature => Denial::NotYetValid,
        ErrorKind::InvalidAudience => Denial::Audience,
        ErrorKind::MissingRequiredClaim(claim) if claim == "aud" => Denial::Audience,
        ErrorKind::MissingRequiredClaim(claim) if claim == "exp" => Denial::NoLifetime,
        ErrorKind::InvalidSignature => Denial::Signature,
        _ => Denial::NotAToken,
    }
}
