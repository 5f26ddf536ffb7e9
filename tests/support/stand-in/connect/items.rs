//! Items: listed, created, read, changed and deleted.

use serde_json::{Value, json};

use super::world::{self, Vault, World};
use super::{Answer, Refusal, check_id, error, filter, patch, text};
use crate::fault::{Write, is_fault};
use crate::http::{self, Request};

const CATEGORIES: &[&str] = &[
    "LOGIN",
    "PASSWORD",
    "API_CREDENTIAL",
    "SERVER",
    "DATABASE",
    "CREDIT_CARD",
    "MEMBERSHIP",
    "PASSPORT",
    "SOFTWARE_LICENSE",
    "OUTDOOR_LICENSE",
    "SECURE_NOTE",
    "WIRELESS_ROUTER",
    "BANK_ACCOUNT",
    "DRIVER_LICENSE",
    "IDENTITY",
    "REWARD_PROGRAM",
    "DOCUMENT",
    "EMAIL_ACCOUNT",
    "SOCIAL_SECURITY_NUMBER",
    "MEDICAL_RECORD",
    "SSH_KEY",
    "CUSTOM",
];

pub(crate) fn list(world: &mut World, vault: usize, request: &Request) -> Answer {
    let filter = filter(request, &["title", "tag"])?;
    let matches = |item: &&Value| {
        filter.as_ref().is_none_or(|filter| match filter.attribute.as_str() {
            "tag" => item["tags"].as_array().is_some_and(|tags| tags.iter().any(|tag| filter.matches(text(tag)))),
            _ => filter.matches(text(&item["title"])),
        })
    };
    let mut list: Vec<Value> = world.shown(vault).filter(matches).map(summarize).collect();
    if let Some(filter) = &filter
        && world.vaults[vault].name == "Faults"
        && is_fault(&filter.value)
    {
        let id = world.fault_id(&filter.value);
        list.push(summarize(&world::fault_item(&id, &filter.value)));
    }
    Ok(http::json(200, &list.into()))
}

/// An item without the members that lists omit.
fn summarize(item: &Value) -> Value {
    let mut summary = item.clone();
    let members = summary.as_object_mut().unwrap();
    for member in ["sections", "fields", "files"] {
        members.remove(member);
    }
    summary
}

pub(crate) fn create(world: &mut World, vault: usize, request: &Request) -> Answer {
    let mut item = request.json();
    check_item(&item, &world.vaults[vault])?;
    item["id"] = world.new_id().into();
    item["version"] = 1.into();
    item["createdAt"] = world::now().into();
    store(world, vault, item, None)
}

pub(crate) fn answer(world: &mut World, vault: usize, id: &str, method: &str, request: &Request) -> Answer {
    let index = match find(world, vault, id) {
        Ok(index) => index,
        Err(not_found) => {
            let title = world.fault_title(id).filter(|_| method == "GET" && world.vaults[vault].name == "Faults");
            return title.map(|title| http::json(200, &world::fault_item(id, title))).ok_or(not_found);
        }
    };
    let old = &world.vaults[vault].items[index];
    match method {
        "GET" => {
            let shown = world.shown(vault).find(|item| item["id"] == id);
            return shown.map(|item| http::json(200, item)).ok_or_else(|| error(404, &format!("item {id} not found")));
        }
        "DELETE" => {
            let vault = &mut world.vaults[vault];
            vault.items.remove(index);
            vault.content_version += 1;
            return Ok(http::empty(204));
        }
        _ => {}
    }
    let mut item = match method {
        "PUT" => request.json(),
        "PATCH" => patched(old, &request.json())?,
        _ => return Err(error(405, "method not allowed")),
    };
    check_item(&item, &world.vaults[vault])?;
    if item["id"] != id {
        return Err(error(400, "The item UUID in the body does not match the one in the path"));
    }
    item["version"] = (old["version"].as_u64().unwrap_or_default() + 1).into();
    item["createdAt"] = old["createdAt"].clone();
    store(world, vault, item, Some(index))
}

fn patched(item: &Value, operations: &Value) -> Result<Value, Refusal> {
    let operations = operations.as_array().ok_or_else(|| error(400, "Invalid patch: not a list of operations"))?;
    let mut item = item.clone();
    patch::apply(&mut item, operations).map_err(|message| error(400, &format!("Invalid patch: {message}")))?;
    Ok(item)
}

/// Stores an item, at `index` or as a new one, with the members that the server adds.
fn store(world: &mut World, vault: usize, mut item: Value, index: Option<usize>) -> Answer {
    item["updatedAt"] = world::now().into();
    item["lastEditedBy"] = world::id("editor").into();
    for member in ["tags", "urls", "sections", "fields", "files"] {
        if !item[member].is_array() {
            item[member] = json!([]);
        }
    }
    item["favorite"] = (item["favorite"] == true).into();
    for field in item["fields"].as_array_mut().unwrap() {
        if text(&field["id"]).is_empty() {
            field["id"] = world.new_id().into();
        }
        if text(&field["type"]).is_empty() {
            field["type"] = "STRING".into();
        }
        if field["generate"] == true && text(&field["value"]).is_empty() {
            field["value"] = "x".repeat(field["recipe"]["length"].as_u64().unwrap_or(32).min(64) as usize).into();
        }
    }
    if let Some(Write::Lags(for_now)) = Write::parse(text(&item["title"])) {
        let before = index.map(|index| world.vaults[vault].items[index].clone());
        world.lag(text(&item["id"]), before, for_now);
    }
    let vault = &mut world.vaults[vault];
    vault.content_version += 1;
    let response = http::json(200, &item);
    match index {
        Some(index) => vault.items[index] = item,
        None => vault.items.push(item),
    }
    Ok(response)
}

fn check_item(item: &Value, vault: &Vault) -> Result<(), Refusal> {
    if !item.is_object() {
        return Err(error(400, "Invalid item: the body is not a JSON object"));
    }
    if !CATEGORIES.contains(&text(&item["category"])) {
        return Err(error(400, "Invalid item category"));
    }
    if item["vault"]["id"] != vault.id.as_str() {
        return Err(error(400, "The vault UUID in the body does not match the one in the path"));
    }
    Ok(())
}

pub(crate) fn find(world: &World, vault: usize, id: &str) -> Result<usize, Refusal> {
    check_id(id, "Invalid Item UUID")?;
    let index = world.vaults[vault].items.iter().position(|item| item["id"] == id);
    index.ok_or_else(|| error(404, &format!("item {id} not found")))
}
