//! `[audit]`: where records go.

use serde::Deserialize;

use super::AbsolutePath;

/// Where the record of each start is written in addition to the system log.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(try_from = "Keys")]
pub struct Audit {
    /// The file to append to.
    pub file: Option<AbsolutePath>,
    /// Whether each line of the file carries the hash of the one before.
    pub chain: bool,
}

/// `[audit]` as it is written: what is chained is the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    file: Option<AbsolutePath>,
    #[serde(default)]
    chain: bool,
}

impl TryFrom<Keys> for Audit {
    type Error = NothingToChain;

    fn try_from(keys: Keys) -> Result<Audit, NothingToChain> {
        match keys {
            Keys { file: None, chain: true } => Err(NothingToChain),
            Keys { file, chain } => Ok(Audit { file, chain }),
        }
    }
}

/// A chain of the lines of no file.
#[derive(Debug, thiserror::Error)]
#[error("chain = true needs a file")]
struct NothingToChain;
