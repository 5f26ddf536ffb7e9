//! The audit trail: one line of JSON for every decision.
//!
//! It tells who asked for what and on which grounds it was decided; never a token, a value, or what was left out of an answer.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Instant;

use serde::Serialize;

use super::PROGRAM;
use super::denial::Denial;
use super::route::Route;
use crate::excerpt::EXCERPT_CHARS_MAX;
use crate::settings::FileError;
use crate::settings::file;
use crate::syslog::{self, Severity};

/// The version of the record's shape, which `config/gateway-audit.schema.json` describes.
const SCHEMA: u8 = 1;

/// The most that is told of a claim that is a list, and that no rule admits.
const MEMBERS_MAX: usize = 16;

/// What is known of one request. It is filled as the request goes on, so that a refusal tells how far it came.
#[derive(Serialize)]
pub struct Record {
    schema: u8,
    /// RFC 3339, UTC.
    time: String,
    decision: Decision,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    status: u16,
    peer: SocketAddr,
    method: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    action: Option<&'static str>,
    /// The path, where nothing could be made of it.
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
    /// What a list was filtered by.
    #[serde(skip_serializing_if = "Option::is_none")]
    filter: Option<String>,
    /// How many entries a list had in the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    entries: Option<usize>,
    /// Whether the token was verified; without, issuer, subject and claims are what it says of itself.
    verified: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    issuer: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<String>,
    /// The token's `jti`, by which its issuer knows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    token_id: Option<String>,
    /// The rules that admit the identity.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    rules: Vec<String>,
    /// The claims that any rule of the issuer looks at.
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

/// What a claim says: by which member a list was admitted, or what it has.
#[derive(Serialize)]
#[serde(untagged)]
enum Claim {
    One(String),
    Several(Vec<String>),
}

impl Record {
    /// Begins the record, and its clock.
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

    /// Notes a path that leads nowhere.
    pub fn path(&mut self, path: &str) {
        self.path = Some(excerpt(path));
    }

    /// Notes what is asked for.
    pub fn route(&mut self, route: &Route) {
        self.action = Some(route.action());
        [self.vault, self.item, self.file] = route.ids().map(|id| id.map(str::to_owned));
    }

    /// Notes what a list is filtered by.
    pub fn filter(&mut self, value: &str) {
        self.filter = Some(excerpt(value));
    }

    /// Notes how much a list has.
    pub fn entries(&mut self, count: usize) {
        self.entries = Some(count);
    }

    /// Notes the version of an item.
    pub fn item_version(&mut self, version: Option<u64>) {
        self.item_version = version;
    }

    /// Notes who a token says that it is about.
    pub fn claimed(&mut self, issuer: &str, subject: &str) {
        self.issuer = Some(excerpt(issuer));
        self.subject = Some(excerpt(subject));
    }

    /// Notes what it says that a rule looks at.
    pub fn claim(&mut self, name: &str, texts: &[String]) {
        let claim = match texts {
            [] => return,
            [text] => Claim::One(excerpt(text)),
            texts => Claim::Several(texts.iter().take(MEMBERS_MAX).map(|text| excerpt(text)).collect()),
        };
        self.claims.insert(name.to_owned(), claim);
    }

    /// Notes that it is so.
    pub fn verified(&mut self, token_id: Option<&str>) {
        self.verified = true;
        self.token_id = token_id.map(excerpt);
    }

    /// Notes a rule that admits the identity, and by what.
    pub fn rule(&mut self, name: &str, claims: BTreeMap<String, String>) {
        self.rules.push(name.to_owned());
        self.claims.extend(claims.into_iter().map(|(claim, value)| (claim, Claim::One(excerpt(&value)))));
    }

    /// Notes how it ends.
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

    /// Who is at the other end.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// How long it took so far, in seconds.
    pub fn seconds(&self) -> f64 {
        self.begin.elapsed().as_secs_f64()
    }
}

/// Where records go: the system log, standard output if the settings say so, and a file if they name one.
pub struct Trail {
    stdout: bool,
    file: RefCell<Option<File>>,
}

impl Trail {
    /// Opens the file, or makes it with mode 0600.
    ///
    /// # Errors
    /// If the file cannot be opened.
    pub fn open(path: Option<&Path>, stdout: bool) -> Result<Trail, FileError> {
        Ok(Trail { stdout, file: RefCell::new(path.map(file::append).transpose()?) })
    }

    /// Writes one record as one line.
    ///
    /// # Errors
    /// If the file or standard output does not take it: then nothing must be given either.
    pub fn write(&self, record: &Record) -> io::Result<()> {
        let mut line = serde_json::to_string(record)?;
        syslog::log(Severity::Info, PROGRAM, &line, &[]);
        line.push('\n');
        if self.stdout {
            let mut stdout = io::stdout().lock();
            stdout.write_all(line.as_bytes())?;
            stdout.flush()?;
        }
        match &mut *self.file.borrow_mut() {
            Some(file) => file.write_all(line.as_bytes()),
            None => Ok(()),
        }
    }
}

/// Outside text, cut: JSON escapes it.
fn excerpt(text: &str) -> String {
    text.chars().take(EXCERPT_CHARS_MAX).collect()
}
