//! Parses settings, with errors that never quote a value.

use std::fmt;

use serde::de::DeserializeOwned;

/// Reads settings of any program.
///
/// # Errors
/// The text is not TOML, or not these settings.
pub fn parse<T: DeserializeOwned>(text: &str) -> Result<T, ParseError> {
    toml::from_str(text).map_err(|error| ParseError::new(text, error))
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
        let line = error.span().map(|span| text.bytes().take(span.start).filter(|b| *b == b'\n').count() + 1);
        // With its input, the error would print the line; without it, its last line names the key.
        error.set_input(None);
        let key =
            error.to_string().trim_end().rsplit_once("\nin `").map(|(_, key)| key.trim_end_matches('`').to_owned());
        ParseError { line, key, reason: without_value(error.message()) }
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
    let quotes =
        ["invalid type: ", "invalid value: ", "unknown variant "].iter().any(|start| message.starts_with(start));
    match message.rsplit_once(", expected ") {
        Some((_, expected)) if quotes => format!("expected {expected}"),
        _ => message.to_owned(),
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
                "line 1: connect: url: plain http to a host other than loopback, expected https",
            ),
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
