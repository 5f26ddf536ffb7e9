//! Patterns over texts that are paths: references, KEK URIs, annotation values.

use std::fmt;

use serde::Deserialize;

const ANY: &str = "*";

/// A text that is compared segment by segment, `/` between them: exactly, except for `*`.
///
/// `*` stands for one whole segment, and as the last segment for everything below: one segment or more. It never stands for an
/// empty segment. A text with a `.` or `..` segment matches no pattern: a program that resolves it would end up elsewhere than where it
/// was allowed.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Pattern(String);

impl Pattern {
    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the whole of `text` matches.
    pub fn matches(&self, text: &str) -> bool {
        let mut rest = text.split('/');
        let begins = self.segments().all(|expected| match rest.next() {
            None => false,
            Some(found) if expected == ANY => !found.is_empty(),
            Some(found) => found == expected,
        });
        let ends = self.is_open() || rest.next().is_none();
        begins && ends && !text.split('/').any(is_dots)
    }

    /// Whether it matches everything below its last segment but one.
    pub fn is_open(&self) -> bool {
        self.segments().next_back() == Some(ANY)
    }

    fn segments(&self) -> std::str::Split<'_, char> {
        self.0.split('/')
    }
}

impl TryFrom<String> for Pattern {
    type Error = PatternError;

    fn try_from(text: String) -> Result<Pattern, PatternError> {
        if text.is_empty() {
            return Err(PatternError::Empty);
        }
        for segment in text.split('/') {
            if segment.contains(ANY) && segment != ANY {
                return Err(PatternError::InnerStar);
            }
            if is_dots(segment) {
                return Err(PatternError::Dots);
            }
        }
        Ok(Pattern(text))
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_dots(segment: &str) -> bool {
    segment == "." || segment == ".."
}

/// Why a text is not a pattern.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// It would match nothing, or everything, depending on the reader.
    #[error("a pattern cannot be empty")]
    Empty,
    /// `agents-*`: a half of a segment cannot be matched.
    #[error("\"*\" stands for one whole segment, it cannot be a part of one")]
    InnerStar,
    /// `.` or `..`: texts with such segments match nothing.
    #[error("a segment of a pattern cannot be \".\" or \"..\"")]
    Dots,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::try_from(text.to_owned()).unwrap()
    }

    #[test]
    fn compares_exactly_where_there_is_no_star() {
        assert!(pattern("op://Vault/item/field").matches("op://Vault/item/field"));
        assert!(!pattern("op://Vault/item/field").matches("op://vault/item/field"));
        assert!(!pattern("op://Vault/item/field").matches("op://Vault/item/field/more"));
        assert!(!pattern("op://Vault/item/field").matches("op://Vault/item"));
        assert!(!pattern("agents").matches("agents-2"));
    }

    #[test]
    fn an_inner_star_is_one_whole_segment() {
        assert!(pattern("op://*/database/password").matches("op://Vault/database/password"));
        assert!(!pattern("op://*/database/password").matches("op://Vault/prod/database/password"));
        assert!(!pattern("op://*/database/password").matches("op:///database/password"));
    }

    #[test]
    fn a_last_star_is_everything_below() {
        let keys = pattern("gcp-kms://projects/acme/*");
        assert!(keys.matches("gcp-kms://projects/acme/locations"));
        assert!(keys.matches("gcp-kms://projects/acme/locations/eu/keyRings/agents"));
        assert!(!keys.matches("gcp-kms://projects/acme"));
        assert!(!keys.matches("gcp-kms://projects/acme/"));
        assert!(!keys.matches("gcp-kms://projects/acme-evil/locations"));
        assert!(pattern("*").matches("gcp-kms://projects/acme"));
        assert!(!pattern("*").matches(""));
    }

    #[test]
    fn dots_do_not_climb_out_of_what_is_allowed() {
        let keys = pattern("gcp-kms://projects/acme/*");
        assert!(!keys.matches("gcp-kms://projects/acme/../evil/locations"));
        assert!(!keys.matches("gcp-kms://projects/acme/x/.."));
        assert!(keys.matches("gcp-kms://projects/acme/..x"));
    }

    #[test]
    fn refuses_what_would_not_mean_what_it_looks_like() {
        let refused = |text: &str| Pattern::try_from(text.to_owned()).unwrap_err();
        assert_eq!(refused(""), PatternError::Empty);
        assert_eq!(refused("agents-*"), PatternError::InnerStar);
        assert_eq!(refused("op://Vault/**"), PatternError::InnerStar);
        assert_eq!(refused("local-kek:*"), PatternError::InnerStar);
        assert_eq!(refused("op://Vault/../*"), PatternError::Dots);
    }
}
