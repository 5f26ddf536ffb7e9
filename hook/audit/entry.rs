//! Records that are read again: which to show, and what Connect says of them.

use jiff::Timestamp;
use serde::Deserialize;

use crate::settings::Pattern;

/// A record, as far as it is shown. Keys that are not known are passed over: a newer version may have written it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Entry {
    /// When the start began.
    pub time: Timestamp,
    /// What became of it, as it is written: `delivered`, `break-glass`, `refused`.
    pub decision: String,
    /// The id of the start; records of the first version have none.
    #[serde(default)]
    pub start: String,
    /// The container's id.
    #[serde(default)]
    pub container: String,
    /// What was asked for.
    #[serde(default)]
    pub secrets: Vec<Reading>,
    /// Why it was refused.
    pub refusal: Option<Refusal>,
    /// How a token that stays the same was used.
    pub static_token: Option<StaticToken>,
}

/// How a token that stays the same was used.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct StaticToken {
    /// What was not expected.
    #[serde(default)]
    pub anomalies: Vec<Anomaly>,
}

/// Something that was not expected.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Anomaly {
    /// What, as a sentence.
    pub detail: String,
}

impl Entry {
    /// What was not expected about the use of a token that stays the same.
    pub fn anomalies(&self) -> impl Iterator<Item = &str> {
        self.static_token.iter().flat_map(|used| &used.anomalies).map(|anomaly| anomaly.detail.as_str())
    }
}

/// One reference that was asked for, and what was read for it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Reading {
    /// The file that it became.
    pub file: String,
    /// The reference.
    pub reference: String,
    /// The id of the item.
    pub item: Option<String>,
    /// The version of the item.
    pub item_version: Option<u64>,
    /// Whether it was kept for an emergency, so that nobody was asked.
    #[serde(default)]
    pub kept: bool,
}

/// Why a start was refused.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Refusal {
    /// The exit code.
    pub code: u8,
    /// The error.
    pub message: String,
}

/// Which records to show; what is absent chooses all.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// What the container's id begins with.
    pub container: Option<String>,
    /// A reference that was asked for.
    pub reference: Option<Pattern>,
    /// The decision, as it is written.
    pub decision: Option<String>,
    /// With something about a token that stays the same that was not expected.
    pub anomalies: bool,
    /// Not before.
    pub since: Option<Timestamp>,
    /// Before.
    pub until: Option<Timestamp>,
}

impl Filter {
    /// Whether a record is to be shown.
    pub fn matches(&self, entry: &Entry) -> bool {
        let asked_for = |pattern: &Pattern| entry.secrets.iter().any(|reading| pattern.matches(&reading.reference));
        self.container.as_ref().is_none_or(|id| entry.container.starts_with(id))
            && self.reference.as_ref().is_none_or(asked_for)
            && self.decision.as_ref().is_none_or(|decision| entry.decision == *decision)
            && (!self.anomalies || entry.anomalies().next().is_some())
            && self.since.is_none_or(|since| entry.time >= since)
            && self.until.is_none_or(|until| entry.time < until)
    }
}

/// What a line holds.
#[derive(Debug, PartialEq)]
pub enum Line {
    /// The record of a start.
    Start(Entry),
    /// Something else that belongs in an audit file: a mark, or a record of another kind.
    Other,
    /// Nothing at all.
    Empty,
    /// Nothing that can be read.
    Unreadable,
}

impl Line {
    /// Reads one line.
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
            (Ok(Object { decision: None, .. }), _) => Line::Other,
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
    fn reads_what_a_newer_version_wrote_and_no_fragment() {
        assert_eq!(entry().secrets[0].item_version, Some(3));
        assert_eq!(Line::parse(r#"{"schema":1,"time":"2026-05-04T10:00:00Z","mark":"begins"}"#), Line::Other);
        for fragment in
            [&RECORD[..40], " ", "1", r#"{"decision":"delivered"}"#, r#"{"schema":1,"decision":"delivered"}"#]
        {
            assert_eq!(Line::parse(fragment), Line::Unreadable, "{fragment}");
        }
    }

    #[test]
    fn every_part_of_a_filter_can_leave_a_record_out() {
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
