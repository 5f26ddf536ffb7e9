//! One record: what is known of one start.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use serde::Serialize;

use crate::container::Request;
use crate::fault::Fault;
use crate::report;
use crate::resolve::Resolved;
use crate::syslog::{CONTAINER, Field};
use crate::token::static_token::Use;

/// The version of the record's shape.
pub(super) const SCHEMA: u8 = 1;

/// The field by which the journal finds uses of a static token that were not expected, by the kind of what was odd.
const ANOMALY: &str = "OCI_SECRETS_ANOMALY";

/// What is known of one start. It is filled as the start goes on, so that a refusal tells how far it came.
#[derive(Serialize)]
pub struct Record {
    schema: u8,
    /// RFC 3339, UTC.
    time: String,
    decision: Decision,
    /// Tells this start from all others. 1Password Connect knows it, too: it is in the `User-Agent` of every request.
    pub start: String,
    /// The container's id.
    pub container: String,
    /// The bundle's directory.
    pub bundle: PathBuf,
    /// The annotations by which grants chose this container.
    pub annotations: BTreeMap<String, String>,
    /// The emergency that secrets were kept for, if some came from it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub emergency: Option<String>,
    /// How a token was used that stays the same, if the settings have conditions for that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub static_token: Option<Use>,
    secrets: Vec<Reading>,
    /// The error and its exit code, if it was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    refusal: Option<Refusal>,
    /// Milliseconds per phase, for those that were reached.
    milliseconds: BTreeMap<&'static str, f64>,
    #[serde(skip)]
    lap: Instant,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
enum Decision {
    Delivered,
    /// Delivered, and some secrets were kept for an emergency.
    BreakGlass,
    Refused,
}

/// One reference that was asked for, and what was read for it. Optional ones that are missing have no item.
#[derive(Serialize)]
struct Reading {
    file: String,
    reference: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    item: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    item_version: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kek: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kek_version: Option<String>,
    /// Whether it was kept for an emergency, as nobody could be asked.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    kept: bool,
}

#[derive(Serialize)]
struct Refusal {
    code: u8,
    message: String,
}

impl Record {
    /// Begins the record, and its clock.
    pub fn begin() -> Record {
        Record {
            schema: SCHEMA,
            time: jiff::Timestamp::now().to_string(),
            decision: Decision::Refused,
            start: format!("{:016x}", fastrand::u64(..)),
            container: String::new(),
            bundle: PathBuf::new(),
            annotations: BTreeMap::new(),
            emergency: None,
            static_token: None,
            secrets: Vec::new(),
            refusal: None,
            milliseconds: BTreeMap::new(),
            lap: Instant::now(),
        }
    }

    /// Notes what the container asks for.
    pub fn requests(&mut self, requests: &[Request]) {
        let reading = |request: &Request| Reading {
            file: request.file.to_string(),
            reference: request.reference.to_string(),
            item: None,
            item_version: None,
            kek: None,
            kek_version: None,
            kept: false,
        };
        self.secrets = requests.iter().map(reading).collect();
    }

    /// Notes what was read for it.
    pub fn resolved(&mut self, resolved: &[Resolved<'_>]) {
        for secret in resolved {
            let file = secret.request.file.to_string();
            if let Some(reading) = self.secrets.iter_mut().find(|reading| reading.file == file) {
                reading.item = secret.item_id.clone();
                reading.item_version = secret.item_version;
                reading.kek = secret.kek.as_ref().map(ToString::to_string);
                reading.kek_version = secret.kek_version.clone();
                reading.kept = secret.kept;
            }
        }
    }

    /// Notes how long the phase that ends here took.
    pub fn phase_ends(&mut self, name: &'static str) {
        let now = Instant::now();
        let milliseconds = (now - self.lap).as_secs_f64() * 1e3;
        self.milliseconds.insert(name, (milliseconds * 1e3).round() / 1e3);
        self.lap = now;
    }

    /// What the journal shall find the record by.
    pub(super) fn fields(&self) -> Vec<Field<'_>> {
        let decision = match self.decision {
            Decision::Delivered => "delivered",
            Decision::BreakGlass => "break-glass",
            Decision::Refused => "refused",
        };
        let one = [
            (CONTAINER, self.container.as_str()),
            ("OCI_SECRETS_DECISION", decision),
            ("OCI_SECRETS_START", &self.start),
        ];
        let references = self.secrets.iter().map(|reading| ("OCI_SECRETS_REFERENCE", reading.reference.as_str()));
        let anomalies = self.static_token.iter().flat_map(Use::anomalies).map(|anomaly| (ANOMALY, anomaly.kind()));
        one.into_iter().chain(references).chain(anomalies).map(|(name, value)| Field { name, value }).collect()
    }

    /// Decides that the container has its secrets.
    pub fn delivered(&mut self) {
        let is_kept = self.secrets.iter().any(|reading| reading.kept);
        self.decision = if is_kept { Decision::BreakGlass } else { Decision::Delivered };
    }

    /// Decides that it does not, for this reason.
    pub fn refused(&mut self, error: &dyn Fault) {
        self.decision = Decision::Refused;
        self.refusal = Some(Refusal { code: error.class() as u8, message: report::chain(error) });
    }
}
