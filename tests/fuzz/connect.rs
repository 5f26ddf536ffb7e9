//! Items of 1Password Connect, as the hook reads them.

use oci_secrets::reference::Reference;
use oci_secrets::report;
use oci_secrets::source::item::{Item, Named};
use serde_json::{Map, Value};

use crate::CANARY;
use crate::engine::check;
use crate::gateway::{Items, OneReference, objects, select};
use crate::generate::near;

#[test]
fn a_reference_resolves_to_the_one_entry_that_it_names() {
    check!(16_000).with_generator((Items, OneReference)).for_each(|(item, reference)| {
        assert_eq!(select(item, reference), named(item, reference));
    });
}

#[test]
fn an_item_is_read_as_any_parser_reads_it() {
    let seeds = [
        r#"{"id":"i","title":"deploy","vault":{"id":"v"},"version":3,"sections":[{"id":"s1","label":"a"}],
            "fields":[{"id":"b","label":"password","value":"canary 1.","section":{"id":"s1"},"type":"CONCEALED"},
            {"id":"c","label":"code","totp":"canary 2.","type":"OTP"}],"files":[{"id":"f","name":"key"}]}"#,
        r#"{"id":"j","sections":null,"fields":[{"id":"password","value":"canary 3."},null,7],"files":[]}"#,
    ];
    let words = [
        "null",
        "{",
        "}",
        "[",
        "]",
        "\"",
        ",",
        ":",
        "\"id\":\"password\",",
        "\"value\":\"canary 4.\",",
        "\\u0061",
        "7",
    ];
    let references = ["op://v/i/password", "op://v/i/a/password", "op://v/i/code?attribute=otp", "op://v/i/key"]
        .map(|text| text.parse::<Reference>().unwrap());
    check!(12_000).with_generator(near(&seeds, &words)).for_each(|text| {
        let item = match serde_json::from_slice::<Item>(text) {
            Ok(item) => item,
            Err(error) => return drop(error),
        };
        let value: Value = serde_json::from_slice(text).unwrap();
        assert!(value["id"].is_string());
        let entries = ["fields", "files"].map(|member| value[member].as_array().cloned().unwrap_or_default()).concat();
        for reference in &references {
            let member = if reference.query().is_some() { "totp" } else { "value" };
            match item.select(reference) {
                Ok(Named::Value { value: found, .. }) => {
                    assert!(!found.is_empty() && entries.iter().any(|entry| entry[member] == **found), "{reference}");
                }
                Ok(Named::File(id)) => assert!(entries.iter().any(|entry| entry["id"] == *id), "{reference}"),
                Err(error) => {
                    let message = report::chain(&error);
                    assert!(!message.contains(CANARY), "{message}");
                }
            }
        }
    });
}

/// The value of the one field, or the id of the one file, that a reference names: by id, or if none has it as its id, by name; in the
/// sections that it names in the same way, or in the whole item.
fn named(item: &Map<String, Value>, reference: &Reference) -> Option<Result<String, String>> {
    let text = |object: &Map<String, Value>, member: &str| {
        object.get(member).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let by_id_or_name = |entries: Vec<(String, String, Value)>, name: &str| -> Vec<Value> {
        let has_id = entries.iter().any(|(id, ..)| id == name);
        let is_named = |(id, label, _): &(String, String, Value)| if has_id { id == name } else { label == name };
        entries.into_iter().filter(is_named).map(|(.., entry)| entry).collect()
    };
    let sections = reference.section().map(|name| {
        // A section without an id has no fields.
        let known = objects(item, "sections").filter(|section| !text(section, "id").is_empty());
        let known = known.map(|section| (text(section, "id"), text(section, "label"), section["id"].clone()));
        by_id_or_name(known.collect(), name)
    });
    let is_within = |entry: &Map<String, Value>| match &sections {
        Some(sections) => {
            entry.get("section").and_then(|section| section.get("id")).is_some_and(|id| sections.contains(id))
        }
        None => true,
    };
    let fields = objects(item, "fields").map(|field| (field, "label", Some(text(field, "value"))));
    let files = objects(item, "files").filter(|file| file.get("id").is_some_and(Value::is_string));
    let entries = fields.chain(files.map(|file| (file, "name", None))).filter(|(entry, ..)| is_within(entry));
    let entries = entries.map(|(entry, name, value)| {
        let found = value.map_or_else(|| serde_json::json!([text(entry, "id")]), Value::from);
        (text(entry, "id"), text(entry, name), found)
    });
    match &by_id_or_name(entries.collect(), reference.field())[..] {
        [Value::String(value)] => Some(Ok(value.clone())),
        [file] => Some(Err(file[0].as_str()?.to_owned())),
        _ => None,
    }
}
