//! The vaults, items and files with which every stand-in starts: edge cases for clients.
//!
//! | vault | what is in it |
//! |---|---|
//! | `AgentVault` | one ordinary item; tests add their own |
//! | `Duplicates` | titles, sections and labels that are not unique or look like ids |
//! | `Archive` | items in the states `ARCHIVED` and `DELETED` |
//! | `Twins` | two vaults of this name |
//! | `Shapes` | fields of every type, absent and empty values, files |
//! | `Faults` | any item whose title selects a fault (see [`crate::fault`]) |

use std::collections::HashMap;
use std::time::{Duration, Instant};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

/// The ids of all vaults, before [`id`] fills them up.
pub(crate) const VAULTS: &[&str] = &["agentvault", "duplicates", "archive", "twins1", "twins2", "shapes", "faults"];

const START: &str = "2026-01-02T03:04:05Z";

/// The state of a Connect server.
pub(crate) struct World {
    pub(crate) vaults: Vec<Vault>,
    /// Contents by the file's id.
    pub(crate) files: HashMap<String, Vec<u8>>,
    created: usize,
    faults: Vec<String>,
    /// Stale versions of items that were recently written, by id, and until when they are served.
    lags: HashMap<String, (Instant, Option<Value>)>,
}

pub(crate) struct Vault {
    pub(crate) id: String,
    pub(crate) name: &'static str,
    pub(crate) content_version: u64,
    /// Full items, as they are served.
    pub(crate) items: Vec<Value>,
}

impl World {
    /// Serves the previous version of an item for a while.
    pub(crate) fn lag(&mut self, id: &str, before: Option<Value>, for_now: Duration) {
        self.lags.insert(id.to_owned(), (Instant::now() + for_now, before));
    }

    /// The items of a vault as a lagging server returns them.
    pub(crate) fn shown(&self, vault: usize) -> impl Iterator<Item = &Value> {
        self.vaults[vault].items.iter().filter_map(|item| {
            match self.lags.get(item["id"].as_str().unwrap_or_default()) {
                Some((until, before)) if *until > Instant::now() => before.as_ref(),
                _ => Some(item),
            }
        })
    }

    pub(crate) fn new() -> World {
        let vault = |id, name, items| Vault { id: self::id(id), name, content_version: 1, items };
        let mut world = World {
            vaults: vec![
                vault("agentvault", "AgentVault", vec![ordinary()]),
                vault("duplicates", "Duplicates", duplicates()),
                vault("archive", "Archive", archive()),
                vault("twins1", "Twins", Vec::new()),
                vault("twins2", "Twins", Vec::new()),
                vault("shapes", "Shapes", shapes()),
                vault("faults", "Faults", Vec::new()),
            ],
            files: files(),
            created: 0,
            faults: Vec::new(),
            lags: HashMap::new(),
        };
        for vault in &mut world.vaults {
            for item in &mut vault.items {
                item["vault"] = json!({ "id": vault.id });
            }
        }
        world
    }

    /// An id that no item or field has yet.
    pub(crate) fn new_id(&mut self) -> String {
        self.created += 1;
        format!("new{:0>23}", self.created)
    }

    /// The id of the item of the vault `Faults` that has this title.
    pub(crate) fn fault_id(&mut self, title: &str) -> String {
        let index = self.faults.iter().position(|known| known == title).unwrap_or_else(|| {
            self.faults.push(title.to_owned());
            self.faults.len() - 1
        });
        format!("fault{index:0>21}")
    }

    /// The title of an item of the vault `Faults`.
    pub(crate) fn fault_title(&self, id: &str) -> Option<&str> {
        let index: usize = id.strip_prefix("fault")?.parse().ok()?;
        self.faults.get(index).map(String::as_str)
    }
}

/// A readable id in 1Password's form: 26 lower-case letters and digits.
pub(crate) fn id(name: &str) -> String {
    format!("{name:0<26}")
}

/// An item of the vault `Faults`, which is served when its fault has ended.
pub(crate) fn fault_item(id: &str, title: &str) -> Value {
    let mut item = item(id, title, "LOGIN", json!([field("password", "CONCEALED", "canary-fault-value")]));
    item["vault"] = json!({ "id": self::id("faults") });
    item
}

pub(crate) fn now() -> String {
    format!("{:.0}", Timestamp::now())
}

fn item(name: &str, title: &str, category: &str, fields: Value) -> Value {
    json!({
        "id": id(name),
        "title": title,
        "category": category,
        "favorite": false,
        "tags": [],
        "urls": [],
        "version": 1,
        "createdAt": START,
        "updatedAt": START,
        "lastEditedBy": id("editor"),
        "sections": [],
        "fields": fields,
        "files": [],
    })
}

/// A field whose id is its label.
fn field(label: &str, kind: &str, value: &str) -> Value {
    json!({ "id": label, "type": kind, "label": label, "value": value })
}

fn field_of(section: &str, id: &str, label: &str, value: &str) -> Value {
    json!({ "id": id, "section": { "id": section }, "type": "CONCEALED", "label": label, "value": value })
}

fn with(mut item: Value, members: Value) -> Value {
    let members: Map<String, Value> = serde_json::from_value(members).unwrap();
    item.as_object_mut().unwrap().extend(members);
    item
}

fn ordinary() -> Value {
    let username =
        json!({ "id": "username", "type": "STRING", "purpose": "USERNAME", "label": "username", "value": "agent" });
    let password = json!({
        "id": "password", "type": "CONCEALED", "purpose": "PASSWORD", "label": "password",
        "value": "canary-agentvault-password", "entropy": 128.5,
    });
    with(
        item("ordinary", "ordinary", "LOGIN", json!([username, password])),
        json!({ "tags": ["agents"], "urls": [{ "primary": true, "href": "https://example.com" }] }),
    )
}

fn duplicates() -> Vec<Value> {
    let password = |value| json!([field("password", "CONCEALED", value)]);
    let sections = json!([
        { "id": "blue", "label": "blue" },
        { "id": "green", "label": "green" },
        { "id": "spaced", "label": "two words" },
        { "id": "same1", "label": "same" },
        { "id": "same2", "label": "same" },
    ]);
    let fields = json!([
        field_of("blue", "blue1", "in two sections", "blue"),
        field_of("green", "green1", "in two sections", "green"),
        field_of("blue", "blue2", "twice in one section", "first"),
        field_of("blue", "blue3", "twice in one section", "second"),
        field_of("spaced", "spaced1", "a field", "spaced"),
        field_of("same1", "same1a", "in same sections", "first"),
        field_of("same2", "same2a", "in same sections", "second"),
        // Its label is another field's id: the id wins.
        field_of("green", "green2", "blue1", "labelled like an id"),
        field("twice outside sections", "CONCEALED", "first"),
        json!({ "id": "outside2", "type": "CONCEALED", "label": "twice outside sections", "value": "second" }),
    ]);
    vec![
        item("same1", "same title", "LOGIN", password("first")),
        item("same2", "same title", "LOGIN", password("second")),
        with(item("sections", "sections", "LOGIN", fields), json!({ "sections": sections })),
        item("titledlikeanid", "abcdefghijklmnopqrstuvwxyz", "LOGIN", password("titled like an id")),
        // Its title is another item's id: the id wins.
        item("titledlikeanother", &id("same1"), "LOGIN", password("titled like another's id")),
        item("nonascii", "Datenbank für Agenten", "LOGIN", password("reached by id")),
        item("slash", "IT/Dev", "LOGIN", password("reached by id")),
        item("upper", "Database", "LOGIN", password("upper")),
        item("lower", "database", "LOGIN", password("lower")),
    ]
}

fn archive() -> Vec<Value> {
    let item = |name, state| {
        let item = item(name, name, "LOGIN", json!([field("password", "CONCEALED", "canary-archive-password")]));
        with(item, json!({ "state": state }))
    };
    vec![item("archived", "ARCHIVED"), item("deleted", "DELETED")]
}

fn shapes() -> Vec<Value> {
    let types: Value = [
        ("STRING", "text"),
        ("CONCEALED", "concealed"),
        ("EMAIL", "agent@example.com"),
        ("URL", "https://example.com"),
        ("DATE", "1767322800"),
        ("MONTH_YEAR", "202601"),
        ("MENU", "postgresql"),
        ("PHONE", "+43 1 2345"),
        ("ADDRESS", "Ring 1, 1010 Wien, Austria"),
        ("CREDIT_CARD_NUMBER", "4111111111111111"),
        ("CREDIT_CARD_TYPE", "visa"),
        ("GENDER", "none"),
        ("REFERENCE", "ordinary00000000000000000a"),
        ("SSHKEY", "-----BEGIN PRIVATE KEY-----\nnot a key\n-----END PRIVATE KEY-----\n"),
        ("UNKNOWN", "unknown"),
        ("A_TYPE_OF_TOMORROW", "new"),
    ]
    .iter()
    .map(|(kind, value)| field(&kind.to_lowercase(), kind, value))
    .collect();
    let otp = json!({
        "id": "otp", "type": "OTP", "label": "one-time password", "totp": "123456",
        "value": "otpauth://totp/example?secret=JBSWY3DPEHPK3PXP&issuer=example",
    });
    let values = json!([
        json!({ "id": "absent", "type": "CONCEALED", "label": "absent" }),
        json!({ "id": "null", "type": "CONCEALED", "label": "null", "value": null }),
        field("empty", "CONCEALED", ""),
        field("space", "CONCEALED", " padded "),
        field("lines", "STRING", "first\nsecond\n"),
        field("unicode", "CONCEALED", "p\u{e4}ssw\u{f6}rd \u{1f511}"),
        field("large", "CONCEALED", &"x".repeat(100_000)),
        json!({ "id": "no-label", "type": "CONCEALED", "value": "reached by id" }),
    ]);
    vec![
        item("types", "types", "LOGIN", types),
        item("otp", "otp", "LOGIN", json!([otp])),
        item("values", "values", "LOGIN", values),
        item("nofields", "no fields", "SECURE_NOTE", json!([])),
        with(
            item(
                "unexpected",
                "unexpected",
                "LOGIN",
                json!([null, 7, field("password", "CONCEALED", "canary"), { "id": null }]),
            ),
            json!({ "sections": null, "files": null, "tags": 7, "urls": "none" }),
        ),
        with(item("files", "files", "DOCUMENT", json!([])), json!({ "files": file_list() })),
    ]
}

fn files() -> HashMap<String, Vec<u8>> {
    HashMap::from([
        (id("textfile"), b"The content of a text file.\n".to_vec()),
        (id("binaryfile"), (0..=u8::MAX).collect()),
        (id("largefile"), vec![b'x'; 200_000]),
    ])
}

fn file_list() -> Value {
    let sizes = files();
    [("textfile", "text.txt"), ("binaryfile", "binary.der"), ("largefile", "large.bin")]
        .iter()
        .map(|(name, file_name)| {
            let id = id(name);
            let path = format!("/v1/vaults/{}/items/{}/files/{id}/content", self::id("shapes"), self::id("files"));
            json!({ "id": id, "name": file_name, "size": sizes[&id].len(), "content_path": path })
        })
        .collect()
}

/// A file's description with its content.
pub(crate) fn inline(file: &Value, content: &[u8]) -> Value {
    with(file.clone(), json!({ "content": BASE64_STANDARD.encode(content) }))
}
