//! `.envrc` as data: the variables in it that hold references, read without running any of it.
//!
//! direnv runs the file in bash; here it is read as bash would read it, as far as that is certain. What holds a reference must stand
//! alone, in full and unconditionally:
//!
//! ```text
//! export OPENAI_API_KEY="op://AgentVault/openai/api-key"     the file openai-api-key
//! layout python                                              of no concern
//! export NAME="$OTHER"                                       refused, as it may become a reference
//! ```
//!
//! Everything else in the file is direnv's business and is passed over, but only where it surely brings no reference. A line that
//! ends with the comment `# no reference` is passed over on the word of whoever wrote it.

mod annotations;
mod lexer;
mod problem;
mod script;
pub mod shell;
mod word;

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::container::{FILES_MAX, FileName};
use crate::reference::Reference;

pub use self::annotations::{Format, Split};
pub use self::problem::{EnvrcError, Problem};
pub use self::word::Expansion;

/// How the file is called, unless another is named.
pub const ENVRC: &str = ".envrc";

/// The largest file, in bytes.
pub const ENVRC_BYTES_MAX: u64 = 1 << 20;

/// A variable that holds a reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variable {
    /// Its name in the environment.
    pub name: String,
    /// Its name as a file: in lower case, with `-` for `_`.
    pub file: FileName,
    /// What it holds.
    pub reference: Reference,
    /// Where it says so.
    pub place: Place,
}

/// Where a variable was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// An argument.
    CommandLine,
    /// A file.
    Line {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
    },
}

/// Reads the variables of a file, in their order. One that is set twice, to the same reference, comes twice.
///
/// # Errors
/// The file cannot be read, or it cannot be told what bash would make of it.
pub fn read(path: &Path) -> Result<Vec<Variable>, EnvrcError> {
    let cannot_read = |error: std::io::Error| EnvrcError::Read { path: path.into(), errno: error.into() };
    // Not only references may be in it: people put secrets there, too.
    let mut bytes = Zeroizing::new(Vec::new());
    let file = File::open(path).map_err(cannot_read)?;
    file.take(ENVRC_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(cannot_read)?;
    if bytes.len() as u64 > ENVRC_BYTES_MAX {
        return Err(EnvrcError::TooLarge { path: path.into() });
    }
    parse(&bytes, path)
}

/// The same, of what the file holds.
fn parse(bytes: &[u8], path: &Path) -> Result<Vec<Variable>, EnvrcError> {
    let refused = |(line, problem)| EnvrcError::Line { path: path.into(), line, problem };
    let text = text(bytes).map_err(refused)?;
    let variables = script::variables(text).map_err(refused)?.into_iter();
    let place = |line| Place::Line { path: path.into(), line };
    Ok(variables.map(|(line, name, file, reference)| Variable { name, file, reference, place: place(line) }).collect())
}

/// Reads `NAME=op://…`, as it is written on a command line.
///
/// # Errors
/// It is not of this form.
pub fn argument(text: &str) -> Result<Variable, EnvrcError> {
    let (name, reference) = text.split_once('=').filter(|(name, _)| is_variable(name)).ok_or(EnvrcError::Argument)?;
    let unusable = |problem| EnvrcError::Value { problem };
    let reference =
        reference.parse().map_err(|reason| unusable(Problem::Reference { name: name.to_owned(), reason }))?;
    let file = file_of(name).map_err(unusable)?;
    Ok(Variable { name: name.to_owned(), file, reference, place: Place::CommandLine })
}

/// Puts together what was found in several places: each variable once.
///
/// # Errors
/// A variable has two references, two variables are one file, or there are more than a container may have.
pub fn unite(found: Vec<Variable>) -> Result<Vec<Variable>, EnvrcError> {
    let mut united: Vec<Variable> = Vec::new();
    let mut by_file: BTreeMap<FileName, usize> = BTreeMap::new();
    for variable in found {
        let Some(known) = by_file.get(&variable.file).and_then(|index| united.get(*index)) else {
            by_file.insert(variable.file.clone(), united.len());
            united.push(variable);
            continue;
        };
        let (first, second) = (known.place.clone(), variable.place.clone());
        if known.name != variable.name {
            let (first, second) = ((known.name.clone(), first), (variable.name, second));
            return Err(EnvrcError::SameFile { file: variable.file, first, second });
        }
        if known.reference != variable.reference {
            return Err(EnvrcError::Differs { name: variable.name, first, second });
        }
    }
    match united.len() {
        found if found > FILES_MAX => Err(EnvrcError::TooMany { found }),
        _ => Ok(united),
    }
}

/// What bash could read without a complaint.
fn text(bytes: &[u8]) -> Result<&str, (usize, Problem)> {
    let line = |at: usize| 1 + bytes.iter().take(at).filter(|byte| **byte == b'\n').count();
    if let Some(at) = bytes.iter().position(|byte| *byte == 0) {
        return Err((line(at), Problem::Nul));
    }
    str::from_utf8(bytes).map_err(|error| (line(error.valid_up_to()), Problem::NotUtf8))
}

/// Whether a text can name a variable.
fn is_variable(name: &str) -> bool {
    !name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit()) && name.chars().all(lexer::is_name)
}

/// The file that a variable becomes.
fn file_of(name: &str) -> Result<FileName, Problem> {
    let file = name.to_ascii_lowercase().replace('_', "-");
    file.parse().map_err(|_| Problem::FileName { name: name.to_owned(), file })
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::CommandLine => f.write_str("the command line"),
            Place::Line { path, line } => write!(f, "{}, line {line}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_is_a_file_in_lower_case_with_dashes() {
        assert_eq!(argument("OPENAI_API_KEY=op://AgentVault/openai/api-key").unwrap().file.as_str(), "openai-api-key");
        assert_eq!(argument("A__b2=op://v/i/f").unwrap().file.as_str(), "a--b2");
        for text in ["", "A", "1A=op://v/i/f", "a-b=op://v/i/f", "=op://v/i/f", "./x=op://v/i/f"] {
            assert!(matches!(argument(text), Err(EnvrcError::Argument)), "{text}");
        }
        for text in ["_A=op://v/i/f", "A_=op://v/i/f", &format!("{}=op://v/i/f", "A".repeat(64)), "A=v/i/f"] {
            assert!(matches!(argument(text), Err(EnvrcError::Value { .. })), "{text}");
        }
    }

    #[test]
    fn unites_what_agrees_and_nothing_else() {
        let found = |text: &str| parse(text.as_bytes(), Path::new("f")).unwrap();
        let united = |text: &str| unite(found(text)).map_err(|error| error.to_string());
        assert_eq!(united("A=op://v/i/f\nA=op://v/i/f").unwrap().len(), 1);
        let differs = "refusing to choose one of two references of A: f, line 1, and f, line 2";
        assert_eq!(united("A=op://v/i/f\nA=op://v/i/g").unwrap_err(), differs);
        let same = "refusing to make the file \"a-b\" of two variables: A_B (f, line 1) and a_b (f, line 2)";
        assert_eq!(united("A_B=op://v/i/f\na_b=op://v/i/f").unwrap_err(), same);
        let many: String = (0..=FILES_MAX).map(|n| format!("A{n}=op://v/i/f\n")).collect();
        assert!(matches!(unite(found(&many)), Err(EnvrcError::TooMany { found: 1025 })));
    }
}
