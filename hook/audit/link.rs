//! The link of a line to the previous one.

use std::fmt;
use std::str::FromStr;

use ring::digest::{self, SHA256};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::hex::hex;

const HASH_BYTES: usize = 32;

/// The position of a line in its chain. The sequence number reveals removed and moved lines, the hash changed ones.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// 1 for the first line of the chain, incremented with every line.
    pub sequence: u64,
    /// The hash of the previous line; for the first line, that of the last line of the previous file, if it was found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<Hash>,
}

impl Link {
    /// Parses the link of a line, which is given without its newline. Other lines have none.
    pub fn of(line: &[u8]) -> Option<Link> {
        #[derive(Deserialize)]
        struct Linked {
            chain: Link,
        }
        serde_json::from_slice::<Linked>(line).ok().map(|linked| linked.chain)
    }
}

/// The SHA-256 hash of a line without its newline, written as 64 hexadecimal digits, as `sha256sum` prints it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Hash([u8; HASH_BYTES]);

impl Hash {
    /// The hash of these bytes.
    pub fn of(bytes: &[u8]) -> Hash {
        let mut hasher = Hasher::default();
        hasher.update(bytes);
        hasher.finish()
    }
}

/// An incremental hash.
#[derive(Clone)]
pub(super) struct Hasher(digest::Context);

impl Hasher {
    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(super) fn finish(self) -> Hash {
        let mut hash = [0; HASH_BYTES];
        hash.copy_from_slice(self.0.finish().as_ref());
        Hash(hash)
    }
}

impl Default for Hasher {
    fn default() -> Hasher {
        Hasher(digest::Context::new(&SHA256))
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Hash {
    type Err = NotAHash;

    fn from_str(text: &str) -> Result<Hash, NotAHash> {
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Ok(byte - b'0'),
            b'a'..=b'f' => Ok(byte - b'a' + 10),
            _ => Err(NotAHash),
        };
        let mut hash = [0; HASH_BYTES];
        let (pairs, []) = text.as_bytes().as_chunks::<2>() else {
            return Err(NotAHash);
        };
        if pairs.len() != HASH_BYTES {
            return Err(NotAHash);
        }
        for (byte, [high, low]) in hash.iter_mut().zip(pairs) {
            *byte = digit(*high)? << 4 | digit(*low)?;
        }
        Ok(Hash(hash))
    }
}

impl Serialize for Hash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Hash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Hash, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// The text is not a hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a hash is 64 of 0-9 a-f")]
pub struct NotAHash;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_has_the_format_of_sha256sum() {
        let text = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(Hash::of(b"abc").to_string(), text);
        assert_eq!(text.parse(), Ok(Hash::of(b"abc")));
        for wrong in ["", "ba", &text.to_uppercase(), &text.replace('b', "g"), &format!("{text}00"), &text[1..]] {
            assert_eq!(wrong.parse::<Hash>(), Err(NotAHash), "{wrong}");
        }
    }

    #[test]
    fn parses_a_link_and_rejects_other_lines() {
        let link = Link { sequence: 2, previous: Some(Hash::of(b"abc")) };
        let line = format!(r#"{{"schema":1,"chain":{}}}"#, serde_json::to_string(&link).unwrap());
        assert_eq!(Link::of(line.as_bytes()), Some(link));
        for line in [r#"{"schema":1}"#, r#"{"chain":{"sequence":-1}}"#, r#"{"chain":{"sequence":1}"#, "", "chain"] {
            assert_eq!(Link::of(line.as_bytes()), None, "{line}");
        }
    }
}
