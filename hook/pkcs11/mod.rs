//! PKCS#11: a process of its own that loads a module, and what is said between it and who started it.
//!
//! A module is a library that its vendor wrote, and it must be loaded to be used. The hook is a static binary, which cannot do that,
//! and would not if it could: a module would share its memory with secrets of other containers, and a fault in it would be the
//! hook's. So `oci-secrets-pkcs11`, the only program that is linked dynamically, does it, and only while a sealed value needs it.
//!
//! It is given the module and the PIN file as arguments, prints [`GREETING`] and loads the module. Then it answers requests on its standard input, each a line of JSON, with a line
//! each on its standard output, in the order in which the token does them. It ends when its input does. Data keys pass in these lines, and nowhere else; the PIN in none.

mod call;
mod error;
pub mod helper;
mod sessions;
mod token;
mod uri;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

pub use error::Pkcs11Error;
pub use uri::KeyUri;

/// The longest line, in bytes: a wrapped data key is at most 4 KiB.
const LINE_BYTES_MAX: u64 = 64 * 1024;

/// The first line of its output, by which its version is known.
pub const GREETING: &str = concat!("oci-secrets-pkcs11 ", env!("CARGO_PKG_VERSION"), "\n");

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
    /// Return what the key may be used for.
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
    pub answer: TokenAnswer,
}

/// What the token answers.
#[derive(Serialize, Deserialize)]
pub enum TokenAnswer {
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
    Failed(Pkcs11Error),
}
