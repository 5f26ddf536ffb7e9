//! What we say that we read, beside what 1Password Connect says.
//!
//! A start's id is in its record and, as part of the `User-Agent`, in Connect's account of its requests: by it and the item's id the
//! two are joined, one request with one reading.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;

use super::entry::Entry;
use crate::source::connect::activity::Seen;

/// One place where the two accounts differ.
#[derive(Debug, PartialEq, Serialize, thiserror::Error)]
#[serde(tag = "difference", rename_all = "kebab-case")]
#[expect(missing_docs, reason = "fields are named for what they hold")]
pub enum Difference {
    /// We say that we read an item, Connect does not.
    #[error("{time} start {start} of container {container} read item {item}: Connect does not say so")]
    OursAlone { time: Timestamp, start: String, container: String, item: String },
    /// Both say so, but not of the same version.
    #[error(
        "{time} start {start} read item {item}: version {ours} by our account, {theirs} by Connect's (request {request})"
    )]
    OtherVersion { time: Timestamp, start: String, item: String, ours: u64, theirs: u64, request: String },
    /// Connect says that our token, or a start, read an item, no record does.
    #[error("{time} {user_agent:?} at {ip} read item {item}: no record says so (request {request})")]
    TheirsAlone { time: Timestamp, user_agent: String, ip: String, item: String, request: String },
}

/// What a comparison came to.
#[derive(Debug, Default, PartialEq)]
pub struct Comparison {
    /// Readings on which both agree.
    pub agreed: usize,
    /// Where they do not, oldest first.
    pub differences: Vec<Difference>,
}

/// Compares all records of a time with what Connect saw in it. `token` is the id of our token: what else it was used for is told.
///
/// A start that was refused may have read items that its record does not name, so that Connect's word for it is agreed with.
pub fn compare(entries: &[Entry], seen: &[Seen], token: Option<&str>) -> Comparison {
    let ours = |seen: &&Seen| seen.start().is_some() || token.is_some_and(|token| seen.actor.jti == token);
    let mut unmatched: BTreeMap<(&str, &str), Vec<&Seen>> = BTreeMap::new();
    for seen in seen.iter().filter(|seen| seen.action == "READ" && seen.result == "SUCCESS").filter(ours) {
        if let Some(item) = &seen.resource.item {
            unmatched.entry((seen.start().unwrap_or_default(), &item.id)).or_default().push(seen);
        }
    }
    let (mut agreed, mut differences) = (0, Vec::new());
    for entry in entries.iter().filter(|entry| !entry.start.is_empty()) {
        let items: BTreeMap<&str, Option<u64>> = entry
            .secrets
            .iter()
            .filter(|reading| !reading.kept)
            .filter_map(|reading| Some((reading.item.as_deref()?, reading.item_version)))
            .collect();
        for (item, version) in items {
            match unmatched.remove(&(entry.start.as_str(), item)).as_deref() {
                None => differences.push(Difference::OursAlone {
                    time: entry.time,
                    start: entry.start.clone(),
                    container: entry.container.clone(),
                    item: item.to_owned(),
                }),
                // Several: it was tried again, or asked for its files.
                Some(requests) => match other_version(entry, item, version, requests) {
                    None => agreed += 1,
                    Some(difference) => differences.push(difference),
                },
            }
        }
        if entry.refusal.is_some() {
            let before = unmatched.len();
            unmatched.retain(|(start, _), _| *start != entry.start);
            agreed += before - unmatched.len();
        }
    }
    let alone = |seen: &Seen| Difference::TheirsAlone {
        time: seen.timestamp,
        user_agent: seen.actor.user_agent.clone(),
        ip: seen.actor.request_ip.clone(),
        item: seen.resource.item.as_ref().map(|item| item.id.clone()).unwrap_or_default(),
        request: seen.request_id.clone(),
    };
    differences.extend(unmatched.into_values().flatten().map(alone));
    differences.sort_by_key(Difference::time);
    Comparison { agreed, differences }
}

fn other_version(entry: &Entry, item: &str, ours: Option<u64>, requests: &[&Seen]) -> Option<Difference> {
    let ours = ours?;
    let versions = || requests.iter().filter_map(|seen| Some((seen.resource.item_version?, seen)));
    if versions().any(|(version, _)| version == ours) {
        return None;
    }
    let (theirs, seen) = versions().next()?;
    let (start, item, request) = (entry.start.clone(), item.to_owned(), seen.request_id.clone());
    Some(Difference::OtherVersion { time: entry.time, start, item, ours, theirs, request })
}

impl Difference {
    fn time(&self) -> Timestamp {
        match self {
            Difference::OursAlone { time, .. }
            | Difference::OtherVersion { time, .. }
            | Difference::TheirsAlone { time, .. } => *time,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn entry(start: &str, item: Option<&str>, refused: bool) -> Entry {
        let refusal = refused.then(|| json!({ "code": 65, "message": "no" }));
        let reading = json!({ "file": "a", "reference": "op://V/i/f", "item": item, "item_version": item.map(|_| 3) });
        let record = json!({ "time": "2026-05-04T10:00:00Z", "decision": "-", "start": start, "container": "c",
            "secrets": [reading], "refusal": refusal });
        serde_json::from_value(record).unwrap()
    }

    fn seen(user_agent: &str, jti: &str, item: &str, version: Value) -> Seen {
        let seen = json!({ "requestId": "r", "timestamp": "2026-05-04T10:00:01Z", "action": "READ", "result": "SUCCESS",
            "actor": { "jti": jti, "userAgent": user_agent, "requestIp": "127.0.0.1" },
            "resource": { "type": "ITEM", "item": { "id": item }, "itemVersion": version } });
        serde_json::from_value(seen).unwrap()
    }

    fn told(entries: &[Entry], seen: &[Seen]) -> (usize, Vec<String>) {
        let comparison = compare(entries, seen, Some("ours"));
        (comparison.agreed, comparison.differences.iter().map(ToString::to_string).collect())
    }

    const OURS: &str = "oci-secrets/1 (start s1)";

    #[test]
    fn the_same_reading_is_no_difference() {
        let none = Vec::<String>::new();
        let entries = [entry("s1", Some("i1"), false)];
        assert_eq!(told(&entries, &[seen(OURS, "ours", "i1", json!(3))]), (1, none.clone()));
        assert_eq!(told(&entries, &[seen(OURS, "ours", "i1", json!(null))]), (1, none.clone()));
        let twice = [seen(OURS, "ours", "i1", json!(3)), seen(OURS, "ours", "i1", json!(3))];
        assert_eq!(told(&entries, &twice), (1, none.clone()));
        assert_eq!(told(&[entry("s1", None, true)], &twice), (1, none.clone()), "a refused start may have read");
        assert_eq!(
            told(&[], &[seen("curl/8", "others", "i1", json!(3))]),
            (0, none),
            "who has another token is not us"
        );
    }

    #[test]
    fn differences_show_in_both_directions() {
        let (_, told_alone) = told(&[entry("s1", Some("i1"), false)], &[]);
        assert_eq!(told_alone, ["2026-05-04T10:00:00Z start s1 of container c read item i1: Connect does not say so"]);
        let (_, version) = told(&[entry("s1", Some("i1"), false)], &[seen(OURS, "ours", "i1", json!(4))]);
        assert_eq!(
            version,
            ["2026-05-04T10:00:00Z start s1 read item i1: version 3 by our account, 4 by Connect's (request r)"]
        );
        for (agent, token) in [(OURS, "ours"), (OURS, "others"), ("curl/8", "ours"), ("oci-secrets/1", "ours")] {
            let (_, theirs) = told(&[], &[seen(agent, token, "i1", json!(3))]);
            let expected =
                format!("2026-05-04T10:00:01Z {agent:?} at 127.0.0.1 read item i1: no record says so (request r)");
            assert_eq!(theirs, [expected]);
        }
        let other_item = told(&[entry("s1", Some("i1"), false)], &[seen(OURS, "ours", "i2", json!(3))]);
        assert_eq!(other_item.1.len(), 2);
    }
}
