//! The records of starts: those of the broker in a file, and those that the hook writes to the system log by itself.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use super::victim::Victim;
use crate::support::journal::Journal;

/// The file of a broker, as far as it was read.
pub(super) struct Records {
    file: PathBuf,
    read: usize,
}

/// The records of one start.
pub(super) struct OfStart {
    /// Of the broker.
    pub(super) broker: Vec<Value>,
    /// Of the hook.
    pub(super) hook: Vec<Value>,
}

impl Records {
    pub(super) fn new(file: PathBuf) -> Records {
        Records { file, read: 0 }
    }

    /// All new records, and those of the hook whose files have this in their name.
    pub(super) fn of_start(&mut self, journal: &Journal, name: &str) -> OfStart {
        let text = fs::read_to_string(&self.file).unwrap_or_default();
        let new = &text[self.read..];
        self.read = text.len();
        let broker: Vec<Value> = new.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let broker: Vec<Value> = broker.into_iter().filter(|record: &Value| record.get("mark").is_none()).collect();
        let decided = |record: &Value| (record["start"].to_string(), record["decision"].to_string());
        let of_broker: BTreeSet<_> = broker.iter().map(decided).collect();
        let hook = journal.records(name).into_iter().filter(|record| !of_broker.contains(&decided(record)));
        OfStart { hook: hook.collect(), broker }
    }
}

impl OfStart {
    /// Returns what is wrong with the number of the records.
    ///
    /// `received`: how many starts the broker has received, if it still runs. `victim`: which process was killed.
    pub(super) fn fault(&self, received: Option<u64>, victim: Option<Victim>, has_run: bool) -> Option<String> {
        let (broker, hook) = (self.broker.len(), self.hook.len());
        let starts: BTreeSet<String> =
            self.broker.iter().chain(&self.hook).map(|record| record["start"].to_string()).collect();
        let is_delivered = broker == 1 && hook == 0 && self.broker[0]["decision"] == "delivered";
        let is_right = match received {
            // What was received has one record, and the hook writes none of it.
            Some(received) => broker as u64 == received && broker + hook <= 1,
            // A start of a broker that was killed can have a record of each.
            None => broker <= 1 && hook <= 1 && broker + hook >= 1,
        };
        let is_right = is_right && starts.len() <= 1 && (is_delivered || (victim.is_some() && !has_run));
        (!is_right).then(|| format!("{received:?} received, run: {has_run}: {:?} {:?}", self.broker, self.hook))
    }
}
