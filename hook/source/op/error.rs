//! Why `op` gives no values.

use std::path::PathBuf;
use std::time::Duration;

use crate::errno::Errno;
use crate::excerpt::Excerpt;
use crate::fault::{Class, Fault};
use crate::retry::Seconds;
use crate::settings::FileError;
use crate::token::static_token::OutdatedError;

/// Why `op` gives no values.
#[derive(Clone, Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are named for what they hold")]
pub enum OpError {
    /// The program or the token file cannot be trusted, or is not there.
    #[error("cannot use the files of [op]")]
    File {
        #[from]
        source: FileError,
    },
    /// The service account's token is too old.
    #[error(transparent)]
    Outdated(#[from] OutdatedError),
    /// The token file holds something else.
    #[error("the service account's token does not begin with \"ops_\", or is more than one word")]
    UnusableToken,
    /// Only a person can unlock the app, and the hook is none.
    #[error("refusing to ask the 1Password app: no person is there to unlock it")]
    NoPerson,
    /// There is no memory in which `op` could have its home.
    #[error("cannot make a directory in {} for op", directory.display())]
    NoHome {
        directory: PathBuf,
        #[source]
        errno: Errno,
    },
    /// What `op` writes would reach a disk.
    #[error("refusing to let op write below {}: it is not a tmpfs", directory.display())]
    OnDisk { directory: PathBuf },
    /// The system has no random bytes.
    #[error("cannot get random bytes")]
    NoRandom,
    /// The program cannot be started, or its pipes broke.
    #[error("cannot run {}", path.display())]
    Run {
        path: PathBuf,
        #[source]
        errno: Errno,
    },
    /// It was ended because it did not end by itself.
    #[error("op did not answer within {}{}", Seconds(*within), if *app { ", while it waited for the 1Password app" } else { "" })]
    NoAnswer { within: Duration, app: bool },
    /// More bytes than any secrets have.
    #[error("op printed more than {limit} bytes")]
    TooLarge { limit: usize },
    /// It ended as if all was well, and printed something else than it was asked for.
    #[error("op ended well, but did not print what it was asked for")]
    Shape,
    /// A signal ended it.
    #[error("op was ended by signal {signal}")]
    Killed { signal: i32 },
    /// No account is signed in, or the app is not connected.
    #[error("op is not signed in: {}", Excerpt(said))]
    NotSignedIn { said: String },
    /// The person said no, or nothing.
    #[error("the 1Password app did not let op in: {}", Excerpt(said))]
    NotLetIn { said: String },
    /// 1Password does not take the service account's token.
    #[error("1Password refuses the service account's token: {}", Excerpt(said))]
    Unauthorized { said: String },
    /// Several vaults, items or fields answer to a reference.
    #[error("more than one vault, item or field matches")]
    Many,
    /// Too many requests, for longer than we can wait.
    #[error("1Password limits our requests: 429 Too Many Requests{}", retry.as_ref().map(|when| format!(", retry in {when}")).unwrap_or_default())]
    Limited { retry: Option<String> },
    /// 1Password's server fails.
    #[error("1Password failed: {}", Excerpt(said))]
    Server { said: String },
    /// There is no way to 1Password.
    #[error("cannot reach 1Password: {}", Excerpt(said))]
    Unreachable { said: String },
    /// Something that this program does not know.
    #[error("op failed: {}", Excerpt(said))]
    Failed { said: String },
}

impl Fault for OpError {
    fn class(&self) -> Class {
        match self {
            OpError::File { source } => source.class(),
            OpError::Outdated(error) => error.class(),
            OpError::UnusableToken | OpError::NoPerson | OpError::OnDisk { .. } | OpError::Run { .. } => {
                Class::Settings
            }
            OpError::NoHome { .. } | OpError::NoRandom => Class::Kernel,
            OpError::NotSignedIn { .. } | OpError::NotLetIn { .. } | OpError::Unauthorized { .. } => {
                Class::NotPermitted
            }
            OpError::Many => Class::Data,
            OpError::NoAnswer { .. }
            | OpError::TooLarge { .. }
            | OpError::Shape
            | OpError::Killed { .. }
            | OpError::Limited { .. }
            | OpError::Server { .. }
            | OpError::Unreachable { .. }
            | OpError::Failed { .. } => Class::Unavailable,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            OpError::File { source } => {
                return source.hint().or_else(|| {
                    Some(
                        "`program` and `service-account-token-file` under [op] in the settings name files of this host"
                            .into(),
                    )
                });
            }
            OpError::Outdated(error) => {
                return Some(error.hint_with("`op service-account create` makes an account with one"));
            }
            OpError::UnusableToken => "store the line that `op service-account create` prints",
            OpError::NoPerson => "name a `service-account-token-file` under [op] in the settings, or use [connect]",
            OpError::NoAnswer { app: true, .. } | OpError::NotLetIn { .. } => {
                "unlock the 1Password app and let the command line in when it asks; `timeout` under [op] in the settings gives more time"
            }
            OpError::NotSignedIn { .. } => {
                "start the 1Password app, and turn on \"Integrate with 1Password CLI\" in its settings; `op account list` tests it"
            }
            OpError::Unauthorized { .. } => {
                "put a valid token into the service-account-token-file, of an account that reads the vault"
            }
            OpError::Many => "use ids instead of names: 1Password shows them under \"Copy UUID\"",
            OpError::Limited { .. } => {
                "references by the ids of vault and item cost a third of the requests; 1Password Connect has no such limit"
            }
            OpError::Shape => "`op --version` must be 2.32.1 or newer: older ones can end well when 1Password failed",
            _ => return None,
        };
        Some(hint.to_owned())
    }
}
