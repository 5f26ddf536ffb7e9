//! JSON in which no two members of an object can be confused.
//!
//! Parsers differ in which of two members of one name they keep, and some ignore case. A document that could mean one thing to
//! the gateway and another to a second program is refused as a whole.

use std::collections::HashSet;
use std::fmt;

use serde::de::{Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

/// Parses a document in which no object, at any depth, has two names that are equal or differ only in case.
///
/// # Errors
/// It is not JSON, is nested too deep, or repeats a name.
pub fn parse(bytes: &[u8]) -> serde_json::Result<Value> {
    serde_json::from_slice::<Unambiguous>(bytes).map(|Unambiguous(value)| value)
}

/// Parses an object under the same conditions, which has no name that differs from one of these only in case.
///
/// # Errors
/// As for [`parse`], and if it is no object.
pub fn parse_object(bytes: &[u8], known: &[&str]) -> serde_json::Result<Map<String, Value>> {
    let Value::Object(members) = parse(bytes)? else { return Err(serde_json::Error::custom("expected an object")) };
    let is_variant = |name: &String| !known.contains(&name.as_str()) && known.contains(&fold(name).as_str());
    if members.keys().any(is_variant) {
        return Err(serde_json::Error::custom("a name differs from a known one in case"));
    }
    Ok(members)
}

/// A name as parsers that ignore case compare it. Go's also takes `ſ` for `s` and the Kelvin sign for `k`.
fn fold(name: &str) -> String {
    name.chars().flat_map(char::to_uppercase).flat_map(char::to_lowercase).collect()
}

struct Unambiguous(Value);

impl<'de> Deserialize<'de> for Unambiguous {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Unambiguous, D::Error> {
        deserializer.deserialize_any(UnambiguousVisitor).map(Unambiguous)
    }
}

struct UnambiguousVisitor;

impl<'de> Visitor<'de> for UnambiguousVisitor {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(Unambiguous(value)) = sequence.next_element()? {
            values.push(value);
        }
        Ok(values.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let (mut members, mut folded) = (Map::new(), HashSet::new());
        while let Some((name, Unambiguous(value))) = map.next_entry::<String, Unambiguous>()? {
            if !folded.insert(fold(&name)) {
                return Err(A::Error::custom("a name is repeated"));
            }
            members.insert(name, value);
        }
        Ok(members.into())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn reads_what_is_unambiguous() {
        let text = r#" {"a": [1, -2, 0.5, true, null, "\u0061"], "b": {"a": {}}} "#;
        assert_eq!(parse(text.as_bytes()).unwrap(), json!({ "a": [1, -2, 0.5, true, null, "a"], "b": { "a": {} } }));
        assert_eq!(parse_object(br#"{"aud":"x","other":1}"#, &["aud"]).unwrap().len(), 2);
    }

    #[test]
    fn refuses_names_that_could_be_confused_at_any_depth() {
        for text in [
            r#"{"aud":"a","aud":"a"}"#,
            r#"{"aud":"a","\u0061ud":"b"}"#,
            r#"{"aud":"a","AUD":"b"}"#,
            r#"{"iss":"a","is\u017f":"b"}"#,
            r#"{"kid":"a","\u212aid":"b"}"#,
            r#"{"a":{"b":[{"c":1,"c":2}]}}"#,
            r#"[{"é":1,"É":2}]"#,
            r#"{"":1,"":2}"#,
        ] {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
        for text in [r#"{"Aud":"a"}"#, r#"{"AUD":"a"}"#, r#"{"i\u017fs":"a"}"#, "[]", "\"aud\"", "null"] {
            assert!(parse_object(text.as_bytes(), &["aud", "iss"]).is_err(), "{text}");
        }
    }

    #[test]
    fn refuses_what_is_not_one_document() {
        let deep = ["[".repeat(100_000), "]".repeat(100_000)].concat();
        for text in [
            &b"{}x"[..],
            b"{}{}",
            b"",
            b"{",
            b"{\"a\":1,}",
            b"{\"a\":1e999}",
            b"{\"a\":\"\xff\"}",
            b"\xef\xbb\xbf{}",
            deep.as_bytes(),
        ] {
            assert!(parse(text).is_err(), "{}", String::from_utf8_lossy(text.get(..20).unwrap_or(text)));
        }
    }
}
