//! The channel: each action of break-glass is recorded here before it is taken, separately from the audit trail of starts.
//!
//! A record is one line of JSON with the hash of the previous one ([`Chain`]). A file is such a chain itself. For a log or a command
//! the chain is kept next to the ledger, and pending lines are sent before any new one: the receiver gets every line in order, and
//! a line twice only if a process was killed between sending it and saving that.

use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use tokio::time::timeout;

use super::Kept;
use super::ledger::{self, LedgerError};
use super::lock::Locked;
use crate::audit::{AuditError, Chain};
use crate::child;
use crate::errno::Errno;
use crate::fault::{Class, Fault};
use crate::settings::file::{self, FileError};
use crate::settings::{self, Settings};
use crate::syslog;

/// The version of the records' format.
const SCHEMA: u8 = 1;
/// The name under which break-glass logs.
pub(super) const PROGRAM: &str = "oci-secrets-break-glass";
const KEPT: &str = "channel.jsonl";
const SENT: &str = "channel-sent";

/// How long a channel may take for one record.
const PATIENCE: Duration = Duration::from_secs(3);
/// The limit for the output of a command, which is discarded.
const OUTPUT_BYTES_MAX: usize = 1024 * 1024;

/// An action of break-glass.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event<'a> {
    /// A sealed file is opened for containers.
    Open {
        /// The id of the emergency.
        emergency: &'a str,
        /// The SHA-256 of the sealed file.
        file: &'a str,
        /// Why, in the operator's words.
        reason: &'a str,
        /// The ticket, if there is one.
        #[serde(skip_serializing_if = "Option::is_none")]
        ticket: Option<&'a str>,
        /// The operators.
        operators: &'a [String],
        /// When it ends.
        until: Timestamp,
        /// The secrets.
        secrets: &'a [Kept],
    },
    /// A container gets secrets from an emergency.
    Use {
        /// The id of the emergency.
        emergency: &'a str,
        /// The container's id.
        container: &'a str,
        /// The bundle's directory.
        bundle: &'a Path,
        /// The secrets.
        secrets: &'a [Kept],
        /// Why they could not be resolved in the normal way.
        cause: String,
    },
    /// An emergency ended.
    Close {
        /// The id of the emergency.
        emergency: &'a str,
        /// Whether its duration had elapsed.
        expired: bool,
        /// Whether another process ended it, by removing its key from the kernel's keyring.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        tampered: bool,
    },
    /// A used secret was rotated in 1Password.
    Rotated {
        /// Its reference.
        reference: &'a str,
        /// The id of the item that has it now.
        item: Option<&'a str>,
        /// The item's version.
        version: Option<u64>,
    },
    /// A used secret will not be rotated.
    Waive {
        /// Its reference.
        reference: &'a str,
        /// Why, in the operator's words.
        reason: &'a str,
    },
    /// A sealed file was tested.
    Drill {
        /// Its SHA-256.
        file: &'a str,
        /// The number of its secrets.
        secrets: usize,
        /// The number of secrets that have another version in 1Password, or are missing there.
        stale: usize,
        /// Why the drill failed, if it did.
        #[serde(skip_serializing_if = "Option::is_none")]
        failure: Option<String>,
    },
}

#[derive(Serialize)]
struct Record<'a> {
    schema: u8,
    time: Timestamp,
    host: String,
    /// The login UID of the process, if it is set.
    #[serde(skip_serializing_if = "Option::is_none")]
    login_uid: Option<u32>,
    #[serde(flatten)]
    event: Event<'a>,
}

/// The channel that the settings name.
pub struct Channel<'a> {
    to: &'a settings::Channel,
    chain: Chain,
}

impl<'a> Channel<'a> {
    /// Opens the channel.
    ///
    /// # Errors
    /// If the settings name none, it is the audit file of starts, or it cannot be opened.
    pub(super) fn open(settings: &'a Settings, lock: &Locked) -> Result<Channel<'a>, ChannelError> {
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
        Ok(Channel { to, chain })
    }

    /// Tests whether the channel would accept a record, and creates nothing.
    ///
    /// # Errors
    /// As for opening the channel, and if no log listens.
    pub fn test(settings: &Settings) -> Result<(), ChannelError> {
        match settings.break_glass.audit.as_ref().ok_or(ChannelError::None)? {
            settings::Channel::File(path) => {
                // If its directory is missing, opening the file fails and says so.
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

    /// Writes one record, and returns when the channel has accepted it.
    ///
    /// # Errors
    /// If the channel does not accept the record. Then the recorded action must not be taken.
    pub(super) async fn record(&mut self, lock: &Locked, event: Event<'_>) -> Result<(), ChannelError> {
        let host = host_name();
        let record = Record { schema: SCHEMA, time: Timestamp::now(), host, login_uid: login_uid(), event };
        self.chain.append(&record, PATIENCE)?;
        self.chain.sync()?;
        match self.to {
            settings::Channel::File(_) => Ok(()),
            other => send_rest(other, lock).await,
        }
    }
}

/// Sends every line of the chain that was not accepted yet.
async fn send_rest(to: &settings::Channel, lock: &Locked) -> Result<(), ChannelError> {
    let path = lock.directory().join(KEPT);
    let cannot = |error: std::io::Error| ChannelError::Kept { path: path.clone(), errno: error.into() };
    let sent = fs::read_to_string(lock.directory().join(SENT)).unwrap_or_default();
    let mut sent: u64 = sent.trim().parse().unwrap_or_default();
    let mut file = fs::File::open(&path).map_err(cannot)?;
    if sent > file.metadata().map_err(cannot)?.len() {
        // The file was replaced.
        sent = 0;
    }
    let mut lines = String::new();
    file.seek(SeekFrom::Start(sent)).and_then(|_| file.read_to_string(&mut lines)).map_err(cannot)?;
    for line in lines.split_inclusive('\n') {
        send(to, line.trim_end()).await?;
        sent += line.len() as u64;
        ledger::replace(lock, SENT, sent.to_string().as_bytes())?;
    }
    Ok(())
}

async fn send(to: &settings::Channel, line: &str) -> Result<(), ChannelError> {
    match to {
        settings::Channel::File(_) => Ok(()),
        settings::Channel::JournalNamespace(name) => {
            let sent = syslog::log_to_namespace(name.as_str(), PROGRAM, line);
            sent.map_err(|error| no_journal(name.as_str(), error))
        }
        settings::Channel::SyslogFacility(facility) => {
            syslog::log_to_facility(*facility as u8, PROGRAM, line).map_err(no_syslog)
        }
        settings::Channel::Command(command) => to_command(command, line).await,
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

fn no_journal(namespace: &str, error: std::io::Error) -> ChannelError {
    ChannelError::Journal { namespace: namespace.to_owned(), errno: error.into() }
}

fn no_syslog(error: std::io::Error) -> ChannelError {
    ChannelError::Syslog { errno: error.into() }
}

/// Runs the command with one line on its standard input. Its child processes are killed with it.
async fn to_command(command: &settings::ChannelCommand, line: &str) -> Result<(), ChannelError> {
    let program = || command.program().to_owned();
    let mut words = Command::new(command.program());
    words.args(command.arguments()).env_clear();
    let line = format!("{line}\n");
    match timeout(PATIENCE, child::run(&mut words, line.as_bytes(), OUTPUT_BYTES_MAX)).await {
        Ok(Ok(Some(answer))) if answer.status.success() => Ok(()),
        Ok(Ok(Some(answer))) => Err(ChannelError::Command { program: program(), status: answer.status }),
        Ok(Ok(None)) => Err(ChannelError::Output { program: program() }),
        Ok(Err(error)) => Err(ChannelError::Run { program: program(), errno: error.into() }),
        Err(_elapsed) => Err(ChannelError::Slow { program: program() }),
    }
}

/// The name of this host, as `uname -n` prints it.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

fn login_uid() -> Option<u32> {
    let uid: u32 = fs::read_to_string("/proc/self/loginuid").ok()?.trim().parse().ok()?;
    (uid != u32::MAX).then_some(uid)
}

/// Why the channel did not accept a record.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are the objects that the messages name")]
pub enum ChannelError {
    /// The settings name none.
    #[error("the settings have no `audit` under [break-glass]")]
    None,
    /// The channel is not separate.
    #[error("{} is also the audit file of starts", path.display())]
    Same { path: PathBuf },
    /// The chain cannot be opened or written.
    #[error(transparent)]
    Chain(#[from] AuditError),
    /// How far the chain was sent cannot be written.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The chain cannot be read.
    #[error("cannot read {}", path.display())]
    Kept {
        path: PathBuf,
        #[source]
        errno: Errno,
    },
    /// The journal namespace is not running, or is busy.
    #[error("the journal namespace \"{namespace}\" does not accept records")]
    Journal {
        namespace: String,
        #[source]
        errno: Errno,
    },
    /// No syslog listens, or it is busy.
    #[error("{} does not accept records", syslog::SYSLOG)]
    Syslog {
        #[source]
        errno: Errno,
    },
    /// Other users can change the command.
    #[error("cannot use the command")]
    Program { source: FileError },
    /// The command cannot be run.
    #[error("cannot run {}", program.display())]
    Run {
        program: PathBuf,
        #[source]
        errno: Errno,
    },
    /// The command failed.
    #[error("{} did not accept the record: {status}", program.display())]
    Command { program: PathBuf, status: ExitStatus },
    /// The command printed more than the limit.
    #[error("{} printed more than {OUTPUT_BYTES_MAX} bytes", program.display())]
    Output { program: PathBuf },
    /// The command timed out.
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
            ChannelError::Command { .. } | ChannelError::Output { .. } | ChannelError::Slow { .. } => {
                Class::Unavailable
            }
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
