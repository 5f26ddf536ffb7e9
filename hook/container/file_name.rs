//! Names of files in `/run/secrets`.

use std::fmt;
use std::str::FromStr;

const BYTES_MAX: usize = 63;

/// A file name of 1 to 63 characters: letters, digits, `.`, `_` and `-`, with a letter or digit at both ends.
///
/// This is also Kubernetes' grammar for the name part of an annotation's key. It has no room for `/`, `.` or `..`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileName(String);

impl FileName {
    /// The name of a file that only messages show.
    pub fn secret() -> FileName {
        FileName("secret".to_owned())
    }

    /// The name itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for FileName {
    type Err = FileNameError;

    fn from_str(name: &str) -> Result<FileName, FileNameError> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        let at_end = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
        let valid = name.len() <= BYTES_MAX
            && name.bytes().all(allowed)
            && at_end(name.bytes().next())
            && at_end(name.bytes().next_back());
        valid.then(|| FileName(name.to_owned())).ok_or(FileNameError)
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A text that cannot name a file in `/run/secrets`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a file name is 1 to {BYTES_MAX} of A-Z a-z 0-9 . _ -, with a letter or digit at both ends")]
pub struct FileNameError;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_what_can_be_a_file() {
        for name in ["a", "A-._0", "a..b", &"x".repeat(BYTES_MAX)] {
            assert_eq!(name.parse::<FileName>().unwrap().as_str(), name);
        }
    }

    #[test]
    fn refuses_what_could_leave_the_directory_or_surprise_a_shell() {
        let long = "x".repeat(BYTES_MAX + 1);
        for name in ["", ".", "..", "a/b", "-a", "a-", ".a", "a b", "ä", "a\n", "a\0", long.as_str()] {
            assert_eq!(name.parse::<FileName>(), Err(FileNameError), "{name}");
        }
    }
}
