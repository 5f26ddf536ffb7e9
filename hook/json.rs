//! JSON that another program reads, too: what parsers read in different ways is an error.
//!
//! A runtime in Go takes `"Annotations"` for `annotations` and merges two objects of one key; one in C ends a string at NUL, and
//! takes the first or the last of two members. A hook that read such a document in its own way would miss a request, or decide
//! about another container than the one that starts.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;

use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Error, IntoDeserializer, MapAccess, SeqAccess, Visitor,
};

/// Parses a whole document.
///
/// # Errors
/// As serde_json does, and at any level, inside of unused members too: a key that occurs twice, and a string with a NUL.
/// In an object that becomes a struct: a key that Go would take for one of its fields, and that is not spelled like it.
pub fn from_slice<T: DeserializeOwned>(json: &[u8]) -> Result<T, serde_json::Error> {
    let mut parser = serde_json::Deserializer::from_slice(json);
    let value = T::deserialize(Strict { inner: &mut parser, fields: &[] })?;
    parser.end()?;
    Ok(value)
}

/// As [`from_slice`], for text.
///
/// # Errors
/// As [`from_slice`].
pub fn from_str<T: DeserializeOwned>(json: &str) -> Result<T, serde_json::Error> {
    from_slice(json.as_bytes())
}

/// A part of serde's machinery that hands on everything it gets, and looks at keys and strings on the way.
struct Strict<T> {
    inner: T,
    /// The fields of the struct that an object becomes; none for a map.
    fields: &'static [&'static str],
}

impl<T> Strict<T> {
    fn new(inner: T) -> Strict<T> {
        Strict { inner, fields: &[] }
    }
}

macro_rules! deserialize {
    ($($method:ident($($name:ident: $type:ty),*))*) => {$(
        fn $method<V: Visitor<'de>>(self, $($name: $type,)* visitor: V) -> Result<V::Value, D::Error> {
            self.inner.$method($($name,)* Strict::new(visitor))
        }
    )*};
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Strict<D> {
    type Error = D::Error;

    deserialize! {
        deserialize_any() deserialize_bool() deserialize_i8() deserialize_i16() deserialize_i32() deserialize_i64()
        deserialize_i128() deserialize_u8() deserialize_u16() deserialize_u32() deserialize_u64() deserialize_u128()
        deserialize_f32() deserialize_f64() deserialize_char() deserialize_str() deserialize_string() deserialize_bytes()
        deserialize_byte_buf() deserialize_option() deserialize_unit() deserialize_unit_struct(name: &'static str)
        deserialize_newtype_struct(name: &'static str) deserialize_seq() deserialize_tuple(length: usize)
        deserialize_tuple_struct(name: &'static str, length: usize) deserialize_map()
        deserialize_enum(name: &'static str, variants: &'static [&'static str]) deserialize_identifier()
    }

    /// Only from an object: serde_json takes an array for a struct, too, and no other parser does.
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.inner.deserialize_map(Strict { inner: visitor, fields })
    }

    /// A member that nothing uses may be one that another program uses.
    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.deserialize_any(visitor)
    }

    fn is_human_readable(&self) -> bool {
        self.inner.is_human_readable()
    }
}

macro_rules! visit {
    ($($method:ident($type:ty))*) => {$(
        fn $method<E: Error>(self, value: $type) -> Result<V::Value, E> {
            self.inner.$method(value)
        }
    )*};
}

macro_rules! visit_text {
    ($($method:ident($type:ty))*) => {$(
        fn $method<E: Error>(self, text: $type) -> Result<V::Value, E> {
            require_no_nul(&text)?;
            self.inner.$method(text)
        }
    )*};
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Strict<V> {
    type Value = V::Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.expecting(formatter)
    }

    visit! {
        visit_bool(bool) visit_i64(i64) visit_i128(i128) visit_u64(u64) visit_u128(u128) visit_f64(f64) visit_bytes(&[u8])
        visit_borrowed_bytes(&'de [u8]) visit_byte_buf(Vec<u8>)
    }

    visit_text! { visit_str(&str) visit_borrowed_str(&'de str) visit_string(String) }

    fn visit_none<E: Error>(self) -> Result<V::Value, E> {
        self.inner.visit_none()
    }

    fn visit_unit<E: Error>(self) -> Result<V::Value, E> {
        self.inner.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        self.inner.visit_some(Strict::new(deserializer))
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        self.inner.visit_newtype_struct(Strict::new(deserializer))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, elements: A) -> Result<V::Value, A::Error> {
        self.inner.visit_seq(Strict::new(elements))
    }

    fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<V::Value, A::Error> {
        self.inner.visit_map(Members { inner: members, fields: self.fields, seen: BTreeSet::new() })
    }

    fn visit_enum<A: EnumAccess<'de>>(self, variant: A) -> Result<V::Value, A::Error> {
        self.inner.visit_enum(variant)
    }
}

impl<'de, T: DeserializeSeed<'de>> DeserializeSeed<'de> for Strict<T> {
    type Value = T::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<T::Value, D::Error> {
        self.inner.deserialize(Strict::new(deserializer))
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Strict<A> {
    type Error = A::Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, A::Error> {
        self.inner.next_element_seed(Strict::new(seed))
    }

    fn size_hint(&self) -> Option<usize> {
        self.inner.size_hint()
    }
}

/// The members of an object, and the keys of those that were read.
struct Members<A> {
    inner: A,
    fields: &'static [&'static str],
    seen: BTreeSet<String>,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Members<A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        let Some(key) = self.inner.next_key::<String>()? else { return Ok(None) };
        require_no_nul(&key)?;
        if let Some(field) = self.fields.iter().find(|field| **field != key && folded(field) == folded(&key)) {
            return Err(Error::custom(format_args!("a key differs from \"{field}\" in its case alone")));
        }
        if !self.seen.insert(key.clone()) {
            return Err(Error::custom("a key occurs twice in one object"));
        }
        seed.deserialize(key.into_deserializer()).map(Some)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, A::Error> {
        self.inner.next_value_seed(Strict::new(seed))
    }

    fn size_hint(&self) -> Option<usize> {
        self.inner.size_hint()
    }
}

/// A key as Go compares it: U+017F is an `s` there, U+212A a `k`.
pub fn folded(key: &str) -> Cow<'_, str> {
    match key.bytes().all(|byte| byte.is_ascii() && !byte.is_ascii_uppercase()) {
        true => Cow::Borrowed(key),
        false => key.chars().flat_map(char::to_uppercase).flat_map(char::to_lowercase).collect(),
    }
}

fn require_no_nul<E: Error>(text: &str) -> Result<(), E> {
    match text.contains('\0') {
        true => Err(E::custom("a string has a NUL, at which programs in C end it")),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use serde_json::value::RawValue;
    use std::collections::BTreeMap;

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Document {
        annotations: Option<BTreeMap<String, String>>,
        mask: Option<Mask>,
        #[serde(default)]
        list: Vec<Mask>,
        raw: Option<Box<RawValue>>,
        number: Option<u32>,
    }

    #[derive(Debug, PartialEq, Eq, Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Mask {
        masked_paths: Vec<String>,
    }

    fn refusal(json: &str) -> String {
        from_str::<Document>(json).unwrap_err().to_string()
    }

    #[test]
    fn reads_what_serde_json_reads() {
        let json = r#"{"annotations":{"Team":"a","team":"b"},"mask":{"maskedPaths":["/x"]},"list":[{"maskedPaths":[]}],
                       "raw": {"a" : [1.50, "\u00e9"]},"number":7,"other":{"Mask":1,"mask":2.5,"x":[null,true,-1]}}"#;
        let document: Document = from_str(json).unwrap();
        assert_eq!(document.annotations.unwrap().len(), 2);
        assert_eq!(document.mask, Some(Mask { masked_paths: vec!["/x".into()] }));
        assert_eq!((document.list.len(), document.number), (1, Some(7)));
        assert_eq!(document.raw.unwrap().get(), r#"{"a" : [1.50, "\u00e9"]}"#);
        let value = |json| {
            (from_str::<serde_json::Value>(json).unwrap(), serde_json::from_str::<serde_json::Value>(json).unwrap())
        };
        let (strict, plain) = value(json);
        assert_eq!(strict, plain);
        assert!(refusal("{} {}").starts_with("trailing characters"));
        assert_eq!(refusal("[]"), "invalid type: sequence, expected struct Document at line 1 column 0");
        assert_eq!(refusal(r#"{"number":"x"}"#), "invalid type: string \"x\", expected u32 at line 1 column 13");
    }

    #[test]
    fn refuses_a_key_that_occurs_twice_at_any_level() {
        for json in [
            r#"{"annotations":{},"annotations":{}}"#,
            r#"{"annotations":{},"\u0061nnotations":{}}"#,
            r#"{"annotations":{"a":"1","a":"1"}}"#,
            r#"{"mask":{"maskedPaths":[],"maskedPaths":[]}}"#,
            r#"{"list":[{"maskedPaths":[],"x":1,"x":2}]}"#,
            r#"{"unused":[{"deep":{"a":1,"a":2}}]}"#,
        ] {
            assert!(refusal(json).starts_with("a key occurs twice in one object at line 1 column "), "{json}");
        }
        assert!(from_str::<serde_json::Value>(r#"[{"a":{"b":1,"b":1}}]"#).is_err());
    }

    #[test]
    fn refuses_a_key_that_differs_from_a_field_in_its_case_alone() {
        for json in [
            r#"{"Annotations":{}}"#,
            r#"{"annotations":{},"ANNOTATIONS":{}}"#,
            r#"{"annotation\u017f":{}}"#,
            r#"{"mas\u212a":null}"#,
            r#"{"mask":{"maskedPaths":[],"maskedpaths":[]}}"#,
            r#"{"list":[{"MaskedPaths":[]}]}"#,
        ] {
            assert!(refusal(json).starts_with("a key differs from \""), "{json}");
        }
    }

    #[test]
    fn refuses_a_string_with_a_nul_at_any_level() {
        for json in [r#"{"annotations\u0000":1}"#, r#"{"annotations":{"a":"b\u0000c"}}"#, r#"{"unused":["\u0000"]}"#] {
            assert!(refusal(json).starts_with("a string has a NUL"), "{json}");
        }
    }
}
