//! One revocation: a reference or a container, and which values it withdraws.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::reference::Reference;
use crate::resolve::Resolved;

/// What is revoked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Revoked {
    /// A reference, in all containers.
    Reference(String),
    /// All files of the container with this id.
    Container(String),
}

/// One revocation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revocation {
    /// What is revoked.
    pub revoked: Revoked,
    /// Since when.
    pub since: Timestamp,
    /// Why, in the operator's words.
    pub reason: String,
    /// The item of the reference, if the source says.
    pub item: Option<String>,
    /// The field of that, if the source says.
    #[serde(default)]
    pub field: Option<String>,
    /// The last version of the item that is revoked; all, if absent.
    pub version: Option<u64>,
}

/// A value that was read, or that a container has.
#[derive(Clone, Copy, Debug)]
pub struct Value<'a> {
    /// The reference by which it was requested.
    pub reference: &'a str,
    /// The item that it was read from.
    pub item: Option<&'a str>,
    /// The field of that.
    pub field: Option<&'a str>,
    /// The version of the item.
    pub version: Option<u64>,
    /// Whether the source returned it, and no outage or emergency.
    pub is_of_source: bool,
}

impl<'a> Value<'a> {
    /// A value that was resolved.
    pub fn of(resolved: &'a Resolved<'_>) -> Value<'a> {
        let is_of_source = !resolved.kept && !resolved.earlier.as_ref().is_some_and(|earlier| earlier.outage);
        Value {
            reference: resolved.request.reference.as_str(),
            item: resolved.item_id.as_deref(),
            field: resolved.field_id.as_deref(),
            version: resolved.item_version,
            is_of_source,
        }
    }
}

impl Revocation {
    /// Whether it withdraws this value.
    pub fn covers(&self, value: Value<'_>) -> bool {
        let Revoked::Reference(revoked) = &self.revoked else { return false };
        let is_of_item = self.item.is_some() && value.item == self.item.as_deref();
        let is_newer = is_of_item && value.is_of_source && self.version.is_some() && value.version > self.version;
        (is_same(revoked, value.reference) || (is_of_item && self.is_of_field(revoked, value))) && !is_newer
    }

    /// Whether a value of the item can be that of the field, which has an id and a label. Of a value from an emergency only the item is known.
    fn is_of_field(&self, revoked: &str, value: Value<'_>) -> bool {
        match (self.field.as_deref(), value.field) {
            (Some(_), None) => true,
            (field, of_value) => (field.is_some() && field == of_value) || has_same_field(revoked, value.reference),
        }
    }

    /// The reference, unless it is of a container.
    pub fn reference(&self) -> Option<&str> {
        match &self.revoked {
            Revoked::Reference(reference) => Some(reference),
            Revoked::Container(_) => None,
        }
    }

    /// Whether it is of this reference, as it is spelled.
    pub fn names(&self, reference: &str) -> bool {
        matches!(&self.revoked, Revoked::Reference(revoked) if is_same(revoked, reference))
    }

    /// Whether it is of the container with this id.
    pub fn is_of_container(&self, id: &str) -> bool {
        matches!(&self.revoked, Revoked::Container(revoked) if revoked == id)
    }
}

impl std::fmt::Display for Revoked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Revoked::Reference(reference) => f.write_str(reference),
            Revoked::Container(id) => write!(f, "container {id}"),
        }
    }
}

/// Whether two references are the same, whatever they ask of the field beyond its value.
fn is_same(one: &str, other: &str) -> bool {
    let path = |text: &str| text.split('?').next().map(str::to_owned);
    path(one) == path(other)
}

/// Whether two references to one item can mean the same field: a section may be left out.
fn has_same_field(one: &str, other: &str) -> bool {
    let (Ok(one), Ok(other)) = (one.parse::<Reference>(), other.parse::<Reference>()) else { return false };
    let is_same_section = one.section().zip(other.section()).is_none_or(|(one, other)| one == other);
    is_same_section && one.field() == other.field()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn revocation(version: Option<u64>) -> Revocation {
        Revocation {
            revoked: Revoked::Reference("op://v/db/password".into()),
            since: Timestamp::UNIX_EPOCH,
            reason: "leaked".into(),
            item: Some("i".into()),
            field: Some("f".into()),
            version,
        }
    }

    fn value(reference: &str, item: Option<&'static str>, version: u64) -> bool {
        let value = Value { reference, item, field: Some("g"), version: Some(version), is_of_source: true };
        revocation(Some(3)).covers(value)
    }

    #[test]
    fn a_newer_version_of_the_item_ends_it_and_nothing_else() {
        assert!(value("op://v/db/password", Some("i"), 3) && !value("op://v/db/password", Some("i"), 4));
        assert!(value("op://v/db/password", Some("j"), 4), "another item");
        assert!(value("op://v/db/password", None, 4), "an unknown item");
        let newer = Value {
            reference: "op://v/db/password",
            item: Some("i"),
            field: Some("f"),
            version: Some(4),
            is_of_source: true,
        };
        assert!(revocation(None).covers(newer), "an unknown version");
        assert!(revocation(Some(3)).covers(Value { is_of_source: false, ..newer }), "of an outage");
        assert!(revocation(Some(3)).covers(Value { version: None, ..newer }), "without a version");
    }

    #[test]
    fn covers_other_spellings_of_the_field() {
        for covered in ["op://v/db/password?attribute=otp", "op://id/i/password", "op://v/db/section/password"] {
            assert!(value(covered, Some("i"), 3), "{covered}");
        }
        assert!(!value("op://v/db/user", Some("i"), 3) && !value("op://v/other/password", Some("j"), 3));
        let by_id =
            |field| Value { reference: "op://v/db/f", item: Some("i"), field, version: Some(3), is_of_source: true };
        assert!(revocation(Some(3)).covers(by_id(Some("f"))), "the id of the field that has this label");
        assert!(!revocation(Some(3)).covers(by_id(Some("g"))), "the id of another one");
        assert!(revocation(Some(3)).covers(by_id(None)), "of an emergency, which does not say which field");
        assert!(!revocation(Some(3)).covers(Value { version: Some(4), ..by_id(Some("f")) }), "a newer version");
        let of_section = Revocation { revoked: Revoked::Reference("op://v/db/a/x".into()), ..revocation(Some(3)) };
        let value =
            |reference| Value { reference, item: Some("i"), field: Some("g"), version: Some(3), is_of_source: true };
        assert!(of_section.covers(value("op://v/i/x")) && !of_section.covers(value("op://v/i/b/x")));
    }
}
