//! Compares our records with the requests that 1Password Connect logged.
//!
//! The id of a start is in its record and, as part of the `User-Agent`, in Connect's log. Requests are matched with records by this id
//! and the item's id. A command such as `explain` writes no record, and its `User-Agent` has no start id: its requests are listed, but
//! are no difference. A `User-Agent` does not authenticate the program that sent it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use jiff::Timestamp;
use serde::Serialize;

use super::entry::{Entry, Reading};
use crate::source::connect::activity::Seen;

/// A difference between our records and Connect's log.
#[derive(Debug, PartialEq, Serialize, thiserror::Error)]
#[serde(tag = "difference", rename_all = "kebab-case")]
pub enum Difference {
    /// Our record has an item that Connect did not log.
    #[error("{time} start {start} of container {container} read item {item}: Connect did not log it")]
    OursAlone {
        /// When the start began.
        time: Timestamp,
        /// Its id.
        start: String,
        /// The container's id.
        container: String,
        /// The item's id.
        item: String,
    },
    /// Both have the item, in different versions.
    #[error(
        "{time} start {start} read item {item}: version {ours} in our record, {theirs} in Connect's log (request {request})"
    )]
    OtherVersion {
        /// When the start began.
        time: Timestamp,
        /// Its id.
        start: String,
        /// The item's id.
        item: String,
        /// The version in our record.
        ours: u64,
        /// The version in Connect's log.
        theirs: u64,
        /// Connect's id of the request.
        request: String,
    },
    /// Connect logged that an item was read by a start, or with our token, and no record has it.
    #[error("{time} {user_agent:?} at {ip} read item {item}: no record has it (request {request})")]
    TheirsAlone {
        /// When it was read.
        time: Timestamp,
        /// The program's `User-Agent`.
        user_agent: String,
        /// The client's address.
        ip: String,
        /// The item's id.
        item: String,
        /// Connect's id of the request.
        request: String,
    },
}

/// The result of a comparison.
#[derive(Debug, Default, PartialEq)]
pub struct Comparison {
    /// The number of items that both have.
    pub agreed: usize,
    /// What only one of them has, oldest first.
    pub differences: Vec<Difference>,
    /// Items that commands read with our token, oldest first.
    pub commands: Vec<CommandRead>,
}

/// An item that a command read, which writes no record.
#[derive(Debug, PartialEq, Serialize)]
#[serde(tag = "note", rename = "command")]
pub struct CommandRead {
    /// When it was read.
    pub time: Timestamp,
    /// The `User-Agent` of the command.
    pub user_agent: String,
    /// The client's address.
    pub ip: String,
    /// The item's id.
    pub item: String,
    /// Connect's id of the request.
    pub request: String,
}

impl fmt::Display for CommandRead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let CommandRead { time, user_agent, ip, item, request } = self;
        write!(
            f,
            "{time} {user_agent:?} at {ip} read item {item}: a command, which writes no record (request {request})"
        )
    }
}

/// Compares the records of a period with Connect's log of it. `token` is the id of our token: every use of it is compared.
///
/// A refused start may have read items that its record does not name. They are not a difference.
pub fn compare(entries: &[Entry], seen: &[Seen], token: Option<&str>) -> Comparison {
    let ours = |seen: &&Seen| seen.start().is_some() || token.is_some_and(|token| seen.actor.jti == token);
    let mut requests: BTreeMap<(&str, &str), Vec<&Seen>> = BTreeMap::new();
    for seen in seen.iter().filter(|seen| seen.action == "READ" && seen.result == "SUCCESS").filter(ours) {
        if let Some(item) = &seen.resource.item {
            requests.entry((seen.start().unwrap_or_default(), &item.id)).or_default().push(seen);
        }
    }
    let (mut agreed, mut differences, mut matched) = (0, Vec::new(), BTreeSet::new());
    let first = entries.iter().map(|entry| entry.time).min();
    for entry in entries.iter().filter(|entry| !entry.start.is_empty()) {
        let items: BTreeMap<(&str, &str), &Reading> = entry
            .secrets
            .iter()
            .filter(|reading| !reading.kept)
            .filter_map(|reading| {
                // A broker fetches once for several starts, in the name of the first.
                let start = match (&reading.fetched, &reading.fetched_for) {
                    (None, _) => &entry.start,
                    // Before the period, or by no start.
                    (Some(fetched), _) if first.is_some_and(|first| *fetched < first) => return None,
                    (Some(_), start) => start.as_ref()?,
                };
                Some(((start.as_str(), reading.item.as_deref()?), reading))
            })
            .collect();
        for (key, reading) in items {
            match requests.get(&key).map(Vec::as_slice) {
                None => differences.push(Difference::OursAlone {
                    time: entry.time,
                    start: entry.start.clone(),
                    container: entry.container.clone(),
                    item: key.1.to_owned(),
                }),
                // More than one request: it was retried, or also fetched a file.
                Some(requests) => {
                    matched.insert(key);
                    match other_version(entry, key.1, reading.item_version, requests) {
                        None => agreed += 1,
                        Some(difference) => differences.push(difference),
                    }
                }
            }
        }
    }
    for refused in entries.iter().filter(|entry| entry.refusal.is_some() && !entry.start.is_empty()) {
        let of_it = requests.keys().filter(|(start, _)| *start == refused.start);
        agreed += of_it.filter(|key| matched.insert(**key)).count();
    }
    requests.retain(|key, _| !matched.contains(key));
    let alone = |seen: &Seen| Difference::TheirsAlone {
        time: seen.timestamp,
        user_agent: seen.actor.user_agent.clone(),
        ip: seen.actor.request_ip.clone(),
        item: seen.resource.item.as_ref().map(|item| item.id.clone()).unwrap_or_default(),
        request: seen.request_id.clone(),
    };
    let (commands, others): (Vec<&Seen>, Vec<&Seen>) =
        requests.into_values().flatten().partition(|seen| seen.is_of_a_command());
    differences.extend(others.into_iter().map(alone));
    differences.sort_by_key(Difference::time);
    let mut commands: Vec<CommandRead> = commands.into_iter().map(CommandRead::of).collect();
    commands.sort_by_key(|read| read.time);
    Comparison { agreed, differences, commands }
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

impl CommandRead {
    fn of(seen: &Seen) -> CommandRead {
        CommandRead {
            time: seen.timestamp,
            user_agent: seen.actor.user_agent.clone(),
            ip: seen.actor.request_ip.clone(),
            item: seen.resource.item.as_ref().map(|item| item.id.clone()).unwrap_or_default(),
            request: seen.request_id.clone(),
        }
    }
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

    fn compared(entries: &[Entry], seen: &[Seen]) -> (usize, Vec<String>) {
        let comparison = compare(entries, seen, Some("ours"));
        (comparison.agreed, comparison.differences.iter().map(ToString::to_string).collect())
    }

    const OURS: &str = "oci-secrets/1 (start s1)";

    #[test]
    fn equal_readings_are_not_a_difference() {
        let none = Vec::<String>::new();
        let entries = [entry("s1", Some("i1"), false)];
        assert_eq!(compared(&entries, &[seen(OURS, "ours", "i1", json!(3))]), (1, none.clone()));
        assert_eq!(compared(&entries, &[seen(OURS, "ours", "i1", json!(null))]), (1, none.clone()));
        let twice = [seen(OURS, "ours", "i1", json!(3)), seen(OURS, "ours", "i1", json!(3))];
        assert_eq!(compared(&entries, &twice), (1, none.clone()));
        assert_eq!(compared(&[entry("s1", None, true)], &twice), (1, none.clone()), "a refused start may have read");
        assert_eq!(
            compared(&[], &[seen("curl/8", "others", "i1", json!(3))]),
            (0, none),
            "another token belongs to another client"
        );
    }

    /// A broker fetches once for several starts.
    #[test]
    fn a_reading_is_that_of_the_start_it_was_fetched_for() {
        let shared = |start: &str, fetched_for: &str, fetched: &str| {
            let mut entry = entry(start, Some("i1"), false);
            entry.secrets[0].fetched = Some(fetched.parse().unwrap());
            entry.secrets[0].fetched_for = Some(fetched_for.to_owned());
            entry
        };
        let (own, none) = (entry("s1", Some("i1"), false), Vec::<String>::new());
        let log = [seen(OURS, "ours", "i1", json!(3))];
        let after = "2026-05-04T10:00:01Z";
        let entries = [own.clone(), shared("s2", "s1", after), shared("s3", "s1", after)];
        assert_eq!(compared(&entries, &log), (3, none.clone()));
        // The start that fetched was refused.
        let entries = [entry("s1", None, true), shared("s2", "s1", after)];
        assert_eq!(compared(&entries, &log), (1, none.clone()));
        let (_, alone) = compared(&[own, shared("s2", "s9", after)], &log);
        assert_eq!(alone, ["2026-05-04T10:00:00Z start s2 of container c read item i1: Connect did not log it"]);
        let before = "2026-05-04T09:00:00Z";
        assert_eq!(compared(&[shared("s2", "s9", before)], &[]), (0, none), "before the period");
    }

    #[test]
    fn reads_by_commands_are_listed_and_not_a_difference() {
        let read = |user_agent: &str| compare(&[], &[seen(user_agent, "ours", "i1", json!(3))], Some("ours"));
        let comparison = read("oci-secrets/1");
        assert_eq!((comparison.differences.len(), comparison.commands.len()), (0, 1));
        assert_eq!(
            comparison.commands[0].to_string(),
            "2026-05-04T10:00:01Z \"oci-secrets/1\" at 127.0.0.1 read item i1: a command, which writes no record (request r)"
        );
        assert_eq!(read("oci-secrets-other/1").differences.len(), 1);
    }

    #[test]
    fn finds_differences_in_both_directions() {
        let (_, ours_alone) = compared(&[entry("s1", Some("i1"), false)], &[]);
        assert_eq!(ours_alone, ["2026-05-04T10:00:00Z start s1 of container c read item i1: Connect did not log it"]);
        let (_, version) = compared(&[entry("s1", Some("i1"), false)], &[seen(OURS, "ours", "i1", json!(4))]);
        assert_eq!(
            version,
            ["2026-05-04T10:00:00Z start s1 read item i1: version 3 in our record, 4 in Connect's log (request r)"]
        );
        for (agent, token) in [(OURS, "ours"), (OURS, "others"), ("curl/8", "ours")] {
            let (_, theirs) = compared(&[], &[seen(agent, token, "i1", json!(3))]);
            let expected =
                format!("2026-05-04T10:00:01Z {agent:?} at 127.0.0.1 read item i1: no record has it (request r)");
            assert_eq!(theirs, [expected]);
        }
        let other_item = compared(&[entry("s1", Some("i1"), false)], &[seen(OURS, "ours", "i2", json!(3))]);
        assert_eq!(other_item.1.len(), 2);
    }
}
