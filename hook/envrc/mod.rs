//! `.envrc` as a list of references: a declared format, not an emulation of bash.
//!
//! A reference is a line of exactly this form, from the first column. Quotes are optional, and a comment may follow:
//!
//! ```text
//! export OPENAI_API_KEY="op://AgentVault/openai/api-key"   # the file openai-api-key
//! ```
//!
//! Any other line that contains `op://` is an error, unless it is a comment or ends with the comment `# no reference`. All other
//! lines are ignored.

mod annotations;
mod error;
mod file;
mod line;
mod protected;
pub mod shell;
mod variable;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use zeroize::Zeroizing;

use crate::container::{FILES_MAX, FileName};

pub use self::annotations::{Format, Split};
pub use self::error::{EnvrcError, Problem};
pub use self::file::{ENVRC, ENVRC_BYTES_MAX};
pub use self::protected::check_names;
use self::variable::is_name;
pub use self::variable::{Place, Variable};

/// What a file declares.
#[derive(Debug, Default)]
pub struct Envrc {
    /// The references, in their order.
    pub variables: Vec<Variable>,
    /// The variables that other lines set, each with its line.
    pub others: Vec<(usize, String)>,
}

/// Reads a file.
///
/// # Errors
/// The file cannot be read, or a line contains `op://` and declares no reference.
pub fn read(path: &Path) -> Result<Envrc, EnvrcError> {
    let cannot_read = |error: std::io::Error| EnvrcError::Read { path: path.into(), source: error.into() };
    // People keep secrets in such files, too.
    let mut bytes = Zeroizing::new(Vec::new());
    let file = File::open(path).map_err(cannot_read)?;
    file.take(ENVRC_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(cannot_read)?;
    match bytes.len() as u64 > ENVRC_BYTES_MAX {
        true => Err(EnvrcError::TooLarge { path: path.into() }),
        false => parse(&bytes, path),
    }
}

fn parse(bytes: &[u8], path: &Path) -> Result<Envrc, EnvrcError> {
    let variable = |(line, declared): (usize, Result<(&str, &str), Problem>)| {
        let variable = declared.and_then(|(name, text)| variable(name, text, Place::Line(path.into(), line)));
        variable.map_err(|source| EnvrcError::Line { path: path.into(), line, source })
    };
    let others = line::other_assignments(bytes).map(|(line, name)| (line, name.to_owned()));
    Ok(Envrc {
        variables: line::declarations(bytes).map(variable).collect::<Result<_, _>>()?,
        others: others.collect(),
    })
}

/// Parses `NAME=op://…`, as it is written on a command line.
///
/// # Errors
/// It is not of this form.
pub fn argument(text: &str) -> Result<Variable, EnvrcError> {
    let (name, text) = text.split_once('=').filter(|(name, _)| is_name(name)).ok_or(EnvrcError::Argument)?;
    variable(name, text, Place::CommandLine).map_err(|source| EnvrcError::Value { source })
}

/// Parses the references in an environment.
///
/// # Errors
/// A value begins with `op://` and is no reference, or its name is not one that a shell could export.
pub fn of_environment(environment: impl Iterator<Item = (OsString, OsString)>) -> Result<Vec<Variable>, EnvrcError> {
    let holds_reference = |(_, value): &(OsString, OsString)| value.as_bytes().starts_with(b"op://");
    let variable = |(name, value): (OsString, OsString)| {
        let name = name.to_string_lossy().into_owned();
        let found = match is_name(&name) {
            true => variable(&name, &value.to_string_lossy(), Place::Environment),
            false => Err(Problem::Name),
        };
        found.map_err(|source| EnvrcError::Environment { name, source })
    };
    environment.filter(holds_reference).map(variable).collect()
}

/// Combines the variables of several places. Each name may be declared once.
///
/// # Errors
/// A name is declared twice, two variables are one file, or there are more than a container may have.
pub fn unite(found: Vec<Variable>) -> Result<Vec<Variable>, EnvrcError> {
    let mut by_file: BTreeMap<&FileName, &Variable> = BTreeMap::new();
    for second in &found {
        if let Some(first) = by_file.insert(&second.file, second) {
            let (first, second) = (Box::new(first.clone()), Box::new(second.clone()));
            return Err(match first.name == second.name {
                true => EnvrcError::Twice { first, second },
                false => EnvrcError::SameFile { first, second },
            });
        }
    }
    match found.len() {
        found if found > FILES_MAX => Err(EnvrcError::TooMany { found }),
        _ => Ok(found),
    }
}

fn variable(name: &str, text: &str, place: Place) -> Result<Variable, Problem> {
    let reference = text.parse().map_err(|source| Problem::Reference { name: name.to_owned(), source })?;
    let file = name.to_ascii_lowercase().replace('_', "-");
    match file.parse() {
        Ok(file) => Ok(Variable { name: name.to_owned(), file, reference, text: text.to_owned(), place }),
        Err(_) => Err(Problem::FileName { name: name.to_owned(), file }),
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
    fn each_name_and_each_file_may_be_declared_once() {
        let united = |text: &str| {
            unite(parse(text.as_bytes(), Path::new("f")).unwrap().variables)
                .map(drop)
                .map_err(|error| error.to_string())
        };
        let twice = "A is declared twice: f, line 1, and f, line 2";
        assert_eq!(united("export A=op://v/i/f\nexport A=op://v/i/f").unwrap_err(), twice);
        let same = "A_B (f, line 1) and a_b (f, line 2) would be the same file \"a-b\"";
        assert_eq!(united("export A_B=op://v/i/f\nexport a_b=op://v/i/f").unwrap_err(), same);
        let many: String = (0..=FILES_MAX).map(|n| format!("export A{n}=op://v/i/f\n")).collect();
        assert_eq!(united(&many).unwrap_err(), "1025 variables hold references, at most 1024 are allowed");
    }
}
