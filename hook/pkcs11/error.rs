//! Why a token does not do what it was asked for.

use serde::{Deserialize, Serialize};

use crate::fault::{Class, Fault};

/// Why the token did not do what it was asked for. `call` is the function of PKCS#11 and what it returned.
#[derive(Clone, Debug, Serialize, Deserialize, thiserror::Error)]
#[expect(missing_docs, reason = "fields are named for what they hold")]
pub enum Pkcs11Error {
    /// The module is no library that can be loaded, or does not start.
    #[error("the module cannot be loaded: {why}")]
    Module { why: String },
    /// The PIN file cannot be used.
    #[error("the PIN cannot be read: {why}")]
    PinFile { why: String },
    /// No slot has such a token.
    #[error("no slot has this token ({slots} hold another)")]
    NoToken { slots: usize },
    /// Several slots have.
    #[error("{tokens} tokens go by this name")]
    ManyTokens { tokens: usize },
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
    ManyKeys { keys: usize },
    /// There is such a key already.
    #[error("the token has a key of this name already")]
    Exists,
    /// Token and key together allow neither AES-GCM nor AES key wrap.
    #[error("the key may be used with neither AES-GCM nor AES key wrap with padding")]
    NoMechanism,
    /// Another key wrapped it, or it was changed.
    #[error("it did not wrap this value's data key, or it was changed since ({call})")]
    NotWrapped { call: String },
    /// The token, or the connection to it, went away.
    #[error("the token does not respond ({call})")]
    Gone { call: String },
    /// Anything else.
    #[error("the token refuses: {call}")]
    Refused { call: String },
}

impl Fault for Pkcs11Error {
    fn class(&self) -> Class {
        match self {
            Pkcs11Error::Module { .. } | Pkcs11Error::PinFile { .. } | Pkcs11Error::Exists => Class::Settings,
            Pkcs11Error::NoToken { .. } | Pkcs11Error::Gone { .. } | Pkcs11Error::Refused { .. } => Class::Unavailable,
            Pkcs11Error::ManyTokens { .. } | Pkcs11Error::ManyKeys { .. } => Class::Data,
            Pkcs11Error::NoKey | Pkcs11Error::NotWrapped { .. } => Class::Data,
            Pkcs11Error::Pin | Pkcs11Error::PinLocked | Pkcs11Error::LastTry | Pkcs11Error::NoMechanism => {
                Class::NotPermitted
            }
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Pkcs11Error::Module { .. } => {
                "`pkcs11-tool --module MODULE --list-slots` tests it; what it needs in its environment stands under [pkcs11] in the settings"
            }
            Pkcs11Error::NoToken { .. } | Pkcs11Error::Gone { .. } => {
                "`pkcs11-tool --module MODULE --list-token-slots` shows which tokens are there"
            }
            Pkcs11Error::ManyTokens { .. } => "add the token's `serial` to the URI",
            Pkcs11Error::ManyKeys { .. } => "add the key's `id` to the URI",
            Pkcs11Error::Pin => "put the user PIN into `pin-file`; each wrong try counts",
            Pkcs11Error::PinLocked => "the token's security officer can set a new PIN",
            Pkcs11Error::LastTry => {
                "log in once with the right PIN, by `pkcs11-tool --login`, and put it into `pin-file`"
            }
            Pkcs11Error::NoKey => "`oci-secrets kek new` makes one; without a `pin-file`, private keys are not seen",
            Pkcs11Error::NoMechanism => "use a key that may encrypt and decrypt, or wrap and unwrap",
            _ => return None,
        };
        Some(hint.to_owned())
    }
}
