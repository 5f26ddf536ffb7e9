//! What was fetched a moment ago: sealed values for `max-age`, and the absence of a value for a second.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use zeroize::Zeroizing;

use crate::fault::{Class, Fault as _};
use crate::reference::Reference;
use crate::seal::is_sealed;
use crate::source::op::OpError;
use crate::source::{Earlier, Field, SourceError, Standing};

/// How long a missing vault, item or field is not asked for again.
pub(super) const MISSING_FOR: Duration = Duration::from_secs(1);

/// The most references that are remembered of each kind.
const REFERENCES_MAX: usize = 1024;

/// A larger value is fetched each time.
const VALUE_BYTES_MAX: usize = 16 * 1024;

/// Sealed values and absences, by reference.
#[derive(Default)]
pub(super) struct Fields {
    sealed: HashMap<Reference, Sealed>,
    missing: HashMap<Reference, (Instant, SourceError)>,
}

struct Sealed {
    value: Zeroizing<String>,
    item_id: Option<String>,
    field_id: Option<String>,
    version: Option<u64>,
    at: Instant,
    fetched: Timestamp,
    start: Option<Arc<str>>,
}

impl Fields {
    /// The value that was fetched within this time.
    pub(super) fn sealed(&self, reference: &Reference, max_age: Duration, now: Instant) -> Option<Field> {
        let sealed = self.sealed.get(reference).filter(|sealed| now.saturating_duration_since(sealed.at) < max_age)?;
        let start = sealed.start.as_deref().map(str::to_owned);
        Some(Field {
            value: sealed.value.clone(),
            item_id: sealed.item_id.clone(),
            field_id: sealed.field_id.clone(),
            version: sealed.version,
            earlier: Some(Earlier { fetched: sealed.fetched, start, outage: false }),
        })
    }

    /// Remembers a value, if it is one that may be kept: ciphertext, and not computed for a query. It does not replace what was asked for
    /// after it.
    pub(super) fn remember(
        &mut self,
        reference: &Reference,
        field: &Field,
        (at, fetched): (Instant, Timestamp),
        start: Option<Arc<str>>,
        max_age: Duration,
    ) {
        if max_age.is_zero() || !may_be_kept(reference, &field.value) || field.value.len() > VALUE_BYTES_MAX {
            return;
        }
        if self.sealed.get(reference).is_some_and(|known| known.at > at) {
            return;
        }
        if self.sealed.len() >= REFERENCES_MAX {
            self.sealed.retain(|_, sealed| at.saturating_duration_since(sealed.at) < max_age);
        }
        if self.sealed.len() < REFERENCES_MAX {
            let Field { value, item_id, field_id, version, earlier: _ } = field;
            let (value, item_id, field_id) = (value.clone(), item_id.clone(), field_id.clone());
            let sealed = Sealed { value, item_id, field_id, version: *version, at, fetched, start };
            self.sealed.insert(reference.clone(), sealed);
        }
    }

    /// Why there is no value, if that was found out a moment ago.
    pub(super) fn missing(&self, reference: &Reference, now: Instant) -> Option<SourceError> {
        let (at, error) = self.missing.get(reference)?;
        (now.saturating_duration_since(*at) < MISSING_FOR).then(|| error.clone())
    }

    /// Removes what a refusal revokes, and remembers it if it says that there is nothing.
    pub(super) fn refused(&mut self, reference: &Reference, error: &SourceError, at: Instant) {
        if error.standing() != Standing::Refusal {
            return;
        }
        self.sealed.retain(|known, _| !revokes(error, reference, known));
        if error.class() != Class::NotFound {
            return;
        }
        if self.missing.len() >= REFERENCES_MAX {
            self.missing.retain(|_, (then, _)| at.saturating_duration_since(*then) < MISSING_FOR);
        }
        if self.missing.len() < REFERENCES_MAX {
            self.missing.insert(reference.clone(), (at, error.clone()));
        }
    }

    /// The number of sealed values of this age.
    pub(super) fn len(&self, max_age: Duration, now: Instant) -> usize {
        self.sealed.values().filter(|sealed| now.saturating_duration_since(sealed.at) < max_age).count()
    }
}

/// Whether a value may be kept after the start that it was fetched for: only ciphertext, which opens for one reference with its KEK alone.
pub(super) fn may_be_kept(reference: &Reference, value: &str) -> bool {
    reference.query().is_none() && is_sealed(value)
}

/// Whether a refusal for one reference also revokes what was fetched for another: all if the token is refused, the vault or the item if
/// they are.
pub(super) fn revokes(refusal: &SourceError, refused: &Reference, known: &Reference) -> bool {
    let (is_same_vault, is_same) = (known.vault() == refused.vault(), known.as_str() == refused.as_str());
    match refusal {
        _ if refusal.standing() != Standing::Refusal => false,
        SourceError::Unauthorized { .. } => true,
        SourceError::Op(OpError::Many) => is_same,
        // `op` does not say what it is that the token may not read.
        SourceError::Op(_) => true,
        SourceError::Forbidden { .. } | SourceError::NoVault { .. } | SourceError::ManyVaults { .. } => is_same_vault,
        SourceError::NoSection { .. }
        | SourceError::NoField { .. }
        | SourceError::ManyFields { .. }
        | SourceError::NoValue { .. }
        | SourceError::NotOtp { .. }
        | SourceError::NotText { .. }
        | SourceError::NoKeyFormats => is_same,
        _ => is_same_vault && known.item() == refused.item(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::samples::failures;
    use crate::token::Origin;

    const SEALED: &str = "sealed:v1 local-kek:trial AAAA";

    fn reference(text: &str) -> Reference {
        text.parse().unwrap()
    }

    fn field(value: &str) -> Field {
        Field {
            value: Zeroizing::new(value.to_owned()),
            item_id: None,
            field_id: None,
            version: Some(1),
            earlier: None,
        }
    }

    #[test]
    fn keeps_sealed_values_for_their_time_and_nothing_else() {
        let (mut fields, at, max_age) = (Fields::default(), Instant::now(), Duration::from_secs(60));
        let mut remember = |text: &str, value: &str, max_age| {
            fields.remember(&reference(text), &field(value), (at, Timestamp::now()), None, max_age);
        };
        remember("op://v/i/sealed", SEALED, max_age);
        remember("op://v/i/plain", "canary", max_age);
        remember("op://v/i/code?attribute=otp", SEALED, max_age);
        remember("op://v/i/long", &format!("{SEALED}{}", "A".repeat(VALUE_BYTES_MAX)), max_age);
        remember("op://v/i/off", SEALED, Duration::ZERO);
        let found = |text: &str, after| fields.sealed(&reference(text), max_age, at + after).is_some();
        assert!(found("op://v/i/sealed", Duration::from_secs(59)));
        assert!(!found("op://v/i/sealed", max_age));
        for text in ["op://v/i/plain", "op://v/i/code?attribute=otp", "op://v/i/long", "op://v/i/off"] {
            assert!(!found(text, Duration::ZERO), "{text}");
        }
    }

    #[test]
    fn a_missing_field_is_not_asked_for_again_for_a_second() {
        let (mut fields, at, asked) = (Fields::default(), Instant::now(), reference("op://v/i/f"));
        let missing = SourceError::NoItem { item: "i".into(), vault: "v".into() };
        fields.refused(&asked, &missing, at);
        assert!(fields.missing(&asked, at + Duration::from_millis(999)).is_some());
        assert!(fields.missing(&asked, at + MISSING_FOR).is_none());
        let forbidden = SourceError::Forbidden { what: "v".into(), origin: Origin::Static("/t".into()) };
        let other = reference("op://v/j/f");
        fields.refused(&other, &forbidden, at);
        assert!(fields.missing(&other, at).is_none(), "a permission can be granted at any moment");
    }

    #[test]
    fn an_older_answer_does_not_replace_a_newer_one() {
        let (mut fields, at, max_age) = (Fields::default(), Instant::now(), Duration::from_secs(60));
        let asked = reference("op://v/i/f");
        for (value, after) in [(SEALED, 2), ("sealed:v1 older", 1)] {
            let at = at + Duration::from_secs(after);
            fields.remember(&asked, &field(value), (at, Timestamp::now()), None, max_age);
        }
        assert_eq!(**fields.sealed(&asked, max_age, at).unwrap().value, *SEALED);
    }

    #[test]
    fn both_are_bounded() {
        let (mut fields, at, max_age) = (Fields::default(), Instant::now(), Duration::from_secs(60));
        for number in 0..3 * REFERENCES_MAX {
            let (one, item) = (reference(&format!("op://v/{number}/f")), number.to_string());
            fields.refused(&one, &SourceError::NoItem { item, vault: "v".into() }, at);
            fields.remember(&one, &field(SEALED), (at, Timestamp::now()), None, max_age);
            assert!(fields.sealed.len() <= REFERENCES_MAX && fields.missing.len() <= REFERENCES_MAX);
        }
    }

    #[test]
    fn a_refusal_revokes_what_it_is_about() {
        let asked = reference("op://v/i/f");
        let others = ["op://v/i/f", "op://v/i/g", "op://v/j/f", "op://w/i/f"];
        let revoked = |error: &SourceError| others.map(|other| revokes(error, &asked, &reference(other)));
        let (server, origin) = ("s".to_owned(), Origin::Static("/t".into()));
        let unauthorized = SourceError::Unauthorized { server: server.clone(), message: None, origin: origin.clone() };
        assert_eq!(revoked(&unauthorized), [true; 4]);
        assert_eq!(revoked(&SourceError::Forbidden { what: "v".into(), origin }), [true, true, true, false]);
        assert_eq!(revoked(&SourceError::NoVault { vault: "v".into() }), [true, true, true, false]);
        let no_item = SourceError::NoItem { item: "i".into(), vault: "v".into() };
        assert_eq!(revoked(&no_item), [true, true, false, false]);
        let no_field = SourceError::NoField { field: "f".into(), item: "i".into(), nearest: None };
        assert_eq!(revoked(&no_field), [true, false, false, false]);
        let silent = SourceError::NoAnswer { server, within: Duration::ZERO, tries: 1 };
        assert_eq!(revoked(&silent), [false; 4]);
        assert_eq!(revoked(&SourceError::Paused { cause: Box::new(silent) }), [false; 4]);
    }

    /// The values that a broker keeps are in two places: this one, and that for an outage. Both remove what `revokes` says.
    #[test]
    fn each_refusal_revokes_its_value_and_nothing_else_revokes_any() {
        let references = ["op://v/i/f", "op://v/i/s/f", "op://v/i/g", "op://v/j/f", "op://w/i/f"].map(reference);
        for failure in failures() {
            let is_refusal = failure.standing() == Standing::Refusal;
            for refused in &references {
                assert_eq!(revokes(&failure, refused, refused), is_refusal, "{failure:?}");
                for known in &references {
                    assert!(is_refusal || !revokes(&failure, refused, known), "{failure:?}");
                    // Only what is said of all values reaches another vault.
                    let is_of_token =
                        matches!(failure.class(), Class::NotPermitted) && known.vault() != refused.vault();
                    assert!(
                        known.vault() == refused.vault() || is_of_token || !revokes(&failure, refused, known),
                        "{failure:?}"
                    );
                }
            }
            let (mut fields, at, max_age) = (Fields::default(), Instant::now(), Duration::from_secs(60));
            fields.remember(&references[0], &field(SEALED), (at, Timestamp::now()), None, max_age);
            fields.refused(&references[0], &failure, at);
            assert_eq!(fields.sealed(&references[0], max_age, at).is_none(), is_refusal, "{failure:?}");
            assert_eq!(fields.missing(&references[0], at).is_some(), is_refusal && failure.class() == Class::NotFound);
        }
    }
}
