//! The field of an item that a reference names.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use zeroize::Zeroizing;

use super::SourceError;
use crate::nearest::nearest;
use crate::reference::{Query, Reference};

/// An item with its fields, as far as references can reach into it.
///
/// 1Password leaves out what is empty and adds what is new. So everything but the id may be absent, `null` means absent, and a member
/// of another type is ignored: it must not hide the rest of the item.
#[derive(Deserialize)]
pub struct Item {
    pub(super) id: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) title: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) version: u64,
    /// The vault that it is in, as the item itself states.
    #[serde(default, deserialize_with = "or_default")]
    vault: Option<VaultRef>,
    #[serde(default, deserialize_with = "or_default")]
    state: Option<String>,
    #[serde(default, deserialize_with = "usable")]
    sections: Vec<Section>,
    #[serde(default, deserialize_with = "usable")]
    fields: Vec<ItemField>,
    #[serde(default, deserialize_with = "usable")]
    files: Vec<ItemFile>,
}

/// A value of this type, or its default in place of any other.
pub(super) fn or_default<'de, D: Deserializer<'de>, T: DeserializeOwned + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    let value = Value::deserialize(deserializer)?;
    Ok(T::deserialize(value).unwrap_or_default())
}

/// The elements of a list that are of this type; none in place of a `null`.
pub(super) fn usable<'de, D: Deserializer<'de>, T: DeserializeOwned>(deserializer: D) -> Result<Vec<T>, D::Error> {
    let elements = Option::<Vec<Value>>::deserialize(deserializer)?.unwrap_or_default();
    Ok(elements.into_iter().filter_map(|element| T::deserialize(element).ok()).collect())
}

/// What a reference's field segment turned out to name.
pub enum Named {
    /// A field's value.
    Value {
        /// The field's id, which is empty if it has none.
        id: String,
        /// The value.
        value: Zeroizing<String>,
    },
    /// A file, whose content is fetched by this id.
    File(String),
}

/// The field or file of an item that a reference names.
enum Found<'a> {
    Field(&'a ItemField),
    File(&'a ItemFile),
}

#[derive(Deserialize)]
struct Section {
    #[serde(default, deserialize_with = "or_default")]
    id: String,
    #[serde(default, deserialize_with = "or_default")]
    label: String,
}

#[derive(Deserialize)]
struct ItemField {
    #[serde(default, deserialize_with = "or_default")]
    id: String,
    #[serde(default, deserialize_with = "or_default")]
    label: String,
    #[serde(default, deserialize_with = "or_default")]
    section: Option<SectionRef>,
    #[serde(default, deserialize_with = "or_default")]
    value: Option<Zeroizing<String>>,
    #[serde(default, deserialize_with = "or_default")]
    totp: Option<Zeroizing<String>>,
    #[serde(default, rename = "type", deserialize_with = "or_default")]
    kind: String,
}

#[derive(Deserialize)]
struct ItemFile {
    id: String,
    #[serde(default, deserialize_with = "or_default")]
    name: String,
    #[serde(default, deserialize_with = "or_default")]
    section: Option<SectionRef>,
}

#[derive(Deserialize)]
struct VaultRef {
    #[serde(default, deserialize_with = "or_default")]
    id: String,
}

#[derive(Deserialize)]
struct SectionRef {
    #[serde(default, deserialize_with = "or_default")]
    id: String,
}

impl Item {
    /// Whether the item is in use: archived and deleted items are found by their id, but no reference names them.
    pub(super) fn is_active(&self) -> bool {
        is_active(self.state.as_deref())
    }

    /// Whether it is still the item that a reference names by this title or id, in this vault.
    pub(super) fn is_still(&self, title: &str, item_id: &str, vault_id: &str) -> bool {
        let has_name = self.title == title || self.id == title;
        let in_vault = self.vault.as_ref().is_none_or(|vault| vault.id == vault_id);
        self.is_active() && self.id == item_id && has_name && in_vault
    }

    /// The names of its sections.
    pub(super) fn section_names(&self) -> Vec<String> {
        self.sections.iter().map(|section| section.label.clone()).collect()
    }

    /// The names of its fields and files, whichever section they are in.
    pub(super) fn field_names(&self) -> Vec<String> {
        let fields = self.fields.iter().map(|field| field.label.clone());
        fields.chain(self.files.iter().map(|file| file.name.clone())).collect()
    }

    /// Every field with a value: its id, and how references can spell it below the item, by names first.
    pub(super) fn values(&self) -> impl Iterator<Item = (&str, Vec<String>, &Zeroizing<String>)> {
        self.fields.iter().filter_map(|field| {
            let value = field.value.as_ref().filter(|value| !value.is_empty())?;
            let section = field.section.as_ref().map(|section| section.id.as_str());
            let labels = self.sections.iter().filter(|known| Some(known.id.as_str()) == section).map(|s| &*s.label);
            let sections: Vec<String> = labels.chain(section).map(|name| format!("{name}/")).collect();
            let prefixes = sections.iter().map(String::as_str).chain([""]);
            let names = [field.label.as_str(), field.id.as_str()];
            let paths = prefixes.flat_map(|prefix| names.map(|name| format!("{prefix}{name}"))).collect();
            Some((field.id.as_str(), paths, value))
        })
    }

    /// The id of the field that the reference names.
    pub(super) fn field_id(&self, reference: &Reference) -> Result<&str, SourceError> {
        match self.find(reference)? {
            Found::Field(field) => Ok(&field.id),
            Found::File(_) => {
                Err(SourceError::NotText { file: reference.field().to_owned(), item: reference.item().to_owned() })
            }
        }
    }

    /// The id of the section that the reference names, if it does.
    pub(super) fn section_id(&self, reference: &Reference) -> Result<Option<&str>, SourceError> {
        let found = reference.section().map(|name| self.sections_named(name, reference)).transpose()?;
        Ok(found.and_then(|ids| ids.first().copied()))
    }

    /// What is stored where the reference points.
    pub fn select(&self, reference: &Reference) -> Result<Named, SourceError> {
        match self.find(reference)? {
            Found::Field(field) => Ok(Named::Value { id: field.id.clone(), value: field.read(reference)? }),
            Found::File(file) => Ok(Named::File(file.id.clone())),
        }
    }

    /// Why the reference leads nowhere in this item, if it does, to a program that finds names whatever their case.
    pub(super) fn missing_whatever_case(&self, reference: &Reference) -> Option<SourceError> {
        let is = |found: &str, name: &str| found.to_lowercase() == name.to_lowercase();
        let item = || reference.item().to_owned();
        let sections = reference.section().map(|name| {
            let named = self.sections.iter().filter(|section| is(&section.id, name) || is(&section.label, name));
            (name, named.map(|section| section.id.as_str()).collect::<Vec<&str>>())
        });
        if let Some((name, ids)) = &sections
            && ids.is_empty()
        {
            return Some(SourceError::NoSection { section: (*name).to_owned(), item: item() });
        }
        let within = |section: &Option<SectionRef>| match &sections {
            None => true,
            Some((_, ids)) => section.as_ref().is_some_and(|section| ids.contains(&section.id.as_str())),
        };
        let named = |id: &str, label: &str| is(id, reference.field()) || is(label, reference.field());
        let is_there = self.fields.iter().any(|field| within(&field.section) && named(&field.id, &field.label))
            || self.files.iter().any(|file| within(&file.section) && named(&file.id, &file.name));
        let nearest = None;
        (!is_there).then(|| SourceError::NoField { field: reference.field().to_owned(), item: item(), nearest })
    }

    /// The one field or file that the reference names: by id, else by exact label, in the section it gives, else in the whole item.
    fn find(&self, reference: &Reference) -> Result<Found<'_>, SourceError> {
        let sections = reference.section().map(|name| self.sections_named(name, reference)).transpose()?;
        let within = |section: Option<&SectionRef>| match &sections {
            None => true,
            Some(ids) => section.is_some_and(|s| ids.contains(&s.id.as_str())),
        };
        let fields: Vec<&ItemField> = self.fields.iter().filter(|f| within(f.section.as_ref())).collect();
        let files: Vec<&ItemFile> = self.files.iter().filter(|f| within(f.section.as_ref())).collect();

        let name = reference.field();
        let labels: Vec<&str> = fields.iter().map(|f| &*f.label).chain(files.iter().map(|f| &*f.name)).collect();
        let by_id = fields.iter().filter(|f| f.id == name).count() + files.iter().filter(|f| f.id == name).count();
        let matches = |id: &str, label: &str| if by_id > 0 { id == name } else { label == name };
        let fields: Vec<&ItemField> = fields.into_iter().filter(|f| matches(&f.id, &f.label)).collect();
        let files: Vec<&ItemFile> = files.into_iter().filter(|f| matches(&f.id, &f.name)).collect();

        let item = || reference.item().to_owned();
        match (fields.as_slice(), files.as_slice()) {
            ([], []) => {
                let nearest = nearest(name, labels.iter().copied()).map(str::to_owned);
                Err(SourceError::NoField { field: name.to_owned(), item: item(), nearest })
            }
            ([field], []) => Ok(Found::Field(field)),
            ([], [file]) => Ok(Found::File(file)),
            _ => {
                Err(SourceError::ManyFields { field: name.to_owned(), item: item(), count: fields.len() + files.len() })
            }
        }
    }

    /// The ids of the sections that the reference can mean. Several may share a label: their fields are then distinguished as if they
    /// stood in one section. One without an id has no fields: those outside of all sections have no id of one, either.
    fn sections_named(&self, name: &str, reference: &Reference) -> Result<Vec<&str>, SourceError> {
        let ids = |matches: fn(&Section, &str) -> bool| -> Vec<&str> {
            let named = self.sections.iter().filter(|s| matches(s, name)).map(|s| s.id.as_str());
            named.filter(|id| !id.is_empty()).collect()
        };
        let mut found = ids(|section, name| section.id == name);
        if found.is_empty() {
            found = ids(|section, name| section.label == name);
        }
        if found.is_empty() {
            return Err(SourceError::NoSection { section: name.to_owned(), item: reference.item().to_owned() });
        }
        Ok(found)
    }
}

impl ItemField {
    fn read(&self, reference: &Reference) -> Result<Zeroizing<String>, SourceError> {
        let stored = match reference.query() {
            None => &self.value,
            Some(Query::Otp) if self.totp.is_none() && !matches!(self.kind.as_str(), "OTP" | "TOTP") => {
                let [field, item] = [reference.field(), reference.item()].map(str::to_owned);
                return Err(SourceError::NotOtp { field, item });
            }
            Some(Query::Otp) => &self.totp,
            Some(Query::OpensshKey) => return Err(SourceError::NoKeyFormats),
        };
        match stored {
            Some(value) if !value.is_empty() => Ok(value.clone()),
            _ => Err(SourceError::NoValue { field: reference.field().to_owned(), item: reference.item().to_owned() }),
        }
    }
}

/// Whether an item of this state is in use. 1Password leaves the state out for those that are.
pub(super) fn is_active(state: Option<&str>) -> bool {
    !matches!(state, Some("ARCHIVED" | "DELETED"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn select(reference: &str) -> Result<String, SourceError> {
        let item: Item = serde_json::from_str(
            r#"{"id":"i","sections":[{"id":"s1","label":"prod"},{"id":"s2","label":"test"},{"id":"prod","label":"odd"}],
                "fields":[{"id":"f1","label":"password","value":"top"},
                          {"id":"f2","label":"password","value":"of test","section":{"id":"s2"}},
                          {"id":"f3","label":"user","value":"of test","section":{"id":"s2"}},
                          {"id":"user","label":"other","value":"by id"},
                          {"id":"f5","label":"host","value":"of odd","section":{"id":"prod"}},
                          {"id":"f6","label":"empty","value":""},{"id":"f7","label":"absent"},
                          {"id":"f8","label":"otp","value":"otpauth://","totp":"123456","type":"OTP"},
                          {"id":"f9","label":"shared"}],
                "files":[{"id":"x1","name":"key.pem"},{"id":"x2","name":"shared"}]}"#,
        )
        .unwrap();
        item.select(&reference.parse().unwrap()).map(|named| match named {
            Named::Value { value, .. } => value.to_string(),
            Named::File(id) => format!("file {id}"),
        })
    }

    #[test]
    fn never_picks_one_of_several() {
        assert!(matches!(select("op://v/i/password"), Err(SourceError::ManyFields { count: 2, .. })));
        assert!(matches!(select("op://v/i/shared"), Err(SourceError::ManyFields { count: 2, .. })));
    }

    #[test]
    fn a_section_narrows_the_choice() {
        assert_eq!(select("op://v/i/test/password").ok().as_deref(), Some("of test"));
        assert!(matches!(select("op://v/i/nowhere/password"), Err(SourceError::NoSection { .. })));
        assert!(matches!(select("op://v/i/test/host"), Err(SourceError::NoField { .. })));
    }

    #[test]
    fn a_section_without_an_id_has_no_fields() {
        for (section, of_field) in [("{}", "null"), (r#"{"id":""}"#, "{}"), (r#"{"id":7}"#, r#"{"id":""}"#)] {
            let section = section.replacen('{', r#"{"label":"prod","#, 1).replace(",}", "}");
            let field = format!(r#"{{"id":"f1","label":"password","value":"top","section":{of_field}}}"#);
            let item = format!(r#"{{"id":"i","sections":[{section}],"fields":[{field}]}}"#);
            let item: Item = serde_json::from_str(&item).unwrap();
            let refusal = item.select(&"op://v/i/prod/password".parse().unwrap()).err();
            assert!(matches!(refusal, Some(SourceError::NoSection { .. })), "{section}");
        }
    }

    #[test]
    fn an_id_goes_before_a_label() {
        assert_eq!(select("op://v/i/user").ok().as_deref(), Some("by id"));
        assert_eq!(select("op://v/i/prod/host").ok().as_deref(), Some("of odd"));
    }

    #[test]
    fn a_file_stands_in_the_place_of_a_field() {
        assert_eq!(select("op://v/i/key.pem").ok().as_deref(), Some("file x1"));
    }

    #[test]
    fn an_empty_field_is_not_a_secret() {
        assert!(matches!(select("op://v/i/empty"), Err(SourceError::NoValue { .. })));
        assert!(matches!(select("op://v/i/absent"), Err(SourceError::NoValue { .. })));
    }

    #[test]
    fn one_member_of_another_type_does_not_hide_the_rest() {
        for unexpected in [
            r#""sections":null"#,
            r#""fields":null,"files":null"#,
            r#""files":[null,{"id":7},"x"]"#,
            r#""title":7,"version":"1","state":null"#,
            r#""sections":[null,{"id":null,"label":7}]"#,
        ] {
            let item: Item = serde_json::from_str(&format!(r#"{{"id":"i",{unexpected}}}"#)).unwrap();
            assert!(item.is_active(), "{unexpected}");
        }
        let item: Item = serde_json::from_str(
            r#"{"id":"i","fields":[null,7,{"id":"a","label":null,"section":null,"value":null},
                {"id":"b","label":"password","section":7,"value":"found","totp":{},"type":null}]}"#,
        )
        .unwrap();
        let found = item.select(&"op://v/i/password".parse().unwrap());
        assert!(matches!(found, Ok(Named::Value { value, id }) if *value == "found" && id == "b"));
    }

    #[test]
    fn a_query_asks_for_the_code_of_a_one_time_password() {
        assert_eq!(select("op://v/i/otp?attribute=otp").ok().as_deref(), Some("123456"));
        assert_eq!(select("op://v/i/otp").ok().as_deref(), Some("otpauth://"));
        assert!(matches!(select("op://v/i/otp?ssh-format=openssh"), Err(SourceError::NoKeyFormats)));
    }
}
