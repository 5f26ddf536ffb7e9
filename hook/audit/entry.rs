//! Parses records of starts and of break-glass.

use jiff::Timestamp;
use serde::Deserialize;

use crate::settings::Pattern;

/// The record of a start, with the fields that are shown. Unknown keys are ignored: a newer version may have written it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Entry {
    /// When the start began.
    pub time: Timestamp,
    /// The decision: `delivered`, `break-glass`, `refused`.
    pub decision: String,
    /// The id of the start. Records of the first version have none.
    #[serde(default)]
    pub start: String,
    /// The container's id.
    #[serde(default)]
    pub container: String,
    /// The requests.
    #[serde(default)]
    pub secrets: Vec<Reading>,
    /// Why it was refused.
    pub refusal: Option<Refusal>,
    /// How a static token was used.
    pub static_token: Option<StaticToken>,
}

/// The use of a static token.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct StaticToken {
    /// What was unexpected.
    #[serde(default)]
    pub anomalies: Vec<Anomaly>,
}

/// One unexpected property of a use.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Anomaly {
    /// The description.
    pub detail: String,
}

impl Entry {
    /// What was unexpected about the use of a static token.
    pub fn anomalies(&self) -> impl Iterator<Item = &str> {
        self.static_token.iter().flat_map(|used| &used.anomalies).map(|anomaly| anomaly.detail.as_str())
    }
}

/// One request, and what was read for it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Reading {
    /// The name of the file.
    pub file: String,
    /// The reference.
    pub reference: String,
    /// The id of the item.
    pub item: Option<String>,
    /// The version of the item.
    pub item_version: Option<u64>,
    /// Whether it came from an emergency.
    #[serde(default)]
    pub kept: bool,
    /// When the source returned the value, if it was not fetched for this start.
    pub fetched: Option<Timestamp>,
    /// The start that it was fetched for.
    pub fetched_for: Option<String>,
    /// Whether it was used because the source did not answer.
    #[serde(default)]
    pub outage: bool,
}

/// The record of an action of break-glass, with the fields that are shown.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Act {
    /// When it was recorded.
    pub time: Timestamp,
    /// `open`, `use`, `close`, `rotated`, `waive` or `drill`.
    pub event: String,
    /// The id of the emergency.
    pub emergency: Option<String>,
    /// The container that got secrets.
    pub container: Option<String>,
    /// Why, in the operator's words.
    pub reason: Option<String>,
    /// The ticket.
    pub ticket: Option<String>,
    /// The operators.
    #[serde(default)]
    pub operators: Vec<String>,
    /// When the emergency ends.
    pub until: Option<Timestamp>,
    /// Why the source or the KMS could not resolve secrets.
    pub cause: Option<String>,
    /// Whether the duration of the emergency had elapsed.
    #[serde(default)]
    pub expired: bool,
    /// Whether another process ended the emergency.
    #[serde(default)]
    pub tampered: bool,
    /// The reference of a single secret.
    pub reference: Option<String>,
    /// The secrets, or the number of those in a file.
    secrets: Option<Secrets>,
    /// The number of secrets that have another version in 1Password.
    pub stale: Option<u64>,
    /// Why a drill failed.
    pub failure: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged)]
enum Secrets {
    Kept(Vec<Kept>),
    Count(u64),
}

/// A secret of a sealed file.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Kept {
    /// The reference.
    pub reference: String,
    /// The item's version when it was sealed.
    pub version: Option<u64>,
}

impl Act {
    /// The secrets that it lists.
    pub fn secrets(&self) -> &[Kept] {
        match &self.secrets {
            Some(Secrets::Kept(kept)) => kept,
            _ => &[],
        }
    }

    /// The number of secrets in the file of a drill.
    pub fn count(&self) -> Option<u64> {
        match self.secrets {
            Some(Secrets::Count(count)) => Some(count),
            _ => None,
        }
    }
}

/// Why a start was refused.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Refusal {
    /// The exit code.
    pub code: u8,
    /// The error.
    pub message: String,
}

/// Selects records. An absent field matches all.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// The beginning of the container's id.
    pub container: Option<String>,
    /// A requested reference.
    pub reference: Option<Pattern>,
    /// The decision of a start, or the event of break-glass.
    pub decision: Option<String>,
    /// With an unexpected use of a static token.
    pub anomalies: bool,
    /// Not before.
    pub since: Option<Timestamp>,
    /// Before.
    pub until: Option<Timestamp>,
}

impl Filter {
    /// Whether the filter matches an action of break-glass.
    pub fn matches_act(&self, act: &Act) -> bool {
        let references = || act.reference.iter().chain(act.secrets().iter().map(|kept| &kept.reference));
        self.container.as_ref().is_none_or(|id| act.container.as_ref().is_some_and(|whole| whole.starts_with(id)))
            && self.reference.as_ref().is_none_or(|pattern| references().any(|reference| pattern.matches(reference)))
            && self.decision.as_ref().is_none_or(|decision| act.event == *decision)
            && !self.anomalies
            && self.is_in_time(act.time)
    }

    fn is_in_time(&self, time: Timestamp) -> bool {
        self.since.is_none_or(|since| time >= since) && self.until.is_none_or(|until| time < until)
    }

    /// Whether the filter matches the record of a start.
    pub fn matches(&self, entry: &Entry) -> bool {
        let has_request = |pattern: &Pattern| entry.secrets.iter().any(|reading| pattern.matches(&reading.reference));
        self.container.as_ref().is_none_or(|id| entry.container.starts_with(id))
            && self.reference.as_ref().is_none_or(has_request)
            && self.decision.as_ref().is_none_or(|decision| entry.decision == *decision)
            && (!self.anomalies || entry.anomalies().next().is_some())
            && self.is_in_time(entry.time)
    }
}

/// The content of a line.
#[derive(Debug, PartialEq)]
pub enum Line {
    /// The record of a start.
    Start(Entry),
    /// The record of an action of break-glass.
    Act(Act),
    /// A mark, or a record of another kind.
    Other,
    /// An empty line.
    Empty,
    /// No record.
    Unreadable,
}

impl Line {
    /// Parses one line.
    pub fn parse(text: &str) -> Line {
        #[derive(Deserialize)]
        struct Object {
            #[serde(rename = "schema")]
            _schema: u64,
            decision: Option<String>,
        }
        match (serde_json::from_str::<Object>(text), serde_json::from_str(text)) {
            _ if text.is_empty() => Line::Empty,
            (_, Ok(entry)) => Line::Start(entry),
            (Ok(Object { decision: None, .. }), _) => serde_json::from_str(text).map_or(Line::Other, Line::Act),
            _ => Line::Unreadable,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORD: &str = r#"{"schema":1,"time":"2026-05-04T10:00:00Z","decision":"delivered","start":"01","container":"4f2a",
        "bundle":"/b","secrets":[{"file":"a","reference":"op://Vault/item/field","item":"i","item_version":3}],
        "static_token":{"anomalies":[{"kind":"new","detail":"d"}]},"new":{}}"#;

    fn entry() -> Entry {
        match Line::parse(RECORD) {
            Line::Start(entry) => entry,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn parses_records_of_newer_versions_and_rejects_fragments() {
        assert_eq!(entry().secrets[0].item_version, Some(3));
        assert_eq!(Line::parse(r#"{"schema":1,"time":"2026-05-04T10:00:00Z","mark":"begins"}"#), Line::Other);
        for fragment in
            [&RECORD[..40], " ", "1", r#"{"decision":"delivered"}"#, r#"{"schema":1,"decision":"delivered"}"#]
        {
            assert_eq!(Line::parse(fragment), Line::Unreadable, "{fragment}");
        }
    }

    #[test]
    fn parses_an_action_of_break_glass() {
        let act = |text: &str| match Line::parse(text) {
            Line::Act(act) => act,
            other => panic!("{other:?}"),
        };
        let used = act(
            r#"{"schema":1,"time":"2026-05-04T10:00:00Z","host":"h","event":"use","emergency":"0123456789ab","container":"4f2a",
            "secrets":[{"reference":"op://Vault/item/field","item":"i","version":3}],"cause":"c"}"#,
        );
        assert_eq!((used.event.as_str(), used.secrets()[0].version), ("use", Some(3)));
        let drill = act(r#"{"schema":1,"time":"2026-05-04T10:00:00Z","event":"drill","secrets":2,"stale":1}"#);
        assert_eq!((drill.count(), drill.stale), (Some(2), Some(1)));
        let chosen = Filter { container: Some("4f".into()), decision: Some("use".into()), ..Filter::default() };
        assert!(chosen.matches_act(&used) && !chosen.matches_act(&drill));
        let pattern = Pattern::try_from("op://Other/*".to_owned()).unwrap();
        assert!(!Filter { reference: Some(pattern), ..Filter::default() }.matches_act(&used));
        assert!(!Filter { anomalies: true, ..Filter::default() }.matches_act(&used));
    }

    #[test]
    fn every_field_of_a_filter_can_exclude_a_record() {
        let (entry, none) = (entry(), Filter::default());
        assert!(none.matches(&entry));
        let pattern = |text: &str| Some(Pattern::try_from(text.to_owned()).unwrap());
        let time = |text: &str| Some(text.parse().unwrap());
        let (hit, miss) = ("2026-05-04T10:00:00Z", "2026-05-04T10:00:01Z");
        for (chosen, left_out) in [
            (
                Filter { container: Some("4f".into()), ..none.clone() },
                Filter { container: Some("f2".into()), ..none.clone() },
            ),
            (
                Filter { reference: pattern("op://Vault/*"), ..none.clone() },
                Filter { reference: pattern("op://Other/*"), ..none.clone() },
            ),
            (
                Filter { decision: Some("delivered".into()), ..none.clone() },
                Filter { decision: Some("refused".into()), ..none.clone() },
            ),
            (Filter { since: time(hit), ..none.clone() }, Filter { since: time(miss), ..none.clone() }),
            (Filter { until: time(miss), ..none.clone() }, Filter { until: time(hit), ..none.clone() }),
        ] {
            assert!(chosen.matches(&entry), "{chosen:?}");
            assert!(!left_out.matches(&entry), "{left_out:?}");
        }
        let odd = Filter { anomalies: true, ..none };
        assert!(odd.matches(&entry));
        for as_expected in [None, Some(StaticToken { anomalies: Vec::new() })] {
            assert!(!odd.matches(&Entry { static_token: as_expected, ..entry.clone() }));
        }
    }
}
