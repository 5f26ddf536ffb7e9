//! The channel: every act of break-glass is recorded here first, apart from the audit trail of starts.
//!
//! A record is one line of JSON with the hash of the one before ([`Chain`]). A file is such a chain itself. For a log or
//! a command the chain is kept beside the ledger, and what they have not taken yet is sent before anything new: they get every line,
//! in order; a line twice only where we were killed in between.

use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::Serialize;

use super::Kept;
use super::ledger::{self, LedgerError};
use super::lock::Locked;
use crate::audit::{AuditError, Chain};
use crate::errno::Errno;
use crate::fault::{Class, Fault};
use crate::settings::file::{self, FileError};
use crate::settings::{self, Settings};
use crate::syslog;

/// The version of the records' shape.
const SCHEMA: u8 = 1;
const PROGRAM: &str = "oci-secrets-break-glass";
const KEPT: &str = "channel.jsonl";
const SENT: &str = "channel-sent";

/// How long a channel may take for one record.
const PATIENCE: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(5);

/// What is recorded.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event<'a> {
    /// A sealed file was opened for containers.
    Open {
        /// The emergency's name.
        emergency: &'a str,
        /// The SHA-256 of the sealed file.
        file: &'a str,
        /// Why.
        reason: &'a str,
        /// The ticket, if there is one.
        #[serde(skip_serializing_if = "Option::is_none")]
        ticket: Option<&'a str>,
        /// Who.
        operators: &'a [String],
        /// Until when.
        until: Timestamp,
        /// Which secrets.
        secrets: &'a [Kept],
    },
    /// A container gets secrets of it.
    Use {
        /// The emergency's name.
        emergency: &'a str,
        /// The container's id.
        container: &'a str,
        /// The bundle's directory.
        bundle: &'a Path,
        /// Which secrets.
        secrets: &'a [Kept],
        /// Why not in the normal way.
        cause: String,
    },
    /// An emergency is over.
    Close {
        /// Its name.
        emergency: &'a str,
        /// Whether its time had come.
        expired: bool,
    },
    /// A secret that was used is changed in 1Password.
    Rotated {
        /// Which.
        reference: &'a str,
        /// The item that has it now.
        item: Option<&'a str>,
        /// The item's version.
        version: Option<u64>,
    },
    /// A secret that was used stays as it is.
    Waive {
        /// Which.
        reference: &'a str,
        /// Why.
        reason: &'a str,
    },
    /// A sealed file was tried.
    Drill {
        /// Its SHA-256.
        file: &'a str,
        /// How many secrets are in it.
        secrets: usize,
        /// How many of them 1Password shows in another version, or not at all.
        stale: usize,
        /// Why it failed, if it did.
        #[serde(skip_serializing_if = "Option::is_none")]
        failure: Option<String>,
    },
}

#[derive(Serialize)]
struct Record<'a> {
    schema: u8,
    time: Timestamp,
    host: String,
    /// The user who logged in, by what the kernel knows, if somebody did.
    #[serde(skip_serializing_if = "Option::is_none")]
    login_uid: Option<u32>,
    #[serde(flatten)]
    event: Event<'a>,
}

/// The channel that the settings name.
pub struct Channel<'a> {
    to: &'a settings::Channel,
    lock: &'a Locked,
    chain: Chain,
}

impl<'a> Channel<'a> {
    /// Opens the channel.
    ///
    /// # Errors
    /// If there is none, it is the audit trail of starts, or it cannot be opened.
    pub fn open(settings: &'a Settings, lock: &'a Locked) -> Result<Channel<'a>, ChannelError> {
        let to = settings.break_glass.audit.as_ref().ok_or(ChannelError::None)?;
        let kept = lock.directory().join(KEPT);
        let path = match to {
            settings::Channel::File(path) => path,
            _ => kept.as_path(),
        };
        if let settings::Channel::Command(command) = to {
            require(command)?;
        }
        let chain = Chain::open(path)?;
        require_separate(path, settings)?;
        Ok(Channel { to, lock, chain })
    }

    /// Looks whether the channel would take a record, and makes nothing.
    ///
    /// # Errors
    /// As for [`Channel::open`], and if nobody would take it.
    pub fn look(settings: &Settings) -> Result<(), ChannelError> {
        match settings.break_glass.audit.as_ref().ok_or(ChannelError::None)? {
            settings::Channel::File(path) => {
                // Where its directory is missing, opening it makes nothing, and says so.
                if path.exists() || !path.parent().is_some_and(Path::exists) {
                    Chain::open(path)?;
                }
                require_separate(path, settings)
            }
            settings::Channel::JournalNamespace(name) => {
                syslog::find_namespace(name.as_str()).map_err(|error| no_journal(name.as_str(), error))
            }
            settings::Channel::SyslogFacility(_) => syslog::find().map_err(no_syslog),
            settings::Channel::Command(command) => require(command),
        }
    }

    /// Writes one record, and returns when it is where it shall be.
    ///
    /// # Errors
    /// If the channel does not take it: then the act that it is of must not be done.
    pub fn record(&mut self, event: Event<'_>) -> Result<(), ChannelError> {
        let host = host_name();
        let record = Record { schema: SCHEMA, time: Timestamp::now(), host, login_uid: login_uid(), event };
        self.chain.append(&record, PATIENCE)?;
        self.chain.sync()?;
        match self.to {
            settings::Channel::File(_) => Ok(()),
            settings::Channel::JournalNamespace(name) => self.send(|line| to_journal(name.as_str(), line)),
            settings::Channel::SyslogFacility(facility) => self.send(|line| {
                let sent = syslog::log_to_facility(*facility as u8, PROGRAM, line);
                sent.map_err(no_syslog)
            }),
            settings::Channel::Command(command) => self.send(|line| to_command(command, line)),
        }
    }

    /// Sends every line that was not taken yet.
    fn send(&self, mut send: impl FnMut(&str) -> Result<(), ChannelError>) -> Result<(), ChannelError> {
        let path = self.lock.directory().join(KEPT);
        let cannot = |error: std::io::Error| ChannelError::Kept { path: path.clone(), errno: error.into() };
        let sent = fs::read_to_string(self.lock.directory().join(SENT)).unwrap_or_default();
        let mut sent: u64 = sent.trim().parse().unwrap_or_default();
        let mut file = fs::File::open(&path).map_err(cannot)?;
        if sent > file.metadata().map_err(cannot)?.len() {
            // Another file is in its place.
            sent = 0;
        }
        let mut lines = String::new();
        file.seek(SeekFrom::Start(sent)).and_then(|_| file.read_to_string(&mut lines)).map_err(cannot)?;
        for line in lines.split_inclusive('\n') {
            send(line.trim_end())?;
            sent += line.len() as u64;
            ledger::replace(self.lock, SENT, sent.to_string().as_bytes())?;
        }
        Ok(())
    }
}

fn require(command: &settings::ChannelCommand) -> Result<(), ChannelError> {
    file::require_program(command.program()).map_err(|source| ChannelError::Program { source })
}

fn require_separate(path: &Path, settings: &Settings) -> Result<(), ChannelError> {
    match settings.audit.file.as_deref() {
        Some(trail) if is_same(trail, path) => Err(ChannelError::Same { path: path.into() }),
        _ => Ok(()),
    }
}

/// Whether two paths lead to one file.
fn is_same(one: &Path, other: &Path) -> bool {
    let identity = |path: &Path| fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()));
    one == other || identity(one).is_some_and(|one| identity(other) == Some(one))
}

fn to_journal(namespace: &str, line: &str) -> Result<(), ChannelError> {
    let sent = syslog::log_to_namespace(namespace, PROGRAM, line);
    sent.map_err(|error| no_journal(namespace, error))
}

fn no_journal(namespace: &str, error: std::io::Error) -> ChannelError {
    ChannelError::Journal { namespace: namespace.to_owned(), errno: error.into() }
}

fn no_syslog(error: std::io::Error) -> ChannelError {
    ChannelError::Syslog { errno: error.into() }
}

fn to_command(command: &settings::ChannelCommand, line: &str) -> Result<(), ChannelError> {
    let program = || command.program().to_owned();
    let cannot = |error: std::io::Error| ChannelError::Run { program: program(), errno: error.into() };
    let mut words = Command::new(command.program());
    words.args(command.arguments()).env_clear().stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = words.spawn().map_err(cannot)?;
    if let Some(mut input) = child.stdin.take() {
        let line = format!("{line}\n");
        // Whether it was read is for the program to say, by how it ends.
        thread::spawn(move || input.write_all(line.as_bytes()));
    }
    let begin = Instant::now();
    loop {
        match child.try_wait().map_err(cannot)? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => return Err(ChannelError::Command { program: program(), status: status.to_string() }),
            None if begin.elapsed() < PATIENCE => thread::sleep(PAUSE),
            None => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(ChannelError::Slow { program: program() });
            }
        }
    }
}

/// The name by which this host knows itself.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

fn login_uid() -> Option<u32> {
    let uid: u32 = fs::read_to_string("/proc/self/loginuid").ok()?.trim().parse().ok()?;
    (uid != u32::MAX).then_some(uid)
}

/// Why a record is not where it shall be.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are named for what they hold")]
pub enum ChannelError {
    /// The settings name none.
    #[error("the settings have no `audit` under [break-glass]")]
    None,
    /// It would not be a separate one.
    #[error("{} is the audit file of starts, too", path.display())]
    Same { path: PathBuf },
    /// The chain cannot be kept.
    #[error(transparent)]
    Chain(#[from] AuditError),
    /// What was sent cannot be noted.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// What is to be sent cannot be read.
    #[error("cannot read {}", path.display())]
    Kept {
        path: PathBuf,
        #[source]
        errno: Errno,
    },
    /// The journal does not take it.
    #[error("the journal namespace \"{namespace}\" takes no record")]
    Journal {
        namespace: String,
        #[source]
        errno: Errno,
    },
    /// The system log does not take it.
    #[error("{} takes no record", syslog::SYSLOG)]
    Syslog {
        #[source]
        errno: Errno,
    },
    /// The program cannot be trusted.
    #[error("cannot use the command")]
    Program { source: FileError },
    /// The program does not run.
    #[error("cannot run {}", program.display())]
    Run {
        program: PathBuf,
        #[source]
        errno: Errno,
    },
    /// The program says no.
    #[error("{} took no record: {status}", program.display())]
    Command { program: PathBuf, status: String },
    /// The program says nothing.
    #[error("{} did not end within {} s", program.display(), PATIENCE.as_secs())]
    Slow { program: PathBuf },
}

impl Fault for ChannelError {
    fn class(&self) -> Class {
        match self {
            ChannelError::None | ChannelError::Same { .. } | ChannelError::Run { .. } => Class::Settings,
            ChannelError::Program { source } => source.class(),
            ChannelError::Chain(error) => error.class(),
            ChannelError::Ledger(error) => error.class(),
            ChannelError::Kept { .. } | ChannelError::Journal { .. } | ChannelError::Syslog { .. } => Class::Kernel,
            ChannelError::Command { .. } | ChannelError::Slow { .. } => Class::Unavailable,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            ChannelError::None => Some(
                "add audit = { file = \"/var/log/oci-secrets/break-glass.jsonl\" } to [break-glass] in the settings"
                    .into(),
            ),
            ChannelError::Same { .. } => Some("name another file under [break-glass] in the settings".into()),
            ChannelError::Program { source } => source.hint(),
            ChannelError::Chain(error) => error.hint(),
            ChannelError::Ledger(error) => error.hint(),
            _ => None,
        }
    }
}
