//! What the gateway shows, and what it asks Connect.

use std::cell::RefCell;

use bolero::ValueGenerator;
use bolero::generator::bolero_generator::driver::Driver;
use oci_secrets::gateway::filter::Filter;
use oci_secrets::gateway::list::List;
use oci_secrets::gateway::query::Query;
use oci_secrets::gateway::route::Route;
use oci_secrets::gateway::scope::{Reach, Scope};
use oci_secrets::reference::Reference;
use oci_secrets::source::item::{Item, Named};
use serde_json::{Map, Value, json};

use crate::CANARY;
use crate::engine::check;
use crate::generate::{list, near, near_text, odd, once_in, pick, set, up_to};

/// Few words, so that names are often ambiguous, and ids are often the names of something else.
const NAMES: &[&str] = &["a", "b", "s1", "s2", "password"];
const VAULT: &str = "CI";
const ITEM: &str = "deploy";

#[test]
fn shows_only_what_the_rules_name() {
    check!(12_000).with_generator((Items, Rules)).for_each(|(item, rules)| {
        let Some(cut) = cut(item, rules) else { return };
        let allowed: Vec<String> = rules.iter().flat_map(|rule| resolved(item, rule)).collect();
        for shown in canaries(&cut) {
            assert!(allowed.contains(&shown), "{shown} is not in {allowed:?}");
        }
    });
}

#[test]
fn shows_what_a_reference_resolves_to() {
    check!(12_000).with_generator((Items, OneReference)).for_each(|(item, reference)| {
        let cut = cut(item, std::slice::from_ref(&reference.to_string())).unwrap();
        assert_eq!(select(&cut, reference), select(item, reference));
    });
}

#[test]
fn another_rule_hides_nothing() {
    check!(12_000).with_generator((Items, Rules, Rules)).for_each(|(item, rules, more)| {
        let Some(before) = cut(item, rules) else { return };
        let after = cut(item, &[rules.as_slice(), more].concat()).unwrap();
        let after = canaries(&after);
        assert!(canaries(&before).iter().all(|shown| after.contains(shown)));
    });
}

#[test]
fn hides_the_members_of_a_vault_that_only_items_of_are_shown() {
    check!(4000).with_generator((Items, Rules)).for_each(|(object, rules)| {
        let reaches = reaches(rules);
        let whole = rules.iter().any(|rule| [format!("op://{VAULT}/*"), "op://*".to_owned()].contains(rule));
        let Some(vault) = Scope::new(&reaches).of_vault("v", VAULT) else { return };
        let mut object = object.clone();
        vault.cut_vault(&mut object);
        assert!(whole || canaries(&object).is_empty());
    });
}

#[test]
fn reads_a_list_in_parts_as_it_does_at_once() {
    let seeds = [
        r#"[{"id":"a","title":"x"},{"id":"b"}]"#,
        "[ ]",
        r#" [{}, {"a":[{"b":"]},{"}]}] "#,
        r#"[{"a":"\u00e9\\"},{"b":"é"},{"c":null,"c":1}]"#,
    ];
    let parts = near(&seeds, &["[", "]", "{", "}", ",", "\"", "\\", " ", "{}", "null"]);
    let sizes = (1_usize..9, 1_usize..9);
    check!(16_000).with_generator((parts, sizes)).for_each(|(text, (one, other))| {
        let found = RefCell::new(Vec::new());
        let keep = |entry| found.borrow_mut().push(entry);
        let mut list = List::default();
        let mut rest = text.as_slice();
        let mut sizes = [*one, *other].into_iter().cycle();
        let mut outcome = Ok(());
        while !rest.is_empty() && outcome.is_ok() {
            let (part, after) = rest.split_at(sizes.next().unwrap().min(rest.len()));
            outcome = list.push(part, keep);
            rest = after;
        }
        let outcome = outcome.and_then(|()| list.finish(keep));
        let expected = serde_json::from_slice::<Vec<Map<String, Value>>>(text).ok();
        assert_eq!(outcome.is_ok().then_some(found.into_inner()), expected, "{:?}", String::from_utf8_lossy(text));
    });
}

#[test]
fn a_path_leads_only_where_its_ids_do() {
    const V: &str = "vaultaaaaaaaaaaaaaaaaaaaaa";
    let seeds = [
        "/v1/vaults".to_owned(),
        format!("/v1/vaults/{V}/"),
        format!("/v1/vaults/{V}/items/{V}"),
        format!("/v1/vaults/{V}/items/{V}/files/{V}/content"),
    ];
    let words = ["/", "..", "%2e%2e", "%2f", "?", "#", "//", "/files", "/items", "\\", V];
    check!(20_000).with_generator(near_text(&seeds, &words)).for_each(|path| {
        let Ok(route) = Route::parse(path) else { return };
        let (v, i, f) = match &route {
            Route::Vaults => return assert_eq!(path.trim_end_matches('/'), "/v1/vaults"),
            Route::Vault(v) => (v, "", String::new()),
            Route::Items(v) => (v, "/items", String::new()),
            Route::Item(v, i) => (v, "/items/", i.clone()),
            Route::Files(v, i) => (v, "/items/", format!("{i}/files")),
            Route::File(v, i, f) => (v, "/items/", format!("{i}/files/{f}")),
            Route::Content(v, i, f) => (v, "/items/", format!("{i}/files/{f}/content")),
        };
        assert_eq!(path.strip_suffix('/').unwrap_or(path), format!("/v1/vaults/{v}{i}{f}"));
        let is_plain = |id: &str| id.len() == 26 && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
        assert!(route.ids().into_iter().flatten().all(is_plain), "{route:?}");
    });
}

#[test]
fn the_filter_for_connect_means_what_the_request_said() {
    let seeds = [r#"title eq "deploy key""#, r#"name eq "CI""#, r#"tag eq "x""#, r#"title co "y""#];
    let words = ["\"", "\\", "'", " or ", " and ", " eq ", "\\\"", "title", "\n", "("];
    check!(20_000).with_generator(near_text(&seeds, &words)).for_each(|text| {
        let Ok(filter) = Filter::parse(text) else { return };
        let Some(sent) = filter.for_connect("title") else { return };
        let again = Filter::parse(&sent).unwrap();
        assert_eq!((again.value(), again.for_connect("title")), (filter.value(), Some(sent.clone())));
        assert_eq!(sent.matches(['"', '\'', '\\']).count(), 2, "{sent}");
        let titled = |title: &str| json!({ "title": title }).as_object().unwrap().clone();
        assert!(filter.matches(&titled(filter.value())) && !filter.matches(&titled("another")));
    });
}

#[test]
fn a_query_is_refused_or_has_one_filter() {
    let seeds =
        ["filter=title%20eq%20%22deploy%22&inline_files=true", "inline_files=false", "x=1&filter=tag+eq+%22a%22"];
    let words = ["&", "=", "%", "%22", "+", ";", "&filter=tag+eq+%22a%22", "inline_files=true"];
    check!(10_000).with_generator(near_text(&seeds, &words)).for_each(|text| {
        let Ok(query) = Query::parse(text) else { return };
        let names = text.split('&').map(|pair| pair.split('=').next().unwrap_or_default());
        assert!(names.filter(|name| *name == "filter").count() <= 1, "{text}");
        if let Some(filter) = query.filter_for_connect("title") {
            assert!(Filter::parse(&filter).is_ok(), "{filter}");
        }
    });
}

/// An item of Connect, or something like it. Each value contains the canary and a number of its own.
pub(crate) struct Items;

impl ValueGenerator for Items {
    type Output = Map<String, Value>;

    fn generate<D: Driver>(&self, driver: &mut D) -> Option<Map<String, Value>> {
        let mut item = json!({
            "id": "itemaaaaaaaaaaaaaaaaaaaaaa", "title": ITEM, "version": 3, "notes": canary("notes"),
            "tags": [canary("tag")], "urls": [{ "href": canary("url") }],
        });
        let item = item.as_object_mut()?;
        let mut number = 0;
        for member in ["sections", "fields", "files"] {
            let entries = list(driver, 5, |driver| {
                number += 1;
                entry(driver, member, number)
            })?;
            let entries = if once_in(driver, 40)? { odd(driver)? } else { Value::from(entries) };
            item.insert(member.to_owned(), entries);
        }
        Some(item.clone())
    }
}

fn entry<D: Driver>(driver: &mut D, member: &str, number: usize) -> Option<Value> {
    if once_in(driver, 40)? {
        return odd(driver);
    }
    let mut entry = Map::new();
    match member {
        // A file without one cannot be read.
        "files" => drop(entry.insert("id".to_owned(), (*pick(driver, NAMES)?).into())),
        _ => set(driver, &mut entry, "id", NAMES)?,
    }
    set(driver, &mut entry, if member == "files" { "name" } else { "label" }, NAMES)?;
    if member != "sections" && up_to(driver, 2)? > 0 {
        let mut section = Map::new();
        set(driver, &mut section, "id", NAMES)?;
        entry.insert("section".to_owned(), if once_in(driver, 20)? { odd(driver)? } else { section.into() });
    }
    if member != "sections" {
        entry.insert(if member == "fields" { "value" } else { "path" }.to_owned(), canary(&number.to_string()).into());
    }
    Some(entry.into())
}

fn canary(of: &str) -> String {
    format!("{CANARY} {of}.")
}

/// The references of some rules.
struct Rules;

impl ValueGenerator for Rules {
    type Output = Vec<String>;

    fn generate<D: Driver>(&self, driver: &mut D) -> Option<Vec<String>> {
        let names: Vec<&str> = NAMES.iter().copied().chain(["*"]).collect();
        let rule = |driver: &mut D| {
            Some(match up_to(driver, 9)? {
                0 => (*pick(driver, &["op://*", "op://CI/*", "op://CI/deploy/*", "op://other/*", "op://CI/other/*"])?)
                    .to_owned(),
                1..4 => format!("op://{VAULT}/{ITEM}/{}", pick(driver, &names)?),
                _ => format!("op://{VAULT}/{ITEM}/{}/{}", pick(driver, &names)?, pick(driver, &names)?),
            })
        };
        list(driver, 3, rule)
    }
}

/// A reference to the item.
pub(crate) struct OneReference;

impl ValueGenerator for OneReference {
    type Output = Reference;

    fn generate<D: Driver>(&self, driver: &mut D) -> Option<Reference> {
        let section = if driver.produce()? { format!("{}/", pick(driver, NAMES)?) } else { String::new() };
        format!("op://{VAULT}/{ITEM}/{section}{}", pick(driver, NAMES)?).parse().ok()
    }
}

fn reaches(rules: &[String]) -> Vec<Reach> {
    rules.iter().map(|rule| serde_json::from_value(json!(rule)).unwrap()).collect()
}

/// What is left of an item; none if the rules do not reach it.
fn cut(item: &Map<String, Value>, rules: &[String]) -> Option<Map<String, Value>> {
    let reaches = reaches(rules);
    let visible = Scope::new(&reaches).of_vault("v", VAULT)?.of_item(item)?;
    let mut item = item.clone();
    visible.cut_item(&mut item);
    Some(item)
}

/// The canaries in an object.
fn canaries(object: &Map<String, Value>) -> Vec<String> {
    let text = Value::from(object.clone()).to_string();
    text.split(CANARY).skip(1).map(|rest| format!("{CANARY}{}.", rest.split('.').next().unwrap())).collect()
}

/// The canaries that a rule allows, by the code that resolves references: it and the gateway must agree.
fn resolved(item: &Map<String, Value>, rule: &str) -> Vec<String> {
    let segments: Vec<&str> = rule.strip_prefix("op://").unwrap().split('/').collect();
    let entries = || ["fields", "files"].into_iter().flat_map(|member| objects(item, member));
    let section_of = |entry: &Map<String, Value>| entry.get("section")?.get("id")?.as_str().map(str::to_owned);
    let sections = || objects(item, "sections").filter_map(|section| section.get("id")?.as_str().map(str::to_owned));
    let one = |section: &str, field: &str| {
        let reference = format!("op://{VAULT}/{ITEM}/{section}{field}").parse().ok();
        match reference.and_then(|reference| select(item, &reference)) {
            Some(Ok(value)) => vec![value],
            Some(Err(id)) => {
                let files = objects(item, "files").filter(|file| file.get("id").is_some_and(|found| *found == id));
                files.flat_map(canaries).collect()
            }
            None => Vec::new(),
        }
    };
    let all_in = |ids: Vec<String>| {
        let inside = entries().filter(|entry| section_of(entry).is_some_and(|id| !id.is_empty() && ids.contains(&id)));
        inside.flat_map(canaries).collect()
    };
    match segments[..] {
        [] | ["*" | VAULT] | ["*" | VAULT, "*"] | [VAULT, ITEM, "*"] => canaries(item),
        [VAULT, ITEM, field] => one("", field),
        [VAULT, ITEM, "*", "*"] => all_in(sections().collect()),
        [VAULT, ITEM, "*", field] => sections().flat_map(|section| one(&format!("{section}/"), field)).collect(),
        [VAULT, ITEM, name, "*"] => {
            let named = |member: &str| -> Vec<String> {
                let named =
                    objects(item, "sections").filter(|section| section.get(member).is_some_and(|text| text == name));
                named.filter_map(|section| section.get("id")?.as_str().map(str::to_owned)).collect()
            };
            all_in(if named("id").is_empty() { named("label") } else { named("id") })
        }
        [VAULT, ITEM, section, field] => one(&format!("{section}/"), field),
        _ => Vec::new(),
    }
}

pub(crate) fn objects<'a>(item: &'a Map<String, Value>, member: &str) -> impl Iterator<Item = &'a Map<String, Value>> {
    item.get(member).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_object)
}

/// What a reference resolves to: the value of a field, or the id of a file.
pub(crate) fn select(item: &Map<String, Value>, reference: &Reference) -> Option<Result<String, String>> {
    match parse(item)?.select(reference).ok()? {
        Named::Value { value, .. } => Some(Ok(value.to_string())),
        Named::File(id) => Some(Err(id)),
    }
}

/// The item without the lists that are none, which the gateway removes, too.
fn parse(item: &Map<String, Value>) -> Option<Item> {
    let mut item = item.clone();
    item.retain(|member, value| !["sections", "fields", "files"].contains(&member.as_str()) || value.is_array());
    serde_json::from_value(item.into()).ok()
}
