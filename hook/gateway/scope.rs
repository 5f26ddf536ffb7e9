//! Scopes: what an identity may read, and the removal of the rest from Connect's JSON.
//!
//! A name is matched as references are resolved: by id, otherwise by name; a name that several fields have matches none. What is out
//! of scope is removed from every list and body, with what would reveal it: counts, tags, addresses.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::reference::is_id;
use crate::settings::ReferencePattern;

/// The members of a vault of which only some items are visible.
const VAULT_MEMBERS: &[&str] = &["id", "name", "type", "createdAt"];
/// The members of an item of which only some fields are visible.
const ITEM_MEMBERS: &[&str] = &[
    "id",
    "title",
    "vault",
    "category",
    "favorite",
    "version",
    "state",
    "createdAt",
    "updatedAt",
    "lastEditedBy",
    "sections",
    "fields",
    "files",
];
/// The members of such an item that are empty, because clients expect them.
const EMPTIED_MEMBERS: &[&str] = &["tags", "urls"];

/// One pattern over references, in a form that Connect's JSON is compared with.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "ReferencePattern")]
pub struct Reach {
    /// Absent: every vault.
    vault: Option<String>,
    /// Absent: every item.
    item: Option<String>,
    part: Part,
}

/// A part of an item.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Whole,
    /// The one field or file of this name.
    Field(String),
    /// In each section of this name, or in each section, the one field or file of this name, or all of them.
    Section {
        section: Option<String>,
        field: Option<String>,
    },
}

impl TryFrom<ReferencePattern> for Reach {
    type Error = ReachError;

    fn try_from(pattern: ReferencePattern) -> Result<Reach, ReachError> {
        let named = |segment: &str| (segment != "*").then(|| segment.to_owned());
        let segments: Vec<Option<String>> = pattern.segments().map(named).collect();
        let mut segments = segments.into_iter();
        let (vault, item) = (segments.next().flatten(), segments.next());
        let part = match (item.is_some(), segments.next(), segments.next()) {
            (false, ..) | (_, None, _) | (_, Some(None), None) => Part::Whole,
            (_, Some(Some(field)), None) => Part::Field(field),
            (_, Some(section), Some(field)) => Part::Section { section, field },
        };
        let item = item.flatten();
        // A list does not show whether an item has such a field, or a vault such an item.
        let is_open = part == Part::Whole;
        if (vault.is_none() && item.is_some()) || (item.is_none() && !is_open) {
            return Err(ReachError);
        }
        Ok(Reach { vault, item, part })
    }
}

/// What an identity may read.
#[derive(Default)]
pub struct Scope<'a> {
    reaches: Vec<&'a Reach>,
}

impl<'a> Scope<'a> {
    /// Everything that any of these patterns matches.
    pub fn new(reaches: impl IntoIterator<Item = &'a Reach>) -> Scope<'a> {
        Scope { reaches: reaches.into_iter().collect() }
    }

    /// What is visible of this vault; `None` if nothing is.
    pub fn of_vault(&self, id: &str, name: &str) -> Option<VaultScope<'a>> {
        let reaches: Vec<&Reach> =
            self.reaches.iter().filter(|reach| matches(reach.vault.as_deref(), id, name)).copied().collect();
        (!reaches.is_empty()).then_some(VaultScope { reaches })
    }
}

/// What an identity may read of one vault.
pub struct VaultScope<'a> {
    reaches: Vec<&'a Reach>,
}

impl<'a> VaultScope<'a> {
    /// Removes what is not visible of the vault's description.
    pub fn cut_vault(&self, vault: &mut Map<String, Value>) {
        if self.reaches.iter().all(|reach| reach.item.is_some()) {
            vault.retain(|member, _| VAULT_MEMBERS.contains(&member.as_str()));
        }
    }

    /// What is visible of this item; `None` if nothing is.
    pub fn of_item(&self, item: &Map<String, Value>) -> Option<ItemScope<'a>> {
        let (id, title) = (text(item.get("id")), text(item.get("title")));
        let matching = self.reaches.iter().filter(|reach| matches(reach.item.as_deref(), id, title));
        let parts: Vec<&Part> = matching.map(|reach| &reach.part).collect();
        (!parts.is_empty()).then_some(ItemScope { parts })
    }
}

/// What an identity may read of one item.
pub struct ItemScope<'a> {
    parts: Vec<&'a Part>,
}

impl ItemScope<'_> {
    /// Removes what is not visible of an item or its summary.
    pub fn cut_item(&self, item: &mut Map<String, Value>) {
        if self.parts.contains(&&Part::Whole) {
            return;
        }
        let visible = self.visible(item);
        item.retain(|member, _| ITEM_MEMBERS.contains(&&**member) || EMPTIED_MEMBERS.contains(&&**member));
        for member in EMPTIED_MEMBERS {
            if let Some(value) = item.get_mut(*member) {
                *value = Value::Array(Vec::new());
            }
        }
        for (kind, member) in [(EntryKind::Field, "fields"), (EntryKind::File, "files")] {
            keep(item, member, |at, _| visible.contains(&(kind, at)));
        }
        let sections: BTreeSet<String> =
            entries(item).iter().map(|entry| entry.section.to_owned()).filter(|section| !section.is_empty()).collect();
        keep(item, "sections", |_, section| sections.contains(text(section.get("id"))));
    }

    /// The ids of the item's visible files.
    pub fn files(&self, mut item: Map<String, Value>) -> BTreeSet<String> {
        self.cut_item(&mut item);
        list(&item, "files").map(|file| text(file.get("id")).to_owned()).filter(|id| !id.is_empty()).collect()
    }

    /// The positions of the visible fields and files.
    fn visible(&self, item: &Map<String, Value>) -> BTreeSet<(EntryKind, usize)> {
        let entries = entries(item);
        let mut visible = BTreeSet::new();
        for part in &self.parts {
            match part {
                Part::Whole => visible.extend(entries.iter().map(Entry::place)),
                Part::Field(name) => visible.extend(unique(&entries, name)),
                Part::Section { section, field } => {
                    for sections in sections_named(item, section.as_deref()) {
                        let within: Vec<Entry<'_>> =
                            entries.iter().filter(|entry| sections.contains(entry.section)).copied().collect();
                        match field {
                            None => visible.extend(within.iter().map(Entry::place)),
                            Some(name) => visible.extend(unique(&within, name)),
                        }
                    }
                }
            }
        }
        visible
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum EntryKind {
    Field,
    File,
}

/// A field or file of an item.
#[derive(Clone, Copy)]
struct Entry<'a> {
    kind: EntryKind,
    at: usize,
    id: &'a str,
    name: &'a str,
    section: &'a str,
}

impl Entry<'_> {
    fn place(&self) -> (EntryKind, usize) {
        (self.kind, self.at)
    }
}

fn entries(item: &Map<String, Value>) -> Vec<Entry<'_>> {
    let mut entries = Vec::new();
    for (kind, member, name) in [(EntryKind::Field, "fields", "label"), (EntryKind::File, "files", "name")] {
        entries.extend(list(item, member).enumerate().map(|(at, entry)| Entry {
            kind,
            at,
            id: text(entry.get("id")),
            name: text(entry.get(name)),
            section: text(entry.get("section").and_then(|section| section.get("id"))),
        }));
    }
    entries
}

/// The entry with this name: by id, otherwise by label. If several have it, none is.
fn unique(entries: &[Entry<'_>], name: &str) -> Option<(EntryKind, usize)> {
    let by_id: Vec<&Entry<'_>> = entries.iter().filter(|entry| entry.id == name).collect();
    let found = if by_id.is_empty() { entries.iter().filter(|entry| entry.name == name).collect() } else { by_id };
    match found[..] {
        [entry] => Some(entry.place()),
        _ => None,
    }
}

/// The sections with this name as one set; without a name each section as a set of its own.
fn sections_named<'a>(item: &'a Map<String, Value>, name: Option<&str>) -> Vec<BTreeSet<&'a str>> {
    let ids = |member: &str, name: &str| -> BTreeSet<&'a str> {
        let found = list(item, "sections").filter(|section| text(section.get(member)) == name);
        found.map(|section| text(section.get("id"))).filter(|id| !id.is_empty()).collect()
    };
    match name {
        None => {
            // An entry outside of all sections has no id of one, as a section that has none.
            let ids = list(item, "sections").map(|section| text(section.get("id"))).filter(|id| !id.is_empty());
            ids.map(|id| BTreeSet::from([id])).collect()
        }
        Some(name) => {
            let by_id = ids("id", name);
            vec![if by_id.is_empty() { ids("label", name) } else { by_id }]
        }
    }
}

/// Whether a segment of a pattern matches this vault or item. A segment in the form of an id matches ids alone: otherwise a user who
/// can choose a name could use the id of another vault or item.
fn matches(segment: Option<&str>, id: &str, name: &str) -> bool {
    segment.is_none_or(|segment| if is_id(segment) { segment == id } else { segment == name })
}

fn list<'a>(item: &'a Map<String, Value>, member: &str) -> impl Iterator<Item = &'a Value> {
    item.get(member).and_then(Value::as_array).into_iter().flatten()
}

fn keep(item: &mut Map<String, Value>, member: &str, mut is_kept: impl FnMut(usize, &Value) -> bool) {
    match item.get_mut(member) {
        Some(Value::Array(entries)) => {
            let mut at = 0;
            entries.retain(|entry| {
                at += 1;
                is_kept(at - 1, entry)
            });
        }
        // It is of an unexpected type, and its parts cannot be compared.
        Some(_) => drop(item.remove(member)),
        None => {}
    }
}

fn text(value: Option<&Value>) -> &str {
    value.and_then(Value::as_str).unwrap_or_default()
}

/// Why a pattern over references cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("\"*\" can stand for vaults or items only at the end")]
pub struct ReachError;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn reaches(patterns: &[&str]) -> Vec<Reach> {
        patterns.iter().map(|pattern| serde_json::from_value(json!(pattern)).unwrap()).collect()
    }

    fn item() -> Map<String, Value> {
        let item = json!({
            "id": "item00000000000000000000aa", "title": "deploy", "version": 3, "additionalInformation": "hidden",
            "tags": ["hidden"], "urls": [{ "href": "https://hidden" }],
            "sections": [{ "id": "s1", "label": "prod" }, { "id": "s2", "label": "test" }, { "id": "s3", "label": "test" }],
            "fields": [
                { "id": "password", "label": "password", "value": "top" },
                { "id": "f2", "label": "password", "value": "of prod", "section": { "id": "s1" } },
                { "id": "f3", "label": "user", "value": "of prod", "section": { "id": "s1" } },
                { "id": "f4", "label": "user", "value": "of test", "section": { "id": "s2" } },
                { "id": "f5", "label": "host", "value": "of test", "section": { "id": "s3" } },
                { "id": "f6", "label": "twice" }, { "id": "f7", "label": "twice" },
            ],
            "files": [{ "id": "x1", "name": "key.pem" }, { "id": "x2", "name": "of test", "section": { "id": "s2" } }],
        });
        item.as_object().unwrap().clone()
    }

    /// The ids of the visible fields and files.
    fn left(patterns: &[&str]) -> Vec<String> {
        let reaches = reaches(patterns);
        let mut item = item();
        let vault = Scope::new(&reaches).of_vault("v", "CI");
        let Some(scope) = vault.and_then(|vault| vault.of_item(&item)) else { return vec!["unseen".to_owned()] };
        scope.cut_item(&mut item);
        ["fields", "files"]
            .iter()
            .flat_map(|member| list(&item, member))
            .map(|e| text(e.get("id")).to_owned())
            .collect()
    }

    #[test]
    fn shows_exactly_what_a_reference_resolves_to() {
        assert_eq!(left(&["op://CI/deploy/password"]), ["password"]);
        assert_eq!(left(&["op://CI/deploy/prod/password"]), ["f2"]);
        assert_eq!(left(&["op://CI/deploy/test/user"]), ["f4"]);
        assert_eq!(left(&["op://CI/deploy/test/host"]), ["f5"]);
        assert_eq!(left(&["op://CI/deploy/prod/*"]), ["f2", "f3"]);
        assert_eq!(left(&["op://CI/deploy/*/user"]), ["f3", "f4"]);
        assert_eq!(left(&["op://CI/deploy/*/*"]), ["f2", "f3", "f4", "f5", "x2"]);
        assert_eq!(left(&["op://CI/deploy/key.pem", "op://CI/deploy/host"]), ["f5", "x1"]);
        assert_eq!(left(&["op://CI/deploy/nothing"]), [""; 0]);
        assert_eq!(left(&["op://CI/deploy/*"]).len(), 9);
    }

    #[test]
    fn a_section_without_an_id_shows_nothing_outside_of_sections() {
        let patterns = ["op://CI/deploy/*/*", "op://CI/deploy/*/password"];
        for section in [json!({ "label": "prod" }), json!({ "id": "" }), json!({ "id": null }), json!("prod")] {
            let reaches = reaches(&patterns);
            let mut item = item();
            item.insert("sections".to_owned(), json!([section]));
            let vault = Scope::new(&reaches).of_vault("v", "CI").unwrap();
            vault.of_item(&item).unwrap().cut_item(&mut item);
            assert_eq!((&item["fields"], &item["files"]), (&json!([]), &json!([])), "{section}");
        }
    }

    #[test]
    fn an_ambiguous_name_shows_nothing() {
        assert_eq!(left(&["op://CI/deploy/twice"]), [""; 0]);
        assert_eq!(left(&["op://CI/deploy/user"]), [""; 0]);
    }

    #[test]
    fn reveals_nothing_of_what_is_removed() {
        let reaches = reaches(&["op://CI/deploy/test/user"]);
        let mut item = item();
        Scope::new(&reaches).of_vault("v", "CI").unwrap().of_item(&item).unwrap().cut_item(&mut item);
        let text = Value::from(item.clone()).to_string();
        assert!(!text.contains("hidden") && !text.contains("prod") && !text.contains("s3"), "{text}");
        assert_eq!((&item["tags"], &item["version"]), (&json!([]), &json!(3)));
        let mut vault =
            json!({ "id": "v", "name": "CI", "items": 7, "contentVersion": 9 }).as_object().unwrap().clone();
        Scope::new(&reaches).of_vault("v", "CI").unwrap().cut_vault(&mut vault);
        assert_eq!(Value::from(vault), json!({ "id": "v", "name": "CI" }));
    }

    #[test]
    fn removes_what_it_cannot_compare() {
        let reaches = reaches(&["op://CI/deploy/password"]);
        let mut odd =
            json!({ "title": "deploy", "fields": { "password": "x" }, "sections": 1 }).as_object().unwrap().clone();
        Scope::new(&reaches).of_vault("v", "CI").unwrap().of_item(&odd).unwrap().cut_item(&mut odd);
        assert_eq!(Value::from(odd), json!({ "title": "deploy" }));
    }

    #[test]
    fn a_name_does_not_match_as_the_id_of_another() {
        let id = "abcdefghijklmnopqrstuvwxyz";
        let reaches = reaches(&["op://CI/abcdefghijklmnopqrstuvwxyz/*"]);
        let vault = Scope::new(&reaches).of_vault("v", "CI").unwrap();
        let seen =
            |id: &str, title: &str| vault.of_item(json!({ "id": id, "title": title }).as_object().unwrap()).is_some();
        assert!(seen(id, "deploy"));
        assert!(!seen("other000000000000000000000", id));
    }

    #[test]
    fn names_match_exactly() {
        assert_eq!(left(&["op://CI/Deploy/*"]), ["unseen"]);
        assert_eq!(left(&["op://CI/deplo/*"]), ["unseen"]);
        assert_eq!(left(&["op://ci/deploy/*"]), ["unseen"]);
        assert_eq!(left(&["op://CI/*"]).len(), 9);
        assert_eq!(left(&["op://*"]).len(), 9);
    }

    #[test]
    fn refuses_patterns_that_lists_cannot_apply() {
        for pattern in ["op://*/deploy/password", "op://CI/*/password", "op://*/*/*/password"] {
            assert!(serde_json::from_value::<Reach>(json!(pattern)).is_err(), "{pattern}");
        }
    }
}
