//! The class and the hint of an error, which every error of this crate states next to its definition.

use std::error::Error;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

/// An exit code, as `sysexits.h` numbers them: what has to change before another attempt can succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The command line.
    CommandLine = 64,
    /// The state, the spec, an annotation or a sealed value.
    Data = 65,
    /// The reference: nothing is stored there.
    NotFound = 66,
    /// Nothing: the source or the KMS is unavailable for now.
    Unavailable = 69,
    /// This program: the error is a bug.
    Bug = 70,
    /// The host: a system call failed.
    Kernel = 71,
    /// A permission or a grant.
    NotPermitted = 77,
    /// The settings, or a file that they name.
    Settings = 78,
}

impl Class {
    const ALL: [Class; 8] = [
        Class::CommandLine,
        Class::Data,
        Class::NotFound,
        Class::Unavailable,
        Class::Bug,
        Class::Kernel,
        Class::NotPermitted,
        Class::Settings,
    ];

    /// The class with this exit code.
    pub fn of_code(code: u8) -> Option<Class> {
        Class::ALL.into_iter().find(|class| *class as u8 == code)
    }
}

/// An error that a program can end with.
pub trait Fault: Error + Send + Sync {
    /// The class, which is the exit code.
    fn class(&self) -> Class;

    /// One thing that can be done about it now, if it is known.
    fn hint(&self) -> Option<String> {
        None
    }

    /// Whether the message and the hint contain nothing but what a container's own request and grants contain, so that the broker may
    /// send them to any user. Others name servers, paths, or what another user asked for.
    fn is_for_users(&self) -> bool {
        false
    }
}

/// An error of any module, as programs pass it up to where it is reported.
#[derive(Clone)]
pub struct AnyFault(Arc<dyn Fault>);

impl<F: Fault + 'static> From<F> for AnyFault {
    fn from(fault: F) -> AnyFault {
        AnyFault(Arc::new(fault))
    }
}

impl Deref for AnyFault {
    type Target = dyn Fault;

    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

impl Error for AnyFault {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source()
    }
}

impl fmt::Debug for AnyFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for AnyFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
