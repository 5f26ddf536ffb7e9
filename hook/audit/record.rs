//! The record of one container start.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use serde::Serialize;

use super::AuditError;
use super::recorded::Recorded;
use crate::container::{Pod, Request};
use crate::fault::Fault;
use crate::hex::random_id;
use crate::report;
use crate::resolve::Resolved;
use crate::source::Earlier;
use crate::syslog::{CONTAINER, Field};
use crate::token::static_token::Use;

/// The version of the record's format.
pub(super) const SCHEMA: u8 = 1;

/// The largest record. With its link it fits the window in which the last line of a chain is searched.
const RECORD_BYTES_MAX: usize = 1024 * 1024 - 4096;

/// The longest message in a refusal.
const MESSAGE_BYTES_MAX: usize = 4096;

/// The journal's field for unexpected uses of a static token, by their kind.
const ANOMALY: &str = "OCI_SECRETS_ANOMALY";

/// The record of one start. It is filled during the start, so that the record of a refusal shows which phases were reached.
#[derive(Serialize)]
pub struct Record {
    /// The program that logs it.
    #[serde(skip)]
    pub program: &'static str,
    schema: u8,
    /// RFC 3339, UTC.
    time: String,
    decision: Decision,
    /// A random id. It is in the `User-Agent` of every request, so that 1Password Connect also logs it.
    pub start: String,
    /// The container's id.
    pub container: String,
    /// The bundle's directory.
    pub bundle: PathBuf,
    /// The annotations that the grants depended on.
    pub annotations: BTreeMap<String, String>,
    /// The pod of the container, if it is known otherwise than from annotations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<Pod>,
    /// The emergency, if some secrets came from one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub emergency: Option<String>,
    /// The update that it is of, if it is not of a start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub update: Option<Update>,
    /// Why files are removed, if it is of that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub withdrawal: Option<Withdrawal>,
    /// How a static token was used, if the settings have conditions for that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub static_token: Option<Use>,
    secrets: Vec<Reading>,
    /// The number of secrets that are omitted because the record of a refusal would be too large.
    #[serde(skip_serializing_if = "Option::is_none")]
    omitted: Option<usize>,
    /// The exit code and the error of a refusal.
    #[serde(skip_serializing_if = "Option::is_none")]
    refusal: Option<Refusal>,
    /// Milliseconds of each phase that was reached.
    milliseconds: BTreeMap<&'static str, f64>,
    #[serde(skip)]
    lap: Instant,
}

/// An update of a running container.
#[derive(Clone, Serialize)]
pub struct Update {
    /// The id of the container's start.
    pub of: String,
    /// The number of the container's set of files, from 1 for that of the start: the new one, or after a failure the one that stays.
    pub generation: u64,
}

/// Why files of a running container are removed.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "cause", rename_all = "kebab-case")]
pub enum Withdrawal {
    /// The operator has revoked them.
    Revoked {
        /// Why, in the operator's words.
        reason: String,
    },
    /// The time of `run.secrets.withdraw` is over.
    Time,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
enum Decision {
    /// Files of a running container were removed.
    Withdrawn,
    /// They could not be removed.
    NotWithdrawn,
    /// A running container got new files.
    Updated,
    /// The files of a running container are the same as before.
    Unchanged,
    /// A running container keeps its files, because there are no new ones.
    NotUpdated,
    Delivered,
    /// Delivered, and some secrets came from an emergency.
    BreakGlass,
    Refused,
}

/// One request, and what was read for it. A missing optional one has no item.
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
    /// Whether it came from an emergency.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    kept: bool,
    /// When the source returned the value, if it was not fetched for this start.
    #[serde(skip_serializing_if = "Option::is_none")]
    fetched: Option<String>,
    /// The start that it was fetched for.
    #[serde(skip_serializing_if = "Option::is_none")]
    fetched_for: Option<String>,
    /// Whether it was used because the source did not answer.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    outage: bool,
    /// Whether its file is left out because it is revoked.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    revoked: bool,
}

#[derive(Serialize)]
struct Refusal {
    code: u8,
    message: String,
}

impl Record {
    /// Begins the record of a program, and starts its clock.
    pub fn begin(program: &'static str) -> Record {
        Record {
            program,
            schema: SCHEMA,
            time: jiff::Timestamp::now().to_string(),
            decision: Decision::Refused,
            start: random_id(),
            container: String::new(),
            bundle: PathBuf::new(),
            annotations: BTreeMap::new(),
            pod: None,
            emergency: None,
            update: None,
            withdrawal: None,
            static_token: None,
            secrets: Vec::new(),
            omitted: None,
            refusal: None,
            milliseconds: BTreeMap::new(),
            lap: Instant::now(),
        }
    }

    /// Adds the container's requests.
    pub fn requests(&mut self, requests: &[Request]) {
        let reading = |request: &Request| Reading {
            file: request.file.to_string(),
            reference: request.reference.to_string(),
            item: None,
            item_version: None,
            kek: None,
            kek_version: None,
            kept: false,
            fetched: None,
            fetched_for: None,
            outage: false,
            revoked: false,
        };
        self.secrets = requests.iter().map(reading).collect();
    }

    /// Adds the items that were read.
    pub fn resolved(&mut self, resolved: &[Resolved<'_>]) {
        for secret in resolved {
            let (file, reference) = (secret.request.file.as_str(), secret.request.reference.to_string());
            // A file that is rendered from a template has several references.
            let is_of = |reading: &&mut Reading| reading.file == file && reading.reference == reference;
            if let Some(reading) = self.secrets.iter_mut().find(is_of) {
                reading.item = secret.item_id.clone();
                reading.item_version = secret.item_version;
                reading.kek = secret.kek.as_ref().map(ToString::to_string);
                reading.kek_version = secret.kek_version.clone();
                reading.kept = secret.kept;
                if let Some(Earlier { fetched, start, outage }) = &secret.earlier {
                    reading.fetched = Some(fetched.to_string());
                    reading.fetched_for = start.clone();
                    reading.outage = *outage;
                }
            }
        }
    }

    /// Notes which references are revoked, so that their files are left out.
    pub fn revoked(&mut self, is_revoked: impl Fn(&str) -> bool) {
        for reading in &mut self.secrets {
            reading.revoked = is_revoked(&reading.reference);
        }
    }

    /// Adds the duration of the phase that ends here.
    pub fn phase_ends(&mut self, name: &'static str) {
        let now = Instant::now();
        let milliseconds = (now - self.lap).as_secs_f64() * 1e3;
        self.milliseconds.insert(name, (milliseconds * 1e3).round() / 1e3);
        self.lap = now;
    }

    /// Sets the decision: files of a running container were removed.
    pub fn withdrawn(&mut self) {
        self.decision = Decision::Withdrawn;
    }

    /// Sets the decision: the secrets were delivered.
    pub fn delivered(&mut self) {
        let is_kept = self.secrets.iter().any(|reading| reading.kept);
        self.decision = if is_kept { Decision::BreakGlass } else { Decision::Delivered };
    }

    /// Sets the decision: a running container gets new files, or those that it has are the same.
    pub fn updated(&mut self, has_changed: bool) {
        self.decision = if has_changed { Decision::Updated } else { Decision::Unchanged };
    }

    /// Sets the decision: the start, or the update, was refused, and why.
    pub fn refused(&mut self, error: &dyn Fault) {
        let (code, mut message) = (error.class() as u8, report::chain(error));
        message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX));
        self.decision = match (&self.update, &self.withdrawal) {
            (_, Some(_)) => Decision::NotWithdrawn,
            (Some(_), None) => Decision::NotUpdated,
            (None, None) => Decision::Refused,
        };
        self.refusal = Some(Refusal { code, message });
        if matches!(self.line(), Err(AuditError::TooLarge { .. })) {
            self.omitted = Some(self.secrets.len());
            (self.secrets, self.annotations, self.pod) = (Vec::new(), BTreeMap::new(), None);
            self.bundle = PathBuf::new();
        }
    }
}

impl Recorded for Record {
    fn program(&self) -> &'static str {
        self.program
    }

    fn line(&self) -> Result<String, AuditError> {
        let line = serde_json::to_string(self).map_err(|source| AuditError::Encode { source })?;
        match line.len() {
            ..=RECORD_BYTES_MAX => Ok(line),
            _ => Err(AuditError::TooLarge { limit: RECORD_BYTES_MAX }),
        }
    }

    fn fields(&self) -> Vec<Field<'_>> {
        let decision = match self.decision {
            Decision::Withdrawn => "withdrawn",
            Decision::NotWithdrawn => "not-withdrawn",
            Decision::Updated => "updated",
            Decision::Unchanged => "unchanged",
            Decision::NotUpdated => "not-updated",
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
        one.into_iter().chain(anomalies).chain(references).map(|(name, value)| Field { name, value }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requests(count: usize, reference: &str) -> Vec<Request> {
        let request = |number: usize| Request {
            file: format!("secret-{number}").parse().unwrap(),
            reference: reference.parse().unwrap(),
            optional: true,
        };
        (0..count).map(request).collect()
    }

    #[test]
    fn a_record_that_is_too_large_is_refused_and_the_refusal_fits() {
        let mut record = Record::begin("test");
        record.requests(&requests(1024, "op://AgentVault/db/password"));
        record.delivered();
        assert!(record.line().is_ok());
        let long = format!("op://{0}/{0}/{0}/{0}", "v".repeat(256));
        record.requests(&requests(1024, &long));
        let error = record.line().unwrap_err();
        assert!(matches!(error, AuditError::TooLarge { .. }));
        record.refused(&AuditError::Write { path: "ü".repeat(10_000).into(), errno: rustix::io::Errno::NOSPC.into() });
        assert!(record.line().unwrap().contains("\"omitted\":1024"));
    }
}
