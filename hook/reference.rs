//! 1Password secret references: `op://vault/item/[section/]field[?query]`.
//!
//! The grammar is that of 1Password's own SDK validator, tightened where it accepts what cannot name anything or would not survive
//! being put into a filter or a URL: empty segments, `.` and `..`, leading or trailing spaces, and segments over
//! [`SEGMENT_BYTES_MAX`] bytes are refused. There is no percent-encoding; names with other characters are reached by their id.

use std::fmt;
use std::str::FromStr;

/// The longest vault, item, section or field segment, in bytes.
pub const SEGMENT_BYTES_MAX: usize = 256;

const PREFIX: &str = "op://";
const ID_BYTES: usize = 26;

/// A valid reference, in the spelling in which it was asked for.
///
/// Two spellings of one field (by name and by id) are two references: grants match the spelling, and a sealed value is bound to it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    text: String,
    query: Option<Query>,
}

/// What is asked of the field beyond its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Query {
    /// `?attribute=otp` or `?attribute=totp`: the current one-time password.
    Otp,
    /// `?ssh-format=openssh`: a private key in OpenSSH's format.
    OpensshKey,
}

impl Reference {
    /// The reference without its query, exactly as it was asked for: what grants match and sealed values are bound to.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The vault's name or id.
    pub fn vault(&self) -> &str {
        self.segment(0)
    }

    /// The item's title or id.
    pub fn item(&self) -> &str {
        self.segment(1)
    }

    /// The section's label or id, if the reference names one.
    pub fn section(&self) -> Option<&str> {
        (self.segments().count() == 4).then(|| self.segment(2))
    }

    /// The field's label or id.
    pub fn field(&self) -> &str {
        self.segments().next_back().unwrap_or_default()
    }

    /// What is asked of the field beyond its value.
    pub fn query(&self) -> Option<Query> {
        self.query
    }

    fn segment(&self, index: usize) -> &str {
        self.segments().nth(index).unwrap_or_default()
    }

    fn segments(&self) -> std::str::Split<'_, char> {
        self.text.strip_prefix(PREFIX).unwrap_or_default().split('/')
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Reference, ReferenceError> {
        let rest = text.strip_prefix(PREFIX).ok_or(ReferenceError::Prefix)?;
        let (path, query) = match rest.split_once('?') {
            None => (rest, None),
            Some((path, query)) => (path, Some(query.parse()?)),
        };
        let segments: Vec<&str> = path.split('/').collect();
        if !(3..=4).contains(&segments.len()) {
            return Err(ReferenceError::Segments { found: segments.len() });
        }
        segments.into_iter().try_for_each(check_segment)?;
        Ok(Reference { text: format!("{PREFIX}{path}"), query })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        match self.query {
            None => Ok(()),
            Some(Query::Otp) => f.write_str("?attribute=otp"),
            Some(Query::OpensshKey) => f.write_str("?ssh-format=openssh"),
        }
    }
}

impl FromStr for Query {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Query, ReferenceError> {
        match text {
            "attribute=otp" | "attribute=totp" => Ok(Query::Otp),
            "ssh-format=openssh" => Ok(Query::OpensshKey),
            _ => Err(ReferenceError::Query),
        }
    }
}

/// Whether a segment has the form of a 1Password id: 26 lower-case letters and digits. A name can have that form too.
pub fn is_id(segment: &str) -> bool {
    segment.len() == ID_BYTES && segment.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
}

fn check_segment(segment: &str) -> Result<(), ReferenceError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | ' ' | '-');
    if segment.is_empty() {
        return Err(ReferenceError::EmptySegment);
    }
    if segment.len() > SEGMENT_BYTES_MAX {
        return Err(ReferenceError::LongSegment { bytes: segment.len() });
    }
    if let Some(character) = segment.chars().find(|c| !allowed(*c)) {
        return Err(ReferenceError::Character { character });
    }
    if segment == "." || segment == ".." {
        return Err(ReferenceError::DotSegment);
    }
    if segment.starts_with(' ') || segment.ends_with(' ') {
        return Err(ReferenceError::OuterSpace);
    }
    Ok(())
}

/// Why a text is not a reference.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "fields are named for what they hold")]
pub enum ReferenceError {
    /// Another scheme, or `OP://`.
    #[error("it does not begin with \"op://\"")]
    Prefix,
    /// Fewer than three segments or more than four.
    #[error("expected op://vault/item/[section/]field, found {found} segments")]
    Segments { found: usize },
    /// `//`, or a `/` at the end.
    #[error("a segment is empty")]
    EmptySegment,
    /// A segment that is too long to be anyone's name.
    #[error("a segment is {bytes} bytes long, at most {SEGMENT_BYTES_MAX} are allowed")]
    LongSegment { bytes: usize },
    /// A character outside 1Password's set.
    #[error("character {character:?} is not allowed in a reference, only A-Z a-z 0-9 . _ - and space")]
    Character { character: char },
    /// `.` or `..`.
    #[error("a segment is \".\" or \"..\"")]
    DotSegment,
    /// A space at the beginning or end of a segment.
    #[error("a segment begins or ends with a space")]
    OuterSpace,
    /// A query other than the three that 1Password's SDK knows.
    #[error("the query is not one of attribute=otp, attribute=totp, ssh-format=openssh")]
    Query,
}

impl ReferenceError {
    /// What can be written instead, if it is known.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            ReferenceError::Prefix => Some("references begin with op://, in lower case"),
            ReferenceError::Character { .. } | ReferenceError::LongSegment { .. } | ReferenceError::OuterSpace => Some(
                "write the id in place of the name: 1Password shows that of an item under \"Copy UUID\", `op item get ITEM --format json` those of its fields",
            ),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_its_parts() {
        let reference: Reference = "op://My Vault/db/prod_1/user-name?attribute=totp".parse().unwrap();
        assert_eq!(reference.vault(), "My Vault");
        assert_eq!(reference.item(), "db");
        assert_eq!(reference.section(), Some("prod_1"));
        assert_eq!(reference.field(), "user-name");
        assert_eq!(reference.query(), Some(Query::Otp));
        assert_eq!(reference.as_str(), "op://My Vault/db/prod_1/user-name");
        let short: Reference = "op://v/i/f".parse().unwrap();
        assert_eq!((short.section(), short.field(), short.query()), (None, "f", None));
    }

    #[test]
    fn is_tighter_than_the_sdk() {
        let parse = |text: &str| text.parse::<Reference>().unwrap_err();
        assert_eq!(parse("op://v//f"), ReferenceError::EmptySegment);
        assert_eq!(parse("op:///i/f"), ReferenceError::EmptySegment);
        assert_eq!(parse("op://v/i/"), ReferenceError::EmptySegment);
        assert_eq!(parse("op://v/../f"), ReferenceError::DotSegment);
        assert_eq!(parse("op://v/ i/f"), ReferenceError::OuterSpace);
        assert_eq!(parse("op://v/i/ "), ReferenceError::OuterSpace);
        let long = "x".repeat(SEGMENT_BYTES_MAX + 1);
        assert_eq!(parse(&format!("op://v/i/{long}")), ReferenceError::LongSegment { bytes: SEGMENT_BYTES_MAX + 1 });
        assert!(format!("op://v/i/{}", "x".repeat(SEGMENT_BYTES_MAX)).parse::<Reference>().is_ok());
    }

    #[test]
    fn knows_an_id_by_its_form() {
        assert!(is_id("abcdefghijklmnopqrstuvwxy2"));
        assert!(!is_id("abcdefghijklmnopqrstuvwxyZ"));
        assert!(!is_id("abc"));
    }
}
