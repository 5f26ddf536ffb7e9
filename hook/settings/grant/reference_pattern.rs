//! Patterns over references.

use serde::Deserialize;

use crate::nearest::likeness;
use crate::reference::{Reference, ReferenceError};
use crate::settings::{Pattern, PatternError};

/// Which segment of `op://vault/item/field` names the vault.
const VAULT: usize = 2;

/// A pattern that can match a reference.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct ReferencePattern(Pattern);

impl ReferencePattern {
    /// The pattern over the whole text of a reference.
    pub fn pattern(&self) -> &Pattern {
        &self.0
    }

    /// Its segments after `op://`, as they were written.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.0.as_str().split('/').skip(2)
    }
}

impl ReferencePattern {
    /// Whether it can match a reference with this vault.
    pub(super) fn names_vault(&self, vault: &str) -> bool {
        let segment = self.0.as_str().split('/').nth(VAULT);
        segment.is_some_and(|segment| segment == "*" || segment == vault)
    }

    /// The reference that it matches with the fewest changes to this one, and how alike both are; `None` if a segment is too different.
    pub(super) fn nearest(&self, reference: &str) -> Option<(String, f64)> {
        let (expected, found): (Vec<&str>, Vec<&str>) =
            (self.0.as_str().split('/').collect(), reference.split('/').collect());
        let is_long_enough =
            if self.0.is_open() { expected.len() <= found.len() } else { expected.len() == found.len() };
        if !is_long_enough {
            return None;
        }
        let mut all = 1.0;
        let mut segments = Vec::with_capacity(found.len());
        for (index, found) in found.into_iter().enumerate() {
            let expected = expected.get(index).copied().filter(|segment| *segment != "*").unwrap_or(found);
            all *= likeness(expected, found)?;
            segments.push(expected);
        }
        Some((segments.join("/"), all))
    }
}

impl TryFrom<String> for ReferencePattern {
    type Error = ReferencePatternError;

    fn try_from(text: String) -> Result<ReferencePattern, ReferencePatternError> {
        let pattern = Pattern::try_from(text)?;
        match example(&pattern).parse::<Reference>() {
            Err(reason) => Err(ReferencePatternError::Reference { reason }),
            Ok(example) if example.query().is_some() => Err(ReferencePatternError::Query),
            Ok(_) => Ok(ReferencePattern(pattern)),
        }
    }
}

/// The shortest text that a pattern over references matches: if it is no reference, the pattern matches none.
fn example(pattern: &Pattern) -> String {
    let mut text = pattern.to_string().replace('*', "x");
    while pattern.is_open() && text.split('/').count() < "op://vault/item/field".split('/').count() {
        text.push_str("/x");
    }
    text
}

/// Why a text is not a pattern over references.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are named for what they hold")]
pub enum ReferencePatternError {
    /// It is no pattern.
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// No reference has this form.
    #[error("it can match no reference: {reason}")]
    Reference { reason: ReferenceError },
    /// It ends in a query.
    #[error("grants match references without their query")]
    Query,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_patterns_that_can_match_no_reference() {
        let refusal = |text: &str| ReferencePattern::try_from(text.to_owned()).unwrap_err().to_string();
        assert!(refusal("Agents/*").contains("does not begin with \"op://\""));
        assert!(refusal("*").contains("does not begin with \"op://\""));
        assert!(refusal("op://Agents").contains("found 1 segments"));
        assert!(refusal("op://Agents/database").contains("found 2 segments"));
        assert!(refusal("op://a/b/c/d/*").contains("found 5 segments"));
        assert!(refusal("op://Agents/database/").contains("a segment is empty"));
        assert!(refusal("op://Agents//*").contains("a segment is empty"));
        assert!(refusal("op://Agents/café/*").contains("'é'"));
        assert!(refusal("op://Agents/github/code?attribute=otp").contains("without their query"));
        for text in ["op://*", "op://Agents/*", "op://*/*/password", "op://a/b/c/*", "op://a/b/c/d", "op://a/*/c/d"] {
            assert!(ReferencePattern::try_from(text.to_owned()).is_ok(), "{text}");
        }
    }
}
