//! Identity tokens: from a request's header to verified claims.
//!
//! A token is parsed strictly, because its issuer's library, a proxy or a log may read it differently: no name twice in header or
//! claims, one type for each claim, one audience, whole seconds.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jsonwebtoken::crypto;
use serde_json::{Map, Value};

use super::denial::Denial;
use super::json;
use super::key::Key;
use super::platform;
use super::settings::{IssuerSettings, Signature};

/// The longest token. Those of the platforms are below 3 KiB.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// The members of a header that JSON Web Signature (RFC 7515) and its extensions define.
const HEADER_MEMBERS: &[&str] =
    &["alg", "b64", "crit", "cty", "jku", "jwk", "kid", "typ", "x5c", "x5t", "x5t#s256", "x5u", "zip"];

/// The claims that the gateway looks at whatever the rules say.
const CLAIMS: &[&str] = &["aud", "exp", "iat", "iss", "jti", "nbf", "sub"];

/// A token that is parsed, but not verified.
pub struct Unverified<'a> {
    text: &'a str,
    /// `kid`: the key that signed it, as it says.
    pub key_id: String,
    /// `alg`: the algorithm that signed it, as it says.
    pub signature: Signature,
    /// `iss`: its issuer, as it says.
    pub issuer: String,
    /// `sub`: its subject, as it says.
    pub subject: String,
    /// `jti`: its id, as it says.
    pub id: Option<String>,
    /// All claims.
    pub claims: Map<String, Value>,
}

impl<'a> Unverified<'a> {
    /// Parses a token.
    ///
    /// # Errors
    /// It is not well-formed, or is signed in a way that is never accepted.
    pub fn parse(text: &'a str) -> Result<Unverified<'a>, Denial> {
        if text.len() > TOKEN_BYTES_MAX {
            return Err(Denial::TokenTooLarge);
        }
        let mut parts = text.split('.');
        let (Some(header), Some(claims), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Denial::NotAToken);
        };
        let mut header = object(header, &[HEADER_MEMBERS])?;
        let algorithm = required(string(&mut header, "alg")?)?;
        let signature = Signature::named(&algorithm).ok_or(Denial::Algorithm)?;
        // Extensions that have to be understood; none is.
        if header.contains_key("crit") {
            return Err(Denial::NotAToken);
        }
        let key_id = string(&mut header, "kid")?.ok_or(Denial::NoKeyId)?;
        let claims = object(claims, &[CLAIMS, platform::FENCE_CLAIMS])?;
        let named = |claim: &str| match claims.get(claim) {
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(Denial::NotAToken),
            None => Ok(None),
        };
        let (issuer, subject, id) = (required(named("iss")?)?, required(named("sub")?)?, named("jti")?);
        Ok(Unverified { text, key_id, signature, issuer, subject, id, claims })
    }

    /// Checks that this key has signed it, that it is for this gateway, and that it is valid now.
    ///
    /// # Errors
    /// One of these is not so.
    pub fn verify(&self, key: &Key, issuer: &IssuerSettings) -> Result<(), Denial> {
        let (message, signature) = self.text.rsplit_once('.').ok_or(Denial::NotAToken)?;
        let signed = crypto::verify(signature, message.as_bytes(), &key.decoding, key.signature.algorithm());
        if self.signature != key.signature || !signed.is_ok_and(|is_signed| is_signed) {
            return Err(Denial::Signature);
        }
        if self.issuer != issuer.url {
            return Err(Denial::Issuer);
        }
        if !is_only_audience(self.claims.get("aud"), &issuer.audience) {
            return Err(Denial::Audience);
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        self.check_times(now, issuer)
    }

    fn check_times(&self, now: u64, issuer: &IssuerSettings) -> Result<(), Denial> {
        let lifetime =
            |claim: &str| self.seconds(claim).and_then(|time| time.ok_or(())).map_err(|()| Denial::NoLifetime);
        let (issued, expires) = (lifetime("iat")?, lifetime("exp")?);
        let not_before = self.seconds("nbf").map_err(|()| Denial::NotAToken)?;
        // Of so many bits that no claim, however large, overflows a sum.
        let (now, leeway) = (i128::from(now), i128::from(issuer.leeway.as_secs()));
        if expires + leeway <= now {
            return Err(Denial::Expired);
        }
        if issued > now + leeway || not_before.is_some_and(|time| time > now + leeway) {
            return Err(Denial::NotYetValid);
        }
        // A token that leaks can be used again for as long.
        if expires - issued > i128::from(issuer.max_lifetime.as_secs()) {
            return Err(Denial::LongLived);
        }
        Ok(())
    }

    /// A time in whole seconds since 1970; an error if the claim is something else.
    fn seconds(&self, claim: &str) -> Result<Option<i128>, ()> {
        let whole = |value: &Value| value.as_i64().map(i128::from).or(value.as_u64().map(i128::from));
        self.claims.get(claim).map(|value| whole(value).ok_or(())).transpose()
    }
}

/// One audience and no other, as a string or as a list of one, which is Kubernetes' form.
fn is_only_audience(claim: Option<&Value>, audience: &str) -> bool {
    match claim {
        Some(Value::String(found)) => found == audience,
        Some(Value::Array(found)) => matches!(&found[..], [Value::String(found)] if found == audience),
        _ => false,
    }
}

fn object(part: &str, known: &[&[&str]]) -> Result<Map<String, Value>, Denial> {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(part).map_err(|_| Denial::NotAToken)?;
    json::parse_object(&bytes, &known.concat()).map_err(|_| Denial::NotAToken)
}

/// Takes out a string; an error if it is something else.
fn string(members: &mut Map<String, Value>, name: &str) -> Result<Option<String>, Denial> {
    match members.remove(name) {
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(Denial::NotAToken),
        None => Ok(None),
    }
}

fn required(text: Option<String>) -> Result<String, Denial> {
    text.filter(|text| !text.is_empty()).ok_or(Denial::NotAToken)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn issuer() -> IssuerSettings {
        serde_json::from_value(json!({ "url": "https://i.example", "audience": "gateway" })).unwrap()
    }

    fn claims() -> Value {
        json!({ "iss": "https://i.example", "sub": "job", "aud": "gateway", "iat": NOW - 10, "exp": NOW + 290 })
    }

    fn token(header: &str, claims: &str) -> String {
        format!("{}.{}.", BASE64_URL_SAFE_NO_PAD.encode(header), BASE64_URL_SAFE_NO_PAD.encode(claims))
    }

    fn parsed(header: &str, claims: &str) -> Result<(), Denial> {
        Unverified::parse(&token(header, claims)).map(drop)
    }

    const HEADER: &str = r#"{"alg":"RS256","kid":"k"}"#;

    /// What becomes of the times and the audience of a token that has this claim.
    fn with(claim: &str, value: Value) -> Result<(), Denial> {
        let mut claims = claims();
        claims[claim] = value;
        let text = token(HEADER, &claims.to_string());
        let token = Unverified::parse(&text)?;
        if !is_only_audience(token.claims.get("aud"), "gateway") {
            return Err(Denial::Audience);
        }
        token.check_times(NOW, &issuer())
    }

    #[test]
    fn takes_one_audience_and_no_other() {
        for good in [json!("gateway"), json!(["gateway"])] {
            assert_eq!(with("aud", good.clone()), Ok(()), "{good}");
        }
        for bad in [
            json!([]),
            json!(["gateway", "other"]),
            json!(["other", "gateway"]),
            json!(["gateway", "gateway"]),
            json!([["gateway"]]),
            json!({ "gateway": true }),
            json!("Gateway"),
            json!("gateway "),
            json!(""),
            json!(7),
            json!(true),
            json!(null),
        ] {
            assert_eq!(with("aud", bad.clone()), Err(Denial::Audience), "{bad}");
        }
    }

    #[test]
    fn takes_times_that_are_whole_seconds_and_nothing_else() {
        let odd = [
            json!(1.5),
            json!(NOW as f64),
            json!(1e300),
            json!(NOW.to_string()),
            json!(""),
            json!(true),
            json!(null),
            json!([NOW]),
            json!({ "seconds": NOW }),
        ];
        for value in odd {
            assert_eq!(with("exp", value.clone()), Err(Denial::NoLifetime), "{value}");
            assert_eq!(with("iat", value.clone()), Err(Denial::NoLifetime), "{value}");
            assert_eq!(with("nbf", value.clone()), Err(Denial::NotAToken), "{value}");
        }
        assert_eq!(with("exp", json!(u64::MAX)), Err(Denial::LongLived));
        assert_eq!(with("exp", json!(i64::MIN)), Err(Denial::Expired));
        assert_eq!(with("iat", json!(i64::MIN)), Err(Denial::LongLived));
        assert_eq!(with("iat", json!(u64::MAX)), Err(Denial::NotYetValid));
        assert_eq!(with("nbf", json!(u64::MAX)), Err(Denial::NotYetValid));
        assert_eq!(with("nbf", json!(i64::MIN)), Ok(()));
        assert_eq!(with("exp", json!(NOW - 30)), Err(Denial::Expired));
        assert_eq!(with("exp", json!(NOW - 29)), Ok(()));
    }

    #[test]
    fn takes_names_that_are_strings_and_nothing_else() {
        for odd in [json!(1), json!(true), json!(null), json!(["job"]), json!({}), json!(1.5)] {
            for claim in ["iss", "sub", "jti"] {
                assert_eq!(with(claim, odd.clone()), Err(Denial::NotAToken), "{claim}: {odd}");
            }
        }
        assert_eq!(with("sub", json!("")), Err(Denial::NotAToken));
    }

    #[test]
    fn refuses_names_that_could_be_confused() {
        let good = claims().to_string();
        assert_eq!(parsed(HEADER, &good), Ok(()));
        let with = |member: &str| good.replacen('{', &format!("{{{member},"), 1);
        for member in [
            r#""aud":"other""#,
            r#""\u0061ud":"other""#,
            r#""AUD":"other""#,
            r#""NBF":4102444800"#,
            r#""Event_Name":"push""#,
            r#""a":{"b":1,"b":2}"#,
            r#""a":[{"b":1,"B":2}]"#,
        ] {
            assert_eq!(parsed(HEADER, &with(member)), Err(Denial::NotAToken), "{member}");
        }
        for header in [
            r#"{"alg":"RS256","kid":"k","kid":"k"}"#,
            r#"{"alg":"none","alg":"RS256","kid":"k"}"#,
            r#"{"alg":"RS256","\u0061lg":"none","kid":"k"}"#,
            r#"{"alg":"RS256","kid":"k","x":1,"x":1}"#,
            r#"{"alg":"RS256","kid":"k","Crit":["b64"]}"#,
            r#"{"alg":"RS256","kid":"k","crit":null}"#,
            r#"{"alg":["RS256"],"kid":"k"}"#,
            r#"{"alg":"RS256","kid":1}"#,
            r#"{"alg":"RS256","kid":null}"#,
            r#"[{"alg":"RS256","kid":"k"}]"#,
            r#"{"alg":"RS256","kid":"k"}{}"#,
        ] {
            assert_eq!(parsed(header, &good), Err(Denial::NotAToken), "{header}");
        }
        for claims in [format!("{good}x"), format!("{good}{good}"), format!("[{good}]"), "null".to_owned()] {
            assert_eq!(parsed(HEADER, &claims), Err(Denial::NotAToken), "{claims}");
        }
        assert_eq!(parsed(r#"{"alg":"rs256","kid":"k"}"#, &good), Err(Denial::Algorithm));
        assert_eq!(parsed(r#"{"alg":"RS256"}"#, &good), Err(Denial::NoKeyId));
    }
}
