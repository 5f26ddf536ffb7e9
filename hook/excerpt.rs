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
        rest.by_ref().take(EXCERPT_CHARS_MAX).try_for_each(|c| write!(f, "{}", c.escape_debug()))?;
        f.write_str(if rest.next().is_some() { "…\"" } else { "\"" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_what_could_forge_a_line_or_steer_a_terminal() {
        assert_eq!(Excerpt("a\nb\x1b[2J\u{202e}\"").to_string(), r#""a\nb\u{1b}[2J\u{202e}\"""#);
    }

    #[test]
    fn cuts_long_text_and_shows_that_it_did() {
        assert_eq!(Excerpt(&"x".repeat(EXCERPT_CHARS_MAX)).to_string(), format!("\"{}\"", "x".repeat(120)));
        assert_eq!(Excerpt(&"x".repeat(500)).to_string(), format!("\"{}…\"", "x".repeat(120)));
    }
}
