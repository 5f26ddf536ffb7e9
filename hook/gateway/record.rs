//! The audit trail: one line of JSON for every decision.
//!
//! A record has the identity, the operation and the grounds of the decision; never a token, a secret, or what is out of scope.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Instant;

use serde::Serialize;

use super::denial::Denial;
use super::log::PROGRAM;
use super::route::Route;
use crate::audit::append_line;
use crate::excerpt::EXCERPT_CHARS_MAX;
use crate::settings::FileError;
use crate::settings::file;
use crate::syslog::{self, Severity};

/// The version of the format, which `config/gateway-audit.schema.json` describes.
const SCHEMA: u8 = 1;

/// The most members of a claim that is a list.
const MEMBERS_MAX: usize = 16;

/// The record of one request. It is filled step by step, so that the record of a refusal shows how far the request came.
#[derive(Serialize)]
pub struct Record {
    schema: u8,
    /// RFC 3339, UTC.
    time: String,
    decision: Decision,
    /// Why a request is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    status: u16,
    peer: SocketAddr,
    method: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    action: Option<&'static str>,
    /// The path, if it is not part of the API.
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vault: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    item: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    item_version: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    /// The value of the filter on a list.
    #[serde(skip_serializing_if = "Option::is_none")]
    filter: Option<String>,
    /// The number of entries in the response.
    #[serde(skip_serializing_if = "Option::is_none")]
    entries: Option<usize>,
    /// Whether the token was verified. If not, issuer, subject and claims are unproven.
    verified: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    issuer: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<String>,
    /// The token's `jti`.
    #[serde(skip_serializing_if = "Option::is_none")]
    token_id: Option<String>,
    /// The rules that admit the identity.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    rules: Vec<String>,
    /// The claims that rules of the issuer require.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    claims: BTreeMap<String, Claim>,
    milliseconds: f64,
    #[serde(skip)]
    begin: Instant,
}

#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum Decision {
    Allowed,
    Denied,
}

/// The value of a claim, or members of a list.
#[derive(Serialize)]
#[serde(untagged)]
enum Claim {
    One(String),
    Several(Vec<String>),
}

impl Record {
    /// Begins a record, and its clock.
    pub fn begin(peer: SocketAddr, method: &str) -> Record {
        Record {
            schema: SCHEMA,
            time: jiff::Timestamp::now().to_string(),
            decision: Decision::Denied,
            reason: None,
            status: 0,
            peer,
            method: excerpt(method),
            action: None,
            path: None,
            vault: None,
            item: None,
            item_version: None,
            file: None,
            filter: None,
            entries: None,
            verified: false,
            issuer: None,
            subject: None,
            token_id: None,
            rules: Vec::new(),
            claims: BTreeMap::new(),
            milliseconds: 0.0,
            begin: Instant::now(),
        }
    }

    /// Sets a path that is not part of the API.
    pub fn path(&mut self, path: &str) {
        self.path = Some(excerpt(path));
    }

    /// Sets the operation and the ids in the path.
    pub fn route(&mut self, route: &Route) {
        self.action = Some(route.action());
        [self.vault, self.item, self.file] = route.ids().map(|id| id.map(str::to_owned));
    }

    /// Sets the value of the filter on a list.
    pub fn filter(&mut self, value: &str) {
        self.filter = Some(excerpt(value));
    }

    /// Sets the number of entries in the response.
    pub fn entries(&mut self, count: usize) {
        self.entries = Some(count);
    }

    /// Sets the version of the item.
    pub fn item_version(&mut self, version: Option<u64>) {
        self.item_version = version;
    }

    /// Sets issuer and subject as the token states them.
    pub fn claimed(&mut self, issuer: &str, subject: &str) {
        self.issuer = Some(excerpt(issuer));
        self.subject = Some(excerpt(subject));
    }

    /// Adds a claim that rules of the issuer require.
    pub fn claim(&mut self, name: &str, texts: &[String]) {
        let claim = match texts {
            [] => return,
            [text] => Claim::One(excerpt(text)),
            texts => Claim::Several(texts.iter().take(MEMBERS_MAX).map(|text| excerpt(text)).collect()),
        };
        self.claims.insert(name.to_owned(), claim);
    }

    /// Marks issuer, subject and claims as verified.
    pub fn verified(&mut self, token_id: Option<&str>) {
        self.verified = true;
        self.token_id = token_id.map(excerpt);
    }

    /// Notes a rule that admits the identity, and the parts of the claims that it requires.
    pub fn rule(&mut self, name: &str, matching: BTreeMap<String, Vec<String>>) {
        self.rules.push(name.to_owned());
        matching.iter().for_each(|(claim, texts)| self.claim(claim, texts));
    }

    /// Sets the decision.
    pub fn end(&mut self, outcome: Result<(), &Denial>) {
        let (decision, reason, status) = match outcome {
            Ok(()) => (Decision::Allowed, None, 200),
            Err(denial) => (Decision::Denied, Some(denial.reason()), denial.status()),
        };
        (self.decision, self.reason, self.status) = (decision, reason, status);
        self.milliseconds = (self.begin.elapsed().as_secs_f64() * 1e6).round() / 1e3;
    }

    /// Whether the token was verified.
    pub fn is_verified(&self) -> bool {
        self.verified
    }

    /// The address of the client.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// The time since the beginning, in seconds.
    pub fn seconds(&self) -> f64 {
        self.begin.elapsed().as_secs_f64()
    }
}

/// Where records go: the system log, and standard output and a file if the settings name them.
pub struct Trail {
    stdout: bool,
    file: Option<File>,
}

impl Trail {
    /// Opens the file, or creates it with mode 0600.
    ///
    /// # Errors
    /// If the file cannot be opened.
    pub fn open(path: Option<&Path>, stdout: bool) -> Result<Trail, FileError> {
        Ok(Trail { stdout, file: path.map(file::append).transpose()? })
    }

    /// Writes one record as one line. If an interrupted write has left part of a line in the file, that part stays a line of its own.
    ///
    /// # Errors
    /// If the file or standard output cannot be written. The request must then be refused.
    pub fn write(&self, record: &Record) -> io::Result<()> {
        let line = serde_json::to_string(record)?;
        syslog::log(Severity::Info, PROGRAM, &line, &[]);
        if self.stdout {
            let mut stdout = io::stdout().lock();
            stdout.write_all(format!("{line}\n").as_bytes())?;
            stdout.flush()?;
        }
        match &self.file {
            Some(file) => append_line(file, &line),
            None => Ok(()),
        }
    }
}

/// External text, cut. JSON escapes it.
fn excerpt(text: &str) -> String {
    text.chars().take(EXCERPT_CHARS_MAX).collect()
}
