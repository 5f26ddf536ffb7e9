//! A variable, its name, and where it is declared.

use std::fmt;
use std::path::PathBuf;

use crate::container::FileName;
use crate::reference::Reference;

/// A variable that holds a reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variable {
    /// Its name in the environment.
    pub name: String,
    /// Its name as a file: in lower case, with `-` for `_`.
    pub file: FileName,
    /// The reference.
    pub reference: Reference,
    /// The reference as it is written: `?attribute=totp` and `?attribute=otp` are one reference.
    pub text: String,
    /// Where it is declared.
    pub place: Place,
}

/// Where a variable is declared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// An argument.
    CommandLine,
    /// The environment of this process.
    Environment,
    /// A line of a file, from 1.
    Line(PathBuf, usize),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::CommandLine => f.write_str("the command line"),
            Place::Environment => f.write_str("the environment"),
            Place::Line(path, line) => write!(f, "{}, line {line}", path.display()),
        }
    }
}

/// Whether a text can name a variable.
pub(super) fn is_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    !name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit()) && name.bytes().all(allowed)
}
