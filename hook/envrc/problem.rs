//! Why the variables of a file cannot be used.

use std::path::PathBuf;

use super::{ENVRC_BYTES_MAX, Expansion, Place};
use crate::container::{FILES_MAX, FileName};
use crate::errno::Errno;
use crate::fault::{Class, Fault};
use crate::reference::{Reference, ReferenceError};

/// Why the variables of a file, or of several, cannot be used.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are named for what they hold")]
pub enum EnvrcError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        errno: Errno,
    },
    /// More than anyone writes.
    #[error("refusing to use {}: it is larger than {ENVRC_BYTES_MAX} bytes", path.display())]
    TooLarge { path: PathBuf },
    /// Something in the file.
    #[error("refusing to use {}: line {line}", path.display())]
    Line {
        path: PathBuf,
        line: usize,
        #[source]
        problem: Problem,
    },
    /// An argument without a name before a `=`. It is not quoted: it may be a secret in the wrong place.
    #[error(
        "expected arguments of the form NAME=op://vault/item/[section/]field, where NAME is of A-Z a-z 0-9 _ and begins with no digit"
    )]
    Argument,
    /// An argument that cannot be used.
    #[error("cannot use an argument")]
    Value {
        #[source]
        problem: Problem,
    },
    /// One variable, two references.
    #[error("refusing to choose one of two references of {name}: {first}, and {second}")]
    Differs { name: String, first: Place, second: Place },
    /// Two variables, one file.
    #[error("refusing to make the file \"{file}\" of two variables: {} ({}) and {} ({})", first.0, first.1, second.0, second.1)]
    SameFile { file: FileName, first: (String, Place), second: (String, Place) },
    /// A reference that a shell would split.
    #[error(
        "refusing to print {reference} for {name} as one word: it has a space, at which a shell splits what $(…) prints"
    )]
    Space { name: String, reference: Reference },
    /// A secret that no variable can hold.
    #[error("cannot put the secret of {name} into a variable: it has a NUL byte")]
    Nul { name: String },
    /// A secret that JSON cannot hold.
    #[error("cannot put the secret of {name} into JSON: it is not UTF-8")]
    NotText { name: String },
    /// More than a container may have.
    #[error("{found} variables hold references, at most {FILES_MAX} are allowed")]
    TooMany { found: usize },
}

impl Fault for EnvrcError {
    fn class(&self) -> Class {
        match self {
            EnvrcError::Read { .. } | EnvrcError::Argument | EnvrcError::Value { .. } => Class::CommandLine,
            _ => Class::Data,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            EnvrcError::Line { problem, .. } | EnvrcError::Value { problem } => problem.hint()?,
            EnvrcError::SameFile { .. } => "rename one of them",
            EnvrcError::Differs { .. } => "leave one of them out",
            EnvrcError::Space { .. } => {
                "make each line one argument: mapfile -t annotations < <(oci-secrets annotate --lines …), and \"${annotations[@]}\""
            }
            EnvrcError::Nul { .. } => "take it as a file: oci-secrets run --files DIR",
            EnvrcError::NotText { .. } => "take it without `--json`, or as a file: oci-secrets run --files DIR",
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

/// What a line has that cannot be used. It names variables, never what is in them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "fields are named for what they hold")]
pub enum Problem {
    /// A value that is meant to be a reference, and is none.
    #[error("{name} holds no valid reference: {reason}")]
    Reference { name: String, reason: ReferenceError },
    /// A value that only a shell can tell, and that may be a reference.
    #[error("{name} may hold a reference, which only a shell can tell: it has {expansion}")]
    Unknown { name: String, expansion: Expansion },
    /// A variable whose name cannot be that of a file.
    #[error("{name} would be the file {file:?}, which no container can have")]
    FileName { name: String, file: String },
    /// A value within which `op://` stands.
    #[error("{name} has op:// in the middle")]
    Middle { name: String },
    /// A reference that is added to what a variable holds.
    #[error("{name} is added to, and a reference must be all of a value")]
    Appended { name: String },
    /// A reference in a block, whose commands may run or not.
    #[error("op:// in a block, which may run or not")]
    Block,
    /// A reference in a command that is tied to others.
    #[error("op:// in a command that is tied to others by && || | & or parentheses")]
    Chained,
    /// A reference before a command, for which alone it would be set.
    #[error("op:// in front of a command, or a reference with a space that is not quoted")]
    Prefix,
    /// A reference that is no value.
    #[error("op:// where no variable is set by `NAME=op://…` or `export NAME=op://…`")]
    Elsewhere,
    /// A command with a reference that goes on in the next line.
    #[error("op:// in a command that goes on in the next line")]
    Continued,
    /// A variable with a reference that is set to something else, or unset.
    #[error("{name} holds a reference, and is set or unset once more on line {other}")]
    Changed { name: String, other: usize },
    /// Text for a command.
    #[error("a here-document, whose end is not looked for")]
    Heredoc,
    /// A substitution whose end depends on what is in it.
    #[error("a substitution whose end cannot be told")]
    Substitution,
    /// Something that has no end.
    #[error("{what} that is never closed")]
    Unclosed { what: &'static str },
    /// Blocks that do not fit into each other.
    #[error("the end of a block that did not begin")]
    Unopened,
    /// A byte that no text has.
    #[error("a NUL byte")]
    Nul,
    /// Bytes that are no text.
    #[error("it is not UTF-8")]
    NotUtf8,
}

impl Problem {
    fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Problem::Reference { reason: ReferenceError::Prefix, .. } => "references begin with op://, in lower case",
            Problem::Unknown { .. } => {
                "write the whole reference; if it is none, end the line with the comment `# no reference`"
            }
            Problem::FileName { .. } => "rename it: letters or digits at both ends, at most 63 characters",
            Problem::Prefix => "quote the reference: NAME=\"op://…\"",
            Problem::Middle { .. }
            | Problem::Appended { .. }
            | Problem::Block
            | Problem::Chained
            | Problem::Elsewhere
            | Problem::Continued => {
                "give it a line of its own, `export NAME=\"op://…\"`; if it is none, end its line with `# no reference`"
            }
            Problem::Changed { .. } => "set it once",
            Problem::Heredoc | Problem::Substitution | Problem::Unclosed { .. } | Problem::Unopened => {
                "move it to a file of its own, and load that with `source_env FILE`"
            }
            Problem::Reference { .. } | Problem::Nul | Problem::NotUtf8 => return None,
        })
    }
}
