//! Text from outside, as messages may show it.

use std::fmt::{self, Write};

/// The most characters of outside text that a message shows.
pub const EXCERPT_CHARS_MAX: usize = 120;

/// Text from outside, printed between quotes, escaped, and cut at [`EXCERPT_CHARS_MAX`] characters.
///
/// Without it an annotation's key could forge a second line of a log, or steer the terminal that shows it.
pub struct Excerpt<'a>(pub &'a str);

impl fmt::Display for Excerpt<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.chars();
        f.write_char('"')?;
        rest.by_ref().take(EXCERPT_CHARS_MAX).try_for_each(|c| match c {
            // An apostrophe does not end the quotes.
            '\'' => f.write_char(c),
            _ => write!(f, "{}", c.escape_debug()),
        })?;
        f.write_str(if rest.next().is_some() { "…\"" } else { "\"" })
    }
}

/// A character as one line of a terminal may show it: as it is, or escaped if it could begin another line or steer the terminal.
pub fn printable(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for character in text.chars() {
        match is_printable(character) {
            true => line.push(character),
            false => line.extend(character.escape_default()),
        }
    }
    line
}

/// Whether a character shows itself: no control character, no line or paragraph separator, and none that reorders or hides others.
pub fn is_printable(character: char) -> bool {
    !character.is_control()
        && !matches!(
            character,
            '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}'
        )
}

/// A server's message without words that may be credentials or sealed values: it can quote what it was sent.
pub fn redacted(text: &str) -> String {
    const WORD_CHARS_MAX: usize = 160;
    const MARKS: [&str; 5] = ["eyJ", "ya29.", "ops_", "sealed:", "Bearer"];
    let is_secret = |word: &&str| word.len() > WORD_CHARS_MAX || MARKS.iter().any(|mark| word.contains(mark));
    text.split_whitespace().map(|word| if is_secret(&word) { "…" } else { word }).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_what_could_forge_a_line_or_steer_a_terminal() {
        assert_eq!(Excerpt("a\nb\x1b[2J\u{202e}\"").to_string(), r#""a\nb\u{1b}[2J\u{202e}\"""#);
    }

    #[test]
    fn a_line_stays_one_and_shows_every_character() {
        assert_eq!(
            printable("Büro\n\u{1b}[1m\u{7}\u{9b}2J\u{2028}\u{202e}x"),
            "Büro\\n\\u{1b}[1m\\u{7}\\u{9b}2J\\u{2028}\\u{202e}x"
        );
        assert_eq!(printable("it's \"so\" \\ e\u{301}"), "it's \"so\" \\ e\u{301}");
    }

    #[test]
    fn does_not_repeat_what_may_be_a_credential() {
        assert_eq!(redacted("token eyJhbGciOi.x  refused"), "token … refused");
        assert_eq!(redacted(&format!("bad {}", "x".repeat(161))), "bad …");
    }

    #[test]
    fn cuts_long_text_and_shows_that_it_did() {
        assert_eq!(Excerpt(&"x".repeat(EXCERPT_CHARS_MAX)).to_string(), format!("\"{}\"", "x".repeat(120)));
        assert_eq!(Excerpt(&"x".repeat(500)).to_string(), format!("\"{}…\"", "x".repeat(120)));
    }
}
