//! What a PKCS#11 URI says of a key ([RFC 7512](https://www.rfc-editor.org/rfc/rfc7512)), without its scheme.

use serde::{Deserialize, Serialize};

/// A secret key of a token: what each must be called, where it is said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyUri {
    /// The token's label.
    pub token: Option<String>,
    /// The token's manufacturer.
    pub manufacturer: Option<String>,
    /// The token's model.
    pub model: Option<String>,
    /// The token's serial number.
    pub serial: Option<String>,
    /// The key's label.
    pub object: Option<String>,
    /// The key's id.
    pub id: Option<Vec<u8>>,
}

impl KeyUri {
    /// Reads the attributes of the path. Token and key must be named: by label or serial number, and by label or id.
    ///
    /// `None` if it is of another form: attributes of the query (where a module is, what the PIN is) are the settings' alone, and
    /// a sealed value cannot choose them.
    pub fn parse(path: &str) -> Option<KeyUri> {
        let mut uri = KeyUri::default();
        for attribute in path.split(';') {
            let (name, value) = attribute.split_once('=')?;
            let value = decode(value)?;
            let text = |value| String::from_utf8(value).ok();
            let place = match name {
                "token" => &mut uri.token,
                "manufacturer" => &mut uri.manufacturer,
                "model" => &mut uri.model,
                "serial" => &mut uri.serial,
                "object" => &mut uri.object,
                "id" if uri.id.is_none() => {
                    uri.id = Some(value);
                    continue;
                }
                "type" if value == b"secret-key" => continue,
                _ => return None,
            };
            if place.replace(text(value)?).is_some() {
                return None;
            }
        }
        let names_token = uri.token.is_some() || uri.serial.is_some();
        let names_key = uri.object.is_some() || uri.id.is_some();
        (names_token && names_key).then_some(uri)
    }
}

/// Takes the percent signs out. What is not an unreserved character must be encoded, so that a URI is one word without a `/`.
fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => {
                let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
                u8::try_from(digit(bytes.next())? * 16 + digit(bytes.next())?).ok()?
            }
            b'-' | b'.' | b'_' | b'~' => byte,
            _ if byte.is_ascii_alphanumeric() => byte,
            _ => return None,
        });
    }
    (!decoded.is_empty() && !decoded.contains(&0)).then_some(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_names_of_token_and_key() {
        let uri = KeyUri::parse("token=My%20token;serial=01;object=k;id=%01%ff;type=secret-key").unwrap();
        assert_eq!((uri.token.as_deref(), uri.serial.as_deref()), (Some("My token"), Some("01")));
        assert_eq!((uri.object.as_deref(), uri.id.as_deref()), (Some("k"), Some(&[1, 255][..])));
    }

    #[test]
    fn refuses_what_is_no_key_or_says_too_much() {
        for path in [
            "",
            "token=t",
            "object=k",
            "token=t;object=",
            "token=t;token=u;object=k",
            "token=t;id=%01;id=%02",
            "token=t;object=k;type=private",
            "token=t;object=k?module-path=x.so",
            "token=t;object=k?pin-value=hunter2",
            "token=t;object=a/b",
            "token=t;object=a b",
            "token=t;object=%0",
            "token=t;object=%zz",
            "token=t;object=%00",
            "token=t;object=%ff",
            "token=t;object=k;slot-id=1",
            "token=t;object=k;",
        ] {
            assert_eq!(KeyUri::parse(path), None, "{path}");
        }
    }
}
