//! Why the variables of a file, or of several, cannot be used.

use std::path::PathBuf;

use super::file::ENVRC_BYTES_MAX;
use super::variable::Variable;
use crate::container::FILES_MAX;
use crate::errno::Errno;
use crate::fault::{Class, Fault};
use crate::reference::{Reference, ReferenceError};

/// Why the variables of a file, or of several, cannot be used.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are named for what they hold")]
pub enum EnvrcError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: Errno },
    /// The file is too large.
    #[error("refusing to use {}: it is larger than {ENVRC_BYTES_MAX} bytes", path.display())]
    TooLarge { path: PathBuf },
    /// A line that declares no reference, although it contains `op://`.
    #[error("refusing to use {}: line {line}", path.display())]
    Line { path: PathBuf, line: usize, source: Problem },
    /// An argument without a name before a `=`. It is not quoted: it may be a secret in the wrong place.
    #[error(
        "expected arguments of the form NAME=op://vault/item/[section/]field, where NAME is of A-Z a-z 0-9 _ and begins with no digit"
    )]
    Argument,
    /// An argument that cannot be used.
    #[error("cannot use an argument")]
    Value { source: Problem },
    /// A variable of the environment that cannot be used.
    #[error("refusing to run with {name:.120?} in the environment")]
    Environment { name: String, source: Problem },
    /// One name, two declarations.
    #[error("{} is declared twice: {}, and {}", first.name, first.place, second.place)]
    Twice { first: Box<Variable>, second: Box<Variable> },
    /// Two names, one file.
    #[error(
        "{} ({}) and {} ({}) would be the same file \"{}\"",
        first.name, first.place, second.name, second.place, second.file
    )]
    SameFile { first: Box<Variable>, second: Box<Variable> },
    /// Files without a reference.
    #[error("found no reference in {files}")]
    Empty { files: String },
    /// No file, and no reference.
    #[error("found no reference in the arguments and the environment")]
    NoFile,
    /// A variable that makes other programs run code.
    #[error("refusing to set {} ({}): {reason}", variable.name, variable.place)]
    Protected { variable: Box<Variable>, reason: &'static str },
    /// A reference that a shell would split.
    #[error("refusing to print {reference} for {name} as one word: a shell splits the output of $(…) at its space")]
    Space { name: String, reference: Reference },
    /// A secret that no variable can hold.
    #[error("the secret of {name} has a NUL byte, which no variable can hold")]
    Nul { name: String },
    /// A secret that JSON cannot hold.
    #[error("the secret of {name} is not UTF-8, which JSON must be")]
    NotText { name: String },
    /// More than a container may have.
    #[error("{found} variables hold references, at most {FILES_MAX} are allowed")]
    TooMany { found: usize },
}

/// Why a line or variable cannot be used. It names variables, never their values.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "fields are named for what they hold")]
pub enum Problem {
    /// A line with `op://` that is not a declaration.
    #[error("it contains op:// and is not of the form export NAME=op://vault/item/[section/]field")]
    Form,
    /// A declaration that bash would read as part of the previous line.
    #[error("it contains op:// and continues the previous line, which ends with a backslash")]
    Continued,
    /// CR LF, which bash reads as part of the value.
    #[error("it ends with CR LF, and bash takes the CR for a part of the value")]
    CarriageReturn,
    /// A byte that no text has.
    #[error("it has a NUL byte")]
    Nul,
    /// A value that is no reference.
    #[error("{name} holds no valid reference")]
    Reference { name: String, source: ReferenceError },
    /// A variable that no shell could export.
    #[error("it holds a reference, and its name is not of A-Z a-z 0-9 _")]
    Name,
    /// A variable whose name cannot be that of a file.
    #[error("{name} would be the file {file:?}, which no container can have")]
    FileName { name: String, file: String },
}

impl Fault for EnvrcError {
    fn class(&self) -> Class {
        match self {
            EnvrcError::Read { .. } | EnvrcError::Argument | EnvrcError::Value { .. } | EnvrcError::NoFile => {
                Class::CommandLine
            }
            EnvrcError::Protected { .. } => Class::NotPermitted,
            _ => Class::Data,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            EnvrcError::Line { source, path, .. } => match source {
                Problem::CarriageReturn => format!("sed -i 's/\\r$//' {}", path.display()),
                source => source.hint()?.to_owned(),
            },
            EnvrcError::Value { source } => source.hint()?.to_owned(),
            EnvrcError::Environment { name, .. } => format!("start it without: env -u {name:.120} oci-secrets run …"),
            EnvrcError::Twice { .. } => "remove one of the two".into(),
            EnvrcError::SameFile { .. } => "rename one of the two".into(),
            EnvrcError::Empty { .. } => {
                "files that it loads are not read: list them, too; `--allow-empty` continues without a secret".into()
            }
            EnvrcError::NoFile => {
                "add NAME=op://… or `--env-file FILE`; `--allow-empty` continues without a secret".into()
            }
            EnvrcError::Protected { variable, .. } => format!("`--allow-name {}` permits it", variable.name),
            EnvrcError::Space { .. } => {
                "make each line one argument: mapfile -t annotations < <(oci-secrets annotate --lines …), and \"${annotations[@]}\""
                    .into()
            }
            EnvrcError::Nul { .. } => "use a file: oci-secrets run --files DIR".into(),
            EnvrcError::NotText { .. } => "omit `--json`, or use a file: oci-secrets run --files DIR".into(),
            _ => return None,
        })
    }
}

impl Problem {
    fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Problem::Form | Problem::Continued => {
                "write `export NAME=\"op://…\"` on a line of its own, from the first column; or end it with `# no reference`"
            }
            Problem::Reference { source, .. } => return source.hint(),
            Problem::FileName { .. } => "rename it: letters or digits at both ends, at most 63 characters",
            _ => return None,
        })
    }
}
