//! Parses settings, with errors that never quote a value.

use std::fmt;

use serde::de::DeserializeOwned;

/// Reads settings of any program.
///
/// # Errors
/// The text is not TOML, or not these settings.
pub fn parse<T: DeserializeOwned>(text: &str) -> Result<T, ParseError> {
    toml::from_str(text).map_err(|error| {
        let header = misread_header::<T>(text, &error);
        let error = ParseError::new(text, error);
        match header {
            Some(Header { is_of_list, name, .. }) if is_of_list => {
                error.because(format!("expected [{name}], found [[{name}]]"))
            }
            Some(Header { name, .. }) => error.because(format!("expected [[{name}]], found [{name}]")),
            None => error,
        }
    })
}

/// The header with too few or too many brackets that causes an error: one that is of another type than expected, unlike the same header
/// with one bracket more or less.
fn misread_header<'a, T: DeserializeOwned>(text: &'a str, error: &toml::de::Error) -> Option<Header<'a>> {
    const TYPE: &str = "invalid type: ";
    let index = |error: &toml::de::Error| error.span().map(|span| line_of(text, span.start) - 1);
    let line = index(error).filter(|_| error.message().starts_with(TYPE))?;
    let header = Header::parse(text.lines().nth(line)?)?;
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    *lines.get_mut(line)? = header.other();
    match toml::from_str::<T>(&lines.join("\n")) {
        Err(other) if other.message().starts_with(TYPE) && index(&other) == Some(line) => None,
        _ => Some(header),
    }
}

/// The header of a table, `[name]`, or of one in a list of tables, `[[name]]`.
struct Header<'a> {
    name: &'a str,
    is_of_list: bool,
}

impl<'a> Header<'a> {
    fn parse(line: &'a str) -> Option<Header<'a>> {
        let inner = line.trim_start().strip_prefix('[')?.split(']').next()?;
        let name = inner.strip_prefix('[').unwrap_or(inner).trim();
        Some(Header { name, is_of_list: inner.starts_with('[') })
    }

    /// The same, with one bracket more or less.
    fn other(&self) -> String {
        if self.is_of_list { format!("[{}]", self.name) } else { format!("[[{}]]", self.name) }
    }
}

/// The number of the line at an offset, from 1.
fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}

/// The place and the reason of an error in a settings file.
#[derive(Debug, PartialEq, Eq)]
pub struct ParseError {
    line: Option<usize>,
    key: Option<String>,
    reason: String,
}

impl ParseError {
    fn new(text: &str, mut error: toml::de::Error) -> ParseError {
        let line = error.span().map(|span| line_of(text, span.start));
        // With its input, the error would print the line; without it, its last line names the key.
        error.set_input(None);
        let key =
            error.to_string().trim_end().rsplit_once("\nin `").map(|(_, key)| key.trim_end_matches('`').to_owned());
        ParseError { line, key, reason: without_value(error.message()) }
    }

    fn because(self, reason: String) -> ParseError {
        ParseError { reason, ..self }
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        if let Some(key) = &self.key {
            write!(f, "{key}: ")?;
        }
        f.write_str(&self.reason)
    }
}

impl std::error::Error for ParseError {}

/// serde quotes the value that it found before what it expected; only the latter is printed.
fn without_value(message: &str) -> String {
    let quotes = ["invalid type: ", "invalid value: ", "invalid length ", "unknown variant "]
        .iter()
        .any(|start| message.starts_with(start));
    match message.rsplit_once(", expected ") {
        Some((_, expected)) if quotes => format!("expected {}", in_terms_of_toml(expected)),
        _ => message.to_owned(),
    }
}

/// serde names the types of Rust.
fn in_terms_of_toml(expected: &str) -> &str {
    match expected {
        "a sequence" => "an array",
        "a map" => "a table",
        other if other.starts_with("struct ") => "a table",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use crate::settings::Settings;

    fn refusal(text: &str) -> String {
        text.parse::<Settings>().unwrap_err().to_string()
    }

    #[test]
    fn refuses_keys_that_it_does_not_know() {
        assert_eq!(refusal("kek = []").split(", ").next(), Some("line 1: unknown field `kek`"));
        for section in ["connect", "gcp-kms", "local-kek", "deliver", "audit", "[grant]"] {
            let text = format!("[{section}]\nno-such-key = 1");
            let key = section.trim_matches(['[', ']']);
            let expected = format!("line 2: {key}: unknown field `no-such-key`, expected ");
            assert!(refusal(&text).starts_with(&expected), "{}", refusal(&text));
        }
        let to = "[[grant]]\nreferences = []\nto = { image = 'x' }";
        assert!(refusal(to).starts_with("line 3: grant.to: unknown field `image`"), "{}", refusal(to));
    }

    #[test]
    fn says_where_and_what_is_wrong() {
        for (text, expected) in [
            ("\n[deliver]\ndeadline = '50ms'", r#"line 3: deliver.deadline: expected a duration from "100ms" to "2m""#),
            ("[deliver]\ndeadline = '121s'", r#"line 2: deliver.deadline: expected a duration from "100ms" to "2m""#),
            ("[deliver]\ndeadline = '-1s'", r#"line 2: deliver.deadline: expected a duration from "100ms" to "2m""#),
            ("[deliver]\ndeadline = 10", "line 2: deliver.deadline: expected a string"),
            ("[deliver]\nplaintext = 'yes'", "line 2: deliver.plaintext: expected `refuse` or `allow`"),
            ("[audit]\nfile = 'log'", "line 2: audit.file: expected an absolute path"),
            ("[requests.billing]\n'other/db' = 'v/i/f'", "line 1: requests.billing: no file is requested"),
            (
                "[requests.billing]\n'run.secrets/db' = 'op://v/f'",
                "line 1: requests.billing: cannot use annotation \"run.secrets/db\": \
                 expected op://vault/item/[section/]field, found 2 segments",
            ),
            (
                "[requests.billing]\n'run.secrets/db' = 'op://v/i/f'\n'run.secrets.owner' = 'root'",
                "line 1: requests.billing: run.secrets.owner: expected uid:gid in decimal",
            ),
            ("[requests.billing]\n'run.secrets/db' = 1", "line 2: requests.billing.run.secrets/db: expected a string"),
            ("keks = ['a/b*']", r#"line 1: keks: "*" stands for one whole segment, it cannot be a part of one"#),
            (
                "[gcp-kms]\nendpoint = 'http://h'",
                "line 2: gcp-kms.endpoint: plain http to a host other than loopback, expected https",
            ),
            ("[connect]\nurl = 'https://h'", "line 1: connect: expected one of `token-file` and `token`"),
            (
                "[connect]\nurl = 'http://h'\ntoken-file = '/t'",
                "line 1: connect: url: plain http to a host other than loopback, expected https, or plain-http = \"allow\" next to it",
            ),
            (
                "[connect]\nurl = 'https://h/v1/'\ntoken-file = '/t'",
                "line 1: connect: url: expected an address without /v1, which is added to it",
            ),
            ("[grant]\nreferences = []", "line 1: grant: expected [[grant]], found [grant]"),
            ("keks = []\n\n  [ grant ] # one\n", "line 3: grant: expected [[grant]], found [grant]"),
            ("[[connect]]\nurl = 'https://h'", "line 1: connect: expected [connect], found [[connect]]"),
            ("[[deliver]]\n[deliver.x]", "line 1: deliver: expected [deliver], found [[deliver]]"),
            ("[[audit]]", "line 1: audit: expected [audit], found [[audit]]"),
            (
                "[[requests.billing]]",
                "line 1: requests.billing: expected [requests.billing], found [[requests.billing]]",
            ),
            ("[[requests]]", "line 1: requests: expected [requests], found [[requests]]"),
            ("[keks]", "line 1: keks: expected an array"),
            ("grant = { references = [] }", "line 1: grant: expected an array"),
            ("connect = []", "line 1: connect: expected a table"),
            ("[[grant]]\nreferences = []\n[[grant.to]]", "line 3: grant.to: expected [grant.to], found [[grant.to]]"),
            ("[connect", "line 1: unclosed table, expected `]`"),
        ] {
            assert_eq!(refusal(text), expected);
        }
        assert!("[connect]\nurl = 'http://h'\ntoken-file = '/t'\nplain-http = 'allow'".parse::<Settings>().is_ok());
    }

    #[test]
    fn never_prints_a_value() {
        for text in [
            "keks = 'hunter2'",
            "keks = ['hunter2*']",
            "connect = 'hunter2'",
            "[connect]\nurl = 'https://hunter2@h'\ntoken-file = '/t'",
            "[connect]\nurl = 'https://h'\ntoken-file = 'hunter2'",
            "[requests.billing]\n'run.secrets/db' = 'hunter2'",
            "[requests.billing]\n'run.secrets/db' = 'op://v/i/f'\n'run.secrets.optional' = 'hunter2'",
            "[deliver]\ndeadline = 'hunter2'",
            "[deliver]\nplaintext = 'hunter2, expected hunter2'",
            "[[grant]]\nreferences = ['hunter2']",
            "[[grant]]\nreferences = 'hunter2'",
            "[audit]\nfile = 'hunter2",
            "[audit]\nfile = hunter2",
            "hunter2",
        ] {
            let chain = format!("{:?} {}", text.parse::<Settings>().unwrap_err(), refusal(text));
            assert!(!chain.contains("hunter2"), "{chain}");
        }
    }
}
