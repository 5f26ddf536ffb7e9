//! What `op` says on standard error, and what it means.
//!
//! It has two exit codes, 0 and 1, so that there is nothing else to go by. Lines begin with `[ERROR]`, date and time. What is not
//! known is printed as it is, cut and escaped, and is never taken for a value that is missing.

use std::os::unix::process::ExitStatusExt;

use super::OpError;
use crate::child::Ended;
use crate::reference::Reference;
use crate::source::SourceError;

const MARK: &str = "[ERROR]";

/// How a word looks that may be a credential or a value.
const LONG_WORD_BYTES: usize = 60;

/// Why a run brought no values.
pub enum OpRefusal {
    /// One of the references leads nowhere, or to more than one place.
    OfOne(Missing),
    /// The same for all of them.
    OfAll(OpError),
}

/// What one reference leads to.
pub struct Missing {
    what: What,
    said: String,
}

#[derive(Clone, Copy, PartialEq)]
enum What {
    Vault,
    Item,
    Section,
    Field,
    Many,
}

/// What `op` says of one reference, by a part of it, in lower case.
const OF_ONE: [(&str, What); 15] = [
    ("isn't a vault in this account", What::Vault),
    ("no vault matched", What::Vault),
    ("could not find vault", What::Vault),
    ("isn't an item", What::Item),
    ("could not find item", What::Item),
    ("could not resolve item", What::Item),
    ("no item matched", What::Item),
    ("does not have a section", What::Section),
    ("no section matched", What::Section),
    ("does not have a field", What::Field),
    ("isn't a field", What::Field),
    ("field cannot be found within the item", What::Field),
    ("does not have a file", What::Field),
    ("more than one", What::Many),
    ("multiple matches", What::Many),
];

/// Makes an error of what was said.
type Make = fn(String) -> OpError;

/// What `op` says of all of them, the same way. The first line that fits counts.
const OF_ALL: [(&str, Make); 28] = [
    ("too many requests", |said| OpError::Limited { retry: retry(&said) }),
    ("(429)", |said| OpError::Limited { retry: retry(&said) }),
    ("authorization prompt dismissed", |said| OpError::NotLetIn { said }),
    ("authorization timeout", |said| OpError::NotLetIn { said }),
    ("authorization denied", |said| OpError::NotLetIn { said }),
    ("connecting to desktop app", |said| OpError::NotSignedIn { said }),
    ("connect to the 1password desktop app", |said| OpError::NotSignedIn { said }),
    ("native messaging", |said| OpError::NotSignedIn { said }),
    ("no accounts configured", |said| OpError::NotSignedIn { said }),
    ("no account found", |said| OpError::NotSignedIn { said }),
    ("not signed in", |said| OpError::NotSignedIn { said }),
    ("not currently signed in", |said| OpError::NotSignedIn { said }),
    ("session expired", |said| OpError::NotSignedIn { said }),
    ("(401)", |said| OpError::Unauthorized { said }),
    ("(403)", |said| OpError::Unauthorized { said }),
    ("service account token", |said| OpError::Unauthorized { said }),
    ("service account deleted", |said| OpError::Unauthorized { said }),
    ("(500)", |said| OpError::Server { said }),
    ("(502)", |said| OpError::Server { said }),
    ("(503)", |said| OpError::Server { said }),
    ("(504)", |said| OpError::Server { said }),
    ("internal server error", |said| OpError::Server { said }),
    ("dial tcp", |said| OpError::Unreachable { said }),
    ("no such host", |said| OpError::Unreachable { said }),
    ("connection refused", |said| OpError::Unreachable { said }),
    ("i/o timeout", |said| OpError::Unreachable { said }),
    ("network is unreachable", |said| OpError::Unreachable { said }),
    ("tls:", |said| OpError::Unreachable { said }),
];

impl OpRefusal {
    /// Why there are no values in this answer.
    pub fn read(answer: &Ended) -> OpRefusal {
        if let Some(signal) = answer.status.signal() {
            return OpRefusal::OfAll(OpError::Killed { signal });
        }
        let complaint = String::from_utf8_lossy(&answer.complaint);
        let said = said(&complaint);
        let lower = said.to_lowercase();
        if let Some((_, make)) = OF_ALL.iter().find(|(part, _)| lower.contains(part)) {
            return OpRefusal::OfAll(make(said));
        }
        if let Some((_, what)) = OF_ONE.iter().find(|(part, _)| lower.contains(part)) {
            return OpRefusal::OfOne(Missing { what: *what, said });
        }
        OpRefusal::OfAll(if answer.status.success() { OpError::Shape } else { OpError::Failed { said } })
    }

    /// The error for one of the references that were asked for.
    pub fn error(&self, reference: &Reference) -> SourceError {
        match self {
            OpRefusal::OfOne(missing) => missing.error(reference),
            OpRefusal::OfAll(error) => error.clone().into(),
        }
    }
}

impl From<OpError> for OpRefusal {
    fn from(error: OpError) -> OpRefusal {
        OpRefusal::OfAll(error)
    }
}

impl Missing {
    pub(super) fn is_vault(&self) -> bool {
        self.what == What::Vault
    }

    /// Whether everything below the item is missing with it.
    pub(super) fn is_of_item(&self) -> bool {
        matches!(self.what, What::Vault | What::Item)
    }

    /// Whether it can be this reference that leads nowhere. `op` may name the vault by its id.
    pub(super) fn names(&self, reference: &Reference) -> bool {
        let names: &[&str] = match self.what {
            What::Vault => &[reference.vault()],
            What::Item | What::Many => &[reference.item()],
            What::Section | What::Field => &[reference.item(), reference.field()],
        };
        names.iter().all(|name| is_named(&self.said, name))
    }

    pub(super) fn error(&self, reference: &Reference) -> SourceError {
        let [vault, item, field] = [reference.vault(), reference.item(), reference.field()].map(str::to_owned);
        match (self.what, reference.section()) {
            (What::Vault, _) => SourceError::NoVault { vault },
            (What::Item, _) => SourceError::NoItem { item, vault },
            (What::Section, Some(section)) => SourceError::NoSection { section: section.to_owned(), item },
            (What::Section, None) | (What::Field, _) => SourceError::NoField { field, item, nearest: None },
            (What::Many, _) => OpError::Many.into(),
        }
    }
}

/// Whether a text has this name in it, and not as a part of a longer one.
fn is_named(text: &str, name: &str) -> bool {
    let (text, name) = (text.to_lowercase(), name.to_lowercase());
    let continues = |c: char| c.is_alphanumeric() || c == '-' || c == '_';
    text.match_indices(&name).any(|(at, _)| {
        let (before, rest) = text.split_at(at);
        let after = rest.strip_prefix(&name).unwrap_or_default();
        !before.ends_with(continues) && !after.starts_with(continues)
    })
}

/// The relevant line, without the prefix of every line, and without words that may be secrets.
fn said(complaint: &str) -> String {
    let line = complaint.lines().rfind(|line| line.starts_with(MARK)).or(complaint.lines().next()).unwrap_or_default();
    let mut words: Vec<&str> = line.strip_prefix(MARK).map_or(line, str::trim_start).split_whitespace().collect();
    let is_time = |word: &&str| word.starts_with(|c: char| c.is_ascii_digit()) && word.contains(['/', ':']);
    words.drain(..words.iter().take(2).take_while(|word| line.starts_with(MARK) && is_time(word)).count());
    let shown = words.into_iter().map(|word| if may_be_secret(word) { "…" } else { word });
    shown.collect::<Vec<_>>().join(" ")
}

fn may_be_secret(word: &str) -> bool {
    word.contains("ops_") || word.contains("eyJ") || word.contains("sealed:") || word.len() > LONG_WORD_BYTES
}

/// When to come back: `59 minutes`.
fn retry(said: &str) -> Option<String> {
    let (_, when) = said.split_once("retry in ")?;
    let mut words = when.split_whitespace();
    let number: u32 = words.next()?.parse().ok()?;
    let unit = words.next()?.trim_end_matches(|c: char| !c.is_ascii_alphabetic());
    let is_unit = ["second", "minute", "hour", "day"].contains(&unit.trim_end_matches('s'));
    is_unit.then(|| format!("{number} {unit}"))
}

#[cfg(test)]
mod tests {
    use std::process::ExitStatus;

    use super::*;

    fn read(code: i32, complaint: &str) -> OpRefusal {
        let complaint = complaint.as_bytes().to_vec().into();
        OpRefusal::read(&Ended { status: ExitStatus::from_raw(code << 8), output: Vec::new().into(), complaint })
    }

    fn error(complaint: &str, reference: &str) -> String {
        read(1, complaint).error(&reference.parse().unwrap()).to_string()
    }

    fn missing(complaint: &str) -> Missing {
        match read(1, complaint) {
            OpRefusal::OfOne(missing) => missing,
            OpRefusal::OfAll(error) => panic!("{error}"),
        }
    }

    #[test]
    fn tells_what_is_missing() {
        let of = |complaint: &str| error(&format!("[ERROR] 2026/02/04 10:11:12 {complaint}"), "op://V/I/S/F");
        let no_item = "no item \"I\" in vault \"V\"";
        assert_eq!(of("could not resolve item UUID for item I: could not find item I in vault abcd"), no_item);
        assert_eq!(
            of("could not get item V/I: \"I\" isn't an item in the \"V\" vault. Specify the item with"),
            no_item
        );
        assert_eq!(of("item 'V/I' does not have a field 'S.F'"), "no field \"F\" in item \"I\"");
        assert_eq!(of("error resolving secret reference: no section matched"), "no section \"S\" in item \"I\"");
        let no_vault = "\"V\" isn't a vault in this account. Specify the vault with its ID or name.";
        assert_eq!(of(no_vault), "no vault \"V\"");
        assert_eq!(of("More than one item matches \"I\". Try again"), "more than one vault, item or field matches");
    }

    #[test]
    fn names_the_reference_that_is_missing_and_no_other() {
        let names = |complaint: &str, reference: &str| missing(complaint).names(&reference.parse().unwrap());
        let no_item = "[ERROR] 2026/02/04 10:11:12 could not find item db in vault abcd";
        assert!(names(no_item, "op://V/db/password") && names(no_item, "op://W/DB/user"));
        for other in ["op://V/db-2/password", "op://V/d/password", "op://db/other/db"] {
            assert!(!names(no_item, other), "{other}");
        }
        let no_field = "[ERROR] 2026/02/04 10:11:12 item 'V/db' does not have a field 'prod.user'";
        assert!(names(no_field, "op://V/db/prod/user"));
        assert!(!names(no_field, "op://V/db/prod/password"));
    }

    #[test]
    fn tells_when_to_come_back() {
        let limited = "[ERROR] 2026/02/04 10:11:12 (429) Too Many Requests: You've reached the maximum number of this type of \
                       requests this service account is allowed to make. Please retry in 59 minutes or try other requests.";
        assert!(error(limited, "op://v/i/f").ends_with("429 Too Many Requests, retry in 59 minutes"));
        assert_eq!(retry("Please retry in 1 hour."), Some("1 hour".into()));
        for other in ["", "retry in", "retry in a while", "retry in 5 \x1b[2J"] {
            assert_eq!(retry(other), None, "{other}");
        }
    }

    #[test]
    fn what_is_not_known_is_never_missing() {
        let unknown = error("[ERROR] 2026/02/04 10:11:12 the moon is full", "op://v/i/f");
        assert_eq!(unknown, "op failed: \"the moon is full\"");
        assert_eq!(error("", "op://v/i/f"), "op failed: \"\"");
        assert!(matches!(read(0, ""), OpRefusal::OfAll(OpError::Shape)));
        let failed = "[ERROR] 2026/02/04 10:11:12 could not find item I in vault V: (503) Service Unavailable";
        assert!(matches!(read(0, failed), OpRefusal::OfAll(OpError::Server { .. })));
    }

    #[test]
    fn does_not_repeat_what_may_be_a_secret() {
        for word in ["ops_canary", "eyJhbGciOiJFUzI1NiJ9.e30.x", "sealed:v1", &"x".repeat(61)] {
            let message = error(&format!("[ERROR] 2026/02/04 10:11:12 bad '{word}' here"), "op://v/i/f");
            assert_eq!(message, "op failed: \"bad … here\"");
        }
    }
}
