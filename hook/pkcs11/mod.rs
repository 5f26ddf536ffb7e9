//! PKCS#11: a process of its own that loads a module, and what is said between it and who started it.
//!
//! A module is a library that its vendor wrote, and it must be loaded to be used. The hook is a static binary, which cannot do that,
//! and would not if it could: a module would share its memory with secrets of other containers, and a fault in it would be the
//! hook's. So `oci-secrets-pkcs11`, the only program that is linked dynamically, does it, and only while a sealed value needs it.
//!
//! It is given the module and the PIN file as arguments, then answers requests on its standard input, each a line of JSON, with a line
//! each on its standard output, in the order in which the token does them. It ends when its input does. Data keys pass in these lines, and nowhere else; the PIN in none.

pub mod helper;
mod sessions;
mod token;
mod uri;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

pub use uri::KeyUri;

/// The longest line, in bytes: a wrapped data key is at most 4 KiB.
const LINE_BYTES_MAX: u64 = 64 * 1024;

/// What is asked of the token that holds a key.
#[derive(Serialize, Deserialize)]
pub struct Request {
    /// What the answer is to be known by.
    pub id: u64,
    /// The key.
    pub key: KeyUri,
    /// What to do with it.
    pub job: Job,
}

/// What to do with a key.
#[derive(Serialize, Deserialize)]
pub enum Job {
    /// Wrap these bytes.
    Wrap(Bytes),
    /// Unwrap them again.
    Unwrap(Bytes),
    /// Tell what the key may be used for.
    Describe,
    /// Make it.
    Create,
}

/// Bytes that are zeroed when they are dropped.
pub type Bytes = Zeroizing<Vec<u8>>;

/// The answer to one request.
#[derive(Serialize, Deserialize)]
pub struct Reply {
    /// The request's.
    pub id: u64,
    /// What the token answers.
    pub answer: Answer,
}

/// What the token answers.
#[derive(Serialize, Deserialize)]
pub enum Answer {
    /// What was wrapped or unwrapped.
    Bytes(Bytes),
    /// What the key may be used for.
    Uses {
        /// To wrap.
        wrap: bool,
        /// To unwrap.
        unwrap: bool,
    },
    /// The key is made.
    Created,
    /// It is not done.
    Failed(Trouble),
}

/// Why the token did not do what it was asked for. `call` is the function of PKCS#11 and what it returned.
#[derive(Clone, Debug, Serialize, Deserialize, thiserror::Error)]
pub enum Trouble {
    /// The module is no library that can be loaded, or does not start.
    #[error("the module cannot be loaded: {why}")]
    Module {
        /// What the loader or the module says.
        why: String,
    },
    /// The PIN file cannot be used.
    #[error("the PIN cannot be read: {why}")]
    PinFile {
        /// What is wrong with it.
        why: String,
    },
    /// No slot has such a token.
    #[error("no slot has this token ({slots} hold another)")]
    NoToken {
        /// How many slots hold a token.
        slots: usize,
    },
    /// Several slots have.
    #[error("{tokens} tokens go by this name")]
    ManyTokens {
        /// How many.
        tokens: usize,
    },
    /// The token refuses the PIN.
    #[error("the token refuses the PIN")]
    Pin,
    /// The token is locked against every PIN.
    #[error("the token is locked after too many wrong PINs")]
    PinLocked,
    /// One more wrong PIN would lock the token.
    #[error("refusing to try the PIN: one more wrong try would lock the token")]
    LastTry,
    /// The token has no such key.
    #[error("the token has no AES key of this name that we can see")]
    NoKey,
    /// The token has several.
    #[error("{keys} AES keys of the token go by this name")]
    ManyKeys {
        /// How many.
        keys: usize,
    },
    /// There is such a key already.
    #[error("the token has a key of this name already")]
    Exists,
    /// Token and key together allow neither AES-GCM nor AES key wrap.
    #[error("the key may be used with neither AES-GCM nor AES key wrap with padding")]
    NoMechanism,
    /// Another key wrapped it, or it was changed.
    #[error("it did not wrap this value's data key, or it was changed since ({call})")]
    NotWrapped {
        /// The refusal.
        call: String,
    },
    /// The token, or the connection to it, went away.
    #[error("the token does not respond ({call})")]
    Gone {
        /// The refusal.
        call: String,
    },
    /// Anything else.
    #[error("the token refuses: {call}")]
    Refused {
        /// The refusal.
        call: String,
    },
}
