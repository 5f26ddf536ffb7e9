//! Why a plugin is not registered.

use std::path::PathBuf;
use std::time::Duration;

use crate::errno::Errno;
use crate::fault::{Class, Fault};

/// Why a connection to a runtime ended, or could not be made.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are named for what they hold")]
pub enum ConnectionError {
    /// There is no socket, or nothing listens.
    #[error("cannot connect to the runtime's NRI socket at {}", path.display())]
    Connect {
        path: PathBuf,
        #[source]
        errno: Errno,
    },
    /// The runtime has ended, or does not want the plugin any more.
    #[error("the runtime closed the NRI connection")]
    Closed,
    /// The socket cannot be read.
    #[error("cannot read from the runtime's NRI socket")]
    Read {
        #[source]
        errno: Errno,
    },
    /// The socket cannot be written to.
    #[error("cannot write to the runtime's NRI socket")]
    Write {
        #[source]
        errno: Errno,
    },
    /// A length that the protocol does not allow.
    #[error("the runtime sent a frame of {found} bytes over NRI, more than the protocol allows")]
    FrameTooLarge { found: usize },
    /// The runtime refused the registration.
    #[error("the runtime refused the registration of the NRI plugin: {reason:.120?}")]
    Refused { reason: String },
    /// The runtime did not register the plugin in time.
    #[error("the runtime did not register the NRI plugin within {} s", within.as_secs())]
    NotRegistered { within: Duration },
}

impl Fault for ConnectionError {
    fn class(&self) -> Class {
        Class::Unavailable
    }

    fn hint(&self) -> Option<String> {
        match self {
            ConnectionError::Connect { errno, .. } if errno.is_not_found() => {
                Some("containerd before 2.0 and CRI-O before 1.30 have NRI off: enable it in their settings".into())
            }
            _ => None,
        }
    }
}
