//! The source that the settings choose, opened again after a failure and when one of its files is replaced.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::settings::{self, OpUnlock, Outage, Settings, SourceName, TokenSource};
use crate::source::connect::Connect;
use crate::source::op::{Op, OpError};
use crate::source::{self, Source as _, SourceError};
use crate::token::static_token::Shown;

/// How old a value of `op` may be, whose reads 1Password limits. Connect has no limit.
const OP_MAX_AGE: Duration = Duration::from_secs(60);

/// The requests per hour of `op`: below the 1,000 reads that 1Password's smaller plans allow a service account.
const OP_REQUESTS_PER_HOUR: u32 = 900;

/// How 1Password is named where there is no address.
const OP: &str = "1Password";

/// What the settings say of the source.
pub(super) struct Config {
    choice: Choice,
    pub(super) max_age: Duration,
    pub(super) requests_per_hour: Option<u32>,
    pub(super) outage: Outage,
}

enum Choice {
    Connect(settings::Connect),
    Op(settings::Op),
}

impl Config {
    /// # Errors
    /// If the settings choose no source.
    pub(super) fn of(settings: &Settings) -> Result<Config, SourceError> {
        let choice = match source::chosen(settings)? {
            SourceName::Connect => Choice::Connect(settings.connect.clone().ok_or(SourceError::NoConnect)?),
            SourceName::Op => Choice::Op(settings.op.clone().unwrap_or_default()),
        };
        let (max_age, requests_per_hour) = match choice {
            Choice::Connect(_) => (Duration::ZERO, None),
            Choice::Op(_) => (OP_MAX_AGE, Some(OP_REQUESTS_PER_HOUR)),
        };
        Ok(Config {
            choice,
            max_age: settings.broker.max_age.unwrap_or(max_age),
            requests_per_hour: settings.broker.requests_per_hour.map(u32::from).or(requests_per_hour),
            outage: settings.outage.clone(),
        })
    }

    /// The address of the source, or its name.
    pub(super) fn server(&self) -> String {
        match &self.choice {
            Choice::Connect(connect) => connect.url.as_url().origin().ascii_serialization(),
            Choice::Op(_) => OP.to_owned(),
        }
    }

    /// The files that are read when it is opened.
    fn files(&self) -> Vec<PathBuf> {
        match &self.choice {
            Choice::Connect(connect) => {
                let token = match &connect.token {
                    TokenSource::Static(file) => Some(file.to_path_buf()),
                    _ => None,
                };
                token.into_iter().chain(connect.ca_file.as_deref().map(PathBuf::from)).collect()
            }
            Choice::Op(op) => match &op.unlock {
                OpUnlock::ServiceAccount { token_file } => vec![token_file.to_path_buf()],
                OpUnlock::App { .. } => Vec::new(),
            },
        }
    }
}

/// The client of a source.
#[derive(Clone)]
pub(super) enum Client {
    Connect(Connect),
    Op(Arc<Op>),
}

/// A client, and the files that it was made from.
pub(super) struct Opened {
    pub(super) client: Client,
    files: Vec<(PathBuf, Option<Version>)>,
    /// Whether a call has failed, so that the next one makes new connections.
    pub(super) has_failed: bool,
}

/// What changes when a file is written or replaced.
type Version = (u64, u64, i64, i64, i64, i64);

impl Opened {
    /// Reads the files and makes a client. Ids that a client before it has learned are kept.
    ///
    /// # Errors
    /// If the files cannot be used.
    pub(super) fn open(config: &Config, before: Option<&Client>) -> Result<Opened, SourceError> {
        let files =
            config.files().into_iter().map(|path| (version(&path), path)).map(|(version, path)| (path, version));
        let files = files.collect();
        let client = match &config.choice {
            Choice::Connect(connect) => {
                let connect = Connect::open(connect)?;
                Client::Connect(match before {
                    Some(Client::Connect(before)) if before.server() == connect.server() => connect.after(before),
                    _ => connect,
                })
            }
            Choice::Op(op) => {
                let op = Op::open(op, None)?;
                Client::Op(Arc::new(match before {
                    Some(Client::Op(before)) => op.after(before),
                    _ => op,
                }))
            }
        };
        Ok(Opened { client, files, has_failed: false })
    }

    /// Whether it has to be opened again before it is used.
    pub(super) fn is_outdated(&self) -> bool {
        self.has_failed || self.files.iter().any(|(path, before)| version(path) != *before)
    }
}

fn version(path: &Path) -> Option<Version> {
    let status = fs::metadata(path).ok()?;
    Some((status.dev(), status.ino(), status.mtime(), status.mtime_nsec(), status.ctime(), status.ctime_nsec()))
}

impl Client {
    /// The requests that were sent so far, by it and those before it.
    pub(super) fn requests_sent(&self) -> u64 {
        match self {
            Client::Connect(connect) => connect.requests_sent(),
            Client::Op(op) => op.requests_sent(),
        }
    }

    /// The number of items whose ids are remembered.
    pub(super) fn remembered_ids(&self) -> usize {
        match self {
            Client::Connect(connect) => connect.remembered_ids(),
            Client::Op(_) => 0,
        }
    }

    /// The static token that the source was shown.
    pub(super) fn static_token(&self) -> Option<Shown> {
        match self {
            Client::Connect(connect) => connect.static_token(),
            Client::Op(op) => op.static_token(),
        }
    }

    /// The error if the source has not answered in time.
    pub(super) fn no_answer(&self, within: Duration) -> SourceError {
        match self {
            Client::Connect(connect) => SourceError::NoAnswer { server: connect.server().to_owned(), within, tries: 1 },
            Client::Op(_) => OpError::NoAnswer { within, app: false }.into(),
        }
    }
}
